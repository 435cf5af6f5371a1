// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Many records under one key, where a shim was told that few are too many. What
 * OpenSSL is made to do about it must not show in what the program sees; it is
 * told in remarks, which also count what only this end can see.
 */
#include "end.h"

#include <sys/mman.h>

static int updates, starts;

/* KeyUpdates that this end has received, and handshakes that it has begun. */
static void on_message(int write, int version, int type, const void *buf, size_t len, SSL *ssl,
		       void *arg)
{
	(void)version;
	(void)ssl;
	(void)arg;
	if (!write && type == SSL3_RT_HANDSHAKE && len &&
	    *(const unsigned char *)buf == SSL3_MT_KEY_UPDATE)
		updates++;
}

static void on_info(const SSL *ssl, int where, int ret)
{
	(void)ssl;
	(void)ret;
	starts += where == SSL_CB_HANDSHAKE_START;
}

static void count(struct end *e)
{
	updates = 0;
	starts = 0;
	SSL_set_msg_callback(e->ssl, on_message);
	SSL_set_info_callback(e->ssl, on_info);
}

static void counted(void)
{
	say("# updates %d starts %d\n", updates, starts);
}

static void in_turns(struct end *e, int records, void (*middle)(struct end *))
{
	for (int turn = 0; turn < 2; turn++) {
		for (int i = 0; i < records; i++) {
			if (turn != e->server) {
				if (take(e, 2000) <= 0)
					break;
				continue;
			}
			if (middle && i == records / 2)
				middle(e);
			if (put(e, 1000) <= 0)
				break;
		}
		meet(e);
	}
}

static void many(struct end *e)
{
	e->before = count;
	start(e);
	in_turns(e, 100, NULL);
	counted();
}

static void update(struct end *e)
{
	say("update: %d\n", SSL_key_update(e->ssl, SSL_KEY_UPDATE_NOT_REQUESTED));
}

/* 15 records under each of two keys. */
static void own_update(struct end *e)
{
	e->before = count;
	start(e);
	in_turns(e, 30, update);
	counted();
}

/* To and fro, so that either end reads whatever the other has to say. */
static void alternating(struct end *e)
{
	e->before = count;
	start(e);
	set_nonblock(e->fd, 1);
	for (int i = 0; i < 60; i++) {
		for (int turn = 0; turn < 2; turn++) {
			if (turn == e->server)
				put_nb(e, 1000, 1000);
			else
				take_nb(e, 1000, 1000);
		}
	}
	set_nonblock(e->fd, 0);
	meet(e);
	counted();
}

/* A socket that is full when the limit comes, so that a write has to be repeated. */
static void full_socket(struct end *e)
{
	int n = 20000;

	e->before = count;
	start(e);
	setsockopt(e->fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
	set_nonblock(e->fd, 1);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			put_nb(e, 450000, 90000);
		} else {
			usleep(30000);
			take_nb(e, 450000, 7000);
		}
	}
	set_nonblock(e->fd, 0);
	meet(e);
	counted();
}

static void send_file(struct end *e, size_t n)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	if (BIO_get_ktls_send(SSL_get_wbio(e->ssl)) > 0) {
		int file = memfd_create("limits", MFD_CLOEXEC);
		size_t done = 0;

		if (write(file, room_out(e, n), n) != (ssize_t)n)
			say("file?\n");
		while (done < n) {
			ossl_ssize_t now = SSL_sendfile(e->ssl, file, done, n - done, 0);

			if (now <= 0) {
				did(e, "sendfile", now);
				break;
			}
			done += now;
		}
		e->wrote += done;
		close(file);
		say("# by sendfile\nwrote %zu\n", done);
		return;
	}
#endif
	put_all(e, n);
}

static void files(struct end *e)
{
	e->before = count;
	start(e);
	/* In TLS 1.3 a client's first record is OpenSSL's. */
	talk(e, 100);
	for (int turn = 0; turn < 2; turn++) {
		for (int i = 0; i < 10; i++) {
			if (turn == e->server)
				send_file(e, 100000);
			else
				take_all(e, 100000);
		}
		meet(e);
	}
	counted();
}

/* Writes until somebody ends it; only the remarks say how it went. */
static void until_closed(struct end *e)
{
	int n = 0, ret = 1;

	e->before = count;
	start(e);
	if (!e->server) {
		while (n < 100) {
			ret = SSL_write(e->ssl, room_out(e, 1000), 1000);
			if (ret <= 0)
				break;
			e->wrote += ret;
			n++;
		}
		say("# wrote %d then %d %d", n, ret, SSL_get_error(e->ssl, ret));
		say(" %s shutdown=%d\n", ERR_reason_error_string(ERR_peek_error()),
		    SSL_get_shutdown(e->ssl));
		shutdown(e->fd, SHUT_WR);
	} else {
		while ((ret = SSL_read(e->ssl, room_in(), 2000)) > 0) {
			if (!fits(e, room_in(), ret))
				say("WRONG BYTES\n");
			e->got += ret;
			n++;
		}
		say("# read %d then %d %d\n", n, ret, SSL_get_error(e->ssl, ret));
	}
	ERR_clear_error();
	meet(e);
}

const struct scene limits[] = {
	{ "many_records", many },
	{ "own_update", own_update },
	{ "alternating", alternating },
	{ "full_socket", full_socket },
	{ "files", files },
	{ "until_closed", until_closed },
	{ 0 }
};
