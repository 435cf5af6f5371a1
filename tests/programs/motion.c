// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Two ends of a TLS 1.3 connection whose keys change while something else is
 * going on: a thread blocked in SSL_read, a file on its way by SSL_sendfile.
 *
 * motion server PORT CERT KEY KEYLOG TEST | client PORT CERT KEY KEYLOG TEST
 * reader	The client has one thread that is always in SSL_read and one that
 *		writes, without a lock, as CPython has. Keys change by either end,
 *		asked for an answer or not, while the reader sleeps.
 * file		The server sends a file (by SSL_sendfile where that is granted) through
 *		a small send buffer and changes its key between the pieces; the client
 *		asks for more of that meanwhile.
 * What is printed must not depend on a shim. A wrong byte, an error or a
 * stall ends the program with a message.
 *
 * Memory: everything is static or lives until exit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define ROUNDS 6
#define FILE_SIZE 400000
#define MARK 50000
#define PATIENCE 60

static SSL *ssl;
static int fd;
static FILE *keys;
static unsigned char data[FILE_SIZE], got[FILE_SIZE];
static atomic_long arrived;

static void die(const char *what, int ret)
{
	int e = errno, err = ssl ? SSL_get_error(ssl, ret) : 0;

	fprintf(stderr, "%s: ret %d, SSL error %d, errno %d\n", what, ret, err, e);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void keylog(const SSL *s, const char *line)
{
	(void)s;
	fprintf(keys, "%s\n", line);
	fflush(keys);
}

static unsigned char byte_at(size_t at)
{
	return (unsigned char)(at * 2654435761u >> 13);
}

static void connect_to(int is_server, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int one = 1;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (is_server) {
		int listener = fd;

		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(listener, (struct sockaddr *)&to, sizeof(to)) || listen(listener, 1))
			die("listen", -1);
		fd = accept(listener, NULL, NULL);
		close(listener);
	} else if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		die("connect", -1);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void say(const char *text, int n)
{
	int done = SSL_write(ssl, text, n);

	if (done != n)
		die("SSL_write", done);
}

static void hear(const char *text, int n)
{
	char buf[16];

	for (int have = 0; have < n;) {
		int more = SSL_read(ssl, buf + have, n - have);

		if (more <= 0)
			die("SSL_read", more);
		have += more;
	}
	if (memcmp(buf, text, n)) {
		fprintf(stderr, "heard %.*s, not %.*s\n", n, buf, n, text);
		exit(1);
	}
}

static void update(int ask)
{
	int ok = SSL_key_update(ssl, ask ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);

	if (ok != 1)
		die("SSL_key_update", ok);
}

/* The one thread that reads at the client. */
static void *reader(void *unused)
{
	(void)unused;
	for (;;) {
		long at = atomic_load(&arrived);
		int n = SSL_read(ssl, got + at, 16384);

		if (n <= 0) {
			/* The server closes when all is said. */
			if (SSL_get_error(ssl, n) != SSL_ERROR_ZERO_RETURN)
				die("reader", n);
			return NULL;
		}
		atomic_store(&arrived, at + n);
	}
}

/* Waits for the reader to have so much, and to be back in its sleep. */
static void await(long n)
{
	struct timespec tick = { 0, 5000000 };

	for (int i = 0; atomic_load(&arrived) < n; i++) {
		if (i > PATIENCE * 200) {
			fprintf(stderr, "stalled at %ld of %ld\n", atomic_load(&arrived), n);
			exit(1);
		}
		nanosleep(&tick, NULL);
	}
	tick.tv_nsec = 60000000;
	nanosleep(&tick, NULL);
}

static void reader_client(void)
{
	pthread_t thread;
	long n = 0;

	pthread_create(&thread, NULL, reader, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		say("ready", 5);
		/* "1" came under the server's next key, "2" under the one after, which wants an answer. */
		await(++n);
		update(0);
		say("a", 1);
		await(++n);
		say("b", 1);
		/* Now it is us who wants one. */
		update(1);
		say("c", 1);
		await(++n);
		for (int i = 0; i < 10; i++) {
			say("tail", 4);
			n += 4;
			await(n);
		}
	}
	SSL_shutdown(ssl);
	pthread_join(thread, NULL);
	for (long i = 0; i < n; i++)
		putchar(got[i]);
	printf("\nclient: %ld bytes\n", atomic_load(&arrived));
}

static void reader_server(void)
{
	char c;

	for (int round = 0; round < ROUNDS; round++) {
		hear("ready", 5);
		update(0);
		say("1", 1);
		hear("a", 1);
		update(1);
		say("2", 1);
		hear("bc", 2);
		say("3", 1);
		for (int i = 0; i < 10; i++) {
			hear("tail", 4);
			say("back", 4);
		}
	}
	if (SSL_read(ssl, &c, 1) > 0 || SSL_get_shutdown(ssl) != SSL_RECEIVED_SHUTDOWN)
		die("close_notify", 0);
	printf("server: shutdown %d\n", SSL_shutdown(ssl));
}

/* Until something can be read or written, as `events` says. */
static void poll_for(short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (poll(&p, 1, PATIENCE * 1000) <= 0)
		die("poll", 0);
}

static void file_server(void)
{
	int file = memfd_create("motion", MFD_CLOEXEC), granted, own = 0, asked = 0;
	size_t done = 0;
	char c;

	granted = BIO_get_ktls_send(SSL_get_wbio(ssl)) > 0;
	fprintf(stderr, "granted %d\n", granted);
	hear("go", 2);
	if (write(file, data, FILE_SIZE) != FILE_SIZE)
		die("memfd", 0);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	while (done < FILE_SIZE) {
		size_t left = FILE_SIZE - done;
		int err;
		long n;

		if (left > MARK)
			left = MARK;
		/* Whatever the socket takes: a piece of the file that ends anywhere. */
		if (granted)
			n = SSL_sendfile(ssl, file, (off_t)done, left, 0);
		else
			n = SSL_write(ssl, data + done, left > 10000 ? 10000 : (int)left);
		if (n > 0) {
			size_t before = done / MARK;

			done += n;
			if (done / MARK > before)
				update(own++ & 1);
		} else {
			err = SSL_get_error(ssl, (int)n);
			if (err != SSL_ERROR_WANT_WRITE)
				die("sendfile", (int)n);
			poll_for(POLLOUT);
			continue;
		}
		/* What the client wants meanwhile. */
		n = SSL_read(ssl, &c, 1);
		err = n > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl, (int)n);
		if (n > 0)
			asked++;
		else if (err == SSL_ERROR_WANT_WRITE) /* for a key update of our own */
			poll_for(POLLOUT);
		else if (err != SSL_ERROR_WANT_READ)
			die("read", (int)n);
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	for (; asked < FILE_SIZE / MARK; asked++)
		hear("?", 1);
	printf("server: sent %zu, %d key updates, asked %d times\n", done, own, asked);
	for (int i = 0; i < 12; i++) {
		hear("tail", 4);
		say("back", 4);
	}
	if (SSL_read(ssl, &c, 1) > 0)
		die("close_notify", 0);
	SSL_shutdown(ssl);
}

static void file_client(void)
{
	size_t have = 0;
	int n;

	/* The first record of a client proves its key; it is not to be a key update. */
	say("go", 2);
	while (have < FILE_SIZE) {
		size_t before = have / MARK;

		n = SSL_read(ssl, got + have, (int)(FILE_SIZE - have > 7000 ? 7000 : FILE_SIZE - have));
		if (n <= 0)
			die("SSL_read", n);
		have += n;
		if (have / MARK > before) {
			update(1);
			say("?", 1);
		}
	}
	printf("client: the file is %s\n", memcmp(data, got, FILE_SIZE) ? "WRONG" : "right");
	for (int i = 0; i < 12; i++) {
		say("tail", 4);
		hear("back", 4);
	}
	SSL_shutdown(ssl);
	n = SSL_read(ssl, got, 1);
	printf("client: end %d, shutdown %d\n", SSL_get_error(ssl, n), SSL_get_shutdown(ssl));
}

int main(int argc, char **argv)
{
	int is_server, small = 16384, ret;
	SSL_CTX *ctx;

	if (argc != 7)
		return 2;
	is_server = !strcmp(argv[1], "server");
	for (size_t i = 0; i < FILE_SIZE; i++)
		data[i] = byte_at(i);
	keys = fopen(argv[5], "w");
	ctx = SSL_CTX_new(TLS_method());
	if (!keys || !ctx)
		return 2;
	SSL_CTX_set_keylog_callback(ctx, keylog);
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	if (is_server && (SSL_CTX_use_certificate_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1 ||
			  SSL_CTX_use_PrivateKey_file(ctx, argv[4], SSL_FILETYPE_PEM) != 1))
		return 2;
	signal(SIGPIPE, SIG_IGN);
	connect_to(is_server, atoi(argv[2]));
	if (is_server)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	ret = is_server ? SSL_accept(ssl) : SSL_connect(ssl);
	if (ret != 1)
		die("handshake", ret);
	if (!strcmp(argv[6], "reader")) {
		if (is_server)
			reader_server();
		else
			reader_client();
	} else {
		if (is_server)
			file_server();
		else
			file_client();
	}
	SSL_free(ssl);
	close(fd);
	printf("done\n");
	return 0;
}
