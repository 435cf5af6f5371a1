//! libc's calls on descriptors (P22).
//!
//! Each starts with the same refusal: no SSL call on this thread, no entry in the
//! table, then the real call and nothing else. `redhook` makes the symbols; its own
//! way to the real function (a std `Once`) is only reached after a panic that leaves
//! the body, and none does: the slow half runs in `guard`.
//!
//! `fcntl` and `ioctl` are variadic in C. Defining them with three fixed arguments
//! is the same on this ABI: the third arrives in the same register, and is passed
//! on unread where the command has none.

use crate::boundary::guard;
use crate::conn::Dir;
use crate::ops::{fd as fds, io};
use crate::{fdtable, real, thread};
use core::cell::Cell;
use libc::{
    MSG_DONTWAIT, MSG_WAITFORONE, c_int, c_uint, c_ulong, c_void, iovec, mmsghdr, msghdr, off_t,
    size_t, sockaddr, socklen_t, ssize_t, timespec,
};
use redhook::hook;

const RWF_NOWAIT: c_int = 8;
const F_DUPFD: c_int = 0;
const F_DUPFD_CLOEXEC: c_int = 1030;

/// The real function, with the program's own arguments.
macro_rules! call {
    ($name:ident($($v:expr),*)) => {
        // SAFETY: the very call that the program made: its arguments, its promises.
        unsafe { real::$name($($v),*) }
    };
}

/// The same for the slow half, where frames of ours lie below it.
macro_rules! slow {
    ($name:ident($($v:expr),*)) => {
        // SAFETY: as in `call`.
        unsafe { real::unwinding::$name($($v),*) }
    };
}

/// A hook's decision: the real function if the call is not ours, else the operation,
/// which gets the real function as `$go`.
macro_rules! unless {
    ($not_ours:expr, $name:ident($($v:expr),*), |$go:ident| $op:expr) => {
        if $not_ours { call!($name($($v),*)) } else { guard(-1, || { let $go = &|| slow!($name($($v),*)); $op }) }
    };
}

/// Nothing of ours: one slot load and one table look-up.
#[inline(always)]
fn foreign(fd: c_int) -> bool {
    !thread::any_frame() && fdtable::is_free(fd)
}

#[inline(always)]
fn part(b: *const c_void, n: size_t) -> [iovec; 1] {
    [iovec {
        iov_base: b.cast_mut(),
        iov_len: n,
    }]
}

/// The program's buffers; none if the array is not one (the real call says so).
fn parts<'a>(v: *const iovec, n: usize) -> &'a [iovec] {
    if v.is_null() || n > libc::UIO_MAXIOV as usize {
        return &[];
    }
    // SAFETY: the program passes `n` entries there, as the real call demands.
    unsafe { core::slice::from_raw_parts(v, n) }
}

fn count(n: c_int) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// A message header's buffers.
fn pieces<'a>(m: *const msghdr) -> &'a [iovec] {
    // SAFETY: null, or the program's message header, as the real call demands.
    unsafe { m.as_ref() }.map_or(&[], |m| parts(m.msg_iov, m.msg_iovlen))
}

#[cold]
fn slow_recvmsg(fd: c_int, m: *mut msghdr, flags: c_int) -> ssize_t {
    let asked = Cell::new(false);
    let go = || {
        asked.set(true);
        slow!(recvmsg(fd, m, flags))
    };
    let got = guard(-1, || io::recv(fd, pieces(m), flags, &go));
    // SAFETY: as in `pieces`.
    if let Some(m) = unsafe { m.as_mut() }.filter(|_| got >= 0 && !asked.get()) {
        // Served by the shim: what TCP would have filled in, namely nothing.
        (m.msg_flags, m.msg_controllen, m.msg_namelen) = (0, 0, 0);
    }
    got
}

#[cold]
fn slow_sendmsg(fd: c_int, m: *const msghdr, flags: c_int) -> ssize_t {
    guard(-1, || {
        io::send(fd, pieces(m), flags, &|| slow!(sendmsg(fd, m, flags)))
    })
}

/// Not a connection's after all, only used during an SSL call.
#[cold]
fn stranger(fd: c_int, dir: Dir) -> bool {
    guard(true, || io::is_strange(fd, dir))
}

/// Many messages on a connection: like one call each, until one fails or comes short.
#[cold]
fn each(v: *mut mmsghdr, n: c_uint, one: impl Fn(&mut mmsghdr, bool) -> ssize_t) -> c_int {
    let mut done = 0;
    while done < n.min(libc::UIO_MAXIOV as c_uint) && !v.is_null() {
        // SAFETY: the program passes `n` entries there.
        let m = unsafe { &mut *v.add(done as usize) };
        let r = one(m, done > 0);
        if r < 0 {
            return if done == 0 { -1 } else { done as c_int };
        }
        m.msg_len = r as c_uint;
        done += 1;
        if r == 0 {
            break;
        }
    }
    done as c_int
}

fn nowait(flags: c_int) -> c_int {
    if flags & RWF_NOWAIT != 0 {
        MSG_DONTWAIT
    } else {
        0
    }
}

// Receiving.

hook! { unsafe fn read(fd: c_int, b: *mut c_void, n: size_t) -> ssize_t => on_read {
    unless!(foreign(fd), read(fd, b, n), |go| io::recv(fd, &part(b, n), 0, go))
} }
hook! { unsafe fn __read(fd: c_int, b: *mut c_void, n: size_t) -> ssize_t => on_read_alias {
    unless!(foreign(fd), read(fd, b, n), |go| io::recv(fd, &part(b, n), 0, go))
} }
hook! { unsafe fn __read_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t) -> ssize_t => on_read_chk {
    // Too long for the buffer: libc ends the program, as it would without us.
    unless!(foreign(fd) || n > room, __read_chk(fd, b, n, room), |go| io::recv(fd, &part(b, n), 0, go))
} }
hook! { unsafe fn readv(fd: c_int, v: *const iovec, n: c_int) -> ssize_t => on_readv {
    unless!(foreign(fd), readv(fd, v, n), |go| io::recv(fd, parts(v, count(n)), 0, go))
} }
hook! { unsafe fn preadv2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t => on_preadv2 {
    unless!(foreign(fd) || off != -1, preadv2(fd, v, n, off, flags), |go| io::recv(fd, parts(v, count(n)), nowait(flags), go))
} }
hook! { unsafe fn preadv64v2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t => on_preadv64v2 {
    unless!(foreign(fd) || off != -1, preadv2(fd, v, n, off, flags), |go| io::recv(fd, parts(v, count(n)), nowait(flags), go))
} }
hook! { unsafe fn recv(fd: c_int, b: *mut c_void, n: size_t, flags: c_int) -> ssize_t => on_recv {
    unless!(foreign(fd), recv(fd, b, n, flags), |go| io::recv(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn __recv_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t, flags: c_int) -> ssize_t => on_recv_chk {
    unless!(foreign(fd) || n > room, __recv_chk(fd, b, n, room, flags), |go| io::recv(fd, &part(b, n), flags, go))
} }
// TCP leaves the address of recvfrom alone, so bytes alone are the whole answer.
hook! { unsafe fn recvfrom(fd: c_int, b: *mut c_void, n: size_t, flags: c_int, from: *mut sockaddr, len: *mut socklen_t) -> ssize_t => on_recvfrom {
    unless!(foreign(fd), recvfrom(fd, b, n, flags, from, len), |go| io::recv(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn __recvfrom_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t, flags: c_int, from: *mut sockaddr, len: *mut socklen_t) -> ssize_t => on_recvfrom_chk {
    unless!(foreign(fd) || n > room, __recvfrom_chk(fd, b, n, room, flags, from, len), |go| io::recv(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn recvmsg(fd: c_int, m: *mut msghdr, flags: c_int) -> ssize_t => on_recvmsg {
    if foreign(fd) { call!(recvmsg(fd, m, flags)) } else { slow_recvmsg(fd, m, flags) }
} }
hook! { unsafe fn recvmmsg(fd: c_int, v: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> c_int => on_recvmmsg {
    if foreign(fd) || stranger(fd, Dir::Rx) { return call!(recvmmsg(fd, v, n, flags, timeout)); }
    let later = if flags & MSG_WAITFORONE != 0 { MSG_DONTWAIT } else { 0 };
    each(v, n, |m, more| slow_recvmsg(fd, &mut m.msg_hdr, flags & !MSG_WAITFORONE | if more { later } else { 0 }))
} }

// Sending.

hook! { unsafe fn write(fd: c_int, b: *const c_void, n: size_t) -> ssize_t => on_write {
    unless!(foreign(fd), write(fd, b, n), |go| io::send(fd, &part(b, n), 0, go))
} }
hook! { unsafe fn __write(fd: c_int, b: *const c_void, n: size_t) -> ssize_t => on_write_alias {
    unless!(foreign(fd), write(fd, b, n), |go| io::send(fd, &part(b, n), 0, go))
} }
hook! { unsafe fn writev(fd: c_int, v: *const iovec, n: c_int) -> ssize_t => on_writev {
    unless!(foreign(fd), writev(fd, v, n), |go| io::send(fd, parts(v, count(n)), 0, go))
} }
hook! { unsafe fn pwritev2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t => on_pwritev2 {
    unless!(foreign(fd) || off != -1, pwritev2(fd, v, n, off, flags), |go| io::send(fd, parts(v, count(n)), nowait(flags), go))
} }
hook! { unsafe fn pwritev64v2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t => on_pwritev64v2 {
    unless!(foreign(fd) || off != -1, pwritev2(fd, v, n, off, flags), |go| io::send(fd, parts(v, count(n)), nowait(flags), go))
} }
hook! { unsafe fn send(fd: c_int, b: *const c_void, n: size_t, flags: c_int) -> ssize_t => on_send {
    unless!(foreign(fd), send(fd, b, n, flags), |go| io::send(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn __send(fd: c_int, b: *const c_void, n: size_t, flags: c_int) -> ssize_t => on_send_alias {
    unless!(foreign(fd), send(fd, b, n, flags), |go| io::send(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn sendto(fd: c_int, b: *const c_void, n: size_t, flags: c_int, to: *const sockaddr, len: socklen_t) -> ssize_t => on_sendto {
    unless!(foreign(fd), sendto(fd, b, n, flags, to, len), |go| io::send(fd, &part(b, n), flags, go))
} }
hook! { unsafe fn sendmsg(fd: c_int, m: *const msghdr, flags: c_int) -> ssize_t => on_sendmsg {
    if foreign(fd) { call!(sendmsg(fd, m, flags)) } else { slow_sendmsg(fd, m, flags) }
} }
hook! { unsafe fn sendmmsg(fd: c_int, v: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int => on_sendmmsg {
    if foreign(fd) || stranger(fd, Dir::Tx) { return call!(sendmmsg(fd, v, n, flags)); }
    each(v, n, |m, _| slow_sendmsg(fd, &m.msg_hdr, flags))
} }

// From descriptor to descriptor.

hook! { unsafe fn sendfile(to: c_int, from: c_int, off: *mut off_t, n: size_t) -> ssize_t => on_sendfile {
    unless!(foreign(to) && foreign(from), sendfile(to, from, off, n), |go| io::bulk(to, from, go))
} }
hook! { unsafe fn sendfile64(to: c_int, from: c_int, off: *mut off_t, n: size_t) -> ssize_t => on_sendfile64 {
    unless!(foreign(to) && foreign(from), sendfile(to, from, off, n), |go| io::bulk(to, from, go))
} }
hook! { unsafe fn splice(from: c_int, off_in: *mut off_t, to: c_int, off_out: *mut off_t, n: size_t, flags: c_uint) -> ssize_t => on_splice {
    unless!(foreign(to) && foreign(from), splice(from, off_in, to, off_out, n, flags), |go| io::bulk(to, from, go))
} }
hook! { unsafe fn vmsplice(fd: c_int, v: *const iovec, n: size_t, flags: c_uint) -> ssize_t => on_vmsplice {
    unless!(foreign(fd), vmsplice(fd, v, n, flags), |go| io::bulk(fd, -1, go))
} }
hook! { unsafe fn tee(from: c_int, to: c_int, n: size_t, flags: c_uint) -> ssize_t => on_tee {
    unless!(foreign(to) && foreign(from), tee(from, to, n, flags), |go| io::bulk(to, from, go))
} }

// Questions and options.

hook! { unsafe fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int => on_ioctl {
    unless!(foreign(fd), ioctl(fd, request, arg), |go| io::ioctl(fd, request, arg, go))
} }
hook! { unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, v: *mut c_void, len: *mut socklen_t) -> c_int => on_getsockopt {
    unless!(foreign(fd), getsockopt(fd, level, name, v, len), |go| io::getsockopt(fd, level, name, v, len, go))
} }
hook! { unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, v: *const c_void, len: socklen_t) -> c_int => on_setsockopt {
    unless!(foreign(fd), setsockopt(fd, level, name, v, len), |go| io::setsockopt(fd, level, name, v, len, go))
} }
hook! { unsafe fn shutdown(fd: c_int, how: c_int) -> c_int => on_shutdown {
    unless!(foreign(fd), shutdown(fd, how), |go| io::shutdown(fd, how, go))
} }
hook! { unsafe fn connect(fd: c_int, to: *const sockaddr, len: socklen_t) -> c_int => on_connect {
    unless!(foreign(fd), connect(fd, to, len), |go| io::connect(fd, go))
} }

// What a number means. These look at the table alone: an SSL call in progress says
// nothing about which descriptors a thread closes.

hook! { unsafe fn close(fd: c_int) -> c_int => on_close {
    unless!(fdtable::is_free(fd), close(fd), |go| fds::close(fd, go))
} }
hook! { unsafe fn __close(fd: c_int) -> c_int => on_close_alias {
    unless!(fdtable::is_free(fd), close(fd), |go| fds::close(fd, go))
} }
hook! { unsafe fn closefrom(low: c_int) => on_closefrom {
    if fdtable::is_empty() { return call!(closefrom(low)); }
    let go = |first: u32, last: u32| slow!(close_range(first, last, 0));
    guard(-1, || fds::closing_range(low.max(0) as u32, u32::MAX, 0, &go));
} }
hook! { unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => on_close_range {
    if fdtable::is_empty() { return call!(close_range(first, last, flags)); }
    let go = |first: u32, last: u32| slow!(close_range(first, last, flags));
    guard(-1, || fds::closing_range(first, last, flags as u32, &go))
} }
hook! { unsafe fn dup(fd: c_int) -> c_int => on_dup {
    unless!(fdtable::is_free(fd), dup(fd), |go| fds::dup(fd, None, go))
} }
hook! { unsafe fn dup2(fd: c_int, new: c_int) -> c_int => on_dup2 {
    unless!(fdtable::is_free(fd) && fdtable::is_free(new), dup2(fd, new), |go| fds::dup(fd, Some(new), go))
} }
hook! { unsafe fn __dup2(fd: c_int, new: c_int) -> c_int => on_dup2_alias {
    unless!(fdtable::is_free(fd) && fdtable::is_free(new), dup2(fd, new), |go| fds::dup(fd, Some(new), go))
} }
hook! { unsafe fn dup3(fd: c_int, new: c_int, flags: c_int) -> c_int => on_dup3 {
    unless!(fdtable::is_free(fd) && fdtable::is_free(new), dup3(fd, new, flags), |go| fds::dup(fd, Some(new), go))
} }
hook! { unsafe fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int => on_fcntl {
    unless!(fdtable::is_free(fd) || !duplicates(cmd), fcntl(fd, cmd, arg), |go| fds::dup(fd, None, go))
} }
hook! { unsafe fn fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int => on_fcntl64 {
    unless!(fdtable::is_free(fd) || !duplicates(cmd), fcntl(fd, cmd, arg), |go| fds::dup(fd, None, go))
} }
hook! { unsafe fn __fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int => on_fcntl_alias {
    unless!(fdtable::is_free(fd) || !duplicates(cmd), fcntl(fd, cmd, arg), |go| fds::dup(fd, None, go))
} }

fn duplicates(cmd: c_int) -> bool {
    cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC
}
