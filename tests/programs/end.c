// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the scenes share, and the program's main loop: one command per line on
 * stdin, `SCENE VERSION SUITE PORT DATAPORT`, answered by what the scene says and
 * a line `=end`.
 */
#include "end.h"

static const char *cert, *key;
static int listener = -1;
static unsigned char out[BIGGEST], in[BIGGEST];
static __thread char *heard;

#define HEARD 16384

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (heard) {
		size_t len = strlen(heard);

		vsnprintf(heard + len, HEARD - len, format, args);
	} else {
		vprintf(format, args);
		fflush(stdout);
	}
	va_end(args);
}

char *hear_thread(void)
{
	heard = calloc(1, HEARD);
	return heard;
}

void hush_thread(char *room)
{
	say("%s", room);
	free(room);
}

static const char *error_name(int err)
{
	static const char *const names[] = {
		"NONE", "SSL", "WANT_READ", "WANT_WRITE", "WANT_X509_LOOKUP", "SYSCALL",
		"ZERO_RETURN", "WANT_CONNECT", "WANT_ACCEPT"
	};

	return err >= 0 && err < 9 ? names[err] : "?";
}

long did(struct end *e, const char *what, long ret)
{
	int number = errno;
	int err = SSL_get_error(e->ssl, (int)ret);
	unsigned long code;

	say("%s: %ld %s", what, ret, error_name(err));
	if (ret <= 0)
		say(" errno=%d want=%d", number, SSL_want(e->ssl));
	while ((code = ERR_get_error())) {
		const char *reason = ERR_reason_error_string(code);

		say(" [%s]", reason ? reason : "?");
	}
	say(" shutdown=%d\n", SSL_get_shutdown(e->ssl));
	errno = number;
	return ret;
}

static void die(const char *what)
{
	say("FAILED %s: %s\n", what, strerror(errno));
	_exit(3);
}

int swap(struct end *e, int number)
{
	int other = -1;

	if (write(e->ctl, &number, sizeof(number)) != sizeof(number))
		die("meet");
	if (recv(e->ctl, &other, sizeof(other), MSG_WAITALL) != sizeof(other))
		die("meet");
	return other;
}

void meet(struct end *e)
{
	swap(e, 0);
}

static int tcp(struct end *e, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int one = 1, fd;

	if (e->server) {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			die("accept");
	} else {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		to.sin_port = htons((uint16_t)port);
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
			die("connect");
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int connect_data(struct end *e)
{
	e->fd = tcp(e, e->data_port);
	e->wrote = 0;
	e->got = 0;
	return e->fd;
}

SSL_CTX *make_ctx(struct end *e)
{
	int version = e->version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION;
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());

	if (!ctx)
		die("SSL_CTX_new");
	SSL_CTX_set_min_proto_version(ctx, version);
	SSL_CTX_set_max_proto_version(ctx, version);
	if (e->version == 13)
		SSL_CTX_set_ciphersuites(ctx, e->suite);
	else
		SSL_CTX_set_cipher_list(ctx, e->suite);
	if (e->server) {
		if (SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
		    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
			die("certificate");
	} else if (SSL_CTX_load_verify_locations(ctx, cert, NULL) == 1) {
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	}
#ifdef SSL_OP_ALLOW_CLIENT_RENEGOTIATION
	SSL_CTX_set_options(ctx, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
#endif
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"end", 3);
	return ctx;
}

void attach_ssl(struct end *e)
{
	if (!e->ctx)
		e->ctx = make_ctx(e);
	e->ssl = SSL_new(e->ctx);
	if (!e->ssl)
		die("SSL_new");
	SSL_set_fd(e->ssl, e->fd);
	if (e->server)
		SSL_set_accept_state(e->ssl);
	else
		SSL_set_connect_state(e->ssl);
}

long handshake(struct end *e)
{
	errno = 0;
	return did(e, "handshake", SSL_do_handshake(e->ssl));
}

void start(struct end *e)
{
	connect_data(e);
	attach_ssl(e);
	if (e->before)
		e->before(e);
	if (handshake(e) != 1)
		die("handshake");
}

void warm(struct end *e)
{
	for (int i = 0; i < 6; i++) {
		for (int turn = 0; turn < 2; turn++) {
			size_t n = 700 + 900 * i, done = 0;

			if (turn == e->server) {
				room_out(e, n);
				if (SSL_write(e->ssl, out, (int)n) != (int)n)
					die("warm write");
				e->wrote += n;
				continue;
			}
			while (done < n) {
				int got = SSL_read(e->ssl, in, (int)(n - done));

				if (got <= 0) {
					did(e, "warm", got);
					die("warm read");
				}
				if (!fits(e, in, got))
					say("WRONG BYTES\n");
				e->got += got;
				done += got;
			}
		}
	}
	meet(e);
}

void talk(struct end *e, size_t n)
{
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server)
			put_all(e, n);
		else
			take_all(e, n);
	}
	meet(e);
}

void drop_ssl(struct end *e)
{
	SSL_free(e->ssl);
	e->ssl = NULL;
}

void drop_fd(struct end *e)
{
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}

static unsigned char stream_byte(int from_server, uint64_t at)
{
	uint64_t x = at * 0x9e3779b97f4a7c15ull + (from_server ? 0x1234567 : 0);

	return (unsigned char)(x >> 29 ^ x >> 53);
}

void fill(struct end *e, unsigned char *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = stream_byte(e->server, e->wrote + i);
}

int fits(struct end *e, const unsigned char *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (from[i] != stream_byte(!e->server, e->got + i))
			return 0;
	return 1;
}

const unsigned char *room_out(struct end *e, size_t n)
{
	fill(e, out, n);
	return out;
}

unsigned char *room_in(void)
{
	return in;
}

long put(struct end *e, size_t n)
{
	long done;

	room_out(e, n);
	errno = 0;
	done = SSL_write(e->ssl, out, (int)n);
	if (done > 0)
		e->wrote += done;
	return did(e, "write", done);
}

long take(struct end *e, size_t n)
{
	long got;

	errno = 0;
	got = SSL_read(e->ssl, in, (int)n);
	if (got > 0) {
		int e_no = errno;

		if (!fits(e, in, got))
			say("WRONG BYTES\n");
		e->got += got;
		errno = e_no;
	}
	return did(e, "read", got);
}

long shut(struct end *e)
{
	errno = 0;
	return did(e, "shutdown", SSL_shutdown(e->ssl));
}

void talks(struct end *e, int n)
{
	for (int i = 0; i < n; i++)
		talk(e, 2000);
}

void close_in_order(struct end *e)
{
	if (e->server) {
		shut(e);
		shut(e);
	} else {
		take(e, 10);
		shut(e);
	}
}

size_t put_all(struct end *e, size_t n)
{
	size_t done = 0;

	while (done < n) {
		size_t piece = n - done < BIGGEST ? n - done : BIGGEST;
		int now;

		room_out(e, piece);
		errno = 0;
		now = SSL_write(e->ssl, out, (int)piece);
		if (now <= 0) {
			did(e, "write", now);
			break;
		}
		e->wrote += now;
		done += now;
	}
	say("wrote %zu\n", done);
	return done;
}

size_t take_all(struct end *e, size_t n)
{
	size_t done = 0;
	int wrong = 0;

	while (done < n) {
		size_t piece = n - done < BIGGEST ? n - done : BIGGEST;
		int now;

		errno = 0;
		now = SSL_read(e->ssl, in, (int)piece);
		if (now <= 0) {
			did(e, "read", now);
			break;
		}
		wrong |= !fits(e, in, now);
		e->got += now;
		done += now;
	}
	say("read %zu%s\n", done, wrong ? " WRONG BYTES" : "");
	return done;
}

/* False when the call failed for good, or nothing comes. */
static int go_on(struct end *e, const char *what, int ret)
{
	int err = SSL_get_error(e->ssl, ret);

	/* OpenSSL leaves a HelloRequest to the next call, which nothing announces. */
	if (err == SSL_ERROR_WANT_READ && SSL_renegotiate_pending(e->ssl)) {
		usleep(5000);
		return 1;
	}
	if (err == SSL_ERROR_WANT_READ && await(e->fd, POLLIN))
		return 1;
	if (err == SSL_ERROR_WANT_WRITE && await(e->fd, POLLOUT))
		return 1;
	did(e, what, ret);
	return 0;
}

size_t put_nb(struct end *e, size_t n, size_t piece)
{
	size_t done = 0;
	int waits = 0;

	while (done < n) {
		size_t now = n - done < piece ? n - done : piece;
		int ret;

		room_out(e, now);
		errno = 0;
		ret = SSL_write(e->ssl, out, (int)now);
		if (ret > 0) {
			e->wrote += ret;
			done += ret;
			continue;
		}
		waits++;
		if (!go_on(e, "write", ret))
			break;
	}
	say("wrote %zu\n# %d waits\n", done, waits);
	return done;
}

size_t take_nb(struct end *e, size_t n, size_t piece)
{
	size_t done = 0;
	int wrong = 0, waits = 0;

	while (done < n) {
		size_t now = n - done < piece ? n - done : piece;
		int ret;

		errno = 0;
		ret = SSL_read(e->ssl, in, (int)now);
		if (ret > 0) {
			wrong |= !fits(e, in, ret);
			e->got += ret;
			done += ret;
			continue;
		}
		waits++;
		if (!go_on(e, "read", ret))
			break;
	}
	say("read %zu%s\n# %d waits\n", done, wrong ? " WRONG BYTES" : "", waits);
	return done;
}

size_t fill_up(struct end *e, const unsigned char **at, size_t n, int still)
{
	size_t all = 0;

	*at = room_out(e, n);
	for (;;) {
		struct pollfd p = { .fd = e->fd, .events = POLLOUT };
		int done;

		errno = 0;
		done = SSL_write(e->ssl, *at, (int)n);
		if (done > 0) {
			e->wrote += done;
			all += done;
			*at = room_out(e, n);
		} else if (!still || poll(&p, 1, 300) == 0) {
			did(e, "full", done);
			return all;
		}
	}
}

void both_roles(struct end *e, void (*write)(struct end *), void (*read)(struct end *))
{
	for (int reader = 1; reader >= 0; reader--) {
		say("-- %s\n", e->server == reader ? "reads" : "writes");
		if (e->server == reader)
			read(e);
		else
			write(e);
		meet(e);
	}
}

long peek(struct end *e, int n)
{
	long got;

	errno = 0;
	got = SSL_peek(e->ssl, room_in(), n);
	if (got > 0 && !fits(e, room_in(), got))
		say("WRONG BYTES\n");
	return did(e, "peek", got);
}

void small_sndbuf(struct end *e)
{
	int n = 20000;

	setsockopt(e->fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
}

void set_nonblock(int fd, int on)
{
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

void set_linger0(int fd)
{
	struct linger now = { 1, 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

int await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, 20000) == 1;
}

void drain(int fd)
{
	int left = 1;

	for (int i = 0; i < 10000 && !ioctl(fd, SIOCOUTQ, &left) && left; i++)
		usleep(500);
}

void await_end(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	for (int i = 0; i < 10000; i++) {
		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ||
		    (info.tcpi_state != TCP_ESTABLISHED && info.tcpi_state != TCP_FIN_WAIT1 &&
		     info.tcpi_state != TCP_FIN_WAIT2))
			return;
		usleep(500);
	}
}

static const struct scene *find(const char *name)
{
	const struct scene *const lists[] = { endings, paths, waits, life, limits, hostile, besides };

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
		for (const struct scene *s = lists[i]; s->name; s++)
			if (!strcmp(s->name, name))
				return s;
	return NULL;
}

static void play(const char *line, int server)
{
	struct end e = { .server = server, .fd = -1 };
	char name[64], suite[64];
	const struct scene *scene;

	if (sscanf(line, "%63s %d %63s %d %d", name, &e.version, suite, &e.port,
		   &e.data_port) != 5)
		die(line);
	scene = find(name);
	if (!scene)
		die(name);
	e.suite = suite;
	e.ctl = tcp(&e, e.port);
	ERR_clear_error();
	scene->play(&e);
	drop_ssl(&e);
	SSL_CTX_free(e.ctx);
	drop_fd(&e);
	meet(&e);
	close(e.ctl);
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	char line[256];
	int one = 1, server;

	if (argc != 5)
		return 2;
	server = !strcmp(argv[1], "server");
	cert = argv[3];
	key = argv[4];
	signal(SIGPIPE, SIG_IGN);
	if (server) {
		listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		at.sin_port = htons((uint16_t)atoi(argv[2]));
		at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 8))
			die("listen");
	}
	while (fgets(line, sizeof(line), stdin)) {
		play(line, server);
		say("=end\n");
	}
	return 0;
}
