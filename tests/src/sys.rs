// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls with slices instead of pointers; every unsafe block that the
//! tests need is here, in `net` or in `op`. Nothing is kept between calls.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Res<T> = Result<T, Errno>;

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.0))
    }
}

impl From<io::Error> for Errno {
    fn from(e: io::Error) -> Errno {
        Errno(e.raw_os_error().unwrap_or(0))
    }
}

/// What a call that fails with `errno` returns.
pub fn fail<T>(errno: i32) -> Res<T> {
    Err(Errno(errno))
}

pub fn cvt(ret: isize) -> Res<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error().into())
}

pub fn cvt_int(ret: i32) -> Res<i32> {
    if ret < 0 {
        Err(io::Error::last_os_error().into())
    } else {
        Ok(ret)
    }
}

pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass what a system call has just returned to them.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> Res<OwnedFd> {
    // SAFETY: no memory is passed.
    cvt_int(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }).map(own)
}

pub fn setsockopt(fd: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> Res<()> {
    // SAFETY: the slice is readable for its length.
    cvt_int(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

pub fn set_int(fd: &impl AsRawFd, level: i32, name: i32, value: i32) -> Res<()> {
    setsockopt(fd, level, name, &value.to_ne_bytes())
}

/// Returns the length that the kernel reports.
pub fn getsockopt(fd: &impl AsRawFd, level: i32, name: i32, value: &mut [u8]) -> Res<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the slice is writable for `len` bytes.
    cvt_int(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    })?;
    Ok(len as usize)
}

pub fn get_int(fd: &impl AsRawFd, level: i32, name: i32) -> Res<i32> {
    let mut value = [0; 4];
    getsockopt(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

pub fn timeout(fd: &impl AsRawFd, name: i32, limit: Duration) {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&(limit.as_secs() as i64).to_ne_bytes());
    value[8..].copy_from_slice(&i64::from(limit.subsec_micros()).to_ne_bytes());
    setsockopt(fd, libc::SOL_SOCKET, name, &value).expect("SO_*TIMEO");
}

/// One control message of one byte, aligned as the kernel wants it.
#[repr(C, align(8))]
pub struct Control(pub [u8; 64]);

pub fn sendmsg(fd: &impl AsRawFd, parts: &[&[u8]], control: &[u8], flags: i32) -> Res<usize> {
    let mut iov: Vec<libc::iovec> = parts
        .iter()
        .map(|p| libc::iovec {
            iov_base: p.as_ptr().cast_mut().cast(),
            iov_len: p.len(),
        })
        .collect();
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len();
    if !control.is_empty() {
        msg.msg_control = control.as_ptr().cast_mut().cast();
        msg.msg_controllen = control.len();
    }
    // SAFETY: the vectors and slices that msg points to outlive the call.
    cvt(unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, flags) })
}

pub struct Received {
    pub len: usize,
    /// Length of the control data that was written.
    pub control: usize,
    pub flags: i32,
}

pub fn recvmsg(
    fd: &impl AsRawFd,
    parts: &mut [&mut [u8]],
    control: &mut [u8],
    flags: i32,
) -> Res<Received> {
    let mut iov: Vec<libc::iovec> = parts
        .iter_mut()
        .map(|p| libc::iovec {
            iov_base: p.as_mut_ptr().cast(),
            iov_len: p.len(),
        })
        .collect();
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len();
    if !control.is_empty() {
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = control.len();
    }
    // SAFETY: the vectors and slices that msg points to outlive the call.
    let len = cvt(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut msg, flags) })?;
    Ok(Received {
        len,
        control: msg.msg_controllen,
        flags: msg.msg_flags,
    })
}

/// recvmsg() with iovecs given as raw addresses, for calls that must fault.
pub fn recvmsg_at(fd: &impl AsRawFd, parts: &[(usize, usize)], flags: i32) -> Res<usize> {
    let mut iov: Vec<libc::iovec> = parts
        .iter()
        .map(|p| libc::iovec {
            iov_base: p.0 as *mut libc::c_void,
            iov_len: p.1,
        })
        .collect();
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len();
    // SAFETY: the kernel checks the addresses; callers pass their own buffers
    // or addresses that nothing is mapped at.
    cvt(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut msg, flags) })
}

/// sendmsg() with iovecs given as raw addresses, for calls that must fault.
pub fn sendmsg_at(fd: &impl AsRawFd, parts: &[(usize, usize)], flags: i32) -> Res<usize> {
    let mut iov: Vec<libc::iovec> = parts
        .iter()
        .map(|p| libc::iovec {
            iov_base: p.0 as *mut libc::c_void,
            iov_len: p.1,
        })
        .collect();
    // SAFETY: all zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = iov.as_mut_ptr();
    msg.msg_iovlen = iov.len();
    // SAFETY: the kernel checks the addresses and only reads there.
    cvt(unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, flags) })
}

pub fn read(fd: &impl AsRawFd, buf: &mut [u8]) -> Res<usize> {
    // SAFETY: the slice is writable for its length.
    cvt(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) })
}

pub fn write(fd: &impl AsRawFd, buf: &[u8]) -> Res<usize> {
    // SAFETY: the slice is readable for its length.
    cvt(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) })
}

pub fn sendfile(out: &impl AsRawFd, file: &impl AsRawFd, offset: &mut i64, n: usize) -> Res<usize> {
    // SAFETY: the offset is a valid in/out pointer.
    cvt(unsafe { libc::sendfile(out.as_raw_fd(), file.as_raw_fd(), offset, n) })
}

/// sendfile(2), blocking, from `at` up to `end`.
pub fn sendfile_all(out: &impl AsRawFd, file: &impl AsRawFd, at: usize, end: usize) {
    let mut at = at as i64;
    while at < end as i64 {
        let left = end - at as usize;
        let n = sendfile(out, file, &mut at, left).expect("sendfile");
        assert_ne!(n, 0, "sendfile at {at} of {end}");
    }
}

pub fn splice(from: &impl AsRawFd, to: &impl AsRawFd, n: usize, flags: u32) -> Res<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let none = std::ptr::null_mut();
    // SAFETY: null offsets are allowed.
    cvt(unsafe { libc::splice(from, none, to, none, n, flags) })
}

/// Read end, write end.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [-1; 2];
    // SAFETY: the array has room for both.
    cvt_int(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }).expect("pipe");
    (own(fds[0]), own(fds[1]))
}

pub fn dup(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: no memory is passed.
    own(cvt_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) }).expect("dup"))
}

pub fn nonblocking(fd: &impl AsRawFd, on: bool) {
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    let flags = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: as above.
    cvt_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).expect("F_SETFL");
}

/// Bytes of this connection that are not yet acknowledged (TIOCOUTQ).
pub fn unsent(fd: &impl AsRawFd) -> usize {
    ioctl_int(fd, libc::TIOCOUTQ).expect("TIOCOUTQ") as usize
}

/// Bytes that wait to be read (FIONREAD).
pub fn unread(fd: &impl AsRawFd) -> usize {
    ioctl_int(fd, libc::FIONREAD).expect("FIONREAD") as usize
}

fn ioctl_int(fd: &impl AsRawFd, request: libc::c_ulong) -> Res<i32> {
    let mut n: libc::c_int = 0;
    // SAFETY: both requests write one int.
    cvt_int(unsafe { libc::ioctl(fd.as_raw_fd(), request, &mut n) })?;
    Ok(n)
}

extern "C" fn nothing(_: libc::c_int) {}

/// A handler for SIGUSR1 that only interrupts.
pub fn handle_usr1(restart: bool) {
    // SAFETY: all zero is a valid sigaction; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
}

pub fn this_thread() -> libc::pid_t {
    // SAFETY: no memory is passed.
    unsafe { libc::gettid() }
}

pub fn interrupt(thread: libc::pid_t) {
    // SAFETY: no memory is passed; the thread is one of this process.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
}

/// Is this thread asleep in the kernel?
pub fn asleep(thread: libc::pid_t) -> bool {
    std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"))
        .ok()
        .and_then(|s| s.rsplit(") ").next().map(|rest| rest.starts_with('S')))
        .unwrap_or(false)
}

/// The calling thread, and no other, becomes user nobody without capabilities.
pub fn become_nobody() {
    let id: libc::c_long = 65534;
    // SAFETY: no memory is passed; the raw calls act on this thread only.
    let ret = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, 0)
            | libc::syscall(libc::SYS_setresgid, id, id, id)
            | libc::syscall(libc::SYS_setresuid, id, id, id)
    };
    assert_eq!(ret, 0, "setresuid");
}

/// Runs `call` while fd 0 is a duplicate of `fd`.
pub fn with_stdin<T>(fd: &impl AsRawFd, call: impl FnOnce() -> T) -> T {
    let saved = dup(&std::io::stdin());
    // SAFETY: no memory is passed; fd 0 is restored below.
    cvt_int(unsafe { libc::dup2(fd.as_raw_fd(), 0) }).expect("dup2");
    let value = call();
    // SAFETY: as above.
    cvt_int(unsafe { libc::dup2(saved.as_raw_fd(), 0) }).expect("dup2");
    value
}

/// bpf(2).
pub fn bpf(command: i32, attr: &mut [u8; 128]) -> Res<i32> {
    // SAFETY: the attributes are readable; addresses in them are the caller's.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    cvt_int(ret as i32)
}

/// Where `needle` is in `hay` (memmem: fast even in an unoptimised build).
pub fn occurrences(hay: &[u8], needle: &[u8]) -> Vec<usize> {
    let mut hits = Vec::new();
    let mut at = 0;
    while at < hay.len() {
        let rest = &hay[at..];
        // SAFETY: both slices are readable for their lengths.
        let hit = unsafe {
            libc::memmem(
                rest.as_ptr().cast(),
                rest.len(),
                needle.as_ptr().cast(),
                needle.len(),
            )
        };
        if hit.is_null() {
            break;
        }
        at += hit as usize - rest.as_ptr() as usize;
        hits.push(at);
        at += needle.len();
    }
    hits
}

#[cfg(test)]
mod tests {
    #[test]
    fn occurrences_are_found() {
        assert_eq!(super::occurrences(b"abcabcab", b"abc"), [0, 3]);
        assert!(super::occurrences(b"ab", b"abc").is_empty());
    }
}
