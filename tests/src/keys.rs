// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keys of one direction and their form in `<linux/tls.h>`.

use std::fs::File;
use std::io::Read;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Tls12,
    Tls13,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20,
    Aes128Ccm,
}

impl Version {
    pub fn number(self) -> u16 {
        match self {
            Version::Tls12 => 0x0303,
            Version::Tls13 => 0x0304,
        }
    }
}

impl Cipher {
    /// TLS_CIPHER_* of `<linux/tls.h>`.
    pub fn number(self) -> u16 {
        match self {
            Cipher::Aes128Gcm => 51,
            Cipher::Aes256Gcm => 52,
            Cipher::Aes128Ccm => 53,
            Cipher::ChaCha20 => 54,
        }
    }

    pub fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes128Ccm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20 => 32,
        }
    }

    /// The name for `bind()`.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => "gcm(aes)",
            Cipher::ChaCha20 => "rfc7539(chacha20,poly1305)",
            Cipher::Aes128Ccm => "ccm(aes)",
        }
    }
}

/// One direction: key, the 12 bytes that become nonces, and what is next.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub version: Version,
    pub cipher: Cipher,
    pub key: Vec<u8>,
    /// TLS 1.3 and ChaCha20: the whole static IV. TLS 1.2 AES: four bytes of
    /// salt, then the explicit nonce of the next record.
    pub iv: [u8; 12],
    pub seq: u64,
}

pub fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .expect("/dev/urandom");
    bytes
}

impl Keys {
    /// Random key and IV, sequence number 0.
    pub fn random(version: Version, cipher: Cipher) -> Keys {
        Keys::random_at(version, cipher, 0)
    }

    pub fn random_at(version: Version, cipher: Cipher, seq: u64) -> Keys {
        let iv = random(12).try_into().expect("twelve bytes");
        Keys {
            version,
            cipher,
            key: random(cipher.key_len()),
            iv,
            seq,
        }
    }

    /// Does each record carry eight bytes of its nonce?
    pub fn explicit_nonce(&self) -> bool {
        self.version == Version::Tls12 && self.cipher != Cipher::ChaCha20
    }

    pub fn nonce(&self) -> u64 {
        u64::from_be_bytes(self.iv[4..].try_into().expect("eight bytes"))
    }

    pub fn set_nonce(&mut self, nonce: u64) {
        self.iv[4..].copy_from_slice(&nonce.to_be_bytes());
    }

    /// The same keys `records` further on.
    pub fn after(&self, records: u64) -> Keys {
        let mut next = self.clone();
        next.seq = next.seq.wrapping_add(records);
        if self.explicit_nonce() {
            next.set_nonce(self.nonce().wrapping_add(records));
        }
        next
    }

    /// `struct tls12_crypto_info_*`.
    pub fn crypto_info(&self) -> Vec<u8> {
        let mut info = Vec::with_capacity(56);
        info.extend(self.version.number().to_ne_bytes());
        info.extend(self.cipher.number().to_ne_bytes());
        if self.cipher == Cipher::ChaCha20 {
            info.extend(self.iv);
            info.extend(&self.key);
        } else {
            info.extend(&self.iv[4..]);
            info.extend(&self.key);
            info.extend(&self.iv[..4]);
        }
        info.extend(self.seq.to_be_bytes());
        info
    }

    /// What a sender adds to the plaintext, header included.
    pub fn overhead(&self) -> usize {
        let inner = usize::from(self.version == Version::Tls13);
        5 + 16 + inner + if self.explicit_nonce() { 8 } else { 0 }
    }
}
