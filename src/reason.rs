//! Why a direction of a connection is, or is not, in the kernel. Nobody else
//! tells the user, so every connection has one reason per direction.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

macro_rules! reasons {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// One per direction of a connection; fits into an atomic byte.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Reason { $($name),* }

        impl Reason {
            const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The code that logs carry.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $code),* }
            }
            /// A sentence for people.
            pub const fn explain(self) -> &'static str {
                match self { $(Reason::$name => $text),* }
            }
        }
    };
}

reasons! {
    Pending = "pending", "The handshake has not ended yet, or the keys could not be proved yet.";
    Offloaded = "offloaded", "The kernel handles the records.";
    Disabled = "disabled", "The shim is switched off for this program or this direction.";
    BackendUnavailable = "backend-unavailable", "The kernel refuses the TLS socket: the module is missing, or this process may not use it.";
    AttachRefused = "attach-refused", "The kernel's TLS socket is there, but it refused this TCP socket.";
    NotTcp = "not-tcp", "The records do not travel on a TCP socket.";
    NoFd = "no-fd", "The program moves the records itself (memory BIO), no descriptor was seen.";
    TwoSockets = "two-sockets", "Records of this connection were seen on more than one descriptor.";
    OwnBioHidden = "own-bio-hidden", "The program's own I/O functions reach libc past the shim.";
    SslBio = "ssl-bio", "The program moves its data through a BIO of type SSL, past the functions that the shim serves.";
    NotTls = "not-tls", "The protocol version is neither TLS 1.2 nor TLS 1.3.";
    UnknownCipher = "unknown-cipher", "The kernel socket does not know this cipher suite.";
    NoSecrets = "no-secrets", "The connection's secrets were not seen.";
    ProofFailed = "proof-failed", "The keys did not open the last record, so nothing was offloaded.";
    BytesParked = "bytes-parked", "Bytes of the stream are held in a buffer between OpenSSL and the socket.";
    StreamMismatch = "stream-mismatch", "The bytes on the socket are not the bytes that OpenSSL saw.";
    RecordPadding = "record-padding", "The program pads its records, which the kernel would drop.";
    OpensslKtls = "openssl-ktls", "OpenSSL's own kernel TLS is active.";
    CloseNotify = "close-notify", "The direction was closed in order.";
    Renegotiating = "renegotiating", "A renegotiation runs in userspace.";
    BadRecord = "bad-record", "A record failed its check, and OpenSSL reports it.";
    Detached = "detached", "The direction was handed back to OpenSSL.";
    Abandoned = "abandoned", "A thread was cancelled in a blocked call of this connection, or jumped out of it.";
    Stranger = "stranger", "Somebody used the TCP socket past the shim.";
    TableFull = "table-full", "Too many connections or descriptors for the shim's tables.";
    Exiting = "exiting", "The process was about to end.";
    Panic = "panic", "The shim failed internally and has stopped to offload.";
}

impl Reason {
    /// Any byte that is not a reason reads as `Pending`.
    pub fn from_u8(raw: u8) -> Reason {
        Reason::ALL
            .get(raw as usize)
            .copied()
            .unwrap_or(Reason::Pending)
    }

    pub const fn is_offloaded(self) -> bool {
        matches!(self, Reason::Offloaded)
    }
}

/// A reason that several threads read while one changes it.
pub struct AtomicReason(AtomicU8);

impl AtomicReason {
    pub const fn new(reason: Reason) -> Self {
        AtomicReason(AtomicU8::new(reason as u8))
    }
    pub fn get(&self) -> Reason {
        Reason::from_u8(self.0.load(Relaxed))
    }
    pub fn set(&self, reason: Reason) {
        self.0.store(reason as u8, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_codes_and_sentences() {
        for (i, &r) in Reason::ALL.iter().enumerate() {
            assert_eq!(r as usize, i);
            assert_eq!(Reason::from_u8(i as u8), r);
            assert!(
                r.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(r.explain().ends_with('.'));
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|o| o.as_str() == r.as_str())
                    .count(),
                1
            );
        }
        assert_eq!(Reason::from_u8(255), Reason::Pending);
        let a = AtomicReason::new(Reason::Pending);
        a.set(Reason::Panic);
        assert_eq!(a.get(), Reason::Panic);
    }
}
