// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Another preload, as there are many: it stands in the way of the same functions,
 * counts the calls and passes them on to the next library that has them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

struct ssl_st;

static atomic_int seen;

int other_saw(void)
{
	return seen;
}

/* The function of this name after us; the calls of one program, so no race matters. */
#define NEXT(name) ({                                               \
	static __typeof__(name) *next;                              \
	seen++;                                                     \
	next ? next : (next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)); \
})

int SSL_read(struct ssl_st *s, void *to, int n);
int SSL_write(struct ssl_st *s, const void *from, int n);
int SSL_do_handshake(struct ssl_st *s);
int SSL_shutdown(struct ssl_st *s);

int SSL_read(struct ssl_st *s, void *to, int n)
{
	return NEXT(SSL_read)(s, to, n);
}

int SSL_write(struct ssl_st *s, const void *from, int n)
{
	return NEXT(SSL_write)(s, from, n);
}

int SSL_do_handshake(struct ssl_st *s)
{
	return NEXT(SSL_do_handshake)(s);
}

int SSL_shutdown(struct ssl_st *s)
{
	return NEXT(SSL_shutdown)(s);
}

ssize_t read(int fd, void *to, size_t n)
{
	return NEXT(read)(fd, to, n);
}

ssize_t write(int fd, const void *from, size_t n)
{
	return NEXT(write)(fd, from, n);
}

ssize_t recv(int fd, void *to, size_t n, int flags)
{
	return NEXT(recv)(fd, to, n, flags);
}

ssize_t send(int fd, const void *from, size_t n, int flags)
{
	return NEXT(send)(fd, from, n, flags);
}

int close(int fd)
{
	return NEXT(close)(fd);
}
