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
pub type MsgCb =
    Option<unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut Ssl, *mut c_void)>;
pub type InfoCb = Option<unsafe extern "C" fn(*const Ssl, c_int, c_int)>;
pub type CtrlFn = Option<unsafe extern "C" fn()>;

pub const TLS1_2_VERSION: c_int = 0x0303;
pub const TLS1_3_VERSION: c_int = 0x0304;

pub const SSL_ERROR_NONE: c_int = 0;
pub const SSL_ERROR_SSL: c_int = 1;
pub const SSL_ERROR_WANT_READ: c_int = 2;
pub const SSL_ERROR_WANT_WRITE: c_int = 3;
pub const SSL_ERROR_SYSCALL: c_int = 5;
pub const SSL_ERROR_ZERO_RETURN: c_int = 6;

pub const SSL_NOTHING: c_int = 1;
pub const SSL_WRITING: c_int = 2;
pub const SSL_READING: c_int = 3;

pub const SSL_SENT_SHUTDOWN: c_int = 1;
pub const SSL_RECEIVED_SHUTDOWN: c_int = 2;

pub const SSL_MODE_ENABLE_PARTIAL_WRITE: c_long = 0x1;
pub const SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER: c_long = 0x2;
pub const SSL_MODE_AUTO_RETRY: c_long = 0x4;
pub const SSL_MODE_RELEASE_BUFFERS: c_long = 0x10;
pub const SSL_MODE_ASYNC: c_long = 0x100;

pub const SSL_OP_ENABLE_KTLS: u64 = 1 << 3;

pub const SSL_KEY_UPDATE_NONE: c_int = -1;
pub const SSL_KEY_UPDATE_NOT_REQUESTED: c_int = 0;
pub const SSL_EARLY_DATA_NOT_SENT: c_int = 0;
pub const SSL_EARLY_DATA_REJECTED: c_int = 1;
pub const SSL_EARLY_DATA_ACCEPTED: c_int = 2;

pub const SSL_CTRL_GET_NUM_RENEGOTIATIONS: c_int = 10;
pub const SSL_CTRL_CLEAR_NUM_RENEGOTIATIONS: c_int = 11;
pub const SSL_CTRL_GET_TOTAL_RENEGOTIATIONS: c_int = 12;
pub const SSL_CTRL_SET_MSG_CALLBACK: c_int = 15;
pub const SSL_CTRL_SET_MSG_CALLBACK_ARG: c_int = 16;
pub const SSL_CTRL_MODE: c_int = 33;
pub const SSL_CTRL_GET_READ_AHEAD: c_int = 40;
pub const SSL_CTRL_SET_READ_AHEAD: c_int = 41;
pub const SSL_CTRL_SET_MAX_SEND_FRAGMENT: c_int = 52;
pub const SSL_CTRL_CLEAR_MODE: c_int = 78;
pub const SSL_CTRL_SET_SPLIT_SEND_FRAGMENT: c_int = 125;
pub const SSL_CTRL_SET_MAX_PIPELINES: c_int = 126;

pub const BIO_CTRL_RESET: c_int = 1;
pub const BIO_CTRL_EOF: c_int = 2;
pub const BIO_CTRL_PUSH: c_int = 6;
pub const BIO_CTRL_POP: c_int = 7;
pub const BIO_CTRL_PENDING: c_int = 10;
pub const BIO_CTRL_FLUSH: c_int = 11;
pub const BIO_CTRL_WPENDING: c_int = 13;
pub const BIO_C_SET_FD: c_int = 104;
pub const BIO_C_GET_FD: c_int = 105;
pub const BIO_C_SET_SSL: c_int = 109;
pub const BIO_C_GET_SSL: c_int = 110;
pub const BIO_CTRL_SET_KTLS: c_int = 72;
pub const BIO_CTRL_GET_KTLS_SEND: c_int = 73;
pub const BIO_CTRL_SET_KTLS_TX_SEND_CTRL_MSG: c_int = 74;
pub const BIO_CTRL_CLEAR_KTLS_TX_CTRL_MSG: c_int = 75;
pub const BIO_CTRL_GET_KTLS_RECV: c_int = 76;

pub const BIO_TYPE_MEM: c_int = 1 | 0x0400;
pub const BIO_TYPE_SOCKET: c_int = 5 | 0x0400 | 0x0100;
pub const BIO_TYPE_SSL: c_int = 7 | 0x0200;
pub const BIO_TYPE_BUFFER: c_int = 9 | 0x0200;

pub const BIO_FLAGS_READ: c_int = 1;
pub const BIO_FLAGS_WRITE: c_int = 2;
pub const BIO_FLAGS_IO_SPECIAL: c_int = 4;
pub const BIO_FLAGS_SHOULD_RETRY: c_int = 8;

/// `CRYPTO_EX_INDEX_SSL` and `CRYPTO_EX_INDEX_SSL_CTX`.
pub const EX_INDEX_SSL: c_int = 0;
pub const EX_INDEX_SSL_CTX: c_int = 1;
