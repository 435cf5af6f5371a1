//! Who moves records once a connection is offloaded.
//!
//! A backend owns file descriptors of its own and no connection state: what a
//! connection needs (the op fd) is handed out and given back by number.

pub mod uapi;

use zeroize::Zeroize;

pub type Errno = i32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dir {
    Tx,
    Rx,
}

/// A `struct tls12_crypto_info_*` of `linux/tls.h`, padded with zeros to the
/// largest of them. All zero means "no keys".
#[repr(C, align(8))]
pub struct CryptoInfo([u8; uapi::ALG_TLS_CRYPTO_INFO_SIZE]);

impl CryptoInfo {
    pub const fn zero() -> CryptoInfo {
        CryptoInfo([0; uapi::ALG_TLS_CRYPTO_INFO_SIZE])
    }

    /// `parts`: iv, key, salt, rec_seq, in the order of the C structures.
    pub(crate) fn assemble(version: u16, cipher: u16, parts: &[&[u8]]) -> CryptoInfo {
        let mut info = CryptoInfo::zero();
        let (version, cipher) = (version.to_ne_bytes(), cipher.to_ne_bytes());
        let bytes = version
            .iter()
            .chain(&cipher)
            .chain(parts.iter().copied().flatten());
        for (to, from) in info.0.iter_mut().zip(bytes) {
            *to = *from;
        }
        info
    }

    fn copy_from(&mut self, other: &CryptoInfo) {
        self.0 = other.0;
    }

    pub const fn version(&self) -> u16 {
        let [a, b, ..] = self.0;
        u16::from_ne_bytes([a, b])
    }

    pub const fn cipher(&self) -> u16 {
        let [_, _, a, b, ..] = self.0;
        u16::from_ne_bytes([a, b])
    }

    /// Size of the C structure of this cipher; 0 for an unknown one.
    pub const fn size(&self) -> usize {
        match self.cipher() {
            uapi::TLS_CIPHER_AES_GCM_128 | uapi::TLS_CIPHER_AES_CCM_128 => uapi::AES_128_INFO_SIZE,
            uapi::TLS_CIPHER_AES_GCM_256 | uapi::TLS_CIPHER_CHACHA20_POLY1305 => {
                uapi::INFO_256_SIZE
            }
            _ => 0,
        }
    }

    pub const fn bytes(&self) -> &[u8; uapi::ALG_TLS_CRYPTO_INFO_SIZE] {
        &self.0
    }

    pub const fn bytes_mut(&mut self) -> &mut [u8; uapi::ALG_TLS_CRYPTO_INFO_SIZE] {
        &mut self.0
    }
}

impl Drop for CryptoInfo {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
