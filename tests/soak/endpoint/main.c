// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * It reads one command per line and answers with one line that begins with '=';
 * lines that begin with 'K' are key log lines, lines that begin with '#' are
 * remarks. Answers hold only what two runs of the same program must agree on:
 * how often a loop had to wait, and how many bytes one call of a loop moved, is
 * left out, because TCP decides it. src/lib.rs has the list and the reasons.
 */
#include "endpoint.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/sockios.h>

#include <openssl/pem.h>

const char *arg(const char *line, const char *name)
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

long num(const char *line, const char *name, long otherwise)
{
	const char *text = arg(line, name);

	return text ? atol(text) : otherwise;
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

/*
 * A call that would sleep for ever, since the other end does nothing meanwhile:
 * it ends as one with a time-out does.
 */
static int guard(const char *name)
{
	static const char *const calls[] = { "w", "wgo", "w2", "dup", "cw", "sf", "r", "rn",
					     "pk", "cr", "sd", "dh1", "hs", "settle" };

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (alone && blocking && !receive_timeout && !strcmp(name, calls[i])) {
			set_timeout(SO_RCVTIMEO, ALONE_MS);
			return 1;
		}
	return 0;
}

static void obey_one(const char *name, const char *line);

static void obey(const char *line)
{
	char name[16] = "";
	int guarded;

	sscanf(line, "%15s", name);
	await_bytes((uint64_t)num(line, "have", 0));
	alone = (int)num(line, "alone", 0);
	began = now_ms();
	guarded = ssl && guard(name);
	obey_one(name, line);
	if (guarded)
		set_timeout(SO_RCVTIMEO, 0);
}

static void obey_one(const char *name, const char *line)
{
	struct result r = { 0 };
	size_t n = (size_t)num(line, "n", 0);
	int loose = (int)num(line, "loose", 0);

	ERR_clear_error();
	errno = 0;
	if (!strcmp(name, "open")) {
		r = plain(open_connection(line));
		printf("=open ret=%ld\n", r.ret);
		return;
	} else if (!strcmp(name, "end")) {
		the_end();
		printf("=end\n");
		end_of_child();
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
	} else if (!strcmp(name, "wint")) {
		r = interrupted(n, 1);
	} else if (!strcmp(name, "int")) {
		r = interrupted(n, 0);
	} else if (!strcmp(name, "w2")) {
		r = write_twice(n, (size_t)num(line, "m", 1));
	} else if (!strcmp(name, "dup")) {
		r = dup_and_write(n);
	} else if (!strcmp(name, "fd")) {
		r = change_fd((long)n);
	} else if (!strcmp(name, "cw")) {
		r = chain_write(n);
	} else if (!strcmp(name, "cr")) {
		r = chain_read(n);
	} else if (!strcmp(name, "fork")) {
		if (!go_on_as((int)n))
			return;
		r = plain(1);
	} else if (!strcmp(name, "duo")) {
		r = both_ways(n, (size_t)num(line, "m", 0));
	} else if (!strcmp(name, "anew")) {
		r = of_ssl(SSL_clear(ssl));
	} else if (!strcmp(name, "early")) {
		r = early_handshake(n);
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
	} else if (!strcmp(name, "to")) {
		set_timeouts((long)n, (long)n);
	} else if (!strcmp(name, "msf")) {
		r = plain(SSL_set_max_send_fragment(ssl, may_be_fragment((long)n)));
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
		printf("=state cipher=%s reused=%d cert=%d version=%x early=%d busy=%d\n",
		       SSL_get_cipher_name(ssl), SSL_session_reused(ssl), has_peer_cert(),
		       SSL_version(ssl), SSL_get_early_data_status(ssl),
		       SSL_in_init(ssl) || SSL_renegotiate_pending(ssl));
		return;
	} else {
		printf("=unknown %s\n", name);
		return;
	}
	if (strcmp(name, "wpark") && strcmp(name, "wint"))
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
