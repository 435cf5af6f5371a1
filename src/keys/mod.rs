//! From what a handshake leaves behind to record keys.
//!
//! Secrets come in by the keylog callback (TLS 1.3) or as master key and
//! randoms (TLS 1.2); out go `TrafficKeys`. Every type here owns its bytes,
//! wipes them when dropped and has neither `Clone` nor `Debug`, so that a copy
//! or a log line cannot come about by accident.

pub mod keylog;
pub mod secret;
pub mod suite;
pub mod traffic;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
pub mod vectors;

pub use keylog::Label;
pub use secret::{Secret, Traffic};
pub use suite::{Aead, Hash, Suite, Version};
pub use traffic::{Pair, TrafficKeys};
