//! STAND-IN: replaced at merge.
use libc::{c_int, c_void, iovec};
pub fn recv(_fd: i32, _iov: &[iovec], _flags: i32, real: &dyn Fn() -> isize) -> isize { real() }
pub fn send(_fd: i32, _iov: &[iovec], _flags: i32, real: &dyn Fn() -> isize) -> isize { real() }
pub fn bulk(_out: i32, _in: i32, real: &dyn Fn() -> isize) -> isize { real() }
pub fn ioctl(_fd: i32, _request: u64, _arg: *mut c_void, real: &dyn Fn() -> c_int) -> c_int { real() }
pub fn setsockopt(_fd: i32, _level: i32, _name: i32, _value: *const c_void, _len: u32, real: &dyn Fn() -> c_int) -> c_int { real() }
pub fn getsockopt(_fd: i32, _level: i32, _name: i32, _value: *mut c_void, _len: *mut u32, real: &dyn Fn() -> c_int) -> c_int { real() }
pub fn shutdown(_fd: i32, _how: i32, real: &dyn Fn() -> c_int) -> c_int { real() }
pub fn connect(_fd: i32, real: &dyn Fn() -> c_int) -> c_int { real() }
