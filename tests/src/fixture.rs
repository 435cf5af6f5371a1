// SPDX-License-Identifier: MIT OR Apache-2.0
//! One loopback connection with the kernel TLS socket on one side and the
//! independent peer (or a second kernel socket) on the other.

use std::net::TcpStream;
use std::sync::Arc;

use crate::keys::{Cipher, Keys, Version};
use crate::net;
use crate::op::Op;
use crate::peer::{DATA, Peer, Record};
use crate::sys;
use crate::watch::eventually;

/// Every protocol and cipher that the socket knows.
pub const SUITES: [(Version, Cipher); 8] = [
    (Version::Tls12, Cipher::Aes128Gcm),
    (Version::Tls12, Cipher::Aes256Gcm),
    (Version::Tls12, Cipher::ChaCha20),
    (Version::Tls12, Cipher::Aes128Ccm),
    (Version::Tls13, Cipher::Aes128Gcm),
    (Version::Tls13, Cipher::Aes256Gcm),
    (Version::Tls13, Cipher::ChaCha20),
    (Version::Tls13, Cipher::Aes128Ccm),
];

/// The two forms that a record has: explicit nonce, inner content type.
pub const FORMS: [(Version, Cipher); 2] = [
    (Version::Tls12, Cipher::Aes128Gcm),
    (Version::Tls13, Cipher::Aes128Gcm),
];

pub struct Link {
    pub op: Arc<Op>,
    pub tcp: TcpStream,
    pub peer: Peer,
    /// The op's keys as they were attached.
    pub tx: Keys,
    pub rx: Keys,
}

impl Link {
    /// Both directions attached.
    pub fn new(version: Version, cipher: Cipher) -> Link {
        Link::over(net::pair(), version, cipher)
    }

    /// TLS 1.3 with AES-128-GCM, where the suite does not matter.
    pub fn any() -> Link {
        Link::new(Version::Tls13, Cipher::Aes128Gcm)
    }

    pub fn over(pair: (TcpStream, TcpStream), version: Version, cipher: Cipher) -> Link {
        let link = Link::detached(pair, version, cipher);
        link.op
            .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
            .expect("attach");
        link
    }

    /// An op and a peer that agree on keys, nothing attached.
    pub fn detached(pair: (TcpStream, TcpStream), version: Version, cipher: Cipher) -> Link {
        let tx = Keys::random(version, cipher);
        let rx = Keys::random(version, cipher);
        let peer = Peer::new(pair.1, rx.clone(), tx.clone());
        Link {
            op: Arc::new(Op::new(cipher.name())),
            tcp: pair.0,
            peer,
            tx,
            rx,
        }
    }

    /// Sends `data` from a thread of its own and returns the records.
    pub fn push(&mut self, data: &[u8]) -> Vec<Record> {
        let op = Arc::clone(&self.op);
        let copy = data.to_vec();
        let sender = std::thread::spawn(move || op.send_all(&copy));
        let mut records = Vec::new();
        let mut have = 0;
        while have < data.len() {
            let record = self.peer.recv().expect("a record");
            assert_eq!(record.kind, DATA);
            assert!(
                data[have..].starts_with(&record.data),
                "bytes differ after {have}"
            );
            assert!(!record.data.is_empty(), "an empty record");
            have += record.data.len();
            records.push(record);
        }
        sender.join().expect("sender");
        records
    }

    /// Waits until `len` bytes are on the TCP receive queue.
    pub fn arrived(&self, len: usize) {
        let there = eventually(|| sys::unread(&self.tcp) >= len);
        assert!(there, "{} of {len} bytes arrived", sys::unread(&self.tcp));
    }

    /// Data crosses both ways: the connection is in order.
    pub fn check(&mut self) {
        self.check_tx();
        self.check_rx();
    }

    pub fn check_tx(&mut self) {
        self.op.send_all(b"from the kernel");
        assert_eq!(self.peer.expect(15), b"from the kernel");
    }

    pub fn check_rx(&mut self) {
        self.peer.data(b"from the peer");
        assert_eq!(self.op.recv_exact(13), b"from the peer");
    }
}

/// Two kernel sockets, face to face: `(op, tcp)` twice.
pub fn duo(
    pair: (TcpStream, TcpStream),
    version: Version,
    cipher: Cipher,
) -> [(Arc<Op>, TcpStream); 2] {
    let there = Keys::random(version, cipher);
    let back = Keys::random(version, cipher);
    let (a, b) = (Op::new(cipher.name()), Op::new(cipher.name()));
    a.attach(&pair.0, Some(&there), Some(&back))
        .expect("attach");
    b.attach(&pair.1, Some(&back), Some(&there))
        .expect("attach");
    [(Arc::new(a), pair.0), (Arc::new(b), pair.1)]
}

/// Bytes that differ from their neighbours at every distance that matters.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 7) ^ (i >> 13)) as u8).collect()
}
