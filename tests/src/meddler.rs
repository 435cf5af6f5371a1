// SPDX-License-Identifier: MIT OR Apache-2.0
//! A relay between two ends that notes the records which go by, and spoils one of them.
//!
//! It knows the one by its size, so it needs no key and no clock, and what it does is the same in
//! every run. Its threads end with the connection that they carry.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// The payload of the record to spoil; `SPOILT` in `programs/endings.c`.
const SPOILT: usize = 7001;
/// Nonce, tag and content type at most.
const ROOM: usize = 8 + 16 + 1;
const HEADER: usize = 5;

/// What happens to that record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meddle {
    Nothing,
    /// One bit of its tag is another.
    Tag,
    /// One bit in its middle is another.
    Body,
    /// Its header claims a protocol version that does not exist.
    Version,
    /// Its header claims a content type that does not exist.
    Kind,
    /// Its header claims more than a record may have.
    TooLong,
    /// Its header claims less than a tag needs.
    TooShort,
    /// An alert in clear comes in its stead.
    ClearAlert,
    /// It goes by twice.
    Twice,
    /// It never comes.
    Dropped,
    /// FIN after that many of its bytes.
    Fin(usize),
    /// RST after that many of its bytes.
    Rst(usize),
}

/// A record as it came in: from the server or not, its content type, the length in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    pub from_server: bool,
    pub kind: u8,
    pub len: usize,
}

pub struct Meddler {
    pub port: u16,
    passed: Arc<Mutex<Vec<Passed>>>,
}

impl Meddler {
    /// Carries one connection to `port`.
    pub fn to(port: u16, meddle: Meddle) -> Meddler {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the relay");
        let meddler = Meddler {
            port: listener.local_addr().expect("an address").port(),
            passed: Arc::default(),
        };
        let passed = Arc::clone(&meddler.passed);
        // A thread of this one: it is in the same network namespace.
        thread::spawn(move || {
            let (client, _) = listener.accept().expect("the client");
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server");
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("TCP_NODELAY");
            }
            let back = Way {
                from: server.try_clone().expect("a copy"),
                to: client.try_clone().expect("a copy"),
                from_server: true,
                meddle,
                passed: Arc::clone(&passed),
            };
            let there = Way {
                from: client,
                to: server,
                from_server: false,
                meddle,
                passed,
            };
            let back = thread::spawn(move || back.carry());
            there.carry();
            let _ = back.join();
        });
        meddler
    }

    pub fn passed(&self) -> Vec<Passed> {
        self.passed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Way {
    from: TcpStream,
    to: TcpStream,
    from_server: bool,
    meddle: Meddle,
    passed: Arc<Mutex<Vec<Passed>>>,
}

impl Way {
    /// Until one end is gone: its FIN becomes our FIN, anything else our RST.
    fn carry(mut self) {
        while let Ok(Some(record)) = self.record() {
            let spoil = (SPOILT..=SPOILT + ROOM).contains(&(record.len() - HEADER));
            let sent = if spoil {
                self.spoil(record)
            } else {
                self.to.write_all(&record).is_ok()
            };
            if !sent {
                return;
            }
        }
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn record(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut header = [0; HEADER];
        if self.from.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut header[1..])?;
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let mut record = header.to_vec();
        record.resize(HEADER + len, 0);
        self.from.read_exact(&mut record[HEADER..])?;
        let passed = Passed {
            from_server: self.from_server,
            kind: header[0],
            len,
        };
        self.passed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(passed);
        Ok(Some(record))
    }

    /// False when the connection is over.
    fn spoil(&mut self, mut record: Vec<u8>) -> bool {
        let end = record.len();
        match self.meddle {
            Meddle::Nothing => {}
            Meddle::Tag => record[end - 1] ^= 1,
            Meddle::Body => record[end / 2] ^= 1,
            Meddle::Version => record[1] = 9,
            Meddle::Kind => record[0] = 99,
            Meddle::TooLong => record[3] = 0x60,
            Meddle::TooShort => record[3..5].copy_from_slice(&[0, 7]),
            Meddle::ClearAlert => record = vec![21, 3, 3, 0, 2, 2, 80],
            Meddle::Twice => record.extend_from_within(..),
            Meddle::Dropped => return true,
            Meddle::Fin(n) => {
                let _ = self.to.write_all(&record[..n]);
                let _ = self.to.shutdown(Shutdown::Write);
                return false;
            }
            Meddle::Rst(n) => {
                let _ = self.to.write_all(&record[..n]);
                reset(&self.to);
                return false;
            }
        }
        self.to.write_all(&record).is_ok()
    }
}

/// Disconnecting a socket with `AF_UNSPEC` sends RST at once, whoever else holds the socket.
fn reset(stream: &TcpStream) {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: both calls read one structure of the size that they are told.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
        libc::connect(
            stream.as_raw_fd(),
            &raw const nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        );
    }
}
