// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the race tests share: rounds, a little noise, and the five ways to
//! sleep on an op. A race is a body that is run many times; each round checks
//! an invariant of its own, and when all are over nothing may be left behind.
//!
//! `KTLSSHIM_TEST_ROUNDS=N` multiplies the rounds: the default fits into a
//! quick run, a debug kernel deserves a hundred.

// Each test program is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ktlsshim_tests::net::{Epoll, open_fds, poll};
use ktlsshim_tests::sys::Res;
use ktlsshim_tests::*;
use libc::*;

/// Small, fast and repeatable.
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0..n
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    /// One for another thread.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next() | 1)
    }

    /// Nothing, a short while busy, or a sleep: what makes the order differ.
    pub fn jitter(&mut self) -> Jitter {
        match self.below(4) {
            0 => Jitter(Duration::ZERO, false),
            1 => Jitter(Duration::from_micros(self.below(60) as u64), false),
            2 => Jitter(Duration::from_micros(self.below(800) as u64), false),
            _ => Jitter(Duration::from_micros(self.below(800) as u64), true),
        }
    }
}

/// A delay that was drawn already, to be spent on another thread.
#[derive(Clone, Copy)]
pub struct Jitter(Duration, bool);

impl Jitter {
    pub fn spend(self) {
        let Jitter(time, asleep) = self;
        if asleep {
            std::thread::sleep(time);
            return;
        }
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

pub fn rng() -> Rng {
    Rng(0x9e37_79b9_7f4a_7c15)
}

/// Module references; each claim and each ALG socket holds some.
pub fn references() -> i64 {
    let text = std::fs::read_to_string("/sys/module/algif_tls/refcnt").expect("refcnt");
    text.trim().parse().expect("a number")
}

pub fn factor() -> usize {
    std::env::var("KTLSSHIM_TEST_ROUNDS").map_or(1, |n| n.parse().expect("a number"))
}

/// Says in which round a panic happened.
struct Round(usize);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed in round {}", self.0);
        }
    }
}

pub fn race(rounds: usize, mut body: impl FnMut(&mut Rng) + Send + 'static) {
    let rounds = rounds * factor();
    let limit = Duration::from_secs(60 + rounds as u64 / 4);
    in_vm_for(limit, move || {
        let before = (open_fds(), references());
        let mut rng = rng();
        for number in 0..rounds {
            let _round = Round(number);
            body(&mut rng);
        }
        drop(body);
        let clean = eventually(|| (open_fds(), references()) == before);
        figure("rounds", rounds as u64);
        assert!(clean, "{:?} -> {before:?}", (open_fds(), references()));
    });
}

/// How a thread waits for data on an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Recv,
    Record,
    Splice,
    PollOp,
    EpollTcp,
}

pub const CALLS: [Call; 5] = [
    Call::Recv,
    Call::Record,
    Call::Splice,
    Call::PollOp,
    Call::EpollTcp,
];

impl Call {
    /// Does it wait outside of the op, so that it cannot be told of a detach?
    pub fn polls(self) -> bool {
        matches!(self, Call::PollOp | Call::EpollTcp)
    }

    /// At most 100 bytes.
    pub fn run(self, op: &impl AsRawFd, tcp: &impl AsRawFd) -> Res<Vec<u8>> {
        self.run_with(op, tcp, sys::pipe)
    }

    /// With a pipe that was made before, where fd numbers matter.
    pub fn run_with(
        self,
        op: &impl AsRawFd,
        tcp: &impl AsRawFd,
        pipe: impl FnOnce() -> (OwnedFd, OwnedFd),
    ) -> Res<Vec<u8>> {
        let take = |flags| {
            let mut buf = vec![0; 100];
            let n = sys::recvmsg(op, &mut [&mut buf], &mut [], flags)?.len;
            buf.truncate(n);
            Ok(buf)
        };
        match self {
            Call::Recv => take(0),
            Call::Record => {
                let (mut buf, mut control) = (vec![0; 100], sys::Control([0; 64]));
                let n = sys::recvmsg(op, &mut [&mut buf], &mut control.0, 0)?.len;
                buf.truncate(n);
                Ok(buf)
            }
            Call::Splice => {
                let (out, into) = pipe();
                let n = sys::splice(op, &into, 100, 0)?;
                let mut buf = vec![0; n];
                assert_eq!(sys::read(&out, &mut buf), Ok(n));
                Ok(buf)
            }
            Call::PollOp => {
                let events = poll(op, POLLIN, ms(10_000));
                assert_ne!(events, 0, "poll was not woken");
                take(MSG_DONTWAIT)
            }
            Call::EpollTcp => {
                let edge = Epoll::new(tcp, EPOLLIN | EPOLLET);
                loop {
                    match take(MSG_DONTWAIT) {
                        Err(Errno(EAGAIN)) => {}
                        other => return other,
                    }
                    assert_ne!(edge.wait(ms(10_000)), 0, "epoll was not woken");
                }
            }
        }
    }
}

/// Starts `call` on a thread; it need not sleep yet when this returns.
pub fn start(call: Call, link: &Link) -> std::thread::JoinHandle<Res<Vec<u8>>> {
    let op = Arc::clone(&link.op);
    let tcp = link.tcp.try_clone().expect("dup");
    std::thread::spawn(move || call.run(&*op, &tcp))
}

pub fn join<T>(thread: std::thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Everything up to FIN, or to a reset.
pub fn drain(tcp: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; 65536];
    loop {
        match std::io::Read::read(&mut &*tcp, &mut buf) {
            Ok(0) => return all,
            Ok(n) => all.extend(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Opens records from the front of `wire`; returns them and what is left.
pub fn open_all<'a>(half: &mut peer::Half, mut wire: &'a [u8]) -> (Vec<Record>, &'a [u8]) {
    let mut records = Vec::new();
    while wire.len() >= 5 {
        let end = 5 + peer::length(wire);
        if wire.len() < end {
            break;
        }
        match half.open(&wire[..end]) {
            Ok(record) => records.push(record),
            Err(_) => break,
        }
        wire = &wire[end..];
    }
    (records, wire)
}

/// A link whose send buffer is as small as TCP allows.
pub fn narrow() -> Link {
    let pair = net::pair_on("127.0.0.1:0", |n| net::sndbuf(n, 1), |f| net::rcvbuf(f, 1));
    Link::over(pair, Version::Tls13, Cipher::Aes128Gcm)
}
