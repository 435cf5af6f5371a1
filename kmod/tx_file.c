// SPDX-License-Identifier: GPL-2.0-only
/*
 * ALG_TLS_IOC_SENDFILE: a file in whole records
 *
 * Why it exists: sendfile(2) reaches a socket one page per call, with a page
 * reference each.  This walks the pipe itself, sixteen pages at a time.
 *
 * Memory: the pages belong to the internal pipe until their record has been
 * handed over; CCM copies them first (tx.h).
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pipe_fs_i.h>
#include <linux/sched/signal.h>
#include <linux/splice.h>
#include <linux/uaccess.h>

#include "tx.h"

struct alg_tls_sendfile_state {
	struct alg_tls_ctx *ctx;
	int flags;
	long timeo;
	bool began;			/* timeo is set */
};

/*
 * Put up to tx.max bytes of the pipe's pages into src[1..]; the pipe keeps its
 * references.  Returns the bytes, *@n is the number of pages.
 */
static int alg_tls_pipe_gather(struct alg_tls_ctx *ctx,
			       struct pipe_inode_info *pipe, size_t want,
			       struct alg_tls_in *in, unsigned int *n)
{
	unsigned int mask = pipe->ring_size - 1;
	unsigned int tail = pipe->tail;
	unsigned int len = 0;
	int err;

	*n = 0;
	in->n = 0;
	in->copy = true;
	/* src belongs to the open record; alg_tls_tx_ready() sealed it */
	if (WARN_ON_ONCE(ctx->tx.open_n))
		return -ENOBUFS;
	sg_init_table(ctx->tx.src, ARRAY_SIZE(ctx->tx.src));
	want = min_t(size_t, want, ctx->tx.max);
	while (len < want && *n < ALG_TLS_SRC && !pipe_empty(pipe->head, tail)) {
		struct pipe_buffer *buf = &pipe->bufs[tail & mask];
		unsigned int take = min_t(size_t, buf->len, want - len);
		struct page *page = buf->page, *from;
		unsigned int off = buf->offset;

		/* later kernels leave this to the actor */
		err = pipe_buf_confirm(pipe, buf);
		if (err)
			return len ? len : err;
		if (ctx->txd.cipher->ccm) {
			/* a buffer may span pages of a compound one */
			from = buf->page + (off >> PAGE_SHIFT);
			off = offset_in_page(off);
			take = min_t(unsigned int, take, PAGE_SIZE - off);
			page = alloc_page(ctx->sk->sk_allocation);
			if (!page)
				return -ENOBUFS;
			in->used[in->n] = take;
			in->page[in->n++] = page;
			memcpy_from_page(page_address(page), from, off, take);
			off = 0;
		}
		sg_set_page(&ctx->tx.src[++*n], page, take, off);
		len += take;
		if (take == buf->len)
			tail++;
		else if (ctx->txd.cipher->ccm)
			break;	/* one piece per buffer is all we track */
	}
	return len;
}

static void alg_tls_pipe_consume(struct pipe_inode_info *pipe, unsigned int len)
{
	unsigned int mask = pipe->ring_size - 1;

	while (len) {
		struct pipe_buffer *buf = &pipe->bufs[pipe->tail & mask];
		unsigned int n = min(len, buf->len);

		buf->offset += n;
		buf->len -= n;
		len -= n;
		if (!buf->len) {
			pipe_buf_release(pipe, buf);
			pipe->tail++;
		}
	}
}

static int alg_tls_pipe_record(struct alg_tls_sendfile_state *st,
			       struct pipe_inode_info *pipe, size_t left,
			       bool more, size_t *held)
{
	struct alg_tls_ctx *ctx = st->ctx;
	struct alg_tls_out out;
	struct alg_tls_in in;
	unsigned int n;
	int len, err;
	bool last;

	if (!alg_tls_tx_charge(ctx->sk, tx_wire_len(&ctx->txd, ctx->tx.max)))
		return -ENOBUFS;
	len = alg_tls_pipe_gather(ctx, pipe, left, &in, &n);
	err = len;
	if (len <= 0)
		goto out_free;
	err = -ENOBUFS;
	if (!alg_tls_out_alloc(ctx, &out, len, ctx->tx.src[1].offset))
		goto out_free;
	last = len == left;
	err = alg_tls_tx_record(ctx, ALG_TLS_T_DATA, n, len, &out,
				more || !last ? MSG_MORE : 0,
				last || alg_tls_tx_push_now(ctx, len, held));
	if (err == -ENOMEM || err == -EAGAIN)
		err = -ENOBUFS;
	if (!err) {
		alg_tls_pipe_consume(pipe, len);
		alg_tls_stat_add(ctx, SENDFILEBYTES, len);
		err = len;
	}
out_free:
	alg_tls_in_free(&in);
	return err;
}

/*
 * One pipe full.  The TCP lock is not held while the file is read: that may
 * take as long as a disk does.
 */
static int alg_tls_sendfile_actor(struct pipe_inode_info *pipe,
				  struct splice_desc *sd)
{
	struct alg_tls_sendfile_state *st = sd->u.data;
	struct alg_tls_ctx *ctx = st->ctx;
	size_t done = 0, held = 0, since = 0;
	size_t len = sd->total_len;
	int ret;

	if (fatal_signal_pending(current))
		return -EINTR;
	ret = alg_tls_lock(ctx, &ctx->txd);
	if (ret)
		return ret;
	if (!st->began) {
		st->timeo = sock_sndtimeo(ctx->sk,
					  alg_tls_nonblock(ctx, st->flags));
		st->began = true;
	}
	ret = alg_tls_tx_flush_wait(ctx, &st->timeo);
	if (ret)
		goto out;
	while (done < len) {
		ret = alg_tls_tx_ready(ctx, &st->timeo);
		if (ret)
			break;
		ret = alg_tls_pipe_record(st, pipe, len - done,
					  sd->flags & SPLICE_F_MORE, &held);
		if (ret == -ENOBUFS) {
			ret = alg_tls_tx_wait_memory(ctx, &st->timeo);
			if (ret)
				break;
			continue;
		}
		if (ret <= 0)
			break;
		done += ret;
		since += ret;
		ret = alg_tls_breathe(ctx, &ctx->txd, &since);
		if (ret)
			break;
	}
out:
	alg_tls_tx_unlock(ctx, ret < 0);
	return done ? done : ret;
}

int alg_tls_sendfile(struct alg_tls_ctx *ctx,
		     struct alg_tls_sendfile __user *uarg)
{
	struct alg_tls_sendfile_state st = { .ctx = ctx };
	struct splice_desc sd = { .u.data = &st };
	struct alg_tls_sendfile a;
	struct fd in;
	loff_t pos;
	long ret;

	if (copy_from_user(&a, uarg, sizeof(a)))
		return -EFAULT;
	if (a.flags & ~(MSG_DONTWAIT | MSG_MORE | MSG_NOSIGNAL))
		return -EOPNOTSUPP;
	/* a caller who cannot be answered is told so before anything is sent */
	if (copy_to_user(uarg, &a, sizeof(a)))
		return -EFAULT;
	if (!alg_tls_sk(ctx))
		return -ENOTCONN;
	pos = a.offset;
	a.count = min_t(u64, a.count, MAX_RW_COUNT);

	in = fdget(a.fd);
	ret = -EBADF;
	if (!alg_tls_fd_file(in) ||
	    !(alg_tls_fd_file(in)->f_mode & FMODE_READ))
		goto out;
	ret = rw_verify_area(READ, alg_tls_fd_file(in), &pos, a.count);
	if (ret < 0)
		goto out;

	st.flags = a.flags;
	sd.len = a.count;
	sd.total_len = a.count;
	sd.pos = pos;
	sd.flags = a.flags & MSG_MORE ? SPLICE_F_MORE : 0;
	ret = a.count ? splice_direct_to_actor(alg_tls_fd_file(in), &sd,
					       alg_tls_sendfile_actor) : 0;
	/* the file was shorter than the caller said, and TCP was told of more */
	if (ret >= 0 && !(a.flags & MSG_MORE) &&
	    !alg_tls_lock(ctx, &ctx->txd))
		alg_tls_tx_unlock(ctx, true);
out:
	fdput(in);
	if (ret < 0)
		return alg_tls_tx_error(ctx, a.flags, ret);
	a.count = ret;
	a.offset = pos + ret;
	/*
	 * What was sent is told by the result as well: the memory may have gone
	 * meanwhile, and an error would make the caller send it again.
	 */
	if (copy_to_user(uarg, &a, sizeof(a)) && !ret)
		return -EFAULT;
	return ret;
}
