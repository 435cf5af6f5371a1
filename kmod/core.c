// SPDX-License-Identifier: GPL-2.0-only
/*
 * The AF_ALG type "tls": life of an op socket, and the rules that
 * transmit and receive share
 *
 * Why it exists: it owns struct alg_tls_ctx (see alg_tls.h for the memory and
 * lock story): accept() makes it, release() ends the claim on the TCP socket,
 * the sock's destructor frees it.
 *
 * Who may use it is decided at bind(), with the credentials of the binder, and
 * travels with the fd after that: a server binds its parent sockets as root and
 * passes the right on to workers without privilege.  By default only a process
 * with CAP_NET_ADMIN in the *initial* user namespace may bind; the module
 * parameter gid= admits a group, unprivileged=1 everybody.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <asm/ioctls.h>

#include "alg_tls.h"

static bool unprivileged;
module_param(unprivileged, bool, 0644);
MODULE_PARM_DESC(unprivileged, "Let every process bind a TLS socket (default: no)");

static int gid = -1;
module_param(gid, int, 0644);
MODULE_PARM_DESC(gid, "Group that may bind a TLS socket (default: -1, none)");

#ifdef ALG_TLS_PLANTED
char *alg_tls_plant = "";
module_param_named(plant, alg_tls_plant, charp, 0444);
MODULE_PARM_DESC(plant, "The bug to commit (planted.h)");
#endif

static const struct alg_tls_name alg_tls_names[] = {
	{ "gcm(aes)", { TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_256 } },
	{ "rfc5288(gcm(aes))",
	  { TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_256 } },
	{ "rfc7539(chacha20,poly1305)", { TLS_CIPHER_CHACHA20_POLY1305 } },
	{ "ccm(aes)", { TLS_CIPHER_AES_CCM_128 } },
};

/* ------------------------------------------------- rules for rx and tx --- */

int alg_tls_count_err(struct alg_tls_ctx *ctx, int err)
{
	switch (err) {
	case -EIO:
		alg_tls_stat_inc(ctx, ERRCONTROL);
		break;
	case -EKEYEXPIRED:
		alg_tls_stat_inc(ctx, ERRKEY);
		break;
	case -EBADMSG:
		alg_tls_stat_inc(ctx, ERRTAG);
		break;
	case -EPROTO:
		alg_tls_stat_inc(ctx, ERRPROTO);
		break;
	case -EMSGSIZE:
		alg_tls_stat_inc(ctx, ERRLEN);
		break;
	case -ESTALE:
		alg_tls_stat_inc(ctx, ERRSTALE);
		break;
	case -ENODATA:
		alg_tls_stat_inc(ctx, ERRNOCLOSE);
		break;
	case -ECONNABORTED:
		alg_tls_stat_inc(ctx, ERRCUT);
		break;
	case -EOVERFLOW:
		alg_tls_stat_inc(ctx, ERRWRAP);
		break;
	case -EKEYREJECTED:
		alg_tls_stat_inc(ctx, ERRREUSE);
		break;
	}
	return err;
}

int alg_tls_fail(struct alg_tls_ctx *ctx, struct alg_tls_dir *d, int err)
{
	if (!alg_tls_planted("sticky"))
		d->err = err;
	if (d == &ctx->rxd)
		alg_tls_rx_failed(ctx);
	/* who sleeps waits for what will not come */
	alg_tls_wake(ctx);
	return alg_tls_count_err(ctx, err);
}

int alg_tls_check(struct alg_tls_ctx *ctx, struct alg_tls_dir *d)
{
	struct sock *sk = ctx->sk;
	struct tcp_sock *tp = tcp_sk(sk);

	if (!d->on)
		return -ENOTCONN;
	if (d->err)
		return d->err;
	if (!ctx->claimed || !sk->sk_socket)
		return d == &ctx->txd ? -EPIPE : -ENOTCONN;
	if (sk->sk_disconnects != ctx->disconnects || tp->repair)
		return alg_tls_fail(ctx, d, -ESTALE);
	if (d == &ctx->rxd)
		return alg_tls_rx_in_step(ctx) ?
			0 : alg_tls_fail(ctx, d, -ESTALE);
	/* a FIN takes a number too; the sender gets EPIPE for it */
	if (!(sk->sk_shutdown & SEND_SHUTDOWN) &&
	    ctx->tx.write_seq != tp->write_seq)
		return alg_tls_fail(ctx, d, -ESTALE);
	return 0;
}

int alg_tls_lock(struct alg_tls_ctx *ctx, struct alg_tls_dir *d)
{
	struct sock *sk = alg_tls_sk(ctx);
	int err;

	if (!sk)
		return -ENOTCONN;
	sock_rps_record_flow(sk);
	lock_sock(sk);
	err = alg_tls_check(ctx, d);
	/* opened before the error, so delivered before it */
	if (d == &ctx->rxd && d->err && ctx->rx.rest_len)
		err = 0;
	if (err)
		release_sock(sk);
	return err;
}

void alg_tls_unlock(struct alg_tls_ctx *ctx)
{
	release_sock(ctx->sk);
}

int alg_tls_breathe(struct alg_tls_ctx *ctx, struct alg_tls_dir *d,
		    size_t *since)
{
	if (*since < ALG_TLS_BREATH)
		return 0;
	*since = 0;
	cond_resched();
	if (!sk_flush_backlog(ctx->sk))
		return 0;
	return alg_tls_check(ctx, d);
}

/*
 * While the TCP lock is held and sk_socket is set, close() of the TCP socket
 * has not got past it, so sock->file points to a file that is at worst on its
 * way out (count 0), never to a freed one.
 */
struct file *alg_tls_file_get(struct alg_tls_ctx *ctx)
{
	struct socket *sock = ctx->sk->sk_socket;
	struct file *file;

	if (!sock)
		return NULL;
	file = READ_ONCE(sock->file);
	return file && alg_tls_file_tryget(file) ? file : NULL;
}

bool alg_tls_nonblock(struct alg_tls_ctx *ctx, int flags)
{
	struct socket *sock = ctx->sk->sk_socket;
	struct file *file;

	if (flags & MSG_DONTWAIT)
		return true;
	file = sock ? READ_ONCE(sock->file) : NULL;
	return file && READ_ONCE(file->f_flags) & O_NONBLOCK;
}

int alg_tls_wait(struct alg_tls_ctx *ctx, struct alg_tls_dir *d, long *timeo)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	bool rx = d == &ctx->rxd;
	struct sock *sk = ctx->sk;
	struct file *file;

	if (!*timeo)
		return -EAGAIN;
	if (signal_pending(current))
		return sock_intr_errno(*timeo);
	file = alg_tls_file_get(ctx);
	if (!file)
		return rx ? -ENOTCONN : -EPIPE;

	add_wait_queue(sk_sleep(sk), &wait);
	if (rx) {
		sk_set_bit(SOCKWQ_ASYNC_WAITDATA, sk);
	} else {
		set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
		sk->sk_write_pending++;
	}
	/*
	 * The backlog is worked off by release_sock(); what it wakes is seen by
	 * wait_woken(), because we are on the queue already.
	 */
	release_sock(sk);
	*timeo = wait_woken(&wait, TASK_INTERRUPTIBLE, *timeo);
	sched_annotate_sleep();
	lock_sock(sk);
	if (rx)
		sk_clear_bit(SOCKWQ_ASYNC_WAITDATA, sk);
	else
		sk->sk_write_pending--;
	remove_wait_queue(sk_sleep(sk), &wait);
	fput(file);
	return alg_tls_check(ctx, d);
}

void alg_tls_wake(struct alg_tls_ctx *ctx)
{
	struct socket *sock = SOCKET_I(ctx->inode);

	if (alg_tls_planted("wake"))
		return;
	wake_up_interruptible_all(&sock->wq.wait);
}

/*
 * The byte stream has a hole in one direction, and nobody may go on with it.
 * tcp_abort() would leave what is queued behind the hole to be read.  An
 * orphan has no reader, and is no longer ours to disconnect.
 */
void alg_tls_reset(struct sock *sk)
{
	if (!sk->sk_socket || sk->sk_state == TCP_CLOSE)
		return;
	sk->sk_disconnects++;
	sk->sk_prot->disconnect(sk, 0);
}

/* ------------------------------------------------------------ the claim --- */

/*
 * The TCP sock is destroyed: by its owner or in softirq, in both cases under
 * the TCP lock.  The caller drops the module reference of the claim.  Pollers
 * of the op must learn of it here: close() of the TCP fd wakes nobody.
 */
static void alg_tls_ulp_release(struct sock *sk)
{
	struct alg_tls_ctx *ctx;

	ctx = rcu_dereference_protected(inet_csk(sk)->icsk_ulp_data, true);
	if (!ctx)
		return;
	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, NULL);
	ctx->claimed = false;
	ctx->gone = true;
	alg_tls_wake(ctx);
}

/* Never registered: the only way in is ALG_TLS_ATTACH. */
struct tcp_ulp_ops alg_tls_ulp_ops __read_mostly = {
	.name		= "alg_tls",
	.owner		= THIS_MODULE,
	.release	= alg_tls_ulp_release,
};

/* ---------------------------------------------------------- proto_ops --- */

static int alg_tls_release(struct socket *sock)
{
	/* accept() that failed has a sock, but no ctx yet */
	if (sock->sk && alg_tls_ctx(sock))
		alg_tls_unclaim(alg_tls_ctx(sock));
	return af_alg_release(sock);
}

static __poll_t alg_tls_poll(struct file *file, struct socket *sock,
			     poll_table *wait)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	struct sock *sk = alg_tls_sk(ctx);
	__poll_t mask = 0;

	if (!sk)
		return EPOLLERR | EPOLLHUP;
	/* the queue lives in the inode, which we hold, not in the sock */
	sock_poll_wait(file, SOCKET_I(ctx->inode), wait);
	/* as tcp_poll() has it: both ends closed, or reset */
	if (READ_ONCE(sk->sk_shutdown) == SHUTDOWN_MASK ||
	    inet_sk_state_load(sk) == TCP_CLOSE)
		mask |= EPOLLHUP;
	return mask | alg_tls_poll_in(ctx) | alg_tls_poll_out(ctx);
}

static int alg_tls_ioctl(struct socket *sock, unsigned int cmd,
			 unsigned long arg)
{
	struct alg_tls_ctx *ctx = alg_tls_ctx(sock);
	int n = 0;

	switch (cmd) {
	case ALG_TLS_IOC_SENDFILE:
		return alg_tls_sendfile(ctx, (void __user *)arg);
	case FIONREAD:
		if (alg_tls_sk(ctx)) {
			lock_sock(ctx->sk);
			n = alg_tls_rx_inq(ctx);
			release_sock(ctx->sk);
		}
		return put_user(n, (int __user *)arg);
	}
	return -ENOIOCTLCMD;
}

#ifdef CONFIG_COMPAT
static int alg_tls_compat_ioctl(struct socket *sock, unsigned int cmd,
				unsigned long arg)
{
	return alg_tls_ioctl(sock, cmd, (unsigned long)compat_ptr(arg));
}
#endif

/* af_alg sets .owner: a struct proto_ops that cannot be const. */
static typeof(*((struct af_alg_type *)NULL)->ops) alg_tls_ops = {
	.family		= PF_ALG,
	.connect	= sock_no_connect,
	.socketpair	= sock_no_socketpair,
	.getname	= sock_no_getname,
	.listen		= sock_no_listen,
	.shutdown	= sock_no_shutdown,
	.mmap		= sock_no_mmap,
	.bind		= sock_no_bind,
	.accept		= sock_no_accept,

	.release	= alg_tls_release,
	.poll		= alg_tls_poll,
	.ioctl		= alg_tls_ioctl,
#ifdef CONFIG_COMPAT
	.compat_ioctl	= alg_tls_compat_ioctl,
#endif
	.setsockopt	= alg_tls_setsockopt,
	.getsockopt	= alg_tls_getsockopt,
	.sendmsg	= alg_tls_sendmsg,
	ALG_TLS_OPS_SENDPAGE
	.splice_eof	= alg_tls_splice_eof,
	.recvmsg	= alg_tls_recvmsg,
	.splice_read	= alg_tls_splice_read,
};

/* ----------------------------------------------------------- af_alg type --- */

static bool alg_tls_may_bind(void)
{
	int group = READ_ONCE(gid);

	if (READ_ONCE(unprivileged))
		return true;
	if (group >= 0 && in_egroup_p(make_kgid(&init_user_ns, group)))
		return true;
	return capable(CAP_NET_ADMIN);
}

void *alg_tls_do_bind(const char *name)
{
	unsigned int i;

	if (!alg_tls_may_bind())
		return ERR_PTR(-EPERM);
	for (i = 0; i < ARRAY_SIZE(alg_tls_names); i++)
		if (!strcmp(alg_tls_names[i].name, name))
			return (void *)&alg_tls_names[i];
	return ERR_PTR(-ENOENT);
}

/* @private of the parent is a line of the table. */
static void alg_tls_release_name(void *private)
{
}

static void alg_tls_destruct(struct sock *sk)
{
	struct alg_tls_ctx *ctx = alg_sk(sk)->private;

	alg_tls_stat_dec(ctx, OPS);
	sock_kzfree_s(sk, ctx, sizeof(*ctx));
	af_alg_release_parent(sk);
}

/* Under the parent's lock, which all workers share: no more than this. */
static int alg_tls_accept(void *private, struct sock *sk)
{
	struct alg_tls_ctx *ctx;

	ctx = sock_kmalloc(sk, sizeof(*ctx), GFP_KERNEL);
	if (!ctx)
		return -ENOMEM;
	memset(ctx, 0, sizeof(*ctx));
	ctx->op = sk;
	ctx->mib = alg_tls_mib(sock_net(sk));
	ctx->name = private;
	mutex_init(&ctx->ctl);
	alg_tls_stat_inc(ctx, OPS);

	alg_sk(sk)->private = ctx;
	sk->sk_destruct = alg_tls_destruct;
	return 0;
}

static const struct af_alg_type alg_tls_type = {
	.bind		= alg_tls_bind,
	.release	= alg_tls_release_name,
	.accept		= alg_tls_accept,
	.ops		= &alg_tls_ops,
	.name		= ALG_TLS_TYPE,
	.owner		= THIS_MODULE,
};

static int __init alg_tls_init(void)
{
	int err;

	alg_tls_cipher_init();
	err = alg_tls_stat_init();
	if (err)
		return err;
	err = af_alg_register_type(&alg_tls_type);
	if (err)
		goto err_stat;
	return 0;

err_stat:
	alg_tls_stat_exit();
	return err;
}

static void __exit alg_tls_exit(void)
{
	int err = af_alg_unregister_type(&alg_tls_type);

	WARN_ON_ONCE(err);
	alg_tls_stat_exit();
}

module_init(alg_tls_init);
module_exit(alg_tls_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("AF_ALG socket type \"tls\": TLS records over a TCP socket");
