// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model's sending half. It does not seal: it says which records the peer must find. How much TCP
//! had room for is observed, and judged against the rule that a record leaves whole or not at all.

use ktlsshim_tests::peer::{DATA, HANDSHAKE};
use ktlsshim_tests::{Keys, Version};
use libc::*;

use crate::model::{Expect, Model, Out};

#[derive(Clone)]
pub struct Tx {
    pub keys: Keys,
    pub max: usize,
    pub need_key: bool,
    pub err: Option<i32>,
}

/// A call that sends.
pub struct SendCall<'a> {
    pub data: &'a [u8],
    /// So much of `data` exists
    pub good: usize,
    pub kind: Option<u8>,
    /// The kernel decides where records end (files, pipes, faults)
    pub stream: bool,
    /// The caller may find no room
    pub may_block: bool,
    /// When `stream`: the number of the next record now
    pub seq: Option<u64>,
}

impl<'a> SendCall<'a> {
    /// All of `data`, of which none is left over.
    pub fn whole(data: &'a [u8]) -> Self {
        SendCall {
            data,
            good: data.len(),
            kind: None,
            stream: false,
            may_block: false,
            seq: None,
        }
    }
}

impl Tx {
    pub fn new(keys: Keys, max: usize) -> Tx {
        Tx {
            keys,
            max,
            need_key: false,
            err: None,
        }
    }
}

impl Model {
    /// alg_tls_check() for a sender; EPIPE is not yet turned into what TCP has to say.
    pub fn tx_check(&mut self, o: usize) -> Out<()> {
        let Some(op) = self.ops[o].as_mut() else {
            return Err(ENOTCONN);
        };
        let (Some(c), Some(tx)) = (op.conn, op.tx.as_mut()) else {
            return Err(ENOTCONN);
        };
        let conn = &self.conns[c];
        if let Some(e) = tx.err {
            return Err(e);
        }
        if !conn.open {
            return Err(EPIPE);
        }
        if conn.disconnected || conn.wrote && !conn.snd_shut {
            tx.err = Some(ESTALE);
            // A failed receiver gives SO_RCVLOWAT back, a failed sender has none.
            return Err(ESTALE);
        }
        Ok(())
    }

    /// May a record begin?
    fn tx_ready(&mut self, o: usize) -> Out<()> {
        self.tx_check(o)?;
        let conn = self.conn_of(o).ok_or(ENOTCONN)?;
        if conn.sk_err != 0 || conn.snd_shut || conn.closed {
            return Err(EPIPE);
        }
        let tx = self.op(o).tx.as_ref().ok_or(ENOTCONN)?;
        if tx.need_key {
            return Err(EKEYEXPIRED);
        }
        if tx.keys.seq == u64::MAX {
            return Err(EOVERFLOW);
        }
        Ok(())
    }

    /// EPIPE is what the connection's error is, once.
    pub fn tx_error(&mut self, o: usize, e: i32) -> i32 {
        if e != EPIPE {
            return e;
        }
        match self.conn_of(o).map_or(0, |conn| conn.take_error()) {
            0 => EPIPE,
            err => err,
        }
    }

    fn step(&mut self, o: usize, records: u64, bytes: usize) {
        let tx = self.op(o).tx.as_mut().expect("on");
        tx.keys = tx.keys.after(records);
        let keys = tx.keys.clone();
        let conn = self.conn_of(o).expect("on");
        conn.tx_keys = Some(keys);
        self.counts.tx_records += records as i64;
        self.counts.tx_bytes += bytes as i64;
    }

    fn record(&mut self, o: usize, kind: u8, data: &[u8]) {
        self.step(o, 1, data.len());
        let tx = self.op(o).tx.as_mut().expect("on");
        tx.need_key = kind == HANDSHAKE
            && data.len() == 5
            && data[0] == 24
            && tx.keys.version == Version::Tls13;
        let conn = self.conn_of(o).expect("on");
        conn.out.push_back(Expect::Record(kind, data.to_vec()));
    }

    /// Judges what a sending call returned, and takes it over. `Err`: it cannot be.
    pub fn send(&mut self, o: usize, call: &SendCall, saw: Out<usize>) -> Result<(), String> {
        let wrong = |what: String| Err(format!("{what}, but the call returned {saw:?}"));
        let len = call.data.len();
        if let Err(e) = self.tx_check(o) {
            let e = match self.ops[o].as_ref().and_then(|op| op.conn) {
                Some(_) => self.tx_error(o, e),
                None => e,
            };
            return if saw == Err(e) {
                Ok(())
            } else {
                wrong(format!("must be errno {e}"))
            };
        }
        let max = self.op(o).tx.as_ref().expect("on").max;
        if call.kind.is_some() && len > max {
            return if saw == Err(EMSGSIZE) {
                Ok(())
            } else {
                wrong("must be EMSGSIZE".into())
            };
        }
        if len == 0 && call.kind.is_none() {
            return if saw == Ok(0) {
                Ok(())
            } else {
                wrong("must be 0".into())
            };
        }
        if let Err(e) = self.tx_ready(o) {
            let e = self.tx_error(o, e);
            return if saw == Err(e) {
                Ok(())
            } else {
                wrong(format!("must be errno {e}"))
            };
        }
        if call.stream {
            return self.send_stream(o, call, max, saw);
        }
        if let Some(kind) = call.kind {
            return match saw {
                Ok(n) if n == len => {
                    self.record(o, kind, call.data);
                    Ok(())
                }
                Err(EAGAIN) if call.may_block => Ok(()),
                _ => wrong(format!("must be {len}")),
            };
        }
        let left = u64::MAX - self.op(o).tx.as_ref().expect("on").keys.seq;
        let most = len.min(usize::try_from(left).unwrap_or(len).saturating_mul(max));
        match saw {
            Ok(n) if n == most => {}
            Ok(n) if call.may_block && n > 0 && n < most && n % max == 0 => {}
            Err(EAGAIN) if call.may_block => return Ok(()),
            _ => return wrong(format!("must be {most} (records of {max})")),
        }
        for piece in call.data[..saw.unwrap_or(0)].chunks(max) {
            self.record(o, DATA, piece);
        }
        Ok(())
    }

    fn send_stream(
        &mut self,
        o: usize,
        call: &SendCall,
        max: usize,
        saw: Out<usize>,
    ) -> Result<(), String> {
        let wrong = |what: String| Err(format!("{what}, but the call returned {saw:?}"));
        let tx = self.op(o).tx.as_ref().expect("on");
        let before = tx.keys.seq;
        let seq = call.seq.unwrap_or(before);
        let faulty = call.good < call.data.len();
        let n = match saw {
            Err(EFAULT) if faulty && call.good < 64 => 0,
            Err(EAGAIN) if call.may_block => 0,
            Ok(n) if n > 0 && n <= call.good => n,
            _ => return wrong(format!("must be at most {}", call.good)),
        };
        // Copying user memory may stop a little before the end of what is there.
        let full = n == call.data.len() || faulty && n + 64 > call.good;
        if !full && !call.may_block && seq != u64::MAX {
            return wrong(format!("must be {}", call.good));
        }
        let records = seq.wrapping_sub(before);
        let least = n.div_ceil(max) as u64;
        let most = if n == 0 {
            0
        } else {
            // A fault (`may_block`) ends a record where it comes.
            least + 4 + n as u64 / if call.may_block { 1 } else { 4096 }
        };
        if records < least || records > most {
            return Err(format!(
                "{n} bytes in records of at most {max}: the number went from {before} to {seq}"
            ));
        }
        if n > 0 {
            self.step(o, records, n);
            let conn = self.conn_of(o).expect("on");
            let data = call.data[..n].to_vec();
            conn.out.push_back(Expect::Stream(data, max, records));
        }
        Ok(())
    }
}
