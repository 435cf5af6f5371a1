// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * How a connection ends: in order, half, not at all, by an alert, by a record
 * that somebody spoilt on the way, and what the TCP socket is good for afterwards.
 *
 * A relay between the ends knows the record that it is to spoil by its size.
 */
#include "end.h"

#define SPOILT 7001

/* The end that goes first, in scenes whose name says which. */
static int first(struct end *e, int server)
{
	return e->server == server;
}

static void close_in_turn(struct end *e, int server)
{
	start(e);
	warm(e);
	if (first(e, server)) {
		shut(e);
		meet(e);
		/* The answer is on its way, or will be. */
		shut(e);
		put(e, 10);
		take(e, 10);
	} else {
		meet(e);
		take(e, 100);
		take(e, 100);
		/* One may still write to an end that has said it will not. */
		shut(e);
		shut(e);
		put(e, 10);
	}
}

static void client_first(struct end *e)
{
	close_in_turn(e, 0);
}

static void server_first(struct end *e)
{
	close_in_turn(e, 1);
}

static void both_at_once(struct end *e)
{
	start(e);
	warm(e);
	shut(e);
	drain(e->fd);
	meet(e);
	shut(e);
	take(e, 100);
}

/* Neither end waits; the second call is answered when something is there. */
static void close_nonblocking(struct end *e)
{
	start(e);
	warm(e);
	set_nonblock(e->fd, 1);
	if (!e->server) {
		shut(e);
		shut(e);
		drain(e->fd);
		meet(e);
		meet(e);
		shut(e);
	} else {
		meet(e);
		take(e, 100);
		shut(e);
		drain(e->fd);
		meet(e);
	}
}

/* A reader that has said it will write no more still gets all that comes. */
static void one_way(struct end *e, int server)
{
	start(e);
	warm(e);
	if (first(e, server)) {
		shut(e);
		put(e, 5);
		drain(e->fd);
		meet(e);
		take_all(e, 50000);
		take(e, 100);
		shut(e);
	} else {
		meet(e);
		take(e, 100);
		/* OpenSSL has no quarrel with writing after the other's close_notify. */
		put_all(e, 50000);
		shut(e);
	}
}

static void one_way_client(struct end *e)
{
	one_way(e, 0);
}

static void one_way_server(struct end *e)
{
	one_way(e, 1);
}

/* SSL_shutdown that waits for the answer and meets data instead. */
static void data_after(struct end *e, int held)
{
	start(e);
	warm(e);
	if (!e->server) {
		meet(e);
		if (held)
			take(e, 100);
		shut(e);
		drain(e->fd);
		meet(e);
		shut(e);
		shut(e);
		take(e, 3000);
	} else {
		put(e, 5000);
		drain(e->fd);
		meet(e);
		meet(e);
		take(e, 100);
		shut(e);
	}
}

static void data_after_shutdown(struct end *e)
{
	data_after(e, 0);
}

static void held_data_after_shutdown(struct end *e)
{
	data_after(e, 1);
}

/* Data and close_notify are there together, and are read in small pieces. */
static void close_behind_data(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		put(e, 2500);
		put(e, 10);
		shut(e);
		drain(e->fd);
		meet(e);
	} else {
		meet(e);
		for (int i = 0; i < 4; i++)
			take(e, 700);
		take(e, 4);
		say("pending %d\n", SSL_pending(e->ssl));
		take(e, 700);
		take(e, 700);
		shut(e);
	}
}

static void quiet(struct end *e)
{
	start(e);
	warm(e);
	SSL_set_quiet_shutdown(e->ssl, 1);
	if (e->server) {
		shut(e);
		shut(e);
		meet(e);
	} else {
		meet(e);
		put(e, 100);
	}
	/* Nothing was sent: the other end hears of it by the FIN. */
	if (!e->server)
		drop_fd(e);
	meet(e);
}

static void freed_without(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		drop_ssl(e);
		/* Nothing of TLS is left, and the socket is still open. */
		meet(e);
		drop_fd(e);
	} else {
		meet(e);
		await_end(e->fd);
		take(e, 100);
		take(e, 100);
		shut(e);
	}
}

/* FIN without close_notify, with data before it. */
static void fin(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		put(e, 300);
		shutdown(e->fd, SHUT_WR);
		drain(e->fd);
		meet(e);
		take_all(e, 100);
		meet(e);
	} else {
		meet(e);
		await_end(e->fd);
		/* The other direction is as good as before. */
		put(e, 100);
		take_all(e, 300);
		take(e, 100);
		take(e, 100);
		put(e, 100);
		shut(e);
		meet(e);
	}
}

static void fin_tolerated(struct end *e)
{
	start(e);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
	SSL_set_options(e->ssl, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
	warm(e);
	if (e->server) {
		drop_fd(e);
		meet(e);
	} else {
		meet(e);
		await_end(e->fd);
		take(e, 100);
		take(e, 100);
		shut(e);
	}
}

static void fin_nonblocking(struct end *e)
{
	start(e);
	warm(e);
	set_nonblock(e->fd, 1);
	if (e->server) {
		meet(e);
		shutdown(e->fd, SHUT_WR);
		meet(e);
	} else {
		take(e, 100);
		meet(e);
		await_end(e->fd);
		meet(e);
		take(e, 100);
		take(e, 100);
	}
}

/* The program itself shuts a direction of the socket down. */
static void shut_rd(struct end *e)
{
	start(e);
	warm(e);
	if (!e->server) {
		say("shutdown(2): %d\n", shutdown(e->fd, SHUT_RD));
		take(e, 100);
		meet(e);
	} else {
		meet(e);
	}
}

static void rst(struct end *e, int writes)
{
	start(e);
	warm(e);
	if (e->server) {
		set_linger0(e->fd);
		drop_fd(e);
		meet(e);
		return;
	}
	meet(e);
	await_end(e->fd);
	if (writes) {
		put(e, 100);
		put(e, 100);
		take(e, 100);
	} else {
		take(e, 100);
		take(e, 100);
		put(e, 100);
	}
	shut(e);
}

static void rst_read(struct end *e)
{
	rst(e, 0);
}

static void rst_write(struct end *e)
{
	rst(e, 1);
}

static void rst_shutdown(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		set_linger0(e->fd);
		drop_fd(e);
		meet(e);
		return;
	}
	meet(e);
	await_end(e->fd);
	shut(e);
	shut(e);
	take(e, 100);
}

/* RST behind data that nobody has read. */
static void rst_behind_data(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		put(e, 20000);
		drain(e->fd);
		meet(e);
		meet(e);
		set_linger0(e->fd);
		drop_fd(e);
		meet(e);
		return;
	}
	meet(e);
	take(e, 100);
	meet(e);
	meet(e);
	await_end(e->fd);
	take_all(e, 30000);
	take(e, 100);
}

static volatile sig_atomic_t pipes;

static void on_pipe(int sig)
{
	(void)sig;
	pipes++;
}

static void sigpipe(struct end *e)
{
	struct sigaction act = { .sa_handler = on_pipe }, old;

	start(e);
	warm(e);
	if (e->server) {
		set_linger0(e->fd);
		drop_fd(e);
		meet(e);
		return;
	}
	meet(e);
	await_end(e->fd);
	pipes = 0;
	sigaction(SIGPIPE, &act, &old);
	put(e, 100);
	say("SIGPIPE %d\n", (int)pipes);
	put(e, 100);
	say("SIGPIPE %d\n", (int)pipes);
	sigaction(SIGPIPE, &old, NULL);
}

/* A blocked reader learns of each kind of end. */
static void blocked_reader(struct end *e, int how)
{
	start(e);
	warm(e);
	if (!e->server) {
		take(e, 100);
		return;
	}
	usleep(100000);
	if (how == 0)
		shut(e);
	if (how == 1)
		shutdown(e->fd, SHUT_WR);
	if (how == 2) {
		set_linger0(e->fd);
		drop_fd(e);
	}
}

static void blocked_close(struct end *e)
{
	blocked_reader(e, 0);
}

static void blocked_fin(struct end *e)
{
	blocked_reader(e, 1);
}

static void blocked_rst(struct end *e)
{
	blocked_reader(e, 2);
}

/* A record of the size that the relay knows goes from one end to the other. */
static void spoilt(struct end *e, int to_server)
{
	start(e);
	warm(e);
	if (first(e, !to_server)) {
		put(e, 400);
		put(e, SPOILT);
		put(e, 500);
		meet(e);
		meet(e);
		/* What the other end has to say about it. */
		take(e, 100);
		take(e, 100);
		put(e, 100);
		shut(e);
	} else {
		meet(e);
		take_all(e, 400);
		take(e, 9000);
		take(e, 9000);
		put(e, 100);
		shut(e);
		drain(e->fd);
		meet(e);
	}
}

static void spoilt_to_client(struct end *e)
{
	spoilt(e, 0);
}

static void spoilt_to_server(struct end *e)
{
	spoilt(e, 1);
}

/* The same with a reader that does not wait, nor read in one piece. */
static void spoilt_nonblocking(struct end *e)
{
	start(e);
	warm(e);
	set_nonblock(e->fd, 1);
	if (e->server) {
		put(e, 400);
		put(e, SPOILT);
		meet(e);
		meet(e);
		await(e->fd, POLLIN);
		take(e, 100);
	} else {
		meet(e);
		await(e->fd, POLLIN);
		take(e, 100);
		take_nb(e, 300, 300);
		take_nb(e, SPOILT, 9000);
		take(e, 100);
		drain(e->fd);
		meet(e);
	}
}

/* The relay ends the connection inside of the record. */
static void cut(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		put(e, 400);
		put(e, SPOILT);
		meet(e);
	} else {
		meet(e);
		await_end(e->fd);
		take_all(e, 400);
		take(e, 9000);
		take(e, 9000);
		shut(e);
	}
}

static int refuse(int ok, X509_STORE_CTX *c)
{
	(void)ok;
	X509_STORE_CTX_set_error(c, X509_V_ERR_CERT_REVOKED);
	return 0;
}

/* A certificate is asked for in mid-life, and none comes: a fatal alert. */
static void demand(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		SSL_set_options(e->ssl, SSL_OP_NO_SESSION_RESUMPTION_ON_RENEGOTIATION);
		SSL_set_verify(e->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, refuse);
		if (e->version == 13)
			say("ask: %d\n", SSL_verify_client_post_handshake(e->ssl));
		else
			say("ask: %d\n", SSL_renegotiate(e->ssl));
		handshake(e);
		take(e, 100);
		take(e, 100);
		put(e, 100);
		drain(e->fd);
		meet(e);
		shut(e);
	} else {
		/*
		 * The alert comes while it reads. In a read that blocks, OpenSSL
		 * would see the HelloRequest and go on to wait for data.
		 */
		set_nonblock(e->fd, 1);
		take_nb(e, 100, 100);
		meet(e);
		take(e, 100);
		put(e, 100);
		shut(e);
	}
}

static void offer_auth(struct end *e)
{
	if (!e->server && e->version == 13)
		SSL_set_post_handshake_auth(e->ssl, 1);
}

static void demanded(struct end *e)
{
	e->before = offer_auth;
	demand(e);
}

/* TLS 1.2: the server will not renegotiate, and says so. */
static void no_renegotiation(struct end *e)
{
	start(e);
	warm(e);
	if (e->server) {
		SSL_set_options(e->ssl, SSL_OP_NO_RENEGOTIATION);
		meet(e);
		take(e, 100);
		meet(e);
		put(e, 100);
		shut(e);
	} else {
		say("renegotiate: %d\n", SSL_renegotiate(e->ssl));
		meet(e);
		put(e, 100);
		meet(e);
		take(e, 100);
		take(e, 100);
		put(e, 100);
		shut(e);
	}
}

/* After close_notify both ways the socket is plain: text, and then TLS again. */
static void clear_afterwards(struct end *e)
{
	char text[64] = "";

	start(e);
	warm(e);
	if (!e->server) {
		shut(e);
		shut(e);
	} else {
		take(e, 100);
		shut(e);
	}
	drop_ssl(e);
	meet(e);
	for (int round = 0; round < 3; round++) {
		for (int turn = 0; turn < 2; turn++) {
			if (turn == e->server) {
				say("send: %zd\n", send(e->fd, "hello, in clear\n", 16, 0));
			} else {
				memset(text, 0, sizeof(text));
				say("recv: %zd", recv(e->fd, text, 16, MSG_WAITALL));
				say(" %s", text);
			}
		}
	}
	meet(e);
	/* And TLS upon the same socket, as a client that has changed its mind. */
	e->wrote = 0;
	e->got = 0;
	attach_ssl(e);
	handshake(e);
	for (int i = 0; i < 4; i++)
		talk(e, 3000);
	if (e->server) {
		shut(e);
		shut(e);
	} else {
		take(e, 100);
		shut(e);
	}
}

/* The same without SSL_free: the object lives on beside the plain socket. */
static void clear_beside(struct end *e)
{
	char text[64] = "";

	start(e);
	warm(e);
	if (e->server) {
		shut(e);
		shut(e);
	} else {
		take(e, 100);
		shut(e);
	}
	meet(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			say("write: %zd\n", write(e->fd, "221 goodbye\r\n", 13));
		} else {
			say("peek: %zd\n", recv(e->fd, text, 3, MSG_PEEK | MSG_WAITALL));
			say("read: %zd %s", recv(e->fd, text, 13, MSG_WAITALL), text);
		}
	}
	put(e, 10);
	take(e, 10);
}

const struct scene endings[] = {
	{ "close_client_first", client_first },
	{ "close_server_first", server_first },
	{ "close_both_at_once", both_at_once },
	{ "close_nonblocking", close_nonblocking },
	{ "one_way_client", one_way_client },
	{ "one_way_server", one_way_server },
	{ "data_after_shutdown", data_after_shutdown },
	{ "held_data_after_shutdown", held_data_after_shutdown },
	{ "close_behind_data", close_behind_data },
	{ "quiet", quiet },
	{ "freed_without", freed_without },
	{ "fin", fin },
	{ "fin_tolerated", fin_tolerated },
	{ "fin_nonblocking", fin_nonblocking },
	{ "shut_rd", shut_rd },
	{ "rst_read", rst_read },
	{ "rst_write", rst_write },
	{ "rst_shutdown", rst_shutdown },
	{ "rst_behind_data", rst_behind_data },
	{ "sigpipe", sigpipe },
	{ "blocked_close", blocked_close },
	{ "blocked_fin", blocked_fin },
	{ "blocked_rst", blocked_rst },
	{ "spoilt_to_client", spoilt_to_client },
	{ "spoilt_to_server", spoilt_to_server },
	{ "spoilt_nonblocking", spoilt_nonblocking },
	{ "cut", cut },
	{ "demanded", demanded },
	{ "no_renegotiation", no_renegotiation },
	{ "clear_afterwards", clear_afterwards },
	{ "clear_beside", clear_beside },
	{ 0 }
};
