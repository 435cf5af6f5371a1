// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What a program does with the objects around a connection: SSL objects that are
 * used again or copied, descriptors and BIOs that change, threads, processes, and
 * data that goes through a BIO of type SSL.
 */
#include "end.h"

/* One SSL, two connections. */
static void again(struct end *e, int orderly, int state)
{
	start(e);
	warm(e);
	if (orderly)
		close_in_order(e);
	meet(e);
	drop_fd(e);
	if (state && e->server)
		SSL_set_accept_state(e->ssl);
	else if (state)
		SSL_set_connect_state(e->ssl);
	else
		say("clear: %d\n", SSL_clear(e->ssl));
	connect_data(e);
	say("set_fd: %d\n", SSL_set_fd(e->ssl, e->fd));
	handshake(e);
	say("reused: %d\n", SSL_session_reused(e->ssl));
	warm(e);
	talks(e, 2);
	close_in_order(e);
}

static void cleared(struct end *e)
{
	again(e, 1, 0);
}

static void cleared_in_mid_life(struct end *e)
{
	again(e, 0, 0);
}

static void new_state(struct end *e)
{
	again(e, 1, 1);
}

/* Another number for the same socket. */
static void another_fd(struct end *e)
{
	int fd;

	start(e);
	warm(e);
	fd = fcntl(e->fd, F_DUPFD_CLOEXEC, 100);
	say("set_fd: %d\n", SSL_set_fd(e->ssl, fd));
	drop_fd(e);
	e->fd = fd;
	talks(e, 4);
	close_in_order(e);
}

/* The same number again, as programs that set it before every call. */
static void same_fd(struct end *e)
{
	start(e);
	warm(e);
	for (int i = 0; i < 4; i++) {
		SSL_set_fd(e->ssl, e->fd);
		talk(e, 2000);
	}
	close_in_order(e);
}

static void read_and_write_fd(struct end *e)
{
	int fd;

	start(e);
	warm(e);
	fd = fcntl(e->fd, F_DUPFD_CLOEXEC, 100);
	say("set_wfd: %d\n", SSL_set_wfd(e->ssl, fd));
	talks(e, 2);
	say("set_rfd: %d\n", SSL_set_rfd(e->ssl, fd));
	talks(e, 2);
	close_in_order(e);
	close(fd);
}

static void another_bio(struct end *e)
{
	BIO *b;

	start(e);
	warm(e);
	b = BIO_new_socket(e->fd, BIO_NOCLOSE);
	SSL_set_bio(e->ssl, b, b);
	talks(e, 2);
	/* And one for each direction. */
	b = BIO_new_socket(e->fd, BIO_NOCLOSE);
	SSL_set0_wbio(e->ssl, b);
	talks(e, 2);
	b = BIO_new_socket(e->fd, BIO_NOCLOSE);
	SSL_set0_rbio(e->ssl, b);
	talks(e, 2);
	close_in_order(e);
}

/* Moves what the SSL has written to the socket, past the SSL. */
static void pump_out(struct end *e)
{
	char *from;
	long n = BIO_get_mem_data(SSL_get_wbio(e->ssl), &from);

	while (n > 0) {
		ssize_t done = send(e->fd, from, n, 0);

		if (done <= 0) {
			say("send: %s\n", strerror(errno));
			return;
		}
		from += done;
		n -= done;
	}
	BIO_reset(SSL_get_wbio(e->ssl));
}

static void pump_in(struct end *e)
{
	char room[4096];
	ssize_t n = recv(e->fd, room, sizeof(room), 0);

	if (n <= 0)
		say("recv: %zd\n", n);
	else
		BIO_write(SSL_get_rbio(e->ssl), room, (int)n);
}

/* From now on the program moves the records itself. */
static void memory_bios(struct end *e)
{
	start(e);
	warm(e);
	SSL_set_bio(e->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	BIO_set_mem_eof_return(SSL_get_rbio(e->ssl), -1);
	for (int turn = 0; turn < 8; turn++) {
		if (turn % 2 == e->server) {
			put(e, 3000);
			pump_out(e);
		} else {
			size_t end = e->got + 3000;

			for (int i = 0; i < 20 && e->got < end; i++) {
				int got = SSL_read(e->ssl, room_in(), 9000);

				if (got > 0 && !fits(e, room_in(), got))
					say("WRONG BYTES\n");
				if (got > 0)
					e->got += got;
				else
					pump_in(e);
			}
			say("read it: %d\n", e->got == end);
		}
	}
	meet(e);
}

/* The SSL goes on upon a connection that it was not made for, at both ends. */
static void elsewhere(struct end *e)
{
	uint64_t wrote, got;
	int old = -1;

	start(e);
	warm(e);
	wrote = e->wrote;
	got = e->got;
	old = e->fd;
	connect_data(e);
	e->wrote = wrote;
	e->got = got;
	say("set_fd: %d\n", SSL_set_fd(e->ssl, e->fd));
	meet(e);
	/* Told as a remark: with the shim this cannot go well. */
	if (!e->server) {
		int done = SSL_write(e->ssl, room_out(e, 100), 100);

		say("# write %d, %d\n", done, SSL_get_error(e->ssl, done));
		e->wrote += 100;
		done = SSL_write(e->ssl, room_out(e, 100), 100);
		say("# write %d, %d\n", done, SSL_get_error(e->ssl, done));
		shutdown(e->fd, SHUT_WR);
	} else {
		int got_now;

		while ((got_now = SSL_read(e->ssl, room_in(), 100)) > 0) {
			if (!fits(e, room_in(), got_now))
				say("WRONG BYTES\n");
			e->got += got_now;
		}
		say("# read %d in all, then %d\n", (int)(e->got - got),
		    SSL_get_error(e->ssl, got_now));
	}
	meet(e);
	ERR_clear_error();
	close(old);
}

/* A copy of an SSL that has not begun. */
static void copied(struct end *e)
{
	SSL *copy;

	connect_data(e);
	attach_ssl(e);
	copy = SSL_dup(e->ssl);
	SSL_free(e->ssl);
	e->ssl = copy;
	SSL_set_fd(copy, e->fd);
	handshake(e);
	warm(e);
	/* In mid-life it is one more reference to the same. */
	copy = SSL_dup(e->ssl);
	say("the same: %d\n", copy == e->ssl);
	talks(e, 2);
	SSL_free(copy);
	talks(e, 2);
	close_in_order(e);
}

struct pair {
	struct end *e;
	pthread_mutex_t lock;
	int locked;
	size_t n;
	char *reader, *writer;
};

static int locked_call(struct pair *p, int write, size_t n, int *err)
{
	int ret;

	pthread_mutex_lock(&p->lock);
	if (write)
		ret = SSL_write(p->e->ssl, room_out(p->e, n), (int)n);
	else
		ret = SSL_read(p->e->ssl, room_in(), (int)n);
	*err = SSL_get_error(p->e->ssl, ret);
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static void *writes(void *arg)
{
	struct pair *p = arg;
	struct end *e = p->e;
	size_t done = 0;
	int err;

	p->writer = hear_thread();
	while (done < p->n) {
		size_t now = p->n - done < 20000 ? p->n - done : 20000;
		int ret;

		if (p->locked) {
			ret = locked_call(p, 1, now, &err);
		} else {
			ret = SSL_write(e->ssl, room_out(e, now), (int)now);
			err = ret > 0 ? 0 : SSL_get_error(e->ssl, ret);
		}
		if (ret > 0) {
			e->wrote += ret;
			done += ret;
			continue;
		}
		if (!p->locked || !await(e->fd, err == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT)) {
			did(e, "write", ret);
			break;
		}
	}
	say("wrote %zu\n", done);
	return NULL;
}

static void *reads(void *arg)
{
	struct pair *p = arg;
	struct end *e = p->e;
	size_t done = 0;
	int err;

	p->reader = hear_thread();
	while (done < p->n) {
		int ret;

		if (p->locked) {
			ret = locked_call(p, 0, 30000, &err);
		} else {
			ret = SSL_read(e->ssl, room_in(), 30000);
			err = ret > 0 ? 0 : SSL_get_error(e->ssl, ret);
		}
		if (ret > 0) {
			if (!fits(e, room_in(), ret))
				say("WRONG BYTES at %zu\n", done);
			e->got += ret;
			done += ret;
			continue;
		}
		if (!p->locked || !await(e->fd, err == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN)) {
			did(e, "read", ret);
			break;
		}
	}
	say("read %zu\n", done);
	return NULL;
}

static void two_threads(struct end *e, size_t n, int locked)
{
	struct pair p = { .e = e, .n = n, .locked = locked, .lock = PTHREAD_MUTEX_INITIALIZER };
	pthread_t writer, reader;

	set_nonblock(e->fd, locked);
	pthread_create(&writer, NULL, writes, &p);
	pthread_create(&reader, NULL, reads, &p);
	pthread_join(writer, NULL);
	pthread_join(reader, NULL);
	hush_thread(p.writer);
	hush_thread(p.reader);
	set_nonblock(e->fd, 0);
	meet(e);
}

static void threads_with_lock(struct end *e)
{
	start(e);
	two_threads(e, 150000, 1);
	warm(e);
	two_threads(e, 200000, 1);
	close_in_order(e);
}

/* The lanes change while both threads are at it, where the handshake leaves that open. */
static void threads_without_lock(struct end *e)
{
	start(e);
	/* A ticket that is read while another thread writes is OpenSSL's own race. */
	if (e->version == 13)
		talk(e, 10);
	two_threads(e, 400000, 0);
	warm(e);
	two_threads(e, 400000, 0);
	close_in_order(e);
}

/* Another thread than that of the handshake, one call each. */
static void *talks_once(void *arg)
{
	struct pair *p = arg;

	p->reader = hear_thread();
	talk(p->e, 2000);
	return NULL;
}

static void handed_to_threads(struct end *e)
{
	struct pair p = { .e = e };

	start(e);
	warm(e);
	for (int i = 0; i < 5; i++) {
		pthread_t thread;

		pthread_create(&thread, NULL, talks_once, &p);
		pthread_join(thread, NULL);
		hush_thread(p.reader);
	}
	close_in_order(e);
}

/* After fork one process goes on, and the other frees its SSL and closes. */
static void forked(struct end *e, int child_goes_on)
{
	int go[2], status = 0;
	char byte = 0;
	pid_t child;

	start(e);
	warm(e);
	if (pipe(go))
		return;
	fflush(stdout);
	child = fork();
	if ((child == 0) != child_goes_on) {
		/* This one leaves first. */
		drop_ssl(e);
		drop_fd(e);
		close(go[0]);
		close(go[1]);
		if (child == 0)
			_exit(0);
		waitpid(child, &status, 0);
		say("child: %d\n", status);
		return;
	}
	close(go[1]);
	if (read(go[0], &byte, 1) != 0)
		say("a byte?\n");
	close(go[0]);
	if (child > 0) {
		waitpid(child, &status, 0);
		say("child: %d\n", status);
	}
	talks(e, 5);
	close_in_order(e);
	if (child == 0) {
		drop_ssl(e);
		_exit(0);
	}
}

static void fork_child(struct end *e)
{
	forked(e, 1);
}

static void fork_parent(struct end *e)
{
	forked(e, 0);
}

/* Copies of the descriptor, looked at, waited on, and closed. */
static void dups(struct end *e)
{
	int copies[3];

	start(e);
	warm(e);
	copies[0] = dup(e->fd);
	copies[1] = fcntl(e->fd, F_DUPFD_CLOEXEC, 150);
	copies[2] = dup2(e->fd, 200);
	if (e->server) {
		put(e, 1000);
		drain(e->fd);
		meet(e);
	} else {
		meet(e);
		for (int i = 0; i < 3; i++) {
			int here = 0;
			char byte[4];

			say("poll %d\n", await(copies[i], POLLIN));
			say("ioctl %d", ioctl(copies[i], FIONREAD, &here));
			say(" something %d\n", here > 0);
			say("peek %d\n", recv(copies[i], byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1);
		}
		take(e, 1000);
		for (int i = 0; i < 3; i++) {
			char byte[4];

			errno = 0;
			say("peek %zd", recv(copies[i], byte, 1, MSG_PEEK | MSG_DONTWAIT));
			say(" %d\n", errno);
		}
	}
	meet(e);
	for (int i = 0; i < 3; i++) {
		talk(e, 1000);
		close(copies[i]);
	}
	talks(e, 2);
	/* And the copy outlives the original: the number is given to something else. */
	copies[0] = dup(e->fd);
	close(e->fd);
	dup2(copies[0], e->fd);
	close(copies[0]);
	talks(e, 3);
	close_in_order(e);
}

/* A program whose data goes through a BIO of type SSL; the other end's does not. */
static void ssl_bio(struct end *e, int server)
{
	BIO *ssl, *buffer;
	char line[64] = "";

	if (e->server != server) {
		start(e);
		for (int i = 0; i < 5; i++) {
			take_all(e, 4000);
			put_all(e, 3000);
		}
		say("line: %d\n", SSL_write(e->ssl, "a line\nand more\n", 16));
		take(e, 10);
		shut(e);
		return;
	}
	connect_data(e);
	e->ctx = make_ctx(e);
	ssl = BIO_new_ssl(e->ctx, !server);
	BIO_get_ssl(ssl, &e->ssl);
	BIO_push(ssl, BIO_new_socket(e->fd, BIO_NOCLOSE));
	say("handshake: %ld\n", BIO_do_handshake(ssl));
	for (int i = 0; i < 5; i++) {
		size_t done = 0;

		say("write: %d\n", BIO_write(ssl, room_out(e, 4000), 4000));
		e->wrote += 4000;
		while (done < 3000) {
			int got = BIO_read(ssl, room_in(), done ? 3000 : 100);

			if (got <= 0) {
				say("read: %d\n", got);
				break;
			}
			if (!fits(e, room_in(), got))
				say("WRONG BYTES\n");
			if (!done)
				say("pending %d\n", (int)BIO_pending(ssl));
			e->got += got;
			done += got;
		}
		say("read %zu\n", done);
	}
	buffer = BIO_push(BIO_new(BIO_f_buffer()), ssl);
	say("gets: %d", BIO_gets(buffer, line, sizeof(line)));
	say(" %s", line);
	say("gets: %d", BIO_gets(buffer, line, sizeof(line)));
	say(" %s", line);
	BIO_ssl_shutdown(ssl);
	say("read: %d\n", BIO_read(ssl, line, sizeof(line)));
	e->ssl = NULL;
	BIO_free_all(buffer);
}

static void ssl_bio_client(struct end *e)
{
	ssl_bio(e, 0);
}

static void ssl_bio_server(struct end *e)
{
	ssl_bio(e, 1);
}

/* A BIO of type SSL around a connection that is in the kernel already. */
static void ssl_bio_in_mid_life(struct end *e)
{
	BIO *b;

	start(e);
	warm(e);
	b = BIO_new(BIO_f_ssl());
	SSL_up_ref(e->ssl);
	BIO_set_ssl(b, e->ssl, BIO_CLOSE);
	for (int turn = 0; turn < 8; turn++) {
		if (turn % 2 == e->server) {
			say("write: %d\n", BIO_write(b, room_out(e, 20000), 20000));
			e->wrote += 20000;
			put(e, 500);
		} else {
			size_t end = e->got + 20000;

			while (e->got < end) {
				int got = BIO_read(b, room_in(), 9000);

				if (got <= 0) {
					say("read: %d\n", got);
					break;
				}
				if (!fits(e, room_in(), got))
					say("WRONG BYTES\n");
				e->got += got;
			}
			take(e, 500);
		}
	}
	meet(e);
	talks(e, 2);
	BIO_free(b);
}

const struct scene life[] = {
	{ "cleared", cleared },
	{ "cleared_in_mid_life", cleared_in_mid_life },
	{ "new_state", new_state },
	{ "another_fd", another_fd },
	{ "same_fd", same_fd },
	{ "read_and_write_fd", read_and_write_fd },
	{ "another_bio", another_bio },
	{ "memory_bios", memory_bios },
	{ "elsewhere", elsewhere },
	{ "copied", copied },
	{ "threads_with_lock", threads_with_lock },
	{ "threads_without_lock", threads_without_lock },
	{ "handed_to_threads", handed_to_threads },
	{ "fork_child", fork_child },
	{ "fork_parent", fork_parent },
	{ "dups", dups },
	{ "ssl_bio_client", ssl_bio_client },
	{ "ssl_bio_server", ssl_bio_server },
	{ "ssl_bio_in_mid_life", ssl_bio_in_mid_life },
	{ 0 }
};
