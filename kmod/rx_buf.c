// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive: memory - page buffers, staged wire bytes, the unread rest
 *
 * Why it exists: ciphertext belongs to TCP until a record was opened, and
 * plaintext belongs to the reader at once - nearly always.  The exceptions,
 * and who owns what then:
 *
 *	rx->stage[0, staged_len)	wire bytes that TCP no longer has,
 *		because its window was full before the record was whole.  They
 *		are still wire bytes: given back by detach, never a whole
 *		record.  Ours until consumed or given back.
 *	rx->stage[staged_len, ...)	scratch: a copy of bytes that TCP still
 *		has, for a record in too many pieces or in pages that others
 *		may write to.  Valid within one call.
 *	rx->rest[rest_off, +rest_len)	plaintext that the reader had no room
 *		for.  Pages may be shared with a pipe; those are never written
 *		again, not even to wipe them.
 */

#include <linux/mm.h>
#include <linux/skbuff.h>
#include <linux/uio.h>

#include "rx.h"

int alg_tls_buf_grow(struct alg_tls_buf *b, unsigned int size, gfp_t gfp)
{
	unsigned int i, n = DIV_ROUND_UP(size, PAGE_SIZE);

	if (WARN_ON_ONCE(n > ALG_TLS_RX_PAGES))
		return -EMSGSIZE;
	for (i = 0; i < n; i++) {
		if (b->page[i])
			continue;
		/* accounted: a peer decides how long we keep it */
		b->page[i] = alloc_page(gfp | __GFP_ACCOUNT);
		if (!b->page[i])
			return -ENOMEM;
	}
	return 0;
}

void alg_tls_buf_free(struct alg_tls_buf *b, unsigned int wipe)
{
	unsigned int i;

	for (i = 0; i < ALG_TLS_RX_PAGES; i++) {
		unsigned int part = min_t(unsigned int, wipe, PAGE_SIZE);
		struct page *page = b->page[i];

		wipe -= part;
		if (!page)
			continue;
		if (part && page_count(page) == 1)
			memzero_explicit(page_address(page), part);
		if (!alg_tls_planted("page"))
			put_page(page);
		b->page[i] = NULL;
	}
}

unsigned int alg_tls_buf_sg(const struct alg_tls_buf *b, unsigned int off,
			    unsigned int len, struct scatterlist *sg)
{
	unsigned int n = 0;

	while (len) {
		unsigned int at = offset_in_page(off);
		unsigned int part = min_t(unsigned int, len, PAGE_SIZE - at);

		sg_set_page(&sg[n++], b->page[off / PAGE_SIZE], part, at);
		off += part;
		len -= part;
	}
	return n;
}

void alg_tls_buf_get(const struct alg_tls_buf *b, unsigned int off, u8 *dst,
		     unsigned int len)
{
	while (len) {
		unsigned int at = offset_in_page(off);
		unsigned int part = min_t(unsigned int, len, PAGE_SIZE - at);

		memcpy(dst, page_address(b->page[off / PAGE_SIZE]) + at, part);
		dst += part;
		off += part;
		len -= part;
	}
}

int alg_tls_buf_from_skb(struct alg_tls_buf *b, unsigned int off,
			 const struct sk_buff *skb, unsigned int skb_off,
			 unsigned int len)
{
	while (len) {
		unsigned int at = offset_in_page(off);
		unsigned int part = min_t(unsigned int, len, PAGE_SIZE - at);
		u8 *to = page_address(b->page[off / PAGE_SIZE]);

		if (skb_copy_bits(skb, skb_off, to + at, part))
			return -EFAULT;
		skb_off += part;
		off += part;
		len -= part;
	}
	return 0;
}

unsigned int alg_tls_buf_to_iter(const struct alg_tls_buf *b, unsigned int off,
				 unsigned int len, struct iov_iter *to)
{
	unsigned int done = 0;

	while (done < len) {
		unsigned int at = offset_in_page(off + done);
		unsigned int part = min_t(unsigned int, len - done,
					  PAGE_SIZE - at);
		struct page *page = b->page[(off + done) / PAGE_SIZE];
		unsigned int n = copy_page_to_iter(page, at, part, to);

		done += n;
		if (n < part)
			break;
	}
	return done;
}

/*
 * The queue may hold an skb that begins before the end of the one in front of
 * it (a retransmission that overlapped), so every position is found by number.
 */
struct sk_buff *alg_tls_rx_skb(struct sock *sk, struct sk_buff *prev, u32 seq,
			       u32 *off)
{
	struct sk_buff_head *queue = &sk->sk_receive_queue;
	struct sk_buff *skb;

	skb = prev ? skb_peek_next(prev, queue) : skb_peek(queue);
	for (; skb; skb = skb_peek_next(skb, queue)) {
		u32 at = seq - TCP_SKB_CB(skb)->seq;

		if (unlikely(TCP_SKB_CB(skb)->tcp_flags & TCPHDR_SYN))
			at--;
		if (at < skb->len) {
			*off = at;
			return skb;
		}
	}
	return NULL;
}

int alg_tls_rx_copy(struct alg_tls_ctx *ctx, struct alg_tls_buf *b,
		    unsigned int off, u32 seq, unsigned int len)
{
	struct sk_buff *skb = NULL;

	while (len) {
		unsigned int part;
		u32 at;

		skb = alg_tls_rx_skb(ctx->sk, skb, seq, &at);
		if (WARN_ON_ONCE(!skb))
			return -EFAULT;
		part = min(skb->len - at, len);
		if (alg_tls_buf_from_skb(b, off, skb, at, part))
			return -EFAULT;
		seq += part;
		off += part;
		len -= part;
	}
	return 0;
}

int alg_tls_rx_peek(struct alg_tls_ctx *ctx, unsigned int off, u8 *dst,
		    unsigned int len)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct sk_buff *skb = NULL;
	u32 seq;

	if (off < rx->staged_len) {
		unsigned int part = min(rx->staged_len - off, len);

		alg_tls_buf_get(&rx->stage, off, dst, part);
		dst += part;
		off += part;
		len -= part;
	}
	seq = tcp_sk(ctx->sk)->copied_seq + (off - rx->staged_len);
	while (len) {
		unsigned int part;
		u32 at;

		skb = alg_tls_rx_skb(ctx->sk, skb, seq, &at);
		if (WARN_ON_ONCE(!skb))
			return -EFAULT;
		part = min(skb->len - at, len);
		if (skb_copy_bits(skb, at, dst, part))
			return -EFAULT;
		dst += part;
		seq += part;
		len -= part;
	}
	return 0;
}

/* As tcp_recvmsg() has it: an urgent mark that was passed is no more. */
static void rx_done(struct alg_tls_ctx *ctx, unsigned int len)
{
	struct tcp_sock *tp = tcp_sk(ctx->sk);

	tcp_read_done(ctx->sk, len);
	ctx->rx.copied_seq = tp->copied_seq;
	if (unlikely(tp->urg_data) && after(tp->copied_seq, tp->urg_seq)) {
		WRITE_ONCE(tp->urg_data, 0);
		tcp_fast_path_check(ctx->sk);
	}
}

int alg_tls_rx_stage(struct alg_tls_ctx *ctx, const struct rx_rec *rec)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct sock *sk = ctx->sk;
	unsigned int n = rx_avail(sk);
	int err;

	if (!n)
		return 0;
	if (WARN_ON_ONCE(rx->staged_len + n > ALG_TLS_RX_WIRE))
		return -EMSGSIZE;
	err = alg_tls_buf_grow(&rx->stage, rx->staged_len + n,
			       sk->sk_allocation);
	if (err)
		return err;
	err = alg_tls_rx_copy(ctx, &rx->stage, rx->staged_len,
			      tcp_sk(sk)->copied_seq, n);
	if (err)
		return err;
	/*
	 * The pages may be the sender's own (sendfile, vmsplice on this
	 * machine), and he may have written to them since: what was judged
	 * is what is staged.
	 */
	if (rec->len)
		memcpy(page_address(rx->stage.page[0]), rec->hdr, ALG_TLS_HDR);
	rx_done(ctx, n);
	rx->staged_len += n - alg_tls_planted("staged");
	alg_tls_stat_add(ctx, RXSTAGED, n);
	return 0;
}

int alg_tls_rx_urgent(struct alg_tls_ctx *ctx, const struct rx_rec *rec)
{
	struct sock *sk = ctx->sk;
	struct tcp_sock *tp = tcp_sk(sk);
	u32 off;
	int err;

	if (likely(!tp->urg_data) || sock_flag(sk, SOCK_URGINLINE) ||
	    alg_tls_planted("urgent"))
		return 0;
	/* passed in some other way; still to come, or set on a FIN */
	if (before(tp->urg_seq, tp->copied_seq) ||
	    !alg_tls_rx_skb(sk, NULL, tp->urg_seq, &off))
		return 0;
	err = alg_tls_rx_stage(ctx, rec);
	if (err)
		return err;
	rx_done(ctx, 1);
	alg_tls_stat_inc(ctx, RXURGENT);
	return 1;
}

bool alg_tls_rx_in_step(struct alg_tls_ctx *ctx)
{
	const struct tcp_sock *tp = tcp_sk(ctx->sk);
	struct alg_tls_rx *rx = &ctx->rx;

	if (likely(rx->copied_seq == tp->copied_seq))
		return true;
	if (!tp->urg_data || sock_flag(ctx->sk, SOCK_URGINLINE) ||
	    before(tp->urg_seq, tp->copied_seq) ||
	    before(tp->copied_seq, rx->copied_seq))
		return false;
	rx->copied_seq = tp->copied_seq;
	return true;
}

void alg_tls_rx_consume(struct alg_tls_ctx *ctx, unsigned int len)
{
	struct alg_tls_rx *rx = &ctx->rx;

	rx_done(ctx, len - rx->staged_len);
	rx->staged_len = 0;
	if (rx->stage.page[0])
		alg_tls_buf_free(&rx->stage, 0);
}

int alg_tls_rx_give_rest(struct alg_tls_ctx *ctx, struct iov_iter *to,
			 bool peek)
{
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int want, n;

	want = min_t(size_t, rx->rest_len, iov_iter_count(to));
	n = alg_tls_buf_to_iter(&rx->rest, rx->rest_off, want, to);
	if (want && !n && alg_tls_planted("fault"))
		alg_tls_rx_drop_rest(ctx);
	if (want && !n)
		return -EFAULT;
	if (peek && !alg_tls_planted("peek"))
		return n;
	rx->rest_off += n;
	WRITE_ONCE(rx->rest_len, rx->rest_len - n);
	if (!rx->rest_len)
		alg_tls_rx_drop_rest(ctx);
	return n;
}

void alg_tls_rx_drop_rest(struct alg_tls_ctx *ctx)
{
	struct alg_tls_rx *rx = &ctx->rx;

	WRITE_ONCE(rx->rest_len, 0);
	rx->rest_off = 0;
	alg_tls_buf_free(&rx->rest, rx->rest_size);
	rx->rest_size = 0;
}

void alg_tls_rx_drop_pages(struct alg_tls_rx *rx)
{
	alg_tls_buf_free(&rx->rest, rx->rest_size);
	alg_tls_buf_free(&rx->stage, 0);
}
