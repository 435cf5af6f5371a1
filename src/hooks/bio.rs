//! libcrypto's BIO calls, as programs and libssl make them.

use super::traced;
use crate::openssl::{Bio, resolver};
use crate::ops::bio;
use libc::{c_char, c_int, c_long, c_void};

traced! { resolver::no_crypto;
    BIO_read(b: *mut Bio, buf: *mut c_void, n: c_int) -> c_int, -1, bio::read;
    BIO_read_ex(b: *mut Bio, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, bio::read_ex;
    BIO_write(b: *mut Bio, buf: *const c_void, n: c_int) -> c_int, -1, bio::write;
    BIO_write_ex(b: *mut Bio, buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0, bio::write_ex;
    BIO_puts(b: *mut Bio, text: *const c_char) -> c_int, -1, bio::puts;
    BIO_gets(b: *mut Bio, buf: *mut c_char, n: c_int) -> c_int, -1, bio::gets;
    BIO_ctrl(b: *mut Bio, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long, -1, bio::ctrl;
}
