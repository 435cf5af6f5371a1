//! One AEAD operation with the process's own libcrypto.
//!
//! A `Context` owns one `EVP_CIPHER_CTX` with a key in it until it is dropped;
//! OpenSSL wipes the key schedule then. Nonce, additional data and text are
//! the caller's. Nothing is allocated after `new`, and the thread's OpenSSL
//! error queue stays as it was.

use super::cipher::OpenError;
use crate::keys::TrafficKeys;
use crate::keys::suite::{Aead, NONCE_LEN, TAG_LEN};
use crate::openssl::crypto::{
    EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_IVLEN, EVP_CTRL_AEAD_SET_TAG, EvpCipher, EvpCipherCtx,
    Table,
};
use core::ffi::c_int;
use core::ptr::{NonNull, null, null_mut};

/// Additional data: 13 bytes for TLS 1.2, 5 for TLS 1.3.
pub(super) struct Aad {
    bytes: [u8; 13],
    len: usize,
}

impl Aad {
    pub(super) const fn new() -> Aad {
        Aad {
            bytes: [0; 13],
            len: 0,
        }
    }

    pub(super) fn push<const N: usize>(&mut self, more: &[u8; N]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(more) {
            *to = *from;
        }
        self.len = (self.len + N).min(self.bytes.len());
    }
}

/// An `EVP_CIPHER_CTX` with its key. One for opening and one for sealing: CCM
/// settles the direction together with the key (its AES-NI code does not look
/// at it again), so a context that changes sides computes nonsense.
pub(super) struct Context {
    crypto: &'static Table,
    ctx: NonNull<EvpCipherCtx>,
    ccm: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Work {
    Open = 0,
    Seal = 1,
}

// SAFETY: an EVP_CIPHER_CTX belongs to no thread; `&mut self` on every use
// keeps two threads from one context.
unsafe impl Send for Context {}

impl Context {
    pub(super) fn new(crypto: &'static Table, keys: &TrafficKeys, work: Work) -> Option<Context> {
        let aead = keys.suite().aead;
        crypto.quiet(|| {
            // SAFETY: no argument; null is checked.
            let ctx = NonNull::new(unsafe { (crypto.EVP_CIPHER_CTX_new)() })?;
            // Made first, so that every way out frees the context.
            let new = Context {
                crypto,
                ctx,
                ccm: aead == Aead::Aes128Ccm,
            };
            // SAFETY: the getters take nothing and return static objects.
            let cipher = unsafe {
                match aead {
                    Aead::Aes128Gcm => (crypto.EVP_aes_128_gcm)(),
                    Aead::Aes256Gcm => (crypto.EVP_aes_256_gcm)(),
                    Aead::Aes128Ccm => (crypto.EVP_aes_128_ccm)(),
                    Aead::ChaCha20Poly1305 => crypto.EVP_chacha20_poly1305.map(|f| f())?,
                }
            };
            if cipher.is_null() {
                return None;
            }
            // SAFETY: the context is ours; the key has the cipher's length
            // (`TrafficKeys` checked it). CCM fixes its lengths at key set-up,
            // so they come first.
            let done = unsafe {
                new.init(cipher, null(), null(), work)
                    && new.ctrl(EVP_CTRL_AEAD_SET_IVLEN, NONCE_LEN, null_mut())
                    && (!new.ccm || new.ctrl(EVP_CTRL_AEAD_SET_TAG, TAG_LEN, null_mut()))
                    && new.init(null(), keys.key().as_ptr(), null(), work)
            };
            done.then_some(new)
        })
    }

    pub(super) fn decrypt(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &Aad,
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        let mut tag = *tag;
        self.crypto.quiet(|| {
            // SAFETY: the context is ours and holds a key; every pointer comes
            // from a slice passed with its length, `out` is as long as `sealed`.
            unsafe {
                if !self.init(null(), null(), nonce.as_ptr(), Work::Open)
                    || !self.ctrl(EVP_CTRL_AEAD_SET_TAG, TAG_LEN, tag.as_mut_ptr())
                    || !self.header(aad, sealed.len())
                {
                    return Err(OpenError::Library);
                }
                if self.ccm {
                    // CCM verifies in this very call.
                    return self
                        .update(out.as_mut_ptr(), sealed.as_ptr(), sealed.len())
                        .then_some(())
                        .ok_or(OpenError::BadTag);
                }
                if !sealed.is_empty()
                    && !self.update(out.as_mut_ptr(), sealed.as_ptr(), sealed.len())
                {
                    return Err(OpenError::Library);
                }
                self.finish().then_some(()).ok_or(OpenError::BadTag)
            }
        })
    }

    pub(super) fn encrypt(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &Aad,
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Option<()> {
        self.crypto.quiet(|| {
            // SAFETY: as in `decrypt`; input and output are the same bytes,
            // which every cipher here allows.
            let done = unsafe {
                self.init(null(), null(), nonce.as_ptr(), Work::Seal)
                    && self.header(aad, text.len())
                    && ((text.is_empty() && !self.ccm)
                        || self.update(text.as_mut_ptr(), text.as_ptr(), text.len()))
                    && self.finish()
                    && self.ctrl(EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag.as_mut_ptr())
            };
            done.then_some(())
        })
    }

    /// Additional data; for CCM the text's length before it.
    ///
    /// # Safety
    /// The context holds a key and a nonce.
    unsafe fn header(&self, aad: &Aad, text_len: usize) -> bool {
        // SAFETY: a null output marks both calls as what they are; no text is
        // read in the first, `aad.len` bytes are in the second.
        unsafe {
            (!self.ccm || self.update(null_mut(), null(), text_len))
                && self.update(null_mut(), aad.bytes.as_ptr(), aad.len)
        }
    }

    /// # Safety
    /// Key and nonce are null or as long as the cipher wants them.
    unsafe fn init(
        &self,
        cipher: *const EvpCipher,
        key: *const u8,
        nonce: *const u8,
        work: Work,
    ) -> bool {
        // SAFETY: the context is live until drop; the rest is the caller's.
        unsafe {
            (self.crypto.EVP_CipherInit_ex)(
                self.ctx.as_ptr(),
                cipher,
                null_mut(),
                key,
                nonce,
                work as c_int,
            ) == 1
        }
    }

    /// # Safety
    /// `ptr` is null or has `len` bytes, readable or writable as `cmd` needs.
    unsafe fn ctrl(&self, cmd: c_int, len: usize, ptr: *mut u8) -> bool {
        let Ok(len) = c_int::try_from(len) else {
            return false;
        };
        // SAFETY: the context is live until drop; the rest is the caller's.
        unsafe { (self.crypto.EVP_CIPHER_CTX_ctrl)(self.ctx.as_ptr(), cmd, len, ptr.cast()) == 1 }
    }

    /// # Safety
    /// `data` has `len` bytes or is null; `out` has `len` bytes or is null.
    unsafe fn update(&self, out: *mut u8, data: *const u8, len: usize) -> bool {
        let Ok(len) = c_int::try_from(len) else {
            return false;
        };
        let mut done = 0;
        // SAFETY: the context is live until drop; the rest is the caller's.
        // A stream-like AEAD writes exactly as much as it reads.
        unsafe {
            (self.crypto.EVP_CipherUpdate)(self.ctx.as_ptr(), out, &mut done, data, len) == 1
                && done == len
        }
    }

    fn finish(&self) -> bool {
        let (mut tail, mut len) = ([0; 16], 0);
        // SAFETY: an AEAD writes nothing here; one block would fit anyway.
        unsafe {
            (self.crypto.EVP_CipherFinal_ex)(self.ctx.as_ptr(), tail.as_mut_ptr(), &mut len) == 1
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by EVP_CIPHER_CTX_new of the same library and freed
        // only here; OpenSSL wipes the key schedule.
        unsafe { (self.crypto.EVP_CIPHER_CTX_free)(self.ctx.as_ptr()) };
    }
}
