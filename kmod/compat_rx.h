/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _ALG_TLS_COMPAT_RX_H
#define _ALG_TLS_COMPAT_RX_H

#include <linux/mm.h>
#include <linux/skbuff.h>
#include <linux/uio.h>
#include <linux/version.h>

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

#endif
