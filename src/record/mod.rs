//! TLS records as bytes: framing, protection, and the handshake messages
//! inside. Nothing here does I/O.

mod aead;
pub mod cipher;
pub mod header;
pub mod messages;
pub mod stream;

pub use cipher::{OpenError, Opened, RecordCipher};
pub use header::{BadHeader, Header};
pub use messages::{Message, Messages};
pub use stream::Stream;
