//! System calls without libc.
//!
//! libc's functions are what this library replaces: calling `close` here by
//! its name would enter our own hook. These wrappers never do, never touch
//! `errno`, and are async-signal-safe.

use super::Errno;
use core::arch::asm;
use libc::{c_int, c_long};

/// # Safety
/// The arguments are what system call `number` wants; pointers among them are
/// valid for as long and as much as it uses them.
pub unsafe fn call(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    // SAFETY: the x86_64 convention: rcx and r11 are lost, memory may be
    // written through the arguments, the stack is left alone. The rest is the
    // caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    // The kernel reserves the last page of addresses for errors.
    if (-4095..0).contains(&result) {
        Err(-result as Errno)
    } else {
        Ok(result as usize)
    }
}

const fn int(n: c_int) -> usize {
    n as isize as usize
}

fn fd(result: Result<usize, Errno>) -> Result<c_int, Errno> {
    result.map(|fd| fd as c_int)
}

pub fn socket(family: c_int, kind: c_int, protocol: c_int) -> Result<c_int, Errno> {
    let args = [int(family), int(kind), int(protocol), 0, 0, 0];
    // SAFETY: no pointer.
    fd(unsafe { call(libc::SYS_socket, args) })
}

pub fn bind<A>(socket: c_int, address: &A) -> Result<(), Errno> {
    let args = [
        int(socket),
        core::ptr::from_ref(address) as usize,
        size_of::<A>(),
        0,
        0,
        0,
    ];
    // SAFETY: the address is read, as many bytes as it has.
    unsafe { call(libc::SYS_bind, args) }.map(drop)
}

pub fn accept(socket: c_int, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: null addresses mean that the peer's name is not wanted.
    fd(unsafe { call(libc::SYS_accept4, [int(socket), 0, 0, int(flags), 0, 0]) })
}

/// Releases the number even where it reports an error, so nobody retries it.
pub fn close(number: c_int) {
    // SAFETY: no pointer. Whose fd it is was the caller's to know.
    let _ = unsafe { call(libc::SYS_close, [int(number), 0, 0, 0, 0, 0]) };
}

/// A CLOEXEC duplicate at the lowest free number from `min` on.
pub fn dup_from(number: c_int, min: c_int) -> Result<c_int, Errno> {
    let args = [int(number), int(libc::F_DUPFD_CLOEXEC), int(min), 0, 0, 0];
    // SAFETY: no pointer.
    fd(unsafe { call(libc::SYS_fcntl, args) })
}

/// The soft limit of file numbers.
pub fn fd_limit() -> Result<u64, Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let out = &raw mut limit as usize;
    // SAFETY: pid 0 is this process; only the old value is asked for, into a
    // structure of the kernel's layout (rlimit is rlimit64 on x86_64).
    unsafe {
        call(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_NOFILE as usize, 0, out, 0, 0],
        )
    }?;
    Ok(limit.rlim_cur)
}

/// Sends the first `len` bytes of `value`.
pub fn setsockopt<T>(
    socket: c_int,
    level: c_int,
    name: c_int,
    value: &T,
    len: usize,
) -> Result<(), Errno> {
    let len = len.min(size_of::<T>());
    let at = core::ptr::from_ref(value) as usize;
    // SAFETY: `len` bytes of `value` are read, which has at least as many.
    unsafe {
        call(
            libc::SYS_setsockopt,
            [int(socket), int(level), int(name), at, len, 0],
        )
    }
    .map(drop)
}

/// # Safety
/// Any bytes make a `T`, and addresses inside `value` are good for what the
/// option does with them.
pub unsafe fn getsockopt<T>(
    socket: c_int,
    level: c_int,
    name: c_int,
    value: &mut T,
) -> Result<usize, Errno> {
    let mut len = size_of::<T>() as c_int;
    let (at, len_at) = (core::ptr::from_mut(value) as usize, &raw mut len as usize);
    // SAFETY: `len` says how much room `value` has; contents are the caller's.
    unsafe {
        call(
            libc::SYS_getsockopt,
            [int(socket), int(level), int(name), at, len_at, 0],
        )
    }?;
    Ok(usize::try_from(len).unwrap_or(0).min(size_of::<T>()))
}

/// Ends a connection in both directions, without closing its number.
pub fn shutdown(socket: c_int) {
    // SAFETY: numbers only.
    let _ = unsafe {
        call(
            libc::SYS_shutdown,
            [int(socket), int(libc::SHUT_RDWR), 0, 0, 0, 0],
        )
    };
}

/// Tells apart sockets that had the same number one after the other.
pub fn cookie(socket: c_int) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    // SAFETY: a plain number comes back.
    unsafe { getsockopt(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie) }?;
    Ok(cookie)
}

/// # Safety
/// `at` has `len` readable bytes.
pub unsafe fn send(socket: c_int, at: *const u8, len: usize, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise; no address is given.
    unsafe {
        call(
            libc::SYS_sendto,
            [int(socket), at as usize, len, int(flags), 0, 0],
        )
    }
}

/// # Safety
/// `at` has `len` writable bytes.
pub unsafe fn recv(socket: c_int, at: *mut u8, len: usize, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise; no address is wanted.
    unsafe {
        call(
            libc::SYS_recvfrom,
            [int(socket), at as usize, len, int(flags), 0, 0],
        )
    }
}

/// # Safety
/// Everything that `message` points to is valid for reading.
pub unsafe fn sendmsg(socket: c_int, message: &libc::msghdr, flags: c_int) -> Result<usize, Errno> {
    let at = core::ptr::from_ref(message) as usize;
    // SAFETY: glibc's msghdr is the kernel's on x86_64; contents: the caller's.
    unsafe { call(libc::SYS_sendmsg, [int(socket), at, int(flags), 0, 0, 0]) }
}

/// # Safety
/// Everything that `message` points to is valid for writing.
pub unsafe fn recvmsg(
    socket: c_int,
    message: &mut libc::msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    let at = core::ptr::from_mut(message) as usize;
    // SAFETY: as in `sendmsg`.
    unsafe { call(libc::SYS_recvmsg, [int(socket), at, int(flags), 0, 0, 0]) }
}

/// # Safety
/// `request` works on a `T`.
pub unsafe fn ioctl<T>(number: c_int, request: u64, argument: &mut T) -> Result<usize, Errno> {
    let at = core::ptr::from_mut(argument) as usize;
    // SAFETY: the caller's promise.
    unsafe {
        call(
            libc::SYS_ioctl,
            [int(number), request as usize, at, 0, 0, 0],
        )
    }
}

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_back_as_numbers_and_errno_is_untouched() {
        // SAFETY: errno belongs to this thread.
        let errno = || unsafe { libc::__errno_location() };
        // SAFETY: as above.
        unsafe { *errno() = 77 };
        assert_eq!(accept(-1, 0), Err(libc::EBADF));
        assert_eq!(dup_from(-1, 0), Err(libc::EBADF));
        assert_eq!(socket(-1, 0, 0), Err(libc::EAFNOSUPPORT));
        close(-1);
        // SAFETY: as above.
        assert_eq!(unsafe { *errno() }, 77);
        assert!(fd_limit().is_ok_and(|limit| limit > 3));
    }

    #[test]
    fn cookies_differ() {
        let make = || socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let (Ok(a), Ok(b)) = (make(), make()) else {
            panic!("two sockets")
        };
        assert_eq!(cookie(a), cookie(a));
        assert_ne!(cookie(a), cookie(b));
        close(a);
        close(b);
        assert_eq!(cookie(-1), Err(libc::EBADF));
    }
}
