//! libc calls that move bytes, or ask about them.
//!
//! A call is ours when the table says that its fd carries a connection, or when
//! it happens inside an SSL call of this thread, where a new fd may turn out to
//! be the connection's.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use crate::conn::discover::is_tcp;
use crate::conn::{self, ConnId, Connection, Dir, Lane, flag, mark, slab};
use crate::errno;
use crate::fdtable::{self, Entry};
use crate::reason::Reason;
use crate::thread;

/// Who owns `fd` in this direction?
fn owner(fd: i32, dir: Dir) -> Option<(ConnId, &'static Connection)> {
    if let Some(frame) = thread::top()
        && let Some(inner) = slab::by_id(frame.conn)
        && inner.half(dir).fd.load(Ordering::Acquire) != fd
    {
        match inner.half(dir).lane() {
            Lane::Watch => {
                inner.claim_fd(frame.conn, fd, dir);
            }
            // The connection's own socket under a number that we never saw made:
            // its records must be translated all the same.
            Lane::Kernel if fdtable::is_free(fd) && inner.is_my_socket(fd, dir) => {
                fdtable::set_conn(fd, frame.conn);
                return Some((frame.conn, inner));
            }
            _ => {}
        }
    }
    known(fd, dir)
}

/// Whose is `fd` by the table? Asks the kernel too: the number may have been closed past
/// our hooks (by fclose, say) and mean another file by now.
fn known(fd: i32, dir: Dir) -> Option<(ConnId, &'static Connection)> {
    let (id, conn) = conn::of_fd(fd)?;
    if conn.half(dir).lane() == Lane::Kernel && !conn.is_my_socket(fd, dir) {
        fdtable::clear_if(fd, id);
        conn.fd_closed(fd);
        return None;
    }
    Some((id, conn))
}

/// No connection's fd in this direction, and none of ours.
pub fn is_strange(fd: i32, dir: Dir) -> bool {
    owner(fd, dir).is_none() && fdtable::entry(fd) != Entry::Own
}

/// read, readv, recv, recvfrom, recvmsg, …; `real` is the very call that was made.
pub fn recv(fd: i32, iov: &[libc::iovec], flags: i32, real: &dyn Fn() -> isize) -> isize {
    match owner(fd, Dir::Rx) {
        Some((id, conn)) => conn.libc_recv(id, iov, flags, real),
        None if fdtable::entry(fd) == Entry::Own => errno::fail(libc::EBADF),
        None => real(),
    }
}

/// The connection whose records go to a socket that is not its own: the program gave
/// its SSL another descriptor. While the kernel sends, OpenSSL's numbers are ones that
/// the kernel has used, under the same key, so such a record must reach no network. A
/// program's own BIO may do other I/O here, which does not look like a record.
/// `owner` is whose socket it is: a number that was closed may be another's by now.
fn astray(fd: i32, iov: &[libc::iovec], owner: Option<ConnId>) -> Option<&'static Connection> {
    const ALERT: u8 = 21;
    const DATA: u8 = 23;

    let frame = thread::top().filter(|frame| frame.flags & flag::IN_BIO != 0)?;
    if owner == Some(frame.conn) {
        return None;
    }
    let conn = slab::by_id(frame.conn).filter(|conn| conn.tx.lane() == Lane::Kernel)?;
    let first = iov
        .iter()
        .find(|piece| piece.iov_len >= 2 && !piece.iov_base.is_null())?;
    // SAFETY: libc would read these bytes of the caller's now.
    let start = unsafe { first.iov_base.cast::<[u8; 2]>().read() };
    let away = matches!(start, [ALERT..=DATA, 3])
        && (owner.is_some() || is_tcp(fd))
        && !conn.is_my_socket(fd, Dir::Tx);
    away.then_some(conn)
}

/// write, writev, send, sendto, sendmsg, …
pub fn send(fd: i32, iov: &[libc::iovec], flags: i32, real: &dyn Fn() -> isize) -> isize {
    let found = owner(fd, Dir::Tx);
    if let Some(conn) = astray(fd, iov, found.map(|(id, _)| id)) {
        conn.poison(Reason::TwoSockets);
        return errno::fail(libc::EPIPE);
    }
    match found {
        Some((id, conn)) => conn.libc_send(id, fd, iov, flags, real),
        None if fdtable::entry(fd) == Entry::Own => errno::fail(libc::EBADF),
        None => real(),
    }
}

/// sendfile, splice, vmsplice, tee: bytes that would pass by the translation.
/// EINVAL is what these calls say about descriptors that cannot do it; programs
/// then read and write.
pub fn bulk(out: i32, from: i32, real: &dyn Fn() -> isize) -> isize {
    let translated = |fd: i32, dir: Dir| {
        known(fd, dir).is_some_and(|(_, conn)| {
            let half = conn.half(dir);
            half.lane() == Lane::Kernel && !half.closed.load(Ordering::Acquire)
        })
    };
    if translated(out, Dir::Tx) || translated(from, Dir::Rx) {
        return errno::fail(libc::EINVAL);
    }
    real()
}

/// FIONREAD counts what a raw read would return before the TCP queue's own.
pub fn ioctl(fd: i32, request: u64, arg: *mut c_void, real: &dyn Fn() -> i32) -> i32 {
    let outcome = real();
    if outcome == 0
        && request == libc::FIONREAD
        && !arg.is_null()
        && let Some((_, conn)) = known(fd, Dir::Rx)
    {
        let more = conn.wire_bytes();
        // SAFETY: FIONREAD has just written an int here.
        unsafe { *arg.cast::<c_int>() = (*arg.cast::<c_int>()).saturating_add(more as c_int) };
    }
    outcome
}

pub fn setsockopt(
    fd: i32,
    level: i32,
    name: i32,
    _value: *const c_void,
    _len: u32,
    real: &dyn Fn() -> i32,
) -> i32 {
    const TCP_ULP: i32 = 31;
    let outcome = real();
    if level == libc::IPPROTO_TCP && name == TCP_ULP && outcome == 0 {
        // OpenSSL's own kernel TLS: the connection is its from here (R14).
        let framed = thread::top().and_then(|frame| slab::by_id(frame.conn));
        if let Some(conn) = framed.or_else(|| conn::of_fd(fd).map(|(_, conn)| conn)) {
            conn.mark(mark::OPENSSL_KTLS);
            conn.refuse(Reason::OpensslKtls);
        }
    }
    outcome
}

pub fn getsockopt(
    _fd: i32,
    _level: i32,
    _name: i32,
    _value: *mut c_void,
    _len: *mut u32,
    real: &dyn Fn() -> i32,
) -> i32 {
    real()
}

/// Goes through as it is: the op socket sees the TCP socket's own state.
pub fn shutdown(_fd: i32, _how: i32, real: &dyn Fn() -> i32) -> i32 {
    real()
}

/// A socket that is connected anew is no connection that we know.
pub fn connect(fd: i32, real: &dyn Fn() -> i32) -> i32 {
    if let Some((id, conn)) = conn::of_fd(fd)
        && conn.rx.lane() != Lane::Kernel
        && conn.tx.lane() != Lane::Kernel
    {
        fdtable::clear_if(fd, id);
        conn.fd_closed(fd);
    }
    real()
}
