//! Faults on purpose, so that the tests can show that they would notice.
//!
//! With the cargo feature `planted` the variable `KTLSSHIM_PLANT` names one fault of
//! this list, and the shim commits it. Without the feature, which no shipped build has
//! (an optimised one does not even compile with it), `is` is a constant `false` and
//! nothing of this is left. Owns no memory.

use crate::backend::Dir;
use crate::keys::TrafficKeys;
use crate::keys::suite::{Aead, Suite};

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` breaks the shim on purpose: never in a release build");

macro_rules! plants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Plant {
            $($(#[$doc])* $name,)*
        }

        impl Plant {
            pub fn named(name: &[u8]) -> Option<Plant> {
                $(if name == $text.as_bytes() {
                    return Some(Plant::$name);
                })*
                None
            }
        }
    };
}

plants! {
    /// A received KeyUpdate leaves the kernel with the old key.
    SkipRekeyRx = "skip-rekey-rx",
    /// Our own KeyUpdate does.
    SkipRekeyTx = "skip-rekey-tx",
    /// Records are re-sealed for OpenSSL under the number after the right one.
    WireSeqPlusOne = "wire-seq-plus-one",
    /// The placeholder of a full socket goes to the peer as data.
    KeepPlaceholder = "keep-placeholder",
    /// A repeated write begins at its first byte again.
    ForgetWriteDone = "forget-write-done",
    /// What the kernel had taken off the TCP queue is lost with a detach.
    LoseStaged = "lose-staged",
    /// The last byte of what a small read left over is lost.
    DropHeld = "drop-held",
    /// A re-attach begins with the explicit nonce that was used last.
    ReuseNonce = "reuse-nonce",
    /// The kernel keeps sending for one record after our ChangeCipherSpec.
    DetachLate = "detach-late",
    /// The peer's close_notify does not end the fast lane.
    IgnoreReceivedShutdown = "ignore-received-shutdown",
    /// A reset connection looks like one that has ended.
    ResetAsEof = "reset-as-eof",
    /// Data overtakes a KeyUpdate that OpenSSL is to send first.
    FastWithKeyUpdatePending = "fast-with-keyupdate-pending",
    /// A peek takes what it shows.
    PeekConsumes = "peek-consumes",
    /// Data overtakes bytes that are between OpenSSL and the fd.
    FastWhileWireBusy = "fast-while-wire-busy",
    /// Before the proof: one bit of each derived key is wrong.
    WrongKey = "wrong-key",
    /// ... of the application keys only, and the peer's Finished still proves.
    WrongTrafficKey = "wrong-traffic-key",
    /// Before the proof: the record numbers are.
    WrongSeq = "wrong-seq",
    /// Before the proof: the cipher is another one with keys of that length.
    WrongCipher = "wrong-cipher",
}

/// Is this the fault to commit?
#[cfg(feature = "planted")]
pub fn is(plant: Plant) -> bool {
    crate::config::config().plant == Some(plant)
}

#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Plant) -> bool {
    false
}

/// The fault of this kind for one direction.
pub fn skips_rekey(dir: Dir) -> bool {
    is(match dir {
        Dir::Rx => Plant::SkipRekeyRx,
        Dir::Tx => Plant::SkipRekeyTx,
    })
}

/// The suite as the shim believes it to be.
pub fn suite(mut suite: Suite) -> Suite {
    if is(Plant::WrongCipher) {
        suite.aead = match suite.aead {
            Aead::Aes128Gcm => Aead::Aes128Ccm,
            Aead::Aes128Ccm => Aead::Aes128Gcm,
            Aead::Aes256Gcm => Aead::ChaCha20Poly1305,
            Aead::ChaCha20Poly1305 => Aead::Aes256Gcm,
        };
    }
    suite
}

/// The number under which the proof opens a record.
pub fn seq(seq: u64) -> u64 {
    // Farther off than any number that the proof would try.
    seq.wrapping_add(u64::from(is(Plant::WrongSeq)) << 32)
}

/// Keys as they were derived; `traffic` for those of application data.
pub fn keys(keys: Option<TrafficKeys>, traffic: bool) -> Option<TrafficKeys> {
    let wrong = is(Plant::WrongKey) || traffic && is(Plant::WrongTrafficKey);
    if !wrong {
        return keys;
    }
    let keys = keys?;
    let mut wrong = [0; 32];
    let wrong = wrong.get_mut(..keys.key().len())?;
    wrong.copy_from_slice(keys.key());
    *wrong.first_mut()? ^= 1;
    TrafficKeys::new(keys.suite(), wrong, keys.iv())
}
