//! libcrypto's BIO calls: what libssl really took and gave, and nginx's question.
//!
//! Counted is only the connection's outermost BIO, in a call that libssl makes
//! inside an SSL call: filters pass calls on to the next BIO, and libssl keeps its
//! transcript in a memory BIO.

use core::ffi::{c_char, c_int, c_long, c_void};
use core::sync::atomic::Ordering;

use crate::conn::{self, Connection, Half, Lane, mark, slab};
use crate::openssl::{
    BIO_C_GET_FD, BIO_C_SET_SSL, BIO_CTRL_FLUSH, BIO_CTRL_GET_KTLS_SEND, Bio, Ssl, crypto, resolver,
};
use crate::reason::Reason;
use crate::{errno, thread};

use super::call::{Call, known_or_new, real};
use super::ssl::show_held;

use crate::conn::flag::{IN_BIO, USED_BIO};

#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// The connection for which this BIO call counts.
fn counted(b: *mut Bio, way: Way) -> Option<&'static Connection> {
    let frame = thread::top()?;
    if frame.flags & IN_BIO != 0 {
        return None;
    }
    let conn = slab::by_id(frame.conn)?;
    // The frame's SSL is in a call, so it lives, and so do its BIOs.
    let live = conn.live()?;
    let outermost = match way {
        Way::In => live.rbio() == b,
        // During a handshake libssl puts a buffer above the program's BIO.
        // SAFETY: libssl is calling with `b`.
        Way::Out => unsafe { live.is_outermost_wbio(b) },
    };
    outermost.then_some(conn)
}

/// Makes the real call and counts what it moved; `moved` gives the bytes for a
/// positive outcome.
fn count<'a>(
    crypto: &'static crypto::Table,
    b: *mut Bio,
    way: Way,
    real: impl FnOnce(&'static crypto::Table) -> c_int,
    moved: impl FnOnce(c_int) -> &'a [u8],
) -> c_int {
    let Some(conn) = counted(b, way) else {
        return real(crypto);
    };
    thread::with_top(|frame| frame.flags |= IN_BIO | USED_BIO);
    let outcome = real(crypto);
    thread::with_top(|frame| frame.flags &= !IN_BIO);
    if outcome > 0 {
        note(conn, way, moved(outcome));
    }
    outcome
}

fn note(conn: &Connection, way: Way, bytes: &[u8]) {
    // A proof will want the last record: before the first attach, and after a
    // renegotiation, whose Finished libssl may produce while the kernel still sends.
    let lane = match way {
        Way::In => conn.rx.lane(),
        Way::Out => conn.tx.lane(),
    };
    let keep = lane == Lane::Watch || conn.live().is_some_and(|live| live.in_init());
    match way {
        Way::In => {
            if lane != Lane::Raw
                && let Some(mut side) = conn.read.lock()
            {
                side.trace.feed(bytes, keep);
            }
            Half::add(&conn.rx.left, bytes.len());
        }
        Way::Out => {
            if lane != Lane::Raw
                && let Some(mut side) = conn.write.lock()
            {
                side.trace.feed(bytes, keep);
                if !conn.tx.was_kernel.load(Ordering::Acquire) {
                    side.produced.feed(bytes);
                }
            }
            Half::add(&conn.tx.entered, bytes.len());
        }
    }
}

/// The bytes at `at`, which a call that has just succeeded read or wrote.
///
/// # Safety
/// `n` bytes are readable there until the hook returns.
unsafe fn bytes<'a>(at: *const c_void, n: usize) -> &'a [u8] {
    if at.is_null() {
        &[]
    } else {
        // SAFETY: as the caller vouches.
        unsafe { core::slice::from_raw_parts(at.cast(), n) }
    }
}

/// # Safety
/// As libcrypto's function of that name; so for all below.
pub unsafe fn read(ret: usize, b: *mut Bio, buf: *mut c_void, n: c_int) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return -1;
    };
    // SAFETY: BIO_read wrote that many bytes.
    let moved = |got: c_int| unsafe { bytes(buf, got as usize) };
    count(crypto, b, Way::In, |t| real!(t, BIO_read, b, buf, n), moved)
}

/// # Safety
/// As libcrypto's.
pub unsafe fn read_ex(
    ret: usize,
    b: *mut Bio,
    buf: *mut c_void,
    n: usize,
    got: *mut usize,
) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return 0;
    };
    // SAFETY: BIO_read_ex wrote `*got` bytes.
    let moved = |_| unsafe { bytes(buf, got.as_ref().copied().unwrap_or(0)) };
    count(
        crypto,
        b,
        Way::In,
        |t| real!(t, BIO_read_ex, b, buf, n, got),
        moved,
    )
}

/// # Safety
/// As libcrypto's.
pub unsafe fn write(ret: usize, b: *mut Bio, buf: *const c_void, n: c_int) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return -1;
    };
    // SAFETY: BIO_write took that many bytes.
    let moved = |done: c_int| unsafe { bytes(buf, done as usize) };
    count(
        crypto,
        b,
        Way::Out,
        |t| real!(t, BIO_write, b, buf, n),
        moved,
    )
}

/// # Safety
/// As libcrypto's.
pub unsafe fn write_ex(
    ret: usize,
    b: *mut Bio,
    buf: *const c_void,
    n: usize,
    done: *mut usize,
) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return 0;
    };
    // SAFETY: BIO_write_ex took `*done` bytes.
    let moved = |_| unsafe { bytes(buf, done.as_ref().copied().unwrap_or(0)) };
    count(
        crypto,
        b,
        Way::Out,
        |t| real!(t, BIO_write_ex, b, buf, n, done),
        moved,
    )
}

/// # Safety
/// As libcrypto's.
pub unsafe fn puts(ret: usize, b: *mut Bio, text: *const c_char) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return -1;
    };
    real!(crypto, BIO_puts, b, text)
}

/// # Safety
/// As libcrypto's.
pub unsafe fn gets(ret: usize, b: *mut Bio, text: *mut c_char, n: c_int) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else {
        return -1;
    };
    real!(crypto, BIO_gets, b, text, n)
}

/// BIO_ctrl. Inside it a filter's flush writes to the next BIO again: not counted.
/// And nginx's question "does this BIO send by kernel TLS?" gets our answer.
///
/// # Safety
/// As libcrypto's.
pub unsafe fn ctrl(
    ret: usize,
    b: *mut Bio,
    command: c_int,
    larg: c_long,
    parg: *mut c_void,
) -> c_long {
    let caller = resolver::caller(ret);
    let Some(crypto) = caller.crypto else {
        return -1;
    };
    let asked_by_program = command == BIO_CTRL_GET_KTLS_SEND
        && !caller.in_libssl
        && !caller.in_libcrypto
        && !thread::in_bio_ctrl()
        && thread::top().is_none();
    if asked_by_program && errno::preserve(|| answer(crypto, b)) {
        return 1;
    }
    if command == BIO_C_SET_SSL && !parg.is_null() {
        // SAFETY: this command passes a live SSL of the library's.
        unsafe { behind_bio(ret, parg.cast()) };
    }
    let before = thread::with_top(|frame| {
        if command == BIO_CTRL_FLUSH {
            frame.flags |= USED_BIO;
        }
        let before = frame.flags;
        frame.flags |= IN_BIO;
        before
    });
    thread::bio_ctrl_enter();
    let outcome = real!(crypto, BIO_ctrl, b, command, larg, parg);
    thread::bio_ctrl_leave();
    if let Some(before) = before {
        thread::with_top(|frame| frame.flags = before);
    }
    outcome
}

/// Data of this SSL will go through the internal functions of libssl (R11).
///
/// # Safety
/// `s` is a live SSL.
unsafe fn behind_bio(ret: usize, s: *mut Ssl) {
    // SAFETY: as the caller vouches.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return;
    };
    if let Some((_, conn)) = known_or_new(&call) {
        // Nor can such a read find what we hold.
        conn.mark(mark::HIDDEN | mark::SSL_BIO);
        show_held(&call);
        conn.refuse(Reason::SslBio);
    }
}

/// May the program use SSL_sendfile on the connection behind `b`? Only when `b`
/// is its outermost write BIO: a filter above would be bypassed.
fn answer(crypto: &'static crypto::Table, b: *mut Bio) -> bool {
    let mut fd: c_int = -1;
    thread::bio_ctrl_enter();
    // SAFETY: the program's BIO; BIO_C_GET_FD writes an int.
    let known = unsafe { (crypto.BIO_ctrl)(b, BIO_C_GET_FD, 0, (&raw mut fd).cast()) };
    thread::bio_ctrl_leave();
    if known < 0 || fd < 0 {
        return false;
    }
    let Some((_, conn)) = conn::of_fd(fd) else {
        return false;
    };
    let outermost = conn.live().is_some_and(|live| live.wbio() == b);
    // A BIO that buffers would keep what OpenSSL seals in place of a sendfile, and who
    // uses SSL_sendfile has no reason to flush.
    let can = conn.tx.lane() == Lane::Kernel && !conn.is(mark::SLOW_ONLY | mark::OWN_WBIO);
    if outermost && (can || conn.is(mark::PROMISED)) {
        conn.mark(mark::PROMISED);
        return true;
    }
    false
}
