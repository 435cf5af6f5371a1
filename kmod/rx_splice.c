// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive: splice() out of the op, plaintext pages into a pipe
 *
 * Why it exists: the rest of a record is made of pages of our own that nobody
 * writes to again, so a pipe can have the pages instead of a copy.
 *
 * The pipe's lock is held by our caller (as for TCP's own splice_read), and the
 * TCP lock nests inside of it; no path of this module takes them the other way
 * round.  A page given to the pipe keeps its reference in rx->rest until its
 * last byte was given; from the first byte on it is shared, and is not wiped.
 */

#include <linux/fs.h>
#include <linux/pipe_fs_i.h>
#include <linux/sched/signal.h>
#include <linux/splice.h>

#include "rx.h"

static void rx_spd_release(struct splice_pipe_desc *spd, unsigned int i)
{
	put_page(spd->pages[i]);
}

/* Bytes given, or an error. */
static ssize_t rx_rest_to_pipe(struct alg_tls_ctx *ctx,
			       struct pipe_inode_info *pipe, size_t len)
{
	struct partial_page partial[ALG_TLS_RX_PAGES] = {};
	struct page *pages[ALG_TLS_RX_PAGES];
	struct splice_pipe_desc spd = {
		.pages = pages,
		.partial = partial,
		.nr_pages_max = ALG_TLS_RX_PAGES,
		.ops = &nosteal_pipe_buf_ops,
		.spd_release = rx_spd_release,
	};
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int off = rx->rest_off;
	unsigned int left = min_t(size_t, rx->rest_len, len);
	unsigned int i;
	ssize_t done;

	while (left) {
		unsigned int at = offset_in_page(off);
		unsigned int part = min_t(unsigned int, left, PAGE_SIZE - at);

		i = spd.nr_pages++;
		pages[i] = rx->rest.page[off / PAGE_SIZE];
		get_page(pages[i]);
		partial[i].offset = at;
		partial[i].len = part;
		off += part;
		left -= part;
	}
	done = splice_to_pipe(pipe, &spd);
	if (done <= 0)
		return done;

	for (i = rx->rest_off / PAGE_SIZE;
	     i < (rx->rest_off + done) / PAGE_SIZE; i++) {
		put_page(rx->rest.page[i]);
		rx->rest.page[i] = NULL;
	}
	rx->rest_off += done;
	WRITE_ONCE(rx->rest_len, rx->rest_len - done);
	if (!rx->rest_len)
		alg_tls_rx_drop_rest(ctx);
	return done;
}

static ssize_t rx_splice_loop(struct alg_tls_ctx *ctx, struct rx_call *c,
			      struct pipe_inode_info *pipe, size_t len,
			      long timeo)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct rx_rec rec;
	ssize_t ret;
	bool eof;

	while (c->copied < len &&
	       !pipe_full(pipe->head, pipe->tail, pipe->max_usage)) {
		if (rx->rest_len) {
			if (rx->rest_type != ALG_TLS_T_DATA)
				return alg_tls_count_err(ctx, -EIO);
			ret = rx_rest_to_pipe(ctx, pipe, len - c->copied);
			if (ret <= 0)
				return ret;
			c->copied += ret;
			continue;
		}
		ret = alg_tls_rx_next(ctx, c, &rec, &eof);
		if (ret < 0 || eof)
			return ret;
		if (ret) {
			if (c->copied && rec.payload > len - c->copied)
				return 0;
			ret = alg_tls_rx_take(ctx, c, &rec);
			if (!ret)
				ret = alg_tls_breathe(ctx, &ctx->rxd,
						      &c->since);
			if (!ret && !c->copied && !rx->rest_len &&
			    signal_pending(current))
				ret = sock_intr_errno(timeo);
		} else {
			if (c->copied)
				return 0;
			ret = alg_tls_rx_sleep(ctx, &timeo);
		}
		if (ret)
			return ret;
	}
	return 0;
}

ssize_t alg_tls_splice_read(struct socket *sock, loff_t *ppos,
			    struct pipe_inode_info *pipe, size_t len,
			    unsigned int flags)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	struct rx_call c = {};
	bool nonblock;
	ssize_t err;
	long timeo;

	if (unlikely(*ppos))
		return -ESPIPE;
	len = min_t(size_t, len, INT_MAX & PAGE_MASK);
	err = alg_tls_lock(ctx, &ctx->rxd);
	if (err)
		return err;
	nonblock = flags & SPLICE_F_NONBLOCK ||
		   sock->file->f_flags & O_NONBLOCK ||
		   alg_tls_nonblock(ctx, 0);
	timeo = sock_rcvtimeo(ctx->sk, nonblock);

	err = rx_splice_loop(ctx, &c, pipe, len, timeo);

	if (ctx->rxd.on && !alg_tls_check(ctx, &ctx->rxd))
		alg_tls_rx_settle(ctx);
	alg_tls_unlock(ctx);
	return c.copied ?: err;
}
