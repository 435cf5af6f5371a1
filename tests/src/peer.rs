// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end: TLS 1.2 and 1.3 records over a plain TCP socket, sealed and
//! opened with the RustCrypto crates and nothing of ours. It is strict: a
//! record out of sequence, a foreign key, an explicit nonce that does not count
//! up, a wrong header are faults. Its own tests (below) show that it notices.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use aes::Aes128;
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use ccm::Ccm;
use ccm::consts::{U12, U16};
use chacha20poly1305::ChaCha20Poly1305;

use crate::keys::{Cipher, Keys, Version};

pub const CCS: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

pub const CLOSE_NOTIFY: &[u8] = &[1, 0];
pub const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// The largest plaintext of one record.
pub const MAX: usize = 16384;

#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// FIN at a record border.
    Eof,
    /// FIN inside a record.
    EofInside,
    /// RST.
    Reset,
    /// The TCP socket had nothing for twenty seconds.
    Silence,
    Header([u8; 5]),
    /// Not the explicit nonce that is next.
    Nonce {
        wire: u64,
        expected: u64,
    },
    /// Wrong key, wrong sequence number or damaged.
    Tag,
    NoContentType,
    TooLong(usize),
}

#[derive(PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "type {} with {} bytes", self.kind, self.data.len())
    }
}

enum Aead {
    Gcm128(Box<Aes128Gcm>),
    Gcm256(Box<Aes256Gcm>),
    Ccm128(Box<Ccm<Aes128, U16, U12>>),
    ChaCha(Box<ChaCha20Poly1305>),
}

impl Aead {
    fn new(keys: &Keys) -> Aead {
        let bad = "key length";
        match keys.cipher {
            Cipher::Aes128Gcm => {
                Aead::Gcm128(Box::new(Aes128Gcm::new_from_slice(&keys.key).expect(bad)))
            }
            Cipher::Aes256Gcm => {
                Aead::Gcm256(Box::new(Aes256Gcm::new_from_slice(&keys.key).expect(bad)))
            }
            Cipher::Aes128Ccm => Aead::Ccm128(Box::new(Ccm::new_from_slice(&keys.key).expect(bad))),
            Cipher::ChaCha20 => Aead::ChaCha(Box::new(
                ChaCha20Poly1305::new_from_slice(&keys.key).expect(bad),
            )),
        }
    }

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut Vec<u8>) {
        let nonce = GenericArray::from_slice(nonce);
        match self {
            Aead::Gcm128(a) => a.encrypt_in_place(nonce, aad, text),
            Aead::Gcm256(a) => a.encrypt_in_place(nonce, aad, text),
            Aead::Ccm128(a) => a.encrypt_in_place(nonce, aad, text),
            Aead::ChaCha(a) => a.encrypt_in_place(nonce, aad, text),
        }
        .expect("seal");
    }

    fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &mut Vec<u8>) -> Result<(), Fault> {
        let nonce = GenericArray::from_slice(nonce);
        match self {
            Aead::Gcm128(a) => a.decrypt_in_place(nonce, aad, text),
            Aead::Gcm256(a) => a.decrypt_in_place(nonce, aad, text),
            Aead::Ccm128(a) => a.decrypt_in_place(nonce, aad, text),
            Aead::ChaCha(a) => a.decrypt_in_place(nonce, aad, text),
        }
        .map_err(|_| Fault::Tag)
    }
}

/// One direction: keys and the number of the next record.
pub struct Half {
    aead: Aead,
    keys: Keys,
}

impl Half {
    pub fn new(keys: Keys) -> Half {
        Half {
            aead: Aead::new(&keys),
            keys,
        }
    }

    pub fn seq(&self) -> u64 {
        self.keys.seq
    }

    /// The keys as they are for the next record.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.keys.iv;
        if !self.keys.explicit_nonce() {
            for (n, s) in nonce[4..].iter_mut().zip(self.keys.seq.to_be_bytes()) {
                *n ^= s;
            }
        }
        nonce
    }

    /// TLS 1.2: sequence number and the header with the plaintext's length.
    fn aad12(&self, kind: u8, len: usize) -> Vec<u8> {
        let mut aad = self.keys.seq.to_be_bytes().to_vec();
        aad.extend([kind, 3, 3]);
        aad.extend((len as u16).to_be_bytes());
        aad
    }

    fn step(&mut self) {
        self.keys = self.keys.after(1);
    }

    /// The whole record on the wire. `pad` zero bytes follow in TLS 1.3.
    pub fn seal(&mut self, kind: u8, data: &[u8], pad: usize) -> Vec<u8> {
        let nonce = self.nonce();
        let mut text = data.to_vec();
        let mut wire = Vec::with_capacity(data.len() + pad + 64);
        match self.keys.version {
            Version::Tls13 => {
                text.push(kind);
                text.resize(text.len() + pad, 0);
                wire.extend(header(DATA, text.len() + 16));
                self.aead.seal(&nonce, &wire, &mut text);
            }
            Version::Tls12 => {
                assert_eq!(pad, 0, "TLS 1.2 has no padding for AEAD");
                let aad = self.aad12(kind, text.len());
                self.aead.seal(&nonce, &aad, &mut text);
                let explicit = if self.keys.explicit_nonce() {
                    &nonce[4..]
                } else {
                    &[]
                };
                wire.extend(header(kind, explicit.len() + text.len()));
                wire.extend(explicit);
            }
        }
        wire.extend(text);
        self.step();
        wire
    }

    /// A TLS 1.3 record whose inner plaintext is exactly `inner`.
    pub fn seal_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        assert_eq!(self.keys.version, Version::Tls13);
        let mut text = inner.to_vec();
        let mut wire = header(DATA, text.len() + 16).to_vec();
        self.aead.seal(&self.nonce(), &wire, &mut text);
        wire.extend(text);
        self.step();
        wire
    }

    pub fn open(&mut self, wire: &[u8]) -> Result<Record, Fault> {
        let head: [u8; 5] = wire[..5].try_into().expect("five bytes");
        let body = &wire[5..];
        if head[1..3] != [3, 3] || body.len() != length(&head) {
            return Err(Fault::Header(head));
        }
        let record = match self.keys.version {
            Version::Tls13 => self.open13(head, body)?,
            Version::Tls12 => self.open12(head, body)?,
        };
        if record.data.len() > MAX {
            return Err(Fault::TooLong(record.data.len()));
        }
        self.step();
        Ok(record)
    }

    fn open13(&self, head: [u8; 5], body: &[u8]) -> Result<Record, Fault> {
        if head[0] != DATA || body.len() < 17 {
            return Err(Fault::Header(head));
        }
        let mut text = body.to_vec();
        self.aead.open(&self.nonce(), &head, &mut text)?;
        let end = text
            .iter()
            .rposition(|b| *b != 0)
            .ok_or(Fault::NoContentType)?;
        let kind = text[end];
        text.truncate(end);
        Ok(Record { kind, data: text })
    }

    fn open12(&self, head: [u8; 5], body: &[u8]) -> Result<Record, Fault> {
        let nonce = self.nonce();
        let explicit = if self.keys.explicit_nonce() { 8 } else { 0 };
        if !(CCS..=24).contains(&head[0]) || body.len() < explicit + 16 {
            return Err(Fault::Header(head));
        }
        let (wire_nonce, text) = body.split_at(explicit);
        if explicit == 8 && *wire_nonce != nonce[4..] {
            let wire = u64::from_be_bytes(wire_nonce.try_into().expect("eight bytes"));
            return Err(Fault::Nonce {
                wire,
                expected: self.keys.nonce(),
            });
        }
        let mut text = text.to_vec();
        let aad = self.aad12(head[0], text.len() - 16);
        self.aead.open(&nonce, &aad, &mut text)?;
        Ok(Record {
            kind: head[0],
            data: text,
        })
    }
}

pub fn header(kind: u8, len: usize) -> [u8; 5] {
    let len = (len as u16).to_be_bytes();
    [kind, 3, 3, len[0], len[1]]
}

pub fn length(header: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

pub struct Peer {
    pub tcp: TcpStream,
    pub tx: Half,
    pub rx: Half,
}

impl Peer {
    pub fn new(tcp: TcpStream, tx: Keys, rx: Keys) -> Peer {
        tcp.set_nodelay(true).expect("TCP_NODELAY");
        let limit = Some(crate::watch::patient(std::time::Duration::from_secs(20)));
        tcp.set_read_timeout(limit).expect("SO_RCVTIMEO");
        tcp.set_write_timeout(limit).expect("SO_SNDTIMEO");
        Peer {
            tcp,
            tx: Half::new(tx),
            rx: Half::new(rx),
        }
    }

    pub fn raw(&mut self, wire: &[u8]) {
        self.tcp.write_all(wire).expect("peer writes");
    }

    pub fn send(&mut self, kind: u8, data: &[u8]) {
        let wire = self.tx.seal(kind, data, 0);
        self.raw(&wire);
    }

    pub fn data(&mut self, data: &[u8]) {
        for piece in data.chunks(MAX) {
            self.send(DATA, piece);
        }
    }

    /// One whole record as it came.
    pub fn wire(&mut self) -> Result<Vec<u8>, Fault> {
        let mut wire = vec![0; 5];
        self.fill(&mut wire, Fault::Eof)?;
        let end = 5 + length(&wire);
        wire.resize(end, 0);
        self.fill(&mut wire[5..], Fault::EofInside)?;
        Ok(wire)
    }

    fn fill(&mut self, buf: &mut [u8], eof: Fault) -> Result<(), Fault> {
        let mut have = 0;
        while have < buf.len() {
            match self.tcp.read(&mut buf[have..]) {
                Ok(0) if have == 0 => return Err(eof),
                Ok(0) => return Err(Fault::EofInside),
                Ok(n) => have += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(Fault::Reset),
                Err(_) => return Err(Fault::Silence),
            }
        }
        Ok(())
    }

    pub fn recv(&mut self) -> Result<Record, Fault> {
        let wire = self.wire()?;
        self.rx.open(&wire)
    }

    /// Data records until `len` bytes are there; no other record may come.
    pub fn expect(&mut self, len: usize) -> Vec<u8> {
        let mut got = Vec::with_capacity(len);
        while got.len() < len {
            let record = self.recv().expect("a record");
            assert_eq!(record.kind, DATA, "a data record");
            got.extend(record.data);
        }
        assert_eq!(got.len(), len, "no byte too many");
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::SUITES;
    use crate::keys::random;

    fn halves(version: Version, cipher: Cipher) -> (Half, Half, Keys) {
        let keys = Keys::random(version, cipher);
        (Half::new(keys.clone()), Half::new(keys.clone()), keys)
    }

    fn hex(s: &str) -> Vec<u8> {
        let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 8448 §3, "{client} send application_data record".
    #[test]
    fn opens_and_seals_the_record_of_rfc_8448() {
        let keys = Keys {
            version: Version::Tls13,
            cipher: Cipher::Aes128Gcm,
            key: hex("17422dda596ed5d9acd890e3c63f5051"),
            iv: hex("5b78923dee08579033e523d9").try_into().unwrap(),
            seq: 0,
        };
        let wire = hex(
            "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9
             14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f
             5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4",
        );
        let data: Vec<u8> = (0..50).collect();
        assert_eq!(Half::new(keys.clone()).seal(DATA, &data, 0), wire);
        let record = Half::new(keys).open(&wire).unwrap();
        assert_eq!((record.kind, record.data), (DATA, data));
    }

    #[test]
    fn opens_what_it_seals() {
        for (version, cipher) in SUITES {
            let (mut tx, mut rx, keys) = halves(version, cipher);
            for len in [0, 1, 15, 16, 17, 1000, MAX] {
                let data = random(len);
                let wire = tx.seal(DATA, &data, 0);
                assert_eq!(wire.len(), len + keys.overhead());
                assert_eq!(rx.open(&wire), Ok(Record { kind: DATA, data }));
            }
            assert_eq!((tx.seq(), rx.seq()), (7, 7));
        }
    }

    #[test]
    fn a_wrong_key_fails() {
        for (version, cipher) in SUITES {
            let (mut tx, _, keys) = halves(version, cipher);
            let mut other = keys;
            other.key[0] ^= 1;
            let wire = tx.seal(DATA, b"secret", 0);
            assert_eq!(Half::new(other).open(&wire), Err(Fault::Tag));
        }
    }

    #[test]
    fn a_wrong_iv_or_salt_fails() {
        for (version, cipher) in SUITES {
            let (mut tx, _, keys) = halves(version, cipher);
            let mut other = keys;
            other.iv[0] ^= 1;
            let wire = tx.seal(DATA, b"secret", 0);
            assert_eq!(Half::new(other).open(&wire), Err(Fault::Tag));
        }
    }

    #[test]
    fn a_lost_or_repeated_record_fails() {
        for (version, cipher) in SUITES {
            let (mut tx, mut rx, keys) = halves(version, cipher);
            let first = tx.seal(DATA, b"one", 0);
            let second = tx.seal(DATA, b"two", 0);
            assert!(rx.open(&second).is_err(), "lost");
            assert!(rx.open(&first).is_ok());
            assert!(rx.open(&first).is_err(), "repeated");
            assert!(rx.open(&second).is_ok());
            // The right nonce with a wrong number is caught by the tag alone.
            if keys.explicit_nonce() {
                let mut skewed = keys.clone();
                skewed.seq = 1;
                assert_eq!(Half::new(skewed).open(&first), Err(Fault::Tag));
            }
        }
    }

    #[test]
    fn every_damaged_byte_fails() {
        for (version, cipher) in SUITES {
            let (mut tx, mut rx, _) = halves(version, cipher);
            let wire = tx.seal(DATA, b"data", 0);
            for i in 0..wire.len() {
                let mut bad = wire.clone();
                bad[i] ^= 0x10;
                assert!(rx.open(&bad).is_err(), "{version:?} {cipher:?} byte {i}");
            }
            assert!(rx.open(&wire).is_ok());
        }
    }

    #[test]
    fn padding_is_cut_and_emptiness_refused() {
        let (mut tx, mut rx, _) = halves(Version::Tls13, Cipher::ChaCha20);
        let wire = tx.seal(ALERT, CLOSE_NOTIFY, 100);
        let record = rx.open(&wire).unwrap();
        assert_eq!((record.kind, &record.data[..]), (ALERT, CLOSE_NOTIFY));
        let wire = tx.seal_inner(&[0; 20]);
        assert_eq!(rx.open(&wire), Err(Fault::NoContentType));
    }
}
