// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--faults`: a share of the allocations and user copies that our module makes in a call fails (debug
//! kernel only). A call that fails for it must have done nothing, so it is made again, and what it does in
//! the end must still be what the model says: no byte lost or twice, no record in part, no nonce twice.
//!
//! Hurt are sendmsg, the sendfile ioctl, recvmsg and detach. Not: attach and re-key, where the crypto API
//! answers a failed allocation by waiting a minute for an algorithm; steps with threads; sequences with
//! small receive buffers.

use ktlsshim_tests::Op;
use ktlsshim_tests::faults::{Faults, KINDS};
use libc::*;

use crate::model::{Model, Out};
use crate::model_rx::{Got, RecvCall};
use crate::program::Dir;
use crate::world::World;

/// Faults that are prepared, and come only while `on`.
pub struct Hurt {
    percent: u32,
    faults: Faults,
}

impl Hurt {
    pub fn new(percent: u32) -> Hurt {
        Hurt {
            percent,
            faults: Faults::new(&KINDS, 0),
        }
    }

    fn set(percent: u32) {
        for dir in ["failslab", "fail_page_alloc", "fail_usercopy"] {
            let path = format!("/sys/kernel/debug/{dir}/probability");
            std::fs::write(&path, percent.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    }

    pub fn hits(&self) -> u64 {
        self.faults.hits()
    }
}

/// Errnos that an injected fault may have.
fn fault(e: i32) -> bool {
    [ENOMEM, ENOBUFS, EFAULT].contains(&e)
}

impl World<'_> {
    pub fn hurts(&self) -> bool {
        self.file.hurt.is_some() && !self.loose()
    }

    /// Makes a call until it ends without a fault. `room`: EAGAIN is one as well.
    pub fn hurt<T>(&mut self, room: bool, mut call: impl FnMut() -> Out<T>) -> Out<T> {
        let Some(hurt) = self.file.hurt.as_ref().filter(|_| !self.loose()) else {
            return call();
        };
        for _ in 0..30 {
            Hurt::set(hurt.percent);
            let result = call();
            Hurt::set(0);
            match &result {
                Err(e) if fault(*e) || room && *e == EAGAIN => self.tally.hurt += 1,
                _ => return result,
            }
        }
        call()
    }

    /// A fault in the middle makes a receiving call short; its bytes and the number of the next record
    /// tell where it was.
    pub fn recv_hurt(&mut self, o: usize, op: &Op, call: &RecvCall, got: &Got) -> Out<Got> {
        let seq = op.state(ktlsshim_tests::Dir::Rx).map(|s| s.seq);
        let here = |model: &mut Model| model.read_back(o, Dir::Rx).map(|s| s.2).ok();
        for hint in [None, Some(got.data.len())] {
            for opens in 0..64 {
                let mut model = self.model.clone();
                let must = model.recv(o, &RecvCall { opens, ..*call }, hint);
                if must.as_ref() == Ok(got) && here(&mut model) == seq.as_ref().ok().copied() {
                    self.model = model;
                    return must;
                }
            }
        }
        self.model.recv(o, call, None)
    }
}
