//! OpenSSL as seen from outside: opaque objects, numbers of its stable ABI, and
//! tables of the functions of whichever copies the process itself has loaded.
//! Nothing here links to OpenSSL, and no object is ever looked into.

pub mod ask;
pub mod classes;
pub mod crypto;
pub mod resolver;
pub mod slot;
pub mod ssl;
pub mod table;

use libc::{c_char, c_int, c_long, c_void};

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _data: [u8; 0],
            _not_ours: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)>,
        }
        // A catch_unwind boundary may pass pointers to it: we never see inside, so
        // we cannot see a broken invariant.
        impl core::panic::RefUnwindSafe for $name {}
    )*};
}

opaque! {
    /// `SSL`
    Ssl;
    /// `SSL_CTX`
    SslCtx;
    /// `SSL_METHOD`
    Method;
    /// `SSL_SESSION`
    Session;
    /// `SSL_CIPHER`
    Cipher;
    /// `BIO`
    Bio;
    /// `OSSL_LIB_CTX`
    LibCtx;
}

pub type KeylogCb = Option<unsafe extern "C" fn(*const Ssl, *const c_char)>;
pub type PaddingCb = Option<unsafe extern "C" fn(*mut Ssl, c_int, usize, *mut c_void) -> usize>;

pub const SSL_ERROR_WANT_READ: c_int = 2;
pub const SSL_ERROR_WANT_WRITE: c_int = 3;
pub const SSL_ERROR_SYSCALL: c_int = 5;

pub const SSL_NOTHING: c_int = 1;
pub const SSL_WRITING: c_int = 2;
pub const SSL_READING: c_int = 3;

pub const SSL_SENT_SHUTDOWN: c_int = 1;
pub const SSL_RECEIVED_SHUTDOWN: c_int = 2;

pub const SSL_MODE_ENABLE_PARTIAL_WRITE: c_long = 0x1;
pub const SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER: c_long = 0x2;
pub const SSL_MODE_ASYNC: c_long = 0x100;

pub const SSL_KEY_UPDATE_NONE: c_int = -1;
pub const SSL_KEY_UPDATE_NOT_REQUESTED: c_int = 0;

pub const SSL_CTRL_MODE: c_int = 33;
pub const SSL_CTRL_SET_MAX_SEND_FRAGMENT: c_int = 52;

pub const BIO_C_GET_FD: c_int = 105;
pub const BIO_C_SET_SSL: c_int = 109;
pub const BIO_CTRL_FLUSH: c_int = 11;
pub const BIO_CTRL_GET_KTLS_SEND: c_int = 73;

pub const BIO_TYPE_SOCKET: c_int = 5 | 0x0400 | 0x0100;

/// `CRYPTO_EX_INDEX_SSL` and `CRYPTO_EX_INDEX_SSL_CTX`.
pub const EX_INDEX_SSL: c_int = 0;
pub const EX_INDEX_SSL_CTX: c_int = 1;
