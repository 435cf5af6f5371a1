/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bugs on purpose
 *
 * Why it exists: a fuzzer that finds nothing may be blind.  A module built with
 * -DALG_TLS_PLANTED commits the one bug that its parameter plant= names, at one
 * line each, and the fuzzer has to find it ("cargo xtask fuzz --planted").  In
 * every other build each such line is a test of the constant false.
 */
#ifndef _ALG_TLS_PLANTED_H
#define _ALG_TLS_PLANTED_H

#ifdef ALG_TLS_PLANTED
#include <linux/string.h>

extern char *alg_tls_plant;	/* core.c */

#define alg_tls_planted(name)	unlikely(!strcmp(alg_tls_plant, name))
#else
#define alg_tls_planted(name)	false
#endif

#endif /* _ALG_TLS_PLANTED_H */
