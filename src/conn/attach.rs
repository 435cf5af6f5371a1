//! Taking over: the switch of lanes, the op socket, the one call that installs keys.
//!
//! An op belongs to its first TCP socket for life; this room opens it, and closes
//! it again when the kernel refuses. Raw calls of the directions concerned are shut
//! out while it works.

use core::sync::atomic::Ordering;

use super::offload::Ready;
use super::{Connection, Half, Lane, discover, mark};
use crate::backend::{Backend, CryptoInfo, alg};
use crate::fdtable;
use crate::keys::Suite;
use crate::reason::Reason;

impl Connection {
    pub(super) fn install(&self, suite: Suite, tx: Option<Ready>, rx: Option<Ready>, tx_max: u16) {
        let (tx_fd, rx_fd) = (
            self.tx.fd.load(Ordering::Acquire),
            self.rx.fd.load(Ordering::Acquire),
        );
        let together = tx_fd >= 0 && rx_fd >= 0 && discover::same_socket(tx_fd, rx_fd);
        if together {
            self.attach(suite, tx_fd, tx, rx, tx_max);
        } else {
            self.attach(suite, tx_fd, tx, None, tx_max);
            self.attach(suite, rx_fd, None, rx, 0);
        }
    }

    fn attach(&self, suite: Suite, fd: i32, tx: Option<Ready>, rx: Option<Ready>, tx_max: u16) {
        // Shut out raw calls, then see that none came between proof and here.
        let still = |half: &Half, ready: &Ready| {
            half.begin_switch()
                && (half.position() == ready.at || {
                    half.end_switch();
                    false
                })
        };
        let tx = tx.filter(|ready| still(&self.tx, ready));
        let rx = rx.filter(|ready| still(&self.rx, ready));
        let outcome = self.attach_shut(suite, fd, tx.as_ref(), rx.as_ref(), tx_max);
        for (half, ready) in [(&self.tx, &tx), (&self.rx, &rx)] {
            if ready.is_none() {
                continue;
            }
            if let Err(e) = outcome {
                half.refused_errno.store(e, Ordering::Relaxed);
                half.refuse(Reason::AttachRefused);
            }
            half.end_switch();
        }
        if outcome.is_ok()
            && let Some(mut secrets) = self.secrets.lock()
        {
            if let Some(ready) = tx {
                secrets.tx = Some(ready.keys);
            }
            if let Some(ready) = rx {
                secrets.rx = Some(ready.keys);
            }
        }
    }

    /// Raw calls of the directions concerned are shut out.
    fn attach_shut(
        &self,
        suite: Suite,
        fd: i32,
        tx: Option<&Ready>,
        rx: Option<&Ready>,
        tx_max: u16,
    ) -> Result<(), i32> {
        if tx.is_none() && rx.is_none() {
            return Ok(());
        }
        let (op, fresh) = self.op_for(suite, fd, tx.is_some())?;
        let info = |ready: &Ready| -> CryptoInfo { ready.keys.crypto_info(ready.seq, ready.nonce) };
        let (tx_info, rx_info) = (tx.map(info), rx.map(info));
        // The sides are ready before the kernel is: afterwards nothing may fail.
        let write = tx.map(|_| self.write.lock());
        let read = rx.map(|_| self.read.lock());
        let sides = !matches!(write, Some(None)) && !matches!(read, Some(None));
        let attached = if sides {
            alg().attach(op, fd, tx_info.as_ref(), rx_info.as_ref(), tx_max)
        } else {
            Err(libc::EAGAIN)
        };
        if let Err(e) = attached {
            if fresh {
                fdtable::clear(op);
                crate::backend::sys::close(op);
            }
            return Err(e);
        }
        let cookie = crate::backend::sys::cookie(fd).unwrap_or(0);
        if let Some(ready) = tx {
            if let Some(Some(mut side)) = write {
                side.begin(ready.seq);
            }
            let record = match tx_max {
                0 => super::rx::PLAIN_MAX,
                n => usize::from(n),
            };
            self.record.store(record, Ordering::Relaxed);
            self.take_over(&self.tx, op, ready.seq, cookie);
        }
        if let Some(ready) = rx {
            if let Some(Some(mut side)) = read {
                side.begin(ready.seq);
            }
            self.take_over(&self.rx, op, ready.seq, cookie);
        }
        Ok(())
    }

    fn take_over(&self, half: &Half, op: i32, seq: u64, cookie: u64) {
        half.cookie.store(cookie, Ordering::Relaxed);
        half.op.store(op, Ordering::Release);
        half.first_seq.store(seq, Ordering::Relaxed);
        half.key_records.store(seq, Ordering::Relaxed);
        self.unmark(mark::LIMIT_SEEN);
        half.was_kernel.store(true, Ordering::Release);
        half.closed.store(false, Ordering::Release);
        half.set_lane(Lane::Kernel, Reason::Offloaded);
    }

    /// The op socket that belongs to this TCP socket, or a new one
    /// (true).
    fn op_for(&self, suite: Suite, fd: i32, for_tx: bool) -> Result<(i32, bool), i32> {
        let (mine, other) = if for_tx {
            (&self.tx, &self.rx)
        } else {
            (&self.rx, &self.tx)
        };
        // A renegotiated cipher of another kind needs another parent's op. Only
        // one direction can be waiting for it: both change in one handshake.
        if self.op_aead.swap(suite.aead as u8, Ordering::AcqRel) != suite.aead as u8
            && other.lane() != Lane::Kernel
        {
            super::end::release_ops(self);
        }
        let own = mine.op.load(Ordering::Acquire);
        if own >= 0 {
            return Ok((own, false));
        }
        let theirs = other.op.load(Ordering::Acquire);
        if theirs >= 0 && discover::same_socket(fd, other.fd.load(Ordering::Acquire)) {
            return Ok((theirs, false));
        }
        let op = alg().open(suite.aead)?;
        if !fdtable::set_own(op) {
            crate::backend::sys::close(op);
            return Err(libc::EMFILE);
        }
        for parent in alg().parents() {
            fdtable::set_own(parent);
        }
        Ok((op, true))
    }
}
