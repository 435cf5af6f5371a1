// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The measured program: an ordinary user of OpenSSL, dynamically linked, that knows nothing of kernel
 * TLS. One process measures one cell: sample after sample between markers, until the driver has seen
 * enough. What is not measured (handshake, first megabyte, sealing at the far end) lies outside.
 */
#define _GNU_SOURCE
#include "bench.h"
#include "mark.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WARM_BYTES (2 << 20)
#define WARM_ROUNDS 50

struct one {
	SSL *ssl;
	int fd;
};

struct work {
	struct options o;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
	int listener;
	char *buffer;
	unsigned int label;
	int epoll;
	uint64_t wakes;
	struct one *many;
};

/* One sample of a row: `run` makes `units` of it, between the markers. The far end's cost is asked for
 * outside of them.
 */
static int sample(struct work *w, void (*run)(struct work *w, uint64_t units), uint64_t units)
{
	uint64_t far, wakes = w->wakes;
	char more[96];

	order(ORDER_COST, 0, 0);
	far = order_answer();
	mark_begin(w->label);
	run(w, units);
	mark_end(w->label);
	order(ORDER_COST, 0, 0);
	snprintf(more, sizeof(more), "far=%llu wakes=%llu",
		 (unsigned long long)(order_answer() - far),
		 (unsigned long long)(w->wakes - wakes));
	return sample_done(w->label++, units, more);
}

static void put(struct work *w, size_t n)
{
	if (!w->o.plain) {
		if (SSL_write(w->ssl, w->buffer, n) != (int)n)
			die("SSL_write");
		return;
	}
	for (size_t done = 0; done < n;) {
		ssize_t more = send(w->fd, w->buffer + done, n - done, 0);

		if (more <= 0)
			die("send");
		done += more;
	}
}

static size_t get(struct work *w, size_t n)
{
	ssize_t got = w->o.plain ? recv(w->fd, w->buffer, n, 0) : SSL_read(w->ssl, w->buffer, n);

	if (got <= 0)
		die(w->o.plain ? "recv" : "SSL_read");
	return got;
}

static void write_bytes(struct work *w, uint64_t bytes)
{
	for (uint64_t done = 0; done < bytes; done += w->o.size)
		put(w, w->o.size);
	order_and_wait(ORDER_SYNC, 0, 0);
	wait_until_sent(w->fd);
}

static void row_write(struct work *w)
{
	write_bytes(w, WARM_BYTES);
	while (sample(w, write_bytes, w->o.total))
		;
}

static void read_bytes(struct work *w, uint64_t bytes)
{
	order(ORDER_SEND, 0, 0);
	for (uint64_t done = 0; done < bytes;)
		done += get(w, w->o.size);
}

static void row_read(struct work *w)
{
	order_and_wait(ORDER_PREPARE, WARM_BYTES, 16384);
	read_bytes(w, WARM_BYTES);
	do
		order_and_wait(ORDER_PREPARE, w->o.total, 16384);
	while (sample(w, read_bytes, w->o.total));
}

static void serve_rounds(struct work *w, uint64_t number)
{
	order(ORDER_ROUNDS, number, w->o.size);
	for (uint64_t i = 0; i < number; i++) {
		for (size_t got = 0; got < w->o.size;)
			got += get(w, w->o.size - got);
		put(w, w->o.size);
	}
	order_and_wait(ORDER_SYNC, 0, 0);
}

static void row_echo(struct work *w)
{
	order_and_wait(ORDER_PREPARE, WARM_ROUNDS * w->o.size, w->o.size);
	serve_rounds(w, WARM_ROUNDS);
	do
		order_and_wait(ORDER_PREPARE, w->o.total * w->o.size, w->o.size);
	while (sample(w, serve_rounds, w->o.total));
}

/* A level-triggered event loop; every return of epoll_wait is a wake-up. */
static void read_by_epoll(struct work *w, uint64_t records)
{
	struct epoll_event event;

	order(ORDER_SEND, w->o.piece, w->o.pause_ns);
	for (uint64_t done = 0; done < records * 16384;) {
		if (epoll_wait(w->epoll, &event, 1, -1) != 1)
			die("epoll_wait");
		w->wakes++;
		for (;;) {
			ssize_t got;

			got = w->o.plain ? recv(w->fd, w->buffer, w->o.size, 0)
					 : SSL_read(w->ssl, w->buffer, w->o.size);
			if (got > 0) {
				done += got;
				continue;
			}
			if (w->o.plain ? errno == EAGAIN
				       : SSL_get_error(w->ssl, got) == SSL_ERROR_WANT_READ)
				break;
			die("read");
		}
	}
}

static void row_wake(struct work *w)
{
	struct epoll_event event = { .events = EPOLLIN };

	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (fcntl(w->fd, F_SETFL, O_NONBLOCK) || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->fd, &event))
		die("epoll");
	order_and_wait(ORDER_PREPARE, 4 * 16384, 16384);
	read_by_epoll(w, 4);
	do
		order_and_wait(ORDER_PREPARE, w->o.total * 16384, 16384);
	while (sample(w, read_by_epoll, w->o.total));
}

static void serve_connections(struct work *w, uint64_t number)
{
	order(ORDER_CONNECT, number, w->o.resume);
	for (uint64_t i = 0; i < number; i++) {
		w->fd = tcp_accept(w->listener);
		if (!w->o.plain) {
			w->ssl = SSL_new(w->ctx);
			SSL_set_fd(w->ssl, w->fd);
			if (SSL_accept(w->ssl) != 1)
				die("SSL_accept");
		}
		put(w, w->o.size);
		if (!w->o.plain) {
			SSL_shutdown(w->ssl);
			SSL_free(w->ssl);
		}
		close(w->fd);
	}
	order_answer();
}

static void row_connect(struct work *w)
{
	serve_connections(w, 5);
	while (sample(w, serve_connections, w->o.total))
		;
}

/* Connections that stay: far opens them, each is served its handshake and reads one byte. */
static void open_many(struct work *w)
{
	w->many = calloc(w->o.connections, sizeof(*w->many));
	if (!w->many)
		die("calloc");
	order(ORDER_HOLD, w->o.connections, 0);
	for (uint64_t i = 0; i < w->o.connections; i++) {
		struct one *one = &w->many[i];

		w->fd = one->fd = tcp_accept(w->listener);
		if (!w->o.plain) {
			w->ssl = one->ssl = SSL_new(w->ctx);
			SSL_set_fd(w->ssl, w->fd);
			if (SSL_accept(w->ssl) != 1)
				die("SSL_accept");
		}
		get(w, 1);
	}
	order_answer();
}

/* One write to each in turn: a server with so many busy clients. */
static void write_to_many(struct work *w, uint64_t bytes)
{
	for (uint64_t done = 0, i = 0; done < bytes; done += w->o.size) {
		w->fd = w->many[i].fd;
		w->ssl = w->many[i].ssl;
		put(w, w->o.size);
		i = (i + 1) % w->o.connections;
	}
	order_and_wait(ORDER_SYNC, 0, 0);
	for (uint64_t i = 0; i < w->o.connections; i++)
		wait_until_sent(w->many[i].fd);
}

static void row_scale(struct work *w)
{
	open_many(w);
	write_to_many(w, w->o.connections * w->o.size);
	while (sample(w, write_to_many, w->o.total))
		;
}

/* A number out of a file of "name number" lines, in bytes. */
static uint64_t kib(const char *file, const char *name)
{
	FILE *f = fopen(file, "re");
	char line[256];
	unsigned long long value = 0;

	if (!f)
		die(file);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			sscanf(line + strlen(name), " %llu", &value);
	fclose(f);
	return value * 1024;
}

/* Of both ends' sockets and whatever hangs on them: idle ones hold no pages but slabs. */
static uint64_t kernel_memory(void)
{
	return kib("/proc/meminfo", "Slab:") + kib("/proc/meminfo", "PageTables:");
}

/* No region: what is measured is memory, after the far end has freed what it can. */
static void row_idle(struct work *w)
{
	uint64_t own, kernel;

	/* Whatever the first ones bring along (tables, arenas) is no cost of a connection. */
	w->o.connections = w->o.total / 4;
	open_many(w);
	w->o.connections = w->o.total;
	own = kib("/proc/self/smaps_rollup", "Private_Dirty:");
	kernel = kernel_memory();
	open_many(w);
	own = kib("/proc/self/smaps_rollup", "Private_Dirty:") - own;
	kernel = kernel_memory() - kernel;
	printf("memory %llu %llu %llu\n", (unsigned long long)w->o.total,
	       (unsigned long long)own, (unsigned long long)kernel);
	fflush(stdout);
}

static const struct {
	const char *name;
	void (*run)(struct work *w);
} rows[] = {
	{ "write", row_write }, { "read", row_read },	    { "echo", row_echo },
	{ "wake", row_wake },	{ "connect", row_connect }, { "scale", row_scale },
	{ "idle", row_idle },
};

int main(int argc, char **argv)
{
	struct work w = { 0 };

	options_parse(&w.o, argc, argv);
	w.label = w.o.label;
	w.buffer = malloc(w.o.size > 65536 ? w.o.size : 65536);
	if (!w.buffer)
		die("malloc");
	memset(w.buffer, 'w', w.o.size);
	if (!w.o.plain)
		w.ctx = tls_context(&w.o, w.o.server);
	/* A cache of old sessions is not what an idle connection costs. */
	if (w.ctx && !strcmp(w.o.row, "idle"))
		SSL_CTX_set_session_cache_mode(w.ctx, SSL_SESS_CACHE_OFF);
	w.listener = tcp_listen(w.o.port + 1);
	order_answer(); /* the far end listens */
	w.fd = tcp_connect(w.o.port);
	if (!w.o.plain) {
		w.ssl = SSL_new(w.ctx);
		SSL_set_fd(w.ssl, w.fd);
		if ((w.o.server ? SSL_accept(w.ssl) : SSL_connect(w.ssl)) != 1)
			die("handshake");
		printf("ktls %d %d\n", (int)BIO_get_ktls_send(SSL_get_wbio(w.ssl)),
		       (int)BIO_get_ktls_recv(SSL_get_rbio(w.ssl)));
		fflush(stdout);
	}
	/* Session tickets must not be taken for an answer. */
	order_and_wait(ORDER_SYNC, 0, 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		if (strcmp(rows[i].name, w.o.row))
			continue;
		rows[i].run(&w);
		order(ORDER_END, 0, 0);
		return 0;
	}
	die(w.o.row);
}
