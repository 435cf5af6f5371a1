// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a sequence: each step is the call, the model's word on it, and the comparison. The first
//! difference ends the sequence. What is left of it is torn down in order, and the counters of the
//! network namespace must then say what the model counted.

use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::counters::Counters;
use ktlsshim_tests::sys::{self, Errno, Res};
use ktlsshim_tests::{Op, net};
use libc::*;

use crate::model::Out;
use crate::model_rx::RecvCall;
use crate::program::{Program, Step};
use crate::tally::Tally;
use crate::world::{Check, Source, World, until};

/// Result of a call as the model has it.
pub fn out<T>(res: Res<T>) -> Out<T> {
    res.map_err(|Errno(e)| e)
}

pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, saw: &Out<T>, must: &Out<T>) -> Check {
    if saw == must {
        return Ok(());
    }
    let text = |o: &Out<T>| match o {
        Ok(v) => format!("{v:?}"),
        Err(e) => format!("{:?} ({e})", Errno(*e)),
    };
    Err(format!(
        "{what}: returned {}, must be {}",
        text(saw),
        text(must)
    ))
}

/// The difference, and the step that showed it.
#[derive(Clone, Debug)]
pub struct Difference {
    pub step: usize,
    pub what: String,
}

pub fn run(program: &Program, source: &Source, tally: &mut Tally) -> Option<Difference> {
    let before = Counters::read();
    let conns = 1 + u8::from(program.steps.iter().any(|s| touches(s, 1)));
    let mut world = World::new(&program.setup, conns, source, tally);
    for (i, step) in program.steps.iter().enumerate() {
        let result = world.step(step);
        if let Err(what) = result {
            return Some(Difference { step: i, what });
        }
    }
    let end = world.finish(&before);
    world.tally.records_in += world.model.counts.rx_records as u64;
    end.err().map(|what| Difference {
        step: program.steps.len(),
        what: format!("at the end: {what}"),
    })
}

fn touches(step: &Step, conn: u8) -> bool {
    match step {
        Step::Attach { conn: c, .. }
        | Step::RawWrite { conn: c, .. }
        | Step::RawRead { conn: c, .. }
        | Step::Shutdown { conn: c, .. }
        | Step::Lowat { conn: c, .. }
        | Step::Sndbuf { conn: c, .. }
        | Step::Nonblock { conn: c, .. }
        | Step::SoError(c)
        | Step::Disconnect(c)
        | Step::CloseTcp(c)
        | Step::Peer(c, _) => *c == conn,
        _ => false,
    }
}

impl World<'_> {
    /// As `same`, and counts how the call ended.
    pub fn judge<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        saw: &Out<T>,
        must: &Out<T>,
    ) -> Check {
        if let Err(e) = saw {
            self.tally.errno(*e);
        }
        same(what, saw, must)
    }

    pub fn step(&mut self, step: &Step) -> Check {
        let o = |op: &u8| usize::from(*op);
        self.tally.call(step);
        if self.hurts() && matches!(step, Step::Misuse { .. } | Step::Together(..)) {
            return Ok(());
        }
        match step {
            Step::Accept(op) => self.accept(o(op)),
            Step::CloseOp(op) => self.close_op(o(op)),
            Step::CloseTcp(c) => self.close_tcp(o(c)),
            Step::CloseParent => {
                self.parents.clear();
                Ok(())
            }
            Step::Nonblock { conn, on } => {
                if let Some(Some(tcp)) = self.conns.get(o(conn)).map(|t| &t.ours) {
                    sys::nonblocking(tcp, *on);
                }
                Ok(())
            }
            Step::RawWrite { conn, len } => self.raw_write(o(conn), *len as usize),
            Step::RawRead { conn, len } => self.raw_read(o(conn), *len as usize),
            Step::Shutdown { conn, how } => self.shutdown(o(conn), *how),
            Step::Lowat { conn, n } => self.lowat(o(conn), *n),
            Step::Sndbuf { conn, n } => self.set_sndbuf(o(conn), *n),
            Step::SoError(c) => self.so_error(o(c)),
            Step::Disconnect(c) => self.disconnect(o(c)),
            Step::Peer(c, what) => self.do_peer(o(c), what),
            Step::Attach {
                op,
                conn,
                tx,
                rx,
                max,
            } => self.attach(o(op), o(conn), [*tx, *rx], *max),
            Step::Detach { op, .. }
            | Step::Rekey { op, .. }
            | Step::ReadBack { op, .. }
            | Step::SetMax { op, .. }
            | Step::Send { op, .. }
            | Step::SendFault { op, .. }
            | Step::SendFile { op, .. }
            | Step::SendFile2 { op, .. }
            | Step::SpliceIn { op, .. }
            | Step::Recv { op, .. }
            | Step::RecvFault { op, .. }
            | Step::SpliceOut { op, .. }
            | Step::Misuse { op, .. }
            | Step::GetMax(op)
            | Step::Fionread(op)
            | Step::Poll(op)
            | Step::Together(op, _) => match self.op(o(op)) {
                Some(real) => self.on_op(o(op), &real, step),
                None => Ok(()),
            },
        }
    }

    fn on_op(&mut self, o: usize, op: &Arc<Op>, step: &Step) -> Check {
        match step {
            Step::Detach { dir, room, .. } => self.detach(o, op, *dir, *room as usize),
            Step::Rekey { dir, pick, .. } => self.rekey(o, op, *dir, *pick),
            Step::ReadBack { dir, room, .. } => self.read_back(o, op, *dir, *room as usize),
            Step::SetMax { max, .. } => {
                let saw = out(op.set_tx_max(*max));
                same("TLS_TX_MAX_PAYLOAD_LEN", &saw, &self.model.set_max(o, *max))
            }
            Step::GetMax(_) => same(
                "TLS_TX_MAX_PAYLOAD_LEN",
                &out(op.tx_max()),
                &self.model.get_max(o),
            ),
            Step::Send {
                len,
                flags,
                kind,
                parts,
                ..
            } => self.send(o, op, *len as usize, *flags, *kind, *parts),
            Step::SendFault { good, bad, .. } => {
                self.send_fault(o, op, *good as usize, *bad as usize)
            }
            Step::SendFile { at, len, flags, .. } => {
                let (at, len) = (*at as usize, *len as usize);
                self.send_file(o, op, at, len, *flags)
            }
            Step::SendFile2 { at, len, .. } => self.send_file2(o, op, *at as usize, *len as usize),
            Step::SpliceIn { len, more, .. } => self.splice_in(o, op, *len as usize, *more),
            Step::Recv {
                len,
                flags,
                control,
                parts,
                ..
            } => {
                let call = RecvCall {
                    len: *len as usize,
                    good: *len as usize,
                    flags: *flags,
                    control: usize::from(*control),
                    opens: usize::MAX,
                };
                self.recv(o, op, call, *parts)
            }
            Step::RecvFault { good, bad, .. } => {
                self.recv_fault(o, op, *good as usize, *bad as usize)
            }
            Step::SpliceOut { len, .. } => self.splice_out(o, op, *len as usize),
            Step::Fionread(_) => {
                if self.loose() {
                    return Ok(());
                }
                same(
                    "FIONREAD",
                    &Ok(sys::unread(op.as_ref())),
                    &Ok(self.model.fionread(o)),
                )
            }
            Step::Poll(_) => self.poll(o, op),
            Step::Misuse { what, .. } => self.misuse(o, op, *what),
            Step::Together(_, meet) => self.together(o, op, meet),
            _ => Ok(()),
        }
    }

    pub fn poll(&mut self, o: usize, op: &Op) -> Check {
        if self.hurts() {
            return Ok(());
        }
        let c = self.conn_of(o);
        let tight = c.is_some_and(|c| self.tight(c));
        let room = !tight || self.blocks(o).1 == 0;
        let mut mask = POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR;
        if tight && !room {
            mask &= !POLLOUT;
        }
        if c.is_some_and(|c| !self.model.conns[c].open || self.model.conns[c].disconnected) {
            // When TCP is done with it is TCP's affair.
            return Ok(());
        }
        if self.loose() {
            return Ok(());
        }
        let wish = POLLIN | POLLOUT | POLLRDHUP;
        let saw = net::poll(op, wish, Duration::ZERO);
        if let Some(must) = self.model.op_events(o, room)
            && saw & mask != must & mask
        {
            return Err(format!("poll of the op: {saw:#x}, must be {must:#x}"));
        }
        let Some(c) = c else {
            return Ok(());
        };
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        let saw = net::poll(tcp, wish, Duration::ZERO);
        if let Some(must) = self.model.tcp_events(c, room)
            && saw & mask != must & mask
        {
            return Err(format!(
                "poll of the TCP socket: {saw:#x}, must be {must:#x}"
            ));
        }
        Ok(())
    }

    pub fn finish(&mut self, before: &Counters) -> Check {
        for tcp in &mut self.conns {
            tcp.paused = false;
        }
        let order = self.setup.seed.is_multiple_of(2);
        for turn in 0..2 {
            if (turn == 0) == order {
                (0..self.ops.len()).try_for_each(|o| self.close_op(o))?;
            } else {
                (0..self.conns.len()).try_for_each(|c| self.close_tcp(c))?;
            }
        }
        for c in 0..self.conns.len() {
            if !self.conns[c].broken && self.conns[c].theirs.is_some() {
                self.sync(c)?;
            }
        }
        self.parents.clear();
        self.conns.clear();
        let must = &self.model.counts;
        let pairs = [
            ("AlgTlsOps", 0),
            ("AlgTlsCurrTx", 0),
            ("AlgTlsCurrRx", 0),
            ("AlgTlsTxRecords", must.tx_records),
            ("AlgTlsTxBytes", must.tx_bytes),
            ("AlgTlsRxRecords", must.rx_records),
            ("AlgTlsRxBytes", must.rx_bytes),
        ];
        // An empty data record leaves no trace: whether it came before the end is TCP's secret there.
        let loose = self.setup.rcvbuf > 0;
        let mut wrong = Vec::new();
        until(Duration::from_secs(1), || {
            let now = Counters::read();
            wrong.clear();
            for (name, must) in pairs {
                let is = now.since(before, name);
                let fewer = loose && name == "AlgTlsRxRecords" && is < must;
                if is != must && !fewer {
                    wrong.push(format!("{name} is {is}, must be {must}"));
                }
            }
            let sum = now.since(before, "AlgTlsTxRekey") + now.since(before, "AlgTlsRxRekey");
            if sum != self.model.counts.rekeys {
                wrong.push(format!(
                    "re-keys: {sum}, must be {}",
                    self.model.counts.rekeys
                ));
            }
            wrong.is_empty()
        });
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join(", "))
        }
    }
}
