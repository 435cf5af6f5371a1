// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps that send.

use ktlsshim_tests::op::sendfile_arg;
use ktlsshim_tests::peer::HANDSHAKE;
use ktlsshim_tests::{Op, sys};
use libc::*;

use crate::model::Out;
use crate::model_tx::SendCall;
use crate::run::{out, same};
use crate::world::{Check, READABLE, World};

impl World<'_> {
    pub fn blocks(&self, o: usize) -> (bool, usize) {
        let Some(c) = self.conn_of(o) else {
            return (false, 0);
        };
        let unsent = self.conns[c]
            .ours
            .as_ref()
            .filter(|_| !self.model.conns[c].closed)
            .map_or(0, sys::unsent);
        (self.tight(c), unsent)
    }

    /// The flags of a call that may find no room, so that it ends.
    pub fn patient(&self, may_block: bool, flags: i32) -> i32 {
        if may_block && !self.setup.short {
            flags | MSG_DONTWAIT
        } else {
            flags
        }
    }

    pub fn send(
        &mut self,
        o: usize,
        op: &Op,
        len: usize,
        flags: i32,
        kind: Option<u8>,
        parts: u8,
    ) -> Check {
        let data = match kind {
            // A KeyUpdate is told from others by its bytes.
            Some(HANDSHAKE) if len == 5 => vec![24, 0, 0, 1, 0],
            _ => self.bytes(len),
        };
        let (may_block, unsent) = self.blocks(o);
        let flags = self.patient(may_block, flags | MSG_NOSIGNAL);
        let known = MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL;
        let control = kind.map(ktlsshim_tests::op::record_type);
        let control = control.as_ref().map_or(&[][..], |c| &c.0[..24]);
        let cuts = cut(&data, parts);
        let hurts = self.hurts();
        let flags = if hurts { flags | MSG_DONTWAIT } else { flags };
        let saw = self.hurt(true, || out(sys::sendmsg(op, &cuts, control, flags)));
        if flags & !known != 0 {
            return same("sendmsg with an unknown flag", &saw, &Err(EOPNOTSUPP));
        }
        if kind == Some(0) || kind.is_some() && flags & MSG_MORE != 0 {
            return same("sendmsg with a wrong record type", &saw, &Err(EINVAL));
        }
        if saw == Err(EAGAIN) && unsent == 0 {
            return Err("sendmsg: EAGAIN though nothing waits to be sent".into());
        }
        if hurts && kind.is_none() {
            self.stream(o, op, &data, len, true, saw)
                .map_err(|e| format!("sendmsg of {len} with faults: {e}"))?;
            return self.sent(o, saw, flags & MSG_MORE != 0);
        }
        let call = SendCall {
            data: &data,
            good: len,
            kind,
            stream: false,
            may_block,
            seq: None,
        };
        self.model
            .send(o, &call, saw)
            .map_err(|e| format!("sendmsg of {len}: {e}"))?;
        self.sent(o, saw, flags & MSG_MORE != 0)
    }

    /// The hand-over to TCP lifts the send buffer's limit, and must put it back.
    fn limit_holds(&self, c: usize) -> Check {
        if let (Some(tcp), Some(must)) = (&self.conns[c].ours, self.conns[c].sndbuf) {
            let saw = out(sys::get_int(tcp, SOL_SOCKET, SO_SNDBUF));
            return same("SO_SNDBUF after a sending call", &saw, &Ok(must));
        }
        Ok(())
    }

    /// What follows each sending call: it is on the wire.
    pub fn sent(&mut self, o: usize, saw: Out<usize>, more: bool) -> Check {
        if let Err(e) = saw {
            self.tally.errno(e);
        }
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        self.limit_holds(c)?;
        match saw {
            Ok(n) if n > 0 => self.conns[c].more = more,
            Err(EAGAIN) => self.conns[c].more = false,
            _ => {}
        }
        self.sync(c)
    }

    pub fn seq_now(&self, o: usize, op: &Op) -> Option<u64> {
        self.model.ops[o].as_ref()?.tx.as_ref()?;
        op.state(ktlsshim_tests::Dir::Tx).ok().map(|s| s.seq)
    }

    pub fn stream(
        &mut self,
        o: usize,
        op: &Op,
        data: &[u8],
        good: usize,
        may_block: bool,
        saw: Out<usize>,
    ) -> Check {
        let seq = self.seq_now(o, op);
        let call = SendCall {
            data,
            good,
            kind: None,
            stream: true,
            may_block,
            seq,
        };
        self.model.send(o, &call, saw)
    }

    pub fn send_fault(&mut self, o: usize, op: &Op, good: usize, bad: usize) -> Check {
        let (may_block, _) = self.blocks(o);
        let good = good.min(READABLE);
        if may_block || bad == 0 {
            return Ok(());
        }
        let mut data = self.bytes(good);
        self.file.guard.write(&data);
        let saw = out(sys::sendmsg_at(
            op,
            &[(self.file.guard.at(good), good + bad)],
            MSG_NOSIGNAL | MSG_DONTWAIT,
        ));
        data.resize(good + bad, 0);
        self.stream(o, op, &data, good, may_block, saw)
            .map_err(|e| format!("sendmsg of {good} bytes and a fault: {e}"))?;
        self.sent(o, saw, false)
    }

    pub fn send_file(&mut self, o: usize, op: &Op, at: usize, len: usize, flags: i32) -> Check {
        let (may_block, unsent) = self.blocks(o);
        let flags = self.patient(may_block, flags);
        let hurts = self.hurts();
        let flags = if hurts { flags | MSG_DONTWAIT } else { flags };
        let file = &self.file.file;
        let mut arg = [0; 3];
        let saw = self.hurt(true, || {
            arg = sendfile_arg(file, at as u64, len as u64, flags);
            out(op.sendfile_at(arg.as_mut_ptr() as usize))
        });
        let known = MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL;
        if flags & !known != 0 {
            return same(
                "sendfile ioctl with an unknown flag",
                &saw.map(drop),
                &Err(EOPNOTSUPP),
            );
        }
        // With faults, the structure may have kept what it said.
        if let Ok(n) = saw
            && !hurts
            && arg[1..] != [at as u64 + n, n]
        {
            return Err(format!(
                "sendfile ioctl: {n} bytes from {at}, but the answer is {arg:?}"
            ));
        }
        let saw = saw.map(|n| n as usize);
        if saw == Err(EAGAIN) && unsent == 0 {
            return Err("sendfile ioctl: EAGAIN though nothing waits to be sent".into());
        }
        if self.conn_of(o).is_none() {
            return same("sendfile ioctl", &saw, &Err(ENOTCONN));
        }
        let source = self.file;
        let end = (at + len).min(source.text.len());
        let data = &source.text[at.min(end)..end];
        if data.is_empty() {
            return same("sendfile ioctl of nothing", &saw, &Ok(0));
        }
        self.stream(o, op, data, data.len(), may_block || hurts, saw)
            .map_err(|e| format!("sendfile ioctl of {}: {e}", data.len()))?;
        self.sent(o, saw, flags & MSG_MORE != 0)
    }

    pub fn send_file2(&mut self, o: usize, op: &Op, at: usize, len: usize) -> Check {
        if self.blocks(o).0 {
            return Ok(());
        }
        let end = (at + len).min(self.file.text.len());
        let source = self.file;
        let data = &source.text[at.min(end)..end];
        if data.is_empty() {
            return Ok(());
        }
        let mut offset = at as i64;
        let saw = out(sys::sendfile(op, &self.file.file, &mut offset, len));
        if let Ok(n) = saw
            && offset != (at + n) as i64
        {
            return Err(format!(
                "sendfile: {n} bytes from {at}, but the offset is {offset}"
            ));
        }
        self.stream(o, op, data, data.len(), false, saw)
            .map_err(|e| format!("sendfile of {}: {e}", data.len()))?;
        self.sent(o, saw, false)
    }

    pub fn splice_in(&mut self, o: usize, op: &Op, len: usize, more: bool) -> Check {
        if self.blocks(o).0 || len == 0 {
            return Ok(());
        }
        let (from, to) = sys::pipe();
        let data = self.bytes(len.min(60_000));
        sys::write(&to, &data).map_err(|e| format!("pipe: {e:?}"))?;
        let flags = if more { SPLICE_F_MORE } else { 0 };
        let saw = out(sys::splice(&from, op, data.len(), flags));
        self.stream(o, op, &data, data.len(), false, saw)
            .map_err(|e| format!("splice of {}: {e}", data.len()))?;
        self.sent(o, saw, more)
    }
}

/// `data` in up to `parts` pieces, an empty one among them.
fn cut(data: &[u8], parts: u8) -> Vec<&[u8]> {
    if parts <= 1 {
        return vec![data];
    }
    let size = data.len().div_ceil(usize::from(parts)).max(1);
    let mut cuts: Vec<_> = data.chunks(size).collect();
    cuts.insert(cuts.len() / 2, &[]);
    cuts
}
