//! STAND-IN: replaced at merge.
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
use crate::openssl::Bio;
use crate::openssl::resolver::caller;
use libc::{c_char, c_int, c_long, c_void};
pub unsafe fn read(ret: usize, b: *mut Bio, buf: *mut c_void, n: c_int) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_read)(b, buf, n) }, None => -1 } }
pub unsafe fn read_ex(ret: usize, b: *mut Bio, buf: *mut c_void, n: usize, got: *mut usize) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_read_ex)(b, buf, n, got) }, None => 0 } }
pub unsafe fn write(ret: usize, b: *mut Bio, buf: *const c_void, n: c_int) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_write)(b, buf, n) }, None => -1 } }
pub unsafe fn write_ex(ret: usize, b: *mut Bio, buf: *const c_void, n: usize, done: *mut usize) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_write_ex)(b, buf, n, done) }, None => 0 } }
pub unsafe fn puts(ret: usize, b: *mut Bio, s: *const c_char) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_puts)(b, s) }, None => -1 } }
pub unsafe fn gets(ret: usize, b: *mut Bio, buf: *mut c_char, n: c_int) -> c_int { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_gets)(b, buf, n) }, None => -1 } }
pub unsafe fn ctrl(ret: usize, b: *mut Bio, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long { match caller(ret).crypto { Some(t) => unsafe { (t.BIO_ctrl)(b, cmd, larg, parg) }, None => -2 } }
