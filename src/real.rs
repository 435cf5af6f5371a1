//! libc's own functions, behind our hooks.
//!
//! Each is looked up once, in the constructor, by `dlsym(RTLD_NEXT)`. A call that
//! comes before that, or while the look-up itself runs (an allocator that reads a
//! file, a sanitizer), does not wait and does not recurse: a state says new, busy,
//! absent or ready (P10, P13), and until ready the system call is made directly.
//!
//! A hook's fast path calls them as `extern "C"`, so that the compiler sees nothing
//! to catch round it; the slow path calls those in `unwinding`, so that a cancelled
//! thread runs the destructors on its way (P40, boundary.rs).

use crate::sys::libc_style as raw;
use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use libc::{
    SYS_close, SYS_close_range, SYS_connect, SYS_dup, SYS_dup2, SYS_dup3, SYS_fcntl,
    SYS_getsockopt, SYS_ioctl, SYS_preadv2, SYS_pwritev2, SYS_read, SYS_readv, SYS_recvfrom,
    SYS_recvmmsg, SYS_recvmsg, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_setsockopt,
    SYS_shutdown, SYS_splice, SYS_tee, SYS_vmsplice, SYS_write, SYS_writev, c_int, c_uint, c_void,
    iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
};

const NEW: usize = 0;
const BUSY: usize = 1;
const ABSENT: usize = 2;

/// Address of the next definition of `name`, or 0 while it must not be waited for.
#[cold]
#[inline(never)]
fn find(cell: &AtomicUsize, name: &CStr) -> usize {
    if cell.compare_exchange(NEW, BUSY, AcqRel, Acquire).is_err() {
        let now = cell.load(Acquire);
        return if now > ABSENT { now } else { 0 };
    }
    // SAFETY: a C string and the handle that means "after this object".
    let p =
        crate::errno::preserve(|| unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }) as usize;
    // Never ourselves, however odd the search order is (P6).
    let ours = p != 0 && crate::openssl::resolver::is_own(p);
    let state = if p <= ABSENT || ours { ABSENT } else { p };
    cell.store(state, Release);
    if state > ABSENT { state } else { 0 }
}

macro_rules! real {
    ($($name:ident($($v:ident: $t:ty),*) -> $r:ty = $fallback:expr;)*) => {
        mod cells {
            use super::*;
            $(#[allow(non_upper_case_globals)] pub static $name: AtomicUsize = AtomicUsize::new(NEW);)*
        }
        $(real!(one "C" $name($($v: $t),*) -> $r = $fallback);)*

        /// The same, for callers with something to clean up.
        pub mod unwinding {
            use super::*;
            pub use super::{fcntl_unwinding as fcntl, ioctl_unwinding as ioctl};
            $(real!(one "C-unwind" $name($($v: $t),*) -> $r = $fallback);)*
        }

        /// Looks all of them up, so that no hook enters the loader later.
        pub fn resolve_all() {
            $(find(&cells::$name, name(concat!(stringify!($name), "\0")));)*
            find(&FCNTL, c"fcntl");
            find(&IOCTL, c"ioctl");
        }
    };
    (one $abi:literal $name:ident($($v:ident: $t:ty),*) -> $r:ty = $fallback:expr) => {
        /// # Safety
        /// As libc's function of that name.
        #[inline(always)]
        pub unsafe fn $name($($v: $t),*) -> $r {
            let p = ready(&cells::$name, name(concat!(stringify!($name), "\0")));
            if p == 0 {
                // SAFETY: the system call behind it, with the same arguments.
                return unsafe { $fallback };
            }
            // SAFETY: dlsym found this name in libc, whose ABI this type is.
            unsafe { core::mem::transmute::<usize, unsafe extern $abi fn($($t),*) -> $r>(p)($($v),*) }
        }
    };
}

const fn name(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(n) => n,
        Err(_) => c"",
    }
}

real! {
    read(fd: c_int, b: *mut c_void, n: size_t) -> ssize_t = raw(SYS_read, fd as usize, b as usize, n, 0, 0, 0);
    __read_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t) -> ssize_t
        = raw(SYS_read, fd as usize, b as usize, n.min(room), 0, 0, 0);
    readv(fd: c_int, v: *const iovec, n: c_int) -> ssize_t = raw(SYS_readv, fd as usize, v as usize, n as usize, 0, 0, 0);
    preadv2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t
        = raw(SYS_preadv2, fd as usize, v as usize, n as usize, off as usize, 0, flags as usize);
    recv(fd: c_int, b: *mut c_void, n: size_t, flags: c_int) -> ssize_t
        = raw(SYS_recvfrom, fd as usize, b as usize, n, flags as usize, 0, 0);
    __recv_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t, flags: c_int) -> ssize_t
        = raw(SYS_recvfrom, fd as usize, b as usize, n.min(room), flags as usize, 0, 0);
    recvfrom(fd: c_int, b: *mut c_void, n: size_t, flags: c_int, from: *mut sockaddr, len: *mut socklen_t) -> ssize_t
        = raw(SYS_recvfrom, fd as usize, b as usize, n, flags as usize, from as usize, len as usize);
    __recvfrom_chk(fd: c_int, b: *mut c_void, n: size_t, room: size_t, flags: c_int, from: *mut sockaddr, len: *mut socklen_t) -> ssize_t
        = raw(SYS_recvfrom, fd as usize, b as usize, n.min(room), flags as usize, from as usize, len as usize);
    recvmsg(fd: c_int, m: *mut msghdr, flags: c_int) -> ssize_t
        = raw(SYS_recvmsg, fd as usize, m as usize, flags as usize, 0, 0, 0);
    recvmmsg(fd: c_int, v: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> c_int
        = raw(SYS_recvmmsg, fd as usize, v as usize, n as usize, flags as usize, timeout as usize, 0) as c_int;
    write(fd: c_int, b: *const c_void, n: size_t) -> ssize_t = raw(SYS_write, fd as usize, b as usize, n, 0, 0, 0);
    writev(fd: c_int, v: *const iovec, n: c_int) -> ssize_t = raw(SYS_writev, fd as usize, v as usize, n as usize, 0, 0, 0);
    pwritev2(fd: c_int, v: *const iovec, n: c_int, off: off_t, flags: c_int) -> ssize_t
        = raw(SYS_pwritev2, fd as usize, v as usize, n as usize, off as usize, 0, flags as usize);
    send(fd: c_int, b: *const c_void, n: size_t, flags: c_int) -> ssize_t
        = raw(SYS_sendto, fd as usize, b as usize, n, flags as usize, 0, 0);
    sendto(fd: c_int, b: *const c_void, n: size_t, flags: c_int, to: *const sockaddr, len: socklen_t) -> ssize_t
        = raw(SYS_sendto, fd as usize, b as usize, n, flags as usize, to as usize, len as usize);
    sendmsg(fd: c_int, m: *const msghdr, flags: c_int) -> ssize_t
        = raw(SYS_sendmsg, fd as usize, m as usize, flags as usize, 0, 0, 0);
    sendmmsg(fd: c_int, v: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int
        = raw(SYS_sendmmsg, fd as usize, v as usize, n as usize, flags as usize, 0, 0) as c_int;
    sendfile(to: c_int, from: c_int, off: *mut off_t, n: size_t) -> ssize_t
        = raw(SYS_sendfile, to as usize, from as usize, off as usize, n, 0, 0);
    splice(from: c_int, off_in: *mut off_t, to: c_int, off_out: *mut off_t, n: size_t, flags: c_uint) -> ssize_t
        = raw(SYS_splice, from as usize, off_in as usize, to as usize, off_out as usize, n, flags as usize);
    vmsplice(fd: c_int, v: *const iovec, n: size_t, flags: c_uint) -> ssize_t
        = raw(SYS_vmsplice, fd as usize, v as usize, n, flags as usize, 0, 0);
    tee(from: c_int, to: c_int, n: size_t, flags: c_uint) -> ssize_t
        = raw(SYS_tee, from as usize, to as usize, n, flags as usize, 0, 0);
    shutdown(fd: c_int, how: c_int) -> c_int = raw(SYS_shutdown, fd as usize, how as usize, 0, 0, 0, 0) as c_int;
    connect(fd: c_int, to: *const sockaddr, len: socklen_t) -> c_int
        = raw(SYS_connect, fd as usize, to as usize, len as usize, 0, 0, 0) as c_int;
    getsockopt(fd: c_int, level: c_int, opt: c_int, v: *mut c_void, len: *mut socklen_t) -> c_int
        = raw(SYS_getsockopt, fd as usize, level as usize, opt as usize, v as usize, len as usize, 0) as c_int;
    setsockopt(fd: c_int, level: c_int, opt: c_int, v: *const c_void, len: socklen_t) -> c_int
        = raw(SYS_setsockopt, fd as usize, level as usize, opt as usize, v as usize, len as usize, 0) as c_int;
    close(fd: c_int) -> c_int = raw(SYS_close, fd as usize, 0, 0, 0, 0, 0) as c_int;
    closefrom(low: c_int) -> () = { raw(SYS_close_range, low.max(0) as usize, u32::MAX as usize, 0, 0, 0, 0); };
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int
        = raw(SYS_close_range, first as usize, last as usize, flags as usize, 0, 0, 0) as c_int;
    dup(fd: c_int) -> c_int = raw(SYS_dup, fd as usize, 0, 0, 0, 0, 0) as c_int;
    dup2(fd: c_int, new: c_int) -> c_int = raw(SYS_dup2, fd as usize, new as usize, 0, 0, 0, 0) as c_int;
    dup3(fd: c_int, new: c_int, flags: c_int) -> c_int
        = raw(SYS_dup3, fd as usize, new as usize, flags as usize, 0, 0, 0) as c_int;
}

static FCNTL: AtomicUsize = AtomicUsize::new(NEW);
static IOCTL: AtomicUsize = AtomicUsize::new(NEW);

#[inline(always)]
fn ready(cell: &'static AtomicUsize, name: &CStr) -> usize {
    match cell.load(Acquire) {
        p if p > ABSENT => p,
        _ => find(cell, name),
    }
}

macro_rules! variadic {
    ($name:ident, $abi:literal, $cell:ident, $symbol:literal, $number:ident, $cmd:ty, $arg:ty) => {
        /// Variadic in libc; the third argument is whatever the program passed, and a
        /// variadic callee reads as much of it as the command has.
        ///
        /// # Safety
        /// As libc's function of that name.
        #[inline(always)]
        pub unsafe fn $name(fd: c_int, cmd: $cmd, arg: $arg) -> c_int {
            match ready(&$cell, $symbol) {
                // SAFETY: the system call behind it, with the same arguments.
                0 => unsafe { raw($number, fd as usize, cmd as usize, arg as usize, 0, 0, 0) as c_int },
                // SAFETY: libc's function of that name.
                p => unsafe {
                    core::mem::transmute::<usize, unsafe extern $abi fn(c_int, $cmd, ...) -> c_int>(p)(fd, cmd, arg)
                },
            }
        }
    };
}
variadic!(fcntl, "C", FCNTL, c"fcntl", SYS_fcntl, c_int, usize);
variadic!(
    ioctl,
    "C",
    IOCTL,
    c"ioctl",
    SYS_ioctl,
    libc::c_ulong,
    *mut c_void
);
variadic!(
    fcntl_unwinding,
    "C-unwind",
    FCNTL,
    c"fcntl",
    SYS_fcntl,
    c_int,
    usize
);
variadic!(
    ioctl_unwinding,
    "C-unwind",
    IOCTL,
    c"ioctl",
    SYS_ioctl,
    libc::c_ulong,
    *mut c_void
);
