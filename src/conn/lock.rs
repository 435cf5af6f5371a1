//! A lock for one side of one connection.
//!
//! Why not a library's: it must say "no" where waiting could not end. A signal
//! handler may write to a TLS fd while the very thread it interrupted holds the
//! lock, and a fork child may inherit a lock whose holder exists only in the
//! parent. In both cases `lock` returns None, and what the caller then does must
//! not depend on the side: it refuses the call, or ends the connection if the
//! kernel has moved on already. Any other holder is waited for, however long it
//! takes. Never held across a call into libssl or the program (P32, P40), nor
//! across a system call that waits for the peer.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use crate::{process, thread};

/// Tries before the waiter leaves the processor, and before it begins to doubt
/// that the holder lives in this process.
const SPIN: u32 = 100;
const DOUBT: u32 = 1000;

/// Who may be where only one may be: a thread of a process.
pub struct Baton {
    /// 0, or the number of the holder's thread (`thread::identity`).
    owner: AtomicUsize,
    /// The holder's process; written right after `owner`.
    pid: AtomicI32,
}

/// Why a wait would not end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// This thread has it: a signal handler, or a jump out of the holder.
    Mine,
    /// Its holder stayed behind in the parent process.
    Orphan,
}

impl Baton {
    pub const fn new() -> Self {
        Self {
            owner: AtomicUsize::new(0),
            pid: AtomicI32::new(0),
        }
    }

    pub fn try_take(&self) -> bool {
        let me = thread::identity();
        let free = self
            .owner
            .compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok();
        if free {
            self.pid.store(process::pid(), Ordering::Relaxed);
        }
        free
    }

    pub fn take(&self) -> Result<(), Refused> {
        while !self.try_take() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until nobody has it.
    pub fn wait(&self) -> Result<(), Refused> {
        let mut tries = 0u32;
        loop {
            match self.owner.load(Ordering::SeqCst) {
                0 => return Ok(()),
                holder if holder == thread::identity() => return Err(Refused::Mine),
                _ => {}
            }
            tries = tries.saturating_add(1);
            if tries < SPIN {
                core::hint::spin_loop();
            } else if tries < DOUBT {
                // SAFETY: no precondition.
                unsafe { libc::sched_yield() };
            } else {
                let holder = self.pid.load(Ordering::Relaxed);
                if holder != 0 && holder != process::pid() {
                    return Err(Refused::Orphan);
                }
                crate::sys::nap();
            }
        }
    }

    pub fn release(&self) {
        self.owner.store(0, Ordering::SeqCst);
    }

    /// For a slot that is used anew.
    pub fn reset(&self) {
        self.pid.store(0, Ordering::Relaxed);
        self.release();
    }
}

pub struct Lock<T> {
    baton: Baton,
    value: UnsafeCell<T>,
}

// SAFETY: the baton admits one holder at a time, so `&mut T` is unique; T crosses
// threads only under it.
unsafe impl<T: Send> Sync for Lock<T> {}

pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Self {
            baton: Baton::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// None: this thread has it already, or its holder is not in this process.
    pub fn lock(&self) -> Option<Guard<'_, T>> {
        self.baton.take().ok().map(|()| Guard { lock: self })
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
        self.lock.baton.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_holder_is_waited_for() {
        static LOCK: Lock<u32> = Lock::new(0);
        let mut held = LOCK.lock().unwrap();
        let other = std::thread::spawn(|| LOCK.lock().map(|mut value| *value += 1).is_some());
        std::thread::sleep(std::time::Duration::from_millis(200));
        *held += 1;
        drop(held);
        assert!(other.join().unwrap());
        assert_eq!(*LOCK.lock().unwrap(), 2);
    }

    #[test]
    fn the_holder_itself_is_told_at_once() {
        let baton = Baton::new();
        assert!(baton.try_take());
        assert_eq!(baton.take(), Err(Refused::Mine));
        baton.release();
        assert!(baton.try_take());
    }
}
