// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * One end of a TLS connection that does what it is told: an ordinary OpenSSL
 * program, linked dynamically, so that a preload can stand in its way.
 *
 * It reads one command per line and answers with one line that begins with '=';
 * lines that begin with 'K' are key log lines, lines that begin with '#' are
 * remarks. Answers hold only what two runs of the same program must agree on:
 * how often a loop had to wait, and how many bytes one call of a loop moved, is
 * left out, because TCP decides it. src/lib.rs has the
 * list and the reasons.
 *
 * Memory: everything is static or belongs to the one connection, which `end`
 * frees.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#define BIGGEST (1 << 20)
#define PATIENCE_MS 20000

static X509 *cert;
static EVP_PKEY *key;

static SSL *ssl;
static SSL_CTX *ctx;
static BIO *out_filter;
static int fd = -1;
static int is_server, use_ex, moving, blocking;
static int patience_ms = PATIENCE_MS;

/* Bytes that went each way: they decide what the next byte is. */
static uint64_t wrote, was_read;

/* A write that met a full socket and waits to be repeated. */
static const unsigned char *parked_at;
static size_t parked_len, parked_done;
static int parked;

static unsigned char out[2][BIGGEST];
static unsigned char in[BIGGEST];

struct result {
	long ret;
	int err;
	int e;
	uint64_t n;
	uint64_t sum;
	int late;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static unsigned char stream_byte(int from_server, uint64_t at)
{
	uint64_t x = at * 0x9e3779b97f4a7c15ull + (from_server ? 0x1234567 : 0);

	return (unsigned char)(x >> 29 ^ x >> 53);
}

static void fill(unsigned char *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = stream_byte(is_server, wrote + i);
}

/* 0 while the bytes are the peer's stream; the first wrong place otherwise. */
static uint64_t check(const unsigned char *from, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		if (from[i] != stream_byte(!is_server, at + i))
			return at + i + 1;
	return 0;
}

/* A BIO of the program's own, as curl and PostgreSQL have: recv and send. */
static int own_read(BIO *b, char *to, int n)
{
	int got = (int)recv(fd, to, n, 0);

	BIO_clear_retry_flags(b);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_retry_read(b);
	return got;
}

static int own_write(BIO *b, const char *from, int n)
{
	int done = (int)send(fd, from, n, MSG_NOSIGNAL);

	BIO_clear_retry_flags(b);
	if (done < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_retry_write(b);
	return done;
}

static long own_ctrl(BIO *b, int cmd, long n, void *p)
{
	(void)b;
	(void)n;
	(void)p;
	return cmd == BIO_CTRL_FLUSH;
}

static int own_create(BIO *b)
{
	BIO_set_init(b, 1);
	return 1;
}

static BIO *own_bio(void)
{
	static BIO_METHOD *m;

	if (!m) {
		m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "own");
		BIO_meth_set_read(m, own_read);
		BIO_meth_set_write(m, own_write);
		BIO_meth_set_ctrl(m, own_ctrl);
		BIO_meth_set_create(m, own_create);
	}
	return BIO_new(m);
}

static void keylog(const SSL *s, const char *line)
{
	(void)s;
	printf("K %s\n", line);
}

static int accept_any(int ok, X509_STORE_CTX *c)
{
	(void)ok;
	(void)c;
	return 1;
}

static const char *arg(const char *line, const char *name)
{
	static char value[32][256];
	static int turn;
	size_t len = strlen(name);

	for (const char *p = strchr(line, ' '); p; p = strchr(p, ' ')) {
		p++;
		if (!strncmp(p, name, len) && p[len] == '=') {
			char *to = value[turn++ % 32];
			size_t n = strcspn(p + len + 1, " ");

			memcpy(to, p + len + 1, n);
			to[n] = 0;
			return to;
		}
	}
	return NULL;
}

static long num(const char *line, const char *name, long otherwise)
{
	const char *text = arg(line, name);

	return text ? atol(text) : otherwise;
}

static void set_nonblock(int on)
{
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
	blocking = !on;
}

static void set_timeout(int name, long ms)
{
	struct timeval t = { ms / 1000, ms % 1000 * 1000 };

	setsockopt(fd, SOL_SOCKET, name, &t, sizeof(t));
}

static void set_modes(long bits)
{
	SSL_clear_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		       SSL_MODE_AUTO_RETRY);
	if (bits & 1)
		SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	if (bits & 2)
		SSL_set_mode(ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (bits & 4)
		SSL_set_mode(ssl, SSL_MODE_AUTO_RETRY);
	moving = !!(bits & 2);
}

static int open_connection(const char *line)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	const char *role = arg(line, "role"), *suite = arg(line, "suite"), *bio = arg(line, "bio");
	long version = num(line, "ver", 13), n;
	int one = 1;

	is_server = role && *role == 's';
	use_ex = (int)num(line, "ex", 0);
	patience_ms = (int)num(line, "patience", PATIENCE_MS);
	wrote = was_read = 0;
	parked = 0;
	out_filter = NULL;

	ctx = SSL_CTX_new(TLS_method());
	if (!ctx)
		return -1;
	version = version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION;
	SSL_CTX_set_min_proto_version(ctx, (int)version);
	SSL_CTX_set_max_proto_version(ctx, (int)version);
	if (version == TLS1_3_VERSION)
		SSL_CTX_set_ciphersuites(ctx, suite);
	else
		SSL_CTX_set_cipher_list(ctx, suite);
	SSL_CTX_set_keylog_callback(ctx, keylog);
	if (is_server || num(line, "cert", 0)) {
		SSL_CTX_use_certificate(ctx, cert);
		SSL_CTX_use_PrivateKey(ctx, key);
	}
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"soak", 4);
	SSL_CTX_set_num_tickets(ctx, (size_t)num(line, "tickets", 2));
#ifdef SSL_OP_ALLOW_CLIENT_RENEGOTIATION
	SSL_CTX_set_options(ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
#endif
	if (num(line, "noren", 0))
		SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
	if (num(line, "eofok", 0))
		SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
	if (num(line, "ask", 0))
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, accept_any);

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	n = num(line, "sndbuf", 131072);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ (int)n }, sizeof(int));
	n = num(line, "rcvbuf", 4 << 20);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){ (int)n }, sizeof(int)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ (int)n }, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	to.sin_port = htons((uint16_t)num(line, "port", 0));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return -1;
	set_nonblock((int)num(line, "nb", 1));
	set_timeout(SO_RCVTIMEO, num(line, "rto", 0));
	set_timeout(SO_SNDTIMEO, num(line, "sto", 0));

	ssl = SSL_new(ctx);
	if (!ssl)
		return -1;
	set_modes(num(line, "mode", 4));
	SSL_set_read_ahead(ssl, (int)num(line, "ra", 0));
	n = num(line, "msf", 0);
	if (n)
		SSL_set_max_send_fragment(ssl, n);
	n = num(line, "mfl", 0);
	if (n && !is_server)
		SSL_set_tlsext_max_fragment_length(ssl, (uint8_t)n);
	if (!is_server && num(line, "pha", 0))
		SSL_set_post_handshake_auth(ssl, 1);
	if (!bio || !strcmp(bio, "sock")) {
		SSL_set_fd(ssl, fd);
	} else if (!strcmp(bio, "own")) {
		BIO *b = own_bio();

		SSL_set_bio(ssl, b, b);
	} else {
		BIO *r = BIO_new_socket(fd, BIO_NOCLOSE), *w = BIO_new_socket(fd, BIO_NOCLOSE);

		out_filter = BIO_push(BIO_new(BIO_f_buffer()), w);
		SSL_set_bio(ssl, r, out_filter);
	}
	if (is_server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return 0;
}

/* False when it took too long. */
static int await(int err, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = err == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN };
	int64_t left = (int64_t)(deadline - now_ms());

	if (left <= 0)
		return 0;
	/* Without AUTO_RETRY a read gives up although OpenSSL has more in its own buffer. */
	if (err == SSL_ERROR_WANT_READ && SSL_has_pending(ssl))
		left = 1;
	/* And it may leave a HelloRequest to the next call, which nothing announces. */
	if (err == SSL_ERROR_WANT_READ && left > 20 && (SSL_renegotiate_pending(ssl) || SSL_in_init(ssl)))
		left = 20;
	poll(&p, 1, (int)left);
	return 1;
}

static void keep(struct result *r, long ret)
{
	int e = errno;

	r->ret = ret;
	r->err = SSL_get_error(ssl, (int)ret);
	r->e = e;
}

static int again(const struct result *r)
{
	return r->err == SSL_ERROR_WANT_READ || r->err == SSL_ERROR_WANT_WRITE;
}

static int call_read(void *to, int n, int peek)
{
	errno = 0;
	if (use_ex) {
		size_t got = 0;
		int ok = peek ? SSL_peek_ex(ssl, to, n, &got) : SSL_read_ex(ssl, to, n, &got);

		return ok == 1 ? (int)got : ok;
	}
	return peek ? SSL_peek(ssl, to, n) : SSL_read(ssl, to, n);
}

static int call_write(const void *from, int n)
{
	errno = 0;
	if (use_ex) {
		size_t done = 0;
		int ok = SSL_write_ex(ssl, from, n, &done);

		return ok == 1 ? (int)done : ok;
	}
	return SSL_write(ssl, from, n);
}

static void flush_filter(struct result *r)
{
	uint64_t deadline = now_ms() + patience_ms;

	if (!out_filter)
		return;
	while (BIO_flush(out_filter) <= 0) {
		if (!BIO_should_retry(out_filter)) {
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
static struct result read_n(size_t n, size_t piece)
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

static struct result read_once(size_t n, int peek)
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

static struct result go_on_writing(int until_full)
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
		if (!await(r.err, deadline)) {
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

static struct result write_n(size_t n, int until_full)
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

static struct result write_file(size_t n)
{
	struct result r = { .ret = 1 };
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
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
			if (!again(&r))
				break;
			if (!await(r.err, deadline)) {
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

static struct result handshake(int once)
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
static struct result settle(void)
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

/* From the kernel's struct tcp_info, which is longer than libc's: bytes received, or sent once. */
static uint64_t tcp_bytes(int received)
{
	unsigned char info[216] = { 0 };
	socklen_t len = sizeof(info);
	uint64_t n, again;

	if (fd < 0 || syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, info, &len))
		return 0;
	memcpy(&n, info + (received ? 128 : 200), 8);
	memcpy(&again, info + 208, 8);
	return received ? n : n - again;
}

/* What the relay has given us is in our queue before we begin. */
static void await_bytes(uint64_t n)
{
	for (int i = 0; fd >= 0 && i < 2000 && tcp_bytes(1) < n; i++)
		usleep(200);
}

/* Waits until the peer's kernel was given all that we wrote, or nothing moves. */
static void drain(void)
{
	int before = -1, still = 0, left;

	while (fd >= 0 && still < 20) {
		if (syscall(SYS_ioctl, fd, SIOCOUTQNSD, &left) || !left)
			return;
		still = left == before ? still + 1 : 0;
		before = left;
		usleep(500);
	}
}

static void answer(const char *name, const struct result *r, int loose)
{
	unsigned long e;

	printf("=%s ret=%ld err=%d n=%llu bad=%llu", name, r->ret, r->err, (unsigned long long)r->n,
	       (unsigned long long)r->sum);
	if (r->late)
		printf(" LATE=%d", r->late);
	if (r->err == SSL_ERROR_SYSCALL)
		printf(" errno=%d", r->e);
	printf(" q=");
	while ((e = ERR_get_error()))
		printf("%d:%d,", ERR_GET_LIB(e), ERR_GET_REASON(e));
	if (ssl) {
		printf(" sd=%d", SSL_get_shutdown(ssl));
		if (!loose)
			printf(" want=%d pend=%d init=%d ren=%d ku=%d st=%d", SSL_want(ssl),
			       SSL_pending(ssl), SSL_in_init(ssl), SSL_renegotiate_pending(ssl),
			       SSL_get_key_update_type(ssl), (int)SSL_get_state(ssl));
	}
	printf("\n");
}

static struct result plain(long ret)
{
	struct result r = { .ret = ret };

	return r;
}

static struct result of_ssl(int ret)
{
	struct result r = { 0 };

	keep(&r, ret);
	return r;
}

static struct result raw_send(size_t n)
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

static struct result raw_recv(size_t n)
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

static int has_peer_cert(void)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	return SSL_get0_peer_certificate(ssl) != NULL;
#else
	X509 *x = SSL_get_peer_certificate(ssl);

	X509_free(x);
	return x != NULL;
#endif
}

static void close_fd(void)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static void the_end(void)
{
	SSL_free(ssl);
	ssl = NULL;
	close_fd();
	SSL_CTX_free(ctx);
	ctx = NULL;
	ERR_clear_error();
}

static void obey(const char *line)
{
	char name[16] = "";
	struct result r = { 0 };
	size_t n = (size_t)num(line, "n", 0);
	int loose = (int)num(line, "loose", 0);

	sscanf(line, "%15s", name);
	await_bytes((uint64_t)num(line, "have", 0));
	ERR_clear_error();
	errno = 0;
	if (!strcmp(name, "open")) {
		r = plain(open_connection(line));
		printf("=open ret=%ld\n", r.ret);
		return;
	} else if (!strcmp(name, "end")) {
		the_end();
		printf("=end\n");
		return;
	} else if (!ssl) {
		printf("=%s none\n", name);
		return;
	} else if (!strcmp(name, "hs")) {
		r = handshake(0);
	} else if (!strcmp(name, "dh1")) {
		r = handshake(1);
	} else if (!strcmp(name, "w")) {
		r = write_n(n, 0);
	} else if (!strcmp(name, "wpark")) {
		r = write_n(n, 1);
	} else if (!strcmp(name, "wgo")) {
		r = parked ? go_on_writing(0) : plain(0);
	} else if (!strcmp(name, "sf")) {
		r = write_file(n);
	} else if (!strcmp(name, "r")) {
		r = read_once(n, 0);
	} else if (!strcmp(name, "pk")) {
		r = read_once(n, 1);
	} else if (!strcmp(name, "rn")) {
		r = read_n(n, (size_t)num(line, "piece", 16384));
	} else if (!strcmp(name, "hp")) {
		r = plain(SSL_has_pending(ssl));
	} else if (!strcmp(name, "ku")) {
		r = of_ssl(SSL_key_update(ssl, n ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED));
	} else if (!strcmp(name, "ren")) {
		if (num(line, "ask", 0))
			SSL_set_verify(ssl, SSL_VERIFY_PEER, accept_any);
		r = of_ssl(n ? SSL_renegotiate_abbreviated(ssl) : SSL_renegotiate(ssl));
	} else if (!strcmp(name, "suite")) {
		r = plain(SSL_set_cipher_list(ssl, arg(line, "suite")));
	} else if (!strcmp(name, "settle")) {
		r = settle();
	} else if (!strcmp(name, "nst")) {
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
		r = of_ssl(SSL_new_session_ticket(ssl));
#endif
	} else if (!strcmp(name, "pha")) {
		SSL_set_verify(ssl, SSL_VERIFY_PEER, accept_any);
		r = of_ssl(SSL_verify_client_post_handshake(ssl));
	} else if (!strcmp(name, "sd")) {
		r = of_ssl(SSL_shutdown(ssl));
		flush_filter(&r);
	} else if (!strcmp(name, "mode")) {
		set_modes((long)n);
	} else if (!strcmp(name, "nb")) {
		set_nonblock((int)n);
	} else if (!strcmp(name, "rto")) {
		set_timeout(SO_RCVTIMEO, (long)n);
	} else if (!strcmp(name, "msf")) {
		r = plain(SSL_set_max_send_fragment(ssl, (long)n));
	} else if (!strcmp(name, "xs")) {
		r = raw_send(n);
	} else if (!strcmp(name, "xr")) {
		r = raw_recv(n);
	} else if (!strcmp(name, "fin")) {
		r = plain(shutdown(fd, SHUT_WR));
	} else if (!strcmp(name, "close")) {
		close_fd();
	} else if (!strcmp(name, "rst")) {
		struct linger l = { 1, 0 };

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		close_fd();
	} else if (!strcmp(name, "state")) {
		printf("=state cipher=%s reused=%d cert=%d version=%x\n", SSL_get_cipher_name(ssl),
		       SSL_session_reused(ssl), has_peer_cert(), SSL_version(ssl));
		return;
	} else {
		printf("=unknown %s\n", name);
		return;
	}
	if (strcmp(name, "wpark"))
		drain();
	printf("# sent %llu\n", (unsigned long long)tcp_bytes(0));
	answer(name, &r, loose);
}

int main(int argc, char **argv)
{
	static char line[1024];
	FILE *f;

	if (argc < 3) {
		fprintf(stderr, "usage: endpoint CERT KEY\n");
		return 2;
	}
	f = fopen(argv[1], "r");
	cert = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;
	if (f)
		fclose(f);
	f = fopen(argv[2], "r");
	key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;
	if (f)
		fclose(f);
	if (!cert || !key) {
		fprintf(stderr, "endpoint: no certificate\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	printf("=ready %s\n", OpenSSL_version(OPENSSL_VERSION));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(line);
		fflush(stdout);
	}
	return 0;
}
