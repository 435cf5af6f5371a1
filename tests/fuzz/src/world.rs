// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real thing beside the model: descriptors, TCP pairs and the peer's keys of one sequence. Owns all
//! of it; dropping it closes everything.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ktlsshim_tests::peer::Half;
use ktlsshim_tests::{Keys, Op, Parent, net, sys};

use crate::model::Model;
use crate::program::Setup;
use crate::tally::Tally;
use crate::wire::{Nonces, Wire, settled};

pub type Check = Result<(), String>;

/// What we let lie unread in a receive buffer that the model must be able to predict.
const UNREAD: usize = 24 << 10;
/// And what a small one may have coming.
const UNREAD_LOOSE: usize = 96 << 10;
/// How long what must come may take.
pub const PATIENCE: Duration = Duration::from_secs(8);
pub const FILE_LEN: usize = 300_000;

pub struct Tcp {
    pub ours: Option<TcpStream>,
    pub theirs: Option<TcpStream>,
    /// How the peer seals, and what it has sealed but not sent
    pub seal: Option<Half>,
    pub queue: Vec<u8>,
    pub announced: VecDeque<Keys>,
    pub sent: u64,
    pub wire: Wire,
    pub paused: bool,
    /// SO_SNDBUF, where it was set and so must stay
    pub sndbuf: Option<i32>,
    /// The last call said MSG_MORE
    pub more: bool,
    pub end: Option<End>,
    /// What was sent may be lost: the connection was reset
    pub broken: bool,
    /// Unread bytes when the program disconnected
    pub lost: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Fin,
    Rst,
}

pub struct World<'a> {
    pub setup: Setup,
    pub model: Model,
    pub parents: BTreeMap<&'static str, Parent>,
    pub ops: Vec<Option<Arc<Op>>>,
    pub conns: Vec<Tcp>,
    pub nonces: Nonces,
    pub file: &'a Source,
    pub tally: &'a mut Tally,
    pub marks: u32,
    /// Receiving keys as an earlier op left them, if the stream stands at a record border
    pub left: Vec<Option<Keys>>,
}

/// A file with a known text, and memory whose second page is not there.
pub struct Source {
    pub file: File,
    pub text: Vec<u8>,
    pub guard: Guard,
    pub hurt: Option<crate::hurt::Hurt>,
}

/// `READABLE` bytes that end at an unmapped page.
pub struct Guard(usize);

pub const READABLE: usize = 8 * 4096;

impl Guard {
    fn new() -> Guard {
        let size = READABLE + 4096;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping; its last page is given back at once, and nobody else is
        // told of the address.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, kind, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        // SAFETY: the page is ours; PROT_NONE keeps others from mapping something there.
        unsafe { libc::mprotect(at.byte_add(READABLE), 4096, libc::PROT_NONE) };
        Guard(at as usize)
    }

    /// The address of `good` readable bytes before the end.
    pub fn at(&self, good: usize) -> usize {
        self.0 + READABLE - good
    }

    pub fn write(&self, data: &[u8]) {
        // SAFETY: data is at most READABLE bytes (the callers' good), which end at the border.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr(),
                self.at(data.len()) as *mut u8,
                data.len(),
            );
        }
    }

    pub fn read(&self, good: usize, n: usize) -> Vec<u8> {
        // SAFETY: n <= good <= READABLE bytes from there are mapped.
        unsafe { std::slice::from_raw_parts(self.at(good) as *const u8, n).to_vec() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody keeps its address.
        unsafe { libc::munmap(self.0 as *mut libc::c_void, READABLE + 4096) };
    }
}

impl Source {
    pub fn new(name: &str) -> anyhow::Result<Source> {
        let text = ktlsshim_tests::pattern(FILE_LEN);
        let path = std::env::temp_dir().join(format!("fuzz-{}-{name}", std::process::id()));
        std::fs::write(&path, &text)?;
        let file = File::open(&path)?;
        std::fs::remove_file(&path)?;
        let guard = Guard::new();
        Ok(Source {
            file,
            text,
            guard,
            hurt: None,
        })
    }
}

fn info(tcp: &TcpStream) -> [u8; 232] {
    let mut raw = [0; 232];
    // An older kernel writes fewer bytes.
    let _ = sys::getsockopt(tcp, libc::IPPROTO_TCP, libc::TCP_INFO, &mut raw);
    raw
}

fn word(raw: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(raw[at..at + 8].try_into().expect("eight"))
}

/// tcpi_state
pub fn state(tcp: &TcpStream) -> u8 {
    info(tcp)[0]
}

/// tcpi_bytes_received; counts the FIN.
pub fn received(tcp: &TcpStream) -> u64 {
    word(&info(tcp), 128)
}

/// tcpi_notsent_bytes
pub fn not_sent(tcp: &TcpStream) -> u32 {
    u32::from_ne_bytes(info(tcp)[144..148].try_into().expect("four"))
}

pub fn until(limit: Duration, mut test: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut turns = 0u32;
    while !test() {
        if start.elapsed() > limit {
            return false;
        }
        turns += 1;
        if turns < 20 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    true
}

/// Sets SO_SNDBUF and returns what it is then.
pub fn sndbuf(tcp: &TcpStream, bytes: u32) -> i32 {
    net::sndbuf(tcp, bytes as i32);
    sys::get_int(tcp, libc::SOL_SOCKET, libc::SO_SNDBUF).expect("SO_SNDBUF")
}

impl Tcp {
    fn new(setup: &Setup) -> Tcp {
        let small = setup.rcvbuf > 0;
        let (ours, theirs) = net::pair_on(
            "127.0.0.1:0",
            |near| {
                if small {
                    net::rcvbuf(near, setup.rcvbuf as i32);
                }
                if setup.mss > 0 {
                    net::mss(near, setup.mss as i32);
                }
            },
            |_| {},
        );
        let sndbuf = (setup.sndbuf > 0).then(|| sndbuf(&ours, setup.sndbuf));
        ours.set_nodelay(true).expect("TCP_NODELAY");
        theirs.set_nonblocking(true).expect("O_NONBLOCK");
        sys::nonblocking(&ours, setup.nonblock);
        let limit = match setup.short {
            true => Duration::from_millis(25),
            false => PATIENCE,
        };
        sys::timeout(&ours, libc::SO_RCVTIMEO, limit);
        sys::timeout(&ours, libc::SO_SNDTIMEO, limit);
        Tcp {
            ours: Some(ours),
            theirs: Some(theirs),
            seal: None,
            queue: Vec::new(),
            announced: VecDeque::new(),
            sent: 0,
            wire: Wire::default(),
            paused: false,
            sndbuf,
            more: false,
            end: None,
            broken: false,
            lost: Vec::new(),
        }
    }
}

impl<'a> World<'a> {
    pub fn new(setup: &Setup, conns: u8, file: &'a Source, tally: &'a mut Tally) -> World<'a> {
        World {
            setup: setup.clone(),
            model: Model::new(),
            parents: BTreeMap::new(),
            ops: (0..crate::program::OPS).map(|_| None).collect(),
            conns: (0..conns).map(|_| Tcp::new(setup)).collect(),
            nonces: Nonces::default(),
            file,
            tally,
            marks: 0,
            left: (0..conns).map(|_| None).collect(),
        }
    }

    /// Is what has arrived unknown, because the buffer is small?
    pub fn loose(&self) -> bool {
        self.setup.rcvbuf > 0
    }

    pub fn tight(&self, c: usize) -> bool {
        self.setup.sndbuf > 0 || self.setup.mss > 0 || self.conns[c].paused
    }

    pub fn op(&self, o: usize) -> Option<Arc<Op>> {
        self.ops[o].clone()
    }

    pub fn conn_of(&self, o: usize) -> Option<usize> {
        self.model.ops[o].as_ref().and_then(|op| op.conn)
    }

    /// Bytes that differ from all that was sent before.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.marks += 1;
        let mark = self.marks;
        (0..len as u32)
            .map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ mark.wrapping_mul(97)) as u8)
            .collect()
    }

    /// The peer sends up to `n` of the bytes that it has sealed (0: all).
    pub fn push(&mut self, c: usize, n: usize) -> Check {
        let conn = &self.model.conns[c];
        if conn.done || conn.rcv_shut && conn.snd_shut {
            // TCP answers what nobody can read any more with a reset.
            return Ok(());
        }
        let most = match self.loose() {
            true => UNREAD_LOOSE.saturating_sub(self.model.conns[c].wire.len()),
            false => UNREAD.saturating_sub(self.model.queued(c)),
        };
        let tcp = &mut self.conns[c];
        let have = tcp.queue.len();
        let n = if n == 0 { have } else { n.min(have) }.min(most);
        let (Some(theirs), Some(_)) = (&mut tcp.theirs, &tcp.ours) else {
            return Ok(());
        };
        if n == 0 || tcp.broken {
            return Ok(());
        }
        let done = match theirs.write(&tcp.queue[..n]) {
            Ok(done) => done,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => return Err(format!("the peer cannot write: {e}")),
        };
        self.model.conns[c].wire.extend(tcp.queue.drain(..done));
        tcp.sent += done as u64;
        self.arrived(c)
    }

    pub fn urgent(&mut self, c: usize) -> Check {
        let tcp = &mut self.conns[c];
        let (Some(theirs), Some(_), false) = (&tcp.theirs, &tcp.ours, tcp.broken) else {
            return Ok(());
        };
        let conn = &self.model.conns[c];
        // With one outstanding a foreign reader is found out by a tag only (alg_tls.h).
        if conn.urgent.is_some() || conn.read || conn.done || conn.rcv_shut && conn.snd_shut {
            return Ok(());
        }
        // SAFETY: one byte from a live array.
        let n = unsafe { libc::send(theirs.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        if n != 1 {
            return Err("the peer cannot send an urgent byte".into());
        }
        tcp.sent += 1;
        let at = self.model.conns[c].wire.len();
        self.model.conns[c].urgent = Some(at);
        self.arrived(c)
    }

    fn arrived(&mut self, c: usize) -> Check {
        let tcp = &self.conns[c];
        let Some(ours) = &tcp.ours else {
            return Ok(());
        };
        if self.loose() || until(PATIENCE, || received(ours) >= tcp.sent) {
            return Ok(());
        }
        Err(format!(
            "TCP brought {} of {} bytes",
            received(ours),
            tcp.sent
        ))
    }

    /// The peer reads what is there.
    pub fn look(&mut self, c: usize) -> Check {
        let tcp = &mut self.conns[c];
        let Some(theirs) = &mut tcp.theirs else {
            return Ok(());
        };
        let mut buf = vec![0; 65536];
        loop {
            match theirs.read(&mut buf) {
                Ok(0) => {
                    tcp.end = tcp.end.or(Some(End::Fin));
                    break;
                }
                Ok(n) => tcp.wire.add(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    tcp.end = tcp.end.or(Some(End::Rst));
                    break;
                }
            }
        }
        let before = tcp.wire.records;
        let result = tcp
            .wire
            .check(&mut self.model.conns[c].out, &mut self.nonces);
        self.tally.sealed += tcp.wire.records - before;
        result.map_err(|e| format!("connection {c}, on the wire: {e}"))
    }

    /// All that was sent must come, unless the peer does not read or the sender said MSG_MORE.
    pub fn sync(&mut self, c: usize) -> Check {
        let tcp = &self.conns[c];
        if tcp.theirs.is_none() || tcp.paused {
            return Ok(());
        }
        self.look(c)?;
        let tcp = &self.conns[c];
        if tcp.more || tcp.broken || tcp.end == Some(End::Rst) {
            return Ok(());
        }
        if let (Some(ours), false) = (&tcp.ours, self.tight(c))
            && !self.model.conns[c].closed
            && !until(Duration::from_millis(120), || not_sent(ours) == 0)
        {
            let n = not_sent(ours);
            return Err(format!(
                "connection {c}: {n} bytes are held back though no more was announced"
            ));
        }
        let start = Instant::now();
        loop {
            self.look(c)?;
            if settled(&self.model.conns[c].out) || self.conns[c].end == Some(End::Rst) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE || self.conns[c].end.is_some() {
                return Err(format!(
                    "connection {c}: sent bytes never came ({} items outstanding)",
                    self.model.conns[c].out.len()
                ));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Waits until the peer's FIN or RST is there.
    pub fn ended(&mut self, c: usize, states: &[u8]) -> Check {
        let Some(ours) = &self.conns[c].ours else {
            return Ok(());
        };
        if until(PATIENCE, || states.contains(&state(ours))) {
            return Ok(());
        }
        Err(format!("TCP state {} after the peer's end", state(ours)))
    }
}
