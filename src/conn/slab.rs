//! Where connections live: a type-stable slab.
//!
//! Memory: chunks of `Connection`s are mapped once and never unmapped, so that a
//! stale `ConnId` (from a dup'ed fd, another thread, a freed SSL) can always be
//! looked at safely; its generation then says that it is stale. The chunks are
//! kept out of core dumps, since the keys lie in them.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::Connection;
use crate::thread::ConnId;

const PER_CHUNK: usize = 64;
const MAX_CHUNKS: usize = 4096;
/// Generations are 24 bits in a ConnId, and 0 would make id 0 possible.
const GENERATION_MASK: u32 = 0x00ff_ffff;

static CHUNKS: [AtomicPtr<Connection>; MAX_CHUNKS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CHUNKS];
/// First index never handed out.
static FRESH: AtomicU32 = AtomicU32::new(0);
/// Treiber stack of returned slots: change counter << 32 | index + 1.
static RETURNED: AtomicU64 = AtomicU64::new(0);

fn slot(index: u32) -> Option<&'static Connection> {
    let chunk = CHUNKS
        .get(index as usize / PER_CHUNK)?
        .load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: a published chunk holds PER_CHUNK initialised connections and is
    // never unmapped.
    Some(unsafe { &*chunk.add(index as usize % PER_CHUNK) })
}

/// The live connection of this id, if it is still that one.
pub fn by_id(id: ConnId) -> Option<&'static Connection> {
    let found = slot(id.index())?;
    (found.generation.load(Ordering::Acquire) == id.generation()).then_some(found)
}

fn map_chunk(at: usize) -> Option<()> {
    let home = CHUNKS.get(at)?;
    if !home.load(Ordering::Acquire).is_null() {
        return Some(());
    }
    let size = size_of::<Connection>() * PER_CHUNK;
    // SAFETY: an anonymous private mapping at an address of the kernel's choice.
    let raw = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if raw == libc::MAP_FAILED {
        return None;
    }
    let chunk = raw.cast::<Connection>();
    // SAFETY: the mapping is `size` bytes, page aligned, and ours alone until
    // it is published below.
    unsafe {
        libc::madvise(raw, size, libc::MADV_DONTDUMP);
        for i in 0..PER_CHUNK {
            chunk.add(i).write(Connection::vacant());
        }
    }
    if home
        .compare_exchange(ptr::null_mut(), chunk, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread published first; nobody has seen this mapping.
        unsafe { libc::munmap(raw, size) };
    }
    Some(())
}

/// Takes a vacant slot. None: out of memory, or 262,144 connections live.
pub fn take() -> Option<(ConnId, &'static Connection)> {
    loop {
        let head = RETURNED.load(Ordering::Acquire);
        let Some(index) = (head as u32).checked_sub(1) else {
            break;
        };
        let found = slot(index)?;
        let next = u64::from(found.next_free.load(Ordering::Relaxed));
        let new = ((head >> 32).wrapping_add(1) << 32) | next;
        if RETURNED
            .compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            return Some((
                ConnId::new(index, found.generation.load(Ordering::Relaxed)),
                found,
            ));
        }
    }
    let index = FRESH.fetch_add(1, Ordering::Relaxed);
    if index as usize >= PER_CHUNK * MAX_CHUNKS || map_chunk(index as usize / PER_CHUNK).is_none() {
        // The index is lost rather than given back: another thread may have
        // taken the next one already.
        return None;
    }
    let found = slot(index)?;
    Some((
        ConnId::new(index, found.generation.load(Ordering::Relaxed)),
        found,
    ))
}

/// Makes every id of this connection stale and the slot reusable. True for the
/// one caller who ended it.
pub fn give_back(id: ConnId, last_words: impl FnOnce(&'static Connection)) -> bool {
    let Some(found) = slot(id.index()) else {
        return false;
    };
    let next = match id.generation().wrapping_add(1) & GENERATION_MASK {
        0 => 1,
        other => other,
    };
    if found
        .generation
        .compare_exchange(id.generation(), next, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        return false;
    }
    last_words(found);
    let mut head = RETURNED.load(Ordering::Acquire);
    loop {
        found.next_free.store(head as u32, Ordering::Relaxed);
        let new = ((head >> 32).wrapping_add(1) << 32) | u64::from(id.index() + 1);
        match RETURNED.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => head = now,
        }
    }
}

/// Visits every live connection (at exit, for the log).
pub fn each(mut visit: impl FnMut(ConnId, &'static Connection)) {
    let fresh = FRESH.load(Ordering::Acquire);
    for index in 0..fresh {
        let Some(found) = slot(index) else { continue };
        if found.ssl.load(Ordering::Acquire) != 0 {
            visit(
                ConnId::new(index, found.generation.load(Ordering::Acquire)),
                found,
            );
        }
    }
}
