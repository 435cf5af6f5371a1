/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of algif_tls share
 *
 * Why it exists: transmit (tx.c), receive (rx.c) and life cycle (core.c,
 * attach.c) of one op socket meet in one structure; this file says which lock
 * guards which field of it, and who frees what.
 *
 *	op file ──▶ op sock ──ask->private──▶ struct alg_tls_ctx
 *	                                       │ sk: sock_hold() + ihold()
 *	                                       ▼
 *	TCP file ─▶ TCP inode (wait queue) ─▶ TCP sock
 *	                                       │ icsk_ulp_data = ctx (the claim)
 *	                                       └ icsk_ulp_ops = alg_tls_ulp_ops,
 *	                                         from the first claim on for life
 *
 * Memory
 *	ctx	made by accept(), freed by the op sock's destructor.  The op's
 *		release() ends the claim under the TCP lock before that, so
 *		icsk_ulp_data never points to a freed ctx.
 *	ctx->sk	set once, by the first attach, with store-release; NULL before.
 *		Referenced until the op is released: an op belongs to its first
 *		TCP socket for life.  The *file* of the TCP socket is never
 *		held (closing it must send FIN at once), except by a call that
 *		is asleep.  The inode is held as long as ctx->sk, because the
 *		wait queue lives in it and epoll entries of the op point there.
 *	dir.tfm, dir.req	made by attach/re-key outside of any lock but
 *		ctx->ctl, installed and taken out under the TCP lock.
 *	rx buffers	owned by rx.c (struct alg_tls_rx).
 *	tx open record	owned by tx.c (struct alg_tls_tx); page references.
 *
 * Locks, outermost first
 *	ctx->ctl	a mutex: attach, re-key, detach against each other.
 *	TCP sock lock	lock_sock(ctx->sk): every other field of ctx, the claim
 *		and all crypto.  Taken by alg_tls_lock().  A call may give it up
 *		(wait, alg_tls_breathe()); afterwards nothing it knew is true:
 *		alg_tls_check() first, and no skb pointer, tfm or request
 *		survives.
 *	The op's own sock lock is not used.
 *
 * The TCP stack calls alg_tls_ulp_ops.release() under the same TCP lock (as
 * owner or as spin lock in softirq) when the sock is destroyed; it only sets
 * ctx->gone.
 */
#ifndef _ALG_TLS_H
#define _ALG_TLS_H

#include <crypto/aead.h>
#include <crypto/if_alg.h>
#include <linux/bvec.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/percpu.h>
#include <linux/poll.h>
#include <linux/scatterlist.h>
#include <net/inet_connection_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "uapi/algif_tls.h"
#include "compat.h"
#include "planted.h"

#define ALG_TLS_HDR		5	/* type, version, length */
#define ALG_TLS_TAG		16	/* every cipher of the table */
#define ALG_TLS_NONCE		12	/* every cipher of the table */
#define ALG_TLS_EXPLICIT	8	/* TLS 1.2 AES: nonce bytes on the wire */
#define ALG_TLS_SEQ		8
#define ALG_TLS_AAD_MAX		13	/* TLS 1.2; TLS 1.3 has 5 */
#define ALG_TLS_PLAIN_MAX	16384	/* RFC 8446 §5.1 */
#define ALG_TLS_BODY12_MAX	(ALG_TLS_PLAIN_MAX + 2048) /* RFC 5246 §6.2.3 */
#define ALG_TLS_BODY13_MAX	(ALG_TLS_PLAIN_MAX + 256)  /* RFC 8446 §5.2 */
#define ALG_TLS_HS_KEY_UPDATE	24	/* RFC 8446 4 */
#define ALG_TLS_BREATH		(128 * 1024)	/* see alg_tls_breathe() */

enum {
	ALG_TLS_T_CCS		= 20,
	ALG_TLS_T_ALERT		= 21,
	ALG_TLS_T_HANDSHAKE	= 22,
	ALG_TLS_T_DATA		= 23,
};

/*
 * One line of the cipher table (cipher.c).  Sizes are those of the key block
 * in struct tls12_crypto_info_*: iv, key, salt, rec_seq follow the header in
 * this order for every cipher we know.
 */
struct alg_tls_cipher {
	const char *name;	/* for crypto_alloc_aead() */
	u16 type;		/* TLS_CIPHER_* */
	u8 key;
	u8 salt;
	u8 iv;
	u8 explicit;		/* nonce bytes on the wire under TLS 1.2 */
	bool ccm;		/* B0 byte before the nonce; source read twice */
};

/* A name that bind() takes, with the ciphers it allows (core.c). */
struct alg_tls_name {
	const char *name;
	u16 ciphers[2];
};

/* DMA-able per-direction request memory; the AEAD context is at its tail. */
struct alg_tls_req {
	struct crypto_wait wait;
	u8 aad[ALG_TLS_AAD_MAX + 3];
	u8 iv[16];
	struct aead_request aead;	/* last: __ctx follows */
};

/*
 * One direction.  @on is the only field that means anything while it is false,
 * with the exception of @err.
 */
struct alg_tls_dir {
	bool on;
	u16 version;			/* TLS_1_2_VERSION, TLS_1_3_VERSION */
	const struct alg_tls_cipher *cipher;
	struct crypto_aead *tfm;
	struct alg_tls_req *req;
	u8 nonce[ALG_TLS_NONCE];	/* salt || iv; TX TLS 1.2 AES: next explicit */
	u8 seq[ALG_TLS_SEQ];		/* of the next record, big endian */
	int err;			/* sticky, negative; until detach/re-key */
	u64 digest;			/* of the key (TX) */
};

/*
 * Transmit.  The open record exists only inside one splice: pages that came by
 * sendpage, by reference, with the output pages reserved beforehand.
 */
#define ALG_TLS_TX_PAGES	(MAX_SKB_FRAGS + 1)
#define ALG_TLS_OUT_PIECES	12

/* Private pages that take one sealed record. */
struct alg_tls_out {
	unsigned int n;
	unsigned int len;
	struct bio_vec bv[ALG_TLS_OUT_PIECES];
};

struct alg_tls_tx {
	unsigned int max;		/* plaintext bytes per record */
	u32 write_seq;			/* as we left it; else ESTALE */
	unsigned int open_n;		/* pages of the open record */
	unsigned int open_len;		/* bytes of the open record */
	struct alg_tls_out out;		/* room for the open record */
	struct scatterlist src[ALG_TLS_TX_PAGES + 2]; /* AAD, pages, type */
	struct scatterlist dst[ALG_TLS_OUT_PIECES + 1];
	u8 type;			/* inner content type (TLS 1.3) */
	bool more;			/* TCP was told that more will come */
	bool need_key;			/* a KeyUpdate was sent: EKEYEXPIRED */
	bool broken;			/* a hand-over was short: reset at unlock */
};

/*
 * Receive: belongs to the rx files, which may change it at will.  A buffer for
 * one record is an array of single pages: no order-3 allocation, and a spliced
 * reader is given the pages themselves.
 */
#define ALG_TLS_RX_WIRE		(ALG_TLS_HDR + ALG_TLS_EXPLICIT + \
				 ALG_TLS_PLAIN_MAX + 1 + ALG_TLS_TAG)
#define ALG_TLS_RX_PAGES	DIV_ROUND_UP(ALG_TLS_RX_WIRE, PAGE_SIZE)
#define ALG_TLS_RX_PIN		12	/* user pages of one record */
#define ALG_TLS_RX_SRC		40	/* fragments before we copy instead */

struct alg_tls_buf {
	struct page *page[ALG_TLS_RX_PAGES];	/* NULL: not allocated */
};

struct alg_tls_rx {
	u32 copied_seq;			/* as we left it; else ESTALE */
	int lowat;			/* the program's sk_rcvlowat */
	int lowat_set;			/* ours; another value is the program's */
	/* a record of another type was seen; readers without cmsg stop there */
	u8 parked;			/* its content type, 0 is none */
	bool need_key;			/* a KeyUpdate was taken: EKEYEXPIRED */
	bool eof;			/* close_notify was taken */
	/* the handshake message that the last taken record broke off in */
	u8 hs_hdr[4];
	u8 hs_have;			/* valid bytes of hs_hdr */
	u32 hs_skip;			/* body bytes still to come */
	/* wire bytes taken off TCP, not yet opened; never a whole record */
	struct alg_tls_buf stage;
	unsigned int staged_len;
	/* unread rest of the last opened record */
	struct alg_tls_buf rest;
	unsigned int rest_off;
	unsigned int rest_len;
	unsigned int rest_size;		/* plaintext in its pages, to wipe */
	u8 rest_type;
	/* valid only while one record is being opened */
	unsigned int pinned;
	struct page *pin[ALG_TLS_RX_PIN];
	struct scatterlist src[ALG_TLS_RX_SRC];
	struct scatterlist dst[ALG_TLS_RX_PIN + 2]; /* AAD, pages, tail */
	/* TLS 1.3: the type byte; alone in its line, a device may write it */
	union {
		u8 tail;
		u8 pad[L1_CACHE_BYTES];
	} ____cacheline_aligned;
};

struct alg_tls_ctx {
	struct sock *op;		/* our own sock, not counted */
	struct alg_tls_mib __percpu *mib; /* of sock_net(op) */
	const struct alg_tls_name *name;
	struct mutex ctl;		/* see above */

	struct sock *sk;		/* the TCP sock: alg_tls_sk() */
	struct inode *inode;		/* of its socket */
	/* all below: TCP lock */
	bool claimed;			/* icsk_ulp_data is us */
	bool gone;			/* the TCP sock was destroyed or closed */
	int disconnects;		/* as at the claim; else ESTALE */
	unsigned int rx_asleep;		/* readers in alg_tls_rx_sleep() */

	struct alg_tls_dir txd;
	struct alg_tls_dir rxd;
	struct alg_tls_tx tx;
	struct alg_tls_rx rx;

	/* last TX key, as keyed digest, to refuse its reuse (attach.c) */
	bool last_set;
	u64 last_digest;
	u64 last_seq;			/* first one that is still unused */
	u64 last_nonce;
};

static inline struct alg_tls_ctx *alg_tls_ctx(struct socket *sock)
{
	return alg_sk(sock->sk)->private;
}

/* NULL before the first attach; stable and referenced for ever after it. */
static inline struct sock *alg_tls_sk(struct alg_tls_ctx *ctx)
{
	/* pairs with the store-release in alg_tls_claim() */
	return smp_load_acquire(&ctx->sk);
}

/* ------------------------------------------------ statistics (stat.c) --- */

/* Names are in stat.c. */
enum alg_tls_stat {
	ALG_TLS_S_CURRTX,
	ALG_TLS_S_CURRRX,
	ALG_TLS_S_TX,
	ALG_TLS_S_RX,
	ALG_TLS_S_TXRECORDS,
	ALG_TLS_S_RXRECORDS,
	ALG_TLS_S_TXBYTES,
	ALG_TLS_S_RXBYTES,
	ALG_TLS_S_TXCONTROL,
	ALG_TLS_S_RXCONTROL,
	ALG_TLS_S_TXREKEY,
	ALG_TLS_S_RXREKEY,
	ALG_TLS_S_TXDETACH,
	ALG_TLS_S_RXDETACH,
	ALG_TLS_S_SENDFILEBYTES,
	ALG_TLS_S_RXSTAGED,
	ALG_TLS_S_RXURGENT,
	ALG_TLS_S_OPS,
	ALG_TLS_S_ERRCONTROL,	/* EIO */
	ALG_TLS_S_ERRKEY,	/* EKEYEXPIRED */
	ALG_TLS_S_ERRTAG,	/* EBADMSG */
	ALG_TLS_S_ERRPROTO,	/* EPROTO */
	ALG_TLS_S_ERRLEN,	/* EMSGSIZE */
	ALG_TLS_S_ERRSTALE,	/* ESTALE */
	ALG_TLS_S_ERRNOCLOSE,	/* ENODATA */
	ALG_TLS_S_ERRCUT,	/* ECONNABORTED */
	ALG_TLS_S_ERRWRAP,	/* EOVERFLOW */
	ALG_TLS_S_ERRREUSE,	/* EKEYREJECTED */
	ALG_TLS_S_ERRSHORT,	/* TX dead: short hand-over */
	ALG_TLS_S_MAX,
};

struct alg_tls_mib {
	u64 v[ALG_TLS_S_MAX];
};

struct alg_tls_mib __percpu *alg_tls_mib(struct net *net);
int alg_tls_stat_init(void);
void alg_tls_stat_exit(void);

#define alg_tls_stat_add(ctx, id, n) \
	this_cpu_add((ctx)->mib->v[ALG_TLS_S_##id], (n))
#define alg_tls_stat_inc(ctx, id)	alg_tls_stat_add(ctx, id, 1)
#define alg_tls_stat_dec(ctx, id)	alg_tls_stat_add(ctx, id, -1)

/* --------------------------------------------------- ciphers (cipher.c) --- */

void alg_tls_cipher_init(void);

/*
 * Fill *@d from a struct tls12_crypto_info_*, @len bytes, of which all that the
 * structure does not have are zero; allocates tfm and req.
 */
int alg_tls_dir_make(struct alg_tls_ctx *ctx, const u8 *info, unsigned int len,
		     struct alg_tls_dir *d);
/* Cleanses all of *@d. */
void alg_tls_dir_free(struct alg_tls_ctx *ctx, struct alg_tls_dir *d);

/* Bytes that precede the ciphertext in a record's body: 0 or 8. */
static inline unsigned int alg_tls_explicit(const struct alg_tls_dir *d)
{
	return d->version == TLS_1_2_VERSION ? d->cipher->explicit : 0;
}

/*
 * Seal or open one record.  src[0] and dst[0] are left free by the caller and
 * filled here with the AAD; the rest of the lists is text, type byte and tag
 * as the AEAD wants them (src of open and dst of seal end with the tag).  Both
 * lists must be terminated.  src and dst never share a page.  Neither function
 * advances the sequence number.  They sleep; the TCP lock stays owned.
 *
 * @len: bytes after the AAD in src, i.e. text (TLS 1.3: with the type byte)
 *	for seal; text and tag for open, the explicit nonce not counted
 * @nonce: open, TLS 1.2 AES: the record's explicit nonce, else NULL
 * @hdr: the five header bytes as sent or received (a private copy)
 *
 * alg_tls_open() returns -EBADMSG for a wrong tag and for nothing else.
 */
int alg_tls_seal(struct alg_tls_dir *d, const u8 *hdr, struct scatterlist *src,
		 struct scatterlist *dst, unsigned int len);
int alg_tls_open(struct alg_tls_dir *d, const u8 *hdr, const u8 *nonce,
		 struct scatterlist *src, struct scatterlist *dst,
		 unsigned int len);

/*
 * False if the next number is all ones: it is never used, so that it cannot
 * wrap.  The caller returns alg_tls_count_err(ctx, -EOVERFLOW).
 */
bool alg_tls_seq_ok(const struct alg_tls_dir *d);
void alg_tls_seq_next(struct alg_tls_dir *d);

/* --------------------------------------- what core offers (core.c) --- */

/* An error may be pending, and the stream be alive for all that (IP_RECVERR). */
static inline bool alg_tls_tx_alive(const struct sock *sk)
{
	return !(sk->sk_shutdown & SEND_SHUTDOWN) &&
	       (1 << sk->sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT);
}

/*
 * Take the TCP lock for direction @d and see whether it may go on.  Returns 0
 * with the lock held; an error (see alg_tls_check()) without it.
 */
int alg_tls_lock(struct alg_tls_ctx *ctx, struct alg_tls_dir *d);
void alg_tls_unlock(struct alg_tls_ctx *ctx);

/*
 * After every moment without the lock: -ENOTCONN not attached (or TCP fd
 * closed), the sticky d->err, -ESTALE when somebody else moved write_seq (for
 * txd) or copied_seq (for rxd) or disconnected.  Says nothing about
 * parking, sk_err, shutdown: those have their own order in tx.c and rx.c.
 */
int alg_tls_check(struct alg_tls_ctx *ctx, struct alg_tls_dir *d);

/*
 * Let the softirq's backlog in.  Call it with *@since bytes done since the
 * lock was taken; does nothing below ALG_TLS_BREATH, else flushes, resets
 * *@since and returns alg_tls_check().
 */
int alg_tls_breathe(struct alg_tls_ctx *ctx, struct alg_tls_dir *d,
		    size_t *since);

/* Does the program's TCP fd (O_NONBLOCK) or @flags say: do not wait? */
bool alg_tls_nonblock(struct alg_tls_ctx *ctx, int flags);

/*
 * Sleep until one wake-up of the TCP socket (data, space, error, FIN, detach,
 * re-key), under the rules of the claim: takes the TCP file for the duration
 * (-ENOTCONN if it is closing) and drops the TCP lock.  Nothing that happens
 * after the call began is missed; the caller looks at everything anew and
 * calls again.  Returns 0 when alg_tls_check() passed; else the check's
 * error, -EAGAIN (*timeo is used up), or sock_intr_errno(*timeo).
 */
int alg_tls_wait(struct alg_tls_ctx *ctx, struct alg_tls_dir *d, long *timeo);

/* Reference to the file of the TCP socket, NULL if it is closing. TCP lock. */
struct file *alg_tls_file_get(struct alg_tls_ctx *ctx);

/* Wake everybody who sleeps or polls on the TCP socket (and so on the op). */
void alg_tls_wake(struct alg_tls_ctx *ctx);

/* Reset the connection at once, drop all that is queued.  TCP lock held. */
void alg_tls_reset(struct sock *sk);

/* Make @err sticky for @d, count it and return it. */
int alg_tls_fail(struct alg_tls_ctx *ctx, struct alg_tls_dir *d, int err);

/* Count an error of the list in uapi/algif_tls.h by its number; returns it. */
int alg_tls_count_err(struct alg_tls_ctx *ctx, int err);

extern struct tcp_ulp_ops alg_tls_ulp_ops;

/* -------------------------------------------------------- attach.c --- */

int alg_tls_setsockopt(struct socket *sock, int level, int optname,
		       sockptr_t optval, unsigned int optlen);
int alg_tls_getsockopt(struct socket *sock, int level, int optname,
		       char __user *optval, int __user *optlen);
void alg_tls_unclaim(struct alg_tls_ctx *ctx);	/* op release; no lock held */

/* ------------------------------------------------------------ tx.c --- */

int alg_tls_sendmsg(struct socket *sock, struct msghdr *msg, size_t len);
ssize_t alg_tls_sendpage(struct socket *sock, struct page *page, int offset,
			 size_t size, int flags);
void alg_tls_splice_eof(struct socket *sock);
int alg_tls_sendfile(struct alg_tls_ctx *ctx,
		     struct alg_tls_sendfile __user *uarg);
/*
 * TCP lock held.  Seal the open record, beyond sndbuf if need be.  -EAGAIN,
 * -ENOMEM: it is still there; every other error: it will never go out.
 */
int alg_tls_tx_flush(struct alg_tls_ctx *ctx);
void alg_tls_tx_drop(struct alg_tls_ctx *ctx);	/* forget the open record */
/* Give up the TCP lock; @push what TCP was told to hold back for more. */
void alg_tls_tx_unlock(struct alg_tls_ctx *ctx, bool push);
__poll_t alg_tls_poll_out(struct alg_tls_ctx *ctx);

/* ------------------------------ what rx.c offers: all but the first two
 * are called with the TCP lock held (poll_in: without) ---
 */

int alg_tls_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		    int flags);
ssize_t alg_tls_splice_read(struct socket *sock, loff_t *ppos,
			    struct pipe_inode_info *pipe, size_t len,
			    unsigned int flags);
/* EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | EPOLLERR ... as recvmsg would act;
 * poll_wait() was done by the caller; no lock is held, may take it.
 */
__poll_t alg_tls_poll_in(struct alg_tls_ctx *ctx);

/* rxd is installed: remember copied_seq and lowat, set lowat.  Cannot fail. */
void alg_tls_rx_attach(struct alg_tls_ctx *ctx);
/* rxd has a new key: unpark.  core wakes. */
void alg_tls_rx_rekey(struct alg_tls_ctx *ctx);
/*
 * -EBUSY for an unread rest, -ENOSPC if @room is too little, -EFAULT; else
 * staged bytes are at @buf, their count in *@len.  Changes nothing.
 */
int alg_tls_rx_detach_check(struct alg_tls_ctx *ctx, void __user *buf,
			    unsigned int room, unsigned int *len);
/* Commit: lowat restored, buffers freed, parked state forgotten. core wakes. */
void alg_tls_rx_detach(struct alg_tls_ctx *ctx);
/*
 * The op goes away.  As detach, but true if staged bytes were lost with the
 * TCP socket alive: the caller resets the connection.
 */
bool alg_tls_rx_release(struct alg_tls_ctx *ctx);
/*
 * Is copied_seq where we left it?  TCP moves it as well: when an urgent byte
 * that nobody read is followed by another one, the first is dropped.  A reader
 * other than us may hide behind that, and is found out by the next tag.
 */
bool alg_tls_rx_in_step(struct alg_tls_ctx *ctx);
/* rxd.err was set: give the program its low-water mark back. */
void alg_tls_rx_failed(struct alg_tls_ctx *ctx);
/* FIONREAD of the op: plaintext bytes that recv() gives without waiting for
 * TCP, i.e. the rest.
 */
int alg_tls_rx_inq(struct alg_tls_ctx *ctx);

#endif /* _ALG_TLS_H */
