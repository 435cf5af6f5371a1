//! SSL_write.
//!
//! Fast: one send on the op socket. When the socket is full, OpenSSL must know:
//! the real SSL_write is called with *one* byte and a wire that says EAGAIN, so
//! that it sets its retry state, the BIO's flags and its own book-keeping. That
//! byte's record, the *placeholder*, is swallowed when OpenSSL hands it over at the
//! retry, and the real bytes go the fast way. A BIO of the program's own may accept
//! the byte instead of failing: there no placeholder is used (R6).
//!
//! A KeyUpdate that arrived meanwhile is answered by OpenSSL after a write that it has
//! begun. Then the placeholder stays until the real bytes are sent, for as long as
//! OpenSSL holds it the write has begun:
//!
//!     plain      data data data(full)|      retry: data data       next: KeyUpdate data
//!     here       send...............|hold   retry: send...|swallow  next: KeyUpdate data

use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::Ordering;

use crate::backend::{Backend, alg};
use crate::conn::{Connection, Half, Lane, mark};
use crate::openssl::ask::Live;
use crate::openssl::{
    SSL_KEY_UPDATE_NONE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_ASYNC,
    SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_SENT_SHUTDOWN, Ssl, ssl::Table,
};

use crate::planted::{self, Plant};
use crate::reason::Reason;

use super::call::{AtFd, Call, real, real_later, written};
use super::limit;

/// A write that OpenSSL waits to have repeated; `Connection::write_state`.
pub const IDLE: u8 = 0;
pub const PLACEHOLDER: u8 = 1;
pub const SLOW: u8 = 2;
/// A thread is in the kernel with a fast write. Seen at the entry of another write it
/// means that this thread never came back: by siglongjmp, or because it was cancelled.
pub const FAST: u8 = 3;

const RECORD: usize = 16_384;

/// May this write go to the op socket, past OpenSSL?
pub fn is_fast(live: &Live, conn: &Connection, mode: c_long) -> bool {
    is_open(live, conn, mode)
        && (live.key_update() == SSL_KEY_UPDATE_NONE
            || planted::is(Plant::FastWithKeyUpdatePending))
}

/// Could it, if there is no KeyUpdate to send before it?
fn is_open(live: &Live, conn: &Connection, mode: c_long) -> bool {
    // What goes through a BIO of type SSL is not counted on its way in: `level` could be
    // true with a record of OpenSSL's in a buffer below, which must leave first.
    conn.tx.lane() == Lane::Kernel
        && !conn.is(mark::SLOW_ONLY | mark::SSL_BIO)
        && !conn.tx.closed.load(Ordering::Acquire)
        && (planted::is(Plant::FastWhileWireBusy)
            || !conn.tx.wire_busy.load(Ordering::Acquire) && conn.tx.level())
        && !conn.tx.message_open.load(Ordering::Acquire)
        && !live.in_init()
        && !live.is_renegotiating()
        && live.shutdown_state() & SSL_SENT_SHUTDOWN == 0
        && mode & SSL_MODE_ASYNC == 0
}

/// One SSL_write of the program, on a connection that the kernel sends for.
/// `buf` has `n` readable bytes for as long as the call runs.
struct Write<'a> {
    call: Call,
    conn: &'a Connection,
    buf: *const u8,
    n: usize,
}

impl Write<'_> {
    /// The real SSL_write with `len` bytes from `at`, meeting `errno` at the fd.
    /// The count that it accepted, or its own failure value.
    fn real(&self, at: usize, len: usize, errno: i32) -> Result<usize, c_int> {
        let from = self.buf.wrapping_add(at.min(self.n)).cast::<c_void>();
        let len = c_int::try_from(len.min(self.n.saturating_sub(at))).unwrap_or(c_int::MAX);
        let s = self.call.ptr();
        let before = self.conn.tx.lane() != Lane::Kernel;
        let at_fd = AtFd {
            read: 0,
            write: errno,
            writes: true,
            ..AtFd::default()
        };
        let outcome = self
            .call
            .around(at_fd, |t| real!(t, SSL_write, s, from, len));
        if outcome <= 0 {
            return Err(outcome);
        }
        if before {
            Half::add(&self.conn.tx.before_bytes, outcome as usize);
        }
        Ok(outcome as usize)
    }

    fn park(&self, state: u8, done: usize) {
        let done = done * usize::from(!planted::is(Plant::ForgetWriteDone));
        self.conn.write_done.store(done, Ordering::Release);
        self.conn.write_state.store(state, Ordering::Release);
    }

    /// Lets OpenSSL seal from `done` on.
    fn slow(&self, done: usize, errno: i32) -> Result<usize, c_int> {
        match self.real(done, self.n.saturating_sub(done), errno) {
            Ok(more) => {
                self.park(IDLE, 0);
                Ok(done + more)
            }
            Err(outcome) => {
                // What is sent stays sent, whatever OpenSSL waits for.
                let open = done > 0 || self.call.waits();
                self.park(if open { SLOW } else { IDLE }, done);
                Err(outcome)
            }
        }
    }

    fn fast(&self, done: usize, mode: c_long) -> Result<usize, c_int> {
        self.send(done, mode)
            .or_else(|(done, e)| self.full(done, e))
    }

    /// By the kernel. Err: what was sent, and why no more.
    fn send(&self, mut done: usize, mode: c_long) -> Result<usize, (usize, i32)> {
        let partial = mode & SSL_MODE_ENABLE_PARTIAL_WRITE != 0;
        let record = self.conn.record.load(Ordering::Relaxed);
        let op = self.conn.tx.op.load(Ordering::Acquire);
        self.conn.write_state.store(FAST, Ordering::Release);
        loop {
            // With partial writes OpenSSL returns after each record; so do we.
            let len = if partial {
                (self.n - done).min(record)
            } else {
                self.n - done
            };
            let bytes = libc::iovec {
                iov_base: self.buf.wrapping_add(done).cast_mut().cast(),
                iov_len: len,
            };
            // SAFETY: the program's buffer has `n` readable bytes, `done + len` at most.
            match unsafe { alg().send(op, &[bytes], libc::MSG_NOSIGNAL) } {
                Ok(sent) => {
                    Half::add(&self.conn.tx.fast_bytes, sent);
                    Half::add(&self.conn.tx.fast_calls, 1);
                    Half::add(&self.conn.tx.key_records, sent.div_ceil(record));
                    done += sent;
                    if done >= self.n || partial {
                        self.park(IDLE, 0);
                        return Ok(done);
                    }
                }
                // Another thread has sent a KeyUpdate and is about to set the key.
                Err(libc::EKEYEXPIRED) if !self.conn.dead.load(Ordering::Acquire) => {
                    crate::sys::nap();
                }
                Err(e) => {
                    self.park(IDLE, 0);
                    return Err((done, e));
                }
            }
        }
    }

    /// The retry of a write whose placeholder OpenSSL holds, with a KeyUpdate to answer
    /// after it. None: no such case, or one in which OpenSSL has something to say first.
    fn overtake(&self, done: usize, mode: c_long) -> Option<Result<usize, c_int>> {
        let at = self.conn.held_at.load(Ordering::Acquire);
        let moved = self.conn.held_in.load(Ordering::Acquire) != self.buf as usize
            && mode & SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER == 0;
        let answers = self.call.key_update() != SSL_KEY_UPDATE_NONE;
        if !answers || moved || self.n <= done || self.conn.is(mark::WRITE_SLOW_ONCE) {
            return None;
        }
        if !is_open(&self.call, self.conn, mode) {
            return None;
        }
        Some(match self.send(done, mode) {
            Ok(done) => {
                // All is sent, whatever becomes of the placeholder.
                self.park(PLACEHOLDER, done);
                self.real(at, 1, 0).map(|_| {
                    self.park(IDLE, 0);
                    done
                })
            }
            Err((done, e)) => {
                let outcome = self.real(at, 1, e).err().unwrap_or(-1);
                self.park(PLACEHOLDER, done);
                Err(outcome)
            }
        })
    }

    /// The kernel did not take the bytes from `done` on.
    fn full(&self, done: usize, e: i32) -> Result<usize, c_int> {
        if e != libc::EAGAIN && e != libc::EINTR {
            // OpenSSL and the program meet the error where they would have.
            return self.slow(done, e);
        }
        if self.conn.is(mark::OWN_WBIO) {
            return self.slow(done, 0);
        }
        self.conn.swallow.store(true, Ordering::Release);
        match self.real(done, 1, e) {
            Err(outcome) => {
                self.conn.held_at.store(done, Ordering::Release);
                self.conn
                    .held_in
                    .store(self.buf as usize, Ordering::Release);
                self.park(PLACEHOLDER, done);
                Err(outcome)
            }
            // A buffering BIO took the byte: it is data now. Or its record was
            // swallowed after all, and it never was.
            Ok(_) => {
                let kept = self.conn.swallow.swap(false, Ordering::AcqRel);
                let done = done + usize::from(kept);
                if done < self.n {
                    self.slow(done, 0)
                } else {
                    Ok(done)
                }
            }
        }
    }

    /// OpenSSL sends one record, the rest may go fast. So begins a TLS 1.3 client's
    /// first write, or a server's that sent no ticket: that record proves the key
    /// (R15).
    fn one_slow(&self, done: usize, mode: c_long) -> Result<usize, c_int> {
        match self.real(done, RECORD, 0) {
            Ok(more) => {
                self.park(IDLE, 0);
                let done = done + more;
                if done >= self.n || mode & SSL_MODE_ENABLE_PARTIAL_WRITE != 0 {
                    Ok(done)
                } else if is_fast(&self.call, self.conn, mode) {
                    self.fast(done, mode)
                } else {
                    self.slow(done, 0)
                }
            }
            Err(outcome) => {
                let open = done > 0 || self.call.waits();
                self.park(if open { SLOW } else { IDLE }, done);
                Err(outcome)
            }
        }
    }

    fn run(&self) -> Result<usize, c_int> {
        let mut done = 0;
        match self.conn.write_state.load(Ordering::Acquire) {
            PLACEHOLDER => {
                done = self.conn.write_done.load(Ordering::Acquire).min(self.n);
                if let Some(outcome) = self.overtake(done, self.call.mode()) {
                    return outcome;
                }
                // The program must repeat at least what it asked for; with less,
                // length 0 lets OpenSSL say so in its own words. (It may all be sent.)
                let at = self.conn.held_at.load(Ordering::Acquire);
                let enough = self.n > at && self.n >= done;
                self.real(at, usize::from(enough), 0)?;
                self.park(IDLE, 0);
                if done >= self.n {
                    return Ok(done);
                }
            }
            FAST => {
                // How much of that write is on the wire, nobody knows; OpenSSL says
                // "bad write retry" here and the connection is over.
                self.conn.poison(Reason::Abandoned);
                return self.slow(0, libc::EPIPE);
            }
            SLOW => return self.slow(self.conn.write_done.load(Ordering::Acquire).min(self.n), 0),
            _ => {}
        }
        let mode = self.call.mode();
        if done == 0 {
            limit::mind(&self.call, self.conn);
        }
        if self.conn.take_mark(mark::WRITE_SLOW_ONCE) {
            return self.one_slow(done, mode);
        }
        if is_fast(&self.call, self.conn, mode) {
            self.fast(done, mode)
        } else {
            self.slow(done, 0)
        }
    }
}

/// Ok: bytes taken. Err: what the real function said; `plain` returns its outcome
/// and how many bytes that stands for.
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
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return Err(lost);
    };
    let nested = call.is_nested();
    let found = call.conn();
    if let Some((_, conn)) = found.filter(|_| n != 0 && !buf.is_null() && !nested) {
        let write = Write {
            call,
            conn,
            buf: buf.cast(),
            n,
        };
        let idle = conn.write_state.load(Ordering::Acquire) == IDLE;
        if conn.tx.lane() == Lane::Kernel || !idle {
            let outcome = write.run();
            if outcome.is_ok() {
                conn.fast_end();
            }
            return outcome;
        }
        let waits_for_proof = conn.tx.lane() == Lane::Watch && !call.in_init();
        if n > RECORD && waits_for_proof && call.mode() & SSL_MODE_ENABLE_PARTIAL_WRITE == 0 {
            return write.one_slow(0, call.mode());
        }
    }
    let (outcome, done) = call.around(AtFd::default(), plain);
    if let Some((_, conn)) = call.conn().filter(|_| !nested) {
        Half::add(&conn.tx.before_bytes, done);
        // OpenSSL keeps a record that the socket did not take: the next write is
        // its, also if the kernel has the direction by then.
        let waits = outcome <= 0 && call.waits();
        conn.write_done.store(0, Ordering::Release);
        conn.write_state
            .store(if waits { SLOW } else { IDLE }, Ordering::Release);
    }
    Err(outcome)
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn write(ret: usize, s: *mut Ssl, buf: *const c_void, n: c_int) -> c_int {
    let size = usize::try_from(n).unwrap_or(0);
    let plain = |t: &'static Table| {
        let done = real!(t, SSL_write, s, buf, n);
        (done, usize::try_from(done).unwrap_or(0))
    };
    // SAFETY: passed on.
    match unsafe { transmit(ret, s, buf, size, -1, plain) } {
        Ok(done) => done as c_int,
        Err(outcome) => outcome,
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn write_ex(
    ret: usize,
    s: *mut Ssl,
    buf: *const c_void,
    n: usize,
    done: *mut usize,
) -> c_int {
    let plain = |t: &'static Table| {
        let outcome = real!(t, SSL_write_ex, s, buf, n, done);
        // SAFETY: the pointer that the program gave to this very function.
        (outcome, unsafe { written(outcome, done) })
    };
    // SAFETY: passed on.
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

/// Its flags concern QUIC streams only. From 3.3 on libssl's SSL_write_ex ends in a
/// jump to this function: such a nested call must reach the real one of this name.
///
/// # Safety
/// As libssl's.
pub unsafe fn write_ex2(
    ret: usize,
    s: *mut Ssl,
    buf: *const c_void,
    n: usize,
    flags: u64,
    done: *mut usize,
) -> c_int {
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return 0;
    };
    if flags == 0 && !call.is_nested() {
        // SAFETY: passed on.
        return unsafe { write_ex(ret, s, buf, n, done) };
    }
    call.around(AtFd::default(), |t| {
        real_later!(t, SSL_write_ex2, 0, s, buf, n, flags, done)
    })
}
