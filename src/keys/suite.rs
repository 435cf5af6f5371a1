//! Which cipher suites can move into the kernel, and what each one means.
//!
//! Record protection is all that matters here: key exchange and
//! authentication are over when a suite gets to us, so every AEAD suite of
//! OpenSSL with a 16-byte tag is in. The short-tag `_CCM_8` suites and
//! AES-256-CCM are not: the kernel has no such transform.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// From `SSL_version`.
    pub const fn from_wire(version: u16) -> Option<Version> {
        match version {
            0x0303 => Some(Version::Tls12),
            0x0304 => Some(Version::Tls13),
            _ => None,
        }
    }

    pub const fn wire(self) -> u16 {
        match self {
            Version::Tls12 => 0x0303,
            Version::Tls13 => 0x0304,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    Aes128Ccm,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    pub const fn size(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suite {
    pub id: u16,
    pub version: Version,
    pub aead: Aead,
    pub hash: Hash,
}

/// Of every AEAD here.
pub const TAG_LEN: usize = 16;
/// Of every AEAD here, after the explicit part was added.
pub const NONCE_LEN: usize = 12;

impl Suite {
    /// `id`: the two bytes of the cipher suite (`SSL_CIPHER_get_protocol_id`).
    pub const fn from_id(version: Version, id: u16) -> Option<Suite> {
        let (aead, hash) = match version {
            Version::Tls13 => match id {
                0x1301 => (Aead::Aes128Gcm, Hash::Sha256),
                0x1302 => (Aead::Aes256Gcm, Hash::Sha384),
                0x1303 => (Aead::ChaCha20Poly1305, Hash::Sha256),
                0x1304 => (Aead::Aes128Ccm, Hash::Sha256),
                _ => return None,
            },
            Version::Tls12 => match id {
                // RSA, DHE-RSA, DHE-DSS, DH-anon, PSK, DHE-PSK, RSA-PSK,
                // ECDHE-ECDSA, ECDHE-RSA, ECDHE-PSK: RFC 5288, 5487, 5289, 8442.
                0x009c | 0x009e | 0x00a2 | 0x00a6 | 0x00a8 | 0x00aa | 0x00ac | 0xc02b | 0xc02f
                | 0xd001 => (Aead::Aes128Gcm, Hash::Sha256),
                0x009d | 0x009f | 0x00a3 | 0x00a7 | 0x00a9 | 0x00ab | 0x00ad | 0xc02c | 0xc030
                | 0xd002 => (Aead::Aes256Gcm, Hash::Sha384),
                // RSA, DHE-RSA, PSK, DHE-PSK, ECDHE-ECDSA, ECDHE-PSK: RFC 6655, 7251, 8442.
                0xc09c | 0xc09e | 0xc0a4 | 0xc0a6 | 0xc0ac | 0xd005 => {
                    (Aead::Aes128Ccm, Hash::Sha256)
                }
                // ECDHE-RSA, ECDHE-ECDSA, DHE-RSA, PSK, ECDHE-PSK, DHE-PSK, RSA-PSK: RFC 7905.
                0xcca8..=0xccae => (Aead::ChaCha20Poly1305, Hash::Sha256),
                _ => return None,
            },
        };
        Some(Suite {
            id,
            version,
            aead,
            hash,
        })
    }

    pub const fn key_len(self) -> usize {
        match self.aead {
            Aead::Aes128Gcm | Aead::Aes128Ccm => 16,
            Aead::Aes256Gcm | Aead::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of the nonce that come out of the key schedule.
    pub const fn iv_len(self) -> usize {
        NONCE_LEN - self.explicit_len()
    }

    /// Bytes of the nonce that each record carries.
    pub const fn explicit_len(self) -> usize {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm | Aead::Aes128Ccm) => 8,
            _ => 0,
        }
    }

    pub const fn tag_len(self) -> usize {
        TAG_LEN
    }

    /// What a record adds to its payload, header included.
    pub const fn overhead(self) -> usize {
        let inner_type = match self.version {
            Version::Tls12 => 0,
            Version::Tls13 => 1,
        };
        crate::record::header::LEN + self.explicit_len() + inner_type + TAG_LEN
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
    use super::*;

    #[test]
    fn tls13_suites() {
        let suite = |id| Suite::from_id(Version::Tls13, id).map(|s| (s.aead, s.hash));
        assert_eq!(suite(0x1301), Some((Aead::Aes128Gcm, Hash::Sha256)));
        assert_eq!(suite(0x1302), Some((Aead::Aes256Gcm, Hash::Sha384)));
        assert_eq!(suite(0x1303), Some((Aead::ChaCha20Poly1305, Hash::Sha256)));
        assert_eq!(suite(0x1304), Some((Aead::Aes128Ccm, Hash::Sha256)));
        assert_eq!(suite(0x1305), None, "CCM_8 has a short tag");
        assert_eq!(suite(0xc02f), None, "a TLS 1.2 suite");
        assert_eq!(Suite::from_id(Version::Tls12, 0x1301), None);
    }

    #[test]
    fn tls12_suites_without_an_aead_or_with_a_short_tag_are_refused() {
        // AES-CBC, RC4, 3DES; CCM_8; AES-256-CCM; ARIA and Camellia GCM.
        for id in [
            0x002f, 0xc013, 0xc014, 0x0005, 0x000a, 0xc0a0, 0xc0a1, 0xc0a8, 0xc0aa, 0xc0ae, 0xc0af,
            0xc09d, 0xc09f, 0xc0a5, 0xc0a7, 0xc0ad, 0xd003, 0xc05c, 0xc086, 0,
        ] {
            assert_eq!(Suite::from_id(Version::Tls12, id), None, "{id:#06x}");
        }
    }

    #[test]
    fn lengths() {
        let suite = |version, id| match Suite::from_id(version, id) {
            Some(s) => (s.key_len(), s.iv_len(), s.explicit_len(), s.overhead()),
            None => panic!("{id:#06x}"),
        };
        assert_eq!(suite(Version::Tls12, 0xc02f), (16, 4, 8, 29));
        assert_eq!(suite(Version::Tls12, 0xc030), (32, 4, 8, 29));
        assert_eq!(suite(Version::Tls12, 0xc0ac), (16, 4, 8, 29));
        assert_eq!(suite(Version::Tls12, 0xcca8), (32, 12, 0, 21));
        assert_eq!(suite(Version::Tls13, 0x1301), (16, 12, 0, 22));
        assert_eq!(suite(Version::Tls13, 0x1302), (32, 12, 0, 22));
        assert_eq!(suite(Version::Tls13, 0x1303), (32, 12, 0, 22));
    }
}
