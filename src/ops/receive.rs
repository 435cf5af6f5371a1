//! SSL_read, SSL_peek and what tells of pending data.
//!
//! Fast: one receive on the op socket. Everything that is not plain data, every
//! error and every wait goes to the real function, which meets it at the fd by
//! the virtual wire: OpenSSL and the program's BIO set their own state (R4).

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use crate::conn::fast::Fast;
use crate::conn::{Connection, Half, Lane, flag, mark};
use crate::openssl::ask::Live;
use crate::openssl::{SSL_MODE_ASYNC, SSL_RECEIVED_SHUTDOWN, Ssl, ssl::Table};
use crate::planted::{self, Plant};
use crate::thread;

use super::call::{AtFd, Call, real, written};

/// May this read take data from the op socket, past OpenSSL?
fn is_fast(live: &Live, conn: &Connection) -> bool {
    conn.rx.lane() == Lane::Kernel
        && !conn.is(mark::SLOW_ONLY | mark::HIDDEN)
        && !conn.rx.closed.load(Ordering::Acquire)
        && (planted::is(Plant::FastWhileWireBusy)
            || !conn.rx.wire_busy.load(Ordering::Acquire) && conn.rx.level())
        && !conn.rx.message_open.load(Ordering::Acquire)
        && !live.in_init()
        && (live.shutdown_state() & SSL_RECEIVED_SHUTDOWN == 0
            || planted::is(Plant::IgnoreReceivedShutdown))
        && !live.has_pending()
        && !live.is_renegotiating()
        && live.mode() & SSL_MODE_ASYNC == 0
}

/// Tries the fast lane. Err: what the real function is to meet at the fd.
fn fast(call: &Call, conn: &Connection, out: &mut [u8], peek: bool) -> Result<usize, AtFd> {
    let held = conn.held.load(Ordering::Acquire) != 0;
    if call.is_nested() {
        return Err(AtFd::default());
    }
    if out.is_empty() {
        // OpenSSL decides what an empty read does (R18), and needs to see that
        // there is something to read.
        conn.give_back_held();
        return Err(AtFd::default());
    }
    if !held && !is_fast(call, conn) {
        return Err(AtFd::default());
    }
    if !held && conn.take_mark(mark::READ_SLOW_ONCE) {
        return Err(AtFd::default());
    }
    match conn.fast_read(out, peek) {
        Fast::Done(got) => {
            conn.fast_end();
            Ok(got)
        }
        // A BIO that remembers its last failure must not be told of one that the fast
        // lane then makes good (R5): it gets all there is.
        Fast::Slow => Err(AtFd {
            one: conn.rx.lane() == Lane::Kernel && !conn.is(mark::WARY_READ),
            ..AtFd::default()
        }),
        Fast::Errno(e) => Err(AtFd {
            read: e,
            ..AtFd::default()
        }),
    }
}

/// Ok: bytes that the fast lane delivered. Err: what the real function said; it
/// returns its outcome and how many bytes that stands for.
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
    real: impl Fn(&'static Table) -> (c_int, usize),
) -> Result<usize, c_int> {
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return Err(lost);
    };
    let found = call.conn();
    let watching = found.is_some_and(|(_, conn)| conn.rx.lane() != Lane::Kernel);
    let (outcome, got) = loop {
        let mut at_fd = AtFd::default();
        if let Some((_, conn)) = found.filter(|_| !buf.is_null()) {
            // SAFETY: the program gave `n` writable bytes.
            let out = unsafe {
                core::slice::from_raw_parts_mut(buf.cast::<u8>(), n.min(isize::MAX as usize))
            };
            match fast(&call, conn, out, peek) {
                Ok(got) => return Ok(got),
                Err(meets) => at_fd = meets,
            }
        }
        let (outcome, got, asked) = call.around(at_fd, |table| {
            let (outcome, got) = real(table);
            let flags = thread::with_top(|frame| frame.flags).unwrap_or(0);
            (outcome, got, flags & flag::ASKED != 0)
        });
        // OpenSSL took a control record and wants what follows it: that is for the
        // fast lane to get, and to wait for.
        if !(asked && at_fd.one && outcome <= 0) {
            break (outcome, got);
        }
    };
    if outcome <= 0
        && let Some((_, conn)) = call.conn()
    {
        conn.read_failed();
        if call.wants_read() {
            conn.mark(mark::DRAINED);
        }
    }
    // The call may have made the connection: ask again.
    let now = if watching {
        found
    } else {
        call.conn().filter(|_| found.is_none())
    };
    if let Some((_, conn)) = now.filter(|_| got != 0 && !peek && !call.is_nested()) {
        Half::add(&conn.rx.before_bytes, got);
    }
    Err(outcome)
}

fn size(n: c_int) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn read(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int {
    let plain = |t: &'static Table| {
        let got = real!(t, SSL_read, s, buf, n);
        (got, size(got))
    };
    // SAFETY: passed on.
    match unsafe { receive(ret, s, buf, size(n), false, -1, plain) } {
        Ok(got) => got as c_int,
        Err(outcome) => outcome,
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn peek(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int {
    let plain = |t: &'static Table| {
        let got = real!(t, SSL_peek, s, buf, n);
        (got, size(got))
    };
    // SAFETY: passed on.
    match unsafe { receive(ret, s, buf, size(n), true, -1, plain) } {
        Ok(got) => got as c_int,
        Err(outcome) => outcome,
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn read_ex(
    ret: usize,
    s: *mut Ssl,
    buf: *mut c_void,
    n: usize,
    got: *mut usize,
) -> c_int {
    let plain = |t: &'static Table| {
        let outcome = real!(t, SSL_read_ex, s, buf, n, got);
        // SAFETY: the pointer that the program gave to this very function.
        (outcome, unsafe { written(outcome, got) })
    };
    // SAFETY: passed on.
    store(unsafe { receive(ret, s, buf, n, false, 0, plain) }, got)
}

/// # Safety
/// As libssl's.
pub unsafe fn peek_ex(
    ret: usize,
    s: *mut Ssl,
    buf: *mut c_void,
    n: usize,
    got: *mut usize,
) -> c_int {
    let plain = |t: &'static Table| {
        let outcome = real!(t, SSL_peek_ex, s, buf, n, got);
        // SAFETY: the pointer that the program gave to this very function.
        (outcome, unsafe { written(outcome, got) })
    };
    // SAFETY: passed on.
    store(unsafe { receive(ret, s, buf, n, true, 0, plain) }, got)
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
///
/// # Safety
/// As libssl's.
pub unsafe fn pending(ret: usize, s: *const Ssl) -> c_int {
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return 0;
    };
    match held(&call) {
        0 => call.pending(),
        held => held as c_int,
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn has_pending(ret: usize, s: *const Ssl) -> c_int {
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return 0;
    };
    c_int::from(held(&call) != 0 || call.has_pending())
}

fn held(call: &Call) -> usize {
    call.conn()
        .map_or(0, |(_, conn)| conn.held.load(Ordering::Acquire))
}
