// SPDX-License-Identifier: GPL-2.0-only
/*
 * The open record: sendfile(2) and splice(2) into the op
 *
 * Why it exists: before 6.5 splice comes one page per call.  Pages are
 * referenced until the record is full or splice says that no page follows at
 * once (MSG_SENDPAGE_NOTLAST is absent); so it lives no longer than one pipe of
 * a sendfile.  Its output pages are reserved before the first page is accepted,
 * since a byte that was reported as sent must be sent.  Any other call on the
 * op, detach, re-key and release seal what an interrupted splice left behind.
 *
 * Memory: src[1..open_n] hold one reference per page (for CCM: private copies),
 * tx.out the output pages; alg_tls_tx_drop() releases both.
 */
#include <linux/highmem.h>
#include <linux/mm.h>

#include "tx.h"

void alg_tls_tx_drop(struct alg_tls_ctx *ctx)
{
	struct alg_tls_tx *tx = &ctx->tx;
	bool copy = tx->open_n && ctx->txd.cipher->ccm;

	while (tx->open_n) {
		struct page *page = sg_page(&tx->src[tx->open_n--]);

		if (copy)
			clear_page(page_address(page));
		put_page(page);
	}
	tx->open_len = 0;
	alg_tls_out_free(&tx->out);
}

static int alg_tls_open_seal(struct alg_tls_ctx *ctx, int flags, bool push)
{
	struct alg_tls_tx *tx = &ctx->tx;
	unsigned int len = tx->open_len;
	int err;

	if (!alg_tls_tx_charge(ctx->sk, tx_wire_len(&ctx->txd, len)))
		return -ENOBUFS;
	/* reserved for what seemed to be the last page, but more came */
	if (tx->out.len < tx_wire_len(&ctx->txd, len))
		alg_tls_out_free(&tx->out);
	/* a failed attempt took the output pages with it */
	if (!tx->out.n && !alg_tls_out_alloc(ctx, &tx->out, len,
					     tx->src[1].offset))
		return -ENOBUFS;
	err = alg_tls_tx_record(ctx, ALG_TLS_T_DATA, tx->open_n, len, &tx->out,
				flags, push);
	if (err == -ENOMEM || err == -EAGAIN)
		return -ENOBUFS;
	alg_tls_tx_drop(ctx);
	/* these bytes were accepted */
	return err && err != -EPIPE ? alg_tls_tx_dead(ctx) : err;
}

int alg_tls_tx_flush(struct alg_tls_ctx *ctx)
{
	int err;

	if (!ctx->tx.open_n)
		return 0;
	err = alg_tls_tx_check(ctx);
	if (err)
		return err;
	err = alg_tls_open_seal(ctx, 0, true);
	return err == -ENOBUFS ? -EAGAIN : err;
}

/* Same, for a caller that can wait. */
int alg_tls_tx_flush_wait(struct alg_tls_ctx *ctx, long *timeo)
{
	int err;

	for (;;) {
		err = alg_tls_tx_flush(ctx);
		if (err != -EAGAIN)
			return err;
		err = alg_tls_tx_wait_memory(ctx, timeo);
		if (err)
			return err;
	}
}

#if ALG_TLS_SENDPAGE
/* Append up to @size bytes of @page; the count, or 0 if the record is full. */
static int alg_tls_open_add(struct alg_tls_ctx *ctx, struct page *page,
			    unsigned int offset, unsigned int size)
{
	struct alg_tls_tx *tx = &ctx->tx;
	struct scatterlist *sg = &tx->src[tx->open_n];
	unsigned int n = min(size, tx->max - tx->open_len);
	struct page *copy;

	if (ctx->txd.cipher->ccm) {
		if (tx->open_n == ALG_TLS_SRC)
			return 0;
		copy = alloc_page(ctx->sk->sk_allocation);
		if (!copy)
			return -ENOBUFS;
		/* of a compound page perhaps, but the copy is a single one */
		page += offset >> PAGE_SHIFT;
		offset = offset_in_page(offset);
		n = min_t(unsigned int, n, PAGE_SIZE - offset);
		memcpy_from_page(page_address(copy), page, offset, n);
		sg_set_page(++sg, copy, n, 0);
		tx->open_n++;
	} else if (tx->open_n && sg_page(sg) == page &&
		   sg->offset + sg->length == offset) {
		sg->length += n;
	} else {
		if (tx->open_n == ALG_TLS_SRC)
			return 0;
		get_page(page);
		sg_set_page(++sg, page, n, offset);
		tx->open_n++;
	}
	tx->open_len += n;
	return n;
}

/* Take back the @n bytes that were appended last, by one alg_tls_open_add(). */
static void alg_tls_open_undo(struct alg_tls_ctx *ctx, unsigned int n)
{
	struct alg_tls_tx *tx = &ctx->tx;
	struct scatterlist *sg = &tx->src[tx->open_n];

	tx->open_len -= n;
	sg->length -= n;
	if (sg->length)
		return;
	if (ctx->txd.cipher->ccm)
		clear_page(page_address(sg_page(sg)));
	put_page(sg_page(sg));
	tx->open_n--;
	if (!tx->open_n)
		alg_tls_tx_drop(ctx);
}

/*
 * One page of a splice.  A page is taken only if the record that it completes
 * could be sealed, so a count that was returned is a promise that was kept or
 * can be kept.
 */
static int alg_tls_page(struct alg_tls_ctx *ctx, struct page *page,
			unsigned int offset, unsigned int size, bool last,
			int flags, long *timeo)
{
	struct alg_tls_tx *tx = &ctx->tx;
	size_t held = 0;
	int n, err;

	if (!tx->open_n) {
		unsigned int len;

		err = alg_tls_tx_ready(ctx, timeo);
		if (err)
			return err;
		/* it may have slept, and tx->max may have been changed */
		len = last ? min(size, tx->max) : tx->max;
		sg_init_table(tx->src, ARRAY_SIZE(tx->src));
		if (!alg_tls_out_alloc(ctx, &tx->out, len, offset))
			return -ENOBUFS;
	} else {
		err = alg_tls_tx_check(ctx);
		if (err)
			return err;
	}

	n = alg_tls_open_add(ctx, page, offset, size);
	if (n < 0) {
		if (!tx->open_n)
			alg_tls_tx_drop(ctx);
		return n;
	}
	if (n && tx->open_len < tx->max && !(last && n == size))
		return n;
	last = last && n == size;
	err = alg_tls_open_seal(ctx, last ? flags : MSG_MORE, last ||
				alg_tls_tx_push_now(ctx, tx->open_len, &held));
	if (err == -ENOBUFS && n)
		alg_tls_open_undo(ctx, n);
	return err ? err : n;
}

ssize_t alg_tls_sendpage(struct socket *sock, struct page *page, int offset,
			 size_t size, int flags)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	size_t done = 0;
	long timeo;
	bool last;
	int ret;

	if (flags & ~(MSG_DONTWAIT | MSG_MORE | MSG_NOSIGNAL |
		      MSG_SENDPAGE_NOTLAST))
		return -EOPNOTSUPP;
	ret = alg_tls_lock(ctx, &ctx->txd);
	if (ret)
		return alg_tls_tx_error(ctx, flags, ret);
	timeo = sock_sndtimeo(ctx->sk, alg_tls_nonblock(ctx, flags));
	last = !(flags & MSG_SENDPAGE_NOTLAST);

	while (done < size) {
		ret = alg_tls_page(ctx, page, offset + done, size - done, last,
				   flags & MSG_MORE, &timeo);
		if (ret >= 0) {
			done += ret;
			continue;
		}
		if (ret == -ENOBUFS)
			ret = alg_tls_tx_wait_memory(ctx, &timeo);
		if (ret)
			break;
	}
	if (ret < 0 && !done)
		ret = alg_tls_tx_error(ctx, flags, ret);
	alg_tls_stat_add(ctx, SENDFILEBYTES, done);
	alg_tls_tx_unlock(ctx, ret < 0);
	return done ? done : ret;
}
#endif

/* splice came to an end that it had announced otherwise */
void alg_tls_splice_eof(struct socket *sock)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);

	if (alg_tls_lock(ctx, &ctx->txd))
		return;
	alg_tls_tx_flush(ctx);
	alg_tls_tx_unlock(ctx, true);
}
