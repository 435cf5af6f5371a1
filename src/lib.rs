//! ktlsshim
