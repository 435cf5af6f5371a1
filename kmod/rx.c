// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive: recvmsg() on the op, i.e. which record may be given to whom
 *
 * Why it exists: the op keeps no bytes.  A record stays on TCP's receive queue
 * until it is whole; a reader then opens it there (rx_record.c).  This file
 * decides what a reader may have, and makes poll() on the TCP socket say so.
 *
 * Who wakes a program that sleeps in poll() on the *TCP* fd?  TCP does, by
 * tcp_data_ready(), and only if one of these holds at the arrival of a segment:
 *
 *   1. sk_rcvlowat bytes are queued.  Every call leaves the length of the
 *	whole next record there (less what is staged), so this is the normal
 *	case, and there is one wake-up per record however it dribbles in.
 *   2. The window is down to one segment, or receive memory is nearly used up.
 *	The record may then never become whole, because the sender may not send
 *	the rest of it.  The reader who comes finds the same condition and
 *	stages: what TCP holds is moved to rx->stage, which opens the window,
 *	and rcvlowat becomes the length of the missing rest.
 *
 * A sender always may send more unless (2) holds, and whoever looks when (2)
 * holds stages: these two sentences are why there is no deadlock.  An edge
 * triggered program is woken once for (2); so that the edge is not lost on a
 * call that returned something else, every call stages at its end, not only
 * the one that found nothing.  sk_rcvlowat is written under the TCP lock, and
 * segments that arrived meanwhile are on the backlog and meet the new value.
 *
 * Memory: see rx_buf.c.  State: struct alg_tls_rx, all of it under the TCP
 * lock; poll() alone reads four fields without it.
 */

#include <linux/sched/signal.h>
#include <linux/uio.h>

#include "rx.h"

/* MSG_CMSG_COMPAT is how a 32-bit recvmsg() reaches us, not a wish. */
#define RX_FLAGS (MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | \
		  MSG_CMSG_COMPAT)

/* ------------------------------------------------- low-water mark --- */

static void rx_set_lowat(struct alg_tls_ctx *ctx, int want)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct sock *sk = ctx->sk;

	rx->lowat_set = want;
	if (sk->sk_rcvlowat == want)
		return;
	/* let it provide buffer space, where it would not clamp */
	if (want > tcp_win_from_space(sk, sk->sk_rcvbuf) &&
	    !(sk->sk_userlocks & SOCK_RCVBUF_LOCK) && sk->sk_socket)
		sk->sk_socket->ops->set_rcvlowat(sk, want);
	if (sk->sk_rcvlowat != want)
		WRITE_ONCE(sk->sk_rcvlowat, want);
}

/* A value that is not ours was written by the program since: keep it. */
static void rx_learn_lowat(struct alg_tls_ctx *ctx)
{
	if (ctx->sk->sk_rcvlowat != ctx->rx.lowat_set)
		ctx->rx.lowat = ctx->sk->sk_rcvlowat;
}

/* These bytes are nobody's record: wake for any of them. */
void alg_tls_rx_failed(struct alg_tls_ctx *ctx)
{
	rx_learn_lowat(ctx);
	rx_set_lowat(ctx, ctx->rx.lowat);
}

/*
 * How much of a record may TCP collect for us?  All of it, if its buffer can
 * grow.  A buffer locked by SO_RCVBUF overflows when small segments, each
 * charged with its overhead, bring most of a record: segments are dropped, and
 * the sender waits for its timer.  And a window that may shrink (a sysctl) can
 * close without an arrival that would wake anybody.  Then take early.
 */
static int rx_most(const struct sock *sk)
{
	if (!(sk->sk_userlocks & SOCK_RCVBUF_LOCK) &&
	    !READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_shrink_window))
		return INT_MAX;
	return max(sk->sk_rcvbuf >> 2, 1);
}

int alg_tls_rx_settle(struct alg_tls_ctx *ctx)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct sock *sk = ctx->sk;
	int most = rx_most(sk);
	struct rx_rec rec;
	int whole, err = 0;
	int need = 1;	/* the reader is to be told of an error */

	if (rx->eof) {
		alg_tls_rx_failed(ctx);
		return 0;
	}
	rx_learn_lowat(ctx);
	whole = alg_tls_rx_look(ctx, &rec);
	if (whole >= 0)
		need = (rec.len ?: ALG_TLS_HDR) - rx->staged_len;
	if (!whole && !sock_flag(sk, SOCK_DONE) &&
	    (need > most || tcp_epollin_ready(sk, INT_MAX))) {
		err = alg_tls_rx_stage(ctx, &rec);
		need = (rec.len ?: ALG_TLS_HDR) - rx->staged_len;
	}
	need = min(need, most) + alg_tls_planted("lowat");
	rx_set_lowat(ctx, ctx->rx_asleep ? need : max(need, rx->lowat));
	return err;
}

int alg_tls_rx_sleep(struct alg_tls_ctx *ctx, long *timeo)
{
	int err;

	if (!*timeo)
		return -EAGAIN;
	if (signal_pending(current))
		return sock_intr_errno(*timeo);
	/* until the last one wakes, the mark is theirs and not the program's */
	ctx->rx_asleep++;
	err = alg_tls_rx_settle(ctx);
	if (!err)
		err = alg_tls_wait(ctx, &ctx->rxd, timeo);
	ctx->rx_asleep--;
	return err;
}

/* ------------------------------------------------------ what is next --- */

/*
 * FIN or an error, in the order of tcp_recvmsg(); 0 if TCP may bring more.  A
 * reader who has data already must not use up sk_err, which is told once.
 */
static int rx_end(struct alg_tls_ctx *ctx, bool quiet)
{
	struct sock *sk = ctx->sk;
	int err = (ctx->rx.staged_len || rx_avail(sk)) &&
		  !alg_tls_planted("errno") ? -ECONNABORTED : -ENODATA;

	if (quiet)
		return sock_flag(sk, SOCK_DONE) || sk->sk_err ||
		       sk->sk_shutdown & RCV_SHUTDOWN ||
		       sk->sk_state == TCP_CLOSE ? err : 0;
	if (sock_flag(sk, SOCK_DONE))
		return alg_tls_count_err(ctx, err);
	if (sk->sk_err)
		return sock_error(sk);
	if (sk->sk_shutdown & RCV_SHUTDOWN)
		return alg_tls_count_err(ctx, err);
	if (sk->sk_state == TCP_CLOSE)
		return -ENOTCONN;
	return 0;
}

int alg_tls_rx_next(struct alg_tls_ctx *ctx, struct rx_call *c,
		    struct rx_rec *rec, bool *eof)
{
	struct alg_tls_rx *rx = &ctx->rx;
	int ret;

	*eof = rx->eof;
	if (rx->eof)
		return 0;
	if (ctx->rxd.err)
		return ctx->rxd.err;
	/* what is behind data that this call has got is for the next call */
	if (rx->need_key)
		return c->copied ? -EKEYEXPIRED :
				   alg_tls_count_err(ctx, -EKEYEXPIRED);
	if (rx->parked && !c->ctrl)
		return c->copied ? -EIO : alg_tls_count_err(ctx, -EIO);

	ret = alg_tls_rx_look(ctx, rec);
	if (ret == -EPROTO || ret == -EMSGSIZE)
		return alg_tls_fail(ctx, &ctx->rxd, ret);
	return ret ?: rx_end(ctx, c->copied);
}

/* ----------------------------------------------------------- recvmsg --- */

/* Hand out rest: 1 the call may go on, 0 it is complete, or an error. */
static int rx_from_rest(struct alg_tls_ctx *ctx, struct rx_call *c)
{
	struct alg_tls_rx *rx = &ctx->rx;
	bool peek = c->flags & MSG_PEEK;
	int err, n;

	if (rx->rest_type != ALG_TLS_T_DATA && !c->ctrl)
		return c->copied ? 0 : alg_tls_count_err(ctx, -EIO);
	if (c->ctrl && !c->done) {
		err = alg_tls_rx_put_type(c->msg, rx->rest_type);
		if (err)
			return alg_tls_count_err(ctx, err);
		c->done = true;
	}
	n = alg_tls_rx_give_rest(ctx, &c->msg->msg_iter, peek);
	if (n < 0)
		return n;
	c->copied += n;
	return !peek && !c->done && !rx->rest_len;
}

/* 0 when the call is complete, or the error if nothing was copied. */
static int rx_loop(struct alg_tls_ctx *ctx, struct rx_call *c, long timeo)
{
	struct alg_tls_rx *rx = &ctx->rx;
	bool waitall = c->flags & MSG_WAITALL;
	struct rx_rec rec;
	bool eof;
	int ret;

	for (;;) {
		size_t room = msg_data_left(c->msg);

		if (rx->rest_len) {
			ret = rx_from_rest(ctx, c);
			if (ret <= 0)
				return ret;
			continue;
		}
		if (c->done || (!room && (c->copied || !c->ctrl)))
			return 0;

		ret = alg_tls_rx_next(ctx, c, &rec, &eof);
		if (ret < 0 || eof)
			return ret;
		if (ret) {
			/* only the first record of a call leaves a rest */
			if (c->copied && rec.payload > room && !waitall)
				return 0;
			ret = alg_tls_rx_take(ctx, c, &rec);
			if (ret)
				return ret;
			ret = alg_tls_breathe(ctx, &ctx->rxd, &c->since);
			if (!ret && !c->copied && signal_pending(current) &&
			    !rx->rest_len && !c->done)
				ret = sock_intr_errno(timeo);
		} else {
			if (c->copied && !waitall)
				return 0;
			ret = alg_tls_rx_sleep(ctx, &timeo);
		}
		if (ret)
			return ret;
	}
}

int alg_tls_recvmsg(struct socket *sock, struct msghdr *msg, size_t len,
		    int flags)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	struct rx_call c = {
		.msg = msg,
		.flags = flags,
		.ctrl = msg->msg_control && msg->msg_controllen,
	};
	long timeo;
	int err;

	msg->msg_namelen = 0;
	if (flags & ~RX_FLAGS)
		return -EOPNOTSUPP;
	err = alg_tls_lock(ctx, &ctx->rxd);
	if (err)
		return err;
	timeo = sock_rcvtimeo(ctx->sk, alg_tls_nonblock(ctx, flags));

	err = rx_loop(ctx, &c, timeo);

	/* the lock may have been lost on the way, and everything with it */
	if (ctx->rxd.on && !alg_tls_check(ctx, &ctx->rxd))
		alg_tls_rx_settle(ctx);
	alg_tls_unlock(ctx);
	return c.copied ?: err;
}

/* -------------------------------------------------------------- poll --- */

__poll_t alg_tls_poll_in(struct alg_tls_ctx *ctx)
{
	struct alg_tls_rx *rx = &ctx->rx;
	struct sock *sk = ctx->sk;
	__poll_t mask = 0;
	u8 shutdown;

	if (!READ_ONCE(ctx->rxd.on))
		return 0;
	/* order as in tcp_poll(), which does not take the lock either */
	shutdown = READ_ONCE(sk->sk_shutdown);
	if (shutdown & RCV_SHUTDOWN)
		mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	if (READ_ONCE(rx->rest_len) || READ_ONCE(rx->parked) ||
	    READ_ONCE(rx->eof) || READ_ONCE(rx->need_key) ||
	    READ_ONCE(ctx->rxd.err))
		mask |= EPOLLIN | EPOLLRDNORM;
	else if (tcp_epollin_ready(sk, READ_ONCE(sk->sk_rcvlowat)))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(ctx->rxd.err))
		mask |= EPOLLERR;
	/* pairs with smp_wmb() in tcp_done_with_error(), as in tcp_poll() */
	smp_rmb();
	if (READ_ONCE(sk->sk_err))
		mask |= EPOLLERR;
	return mask;
}

int alg_tls_rx_inq(struct alg_tls_ctx *ctx)
{
	return ctx->rx.rest_len;
}

/* -------------------------------------------------- attach and detach --- */

static void rx_forget(struct alg_tls_rx *rx)
{
	alg_tls_rx_drop_pages(rx);
	memset(rx, 0, sizeof(*rx));
}

void alg_tls_rx_attach(struct alg_tls_ctx *ctx)
{
	struct alg_tls_rx *rx = &ctx->rx;

	rx_forget(rx);
	rx->copied_seq = tcp_sk(ctx->sk)->copied_seq;
	rx->lowat = ctx->sk->sk_rcvlowat;
	rx->lowat_set = rx->lowat;
	alg_tls_rx_settle(ctx);
}

void alg_tls_rx_rekey(struct alg_tls_ctx *ctx)
{
	struct alg_tls_rx *rx = &ctx->rx;

	WRITE_ONCE(rx->parked, 0);
	WRITE_ONCE(rx->need_key, false);
	rx->hs_have = 0;
	rx->hs_skip = 0;
	alg_tls_rx_settle(ctx);
}

int alg_tls_rx_detach_check(struct alg_tls_ctx *ctx, void __user *buf,
			    unsigned int room, unsigned int *len)
{
	struct alg_tls_rx *rx = &ctx->rx;
	unsigned int done = 0;

	if (rx->rest_len && !alg_tls_planted("rest"))
		return -EBUSY;
	if (rx->staged_len > room)
		return -ENOSPC;
	while (done < rx->staged_len) {
		unsigned int part = min_t(unsigned int, PAGE_SIZE,
					  rx->staged_len - done);
		struct page *page = rx->stage.page[done / PAGE_SIZE];

		if (copy_to_user(buf + done, page_address(page), part))
			return -EFAULT;
		done += part;
	}
	*len = rx->staged_len;
	return 0;
}

void alg_tls_rx_detach(struct alg_tls_ctx *ctx)
{
	/* a value that the program set meanwhile is the program's */
	if (ctx->sk->sk_rcvlowat == ctx->rx.lowat_set)
		WRITE_ONCE(ctx->sk->sk_rcvlowat, ctx->rx.lowat);
	rx_forget(&ctx->rx);
}

bool alg_tls_rx_release(struct alg_tls_ctx *ctx)
{
	/* a connection that was made since is none of ours */
	bool lost = ctx->rx.staged_len && !ctx->gone &&
		    ctx->sk->sk_disconnects == ctx->disconnects;

	if (ctx->rxd.on)
		alg_tls_rx_detach(ctx);
	return lost;
}
