// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the key log to record keys: the derivations of RFC 5246 §6.3 and RFC 8446 §7, done with the
//! RustCrypto crates and nothing of ours.

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use ktlsshim_tests::{Cipher, Keys, Version};
use sha2::{Sha256, Sha384};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suite {
    pub version: Version,
    pub cipher: Cipher,
    pub sha384: bool,
}

impl Suite {
    pub fn of(id: u16) -> Option<Suite> {
        use Cipher::*;
        use Version::*;
        let (version, cipher, sha384) = match id {
            0x1301 => (Tls13, Aes128Gcm, false),
            0x1302 => (Tls13, Aes256Gcm, true),
            0x1303 => (Tls13, ChaCha20, false),
            0x1304 => (Tls13, Aes128Ccm, false),
            0xc02b => (Tls12, Aes128Gcm, false),
            0xc02c => (Tls12, Aes256Gcm, true),
            0xcca9 => (Tls12, ChaCha20, false),
            0xc0ac => (Tls12, Aes128Ccm, false),
            _ => return None,
        };
        Some(Suite {
            version,
            cipher,
            sha384,
        })
    }

    fn keys(self, key: Vec<u8>, iv: [u8; 12]) -> Keys {
        Keys {
            version: self.version,
            cipher: self.cipher,
            key,
            iv,
            seq: 0,
        }
    }

    fn expand_label(self, secret: &[u8], label: &str, n: usize) -> Vec<u8> {
        let mut info = (n as u16).to_be_bytes().to_vec();
        info.push(6 + label.len() as u8);
        info.extend(b"tls13 ");
        info.extend(label.as_bytes());
        info.push(0);
        let mut out = vec![0; n];
        let good = match self.sha384 {
            false => Hkdf::<Sha256>::from_prk(secret)
                .expect("secret")
                .expand(&info, &mut out),
            true => Hkdf::<Sha384>::from_prk(secret)
                .expect("secret")
                .expand(&info, &mut out),
        };
        good.expect("length");
        out
    }

    /// The keys of a TLS 1.3 traffic secret.
    pub fn traffic(self, secret: &[u8]) -> Keys {
        let key = self.expand_label(secret, "key", self.cipher.key_len());
        let iv = self
            .expand_label(secret, "iv", 12)
            .try_into()
            .expect("twelve bytes");
        self.keys(key, iv)
    }

    /// The secret after a KeyUpdate.
    pub fn next(self, secret: &[u8]) -> Vec<u8> {
        self.expand_label(secret, "traffic upd", secret.len())
    }

    fn prf(self, secret: &[u8], label: &[u8], seed: &[u8], n: usize) -> Vec<u8> {
        let hash = |parts: &[&[u8]]| -> Vec<u8> {
            if self.sha384 {
                let mut mac = Hmac::<Sha384>::new_from_slice(secret).expect("any length");
                parts.iter().for_each(|p| mac.update(p));
                mac.finalize().into_bytes().to_vec()
            } else {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
                parts.iter().for_each(|p| mac.update(p));
                mac.finalize().into_bytes().to_vec()
            }
        };
        let mut out = Vec::new();
        let mut a = hash(&[label, seed]);
        while out.len() < n {
            out.extend(hash(&[&a, label, seed]));
            a = hash(&[&a]);
        }
        out.truncate(n);
        out
    }

    /// The keys of a TLS 1.2 connection, client's first. AES: the explicit nonce is not known yet.
    pub fn pair(self, master: &[u8], client_random: &[u8], server_random: &[u8]) -> [Keys; 2] {
        let key = self.cipher.key_len();
        let iv = if self.cipher == Cipher::ChaCha20 {
            12
        } else {
            4
        };
        let seed = [server_random, client_random].concat();
        let block = self.prf(master, b"key expansion", &seed, 2 * (key + iv));
        let part = |at: usize, n: usize| block[at..at + n].to_vec();
        let long = |short: Vec<u8>| {
            let mut whole = [0; 12];
            whole[..short.len()].copy_from_slice(&short);
            whole
        };
        [
            self.keys(part(0, key), long(part(2 * key, iv))),
            self.keys(part(key, key), long(part(2 * key + iv, iv))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        (0..s.len() / 2)
            .map(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// RFC 8448 §3: server application traffic secret to key and IV.
    #[test]
    fn derives_what_rfc_8448_derives() {
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let keys = Suite::of(0x1301).unwrap().traffic(&secret);
        assert_eq!(keys.key, hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(keys.iv.to_vec(), hex("cf782b88dd83549aadf1e984"));
    }
}
