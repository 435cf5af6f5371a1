// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What few programs do with a connection, and a shim must survive: a second
 * owner, another descriptor, data through BIO_f_ssl, fork, two threads, early
 * data, calls that a signal interrupts.
 */
#include "endpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

/* Of a connection that has begun, SSL_dup makes one more owner. */
struct result dup_and_write(size_t n)
{
	SSL *copy = SSL_dup(ssl);
	struct result r = write_n(n, 0);

	if (copy != ssl)
		r.late = 4;
	SSL_free(copy);
	return r;
}

/* The same socket by another name, or the same name once more. */
struct result change_fd(long how)
{
	struct result r = { .ret = 1 };
	int other = -1, old = fd;

	flush_filter(&r);
	if (how != 0 && how != 3)
		other = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	switch (how) {
	case 0:
		r.ret = SSL_set_fd(ssl, fd);
		break;
	case 1:
		r.ret = SSL_set_fd(ssl, other);
		fd = other;
		close(old);
		break;
	case 2:
		fd = other;
		close(old);
		r.ret = SSL_set_rfd(ssl, fd) && SSL_set_wfd(ssl, fd);
		break;
	case 3: {
		BIO *b = BIO_new_socket(fd, BIO_NOCLOSE);

		SSL_set_bio(ssl, b, b);
		break;
	}
	default:
		/* The SSL knows nothing of it. */
		close(other);
		return r;
	}
	/* A filter went with the BIO below it. */
	out_filter = NULL;
	return r;
}

/*
 * Freeing a BIO_f_ssl means SSL_shutdown: one lasts as long as the connection,
 * and its end says nothing on the wire.
 */
static BIO *chain;

static BIO *the_chain(void)
{
	if (!chain) {
		chain = BIO_new(BIO_f_ssl());
		BIO_set_ssl(chain, ssl, BIO_NOCLOSE);
	}
	return chain;
}

void chain_end(void)
{
	if (!chain)
		return;
	SSL_set_quiet_shutdown(ssl, 1);
	BIO_free_all(chain);
	chain = NULL;
}

/* False when the loop is over. */
static int chain_waits(struct result *r, BIO *b, int ret, uint64_t deadline, int writing)
{
	int err = BIO_should_write(b) ? SSL_ERROR_WANT_WRITE : SSL_ERROR_WANT_READ;

	r->ret = 1;
	if (!BIO_should_retry(b)) {
		keep(r, ret);
		return 0;
	}
	if (!(writing ? await_to_write(err, deadline) : await(err, deadline))) {
		r->late = 1;
		return 0;
	}
	ERR_clear_error();
	return 1;
}

struct result chain_write(size_t n)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;
	BIO *b = the_chain();

	fill(out[0], n);
	while (r.n < n) {
		int done = BIO_write(b, out[0] + r.n, (int)(n - r.n));

		if (done > 0)
			r.n += done;
		else if (!chain_waits(&r, b, done, deadline, 1))
			break;
	}
	wrote += r.n;
	flush_filter(&r);
	return r;
}

struct result chain_read(size_t n)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;
	BIO *b = the_chain();

	while (r.n < n) {
		size_t want = n - r.n < 16384 ? n - r.n : 16384;
		int got = BIO_read(b, in, (int)want);

		if (got > 0) {
			uint64_t bad = check(in, got, was_read);

			if (bad && !r.sum)
				r.sum = bad;
			was_read += got;
			r.n += got;
		} else if (!chain_waits(&r, b, got, deadline, 0)) {
			break;
		}
	}
	return r;
}

/*
 * After a fork one process goes on, the other frees its SSL and closes. The
 * parent waits until the child is through, so that only one reads commands.
 * False in a parent that has nothing to say: the child has said it all.
 */
static int is_child;

int go_on_as(int child)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return 1;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		is_child = 1;
		if (child)
			return 1;
		the_end();
		exit(0);
	}
	if (child)
		the_end();
	waitpid(pid, &status, 0);
	/* A child that has passed the connection on is not the one to read commands. */
	if (child)
		end_of_child();
	return !child;
}

void end_of_child(void)
{
	if (!is_child)
		return;
	fflush(stdout);
	exit(0);
}

/* Two threads of one SSL, as a program with a lock around its calls has them. */
static pthread_mutex_t the_lock = PTHREAD_MUTEX_INITIALIZER;

static void rest(int err)
{
	struct pollfd p = { .fd = fd, .events = err == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN };

	poll(&p, 1, 2);
}

static void *reader(void *arg)
{
	struct result *r = arg;
	uint64_t deadline = now_ms() + patience_ms;
	size_t n = r->n;

	r->n = 0;
	while (r->n < n) {
		size_t want = n - r->n < 16384 ? n - r->n : 16384;
		int got;

		pthread_mutex_lock(&the_lock);
		got = call_read(in, (int)want, 0);
		keep(r, got);
		pthread_mutex_unlock(&the_lock);
		if (got > 0) {
			uint64_t bad = check(in, got, was_read);

			if (bad && !r->sum)
				r->sum = bad;
			was_read += got;
			r->n += got;
			continue;
		}
		ERR_clear_error();
		if (!again(r))
			break;
		if (now_ms() > deadline) {
			r->late = 1;
			break;
		}
		rest(r->err);
	}
	return NULL;
}

struct result both_ways(size_t to_write, size_t to_read)
{
	struct result read = { .n = to_read }, r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;
	int was_blocking = blocking;
	pthread_t thread;
	size_t done = 0;

	/* A thread that slept inside SSL_read would keep the lock. */
	set_nonblock(1);
	fill(out[0], to_write);
	pthread_create(&thread, NULL, reader, &read);
	while (done < to_write) {
		size_t want = to_write - done;
		int now;

		pthread_mutex_lock(&the_lock);
		/* Once begun, a write that waits is repeated as it was. */
		now = call_write(out[0] + done, (int)want);
		keep(&r, now);
		pthread_mutex_unlock(&the_lock);
		if (now > 0) {
			done += now;
			continue;
		}
		ERR_clear_error();
		if (!again(&r))
			break;
		if (now_ms() > deadline) {
			r.late = 1;
			break;
		}
		rest(r.err);
	}
	pthread_mutex_lock(&the_lock);
	flush_filter(&r);
	pthread_mutex_unlock(&the_lock);
	pthread_join(thread, NULL);
	wrote += done;
	if (was_blocking)
		set_nonblock(0);
	if (done == to_write && read.n == to_read) {
		r.ret = 1;
		r.err = 0;
	}
	r.n = read.n;
	r.sum = read.sum;
	r.late |= read.late;
	return r;
}

/*
 * A handshake that carries data, if there is a session that allows it: the
 * client's first bytes, before the server has said anything.
 */
struct result early_handshake(size_t n)
{
	struct result r = { .ret = 1 }, h;
	uint64_t deadline = now_ms() + patience_ms;
	SSL_SESSION *session = SSL_get_session(ssl);
	int going = is_server || (n && session && SSL_SESSION_get_max_early_data(session) >= n);
	uint64_t before = was_read;
	size_t count;

	fill(out[0], n);
	while (going) {
		int ret;

		errno = 0;
		if (is_server) {
			ret = SSL_read_early_data(ssl, in, 16384, &count);
			if (ret != SSL_READ_EARLY_DATA_ERROR && count) {
				r.sum = check(in, count, was_read);
				was_read += count;
			}
			if (ret == SSL_READ_EARLY_DATA_FINISH)
				break;
			if (ret == SSL_READ_EARLY_DATA_SUCCESS)
				continue;
		} else {
			ret = SSL_write_early_data(ssl, out[0], n, &count);
			if (ret == 1) {
				flush_filter(&r);
				break;
			}
		}
		keep(&r, ret);
		if (!again(&r))
			return r;
		if (!await(r.err, deadline)) {
			r.late = 1;
			return r;
		}
		ERR_clear_error();
	}
	h = handshake(0);
	h.sum = r.sum;
	if (is_server)
		h.n = was_read - before;
	else if (SSL_get_early_data_status(ssl) == SSL_EARLY_DATA_ACCEPTED)
		h.n = n;
	if (!is_server)
		wrote += h.n;
	return h;
}

static void tick(int sig)
{
	(void)sig;
}

/* A single call that would sleep, and a signal whose handler does not restart it. */
struct result interrupted(size_t n, int writing)
{
	struct sigaction on = { .sa_handler = tick };
	struct itimerval timer = { { 0, 30000 }, { 0, 30000 } }, never = { 0 };
	int was_blocking = blocking;
	struct result r;

	sigaction(SIGALRM, &on, NULL);
	set_nonblock(0);
	set_timeouts(0, 0);
	setitimer(ITIMER_REAL, &timer, NULL);
	r = writing ? write_n(n, 1) : read_once(n, 0);
	setitimer(ITIMER_REAL, &never, NULL);
	if (!was_blocking)
		set_nonblock(1);
	return r;
}

/* Bytes that stay in a buffering BIO when more are written behind them. */
struct result write_twice(size_t n, size_t m)
{
	struct result first, r;

	leave_buffered = 1;
	first = write_n(n, 0);
	leave_buffered = 0;
	if (first.ret <= 0)
		return first;
	r = write_n(m, 0);
	r.n += first.n;
	return r;
}
