//! Who moves records once a connection is offloaded.
//!
//! A backend owns file descriptors of its own and no connection state: what a
//! connection needs (the op fd) is handed out and given back by number.

mod alg;
mod data;
#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod kernel_test;
mod parent;
pub mod uapi;

pub use crate::sys;
pub use alg::{Alg, alg};

use crate::keys::suite::{Aead, Version};
use libc::c_int;
use zeroize::Zeroize;

pub use crate::sys::Errno;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dir {
    Tx,
    Rx,
}

/// Where a direction stood when it was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detached {
    /// Sequence number of the next record.
    pub seq: u64,
    /// Explicit nonce of the next record (TLS 1.2 AES, TX), else zero.
    pub nonce: [u8; 8],
    /// Wire bytes written to the caller's buffer (RX); they precede what the
    /// TCP socket still holds.
    pub staged: usize,
}

/// Moves the records of connections. `op` is a file number from `open`; `send`
/// and `recv` have the semantics, flags and errors of `kmod/uapi/algif_tls.h`.
/// No call touches `errno` or raises more than the kernel does itself (SIGPIPE,
/// unless `flags` say MSG_NOSIGNAL). `send`, `recv` and their kin are cancellation
/// points, like libc's: they may end the thread by unwinding, so the caller holds
/// nothing then that its destructors do not give back.
pub trait Backend: Sync {
    /// Acquires what needs privileges now; silent on failure.
    fn prepare(&self);

    /// Whether `open` can work for this cipher. A refusal stands for the
    /// process's life; a shortage of files or memory does not.
    fn usable(&self, aead: Aead) -> Result<(), Errno>;

    /// A new op fd, CLOEXEC and high. It belongs to the caller.
    fn open(&self, aead: Aead) -> Result<i32, Errno>;

    /// Claims `tcp` and installs keys for one direction or both. `tx_max` 0
    /// is the protocol's maximum.
    fn attach(
        &self,
        op: i32,
        tcp: i32,
        tx: Option<&CryptoInfo>,
        rx: Option<&CryptoInfo>,
        tx_max: u16,
    ) -> Result<(), Errno>;

    fn rekey(&self, op: i32, dir: Dir, info: &CryptoInfo) -> Result<(), Errno>;

    /// Plaintext bytes per sent record from now on.
    fn set_tx_max(&self, op: i32, tx_max: u16) -> Result<(), Errno>;

    /// Sequence number and explicit nonce of the next record.
    fn sequence(&self, op: i32, dir: Dir) -> Result<(u64, [u8; 8]), Errno>;

    /// Gives one direction back. `uapi::STAGED_MAX` bytes of room always do
    /// for RX; TX needs none.
    fn detach(&self, op: i32, dir: Dir, staged: &mut [u8]) -> Result<Detached, Errno>;

    /// # Safety
    /// Every buffer of `iov` is readable.
    unsafe fn send(&self, op: i32, iov: &[libc::iovec], flags: c_int) -> Result<usize, Errno>;

    /// One record of that content type.
    fn send_record(&self, op: i32, kind: u8, payload: &[u8], flags: c_int) -> Result<usize, Errno>;

    /// Application data.
    ///
    /// # Safety
    /// `buf` has `len` writable bytes.
    unsafe fn recv(&self, op: i32, buf: *mut u8, len: usize, flags: c_int) -> Result<usize, Errno>;

    /// One record, or the rest of one, with its content type; 0 is no type and
    /// comes with the end of file.
    ///
    /// # Safety
    /// Every buffer of `iov` is writable.
    unsafe fn recv_record(
        &self,
        op: i32,
        iov: &[libc::iovec],
        flags: c_int,
    ) -> Result<(u8, usize), Errno>;

    /// Sends from a file at `offset` and moves that on.
    fn sendfile(
        &self,
        op: i32,
        fd: i32,
        offset: &mut u64,
        count: usize,
        flags: c_int,
    ) -> Result<usize, Errno>;
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

    /// Next sequence number and, for TLS 1.2 AES, next explicit nonce.
    pub fn position(&self) -> Option<(u64, [u8; 8])> {
        let (_, seq) = self.0.get(..self.size())?.split_last_chunk::<8>()?;
        let explicit = self.version() == Version::Tls12.wire()
            && self.cipher() != uapi::TLS_CIPHER_CHACHA20_POLY1305;
        let nonce = match self.0.get(4..)?.first_chunk::<8>() {
            Some(iv) if explicit => *iv,
            _ => [0; 8],
        };
        Some((u64::from_be_bytes(*seq), nonce))
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
