//! Opening and sealing single records with the process's own libcrypto.
//!
//! A `RecordCipher` owns the keys and an `EVP_CIPHER_CTX` to open with, later
//! one to seal with, each set up once; a record costs a new nonce and the AEAD
//! itself. Nothing is allocated on that path. The caller's error queue stays
//! as it was.

use super::aead::{Aad, Context, Work};
use super::header::{self, APPLICATION_DATA, Header, LEGACY_VERSION};
use crate::keys::TrafficKeys;
use crate::keys::suite::{Suite, TAG_LEN, Version};
use crate::openssl::crypto::Table;

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
    keys: TrafficKeys,
    opener: Context,
    /// Made when it is first needed; most directions only ever open.
    sealer: Option<Context>,
}

impl RecordCipher {
    pub fn new(crypto: &'static Table, keys: &TrafficKeys) -> Option<Self> {
        let keys = keys.duplicate();
        let opener = Context::new(crypto, &keys, Work::Open)?;
        Some(RecordCipher {
            crypto,
            keys,
            opener,
            sealer: None,
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
        if let Err(error) = self.opener.decrypt(&nonce, &aad, sealed, tag, out) {
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
        if self.sealer.is_none() {
            self.sealer = Context::new(self.crypto, &self.keys, Work::Seal);
        }
        if self
            .sealer
            .as_mut()?
            .encrypt(&nonce, &aad, text, tag)
            .is_none()
        {
            out.fill(0);
            return None;
        }
        Some(total)
    }
}

/// RFC 8446 §5.2: the header itself. RFC 5246 §6.2.3.3: sequence number, type,
/// version and the length of the *plaintext*.
fn aad(version: Version, seq: u64, head: Header, payload_len: u16) -> Aad {
    let mut aad = Aad::new();
    match version {
        Version::Tls13 => aad.push(&head.bytes()),
        Version::Tls12 => {
            aad.push(&seq.to_be_bytes());
            aad.push(
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

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::*;
    use crate::keys::vectors::{SAMPLES, Sample, hex, rfc8448};
    use crate::keys::{Label, Version, keylog, traffic};
    use crate::openssl::crypto::tests::table;
    use crate::record::header::{ALERT, HANDSHAKE};

    const ROOM: usize = 1 << 15;

    /// The first sequence number that opens `record`: the tag proves key and number
    /// together.
    fn prove(
        cipher: &mut RecordCipher,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<(u64, Opened), OpenError> {
        for seq in 0..PROOF_SPAN {
            match cipher.open(seq, record, out) {
                Err(OpenError::BadTag) => {}
                other => return other.map(|opened| (seq, opened)),
            }
        }
        Err(OpenError::BadTag)
    }

    fn cipher(keys: TrafficKeys) -> RecordCipher {
        RecordCipher::new(table(), &keys).unwrap()
    }

    /// client handshake, server handshake, client data, server data
    fn ciphers(sample: &Sample) -> [RecordCipher; 4] {
        let suite = sample.suite();
        let lines: Vec<_> = sample
            .keylog
            .iter()
            .map(|l| keylog::parse(l.as_bytes()).unwrap())
            .collect();
        let find = |label| lines.iter().find(|(l, ..)| *l == label).unwrap();
        match sample.version {
            Version::Tls12 => {
                let (_, client_random, master) = find(Label::Master12);
                let server_random = hex(sample.server_random).try_into().unwrap();
                let pair = || {
                    traffic::tls12(
                        table(),
                        suite,
                        master.as_slice(),
                        client_random,
                        &server_random,
                    )
                    .unwrap()
                };
                let (a, b) = (pair(), pair());
                [a.client, a.server, b.client, b.server].map(cipher)
            }
            Version::Tls13 => [
                Label::ClientHandshake,
                Label::ServerHandshake,
                Label::ClientTraffic(Some(0)),
                Label::ServerTraffic(Some(0)),
            ]
            .map(|label| cipher(traffic::tls13(table(), suite, find(label).2.as_slice()).unwrap())),
        }
    }

    /// One cipher per suite, with made-up keys.
    fn each() -> impl Iterator<Item = RecordCipher> {
        SAMPLES.iter().map(|sample| {
            let suite = sample.suite();
            let (key, iv) = ([7; 32], [9; 12]);
            cipher(TrafficKeys::new(suite, &key[..suite.key_len()], &iv[..suite.iv_len()]).unwrap())
        })
    }

    #[test]
    fn rfc8448_records() {
        let suite = Suite::from_id(Version::Tls13, 0x1301).unwrap();
        let of = |secret| cipher(traffic::tls13(table(), suite, &hex(secret)).unwrap());
        let mut sides = [rfc8448::CLIENT_TRAFFIC, rfc8448::SERVER_TRAFFIC].map(of);
        let mut handshake = of(rfc8448::CLIENT_HANDSHAKE);
        let data: Vec<u8> = (0..50).collect();
        let close = vec![1, 0];
        for (side, seq, record, kind, text) in [
            (0, 0, rfc8448::CLIENT_DATA, APPLICATION_DATA, &data),
            (0, 1, rfc8448::CLIENT_ALERT, ALERT, &close),
            (1, 1, rfc8448::SERVER_DATA, APPLICATION_DATA, &data),
            (1, 2, rfc8448::SERVER_ALERT, ALERT, &close),
        ] {
            let (cipher, record, mut out) = (&mut sides[side], hex(record), vec![0; ROOM]);
            let opened = cipher.open(seq, &record, &mut out).unwrap();
            assert_eq!((opened.kind, opened.padding), (kind, 0));
            assert_eq!(&out[..opened.len], text);
            let len = cipher.seal(seq, [0; 8], kind, text, &mut out).unwrap();
            assert_eq!(out[..len], record);
        }
        let mut out = vec![0; ROOM];
        let (seq, opened) =
            prove(&mut handshake, &hex(rfc8448::CLIENT_FINISHED), &mut out).unwrap();
        assert_eq!((seq, opened.kind, opened.len), (0, HANDSHAKE, 36));
        assert_eq!(out[..4], [20, 0, 0, 32]);
    }

    #[test]
    fn records_of_two_other_stacks_open_and_seal_to_the_same_bytes() {
        for sample in &SAMPLES {
            let [mut ch, mut sh, mut cd, mut sd] = ciphers(sample);
            let tls13 = sample.version == Version::Tls13;
            let mut out = vec![0; ROOM];
            // Finished. In TLS 1.3 GnuTLS sends one record per message, and
            // OpenSSL an empty Certificate first.
            for (cipher, record, at) in [
                (&mut ch, sample.client_finished, u64::from(tls13)),
                (&mut sh, sample.server_finished, if tls13 { 4 } else { 0 }),
            ] {
                let (seq, opened) = prove(cipher, &hex(record), &mut out)
                    .unwrap_or_else(|e| panic!("{:#06x} {e:?}", sample.id));
                assert_eq!(
                    (seq, opened.kind, out[0]),
                    (at, HANDSHAKE, 20),
                    "{:#06x}",
                    sample.id
                );
            }
            for (cipher, record, at) in [
                (&mut cd, sample.client_data, u64::from(!tls13)),
                (&mut sd, sample.server_data, sample.server_seq),
            ] {
                let record = hex(record);
                let (seq, opened) = prove(cipher, &record, &mut out).unwrap();
                assert_eq!(
                    (seq, opened.kind),
                    (at, APPLICATION_DATA),
                    "{:#06x}",
                    sample.id
                );
                assert_eq!(&out[..opened.len], sample.text.as_bytes());
                let len = cipher
                    .seal(
                        seq,
                        opened.explicit,
                        opened.kind,
                        sample.text.as_bytes(),
                        &mut out,
                    )
                    .unwrap();
                assert_eq!(out[..len], record, "{:#06x}", sample.id);
                assert_eq!(len, sample.text.len() + cipher.suite().overhead());
            }
        }
    }

    #[test]
    fn every_changed_byte_is_noticed_and_no_plaintext_leaks() {
        for sample in &SAMPLES {
            let [_, _, mut cipher, mut other] = ciphers(sample);
            let good = hex(sample.client_data);
            let seq = u64::from(sample.version == Version::Tls12);
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 0x20 >> (i % 5);
                let mut out = vec![0; ROOM];
                assert!(
                    cipher.open(seq, &bad, &mut out).is_err(),
                    "{:#06x} at {i}",
                    sample.id
                );
                assert!(out.iter().all(|b| *b == 0), "{:#06x} at {i}", sample.id);
                let cut = cipher.open(seq, &good[..i], &mut out);
                assert_eq!(
                    cut,
                    Err(OpenError::Malformed),
                    "{:#06x} cut at {i}",
                    sample.id
                );
            }
            let mut out = vec![0; ROOM];
            assert_eq!(
                cipher.open(seq + 1, &good, &mut out),
                Err(OpenError::BadTag)
            );
            assert_eq!(prove(&mut other, &good, &mut out), Err(OpenError::BadTag));
            let longer = [&good[..], &[0]].concat();
            assert_eq!(
                cipher.open(seq, &longer, &mut out),
                Err(OpenError::Malformed)
            );
            assert!(
                cipher.open(seq, &good, &mut out).is_ok(),
                "failures left no trace"
            );
        }
    }

    #[test]
    fn sizes_from_nothing_to_a_full_record() {
        for mut cipher in each() {
            let (mut record, mut out) = (vec![0; ROOM], vec![0; ROOM]);
            for (seq, size) in [0, 1, 15, 16, 17, 4096, header::MAX_PAYLOAD]
                .into_iter()
                .enumerate()
            {
                let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
                let seq = seq as u64 + u64::from(u32::MAX);
                let len = cipher
                    .seal(seq, seq.to_be_bytes(), 23, &payload, &mut record)
                    .unwrap();
                assert_eq!(len, size + cipher.suite().overhead());
                let opened = cipher.open(seq, &record[..len], &mut out).unwrap();
                assert_eq!((opened.kind, opened.len, opened.padding), (23, size, 0));
                assert_eq!(out[..size], payload);
                let exact = cipher.seal(seq, [1; 8], 23, &payload, &mut record[..len]);
                assert_eq!(exact, Some(len));
                assert_eq!(
                    cipher.seal(seq, [1; 8], 23, &payload, &mut record[..len - 1]),
                    None
                );
            }
            let too_long = vec![0; header::MAX_PAYLOAD + 1];
            assert_eq!(cipher.seal(0, [0; 8], 23, &too_long, &mut record), None);
            let len = cipher.seal(3, [3; 8], 21, &[1, 0], &mut record).unwrap();
            let got = cipher.open(3, &record[..len], &mut [0; 1]);
            assert_eq!(got, Err(OpenError::NoRoom));
        }
    }

    #[test]
    fn tls13_padding_is_stripped_and_reported() {
        for mut cipher in each().filter(|c| c.suite().version == Version::Tls13) {
            let (mut record, mut out) = (vec![0; ROOM], vec![0; ROOM]);
            // Type 0 after "hi", the real type and zeros is what padding is.
            let len = cipher
                .seal(5, [0; 8], 0, b"hi\x17\0\0\0", &mut record)
                .unwrap();
            let opened = cipher.open(5, &record[..len], &mut out).unwrap();
            assert_eq!((opened.kind, opened.len, opened.padding), (23, 2, 4));
            let len = cipher.seal(6, [0; 8], 0, &[0; 9], &mut record).unwrap();
            let none = cipher.open(6, &record[..len], &mut out);
            assert_eq!(none, Err(OpenError::Malformed), "no type at all");
            let clear = [20, 3, 3, 0, 1, 1];
            assert_eq!(cipher.open(7, &clear, &mut out), Err(OpenError::Malformed));
        }
    }

    #[test]
    fn failures_leave_the_error_queue_alone() {
        let t = table();
        // SAFETY: the thread's own queue.
        unsafe { (t.ERR_clear_error)() };
        for mut cipher in each() {
            let (mut record, mut out) = (vec![0; ROOM], vec![0; ROOM]);
            let len = cipher.seal(0, [0; 8], 23, b"data", &mut record).unwrap();
            record[len - 1] ^= 1;
            assert_eq!(
                cipher.open(0, &record[..len], &mut out),
                Err(OpenError::BadTag)
            );
            // SAFETY: as above.
            assert_eq!(unsafe { (t.ERR_peek_error)() }, 0);
        }
    }
}
