//! SSL_read, SSL_peek and what tells of pending data.
//!
//! Fast: one receive on the op socket. Everything that is not plain data, every
//! error and every wait goes to the real function, which meets it at the fd by
//! the virtual wire: OpenSSL and the program's BIO set their own state (R4).

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use crate::conn::rx::Fast;
use crate::conn::{Connection, Half, Lane, mark};
use crate::openssl::{SSL_CTRL_MODE, SSL_MODE_ASYNC, SSL_RECEIVED_SHUTDOWN, Ssl, resolver, ssl::Table};
use crate::thread;

use super::call::{self, AtFd};

/// May this read take data from the op socket, past OpenSSL?
///
/// # Safety
/// `s` is live.
unsafe fn is_fast(table: &Table, conn: &Connection, s: *mut Ssl) -> bool {
    // SAFETY: getters of a live SSL.
    unsafe {
        conn.rx.lane() == Lane::Kernel
            && !conn.is(mark::SLOW_ONLY)
            && !conn.rx.closed.load(Ordering::Acquire)
            && !conn.rx.wire_busy.load(Ordering::Acquire)
            && !conn.rx.message_open.load(Ordering::Acquire)
            && conn.rx.level()
            && (table.SSL_in_init)(s) == 0
            && (table.SSL_get_shutdown)(s) & SSL_RECEIVED_SHUTDOWN == 0
            && (table.SSL_has_pending)(s) == 0
            && (table.SSL_renegotiate_pending)(s) == 0
            && (table.SSL_ctrl)(s, SSL_CTRL_MODE, 0, core::ptr::null_mut()) & SSL_MODE_ASYNC == 0
    }
}

/// Ok: bytes that the fast lane delivered. Err: what the real function said.
///
/// # Safety
/// As SSL_read: `s` is live, `buf` has `n` writable bytes.
unsafe fn receive(
    ret: usize,
    s: *mut Ssl,
    buf: *mut c_void,
    n: usize,
    peek: bool,
    lost: c_int,
    real: impl FnOnce(&'static Table) -> (c_int, usize),
) -> Result<usize, c_int> {
    let Some(table) = resolver::caller(ret).ssl else { return Err(lost) };
    let mut at_fd = AtFd::default();
    // SAFETY: the program's own promise about `s`.
    let found = unsafe { call::known(table, s) };
    if let Some((_, conn)) = found {
        let inside = thread::any_frame() && thread::top().is_some_and(|frame| frame.ssl == s as usize);
        let held = conn.held.load(Ordering::Acquire) != 0;
        if n != 0 && !buf.is_null() && !inside && (held || unsafe { is_fast(table, conn, s) }) {
            if held || !conn.take_mark(mark::READ_SLOW_ONCE) {
                // SAFETY: the program gave `n` writable bytes.
                let out = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), n) };
                match conn.fast_read(out, peek) {
                    Fast::Done(got) => {
                        conn.unmark(mark::SENDFILE_WANTS);
                        if !conn.is(mark::FAST_SUCCESS) {
                            conn.mark(mark::FAST_SUCCESS);
                        }
                        return Ok(got);
                    }
                    Fast::Slow => {}
                    Fast::Errno(e) => {
                        at_fd.read = e;
                        conn.read_failed();
                    }
                }
            }
        }
    }
    let watching = found.is_some_and(|(_, conn)| conn.rx.lane() != Lane::Kernel);
    // SAFETY: as the caller vouches.
    let (outcome, got) = unsafe { call::around(ret, s, (lost, 0), at_fd, real) };
    if watching && got != 0 && !peek {
        if let Some((_, conn)) = found {
            Half::add(&conn.rx.before_bytes, got);
        }
    }
    Err(outcome)
}

fn size(n: c_int) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn read(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int {
    let real = |t: &'static Table| {
        let got = unsafe { (t.SSL_read)(s, buf, n) };
        (got, size(got))
    };
    match unsafe { receive(ret, s, buf, size(n), false, -1, real) } {
        Ok(got) => got as c_int,
        Err(outcome) => outcome,
    }
}

pub unsafe fn peek(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int {
    let real = |t: &'static Table| {
        let got = unsafe { (t.SSL_peek)(s, buf, n) };
        (got, size(got))
    };
    match unsafe { receive(ret, s, buf, size(n), true, -1, real) } {
        Ok(got) => got as c_int,
        Err(outcome) => outcome,
    }
}

pub unsafe fn read_ex(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int {
    let real = |t: &'static Table| {
        let outcome = unsafe { (t.SSL_read_ex)(s, buf, n, got) };
        (outcome, if outcome == 1 && !got.is_null() { unsafe { *got } } else { 0 })
    };
    store(unsafe { receive(ret, s, buf, n, false, 0, real) }, got)
}

pub unsafe fn peek_ex(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int {
    let real = |t: &'static Table| {
        let outcome = unsafe { (t.SSL_peek_ex)(s, buf, n, got) };
        (outcome, if outcome == 1 && !got.is_null() { unsafe { *got } } else { 0 })
    };
    store(unsafe { receive(ret, s, buf, n, true, 0, real) }, got)
}

fn store(outcome: Result<usize, c_int>, got: *mut usize) -> c_int {
    match outcome {
        Ok(n) => {
            if !got.is_null() {
                // SAFETY: the `_ex` functions take a pointer to write the count to.
                unsafe { *got = n };
            }
            1
        }
        Err(outcome) => outcome,
    }
}

/// What the shim holds counts as pending (R17).
pub unsafe fn pending(ret: usize, s: *const Ssl) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    let held = unsafe { call::known(table, s.cast_mut()) }.map_or(0, |(_, conn)| conn.held.load(Ordering::Acquire));
    if held != 0 { held as c_int } else { unsafe { (table.SSL_pending)(s) } }
}

pub unsafe fn has_pending(ret: usize, s: *const Ssl) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    let held = unsafe { call::known(table, s.cast_mut()) }.is_some_and(|(_, conn)| conn.held.load(Ordering::Acquire) != 0);
    if held { 1 } else { unsafe { (table.SSL_has_pending)(s) } }
}
