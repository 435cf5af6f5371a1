//! The functions of one libssl copy, by pointer.
//!
//! One list makes the struct and its filler. A function that every libssl from
//! 1.1.1 on exports is a plain pointer: if one is missing, the library is not one
//! that we understand and there is no table. Later ones are `Option`. Function
//! pointers are "C-unwind": a cancelled thread unwinds through them (P40, boundary.rs).
//!
//! Tables are made by the resolver and live for ever; so does the library, whose
//! reference the resolver keeps (P4).

use super::crypto;
use super::slot::Slot;
use super::{
    Bio, Cipher, EX_INDEX_SSL, EX_INDEX_SSL_CTX, KeylogCb, LibCtx, Method, PaddingCb, Session, Ssl,
    SslCtx,
};
use core::ffi::CStr;
use libc::{c_char, c_int, c_long, c_uchar, c_void, off_t, size_t};

/// Turns a data symbol's address into the function pointer type of a field.
macro_rules! pointer {
    ($find:expr, $name:ident, $t:ty) => {{
        // The name is a literal without inner NUL: the bytes end with the only one.
        let name = CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()).ok();
        let p = match name {
            Some(n) => $find(n),
            None => core::ptr::null_mut(),
        };
        // SAFETY: libssl's ABI fixes the type that belongs to this name, from the
        // first version that exports it; null becomes None.
        unsafe { core::mem::transmute::<*mut c_void, Option<$t>>(p) }
    }};
}

macro_rules! table {
    (
        always { $($name:ident: fn($($a:ty),*) $(-> $r:ty)?;)* }
        later { $($oname:ident: fn($($oa:ty),*) $(-> $or:ty)?;)* }
    ) => {
        #[allow(non_snake_case)]
        pub struct Table {
            /// The libcrypto that this libssl itself is bound to.
            pub crypto: &'static crypto::Table,
            /// Our place in each `SSL`.
            pub ex_ssl: Slot,
            /// The same in an `SSL_CTX`.
            pub ex_ctx: Slot,
            $(pub $name: unsafe extern "C-unwind" fn($($a),*) $(-> $r)?,)*
            $(pub $oname: Option<unsafe extern "C-unwind" fn($($oa),*) $(-> $or)?>,)*
        }

        impl Table {
            /// Fills a table from one library. `find` gives null for what is not there;
            /// each name is asked for once, because a failing look-up allocates (P5).
            pub fn resolve(
                crypto: &'static crypto::Table,
                find: &mut dyn FnMut(&CStr) -> *mut c_void,
            ) -> Option<Table> {
                Some(Table {
                    crypto,
                    ex_ssl: Slot::new(EX_INDEX_SSL),
                    ex_ctx: Slot::new(EX_INDEX_SSL_CTX),
                    $($name: pointer!(find, $name, unsafe extern "C-unwind" fn($($a),*) $(-> $r)?)?,)*
                    $($oname: pointer!(find, $oname, unsafe extern "C-unwind" fn($($oa),*) $(-> $or)?),)*
                })
            }

            pub const ALWAYS: &'static [&'static str] = &[$(stringify!($name)),*];
            pub const LATER: &'static [&'static str] = &[$(stringify!($oname)),*];
        }
    };
}

table! {
    always {
        SSL_read: fn(*mut Ssl, *mut c_void, c_int) -> c_int;
        SSL_read_ex: fn(*mut Ssl, *mut c_void, size_t, *mut size_t) -> c_int;
        SSL_peek: fn(*mut Ssl, *mut c_void, c_int) -> c_int;
        SSL_peek_ex: fn(*mut Ssl, *mut c_void, size_t, *mut size_t) -> c_int;
        SSL_write: fn(*mut Ssl, *const c_void, c_int) -> c_int;
        SSL_write_ex: fn(*mut Ssl, *const c_void, size_t, *mut size_t) -> c_int;
        SSL_read_early_data: fn(*mut Ssl, *mut c_void, size_t, *mut size_t) -> c_int;
        SSL_write_early_data: fn(*mut Ssl, *const c_void, size_t, *mut size_t) -> c_int;
        SSL_connect: fn(*mut Ssl) -> c_int;
        SSL_accept: fn(*mut Ssl) -> c_int;
        SSL_do_handshake: fn(*mut Ssl) -> c_int;
        SSL_stateless: fn(*mut Ssl) -> c_int;
        SSL_shutdown: fn(*mut Ssl) -> c_int;
        SSL_get_shutdown: fn(*const Ssl) -> c_int;
        SSL_pending: fn(*const Ssl) -> c_int;
        SSL_has_pending: fn(*const Ssl) -> c_int;
        SSL_get_error: fn(*const Ssl, c_int) -> c_int;
        SSL_want: fn(*const Ssl) -> c_int;
        SSL_set_fd: fn(*mut Ssl, c_int) -> c_int;
        SSL_set_rfd: fn(*mut Ssl, c_int) -> c_int;
        SSL_set_wfd: fn(*mut Ssl, c_int) -> c_int;
        SSL_set_bio: fn(*mut Ssl, *mut Bio, *mut Bio);
        SSL_set0_rbio: fn(*mut Ssl, *mut Bio);
        SSL_set0_wbio: fn(*mut Ssl, *mut Bio);
        SSL_get_rbio: fn(*const Ssl) -> *mut Bio;
        SSL_get_wbio: fn(*const Ssl) -> *mut Bio;
        SSL_CTX_new: fn(*const Method) -> *mut SslCtx;
        SSL_get_SSL_CTX: fn(*const Ssl) -> *mut SslCtx;
        SSL_set_SSL_CTX: fn(*mut Ssl, *mut SslCtx) -> *mut SslCtx;
        SSL_clear: fn(*mut Ssl) -> c_int;
        SSL_set_connect_state: fn(*mut Ssl);
        SSL_set_accept_state: fn(*mut Ssl);
        SSL_dup: fn(*mut Ssl) -> *mut Ssl;
        SSL_free: fn(*mut Ssl);
        SSL_key_update: fn(*mut Ssl, c_int) -> c_int;
        SSL_get_key_update_type: fn(*const Ssl) -> c_int;
        SSL_renegotiate: fn(*mut Ssl) -> c_int;
        SSL_renegotiate_abbreviated: fn(*mut Ssl) -> c_int;
        SSL_renegotiate_pending: fn(*const Ssl) -> c_int;
        SSL_verify_client_post_handshake: fn(*mut Ssl) -> c_int;
        SSL_in_init: fn(*const Ssl) -> c_int;
        SSL_is_init_finished: fn(*const Ssl) -> c_int;
        SSL_is_server: fn(*const Ssl) -> c_int;
        SSL_is_dtls: fn(*const Ssl) -> c_int;
        SSL_version: fn(*const Ssl) -> c_int;
        SSL_get_current_cipher: fn(*const Ssl) -> *const Cipher;
        SSL_CIPHER_get_id: fn(*const Cipher) -> u32;
        SSL_CIPHER_get_name: fn(*const Cipher) -> *const c_char;
        SSL_get_session: fn(*const Ssl) -> *mut Session;
        SSL_SESSION_get_master_key: fn(*const Session, *mut c_uchar, size_t) -> size_t;
        SSL_SESSION_get_max_fragment_length: fn(*const Session) -> u8;
        SSL_get_client_random: fn(*const Ssl, *mut c_uchar, size_t) -> size_t;
        SSL_get_server_random: fn(*const Ssl, *mut c_uchar, size_t) -> size_t;
        SSL_get_servername: fn(*const Ssl, c_int) -> *const c_char;
        SSL_get_ex_data: fn(*const Ssl, c_int) -> *mut c_void;
        SSL_set_ex_data: fn(*mut Ssl, c_int, *mut c_void) -> c_int;
        SSL_CTX_get_ex_data: fn(*const SslCtx, c_int) -> *mut c_void;
        SSL_CTX_set_keylog_callback: fn(*mut SslCtx, KeylogCb);
        SSL_CTX_get_keylog_callback: fn(*const SslCtx) -> KeylogCb;
        SSL_ctrl: fn(*mut Ssl, c_int, c_long, *mut c_void) -> c_long;
        SSL_CTX_ctrl: fn(*mut SslCtx, c_int, c_long, *mut c_void) -> c_long;
        SSL_get_read_ahead: fn(*const Ssl) -> c_int;
        SSL_set_block_padding: fn(*mut Ssl, size_t) -> c_int;
        SSL_CTX_set_block_padding: fn(*mut SslCtx, size_t) -> c_int;
        // `void` in 1.1.1, whose callers do not look at the result.
        SSL_set_record_padding_callback: fn(*mut Ssl, PaddingCb) -> c_int;
        SSL_CTX_set_record_padding_callback: fn(*mut SslCtx, PaddingCb);
    }
    later {
        SSL_sendfile: fn(*mut Ssl, c_int, off_t, size_t, c_int) -> isize;
        SSL_write_ex2: fn(*mut Ssl, *const c_void, size_t, u64, *mut size_t) -> c_int;
        SSL_CTX_new_ex: fn(*mut LibCtx, *const c_char, *const Method) -> *mut SslCtx;
        SSL_new_session_ticket: fn(*mut Ssl) -> c_int;
        SSL_set_block_padding_ex: fn(*mut Ssl, size_t, size_t) -> c_int;
        SSL_CTX_set_block_padding_ex: fn(*mut SslCtx, size_t, size_t) -> c_int;
        SSL_is_quic: fn(*const Ssl) -> c_int;
        SSL_shutdown_ex: fn(*mut Ssl, u64, *const c_void, size_t) -> c_int;
        SSL_net_read_desired: fn(*mut Ssl) -> c_int;
        SSL_net_write_desired: fn(*mut Ssl) -> c_int;
    }
}
