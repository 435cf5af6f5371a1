// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel socket should do, written down a second time: from `algif_tls.h` and `algif_tls.4`,
//! over byte vectors, without locks, pages or sleeping. Every function here is a call; it returns what
//! the call must return and changes the state as the call must. `model_rx` and `model_tx` hold the two
//! directions, here is what they share: claims, keys, the TCP socket's own state, readiness.
//!
//! Records are opened by the RustCrypto crates (`ktlsshim_tests::peer`), never by the kernel's.

use std::collections::VecDeque;

use ktlsshim_tests::{Cipher, Keys, Version};
use libc::*;

use crate::model_rx::Rx;
use crate::model_tx::Tx;
use crate::program::{CONNS, Dir, OPS};

pub type Out<T> = Result<T, i32>;

/// What the peer must find on the wire, in this order.
#[derive(Clone)]
pub enum Expect {
    /// From here on sealed with these
    Keys(Keys),
    /// From here on plain TCP
    Plain,
    Raw(Vec<u8>),
    Record(u8, Vec<u8>),
    /// Data records of at most so many bytes each, and how many; borders are the kernel's choice
    Stream(Vec<u8>, usize, u64),
    /// Whole records of two writers in any order, while keys are replaced
    Mixed(Mixed),
}

/// The high bit of a byte names its writer, the others count.
#[derive(Clone)]
pub struct Mixed {
    pub sent: [usize; 2],
    pub left: [usize; 2],
    pub max: usize,
    pub keys: VecDeque<Keys>,
}

impl Mixed {
    pub fn byte(writer: usize, at: usize) -> u8 {
        (writer as u8) << 7 | (at % 113) as u8
    }

    /// Takes a record; false if it is not the next of its writer.
    pub fn take(&mut self, data: &[u8]) -> bool {
        let Some(first) = data.first() else {
            return false;
        };
        let w = usize::from(first >> 7);
        let at = self.sent[w];
        let fits = data.len() <= self.max.min(self.left[w])
            && (at..).zip(data).all(|(i, b)| *b == Mixed::byte(w, i));
        if fits {
            self.sent[w] += data.len();
            self.left[w] -= data.len();
        }
        fits
    }
}

#[derive(Clone)]
pub struct Conn {
    /// Bytes that the peer sent and nobody consumed
    pub wire: Vec<u8>,
    /// An urgent byte is queued behind so many bytes of `wire`, which does not contain it
    pub urgent: Option<usize>,
    pub rcv_shut: bool,
    pub snd_shut: bool,
    /// FIN came, which outranks `sk_err`
    pub done: bool,
    pub closed: bool,
    pub sk_err: i32,
    /// The descriptor
    pub open: bool,
    pub disconnected: bool,
    pub claimed: Option<usize>,
    pub lowat: i32,
    pub out: VecDeque<Expect>,
    /// Somebody wrote (read) past the op
    pub wrote: bool,
    pub read: bool,
    /// Where the sending direction stands, for the next op
    pub tx_keys: Option<Keys>,
}

impl Conn {
    pub fn new() -> Conn {
        Conn {
            wire: Vec::new(),
            urgent: None,
            rcv_shut: false,
            snd_shut: false,
            done: false,
            closed: false,
            sk_err: 0,
            open: true,
            disconnected: false,
            claimed: None,
            lowat: 1,
            out: VecDeque::new(),
            wrote: false,
            read: false,
            tx_keys: None,
        }
    }

    pub fn fin(&mut self) {
        self.rcv_shut = true;
        self.done = true;
    }

    pub fn rst(&mut self) {
        if self.closed {
            return;
        }
        // A half-closed connection is told EPIPE.
        self.sk_err = if self.done { EPIPE } else { ECONNRESET };
        self.rcv_shut = true;
        self.snd_shut = true;
        self.closed = true;
    }

    pub fn take_error(&mut self) -> i32 {
        std::mem::take(&mut self.sk_err)
    }

    /// ESTABLISHED or CLOSE_WAIT.
    pub fn attachable(&self) -> bool {
        !self.closed && !self.snd_shut && !self.disconnected
    }
}

impl Default for Conn {
    fn default() -> Conn {
        Conn::new()
    }
}

#[derive(Clone)]
pub struct Op {
    /// The parent's cipher
    pub name: &'static str,
    pub conn: Option<usize>,
    pub tx: Option<Tx>,
    pub rx: Option<Rx>,
    /// The last sending keys, as they stood when they left
    pub last: Option<Keys>,
}

#[derive(Clone)]
pub struct Model {
    pub ops: Vec<Option<Op>>,
    pub conns: Vec<Conn>,
    pub counts: Counts,
}

/// What `/proc/net/alg_tls_stat` must have counted.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    pub tx_records: i64,
    pub tx_bytes: i64,
    pub rx_records: i64,
    pub rx_bytes: i64,
    pub rekeys: i64,
    pub detaches: i64,
    pub attaches: i64,
}

pub struct Attach<'a> {
    pub tx: Option<&'a Keys>,
    pub rx: Option<&'a Keys>,
    pub max: u16,
}

/// The explicit nonce as the reuse check sees it.
fn explicit(keys: &Keys) -> u64 {
    if keys.explicit_nonce() {
        keys.nonce()
    } else {
        0
    }
}

impl Model {
    pub fn new() -> Model {
        Model {
            ops: (0..OPS).map(|_| None).collect(),
            conns: (0..CONNS).map(|_| Conn::new()).collect(),
            counts: Counts::default(),
        }
    }

    pub fn accept(&mut self, o: usize, name: &'static str) {
        self.ops[o] = Some(Op {
            name,
            conn: None,
            tx: None,
            rx: None,
            last: None,
        });
    }

    pub fn op(&mut self, o: usize) -> &mut Op {
        self.ops[o].as_mut().expect("the runner looked")
    }

    pub fn conn_of(&mut self, o: usize) -> Option<&mut Conn> {
        let c = self.ops[o].as_ref()?.conn?;
        Some(&mut self.conns[c])
    }

    fn reused(&mut self, o: usize, new: &Keys) -> bool {
        let op = self.op(o);
        if let Some(tx) = &op.tx {
            op.last = Some(tx.keys.clone());
        }
        op.last.as_ref().is_some_and(|last| {
            last.key == new.key
                && (new.seq < last.seq || (explicit(new).wrapping_sub(explicit(last)) as i64) < 0)
        })
    }

    pub fn attach(&mut self, o: usize, c: usize, a: &Attach) -> Out<()> {
        if a.max != 0 && !(64..=16384).contains(&a.max) || a.tx.is_none() && a.rx.is_none() {
            return Err(EINVAL);
        }
        let op = self.op(o);
        if op.conn.is_some_and(|have| have != c) {
            return Err(EBUSY);
        }
        let fits = |k: Option<&Keys>| k.is_none_or(|k| k.cipher.name() == op.name);
        if !fits(a.tx) || !fits(a.rx) {
            return Err(EINVAL);
        }
        if !self.conns[c].attachable() {
            return Err(ENOTCONN);
        }
        if self.conns[c].claimed.is_some_and(|by| by != o) {
            return Err(EBUSY);
        }
        let op = self.op(o);
        if a.tx.is_some() && op.tx.is_some() || a.rx.is_some() && op.rx.is_some() {
            return Err(EALREADY);
        }
        if a.tx.is_some_and(|keys| self.reused(o, keys)) {
            return Err(EKEYREJECTED);
        }
        self.conns[c].claimed = Some(o);
        self.op(o).conn = Some(c);
        if let Some(keys) = a.tx {
            let max = if a.max == 0 { 16384 } else { a.max };
            self.op(o).tx = Some(Tx::new(keys.clone(), usize::from(max)));
            let conn = &mut self.conns[c];
            conn.out.push_back(Expect::Keys(keys.clone()));
            conn.wrote = false;
            conn.tx_keys = Some(keys.clone());
            self.counts.attaches += 1;
        }
        if let Some(keys) = a.rx {
            let lowat = self.conns[c].lowat;
            self.conns[c].read = false;
            self.op(o).rx = Some(Rx::new(keys.clone(), lowat));
            self.settle(o);
            self.counts.attaches += 1;
        }
        Ok(())
    }

    pub fn rekey(&mut self, o: usize, dir: Dir, new: &Keys) -> Out<()> {
        if self.op(o).conn.is_none() {
            return Err(ENOTCONN);
        }
        if new.cipher.name() != self.op(o).name {
            return Err(EINVAL);
        }
        let old = match dir {
            Dir::Tx => {
                self.tx_check(o)?;
                self.op(o).tx.as_ref().map(|d| d.keys.clone())
            }
            Dir::Rx => {
                self.rx_check(o)?;
                self.op(o).rx.as_ref().map(|d| d.keys.clone())
            }
        };
        let old = old.ok_or(ENOTCONN)?;
        if new.version != old.version || new.version == Version::Tls13 && new.cipher != old.cipher {
            return Err(EINVAL);
        }
        match dir {
            Dir::Tx => {
                if self.reused(o, new) {
                    return Err(EKEYREJECTED);
                }
                let tx = self.op(o).tx.as_mut().expect("checked");
                tx.keys = new.clone();
                tx.need_key = false;
                let conn = self.conn_of(o).expect("attached");
                conn.out.push_back(Expect::Keys(new.clone()));
                conn.tx_keys = Some(new.clone());
            }
            Dir::Rx => {
                self.op(o).rx.as_mut().expect("checked").rekey(new.clone());
                self.settle(o);
            }
        }
        self.counts.rekeys += 1;
        Ok(())
    }

    /// The number and the explicit nonce; for RX the staged bytes are part of `Conn::wire` and stay.
    /// `staged`: what the kernel says that it had, which only the caller can compare.
    pub fn detach(&mut self, o: usize, dir: Dir, room: usize, staged: usize) -> Out<(u64, u64)> {
        if self.op(o).conn.is_none() {
            return Err(ENOTCONN);
        }
        match dir {
            Dir::Tx => {
                let tx = self.op(o).tx.clone().ok_or(ENOTCONN)?;
                let op = self.op(o);
                op.last = Some(tx.keys.clone());
                op.tx = None;
                let conn = self.conn_of(o).expect("attached");
                conn.tx_keys = Some(tx.keys.clone());
                conn.out.push_back(Expect::Plain);
                self.counts.detaches += 1;
                Ok((tx.keys.seq, explicit(&tx.keys)))
            }
            Dir::Rx => {
                let rx = self.op(o).rx.clone().ok_or(ENOTCONN)?;
                if !rx.rest.is_empty() {
                    return Err(EBUSY);
                }
                if staged > room {
                    return Err(ENOSPC);
                }
                self.rx_leave(o);
                self.counts.detaches += 1;
                Ok((rx.keys.seq, 0))
            }
        }
    }

    /// True: bytes are lost by it and the connection is reset.
    pub fn close_op(&mut self, o: usize, staged: usize) -> bool {
        let Some(op) = self.ops[o].clone() else {
            return false;
        };
        let Some(c) = op.conn else {
            self.ops[o] = None;
            return false;
        };
        if let Some(tx) = op.tx {
            self.conns[c].tx_keys = Some(tx.keys);
            self.conns[c].out.push_back(Expect::Plain);
        }
        let mut reset = false;
        if op.rx.is_some() {
            reset = staged > 0 && self.conns[c].open && !self.conns[c].disconnected;
            self.rx_leave(o);
        }
        self.ops[o] = None;
        if self.conns[c].claimed == Some(o) {
            self.conns[c].claimed = None;
        }
        reset
    }

    /// Version, cipher and number.
    pub fn read_back(&mut self, o: usize, dir: Dir) -> Out<(u16, u16, u64)> {
        let op = self.op(o);
        op.conn.ok_or(ENOTCONN)?;
        let keys = match dir {
            Dir::Tx => op.tx.as_ref().map(|d| &d.keys),
            Dir::Rx => op.rx.as_ref().map(|d| &d.keys),
        };
        let keys = keys.ok_or(ENOTCONN)?;
        Ok((keys.version.number(), keys.cipher.number(), keys.seq))
    }

    pub fn set_max(&mut self, o: usize, max: i32) -> Out<()> {
        if !(64..=16384).contains(&max) {
            return Err(EINVAL);
        }
        let op = self.op(o);
        op.conn.ok_or(ENOTCONN)?;
        op.tx.as_mut().ok_or(ENOTCONN)?.max = max as usize;
        Ok(())
    }

    pub fn get_max(&mut self, o: usize) -> Out<i32> {
        let op = self.op(o);
        op.conn.ok_or(ENOTCONN)?;
        Ok(op.tx.as_ref().ok_or(ENOTCONN)?.max as i32)
    }

    /// Must the TCP socket be readable?  None: it may be either.
    pub fn tcp_in(&self, c: usize) -> Option<bool> {
        let conn = &self.conns[c];
        if conn.urgent.is_some() {
            return None;
        }
        Some(conn.rcv_shut || self.queued(c) >= conn.lowat.max(1) as usize)
    }

    /// Bytes on TCP's receive queue.
    pub fn queued(&self, c: usize) -> usize {
        let conn = &self.conns[c];
        let staged = conn.claimed.and_then(|o| self.ops[o].as_ref());
        let staged = staged
            .and_then(|op| op.rx.as_ref())
            .map_or(0, |rx| rx.staged);
        conn.wire.len() - staged.min(conn.wire.len())
    }

    /// The events of poll(POLLIN | POLLOUT | POLLRDHUP) on the TCP socket, POLLOUT if `room`.
    pub fn tcp_events(&self, c: usize, room: bool) -> Option<i16> {
        let conn = &self.conns[c];
        let mut events = 0;
        let mut add = |on: bool, bits: i16| events |= if on { bits } else { 0 };
        add(conn.closed || conn.rcv_shut && conn.snd_shut, POLLHUP);
        add(conn.rcv_shut, POLLRDHUP);
        add(self.tcp_in(c)?, POLLIN);
        add(room || conn.snd_shut, POLLOUT);
        add(conn.sk_err != 0, POLLERR);
        Some(events)
    }

    /// The same on the op.
    pub fn op_events(&self, o: usize, room: bool) -> Option<i16> {
        let op = self.ops[o].as_ref()?;
        let Some(c) = op.conn else {
            return Some(POLLERR | POLLHUP);
        };
        let conn = &self.conns[c];
        let mut events = 0;
        let mut add = |on: bool, bits: i16| events |= if on { bits } else { 0 };
        add(conn.closed || conn.rcv_shut && conn.snd_shut, POLLHUP);
        if let Some(rx) = &op.rx {
            add(conn.rcv_shut, POLLIN | POLLRDHUP);
            let ready = !rx.rest.is_empty()
                || rx.parked.is_some()
                || rx.eof
                || rx.need_key
                || rx.err.is_some();
            if ready {
                add(true, POLLIN);
            } else {
                add(self.tcp_in(c)?, POLLIN);
            }
            add(rx.err.is_some() || conn.sk_err != 0, POLLERR);
        }
        if let Some(tx) = &op.tx {
            add(
                room || conn.snd_shut || conn.sk_err != 0 || tx.err.is_some(),
                POLLOUT,
            );
            add(tx.err.is_some(), POLLERR);
        }
        Some(events)
    }

    /// A socket that fits this name, for the runner's parents.
    pub fn name_of(cipher: Cipher) -> &'static str {
        cipher.name()
    }
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}
