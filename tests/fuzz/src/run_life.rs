// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps that make and end ops and claims, and change keys.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::op::Attach as AttachArg;
use ktlsshim_tests::peer::Half;
use ktlsshim_tests::sys::{self, Errno};
use ktlsshim_tests::{Keys, Op, Parent};
use libc::*;

use crate::model::Attach;
use crate::program::{Dir, Pick};
use crate::run::{out, same};
use crate::run_tcp::TCP_CLOSE;
use crate::world::{Check, End, World, state};

impl World<'_> {
    pub fn accept(&mut self, o: usize) -> Check {
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
    pub fn keys(&mut self, o: usize, c: usize, dir: Dir, pick: Pick) -> Option<Keys> {
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
    pub fn rx_keys(&self, c: usize) -> Option<Keys> {
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

    pub fn attach(&mut self, o: usize, c: usize, picks: [Pick; 2], max: u16) -> Check {
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
        self.judge("ALG_TLS_ATTACH", &saw, &must)?;
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

    pub fn rekey(&mut self, o: usize, op: &Op, dir: Dir, pick: Pick) -> Check {
        let c = self.conn_of(o).unwrap_or(0);
        let announced = !self.conns[c].announced.is_empty();
        let Some(keys) = self.keys(o, c, dir, pick) else {
            return Ok(());
        };
        let saw = out(op.rekey(dir.into(), &keys));
        let must = self.model.rekey(o, dir, &keys);
        self.judge("re-key", &saw, &must)?;
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

    pub fn detach(&mut self, o: usize, op: &Op, dir: Dir, room: usize) -> Check {
        let mut buf = vec![0; room];
        let before = self.model.ops[o]
            .as_ref()
            .and_then(|op| op.rx.as_ref().map(|rx| rx.keys.clone()));
        let saw = self
            .hurt(false, || out(op.detach_into(dir.into(), &mut buf)))
            .map_err(Errno);
        let got = saw.as_ref().map_or(0, |d| d.staged.len());
        let Some(c) = self.conn_of(o) else {
            let must = self.model.detach(o, dir, room, got);
            return self.judge("ALG_TLS_DETACH", &out(saw.map(|d| (d.seq, d.nonce))), &must);
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
        // A disconnect empties TCP's queue, and not what the op has taken from it.
        let wire = match self.model.conns[c].disconnected {
            true => &self.conns[c].lost,
            false => &self.model.conns[c].wire,
        };
        if let Ok(d) = &saw
            && dir == Dir::Rx
            && (!wire.starts_with(&d.staged) || !self.loose() && got != known)
        {
            return Err(format!(
                "ALG_TLS_DETACH gave {got} wire bytes back, not the next {known} of the stream"
            ));
        }
        self.judge("ALG_TLS_DETACH", &out(saw.map(|d| (d.seq, d.nonce))), &must)?;
        if ok && dir == Dir::Rx {
            // Whoever comes next begins with them; here the rest of a record is skipped as a program would.
            let conn = &mut self.model.conns[c];
            conn.wire.drain(..got.min(conn.wire.len()));
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

    pub fn read_back(&mut self, o: usize, op: &Op, dir: Dir, room: usize) -> Check {
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
    pub fn sizes(&self, cipher: u16) -> usize {
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

    pub fn reset_by_us(&mut self, c: usize) {
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
}
