/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between the kernels that we build for
 *
 * Why it exists: the sources are written for one kernel interface; this file
 * bends the others to it, and nothing else in the tree looks at the kernel's
 * version.  What cannot be told by version (distributions and stable trees
 * backport) is probed by Kbuild in the header text.
 */
#ifndef _ALG_TLS_COMPAT_H
#define _ALG_TLS_COMPAT_H

#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/skbuff.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <linux/version.h>
#include <net/tcp.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "algif_tls needs Linux 6.1 or later"
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 4, 0)
#error "algif_tls was never built on so new a kernel"
#endif
#ifndef ALG_TLS_HAVE_SPLICE_EOF
#error "this kernel lacks sock->ops->splice_eof (6.1 stable has it since 2026)"
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#include <net/rps.h>
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

void *alg_tls_do_bind(const char *name);

/* af_alg_type.bind() lost type and mask in 7.2. */
#ifdef ALG_TLS_BIND_NAME_ONLY
static inline void *alg_tls_bind(const char *name)
{
	return alg_tls_do_bind(name);
}
#else
static inline void *alg_tls_bind(const char *name, u32 type, u32 mask)
{
	return alg_tls_do_bind(name);
}
#endif

/* A reference to a file that may be on its way out. */
static inline bool alg_tls_file_tryget(struct file *file)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	return file_ref_get(&file->f_ref);
#else
	return atomic_long_inc_not_zero(&file->f_count);
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#define alg_tls_fd_file(fd)	fd_file(fd)
#else
#define alg_tls_fd_file(fd)	((fd).file)
#endif

/*
 * Hand a piece of a private page to TCP, by reference.  @flags: MSG_MORE,
 * MSG_DONTWAIT, MSG_NOSIGNAL; @push: let TCP look whether it can send.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
#define ALG_TLS_OPS_SENDPAGE	.sendpage = alg_tls_sendpage,
#define ALG_TLS_SENDPAGE	1
#define ALG_TLS_MSG_SPLICE	0

static inline int alg_tls_tcp_piece(struct sock *sk, const struct bio_vec *bv,
				    int flags, bool push)
{
	if (!push)
		flags |= MSG_SENDPAGE_NOTLAST | MSG_MORE;
	return tcp_sendpage_locked(sk, bv->bv_page, bv->bv_offset, bv->bv_len,
				   flags | MSG_NO_SHARED_FRAGS);
}
#else
#define ALG_TLS_OPS_SENDPAGE
#define ALG_TLS_SENDPAGE	0
#define ALG_TLS_MSG_SPLICE	MSG_SPLICE_PAGES
#define MSG_SENDPAGE_NOTLAST	0
#ifndef MSG_NO_SHARED_FRAGS
#define MSG_NO_SHARED_FRAGS	0
#endif

static inline int alg_tls_tcp_piece(struct sock *sk, const struct bio_vec *bv,
				    int flags, bool push)
{
	struct msghdr msg = {
		.msg_flags = flags | MSG_SPLICE_PAGES | MSG_NO_SHARED_FRAGS |
			     (push ? 0 : MSG_MORE),
	};

	iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, bv, 1, bv->bv_len);
	return tcp_sendmsg_locked(sk, &msg, bv->bv_len);
}
#endif

/*
 * Pin the pages of the reader's next piece of memory for writing (rx_record.c).
 * Pinned, not referenced: after a fork the reader must see what we write.
 * Advances the iterator; returns the bytes, which are contiguous in @pages.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline ssize_t alg_tls_iter_pin(struct iov_iter *it, struct page **pages,
				       size_t max, unsigned int room,
				       size_t *off)
{
	size_t len = min(iov_iter_count(it), max);
	unsigned long addr;
	int n;

	if (iter_is_ubuf(it)) {
		addr = (unsigned long)it->ubuf + it->iov_offset;
	} else {
		const struct iovec *iov = it->iov;
		size_t skip = it->iov_offset;

		for (; len && iov->iov_len == skip; iov++)
			skip = 0;
		addr = (unsigned long)iov->iov_base + skip;
		len = min(len, iov->iov_len - skip);
	}
	*off = offset_in_page(addr);
	n = min_t(size_t, DIV_ROUND_UP(*off + len, PAGE_SIZE), room);
	if (!n)
		return -EFAULT;
	n = pin_user_pages_fast(addr & PAGE_MASK, n, FOLL_WRITE, pages);
	if (n <= 0)
		return n ?: -EFAULT;
	len = min_t(size_t, len, n * PAGE_SIZE - *off);
	iov_iter_advance(it, len);
	return len;
}
#else
static inline ssize_t alg_tls_iter_pin(struct iov_iter *it, struct page **pages,
				       size_t max, unsigned int room,
				       size_t *off)
{
	if (!room)
		return -EFAULT;
	return iov_iter_extract_pages(it, &pages, max, room, 0, off);
}
#endif

/* Device memory (6.12) has no kernel address: such an skb cannot be opened. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
static inline bool alg_tls_skb_readable(const struct sk_buff *skb)
{
	return true;
}
#else
static inline bool alg_tls_skb_readable(const struct sk_buff *skb)
{
	return skb_frags_readable(skb);
}
#endif

#endif /* _ALG_TLS_COMPAT_H */
