// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps with a second thread: somebody sleeps and must be woken, or two do the same thing at once. A
//! phase begins only where the model says that the caller would sleep, and ends with all threads joined,
//! so that the model knows again where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ktlsshim_tests::Op;
use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::sys::{self, Errno};
use libc::*;

use crate::model::{Expect, Mixed, Out};
use crate::model_rx::RecvCall;
use crate::model_tx::SendCall;
use crate::program::{Dir, Meet};
use crate::run::{out, same};
use crate::run_rx::receive;
use crate::world::{Check, PATIENCE, World, until};

/// Far from the last sequence number.
const ROOM: u64 = u64::MAX - 100_000;

/// Starts `call` on a thread of its own and returns once it sleeps in the kernel, or is done.
pub fn sleeper<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (tell, hear) = channel();
    let thread = std::thread::spawn(move || {
        let _ = tell.send(sys::this_thread());
        call()
    });
    let tid = hear.recv().expect("the thread speaks first");
    let mut calm = 0;
    until(PATIENCE, || {
        calm = if sys::asleep(tid) { calm + 1 } else { 0 };
        calm > 3 || thread.is_finished()
    });
    thread
}

pub fn join<T>(thread: JoinHandle<T>, what: &str) -> Result<T, String> {
    if !until(PATIENCE * 2, || thread.is_finished()) {
        return Err(format!("{what} still sleeps"));
    }
    thread.join().map_err(|_| format!("{what} panicked"))
}

pub const ANY: RecvCall = RecvCall {
    len: 20_000,
    good: 20_000,
    flags: 0,
    control: 0,
    opens: usize::MAX,
};

impl World<'_> {
    pub fn together(&mut self, o: usize, op: &Arc<Op>, meet: &Meet) -> Check {
        let Some(c) = self.conn_of(o) else {
            return Ok(());
        };
        if self.loose() || self.conns[c].ours.is_none() || self.conns[c].broken {
            return Ok(());
        }
        if self.conns[c].theirs.is_none() || !self.model.conns[c].attachable() {
            return Ok(());
        }
        let fit = match meet {
            Meet::Reader(_) | Meet::Poller(..) | Meet::Readers { .. } => self.idle(o, c),
            Meet::Duplex { .. } => self.idle(o, c) && self.sends(o, c),
            _ => self.sends(o, c),
        };
        if !fit {
            return Ok(());
        }
        let tcp = self.conns[c].ours.as_ref().expect("looked");
        sys::nonblocking(tcp, false);
        let limit = if matches!(meet, Meet::Readers { .. }) {
            Duration::from_millis(40)
        } else {
            PATIENCE
        };
        sys::timeout(tcp, SO_RCVTIMEO, limit);
        sys::timeout(tcp, SO_SNDTIMEO, PATIENCE * 8);
        let result = match *meet {
            Meet::Reader(event) => self.reader(o, c, op, event),
            Meet::Poller(on_op, event) => self.poller(o, c, op, on_op, event),
            Meet::Writer { len, file } => self.writer(o, c, op, len as usize, file),
            Meet::Room(on_op) => self.room(o, c, op, on_op),
            Meet::Writers {
                each,
                count,
                rekeys,
            } => self.writers(o, c, op, each as usize, usize::from(count), rekeys),
            Meet::Readers { count, len } => self.readers(o, c, op, count, len as usize),
            Meet::Duplex { len } => self.duplex(o, c, op, len as usize),
            Meet::DetachWriter { each } => self.detach_writer(o, c, op, each as usize),
        };
        if let Some(tcp) = &self.conns[c].ours {
            sys::nonblocking(tcp, self.setup.nonblock);
            let limit = if self.setup.short {
                Duration::from_millis(25)
            } else {
                PATIENCE
            };
            sys::timeout(tcp, SO_RCVTIMEO, limit);
            sys::timeout(tcp, SO_SNDTIMEO, limit);
        }
        result
    }

    /// Would a reader sleep, and a whole record wake it?
    pub fn idle(&mut self, o: usize, c: usize) -> bool {
        let mut ahead = self.model.clone();
        let near = ahead.op(o).rx.as_ref().is_none_or(|rx| rx.keys.seq > ROOM);
        let queued = !self.model.conns[c].wire.is_empty() || self.model.conns[c].urgent.is_some();
        let seals = self.conns[c]
            .seal
            .as_ref()
            .is_some_and(|half| half.seq() < ROOM);
        if near || queued || !seals || !self.conns[c].queue.is_empty() {
            return false;
        }
        // The peer and the op agree on the key, or the records would be refused.
        let keys = self
            .model
            .op(o)
            .rx
            .as_ref()
            .map(|rx| (rx.keys.key.clone(), rx.keys.seq));
        let peer = self.conns[c]
            .seal
            .as_ref()
            .map(|half| (half.keys().key.clone(), half.seq()));
        keys == peer && ahead.recv(o, &RecvCall { control: 64, ..ANY }, None) == Err(EAGAIN)
    }

    pub fn sends(&mut self, o: usize, c: usize) -> bool {
        let fit = self
            .model
            .op(o)
            .tx
            .as_ref()
            .is_some_and(|tx| tx.keys.seq < ROOM && !tx.need_key);
        fit && self.model.clone().tx_check(o).is_ok()
            && self.model.conns[c].sk_err == 0
            && !self.conns[c].paused
            && !self.conns[c].more
    }

    /// Reads at the peer until the thread is done, or nothing has come for long: opening thousands of small
    /// records takes its time.
    pub fn serve<T>(&mut self, c: usize, thread: &JoinHandle<T>) -> Check {
        let (mut last, mut seen) = (Instant::now(), 0);
        while !thread.is_finished() && last.elapsed() < PATIENCE * 2 {
            self.look(c)?;
            let now = self.conns[c].wire.records;
            if now != seen {
                (last, seen) = (Instant::now(), now);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// The same, and then all of it must be there.
    pub fn drain<T>(&mut self, c: usize, thread: JoinHandle<T>, what: &str) -> Result<T, String> {
        self.serve(c, &thread)?;
        if !thread.is_finished() {
            return Err(format!("{what} still sleeps though the peer reads"));
        }
        let value = join(thread, what)?;
        self.conns[c].more = false;
        self.sync(c)?;
        Ok(value)
    }

    pub fn learn(&mut self, o: usize, c: usize, op: &Op, records: i64, bytes: usize) -> Check {
        let keys = self.conns[c]
            .wire
            .keys()
            .cloned()
            .ok_or("no keys on the wire")?;
        let seq = op
            .state(ktlsshim_tests::Dir::Tx)
            .map_err(|e| format!("{e:?}"))?
            .seq;
        same("the sender's sequence number", &Ok(seq), &Ok(keys.seq))?;
        self.model.op(o).tx.as_mut().expect("sends() looked").keys = keys.clone();
        self.model.conns[c].tx_keys = Some(keys);
        self.model.counts.tx_records += records;
        self.model.counts.tx_bytes += bytes as i64;
        Ok(())
    }

    pub fn writers(
        &mut self,
        o: usize,
        c: usize,
        op: &Arc<Op>,
        each: usize,
        count: usize,
        rekeys: u8,
    ) -> Check {
        let max = self.model.op(o).tx.as_ref().expect("sends() looked").max;
        let suite = self
            .model
            .op(o)
            .tx
            .as_ref()
            .expect("sends() looked")
            .keys
            .cipher;
        let keys: Vec<_> = (0..rekeys)
            .map(|i| {
                self.marks += 1;
                self.setup
                    .keys(suite, 5_000_000 + self.marks * 16 + u32::from(i), 0)
            })
            .collect();
        let total = each * count;
        self.model.conns[c].out.push_back(Expect::Mixed(Mixed {
            sent: [0; 2],
            left: [total; 2],
            max,
            keys: keys.iter().cloned().collect(),
        }));
        let before = self.conns[c].wire.records;
        let threads: Vec<_> = (0..2)
            .map(|w| {
                let op = Arc::clone(op);
                std::thread::spawn(move || -> Result<(), Errno> {
                    let data: Vec<u8> = (0..total).map(|i| Mixed::byte(w, i)).collect();
                    for piece in data.chunks(each) {
                        let mut at = 0;
                        while at < piece.len() {
                            at += op.send(&piece[at..], 0)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for keys in &keys {
            std::thread::yield_now();
            let saw = out(op.rekey(ktlsshim_tests::Dir::Tx, keys));
            same("re-key between two writers", &saw, &Ok(()))?;
            self.model.counts.rekeys += 1;
        }
        for thread in threads {
            let saw = self.drain_some(c, thread)?;
            same("one of two writers", &out(saw), &Ok(()))?;
        }
        self.sync(c)?;
        let records = (self.conns[c].wire.records - before) as i64;
        self.learn(o, c, op, records, 2 * total)
    }

    pub fn drain_some<T>(&mut self, c: usize, thread: JoinHandle<T>) -> Result<T, String> {
        self.serve(c, &thread)?;
        self.conns[c].more = false;
        join(thread, "one of two writers")
    }

    pub fn readers(&mut self, o: usize, c: usize, op: &Arc<Op>, count: u8, len: usize) -> Check {
        let count = usize::from(count);
        let tcp = &mut self.conns[c];
        let half = tcp.seal.as_mut().expect("idle() looked");
        for i in 0..count {
            tcp.queue.extend(half.seal(DATA, &vec![i as u8; len], 0));
        }
        let got = Arc::new(AtomicUsize::new(0));
        let call = RecvCall { control: 64, ..ANY };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (op, got) = (Arc::clone(op), Arc::clone(&got));
                sleeper(move || -> Result<Vec<u8>, String> {
                    let start = Instant::now();
                    let mut mine = Vec::new();
                    while got.load(Ordering::Relaxed) < count && start.elapsed() < PATIENCE {
                        match receive(&op, &call, 1) {
                            Ok(r) if r.data.len() == len && r.kind == Some(DATA) => {
                                if r.data.iter().any(|b| *b != r.data[0]) {
                                    return Err("bytes of two records in one".into());
                                }
                                mine.push(r.data[0]);
                                got.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(EAGAIN) => {}
                            other => return Err(format!("one of two readers: {other:?}")),
                        }
                    }
                    Ok(mine)
                })
            })
            .collect();
        let piece = self.conns[c].queue.len() / 3 + 1;
        for _ in 0..4 {
            self.push(c, piece)?;
            std::thread::yield_now();
        }
        let mut all = Vec::new();
        for thread in threads {
            let mine = join(thread, "one of two readers")??;
            if !mine.is_sorted() {
                return Err(format!("one reader got records in the order {mine:?}"));
            }
            all.extend(mine);
        }
        all.sort_unstable();
        let must: Vec<u8> = (0..count as u8).collect();
        if all != must {
            return Err(format!("two readers got records {all:?} of {count}"));
        }
        for _ in 0..count {
            let _ = self.model.recv(o, &call, None);
        }
        // One of them looked in vain afterwards, or nobody did; both leave the same mark.
        let saw = receive(
            op,
            &RecvCall {
                flags: MSG_DONTWAIT,
                ..call
            },
            1,
        );
        let must = self.model.recv(
            o,
            &RecvCall {
                flags: MSG_DONTWAIT,
                ..call
            },
            None,
        );
        same("after two readers", &saw, &must)
    }

    pub fn duplex(&mut self, o: usize, c: usize, op: &Arc<Op>, len: usize) -> Check {
        let back = self.bytes(len.min(18_000));
        let tcp = &mut self.conns[c];
        let half = tcp.seal.as_mut().expect("idle() looked");
        for piece in back.chunks(1500) {
            tcp.queue.extend(half.seal(DATA, piece, 0));
        }
        let want = back.len();
        let theirs = Arc::clone(op);
        let reader = std::thread::spawn(move || -> Out<Vec<u8>> {
            let mut got = Vec::new();
            while got.len() < want {
                got.extend(
                    receive(
                        &theirs,
                        &RecvCall {
                            len: 5000,
                            good: 5000,
                            ..ANY
                        },
                        1,
                    )?
                    .data,
                );
            }
            Ok(got)
        });
        let data = self.bytes(len);
        let call = SendCall::whole(&data);
        self.model.send(o, &call, Ok(len))?;
        let theirs = Arc::clone(op);
        let writer = std::thread::spawn(move || out(theirs.send(&data, 0)));
        for _ in 0..20 {
            self.push(c, 1999)?;
            self.look(c)?;
        }
        self.push(c, 0)?;
        let saw = self.drain(c, writer, "a writer beside a reader")?;
        same("a writer beside a reader", &saw, &Ok(len))?;
        let saw = join(reader, "a reader beside a writer")?;
        let mut must = Vec::new();
        while must.len() < want {
            match self.model.recv(
                o,
                &RecvCall {
                    len: 5000,
                    good: 5000,
                    ..ANY
                },
                None,
            ) {
                Ok(got) if !got.data.is_empty() => must.extend(got.data),
                other => return Err(format!("the model of a reader: {other:?}")),
            }
        }
        same(
            "bytes of a reader beside a writer",
            &saw.map(|d| d == must),
            &Ok(true),
        )
    }

    pub fn detach_writer(&mut self, o: usize, c: usize, op: &Arc<Op>, each: usize) -> Check {
        let before = self
            .model
            .op(o)
            .tx
            .as_ref()
            .expect("sends() looked")
            .clone();
        let data = Arc::new(self.bytes(each * 60));
        let (theirs, copy) = (Arc::clone(op), Arc::clone(&data));
        let thread = std::thread::spawn(move || {
            let mut done = 0;
            for piece in copy.chunks(each) {
                match out(theirs.send(piece, 0)) {
                    Ok(n) if n == piece.len() => done += n,
                    Ok(n) => return (done + n, Ok(0)),
                    Err(e) => return (done, Err(e)),
                }
            }
            (done, Ok(1))
        });
        std::thread::sleep(Duration::from_micros(300));
        let saw = op.detach(ktlsshim_tests::Dir::Tx);
        let (done, end) = join(thread, "a writer whose direction was detached")?;
        if !matches!(end, Ok(_) | Err(ENOTCONN)) {
            return same(
                "a writer whose direction was detached",
                &end,
                &Err(ENOTCONN),
            );
        }
        let d = saw.map_err(|e| format!("detach under a writer: {e:?}"))?;
        let records = d.seq.wrapping_sub(before.keys.seq);
        if (done > 0) != (records > 0) || done.div_ceil(before.max) as u64 > records {
            return Err(format!(
                "{done} bytes were sent, but the number moved by {records}"
            ));
        }
        let tx = self.model.op(o).tx.as_mut().expect("sends() looked");
        tx.keys = before.keys.after(records);
        self.model.counts.tx_records += records as i64;
        self.model.counts.tx_bytes += done as i64;
        if done > 0 {
            let sent = data[..done].to_vec();
            let conn = &mut self.model.conns[c];
            conn.out
                .push_back(Expect::Stream(sent, before.max, records));
        }
        let must = self.model.detach(o, Dir::Tx, 0, 0);
        same("detach under a writer", &Ok((d.seq, d.nonce)), &must)?;
        self.conns[c].more = false;
        self.sync(c)
    }
}
