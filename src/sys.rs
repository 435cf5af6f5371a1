//! System calls without libc.
//!
//! libc's functions are what this library replaces: calling `close` here by its name
//! would enter our own hook. These wrappers never do, and are async-signal-safe. All
//! but `libc_style` leave errno alone. They are no cancellation points: calls that
//! may wait for a peer are in `backend::data`.

use core::arch::asm;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering::*};
use libc::{c_int, c_long};

pub type Errno = i32;

/// # Safety
/// The arguments are what system call `number` wants; pointers among them are
/// valid for as long and as much as it uses them.
#[inline(always)]
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

/// The same with libc's convention: −1 and errno.
///
/// # Safety
/// As `call`.
#[inline]
pub unsafe fn libc_style(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    // SAFETY: passed on.
    match unsafe { call(number, [a, b, c, d, e, f]) } {
        Ok(done) => done as isize,
        Err(errno) => crate::errno::fail(errno),
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
    limits().map(|limit| limit.rlim_cur)
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

/// TCP's own word on whether it takes anything: a send of nothing, which fails as any
/// other would and puts nothing on the wire.
pub fn can_send(socket: c_int) -> Result<(), Errno> {
    let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as usize;
    // SAFETY: no bytes, so nothing is read at the null address.
    unsafe { call(libc::SYS_sendto, [int(socket), 0, 0, flags, 0, 0]) }.map(|_| ())
}

/// Tells apart sockets that had the same number one after the other.
pub fn cookie(socket: c_int) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    // SAFETY: a plain number comes back.
    unsafe { getsockopt(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie) }?;
    Ok(cookie)
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

/// One write.
pub fn write(number: c_int, bytes: &[u8]) -> Result<usize, Errno> {
    let at = bytes.as_ptr() as usize;
    // SAFETY: pointer and length belong to a live slice.
    unsafe { call(libc::SYS_write, [int(number), at, bytes.len(), 0, 0, 0]) }
}

/// Numbers from here on are high enough under any limit: above `select`'s 1,024,
/// and a table of this size costs a fork nothing. Half of a limit of a million
/// would make the kernel allocate megabytes for one fd.
const HIGH_ENOUGH: u64 = 4096;
/// Where our numbers begin; 0 until it was computed.
static FLOOR: AtomicI32 = AtomicI32::new(0);
/// Where the share ends that op sockets take below the limit.
static CEILING: AtomicI32 = AtomicI32::new(0);

/// Moves a descriptor of ours out of the numbers that the program counts on (P24),
/// and closes the old number; on failure that stays open.
pub fn move_high(low: c_int) -> Result<c_int, Errno> {
    let known = FLOOR.load(Relaxed);
    let mut high = if known > 0 {
        dup_from(low, known)
    } else {
        Err(libc::EINVAL)
    };
    if high.is_err() {
        // First use, or the limit was lowered since.
        let floor = (fd_limit()? / 2).clamp(1, HIGH_ENOUGH) as c_int;
        FLOOR.store(floor, Relaxed);
        CEILING.store(floor.saturating_add((fd_limit()? / 8) as c_int), Relaxed);
        high = dup_from(low, floor);
    }
    if high.is_ok() {
        close(low);
    }
    high
}

/// Soft and hard limit of descriptor numbers.
fn limits() -> Result<libc::rlimit, Errno> {
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
    Ok(limit)
}

fn set_limits(limit: &libc::rlimit) -> Result<(), Errno> {
    let from = core::ptr::from_ref(limit) as usize;
    // SAFETY: the kernel reads one rlimit of this process's own.
    unsafe {
        call(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_NOFILE as usize, from, 0, 0, 0],
        )
    }
    .map(drop)
}

/// One thread at a time moves the limit. A fork child may inherit a yes that nobody
/// takes back: it then never moves it.
static MOVING: AtomicBool = AtomicBool::new(false);

/// Gives `low` a number that no call of the program's could ever get: above the soft
/// limit, which is raised for the one call that it takes. A descriptor stays good
/// when the limit falls below it.
fn move_above(low: c_int) -> Result<c_int, Errno> {
    let limit = limits()?;
    if limit.rlim_cur >= limit.rlim_max || MOVING.swap(true, Acquire) {
        return Err(libc::EMFILE);
    }
    let wide = libc::rlimit {
        rlim_cur: limit.rlim_max,
        rlim_max: limit.rlim_max,
    };
    let moved = set_limits(&wide).and_then(|()| {
        let high = dup_from(low, limit.rlim_cur as c_int);
        set_limits(&limit).map(|()| high)
    });
    MOVING.store(false, Release);
    let high = moved??;
    close(low);
    Ok(high)
}

/// Moves an op socket to where it takes nothing from the program: a server lives to
/// its limit of descriptors, and one more for each connection would halve it. The
/// first few go where `move_high` puts them, an eighth of the limit; then above the
/// limit. Where there is no room above, another eighth goes below, and after that no
/// further connection is offloaded. On failure it is closed.
pub fn move_op(low: c_int) -> Result<c_int, Errno> {
    let high = move_high(low).inspect_err(|_| close(low))?;
    if high < CEILING.load(Relaxed) {
        return Ok(high);
    }
    let last = CEILING.load(Relaxed).saturating_mul(2) - FLOOR.load(Relaxed);
    match move_above(high) {
        Err(_) if high < last => Ok(high),
        other => other.inspect_err(|_| close(high)),
    }
}

/// The process, whatever the memory says (process.rs).
pub fn getpid() -> i32 {
    // SAFETY: takes nothing.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.map_or(0, |pid| pid as i32)
}

/// Leaves the processor for about 50 microseconds.
pub fn nap() {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 50_000,
    };
    let at = &raw const time as usize;
    // SAFETY: the kernel reads one timespec and writes nothing.
    let _ = unsafe { call(libc::SYS_nanosleep, [at, 0, 0, 0, 0, 0]) };
}

/// Seconds and nanoseconds of the wall clock.
pub fn now() -> (i64, i64) {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let (clock, at) = (libc::CLOCK_REALTIME as usize, &raw mut t as usize);
    // SAFETY: the kernel fills the structure that we own.
    let _ = unsafe { call(libc::SYS_clock_gettime, [clock, at, 0, 0, 0, 0]) };
    (t.tv_sec, t.tv_nsec)
}

/// Zeroed private memory, page aligned.
pub fn map_anonymous(len: usize) -> Option<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let args = [0, len, int(prot), int(flags), usize::MAX, 0];
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
    let at = unsafe { call(libc::SYS_mmap, args) }.ok()?;
    Some(at as *mut c_void)
}

/// Gives a mapping back that nobody looks at any more.
pub fn unmap(p: *mut c_void, len: usize) {
    // SAFETY: the caller owns the mapping.
    let _ = unsafe { call(libc::SYS_munmap, [p as usize, len, 0, 0, 0, 0]) };
}

/// `madvise`; true if the kernel knows the advice.
pub fn advise(p: *mut c_void, len: usize, advice: c_int) -> bool {
    // SAFETY: the caller owns the mapping; the advices we use change no content
    // that this process relies on.
    unsafe { call(libc::SYS_madvise, [p as usize, len, int(advice), 0, 0, 0]) }.is_ok()
}

/// Puts a value into memory of its own that is never given back. No `malloc`: this
/// is for hooks, which may run inside an allocator's or a signal handler's call.
pub fn immortal<T>(value: T) -> Option<&'static mut T> {
    let p = map_anonymous(size_of::<T>().max(1))?.cast::<T>();
    // SAFETY: fresh memory of at least that size, page aligned, ours for ever.
    unsafe {
        p.write(value);
        Some(&mut *p)
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
    fn many_op_sockets_leave_the_program_its_numbers() {
        // Limits belong to the process: a child has its own.
        // SAFETY: the child makes system calls and leaves without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let limit = libc::rlimit {
                rlim_cur: 256,
                rlim_max: limits().map_or(256, |l| l.rlim_max),
            };
            let room = set_limits(&limit).is_ok() && limit.rlim_max > 1024;
            FLOOR.store(0, Relaxed);
            let open = || socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
            let mut above = 0;
            let ours = (0..200).all(|_| match open().and_then(move_op) {
                Ok(n) => {
                    above += i32::from(n >= 256);
                    n >= 128
                }
                Err(_) => false,
            });
            let theirs = (0..150).filter(|_| open().is_ok()).count();
            let kept = fd_limit() == Ok(256);
            let good = !room || (ours && above >= 160 && theirs == 150 && kept);
            // SAFETY: ends the child only.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let mut status = 1;
        // SAFETY: our own child.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(libc::WEXITSTATUS(status), 0);
    }

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

    #[test]
    fn our_numbers_are_high_and_close_on_exec() {
        let make = || socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        for _ in 0..2 {
            let low = make();
            let name = cookie(low);
            let high = move_high(low).unwrap();
            let floor = FLOOR.load(Relaxed);
            assert!(floor >= 1 && (floor as u64) < fd_limit().unwrap());
            assert!(high >= floor && high != low && floor <= 4096);
            // SAFETY: asks for the flags of a number.
            let flags = unsafe { libc::fcntl(high, libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
            assert_eq!(cookie(high), name);
            // Another test may have that number by now.
            assert_ne!(cookie(low), name, "the low number was given up");
            close(high);
        }
        // A floor that became too high is found anew.
        FLOOR.store(i32::MAX, Relaxed);
        let high = move_high(make()).unwrap();
        assert!(FLOOR.load(Relaxed) < i32::MAX);
        close(high);
        assert_eq!(move_high(-1), Err(libc::EBADF));
    }
}
