// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive: one record - find it, open it, consume it
 *
 * Why it exists: a record is opened where it lies, in the skbs of TCP's
 * receive queue, and is consumed only after its tag was good and its type
 * suited the reader.  Until then nothing has happened that userspace could
 * not undo: the wire bytes are all still there.
 *
 *	source		[AAD][staged pages]*[skb fragments]+
 *			or, bounced, [AAD][stage pages]+
 *	destination	[AAD][reader's pages, pinned]+[tail]
 *			or [AAD][rest pages]+
 *
 * We own neither the skbs (TCP does; the lock keeps them in place) nor the
 * reader's pages (pinned from rx_dst_pin() to rx_unpin(), within one call).
 *
 * When is a record bounced, i.e. copied without being consumed?  If it lies in
 * more pieces than rx->src has room for, or if a fragment is a page that
 * somebody else may still write (sendfile or vmsplice on this machine): some
 * AEADs read their source twice, first for the tag and then for the text.
 * That is no complete shield: merging by GRO may lose the mark of such pages.
 * What is left to gain needs write access to the pages that the *sender* sent.
 */

#include <linux/mm.h>
#include <linux/skbuff.h>
#include <linux/uio.h>

#include "rx.h"

/* Below this a copy is cheaper than pinning the reader's page. */
#define RX_DIRECT_MIN	512

static int rx_parse(const struct alg_tls_dir *d, struct rx_rec *rec)
{
	unsigned int body = rec->hdr[3] << 8 | rec->hdr[4];
	unsigned int explicit = alg_tls_explicit(d);
	bool tls13 = d->version == TLS_1_3_VERSION;

	/* TLS 1.3 writes 3.3 as well (RFC 8446 §5.1) */
	if (rec->hdr[1] != 3 || rec->hdr[2] != 3)
		return -EPROTO;
	if (tls13 ? rec->hdr[0] != ALG_TLS_T_DATA :
		    rec->hdr[0] < ALG_TLS_T_CCS || rec->hdr[0] > 24)
		return -EPROTO;
	if (body < explicit + ALG_TLS_TAG + tls13 ||
	    body > explicit + ALG_TLS_TAG + tls13 + ALG_TLS_PLAIN_MAX +
		   alg_tls_planted("length"))
		return -EMSGSIZE;

	rec->len = ALG_TLS_HDR + body;
	rec->head = ALG_TLS_HDR + explicit;
	rec->text = body - explicit;
	rec->plain = rec->text - ALG_TLS_TAG;
	rec->payload = rec->plain - tls13;
	return 0;
}

int alg_tls_rx_look(struct alg_tls_ctx *ctx, struct rx_rec *rec)
{
	int err;

	do {
		unsigned int have = ctx->rx.staged_len + rx_avail(ctx->sk);

		rec->len = 0;
		if (have >= ALG_TLS_HDR) {
			err = alg_tls_rx_peek(ctx, 0, rec->hdr, ALG_TLS_HDR);
			if (err)
				return err;
			err = rx_parse(&ctx->rxd, rec);
			if (err)
				return err;
			/* staged is never a whole record: all later sums rest on it */
			if (unlikely(rec->len <= ctx->rx.staged_len))
				return -EPROTO;
			if (have >= rec->len)
				return 1;
		}
		/* is there more behind an urgent byte? */
		err = alg_tls_rx_urgent(ctx, rec);
	} while (unlikely(err > 0));
	return err;
}

/* ------------------------------------------------------------ source --- */

struct rx_src {
	struct scatterlist *sg;
	unsigned int n;
};

static int rx_src_page(struct rx_src *s, struct page *page, unsigned int off,
		       unsigned int len)
{
	if (s->n == ALG_TLS_RX_SRC)
		return -E2BIG;
	sg_set_page(&s->sg[s->n++], page, len, off);
	return 0;
}

/* The linear part and the page fragments of one skb, no fragment list. */
static int rx_src_flat(struct rx_src *s, const struct sk_buff *skb,
		       unsigned int off, unsigned int len)
{
	unsigned int i, size = skb_headlen(skb);
	int err;

	if (off < size) {
		unsigned int part = min(size - off, len);

		err = rx_src_page(s, virt_to_page(skb->data + off),
				  offset_in_page(skb->data + off), part);
		if (err)
			return err;
		len -= part;
		off = 0;
	} else {
		off -= size;
	}

	for (i = 0; len && i < skb_shinfo(skb)->nr_frags; i++) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];
		unsigned int part;

		size = skb_frag_size(frag);
		if (off >= size) {
			off -= size;
			continue;
		}
		part = min(size - off, len);
		err = rx_src_page(s, skb_frag_page(frag),
				  skb_frag_off(frag) + off, part);
		if (err)
			return err;
		len -= part;
		off = 0;
	}
	return len ? -E2BIG : 0;
}

static int rx_src_skb(struct rx_src *s, const struct sk_buff *skb,
		      unsigned int off, unsigned int len)
{
	unsigned int flat = skb->len;
	const struct sk_buff *it;
	int err;

	if (skb_has_shared_frag(skb) || !alg_tls_skb_readable(skb))
		return -E2BIG;

	skb_walk_frags(skb, it)
		flat -= it->len;
	if (off < flat) {
		unsigned int part = min(flat - off, len);

		err = rx_src_flat(s, skb, off, part);
		if (err)
			return err;
		len -= part;
		off = 0;
	} else {
		off -= flat;
	}

	/* GRO puts what it cannot merge into a list of depth one */
	skb_walk_frags(skb, it) {
		unsigned int part;

		if (!len)
			break;
		if (off >= it->len) {
			off -= it->len;
			continue;
		}
		if (skb_has_frag_list(it) || skb_has_shared_frag(it))
			return -E2BIG;
		part = min(it->len - off, len);
		err = rx_src_flat(s, it, off, part);
		if (err)
			return err;
		len -= part;
		off = 0;
	}
	return len ? -E2BIG : 0;
}

/* The queue's part of the text, fragment by fragment; -E2BIG: bounce it. */
static int rx_src_queue(struct alg_tls_ctx *ctx, struct rx_src *s, u32 seq,
			unsigned int len)
{
	struct sk_buff *skb = NULL;

	while (len) {
		unsigned int part;
		u32 off;
		int err;

		skb = alg_tls_rx_skb(ctx->sk, skb, seq, &off);
		if (WARN_ON_ONCE(!skb))
			return -EFAULT;
		part = min(skb->len - off, len);
		err = rx_src_skb(s, skb, off, part);
		if (err)
			return err;
		seq += part;
		len -= part;
	}
	return 0;
}

static int rx_src_bounce(struct alg_tls_ctx *ctx, const struct rx_rec *rec)
{
	struct alg_tls_rx *rx = &ctx->rx;
	int err;

	err = alg_tls_buf_grow(&rx->stage, rec->len, ctx->sk->sk_allocation);
	if (err)
		return err;
	return alg_tls_rx_copy(ctx, &rx->stage, rx->staged_len,
			       tcp_sk(ctx->sk)->copied_seq,
			       rec->len - rx->staged_len);
}

static int rx_src_make(struct alg_tls_ctx *ctx, const struct rx_rec *rec)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct rx_src s = { .sg = rx->src, .n = 1 };
	unsigned int from = rec->head;
	int err;

	sg_init_table(rx->src, ALG_TLS_RX_SRC);
	if (rx->staged_len > from) {
		s.n += alg_tls_buf_sg(&rx->stage, from, rx->staged_len - from,
				      &rx->src[s.n]);
		from = rx->staged_len;
	}
	err = rx_src_queue(ctx, &s, tcp_sk(ctx->sk)->copied_seq +
			   (from - rx->staged_len), rec->len - from);
	if (err == -E2BIG) {
		err = rx_src_bounce(ctx, rec);
		if (err)
			return err;
		sg_init_table(rx->src, ALG_TLS_RX_SRC);
		s.n = 1 + alg_tls_buf_sg(&rx->stage, rec->head, rec->text,
					 &rx->src[1]);
	}
	if (err)
		return err;
	sg_mark_end(&rx->src[s.n - 1]);
	return 0;
}

/* ------------------------------------------------------- destination --- */

static void rx_unpin(struct alg_tls_rx *rx)
{
	if (alg_tls_planted("pin"))
		rx->pinned = 0;
	if (rx->pinned)
		unpin_user_pages_dirty_lock(rx->pin, rx->pinned, true);
	rx->pinned = 0;
}

/* The reader's own pages; an error means "not directly", and is harmless. */
static int rx_dst_pin(struct alg_tls_ctx *ctx, const struct rx_rec *rec,
		      const struct iov_iter *to)
{
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int left = rec->payload;
	struct iov_iter it = *to;
	unsigned int n = 1;

	sg_init_table(rx->dst, ARRAY_SIZE(rx->dst));
	while (left) {
		unsigned int i = rx->pinned;
		ssize_t got;
		size_t off;

		got = alg_tls_iter_pin(&it, &rx->pin[i], left,
				       ALG_TLS_RX_PIN - i, &off);
		if (got <= 0) {
			rx_unpin(rx);
			return -EFAULT;
		}
		left -= got;
		for (; got; off = 0) {
			unsigned int part = min_t(size_t, got, PAGE_SIZE - off);

			sg_set_page(&rx->dst[n++], rx->pin[i++], part, off);
			got -= part;
		}
		rx->pinned = i;
	}
	if (rec->plain != rec->payload)
		sg_set_buf(&rx->dst[n++], &rx->tail, 1);
	sg_mark_end(&rx->dst[n - 1]);
	return 0;
}

static int rx_dst_rest(struct alg_tls_ctx *ctx, const struct rx_rec *rec)
{
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int n;
	int err;

	err = alg_tls_buf_grow(&rx->rest, rec->plain, ctx->sk->sk_allocation);
	if (err)
		return err;
	rx->rest_size = rec->plain;
	sg_init_table(rx->dst, ARRAY_SIZE(rx->dst));
	n = 1 + alg_tls_buf_sg(&rx->rest, 0, rec->plain, &rx->dst[1]);
	sg_mark_end(&rx->dst[n - 1]);
	return 0;
}

/* Read opened bytes back, from wherever they were put. */
static void rx_dst_get(struct alg_tls_rx *rx, unsigned int off, u8 *to,
		       unsigned int len)
{
	sg_pcopy_to_buffer(rx->dst, sg_nents(rx->dst), to, len,
			   rx->dst[0].length + off);
}

/* TLS 1.3: padding is zeros after the type byte; returns 0 if all is zero. */
static u8 rx_strip(struct alg_tls_rx *rx, unsigned int *len)
{
	u8 chunk[64];

	/* without padding it is the very last byte, and easily found */
	chunk[0] = rx->tail;
	if (!rx->pinned)
		alg_tls_buf_get(&rx->rest, *len - 1, chunk, 1);
	if (likely(chunk[0])) {
		--*len;
		return chunk[0];
	}

	while (*len) {
		unsigned int n = min_t(unsigned int, *len, sizeof(chunk));
		unsigned int i = n;
		u8 type = 0;

		rx_dst_get(rx, *len - n, chunk, n);
		while (i && !type)
			type = chunk[--i];
		*len -= n - i;
		memzero_explicit(chunk, sizeof(chunk));
		if (type)
			return type;
	}
	return 0;
}

/* ------------------------------------------------------ control types --- */

/* A message may have ended here: its header is still there. */
static void rx_hs_look(struct alg_tls_rx *rx)
{
	if (!rx->hs_skip && rx->hs_hdr[0] == ALG_TLS_HS_KEY_UPDATE)
		WRITE_ONCE(rx->need_key, true);
}

/*
 * Follow the handshake messages of taken records, for the one whose end
 * changes the key (RFC 8446 §7.2: all records after it use the next one).
 * Messages may share a record or span several, so headers are followed, not
 * record borders.
 */
static void rx_follow_handshake(struct alg_tls_rx *rx, unsigned int len)
{
	unsigned int pos = 0;

	if (alg_tls_planted("split"))
		rx->hs_have = 0;
	while (pos < len) {
		unsigned int n;

		if (rx->hs_skip) {
			n = min(rx->hs_skip, len - pos);
			rx->hs_skip -= n;
			pos += n;
			rx_hs_look(rx);
			continue;
		}
		n = min_t(unsigned int, sizeof(rx->hs_hdr) - rx->hs_have,
			  len - pos);
		rx_dst_get(rx, pos, rx->hs_hdr + rx->hs_have, n);
		rx->hs_have += n;
		pos += n;
		if (rx->hs_have < sizeof(rx->hs_hdr))
			break;
		rx->hs_have = 0;
		rx->hs_skip = rx->hs_hdr[1] << 16 | rx->hs_hdr[2] << 8 |
			      rx->hs_hdr[3];
		rx_hs_look(rx);
	}
}

/* A record was taken for good; @len bytes of it are described by rx->dst. */
static void rx_took(struct alg_tls_ctx *ctx, u8 type, unsigned int len)
{
	bool tls13 = ctx->rxd.version == TLS_1_3_VERSION;
	struct alg_tls_rx *rx = &ctx->rx;
	u8 alert[2];

	alg_tls_stat_inc(ctx, RXRECORDS);
	alg_tls_stat_add(ctx, RXBYTES, len);
	WRITE_ONCE(rx->parked, 0);
	if (likely(type == ALG_TLS_T_DATA))
		return;

	alg_tls_stat_inc(ctx, RXCONTROL);
	if (type == ALG_TLS_T_HANDSHAKE && tls13) {
		rx_follow_handshake(rx, len);
	} else if (type == ALG_TLS_T_CCS && !tls13) {
		/* TLS 1.2: the next record is under the renegotiated key */
		WRITE_ONCE(rx->need_key, true);
	} else if (type == ALG_TLS_T_ALERT && len == sizeof(alert)) {
		rx_dst_get(rx, 0, alert, sizeof(alert));
		if (alert[1] == 0 && !alg_tls_planted("close"))	/* close_notify */
			WRITE_ONCE(rx->eof, true);
	}
}

int alg_tls_rx_put_type(struct msghdr *msg, u8 type)
{
	if (put_cmsg(msg, SOL_TLS, TLS_GET_RECORD_TYPE, sizeof(type), &type))
		return -EFAULT;
	if (msg->msg_flags & MSG_CTRUNC && type != ALG_TLS_T_DATA)
		return -EIO;
	return 0;
}

/* Open into @to, or into rest if that is NULL or not to be had. */
static int rx_open(struct alg_tls_ctx *ctx, const struct rx_rec *rec,
		   const struct iov_iter *to)
{
	struct alg_tls_dir *d = &ctx->rxd;
	u8 nonce[ALG_TLS_EXPLICIT];
	int err;

	if (!alg_tls_seq_ok(d))
		return alg_tls_count_err(ctx, -EOVERFLOW);
	if (rec->head > ALG_TLS_HDR) {
		err = alg_tls_rx_peek(ctx, ALG_TLS_HDR, nonce, sizeof(nonce));
		if (err)
			return err;
	}
	err = rx_src_make(ctx, rec);
	if (err)
		return err;
	if (!to || rx_dst_pin(ctx, rec, to)) {
		err = rx_dst_rest(ctx, rec);
		if (err)
			return err;
	}
	err = alg_tls_open(d, rec->hdr, rec->head > ALG_TLS_HDR ? nonce : NULL,
			   ctx->rx.src, ctx->rx.dst, rec->text);
	if (err == -EBADMSG)
		return alg_tls_fail(ctx, d, err);
	return err;
}

int alg_tls_rx_take(struct alg_tls_ctx *ctx, struct rx_call *c,
		    const struct rx_rec *rec)
{
	struct iov_iter *to = c->msg ? &c->msg->msg_iter : NULL;
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int len = rec->plain;
	bool peek = c->flags & MSG_PEEK;
	u8 type = rec->hdr[0];
	bool direct;
	int err;

	direct = to && !peek && rec->payload >= RX_DIRECT_MIN &&
		 user_backed_iter(to) && iov_iter_count(to) >= rec->payload;
	err = rx_open(ctx, rec, direct ? to : NULL);
	if (err)
		goto err_drop;
	direct = rx->pinned;

	if (ctx->rxd.version == TLS_1_3_VERSION) {
		type = rx_strip(rx, &len);
		if (!type) {
			err = alg_tls_fail(ctx, &ctx->rxd, -EPROTO);
			goto err_drop;
		}
	}
	/* nothing is consumed yet: these two leave the record on the wire */
	if (type != ALG_TLS_T_DATA && !c->ctrl && !alg_tls_planted("type")) {
		WRITE_ONCE(rx->parked, type);
		err = c->copied ? -EIO : alg_tls_count_err(ctx, -EIO);
		goto err_drop;
	}
	if (c->ctrl && (len || type != ALG_TLS_T_DATA)) {
		err = alg_tls_rx_put_type(c->msg, type);
		if (err == -EIO) {
			WRITE_ONCE(rx->parked, type);
			alg_tls_count_err(ctx, err);
		}
		if (err)
			goto err_drop;
		c->done = true;
	}
	if (peek && type != ALG_TLS_T_DATA) {
		len = min_t(size_t, len, iov_iter_count(to));
		c->copied = alg_tls_buf_to_iter(&rx->rest, 0, len, to);
		err = len && !c->copied ? -EFAULT : 0;
		goto err_drop;
	}

	alg_tls_rx_consume(ctx, rec->len);
	alg_tls_seq_next(&ctx->rxd);
	rx_took(ctx, type, len);
	c->since += rec->len;
	if (direct) {
		rx_unpin(rx);
		iov_iter_advance(to, len);
		c->copied += len;
		return 0;
	}
	rx->rest_off = 0;
	rx->rest_type = type;
	WRITE_ONCE(rx->rest_len, len);
	if (!len)
		alg_tls_rx_drop_rest(ctx);
	return 0;

err_drop:
	rx_unpin(rx);
	alg_tls_rx_drop_rest(ctx);
	if (rx->stage.page[0] && !rx->staged_len)
		alg_tls_buf_free(&rx->stage, 0);
	return err;
}
