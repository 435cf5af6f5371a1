//! What the hooks do: safe logic behind the thin C entries of `hooks/`.
//!
//! `io` and `fd` belong to libc's calls, `bio` to libcrypto's, the rest to
//! libssl's. `call` is the frame around every libssl call.

pub mod bio;
pub mod call;
pub mod context;
pub mod fd;
pub mod file;
pub mod io;
pub mod limit;
pub mod receive;
pub mod ssl;
pub mod transmit;
