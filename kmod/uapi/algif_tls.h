/* SPDX-License-Identifier: ((GPL-2.0-only WITH Linux-syscall-note) OR MIT) */
/*
 * algif_tls.h - the userspace interface of the kernel TLS socket
 *
 * An AF_ALG socket of type "tls" is a TLS record layer (RFC 8446 §5, RFC 5246
 * §6.2) over a connected TCP socket.  The handshake stays in userspace; its
 * result - cipher, key, IV, next sequence number, per direction - is set with
 * one call, and from then on the *ALG* fd carries plaintext while TLS records
 * travel on the *TCP* socket.
 *
 *	parent = socket(AF_ALG, SOCK_SEQPACKET, 0);	once per process + cipher
 *	bind(parent, { "tls", "gcm(aes)" });		see ALG_TLS_NAMES below
 *	op = accept(parent);				per connection
 *	setsockopt(op, SOL_ALG, ALG_TLS_ATTACH, { fd, tx, rx });
 *	send/sendfile/splice/recv/poll(op);		plaintext
 *	getsockopt(op, SOL_ALG, ALG_TLS_DETACH, { dir });
 *
 * The structures and numbers of <linux/tls.h> are used wherever they exist:
 * struct tls12_crypto_info_*, TLS_TX, TLS_RX, TLS_SET_RECORD_TYPE,
 * TLS_GET_RECORD_TYPE, SOL_TLS (282).
 *
 * Names that bind() takes (fixed table; nothing else reaches the crypto API):
 *
 *	"gcm(aes)"		AES-128-GCM and AES-256-GCM
 *	"rfc5288(gcm(aes))"	the same, under the name of the 2015 RFC
 *	"rfc7539(chacha20,poly1305)"
 *	"ccm(aes)"		AES-128-CCM
 *
 * The keys are those of ATTACH; a cipher that is not the parent's is EINVAL.
 *
 * recvmsg() on the op
 *	without control buffer: stream semantics, application data only. The
 *	call returns the rest of a record read before, then as many further
 *	records as fit *whole*; only the first record of a call may leave a rest.
 *	with a control buffer: exactly one record (or the rest of one) per call,
 *	its content type in a TLS_GET_RECORD_TYPE cmsg at SOL_TLS.
 *	MSG_PEEK, MSG_DONTWAIT, MSG_WAITALL, MSG_NOSIGNAL are known, all other
 *	flags are EOPNOTSUPP.  MSG_PEEK shows one record; a data record becomes
 *	the rest by it, another one stays on the TCP socket.  MSG_WAITALL fills
 *	the buffer, so its last record may leave a rest too.  Empty data records
 *	are skipped.  FIONREAD on the op is the length of the rest.
 *	After a fault (EFAULT) nothing is lost.  Buffer bytes beyond the returned
 *	count may have been written to.
 *
 * poll() on the TCP fd reports a whole record, not a part of one: SO_RCVLOWAT
 *	of the TCP socket belongs to the op while RX is attached.  A value that
 *	the program sets meanwhile counts as a minimum and is left behind by
 *	detach.
 *
 * TCP urgent data is no part of the stream and is stepped over, as recv() does
 *	it; with SO_OOBINLINE on the TCP socket it is part of a record.
 *
 * sendmsg() on the op
 *	application data, cut into records of at most the attached tx_max; a
 *	TLS_SET_RECORD_TYPE cmsg sends one record of that type instead.
 *	MSG_MORE, MSG_DONTWAIT, MSG_NOSIGNAL are known, all others EOPNOTSUPP.
 *	A record is encrypted only when TCP takes all of it: a short count is a
 *	count of whole records, EAGAIN means nothing was encrypted and no
 *	sequence number was used.
 *
 * Errors, each with one meaning:
 *
 *	ENOTCONN	this direction is not attached
 *	EIO		a record that is not application data is next, and the
 *			caller gave no control buffer; it stays on the TCP socket
 *	EKEYEXPIRED	a KeyUpdate (TLS 1.2: ChangeCipherSpec) was taken: set the
 *			next key (TLS_RX) first.  Messages are followed across
 *			records, from the first record taken under this key.
 *			send: a KeyUpdate was sent, set the next key (TLS_TX)
 *	EBADMSG		the record's tag is wrong (sticky; nothing was consumed)
 *	EPROTO		not a TLS record of this version (sticky; not consumed)
 *	EMSGSIZE	record length out of range (sticky; not consumed), or a
 *			control record larger than tx_max was sent
 *	ESTALE		somebody else read or wrote the TCP socket, or reconnected
 *			it (sticky)
 *	ENODATA		FIN at a record border, and no close_notify before it
 *	ECONNABORTED	FIN inside a record (nothing consumed)
 *	0 (recv)	end of file after close_notify was taken
 *	EOVERFLOW	the sequence number would wrap
 *	EAGAIN, EPIPE, ECONNRESET, EINTR, ETIMEDOUT ... as TCP itself gives them
 */
#ifndef _UAPI_ALGIF_TLS_H
#define _UAPI_ALGIF_TLS_H

#include <linux/types.h>
#include <linux/tls.h>

#define ALG_TLS_TYPE		"tls"

/* Options at level SOL_ALG of the op socket. */
#define ALG_TLS_ATTACH		0x7401	/* set: struct alg_tls_attach */
#define ALG_TLS_DETACH		0x7402	/* get: struct alg_tls_detach */

/* Plaintext bytes per record at level SOL_TLS (int), as in mainline 6.19. */
#ifndef TLS_TX_MAX_PAYLOAD_LEN
#define TLS_TX_MAX_PAYLOAD_LEN	5
#endif

/* Room for the largest struct tls12_crypto_info_*, unused tail is zero. */
#define ALG_TLS_CRYPTO_INFO_SIZE 56

/**
 * struct alg_tls_attach - claim a TCP socket and install keys
 * @size: sizeof(struct alg_tls_attach)
 * @fd: connected TCP socket (ESTABLISHED or CLOSE_WAIT, same netns, unclaimed)
 * @flags: 0
 * @tx_max: plaintext bytes per sent record, 64..16384; 0 is 16384
 * @reserved: 0
 * @tx: struct tls12_crypto_info_* to send with; all zero: leave TX alone
 * @rx: the same to receive with
 *
 * rec_seq (and for TLS 1.2 AES: iv, the explicit nonce) are those of the next
 * record.  The second direction may be attached by a later call with the same
 * @fd; an op belongs to its first TCP socket for life.
 *
 * EBADF, ENOTSOCK, ESOCKTNOSUPPORT (not TCP), ENOTCONN (state), EXDEV (another
 * netns), EBUSY (claimed, or has a ULP, a psock or TCP_REPAIR), EALREADY
 * (direction attached), EINVAL (sizes, flags, cipher), EKEYREJECTED (the last
 * TX key again, with a sequence number or nonce that was already used).
 */
struct alg_tls_attach {
	__u32	size;
	__s32	fd;
	__u32	flags;
	__u16	tx_max;
	__u16	reserved;

	__u8	tx[ALG_TLS_CRYPTO_INFO_SIZE] __attribute__((aligned(8)));
	__u8	rx[ALG_TLS_CRYPTO_INFO_SIZE] __attribute__((aligned(8)));
};

/**
 * struct alg_tls_detach - give one direction back
 * @size: sizeof(struct alg_tls_detach)
 * @dir: in: TLS_TX or TLS_RX
 * @staged: in: buffer for wire bytes taken off TCP but not yet opened (RX)
 * @staged_len: in: room; out: bytes written; they precede what TCP still holds.
 *	17408 is always enough. Too little is ENOSPC: nothing was detached.
 * @reserved: 0
 * @rec_seq: out: sequence number of the next record, big endian
 * @nonce: out: explicit nonce of the next record (TLS 1.2 AES, TX), else 0
 *
 * Afterwards this direction of the TCP socket is plain TCP.  EBUSY: the rest
 * of a decrypted record is still unread.
 */
struct alg_tls_detach {
	__u32	size;
	__u32	dir;
	__aligned_u64	staged;
	__u32	staged_len;
	__u32	reserved;
	__u8	rec_seq[8];
	__u8	nonce[8];
};

/**
 * struct alg_tls_sendfile - sendfile() that fills whole records
 * @fd: regular file, or whatever sendfile(2) can read
 * @flags: MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL
 * @offset: in/out: position in @fd
 * @count: in: bytes to send; out: bytes sent
 *
 * ioctl(op, ALG_TLS_IOC_SENDFILE, &arg) returns the bytes sent, as @count, or an
 * error when nothing was sent.  If the structure can no longer be written when
 * they are, the result alone tells.  sendfile(2) and splice(2) work too; this
 * call needs no pipe of one page per turn.
 */
struct alg_tls_sendfile {
	__s32	fd;
	__u32	flags;
	__aligned_u64	offset;
	__u64	count;
};

#define ALG_TLS_IOC_SENDFILE	_IOWR(0xA7, 1, struct alg_tls_sendfile)

#endif /* _UAPI_ALGIF_TLS_H */
