//! Record keys: the TLS 1.3 schedule from a traffic secret down, and the
//! TLS 1.2 key block.
//!
//! HMAC is the process's own libcrypto's. Nothing here allocates; intermediate
//! values live in wiped buffers on the stack.

use super::secret::{Secret, Traffic};
use super::suite::{Aead, Hash, Suite, Version};
use crate::backend::CryptoInfo;
use crate::backend::uapi;
use crate::openssl::crypto::Table;
use core::ffi::c_int;

/// Key and fixed IV of one direction.
pub struct TrafficKeys {
    suite: Suite,
    key: Secret<32>,
    iv: Secret<12>,
}

impl TrafficKeys {
    /// Of exactly the suite's lengths.
    pub fn new(suite: Suite, key: &[u8], iv: &[u8]) -> Option<TrafficKeys> {
        if key.len() != suite.key_len() || iv.len() != suite.iv_len() {
            return None;
        }
        let mut keys = TrafficKeys {
            suite,
            key: Secret::zero(),
            iv: Secret::zero(),
        };
        keys.key
            .bytes_mut()
            .get_mut(..key.len())?
            .copy_from_slice(key);
        keys.iv.bytes_mut().get_mut(..iv.len())?.copy_from_slice(iv);
        Some(keys)
    }

    /// Not `Clone`: a copy of a key should be easy to find.
    pub(crate) fn duplicate(&self) -> TrafficKeys {
        let mut copy = TrafficKeys {
            suite: self.suite,
            key: Secret::zero(),
            iv: Secret::zero(),
        };
        copy.key.bytes_mut().copy_from_slice(self.key.bytes());
        copy.iv.bytes_mut().copy_from_slice(self.iv.bytes());
        copy
    }

    pub const fn suite(&self) -> Suite {
        self.suite
    }

    pub fn key(&self) -> &[u8] {
        self.key
            .bytes()
            .get(..self.suite.key_len())
            .unwrap_or_default()
    }

    /// The fixed part only.
    pub fn iv(&self) -> &[u8] {
        self.iv
            .bytes()
            .get(..self.suite.iv_len())
            .unwrap_or_default()
    }

    /// The nonce of a record: RFC 8446 §5.3 (and RFC 7905) or RFC 5288 §3.
    pub(crate) fn nonce(&self, seq: u64, explicit: &[u8]) -> [u8; 12] {
        let mut nonce = *self.iv.bytes();
        let last8 = nonce.iter_mut().skip(4);
        if self.suite.explicit_len() == 0 {
            for (byte, s) in last8.zip(seq.to_be_bytes()) {
                *byte ^= s;
            }
        } else {
            for (byte, e) in last8.zip(explicit) {
                *byte = *e;
            }
        }
        nonce
    }

    /// The kernel's form. `seq` and `explicit` (TLS 1.2 AES only) are those of
    /// the *next* record.
    pub fn crypto_info(&self, seq: u64, explicit: [u8; 8]) -> CryptoInfo {
        let cipher = match self.suite.aead {
            Aead::Aes128Gcm => uapi::TLS_CIPHER_AES_GCM_128,
            Aead::Aes256Gcm => uapi::TLS_CIPHER_AES_GCM_256,
            Aead::Aes128Ccm => uapi::TLS_CIPHER_AES_CCM_128,
            Aead::ChaCha20Poly1305 => uapi::TLS_CIPHER_CHACHA20_POLY1305,
        };
        // linux/tls.h splits the nonce into `salt` (first four bytes, AES only)
        // and `iv` (the rest: explicit in 1.2, derived in 1.3).
        let iv = self.iv.bytes();
        let (salt, rest) = match self.suite.aead {
            Aead::ChaCha20Poly1305 => (&[][..], &iv[..]),
            _ => iv.split_at(4),
        };
        let iv = if self.suite.explicit_len() == 0 {
            rest
        } else {
            &explicit
        };
        CryptoInfo::assemble(
            self.suite.version.wire(),
            cipher,
            &[iv, self.key(), salt, &seq.to_be_bytes()],
        )
    }
}

/// Both directions of a TLS 1.2 connection.
pub struct Pair {
    pub client: TrafficKeys,
    pub server: TrafficKeys,
}

/// RFC 8446 §7.3.
pub fn tls13(crypto: &Table, suite: Suite, secret: &[u8]) -> Option<TrafficKeys> {
    if suite.version != Version::Tls13 || secret.len() != suite.hash.size() {
        return None;
    }
    let mut keys = TrafficKeys {
        suite,
        key: Secret::zero(),
        iv: Secret::zero(),
    };
    let key = keys.key.bytes_mut().get_mut(..suite.key_len())?;
    expand_label(crypto, suite.hash, secret, b"key", key)?;
    expand_label(crypto, suite.hash, secret, b"iv", keys.iv.bytes_mut())?;
    Some(keys)
}

/// The secret after a KeyUpdate, RFC 8446 §7.2.
pub fn next13(crypto: &Table, hash: Hash, secret: &[u8]) -> Option<Traffic> {
    if secret.len() != hash.size() {
        return None;
    }
    Traffic::build(hash.size(), |out| {
        expand_label(crypto, hash, secret, b"traffic upd", out)
    })
}

/// RFC 5246 §6.3 for AEAD suites, which have no MAC keys.
pub fn tls12(
    crypto: &Table,
    suite: Suite,
    master: &[u8],
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> Option<Pair> {
    if suite.version != Version::Tls12 || master.len() != 48 {
        return None;
    }
    let mut seed = [0; 64];
    let (first, second) = seed.split_at_mut(32);
    first.copy_from_slice(server_random);
    second.copy_from_slice(client_random);

    let mut block = Secret::<88>::zero();
    let (key, iv) = (suite.key_len(), suite.iv_len());
    let block = block.bytes_mut().get_mut(..2 * (key + iv))?;
    prf12(crypto, suite.hash, master, b"key expansion", &seed, block)?;

    let (client_key, rest) = block.split_at_checked(key)?;
    let (server_key, rest) = rest.split_at_checked(key)?;
    let (client_iv, server_iv) = rest.split_at_checked(iv)?;
    Some(Pair {
        client: TrafficKeys::new(suite, client_key, client_iv)?,
        server: TrafficKeys::new(suite, server_key, server_iv)?,
    })
}

/// HKDF-Expand-Label with an empty context. `out` is one hash long at most, so
/// that HKDF-Expand is a single HMAC.
fn expand_label(
    crypto: &Table,
    hash: Hash,
    secret: &[u8],
    label: &[u8],
    out: &mut [u8],
) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).ok()?;
    let mut info = Buffer::<32>::new();
    info.push(&length)?
        .push(&[label_len])?
        .push(PREFIX)?
        .push(label)?;
    info.push(&[0])?.push(&[1])?; // no context; block number 1
    let mut block = Secret::<48>::zero();
    let block = hmac(crypto, hash, secret, info.as_slice(), &mut block)?;
    out.copy_from_slice(block.get(..out.len())?);
    Some(())
}

/// The TLS 1.2 PRF, RFC 5246 §5. Label and seed have 112 bytes together.
fn prf12(
    crypto: &Table,
    hash: Hash,
    secret: &[u8],
    label: &[u8],
    seed: &[u8],
    out: &mut [u8],
) -> Option<()> {
    // `input` is A(i) | label | seed; A(0) stands alone.
    let mut a = Secret::<48>::zero();
    let mut start = Buffer::<112>::new();
    start.push(label)?.push(seed)?;
    hmac(crypto, hash, secret, start.as_slice(), &mut a)?;
    for chunk in out.chunks_mut(hash.size()) {
        let a_now = a.bytes().get(..hash.size())?;
        let mut input = Buffer::<160>::new();
        input.push(a_now)?.push(label)?.push(seed)?;
        let mut block = Secret::<48>::zero();
        let block = hmac(crypto, hash, secret, input.as_slice(), &mut block)?;
        chunk.copy_from_slice(block.get(..chunk.len())?);
        let mut next = Secret::<48>::zero();
        hmac(crypto, hash, secret, a_now, &mut next)?;
        a.bytes_mut().copy_from_slice(next.bytes()); // a move would leave `next` unwiped
    }
    Some(())
}

fn hmac<'o>(
    crypto: &Table,
    hash: Hash,
    key: &[u8],
    data: &[u8],
    out: &'o mut Secret<48>,
) -> Option<&'o [u8]> {
    let key_len = c_int::try_from(key.len()).ok()?;
    let mut len = 0;
    let done = crypto.quiet(|| {
        // SAFETY: key and data are slices given with their lengths; the digest
        // of either hash fits into the 48 bytes of `out`.
        unsafe {
            let md = match hash {
                Hash::Sha256 => (crypto.EVP_sha256)(),
                Hash::Sha384 => (crypto.EVP_sha384)(),
            };
            (crypto.HMAC)(
                md,
                key.as_ptr().cast(),
                key_len,
                data.as_ptr(),
                data.len(),
                out.bytes_mut().as_mut_ptr(),
                &mut len,
            )
        }
    });
    if done.is_null() || len as usize != hash.size() {
        return None;
    }
    out.bytes().get(..hash.size())
}

/// Concatenates on the stack, wiped because A(i) is as good as key material.
struct Buffer<const N: usize> {
    bytes: Secret<N>,
    len: usize,
}

impl<const N: usize> Buffer<N> {
    const fn new() -> Self {
        Buffer {
            bytes: Secret::zero(),
            len: 0,
        }
    }

    fn push(&mut self, more: &[u8]) -> Option<&mut Self> {
        let end = self.len.checked_add(more.len())?;
        self.bytes
            .bytes_mut()
            .get_mut(self.len..end)?
            .copy_from_slice(more);
        self.len = end;
        Some(self)
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.bytes().get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::super::vectors::{KEY_UPDATES, hex, prf, rfc8448};
    use super::*;
    use crate::openssl::crypto::tests::table;

    fn suite(version: Version, id: u16) -> Suite {
        Suite::from_id(version, id).unwrap()
    }

    #[test]
    fn rfc8448_traffic_keys() {
        let suite = suite(Version::Tls13, 0x1301);
        use rfc8448::*;
        for (secret, key, iv) in [
            (CLIENT_HANDSHAKE, CLIENT_HANDSHAKE_KEY, CLIENT_HANDSHAKE_IV),
            (SERVER_HANDSHAKE, SERVER_HANDSHAKE_KEY, SERVER_HANDSHAKE_IV),
            (CLIENT_TRAFFIC, CLIENT_KEY, CLIENT_IV),
            (SERVER_TRAFFIC, SERVER_KEY, SERVER_IV),
        ] {
            let keys = tls13(table(), suite, &hex(secret)).unwrap();
            assert_eq!((keys.key(), keys.iv()), (&hex(key)[..], &hex(iv)[..]));
        }
    }

    #[test]
    fn key_update_as_two_other_stacks_agreed_on_it() {
        for (now, next) in KEY_UPDATES {
            let now = hex(now);
            let hash = if now.len() == 48 {
                Hash::Sha384
            } else {
                Hash::Sha256
            };
            assert_eq!(next13(table(), hash, &now).unwrap().as_slice(), hex(next));
        }
    }

    #[test]
    fn tls12_prf() {
        for (hash, (secret, seed, out)) in
            [(Hash::Sha256, prf::SHA256), (Hash::Sha384, prf::SHA384)]
        {
            let expected = hex(out);
            let mut got = vec![0; expected.len()];
            prf12(
                table(),
                hash,
                &hex(secret),
                prf::LABEL,
                &hex(seed),
                &mut got,
            )
            .unwrap();
            assert_eq!(got, expected);
            got.truncate(7);
            prf12(
                table(),
                hash,
                &hex(secret),
                prf::LABEL,
                &hex(seed),
                &mut got,
            )
            .unwrap();
            assert_eq!(got, expected[..7]);
        }
    }

    #[test]
    fn wrong_lengths_and_versions_give_no_keys() {
        let t = table();
        let (gcm13, gcm12) = (suite(Version::Tls13, 0x1302), suite(Version::Tls12, 0xc02f));
        assert!(tls13(t, gcm13, &[1; 48]).is_some());
        assert!(tls13(t, gcm13, &[1; 32]).is_none());
        assert!(tls13(t, gcm12, &[1; 32]).is_none());
        assert!(next13(t, Hash::Sha256, &[1; 48]).is_none());
        assert!(tls12(t, gcm12, &[1; 48], &[0; 32], &[0; 32]).is_some());
        assert!(tls12(t, gcm12, &[1; 47], &[0; 32], &[0; 32]).is_none());
        assert!(tls12(t, gcm12, &[], &[0; 32], &[0; 32]).is_none());
        assert!(tls12(t, gcm13, &[1; 48], &[0; 32], &[0; 32]).is_none());
        assert!(TrafficKeys::new(gcm12, &[0; 16], &[0; 12]).is_none());
        assert!(TrafficKeys::new(gcm12, &[0; 32], &[0; 4]).is_none());
    }

    #[test]
    fn crypto_info_layouts() {
        let (key, seq) = ([0x4b; 32], 0x0102_0304_0506_0708);
        let iv: [u8; 12] = core::array::from_fn(|i| 0xa0 + i as u8);
        let explicit = [0xee; 8];
        let head =
            |version: u16, cipher: u16| [version.to_ne_bytes(), cipher.to_ne_bytes()].concat();
        let seq_bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        // iv, key, salt, rec_seq in the order of linux/tls.h, then zeros.
        for (version, id, cipher, iv_field, salt) in [
            (Version::Tls13, 0x1301, 51, &iv[4..], &iv[..4]),
            (Version::Tls13, 0x1302, 52, &iv[4..], &iv[..4]),
            (Version::Tls13, 0x1304, 53, &iv[4..], &iv[..4]),
            (Version::Tls13, 0x1303, 54, &iv[..], &[][..]),
            (Version::Tls12, 0xc02f, 51, &explicit[..], &iv[..4]),
            (Version::Tls12, 0xc030, 52, &explicit[..], &iv[..4]),
            (Version::Tls12, 0xc0ac, 53, &explicit[..], &iv[..4]),
            (Version::Tls12, 0xcca8, 54, &iv[..], &[][..]),
        ] {
            let suite = suite(version, id);
            let keys =
                TrafficKeys::new(suite, &key[..suite.key_len()], &iv[..suite.iv_len()]).unwrap();
            let info = keys.crypto_info(seq, explicit);
            let mut expected = head(version.wire(), cipher);
            for part in [iv_field, &key[..suite.key_len()], salt, &seq_bytes] {
                expected.extend_from_slice(part);
            }
            assert_eq!(info.size(), expected.len(), "{id:#06x}");
            expected.resize(56, 0);
            assert_eq!(&info.bytes()[..], expected, "{id:#06x}");
            let nonce = if suite.explicit_len() == 8 {
                explicit
            } else {
                [0; 8]
            };
            assert_eq!(info.position(), Some((seq, nonce)));
        }
    }
}
