//! Opening and sealing single records with the process's own libcrypto.
//!
//! A `RecordCipher` owns one `EVP_CIPHER_CTX`, set up once with the key; a
//! record costs a new nonce and the AEAD itself. OpenSSL allocates nothing on
//! that path, nor do we. The caller's error queue stays as it was.

use super::header::{self, APPLICATION_DATA, Header, LEGACY_VERSION};
use crate::keys::TrafficKeys;
use crate::keys::suite::{Aead, NONCE_LEN, Suite, TAG_LEN, Version};
use crate::openssl::crypto::{
    EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_IVLEN, EVP_CTRL_AEAD_SET_TAG, EvpCipherCtx, Table,
};
use core::ffi::c_int;
use core::ptr::{NonNull, null, null_mut};

/// How far a proof looks for the sequence number of a record (WIRE §7).
pub const PROOF_SPAN: u64 = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Content type; the inner one for TLS 1.3.
    pub kind: u8,
    pub len: usize,
    /// Zeros that followed the inner content type (TLS 1.3).
    pub padding: usize,
    /// What the record carried of its nonce (TLS 1.2 AES), else zero.
    pub explicit: [u8; 8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Not one whole protected record of this version.
    Malformed,
    /// The tag does not verify: wrong key, sequence number or bytes.
    BadTag,
    /// `out` is shorter than the payload, inner type and padding together.
    NoRoom,
    /// libcrypto refused for another reason.
    Library,
}

pub struct RecordCipher {
    crypto: &'static Table,
    ctx: NonNull<EvpCipherCtx>,
    /// Suite and fixed IV; the key is in the context alone.
    keys: TrafficKeys,
}

// SAFETY: an EVP_CIPHER_CTX belongs to no thread; `&mut self` on every use
// keeps two threads from one context.
unsafe impl Send for RecordCipher {}

/// Part of the additional data that differs by version.
struct Aad {
    bytes: [u8; 13],
    len: usize,
}

impl RecordCipher {
    pub fn new(crypto: &'static Table, keys: &TrafficKeys) -> Option<Self> {
        // The context keeps the key; the IV alone is needed for the nonces.
        let iv_only = keys.nonce_source();
        crypto.quiet(|| {
            // SAFETY: no argument; null is checked.
            let ctx = NonNull::new(unsafe { (crypto.EVP_CIPHER_CTX_new)() })?;
            // Made first, so that every way out frees the context.
            let new = RecordCipher {
                crypto,
                ctx,
                keys: iv_only,
            };
            // SAFETY: the getters take nothing and return static objects.
            let cipher = unsafe {
                match keys.suite().aead {
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
                new.init(cipher, null(), null(), 1)
                    && new.ctrl(EVP_CTRL_AEAD_SET_IVLEN, NONCE_LEN, null_mut())
                    && (keys.suite().aead != Aead::Aes128Ccm
                        || new.ctrl(EVP_CTRL_AEAD_SET_TAG, TAG_LEN, null_mut()))
                    && new.init(null(), keys.key().as_ptr(), null(), 1)
            };
            done.then_some(new)
        })
    }

    pub const fn suite(&self) -> Suite {
        self.keys.suite()
    }

    /// Opens one whole record, header included. On any error `out` holds
    /// nothing of the plaintext.
    pub fn open(&mut self, seq: u64, record: &[u8], out: &mut [u8]) -> Result<Opened, OpenError> {
        let suite = self.suite();
        let (head, body) = record
            .split_first_chunk::<{ header::LEN }>()
            .ok_or(OpenError::Malformed)?;
        let head = header::parse(head).map_err(|_| OpenError::Malformed)?;
        if head.length as usize != body.len() {
            return Err(OpenError::Malformed);
        }
        if suite.version == Version::Tls13 && head.kind != APPLICATION_DATA {
            return Err(OpenError::Malformed); // in the clear: ChangeCipherSpec, early alert
        }
        let (explicit, body) = body
            .split_at_checked(suite.explicit_len())
            .ok_or(OpenError::Malformed)?;
        let (sealed, tag) = body
            .split_last_chunk::<TAG_LEN>()
            .ok_or(OpenError::Malformed)?;
        let out = out.get_mut(..sealed.len()).ok_or(OpenError::NoRoom)?;

        let nonce = self.keys.nonce(seq, explicit);
        let payload_len = u16::try_from(sealed.len()).map_err(|_| OpenError::Malformed)?;
        let aad = aad(suite.version, seq, head, payload_len);
        if let Err(error) = self.decrypt(&nonce, &aad, sealed, tag, out) {
            out.fill(0);
            return Err(error);
        }

        let mut opened = Opened {
            kind: head.kind,
            len: out.len(),
            padding: 0,
            explicit: [0; 8],
        };
        if let Ok(explicit) = explicit.try_into() {
            opened.explicit = explicit;
        }
        if suite.version == Version::Tls13 {
            // RFC 8446 §5.4: the last byte that is not zero is the type.
            let Some(at) = out.iter().rposition(|&b| b != 0) else {
                return Err(OpenError::Malformed);
            };
            opened.kind = out.get(at).copied().unwrap_or_default();
            opened.padding = out.len() - at - 1;
            opened.len = at;
        }
        if opened.len > header::MAX_PAYLOAD {
            out.fill(0);
            return Err(OpenError::Malformed);
        }
        Ok(opened)
    }

    /// Tries the first sequence numbers until one opens `record`: the tag
    /// proves key and number together.
    pub fn prove(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u64, Opened), OpenError> {
        for seq in 0..PROOF_SPAN {
            match self.open(seq, record, out) {
                Ok(opened) => return Ok((seq, opened)),
                Err(OpenError::BadTag) => {}
                Err(error) => return Err(error),
            }
        }
        Err(OpenError::BadTag)
    }

    /// Writes one whole record of `payload` and returns its length. `explicit`
    /// is used by TLS 1.2 AES only. `out` needs `suite().overhead()` bytes more
    /// than the payload; without that, or if libcrypto fails, `None`.
    pub fn seal(
        &mut self,
        seq: u64,
        explicit: [u8; 8],
        kind: u8,
        payload: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let suite = self.suite();
        if payload.len() > header::MAX_PAYLOAD {
            return None;
        }
        let total = payload.len().checked_add(suite.overhead())?;
        let (head_out, body) = out.get_mut(..total)?.split_at_mut_checked(header::LEN)?;
        let outer = match suite.version {
            Version::Tls12 => kind,
            Version::Tls13 => APPLICATION_DATA,
        };
        let length = u16::try_from(body.len()).ok()?;
        let head = Header {
            kind: outer,
            version: LEGACY_VERSION,
            length,
        };
        head_out.copy_from_slice(&head.bytes());

        let explicit = explicit.get(..suite.explicit_len())?;
        let (explicit_out, body) = body.split_at_mut_checked(suite.explicit_len())?;
        explicit_out.copy_from_slice(explicit);
        let (text, tag) = body.split_last_chunk_mut::<TAG_LEN>()?;
        // CCM takes its text in one piece, so the inner type joins it first.
        let (text_payload, inner) = text.split_at_mut_checked(payload.len())?;
        text_payload.copy_from_slice(payload);
        inner.fill(kind);

        let nonce = self.keys.nonce(seq, explicit);
        let aad = aad(suite.version, seq, head, u16::try_from(text.len()).ok()?);
        if self.encrypt(&nonce, &aad, text, tag).is_none() {
            out.fill(0);
            return None;
        }
        Some(total)
    }

    fn decrypt(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &Aad,
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        let mut tag = *tag;
        let ccm = self.suite().aead == Aead::Aes128Ccm;
        self.crypto.quiet(|| {
            // SAFETY: the context is ours and holds a key; every pointer comes
            // from a slice passed with its length, `out` is as long as `sealed`.
            unsafe {
                if !self.init(null(), null(), nonce.as_ptr(), 0)
                    || !self.ctrl(EVP_CTRL_AEAD_SET_TAG, TAG_LEN, tag.as_mut_ptr())
                    || !self.header(aad, sealed.len(), ccm)
                {
                    return Err(OpenError::Library);
                }
                if ccm {
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

    fn encrypt(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &Aad,
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Option<()> {
        let ccm = self.suite().aead == Aead::Aes128Ccm;
        self.crypto.quiet(|| {
            // SAFETY: as in `decrypt`; input and output are the same bytes,
            // which every cipher here allows.
            let done = unsafe {
                self.init(null(), null(), nonce.as_ptr(), 1)
                    && self.header(aad, text.len(), ccm)
                    && ((text.is_empty() && !ccm)
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
    unsafe fn header(&self, aad: &Aad, text_len: usize, ccm: bool) -> bool {
        // SAFETY: a null output marks both calls as what they are; no text is
        // read in the first, `aad.len` bytes are in the second.
        unsafe {
            (!ccm || self.update(null_mut(), null(), text_len))
                && self.update(null_mut(), aad.bytes.as_ptr(), aad.len)
        }
    }

    /// # Safety
    /// Key and nonce are null or as long as the cipher wants them.
    unsafe fn init(
        &self,
        cipher: *const crate::openssl::crypto::EvpCipher,
        key: *const u8,
        nonce: *const u8,
        enc: c_int,
    ) -> bool {
        // SAFETY: the context is live until drop; the rest is the caller's.
        unsafe {
            (self.crypto.EVP_CipherInit_ex)(self.ctx.as_ptr(), cipher, null_mut(), key, nonce, enc)
                == 1
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

impl Drop for RecordCipher {
    fn drop(&mut self) {
        // SAFETY: made by EVP_CIPHER_CTX_new of the same library and freed
        // only here; OpenSSL wipes the key schedule.
        unsafe { (self.crypto.EVP_CIPHER_CTX_free)(self.ctx.as_ptr()) };
    }
}

/// RFC 8446 §5.2: the header itself. RFC 5246 §6.2.3.3: sequence number, type,
/// version and the length of the *plaintext*.
fn aad(version: Version, seq: u64, head: Header, payload_len: u16) -> Aad {
    let mut aad = Aad {
        bytes: [0; 13],
        len: 0,
    };
    let mut push = |from: &[u8]| {
        for (to, from) in aad.bytes.iter_mut().skip(aad.len).zip(from) {
            *to = *from;
        }
        aad.len += from.len();
    };
    match version {
        Version::Tls13 => push(&head.bytes()),
        Version::Tls12 => {
            push(&seq.to_be_bytes());
            push(
                &Header {
                    length: payload_len,
                    ..head
                }
                .bytes(),
            );
        }
    }
    aad
}
