//! The fast lane of receiving: plaintext from the op socket to the program.
//!
//! Large reads take what the kernel has, in whole records. Smaller ones, and peeks,
//! take one record; what the program did not ask for is held for its next read, and
//! counts as pending (R17).

use core::sync::atomic::Ordering;

use super::rx::{DATA, PLAIN_MAX, iov, is_bad_record};
use super::{Connection, Half, Lane, mark};
use crate::backend::{Backend, alg};
use crate::planted::{self, Plant};
use crate::reason::Reason;

/// What the fast lane has to say.
pub enum Fast {
    Done(usize),
    /// Let the real function run; the virtual wire serves it.
    Slow,
    /// Let the real function run, and meet this error at the fd.
    Errno(i32),
}

impl Connection {
    /// SSL_read or SSL_peek on the fast lane. `out` is the program's buffer. The
    /// caller has checked `read_is_fast`.
    pub fn fast_read(&self, out: &mut [u8], peek: bool) -> Fast {
        if self.held.load(Ordering::Acquire) != 0 {
            return self.read_held(out, peek);
        }
        let op = self.rx.op.load(Ordering::Acquire);
        if out.len() >= PLAIN_MAX && !peek {
            // SAFETY: `out` is as long as said.
            return match unsafe { alg().recv(op, out.as_mut_ptr(), out.len(), 0) } {
                Ok(0) => Fast::Slow,
                Ok(n) => {
                    Half::add(&self.rx.fast_bytes, n);
                    Half::add(&self.rx.fast_calls, 1);
                    Fast::Done(n)
                }
                Err(e) => self.fast_error(e),
            };
        }
        self.read_one(op, out, peek)
    }

    fn fast_error(&self, e: i32) -> Fast {
        if matches!(
            e,
            libc::EIO | libc::ENODATA | libc::ENOTCONN | libc::EKEYEXPIRED
        ) || e == libc::ECONNRESET && planted::is(Plant::ResetAsEof)
        {
            return Fast::Slow;
        }
        if is_bad_record(e) {
            self.rx_to_raw(Reason::BadRecord);
            return Fast::Slow;
        }
        Fast::Errno(e)
    }

    fn read_held(&self, out: &mut [u8], peek: bool) -> Fast {
        let Some(mut side) = self.read.lock() else {
            return Fast::Errno(libc::EAGAIN);
        };
        let have = side.hold.unread();
        let n = have.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), have.get(..n)) {
            to.copy_from_slice(from);
        }
        if !peek || planted::is(Plant::PeekConsumes) {
            side.hold.skip(n);
            self.held.store(side.hold.unread().len(), Ordering::Release);
        }
        Fast::Done(n)
    }

    /// One whole record: what fits goes to the program, the rest is held (R17).
    fn read_one(&self, op: i32, out: &mut [u8], peek: bool) -> Fast {
        let Some(mut hold) = self
            .read
            .lock()
            .and_then(|mut side| side.hold.take(PLAIN_MAX))
        else {
            return Fast::Slow;
        };
        let direct = if peek { 0 } else { out.len() };
        let pieces = [iov(out), iov(&mut hold)];
        let into = if peek {
            pieces.get(1..)
        } else {
            pieces.get(..)
        };
        // SAFETY: both pieces are exclusively borrowed.
        let got = unsafe { alg().recv_record(op, into.unwrap_or_default(), 0) };
        let Some(mut side) = self.read.lock() else {
            // A record is taken and cannot be put down.
            self.poison(Reason::Panic);
            return Fast::Errno(libc::ECONNRESET);
        };
        match got {
            Ok((DATA, n)) => {
                let lost = usize::from(planted::is(Plant::DropHeld) && !peek);
                side.hold.put(hold, n.saturating_sub(direct + lost));
                self.held.store(side.hold.unread().len(), Ordering::Release);
                Half::add(&self.rx.fast_bytes, n);
                Half::add(&self.rx.fast_calls, 1);
                drop(side);
                if peek {
                    self.read_held(out, true)
                } else {
                    Fast::Done(n.min(direct))
                }
            }
            Ok((0, _)) => {
                side.hold.put(hold, 0);
                Fast::Slow
            }
            Ok((kind, n)) => {
                // A control record lies where data was expected: move it to the
                // virtual wire and let OpenSSL read it there.
                let front = n.min(direct);
                let mut payload = core::mem::take(&mut side.scratch);
                payload.clear();
                let whole = payload.try_reserve_exact(n).is_ok();
                if let (true, Some(head), Some(tail)) =
                    (whole, out.get(..front), hold.get(..n - front))
                {
                    payload.extend_from_slice(head);
                    payload.extend_from_slice(tail);
                }
                side.hold.put(hold, 0);
                let pushed = if payload.len() == n {
                    self.push(&mut side, kind, &payload)
                } else {
                    Err(libc::ENOMEM)
                };
                side.scratch = payload;
                match pushed {
                    Ok(()) => Fast::Slow,
                    Err(e) => Fast::Errno(e),
                }
            }
            Err(e) => {
                side.hold.put(hold, 0);
                drop(side);
                self.fast_error(e)
            }
        }
    }

    /// Before SSL_shutdown waits for the peer, OpenSSL must see what was not read:
    /// it would answer "application data after close notify" (WIRE: give back).
    pub fn give_back_held(&self) {
        if self.held.load(Ordering::Acquire) == 0 || self.rx.lane() != Lane::Kernel {
            return;
        }
        let Some(mut side) = self.read.lock() else {
            return;
        };
        if !side.wire.is_empty() {
            return;
        }
        let mut payload = Vec::new();
        if payload.try_reserve_exact(side.hold.unread().len()).is_err() {
            return;
        }
        payload.extend_from_slice(side.hold.unread());
        if self.push(&mut side, DATA, &payload).is_ok() {
            side.hold.skip(payload.len());
            self.held.store(0, Ordering::Release);
        }
    }

    /// The first read after a failed one goes through the program's own BIO (R5).
    pub fn read_failed(&self) {
        if self.is(mark::WARY_READ) {
            self.mark(mark::READ_SLOW_ONCE);
        }
    }
}
