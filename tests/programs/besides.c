// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What else goes on besides the connection: other I/O inside its handshake, numbers
 * that are closed where no preload sees it, a thousand connections, a reader that
 * sips, a peer that talks nonsense.
 *
 * Memory: as in end.h; what a scene opens besides, it closes.
 */
#include "end.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>

static int asked, helper[2];

/* As servers do that have another process keep the keys of their tickets. */
static void asks(const SSL *ssl, int where, int ret)
{
	char answer[4] = "";

	(void)ssl;
	(void)where;
	(void)ret;
	if (write(helper[0], "key", 3) == 3 && read(helper[1], answer, 3) == 3 &&
	    send(helper[1], "yes", 3, 0) == 3 && recv(helper[0], answer, 3, 0) == 3)
		asked += !strcmp(answer, "yes");
}

static void has_helper(struct end *e)
{
	SSL_set_info_callback(e->ssl, asks);
}

static void asks_elsewhere(struct end *e)
{
	asked = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, helper))
		return;
	e->before = has_helper;
	start(e);
	say("asked: %d\n", asked > 5);
	warm(e);
	talks(e, 3);
	close_in_order(e);
	close(helper[0]);
	close(helper[1]);
}

/* libc closes the number, by a name that nobody can hook. */
static int closed_unseen(struct end *e)
{
	int number = e->fd;
	FILE *f = fdopen(number, "r+");

	if (!f || fclose(f))
		say("FAILED fclose\n");
	e->fd = -1;
	return number;
}

static void unseen(struct end *e)
{
	int out = memfd_create("out", MFD_CLOEXEC);
	int number = -1, in;
	SSL *old[3];

	for (int i = 0; i < 3; i++) {
		start(e);
		say("same number: %d\n", i == 0 || e->fd == number);
		warm(e);
		talks(e, 2);
		number = closed_unseen(e);
		/* Not freed yet: it knows a number that is another's now. */
		old[i] = e->ssl;
		e->ssl = NULL;
		meet(e);
	}
	in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	say("a file has it: %d\n", in == number);
	say("sendfile: %zd\n", sendfile(out, in, NULL, 4000));
	close(in);
	close(out);
	for (int i = 0; i < 3; i++)
		SSL_free(old[i]);
}

#define MANY 1000

/* Some records of one of them, in turns. */
static int exchange(struct end *e, int rounds, int n)
{
	int bad = 0;

	for (int i = 0; i < 2 * rounds; i++) {
		if (i % 2 == e->server) {
			bad += SSL_write(e->ssl, room_out(e, n), n) != n;
			e->wrote += n;
		} else {
			bad += SSL_read(e->ssl, room_in(), n) != n || !fits(e, room_in(), n);
			e->got += n;
		}
	}
	return bad;
}

/*
 * All of them are open at once, and each moves data before and after that. They
 * resume the first one's session without a key exchange, which would take most of
 * the time.
 */
static void thousand(struct end *e)
{
	static struct end all[MANY];
	struct rlimit old, high = { 16384, 16384 };
	SSL_SESSION *session = NULL;
	int bad = 0, resumed = 0;

	getrlimit(RLIMIT_NOFILE, &old);
	say("limit: %d\n", setrlimit(RLIMIT_NOFILE, &high));
	e->ctx = make_ctx(e);
	SSL_CTX_set_options(e->ctx, SSL_OP_ALLOW_NO_DHE_KEX);
	for (int i = 0; i < MANY; i++) {
		connect_data(e);
		attach_ssl(e);
		if (session)
			SSL_set_session(e->ssl, session);
		bad += SSL_do_handshake(e->ssl) != 1;
		bad += exchange(e, 2, 500);
		resumed += SSL_session_reused(e->ssl);
		if (!session && !e->server)
			session = SSL_get1_session(e->ssl);
		all[i] = *e;
	}
	SSL_SESSION_free(session);
	say("bad: %d, resumed: %d\n", bad, resumed);
	meet(e);
	for (int i = 0; i < MANY; i++)
		bad += exchange(&all[i], 2, 1000);
	say("bad: %d\n", bad);
	meet(e);
	for (int i = 0; i < MANY; i++) {
		SSL_free(all[i].ssl);
		close(all[i].fd);
	}
	e->ssl = NULL;
	e->fd = -1;
	setrlimit(RLIMIT_NOFILE, &old);
}

static void pours(struct end *e)
{
	small_sndbuf(e);
	put_all(e, 60000);
}

/* A few bytes at a time, out of a buffer that holds less than a record. */
static void sips(struct end *e)
{
	int wrong = 0, tiny = 2048;
	size_t done = 0;

	setsockopt(e->fd, SOL_SOCKET, SO_RCVBUF, &tiny, sizeof(tiny));
	for (int i = 0; done < 60000; i++) {
		int got = SSL_read(e->ssl, room_in(), 37 + i % 200);

		if (got <= 0) {
			did(e, "sip", got);
			break;
		}
		wrong |= !fits(e, room_in(), got);
		e->got += got;
		done += got;
		if (i % 50 == 0)
			usleep(3000);
	}
	say("sipped %zu%s\n", done, wrong ? " WRONG BYTES" : "");
}

static void slow_reader(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, pours, sips);
	close_in_order(e);
}

/* A peer that can say what it likes: its TLS is in memory, its socket is only a socket. */

static void push(struct end *e)
{
	unsigned char record[20000];
	int n;

	while ((n = BIO_read(SSL_get_wbio(e->ssl), record, sizeof(record))) > 0)
		if (write(e->fd, record, n) != n)
			say("FAILED push\n");
}

static int pull(struct end *e)
{
	unsigned char record[20000];
	ssize_t n = read(e->fd, record, sizeof(record));

	if (n > 0)
		BIO_write(SSL_get_rbio(e->ssl), record, (int)n);
	return n > 0;
}

static void liar_shakes(struct end *e)
{
	e->ssl = SSL_new(e->ctx);
	SSL_set_bio(e->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	if (e->server)
		SSL_set_accept_state(e->ssl);
	else
		SSL_set_connect_state(e->ssl);
	for (;;) {
		int done = SSL_do_handshake(e->ssl);

		push(e);
		if (done == 1 || !pull(e))
			break;
	}
}

static void liar_takes(struct end *e, int n)
{
	while (n > 0) {
		int got = SSL_read(e->ssl, room_in(), n);

		if (got > 0) {
			if (!fits(e, room_in(), got))
				say("WRONG BYTES\n");
			e->got += got;
			n -= got;
		} else if (!pull(e)) {
			say("FAILED liar's read\n");
			return;
		}
	}
}

static void liar_puts(struct end *e, int n)
{
	SSL_write(e->ssl, room_out(e, n), n);
	e->wrote += n;
	push(e);
}

static const struct {
	const char *what;
	const char *bytes;
	int n;
} nonsense[] = {
	{ "text", "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 35 },
	{ "nothing but zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32 },
	{ "far too long", "\x17\x03\x03\xff\xff garbage garbage", 21 },
	{ "an empty record", "\x17\x03\x03\0\0", 5 },
	{ "an old hello", "\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10 garbage garbage garbage garbage", 43 },
	{ "no tag of ours", "\x17\x03\x03\0\x20" "garbage garbage garbage garbage.", 37 },
	{ "an alert in clear", "\x15\x03\x03\0\x02\x01\0", 7 },
	{ "half a header", "\x17\x03\x03", 3 },
};

static void nonsense_after(struct end *e, int liar)
{
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
		say("-- %s\n", nonsense[i].what);
		connect_data(e);
		if (e->server == liar) {
			if (!e->ctx)
				e->ctx = make_ctx(e);
			liar_shakes(e);
			for (int turn = 0; turn < 3; turn++) {
				liar_puts(e, 600);
				liar_takes(e, 600);
			}
			say("%s: %d\n", nonsense[i].what,
			    write(e->fd, nonsense[i].bytes, nonsense[i].n) == nonsense[i].n);
			shutdown(e->fd, SHUT_WR);
			meet(e);
			while (pull(e))
				;
			did(e, "liar reads", SSL_read(e->ssl, room_in(), 100));
		} else {
			attach_ssl(e);
			handshake(e);
			for (int turn = 0; turn < 3; turn++) {
				take_all(e, 600);
				put_all(e, 600);
			}
			take(e, 100);
			take(e, 100);
			shut(e);
			shutdown(e->fd, SHUT_WR);
			meet(e);
		}
		meet(e);
		drop_ssl(e);
		drop_fd(e);
	}
}

static void nonsense_to_server(struct end *e)
{
	nonsense_after(e, 0);
}

static void nonsense_to_client(struct end *e)
{
	nonsense_after(e, 1);
}

/* Nonsense instead of the first message. */
static void nonsense_first(struct end *e)
{
	for (int liar = 0; liar < 2; liar++) {
		for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
			say("-- %s\n", nonsense[i].what);
			connect_data(e);
			if (e->server == liar) {
				say("%s: %d\n", nonsense[i].what,
				    write(e->fd, nonsense[i].bytes, nonsense[i].n) ==
					    nonsense[i].n);
				shutdown(e->fd, SHUT_WR);
			} else {
				attach_ssl(e);
				handshake(e);
				handshake(e);
			}
			meet(e);
			drop_ssl(e);
			drop_fd(e);
		}
	}
}

/* Of a preload that is not under test, if there is one. */
int other_saw(void) __attribute__((weak));

/* The remarks say what is in this process; then as usual. */
static void mapped(struct end *e)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[4096];

	while (maps && fgets(line, sizeof(line), maps)) {
		char *name = strrchr(line, '/');

		if (name && strstr(line, " r-xp "))
			say("# maps %s", name + 1);
	}
	if (maps)
		fclose(maps);
	start(e);
	warm(e);
	talks(e, 3);
	close_in_order(e);
	if (other_saw)
		say("# the other preload saw %d\n", other_saw());
}

const struct scene besides[] = {
	{ "mapped", mapped },
	{ "asks_elsewhere", asks_elsewhere },
	{ "unseen", unseen },
	{ "thousand", thousand },
	{ "slow_reader", slow_reader },
	{ "nonsense_to_server", nonsense_to_server },
	{ "nonsense_to_client", nonsense_to_client },
	{ "nonsense_first", nonsense_first },
	{ 0 }
};
