/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One end of a TLS connection that plays a scene by its name: an ordinary
 * OpenSSL program, linked dynamically, so that a preload can stand in its way.
 *
 * The program plays scene after scene, since starting a process under a preload
 * in an emulated machine costs more than most scenes. Everything that another
 * program could observe is said on stdout and is compared with what the same
 * scene says without the preload; lines that begin with '#' are remarks, which
 * two runs need not agree on.
 *
 * Memory: what a scene opens belongs to its `struct end`, and play() frees it.
 */
#ifndef END_H
#define END_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define BIGGEST (1 << 20)

struct end {
	int server;
	int version;		/* 12 or 13 */
	const char *suite;
	int port, data_port;	/* the second differs when a relay stands between */
	int ctl;		/* a plain connection to the other end, to meet on */
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	uint64_t wrote, got;	/* they decide what the next byte is */
	void (*before)(struct end *e);	/* the SSL is made, the handshake is to come */
};

struct scene {
	const char *name;
	void (*play)(struct end *e);
};

extern const struct scene endings[], paths[], waits[], life[], limits[], hostile[], besides[];

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A thread's lines are kept until it is joined, so that their order is no chance. */
char *hear_thread(void);
void hush_thread(char *room);

/* Says what a call returned and all that an error leaves behind. */
long did(struct end *e, const char *what, long ret);

/* Both ends pass together. */
void meet(struct end *e);
/* A number from the other end, for one of ours. */
int swap(struct end *e, int number);

SSL_CTX *make_ctx(struct end *e);
int connect_data(struct end *e);
void attach_ssl(struct end *e);
long handshake(struct end *e);
/* Connection, SSL, handshake: all that most scenes need. */
void start(struct end *e);
/* Data both ways in turns, so that either direction is where it will stay. */
void warm(struct end *e);
/* Some more of it, and it says how it went. */
void talk(struct end *e, size_t n);
void talks(struct end *e, int n);
void drop_ssl(struct end *e);
void drop_fd(struct end *e);

void fill(struct end *e, unsigned char *to, size_t n);
/* Are these the next bytes of the other end's stream? */
int fits(struct end *e, const unsigned char *from, size_t n);
const unsigned char *room_out(struct end *e, size_t n);
unsigned char *room_in(void);

/* One call, said; the streams go on. */
long put(struct end *e, size_t n);
long take(struct end *e, size_t n);
long shut(struct end *e);
/* close_notify both ways, the server's first. */
void close_in_order(struct end *e);
/* Calls until `n` bytes went, or one failed, which is said, as is the sum. */
size_t put_all(struct end *e, size_t n);
size_t take_all(struct end *e, size_t n);
/* The same on a socket that does not block, waiting by poll. */
size_t put_nb(struct end *e, size_t n, size_t piece);
size_t take_nb(struct end *e, size_t n, size_t piece);

/*
 * Writes until the socket is full, and stays full for a while if it does not
 * block (`still`): a window that opens late would make chance of what comes next.
 * The last call waits to be repeated.
 */
size_t fill_up(struct end *e, const unsigned char **at, size_t n, int still);
long peek(struct end *e, int n);
/* First the server reads what the client writes, then the other way round. */
void both_roles(struct end *e, void (*write)(struct end *), void (*read)(struct end *));

void small_sndbuf(struct end *e);
void set_nonblock(int fd, int on);
void set_linger0(int fd);
int await(int fd, short events);
/* Until all that was written is in the other end's queue. */
void drain(int fd);
/* Until the other end's FIN or RST is here. */
void await_end(int fd);

#endif
