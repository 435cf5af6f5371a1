// SPDX-License-Identifier: MIT OR Apache-2.0
//! Phases in which one thread sleeps and must be woken: by a record, by room, by whatever ends the wait.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ktlsshim_tests::peer::{ALERT, DATA};
use ktlsshim_tests::{Op, net, sys};
use libc::*;

use crate::model::{Expect, Out};
use crate::model_rx::{Got, RecvCall};
use crate::model_tx::SendCall;
use crate::program::{Damage, Dir, Event, PeerDo};
use crate::run::{out, same};
use crate::run_rx::receive;
use crate::together::{ANY, join, sleeper};
use crate::world::{Check, PATIENCE, World, sndbuf};

/// A descriptor that another thread polls while its owner keeps it open.
struct Fd(i32);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}

impl World<'_> {
    pub fn fire(&mut self, o: usize, c: usize, op: &Arc<Op>, event: Event) -> Check {
        let seal = |len, damage| PeerDo::Seal {
            kind: DATA,
            len,
            pad: 0,
            damage,
        };
        match event {
            Event::Record(len) => {
                self.do_peer(c, &seal(len, Damage::None))?;
                self.push(c, 0)
            }
            Event::Pieces(len) => {
                self.do_peer(c, &seal(len, Damage::None))?;
                let half = self.conns[c].queue.len() / 2;
                self.push(c, half.max(1))?;
                std::thread::sleep(Duration::from_millis(2));
                self.push(c, 0)
            }
            Event::Control => {
                let half = self.conns[c].seal.as_mut().expect("idle() looked");
                let wire = half.seal(ALERT, &[1, 90], 0);
                self.conns[c].queue.extend(wire);
                self.push(c, 0)
            }
            Event::BadTag => {
                self.do_peer(c, &seal(100, Damage::Tag))?;
                self.push(c, 0)
            }
            Event::Fin => self.do_peer(c, &PeerDo::Fin),
            Event::Rst => self.do_peer(c, &PeerDo::Rst),
            Event::Shutdown => {
                let tcp = self.conns[c].ours.as_ref().expect("looked");
                tcp.shutdown(std::net::Shutdown::Read)
                    .map_err(|e| format!("shutdown: {e}"))?;
                self.model.conns[c].rcv_shut = true;
                Ok(())
            }
            Event::Detach => {
                let saw = out(op.detach(ktlsshim_tests::Dir::Rx).map(|d| (d.seq, d.nonce)));
                self.left[c] = self.model.op(o).rx.as_ref().map(|rx| rx.keys.clone());
                let must = self.model.detach(o, Dir::Rx, 17408, 0);
                same("detach under a reader", &saw, &must)
            }
        }
    }

    pub fn reader(&mut self, o: usize, c: usize, op: &Arc<Op>, event: Event) -> Check {
        let theirs = Arc::clone(op);
        let thread = sleeper(move || receive(&theirs, &ANY, 1));
        if thread.is_finished() {
            let saw: Out<Got> = join(thread, "a reader")?;
            return same("a reader of nothing", &saw, &Err(EAGAIN));
        }
        self.fire(o, c, op, event)?;
        let start = Instant::now();
        let saw = join(thread, "a reader")?;
        let must = self.model.recv(o, &ANY, None);
        let slow = start.elapsed() > PATIENCE / 2;
        same(&format!("a reader that slept until {event:?}"), &saw, &must)?;
        // Its time-out, not the event, ended the sleep: the result alone would not tell.
        if slow {
            return Err(format!("a reader was not woken by {event:?}"));
        }
        Ok(())
    }

    pub fn poller(&mut self, o: usize, c: usize, op: &Arc<Op>, on_op: bool, event: Event) -> Check {
        if event == Event::Detach {
            return Ok(());
        }
        // A mark that the program left would be right to keep it asleep.
        let tcp = self.conns[c].ours.as_ref().expect("looked");
        sys::set_int(tcp, SOL_SOCKET, SO_RCVLOWAT, 1).map_err(|e| format!("{e:?}"))?;
        self.model.conns[c].lowat = 1;
        let call = RecvCall {
            flags: MSG_DONTWAIT,
            ..ANY
        };
        let saw = receive(op, &call, 1);
        same(
            "a reader of nothing",
            &saw,
            &self.model.recv(o, &call, None),
        )?;

        let fd = Fd(if on_op {
            op.as_raw_fd()
        } else {
            self.conns[c].ours.as_ref().map_or(-1, |t| t.as_raw_fd())
        });
        let edge = self.marks.is_multiple_of(2);
        let epoll = edge.then(|| net::Epoll::new(&fd, EPOLLIN | EPOLLET | EPOLLRDHUP));
        let mut first = match &epoll {
            Some(epoll) => epoll.wait(Duration::ZERO) & EPOLLIN,
            None => 0,
        };
        let theirs = Arc::clone(op);
        let thread = sleeper(move || {
            let mut wakes = 0;
            loop {
                let woken = match &epoll {
                    Some(epoll) => epoll.wait(PATIENCE) != 0,
                    None => net::poll(&fd, POLLIN, PATIENCE) != 0,
                };
                if !woken {
                    return (wakes, Err(ETIMEDOUT));
                }
                wakes += 1;
                match receive(&theirs, &call, 1) {
                    Err(EAGAIN) if wakes < 50 => {}
                    end => return (wakes, end),
                }
            }
        });
        first |= i32::from(thread.is_finished());
        self.fire(o, c, op, event)?;
        let (wakes, saw) = join(thread, "a poller")?;
        let must = self.model.recv(o, &call, None);
        let which = if on_op { "the op" } else { "TCP" };
        if first != 0 {
            return Err(format!("{which} was ready before anything came"));
        }
        same(
            &format!("a poller of {which} that slept until {event:?}"),
            &saw,
            &must,
        )?;
        // Once for the header, once for the whole of it.
        if wakes > 2 && matches!(event, Event::Record(_) | Event::Pieces(_)) {
            return Err(format!("{which}: {wakes} wake-ups for one record"));
        }
        Ok(())
    }

    pub fn small_buffer(&mut self, c: usize) {
        if self.setup.sndbuf == 0 {
            let tcp = self.conns[c].ours.as_ref().expect("looked");
            self.conns[c].sndbuf = Some(sndbuf(tcp, 9000));
            self.setup.sndbuf = 9000;
        }
    }

    pub fn writer(&mut self, o: usize, c: usize, op: &Arc<Op>, len: usize, file: bool) -> Check {
        self.small_buffer(c);
        let theirs = Arc::clone(op);
        let max = self.model.op(o).tx.as_ref().expect("sends() looked").max;
        if !file {
            let data = self.bytes(len);
            let call = SendCall::whole(&data);
            self.model.send(o, &call, Ok(len))?;
            let thread = sleeper(move || out(theirs.send(&data, 0)));
            let saw = self.drain(c, thread, "a writer")?;
            return same("a writer that slept", &saw, &Ok(len));
        }
        let data = self.file.text[..len].to_vec();
        let copy = self.file.file.try_clone().map_err(|e| e.to_string())?;
        self.model.conns[c]
            .out
            .push_back(Expect::Stream(data, max, u64::MAX));
        let before = self.conns[c].wire.records;
        let thread = sleeper(move || out(theirs.sendfile(&copy, 0, len as u64, 0)));
        let saw = self.drain(c, thread, "a sender of a file")?;
        same(
            "a sender of a file that slept",
            &saw,
            &Ok((len as u64, len as u64)),
        )?;
        let records = (self.conns[c].wire.records - before) as i64;
        self.learn(o, c, op, records, len)
    }

    pub fn room(&mut self, o: usize, c: usize, op: &Arc<Op>, on_op: bool) -> Check {
        self.small_buffer(c);
        // An op with an error is always ready, for that.
        let on_op = on_op
            && self
                .model
                .op(o)
                .rx
                .as_ref()
                .is_none_or(|rx| rx.err.is_none());
        let fd = Fd(if on_op {
            op.as_raw_fd()
        } else {
            self.conns[c].ours.as_ref().map_or(-1, |t| t.as_raw_fd())
        });
        // A call that fails for want of room asks to be told of room itself. Stop before it, and all
        // depends on poll().
        let ask = self.marks.is_multiple_of(2);
        let size = if ask { 700 } else { 8000 };
        self.conns[c].paused = true;
        let mut full = false;
        for _ in 0..400 {
            if ask && net::poll(&fd, POLLOUT, Duration::ZERO) & POLLOUT == 0 {
                full = true;
                break;
            }
            let data = self.bytes(size);
            let saw = out(op.send(&data, MSG_DONTWAIT));
            let call = SendCall {
                may_block: true,
                ..SendCall::whole(&data)
            };
            self.model.send(o, &call, saw)?;
            self.conns[c].more = false;
            if saw == Err(EAGAIN) {
                full = true;
                break;
            }
        }
        let thread =
            full.then(|| sleeper(move || net::poll(&fd, POLLOUT, PATIENCE * 8) & POLLOUT != 0));
        self.conns[c].paused = false;
        let Some(thread) = thread else {
            return self.sync(c);
        };
        if !self.drain(c, thread, "a poller for room")? {
            return Err("a poller for room was not woken when the peer had read all".into());
        }
        Ok(())
    }
}
