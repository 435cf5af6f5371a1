//! Which descriptor carries this connection's records?
//!
//! The one that libc I/O happens on while the connection's SSL call runs on this
//! thread, if it is a TCP socket (R1: ticket helpers talk to AF_UNIX sockets in
//! the same place). `SSL_set_fd` need not be believed: its BIO reads the fd too.

use core::sync::atomic::Ordering;

use super::{ConnId, Connection, Dir, Lane, mark, slab};
use crate::backend::sys;

use crate::fdtable::{self, Entry};
use crate::reason::Reason;

pub fn is_tcp(fd: i32) -> bool {
    let ask = |name| {
        let mut value = 0i32;
        // SAFETY: a plain number comes back.
        unsafe { sys::getsockopt(fd, libc::SOL_SOCKET, name, &mut value) }
            .ok()
            .map(|_| value)
    };
    ask(libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
        && ask(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

impl Connection {
    /// I/O in direction `dir` was seen on `fd` inside this connection's SSL call.
    /// True: the fd is this connection's.
    pub fn claim_fd(&self, id: ConnId, fd: i32, dir: Dir) -> bool {
        let half = self.half(dir);
        let known = half.fd.load(Ordering::Acquire);
        if known == fd && fdtable::entry(fd) == Entry::Conn(id) {
            return true;
        }
        if half.lane() != Lane::Watch {
            return false;
        }
        // Postfix asks another process for its tickets' keys inside SSL_accept (R1).
        if known != -1 && known != fd && !is_tcp(fd) {
            return false;
        }
        if known != -1 && known != fd {
            self.mark(mark::TWO_SOCKETS);
            self.refuse(Reason::TwoSockets);
            return false;
        }
        if let Entry::Conn(other) = fdtable::entry(fd)
            && other != id
            && !self.inherit(fd, other)
        {
            self.mark(mark::TWO_SOCKETS);
            self.refuse(Reason::TwoSockets);
            return false;
        }
        if !is_tcp(fd) {
            self.mark(mark::NOT_TCP);
            return false;
        }
        if !fdtable::set_conn(fd, id) {
            self.refuse(Reason::TableFull);
            return false;
        }
        half.fd.store(fd, Ordering::Release);
        true
    }

    /// The table says that `fd` is another connection's. A dead one, or one that
    /// is not in the kernel, makes way: descriptors are reused.
    fn inherit(&self, fd: i32, other: ConnId) -> bool {
        let Some(conn) = slab::by_id(other) else {
            fdtable::clear_if(fd, other);
            return true;
        };
        let kernel = |dir| conn.half(dir).lane() == Lane::Kernel;
        let serves = |dir| kernel(dir) && conn.is_my_socket(fd, dir);
        if serves(Dir::Rx) || serves(Dir::Tx) {
            return false;
        }
        if kernel(Dir::Rx) || kernel(Dir::Tx) {
            // Closed past our hooks, and not yet freed.
            fdtable::clear_if(fd, other);
            conn.fd_closed(fd);
            return true;
        }
        conn.refuse(Reason::TwoSockets);
        for half in [&conn.rx, &conn.tx] {
            if half.fd.load(Ordering::Acquire) == fd {
                half.fd.store(-1, Ordering::Release);
            }
        }
        fdtable::clear_if(fd, other);
        true
    }

    /// Is `fd` the very socket that the kernel serves for this direction?
    pub fn is_my_socket(&self, fd: i32, dir: Dir) -> bool {
        sys::cookie(fd) == Ok(self.half(dir).cookie.load(Ordering::Relaxed))
    }

    /// The program closed `fd`: what it numbers from now on is not ours.
    pub fn fd_closed(&self, fd: i32) {
        for half in [&self.rx, &self.tx] {
            if half.fd.load(Ordering::Acquire) == fd {
                half.fd.store(-1, Ordering::Release);
                half.refuse(Reason::NoFd);
                // With no descriptor left the fast lane must not reach the socket
                // either: plain OpenSSL would meet EBADF.
                self.mark(mark::SLOW_ONLY);
            }
        }
    }
}

/// Do two descriptors name one socket? Asked when reading and writing fds differ.
pub fn same_socket(a: i32, b: i32) -> bool {
    a == b
        || matches!(
            (sys::cookie(a), sys::cookie(b)),
            (Ok(x), Ok(y)) if x == y
        )
}
