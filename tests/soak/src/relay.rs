// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wire between two ends. Both connect here, and each byte passes through our hands: it is kept
//! for the oracle, cut into other segments, held back, or damaged. FIN and RST are passed on.
//!
//! There is no thread: whoever waits for the ends pumps. Memory: the relay owns both sockets and what
//! is under way between them, without a limit, so that a writer never waits for a reader.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::program::Cut;

/// Room for a writer against a wire that stands still; the kernel doubles it.
const RECEIVE_BUFFER: libc::c_int = 32 * 1024;

/// One direction.
pub struct Way {
    pub captured: Vec<u8>,
    under_way: Vec<u8>,
    at: usize,
    pub cut: Cut,
    /// Nothing is read from the sender.
    pub stalled: bool,
    /// Bytes wait here until somebody reads at the other end.
    pub held: bool,
    /// The last byte of what comes next is to be damaged.
    pub damage: bool,
    burst: usize,
    /// Bytes handed to the receiver's kernel, and bytes that the sender says it has sent.
    pub given: u64,
    pub announced: u64,
    eof_in: bool,
    eof_out: bool,
}

impl Way {
    fn new() -> Way {
        Way {
            captured: Vec::new(),
            under_way: Vec::new(),
            at: 0,
            cut: Cut::Whole,
            stalled: false,
            held: false,
            damage: false,
            burst: 0,
            given: 0,
            announced: 0,
            eof_in: false,
            eof_out: false,
        }
    }

    fn waiting(&self) -> usize {
        self.under_way.len() - self.at
    }

    fn segment(&self) -> usize {
        match self.cut {
            Cut::Whole => usize::MAX,
            Cut::Every(n) => usize::from(n.max(1)).max(if self.burst > 3000 { 1448 } else { 1 }),
            Cut::Bytes if self.burst < 400 => 1,
            Cut::Bytes => 997,
        }
    }
}

pub struct Relay {
    /// Client's and server's socket; None once it was reset or has failed.
    ends: [Option<TcpStream>; 2],
    /// `ways[side]` leads *from* that side.
    pub ways: [Way; 2],
    /// RST was seen from this side.
    pub broken: [bool; 2],
    /// This side has closed its socket: whatever is given to it is answered by an RST.
    pub gone: [bool; 2],
    /// Such bytes were given.
    provoked: [bool; 2],
    pub moved: bool,
    /// The receive buffer of this side holds whatever is sent to it: all arrives, if late.
    roomy: [bool; 2],
    /// Where bytes are read to; kept, since clearing it at each look would cost more than the look.
    room: Vec<u8>,
}

fn option(socket: &TcpStream, level: i32, name: i32, value: &[u8]) {
    // SAFETY: setsockopt reads `value` and keeps nothing.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
}

fn count(socket: &TcpStream, what: libc::c_ulong) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD and SIOCOUTQNSD write one int.
    unsafe { libc::ioctl(socket.as_raw_fd(), what, &mut n) };
    n.max(0) as usize
}

/// Waits until the socket at this port knows that it was reset: a busy kernel may put that off.
fn await_reset(port: u16) {
    let until = Instant::now() + Duration::from_secs(2);
    let local = format!(":{port:04X} ");
    let is_there = || {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
        let mut lines = table.lines().skip(1);
        // `sl: local remote state …`; a socket that was reset is in no table.
        lines.any(|line| {
            line.split_once(": ")
                .is_some_and(|(_, l)| l[..14].contains(&local))
        })
    };
    while is_there() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that were not sent yet. (What was sent but not acknowledged lies in the receiver's queue on
/// loopback, and its acknowledgement may be late on purpose.)
const SIOCOUTQNSD: libc::c_ulong = 0x894b;

pub fn listen() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let size = RECEIVE_BUFFER.to_ne_bytes();
    // SAFETY: as in `option`; accepted sockets inherit it.
    unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            size.as_ptr().cast(),
            4,
        );
    }
    Ok(listener)
}

impl Relay {
    pub fn new(client: TcpStream, server: TcpStream, roomy: [bool; 2]) -> std::io::Result<Relay> {
        for end in [&client, &server] {
            end.set_nonblocking(true)?;
            end.set_nodelay(true)?;
        }
        Ok(Relay {
            ends: [Some(client), Some(server)],
            ways: [Way::new(), Way::new()],
            broken: [false; 2],
            gone: [false; 2],
            provoked: [false; 2],
            moved: false,
            roomy,
            room: vec![0; 65536],
        })
    }

    /// Descriptors and events to wait for.
    pub fn poll_fds(&self) -> Vec<libc::pollfd> {
        let mut fds = Vec::with_capacity(2);
        for (side, end) in self.ends.iter().enumerate() {
            let Some(end) = end else { continue };
            let (from, to) = (&self.ways[side], &self.ways[1 - side]);
            let mut events = 0;
            // Only what `pump` would act on: anything else would end each wait at once.
            if !from.stalled && !from.eof_in && !self.broken[side] {
                events |= libc::POLLIN;
            }
            if to.waiting() > 0 && !to.held && !to.damage {
                events |= libc::POLLOUT;
            }
            if events != 0 {
                fds.push(libc::pollfd {
                    fd: end.as_raw_fd(),
                    events,
                    revents: 0,
                });
            }
        }
        fds
    }

    /// Moves what can be moved without waiting.
    pub fn pump(&mut self) {
        self.moved = false;
        for side in [0, 1] {
            self.take(side);
        }
        for side in [0, 1] {
            self.give(side);
        }
    }

    fn take(&mut self, side: usize) {
        let way = &mut self.ways[side];
        let Some(end) = &mut self.ends[side] else {
            return;
        };
        if way.eof_in && !self.broken[side] {
            // Nothing more can be read, but an RST may still follow the FIN.
            let mut fd = [libc::pollfd {
                fd: end.as_raw_fd(),
                events: 0,
                revents: 0,
            }];
            // SAFETY: one live pollfd.
            unsafe { libc::poll(fd.as_mut_ptr(), 1, 0) };
            if fd[0].revents & libc::POLLERR != 0 {
                self.broken[side] = true;
                self.moved = true;
            }
        }
        if way.stalled || way.eof_in || self.broken[side] {
            return;
        }
        let room = &mut self.room;
        loop {
            match end.read(room) {
                Ok(0) => {
                    way.eof_in = true;
                    self.moved = true;
                    return;
                }
                Ok(n) => {
                    way.captured.extend_from_slice(&room[..n]);
                    if way.waiting() == 0 {
                        (way.at, way.burst) = (0, 0);
                        way.under_way.clear();
                    }
                    way.under_way.extend_from_slice(&room[..n]);
                    self.moved = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken[side] = true;
                    self.moved = true;
                    return;
                }
            }
        }
    }

    fn give(&mut self, from: usize) {
        let to = 1 - from;
        let way = &mut self.ways[from];
        if way.damage || way.held {
            return;
        }
        for _ in 0..256 {
            if way.waiting() == 0 {
                break;
            }
            let Some(end) = &mut self.ends[to] else {
                way.at = way.under_way.len();
                break;
            };
            let n = way.waiting().min(way.segment());
            match end.write(&way.under_way[way.at..way.at + n]) {
                Ok(n) => {
                    way.at += n;
                    way.burst += n;
                    way.given += n as u64;
                    self.provoked[to] |= self.gone[to];
                    self.moved = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // Its reader is gone: what it sent before that is read first.
                    self.broken[to] = true;
                    way.at = way.under_way.len();
                    break;
                }
            }
        }
        if way.waiting() == 0 {
            if self.broken[from] {
                self.reset(to);
            } else if way.eof_in && !way.eof_out {
                way.eof_out = true;
                self.moved = true;
                if let Some(end) = &self.ends[to] {
                    let _ = end.shutdown(std::net::Shutdown::Write);
                }
            }
        }
    }

    fn reset(&mut self, side: usize) {
        if let Some(end) = self.ends[side].take() {
            // What it was sent before must be there before the RST is.
            let until = Instant::now() + Duration::from_millis(200);
            while count(&end, SIOCOUTQNSD) > 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
            option(&end, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
            let peer = end.peer_addr();
            drop(end);
            if let Ok(peer) = peer {
                await_reset(peer.port());
            }
            self.moved = true;
        }
    }

    /// Bytes from this side that the other end's kernel has: what our own kernel keeps because
    /// the receiver's window is closed is not there, and nobody may wait for it.
    pub fn delivered(&self, side: usize) -> u64 {
        let kept = self.ends[1 - side]
            .as_ref()
            .map_or(0, |end| count(end, SIOCOUTQNSD));
        self.ways[side].given.saturating_sub(kept as u64)
    }

    /// Have we got all that this side says it has sent?
    fn has_arrived(&self, side: usize) -> bool {
        let way = &self.ways[side];
        self.ends[side].is_none()
            || way.stalled
            || way.eof_in
            || self.broken[side]
            || way.captured.len() as u64 >= way.announced
    }

    /// Is all that was sent from this side in the other end's receive queue?
    fn is_quiet(&self, side: usize) -> bool {
        let way = &self.ways[side];
        let to = 1 - side;
        if self.provoked[to] && !self.broken[to] {
            return false;
        }
        let delivered = match &self.ends[to] {
            Some(end) => way.held || (way.waiting() == 0 && count(end, SIOCOUTQNSD) == 0),
            None => true,
        };
        self.has_arrived(side) && delivered
    }

    /// Pumps until nothing is under way, and says for each sender whether all arrived; an end with a
    /// small buffer may take no more.
    pub fn settle(&mut self) -> [bool; 2] {
        let mut still = 0;
        loop {
            self.pump();
            let quiet = [self.is_quiet(0), self.is_quiet(1)];
            if quiet == [true, true] && !self.moved {
                return quiet;
            }
            if self.moved {
                still = 0;
                continue;
            }
            still += 1;
            // A full receive buffer will not empty by itself; anything else is only slow, and of a busy
            // machine nothing can be expected at once.
            let late = |side: usize| !quiet[side] && self.ways[side].waiting() == 0;
            let surely = |side: usize| !self.has_arrived(side) || self.roomy[1 - side];
            let answered = (0..2).all(|side| !self.provoked[side] || self.broken[side]);
            let patience = match answered {
                false => 1400,
                true if (0..2).any(|side| late(side) && surely(side)) => 400,
                true if (0..2).any(late) => 35,
                true => 4,
            };
            if still > patience {
                return quiet;
            }
            std::thread::sleep(Duration::from_micros(1500));
        }
    }

    /// Waits for FIN or RST from this side, which is known to have sent it.
    pub fn await_end(&mut self, side: usize) {
        let until = Instant::now() + Duration::from_secs(2);
        while !self.ways[side].eof_in
            && !self.broken[side]
            && !self.ways[side].stalled
            && Instant::now() < until
        {
            self.pump();
            std::thread::sleep(Duration::from_micros(200));
        }
        self.settle();
    }

    /// Damages the last byte that came from this side and is still here.
    pub fn damage(&mut self, side: usize) -> bool {
        let way = &mut self.ways[side];
        way.damage = false;
        let last = way
            .under_way
            .len()
            .checked_sub(1)
            .filter(|_| way.waiting() > 0);
        if let Some(byte) = last.and_then(|at| way.under_way.get_mut(at)) {
            *byte ^= 0x40;
            return true;
        }
        false
    }

    pub fn is_held_up(&self, side: usize) -> bool {
        self.ways[side].waiting() > 0
    }
}
