/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the measured program (work) and the cheap far end (far) share: options, TLS set-up, and the
 * control channel, a socket pair on descriptor 3 by which work tells far what to do next.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#define CONTROL_FD 3

/* Orders from work to far. */
enum order {
	ORDER_PREPARE = 1, /* seal `a` bytes in writes of `b`; answered */
	ORDER_SEND,	   /* send what is prepared, in pieces of `a` (0: all) every `b` ns */
	ORDER_SYNC,	   /* drop what has arrived; answered with what was dropped */
	ORDER_ROUNDS,	   /* `a` times: send one prepared record, take one answer of `b` bytes */
	ORDER_CONNECT,	   /* `a` connections one after the other, each read to its end */
	ORDER_HOLD,	   /* `a` connections that stay open, drained from then on; answered */
	ORDER_COST,	   /* answered with the nanoseconds far has run, sealing apart */
	ORDER_END,
};

struct order_message {
	uint64_t order;
	uint64_t a;
	uint64_t b;
};

struct options {
	const char *row;
	const char *dir;    /* cert.pem, key.pem */
	const char *cipher; /* aes128, aes256, chacha20 */
	const char *host;   /* what is asked for (http) */
	int port;
	int tls12;
	int server; /* of TLS; TCP is always connected by work */
	int plain;
	int resume;
	unsigned int label;
	size_t size; /* of a write, a read buffer, a message */
	uint64_t total;	    /* of one sample: bytes, rounds or connections */
	uint64_t connections;
	uint64_t piece;	   /* bytes sent at a time, and the pause between two of them */
	uint64_t pause_ns;
};

/* Every failure ends the program: a cell that could not be measured must not look like one that was. */
_Noreturn void die(const char *what);

void options_parse(struct options *options, int argc, char **argv);

SSL_CTX *tls_context(const struct options *options, int server);
int tcp_listen(int port);
int tcp_accept(int listener);
int tcp_connect(int port);
void wait_until_sent(int fd);

void order(uint64_t what, uint64_t a, uint64_t b);
uint64_t order_answer(void);
void order_and_wait(uint64_t what, uint64_t a, uint64_t b);

/*
 * What this process has run, in nanoseconds: in the counting machine one instruction each. The kernel
 * charges interrupts to whom they interrupt, so this is an account, not a count.
 */
uint64_t ran_ns(void);

/* One line "sample LABEL UNITS [NAME=VALUE …]" to the driver, which says whether to go on. */
int sample_done(unsigned int label, uint64_t units, const char *more);

#endif
