/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the transmit files of algif_tls share
 *
 * Why it exists: a half-sent record, a list of pending ones and the work queue
 * that would finish them are what make kernel TLS hard to leave again.  Here a
 * record is sealed only when TCP will take all of it:
 *
 *	1. check	error, shutdown, stranger, sequence number
 *	2. room		sk_stream_memory_free(), else wait or EAGAIN
 *	3. reserve	socket memory for record and skbs, output pages, input
 *			pages or a copy; each of them may fail, nothing is lost
 *	4. seal		the AEAD, always into private pages
 *	5. hand over	to TCP with its limits lifted, so that it cannot refuse
 *
 * all under the TCP lock, which is not given up between 2 and 5.  The sequence
 * number moves after 5.
 *
 *	tx_record.c	steps 3 to 5 of one record
 *	tx.c		steps 1 and 2, sendmsg, poll
 *	tx_splice.c	the open record: sendfile(2) and splice(2)
 *	tx_file.c	ALG_TLS_IOC_SENDFILE
 *
 * Memory
 *	input	pages of the caller: pinned for the call (sendmsg), in the pipe
 *		(the sendfile ioctl), or referenced by the open record
 *		(sendpage; later kernels splice by sendmsg, which copies).
 *		They are read, never written.  CCM reads its source
 *		twice, so there the text is copied first; small texts are copied
 *		because that is cheaper than pinning.  Copies are cleansed.
 *	output	pieces of the page_frag that TCP uses as well; ours until step
 *		5, when TCP takes its own references and we drop ours.
 *
 * -ENOBUFS never leaves these files: a reservation failed, nothing was done.
 */
#ifndef _ALG_TLS_TX_H
#define _ALG_TLS_TX_H

#include "alg_tls.h"

#define ALG_TLS_SRC		ALG_TLS_TX_PAGES /* text pages of a record */

/* Input pages of one record that are ours to release. */
struct alg_tls_in {
	unsigned int n;
	bool copy;			/* cleanse and free, else put */
	u16 used[ALG_TLS_SRC];		/* bytes of a copy */
	struct page *page[ALG_TLS_SRC];
};

static inline unsigned int tx_head(const struct alg_tls_dir *d)
{
	return ALG_TLS_HDR + alg_tls_explicit(d);
}

static inline unsigned int tx_type_len(const struct alg_tls_dir *d)
{
	return d->version == TLS_1_3_VERSION;
}

/* Bytes on the wire of a record with @len bytes of text. */
static inline unsigned int tx_wire_len(const struct alg_tls_dir *d,
				       unsigned int len)
{
	return tx_head(d) + len + tx_type_len(d) + ALG_TLS_TAG;
}

/* ---------------------------------------------------- tx_record.c --- */

/*
 * Reserve socket memory.  Nothing else can use it up before the hand-over: the
 * lock is held and the backlog is not worked off in between.
 */
bool alg_tls_tx_charge(struct sock *sk, unsigned int size);
/* Room for a record of @len bytes, whose text lies at @text in its page. */
bool alg_tls_out_alloc(struct alg_tls_ctx *ctx, struct alg_tls_out *out,
		       unsigned int len, unsigned int text);
void alg_tls_out_free(struct alg_tls_out *out);
void alg_tls_in_free(struct alg_tls_in *in);
/*
 * Seal src[1..n], @len bytes, into @out and hand it over.  The pages of @out
 * are released in any case, those of src never.  @flags: MSG_MORE; @push: let
 * TCP look at the wire.
 */
int alg_tls_tx_record(struct alg_tls_ctx *ctx, u8 type, unsigned int n,
		      unsigned int len, struct alg_tls_out *out, int flags,
		      bool push);

/* What was promised cannot be sent: TX is over, unlock resets.  -EPIPE. */
int alg_tls_tx_dead(struct alg_tls_ctx *ctx);

/* ----------------------------------------------------------- tx.c --- */

/* Can anything be sent at all?  As tcp_sendmsg() would see it. */
int alg_tls_tx_check(struct alg_tls_ctx *ctx);
/*
 * May a record begin?  Waits for it.  On success there is no open record, and
 * the lock was held since that was seen.
 */
int alg_tls_tx_ready(struct alg_tls_ctx *ctx, long *timeo);
/* After -ENOBUFS.  Returns 0: look again, from the check on. */
int alg_tls_tx_wait_memory(struct alg_tls_ctx *ctx, long *timeo);
/* Let TCP look at the wire after this record of @size bytes? */
bool alg_tls_tx_push_now(struct alg_tls_ctx *ctx, unsigned int size,
			 size_t *held);
/* What the caller is told: EPIPE raises SIGPIPE, or is sk_err. */
int alg_tls_tx_error(struct alg_tls_ctx *ctx, int flags, int err);

/* ---------------------------------------------------- tx_splice.c --- */

/* alg_tls_tx_flush() for a caller that can wait. */
int alg_tls_tx_flush_wait(struct alg_tls_ctx *ctx, long *timeo);

#endif /* _ALG_TLS_TX_H */
