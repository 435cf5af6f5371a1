//! How many records one key may protect.
//!
//! RFC 9846 §5.5 allows AES-GCM 2^24.5 full-size records under one key; nobody else
//! counts them once the kernel seals. Shortly before that number the shim asks
//! OpenSSL for a KeyUpdate, which re-keys the kernel on its way through the virtual
//! wire. TLS 1.2 has no such message, and plain OpenSSL goes on: there the user
//! chooses (`KTLSSHIM_TLS12_LIMIT`). ChaCha20-Poly1305's limit lies beyond the
//! sequence number's range.

use core::sync::atomic::Ordering;

use crate::config::{AtLimit, config};
use crate::conn::{Connection, mark};
use crate::keys::{Aead, Version};
use crate::openssl::SSL_KEY_UPDATE_NOT_REQUESTED;

use super::call::{AtFd, Call};

/// Called before a fast write. Afterwards the direction may be OpenSSL's for the
/// next record.
pub fn mind(call: &Call, conn: &Connection) {
    if conn.tx.key_records.load(Ordering::Relaxed) < config().record_limit {
        return;
    }
    let Some(suite) = conn.secrets.lock().and_then(|secrets| secrets.suite) else {
        return;
    };
    if suite.aead == Aead::ChaCha20Poly1305 {
        return;
    }
    let s = call.ptr();
    if suite.version == Version::Tls13 {
        // SAFETY: the object is alive; a call that the program may make any time.
        call.around(AtFd::default(), |t| unsafe {
            (t.SSL_key_update)(s, SSL_KEY_UPDATE_NOT_REQUESTED)
        });
        return;
    }
    if conn.is(mark::LIMIT_SEEN) {
        return;
    }
    conn.mark(mark::LIMIT_SEEN);
    match config().tls12_limit {
        AtLimit::Log => conn.mark(mark::OVER_LIMIT),
        AtLimit::Renegotiate => {
            // SAFETY: as above.
            call.around(AtFd::default(), |t| unsafe { (t.SSL_renegotiate)(s) });
        }
        AtLimit::Close => {
            // SAFETY: as above. Further writes fail in OpenSSL's own words.
            call.around(AtFd::default(), |t| unsafe { (t.SSL_shutdown)(s) });
        }
    }
}
