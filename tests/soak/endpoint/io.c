// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Reading, writing and handshakes: single calls, and loops of which only the
 * sum is told.
 */
#include "endpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

uint64_t wrote, was_read;

/* A write that met a full socket and waits to be repeated. */
static const unsigned char *parked_at;
static size_t parked_len, parked_done;
int parked;
int leave_buffered;
int alone;
uint64_t began;

unsigned char out[2][BIGGEST];
unsigned char in[BIGGEST];

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/*
 * Each direction's bytes repeat after a prime number of them, so that no two
 * records have the same, and comparing them costs no more than memcmp.
 */
#define PERIOD 65521

static const unsigned char *stream(int from_server)
{
	static unsigned char bytes[2][PERIOD];
	static int made;

	for (; made < 2; made++) {
		uint64_t x = made ? 0x123456789abcdefull : 0xfedcba987654321ull;

		for (size_t i = 0; i < PERIOD; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			bytes[made][i] = (unsigned char)(x >> 32);
		}
	}
	return bytes[!!from_server];
}

/* As many of `n` bytes as lie between `at` and the next repetition. */
static size_t run_of(size_t n, uint64_t at)
{
	size_t left = PERIOD - at % PERIOD;

	return n < left ? n : left;
}

void fill(unsigned char *to, size_t n)
{
	const unsigned char *bytes = stream(is_server);
	uint64_t at = wrote;

	while (n) {
		size_t run = run_of(n, at);

		memcpy(to, bytes + at % PERIOD, run);
		to += run;
		at += run;
		n -= run;
	}
}

/* 0 while the bytes are the peer's stream; the first wrong place otherwise. */
uint64_t check(const unsigned char *from, size_t n, uint64_t at)
{
	const unsigned char *bytes = stream(!is_server);

	while (n) {
		size_t run = run_of(n, at), i = 0;

		if (memcmp(from, bytes + at % PERIOD, run)) {
			while (from[i] == bytes[at % PERIOD + i])
				i++;
			return at + i + 1;
		}
		from += run;
		at += run;
		n -= run;
	}
	return 0;
}

/* False when it took too long. */
int await(int err, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = err == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN };
	int64_t left = (int64_t)(deadline - now_ms());

	if (left <= 0)
		return 0;
	/* Without AUTO_RETRY a read gives up although OpenSSL has more in its own buffer. */
	if (err == SSL_ERROR_WANT_READ && SSL_has_pending(ssl))
		left = 1;
	/*
	 * And it may leave a HelloRequest to the next call, which nothing announces;
	 * nor does 3.2 and later what it had read ahead when a KeyUpdate came.
	 */
	if (err == SSL_ERROR_WANT_READ && left > 20 &&
	    (SSL_renegotiate_pending(ssl) || SSL_in_init(ssl) || SSL_get_read_ahead(ssl)))
		left = 20;
	poll(&p, 1, (int)left);
	return 1;
}

/*
 * A write that waits for the peer's next handshake message: while only this end
 * runs there will be none, and all that was sent before lies here already.
 */
int await_to_write(int err, uint64_t deadline)
{
	if (alone && err == SSL_ERROR_WANT_READ && deadline > began + ALONE_MS)
		deadline = began + ALONE_MS;
	return await(err, deadline);
}

void keep(struct result *r, long ret)
{
	int e = errno;

	r->ret = ret;
	r->err = SSL_get_error(ssl, (int)ret);
	r->e = e;
}

int again(const struct result *r)
{
	return r->err == SSL_ERROR_WANT_READ || r->err == SSL_ERROR_WANT_WRITE;
}

int call_read(void *to, int n, int peek)
{
	errno = 0;
	if (use_ex) {
		size_t got = 0;
		int ok = peek ? SSL_peek_ex(ssl, to, n, &got) : SSL_read_ex(ssl, to, n, &got);

		return ok == 1 ? (int)got : ok;
	}
	return peek ? SSL_peek(ssl, to, n) : SSL_read(ssl, to, n);
}

int call_write(const void *from, int n)
{
	errno = 0;
	if (use_ex) {
		size_t done = 0;
		int ok = SSL_write_ex(ssl, from, n, &done);

		return ok == 1 ? (int)done : ok;
	}
	return SSL_write(ssl, from, n);
}

void flush_filter(struct result *r)
{
	uint64_t deadline = now_ms() + patience_ms;

	if (!out_filter || leave_buffered)
		return;
	while (BIO_flush(out_filter) <= 0) {
		if (!BIO_should_retry(out_filter)) {
			/* Of a connection that has failed, it may keep the last record. */
			if (!r->err)
				r->late = 2;
			return;
		}
		if (!await(SSL_ERROR_WANT_WRITE, deadline)) {
			r->late = 1;
			return;
		}
	}
}

/* Reads until `n` bytes are there, at most `piece` per call. */
struct result read_n(size_t n, size_t piece)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;

	while (r.n < n) {
		size_t want = n - r.n < piece ? n - r.n : piece;
		int got = call_read(in, (int)want, 0);

		if (got > 0) {
			uint64_t bad = check(in, got, was_read);

			if (bad && !r.sum)
				r.sum = bad;
			was_read += got;
			r.n += got;
			r.ret = 1;
			r.err = 0;
			continue;
		}
		keep(&r, got);
		if (!again(&r))
			break;
		if (!await(r.err, deadline)) {
			r.late = 1;
			break;
		}
		ERR_clear_error();
	}
	return r;
}

struct result read_once(size_t n, int peek)
{
	struct result r = { 0 };
	int got = call_read(in, (int)n, peek);

	keep(&r, got);
	if (got > 0) {
		r.sum = check(in, got, was_read);
		r.n = got;
		if (!peek)
			was_read += got;
	}
	return r;
}

struct result go_on_writing(int until_full)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;

	do {
		size_t left = parked_len - parked_done;
		int done = call_write(parked_at + parked_done, (int)left);

		keep(&r, done);
		if (done > 0) {
			parked_done += done;
			continue;
		}
		if (!again(&r)) {
			parked = 0;
			break;
		}
		if (until_full)
			break;
		if (!await_to_write(r.err, deadline)) {
			r.late = 1;
			break;
		}
		ERR_clear_error();
		if (moving) {
			unsigned char *other = parked_at == out[0] ? out[1] : out[0];

			memcpy(other, parked_at, parked_len);
			parked_at = other;
		}
	} while (parked_done < parked_len);
	if (parked_done == parked_len)
		parked = 0;
	if (!parked || r.late) {
		r.n = parked_done;
		wrote += parked_done;
		if (r.ret > 0)
			r.ret = 1;
		flush_filter(&r);
	}
	return r;
}

struct result write_n(size_t n, int until_full)
{
	if (n > BIGGEST)
		n = BIGGEST;
	fill(out[0], n);
	parked_at = out[0];
	parked_len = n;
	parked_done = 0;
	parked = 1;
	return go_on_writing(until_full);
}

struct result write_file(size_t n)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;

	if (BIO_get_ktls_send(SSL_get_wbio(ssl)) > 0) {
		int file = memfd_create("soak", MFD_CLOEXEC);

		printf("# granted\n");
		fill(out[0], n);
		if (write(file, out[0], n) != (ssize_t)n)
			r.late = 3;
		while (r.n < n) {
			ossl_ssize_t done;

			errno = 0;
			done = SSL_sendfile(ssl, file, (off_t)r.n, n - r.n, 0);
			keep(&r, done);
			if (done > 0) {
				r.n += done;
				continue;
			}
			/* As the write would fail that stands in where this is not granted. */
			r.ret = use_ex ? 0 : -1;
			if (!again(&r))
				break;
			if (!await_to_write(r.err, deadline)) {
				r.late = 1;
				break;
			}
			ERR_clear_error();
		}
		close(file);
		wrote += r.n;
		if (r.ret > 0)
			r.ret = 1;
		return r;
	}
#endif
	return write_n(n, 0);
}

struct result handshake(int once)
{
	struct result r;
	uint64_t deadline = now_ms() + patience_ms;

	memset(&r, 0, sizeof(r));
	for (;;) {
		errno = 0;
		keep(&r, SSL_do_handshake(ssl));
		if (r.ret == 1 || once || !again(&r))
			return r;
		if (!await(r.err, deadline)) {
			r.late = 1;
			return r;
		}
		ERR_clear_error();
	}
}

/* Reads on while a renegotiation is under way. */
struct result settle(void)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;
	int was_blocking = blocking;

	set_nonblock(1);
	while (SSL_renegotiate_pending(ssl) || SSL_in_init(ssl)) {
		keep(&r, call_read(in, 1, 0));
		if (r.ret > 0 || !again(&r))
			break;
		if (!await(r.err, deadline)) {
			r.late = 1;
			break;
		}
		r.ret = 1;
		r.err = 0;
		ERR_clear_error();
	}
	if (was_blocking)
		set_nonblock(0);
	return r;
}

struct result raw_send(size_t n)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;

	fill(out[0], n);
	while (r.n < n) {
		ssize_t done = send(fd, out[0] + r.n, n - r.n, MSG_NOSIGNAL);

		if (done > 0) {
			r.n += done;
		} else if (errno != EAGAIN && errno != EINTR) {
			r.ret = -errno;
			break;
		} else if (!await(SSL_ERROR_WANT_WRITE, deadline)) {
			r.late = 1;
			break;
		}
	}
	wrote += r.n;
	return r;
}

struct result raw_recv(size_t n)
{
	struct result r = { .ret = 1 };
	uint64_t deadline = now_ms() + patience_ms;

	while (r.n < n) {
		ssize_t got = recv(fd, in, n - r.n, 0);

		if (got > 0) {
			uint64_t bad = check(in, got, was_read);

			if (bad && !r.sum)
				r.sum = bad;
			was_read += got;
			r.n += got;
		} else if (got == 0) {
			r.ret = 0;
			break;
		} else if (errno != EAGAIN && errno != EINTR) {
			r.ret = -errno;
			break;
		} else if (!await(SSL_ERROR_WANT_READ, deadline)) {
			r.late = 1;
			break;
		}
	}
	return r;
}
