//! libcrypto's BIO calls: what libssl really took and gave, and nginx's question.
//!
//! Counted is only the connection's outermost BIO, in a call that libssl makes
//! inside an SSL call: filters pass calls on to the next BIO, and libssl keeps its
//! transcript in a memory BIO.

use core::ffi::{c_char, c_int, c_long, c_void};
use core::sync::atomic::Ordering;

use crate::conn::{self, Connection, Half, Lane, mark, slab};
use crate::openssl::{BIO_C_GET_FD, BIO_CTRL_GET_KTLS_SEND, Bio, Ssl, crypto, resolver};
use crate::{errno, thread};

/// Frame flag: a BIO call of this SSL call is under way.
const IN_BIO: u32 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// The connection for which this BIO call counts.
///
/// # Safety
/// `b` is a live BIO.
unsafe fn counted(crypto: &crypto::Table, b: *mut Bio, way: Way) -> Option<&'static Connection> {
    let frame = thread::top()?;
    if frame.flags & IN_BIO != 0 {
        return None;
    }
    let conn = slab::by_id(frame.conn)?;
    let table = conn.table()?;
    let s = frame.ssl as *mut Ssl;
    // SAFETY: the frame's SSL is in a call, so it lives, and so do its BIOs.
    let outermost = unsafe {
        match way {
            Way::In => (table.SSL_get_rbio)(s) == b,
            Way::Out => {
                let wbio = (table.SSL_get_wbio)(s);
                // During a handshake libssl puts a buffer above it.
                wbio == b || (!wbio.is_null() && (crypto.BIO_next)(b) == wbio)
            }
        }
    };
    outermost.then_some(conn)
}

/// # Safety
/// `b`, and the memory that `real` uses, are the program's.
unsafe fn count(
    ret: usize,
    b: *mut Bio,
    way: Way,
    lost: c_int,
    real: impl FnOnce(&'static crypto::Table) -> c_int,
    moved: impl FnOnce(c_int) -> &'static [u8],
) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else { return lost };
    // SAFETY: as the caller vouches.
    let Some(conn) = (unsafe { counted(crypto, b, way) }) else { return real(crypto) };
    thread::with_top(|frame| frame.flags |= IN_BIO);
    let outcome = real(crypto);
    thread::with_top(|frame| frame.flags &= !IN_BIO);
    if outcome > 0 {
        note(conn, way, moved(outcome));
    }
    outcome
}

fn note(conn: &Connection, way: Way, bytes: &[u8]) {
    match way {
        Way::In => {
            let lane = conn.rx.lane();
            if lane != Lane::Raw {
                if let Some(mut side) = conn.read.lock() {
                    side.trace.feed(bytes, true);
                }
            }
            Half::add(&conn.rx.left, bytes.len());
        }
        Way::Out => {
            let lane = conn.tx.lane();
            if lane != Lane::Raw {
                if let Some(mut side) = conn.write.lock() {
                    side.trace.feed(bytes, true);
                    if !conn.tx.was_kernel.load(Ordering::Acquire) {
                        side.produced.feed(bytes);
                    }
                }
            }
            Half::add(&conn.tx.entered, bytes.len());
        }
    }
}


/// # Safety
/// As libcrypto's function of that name; so for all below.
pub unsafe fn read(ret: usize, b: *mut Bio, buf: *mut c_void, n: c_int) -> c_int {
    // SAFETY: BIO_read wrote `got` bytes there.
    let moved = |got: c_int| unsafe { core::slice::from_raw_parts(buf.cast::<u8>().cast_const(), got as usize) };
    unsafe { count(ret, b, Way::In, -1, |t| (t.BIO_read)(b, buf, n), moved) }
}

pub unsafe fn read_ex(ret: usize, b: *mut Bio, buf: *mut c_void, n: usize, got: *mut usize) -> c_int {
    // SAFETY: BIO_read_ex wrote `*got` bytes there.
    let moved = |_| unsafe { core::slice::from_raw_parts(buf.cast::<u8>().cast_const(), if got.is_null() { 0 } else { *got }) };
    unsafe { count(ret, b, Way::In, 0, |t| (t.BIO_read_ex)(b, buf, n, got), moved) }
}

pub unsafe fn write(ret: usize, b: *mut Bio, buf: *const c_void, n: c_int) -> c_int {
    // SAFETY: BIO_write took `done` bytes from there.
    let moved = |done: c_int| unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), done as usize) };
    unsafe { count(ret, b, Way::Out, -1, |t| (t.BIO_write)(b, buf, n), moved) }
}

pub unsafe fn write_ex(ret: usize, b: *mut Bio, buf: *const c_void, n: usize, done: *mut usize) -> c_int {
    // SAFETY: BIO_write_ex took `*done` bytes from there.
    let moved = |_| unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), if done.is_null() { 0 } else { *done }) };
    unsafe { count(ret, b, Way::Out, 0, |t| (t.BIO_write_ex)(b, buf, n, done), moved) }
}

pub unsafe fn puts(ret: usize, b: *mut Bio, text: *const c_char) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else { return -1 };
    unsafe { (crypto.BIO_puts)(b, text) }
}

pub unsafe fn gets(ret: usize, b: *mut Bio, text: *mut c_char, n: c_int) -> c_int {
    let Some(crypto) = resolver::caller(ret).crypto else { return -1 };
    unsafe { (crypto.BIO_gets)(b, text, n) }
}

/// BIO_ctrl. Inside it a filter's flush writes to the next BIO again: not counted.
/// And nginx's question "does this BIO send by kernel TLS?" gets our answer.
pub unsafe fn ctrl(ret: usize, b: *mut Bio, command: c_int, larg: c_long, parg: *mut c_void) -> c_long {
    let caller = resolver::caller(ret);
    let Some(crypto) = caller.crypto else { return -1 };
    if command == BIO_CTRL_GET_KTLS_SEND
        && !caller.in_libssl
        && !caller.in_libcrypto
        && !thread::in_bio_ctrl()
        && unsafe { answer(crypto, b) }
    {
        return 1;
    }
    let in_frame = thread::with_top(|frame| {
        let before = frame.flags;
        frame.flags |= IN_BIO;
        before
    });
    thread::bio_ctrl_enter();
    let outcome = unsafe { (crypto.BIO_ctrl)(b, command, larg, parg) };
    thread::bio_ctrl_leave();
    if let Some(before) = in_frame {
        thread::with_top(|frame| frame.flags = before);
    }
    outcome
}

/// May the program use SSL_sendfile on the connection behind `b`? Only when `b`
/// is its outermost write BIO: a filter above would be bypassed.
unsafe fn answer(crypto: &crypto::Table, b: *mut Bio) -> bool {
    if thread::any_frame() && thread::top().is_some() {
        return false;
    }
    errno::preserve(|| {
        let mut fd: c_int = -1;
        thread::bio_ctrl_enter();
        // SAFETY: BIO_C_GET_FD writes an int.
        let known = unsafe { (crypto.BIO_ctrl)(b, BIO_C_GET_FD, 0, (&raw mut fd).cast()) };
        thread::bio_ctrl_leave();
        if known < 0 || fd < 0 {
            return false;
        }
        let Some((_, conn)) = conn::of_fd(fd) else { return false };
        let Some(table) = conn.table() else { return false };
        let s = conn.ssl.load(Ordering::Acquire) as *const Ssl;
        // SAFETY: the connection is live, so is its SSL.
        let outermost = !s.is_null() && unsafe { (table.SSL_get_wbio)(s) } == b;
        let can = conn.tx.lane() == Lane::Kernel && !conn.is(mark::SLOW_ONLY);
        if outermost && (can || conn.is(mark::PROMISED)) {
            conn.mark(mark::PROMISED);
            return true;
        }
        false
    })
}
