// SPDX-License-Identifier: GPL-2.0-only
/*
 * One record: reserve, seal, hand over
 *
 * Why it exists: the promise that a record leaves whole or not at all is kept
 * here; see tx.h for the steps and for who owns which pages.
 */
#include <linux/mm.h>
#include <linux/sched.h>

#include "tx.h"

#define ALG_TLS_ALIGN_MIN	8192	/* see alg_tls_out_align() */
#define ALG_TLS_SHORT_TRIES	64	/* of one tick, hand-over without SG */

/* An upper bound of the skbs that TCP will need for @size bytes. */
static unsigned int alg_tls_skbs(struct sock *sk, unsigned int size)
{
	struct tcp_sock *tp = tcp_sk(sk);
	int mss, goal;

	/* options may take room that mss_cache does not know of */
	mss = max_t(int, tp->mss_cache - MAX_TCP_OPTION_SPACE, 8);
	goal = mss;
	if (sk_can_gso(sk)) {
		goal = tcp_bound_to_half_wnd(tp, sk->sk_gso_max_size -
						 MAX_TCP_HEADER - 1);
		goal = min_t(int, goal, sk->sk_gso_max_segs * mss) - mss;
		goal = max(goal, mss);
	}
	return DIV_ROUND_UP(size, goal) + 2;
}

bool alg_tls_tx_charge(struct sock *sk, unsigned int size)
{
	unsigned int skb = SKB_TRUESIZE(roundup_pow_of_two(MAX_TCP_HEADER +
				SKB_DATA_ALIGN(sizeof(struct skb_shared_info))));

	return sk_wmem_schedule(sk, size + alg_tls_skbs(sk, size) * skb);
}

void alg_tls_out_free(struct alg_tls_out *out)
{
	while (out->n)
		put_page(out->bv[--out->n].bv_page);
	out->len = 0;
}

/*
 * Ciphers walk source and destination in pieces that end at the page borders of
 * either.  Where the borders coincide there are half as many, so a large record
 * begins where its text gets the same place in a page as the text has in the
 * source.  The gap costs up to a page; a small record would not be worth it.
 */
static void alg_tls_out_align(struct sock *sk, struct page_frag *pf,
			      const struct alg_tls_dir *d, unsigned int text)
{
	unsigned int gap = (text - tx_head(d) - pf->offset) & ~PAGE_MASK;

	/* the header must lie in one piece */
	if (pf->offset + gap + tx_head(d) <= pf->size) {
		pf->offset += gap;
		return;
	}
	pf->offset = pf->size;
	if (sk_page_frag_refill(sk, pf))
		pf->offset = (text - tx_head(d)) & ~PAGE_MASK;
}

/*
 * page_frag.offset moves at once: TCP, or a nested user of the task's frag,
 * must never get the same bytes.
 */
bool alg_tls_out_alloc(struct alg_tls_ctx *ctx, struct alg_tls_out *out,
		       unsigned int len, unsigned int text)
{
	unsigned int size = tx_wire_len(&ctx->txd, len);
	struct sock *sk = ctx->sk;
	struct page_frag *pf = sk_page_frag(sk);

	out->n = 0;
	out->len = 0;
	if (len >= ALG_TLS_ALIGN_MIN && sk_page_frag_refill(sk, pf))
		alg_tls_out_align(sk, pf, &ctx->txd, text);
	while (out->len < size) {
		struct bio_vec *bv = &out->bv[out->n];
		unsigned int n;

		if (out->n == ALG_TLS_OUT_PIECES)
			goto err_free;
		/* a piece takes at least the header */
		if ((!pf->page || pf->offset + tx_head(&ctx->txd) > pf->size) &&
		    !sk_page_frag_refill(sk, pf))
			goto err_free;
		n = min_t(unsigned int, size - out->len, pf->size - pf->offset);
		get_page(pf->page);
		bvec_set_page(bv, pf->page, n, pf->offset);
		pf->offset += n;
		out->len += n;
		out->n++;
	}
	return true;

err_free:
	alg_tls_out_free(out);
	return false;
}

/* The record became shorter than what was reserved for it. */
static void alg_tls_out_trim(struct alg_tls_out *out, unsigned int size)
{
	while (out->len - out->bv[out->n - 1].bv_len >= size) {
		out->len -= out->bv[--out->n].bv_len;
		put_page(out->bv[out->n].bv_page);
	}
	out->bv[out->n - 1].bv_len -= out->len - size;
	out->len = size;
}

void alg_tls_in_free(struct alg_tls_in *in)
{
	while (in->n) {
		struct page *page = in->page[--in->n];

		if (in->copy) {
			memzero_explicit(page_address(page), in->used[in->n]);
			__free_page(page);
		} else {
			put_page(page);
		}
	}
}

/* --------------------------------------------------------- hand over --- */

/* The stream has a hole: no byte may follow, and the peer must know. */
int alg_tls_tx_dead(struct alg_tls_ctx *ctx)
{
	alg_tls_stat_inc(ctx, ERRSHORT);
	ctx->tx.broken = true;
	ctx->txd.err = -EPIPE;
	return -EPIPE;
}

/*
 * TCP refuses for three reasons: send buffer, not-sent low-water mark, memory.
 * All were asked for before the record was sealed; now that it is, they must
 * not be asked again.
 */
static int alg_tls_hand_over(struct alg_tls_ctx *ctx, struct alg_tls_out *out,
			     int flags, bool push)
{
	struct sock *sk = ctx->sk;
	struct tcp_sock *tp = tcp_sk(sk);
	gfp_t gfp = sk->sk_allocation;
	u32 lowat = tp->notsent_lowat;
	int sndbuf = sk->sk_sndbuf;
	unsigned int done = 0, tries = 0, i = 0;
	int ret = 0;

	WRITE_ONCE(tp->notsent_lowat, UINT_MAX);
	/* without scatter/gather TCP copies into order-3 pages: not NOFAIL */
	if (alg_tls_planted("limit"))
		sndbuf = INT_MAX;
	if (sk->sk_route_caps & NETIF_F_SG && gfpflags_allow_blocking(gfp))
		sk->sk_allocation |= __GFP_NOFAIL;

	flags |= MSG_DONTWAIT | MSG_NOSIGNAL;
	while (i < out->n) {
		struct bio_vec bv = out->bv[i];
		bool last = i == out->n - 1;

		/* each time: under memory pressure TCP lowers it */
		WRITE_ONCE(sk->sk_sndbuf, INT_MAX);
		ret = alg_tls_tcp_piece(sk, &bv, flags | (last ? 0 : MSG_MORE),
					push && last);
		if (ret <= 0) {
			if (!done || ++tries > ALG_TLS_SHORT_TRIES)
				break;
			schedule_timeout_uninterruptible(1);
			continue;
		}
		done += ret;
		if (ret == bv.bv_len) {
			i++;
			continue;
		}
		out->bv[i].bv_offset += ret;
		out->bv[i].bv_len -= ret;
	}

	sk->sk_allocation = gfp;
	/* TCP_NOTSENT_LOWAT takes no lock in later kernels: keep what it set */
	cmpxchg(&tp->notsent_lowat, UINT_MAX, lowat);
	WRITE_ONCE(sk->sk_sndbuf, sndbuf);
	ctx->tx.write_seq = tp->write_seq;

	if (done == out->len)
		return 0;
	/* nothing left us: neither did the nonce */
	if (!done)
		return ret ? ret : -EAGAIN;
	/* a part of it is on the wire: its number is used */
	alg_tls_seq_next(&ctx->txd);
	return alg_tls_tx_dead(ctx);
}

int alg_tls_tx_record(struct alg_tls_ctx *ctx, u8 type, unsigned int n,
		      unsigned int len, struct alg_tls_out *out, int flags,
		      bool push)
{
	struct alg_tls_dir *d = &ctx->txd;
	struct alg_tls_tx *tx = &ctx->tx;
	unsigned int size = tx_wire_len(d, len);
	unsigned int head = tx_head(d);
	unsigned int i, k = 0, tail;
	u8 hdr[ALG_TLS_HDR];
	int err;
	u8 *p;

	/* trimming cannot enlarge; the caller reserves anew */
	if (WARN_ON_ONCE(out->len < size)) {
		alg_tls_out_free(out);
		return -ENOMEM;
	}
	alg_tls_out_trim(out, size);

	tail = tx_type_len(d);
	hdr[0] = tail ? ALG_TLS_T_DATA : type;
	put_unaligned_be16(TLS_1_2_VERSION, hdr + 1);
	put_unaligned_be16(size - ALG_TLS_HDR, hdr + 3);
	/* in one piece, see alg_tls_out_alloc() */
	p = page_address(out->bv[0].bv_page) + out->bv[0].bv_offset;
	memcpy(p, hdr, ALG_TLS_HDR);
	memcpy(p + ALG_TLS_HDR, d->nonce + ALG_TLS_NONCE - ALG_TLS_EXPLICIT,
	       alg_tls_explicit(d));

	if (tail) {
		tx->type = type;
		sg_set_buf(&tx->src[++n], &tx->type, 1);
	}
	sg_mark_end(&tx->src[n]);
	sg_init_table(tx->dst, out->n + 1);
	for (i = 0; i < out->n; i++) {
		struct bio_vec *bv = &out->bv[i];
		unsigned int skip = i ? 0 : head;

		/* the header alone: walks do not stand an empty entry */
		if (bv->bv_len > skip)
			sg_set_page(&tx->dst[++k], bv->bv_page,
				    bv->bv_len - skip, bv->bv_offset + skip);
	}
	sg_mark_end(&tx->dst[k]);

	err = alg_tls_seal(d, hdr, tx->src, tx->dst, len + tail);
	if (alg_tls_planted("lock")) {
		release_sock(ctx->sk);
		lock_sock(ctx->sk);
	}
	if (!err)
		err = alg_tls_hand_over(ctx, out, flags, push);
	alg_tls_out_free(out);
	/* an open record is kept, and pages may follow where the list ended */
	sg_unmark_end(&tx->src[n]);
	if (err)
		return err;

	alg_tls_seq_next(d);
	tx->more = !push || flags & MSG_MORE;
	alg_tls_stat_inc(ctx, TXRECORDS);
	alg_tls_stat_add(ctx, TXBYTES, len);
	if (type != ALG_TLS_T_DATA)
		alg_tls_stat_inc(ctx, TXCONTROL);
	return 0;
}
