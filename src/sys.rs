//! Raw system calls. The shim's own work never goes through libc's functions:
//! their names are our hooks, and they set errno.

use core::arch::asm;
use core::ffi::c_void;

/// Any system call: result as the kernel gives it, `-errno` in case of failure.
///
/// # Safety
/// The arguments must be what the system call `nr` demands.
#[inline(always)]
pub unsafe fn syscall(
    nr: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let r: isize;
    // SAFETY: the x86_64 system call convention; rcx and r11 are declared lost,
    // and memory is not declared untouched. The rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => r,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    r
}

/// The same with libc's convention: −1 and errno.
///
/// # Safety
/// As `syscall`.
#[inline]
pub unsafe fn libc_style(
    nr: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    // SAFETY: passed on.
    let r = unsafe { syscall(nr, a, b, c, d, e, f) };
    if (-4095..0).contains(&r) {
        crate::errno::fail(-r as i32)
    } else {
        r
    }
}

pub fn getpid() -> i32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { syscall(libc::SYS_getpid, 0, 0, 0, 0, 0, 0) as i32 }
}

pub fn gettid() -> i32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { syscall(libc::SYS_gettid, 0, 0, 0, 0, 0, 0) as i32 }
}

/// Leaves the processor for about 50 microseconds.
pub fn nap() {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 50_000,
    };
    // SAFETY: the kernel reads one timespec and writes nothing.
    unsafe { syscall(libc::SYS_nanosleep, &raw const time as usize, 0, 0, 0, 0, 0) };
}

/// Closes a descriptor of the shim's own.
pub fn close(fd: i32) {
    // SAFETY: a number; the descriptor is the caller's to close.
    unsafe { syscall(libc::SYS_close, fd as usize, 0, 0, 0, 0, 0) };
}

/// One write; the result is a count or `-errno`.
pub fn write(fd: i32, bytes: &[u8]) -> isize {
    // SAFETY: pointer and length belong to a live slice.
    unsafe {
        syscall(
            libc::SYS_write,
            fd as usize,
            bytes.as_ptr() as usize,
            bytes.len(),
            0,
            0,
            0,
        )
    }
}

/// Moves a descriptor of ours out of the program's way (P24): upper half of the
/// limit, but inside the fd table. Gives back the old one if there is no room.
pub fn move_high(fd: i32) -> i32 {
    let mut lim = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure that we own.
    let r = unsafe {
        syscall(
            libc::SYS_prlimit64,
            0,
            libc::RLIMIT_NOFILE as usize,
            0,
            (&raw mut lim) as usize,
            0,
            0,
        )
    };
    let limit = if r == 0 {
        lim.rlim_cur.min(1 << 20) as usize
    } else {
        1024
    };
    for low in [limit / 2, limit / 4] {
        // SAFETY: numbers only.
        let high = unsafe {
            syscall(
                libc::SYS_fcntl,
                fd as usize,
                libc::F_DUPFD_CLOEXEC as usize,
                low,
                0,
                0,
                0,
            )
        };
        if high >= 0 {
            close(fd);
            return high as i32;
        }
    }
    fd
}

/// Zeroed private memory, page aligned.
pub fn map_anonymous(len: usize) -> Option<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
    let p = unsafe {
        syscall(
            libc::SYS_mmap,
            0,
            len,
            prot as usize,
            flags as usize,
            usize::MAX,
            0,
        )
    };
    (p > 0).then_some(p as *mut c_void)
}

/// Gives a mapping back that nobody looks at any more.
pub fn unmap(p: *mut c_void, len: usize) {
    // SAFETY: the caller owns the mapping.
    unsafe { syscall(libc::SYS_munmap, p as usize, len, 0, 0, 0, 0) };
}

/// `madvise`; true if the kernel knows the advice.
pub fn advise(p: *mut c_void, len: usize, advice: i32) -> bool {
    // SAFETY: the caller owns the mapping; the advices we use change no content
    // that this process relies on.
    unsafe { syscall(libc::SYS_madvise, p as usize, len, advice as usize, 0, 0, 0) == 0 }
}

/// Seconds and nanoseconds of the wall clock.
pub fn now() -> (i64, i64) {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure that we own.
    unsafe {
        syscall(
            libc::SYS_clock_gettime,
            libc::CLOCK_REALTIME as usize,
            (&raw mut t) as usize,
            0,
            0,
            0,
            0,
        )
    };
    (t.tv_sec, t.tv_nsec)
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
