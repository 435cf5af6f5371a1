//! Data calls on an op socket: those that may wait for the peer.
//!
//! They are libc's own functions behind our hooks, because glibc lets a cancelled
//! thread go only there: a program that stops its reader by pthread_cancel would
//! else wait for ever in pthread_join. Unwinding passes through the pointers of
//! `real::unwinding` (P40, boundary.rs). On every way that returns errno is what it
//! was. Owns nothing.

use super::Errno;
use crate::errno;
use crate::real::unwinding as libc_own;
use libc::{c_int, msghdr};

/// The result of `call`, which fails by −1 and errno.
fn kept(call: impl FnOnce() -> isize) -> Result<usize, Errno> {
    let before = errno::get();
    let outcome = call();
    let error = errno::get();
    errno::set(before);
    usize::try_from(outcome).map_err(|_| error)
}

/// # Safety
/// `at` has `len` readable bytes.
pub unsafe fn send(socket: c_int, at: *const u8, len: usize, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    kept(|| unsafe { libc_own::send(socket, at.cast(), len, flags) })
}

/// # Safety
/// `at` has `len` writable bytes.
pub unsafe fn recv(socket: c_int, at: *mut u8, len: usize, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    kept(|| unsafe { libc_own::recv(socket, at.cast(), len, flags) })
}

/// # Safety
/// Everything that `message` points to is valid for reading.
pub unsafe fn sendmsg(socket: c_int, message: &msghdr, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    kept(|| unsafe { libc_own::sendmsg(socket, message, flags) })
}

/// # Safety
/// Everything that `message` points to is valid for writing.
pub unsafe fn recvmsg(socket: c_int, message: &mut msghdr, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    kept(|| unsafe { libc_own::recvmsg(socket, message, flags) })
}

#[cfg(test)]
mod tests {
    use crate::backend::{Backend, Errno, alg, sys};
    use crate::boundary::guard;
    use crate::errno;
    use core::ffi::c_void;
    use core::ptr::{null, null_mut};
    use std::sync::atomic::{AtomicUsize, Ordering};

    unsafe extern "C" {
        fn pthread_cancel(t: libc::pthread_t) -> i32;
        fn pthread_timedjoin_np(
            t: libc::pthread_t,
            result: *mut *mut c_void,
            until: *const libc::timespec,
        ) -> i32;
    }

    fn pair() -> [i32; 2] {
        let mut fds = [0; 2];
        // SAFETY: room for two numbers.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, fds.as_mut_ptr()) };
        assert_eq!(made, 0);
        fds
    }

    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn iov(bytes: &mut [u8]) -> [libc::iovec; 1] {
        [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }]
    }

    type Call = fn(i32, &mut [u8]) -> Result<usize, Errno>;

    /// A call that waits on the socket whose number is the argument.
    fn waiting(f: Call) -> extern "C" fn(*mut c_void) -> *mut c_void {
        static WHICH: AtomicUsize = AtomicUsize::new(0);
        WHICH.store(f as usize, Ordering::SeqCst);
        extern "C" fn thread(fd: *mut c_void) -> *mut c_void {
            // SAFETY: stored right before this thread was made; one at a time.
            let f: Call = unsafe { core::mem::transmute(WHICH.load(Ordering::SeqCst)) };
            guard((), || {
                let _mark = Mark;
                let mut bytes = vec![0u8; 1 << 16];
                loop {
                    let _ = f(fd as usize as i32, &mut bytes);
                }
            });
            null_mut()
        }
        thread
    }

    #[test]
    fn a_thread_that_waits_in_a_data_call_can_be_cancelled() {
        let calls: [Call; 5] = [
            // SAFETY: buffers of the length said, here and in the next three.
            |op, b| unsafe { alg().recv(op, b.as_mut_ptr(), b.len(), 0) },
            // SAFETY: as above.
            |op, b| unsafe { alg().recv_record(op, &iov(b), 0) }.map(|(_, n)| n),
            // SAFETY: as above.
            |op, b| unsafe { alg().send(op, &iov(b), libc::MSG_NOSIGNAL) },
            |op, b| {
                let [one] = iov(b);
                // SAFETY: as above.
                unsafe { alg().send(op, &[one, one], libc::MSG_NOSIGNAL) }
            },
            |op, b| alg().send_record(op, 23, b, libc::MSG_NOSIGNAL),
        ];
        for (i, call) in calls.into_iter().enumerate() {
            let [a, b] = pair();
            let (mut id, mut result) = (0, null_mut());
            // SAFETY: a thread of ours, cancelled and joined once.
            unsafe {
                let start = waiting(call);
                assert_eq!(
                    libc::pthread_create(&mut id, null(), start, a as usize as *mut c_void),
                    0
                );
                std::thread::sleep(std::time::Duration::from_millis(100));
                assert_eq!(pthread_cancel(id), 0);
                let (seconds, nanoseconds) = sys::now();
                let until = libc::timespec {
                    tv_sec: seconds + 10,
                    tv_nsec: nanoseconds,
                };
                assert_eq!(pthread_timedjoin_np(id, &mut result, &until), 0, "call {i}");
            }
            assert_eq!(result as isize, -1); // PTHREAD_CANCELED
            assert_eq!(DROPPED.load(Ordering::Relaxed), i + 1);
            sys::close(a);
            sys::close(b);
        }
    }

    #[test]
    fn errno_stays_as_it_was() {
        let [a, b] = pair();
        let mut bytes = [0u8; 4];
        errno::set(77);
        // SAFETY: a buffer of this length.
        let mut get = || unsafe { alg().recv(b, bytes.as_mut_ptr(), 4, libc::MSG_DONTWAIT) };
        assert_eq!((get(), errno::get()), (Err(libc::EAGAIN), 77));
        assert_eq!(alg().send_record(a, 23, b"x", 0), Ok(1));
        assert_eq!((get(), errno::get()), (Ok(1), 77));
        sys::close(b);
        let sent = alg().send_record(a, 23, b"x", libc::MSG_NOSIGNAL);
        assert_eq!((sent, errno::get()), (Err(libc::EPIPE), 77));
        sys::close(a);
    }
}
