// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What else goes on in a process while it has a connection: children of all kinds,
 * descriptors that are copied, inherited, passed on and used up, handlers and
 * threads that end in the wrong place, BIOs between OpenSSL and the socket.
 *
 * Memory: as in end.h; what a scene opens besides, it closes.
 */
#include "end.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

extern char **environ;

/* What a compiler that fortifies makes of read() and recv(). */
ssize_t __read_chk(int fd, void *buf, size_t n, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t room, int flags);

static void ended(const char *what, pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	say("%s: %d\n", what, status);
}

/* The child borrows this memory and closes whatever it can name. */
static void vfork_closes(void)
{
	pid_t child = vfork();

	if (child == 0) {
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		close_range(3, ~0U, 0);
		_exit(0);
	}
	ended("vfork", child);
}

/* The same and a program, which is what Python's subprocess does. */
static void vfork_runs(void)
{
	pid_t child = vfork();

	if (child == 0) {
		close_range(3, ~0U, 0);
		execl("/bin/true", "true", NULL);
		_exit(9);
	}
	ended("vfork and exec", child);
}

static void children(struct end *e)
{
	start(e);
	vfork_closes();
	warm(e);
	for (int i = 0; i < 3; i++) {
		vfork_closes();
		talk(e, 2000);
		vfork_runs();
		talk(e, 2000);
	}
	talks(e, 2);
	close_in_order(e);
}

static void spawned(struct end *e)
{
	char *argv[] = { "true", NULL };
	posix_spawn_file_actions_t acts;
	pid_t child = -1;

	start(e);
	warm(e);
	for (int i = 0; i < 3; i++) {
		posix_spawn_file_actions_init(&acts);
		posix_spawn_file_actions_addclose(&acts, e->fd);
		posix_spawn_file_actions_addclosefrom_np(&acts, 3);
		say("spawn: %d\n", posix_spawn(&child, "/bin/true", &acts, NULL, argv, environ));
		posix_spawn_file_actions_destroy(&acts);
		ended("spawned", child);
		talks(e, 2);
	}
	close_in_order(e);
}

/* Many children at once, all of which close what they have inherited. */
static void storm(struct end *e)
{
	enum { MANY = 24 };
	pid_t all[MANY];
	int bad = 0;

	start(e);
	warm(e);
	fflush(stdout);
	for (int i = 0; i < MANY; i++) {
		all[i] = fork();
		if (all[i] == 0) {
			close_range(3, ~0U, 0);
			_exit(0);
		}
	}
	talks(e, 5);
	for (int i = 0; i < MANY; i++) {
		int status = -1;

		waitpid(all[i], &status, 0);
		bad += status != 0;
	}
	say("bad children: %d\n", bad);
	talks(e, 2);
	close_in_order(e);
}

/* Runs a shell that counts the descriptors it was given. */
static void count_inherited(const char *what, int fd, int cloexec)
{
	char text[64] = "";
	FILE *shell;

	fcntl(fd, F_SETFD, cloexec ? FD_CLOEXEC : 0);
	fflush(stdout);
	shell = popen("set -- /proc/self/fd/*; echo $#", "r");
	if (shell && fgets(text, sizeof(text), shell))
		say("%s: %d\n", what, atoi(text));
	if (shell)
		say("pclose: %d\n", pclose(shell));
}

static void executed(struct end *e)
{
	start(e);
	warm(e);
	count_inherited("without close-on-exec", e->fd, 0);
	talks(e, 2);
	count_inherited("with it", e->fd, 1);
	talks(e, 2);
	close_in_order(e);
}

/* All numbers are used up while the keys are in the kernel, and before. */
static void use_up(struct end *e, int early)
{
	struct rlimit old, low;
	int n = 0, fds[256];

	if (early) {
		connect_data(e);
		attach_ssl(e);
	} else {
		start(e);
		warm(e);
	}
	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = 64;
	setrlimit(RLIMIT_NOFILE, &low);
	while (n < 256) {
		fds[n] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fds[n] < 0)
			break;
		n++;
	}
	say("no more: %d\n", errno == EMFILE);
	if (early) {
		handshake(e);
		warm(e);
	}
	talks(e, 2);
	if (e->version == 13) {
		say("update: %d\n", SSL_key_update(e->ssl, SSL_KEY_UPDATE_REQUESTED));
		talks(e, 3);
	}
	while (n > 0)
		close(fds[--n]);
	setrlimit(RLIMIT_NOFILE, &old);
	talks(e, 3);
	close_in_order(e);
}

static void used_up(struct end *e)
{
	use_up(e, 0);
}

static void used_up_early(struct end *e)
{
	use_up(e, 1);
}

/* The connection is descriptor 0. */
static void number_zero(struct end *e)
{
	int in = fcntl(0, F_DUPFD_CLOEXEC, 300);

	close(0);
	start(e);
	say("fd %d\n", e->fd);
	warm(e);
	talks(e, 3);
	close_in_order(e);
	drop_ssl(e);
	drop_fd(e);
	dup2(in, 0);
	close(in);
}

static void copies(struct end *e)
{
	int three, old;

	start(e);
	old = e->fd;
	warm(e);
	three = dup3(e->fd, 210, O_CLOEXEC);
	say("dup3: %d, cloexec %d\n", three, fcntl(three, F_GETFD));
	talk(e, 1000);
	/* Over itself: dup2 says yes, dup3 no, and neither closes anything. */
	say("dup2: %d\n", dup2(old, old) == old);
	say("dup3: %d", dup3(old, old, 0));
	say(" %d\n", errno);
	talk(e, 1000);
	/* A range that begins behind the connection. */
	say("close_range: %d\n", close_range(210, 220, 0));
	say("gone: %d", fcntl(210, F_GETFD));
	say(" %d\n", errno);
	say("to be closed: %d\n", close_range(200, ~0U, CLOSE_RANGE_CLOEXEC));
	talks(e, 3);
	close_in_order(e);
}

/* The number of a connection that was closed belongs to whoever got it. */
static void others_number(int number)
{
	char text[8] = "";
	int pair[2];

	if (pipe(pair))
		return;
	if (pair[0] != number && pair[1] != number) {
		dup2(pair[1], number);
		close(pair[1]);
		pair[1] = number;
	}
	say("pipe: %zd", write(pair[1], "hello", 5));
	say(" %zd %s\n", read(pair[0], text, 7), text);
	close(pair[0]);
	close(pair[1]);
}

static void closed_by(struct end *e, int stdio)
{
	int number;

	start(e);
	warm(e);
	talks(e, 2);
	meet(e);
	number = e->fd;
	if (stdio) {
		FILE *f = fdopen(number, "r+");

		say("fclose: %d\n", f ? fclose(f) : -1);
	} else {
		say("close_range: %d\n", close_range(number, number, 0));
	}
	e->fd = -1;
	others_number(number);
	/* The SSL is still there and knows the number: nothing may come of it. */
	drop_ssl(e);
	others_number(number);
	meet(e);
	start(e);
	warm(e);
	talks(e, 2);
	close_in_order(e);
}

static void closed_by_fclose(struct end *e)
{
	closed_by(e, 1);
}

static void closed_by_range(struct end *e)
{
	closed_by(e, 0);
}

static int pass(int fd)
{
	char room[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
	struct iovec v = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int pair[2], got = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -1;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	say("sendmsg: %zd\n", sendmsg(pair[0], &m, 0));
	m.msg_controllen = sizeof(room);
	say("recvmsg: %zd\n", recvmsg(pair[1], &m, MSG_CMSG_CLOEXEC));
	c = CMSG_FIRSTHDR(&m);
	if (c)
		memcpy(&got, CMSG_DATA(c), sizeof(int));
	close(pair[0]);
	close(pair[1]);
	return got;
}

/* Through a UNIX socket and back: a new number for the same connection. */
static void passed_on(struct end *e)
{
	int other;

	start(e);
	warm(e);
	other = pass(e->fd);
	talks(e, 2);
	say("set_fd: %d\n", SSL_set_fd(e->ssl, other));
	talks(e, 2);
	close(e->fd);
	e->fd = other;
	talks(e, 3);
	close_in_order(e);
}

static int pipe_of_handler[2];
static volatile sig_atomic_t rings;

static void writes_and_closes(int sig)
{
	int saved = errno, fd = dup(pipe_of_handler[1]);
	char byte;

	(void)sig;
	if (write(fd, "x", 1) == 1 && read(pipe_of_handler[0], &byte, 1) == 1 && byte == 'x')
		rings++;
	close(fd);
	errno = saved;
}

static void every(int us)
{
	struct itimerval t = { { 0, us }, { 0, us } };

	setitimer(ITIMER_REAL, &t, NULL);
}

static void handler(struct end *e)
{
	struct sigaction act = { .sa_handler = writes_and_closes, .sa_flags = SA_RESTART };

	start(e);
	warm(e);
	if (pipe(pipe_of_handler))
		return;
	rings = 0;
	sigaction(SIGALRM, &act, NULL);
	every(3000);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == e->server)
			put_all(e, 500000);
		else
			take_all(e, 500000);
		meet(e);
	}
	talks(e, 5);
	while (rings < 5)
		;
	every(0);
	say("rang: 1\n");
	close(pipe_of_handler[0]);
	close(pipe_of_handler[1]);
	close_in_order(e);
}

static sigjmp_buf out;

static void jumps(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

static void jumped(struct end *e)
{
	struct sigaction act = { .sa_handler = jumps };

	start(e);
	warm(e);
	sigaction(SIGALRM, &act, NULL);
	for (int turn = 0; turn < 6; turn++) {
		if (turn % 2 == e->server) {
			meet(e);
			put(e, 700);
			continue;
		}
		if (sigsetjmp(out, 1) == 0) {
			every(30000);
			say("read: %d\n", SSL_read(e->ssl, room_in(), 700));
		}
		every(0);
		say("out of it\n");
		meet(e);
		take(e, 700);
	}
	talks(e, 3);
	close_in_order(e);
}

static void *blocks(void *arg)
{
	struct end *e = arg;

	SSL_read(e->ssl, room_in(), 700);
	return NULL;
}

static void cancelled(struct end *e)
{
	start(e);
	warm(e);
	for (int turn = 0; turn < 6; turn++) {
		void *how = NULL;
		pthread_t thread;

		if (turn % 2 == e->server) {
			meet(e);
			put(e, 700);
			continue;
		}
		pthread_create(&thread, NULL, blocks, e);
		usleep(30000);
		say("cancel: %d\n", pthread_cancel(thread));
		pthread_join(thread, &how);
		say("cancelled: %d\n", how == PTHREAD_CANCELED);
		meet(e);
		take(e, 700);
	}
	talks(e, 3);
	close_in_order(e);
}

static pthread_key_t last;
static char *of_thread;

/* Other destructors have run, or have not: the order is nobody's promise. */
static void talks_at_last(void *arg)
{
	struct end *e = arg;
	int fd = dup(e->fd);

	of_thread = hear_thread();
	talk(e, 2000);
	close(fd);
}

static void *sets_key(void *arg)
{
	pthread_setspecific(last, arg);
	return NULL;
}

static void destructor(struct end *e)
{
	start(e);
	warm(e);
	pthread_key_create(&last, talks_at_last);
	for (int i = 0; i < 4; i++) {
		pthread_t thread;

		pthread_create(&thread, NULL, sets_key, e);
		pthread_join(thread, NULL);
		hush_thread(of_thread);
	}
	pthread_key_delete(last);
	talks(e, 2);
	close_in_order(e);
}

static atomic_int stop_racing;

/* Takes every number that becomes free, and demands that it is a pipe then. */
static void *takes_numbers(void *arg)
{
	long *wrong = arg;

	while (!stop_racing) {
		char byte = 0;
		int pair[2];

		if (pipe(pair)) {
			++*wrong;
			continue;
		}
		if (write(pair[1], "p", 1) != 1 || read(pair[0], &byte, 1) != 1 || byte != 'p')
			++*wrong;
		if (close(pair[0]) || close(pair[1]))
			++*wrong;
	}
	return NULL;
}

static void raced(struct end *e)
{
	long wrong = 0;
	pthread_t thread;

	stop_racing = 0;
	pthread_create(&thread, NULL, takes_numbers, &wrong);
	for (int i = 0; i < 6; i++) {
		start(e);
		warm(e);
		talk(e, 2000);
		meet(e);
		drop_ssl(e);
		drop_fd(e);
	}
	stop_racing = 1;
	pthread_join(thread, NULL);
	say("wrong: %ld\n", wrong);
}

/* Clear text after TLS, by the names that fortified programs use. */
static void fortified(struct end *e)
{
	char text[64] = "";

	start(e);
	warm(e);
	talks(e, 2);
	close_in_order(e);
	meet(e);
	if (e->server) {
		say("write %zd\n", write(e->fd, "clear text", 10));
		meet(e);
		return;
	}
	meet(e);
	say("peek %zd", __recv_chk(e->fd, text, 5, sizeof(text), MSG_PEEK | MSG_WAITALL));
	say(" %s\n", text);
	say("read %zd", __read_chk(e->fd, text, 10, sizeof(text)));
	say(" %s\n", text);
}

/* A buffer in front of the socket: what is in it must not be overtaken. */
static void buffered(struct end *e)
{
	BIO *buffer;

	connect_data(e);
	attach_ssl(e);
	buffer = BIO_new(BIO_f_buffer());
	SSL_set0_wbio(e->ssl, BIO_push(buffer, BIO_new_socket(e->fd, BIO_NOCLOSE)));
	handshake(e);
	BIO_flush(buffer);
	for (int turn = 0; turn < 8; turn++) {
		if (turn % 2 == e->server) {
			put(e, 300);
			put(e, 30);
			put(e, 20000);
			say("flush: %d\n", BIO_flush(buffer));
		} else {
			take_all(e, 20330);
		}
	}
	shut(e);
	BIO_flush(buffer);
	take(e, 10);
}

/* A filter that changes every byte, at both ends. */
static int turned_write(BIO *b, const char *from, int n)
{
	char turned[4096];
	int done;

	if (n > (int)sizeof(turned))
		n = sizeof(turned);
	for (int i = 0; i < n; i++)
		turned[i] = from[i] ^ 0x55;
	done = BIO_write(BIO_next(b), turned, n);
	BIO_clear_retry_flags(b);
	BIO_copy_next_retry(b);
	return done;
}

static int turned_read(BIO *b, char *to, int n)
{
	int done = BIO_read(BIO_next(b), to, n);

	for (int i = 0; i < done; i++)
		to[i] ^= 0x55;
	BIO_clear_retry_flags(b);
	BIO_copy_next_retry(b);
	return done;
}

static long turned_ctrl(BIO *b, int what, long n, void *p)
{
	return BIO_ctrl(BIO_next(b), what, n, p);
}

static int turned_create(BIO *b)
{
	BIO_set_init(b, 1);
	return 1;
}

static void filtered(struct end *e)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "turned");
	BIO *chain;

	BIO_meth_set_write(method, turned_write);
	BIO_meth_set_read(method, turned_read);
	BIO_meth_set_ctrl(method, turned_ctrl);
	BIO_meth_set_create(method, turned_create);
	connect_data(e);
	attach_ssl(e);
	chain = BIO_push(BIO_new(method), BIO_new_socket(e->fd, BIO_NOCLOSE));
	SSL_set_bio(e->ssl, chain, chain);
	handshake(e);
	warm(e);
	talks(e, 5);
	close_in_order(e);
	drop_ssl(e);
	BIO_meth_free(method);
}

const struct scene hostile[] = {
	{ "children", children },
	{ "spawned", spawned },
	{ "storm", storm },
	{ "executed", executed },
	{ "used_up", used_up },
	{ "used_up_early", used_up_early },
	{ "number_zero", number_zero },
	{ "copies", copies },
	{ "closed_by_fclose", closed_by_fclose },
	{ "closed_by_range", closed_by_range },
	{ "passed_on", passed_on },
	{ "handler", handler },
	{ "jumped", jumped },
	{ "cancelled", cancelled },
	{ "destructor", destructor },
	{ "raced", raced },
	{ "fortified", fortified },
	{ "buffered", buffered },
	{ "filtered", filtered },
	{ 0 }
};
