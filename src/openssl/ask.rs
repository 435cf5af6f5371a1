//! Small questions to libssl and libcrypto that several rooms ask.

use super::{Bio, Ssl, crypto, ssl};
use core::ffi::CStr;

impl ssl::Table {
    /// Is this SSL, given as a number, the server's end?
    pub fn is_server(&self, s: usize) -> bool {
        // SAFETY: connections keep the number of an SSL that is alive while its
        // connection is; the getter reads one field.
        s != 0 && unsafe { (self.SSL_is_server)(s as *const Ssl) } != 0
    }
}

/// BIOs of programs' own that run safely when a failed read is followed by a fast
/// one: they keep no result code of the last call.
const SAFE_BIOS: [&CStr; 4] = [c"OpenSSL CF BIO", c"libpq socket", c"PostgreSQL backend socket", c"ha methods"];

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
