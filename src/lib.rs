//! ktlsshim

pub mod backend;
pub mod keys;
pub mod record;

/// Until the whole house is merged: just what the modules above need.
pub mod openssl {
    pub mod crypto;
    pub mod table;

    #[repr(C)]
    pub struct Bio {
        _opaque: [u8; 0],
    }
}
