//! The life of the process: constructor, exit, and whose memory this is.
//!
//! The constructor runs in every program that inherits the preload, so it does
//! little (P14): it copies our variables into static memory, silences panics and
//! looks up libc's functions, so that no hook enters the loader later, where a
//! signal handler or a forked child could not follow (P31). No thread, no
//! descriptor, no allocation.
//!
//! The pid page (P27) tells three processes apart that all run our hooks: this
//! one, a forked child (own copy of the memory: the kernel wiped the page) and a
//! vfork child (the parent's memory: the page still names the parent).

use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering::*};
use libc::{c_char, c_int};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Before the constructor: pure passthrough (P12).
    Early,
    Running,
    /// Nothing new is offloaded; live connections keep translating.
    Exiting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PidState {
    /// The process that filled the page.
    Same,
    /// First look after a fork; from now on this process is `Same`.
    ForkChild,
    /// On borrowed memory: touch nothing.
    VforkChild,
}

static PHASE: AtomicU8 = AtomicU8::new(0);
const PAGE: usize = 4096;
static PID: AtomicPtr<AtomicI32> = AtomicPtr::new(null_mut());

#[inline]
pub fn phase() -> Phase {
    match PHASE.load(Relaxed) {
        0 => Phase::Early,
        1 => Phase::Running,
        _ => Phase::Exiting,
    }
}

/// Makes the pid page. Called before the first descriptor is claimed; that is
/// never in a vfork child, which makes no TLS handshakes.
pub fn arm() {
    if PID.load(Acquire).is_null() {
        make_page();
    }
}

#[cold]
fn make_page() {
    let Some(page) = crate::sys::map_anonymous(PAGE) else {
        return;
    };
    // Linux 4.14; without it a fork child looks like a vfork child, which keeps its
    // hands off: safe, only slow.
    let _ = crate::sys::advise(page, PAGE, libc::MADV_WIPEONFORK);
    let pid = page.cast::<AtomicI32>();
    // SAFETY: fresh zeroed mapping, page aligned, ours alone until published.
    unsafe { &*pid }.store(crate::sys::getpid(), Relaxed);
    if PID
        .compare_exchange(null_mut(), pid, AcqRel, Acquire)
        .is_err()
    {
        crate::sys::unmap(page, PAGE);
    }
}

/// This process, as a number that a fork child never shares with its parent. A
/// vfork child gets its parent's: it runs on the parent's memory.
pub fn pid() -> i32 {
    // SAFETY: published pages are never unmapped.
    match unsafe { PID.load(Acquire).as_ref() } {
        Some(cell) => match cell.load(Acquire) {
            0 => {
                let now = crate::sys::getpid();
                // Another thread of the child writes the same number.
                let _ = cell.compare_exchange(0, now, AcqRel, Acquire);
                now
            }
            known => known,
        },
        None => crate::sys::getpid(),
    }
}

/// Whose memory is this? Costs a `getpid`: ask for claimed descriptors only.
/// Without a page (out of memory) the answer is `VforkChild`: touch nothing.
pub fn pid_state() -> PidState {
    // SAFETY: published pages are never unmapped.
    let Some(cell) = (unsafe { PID.load(Acquire).as_ref() }) else {
        return PidState::VforkChild;
    };
    let now = crate::sys::getpid();
    match cell.load(Acquire) {
        p if p == now => PidState::Same,
        // Threads of the child may race to fill it: all write the same number, and
        // the exchange lets one of them see ForkChild.
        0 => match cell.compare_exchange(0, now, AcqRel, Acquire) {
            Ok(_) => PidState::ForkChild,
            Err(_) => PidState::Same,
        },
        _ => PidState::VforkChild,
    }
}

#[allow(dead_code)]
extern "C" fn init(_argc: c_int, _argv: *const *const c_char, envp: *const *const c_char) {
    crate::boundary::guard((), || {
        crate::real::resolve_all();
        crate::boundary::silence();
        // SAFETY: the loader passes the environment to constructors; it is a
        // null-terminated array of strings that nobody else changes yet.
        unsafe { crate::config::snapshot(envp) };
        PHASE.store(1, Release);
    });
}

#[allow(dead_code)]
extern "C" fn fini() {
    PHASE.store(2, Release);
    crate::boundary::guard((), crate::conn::at_exit);
}

// glibc passes argc, argv and envp to the entries of .init_array.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = init;

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".fini_array")]
static FINI: extern "C" fn() = fini;

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(child: i32) -> i32 {
        let mut status = 0;
        // SAFETY: our own child, our own int.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn fork_and_vfork_are_told_apart() {
        arm();
        assert_eq!(pid_state(), PidState::Same);
        // SAFETY: the child only makes system calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let ok = pid_state() == PidState::ForkChild && pid_state() == PidState::Same;
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(if ok { 7 } else { 1 }) };
        }
        assert_eq!(status_of(child), 7);

        extern "C" fn on_borrowed_memory(_: *mut libc::c_void) -> c_int {
            if pid_state() == PidState::VforkChild {
                8
            } else {
                1
            }
        }
        let mut stack = vec![0u8; 64 << 10];
        let end = stack.as_mut_ptr_range().end;
        // SAFETY: CLONE_VFORK keeps this thread, and so the stack, in place until the
        // child has gone; the child calls one function that only makes a system call.
        let child = unsafe {
            libc::clone(
                on_borrowed_memory,
                end.map_addr(|a| a & !15).cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                null_mut(),
            )
        };
        assert_eq!(status_of(child), 8);
        assert_eq!(pid_state(), PidState::Same);
    }
}
