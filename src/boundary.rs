//! Where panics end. A panic inside the shim must never unwind into C and never
//! make a real call happen twice (P16), so each hook's slow path runs in `guard`.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::panic::{AssertUnwindSafe, catch_unwind};

static BROKEN: AtomicBool = AtomicBool::new(false);

/// Runs `f`. If it panics the result is `fallback` with errno EPIPE, and the shim
/// counts as broken from then on. State that `f` touched may be half changed: that
/// is why `broken()` exists, and why owners then only refuse.
#[inline]
pub fn guard<R: Copy>(fallback: R, f: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => {
            failed(payload);
            fallback
        }
    }
}

#[cold]
#[inline(never)]
fn failed(payload: Box<dyn core::any::Any + Send>) {
    BROKEN.store(true, Relaxed);
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
mod tests {
    #[test]
    fn a_panic_becomes_the_fallback() {
        assert_eq!(super::guard(-1, || 7), 7);
        crate::errno::set(0);
        let r = super::guard(-1, || if crate::errno::get() == 0 { std::panic::panic_any(1) } else { 7 });
        assert_eq!((r, crate::errno::get()), (-1, libc::EPIPE));
        assert!(super::broken());
        super::BROKEN.store(false, super::Relaxed);
    }
}
