// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * evpcount.c - how many bytes did libcrypto encrypt or decrypt for us?
 *
 * A preload for the tests.  It must stand *before* the shim in LD_PRELOAD:
 * then libssl's calls are counted, and the shim, which looks behind itself,
 * finds libcrypto.  Bytes of additional data are not counted.  At exit the sum
 * is written to $EVPCOUNT.<pid>.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_llong bytes;
static char path[512];	/* copied early: programs overwrite their environment */

static void *real(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);
	void *crypto;

	if (found)
		return found;
	/* Python loads libssl for itself alone: look in the library by name. */
	crypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_NOLOAD);
	return crypto ? dlsym(crypto, name) : NULL;
}

#define COUNTED(name, params, args)			\
int name params								\
{									\
	static int (*next) params;					\
									\
	if (!next)							\
		next = (int (*) params)real(#name);			\
	if (!next)							\
		return 0;						\
	if (out)							\
		atomic_fetch_add(&bytes, (long long)len);		\
	return next args;						\
}

COUNTED(EVP_EncryptUpdate, (void *ctx, unsigned char *out, int *n, const unsigned char *in, int len),
	(ctx, out, n, in, len))
COUNTED(EVP_DecryptUpdate, (void *ctx, unsigned char *out, int *n, const unsigned char *in, int len),
	(ctx, out, n, in, len))
COUNTED(EVP_CipherUpdate, (void *ctx, unsigned char *out, int *n, const unsigned char *in, int len),
	(ctx, out, n, in, len))
COUNTED(EVP_Cipher, (void *ctx, unsigned char *out, const unsigned char *in, unsigned int len),
	(ctx, out, in, len))

__attribute__((constructor)) static void remember(void)
{
	const char *name = getenv("EVPCOUNT");

	if (name && strlen(name) < sizeof(path))
		strcpy(path, name);
}

__attribute__((destructor)) static void report(void)
{
	char name[600];
	FILE *file;

	if (!path[0])
		return;
	snprintf(name, sizeof(name), "%s.%d", path, (int)getpid());
	file = fopen(name, "w");
	if (!file)
		return;
	fprintf(file, "%lld\n", (long long)bytes);
	fclose(file);
}
