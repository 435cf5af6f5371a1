// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to the TCP socket without the op: by its program (strangers, options, shutdown) and by
//! the peer (records whole, cut, spoilt, and every kind of end).

use std::io::{Read, Write};
use std::net::Shutdown;

use ktlsshim_tests::peer::{ALERT, CCS, CLOSE_NOTIFY, HANDSHAKE, Half};
use ktlsshim_tests::{net, sys};
use libc::*;

use crate::model::Expect;
use crate::program::{Damage, PeerDo};
use crate::run::{out, same};
use crate::world::{Check, World, sndbuf};

// include/net/tcp_states.h
pub const TCP_CLOSE: u8 = 7;
pub const TCP_CLOSE_WAIT: u8 = 8;
pub const TCP_LAST_ACK: u8 = 9;
pub const TCP_CLOSING: u8 = 11;
pub const TCP_TIME_WAIT: u8 = 6;

impl World<'_> {
    pub fn raw_write(&mut self, c: usize, len: usize) -> Check {
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

    pub fn raw_read(&mut self, c: usize, len: usize) -> Check {
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

    pub fn shutdown(&mut self, c: usize, how: u8) -> Check {
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

    pub fn lowat(&mut self, c: usize, n: u32) -> Check {
        // A mark that a small buffer cannot reach would rightly keep everybody asleep.
        if c >= self.conns.len() || self.loose() {
            return Ok(());
        }
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        let saw = out(sys::set_int(tcp, SOL_SOCKET, SO_RCVLOWAT, n as i32));
        self.model.conns[c].lowat = (n as i32).max(1);
        same("SO_RCVLOWAT", &saw, &Ok(()))
    }

    pub fn set_sndbuf(&mut self, c: usize, n: u32) -> Check {
        if c >= self.conns.len() {
            return Ok(());
        }
        if let Some(tcp) = &self.conns[c].ours {
            let now = sndbuf(tcp, n.max(1));
            self.conns[c].sndbuf = Some(now);
            // From here on there may be no room.
            self.setup.sndbuf = n.max(1);
        }
        Ok(())
    }

    pub fn so_error(&mut self, c: usize) -> Check {
        if c >= self.conns.len() {
            return Ok(());
        }
        let Some(tcp) = &self.conns[c].ours else {
            return Ok(());
        };
        let saw = out(sys::get_int(tcp, SOL_SOCKET, SO_ERROR));
        same("SO_ERROR", &saw, &Ok(self.model.conns[c].take_error()))
    }

    pub fn disconnect(&mut self, c: usize) -> Check {
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
        self.conns[c].lost = self.model.conns[c].wire.clone();
        self.reset_by_us(c);
        let conn = &mut self.model.conns[c];
        (conn.rcv_shut, conn.snd_shut, conn.done) = (false, false, false);
        conn.lowat = before;
        Ok(())
    }

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

    pub fn announce(&mut self, c: usize, rekey: Option<u32>) {
        if let (Some(id), Some(half)) = (rekey, &self.conns[c].seal) {
            let keys = self.setup.keys(half.keys().cipher, id, 0);
            self.conns[c].seal = Some(Half::new(keys.clone()));
            self.conns[c].announced.push_back(keys);
        }
    }

    pub fn queue(&mut self, c: usize, wire: &[u8]) {
        // More than the model lets lie there would only pile up here.
        if self.conns[c].queue.len() < 1 << 18 {
            self.conns[c].queue.extend(wire);
        }
    }

    pub fn seal_plain(&mut self, c: usize, kind: u8, data: &[u8]) -> Check {
        if let Some(half) = self.conns[c].seal.as_mut()
            && half.seq() < u64::MAX - 1
        {
            let wire = half.seal(kind, data, 0);
            self.queue(c, &wire);
        }
        Ok(())
    }

    pub fn seal(&mut self, c: usize, kind: u8, len: usize, pad: u8, damage: Damage) -> Check {
        let data = self.bytes(len);
        let tls13 = self.setup.tls13;
        let Some(half) = self.conns[c].seal.as_mut() else {
            return Ok(());
        };
        if half.seq() >= u64::MAX - 1 {
            return Ok(());
        }
        let overhead = half.keys().overhead();
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
            Damage::OneTooLong | Damage::OneTooShort => {
                let least = overhead - 5;
                let body = match damage {
                    Damage::OneTooLong => least + 16384 + 1,
                    _ => least - 1,
                };
                (wire[3], wire[4]) = ((body >> 8) as u8, body as u8);
            }
        }
        self.queue(c, &wire);
        Ok(())
    }

    pub fn peer_fin(&mut self, c: usize) -> Check {
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

    pub fn peer_rst(&mut self, c: usize) -> Check {
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
}
