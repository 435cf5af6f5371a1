//! SSL_sendfile.
//!
//! Fast: the kernel reads the file and seals its pages, without a copy through
//! the process. After one "1" to `BIO_CTRL_GET_KTLS_SEND` the call is owed for
//! ever (R13): where the kernel does not have the direction, the file is read into
//! a buffer of the connection's and goes through SSL_write; the buffer stays until
//! OpenSSL has taken it, so that a retry never reads the file again.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use crate::backend::{Backend, alg};
use crate::conn::rx::sized;
use crate::conn::{Connection, Half, mark};
use crate::errno;
use crate::openssl::Ssl;

use super::call::{AtFd, Call, real_later};
use super::{limit, transmit};

const PIECE: usize = 16_384;

/// # Safety
/// As libssl's SSL_sendfile.
pub unsafe fn sendfile(
    ret: usize,
    s: *mut Ssl,
    fd: c_int,
    off: i64,
    size: usize,
    flags: c_int,
) -> isize {
    // SAFETY: the program's own promise about `s`.
    let Some(call) = (unsafe { Call::of(ret, s) }) else {
        return -1;
    };
    if let Some((_, conn)) = call.conn().filter(|_| !call.is_nested()) {
        if conn.write_state.load(Ordering::Acquire) == transmit::IDLE {
            limit::mind(&call, conn);
        }
        let idle = conn.write_state.load(Ordering::Acquire) == transmit::IDLE;
        if idle && transmit::is_fast(&call, conn, call.mode()) {
            return by_kernel(conn, fd, off, size);
        }
        if conn.is(mark::PROMISED) {
            return by_openssl(ret, conn, s, fd, off, size);
        }
    }
    call.around(AtFd::default(), |t| {
        real_later!(t, SSL_sendfile, -1, s, fd, off, size, flags)
    })
}

fn by_kernel(conn: &Connection, fd: c_int, off: i64, size: usize) -> isize {
    let op = conn.tx.op.load(Ordering::Acquire);
    let mut at = off as u64;
    match alg().sendfile(op, fd, &mut at, size, libc::MSG_NOSIGNAL) {
        Ok(sent) => {
            Half::add(&conn.tx.fast_bytes, sent);
            Half::add(&conn.tx.sendfile_bytes, sent);
            Half::add(&conn.tx.fast_calls, 1);
            Half::add(
                &conn.tx.key_records,
                sent.div_ceil(conn.record.load(Ordering::Relaxed)),
            );
            conn.fast_end();
            sent as isize
        }
        Err(e) => {
            if e == libc::EAGAIN || e == libc::EINTR || e == libc::EKEYEXPIRED {
                // EKEYEXPIRED: another thread is about to set the next key.
                conn.waits_for_room();
                return errno::fail(libc::EAGAIN);
            }
            conn.fast_end();
            errno::fail(e)
        }
    }
}

fn by_openssl(
    ret: usize,
    conn: &Connection,
    s: *mut Ssl,
    fd: c_int,
    off: i64,
    size: usize,
) -> isize {
    // What OpenSSL has not begun to send binds nobody: the next call may be about another
    // file, or another place in it.
    if conn.write_state.load(Ordering::Acquire) == transmit::IDLE {
        conn.file_left.store(0, Ordering::Release);
    }
    if conn.file_left.load(Ordering::Acquire) == 0 {
        let taken = conn
            .write
            .lock()
            .and_then(|mut side| sized(core::mem::take(&mut side.file), PIECE));
        let Some(mut file) = taken else {
            return errno::fail(libc::ENOMEM);
        };
        // SAFETY: the buffer has PIECE bytes.
        let got = unsafe { libc::pread(fd, file.as_mut_ptr().cast(), size.min(PIECE), off) };
        let Some(mut side) = conn.write.lock() else {
            return errno::fail(libc::EAGAIN);
        };
        side.file = file;
        side.file_at = 0;
        if got <= 0 {
            return got;
        }
        conn.file_left.store(got as usize, Ordering::Release);
    }
    let Some((from, len)) = conn.write.lock().and_then(|side| {
        let len = conn.file_left.load(Ordering::Acquire);
        side.file
            .get(side.file_at..side.file_at + len)
            .map(|bytes| (bytes.as_ptr(), len))
    }) else {
        return errno::fail(libc::EAGAIN);
    };
    // The buffer is not touched by anyone until OpenSSL has taken it.
    // SAFETY: `from` and `len` describe it; `s` is the program's.
    let done = unsafe { transmit::write(ret, s, from.cast(), len as c_int) };
    if done > 0 {
        if let Some(mut side) = conn.write.lock() {
            side.file_at += done as usize;
        }
        conn.file_left.fetch_sub(done as usize, Ordering::AcqRel);
    }
    done as isize
}
