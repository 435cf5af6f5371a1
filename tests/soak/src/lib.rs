// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does a program notice the shim? Random programs say no, or show where.
//!
//! ```text
//!   program.rs   what two ends of a connection do, made from a seed
//!   run.rs       runs it: two endpoint processes, in lockstep, over relay.rs
//!   single.rs    ... the operations of one end
//!   phases.rs    ... and those of both at once
//!   relay.rs     the wire: captures, re-cuts, stalls and damages the TCP stream
//!   oracle.rs    decrypts the capture: every record, every number, every nonce
//!   soak.rs      four lanes (none, one, the other, both ends shimmed), compared;
//!                shrinks what differs (shrink.rs); counts (tally.rs)
//! ```
//!
//! `planted.rs` turns it round: a shim with a fault on purpose must be found out.
//!
//! # What is compared
//! After each operation: return value, `SSL_get_error`, errno when that says
//! SYSCALL, the error queue, `SSL_get_shutdown`, `SSL_want`, `SSL_pending`,
//! `SSL_in_init`, `SSL_renegotiate_pending`, `SSL_get_key_update_type`, the
//! handshake state, how many bytes moved and whether they were the peer's.
//!
//! # What is not, and why
//! * How often a loop of reads or writes had to wait, and how many bytes each of its
//!   calls moved: TCP's affair. The sum is compared.
//! * One SSL_read with a buffer of 16 KiB or more: the shim may return several
//!   records (it never leaves less to wake on). Such reads are loops here.
//! * Everything but sums and errors in phases in which both ends run at once.
//! * `SSL_pending` after `SSL_sendfile`, which the kernel may cut differently; and
//!   while a tiny receive buffer keeps part of the stream away from the reader.
//! * Two threads in one SSL without a lock: they race for its state in OpenSSL itself.
//!   With one their sums are compared, and `SSL_want` only once one thread is left.
//! * What an object does that SSL_clear has cleared after early data: OpenSSL fails its
//!   next handshake.
//! * Single reads with read-ahead and without AUTO_RETRY: OpenSSL returns after a ticket, but not
//!   if it has read more already, and the shim does not read ahead.
//! * Clear text after the shutdown, if an end answered a KeyUpdate or a certificate request after its
//!   own close_notify: OpenSSL leaves those records to the program, the shim takes them off the wire.
//! * Close and RST while data waits for room at the other end (a FIN instead), anything at once in
//!   the middle of a renegotiation, and what comes after a second handshake that failed.
//! * `SSL_has_pending` for bytes of an incomplete record and for read-ahead: they
//!   stay on the socket under the shim, a documented deviation.

pub mod counters;
pub mod endpoint;
pub mod generate;
pub mod oracle;
mod phases;
pub mod planted;
pub mod program;
pub mod relay;
pub mod rng;
pub mod run;
pub mod schedule;
pub mod shrink;
mod single;
pub mod soak;
pub mod tally;
