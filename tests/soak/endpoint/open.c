// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What a connection begins with: the socket, the BIOs, the SSL object as the
 * program says. It owns them until `the_end`.
 */
#include "endpoint.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

X509 *cert;
EVP_PKEY *key;

SSL *ssl;
SSL_CTX *ctx;
BIO *out_filter;
int fd = -1;
long receive_timeout;
int is_server, use_ex, moving, blocking;
int patience_ms = PATIENCE_MS;
static long least_fragment;

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

int accept_any(int ok, X509_STORE_CTX *c)
{
	(void)ok;
	(void)c;
	return 1;
}

void set_nonblock(int on)
{
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
	blocking = !on;
}

void set_timeout(int name, long ms)
{
	struct timeval t = { ms / 1000, ms % 1000 * 1000 };

	setsockopt(fd, SOL_SOCKET, name, &t, sizeof(t));
}

void set_timeouts(long receive_ms, long send_ms)
{
	receive_timeout = receive_ms;
	set_timeout(SO_RCVTIMEO, receive_ms);
	set_timeout(SO_SNDTIMEO, send_ms);
}

void set_modes(long bits)
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

/*
 * OpenSSL 1.1.1 sizes its write buffer by the fragment size of the moment and
 * dies of a longer record later ("buffer too small"); with the shim it goes on.
 * No program can rely on the former: here the size only sinks.
 */
long may_be_fragment(long n)
{
	if (OPENSSL_VERSION_NUMBER >= 0x30000000L)
		return n;
	if (n < least_fragment)
		least_fragment = n;
	return least_fragment;
}

int open_connection(const char *line)
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
	SSL_CTX_set_max_early_data(ctx, (uint32_t)num(line, "early", 0));
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
	set_timeouts(num(line, "rto", 0), num(line, "sto", 0));

	ssl = SSL_new(ctx);
	if (ssl && num(line, "copy", 0)) {
		SSL *first = ssl;

		ssl = SSL_dup(first);
		SSL_free(first);
	}
	if (!ssl)
		return -1;
	set_modes(num(line, "mode", 4));
	SSL_set_read_ahead(ssl, (int)num(line, "ra", 0));
	n = num(line, "msf", 0);
	if (n)
		SSL_set_max_send_fragment(ssl, n);
	least_fragment = n ? n : SSL3_RT_MAX_PLAIN_LENGTH;
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

void close_fd(void)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
}

void the_end(void)
{
	chain_end();
	SSL_free(ssl);
	ssl = NULL;
	close_fd();
	SSL_CTX_free(ctx);
	ctx = NULL;
	ERR_clear_error();
}
