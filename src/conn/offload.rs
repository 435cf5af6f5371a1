//! Prove, then offload.
//!
//! Tried after every outermost SSL call until both directions are settled. Keys
//! are installed only when the last record that OpenSSL itself sealed (tx) or
//! accepted (rx) opens with them: the tag proves key and sequence number
//! together. Where no such record can exist yet (all of TLS 1.3 receiving), the
//! peer's Finished must open under the handshake secret, and the kernel's first
//! open is the proof, because a bad tag there consumes nothing.
//!
//! Any doubt leaves the direction with OpenSSL, and nothing on the wire changes.

use core::sync::atomic::Ordering;

use super::{Connection, Dir, Half, Lane, mark};
use crate::backend::{Backend, alg};
use crate::config::{self, config};
use crate::keys::{Suite, TrafficKeys, Version};
use crate::openssl::{self, SSL_RECEIVED_SHUTDOWN, SSL_SENT_SHUTDOWN, ask::Live};
use crate::planted::{self, Plant};
use crate::process::{self, Phase};
use crate::reason::Reason;
use crate::record::messages::FINISHED;
use crate::{boundary, errno};

use super::proof::{keys12, prove, suite_of};
use super::rx::{DATA, HANDSHAKE};

/// After so many records that no key opens, the direction stays with OpenSSL.
const PATIENCE: u8 = 8;
/// From here on openssl.cnf can pad records without any call that we could hook.
const PADDING_BY_CONFIG: u64 = 0x3040_0000;

/// From here on each epoch has a record layer of its own.
const RECORD_LAYERS: u64 = 0x3020_0000;

/// Are records as long as split_send_fragment says, which SSL_set_max_send_fragment makes
/// smaller and never larger again? So from 3.0 on; in 1.1.1 the size that was set last counts.
pub fn records_only_shrink(version: u64) -> bool {
    version >= 0x3000_0000
}

/// A direction that is ready to go.
pub(super) struct Ready {
    pub keys: TrafficKeys,
    /// Number of the next record.
    pub seq: u64,
    /// TLS 1.2 AES: explicit nonce of the next record we send.
    pub nonce: [u8; 8],
    /// The stream's position when the proof was made.
    pub at: (u64, u64),
}

enum Verdict {
    Ready(Ready),
    /// Ask again after the next SSL call.
    Later(Reason),
    Never(Reason),
}

use Verdict::{Later, Never};

impl Connection {
    /// Called when an outermost SSL call of this connection returns. Between early data and
    /// the handshake proper libssl is not in init either, and has not finished: its secrets
    /// are still to come.
    pub fn try_offload(&self, live: &Live) {
        if (self.rx.lane() == Lane::Watch || self.tx.lane() == Lane::Watch) && live.is_finished() {
            // One thread at a time; the other's next call asks again.
            if self.settling.try_take() {
                errno::preserve(|| self.settle(live));
                self.settling.release();
            }
        }
    }

    /// The handshake is complete.
    fn settle(&self, live: &Live) {
        self.identify(live);
        if let Some(reason) = self.ruled_out() {
            return self.refuse(reason);
        }
        let suite = match suite_of(live) {
            Ok(suite) => planted::suite(suite),
            Err(reason) => return self.refuse(reason),
        };
        if let Err(e) = alg().usable(suite.aead) {
            self.rx.refused_errno.store(e, Ordering::Relaxed);
            return self.refuse(Reason::BackendUnavailable);
        }
        if let Some(mut secrets) = self.secrets.lock() {
            secrets.suite = Some(suite);
        }
        self.look_at_bios(live);
        let tx = self.weigh(Dir::Tx, live, suite);
        let rx = self.weigh(Dir::Rx, live, suite);
        self.forget_copies();
        if tx.is_none() && rx.is_none() {
            return;
        }
        let tx_max = self.fragment(live);
        self.install(suite, tx, rx, tx_max);
        if self.rx.lane() != Lane::Watch
            && self.tx.lane() != Lane::Watch
            && let Some(mut secrets) = self.secrets.lock()
        {
            secrets.wipe_handshake();
        }
    }

    fn identify(&self, live: &Live) {
        let Some(mut identity) = self.identity.lock() else {
            return;
        };
        let (table, s) = (live.table, live.ptr());
        identity.role = if live.is_server() { "server" } else { "client" };
        // SAFETY: the object is alive; the strings are its and the library's own.
        unsafe {
            identity.version = match live.version() {
                0x0304 => "TLSv1.3",
                0x0303 => "TLSv1.2",
                0x0302 => "TLSv1.1",
                0x0301 => "TLSv1",
                _ => "other",
            };
            let cipher = (table.SSL_get_current_cipher)(s);
            if !cipher.is_null() {
                let name = (table.SSL_CIPHER_get_name)(cipher);
                if !name.is_null() {
                    identity.cipher = core::ffi::CStr::from_ptr(name).to_bytes();
                }
            }
            let sni = (table.SSL_get_servername)(s, 0);
            if !sni.is_null() {
                let sni = core::ffi::CStr::from_ptr(sni).to_bytes();
                let n = sni.len().min(identity.sni.len());
                if let (Some(to), Some(from)) = (identity.sni.get_mut(..n), sni.get(..n)) {
                    to.copy_from_slice(from);
                }
                identity.sni_len = n as u8;
            }
        }
    }

    /// A direction that stays with OpenSSL needs no copy of its records.
    fn forget_copies(&self) {
        if self.rx.lane() == Lane::Raw
            && let Some(mut side) = self.read.lock()
        {
            side.trace.forget();
        }
        if self.tx.lane() == Lane::Raw
            && let Some(mut side) = self.write.lock()
        {
            side.trace.forget();
        }
    }

    fn ruled_out(&self) -> Option<Reason> {
        if process::phase() != Phase::Running {
            return Some(Reason::Exiting);
        }
        if boundary::broken() {
            return Some(Reason::Panic);
        }
        if config().backend == config::Backend::Off {
            return Some(Reason::Disabled);
        }
        if self.is(mark::OPENSSL_KTLS) {
            return Some(Reason::OpensslKtls);
        }
        if self.is(mark::SSL_BIO) {
            return Some(Reason::SslBio);
        }
        if self.is(mark::HIDDEN) {
            return Some(Reason::OwnBioHidden);
        }
        if self.is(mark::TWO_SOCKETS) {
            return Some(Reason::TwoSockets);
        }
        None
    }

    fn weigh(&self, dir: Dir, live: &Live, suite: Suite) -> Option<Ready> {
        let half = self.half(dir);
        if half.lane() != Lane::Watch {
            return None;
        }
        let over = match dir {
            Dir::Tx => SSL_SENT_SHUTDOWN,
            Dir::Rx => SSL_RECEIVED_SHUTDOWN,
        };
        let verdict = match dir {
            // What follows is clear text, and close_notify would be a fine proof.
            _ if live.shutdown_state() & over != 0 => Never(Reason::CloseNotify),
            Dir::Tx => self.weigh_tx(live, suite),
            Dir::Rx => self.weigh_rx(live, suite),
        };
        match verdict {
            Verdict::Ready(ready) => return Some(ready),
            Later(reason) => half.reason.set(reason),
            Never(reason) => half.refuse(reason),
        }
        None
    }

    /// What both directions ask first.
    fn gate(&self, half: &Half) -> Option<Verdict> {
        if half.fd.load(Ordering::Acquire) < 0 {
            let other = if self.is(mark::NOT_TCP) {
                Reason::NotTcp
            } else {
                Reason::NoFd
            };
            return Some(Never(other));
        }
        if !half.level() {
            return Some(Later(Reason::BytesParked));
        }
        None
    }

    fn weigh_tx(&self, live: &Live, suite: Suite) -> Verdict {
        if !config().tx {
            return Never(Reason::Disabled);
        }
        if self.is(mark::PADDING) {
            return Never(Reason::RecordPadding);
        }
        if let Some(verdict) = self.gate(&self.tx) {
            return verdict;
        }
        let at = self.tx.position();
        let Some(mut side) = self.write.lock() else {
            return Later(Reason::Pending);
        };
        if side.trace.broken() {
            return Never(Reason::StreamMismatch);
        }
        if !side.trace.at_border() {
            return Later(Reason::BytesParked);
        }
        if !self.tx.was_kernel.load(Ordering::Acquire) && side.carried != side.produced {
            return Never(Reason::StreamMismatch);
        }
        let generation = self.generation(Dir::Tx, live);
        let epoch = self.tx.epoch.load(Ordering::Relaxed);
        // Still the Finished that unproved() met: a program that only receives asks at every read.
        if generation == 0 && epoch != 0 && side.trace.records() + 1 == epoch {
            return Later(Reason::Pending);
        }
        let Some(keys) = planted::keys(self.keys(Dir::Tx, live, suite), true) else {
            return Never(Reason::NoSecrets);
        };
        let Some(found) = prove(live.table, &keys, &mut side.trace, generation, epoch) else {
            drop(side);
            return self.unproved(Dir::Tx, live, suite);
        };
        if found.padding != 0 {
            return Never(Reason::RecordPadding);
        }
        if suite.version == Version::Tls13 && found.ends_the_key() {
            return self.outlived(Dir::Tx, live);
        }
        if live.table.crypto.version() >= PADDING_BY_CONFIG
            && suite.version == Version::Tls13
            && found.kind != DATA
        {
            return Later(Reason::Pending);
        }
        let nonce = u64::from_be_bytes(found.explicit)
            .wrapping_add(u64::from(
                !(planted::is(Plant::ReuseNonce) && self.tx.was_kernel.load(Ordering::Acquire)),
            ))
            .to_be_bytes();
        Verdict::Ready(Ready {
            keys,
            seq: found.seq + 1,
            nonce,
            at,
        })
    }

    fn weigh_rx(&self, live: &Live, suite: Suite) -> Verdict {
        if !config().rx {
            return Never(Reason::Disabled);
        }
        if let Some(verdict) = self.gate(&self.rx) {
            return verdict;
        }
        let at = self.rx.position();
        if self.rx.wire_busy.load(Ordering::Acquire) {
            return Later(Reason::BytesParked);
        }
        // From 3.2 on a record that was read ahead across the change of keys is
        // in no getter's sight until a read has found nothing more.
        if live.table.crypto.version() >= RECORD_LAYERS
            && live.reads_ahead()
            && !self.is(mark::DRAINED)
        {
            return Later(Reason::BytesParked);
        }
        if live.has_pending() || self.held.load(Ordering::Acquire) != 0 {
            return Later(Reason::BytesParked);
        }
        let Some(mut side) = self.read.lock() else {
            return Later(Reason::Pending);
        };
        if side.trace.broken() {
            return Never(Reason::StreamMismatch);
        }
        if !side.trace.at_border() {
            return Later(Reason::BytesParked);
        }
        let Some(keys) = planted::keys(self.keys(Dir::Rx, live, suite), true) else {
            return Never(Reason::NoSecrets);
        };
        let generation = self.generation(Dir::Rx, live);
        if let Some(found) = prove(live.table, &keys, &mut side.trace, generation, 0) {
            if suite.version == Version::Tls13 && found.ends_the_key() {
                return self.outlived(Dir::Rx, live);
            }
            return Verdict::Ready(Ready {
                keys,
                seq: found.seq + 1,
                nonce: [0; 8],
                at,
            });
        }
        if suite.version == Version::Tls13 && generation == 0 {
            let finished = self
                .handshake_keys(Dir::Rx, live, suite)
                .and_then(|hs| prove(live.table, &hs, &mut side.trace, 0, 0));
            if finished
                .is_some_and(|found| found.kind == HANDSHAKE && found.first == Some(FINISHED))
            {
                return Verdict::Ready(Ready {
                    keys,
                    seq: 0,
                    nonce: [0; 8],
                    at,
                });
            }
        }
        drop(side);
        self.unproved(Dir::Rx, live, suite)
    }

    /// The last record under these keys was a KeyUpdate, and OpenSSL has not told of the
    /// next secret: 1.1.1 never does. It follows from this one; a record proves it.
    fn outlived(&self, dir: Dir, live: &Live) -> Verdict {
        if let Some(mut secrets) = self.secrets.lock() {
            secrets.advance13(live.table.crypto, live.is_server(), dir);
        }
        Later(Reason::Pending)
    }

    /// No record opened: is that because there is none yet?
    fn unproved(&self, dir: Dir, live: &Live, suite: Suite) -> Verdict {
        if dir == Dir::Tx && suite.version == Version::Tls13 {
            let own_finished = self.handshake_keys(dir, live, suite).and_then(|hs| {
                let mut side = self.write.lock()?;
                prove(live.table, &hs, &mut side.trace, 0, 0)?;
                Some(side.trace.records())
            });
            if let Some(before) = own_finished {
                // Spares the proof of a large first record its wrong guesses.
                self.tx.epoch.store(before + 1, Ordering::Relaxed);
                return Later(Reason::Pending);
            }
        }
        if self.half(dir).failed_proofs.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
            return Never(Reason::ProofFailed);
        }
        Later(Reason::ProofFailed)
    }

    fn handshake_keys(&self, dir: Dir, live: &Live, suite: Suite) -> Option<TrafficKeys> {
        let server = live.is_server();
        let secrets = self.secrets.lock()?;
        planted::keys(
            secrets.handshake13(live.table.crypto, suite, server, dir),
            false,
        )
    }

    fn generation(&self, dir: Dir, live: &Live) -> u32 {
        self.secrets
            .lock()
            .map_or(0, |secrets| secrets.generation(live.is_server(), dir))
    }

    fn keys(&self, dir: Dir, live: &Live, suite: Suite) -> Option<TrafficKeys> {
        let server = live.is_server();
        if suite.version == Version::Tls13 {
            return self
                .secrets
                .lock()?
                .keys13(live.table.crypto, suite, server, dir);
        }
        let pair = keys12(live, suite)?;
        Some(if server == (dir == Dir::Tx) {
            pair.server
        } else {
            pair.client
        })
    }

    /// Plaintext bytes per record: what the peer asked for by max_fragment_length (RFC
    /// 6066 §4), or what the program set: the smaller one, but in 1.1.1 the peer's, even if
    /// it is larger.
    pub fn fragment(&self, live: &Live) -> u16 {
        let own = self.max_fragment.load(Ordering::Relaxed);
        let table = live.table;
        // SAFETY: the object is alive; the session belongs to it.
        let peer = unsafe {
            let session = (table.SSL_get_session)(live.ptr());
            if session.is_null() {
                0
            } else {
                (table.SSL_SESSION_get_max_fragment_length)(session)
            }
        };
        let peer = if (1..=4).contains(&peer) {
            256u16 << peer
        } else {
            0
        };
        match (own, peer) {
            (n, 0) | (0, n) => n,
            _ if records_only_shrink(table.crypto.version()) => own.min(peer),
            _ => peer,
        }
    }

    /// Which BIOs does the program use? Decides how EAGAIN is met (R4–R6).
    fn look_at_bios(&self, live: &Live) {
        if self.is(mark::BIOS_KNOWN) {
            return;
        }
        let crypto = live.table.crypto;
        let (rbio, wbio) = (live.rbio(), live.wbio());
        // SAFETY: the object is alive, and so are its BIOs.
        let (read, write, safe) = unsafe {
            (
                (crypto.BIO_method_type)(rbio),
                (crypto.BIO_method_type)(wbio),
                crypto.is_safe_bio(rbio),
            )
        };
        if read != openssl::BIO_TYPE_SOCKET && !safe {
            self.mark(mark::WARY_READ);
        }
        if write != openssl::BIO_TYPE_SOCKET {
            self.mark(mark::OWN_WBIO);
        }
        self.mark(mark::BIOS_KNOWN);
    }
}
