// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Ways of reading and writing: pieces of every size, looks ahead, modes, and
 * options that shape records.
 */
#include "end.h"

static void two_records(struct end *e)
{
	put(e, 3000);
	put(e, 500);
	drain(e->fd);
	meet(e);
	meet(e);
}

static void pending(struct end *e)
{
	say("pending %d\n", SSL_pending(e->ssl));
}

static void look_ahead(struct end *e)
{
	size_t got = 77;

	meet(e);
	peek(e, 10);
	pending(e);
	peek(e, 5000);
	take(e, 100);
	peek(e, 10);
	pending(e);
	peek(e, 0);
	errno = 0;
	did(e, "peek_ex", SSL_peek_ex(e->ssl, room_in(), 50, &got));
	say("got %zu\n", got);
	take(e, 2900);
	pending(e);
	peek(e, 600);
	take(e, 600);
	set_nonblock(e->fd, 1);
	peek(e, 10);
	got = 77;
	did(e, "peek_ex", SSL_peek_ex(e->ssl, room_in(), 50, &got));
	say("got %zu\n", got);
	take(e, 10);
	set_nonblock(e->fd, 0);
	meet(e);
}

static void peeks(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, two_records, look_ahead);
	talk(e, 2000);
}

static void tiny(struct end *e)
{
	meet(e);
	for (int i = 0; i < 20; i++)
		take(e, 1);
	for (int i = 0; i < 20; i++)
		take(e, i);
	say("has_pending %d\n", SSL_has_pending(e->ssl));
	/* The rest, a byte at a time. */
	for (int i = 0; i < 3500 - 20 - 190; i++) {
		if (SSL_read(e->ssl, room_in(), 1) != 1 || !fits(e, room_in(), 1)) {
			say("WRONG BYTES at %d\n", i);
			break;
		}
		e->got++;
	}
	pending(e);
	meet(e);
}

static void tiny_reads(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, two_records, tiny);
	talk(e, 2000);
}

static void many_records(struct end *e)
{
	put(e, 40000);
	put(e, 1);
	put(e, 16384);
	put(e, 16385);
	drain(e->fd);
	meet(e);
	meet(e);
}

/* One call may bring one record or several; it never waits for more than there is. */
static void huge(struct end *e)
{
	meet(e);
	take_all(e, 40000 + 1 + 16384 + 16385);
	set_nonblock(e->fd, 1);
	take(e, BIGGEST);
	set_nonblock(e->fd, 0);
	meet(e);
}

static void huge_reads(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, many_records, huge);
}

static void asks_pending(struct end *e)
{
	meet(e);
	pending(e);
	take(e, 1000);
	say("pending %d has_pending %d\n", SSL_pending(e->ssl), SSL_has_pending(e->ssl));
	take(e, 1999);
	say("pending %d has_pending %d\n", SSL_pending(e->ssl), SSL_has_pending(e->ssl));
	take(e, 1);
	say("pending %d has_pending %d\n", SSL_pending(e->ssl), SSL_has_pending(e->ssl));
	take(e, 499);
	say("pending %d has_pending %d\n", SSL_pending(e->ssl), SSL_has_pending(e->ssl));
	take(e, 5);
	say("pending %d has_pending %d\n", SSL_pending(e->ssl), SSL_has_pending(e->ssl));
	meet(e);
}

static void asks(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, two_records, asks_pending);
}

static void set_ahead(struct end *e)
{
	SSL_set_read_ahead(e->ssl, 1);
}

static void ahead_from_start(struct end *e)
{
	e->before = set_ahead;
	start(e);
	warm(e);
	both_roles(e, many_records, huge);
	for (int i = 0; i < 4; i++)
		talk(e, 3000);
}

static void ahead_in_mid_life(struct end *e)
{
	start(e);
	warm(e);
	SSL_set_read_ahead(e->ssl, 1);
	SSL_set_default_read_buffer_len(e->ssl, 40000);
	both_roles(e, many_records, huge);
	SSL_set_read_ahead(e->ssl, 0);
	both_roles(e, two_records, asks_pending);
}

/* A first connection gives the session; the second begins with data. */
static void early(struct end *e, int accepted)
{
	unsigned char *in = room_in();
	SSL_SESSION *session;
	size_t n = 0;

	start(e);
	warm(e);
	close_in_order(e);
	session = SSL_get1_session(e->ssl);
	drop_ssl(e);
	drop_fd(e);
	connect_data(e);
	attach_ssl(e);
	if (e->server && accepted) {
		int ret;

		SSL_set_max_early_data(e->ssl, 16384);
		do {
			ret = SSL_read_early_data(e->ssl, in, 16384, &n);
			say("early: %d, %zu\n", ret, n);
			if (ret != SSL_READ_EARLY_DATA_ERROR && n && !fits(e, in, n))
				say("WRONG BYTES\n");
			e->got += n;
			if (ret == SSL_READ_EARLY_DATA_SUCCESS && e->got == 2500) {
				room_out(e, 600);
				say("early answer: %d",
				    SSL_write_early_data(e->ssl, room_out(e, 600), 600, &n));
				say(" %zu\n", n);
				e->wrote += n;
			}
		} while (ret == SSL_READ_EARLY_DATA_SUCCESS);
	}
	if (!e->server) {
		SSL_set_session(e->ssl, session);
		say("early: %d", SSL_write_early_data(e->ssl, room_out(e, 1500), 1500, &n));
		say(" %zu\n", n);
		e->wrote += n;
		say("early: %d", SSL_write_early_data(e->ssl, room_out(e, 1000), 1000, &n));
		say(" %zu\n", n);
		e->wrote += n;
	}
	handshake(e);
	say("status %d\n", SSL_get_early_data_status(e->ssl));
	SSL_SESSION_free(session);
	if (!accepted && !e->server)
		e->wrote = 0;
	if (accepted && !e->server)
		take(e, 600);
	warm(e);
}

static void allow_early(struct end *e)
{
	if (e->server)
		SSL_set_max_early_data(e->ssl, 16384);
}

static void early_accepted(struct end *e)
{
	e->before = allow_early;
	early(e, 1);
}

static void early_refused(struct end *e)
{
	e->before = allow_early;
	early(e, 0);
}

static void partial_write(struct end *e)
{
	start(e);
	SSL_set_mode(e->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	warm(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			/* A socket that blocks: a record per call. */
			for (int i = 0; i < 6; i++)
				put(e, 40000 - 7000 * i);
			small_sndbuf(e);
			set_nonblock(e->fd, 1);
			put_nb(e, 400000, 100000);
			set_nonblock(e->fd, 0);
		} else {
			take_all(e, 4 * 16384 + 12000 + 5000 + 400000);
		}
		meet(e);
	}
}

/* Without it a call takes all or nothing. */
static void whole_write(struct end *e)
{
	start(e);
	warm(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			put(e, 40000);
			small_sndbuf(e);
			set_nonblock(e->fd, 1);
			for (int i = 0; i < 3; i++) {
				while (SSL_write(e->ssl, room_out(e, 150000), 150000) < 0)
					await(e->fd, POLLOUT);
				e->wrote += 150000;
			}
			say("wrote it all\n");
			set_nonblock(e->fd, 0);
		} else {
			take_all(e, 490000);
		}
		meet(e);
	}
}

/* The same bytes from a buffer at another place. */
static void moving_allowed(struct end *e)
{
	const unsigned char *at;
	unsigned char *other;
	size_t n = 50000, all;

	start(e);
	SSL_set_mode(e->ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	warm(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			small_sndbuf(e);
			set_nonblock(e->fd, 1);
			all = fill_up(e, &at, n, 1);
			other = malloc(n);
			memcpy(other, at, n);
			errno = 0;
			did(e, "moved", SSL_write(e->ssl, other, (int)n));
			errno = 0;
			did(e, "again", SSL_write(e->ssl, at, (int)n));
			meet(e);
			for (;;) {
				int done = SSL_write(e->ssl, other, (int)n);

				if (done > 0 || !await(e->fd, POLLOUT)) {
					did(e, "at last", done);
					break;
				}
			}
			free(other);
			e->wrote += n;
			set_nonblock(e->fd, 0);
			swap(e, (int)(all + n));
		} else {
			/* It cannot know how much fitted, so it reads until asked to stop. */
			size_t begin = e->got, end = 0;

			meet(e);
			set_nonblock(e->fd, 1);
			while (!end || e->got < end) {
				struct pollfd p[2] = { { .fd = e->ctl, .events = POLLIN },
						       { .fd = e->fd, .events = POLLIN } };
				int got = SSL_read(e->ssl, room_in(), BIGGEST);

				if (got > 0 && !fits(e, room_in(), got))
					say("WRONG BYTES\n");
				if (got > 0) {
					e->got += got;
					continue;
				}
				if (SSL_get_error(e->ssl, got) != SSL_ERROR_WANT_READ) {
					did(e, "read", got);
					break;
				}
				poll(p, 2, 20000);
				if (!end && p[0].revents)
					end = begin + swap(e, 0);
			}
			say("all of it: %d\n", e->got == end);
			set_nonblock(e->fd, 0);
		}
		meet(e);
	}
}

/* A buffer at another place, or a shorter one, is refused; there is no way back. */
static void moving_forbidden(struct end *e)
{
	const unsigned char *at;
	unsigned char *other;
	size_t n = 50000;

	start(e);
	warm(e);
	if (!e->server) {
		small_sndbuf(e);
		set_nonblock(e->fd, 1);
		fill_up(e, &at, n, 1);
		other = malloc(n);
		memcpy(other, at, n);
		errno = 0;
		did(e, "moved", SSL_write(e->ssl, other, (int)n));
		errno = 0;
		did(e, "again", SSL_write(e->ssl, at, (int)n));
		free(other);
	}
	meet(e);
}

static void shorter(struct end *e)
{
	const unsigned char *at;
	size_t n = 50000;

	start(e);
	warm(e);
	if (!e->server) {
		small_sndbuf(e);
		set_nonblock(e->fd, 1);
		fill_up(e, &at, n, 1);
		errno = 0;
		did(e, "again", SSL_write(e->ssl, at, (int)n));
		errno = 0;
		did(e, "shorter", SSL_write(e->ssl, at, 10));
		errno = 0;
		did(e, "again", SSL_write(e->ssl, at, (int)n));
	}
	meet(e);
}

static void auto_retry(struct end *e, int on)
{
	start(e);
	if (on)
		SSL_set_mode(e->ssl, SSL_MODE_AUTO_RETRY);
	else
		SSL_clear_mode(e->ssl, SSL_MODE_AUTO_RETRY);
	/* Session tickets come before the data, in TLS 1.3. */
	if (e->server) {
		put(e, 500);
		drain(e->fd);
		meet(e);
	} else {
		meet(e);
		for (size_t had = e->got; e->got < had + 500;)
			take(e, 500);
	}
	if (!on)
		SSL_set_mode(e->ssl, SSL_MODE_AUTO_RETRY);
	/* warm() counts from here. */
	warm(e);
	if (!on)
		SSL_clear_mode(e->ssl, SSL_MODE_AUTO_RETRY);
	for (int turn = 0; turn < 2 && e->version == 13; turn++) {
		if (turn == e->server) {
			SSL_key_update(e->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
			put(e, 500);
			put(e, 400);
			drain(e->fd);
			meet(e);
		} else {
			meet(e);
			for (size_t had = e->got; e->got < had + 900;)
				take(e, 500);
		}
		meet(e);
	}
	if (e->version == 12 && !on) {
		if (e->server) {
			say("renegotiate: %d\n", SSL_renegotiate(e->ssl));
			handshake(e);
			drain(e->fd);
			meet(e);
			for (size_t had = e->got; e->got < had + 100;)
				take(e, 100);
		} else {
			meet(e);
			/* A HelloRequest is no data. */
			take(e, 100);
			put(e, 100);
		}
		meet(e);
	}
	SSL_set_mode(e->ssl, SSL_MODE_AUTO_RETRY);
	for (int i = 0; i < 4; i++)
		talk(e, 2000);
}

static void auto_retry_on(struct end *e)
{
	auto_retry(e, 1);
}

static void auto_retry_off(struct end *e)
{
	auto_retry(e, 0);
}

/* The relay sees what size the records have. */
static void fragment(struct end *e, long size)
{
	if (size)
		say("fragment: %ld\n", SSL_set_max_send_fragment(e->ssl, size));
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server)
			put(e, 5000);
		else
			take_all(e, 5000);
		meet(e);
	}
}

static void set_fragment(struct end *e)
{
	say("fragment: %ld\n", SSL_set_max_send_fragment(e->ssl, 3000));
}

static void send_fragment(struct end *e)
{
	e->before = set_fragment;
	start(e);
	fragment(e, 0);
	fragment(e, 2000);
	fragment(e, 511);
	fragment(e, 16385);
	fragment(e, 600);
	SSL_set_mode(e->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server)
			put(e, 5000);
		else
			take_all(e, 600);
		meet(e);
	}
}

static void ask_1024(struct end *e)
{
	if (!e->server)
		say("ask: %d\n", (int)SSL_set_tlsext_max_fragment_length(
				e->ssl, TLSEXT_max_fragment_length_1024));
}

static void fragment_length(struct end *e)
{
	e->before = ask_1024;
	start(e);
	fragment(e, 0);
	fragment(e, 9000);
}

static void pad_by_block(struct end *e)
{
	if (e->server)
		SSL_set_block_padding(e->ssl, 512);
}

static size_t to_700(SSL *ssl, int type, size_t len, void *arg)
{
	(void)ssl;
	(void)type;
	(void)arg;
	return len < 700 ? 700 - len : 0;
}

static void pad_by_callback(struct end *e)
{
	if (e->server)
		SSL_set_record_padding_callback(e->ssl, to_700);
}

static void padded(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, two_records, look_ahead);
	for (int i = 0; i < 4; i++)
		talk(e, 300);
}

static void block_padding(struct end *e)
{
	e->before = pad_by_block;
	padded(e);
}

static void callback_padding(struct end *e)
{
	e->before = pad_by_callback;
	padded(e);
}

const struct scene paths[] = {
	{ "peeks", peeks },
	{ "tiny_reads", tiny_reads },
	{ "huge_reads", huge_reads },
	{ "pending", asks },
	{ "ahead_from_start", ahead_from_start },
	{ "ahead_in_mid_life", ahead_in_mid_life },
	{ "early_accepted", early_accepted },
	{ "early_refused", early_refused },
	{ "partial_write", partial_write },
	{ "whole_write", whole_write },
	{ "moving_allowed", moving_allowed },
	{ "moving_forbidden", moving_forbidden },
	{ "shorter", shorter },
	{ "auto_retry_on", auto_retry_on },
	{ "auto_retry_off", auto_retry_off },
	{ "send_fragment", send_fragment },
	{ "fragment_length", fragment_length },
	{ "block_padding", block_padding },
	{ "callback_padding", callback_padding },
	{ 0 }
};
