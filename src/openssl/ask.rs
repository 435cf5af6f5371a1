//! Small questions to libssl and libcrypto that several rooms ask.

use super::{Bio, SSL_CTRL_MODE, SSL_NOTHING, SSL_READING, SSL_WRITING, Ssl, SslCtx, crypto, ssl};
use core::ffi::{CStr, c_int, c_long};

/// An SSL object that is alive for as long as the hook runs, with the library it
/// belongs to. Its getters are safe to call because `new` was promised that.
#[derive(Clone, Copy)]
pub struct Live {
    pub table: &'static ssl::Table,
    s: *mut Ssl,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $r:ty = |$v:ident| $map:expr, $f:ident;)*) => {
        impl Live {
            $($(#[$doc])* pub fn $name(&self) -> $r {
                // SAFETY: `new` was promised that the object is alive; the
                // function reads it and returns a value of its own.
                let $v = unsafe { (self.table.$f)(self.s) };
                $map
            })*
        }
    };
}

getters! {
    in_init -> bool = |v| v != 0, SSL_in_init;
    is_finished -> bool = |v| v != 0, SSL_is_init_finished;
    is_server -> bool = |v| v != 0, SSL_is_server;
    is_dtls -> bool = |v| v != 0, SSL_is_dtls;
    /// Bits of SSL_SENT_SHUTDOWN and SSL_RECEIVED_SHUTDOWN.
    shutdown_state -> c_int = |v| v, SSL_get_shutdown;
    has_pending -> bool = |v| v != 0, SSL_has_pending;
    pending -> c_int = |v| v, SSL_pending;
    is_renegotiating -> bool = |v| v != 0, SSL_renegotiate_pending;
    key_update -> c_int = |v| v, SSL_get_key_update_type;
    wants_read -> bool = |v| v == SSL_READING, SSL_want;
    wants_io -> bool = |v| matches!(v, SSL_READING | SSL_WRITING), SSL_want;
    /// The last call is to be repeated, for whatever reason.
    waits -> bool = |v| v != SSL_NOTHING, SSL_want;
    reads_ahead -> bool = |v| v != 0, SSL_get_read_ahead;
    version -> c_int = |v| v, SSL_version;
    context -> *mut SslCtx = |v| v, SSL_get_SSL_CTX;
    rbio -> *mut Bio = |v| v, SSL_get_rbio;
    wbio -> *mut Bio = |v| v, SSL_get_wbio;
}

impl Live {
    /// # Safety
    /// `s` is an SSL of `table`'s library, and alive until the value is gone.
    pub const unsafe fn new(table: &'static ssl::Table, s: *mut Ssl) -> Live {
        Live { table, s }
    }

    pub const fn ptr(&self) -> *mut Ssl {
        self.s
    }

    /// Bits of SSL_MODE_*.
    pub fn mode(&self) -> c_long {
        // SAFETY: as for the getters; SSL_get_mode is this control.
        unsafe { (self.table.SSL_ctrl)(self.s, SSL_CTRL_MODE, 0, core::ptr::null_mut()) }
    }

    pub fn is_quic(&self) -> bool {
        // SAFETY: as for the getters.
        self.table
            .SSL_is_quic
            .is_some_and(|f| unsafe { f(self.s) } != 0)
    }

    /// Is `b` the write BIO, or the one directly above it?
    ///
    /// # Safety
    /// `b` is a live BIO.
    pub unsafe fn is_outermost_wbio(&self, b: *mut Bio) -> bool {
        let wbio = self.wbio();
        // SAFETY: as the caller vouches.
        wbio == b || (!wbio.is_null() && unsafe { (self.table.crypto.BIO_next)(b) } == wbio)
    }
}

/// BIOs of programs' own that run safely when a failed read is followed by a fast
/// one: they keep no result code of the last call.
const SAFE_BIOS: [&CStr; 4] = [
    c"OpenSSL CF BIO",
    c"libpq socket",
    c"PostgreSQL backend socket",
    c"ha methods",
];

impl crypto::Table {
    pub fn version(&self) -> u64 {
        // SAFETY: takes nothing, returns a number.
        unsafe { (self.OpenSSL_version_num)() }
    }

    /// # Safety
    /// `b` is a live BIO.
    pub unsafe fn is_safe_bio(&self, b: *const Bio) -> bool {
        // SAFETY: as the caller vouches; the name is static text of the method's.
        let name = unsafe { (self.BIO_method_name)(b) };
        // SAFETY: a C string if it is one at all.
        !name.is_null() && SAFE_BIOS.contains(&unsafe { CStr::from_ptr(name) })
    }
}
