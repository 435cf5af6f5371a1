//! Receiving: the fast lane, and the virtual wire towards OpenSSL.
//!
//! ```text
//!  TCP queue ─▶ op socket ─┬─ fast: plaintext ─▶ SSL_read's buffer (+ `held`)
//!                          └─ slow: one record + type ─▶ re-sealed under OpenSSL's
//!                             read key and *its* number ─▶ `wire` ─▶ libc read
//! ```
//!
//! Memory: `ReadSide` owns every buffer here. They appear when first needed and
//! go back with the connection. A system call that may sleep runs without the
//! lock, on a buffer that was taken out for it.

use core::sync::atomic::Ordering;

use super::{ConnId, Connection, Dir, Half, Lane, flag};
use crate::backend::{Backend, alg};
use crate::errno;
use crate::keys::Version;
use crate::planted::{self, Plant};
use crate::reason::Reason;
use crate::record::cipher::RecordCipher;
use crate::record::messages::Messages;
use crate::record::stream::Stream;
use crate::thread;

/// Plaintext of the largest record (RFC 8446 §5.1), and room for a peer's excess
/// that the kernel refuses anyway.
pub const PLAIN_MAX: usize = 16_384;
/// Header, explicit nonce, inner type and tag on top.
pub const SEALED_MAX: usize = PLAIN_MAX + 5 + 8 + 1 + 16;
/// What the kernel may have staged at a detach (`struct alg_tls_detach`).
const STAGED_MAX: usize = 17_408;

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const KEY_UPDATE: u8 = 24;

/// A buffer that keeps its size, and the part of it that is still unread.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    at: usize,
    end: usize,
}

impl Queue {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            at: 0,
            end: 0,
        }
    }
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }
    pub(super) fn skip(&mut self, n: usize) {
        self.at = self.at.saturating_add(n).min(self.end);
    }
    /// Takes the buffer out, at least `n` bytes long; None without memory. What
    /// was unread is given up.
    pub(super) fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        (self.at, self.end) = (0, 0);
        sized(core::mem::take(&mut self.bytes), n)
    }
    /// Puts the buffer back with `n` unread bytes at its front.
    pub(super) fn put(&mut self, bytes: Vec<u8>, n: usize) {
        self.end = n.min(bytes.len());
        self.at = 0;
        self.bytes = bytes;
    }
}

/// `buffer` with at least `n` bytes, or None without memory.
pub fn sized(mut buffer: Vec<u8>, n: usize) -> Option<Vec<u8>> {
    if buffer.len() < n {
        buffer.try_reserve_exact(n - buffer.len()).ok()?;
        buffer.resize(n, 0);
    }
    Some(buffer)
}

pub struct ReadSide {
    /// Records as OpenSSL consumes them.
    pub trace: Stream,
    /// Wire bytes that a detach gave back; raw reads get them first.
    staged: Queue,
    /// The virtual wire: at most one re-sealed record.
    pub(super) wire: Queue,
    /// Decrypted and not yet read by the program.
    pub(super) hold: Queue,
    pub(super) scratch: Vec<u8>,
    cipher: Option<RecordCipher>,
    /// OpenSSL's next read sequence number.
    pub seq: u64,
    messages: Messages,
}

impl ReadSide {
    pub const fn new() -> Self {
        Self {
            trace: Stream::new(),
            staged: Queue::new(),
            wire: Queue::new(),
            hold: Queue::new(),
            scratch: Vec::new(),
            cipher: None,
            seq: 0,
            messages: Messages::new(),
        }
    }

    pub fn wipe(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.hold.bytes);
        zeroize::Zeroize::zeroize(&mut self.scratch);
        *self = Self::new();
    }

    /// The kernel takes over: OpenSSL's next record has this number.
    pub fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.cipher = None;
        self.messages = Messages::new();
        self.trace.forget();
    }
}

/// The record cannot be had from the kernel: let OpenSSL judge the raw bytes.
pub(super) fn is_bad_record(e: i32) -> bool {
    matches!(
        e,
        libc::EBADMSG | libc::EPROTO | libc::EMSGSIZE | libc::ECONNABORTED | libc::ESTRPIPE
    )
}

pub(super) fn iov(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

/// Copies into the caller's buffers and says how much fitted.
fn scatter(to: &[libc::iovec], mut from: &[u8]) -> usize {
    let mut done = 0;
    for piece in to {
        let n = piece.iov_len.min(from.len());
        let (now, later) = from.split_at(n);
        // SAFETY: the iovec describes memory that the caller of read/recv/SSL_read
        // handed over for writing.
        unsafe { core::ptr::copy_nonoverlapping(now.as_ptr(), piece.iov_base.cast(), n) };
        done += n;
        from = later;
        if from.is_empty() {
            break;
        }
    }
    done
}

impl Connection {
    /// libc's read family on the receiving fd, in any lane.
    pub fn libc_recv(
        &self,
        id: ConnId,
        iov: &[libc::iovec],
        flags: i32,
        real: &dyn Fn() -> isize,
    ) -> isize {
        if self.rx.lane() == Lane::Kernel {
            return self.virtual_recv(id, iov, flags, real);
        }
        self.plain_recv(id, iov, flags, real)
    }

    fn plain_recv(
        &self,
        id: ConnId,
        iov: &[libc::iovec],
        flags: i32,
        real: &dyn Fn() -> isize,
    ) -> isize {
        let peek = flags & libc::MSG_PEEK != 0;
        let odd = flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_TRUNC) != 0;
        let mut n = 0;
        if !odd
            && self.rx.wire_busy.load(Ordering::Acquire)
            && let Some(mut side) = self.read.lock()
        {
            n = self.serve(&mut side, iov, peek) as isize;
        }
        if n == 0 {
            return match self
                .rx
                .raw_call(real, |got| self.delivered(got, peek || odd))
            {
                Some(got) => got,
                None => self.virtual_recv(id, iov, flags, real),
            };
        }
        self.delivered(n, peek);
        n
    }

    /// The program's BIO got `n` bytes from the fd.
    fn delivered(&self, n: isize, not_taken: bool) {
        if n > 0 && !not_taken && self.rx.lane() == Lane::Watch {
            Half::add(&self.rx.entered, n as usize);
        }
    }

    /// Bytes that precede what the TCP queue holds: virtual wire, then staged.
    fn serve(&self, side: &mut ReadSide, iov: &[libc::iovec], peek: bool) -> usize {
        let queue = if side.wire.is_empty() {
            &mut side.staged
        } else {
            &mut side.wire
        };
        let n = scatter(iov, queue.unread());
        if !peek {
            queue.skip(n);
        }
        let busy = !side.wire.is_empty() || !side.staged.is_empty();
        self.rx.wire_busy.store(busy, Ordering::Release);
        thread::with_top(|frame| frame.flags |= flag::SERVED);
        n
    }

    /// The frame wanted one control record, and has it: a ticket must not draw the
    /// data behind it into the slow lane. A message that goes on, or a handshake
    /// that has begun, needs all it asks for.
    fn enough(&self, id: ConnId) -> bool {
        let begun = self.rx.message_open.load(Ordering::Acquire)
            || self.live().is_none_or(|live| live.in_init());
        let done = flag::ONE | flag::SERVED;
        thread::with_top(|frame| {
            let stop = frame.conn == id && frame.flags & done == done && !begun;
            if stop {
                // Once, as above.
                frame.flags |= flag::ASKED;
                frame.flags &= !flag::ONE;
            }
            stop
        })
        .unwrap_or(false)
    }

    /// How many bytes a raw read would find before the TCP queue's own.
    pub fn wire_bytes(&self) -> usize {
        if !self.rx.wire_busy.load(Ordering::Acquire) {
            return 0;
        }
        self.read.lock().map_or(0, |side| {
            side.wire.unread().len() + side.staged.unread().len()
        })
    }

    fn virtual_recv(
        &self,
        id: ConnId,
        iov: &[libc::iovec],
        flags: i32,
        real: &dyn Fn() -> isize,
    ) -> isize {
        let peek = flags & libc::MSG_PEEK != 0;
        let wanted: usize = iov.iter().map(|piece| piece.iov_len).sum();
        let nowhere = iov
            .iter()
            .any(|piece| piece.iov_base.is_null() && piece.iov_len != 0);
        if wanted == 0 || nowhere || flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
            return real();
        }
        loop {
            if self.dead.load(Ordering::Acquire) {
                return errno::fail(libc::ECONNRESET);
            }
            let Some(mut side) = self.read.lock() else {
                return errno::fail(libc::EAGAIN);
            };
            if self.rx.wire_busy.load(Ordering::Acquire) {
                let n = self.serve(&mut side, iov, peek);
                if !peek {
                    Half::add(&self.rx.entered, n);
                }
                return n as isize;
            }
            if self.rx.closed.load(Ordering::Acquire) {
                self.detach_rx(&mut side, Lane::Raw, Reason::CloseNotify);
            }
            if self.rx.lane() != Lane::Kernel {
                drop(side);
                return self.plain_recv(id, iov, flags, real);
            }
            // What the fast lane met, once: a BIO may wait in its callback and read again,
            // and that read is the socket's to answer.
            let dry = thread::with_top(|f| match f.conn == id {
                true => core::mem::take(&mut f.read_errno),
                false => 0,
            });
            if let Some(dry) = dry.filter(|&e| e != 0) {
                return errno::fail(dry);
            }
            if self.enough(id) {
                return errno::fail(libc::EAGAIN);
            }
            if peek {
                drop(side);
                return real();
            }
            let Some(mut scratch) = sized(core::mem::take(&mut side.scratch), PLAIN_MAX) else {
                return errno::fail(libc::ENOMEM);
            };
            drop(side);
            let op = self.rx.op.load(Ordering::Acquire);
            let room = [self::iov(&mut scratch)];
            // SAFETY: the buffer is this call's alone.
            let got = unsafe { alg().recv_record(op, &room, flags & libc::MSG_DONTWAIT) };
            let Some(mut side) = self.read.lock() else {
                self.poison(Reason::Panic);
                return errno::fail(libc::ECONNRESET);
            };
            let outcome = match got {
                Ok((0, _)) => Ok(Some(0)),
                Ok((kind, n)) => {
                    let payload = scratch.get(..n).unwrap_or_default();
                    self.push(&mut side, kind, payload).map(|()| None)
                }
                Err(libc::ENODATA) => Ok(Some(0)),
                Err(libc::ECONNRESET) if planted::is(Plant::ResetAsEof) => Ok(Some(0)),
                // Another thread has taken a KeyUpdate and is about to set the key.
                Err(libc::EKEYEXPIRED) => {
                    crate::sys::nap();
                    Ok(None)
                }
                Err(e) if is_bad_record(e) || e == libc::ENOTCONN => {
                    self.detach_rx(&mut side, Lane::Raw, Reason::BadRecord);
                    Ok(None)
                }
                Err(e) => Err(e),
            };
            zeroize::Zeroize::zeroize(scratch.as_mut_slice());
            side.scratch = scratch;
            match outcome {
                Ok(None) => continue,
                Ok(Some(n)) => return n,
                Err(e) => return errno::fail(e),
            }
        }
    }

    /// Puts one record on the virtual wire, and does what its content means for
    /// the kernel's keys. The wire is empty.
    pub(super) fn push(&self, side: &mut ReadSide, kind: u8, payload: &[u8]) -> Result<(), i32> {
        let sealed = self.seal(side, kind, payload);
        if sealed.is_none() {
            return Err(libc::ENOMEM);
        }
        self.rx.wire_busy.store(true, Ordering::Release);
        Half::add(&self.rx.slow_records, 1);
        if kind == DATA {
            Half::add(&self.rx.slow_bytes, payload.len());
            return Ok(());
        }
        let Some(version) = self
            .secrets
            .lock()
            .and_then(|s| s.suite.map(|suite| suite.version))
        else {
            return Err(libc::ENOMEM);
        };
        match (kind, version) {
            (ALERT, _)
                if payload.get(1) == Some(&0) && !planted::is(Plant::IgnoreReceivedShutdown) =>
            {
                self.rx.close();
            }
            (HANDSHAKE, Version::Tls13) => {
                let mut update = false;
                side.messages
                    .feed(payload, |message| update |= message.kind == KEY_UPDATE);
                self.rx
                    .message_open
                    .store(side.messages.incomplete(), Ordering::Release);
                if update {
                    side.seq = 0;
                    side.cipher = None;
                    if let Err(e) = self.rekey(Dir::Rx) {
                        self.poison(Reason::Panic);
                        return Err(e);
                    }
                }
            }
            (CHANGE_CIPHER_SPEC, Version::Tls12) => {
                self.detach_rx(side, Lane::Watch, Reason::Renegotiating);
            }
            _ => {}
        }
        Ok(())
    }

    fn seal(&self, side: &mut ReadSide, kind: u8, payload: &[u8]) -> Option<()> {
        if side.cipher.is_none() {
            side.cipher = Some(self.virtual_cipher(Dir::Rx)?);
        }
        let seq = side.seq + u64::from(planted::is(Plant::WireSeqPlusOne));
        let mut buffer = side.wire.take(SEALED_MAX)?;
        // The explicit nonce never leaves this process: the number is as good as any.
        let n = side
            .cipher
            .as_mut()?
            .seal(seq, seq.to_be_bytes(), kind, payload, &mut buffer)?;
        side.wire.put(buffer, n);
        side.seq = side.seq.wrapping_add(1);
        Some(())
    }

    /// Stops receiving in the kernel; OpenSSL reads the wire itself from here.
    pub fn rx_to_raw(&self, reason: Reason) {
        if let Some(mut side) = self.read.lock() {
            self.detach_rx(&mut side, Lane::Raw, reason);
        }
    }

    fn detach_rx(&self, side: &mut ReadSide, lane: Lane, reason: Reason) {
        if self.rx.lane() != Lane::Kernel {
            return;
        }
        let op = self.rx.op.load(Ordering::Acquire);
        let detached = side.staged.take(STAGED_MAX).and_then(|mut staged| {
            let detached = alg().detach(op, Dir::Rx, &mut staged).ok()?;
            let lost = planted::is(Plant::LoseStaged);
            side.staged
                .put(staged, if lost { 0 } else { detached.staged });
            Some(detached)
        });
        match detached {
            Some(detached) => self.rx.count_until(detached.seq),
            // The kernel keeps the wire, or bytes of it: nobody could go on.
            None => self.poison(Reason::Panic),
        }
        self.rx.wire_busy.store(
            !side.wire.is_empty() || !side.staged.is_empty(),
            Ordering::Release,
        );
        self.rx.handbacks.fetch_add(1, Ordering::Relaxed);
        self.rx.set_lane(lane, reason);
        if let Some(mut secrets) = self.secrets.lock() {
            secrets.rx = None;
        }
    }

    /// Moves the kernel to the next TLS 1.3 key of this direction, number 0.
    pub fn rekey(&self, dir: Dir) -> Result<(), i32> {
        if planted::skips_rekey(dir) {
            return Ok(());
        }
        let live = self.live().ok_or(libc::EINVAL)?;
        let mut secrets = self.secrets.lock().ok_or(libc::EAGAIN)?;
        let keys = secrets
            .advance13(live.table.crypto, live.is_server(), dir)
            .ok_or(libc::ENOMEM)?;
        let half = self.half(dir);
        let op = half.op.load(Ordering::Acquire);
        if let Ok((seq, _)) = alg().sequence(op, dir) {
            half.count_until(seq);
        }
        alg().rekey(op, dir, &keys.crypto_info(0, [0; 8]))?;
        *secrets.in_use(dir) = Some(keys);
        half.first_seq.store(0, Ordering::Relaxed);
        half.key_records.store(0, Ordering::Relaxed);
        half.rekeys.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
