// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sender on the same machine may go on writing to pages that it gave to sendfile: TCP's receive queue
//! then holds the sender's own memory. What the op has judged once it must not read again.

mod race;

use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ktlsshim_tests::*;
use libc::*;
use race::factor;

const FRONT: usize = 1000;
const SIZE: usize = 16 << 10;

/// A file in memory, and that memory.
struct Shared {
    file: std::fs::File,
    at: *mut u8,
}

// SAFETY: the mapping is written by one thread, in single bytes; who else looks at it is the kernel.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Shared {
        // SAFETY: a literal name; the descriptor is new and nobody else's.
        let file = unsafe {
            let fd = memfd_create(c"pages".as_ptr(), 0);
            assert!(fd >= 0, "memfd_create");
            std::fs::File::from_raw_fd(fd)
        };
        file.set_len(SIZE as u64).expect("ftruncate");
        // SAFETY: a new mapping of the whole file, which outlives it by the end of the process.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                SIZE,
                PROT_READ | PROT_WRITE,
                MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, MAP_FAILED, "mmap");
        Shared {
            file,
            at: at.cast(),
        }
    }

    fn set(&self, at: usize, byte: u8) {
        assert!(at < SIZE);
        // SAFETY: within the mapping.
        unsafe { self.at.add(at).write_volatile(byte) };
    }
}

/// The record's length is large when it is looked at and small when its front is taken off TCP's hands
/// (an urgent byte makes that happen): the front would be longer than the record.
#[test]
fn a_header_that_changes_after_it_was_judged() {
    in_vm(|| {
        let shared = Shared::new();
        for (at, byte) in [23, 3, 3].into_iter().enumerate() {
            shared.set(at, byte);
        }
        let stop = AtomicBool::new(false);
        let mut seen = std::collections::BTreeMap::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (high, low) in [(0x40, 0x11), (0, 0x11)] {
                        shared.set(3, high);
                        shared.set(4, low);
                    }
                }
            });
            for _ in 0..400 * factor() {
                let link = Link::any();
                let mut at = 0;
                let sent = sys::sendfile(&link.peer.tcp, &shared.file, &mut at, FRONT);
                assert_eq!(sent, Ok(FRONT));
                assert_eq!(sys::sendmsg(&link.peer.tcp, &[b"!"], &[], MSG_OOB), Ok(1));
                sys::sendfile_all(&link.peer.tcp, &shared.file, FRONT, SIZE);
                let end = loop {
                    match link.op.take(100, MSG_DONTWAIT) {
                        Ok(bytes) => panic!("opened: {bytes:?}"),
                        // The urgent byte is still under way.
                        Err(Errno(EAGAIN)) if sys::unread(&link.tcp) < SIZE - FRONT => {}
                        Err(Errno(e)) => break e,
                    }
                };
                *seen.entry(end).or_insert(0) += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
        println!("how the readers ended: {seen:?}");
        let known = [EPROTO, EBADMSG, EMSGSIZE, EAGAIN];
        assert!(seen.keys().all(|e| known.contains(e)), "{seen:?}");
    });
}
