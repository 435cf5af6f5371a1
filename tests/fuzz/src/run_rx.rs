// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps that receive.

use std::io::Read;
use std::time::Duration;

use ktlsshim_tests::sys::{self, Control, Errno};
use ktlsshim_tests::{Op, net};
use libc::*;

use crate::model::Out;
use crate::model_rx::{Got, RecvCall};
use crate::run::{out, same};
use crate::world::{Check, READABLE, World};

impl World<'_> {
    /// Lets the peer's bytes come, where the buffer is too small for all of them at once.
    pub fn pump(&mut self, o: usize) -> Check {
        match self.conn_of(o) {
            Some(c) if self.loose() && self.conns[c].ours.is_some() => self.push(c, 0),
            _ => Ok(()),
        }
    }

    pub fn recv(&mut self, o: usize, op: &Op, mut call: RecvCall, parts: u8) -> Check {
        self.pump(o)?;
        let mut ahead = self.model.clone();
        let sleeps = ahead.recv(o, &call, None) == Err(EAGAIN)
            || call.flags & MSG_WAITALL != 0
            || self.loose();
        if sleeps && !self.setup.short {
            call.flags |= MSG_DONTWAIT;
        }
        let saw = self.hurt(false, || receive(op, &call, parts));
        if self.loose() {
            return self.recv_loose(o, op, &call, saw);
        }
        let must = match &saw {
            Ok(got) if self.hurts() => self.recv_hurt(o, op, &call, got),
            _ => self.model.recv(o, &call, None),
        };
        same(&format!("recvmsg {call:?}"), &saw, &must)?;
        self.counted(&saw);
        self.lowat_holds(o)
    }

    pub fn counted(&mut self, saw: &Out<Got>) {
        match saw {
            Ok(got) => self.tally.opened += got.data.len() as u64,
            Err(e) => self.tally.errno(*e),
        }
    }

    /// Some of what the peer sent may not have arrived: any whole number of records may be there.
    pub fn recv_loose(&mut self, o: usize, op: &Op, call: &RecvCall, saw: Out<Got>) -> Check {
        if saw == Err(EAGAIN) && self.model.clone().recv(o, call, None) != Err(EAGAIN) {
            return self.must_come(o, op);
        }
        let Some(c) = self.conn_of(o) else {
            return same("recvmsg", &saw, &self.model.recv(o, call, None));
        };
        let wire = self.model.conns[c].wire.clone();
        let mut cuts = vec![0];
        let mut at = 0;
        while at + 5 <= wire.len() && cuts.len() < 200 {
            cuts.push(at + 5);
            at += 5 + ktlsshim_tests::peer::length(&wire[at..]);
            cuts.push(at.min(wire.len()));
        }
        cuts.push(wire.len());
        let mut full = None;
        for cut in cuts.into_iter().rev() {
            let mut model = self.model.clone();
            model.conns[c].wire.truncate(cut);
            let must = model.recv(o, call, None);
            if must == saw {
                model.conns[c].wire.extend(&wire[cut..]);
                self.model = model;
                self.counted(&saw);
                return Ok(());
            }
            full.get_or_insert(must);
        }
        same(
            &format!("recvmsg {call:?}"),
            &saw,
            &full.unwrap_or(Err(EAGAIN)),
        )
    }

    /// A whole record was sent: the TCP socket must become readable and the op must give it.
    pub fn must_come(&mut self, o: usize, op: &Op) -> Check {
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        let start = std::time::Instant::now();
        loop {
            let tcp = self.conns[c].ours.as_ref().ok_or("no TCP socket")?;
            if net::poll(tcp, POLLIN, Duration::from_millis(20)) & (POLLIN | POLLERR) != 0 {
                break;
            }
            if start.elapsed() > crate::world::PATIENCE {
                return Err(self.stuck(c));
            }
            self.push(c, 0)?;
        }
        let call = RecvCall {
            len: 20_000,
            good: 20_000,
            flags: MSG_DONTWAIT,
            control: 64,
            opens: usize::MAX,
        };
        let saw = receive(op, &call, 1);
        if saw == Err(EAGAIN) {
            // It took part of it off TCP, which makes room for more.
            if start.elapsed() < crate::world::PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
                return self.recv(o, op, call, 1);
            }
        }
        self.recv_loose(o, op, &call, saw)
    }

    fn stuck(&self, c: usize) -> String {
        let conn = &self.conns[c];
        let mut text =
            "a record was sent whole, but the TCP socket never became readable".to_owned();
        if let (Some(ours), Some(theirs)) = (&conn.ours, &conn.theirs) {
            let mark = sys::get_int(ours, SOL_SOCKET, SO_RCVLOWAT).unwrap_or(-1);
            let unsent = sys::unsent(theirs);
            let queued = sys::unread(ours);
            let came = crate::world::received(ours);
            text += &format!(
                ": {queued} bytes queued, mark {mark}, {came} of {} came, {unsent} not acknowledged, {} not written",
                conn.sent,
                conn.queue.len()
            );
        }
        text
    }

    /// After a call that found nothing, part of a record must not wake anybody.
    pub fn lowat_holds(&mut self, o: usize) -> Check {
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        let (Some(tcp), Some(must)) = (&self.conns[c].ours, self.model.tcp_in(c)) else {
            return Ok(());
        };
        // A fault may have kept the mark from being set.
        if self.model.conns[c].disconnected || self.hurts() {
            return Ok(());
        }
        let is = net::poll(tcp, POLLIN, Duration::ZERO) & POLLIN != 0;
        if is == must {
            return Ok(());
        }
        let (queued, lowat) = (self.model.queued(c), self.model.conns[c].lowat);
        Err(format!(
            "after recvmsg the TCP socket is readable: {is}, must be {must} ({queued} bytes, mark {lowat})"
        ))
    }

    pub fn recv_fault(&mut self, o: usize, op: &Op, good: usize, bad: usize) -> Check {
        if self.loose() || bad == 0 {
            return Ok(());
        }
        let good = good.min(READABLE);
        let mut call = RecvCall {
            len: good + bad,
            good,
            flags: MSG_DONTWAIT,
            control: 0,
            opens: usize::MAX,
        };
        if good == 0 {
            call.len = bad;
        }
        let saw = sys::recvmsg_at(op, &[(self.file.guard.at(good), good + bad)], MSG_DONTWAIT);
        let saw = out(saw.map(|n| Got {
            data: self.file.guard.read(good, n.min(good)),
            kind: None,
            cut: false,
        }));
        let plain = self.model.clone().recv(o, &call, None);
        let hint = match (&saw, &plain) {
            (Ok(a), Ok(b)) if a.data.len() < b.data.len() && a.data.len() + 64 > b.data.len() => {
                Some(a.data.len())
            }
            _ => None,
        };
        let must = self.model.recv(o, &call, hint);
        same(
            &format!("recvmsg into {good} bytes and a fault"),
            &saw,
            &must,
        )?;
        self.counted(&saw);
        self.lowat_holds(o)
    }

    pub fn splice_out(&mut self, o: usize, op: &Op, len: usize) -> Check {
        if self.loose() || len == 0 {
            return Ok(());
        }
        let (from, to) = sys::pipe();
        let sleeps = self.model.clone().splice_out(o, len) == Err(EAGAIN);
        let flags = if sleeps { SPLICE_F_NONBLOCK } else { 0 };
        let saw = out(sys::splice(op, &to, len, flags));
        let saw = match saw {
            Ok(n) => {
                let mut data = vec![0; n];
                let mut pipe = std::fs::File::from(from);
                pipe.read_exact(&mut data)
                    .map_err(|e| format!("pipe: {e}"))?;
                Ok(data)
            }
            Err(e) => Err(e),
        };
        let must = self.model.splice_out(o, len);
        if saw != must {
            let text = |o: &Out<Vec<u8>>| match o {
                Ok(data) => format!("{} bytes {:02x?}", data.len(), &data[..data.len().min(8)]),
                Err(e) => format!("{:?}", Errno(*e)),
            };
            return Err(format!(
                "splice of {len}: returned {}, must be {}",
                text(&saw),
                text(&must)
            ));
        }
        if let Ok(data) = &saw {
            self.tally.opened += data.len() as u64;
        }
        self.lowat_holds(o)
    }
}

/// Memory of its own that is given back at once: a page that is still pinned then is nobody's, and missed.
struct Fresh {
    at: *mut u8,
    len: usize,
}

impl Fresh {
    fn new(len: usize) -> Fresh {
        let prot = PROT_READ | PROT_WRITE;
        let kind = MAP_PRIVATE | MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping, of which nobody else is told.
        let at = unsafe { mmap(std::ptr::null_mut(), len.max(1), prot, kind, -1, 0) };
        assert_ne!(at, MAP_FAILED, "mmap");
        Fresh { at: at.cast(), len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes are mapped as long as we live, and borrowed from us.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no slice of it outlives us.
        unsafe { munmap(self.at.cast(), self.len.max(1)) };
    }
}

/// recvmsg() into `parts` pieces.
pub fn receive(op: &Op, call: &RecvCall, parts: u8) -> Out<Got> {
    let mut buf = Fresh::new(call.len);
    let mut control = Control([0; 64]);
    let size = call.len.div_ceil(usize::from(parts.max(1))).max(1);
    let r = {
        let mut cuts: Vec<&mut [u8]> = buf.bytes().chunks_mut(size).collect();
        if parts > 1 {
            cuts.insert(cuts.len() / 2, &mut []);
        }
        sys::recvmsg(
            op,
            &mut cuts,
            &mut control.0[..call.control.min(64)],
            call.flags,
        )
    };
    let r = out(r)?;
    let kind = (r.control >= 17 && call.control >= 17).then(|| control.0[16]);
    Ok(Got {
        data: buf.bytes()[..r.len].to_vec(),
        kind,
        cut: r.flags & MSG_CTRUNC != 0,
    })
}
