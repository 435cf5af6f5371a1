// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Sockets that block, do not block, give up after a while, or are interrupted.
 */
#include "end.h"

static void blocking(struct end *e)
{
	start(e);
	warm(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			usleep(50000);
			put(e, 100);
			usleep(50000);
			put(e, 300000);
		} else {
			take(e, 200);
			usleep(50000);
			take_all(e, 300000);
		}
		meet(e);
	}
}

static void nonblocking(struct end *e)
{
	start(e);
	warm(e);
	set_nonblock(e->fd, 1);
	take(e, 10);
	take(e, 0);
	take(e, 10);
	meet(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			put(e, 100);
			drain(e->fd);
			meet(e);
			small_sndbuf(e);
			put_nb(e, 400000, 30000);
		} else {
			meet(e);
			await(e->fd, POLLIN);
			take(e, 200);
			take_nb(e, 400000, 20000);
			take(e, 10);
		}
		meet(e);
	}
}

/* The timer goes off again and again, since a slow machine may not be there yet. */
static void every(int ms)
{
	struct itimerval t = { { 0, ms * 1000 }, { 0, ms * 1000 } };

	setitimer(ITIMER_REAL, &t, NULL);
}

static volatile sig_atomic_t rings;

static void on_ring(int sig)
{
	(void)sig;
	rings++;
}

static void ring(int flags)
{
	struct sigaction act = { .sa_handler = on_ring, .sa_flags = flags };

	rings = 0;
	sigaction(SIGALRM, &act, NULL);
}

static void timeout(struct end *e, int name, int ms)
{
	struct timeval t = { 0, ms * 1000 };

	setsockopt(e->fd, SOL_SOCKET, name, &t, sizeof(t));
}

static void late_writer(struct end *e)
{
	meet(e);
	usleep(150000);
	put(e, 200);
	meet(e);
}

static void times_out(struct end *e)
{
	timeout(e, SO_RCVTIMEO, 50);
	take(e, 100);
	peek(e, 100);
	take(e, 100);
	timeout(e, SO_RCVTIMEO, 0);
	meet(e);
	take(e, 200);
	meet(e);
}

static void rcvtimeo(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, late_writer, times_out);
}

static void interrupted(struct end *e)
{
	ring(0);
	every(50);
	take(e, 100);
	peek(e, 100);
	ring(SA_RESTART);
	meet(e);
	/* Data comes after some rings. */
	take(e, 200);
	every(0);
	say("rang: %d\n", rings > 0);
	meet(e);
}

static void eintr_read(struct end *e)
{
	start(e);
	warm(e);
	both_roles(e, late_writer, interrupted);
}

/* A writer that gives up, by `how`, and then goes on. */
static void give_up_writing(struct end *e, void (*begin)(struct end *), void (*end)(struct end *))
{
	size_t n = 200000, all;
	const unsigned char *at;

	start(e);
	warm(e);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server) {
			small_sndbuf(e);
			begin(e);
			all = fill_up(e, &at, n, 0);
			end(e);
			swap(e, (int)(all + n));
			errno = 0;
			did(e, "again", SSL_write(e->ssl, at, (int)n));
			e->wrote += n;
		} else {
			size_t want = swap(e, 0);
			int wrong = 0;

			for (size_t to = e->got + want; e->got < to;) {
				int got = SSL_read(e->ssl, room_in(), BIGGEST);

				if (got <= 0) {
					did(e, "read", got);
					break;
				}
				wrong |= !fits(e, room_in(), got);
				e->got += got;
			}
			say("read them all%s\n", wrong ? " WRONG BYTES" : "");
		}
		meet(e);
	}
}

static void timeout_on(struct end *e)
{
	timeout(e, SO_SNDTIMEO, 100);
}

static void timeout_off(struct end *e)
{
	timeout(e, SO_SNDTIMEO, 0);
}

static void ring_on(struct end *e)
{
	(void)e;
	ring(0);
	every(50);
}

static void ring_off(struct end *e)
{
	(void)e;
	every(0);
}

static void sndtimeo(struct end *e)
{
	give_up_writing(e, timeout_on, timeout_off);
}

static void eintr_write(struct end *e)
{
	give_up_writing(e, ring_on, ring_off);
}

/* Signals all the time, and nobody may notice. */
static void eintr_restart(struct end *e)
{
	start(e);
	warm(e);
	ring(SA_RESTART);
	every(3);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server)
			put_all(e, 500000);
		else
			take_all(e, 500000);
		meet(e);
	}
	every(0);
	say("rang: %d\n", rings > 0);
}

const struct scene waits[] = {
	{ "blocking", blocking },
	{ "nonblocking", nonblocking },
	{ "rcvtimeo", rcvtimeo },
	{ "sndtimeo", sndtimeo },
	{ "eintr_read", eintr_read },
	{ "eintr_write", eintr_write },
	{ "eintr_restart", eintr_restart },
	{ 0 }
};
