// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a sequence: each step is the call, the model's word on it, and the comparison. The first
//! difference ends the sequence. What is left of it is torn down in order, and the counters of the
//! network namespace must then say what the model counted.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::counters::Counters;
use ktlsshim_tests::op::Attach as AttachArg;
use ktlsshim_tests::peer::{ALERT, CCS, CLOSE_NOTIFY, HANDSHAKE, Half};
use ktlsshim_tests::sys::{self, Control, Errno, Res};
use ktlsshim_tests::{Keys, Op, Parent, net};
use libc::*;

use crate::model::{Attach, Expect, Out};
use crate::model_rx::{Got, RecvCall};
use crate::model_tx::SendCall;
use crate::program::{Damage, Dir, PeerDo, Pick, Program, Step};
use crate::tally::Tally;
use crate::world::{Check, End, READABLE, Source, World, state, until};

const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;
const TCP_TIME_WAIT: u8 = 6;

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
        | Step::Nonblock { conn: c, .. }
        | Step::SoError(c)
        | Step::Disconnect(c)
        | Step::CloseTcp(c)
        | Step::Peer(c, _) => *c == conn,
        _ => false,
    }
}

impl World<'_> {
    pub fn step(&mut self, step: &Step) -> Check {
        let o = |op: &u8| usize::from(*op);
        self.tally.call(step);
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

    // ------------------------------------------------- life and keys

    fn accept(&mut self, o: usize) -> Check {
        if self.ops[o].is_some() {
            return Ok(());
        }
        let name = self.setup.suite().name();
        if !self.parents.contains_key(name) {
            let parent = Parent::bind(name).map_err(|e| format!("bind {name}: {e:?}"))?;
            self.parents.insert(name, parent);
        }
        let op = self.parents[name]
            .accept()
            .map_err(|e| format!("accept: {e:?}"))?;
        self.ops[o] = Some(Arc::new(op));
        self.model.accept(o, name);
        Ok(())
    }

    /// Keys for a direction of connection `c`, as it stands.
    fn keys(&mut self, o: usize, c: usize, dir: Dir, pick: Pick) -> Option<Keys> {
        let suite = self.setup.suite();
        let fresh = |id: u32, seq: u64| Some(self.setup.keys(suite, id, seq));
        match (pick, dir) {
            (Pick::None, _) => None,
            (Pick::Fresh(id, seq), _) => fresh(id, seq),
            (Pick::Continue, Dir::Tx) => {
                self.model.conns[c].tx_keys.clone().or_else(|| fresh(1, 0))
            }
            (Pick::Continue, Dir::Rx) => self.rx_keys(c).or_else(|| fresh(2, 0)),
            (Pick::Next(id), Dir::Rx) => {
                self.conns[c].announced.pop_front().or_else(|| fresh(id, 0))
            }
            (Pick::Next(id), Dir::Tx) => fresh(id, 0),
            (Pick::Again(back), _) => {
                // Only where the socket can know them; elsewhere it would be a second use, not a test.
                let last = self.model.ops[o]
                    .as_ref()
                    .and_then(|op| op.tx.as_ref().map(|tx| tx.keys.clone()).or(op.last.clone()))?;
                let mut keys = last.clone();
                keys.seq = last.seq.saturating_sub(u64::from(back));
                let n = last.seq - keys.seq;
                if keys.explicit_nonce() {
                    keys.set_nonce(last.nonce().wrapping_sub(n));
                }
                Some(keys)
            }
        }
    }

    /// The keys under which the first record of the wire is sealed, as far as the peer knows.
    fn rx_keys(&self, c: usize) -> Option<Keys> {
        let held = |op: &Option<crate::model::Op>| {
            op.as_ref()
                .filter(|op| op.conn == Some(c))
                .and_then(|op| op.rx.as_ref().map(|rx| rx.keys.clone()))
        };
        self.model
            .ops
            .iter()
            .find_map(held)
            .or_else(|| self.left[c].clone())
    }

    fn attach(&mut self, o: usize, c: usize, picks: [Pick; 2], max: u16) -> Check {
        let Some(op) = self.op(o) else {
            return Ok(());
        };
        if c >= self.conns.len() || self.conns[c].ours.is_none() {
            return Ok(());
        }
        let tx = self.keys(o, c, Dir::Tx, picks[0]);
        let rx = self.keys(o, c, Dir::Rx, picks[1]);
        let fd = self.conns[c].ours.as_ref().map_or(-1, |t| t.as_raw_fd());
        let mut arg = AttachArg::new(fd, tx.as_ref(), rx.as_ref());
        arg.tx_max = max;
        let saw = out(op.attach_with(&arg));
        let (tx, rx) = (tx.as_ref(), rx.as_ref());
        let must = self.model.attach(o, c, &Attach { tx, rx, max });
        same("ALG_TLS_ATTACH", &saw, &must)?;
        if must.is_ok()
            && let Some(keys) = rx
        {
            self.left[c] = None;
            // The peer knows these keys already, or learns them now.
            if !matches!(picks[1], Pick::Continue) || self.conns[c].seal.is_none() {
                self.conns[c].seal = Some(Half::new(keys.clone()));
                self.conns[c].queue.clear();
            }
        }
        self.sync(c)
    }

    fn rekey(&mut self, o: usize, op: &Op, dir: Dir, pick: Pick) -> Check {
        let c = self.conn_of(o).unwrap_or(0);
        let announced = !self.conns[c].announced.is_empty();
        let Some(keys) = self.keys(o, c, dir, pick) else {
            return Ok(());
        };
        let saw = out(op.rekey(dir.into(), &keys));
        let must = self.model.rekey(o, dir, &keys);
        same("re-key", &saw, &must)?;
        // A key that nobody announced: the peer uses it from now on as well.
        if dir == Dir::Rx
            && must.is_ok()
            && !(announced && matches!(pick, Pick::Next(_)))
            && !matches!(pick, Pick::Continue)
        {
            self.conns[c].queue.clear();
            self.conns[c].announced.clear();
            self.conns[c].seal = Some(Half::new(keys));
        }
        self.sync(c)
    }

    fn detach(&mut self, o: usize, op: &Op, dir: Dir, room: usize) -> Check {
        let mut buf = vec![0; room];
        let before = self.model.ops[o]
            .as_ref()
            .and_then(|op| op.rx.as_ref().map(|rx| rx.keys.clone()));
        let saw = op.detach_into(dir.into(), &mut buf);
        let got = saw.as_ref().map_or(0, |d| d.staged.len());
        let Some(c) = self.conn_of(o) else {
            let must = self.model.detach(o, dir, room, got);
            return same("ALG_TLS_DETACH", &out(saw.map(|d| (d.seq, d.nonce))), &must);
        };
        let known = self.model.ops[o]
            .as_ref()
            .and_then(|op| op.rx.as_ref())
            .map_or(0, |rx| rx.staged);
        let staged = match (self.loose(), &saw) {
            (false, _) => known,
            (true, Err(Errno(ENOSPC))) => room + 1,
            (true, _) => got,
        };
        let must = self.model.detach(o, dir, room, staged);
        let ok = saw.is_ok();
        if let Ok(d) = &saw
            && dir == Dir::Rx
        {
            if !self.model.conns[c].wire.starts_with(&d.staged) || !self.loose() && got != known {
                return Err(format!(
                    "ALG_TLS_DETACH gave {got} wire bytes back, not the next {known} of the stream"
                ));
            }
        }
        same("ALG_TLS_DETACH", &out(saw.map(|d| (d.seq, d.nonce))), &must)?;
        if ok && dir == Dir::Rx {
            // Whoever comes next begins with them; here the rest of a record is skipped as a program would.
            let conn = &mut self.model.conns[c];
            conn.wire.drain(..got);
            conn.urgent = conn.urgent.map(|at| at - got);
            self.left[c] = before;
            if got > 0 {
                // The stream goes on in the middle of a record now: no op can go on with it.
                self.left[c] = None;
            }
        }
        if dir == Dir::Tx && ok {
            self.conns[c].more = false;
        }
        self.sync(c)
    }

    fn read_back(&mut self, o: usize, op: &Op, dir: Dir, room: usize) -> Check {
        let mut raw = vec![0u8; room];
        let saw = sys::getsockopt(op, ktlsshim_tests::op::SOL_TLS, dir as i32 + 1, &mut raw);
        let must = self.model.read_back(o, dir);
        let text = format!("{dir:?} read back");
        let (version, cipher, seq) = match must {
            Err(e) => return same(&text, &out(saw), &Err(e)),
            Ok(must) => must,
        };
        let size = if room == 4 {
            4
        } else {
            4 + 8 + self.sizes(cipher)
        };
        if room < size {
            return same(&text, &out(saw), &Err(EINVAL));
        }
        same(&text, &out(saw), &Ok(size))?;
        let half = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        same(&text, &Ok((half(0), half(2))), &Ok((version, cipher)))?;
        if size > 4 {
            let saw = u64::from_be_bytes(raw[size - 8..size].try_into().expect("eight"));
            if !(self.loose() && dir == Dir::Rx) {
                same(&format!("{text}: sequence number"), &Ok(saw), &Ok(seq))?;
            }
            let nonce = usize::from(dir == Dir::Tx && !self.setup.tls13) * 8;
            if raw[4 + nonce..size - 8].iter().any(|b| *b != 0) {
                return Err(format!("{text}: key bytes"));
            }
        }
        Ok(())
    }

    /// iv, key and salt of a struct tls12_crypto_info_*
    fn sizes(&self, cipher: u16) -> usize {
        match cipher {
            51 | 53 => 8 + 16 + 4,
            52 => 8 + 32 + 4,
            _ => 12 + 32,
        }
    }

    pub fn close_op(&mut self, o: usize) -> Check {
        let Some(op) = self.ops[o].take() else {
            return Ok(());
        };
        let c = self.conn_of(o);
        let rx = self.model.ops[o].as_ref().and_then(|op| op.rx.clone());
        let staged = rx.as_ref().map_or(0, |rx| rx.staged);
        let had_rx = rx.is_some();
        if let (Some(c), Some(rx)) = (c, &rx) {
            self.left[c] = rx.rest.is_empty().then(|| rx.keys.clone());
        }
        let reset = self.model.close_op(o, staged);
        drop(op);
        let Some(c) = c else {
            return Ok(());
        };
        self.conns[c].more = false;
        if self.loose() && had_rx && self.conns[c].ours.is_some() {
            // Whether anything was staged shows in whether the connection lives.
            let dead = self.conns[c]
                .ours
                .as_ref()
                .is_some_and(|t| state(t) == TCP_CLOSE);
            if dead && !self.model.conns[c].closed {
                self.reset_by_us(c);
            }
            return Ok(());
        }
        if reset && !self.model.conns[c].closed {
            if let Some(tcp) = &self.conns[c].ours
                && state(tcp) != TCP_CLOSE
            {
                return Err("closing the op lost staged bytes without a reset".into());
            }
            self.reset_by_us(c);
            return Ok(());
        }
        self.sync(c)
    }

    fn reset_by_us(&mut self, c: usize) {
        let conn = &mut self.model.conns[c];
        conn.disconnected = true;
        conn.sk_err = ECONNRESET;
        conn.closed = true;
        conn.wire.clear();
        conn.urgent = None;
        self.conns[c].broken = true;
    }

    pub fn close_tcp(&mut self, c: usize) -> Check {
        if c >= self.conns.len() || self.conns[c].ours.is_none() {
            return Ok(());
        }
        let unread = self.model.queued(c) > 0 || self.model.conns[c].urgent.is_some();
        let conn = &mut self.model.conns[c];
        // A FIN went out before: what follows it is TCP's affair.
        let alive = !conn.closed && !conn.disconnected && !conn.snd_shut;
        self.conns[c].ours = None;
        conn.open = false;
        conn.rcv_shut = true;
        conn.snd_shut = true;
        self.conns[c].more = false;
        if self.loose() || unread {
            self.conns[c].broken = true;
        }
        if !alive || self.conns[c].theirs.is_none() || self.conns[c].paused || self.loose() {
            return Ok(());
        }
        let must = if unread { End::Rst } else { End::Fin };
        if must == End::Fin {
            self.sync(c)?;
        }
        let limit = crate::world::PATIENCE;
        let start = std::time::Instant::now();
        while self.conns[c].end.is_none() && start.elapsed() < limit {
            self.look(c)?;
            std::thread::sleep(Duration::from_micros(300));
        }
        if self.conns[c].end != Some(must) {
            return Err(format!(
                "closing TCP: the peer saw {:?}, must see {must:?}",
                self.conns[c].end
            ));
        }
        Ok(())
    }

    // ------------------------------------------------------- TCP itself

    fn raw_write(&mut self, c: usize, len: usize) -> Check {
        if c >= self.conns.len() || self.conns[c].ours.is_none() || len == 0 {
            return Ok(());
        }
        let conn = &self.model.conns[c];
        if !conn.attachable() || self.tight(c) || conn.sk_err != 0 {
            return Ok(());
        }
        let data = self.bytes(len);
        let tcp = self.conns[c].ours.as_mut().expect("looked");
        let n = tcp.write(&data).map_err(|e| format!("write to TCP: {e}"))?;
        let conn = &mut self.model.conns[c];
        // A reader that opens records would take these for one.
        conn.out.push_back(Expect::Plain);
        conn.out.push_back(Expect::Raw(data[..n].to_vec()));
        conn.wrote = true;
        self.conns[c].more = false;
        self.sync(c)
    }

    fn raw_read(&mut self, c: usize, len: usize) -> Check {
        if c >= self.conns.len() || self.conns[c].ours.is_none() || self.loose() || len == 0 {
            return Ok(());
        }
        if self.model.conns[c].urgent.is_some() || self.model.conns[c].sk_err != 0 {
            return Ok(());
        }
        let queued = self.model.queued(c);
        if queued == 0 {
            return Ok(());
        }
        let mut buf = vec![0; len.min(queued)];
        let tcp = self.conns[c].ours.as_mut().expect("looked");
        let n = tcp
            .read(&mut buf)
            .map_err(|e| format!("read of TCP with {queued} bytes: {e}"))?;
        let conn = &mut self.model.conns[c];
        let at = conn.wire.len() - queued;
        if n == 0 || conn.wire[at..at + n] != buf[..n] {
            return Err(format!(
                "TCP gave {n} bytes that are not those that the peer sent"
            ));
        }
        conn.wire.drain(at..at + n);
        conn.read = true;
        self.left[c] = None;
        Ok(())
    }

    fn shutdown(&mut self, c: usize, how: u8) -> Check {
        if c >= self.conns.len() || self.conns[c].ours.is_none() || self.loose() {
            return Ok(());
        }
        let conn = &mut self.model.conns[c];
        if !conn.attachable() || conn.done || conn.sk_err != 0 {
            return Ok(());
        }
        let how = match how % 3 {
            0 => Shutdown::Read,
            1 => Shutdown::Write,
            _ => Shutdown::Both,
        };
        let tcp = self.conns[c].ours.as_ref().expect("looked");
        tcp.shutdown(how).map_err(|e| format!("shutdown: {e}"))?;
        conn.rcv_shut |= how != Shutdown::Write;
        conn.snd_shut |= how != Shutdown::Read;
        if how != Shutdown::Read {
            self.conns[c].more = false;
        }
        self.sync(c)
    }

    fn lowat(&mut self, c: usize, n: u32) -> Check {
        if c >= self.conns.len() {
            return Ok(());
        }
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        let saw = out(sys::set_int(tcp, SOL_SOCKET, SO_RCVLOWAT, n as i32));
        self.model.conns[c].lowat = (n as i32).max(1);
        same("SO_RCVLOWAT", &saw, &Ok(()))
    }

    fn so_error(&mut self, c: usize) -> Check {
        if c >= self.conns.len() {
            return Ok(());
        }
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        let saw = out(sys::get_int(tcp, SOL_SOCKET, SO_ERROR));
        same("SO_ERROR", &saw, &Ok(self.model.conns[c].take_error()))
    }

    fn disconnect(&mut self, c: usize) -> Check {
        if c >= self.conns.len() || self.conns[c].paused {
            return Ok(());
        }
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        if !self.model.conns[c].attachable() {
            return Ok(());
        }
        let saw = out(net::disconnect(tcp));
        same("disconnect", &saw, &Ok(()))?;
        let before = self.model.conns[c].lowat;
        self.reset_by_us(c);
        let conn = &mut self.model.conns[c];
        (conn.rcv_shut, conn.snd_shut, conn.done) = (false, false, false);
        conn.lowat = before;
        Ok(())
    }

    // --------------------------------------------------------- the peer

    pub fn do_peer(&mut self, c: usize, what: &PeerDo) -> Check {
        if c >= self.conns.len() || self.conns[c].theirs.is_none() {
            return Ok(());
        }
        match *what {
            PeerDo::Push(n) => self.push(c, n as usize),
            PeerDo::Urgent => match self.loose() {
                true => Ok(()),
                false => self.urgent(c),
            },
            PeerDo::Pause => {
                self.conns[c].paused = true;
                Ok(())
            }
            PeerDo::Resume => {
                self.conns[c].paused = false;
                self.sync(c)
            }
            PeerDo::Fin => self.peer_fin(c),
            PeerDo::Rst => self.peer_rst(c),
            PeerDo::Junk(n) => {
                let data = self.bytes(n as usize);
                self.queue(c, &data);
                Ok(())
            }
            PeerDo::Seal {
                kind,
                len,
                pad,
                damage,
            } => self.seal(c, kind, len as usize, pad, damage),
            PeerDo::CloseNotify => self.seal_plain(c, ALERT, CLOSE_NOTIFY),
            PeerDo::Ccs { rekey } => {
                self.seal_plain(c, CCS, &[1])?;
                self.announce(c, rekey);
                Ok(())
            }
            PeerDo::Handshake {
                len,
                update,
                split,
                rekey,
            } => {
                let mut data = vec![4, 0, (len >> 8) as u8, len as u8];
                data.resize(4 + len as usize, 0x55);
                if update {
                    data.extend([24, 0, 0, 1, 0]);
                }
                let cut = usize::from(split).min(data.len() - 1);
                let (head, tail) = data.split_at(cut);
                if !head.is_empty() {
                    self.seal_plain(c, HANDSHAKE, head)?;
                }
                self.seal_plain(c, HANDSHAKE, tail)?;
                if update {
                    self.announce(c, rekey);
                }
                Ok(())
            }
        }
    }

    fn announce(&mut self, c: usize, rekey: Option<u32>) {
        if let (Some(id), Some(half)) = (rekey, &self.conns[c].seal) {
            let keys = self.setup.keys(half.keys().cipher, id, 0);
            self.conns[c].seal = Some(Half::new(keys.clone()));
            self.conns[c].announced.push_back(keys);
        }
    }

    fn queue(&mut self, c: usize, wire: &[u8]) {
        // More than the model lets lie there would only pile up here.
        if self.conns[c].queue.len() < 1 << 18 {
            self.conns[c].queue.extend(wire);
        }
    }

    fn seal_plain(&mut self, c: usize, kind: u8, data: &[u8]) -> Check {
        if let Some(half) = self.conns[c].seal.as_mut()
            && half.seq() < u64::MAX - 1
        {
            let wire = half.seal(kind, data, 0);
            self.queue(c, &wire);
        }
        Ok(())
    }

    fn seal(&mut self, c: usize, kind: u8, len: usize, pad: u8, damage: Damage) -> Check {
        let data = self.bytes(len);
        let tls13 = self.setup.tls13;
        let Some(half) = self.conns[c].seal.as_mut() else {
            return Ok(());
        };
        if half.seq() >= u64::MAX - 1 {
            return Ok(());
        }
        let pad = usize::from(pad) * usize::from(tls13);
        let mut wire = match damage {
            Damage::NoType if tls13 => half.seal_inner(&vec![0; len.min(3000) + 1]),
            _ => half.seal(kind, &data, pad.min(16384 - len.min(16384))),
        };
        let last = wire.len() - 1;
        match damage {
            Damage::None | Damage::NoType => {}
            Damage::Tag => wire[last] ^= 4,
            Damage::Type => wire[0] = 99,
            Damage::Version => wire[2] = 1,
            Damage::TooLong => (wire[3], wire[4]) = (0x48, 0x01),
            Damage::TooShort => (wire[3], wire[4]) = (0, 15),
        }
        self.queue(c, &wire);
        Ok(())
    }

    fn peer_fin(&mut self, c: usize) -> Check {
        let tcp = &self.conns[c];
        let gone = self.model.conns[c].closed || self.model.conns[c].done;
        if gone || tcp.ours.is_none() || self.loose() || tcp.broken {
            return Ok(());
        }
        let theirs = tcp.theirs.as_ref().expect("looked");
        theirs
            .shutdown(Shutdown::Write)
            .map_err(|e| format!("the peer cannot shut down: {e}"))?;
        self.conns[c].queue.clear();
        self.conns[c].seal = None;
        self.model.conns[c].fin();
        let states = [
            TCP_CLOSE_WAIT,
            TCP_CLOSE,
            TCP_CLOSING,
            TCP_TIME_WAIT,
            TCP_LAST_ACK,
        ];
        let both = self.model.conns[c].snd_shut;
        self.ended(c, &states)?;
        if both {
            // FIN both ways: TIME_WAIT is another socket, ours is closed.
            self.ended(c, &[TCP_CLOSE])?;
            self.model.conns[c].closed = true;
        }
        self.look(c)
    }

    fn peer_rst(&mut self, c: usize) -> Check {
        let conn = &self.model.conns[c];
        if conn.closed || self.conns[c].ours.is_none() || self.conns[c].broken || self.loose() {
            return Ok(());
        }
        // Half closed on our side the reset is another story, and TCP's alone.
        if conn.snd_shut {
            return Ok(());
        }
        self.look(c)?;
        let theirs = self.conns[c].theirs.take().expect("looked");
        net::linger_zero(&theirs);
        drop(theirs);
        self.ended(c, &[TCP_CLOSE])?;
        self.model.conns[c].rst();
        self.model.conns[c].out.clear();
        self.conns[c].broken = true;
        self.conns[c].queue.clear();
        Ok(())
    }

    // ------------------------------------------------------------ sending

    fn blocks(&self, o: usize) -> (bool, usize) {
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
    fn patient(&self, may_block: bool, flags: i32) -> i32 {
        if may_block && !self.setup.short {
            flags | MSG_DONTWAIT
        } else {
            flags
        }
    }

    fn send(
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
        let saw = out(sys::sendmsg(op, &cuts, control, flags));
        if flags & !known != 0 {
            return same("sendmsg with an unknown flag", &saw, &Err(EOPNOTSUPP));
        }
        if kind == Some(0) || kind.is_some() && flags & MSG_MORE != 0 {
            return same("sendmsg with a wrong record type", &saw, &Err(EINVAL));
        }
        if saw == Err(EAGAIN) && unsent == 0 {
            return Err("sendmsg: EAGAIN though nothing waits to be sent".into());
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

    /// What follows each sending call: it is on the wire.
    fn sent(&mut self, o: usize, saw: Out<usize>, more: bool) -> Check {
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        match saw {
            Ok(n) if n > 0 => self.conns[c].more = more,
            Err(EAGAIN) => self.conns[c].more = false,
            _ => {}
        }
        self.sync(c)
    }

    fn seq_now(&self, o: usize, op: &Op) -> Option<u64> {
        self.model.ops[o].as_ref()?.tx.as_ref()?;
        op.state(ktlsshim_tests::Dir::Tx).ok().map(|s| s.seq)
    }

    fn stream(
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

    fn send_fault(&mut self, o: usize, op: &Op, good: usize, bad: usize) -> Check {
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

    fn send_file(&mut self, o: usize, op: &Op, at: usize, len: usize, flags: i32) -> Check {
        let (may_block, unsent) = self.blocks(o);
        let flags = self.patient(may_block, flags);
        let saw = op.sendfile(&self.file.file, at as u64, len as u64, flags);
        let known = MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL;
        if flags & !known != 0 {
            return same(
                "sendfile ioctl with an unknown flag",
                &out(saw),
                &Err(EOPNOTSUPP),
            );
        }
        if let Ok((next, n)) = &saw
            && *next != at as u64 + n
        {
            return Err(format!(
                "sendfile ioctl: {n} bytes from {at}, but the offset is {next}"
            ));
        }
        let saw = out(saw.map(|(_, n)| n as usize));
        if saw == Err(EAGAIN) && unsent == 0 {
            return Err("sendfile ioctl: EAGAIN though nothing waits to be sent".into());
        }
        if self.conn_of(o).is_none() {
            return same("sendfile ioctl", &saw, &Err(ENOTCONN));
        }
        let file = Arc::new(self.file.text.clone());
        let end = (at + len).min(file.len());
        let data = &file[at.min(end)..end];
        if data.is_empty() {
            return same("sendfile ioctl of nothing", &saw, &Ok(0));
        }
        self.stream(o, op, data, data.len(), may_block, saw)
            .map_err(|e| format!("sendfile ioctl of {}: {e}", data.len()))?;
        self.sent(o, saw, flags & MSG_MORE != 0)
    }

    fn send_file2(&mut self, o: usize, op: &Op, at: usize, len: usize) -> Check {
        if self.blocks(o).0 {
            return Ok(());
        }
        let end = (at + len).min(self.file.text.len());
        let data = self.file.text[at.min(end)..end].to_vec();
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
        self.stream(o, op, &data, data.len(), false, saw)
            .map_err(|e| format!("sendfile of {}: {e}", data.len()))?;
        self.sent(o, saw, false)
    }

    fn splice_in(&mut self, o: usize, op: &Op, len: usize, more: bool) -> Check {
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

    // ---------------------------------------------------------- receiving

    /// Lets the peer's bytes come, where the buffer is too small for all of them at once.
    fn pump(&mut self, o: usize) -> Check {
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
        let saw = receive(op, &call, parts);
        if self.loose() {
            return self.recv_loose(o, op, &call, saw);
        }
        let must = self.model.recv(o, &call, None);
        same(&format!("recvmsg {call:?}"), &saw, &must)?;
        self.counted(&saw);
        self.lowat_holds(o)
    }

    fn counted(&mut self, saw: &Out<Got>) {
        match saw {
            Ok(got) => self.tally.opened += got.data.len() as u64,
            Err(e) => self.tally.errno(*e),
        }
    }

    /// Some of what the peer sent may not have arrived: any whole number of records may be there.
    fn recv_loose(&mut self, o: usize, op: &Op, call: &RecvCall, saw: Out<Got>) -> Check {
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
    fn must_come(&mut self, o: usize, op: &Op) -> Check {
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
                return Err(
                    "a record was sent whole, but the TCP socket never became readable".into(),
                );
            }
            self.push(c, 0)?;
        }
        let call = RecvCall {
            len: 20_000,
            good: 20_000,
            flags: MSG_DONTWAIT,
            control: 64,
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

    /// After a call that found nothing, part of a record must not wake anybody.
    fn lowat_holds(&mut self, o: usize) -> Check {
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        let (Some(tcp), Some(must)) = (&self.conns[c].ours, self.model.tcp_in(c)) else {
            return Ok(());
        };
        if self.model.conns[c].disconnected {
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

    fn recv_fault(&mut self, o: usize, op: &Op, good: usize, bad: usize) -> Check {
        if self.loose() || bad == 0 {
            return Ok(());
        }
        let good = good.min(READABLE);
        let mut call = RecvCall {
            len: good + bad,
            good,
            flags: MSG_DONTWAIT,
            control: 0,
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

    fn splice_out(&mut self, o: usize, op: &Op, len: usize) -> Check {
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

    // ---------------------------------------------------------- readiness

    fn poll(&mut self, o: usize, op: &Op) -> Check {
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

    // ------------------------------------------------------------- the end

    fn finish(&mut self, before: &Counters) -> Check {
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

/// recvmsg() into `parts` pieces.
pub fn receive(op: &Op, call: &RecvCall, parts: u8) -> Out<Got> {
    let mut buf = vec![0xee; call.len];
    let mut control = Control([0; 64]);
    let size = call.len.div_ceil(usize::from(parts.max(1))).max(1);
    let r = {
        let mut cuts: Vec<&mut [u8]> = buf.chunks_mut(size).collect();
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
    buf.truncate(r.len);
    let kind = (r.control >= 17 && call.control >= 17).then(|| control.0[16]);
    Ok(Got {
        data: buf,
        kind,
        cut: r.flags & MSG_CTRUNC != 0,
    })
}
