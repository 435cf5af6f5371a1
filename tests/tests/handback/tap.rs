// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wire between two programs that nobody drives: the soak's relay on a thread, which keeps what
//! passes for the oracle.

use std::{
    cell::RefCell,
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ktlsshim_soak::{
    oracle,
    relay::{self, Relay},
    run::Lane,
};
use ktlsshim_tests::{
    programs::{Evidence, PATIENCE, Side},
    traffic::Kernel,
};

use super::Found;

pub struct Tap {
    /// Where the client is to connect.
    pub port: u16,
    over: Arc<AtomicBool>,
    thread: JoinHandle<[Vec<u8>; 2]>,
}

impl Tap {
    /// The wire to the server at `to`; it takes one client.
    pub fn new(to: u16) -> Tap {
        let listener = relay::listen().expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        // The thread is in the network namespace of the one that makes it.
        let thread = thread::spawn(move || carry(&listener, to, &end));
        Tap { port, over, thread }
    }

    /// What client and server have sent; both have ended.
    pub fn end(self) -> [Vec<u8>; 2] {
        self.over.store(true, Ordering::Release);
        self.thread.join().expect("the wire")
    }
}

fn carry(listener: &TcpListener, to: u16, over: &AtomicBool) -> [Vec<u8>; 2] {
    listener.set_nonblocking(true).expect("a listener");
    let until = Instant::now() + PATIENCE;
    let client = loop {
        match listener.accept() {
            Ok((client, _)) => break client,
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
            Err(e) => panic!("no client: {e}"),
        }
    };
    let server = TcpStream::connect(("127.0.0.1", to)).expect("the server");
    let mut relay = Relay::new(client, server, [true; 2]).expect("a relay");
    loop {
        let ending = over.load(Ordering::Acquire);
        relay.pump();
        if ending && !relay.moved {
            return relay.ways.map(|way| way.captured);
        }
        let mut fds = relay.poll_fds();
        // SAFETY: `fds` is a live array of its length.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 20) };
    }
}

/// The bytes of both directions, and the lines of the key log that opens them.
type Capture = ([Vec<u8>; 2], Vec<String>);

/// What the last scenario left on the wire, for the proof that comes after it.
#[derive(Default)]
pub struct Record(RefCell<Option<Capture>>);

impl Record {
    pub fn keep(&self, captured: [Vec<u8>; 2], keylog: &Path) {
        let text = fs::read_to_string(keylog).expect("a key log");
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        *self.0.borrow_mut() = Some((captured, lines.map(str::to_owned).collect()));
    }

    /// Judges the wire, also where no program is shimmed, and adds what the programs' shims and the
    /// kernel say.
    pub fn found(&self, mix: (Side, Side), evidence: &Evidence, kernel: &Kernel) -> Found {
        let (captured, keylog) = self.0.borrow_mut().take().expect("a capture");
        let wire = oracle::judge(&captured, &keylog)
            .unwrap_or_else(|e| panic!("the wire: {e}\n{}", evidence.describe()));
        Found {
            shim: [mix.1 == Side::Shim, mix.0 == Side::Shim],
            lines: [evidence.client.clone(), evidence.server.clone()],
            kernel: kernel.clone(),
            wire,
            lane: Lane::default(),
        }
    }
}
