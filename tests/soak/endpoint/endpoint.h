/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One end of a TLS connection that does what it is told: an ordinary OpenSSL
 * program, linked dynamically, so that a preload can stand in its way.
 *
 *	main.c	the commands, and how answers look
 *	open.c	what a connection begins with: socket, BIOs, SSL
 *	io.c	reading, writing and handshakes, as loops or as single calls
 *	odd.c	what few programs do: fork, threads, BIO_f_ssl, SSL_clear, ...
 *
 * Memory: everything is static or belongs to the one connection, which the
 * command `end` frees.
 */
#ifndef SOAK_ENDPOINT_H
#define SOAK_ENDPOINT_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define BIGGEST (1 << 20)
#define PATIENCE_MS 20000
/* While one end runs alone, what it waits for is there at once or never. */
#define ALONE_MS 400

struct result {
	long ret;
	int err;
	int e;
	uint64_t n;
	uint64_t sum;
	int late;
};

/* open.c */
extern X509 *cert;
extern EVP_PKEY *key;
extern SSL *ssl;
extern SSL_CTX *ctx;
extern BIO *out_filter;
extern int fd, is_server, use_ex, moving, blocking, patience_ms;
/* SO_RCVTIMEO in milliseconds. */
extern long receive_timeout;

int open_connection(const char *line);
void close_fd(void);
void the_end(void);
void set_nonblock(int on);
void set_timeout(int name, long ms);
void set_timeouts(long receive_ms, long send_ms);
void set_modes(long bits);
long may_be_fragment(long n);
int accept_any(int ok, X509_STORE_CTX *c);

/* main.c */
const char *arg(const char *line, const char *name);
long num(const char *line, const char *name, long otherwise);

/* io.c */
/* Bytes that went each way: they decide what the next byte is. */
extern uint64_t wrote, was_read;
/* A write waits to be repeated. */
extern int parked;
/* What a buffering BIO holds stays there. */
extern int leave_buffered;
/* The other end does nothing meanwhile. */
extern int alone;
/* When this command did. */
extern uint64_t began;
extern unsigned char out[2][BIGGEST];
extern unsigned char in[BIGGEST];

uint64_t now_ms(void);
void fill(unsigned char *to, size_t n);
uint64_t check(const unsigned char *from, size_t n, uint64_t at);
int await(int err, uint64_t deadline);
int await_to_write(int err, uint64_t deadline);
void keep(struct result *r, long ret);
int again(const struct result *r);
int call_read(void *to, int n, int peek);
int call_write(const void *from, int n);
void flush_filter(struct result *r);
struct result read_n(size_t n, size_t piece);
struct result read_once(size_t n, int peek);
struct result write_n(size_t n, int until_full);
struct result go_on_writing(int until_full);
struct result write_file(size_t n);
struct result handshake(int once);
struct result settle(void);
struct result raw_send(size_t n);
struct result raw_recv(size_t n);

/* odd.c */
struct result dup_and_write(size_t n);
struct result change_fd(long how);
struct result chain_write(size_t n);
struct result chain_read(size_t n);
void chain_end(void);
int go_on_as(int child);
void end_of_child(void);
struct result both_ways(size_t to_write, size_t to_read);
struct result early_handshake(size_t n);
struct result interrupted(size_t n, int writing);
struct result write_twice(size_t n, size_t m);

#endif
