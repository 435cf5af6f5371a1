//! Where panics end. A panic inside the shim must never unwind into C and never
//! make a real call happen twice (P16), so each hook's slow path runs in `guard`.
//!
//! Only panics end here. A thread that is cancelled inside a blocking call unwinds
//! through the same frames (P40), and so does a C++ exception that a program throws
//! in a BIO callback; `catch_unwind` aborts the process on both. So the frame that
//! catches is a small function of assembly with a personality routine of its own,
//! which lets everything pass that is not a Rust exception. For that to work, calls
//! that may block are made through "C-unwind" pointers: Rust's own frames then know
//! that unwinding may come from there, and run their destructors.
//!
//! `guard` itself calls nothing that the compiler believes to unwind, so neither it
//! nor a hook around it has a landing pad that would be in the way.

use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use libc::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

static BROKEN: AtomicBool = AtomicBool::new(false);

// ktlsshim_try(f, data): calls f(data); null, or the exception that ended it.
global_asm!(
    ".pushsection .text.ktlsshim_try,\"ax\",@progbits",
    ".globl ktlsshim_try",
    ".hidden ktlsshim_try",
    ".type ktlsshim_try, @function",
    "ktlsshim_try:",
    ".cfi_startproc",
    // 0x1b: a pc-relative, signed four byte pointer.
    ".cfi_personality 0x1b, {personality}",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "xor eax, eax",
    // The personality resumes here with the exception in rax.
    ".globl ktlsshim_caught",
    ".hidden ktlsshim_caught",
    "ktlsshim_caught:",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "ret",
    ".cfi_endproc",
    ".size ktlsshim_try, . - ktlsshim_try",
    ".popsection",
    personality = sym personality,
);

unsafe extern "C" {
    // Declared as never unwinding, which is true for panics; what does unwind through
    // it finds no landing pad in its callers and goes on.
    fn ktlsshim_try(f: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void) -> *mut c_void;
    static ktlsshim_caught: u8;
    fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
    fn _Unwind_SetIP(context: *mut c_void, at: usize);
}

unsafe extern "C-unwind" {
    fn _Unwind_RaiseException(exception: *mut c_void) -> c_int;
}

const SEARCH_PHASE: c_int = 1;
const HANDLER_FRAME: c_int = 4;
const FORCED: c_int = 8;
const HANDLER_FOUND: c_int = 6;
const INSTALL_CONTEXT: c_int = 7;
const CONTINUE_UNWIND: c_int = 8;
const RUST: u64 = u64::from_ne_bytes(*b"MOZ\0RUST");
const RAX: c_int = 0;

/// What the unwinder asks at the frame of `ktlsshim_try` (Itanium C++ ABI, level I).
unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    class: u64,
    exception: *mut c_void,
    context: *mut c_void,
) -> c_int {
    if actions & FORCED != 0 || class != RUST {
        return CONTINUE_UNWIND;
    }
    if actions & SEARCH_PHASE != 0 {
        return HANDLER_FOUND;
    }
    if actions & HANDLER_FRAME == 0 {
        return CONTINUE_UNWIND;
    }
    // SAFETY: the unwinder's own context, changed as its ABI describes; the address
    // lies in the frame's own function and expects the exception in rax.
    unsafe {
        _Unwind_SetGR(context, RAX, exception as usize);
        _Unwind_SetIP(context, (&raw const ktlsshim_caught) as usize);
    }
    INSTALL_CONTEXT
}

/// Runs `f`. If it panics the result is `fallback` with errno EPIPE, and the shim
/// counts as broken from then on. State that `f` touched may be half changed: that
/// is why `broken()` exists, and why owners then only refuse.
#[inline]
pub fn guard<R: Copy, F: FnOnce() -> R>(fallback: R, f: F) -> R {
    struct Call<F, R> {
        f: MaybeUninit<F>,
        result: R,
    }
    unsafe extern "C-unwind" fn run<F: FnOnce() -> R, R>(data: *mut c_void) {
        let call = data.cast::<Call<F, R>>();
        // SAFETY: `guard` passes its own Call, still alive; the closure is moved out
        // once, and nobody else reads it.
        unsafe { (*call).result = ((*call).f.assume_init_read())() };
    }
    let mut call = Call {
        f: MaybeUninit::new(f),
        result: fallback,
    };
    // SAFETY: `run` is made for exactly this Call.
    let exception = unsafe { ktlsshim_try(run::<F, R>, (&raw mut call).cast()) };
    if exception.is_null() {
        return call.result;
    }
    failed(exception);
    fallback
}

/// Takes the exception apart the way libstd wants it: thrown again right below a
/// `catch_unwind`, so that the thread does not count as panicking any more.
#[cold]
#[inline(never)]
extern "C" fn failed(exception: *mut c_void) {
    BROKEN.store(true, Relaxed);
    // SAFETY: a Rust exception that we own since the landing.
    let payload = catch_unwind(AssertUnwindSafe(|| unsafe {
        _Unwind_RaiseException(exception)
    }));
    // Its destructor could panic in turn, and the memory does not matter any more.
    core::mem::forget(payload);
    crate::errno::set(libc::EPIPE);
}

/// Has a panic been caught in this process?
#[inline]
pub fn broken() -> bool {
    BROKEN.load(Relaxed)
}

/// Panics say nothing (P17): stderr belongs to the program. The closure captures
/// nothing, so boxing it does not allocate.
pub fn silence() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[cfg(test)]
#[allow(clippy::panic)] // The panic is what is tested.
mod tests {
    use super::*;

    fn fails(why: i32) -> i32 {
        if core::hint::black_box(why) != 0 {
            std::panic::panic_any(why)
        } else {
            7
        }
    }

    #[test]
    fn a_panic_becomes_the_fallback() {
        assert_eq!(guard(-1, || fails(0)), 7);
        for _ in 0..3 {
            crate::errno::set(0);
            assert_eq!(
                (guard(-1, || fails(1)), crate::errno::get()),
                (-1, libc::EPIPE)
            );
            assert!(!std::thread::panicking());
        }
        assert_eq!(guard(-1, || guard(-2, || fails(1)) * 10), -20);
        assert!(broken());
        BROKEN.store(false, Relaxed);
    }

    /// Runs its part when the frame goes, however it goes.
    struct Mark(&'static AtomicBool);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn a_cancelled_thread_passes_through() {
        static DROPPED: AtomicBool = AtomicBool::new(false);
        unsafe extern "C" {
            fn pthread_cancel(t: libc::pthread_t) -> c_int;
        }
        unsafe extern "C-unwind" {
            #[link_name = "pause"]
            fn pause_unwinding() -> c_int;
        }
        extern "C" fn thread(_: *mut c_void) -> *mut c_void {
            guard((), || {
                let _mark = Mark(&DROPPED);
                // SAFETY: waits for a signal or for cancellation.
                unsafe { pause_unwinding() };
                fails(1);
            });
            core::ptr::null_mut()
        }
        let (mut id, mut result) = (0, core::ptr::null_mut());
        // SAFETY: a thread of ours, cancelled and joined once.
        unsafe {
            assert_eq!(
                libc::pthread_create(&mut id, core::ptr::null(), thread, core::ptr::null_mut()),
                0
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(pthread_cancel(id), 0);
            assert_eq!(libc::pthread_join(id, &mut result), 0);
        }
        assert_eq!(result as isize, -1); // PTHREAD_CANCELED
        assert!(DROPPED.load(Relaxed));
    }
}
