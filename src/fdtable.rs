//! What the shim knows about a file descriptor.
//!
//! A cache, not the truth: descriptors are closed behind our back (`fclose`, raw
//! system calls), so an owner checks before it trusts (P22). Two levels of
//! atomics, no lock, no resize (P20): any hook may look here at any time, in a
//! signal handler or a vfork child. Leaves come from `mmap`, not `malloc`, and
//! live for ever: a reader never needs to know whether one is still there.

use crate::process;
use crate::thread::ConnId;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};

const LEAF: usize = 512;
const ROOT: usize = 4096;

type Leaf = [AtomicU64; LEAF];

/// 16 KiB of zero pages that a process without TLS never touches.
static ROOTS: [AtomicPtr<Leaf>; ROOT] = [const { AtomicPtr::new(null_mut()) }; ROOT];
/// Descriptors with an entry; 0 lets whole-table operations return at once.
static USED: AtomicUsize = AtomicUsize::new(0);

const FREE: u64 = 0;
const OWN: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing of ours.
    Free,
    /// Carries this connection.
    Conn(ConnId),
    /// A descriptor of the shim itself: op socket, parent, log.
    Own,
}

impl Entry {
    #[inline(always)]
    fn from_raw(raw: u64) -> Entry {
        match raw {
            FREE => Entry::Free,
            OWN => Entry::Own,
            id => Entry::Conn(ConnId::from_u64(id)),
        }
    }
}

#[inline(always)]
fn place(fd: i32) -> Option<&'static AtomicU64> {
    let fd = usize::try_from(fd).ok()?;
    let leaf = ROOTS.get(fd / LEAF)?.load(Acquire);
    // SAFETY: a non-null root points to a leaf that was zeroed before it was
    // published and is never unmapped.
    unsafe { leaf.as_ref() }?.get(fd % LEAF)
}

/// What we know about `fd`. Any value is safe to ask for.
#[inline(always)]
pub fn entry(fd: i32) -> Entry {
    match place(fd) {
        Some(p) => Entry::from_raw(p.load(Acquire)),
        None => Entry::Free,
    }
}

/// The hooks' fast refusal.
#[inline(always)]
pub fn is_free(fd: i32) -> bool {
    match place(fd) {
        Some(p) => p.load(Relaxed) == FREE,
        None => true,
    }
}

/// True while no descriptor has an entry.
#[inline]
pub fn is_empty() -> bool {
    USED.load(Relaxed) == 0
}

#[cold]
fn grow(fd: i32) -> Option<&'static AtomicU64> {
    let root = ROOTS.get(usize::try_from(fd).ok()? / LEAF)?;
    let fresh = crate::sys::map_anonymous(size_of::<Leaf>())?.cast::<Leaf>();
    if root
        .compare_exchange(null_mut(), fresh, AcqRel, Acquire)
        .is_err()
    {
        // Another thread was faster: ours was never visible.
        crate::sys::unmap(fresh.cast(), size_of::<Leaf>());
    }
    place(fd)
}

fn store(fd: i32, raw: u64) -> bool {
    // Entries exist only after the pid page, or a vfork child could not be told
    // from its parent (P27).
    process::arm();
    let Some(p) = place(fd).or_else(|| grow(fd)) else {
        return false;
    };
    if p.swap(raw, AcqRel) == FREE {
        USED.fetch_add(1, Relaxed);
    }
    true
}

/// Claims `fd` for a connection, whatever was there. False: no room, and the
/// table is unchanged.
pub fn set_conn(fd: i32, id: ConnId) -> bool {
    id.is_valid() && store(fd, id.to_u64())
}

/// Marks `fd` as a descriptor of the shim.
pub fn set_own(fd: i32) -> bool {
    store(fd, OWN)
}

/// Forgets `fd` and says what it was. Callers do so *before* the real close (P21).
pub fn clear(fd: i32) -> Entry {
    let Some(p) = place(fd) else {
        return Entry::Free;
    };
    let old = p.swap(FREE, AcqRel);
    if old != FREE {
        USED.fetch_sub(1, Relaxed);
    }
    Entry::from_raw(old)
}

/// Forgets `fd` only if it still carries that connection.
pub fn clear_if(fd: i32, id: ConnId) {
    if !id.is_valid() {
        return;
    }
    if let Some(p) = place(fd)
        && p.compare_exchange(id.to_u64(), FREE, AcqRel, Acquire)
            .is_ok()
    {
        USED.fetch_sub(1, Relaxed);
    }
}

/// Every descriptor in `first..=last` that has an entry, ascending. Walks leaves
/// that exist, so a range up to `u32::MAX` costs no more than a small one.
pub fn entries_in(first: u32, last: u32) -> impl Iterator<Item = (u32, Entry)> {
    let (low, high) = (first as usize, last as usize);
    let roots = if low > high || is_empty() {
        0..0
    } else {
        low / LEAF..(high / LEAF + 1).min(ROOT)
    };
    roots
        .filter_map(|r| {
            // SAFETY: as in `place`.
            let leaf = unsafe { ROOTS.get(r)?.load(Acquire).as_ref() }?;
            Some((r, leaf))
        })
        .flat_map(|(r, leaf)| {
            leaf.iter()
                .enumerate()
                .map(move |(i, p)| (r * LEAF + i, p.load(Acquire)))
        })
        .filter(move |&(fd, raw)| raw != FREE && fd >= low && fd <= high)
        .map(|(fd, raw)| (fd as u32, Entry::from_raw(raw)))
}

/// The shim's own descriptors in `first..=last`, ascending (close_range, closefrom).
pub fn own_in(first: u32, last: u32) -> impl Iterator<Item = u32> {
    entries_in(first, last)
        .filter(|e| e.1 == Entry::Own)
        .map(|e| e.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_life() {
        let id = ConnId::new(4, 1);
        assert_eq!(entry(100_000), Entry::Free);
        assert!(set_conn(100_000, id));
        assert_eq!(entry(100_000), Entry::Conn(id));
        clear_if(100_000, ConnId::new(4, 2));
        assert!(!is_free(100_000) && !is_empty());
        clear_if(100_000, id);
        assert!(is_free(100_000));
        assert!(set_own(100_001) && set_conn(100_700, id) && set_own(101_500));
        assert_eq!(
            own_in(99_000, u32::MAX).collect::<Vec<_>>(),
            [100_001, 101_500]
        );
        assert_eq!(own_in(100_002, 101_499).count(), 0);
        assert_eq!(entries_in(100_001, 101_000).count(), 2);
        assert_eq!(own_in(5, 4).count(), 0);
        assert_eq!(clear(100_001), Entry::Own);
        assert_eq!(clear(100_001), Entry::Free);
        clear(100_700);
        clear(101_500);
    }

    #[test]
    fn any_number_is_safe() {
        for fd in [-1, i32::MIN, i32::MAX, (LEAF * ROOT) as i32] {
            assert_eq!(entry(fd), Entry::Free);
            assert!(!set_own(fd));
            assert_eq!(clear(fd), Entry::Free);
        }
        assert!(!set_conn(5, ConnId::NONE));
    }

    #[test]
    fn racing_growth_loses_nothing() {
        let base = 700_000;
        std::thread::scope(|s| {
            for t in 0..4 {
                s.spawn(move || {
                    for i in 0..1000 {
                        assert!(set_conn(base + i * 4 + t, ConnId::new(i as u32, 1)));
                    }
                });
            }
        });
        assert_eq!(entries_in(base as u32, base as u32 + 3999).count(), 4000);
        for i in 0..4000 {
            clear(base + i);
        }
    }
}
