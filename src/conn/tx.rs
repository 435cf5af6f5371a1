//! Sending: the fast lane, and the virtual wire from OpenSSL.
//!
//! ```text
//!  SSL_write ─ fast: plaintext ──────────────────────▶ op socket ─▶ TCP
//!  libssl ─▶ BIO ─▶ libc write ─▶ `partial` ─ opened under OpenSSL's write key
//!            and number ─▶ one record of that type ──▶ op socket ─▶ TCP
//! ```
//!
//! One line is never crossed: while the kernel has this direction, a record that
//! OpenSSL sealed does not reach the TCP fd; it would repeat a key and nonce that
//! are on the wire already. What cannot be translated ends the connection.
//!
//! Memory: `WriteSide` owns the buffers, as `ReadSide` does.

use core::sync::atomic::Ordering;

use super::rx::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, KEY_UPDATE, PLAIN_MAX, SEALED_MAX, sized,
};
use super::{ConnId, Connection, Dir, Half, Lane, mark};
use crate::backend::{Backend, alg, sys};
use crate::errno;
use crate::keys::Version;
use crate::planted::{self, Plant};
use crate::reason::Reason;
use crate::record::cipher::RecordCipher;
use crate::record::messages::Messages;
use crate::record::stream::Stream;
use crate::{boundary, thread};

const HEADER: usize = 5;

/// A running digest of the handshake bytes: equal streams, equal digest. It
/// finds a BIO that reorders or rewrites; it is no defence against an attacker,
/// who could not touch these bytes without breaking the handshake itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

pub struct WriteSide {
    /// Records as OpenSSL produces them.
    pub trace: Stream,
    pub produced: Digest,
    pub carried: Digest,
    /// An unfinished record from OpenSSL, already accepted from its BIO.
    partial: Vec<u8>,
    /// Its plaintext.
    opened: Vec<u8>,
    cipher: Option<RecordCipher>,
    /// OpenSSL's next write sequence number.
    pub seq: u64,
    messages: Messages,
    /// The thread that is in the kernel with `opened`, or 0.
    sending: usize,
    /// The kernel refused the record `seq` for good. OpenSSL may repeat it, or go on
    /// with the next one: it does when a ticket meets a connection that was reset.
    refused: bool,
    /// File bytes that SSL_sendfile read and OpenSSL has not accepted yet.
    pub file: Vec<u8>,
    pub file_at: usize,
}

impl WriteSide {
    pub const fn new() -> Self {
        Self {
            trace: Stream::new(),
            produced: Digest::new(),
            carried: Digest::new(),
            partial: Vec::new(),
            opened: Vec::new(),
            cipher: None,
            seq: 0,
            messages: Messages::new(),
            sending: 0,
            refused: false,
            file: Vec::new(),
            file_at: 0,
        }
    }

    pub fn wipe(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.opened);
        zeroize::Zeroize::zeroize(&mut self.file);
        *self = Self::new();
    }

    /// The kernel takes over: OpenSSL's next record has this number.
    pub fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.cipher = None;
        self.refused = false;
        self.messages = Messages::new();
        self.partial.clear();
        self.trace.forget();
    }
}

/// A thread that is cancelled while the kernel has its record: whether it went out,
/// nobody knows.
struct Unfinished<'a>(&'a Connection);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.poison(Reason::Abandoned);
    }
}

/// How the record that just became whole fared.
enum Sent {
    Yes,
    /// Sent, and the direction is raw from the next byte (TLS 1.2 CCS).
    Last,
}

impl Connection {
    /// libc's write family on the sending fd, in any lane.
    pub fn libc_send(
        &self,
        id: ConnId,
        fd: i32,
        iov: &[libc::iovec],
        flags: i32,
        real: &dyn Fn() -> isize,
    ) -> isize {
        if self.tx.lane() == Lane::Kernel && self.tx.closed.load(Ordering::Acquire) {
            // Clear text follows close_notify; a record of OpenSSL's must not: its
            // number may be one that the kernel used. No peer looks at what follows (it
            // would be the answer to a KeyUpdate, or an alert), so OpenSSL may believe
            // it sent, as long as the socket takes anything.
            // (Without a frame they come from a BIO that buffers. What went through a BIO of
            // type SSL was never counted: there the count tells nothing.)
            let buffered = !self.is(mark::SSL_BIO) && !self.tx.level();
            if buffered || thread::top().is_some_and(|frame| frame.conn == id) {
                let n = iov
                    .iter()
                    .fold(0usize, |sum, piece| sum.saturating_add(piece.iov_len));
                return match sys::can_send(fd) {
                    Ok(()) => {
                        Half::add(&self.tx.left, n);
                        n as isize
                    }
                    Err(e) => send_error(e, flags),
                };
            }
            if let Some(mut side) = self.write.lock() {
                self.detach_tx(&mut side, Lane::Raw, Reason::CloseNotify);
            }
        }
        if self.tx.lane() == Lane::Kernel {
            return self.virtual_send(id, iov, flags);
        }
        let carried = |n: isize| {
            if self.tx.lane() != Lane::Watch {
                return;
            }
            Half::add(&self.tx.left, n as usize);
            if !self.tx.was_kernel.load(Ordering::Acquire)
                && let Some(mut side) = self.write.lock()
            {
                digest_iov(&mut side.carried, iov, n as usize);
            }
        };
        match self.tx.raw_call(real, carried) {
            Some(n) => n,
            None => self.virtual_send(id, iov, flags),
        }
    }

    fn virtual_send(&self, id: ConnId, iov: &[libc::iovec], flags: i32) -> isize {
        let full = thread::with_top(|f| if f.conn == id { f.write_errno } else { 0 }).unwrap_or(0);
        if full != 0 {
            return send_error(full, flags);
        }
        // A shim that has panicked can no longer vouch for its translation.
        if boundary::broken() {
            self.poison(Reason::Panic);
            return send_error(libc::EPIPE, flags);
        }
        let mut accepted = 0usize;
        for piece in iov {
            if piece.iov_len == 0 {
                continue;
            }
            if piece.iov_base.is_null() {
                return send_error(libc::EFAULT, flags);
            }
            // SAFETY: the caller of write/send handed this memory over for reading.
            let chunk =
                unsafe { core::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) };
            match self.translate(chunk, flags, &mut accepted) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if accepted > 0 => break,
                Err(e) => return send_error(e, flags),
            }
        }
        Half::add(&self.tx.left, accepted);
        accepted as isize
    }

    /// Takes bytes of OpenSSL's record stream. `accepted` grows by what is the
    /// shim's now. Ok(false): stop here, the rest is not for the kernel.
    fn translate(&self, mut chunk: &[u8], flags: i32, accepted: &mut usize) -> Result<bool, i32> {
        while !chunk.is_empty() {
            let mut side = self.write.lock().ok_or(libc::EAGAIN)?;
            if self.dead.load(Ordering::Acquire) {
                return Err(libc::EPIPE);
            }
            if side.sending == thread::identity() {
                // This thread left the kernel by a jump: did the record go out?
                drop(side);
                self.poison(Reason::Abandoned);
                return Err(libc::EPIPE);
            }
            if side.sending != 0 {
                return Err(libc::EAGAIN);
            }
            let before = side.partial.len();
            let mut taken = 0;
            let mut whole = false;
            loop {
                let have = side.partial.len();
                let goal = match side.partial.get(3..HEADER) {
                    Some(&[hi, lo]) => HEADER + usize::from(u16::from_be_bytes([hi, lo])),
                    _ => HEADER,
                };
                if goal > SEALED_MAX + 256 {
                    drop(side);
                    self.poison(Reason::Stranger);
                    return Err(libc::EPIPE);
                }
                if have >= HEADER && have == goal {
                    whole = true;
                    break;
                }
                let rest = chunk.get(taken..).unwrap_or_default();
                let n = rest.len().min(goal - have);
                if n == 0 {
                    break;
                }
                if side.partial.try_reserve(n).is_err() {
                    side.partial.truncate(before);
                    return Err(libc::ENOMEM);
                }
                side.partial
                    .extend_from_slice(rest.get(..n).unwrap_or_default());
                taken += n;
            }
            self.tx.wire_busy.store(true, Ordering::Release);
            if !whole {
                *accepted += taken;
                return Ok(true);
            }
            drop(side);
            let sent = self.forward(flags);
            let Some(mut side) = self.write.lock() else {
                self.poison(Reason::Panic);
                return Err(libc::EPIPE);
            };
            match sent {
                Ok(outcome) => {
                    side.partial.clear();
                    self.tx.wire_busy.store(false, Ordering::Release);
                    *accepted += taken;
                    chunk = chunk.get(taken..).unwrap_or_default();
                    if matches!(outcome, Sent::Last) {
                        return Ok(false);
                    }
                }
                Err(e) => {
                    // The piece that completes a record is accepted only when the
                    // kernel took the record.
                    side.partial.truncate(before);
                    self.tx.wire_busy.store(before != 0, Ordering::Release);
                    return Err(e);
                }
            }
        }
        Ok(true)
    }

    /// `partial` is one whole record: opens it and lets the kernel send it.
    fn forward(&self, flags: i32) -> Result<Sent, i32> {
        let mut side = self.write.lock().ok_or(libc::EAGAIN)?;
        let Some((kind, n)) = self.open(&mut side) else {
            drop(side);
            self.poison(Reason::Stranger);
            return Err(libc::EPIPE);
        };
        if kind == DATA
            && n == 1
            && self.swallow.swap(false, Ordering::AcqRel)
            && !planted::is(Plant::KeepPlaceholder)
        {
            side.seq = side.seq.wrapping_add(1);
            return Ok(Sent::Yes);
        }
        let opened = core::mem::take(&mut side.opened);
        side.sending = thread::identity();
        drop(side);
        let unfinished = Unfinished(self);
        let payload = opened.get(..n).unwrap_or_default();
        let op = self.tx.op.load(Ordering::Acquire);
        // OpenSSL sends an empty data record only as a padding trick of CBC
        // suites; the kernel merges data anyway, so there is nothing to send.
        let got = if kind == DATA && n == 0 {
            Ok(0)
        } else {
            let flags = (flags & libc::MSG_DONTWAIT) | libc::MSG_NOSIGNAL;
            let send = || alg().send_record(op, kind, payload, flags);
            match send() {
                // How long a record may be is OpenSSL's to say, and here it has said it.
                Err(libc::EMSGSIZE) if n <= PLAIN_MAX => {
                    self.limit_records(n as u16).and_then(|()| send())
                }
                got => got,
            }
        };
        let Some(mut side) = self.write.lock() else {
            self.poison(Reason::Panic);
            return Err(libc::EPIPE);
        };
        core::mem::forget(unfinished);
        side.sending = 0;
        let outcome = match got {
            Ok(_) => self.sent(&mut side, kind, payload),
            Err(e) => {
                side.refused = e != libc::EAGAIN && e != libc::EINTR;
                Err(e)
            }
        };
        side.opened = opened;
        outcome
    }

    /// Tells the kernel how much plaintext a record may hold.
    pub fn limit_records(&self, size: u16) -> Result<(), i32> {
        alg().set_tx_max(self.tx.op.load(Ordering::Acquire), size)?;
        self.record.store(usize::from(size), Ordering::Relaxed);
        Ok(())
    }

    fn open(&self, side: &mut WriteSide) -> Option<(u8, usize)> {
        if side.cipher.is_none() {
            side.cipher = Some(self.virtual_cipher(Dir::Tx)?);
        }
        let mut opened = sized(core::mem::take(&mut side.opened), PLAIN_MAX + 512)?;
        let cipher = side.cipher.as_mut()?;
        let mut found = cipher.open(side.seq, &side.partial, &mut opened);
        if found.is_err() && core::mem::take(&mut side.refused) {
            side.seq = side.seq.wrapping_add(1);
            found = cipher.open(side.seq, &side.partial, &mut opened);
        }
        side.opened = opened;
        found.ok().map(|record| (record.kind, record.len))
    }

    /// The record is on its way: what does it mean for the kernel's keys?
    fn sent(&self, side: &mut WriteSide, kind: u8, payload: &[u8]) -> Result<Sent, i32> {
        side.seq = side.seq.wrapping_add(1);
        side.refused = false;
        Half::add(&self.tx.slow_records, 1);
        Half::add(&self.tx.key_records, 1);
        if kind == DATA {
            Half::add(&self.tx.slow_bytes, payload.len());
            return Ok(Sent::Yes);
        }
        let version = self
            .secrets
            .lock()
            .and_then(|s| s.suite.map(|suite| suite.version));
        match (kind, version) {
            (ALERT, _) if payload.get(1) == Some(&0) => {
                self.tx.close();
            }
            (HANDSHAKE, Some(Version::Tls13)) => {
                let mut update = false;
                side.messages
                    .feed(payload, |message| update |= message.kind == KEY_UPDATE);
                self.tx
                    .message_open
                    .store(side.messages.incomplete(), Ordering::Release);
                if update {
                    side.seq = 0;
                    side.cipher = None;
                    if self.rekey(Dir::Tx).is_err() {
                        // The peer expects the next key from here on.
                        self.poison(Reason::Panic);
                    }
                }
            }
            (CHANGE_CIPHER_SPEC, Some(Version::Tls12)) if !planted::is(Plant::DetachLate) => {
                self.detach_tx(side, Lane::Watch, Reason::Renegotiating);
                return Ok(Sent::Last);
            }
            _ => {}
        }
        Ok(Sent::Yes)
    }

    /// Stops sending in the kernel for good.
    pub fn tx_to_raw(&self, reason: Reason) {
        if let Some(mut side) = self.write.lock() {
            self.detach_tx(&mut side, Lane::Raw, reason);
        }
    }

    fn detach_tx(&self, side: &mut WriteSide, lane: Lane, reason: Reason) {
        if self.tx.lane() != Lane::Kernel {
            return;
        }
        let op = self.tx.op.load(Ordering::Acquire);
        match alg().detach(op, Dir::Tx, &mut []) {
            Ok(detached) => self.tx.count_until(detached.seq),
            // Raw bytes would still go out, with numbers that nobody keeps.
            Err(_) => return self.poison(Reason::Panic),
        }
        self.tx.handbacks.fetch_add(1, Ordering::Relaxed);
        side.cipher = None;
        self.tx.set_lane(lane, reason);
        if let Some(mut secrets) = self.secrets.lock() {
            secrets.tx = None;
        }
    }

    /// Ends the connection rather than put an untranslated record on the wire.
    /// Takes no lock: it is what remains when a lock cannot be had.
    pub fn poison(&self, reason: Reason) {
        self.dead.store(true, Ordering::Release);
        self.mark(mark::SLOW_ONLY);
        self.tx.reason.set(reason);
        for half in [&self.tx, &self.rx] {
            let fd = half.fd.load(Ordering::Acquire);
            // The number may be somebody else's socket by now.
            if fd >= 0 && sys::cookie(fd) == Ok(half.cookie.load(Ordering::Relaxed)) {
                errno::preserve(|| sys::shutdown(fd));
                return;
            }
        }
    }
}

fn digest_iov(digest: &mut Digest, iov: &[libc::iovec], mut n: usize) {
    for piece in iov {
        let now = piece.iov_len.min(n);
        if now != 0 {
            // SAFETY: libc has just read these bytes of the caller's.
            digest.feed(unsafe { core::slice::from_raw_parts(piece.iov_base.cast::<u8>(), now) });
        }
        n -= now;
    }
}

/// The error as libc's write or send would report it, SIGPIPE included.
fn send_error(e: i32, flags: i32) -> isize {
    if e == libc::EPIPE && flags & libc::MSG_NOSIGNAL == 0 {
        // SAFETY: raise is async-signal-safe; the program's own disposition rules.
        unsafe { libc::raise(libc::SIGPIPE) };
    }
    errno::fail(e)
}
