// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The far end: the same program, never preloaded, in every column, and as cheap as it can be. It makes
 * a handshake with OpenSSL, and then moves ciphertext that it neither opens nor, while somebody
 * measures, seals: what arrives is dropped inside the kernel (MSG_TRUNC) and does not wake it per record
 * (SO_RCVLOWAT); what it sends was sealed beforehand. It sends by send(2), not sendfile(2): pages that the
 * sender may still write to are nothing that comes from a network, and receivers copy them first.
 *
 * It listens on PORT for one connection, then takes orders (bench.h).
 */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LOWAT (256 << 10)
#define DROP (4 << 20)
/* Sealed at a time, so that the BIO stays small. */
#define BATCH (256 << 10)

struct far {
	struct options o;
	SSL_CTX *ctx;
	SSL *ssl;
	BIO *sealed; /* what SSL_write makes of it, once the handshake is over */
	int fd;
	char *store; /* prepared ciphertext */
	uint64_t room, prepared, sent;
	uint64_t dropped;
	uint64_t sealing_ns;
	int *holds; /* connections that stay */
	size_t held;
	size_t records; /* lengths of the prepared records, for ORDER_ROUNDS */
	uint32_t *lengths;
};

static void set_lowat(int fd, int bytes)
{
	if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)))
		die("SO_RCVLOWAT");
}

static void answer(uint64_t value)
{
	if (write(CONTROL_FD, &value, sizeof(value)) != sizeof(value))
		die("control");
}

/* True at the peer's end. */
static int drop(struct far *f, int fd)
{
	for (;;) {
		ssize_t n = recv(fd, NULL, DROP, MSG_TRUNC | MSG_DONTWAIT);

		if (n > 0) {
			f->dropped += n;
			/* Everything that was there: look again only if it was more than that. */
			if (n < DROP)
				return 0;
			continue;
		}
		if (!n || errno == ECONNRESET)
			return 1;
		if (errno == EAGAIN)
			return 0;
		if (errno != EINTR)
			die("recv");
	}
}

static void put(struct far *f, const void *data, size_t n)
{
	if (f->prepared + n > f->room) {
		f->room = 2 * (f->prepared + n);
		f->store = realloc(f->store, f->room);
		if (!f->store)
			die("realloc");
	}
	memcpy(f->store + f->prepared, data, n);
	f->prepared += n;
}

/* Walks the record headers of what was just sealed. */
static void note_records(struct far *f, const unsigned char *data, size_t n)
{
	for (size_t at = 0; at + 5 <= n;) {
		size_t length = 5 + (data[at + 3] << 8 | data[at + 4]);

		f->lengths = realloc(f->lengths, (f->records + 1) * sizeof(*f->lengths));
		if (!f->lengths)
			die("realloc");
		f->lengths[f->records++] = length;
		at += length;
	}
}

static void prepare(struct far *f, uint64_t bytes, uint64_t chunk)
{
	static unsigned char text[1 << 20];
	int many = !f->o.plain && chunk < 16384; /* ORDER_ROUNDS sends them one by one */
	uint64_t began = ran_ns();

	if (chunk > sizeof(text))
		die("chunk");
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i * 31 + (i >> 8);
	f->prepared = f->sent = 0;
	f->records = 0;
	for (uint64_t done = 0; done < bytes; done += chunk) {
		char *data;
		long n;

		if (f->o.plain) {
			put(f, text, chunk);
			continue;
		}
		if (SSL_write(f->ssl, text, chunk) != (int)chunk)
			die("SSL_write");
		n = BIO_get_mem_data(f->sealed, &data);
		if (n < BATCH && done + chunk < bytes && !many)
			continue;
		if (many)
			note_records(f, (unsigned char *)data, n);
		put(f, data, n);
		(void)BIO_reset(f->sealed);
	}
	f->sealing_ns += ran_ns() - began;
	answer(f->prepared);
}

static void send_some(struct far *f, size_t bytes)
{
	while (bytes) {
		ssize_t n = send(f->fd, f->store + f->sent, bytes, 0);

		if (n <= 0)
			die("send");
		bytes -= n;
		f->sent += n;
	}
}

static void send_prepared(struct far *f, size_t piece, uint64_t pause_ns)
{
	struct timespec pause = { .tv_nsec = pause_ns };

	while (f->sent < f->prepared) {
		size_t left = f->prepared - f->sent;

		send_some(f, piece && piece < left ? piece : left);
		if (pause_ns)
			nanosleep(&pause, NULL);
	}
}

static void take(int fd, unsigned char *buffer, size_t n)
{
	while (n) {
		ssize_t done = recv(fd, buffer, n, 0);

		if (done <= 0)
			die("answer");
		buffer += done;
		n -= done;
	}
}

/* An answer of `plain` bytes: one record, or so many bytes without TLS. */
static void rounds(struct far *f, uint64_t number, size_t plain)
{
	static unsigned char buffer[20000];
	size_t length = f->o.plain ? plain : 0;

	set_lowat(f->fd, 1);
	for (uint64_t i = 0; i < number; i++) {
		send_some(f, f->o.plain ? plain : f->lengths[i]);
		if (!length) {
			take(f->fd, buffer, 5);
			length = 5 + (buffer[3] << 8 | buffer[4]);
			take(f->fd, buffer + 5, length - 5);
			continue;
		}
		take(f->fd, buffer, length);
		/* All answers are alike; one that is not would make everything after it wrong. */
		if (!f->o.plain && length != 5u + (buffer[3] << 8 | buffer[4]))
			die("an answer of another length");
	}
}

/* A client that does what a browser does, and nothing cheaper: this row measures the handshake. */
static void connect_often(struct far *f, uint64_t number, int resume)
{
	static SSL_SESSION *session;
	static char buffer[20000];

	for (uint64_t i = 0; i < number; i++) {
		int fd = tcp_connect(f->o.port + 1);
		SSL *ssl;
		int n;

		if (f->o.plain) {
			while (recv(fd, buffer, sizeof(buffer), 0) > 0)
				;
			close(fd);
			continue;
		}
		ssl = SSL_new(f->ctx);
		SSL_set_fd(ssl, fd);
		if (resume && session)
			SSL_set_session(ssl, session);
		if (SSL_connect(ssl) != 1)
			die("SSL_connect");
		while ((n = SSL_read(ssl, buffer, sizeof(buffer))) > 0)
			;
		if (SSL_get_error(ssl, n) != SSL_ERROR_ZERO_RETURN)
			die("SSL_read");
		if (resume && session && !SSL_session_reused(ssl))
			die("not resumed");
		if (resume) {
			SSL_SESSION_free(session);
			session = SSL_get1_session(ssl);
		}
		SSL_shutdown(ssl);
		SSL_free(ssl);
		close(fd);
	}
	answer(number);
}

static int epoll_all = -1;

/* Connections that stay: their SSL is freed here, for only the descriptor is needed to drop what comes. */
static void hold(struct far *f, uint64_t number)
{
	if (epoll_all < 0)
		epoll_all = epoll_create1(EPOLL_CLOEXEC);
	f->holds = realloc(f->holds, (f->held + number) * sizeof(*f->holds));
	if (!f->holds)
		die("realloc");
	for (uint64_t i = 0; i < number; i++) {
		struct epoll_event event = { .events = EPOLLIN };
		int fd = tcp_connect(f->o.port + 1);

		if (!f->o.plain) {
			SSL *ssl = SSL_new(f->ctx);
			BIO *bio;

			SSL_set_fd(ssl, fd);
			if (SSL_connect(ssl) != 1)
				die("SSL_connect");
			/* One record, so that the other end's receiving direction has begun. */
			if (SSL_write(ssl, "x", 1) != 1)
				die("SSL_write");
			bio = SSL_get_rbio(ssl);
			BIO_set_close(bio, BIO_NOCLOSE);
			SSL_set_quiet_shutdown(ssl, 1);
			SSL_free(ssl);
		} else if (send(fd, "x", 1, 0) != 1) {
			die("send");
		}
		set_lowat(fd, LOWAT);
		f->holds[f->held++] = fd;
		event.data.fd = fd;
		if (epoll_ctl(epoll_all, EPOLL_CTL_ADD, fd, &event))
			die("epoll_ctl");
	}
	answer(number);
}

static void drop_all(struct far *f, int all)
{
	struct epoll_event events[256];
	int n;

	if (f->fd >= 0 && drop(f, f->fd))
		f->fd = -1;
	if (epoll_all < 0)
		return;
	/* Below its SO_RCVLOWAT no connection is reported: at the end all of them are looked at. */
	if (all)
		for (size_t i = 0; i < f->held; i++)
			drop(f, f->holds[i]);
	while ((n = epoll_wait(epoll_all, events, 256, 0)) > 0)
		for (int i = 0; i < n; i++)
			if (drop(f, events[i].data.fd))
				close(events[i].data.fd);
}

/* False at the end. */
static int obey(struct far *f)
{
	struct order_message message;

	if (read(CONTROL_FD, &message, sizeof(message)) != sizeof(message))
		return 0;
	switch (message.order) {
	case ORDER_PREPARE:
		prepare(f, message.a, message.b);
		return 1;
	case ORDER_SEND:
		send_prepared(f, message.a, message.b);
		return 1;
	case ORDER_SYNC:
		drop_all(f, 1);
		answer(f->dropped);
		return 1;
	case ORDER_ROUNDS:
		rounds(f, message.a, message.b);
		return 1;
	case ORDER_CONNECT:
		connect_often(f, message.a, message.b);
		return 1;
	case ORDER_HOLD:
		hold(f, message.a);
		return 1;
	case ORDER_COST:
		answer(ran_ns() - f->sealing_ns);
		return 1;
	default:
		return 0;
	}
}

static void start_tls(struct far *f)
{
	f->ssl = SSL_new(f->ctx);
	SSL_set_fd(f->ssl, f->fd);
	if ((f->o.server ? SSL_accept(f->ssl) : SSL_connect(f->ssl)) != 1)
		die("handshake");
	f->sealed = BIO_new(BIO_s_mem());
	SSL_set0_wbio(f->ssl, f->sealed);
}

int main(int argc, char **argv)
{
	struct far f = { .fd = -1 };
	struct pollfd polled[3];
	int listener;

	options_parse(&f.o, argc, argv);
	listener = tcp_listen(f.o.port);
	if (!f.o.plain)
		f.ctx = tls_context(&f.o, f.o.server);
	/*
	 * Work waits for this. Waiting by the clock would not do: the counting machine's clock leaps
	 * to the next timer whenever the CPU is idle, and it is idle while programs are loaded.
	 */
	answer(0);
	f.fd = tcp_accept(listener);
	if (!f.o.plain)
		start_tls(&f);
	set_lowat(f.fd, LOWAT);
	for (;;) {
		polled[0] = (struct pollfd){ .fd = CONTROL_FD, .events = POLLIN };
		polled[1] = (struct pollfd){ .fd = f.fd, .events = POLLIN };
		polled[2] = (struct pollfd){ .fd = epoll_all, .events = POLLIN };
		if (poll(polled, 3, -1) < 0)
			die("poll");
		if (polled[1].revents || polled[2].revents)
			drop_all(&f, 0);
		if (polled[0].revents && !obey(&f))
			return 0;
	}
}
