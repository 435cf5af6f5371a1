// SPDX-License-Identifier: MIT OR Apache-2.0
/* Options, sockets, TLS contexts and the control channel; used by both ends of the measurement. */
#define _GNU_SOURCE
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

void options_parse(struct options *o, int argc, char **argv)
{
	memset(o, 0, sizeof(*o));
	o->cipher = "aes128";
	o->row = "";
	for (int i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			die("options are NAME=VALUE");
		*value++ = '\0';
		if (!strcmp(argv[i], "row"))
			o->row = value;
		else if (!strcmp(argv[i], "dir"))
			o->dir = value;
		else if (!strcmp(argv[i], "cipher"))
			o->cipher = value;
		else if (!strcmp(argv[i], "host"))
			o->host = value;
		else if (!strcmp(argv[i], "port"))
			o->port = atoi(value);
		else if (!strcmp(argv[i], "tls"))
			o->tls12 = !strcmp(value, "1.2");
		else if (!strcmp(argv[i], "role"))
			o->server = !strcmp(value, "server");
		else if (!strcmp(argv[i], "plain"))
			o->plain = atoi(value);
		else if (!strcmp(argv[i], "resume"))
			o->resume = atoi(value);
		else if (!strcmp(argv[i], "label"))
			o->label = strtoul(value, NULL, 0);
		else if (!strcmp(argv[i], "size"))
			o->size = strtoul(value, NULL, 0);
		else if (!strcmp(argv[i], "total"))
			o->total = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "connections"))
			o->connections = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "piece"))
			o->piece = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "pause"))
			o->pause_ns = strtoull(value, NULL, 0);
		else
			die(argv[i]);
	}
}

SSL_CTX *tls_context(const struct options *o, int server)
{
	static const struct {
		const char *name, *tls12, *tls13;
	} suites[] = {
		{ "aes128", "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256" },
		{ "aes256", "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384" },
		{ "chacha20", "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256" },
	};
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	int version = o->tls12 ? TLS1_2_VERSION : TLS1_3_VERSION;
	char path[4096];
	int good = 0;

	if (!ctx)
		die("SSL_CTX_new");
	SSL_CTX_set_min_proto_version(ctx, version);
	SSL_CTX_set_max_proto_version(ctx, version);
	for (size_t i = 0; i < sizeof(suites) / sizeof(*suites); i++)
		if (!strcmp(suites[i].name, o->cipher))
			good = SSL_CTX_set_cipher_list(ctx, suites[i].tls12) == 1 &&
			       SSL_CTX_set_ciphersuites(ctx, suites[i].tls13) == 1;
	if (!good)
		die(o->cipher);
	if (server) {
		snprintf(path, sizeof(path), "%s/cert.pem", o->dir);
		if (SSL_CTX_use_certificate_chain_file(ctx, path) != 1)
			die(path);
		snprintf(path, sizeof(path), "%s/key.pem", o->dir);
		if (SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM) != 1)
			die(path);
	}
	return ctx;
}

int tcp_listen(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 4096))
		die("listen");
	return fd;
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int tcp_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		die("accept");
	no_delay(fd);
	return fd;
}

/* Nobody connects before the listener has said that it is there. */
int tcp_connect(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)))
		die("connect");
	no_delay(fd);
	return fd;
}

/* Until the peer's TCP has it all; over loopback that is at once, unless its queue is full. */
void wait_until_sent(int fd)
{
	for (int tries = 0; tries < 10000; tries++) {
		int left = 0;

		if (ioctl(fd, SIOCOUTQ, &left))
			die("SIOCOUTQ");
		if (!left)
			return;
		order_and_wait(ORDER_SYNC, 0, 0);
	}
	die("the far end does not drain");
}

void order(uint64_t what, uint64_t a, uint64_t b)
{
	struct order_message message = { what, a, b };

	if (write(CONTROL_FD, &message, sizeof(message)) != sizeof(message))
		die("control");
}

uint64_t order_answer(void)
{
	uint64_t answer;

	if (read(CONTROL_FD, &answer, sizeof(answer)) != sizeof(answer))
		die("the far end is gone");
	return answer;
}

void order_and_wait(uint64_t what, uint64_t a, uint64_t b)
{
	order(what, a, b);
	order_answer();
}

uint64_t ran_ns(void)
{
	struct timespec ran;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ran))
		die("clock_gettime");
	return ran.tv_sec * 1000000000ULL + ran.tv_nsec;
}

int sample_done(unsigned int label, uint64_t units, const char *more)
{
	char line[64];

	printf("sample %u %llu %s\n", label, (unsigned long long)units, more ? more : "");
	fflush(stdout);
	return fgets(line, sizeof(line), stdin) && !strcmp(line, "more\n");
}
