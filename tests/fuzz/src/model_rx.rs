// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model's receiving half: records on a byte vector, opened one at a time.

use ktlsshim_tests::peer::{ALERT, CCS, DATA, HANDSHAKE, Half};
use ktlsshim_tests::{Keys, Version};
use libc::*;

use crate::model::{Conn, Model, Out};

#[derive(Clone)]
pub struct Rx {
    pub keys: Keys,
    pub err: Option<i32>,
    pub parked: Option<u8>,
    pub need_key: bool,
    pub eof: bool,
    header: Vec<u8>,
    skip: usize,
    pub rest: Vec<u8>,
    /// Where `rest` begins in its first page, for splice
    pub rest_at: usize,
    pub rest_kind: u8,
    /// Bytes of `Conn::wire` that TCP no longer has
    pub staged: usize,
    lowat: i32,
    lowat_set: i32,
}

/// A call that receives.
#[derive(Clone, Copy, Debug)]
pub struct RecvCall {
    pub len: usize,
    /// So much of the buffer exists
    pub good: usize,
    pub flags: i32,
    pub control: usize,
    /// Memory ends after so many records were opened
    pub opens: usize,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Got {
    pub data: Vec<u8>,
    pub kind: Option<u8>,
    pub cut: bool,
}

impl std::fmt::Debug for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} bytes {:02x?}",
            self.data.len(),
            &self.data[..self.data.len().min(8)]
        )?;
        if let Some(kind) = self.kind {
            write!(f, " of type {kind}")?;
        }
        if self.cut {
            write!(f, " MSG_CTRUNC")?;
        }
        Ok(())
    }
}

enum Look {
    /// All of it, and at most so many bytes for the reader
    Whole(usize, usize),
    /// So many bytes are needed to go on
    Part(usize),
    Bad(i32),
}

const KNOWN: i32 = MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;

impl Rx {
    pub fn new(keys: Keys, lowat: i32) -> Rx {
        Rx {
            keys,
            err: None,
            parked: None,
            need_key: false,
            eof: false,
            header: Vec::new(),
            skip: 0,
            rest: Vec::new(),
            rest_at: 0,
            rest_kind: DATA,
            staged: 0,
            lowat,
            lowat_set: lowat,
        }
    }

    pub fn rekey(&mut self, keys: Keys) {
        self.keys = keys;
        self.err = None;
        self.parked = None;
        self.need_key = false;
        self.header.clear();
        self.skip = 0;
    }

    fn parse(&self, h: &[u8]) -> Result<(usize, usize), i32> {
        let tls13 = self.keys.version == Version::Tls13;
        let body = usize::from(h[3]) << 8 | usize::from(h[4]);
        let types = if tls13 { DATA..=DATA } else { CCS..=24 };
        if h[1..3] != [3, 3] || !types.contains(&h[0]) {
            return Err(EPROTO);
        }
        let least = 16 + usize::from(tls13) + if self.keys.explicit_nonce() { 8 } else { 0 };
        if !(least..=least + 16384).contains(&body) {
            return Err(EMSGSIZE);
        }
        Ok((5 + body, body - least))
    }

    fn look(&mut self, conn: &mut Conn) -> Look {
        loop {
            let have = conn.urgent.unwrap_or(conn.wire.len());
            let mut need = 5;
            if have >= 5 {
                match self.parse(&conn.wire[..5]) {
                    Err(e) => return Look::Bad(e),
                    Ok((len, payload)) if have >= len => return Look::Whole(len, payload),
                    Ok((len, _)) => need = len,
                }
            }
            match conn.urgent.take() {
                Some(at) => self.staged = at,
                None => return Look::Part(need),
            }
        }
    }

    /// Handshake messages run on across records; the end of a KeyUpdate needs a key.
    fn follow(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.skip == 0 {
                let n = (4 - self.header.len()).min(data.len());
                self.header.extend(&data[..n]);
                data = &data[n..];
                if self.header.len() < 4 {
                    return;
                }
                let h = &self.header;
                self.skip = usize::from(h[1]) << 16 | usize::from(h[2]) << 8 | usize::from(h[3]);
            } else {
                let n = self.skip.min(data.len());
                self.skip -= n;
                data = &data[n..];
            }
            if self.skip == 0 {
                self.need_key |= self.header[0] == 24;
                self.header.clear();
            }
        }
    }

    fn took(&mut self, kind: u8, data: &[u8]) {
        let tls13 = self.keys.version == Version::Tls13;
        self.parked = None;
        match kind {
            HANDSHAKE if tls13 => self.follow(data),
            CCS if !tls13 => self.need_key = true,
            ALERT if data.len() == 2 && data[1] == 0 => self.eof = true,
            _ => {}
        }
    }
}

impl Model {
    fn pair(&mut self, o: usize) -> Option<(&mut Conn, &mut Rx)> {
        let op = self.ops[o].as_mut()?;
        Some((&mut self.conns[op.conn?], op.rx.as_mut()?))
    }

    /// These bytes are nobody's record: the program's low-water mark counts.
    fn rx_failed(&mut self, o: usize) {
        let Some((conn, rx)) = self.pair(o) else {
            return;
        };
        if conn.lowat != rx.lowat_set {
            rx.lowat = conn.lowat;
        }
        rx.lowat_set = rx.lowat;
        conn.lowat = rx.lowat;
    }

    pub fn rx_check(&mut self, o: usize) -> Out<()> {
        let Some((conn, rx)) = self.pair(o) else {
            return Err(ENOTCONN);
        };
        if let Some(e) = rx.err {
            return Err(e);
        }
        if !conn.open {
            return Err(ENOTCONN);
        }
        if conn.disconnected || conn.read {
            rx.err = Some(ESTALE);
            self.rx_failed(o);
            return Err(ESTALE);
        }
        Ok(())
    }

    /// What was opened before an error came is delivered before it.
    fn rx_may(&mut self, o: usize) -> Out<()> {
        let result = self.rx_check(o);
        match self.pair(o) {
            Some((_, rx)) if rx.err.is_some() && !rx.rest.is_empty() => Ok(()),
            _ => result,
        }
    }

    pub fn settle(&mut self, o: usize) {
        if self.rx_check(o).is_err() {
            return;
        }
        let Some((conn, rx)) = self.pair(o) else {
            return;
        };
        if rx.eof {
            self.rx_failed(o);
            return;
        }
        if conn.lowat != rx.lowat_set {
            rx.lowat = conn.lowat;
        }
        let need = match rx.look(conn) {
            Look::Whole(len, _) | Look::Part(len) => (len - rx.staged) as i32,
            Look::Bad(_) => 1,
        };
        rx.lowat_set = need.max(rx.lowat);
        conn.lowat = rx.lowat_set;
    }

    /// The direction is taken out: the program's low-water mark again.
    pub fn rx_leave(&mut self, o: usize) {
        let Some((conn, rx)) = self.pair(o) else {
            return;
        };
        if conn.lowat == rx.lowat_set {
            conn.lowat = rx.lowat;
        }
        self.op(o).rx = None;
    }

    /// FIN or an error behind the last whole record.
    fn rx_end(conn: &mut Conn, have: bool, quiet: bool) -> Option<i32> {
        let end = if have { ECONNABORTED } else { ENODATA };
        if quiet {
            let over = conn.done || conn.sk_err != 0 || conn.rcv_shut || conn.closed;
            return over.then_some(end);
        }
        if conn.done {
            return Some(end);
        }
        if conn.sk_err != 0 {
            return Some(conn.take_error());
        }
        conn.rcv_shut.then_some(end)
    }

    fn fail_rx(&mut self, o: usize, e: i32) -> i32 {
        if let Some(rx) = self.op(o).rx.as_mut() {
            rx.err = Some(e);
        }
        self.rx_failed(o);
        e
    }

    /// The next record in the clear; `Ok(None)`: there is none yet. Nothing is consumed.
    fn rx_next(&mut self, o: usize, control: bool, copied: bool) -> Out<Option<Opened>> {
        let Some((conn, rx)) = self.pair(o) else {
            return Err(ENOTCONN);
        };
        if let Some(e) = rx.err {
            return Err(e);
        }
        if rx.need_key {
            return Err(EKEYEXPIRED);
        }
        if rx.parked.is_some() && !control {
            return Err(EIO);
        }
        match rx.look(conn) {
            Look::Bad(e) => Err(self.fail_rx(o, e)),
            Look::Whole(len, most) => Ok(Some(Opened { len, most })),
            Look::Part(_) => {
                let have = !conn.wire.is_empty();
                match Self::rx_end(conn, have, copied) {
                    Some(e) => Err(e),
                    None => Ok(None),
                }
            }
        }
    }

    fn rx_open(&mut self, o: usize, len: usize) -> Out<(u8, Vec<u8>)> {
        let Some((conn, rx)) = self.pair(o) else {
            return Err(ENOTCONN);
        };
        if rx.keys.seq == u64::MAX {
            return Err(EOVERFLOW);
        }
        let wire = &conn.wire[..len];
        let mut keys = rx.keys.clone();
        if keys.explicit_nonce() {
            // The receiver takes the sender's word for it.
            keys.iv[4..].copy_from_slice(&wire[5..13]);
        }
        match Half::new(keys).open(wire) {
            Ok(record) => Ok((record.kind, record.data)),
            Err(ktlsshim_tests::Fault::NoContentType) => Err(self.fail_rx(o, EPROTO)),
            Err(_) => Err(self.fail_rx(o, EBADMSG)),
        }
    }

    /// The record leaves the wire; its text is the rest.
    fn rx_consume(&mut self, o: usize, len: usize, kind: u8, data: Vec<u8>) {
        self.counts.rx_records += 1;
        self.counts.rx_bytes += data.len() as i64;
        let Some((conn, rx)) = self.pair(o) else {
            return;
        };
        conn.wire.drain(..len);
        conn.urgent = conn.urgent.map(|at| at - len);
        rx.staged = 0;
        rx.keys.seq += 1;
        rx.took(kind, &data);
        rx.rest = data;
        rx.rest_at = 0;
        rx.rest_kind = kind;
    }

    fn control(call: &RecvCall, kind: u8, got: &mut Got) -> Out<()> {
        match call.control {
            17.. => got.kind = Some(kind),
            _ => {
                got.cut = true;
                if kind != DATA {
                    return Err(EIO);
                }
            }
        }
        Ok(())
    }

    /// recvmsg(). EAGAIN also stands for "it would sleep". `hint`: how much a faulting copy got done.
    pub fn recv(&mut self, o: usize, call: &RecvCall, hint: Option<usize>) -> Out<Got> {
        if call.flags & !KNOWN != 0 {
            return Err(EOPNOTSUPP);
        }
        self.rx_may(o)?;
        let mut got = Got {
            data: Vec::new(),
            kind: None,
            cut: false,
        };
        let end = self.recv_loop(o, call, hint, &mut got);
        self.settle(o);
        match end {
            Err(e) if got.data.is_empty() => Err(e),
            _ => Ok(got),
        }
    }

    fn recv_loop(
        &mut self,
        o: usize,
        call: &RecvCall,
        hint: Option<usize>,
        got: &mut Got,
    ) -> Out<()> {
        let control = call.control > 0;
        let peek = call.flags & MSG_PEEK != 0;
        let waitall = call.flags & MSG_WAITALL != 0;
        let good = call.good.min(hint.unwrap_or(usize::MAX));
        let mut done = false;
        let mut opened = 0;
        loop {
            let room = call.len - got.data.len();
            let left = good.saturating_sub(got.data.len());
            let rx = self.op(o).rx.as_mut().ok_or(ENOTCONN)?;
            if !rx.rest.is_empty() {
                if rx.rest_kind != DATA && !control {
                    return Err(EIO);
                }
                if control && !done {
                    Self::control(call, rx.rest_kind, got)?;
                    done = true;
                }
                let want = rx.rest.len().min(room);
                let n = want.min(left);
                if want > 0 && n == 0 {
                    return Err(EFAULT);
                }
                got.data.extend(&rx.rest[..n]);
                if !peek {
                    rx.rest.drain(..n);
                    rx.rest_at += n;
                }
                if peek || done || !rx.rest.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if done || room == 0 && (!got.data.is_empty() || !control) {
                return Ok(());
            }
            if rx.eof {
                return Ok(());
            }
            let copied = !got.data.is_empty();
            let Some(next) = self.rx_next(o, control, copied)? else {
                return if copied && !waitall {
                    Ok(())
                } else {
                    Err(EAGAIN)
                };
            };
            if copied && next.most > room && !waitall {
                return Ok(());
            }
            if opened == call.opens {
                return Err(ENOMEM);
            }
            opened += 1;
            let (kind, data) = self.rx_open(o, next.len)?;
            if kind != DATA && !control {
                self.op(o).rx.as_mut().expect("on").parked = Some(kind);
                return Err(EIO);
            }
            if control && (!data.is_empty() || kind != DATA) {
                if let Err(e) = Self::control(call, kind, got) {
                    self.op(o).rx.as_mut().expect("on").parked = Some(kind);
                    return Err(e);
                }
                done = true;
            }
            if peek && kind != DATA {
                let n = data.len().min(room).min(left);
                if n == 0 && !data.is_empty() && room > 0 {
                    return Err(EFAULT);
                }
                got.data.extend(&data[..n]);
                return Ok(());
            }
            self.rx_consume(o, next.len, kind, data);
        }
    }

    /// splice() to an empty pipe of 16 pages.
    pub fn splice_out(&mut self, o: usize, len: usize) -> Out<Vec<u8>> {
        self.rx_may(o)?;
        let len = len.min(16 * 4096);
        let mut got = Vec::new();
        let end = self.splice_loop(o, len, &mut got);
        self.settle(o);
        match end {
            Err(e) if got.is_empty() => Err(e),
            _ => Ok(got),
        }
    }

    fn splice_loop(&mut self, o: usize, len: usize, got: &mut Vec<u8>) -> Out<()> {
        let mut slots = 16;
        while got.len() < len && slots > 0 {
            let rx = self.op(o).rx.as_mut().ok_or(ENOTCONN)?;
            if !rx.rest.is_empty() {
                if rx.rest_kind != DATA {
                    return Err(EIO);
                }
                let mut left = rx.rest.len().min(len - got.len());
                while left > 0 && slots > 0 {
                    let n = left.min(4096 - rx.rest_at % 4096);
                    got.extend(rx.rest.drain(..n));
                    rx.rest_at += n;
                    left -= n;
                    slots -= 1;
                }
                continue;
            }
            if rx.eof {
                return Ok(());
            }
            let copied = !got.is_empty();
            let Some(next) = self.rx_next(o, false, copied)? else {
                return if copied { Ok(()) } else { Err(EAGAIN) };
            };
            if copied && next.most > len - got.len() {
                return Ok(());
            }
            let (kind, data) = self.rx_open(o, next.len)?;
            if kind != DATA {
                self.op(o).rx.as_mut().expect("on").parked = Some(kind);
                return Err(EIO);
            }
            self.rx_consume(o, next.len, kind, data);
        }
        Ok(())
    }

    pub fn fionread(&mut self, o: usize) -> usize {
        self.op(o).rx.as_ref().map_or(0, |rx| rx.rest.len())
    }
}

struct Opened {
    len: usize,
    most: usize,
}
