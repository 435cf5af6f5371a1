//! SSL_write.
//!
//! Fast: one send on the op socket. When the socket is full, OpenSSL must know:
//! the real SSL_write is called with *one* byte and a wire that says EAGAIN, so
//! that it sets its retry state, the BIO's flags and its own book-keeping. That
//! byte's record, the *placeholder*, is swallowed when OpenSSL hands it over at the
//! retry, and the real bytes go the fast way. A BIO of the program's own may accept
//! the byte instead of failing: there no placeholder is used (R6).

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use crate::backend::{Backend, alg};
use crate::conn::{Connection, Half, Lane, mark};
use crate::openssl::{
    SSL_CTRL_MODE, SSL_KEY_UPDATE_NONE, SSL_MODE_ASYNC, SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_SENT_SHUTDOWN, SSL_WRITING,
    Ssl, resolver, ssl::Table,
};
use crate::thread;

use super::call::{self, AtFd};

/// A write that OpenSSL waits to have repeated; `Connection::write_state`.
pub const IDLE: u8 = 0;
pub const PLACEHOLDER: u8 = 1;
pub const SLOW: u8 = 2;

const RECORD: usize = 16_384;

/// May this write go to the op socket, past OpenSSL?
///
/// # Safety
/// `s` is live.
pub unsafe fn is_fast(table: &Table, conn: &Connection, s: *mut Ssl, mode: i64) -> bool {
    // SAFETY: getters of a live SSL.
    unsafe {
        conn.tx.lane() == Lane::Kernel
            && !conn.is(mark::SLOW_ONLY)
            && !conn.tx.closed.load(Ordering::Acquire)
            && !conn.tx.wire_busy.load(Ordering::Acquire)
            && !conn.tx.message_open.load(Ordering::Acquire)
            && conn.tx.level()
            && (table.SSL_in_init)(s) == 0
            && (table.SSL_get_key_update_type)(s) == SSL_KEY_UPDATE_NONE
            && (table.SSL_renegotiate_pending)(s) == 0
            && (table.SSL_get_shutdown)(s) & SSL_SENT_SHUTDOWN == 0
            && mode & SSL_MODE_ASYNC == 0
    }
}

/// # Safety
/// `s` is live.
pub unsafe fn mode(table: &Table, s: *mut Ssl) -> i64 {
    // SAFETY: SSL_get_mode is this control.
    unsafe { (table.SSL_ctrl)(s, SSL_CTRL_MODE, 0, core::ptr::null_mut()) }
}

/// One SSL_write of the program.
struct Write<'a> {
    ret: usize,
    table: &'static Table,
    conn: &'a Connection,
    s: *mut Ssl,
    buf: *const u8,
    n: usize,
}

impl Write<'_> {
    /// The real SSL_write with `len` bytes from `at`, meeting `errno` at the fd.
    /// The count that it accepted, or its own failure value.
    unsafe fn real(&self, at: usize, len: usize, errno: i32) -> Result<usize, c_int> {
        let at_fd = AtFd { read: 0, write: errno, writes: true };
        let mut done = 0usize;
        // SAFETY: `at + len` lies in the program's buffer; libssl gets lengths
        // that SSL_write_ex takes.
        let outcome = unsafe {
            call::around(self.ret, self.s, -1, at_fd, |t| {
                let from = self.buf.wrapping_add(at).cast();
                // SSL_write's own return value and error state, not the _ex
                // function's 0: the caller maps it.
                let got = (t.SSL_write)(self.s, from, c_int::try_from(len).unwrap_or(c_int::MAX));
                done = usize::try_from(got).unwrap_or(0);
                got
            })
        };
        if outcome > 0 { Ok(done) } else { Err(outcome) }
    }

    fn park(&self, state: u8, done: usize) {
        self.conn.write_done.store(done, Ordering::Release);
        self.conn.write_state.store(state, Ordering::Release);
    }

    /// Lets OpenSSL seal from `done` on.
    unsafe fn slow(&self, done: usize, errno: i32) -> Result<usize, c_int> {
        // SAFETY: as for `real`.
        match unsafe { self.real(done, self.n.saturating_sub(done), errno) } {
            Ok(more) => {
                self.park(IDLE, 0);
                Ok(done + more)
            }
            Err(outcome) => {
                // SAFETY: `s` is live.
                let waits = unsafe { (self.table.SSL_want)(self.s) } == SSL_WRITING;
                self.park(if waits { SLOW } else { IDLE }, if waits { done } else { 0 });
                Err(outcome)
            }
        }
    }

    unsafe fn fast(&self, mut done: usize, mode: i64) -> Result<usize, c_int> {
        let partial = mode & SSL_MODE_ENABLE_PARTIAL_WRITE != 0;
        loop {
            let own = usize::from(self.conn.max_fragment.load(Ordering::Relaxed));
            let record = if own == 0 { RECORD } else { own.min(RECORD) };
            // With partial writes OpenSSL returns after each record; so do we.
            let len = if partial { (self.n - done).min(record) } else { self.n - done };
            let bytes = libc::iovec { iov_base: self.buf.wrapping_add(done).cast_mut().cast(), iov_len: len };
            let op = self.conn.tx.op.load(Ordering::Acquire);
            // SAFETY: the program's buffer has `n` readable bytes.
            match unsafe { alg().send(op, &[bytes], libc::MSG_NOSIGNAL) } {
                Ok(sent) => {
                    Half::add(&self.conn.tx.fast_bytes, sent);
                    Half::add(&self.conn.tx.fast_calls, 1);
                    done += sent;
                    if done >= self.n || partial {
                        return Ok(done);
                    }
                }
                // SAFETY: as the caller vouches.
                Err(e) => return unsafe { self.full(done, e) },
            }
        }
    }

    /// The kernel did not take the bytes from `done` on.
    unsafe fn full(&self, done: usize, e: i32) -> Result<usize, c_int> {
        let again = e == libc::EAGAIN || e == libc::EINTR;
        // SAFETY: as for `real`, in all calls below.
        unsafe {
            if !again {
                // OpenSSL and the program meet the error where they would have.
                return self.slow(done, e);
            }
            if self.conn.is(mark::OWN_WBIO) {
                return self.slow(done, 0);
            }
            if let Some(mut side) = self.conn.write.lock() {
                side.swallow = true;
            }
            match self.real(done, 1, e) {
                Err(outcome) => {
                    self.park(PLACEHOLDER, done);
                    Err(outcome)
                }
                Ok(_) => {
                    // A buffering BIO took the byte: it is data now.
                    if let Some(mut side) = self.conn.write.lock() {
                        side.swallow = false;
                    }
                    let done = done + 1;
                    if done < self.n { self.slow(done, 0) } else { Ok(done) }
                }
            }
        }
    }

    unsafe fn run(&self) -> Result<usize, c_int> {
        let mut done = 0;
        // SAFETY: as the caller vouches, throughout.
        unsafe {
            match self.conn.write_state.load(Ordering::Acquire) {
                PLACEHOLDER => {
                    done = self.conn.write_done.load(Ordering::Acquire);
                    // The program must repeat at least what it asked for; with
                    // less, length 0 lets OpenSSL say so in its own words.
                    self.real(done.min(self.n), usize::from(self.n > done), 0)?;
                    self.park(IDLE, 0);
                }
                SLOW => {
                    done = self.conn.write_done.load(Ordering::Acquire);
                    return self.slow(done.min(self.n), 0);
                }
                _ => {}
            }
            let mode = mode(self.table, self.s);
            let slow_once = self.conn.take_mark(mark::WRITE_SLOW_ONCE);
            if !slow_once && is_fast(self.table, self.conn, self.s, mode) {
                self.fast(done, mode)
            } else {
                self.slow(done, 0)
            }
        }
    }
}

/// Ok: bytes taken. Err: what the real function said.
///
/// # Safety
/// As SSL_write: `s` is live, `buf` has `n` readable bytes.
unsafe fn transmit(
    ret: usize,
    s: *mut Ssl,
    buf: *const c_void,
    n: usize,
    lost: c_int,
    plain: impl FnOnce(&'static Table) -> (c_int, usize),
) -> Result<usize, c_int> {
    let Some(table) = resolver::caller(ret).ssl else { return Err(lost) };
    // SAFETY: the program's own promise about `s`.
    let found = unsafe { call::known(table, s) };
    let inside = thread::any_frame() && thread::top().is_some_and(|frame| frame.ssl == s as usize);
    if let Some((_, conn)) = found {
        let ours = conn.tx.lane() == Lane::Kernel || conn.write_state.load(Ordering::Acquire) != IDLE;
        if ours && n != 0 && !buf.is_null() && !inside {
            let write = Write { ret, table, conn, s, buf: buf.cast(), n };
            // SAFETY: as the caller vouches.
            let outcome = unsafe { write.run() };
            if outcome.is_ok() {
                conn.unmark(mark::SENDFILE_WANTS);
                if !conn.is(mark::FAST_SUCCESS) {
                    conn.mark(mark::FAST_SUCCESS);
                }
            }
            return outcome;
        }
    }
    // SAFETY: as the caller vouches.
    let (outcome, done) = unsafe { call::around(ret, s, (lost, 0), AtFd::default(), plain) };
    if let Some((_, conn)) = unsafe { call::known(table, s) }.filter(|_| !inside) {
        Half::add(&conn.tx.before_bytes, done);
        // OpenSSL keeps a record that the socket did not take: the next write is
        // its, also if the kernel has the direction by then.
        let waits = outcome <= 0 && unsafe { (table.SSL_want)(s) } == SSL_WRITING;
        conn.write_done.store(0, Ordering::Release);
        conn.write_state.store(if waits { SLOW } else { IDLE }, Ordering::Release);
    }
    Err(outcome)
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn write(ret: usize, s: *mut Ssl, buf: *const c_void, n: c_int) -> c_int {
    let size = usize::try_from(n).unwrap_or(0);
    let plain = |t: &'static Table| {
        let done = unsafe { (t.SSL_write)(s, buf, n) };
        (done, usize::try_from(done).unwrap_or(0))
    };
    match unsafe { transmit(ret, s, buf, size, -1, plain) } {
        Ok(done) => done as c_int,
        Err(outcome) => outcome,
    }
}

pub unsafe fn write_ex(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int {
    let plain = |t: &'static Table| {
        let outcome = unsafe { (t.SSL_write_ex)(s, buf, n, done) };
        (outcome, if outcome == 1 && !done.is_null() { unsafe { *done } } else { 0 })
    };
    match unsafe { transmit(ret, s, buf, n, 0, plain) } {
        Ok(count) => {
            if !done.is_null() {
                // SAFETY: SSL_write_ex takes a pointer to write the count to.
                unsafe { *done = count };
            }
            1
        }
        // SSL_write_ex fails with 0 where SSL_write fails with -1.
        Err(outcome) => outcome.max(0),
    }
}

/// Its flags concern QUIC streams only.
pub unsafe fn write_ex2(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, flags: u64, done: *mut usize) -> c_int {
    if flags == 0 {
        return unsafe { write_ex(ret, s, buf, n, done) };
    }
    let real = |t: &'static Table| t.SSL_write_ex2.map_or(0, |f| unsafe { f(s, buf, n, flags, done) });
    unsafe { call::around(ret, s, 0, AtFd::default(), real) }
}
