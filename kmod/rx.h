/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the receive files of algif_tls share
 *
 * Why it exists: one received record passes four files, each with one concern.
 *
 *	rx.c		recvmsg: which record may be given to whom; parking,
 *			end of file, low-water mark, attach and detach
 *	rx_record.c	one record: find it in the queue, open it, consume it
 *	rx_buf.c	memory: page buffers, staged wire bytes, the unread rest
 *	rx_splice.c	the rest, page by page, into a pipe
 *
 * Everything here is called with the TCP lock held, and nothing here gives it
 * up: skb pointers live within one function, pinned pages within one
 * alg_tls_rx_take().
 */
#ifndef _ALG_TLS_RX_H
#define _ALG_TLS_RX_H

#include "alg_tls.h"

/*
 * The record that comes next, from one single fetch of its header: queued
 * pages may still be writable by the peer on this machine, so nobody may look
 * at the header bytes in the queue a second time.
 *
 *	| hdr 5 | explicit nonce 0 or 8 | ciphertext      | tag 16 |
 *	|<----------- head ------------>|<--------- text -------->|
 *	|<------------------------- len ------------------------->|
 *	                                |<-- plain ------>|
 *
 * @plain is what the AEAD yields; TLS 1.3: with type byte and padding.
 */
struct rx_rec {
	u8 hdr[ALG_TLS_HDR];
	unsigned int len;
	unsigned int head;
	unsigned int text;
	unsigned int plain;
	unsigned int payload;	/* bytes for the reader; 1.3: at most */
};

/* One recvmsg() or splice. */
struct rx_call {
	struct msghdr *msg;	/* NULL: splice; the record goes to rest */
	int flags;
	bool ctrl;		/* the reader has room for a record type */
	bool done;		/* with ctrl: the one record was delivered */
	int copied;
	size_t since;		/* for alg_tls_breathe() */
};

/* ------------------------------------------------------- rx_buf.c --- */

int alg_tls_buf_grow(struct alg_tls_buf *b, unsigned int size, gfp_t gfp);
/*
 * Free; the first @wipe bytes are plaintext and are wiped, but not in pages
 * that a pipe holds as well.
 */
void alg_tls_buf_free(struct alg_tls_buf *b, unsigned int wipe);
/* Describe @len bytes from @off in @sg; returns the entries used. */
unsigned int alg_tls_buf_sg(const struct alg_tls_buf *b, unsigned int off,
			    unsigned int len, struct scatterlist *sg);
/* Copy between the buffer and flat memory, an skb, or a reader. */
void alg_tls_buf_get(const struct alg_tls_buf *b, unsigned int off, u8 *dst,
		     unsigned int len);
int alg_tls_buf_from_skb(struct alg_tls_buf *b, unsigned int off,
			 const struct sk_buff *skb, unsigned int skb_off,
			 unsigned int len);
unsigned int alg_tls_buf_to_iter(const struct alg_tls_buf *b, unsigned int off,
				 unsigned int len, struct iov_iter *to);

/* In-order bytes that TCP holds for us, up to an urgent mark. */
static inline unsigned int rx_avail(struct sock *sk)
{
	int n = tcp_inq(sk);

	return n > 0 ? n : 0;
}

/* The queued skb that has byte @seq, after @prev (NULL: from the start). */
struct sk_buff *alg_tls_rx_skb(struct sock *sk, struct sk_buff *prev, u32 seq,
			       u32 *off);
/* Copy queued bytes [seq, seq + len) into @b at @off; consumes nothing. */
int alg_tls_rx_copy(struct alg_tls_ctx *ctx, struct alg_tls_buf *b,
		    unsigned int off, u32 seq, unsigned int len);
/* Copy wire bytes from @off after the last record's end (staged included). */
int alg_tls_rx_peek(struct alg_tls_ctx *ctx, unsigned int off, u8 *dst,
		    unsigned int len);
/* Take all that TCP holds, which must not be a whole record. */
int alg_tls_rx_stage(struct alg_tls_ctx *ctx, const struct rx_rec *rec);
/*
 * TCP urgent data is not part of the stream, unless SO_OOBINLINE says so.  As
 * recv() does: step over an urgent byte in the queue, staging what precedes it,
 * which must not be a whole record.  1: done, look again; 0: there is none.
 */
int alg_tls_rx_urgent(struct alg_tls_ctx *ctx, const struct rx_rec *rec);
/* Take @len wire bytes for good, staged ones first. */
void alg_tls_rx_consume(struct alg_tls_ctx *ctx, unsigned int len);

/* Hand unread rest to the reader; bytes, or -EFAULT when not even one fits. */
int alg_tls_rx_give_rest(struct alg_tls_ctx *ctx, struct iov_iter *to,
			 bool peek);
void alg_tls_rx_drop_rest(struct alg_tls_ctx *ctx);
void alg_tls_rx_drop_pages(struct alg_tls_rx *rx);

/* ---------------------------------------------------- rx_record.c --- */

/*
 * Is a whole record there?  1 yes, 0 no; *rec is filled as soon as the header
 * is known, else rec->len is 0.  -EPROTO, -EMSGSIZE say why there never will
 * be one; the caller decides whether that is sticky.
 */
int alg_tls_rx_look(struct alg_tls_ctx *ctx, struct rx_rec *rec);
/*
 * Open the record found by alg_tls_rx_look(), into the reader's buffer where
 * it fits and else into rest; then consume it.  -EIO: it is not data and this
 * reader has no control buffer; it stays where it is, and RX is parked.
 */
int alg_tls_rx_take(struct alg_tls_ctx *ctx, struct rx_call *c,
		    const struct rx_rec *rec);
/* Tell the reader the type: -EFAULT, or -EIO if it must know and cannot. */
int alg_tls_rx_put_type(struct msghdr *msg, u8 type);

/* ----------------------------------------------------------- rx.c --- */

/*
 * The next record for a reader who finds no rest: 1 *rec is whole, may be
 * taken; 0 wait for more; else why not.  *eof: close_notify was taken.
 */
int alg_tls_rx_next(struct alg_tls_ctx *ctx, struct rx_call *c,
		    struct rx_rec *rec, bool *eof);
/*
 * Nothing whole is left to take: stage if the window is full, and set the
 * low-water mark; for the program's poll(), or for readers who sleep here.
 */
int alg_tls_rx_settle(struct alg_tls_ctx *ctx);
/* Settle and sleep once. */
int alg_tls_rx_sleep(struct alg_tls_ctx *ctx, long *timeo);

#endif /* _ALG_TLS_RX_H */
