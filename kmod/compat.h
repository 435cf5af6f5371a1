/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - every difference between the kernels that we build for
 *
 * The sources are written for one kernel interface; this file bends the others
 * to it, and nothing else in the tree looks at LINUX_VERSION_CODE.
 */
#ifndef _ALG_TLS_COMPAT_H
#define _ALG_TLS_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "algif_tls needs Linux 6.1 or later"
#endif

#endif /* _ALG_TLS_COMPAT_H */
