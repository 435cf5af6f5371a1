//! errno as the program sees it (P15). Nothing here owns memory: the cell
//! belongs to libc, one per thread.

use libc::c_int;

/// The calling thread's errno.
#[inline]
pub fn get() -> c_int {
    // SAFETY: glibc returns a valid, aligned, thread-private int for the whole
    // life of the thread; nobody keeps a reference to it here.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
#[inline]
pub fn set(e: c_int) {
    // SAFETY: as in `get`; a plain store to a thread-private int.
    unsafe { *libc::__errno_location() = e }
}

/// The usual way for a libc-shaped function to fail.
#[inline]
pub fn fail(e: c_int) -> isize {
    set(e);
    -1
}

/// Runs `f` and puts errno back, so that our own house-keeping never shows.
/// A panic in `f` leaves errno as it is: the boundary sets it then.
#[inline]
pub fn preserve<R>(f: impl FnOnce() -> R) -> R {
    let saved = get();
    let result = f();
    set(saved);
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn preserve_hides_what_happens_inside() {
        super::set(libc::EINTR);
        super::preserve(|| super::set(libc::EPIPE));
        assert_eq!(super::get(), libc::EINTR);
        assert_eq!(super::fail(libc::EBADF), -1);
        assert_eq!(super::get(), libc::EBADF);
    }
}
