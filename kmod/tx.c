// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transmit: when a record may begin, sendmsg and poll
 *
 * Why it exists: blocking, EAGAIN and the wake-ups that must follow it are the
 * same for sendmsg, splice and the sendfile ioctl; see tx.h for the whole.
 *
 * Memory: pages of the caller live in struct alg_tls_in for one record.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/uio.h>

#include "tx.h"

#define ALG_TLS_COPY_MAX	2048	/* up to here a copy beats pinning */
#define ALG_TLS_PUSH_EACH	65536	/* TCP looks at the wire this often */

/* ----------------------------------------------------------- waiting --- */

int alg_tls_tx_check(struct alg_tls_ctx *ctx)
{
	struct sock *sk = ctx->sk;
	int err = alg_tls_check(ctx, &ctx->txd);

	if (err)
		return err;
	if (sk->sk_err || !alg_tls_tx_alive(sk))
		return -EPIPE;
	if (ctx->tx.need_key)
		return alg_tls_count_err(ctx, -EKEYEXPIRED);
	if (!alg_tls_seq_ok(&ctx->txd))
		return alg_tls_count_err(ctx, -EOVERFLOW);
	return 0;
}

void alg_tls_tx_unlock(struct alg_tls_ctx *ctx, bool push)
{
	struct sock *sk = ctx->sk;
	struct file *file = NULL;

	if (ctx->tx.broken) {
		/* else the next reader would take it for a stranger's doing */
		if (ctx->rxd.on && !ctx->rxd.err)
			alg_tls_fail(ctx, &ctx->rxd, -ECONNRESET);
		alg_tls_reset(sk);
	}
	ctx->tx.broken = false;
	if (push && ctx->tx.more) {
		ctx->tx.more = false;
		file = alg_tls_file_get(ctx);
	}
	release_sock(sk);
	if (file) {
		struct socket *sock = sock_from_file(file);

		sock->ops->splice_eof(sock);
		fput(file);
	}
}

/* Before a sleep or EAGAIN: what was held back makes the room we wait for. */
static bool alg_tls_uncork(struct alg_tls_ctx *ctx)
{
	if (!ctx->tx.more)
		return false;
	alg_tls_tx_unlock(ctx, true);
	lock_sock(ctx->sk);
	return true;
}

/* The send buffer is full.  Returns 0: look again. */
static int alg_tls_wait_room(struct alg_tls_ctx *ctx, long *timeo)
{
	struct sock *sk = ctx->sk;

	if (alg_tls_uncork(ctx))
		return 0;
	sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
	set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	smp_mb__after_atomic(); /* tcp_check_space() wakes whom it sees wait */
	if (sk_stream_memory_free(sk))
		return 0;
	return alg_tls_wait(ctx, &ctx->txd, timeo);
}

/* There is room but no memory. */
int alg_tls_tx_wait_memory(struct alg_tls_ctx *ctx, long *timeo)
{
	struct sock *sk = ctx->sk;
	long nap, slept;
	int err;

	if (alg_tls_uncork(ctx))
		return 0;
	sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
	set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	smp_mb__after_atomic(); /* as above */
	/* no ACK will come that could wake anybody */
	if (tcp_rtx_and_write_queues_empty(sk))
		sk->sk_write_space(sk);
	if (!*timeo)
		return -EAGAIN;
	/* by the caller's timeout: a nap's end is not his */
	if (signal_pending(current))
		return sock_intr_errno(*timeo);
	nap = min_t(long, *timeo, HZ / 20 + 2);
	slept = nap;
	err = alg_tls_wait(ctx, &ctx->txd, &nap);
	slept -= nap;
	if (*timeo != MAX_SCHEDULE_TIMEOUT)
		*timeo = max(*timeo - slept, 0L);
	return err;
}

int alg_tls_tx_ready(struct alg_tls_ctx *ctx, long *timeo)
{
	int err;

	for (;;) {
		/* who slept may find a record that another thread opened */
		err = alg_tls_tx_flush_wait(ctx, timeo);
		if (err)
			return err;
		err = alg_tls_tx_check(ctx);
		if (err || sk_stream_memory_free(ctx->sk))
			return err;
		err = alg_tls_wait_room(ctx, timeo);
		if (err)
			return err;
	}
}

bool alg_tls_tx_push_now(struct alg_tls_ctx *ctx, unsigned int size,
			 size_t *held)
{
	struct sock *sk = ctx->sk;

	*held += size;
	if (*held < ALG_TLS_PUSH_EACH && !tcp_sk(sk)->notsent_lowat &&
	    sk->sk_wmem_queued + 4 * size < sk->sk_sndbuf)
		return false;
	*held = 0;
	return true;
}

int alg_tls_tx_error(struct alg_tls_ctx *ctx, int flags, int err)
{
	return err == -EPIPE ? sk_stream_error(ctx->sk, flags, err) : err;
}

/* ------------------------------------------------------------ sendmsg --- */

static int alg_tls_copy_in(struct alg_tls_ctx *ctx, struct iov_iter *iter,
			   unsigned int len, struct alg_tls_in *in)
{
	unsigned int done = 0;

	in->copy = true;
	while (done < len) {
		unsigned int n = min_t(unsigned int, len - done, PAGE_SIZE);
		struct page *page = alloc_page(ctx->sk->sk_allocation);
		size_t got;

		if (!page)
			return -ENOBUFS;
		got = copy_page_from_iter(page, 0, n, iter);
		if (!got) {
			__free_page(page);
			return done ? done : -EFAULT;
		}
		done += got;
		in->used[in->n] = got;
		in->page[in->n++] = page;
		sg_set_page(&ctx->tx.src[in->n], page, got, 0);
		if (got < n)
			break;
	}
	return done;
}

static int alg_tls_pin(struct alg_tls_ctx *ctx, struct iov_iter *iter,
		       unsigned int len, struct alg_tls_in *in)
{
	unsigned int done = 0;

	in->copy = false;
	while (done < len && in->n < ALG_TLS_SRC) {
		size_t off;
		ssize_t got;

		got = iov_iter_get_pages2(iter, in->page + in->n, len - done,
					  ALG_TLS_SRC - in->n, &off);
		if (got <= 0)
			return done ? done : -EFAULT;
		done += got;
		while (got) {
			unsigned int n = min_t(size_t, got, PAGE_SIZE - off);

			sg_set_page(&ctx->tx.src[in->n + 1], in->page[in->n], n,
				    off);
			in->n++;
			got -= n;
			off = 0;
		}
	}
	return done;
}

static int alg_tls_gather(struct alg_tls_ctx *ctx, struct iov_iter *iter,
			  unsigned int len, struct alg_tls_in *in)
{
	size_t all = iov_iter_count(iter);
	bool copy;
	int ret;

	in->n = 0;
	/* src belongs to the open record; alg_tls_tx_ready() sealed it */
	if (WARN_ON_ONCE(ctx->tx.open_n))
		return -ENOBUFS;
	sg_init_table(ctx->tx.src, ARRAY_SIZE(ctx->tx.src));
	if (!len)
		return 0;
	copy = len <= ALG_TLS_COPY_MAX || ctx->txd.cipher->ccm ||
	       !user_backed_iter(iter);
	if (!copy) {
		iov_iter_truncate(iter, len);
		copy = iov_iter_npages(iter, ALG_TLS_SRC + 1) > ALG_TLS_SRC;
		iov_iter_reexpand(iter, all);
	}
	if (!copy) {
		ret = alg_tls_pin(ctx, iter, len, in);
		if (ret != -EFAULT)
			return ret;
		/* what cannot be pinned (a device's memory) can be copied */
	}
	return alg_tls_copy_in(ctx, iter, len, in);
}

/*
 * RFC 8446 4.6.3: what follows a KeyUpdate is sealed with the next key.  The
 * record and the re-key are two calls, and another thread may send in between.
 * KeyUpdate is 5 bytes and never shares a record.
 */
static bool alg_tls_is_key_update(struct alg_tls_ctx *ctx, u8 type,
				  const struct alg_tls_in *in, int len)
{
	u8 first;

	if (type != ALG_TLS_T_HANDSHAKE || len != 5 ||
	    ctx->txd.version != TLS_1_3_VERSION)
		return false;
	memcpy_from_page(&first, in->page[0], ctx->tx.src[1].offset, 1);
	return first == ALG_TLS_HS_KEY_UPDATE;
}

/*
 * One record of at most @len bytes.  Returns the bytes it took, which are fewer
 * if user memory ended early; -ENOBUFS if a reservation failed.
 */
static int alg_tls_send_one(struct alg_tls_ctx *ctx, struct iov_iter *iter,
			    u8 type, unsigned int len, int flags, bool push)
{
	size_t all = iov_iter_count(iter);
	struct sock *sk = ctx->sk;
	struct alg_tls_out out;
	struct alg_tls_in in;
	int got, err;

	if (!alg_tls_tx_charge(sk, tx_wire_len(&ctx->txd, len)))
		return -ENOBUFS;
	got = alg_tls_gather(ctx, iter, len, &in);
	err = got;
	if (got < 0)
		goto err_revert;
	/* a control record is a message: all of it or an error */
	err = -EFAULT;
	if (got < len && type != ALG_TLS_T_DATA)
		goto err_revert;
	err = -ENOBUFS;
	if (!alg_tls_out_alloc(ctx, &out, got, ctx->tx.src[1].offset))
		goto err_revert;
	err = alg_tls_tx_record(ctx, type, in.n, got, &out, flags, push);
	if (err)
		goto err_revert;
	ctx->tx.need_key = alg_tls_is_key_update(ctx, type, &in, got) &&
			   !alg_tls_planted("update");
	alg_tls_in_free(&in);
	return got;

err_revert:
	alg_tls_in_free(&in);
	iov_iter_revert(iter, all - iov_iter_count(iter));
	return err == -ENOMEM || err == -EAGAIN ? -ENOBUFS : err;
}

/* True if the caller names a type; then @*type is set.  Negative: error. */
static int alg_tls_cmsg_type(struct msghdr *msg, u8 *type)
{
	struct cmsghdr *cmsg;
	int named = 0;

	if (!msg->msg_controllen)
		return 0;
	for_each_cmsghdr(cmsg, msg) {
		if (!CMSG_OK(msg, cmsg))
			return -EINVAL;
		if (cmsg->cmsg_level != SOL_TLS)
			continue;
		if (cmsg->cmsg_type != TLS_SET_RECORD_TYPE || named ||
		    cmsg->cmsg_len < CMSG_LEN(sizeof(*type)))
			return -EINVAL;
		*type = *(u8 *)CMSG_DATA(cmsg);
		/* 0 is TLS 1.3 padding: the peer would find no type */
		if (!*type || msg->msg_flags & MSG_MORE)
			return -EINVAL;
		named = 1;
	}
	return named;
}

/*
 * MSG_MORE delays the segment, not the record: what was accepted is sealed.
 * MSG_EOR comes with every write() to a SEQPACKET socket, MSG_BATCH with
 * sendmmsg(), MSG_CMSG_COMPAT with 32 bit callers; they ask for nothing.
 */
int alg_tls_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	size_t done = 0, since = 0, held = 0;
	int flags = msg->msg_flags;
	u8 type = ALG_TLS_T_DATA;
	bool named;
	long timeo;
	int ret;

	if (flags & ~(MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR |
		      MSG_BATCH | MSG_CMSG_COMPAT | ALG_TLS_MSG_SPLICE))
		return -EOPNOTSUPP;
	ret = alg_tls_cmsg_type(msg, &type);
	if (ret < 0)
		return ret;
	named = ret;

	ret = alg_tls_lock(ctx, &ctx->txd);
	if (ret)
		return alg_tls_sk(ctx) ? alg_tls_tx_error(ctx, flags, ret) :
					 ret;
	timeo = sock_sndtimeo(ctx->sk, alg_tls_nonblock(ctx, flags));
	ret = alg_tls_tx_flush_wait(ctx, &timeo);
	if (ret)
		goto out;
	if (named && len > ctx->tx.max) {
		ret = alg_tls_count_err(ctx, -EMSGSIZE);
		goto out;
	}

	while (named || done < len) {
		bool last, push;
		unsigned int n;

		ret = alg_tls_tx_ready(ctx, &timeo);
		if (ret)
			break;
		/* it may have slept, and tx.max may have been lowered */
		if (named && len > ctx->tx.max) {
			ret = alg_tls_count_err(ctx, -EMSGSIZE);
			break;
		}
		n = min_t(size_t, len - done, ctx->tx.max);
		last = done + n == len;
		push = (last && !alg_tls_planted("more")) ||
		       alg_tls_tx_push_now(ctx, n, &held);
		ret = alg_tls_send_one(ctx, &msg->msg_iter, type, n,
				       last ? flags & MSG_MORE : MSG_MORE,
				       push);
		if (ret == -ENOBUFS) {
			ret = alg_tls_tx_wait_memory(ctx, &timeo);
			if (ret)
				break;
			continue;
		}
		if (ret < 0)
			break;
		done += ret;
		since += ret;
		named = false;
		if (done == len)
			break;
		ret = alg_tls_breathe(ctx, &ctx->txd, &since);
		if (ret)
			break;
	}
out:
	if (ret < 0 && !done)
		ret = alg_tls_tx_error(ctx, flags, ret);
	/* later kernels come here with the pages of a splice */
	if (flags & ALG_TLS_MSG_SPLICE)
		alg_tls_stat_add(ctx, SENDFILEBYTES, done);
	alg_tls_tx_unlock(ctx, ret < 0);
	return done ? done : min(ret, 0);
}

/* ---------------------------------------------------------------- poll --- */

/* The writing half of tcp_poll(); no lock is held. */
__poll_t alg_tls_poll_out(struct alg_tls_ctx *ctx)
{
	struct socket *sock = SOCKET_I(ctx->inode);
	struct sock *sk = ctx->sk;
	__poll_t mask = 0;

	if (READ_ONCE(ctx->gone))
		mask |= EPOLLHUP | EPOLLERR;
	if (!READ_ONCE(ctx->txd.on))
		return mask;
	if (READ_ONCE(ctx->txd.err))
		return mask | EPOLLOUT | EPOLLWRNORM | EPOLLERR;
	if (READ_ONCE(sk->sk_err) ||
	    READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN)
		return mask | EPOLLOUT | EPOLLWRNORM;
	if (__sk_stream_is_writeable(sk, 1))
		return mask | EPOLLOUT | EPOLLWRNORM;
	if (alg_tls_planted("space"))
		return mask;
	set_bit(SOCKWQ_ASYNC_NOSPACE, &sock->wq.flags);
	set_bit(SOCK_NOSPACE, &sock->flags);
	smp_mb__after_atomic(); /* space may have come since the look */
	if (__sk_stream_is_writeable(sk, 1))
		mask |= EPOLLOUT | EPOLLWRNORM;
	return mask;
}
