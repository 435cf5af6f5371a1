// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * alg_sendfile.c - the kernel TLS socket by hand
 *
 * An HTTPS server for one file, one connection after the other. OpenSSL makes
 * the handshake and reads the request; then the keys of the sending direction
 * go to the kernel and the file leaves by sendfile(2): its bytes never enter
 * this process. close_notify is sent as what it is, an alert record.
 *
 * It shows the socket without the preload library, and so does by hand what
 * the library does by itself: learn the secret from the keylog callback,
 * derive key and IV, know the sequence number. To keep that short it insists
 * on TLS 1.3 with TLS_AES_128_GCM_SHA256 and sends no session ticket, so that
 * the first record of the kernel is number 0.
 *
 *	cc -O2 -Wall -I ../kmod/uapi -o alg_sendfile alg_sendfile.c -lssl -lcrypto
 *	./alg_sendfile cert.pem key.pem FILE 8443
 *	curl --cacert cert.pem https://localhost:8443/ | cmp - FILE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/ssl.h>

#include "algif_tls.h"

#ifndef SOL_ALG
#define SOL_ALG 279
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define SECRET_SIZE 32		/* SHA-256 */

/* One connection at a time: the secret may be a plain static. */
static unsigned char secret[SECRET_SIZE];
static int have_secret;

/* "LABEL client_random secret", both in hexadecimal. */
static void keylog(const SSL *ssl, const char *line)
{
	static const char label[] = "SERVER_TRAFFIC_SECRET_0 ";
	unsigned int byte;
	const char *hex;
	int i;

	(void)ssl;
	if (strncmp(line, label, sizeof(label) - 1))
		return;
	hex = strrchr(line, ' ') + 1;
	if (strlen(hex) != 2 * SECRET_SIZE)
		return;
	for (i = 0; i < SECRET_SIZE; i++) {
		if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
			return;
		secret[i] = byte;
	}
	have_secret = 1;
}

/* HKDF-Expand-Label(secret, label, "", len), RFC 8446 section 7.1. */
static void expand_label(const char *label, unsigned char *out, size_t len)
{
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, SECRET_SIZE),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, "tls13 ", 6),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (void *)label,
						  strlen(label)),
		OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);

	if (!ctx || EVP_KDF_derive(ctx, out, len, params) != 1)
		errx(1, "cannot derive \"%s\"", label);
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
}

/* Once per process and cipher; needs the right to do so, see algif_tls(4). */
static int open_parent(void)
{
	struct sockaddr_alg name = {
		.salg_family = AF_ALG,
		.salg_type = ALG_TLS_TYPE,
		.salg_name = "gcm(aes)",
	};
	int parent = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (parent < 0)
		err(1, "socket(AF_ALG)");
	if (bind(parent, (struct sockaddr *)&name, sizeof(name)))
		err(1, "bind(\"tls\", \"gcm(aes)\"): is algif_tls loaded?");
	return parent;
}

/* Two system calls per connection: accept and attach. */
static int attach_tx(int parent, int tcp)
{
	struct tls12_crypto_info_aes_gcm_128 tx = {
		.info.version = TLS_1_3_VERSION,
		.info.cipher_type = TLS_CIPHER_AES_GCM_128,
		/* rec_seq is 0: nothing was sent under this secret yet. */
	};
	struct alg_tls_attach attach = { .size = sizeof(attach), .fd = tcp };
	unsigned char iv[12];
	int op;

	expand_label("key", tx.key, sizeof(tx.key));
	expand_label("iv", iv, sizeof(iv));
	memcpy(tx.salt, iv, sizeof(tx.salt));
	memcpy(tx.iv, iv + sizeof(tx.salt), sizeof(tx.iv));
	memcpy(attach.tx, &tx, sizeof(tx));
	OPENSSL_cleanse(secret, sizeof(secret));
	have_secret = 0;

	op = accept4(parent, NULL, NULL, SOCK_CLOEXEC);
	if (op < 0)
		err(1, "accept");
	if (setsockopt(op, SOL_ALG, ALG_TLS_ATTACH, &attach, sizeof(attach)))
		err(1, "ALG_TLS_ATTACH");
	OPENSSL_cleanse(&tx, sizeof(tx));
	OPENSSL_cleanse(&attach, sizeof(attach));
	return op;
}

static void send_close_notify(int op)
{
	unsigned char alert[2] = { 1 /* warning */, 0 /* close_notify */ };
	struct iovec iov = { .iov_base = alert, .iov_len = sizeof(alert) };
	char control[CMSG_SPACE(1)] = { 0 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_TLS;
	cmsg->cmsg_type = TLS_SET_RECORD_TYPE;
	cmsg->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(cmsg) = 21;	/* alert */
	if (sendmsg(op, &msg, 0) != sizeof(alert))
		warn("close_notify");
}

static int send_file(int op, int file, off_t size)
{
	char head[128];
	off_t offset = 0;
	int len;

	len = snprintf(head, sizeof(head),
		       "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\nConnection: close\r\n\r\n",
		       (long long)size);
	if (send(op, head, len, MSG_NOSIGNAL | (size ? MSG_MORE : 0)) != len)
		return -1;
	while (offset < size) {
		ssize_t n = sendfile(op, file, &offset, size - offset);

		if (n <= 0)
			return -1;
	}
	return 0;
}

static void serve(SSL_CTX *ctx, int parent, int tcp, const char *path)
{
	SSL *ssl = SSL_new(ctx);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	char request[4096];
	struct stat st;
	int op;

	if (!ssl || file < 0 || fstat(file, &st))
		err(1, "%s", path);
	SSL_set_fd(ssl, tcp);
	if (SSL_accept(ssl) != 1 || !have_secret) {
		ERR_print_errors_fp(stderr);
		warnx("no handshake");
		goto out;
	}
	/* The request decides nothing here; it has to be read all the same. */
	if (SSL_read(ssl, request, sizeof(request)) <= 0)
		goto out;

	op = attach_tx(parent, tcp);
	if (send_file(op, file, st.st_size))
		warn("send");
	else
		printf("%lld bytes by sendfile\n", (long long)st.st_size);
	send_close_notify(op);
	/*
	 * From here on OpenSSL must not write: the numbers it would use are
	 * spent. SSL_free does not, SSL_shutdown would.
	 */
	close(op);
out:
	SSL_free(ssl);
	close(file);
	fflush(stdout);
}

static int listen_on(int port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		err(1, "socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s, (struct sockaddr *)&addr, sizeof(addr)) || listen(s, 16))
		err(1, "port %d", port);
	return s;
}

int main(int argc, char **argv)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int parent, listener;

	if (argc != 5) {
		fprintf(stderr, "usage: %s cert.pem key.pem FILE PORT\n", argv[0]);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, argv[1]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[2], SSL_FILETYPE_PEM) != 1) {
		ERR_print_errors_fp(stderr);
		return 1;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_keylog_callback(ctx, keylog);

	parent = open_parent();
	listener = listen_on(atoi(argv[4]));
	for (;;) {
		int tcp = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (tcp < 0)
			err(1, "accept");
		serve(ctx, parent, tcp, argv[3]);
		close(tcp);
	}
}
