//! What the shim calls in the process's own libcrypto.
//!
//! One table per libcrypto copy, resolved from that copy only and valid for
//! ever: the resolver keeps the object loaded. Every function listed as
//! required is exported by 1.1.1, 3.x and 4.0 alike.

use super::Bio;
use super::table::fn_table;
use core::ffi::{c_char, c_int, c_long, c_uchar, c_uint, c_ulong, c_void};

#[repr(C)]
pub struct EvpMd {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct EvpCipher {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct EvpCipherCtx {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct Engine {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct ExData {
    _opaque: [u8; 0],
}

pub const EVP_CTRL_AEAD_SET_IVLEN: c_int = 0x9;
pub const EVP_CTRL_AEAD_GET_TAG: c_int = 0x10;
pub const EVP_CTRL_AEAD_SET_TAG: c_int = 0x11;

/// `CRYPTO_EX_new` and `CRYPTO_EX_free` have one shape.
pub type ExCallback = unsafe extern "C" fn(
    parent: *mut c_void,
    ptr: *mut c_void,
    ad: *mut ExData,
    idx: c_int,
    argl: c_long,
    argp: *mut c_void,
);

/// `CRYPTO_EX_dup`. In 1.1.1 `from_d` is a `void *`, since 3.0 a `void **`:
/// the same word in the same register.
pub type ExDup = unsafe extern "C" fn(
    to: *mut ExData,
    from: *const ExData,
    from_d: *mut c_void,
    idx: c_int,
    argl: c_long,
    argp: *mut c_void,
) -> c_int;

fn_table! {
    pub struct Table {
        required {
            fn HMAC(
                md: *const EvpMd, key: *const c_void, key_len: c_int,
                data: *const c_uchar, data_len: usize, out: *mut c_uchar, out_len: *mut c_uint
            ) -> *mut c_uchar;
            fn EVP_sha256() -> *const EvpMd;
            fn EVP_sha384() -> *const EvpMd;

            fn EVP_CIPHER_CTX_new() -> *mut EvpCipherCtx;
            fn EVP_CIPHER_CTX_free(ctx: *mut EvpCipherCtx);
            fn EVP_CIPHER_CTX_ctrl(
                ctx: *mut EvpCipherCtx, cmd: c_int, arg: c_int, ptr: *mut c_void
            ) -> c_int;
            fn EVP_CipherInit_ex(
                ctx: *mut EvpCipherCtx, cipher: *const EvpCipher, engine: *mut Engine,
                key: *const c_uchar, iv: *const c_uchar, enc: c_int
            ) -> c_int;
            fn EVP_CipherUpdate(
                ctx: *mut EvpCipherCtx, out: *mut c_uchar, out_len: *mut c_int,
                data: *const c_uchar, data_len: c_int
            ) -> c_int;
            fn EVP_CipherFinal_ex(
                ctx: *mut EvpCipherCtx, out: *mut c_uchar, out_len: *mut c_int
            ) -> c_int;
            fn EVP_aes_128_gcm() -> *const EvpCipher;
            fn EVP_aes_256_gcm() -> *const EvpCipher;
            fn EVP_aes_128_ccm() -> *const EvpCipher;

            fn ERR_set_mark() -> c_int;
            fn ERR_pop_to_mark() -> c_int;
            fn ERR_peek_error() -> c_ulong;
            fn ERR_peek_last_error() -> c_ulong;
            fn ERR_clear_error();

            fn OpenSSL_version_num() -> c_ulong;

            fn BIO_read(b: *mut Bio, data: *mut c_void, len: c_int) -> c_int;
            fn BIO_read_ex(b: *mut Bio, data: *mut c_void, len: usize, got: *mut usize) -> c_int;
            fn BIO_write(b: *mut Bio, data: *const c_void, len: c_int) -> c_int;
            fn BIO_write_ex(b: *mut Bio, data: *const c_void, len: usize, done: *mut usize) -> c_int;
            fn BIO_puts(b: *mut Bio, text: *const c_char) -> c_int;
            fn BIO_gets(b: *mut Bio, text: *mut c_char, size: c_int) -> c_int;
            fn BIO_ctrl(b: *mut Bio, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long;
            fn BIO_next(b: *mut Bio) -> *mut Bio;
            fn BIO_method_type(b: *const Bio) -> c_int;
            fn BIO_method_name(b: *const Bio) -> *const c_char;

            fn CRYPTO_get_ex_new_index(
                class: c_int, argl: c_long, argp: *mut c_void,
                new: Option<ExCallback>, dup: Option<ExDup>, free: Option<ExCallback>
            ) -> c_int;
            fn CRYPTO_set_ex_data(ad: *mut ExData, idx: c_int, value: *mut c_void) -> c_int;
        }
        optional {
            // Absent where OpenSSL was built without ChaCha20 or Poly1305.
            fn EVP_chacha20_poly1305() -> *const EvpCipher;
            // 1.1.1 raises an error with the first, 3.0 and later with the rest.
            fn ERR_put_error(
                lib: c_int, func: c_int, reason: c_int, file: *const c_char, line: c_int
            );
            fn ERR_get_state() -> *const ErrState111;
            fn ERR_new();
            fn ERR_set_debug(file: *const c_char, line: c_int, func: *const c_char);
            fn ERR_set_error(lib: c_int, reason: c_int, fmt: *const c_char, ...);
        }
        with {}
    }
}

/// `ERR_STATE` as 1.1.1's public header has it. Later versions keep it to
/// themselves; this one will not change any more.
#[repr(C)]
pub struct ErrState111 {
    flags: [c_int; 16],
    codes: [c_ulong; 16],
    data: [*mut c_char; 16],
    data_flags: [c_int; 16],
    files: [*const c_char; 16],
    lines: [c_int; 16],
    top: c_int,
    bottom: c_int,
}

const ERR_FLAG_MARK: c_int = 1;

impl Table {
    /// Runs `f`, then takes off the thread's OpenSSL error queue whatever `f`
    /// left there. A hook that adds an entry turns the caller's next
    /// `SSL_get_error` from WANT_READ into SSL. Calls may nest, also inside a
    /// mark of OpenSSL's own.
    pub fn quiet<R>(&self, f: impl FnOnce() -> R) -> R {
        let marked = self.top_is_marked();
        // SAFETY: both work on the calling thread's own queue and take no
        // argument. An empty queue takes no mark; popping then empties it,
        // which is what it was.
        unsafe { (self.ERR_set_mark)() };
        let result = f();
        // SAFETY: as above.
        unsafe { (self.ERR_pop_to_mark)() };
        if marked {
            // SAFETY: as above; the marked entry is the last one again.
            unsafe { (self.ERR_set_mark)() };
        }
        result
    }

    /// 1.1.1 has one mark per entry and no count: popping to ours would take
    /// an outer one with it, and the outer pop would then empty the queue.
    fn top_is_marked(&self) -> bool {
        // SAFETY: takes nothing, returns a number.
        if unsafe { (self.OpenSSL_version_num)() } >= 0x3000_0000 {
            return false;
        }
        let Some(get_state) = self.ERR_get_state else {
            return false;
        };
        // SAFETY: a pointer to this thread's state or null; before 3.0 it has
        // this layout, and nobody else uses it while we look.
        let Some(state) = (unsafe { get_state().as_ref() }) else {
            return false;
        };
        let top = usize::try_from(state.top)
            .ok()
            .and_then(|top| state.flags.get(top));
        state.top != state.bottom && top.is_some_and(|flags| flags & ERR_FLAG_MARK != 0)
    }
}

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
pub mod tests {
    use super::*;
    use std::sync::OnceLock;

    /// The system's libcrypto, opened as a program would have it, or the one
    /// that the environment of the test run names.
    pub fn table() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            let name = std::env::var("TEST_LIBCRYPTO").unwrap_or("libcrypto.so.3".into());
            let c_name = std::ffi::CString::new(name.clone()).unwrap();
            // SAFETY: a C string; the library's constructors are OpenSSL's own.
            let lib = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            assert!(!lib.is_null(), "{name} is needed to test");
            // SAFETY: the handle is never closed, names are OpenSSL's.
            let table = unsafe { Table::resolve(&mut |name| libc::dlsym(lib, name.as_ptr())) };
            match table {
                Some(table) => table,
                None => panic!("a required function is missing"),
            }
        })
    }

    #[test]
    fn the_library_has_every_required_function() {
        // SAFETY: takes nothing, returns a number.
        assert!(unsafe { (table().OpenSSL_version_num)() } >= 0x1010_1000);
        assert!(table().ERR_new.is_some() || table().ERR_put_error.is_some());
    }

    #[test]
    fn the_error_queue_stays_as_it_was() {
        let t = table();
        let raise = |reason: c_int| {
            // SAFETY: static text or none; no format, so no further argument.
            unsafe {
                if let Some(put) = t.ERR_put_error {
                    put(20, 0, reason, c"".as_ptr(), 0);
                } else {
                    (t.ERR_new.unwrap())();
                    (t.ERR_set_error.unwrap())(20, reason, core::ptr::null());
                }
            }
        };
        // SAFETY: these three work on the thread's own queue.
        let (clear, first, last) = unsafe {
            (
                || (t.ERR_clear_error)(),
                || (t.ERR_peek_error)(),
                || (t.ERR_peek_last_error)(),
            )
        };
        clear();
        t.quiet(|| raise(3));
        assert_eq!(first(), 0, "an empty queue stays empty");
        raise(1);
        let before = last();
        t.quiet(|| t.quiet(|| raise(2)));
        assert_eq!(last(), before);
        clear();
    }
}
