//! A lock for one side of one connection.
//!
//! Why not a library's: it must say "no" rather than wait for ever. A signal
//! handler may write to a TLS fd while the very thread it interrupted holds the
//! lock, and a fork child may inherit a lock whose holder exists only in the
//! parent. In both cases `lock` returns None and the caller gives the call a
//! clean error. Never held across a call into libssl or the program (P32, P40),
//! nor across a system call that can sleep.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::thread;

/// Yields before the holder is believed lost (a fork child's copy of a lock
/// that a vanished thread holds): about a second on an idle machine.
const PATIENCE: u32 = 200_000;

pub struct Lock<T> {
    /// 0, or the address of the holder's thread slot.
    owner: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: the owner word admits one holder at a time, so `&mut T` is unique; T
// crosses threads only under it.
unsafe impl<T: Send> Sync for Lock<T> {}

pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// None: this thread holds it already, or its holder is gone.
    pub fn lock(&self) -> Option<Guard<'_, T>> {
        let me = thread::identity();
        let mut tries = 0u32;
        loop {
            match self
                .owner
                .compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(Guard { lock: self }),
                Err(holder) if holder == me => return None,
                Err(_) => {
                    tries += 1;
                    if tries > PATIENCE {
                        return None;
                    }
                    if tries.is_multiple_of(64) {
                        // SAFETY: sched_yield has no precondition.
                        unsafe { libc::sched_yield() };
                    } else {
                        core::hint::spin_loop();
                    }
                }
            }
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only holder, see `Lock::lock`.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for deref; the guard itself is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.owner.store(0, Ordering::Release);
    }
}
