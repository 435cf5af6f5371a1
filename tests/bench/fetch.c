// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The far end of the nginx rows: asks for a file and drops the answer, still sealed, inside the kernel.
 * It marks the regions itself, for nginx is not ours.
 *
 *	row=file	each sample a connection: one request, then all there is until nginx closes
 *	row=h2		the same over HTTP/2
 *	row=small	`total` requests on one connection; the first two teach how long an answer is
 */
#define _GNU_SOURCE
#include "bench.h"
#include "mark.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOWAT (256 << 10)
#define DROP (4 << 20)

struct fetch {
	struct options o;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
	unsigned int label;
	size_t plain;  /* of an answer, header and file */
	size_t sealed; /* the same on the wire */
};

static void set_lowat(int fd, int bytes)
{
	if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)))
		die("SO_RCVLOWAT");
}

static void start(struct fetch *f)
{
	f->fd = tcp_connect(f->o.port);
	if (f->o.plain)
		return;
	f->ssl = SSL_new(f->ctx);
	SSL_set_fd(f->ssl, f->fd);
	if (SSL_connect(f->ssl) != 1)
		die("SSL_connect");
}

static void end(struct fetch *f)
{
	SSL_free(f->ssl);
	f->ssl = NULL;
	close(f->fd);
}

static void put(struct fetch *f, const void *data, size_t n)
{
	if (f->o.plain ? send(f->fd, data, n, 0) != (ssize_t)n
		       : SSL_write(f->ssl, data, n) != (int)n)
		die("request");
}

static void ask(struct fetch *f, const char *more)
{
	char request[512];
	int n = snprintf(request, sizeof(request), "GET /%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
			 f->o.host, more);

	put(f, request, n);
}

/* Preface, windows that never close, and one request. */
static void ask_h2(struct fetch *f)
{
	static const char head[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
				   "\0\0\6\4\0\0\0\0\0" /* SETTINGS */
				   "\0\4\x7f\xff\xff\xff" /* INITIAL_WINDOW_SIZE */
				   "\0\0\4\10\0\0\0\0\0" /* WINDOW_UPDATE of the connection */
				   "\x7f\xff\0\0";
	unsigned char frame[600];
	size_t path = strlen(f->o.host) + 1, at = sizeof(head) - 1, n;

	memcpy(frame, head, at);
	n = 2 + 2 + path + 2 + 9; /* method, scheme, path, authority */
	frame[at++] = 0;
	frame[at++] = n >> 8;
	frame[at++] = n;
	memcpy(frame + at, "\1\5\0\0\0\1", 6); /* HEADERS, all of it, stream 1 */
	at += 6;
	frame[at++] = 0x82;
	frame[at++] = f->o.plain ? 0x86 : 0x87;
	frame[at++] = 0x04;
	frame[at++] = path;
	frame[at++] = '/';
	memcpy(frame + at, f->o.host, path - 1);
	at += path - 1;
	memcpy(frame + at, "\1\11localhost", 11);
	put(f, frame, at + 11);
}

/* Everything until the peer closes. */
static uint64_t drop(struct fetch *f)
{
	uint64_t dropped = 0;

	for (;;) {
		ssize_t n = recv(f->fd, NULL, DROP, MSG_TRUNC);

		if (n > 0)
			dropped += n;
		else if (!n || errno == ECONNRESET)
			return dropped;
		else if (errno != EINTR)
			die("recv");
	}
}

static void drop_exactly(struct fetch *f, size_t n)
{
	while (n) {
		ssize_t done;

		set_lowat(f->fd, n < LOWAT ? n : LOWAT);
		done = recv(f->fd, NULL, n, MSG_TRUNC);
		if (done <= 0)
			die("recv");
		n -= done;
	}
}

static int sample_end(struct fetch *f, uint64_t units, uint64_t began)
{
	char more[64];

	snprintf(more, sizeof(more), "far=%llu", (unsigned long long)(ran_ns() - began));
	return sample_done(f->label++, units, more);
}

static void row_file(struct fetch *f, int h2)
{
	uint64_t began;

	do {
		uint64_t dropped;

		start(f);
		set_lowat(f->fd, LOWAT);
		began = ran_ns();
		mark_begin(f->label);
		if (h2)
			ask_h2(f);
		else
			ask(f, "Connection: close\r\n");
		dropped = drop(f);
		mark_end(f->label);
		if (dropped < f->o.size) {
			fprintf(stderr, "%llu bytes of %zu\n", (unsigned long long)dropped,
				f->o.size);
			die("a short answer");
		}
		end(f);
	} while (sample_end(f, f->o.size, began));
}

/* The first answer is opened: it says how long all of them are. */
static void learn_plain(struct fetch *f)
{
	char text[16384];
	size_t got = 0, due = 0;

	ask(f, "");
	do {
		char *body;
		size_t at = due ? 0 : got, room = sizeof(text) - 1 - at;
		int n = f->o.plain ? recv(f->fd, text + at, room, 0)
				   : SSL_read(f->ssl, text + at, room);

		if (n <= 0)
			die("answer");
		got += n;
		if (due)
			continue;
		text[got] = '\0';
		body = strstr(text, "\r\n\r\n");
		if (body) {
			const char *length = strcasestr(text, "content-length: ");

			if (strncmp(text, "HTTP/1.1 200", 12) || !length)
				die(text);
			due = body + 4 - text + strtoul(length + 16, NULL, 10);
		}
	} while (!due || got < due);
	f->plain = due;
}

/* The second is followed by its record headers. */
static size_t walk(struct fetch *f)
{
	size_t overhead = f->o.tls12 ? (strcmp(f->o.cipher, "chacha20") ? 24 : 16) : 17;
	size_t plain = 0, sealed = 0;

	ask(f, "");
	if (f->o.plain) {
		drop_exactly(f, f->plain);
		return f->plain;
	}
	while (plain < f->plain) {
		unsigned char header[5];
		size_t length;

		set_lowat(f->fd, 5);
		if (recv(f->fd, header, 5, MSG_WAITALL) != 5 || header[0] != 23)
			die("no record of data");
		length = header[3] << 8 | header[4];
		drop_exactly(f, length);
		plain += length - overhead;
		sealed += 5 + length;
	}
	if (plain != f->plain)
		die("records and answer do not fit");
	return sealed;
}

static void row_small(struct fetch *f)
{
	uint64_t began;

	start(f);
	learn_plain(f);
	f->sealed = walk(f);
	do {
		if (walk(f) != f->sealed)
			die("answers of different lengths");
		began = ran_ns();
		mark_begin(f->label);
		for (uint64_t i = 0; i < f->o.total; i++) {
			ask(f, "");
			drop_exactly(f, f->sealed);
		}
		mark_end(f->label);
	} while (sample_end(f, f->o.total, began));
	end(f);
}

int main(int argc, char **argv)
{
	struct fetch f = { 0 };

	options_parse(&f.o, argc, argv);
	f.label = f.o.label;
	if (!f.o.plain) {
		f.ctx = tls_context(&f.o, 0);
		if (!strcmp(f.o.row, "h2") &&
		    SSL_CTX_set_alpn_protos(f.ctx, (const unsigned char *)"\2h2", 3))
			die("ALPN");
	}
	if (!strcmp(f.o.row, "small"))
		row_small(&f);
	else
		row_file(&f, !strcmp(f.o.row, "h2"));
	return 0;
}
