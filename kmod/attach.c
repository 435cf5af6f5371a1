// SPDX-License-Identifier: GPL-2.0-only
/*
 * Socket options: claim a TCP socket, install, replace, read back
 * and return keys
 *
 * Why it exists: all that changes a direction as a whole is here, so that the
 * data paths see a direction that is on, off, or has a new key, and
 * nothing in between.
 *
 * Memory: keys arrive in a buffer on our stack, which is cleansed before
 * return; struct alg_tls_dir is built outside of the TCP lock, installed under
 * it, and what it replaces is freed after it.  The claim consists of sock and
 * inode references of ctx->sk and of icsk_ulp_data.  icsk_ulp_ops and its module
 * reference are the TCP sock's from the first claim to its destruction.
 */
#include <linux/file.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "alg_tls.h"

#define ALG_TLS_MAX_MIN		64	/* smallest tx_max */

static bool alg_tls_sk_is_tcp(const struct sock *sk)
{
	return (sk->sk_family == AF_INET || sk->sk_family == AF_INET6) &&
	       sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP;
}

/*
 * Whoever puts himself between a socket and TCP (sockmap, a ULP) does it by
 * replacing sk_prot.  An IPv6 socket that was turned into an IPv4 one by
 * IPV6_ADDRFORM has tcp_prot, the rest has what it was created with.
 */
static bool alg_tls_prot_is_tcp(const struct sock *sk)
{
	return sk->sk_prot == &tcp_prot || sk->sk_prot == sk->sk_prot_creator;
}

/* Is there a ULP that is not what an earlier op left behind? */
static bool alg_tls_ulp_is_foreign(const struct sock *sk)
{
	const struct inet_connection_sock *icsk = inet_csk(sk);

	if (icsk->icsk_ulp_ops == &alg_tls_ulp_ops)
		return rcu_access_pointer(icsk->icsk_ulp_data);
	return icsk->icsk_ulp_ops;
}

static u64 alg_tls_dir_seq(const struct alg_tls_dir *d)
{
	return get_unaligned_be64(d->seq);
}

static u64 alg_tls_dir_explicit(const struct alg_tls_dir *d)
{
	return alg_tls_explicit(d) ?
	       get_unaligned_be64(d->nonce + ALG_TLS_NONCE - ALG_TLS_EXPLICIT) :
	       0;
}

/* ---------------------------------------------------- reuse of a TX key --- */

/* Called whenever a TX direction goes: from here on its past is forbidden. */
static void alg_tls_key_remember(struct alg_tls_ctx *ctx)
{
	ctx->last_set = true;
	ctx->last_digest = ctx->txd.digest;
	ctx->last_seq = alg_tls_dir_seq(&ctx->txd);
	ctx->last_nonce = alg_tls_dir_explicit(&ctx->txd);
}

/*
 * Explicit nonces may begin anywhere and count modulo 2^64, hence the signed
 * distance.
 */
static bool alg_tls_key_reused(struct alg_tls_ctx *ctx,
			       const struct alg_tls_dir *d)
{
	if (ctx->txd.on)
		alg_tls_key_remember(ctx);
	if (!ctx->last_set || ctx->last_digest != d->digest ||
	    alg_tls_planted("nonce"))
		return false;
	return alg_tls_dir_seq(d) < ctx->last_seq ||
	       (s64)(alg_tls_dir_explicit(d) - ctx->last_nonce) < 0;
}

/* ------------------------------------------------------------- the claim --- */

/* May this TCP sock be ours (or go on to be)?  TCP lock held. */
static int alg_tls_may_claim(struct alg_tls_ctx *ctx, struct sock *sk)
{
	if ((1 << sk->sk_state) & ~(TCPF_ESTABLISHED | TCPF_CLOSE_WAIT))
		return -ENOTCONN;
	if (!sk->sk_socket)
		return -ENOTCONN;
	if (tcp_sk(sk)->repair)
		return -EBUSY;
	if (ctx->claimed)
		return sk->sk_disconnects == ctx->disconnects ? 0 : -ESTALE;
	if (ctx->gone)
		return -ENOTCONN;
	if (alg_tls_ulp_is_foreign(sk) || sk->sk_user_data ||
	    !alg_tls_prot_is_tcp(sk))
		return -EBUSY;
	return 0;
}

static void alg_tls_claim(struct alg_tls_ctx *ctx, struct sock *sk)
{
	struct inet_connection_sock *icsk = inet_csk(sk);

	if (!icsk->icsk_ulp_ops)
		__module_get(THIS_MODULE);
	sock_hold(sk);
	ctx->inode = SOCK_INODE(sk->sk_socket);
	ihold(ctx->inode);
	ctx->disconnects = sk->sk_disconnects;
	ctx->claimed = true;
	rcu_assign_pointer(icsk->icsk_ulp_data, ctx);
	icsk->icsk_ulp_ops = &alg_tls_ulp_ops;
	/* last: whoever sees it, sees all of the above */
	smp_store_release(&ctx->sk, sk);
}

/* ------------------------------------------------------- directions --- */

static void alg_tls_tx_install(struct alg_tls_ctx *ctx, struct alg_tls_dir *new)
{
	ctx->txd = *new;
	ctx->tx.need_key = false;
	memzero_explicit(new, sizeof(*new));
}

static void alg_tls_rx_install(struct alg_tls_ctx *ctx, struct alg_tls_dir *new)
{
	ctx->rxd = *new;
	memzero_explicit(new, sizeof(*new));
}

/* Take a direction out; the caller frees *@old after the lock. */
static void alg_tls_dir_take(struct alg_tls_dir *d, struct alg_tls_dir *old)
{
	*old = *d;
	memzero_explicit(d, sizeof(*d));
}

static int alg_tls_attach(struct alg_tls_ctx *ctx, sockptr_t optval,
			  unsigned int optlen)
{
	struct alg_tls_dir tx = {}, rx = {};
	struct alg_tls_attach a;
	struct socket *sock;
	bool has_tx, has_rx;
	struct sock *sk;
	int err;

	if (optlen != sizeof(a))
		return -EINVAL;
	err = -EFAULT;
	if (copy_from_sockptr(&a, optval, sizeof(a)))
		goto out_cleanse;
	err = -EINVAL;
	if (a.size != sizeof(a) || a.flags || a.reserved)
		goto out_cleanse;
	if (!a.tx_max)
		a.tx_max = ALG_TLS_PLAIN_MAX;
	if (a.tx_max < ALG_TLS_MAX_MIN || a.tx_max > ALG_TLS_PLAIN_MAX)
		goto out_cleanse;
	has_tx = memchr_inv(a.tx, 0, sizeof(a.tx));
	has_rx = memchr_inv(a.rx, 0, sizeof(a.rx));
	if (!has_tx && !has_rx)
		goto out_cleanse;

	sock = sockfd_lookup(a.fd, &err);
	if (!sock)
		goto out_cleanse;
	sk = sock->sk;
	err = -ESOCKTNOSUPPORT;
	if (!sk || !alg_tls_sk_is_tcp(sk))
		goto out_put;
	err = -EXDEV;
	if (!net_eq(sock_net(sk), sock_net(ctx->op)))
		goto out_put;

	mutex_lock(&ctx->ctl);
	err = -EBUSY;
	if (ctx->sk && ctx->sk != sk)
		goto out_unlock;
	if (has_tx) {
		err = alg_tls_dir_make(ctx, a.tx, sizeof(a.tx), &tx);
		if (err)
			goto out_unlock;
	}
	if (has_rx) {
		err = alg_tls_dir_make(ctx, a.rx, sizeof(a.rx), &rx);
		if (err)
			goto out_unlock;
	}

	lock_sock(sk);
	err = alg_tls_may_claim(ctx, sk);
	if (err)
		goto out_release;
	err = -EALREADY;
	if ((has_tx && ctx->txd.on) || (has_rx && ctx->rxd.on))
		goto out_release;
	if (has_tx && alg_tls_key_reused(ctx, &tx)) {
		err = alg_tls_count_err(ctx, -EKEYREJECTED);
		goto out_release;
	}

	if (!ctx->claimed)
		alg_tls_claim(ctx, sk);
	if (has_tx) {
		alg_tls_tx_install(ctx, &tx);
		ctx->tx.max = a.tx_max;
		ctx->tx.write_seq = tcp_sk(sk)->write_seq;
		alg_tls_stat_inc(ctx, TX);
		alg_tls_stat_inc(ctx, CURRTX);
	}
	if (has_rx) {
		alg_tls_rx_install(ctx, &rx);
		alg_tls_rx_attach(ctx);
		alg_tls_stat_inc(ctx, RX);
		alg_tls_stat_inc(ctx, CURRRX);
	}
	alg_tls_wake(ctx);
	err = 0;

out_release:
	release_sock(sk);
out_unlock:
	alg_tls_dir_free(ctx, &tx);
	alg_tls_dir_free(ctx, &rx);
	mutex_unlock(&ctx->ctl);
out_put:
	sockfd_put(sock);
out_cleanse:
	memzero_explicit(&a, sizeof(a));
	return err;
}

static int alg_tls_rekey(struct alg_tls_ctx *ctx, int which, sockptr_t optval,
			 unsigned int optlen)
{
	struct alg_tls_dir *d = which == TLS_TX ? &ctx->txd : &ctx->rxd;
	u8 info[ALG_TLS_CRYPTO_INFO_SIZE] __aligned(8) = {};
	struct alg_tls_dir new = {}, old = {};
	struct sock *sk = alg_tls_sk(ctx);
	int err;

	if (optlen < sizeof(struct tls_crypto_info) || optlen > sizeof(info))
		return -EINVAL;
	if (!sk)
		return -ENOTCONN;
	err = -EFAULT;
	if (copy_from_sockptr(info, optval, optlen))
		goto out_cleanse;

	mutex_lock(&ctx->ctl);
	err = alg_tls_dir_make(ctx, info, optlen, &new);
	if (err)
		goto out_unlock;

	lock_sock(sk);
	err = alg_tls_check(ctx, d);
	/* a new key is no cure for a stream that is out of step */
	if (err)
		goto out_release;
	/* a renegotiation may change the cipher, a KeyUpdate may not */
	err = -EINVAL;
	if (new.version != d->version ||
	    (new.version == TLS_1_3_VERSION && new.cipher != d->cipher))
		goto out_release;
	err = 0;
	if (which == TLS_TX) {
		/* what was accepted under the old key goes out under it */
		err = alg_tls_tx_flush(ctx);
		if (err)
			goto out_release;
		if (alg_tls_key_reused(ctx, &new)) {
			err = alg_tls_count_err(ctx, -EKEYREJECTED);
			goto out_release;
		}
		alg_tls_dir_take(d, &old);
		alg_tls_tx_install(ctx, &new);
		alg_tls_stat_inc(ctx, TXREKEY);
	} else {
		if (alg_tls_planted("rekey")) {
			swap(new.tfm, d->tfm);
			swap(new.req, d->req);
		}
		alg_tls_dir_take(d, &old);
		alg_tls_rx_install(ctx, &new);
		alg_tls_rx_rekey(ctx);
		alg_tls_stat_inc(ctx, RXREKEY);
	}
	alg_tls_wake(ctx);

out_release:
	alg_tls_tx_unlock(ctx, false);
out_unlock:
	alg_tls_dir_free(ctx, &new);
	alg_tls_dir_free(ctx, &old);
	mutex_unlock(&ctx->ctl);
out_cleanse:
	memzero_explicit(info, sizeof(info));
	return err;
}

/*
 * All that user memory has to take is written before anything is undone, so a
 * fault leaves the direction attached.
 */
static int alg_tls_detach(struct alg_tls_ctx *ctx, char __user *optval,
			  int __user *optlen)
{
	struct sock *sk = alg_tls_sk(ctx);
	struct alg_tls_dir old = {}, *d;
	struct alg_tls_detach det;
	unsigned int len = 0;
	bool tx;
	int err;
	int room;

	if (get_user(room, optlen))
		return -EFAULT;
	if (room != sizeof(det))
		return -EINVAL;
	if (copy_from_user(&det, optval, sizeof(det)))
		return -EFAULT;
	if (det.size != sizeof(det) || det.reserved ||
	    (det.dir != TLS_TX && det.dir != TLS_RX))
		return -EINVAL;
	if (!sk)
		return -ENOTCONN;
	tx = det.dir == TLS_TX;
	d = tx ? &ctx->txd : &ctx->rxd;

	mutex_lock(&ctx->ctl);
	lock_sock(sk);
	err = -ENOTCONN;
	if (!d->on)
		goto out_release;
	if (tx) {
		/* a dead stream has no use for the open record */
		err = alg_tls_tx_flush(ctx);
		if (err && (err != -EPIPE || alg_tls_tx_alive(sk)))
			goto out_release;
	} else {
		err = alg_tls_rx_detach_check(ctx, u64_to_user_ptr(det.staged),
					      det.staged_len, &len);
		if (err)
			goto out_release;
	}

	memset(det.rec_seq, 0, sizeof(det.rec_seq));
	memset(det.nonce, 0, sizeof(det.nonce));
	memcpy(det.rec_seq, d->seq, ALG_TLS_SEQ);
	if (tx)
		put_unaligned_be64(alg_tls_dir_explicit(d), det.nonce);
	det.staged_len = len;
	err = -EFAULT;
	if (copy_to_user(optval, &det, sizeof(det)))
		goto out_release;

	if (tx) {
		alg_tls_tx_drop(ctx);
		alg_tls_key_remember(ctx);
		alg_tls_dir_take(d, &old);
		alg_tls_stat_inc(ctx, TXDETACH);
		alg_tls_stat_dec(ctx, CURRTX);
	} else {
		alg_tls_rx_detach(ctx);
		alg_tls_dir_take(d, &old);
		alg_tls_stat_inc(ctx, RXDETACH);
		alg_tls_stat_dec(ctx, CURRRX);
	}
	alg_tls_wake(ctx);
	err = 0;

out_release:
	alg_tls_tx_unlock(ctx, tx);
	alg_tls_dir_free(ctx, &old);
	mutex_unlock(&ctx->ctl);
	return err;
}

/*
 * The op socket goes away.  Bytes that it had taken from either side must not
 * vanish in silence: if they cannot be delivered, the connection is reset.
 */
void alg_tls_unclaim(struct alg_tls_ctx *ctx)
{
	struct sock *sk = ctx->sk;
	bool reset = false;

	if (!sk)
		return;
	lock_sock(sk);
	if (ctx->txd.on) {
		/* dead: nobody to deliver to; nor is a connection made since */
		int err = alg_tls_tx_flush(ctx);

		reset |= err && (err != -EPIPE || alg_tls_tx_alive(sk)) &&
			 sk->sk_disconnects == ctx->disconnects;
		alg_tls_tx_drop(ctx);
		alg_tls_stat_dec(ctx, CURRTX);
	}
	if (ctx->rxd.on) {
		reset |= alg_tls_rx_release(ctx);
		alg_tls_stat_dec(ctx, CURRRX);
	}
	if (ctx->claimed) {
		/*
		 * icsk_ulp_ops stays, as that of every other ULP does, and so
		 * does its module reference: getsockopt(TCP_ULP) and inet_diag
		 * look at the pointer twice, without this lock, and a fault
		 * between may take as long as the program likes.
		 */
		rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, NULL);
		ctx->claimed = false;
	}
	if (reset)
		alg_tls_reset(sk);
	/* SO_RCVLOWAT is the program's again: part of a record is an event */
	alg_tls_wake(ctx);
	alg_tls_tx_unlock(ctx, true);

	alg_tls_dir_free(ctx, &ctx->txd);
	alg_tls_dir_free(ctx, &ctx->rxd);
	/* readers of icsk_ulp_data under RCU (inet_diag) do not look inside */
	sock_put(sk);
	iput(ctx->inode);
}

/* ----------------------------------------------------------- read-back --- */

static int alg_tls_readback(struct alg_tls_ctx *ctx, int which,
			    char __user *optval, int __user *optlen)
{
	struct alg_tls_dir *d = which == TLS_TX ? &ctx->txd : &ctx->rxd;
	u8 info[ALG_TLS_CRYPTO_INFO_SIZE] __aligned(8) = {};
	struct tls_crypto_info *head = (void *)info;
	struct sock *sk = alg_tls_sk(ctx);
	const struct alg_tls_cipher *c;
	unsigned int size;
	int room;

	if (get_user(room, optlen))
		return -EFAULT;
	if (!sk)
		return -ENOTCONN;
	lock_sock(sk);
	if (!d->on) {
		release_sock(sk);
		return -ENOTCONN;
	}
	c = d->cipher;
	head->version = d->version;
	head->cipher_type = c->type;
	size = sizeof(*head) + c->iv + c->key + c->salt;
	/* the explicit nonce is on the wire anyway; every other iv is secret */
	if (which == TLS_TX && alg_tls_explicit(d))
		put_unaligned_be64(alg_tls_dir_explicit(d),
				   info + sizeof(*head));
	memcpy(info + size, d->seq, ALG_TLS_SEQ);
	size += ALG_TLS_SEQ;
	release_sock(sk);

	/* as in mainline: the head alone, or all of it */
	if (room == sizeof(*head))
		size = sizeof(*head);
	if (room < 0 || room < size)
		return -EINVAL;
	if (copy_to_user(optval, info, size) || put_user(size, optlen))
		return -EFAULT;
	return 0;
}

/* ------------------------------------------------------- entry points --- */

static int alg_tls_set_max(struct alg_tls_ctx *ctx, sockptr_t optval,
			   unsigned int optlen)
{
	struct sock *sk = alg_tls_sk(ctx);
	int err = 0;
	int max;

	if (optlen != sizeof(max))
		return -EINVAL;
	if (copy_from_sockptr(&max, optval, sizeof(max)))
		return -EFAULT;
	if (max < ALG_TLS_MAX_MIN || max > ALG_TLS_PLAIN_MAX)
		return -EINVAL;
	if (!sk)
		return -ENOTCONN;
	lock_sock(sk);
	if (!ctx->txd.on)
		err = -ENOTCONN;
	else
		err = alg_tls_tx_flush(ctx);
	if (!err)
		ctx->tx.max = max;
	alg_tls_tx_unlock(ctx, false);
	return err;
}

static int alg_tls_get_max(struct alg_tls_ctx *ctx, char __user *optval,
			   int __user *optlen)
{
	struct sock *sk = alg_tls_sk(ctx);
	int room, max;

	if (get_user(room, optlen))
		return -EFAULT;
	if (room < (int)sizeof(max))
		return -EINVAL;
	if (!sk)
		return -ENOTCONN;
	lock_sock(sk);
	max = ctx->txd.on ? ctx->tx.max : 0;
	release_sock(sk);
	if (!max)
		return -ENOTCONN;
	if (copy_to_user(optval, &max, sizeof(max)) ||
	    put_user((int)sizeof(max), optlen))
		return -EFAULT;
	return 0;
}

int alg_tls_setsockopt(struct socket *sock, int level, int optname,
		       sockptr_t optval, unsigned int optlen)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);

	if (level == SOL_ALG && optname == ALG_TLS_ATTACH)
		return alg_tls_attach(ctx, optval, optlen);
	if (level == SOL_TLS) {
		switch (optname) {
		case TLS_TX:
		case TLS_RX:
			return alg_tls_rekey(ctx, optname, optval, optlen);
		case TLS_TX_MAX_PAYLOAD_LEN:
			return alg_tls_set_max(ctx, optval, optlen);
		}
	}
	return -ENOPROTOOPT;
}

int alg_tls_getsockopt(struct socket *sock, int level, int optname,
		       char __user *optval, int __user *optlen)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);

	if (level == SOL_ALG && optname == ALG_TLS_DETACH)
		return alg_tls_detach(ctx, optval, optlen);
	if (level == SOL_TLS) {
		switch (optname) {
		case TLS_TX:
		case TLS_RX:
			return alg_tls_readback(ctx, optname, optval, optlen);
		case TLS_TX_MAX_PAYLOAD_LEN:
			return alg_tls_get_max(ctx, optval, optlen);
		}
	}
	return -ENOPROTOOPT;
}
