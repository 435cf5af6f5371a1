// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module goes only when nobody uses it, and then leaves nothing behind.

mod race;

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ktlsshim_tests::sys::Res;
use ktlsshim_tests::*;
use libc::*;
use race::{join, references};

fn remove() -> Res<()> {
    let name = CString::new("algif_tls").unwrap();
    // SAFETY: the name ends with a zero.
    let ret = unsafe { syscall(SYS_delete_module, name.as_ptr(), O_NONBLOCK) };
    sys::cvt(ret as isize).map(drop)
}

fn insert() -> Res<()> {
    let path = std::env::var("KTLSSHIM_KMOD").expect("KTLSSHIM_KMOD");
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: the parameters are an empty string.
    let ret = unsafe { syscall(SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    sys::cvt(ret as isize).map(drop)
}

#[test]
fn the_module_goes_when_the_last_user_is_gone() {
    in_vm(|| {
        assert_eq!(references(), 0, "nobody else uses it");
        for _ in 0..5 {
            let busy = fail(EAGAIN);
            let parent = Parent::bind("gcm(aes)").unwrap();
            assert_eq!(remove(), busy, "a parent");
            let op = parent.accept().unwrap();
            drop(parent);
            assert_eq!(remove(), busy, "an op");
            drop(op);
            let mut link = Link::any();
            assert_eq!(remove(), busy, "an attached op");
            link.check();
            let Link { op, tcp, peer, .. } = link;
            drop(op);
            assert_eq!(remove(), busy, "a socket that was claimed once");
            drop((tcp, peer));
            assert!(eventually(|| references() == 0));
            assert_eq!(remove(), Ok(()));
            assert!(Parent::bind("gcm(aes)").is_err());
            assert!(!Path::new("/proc/net/alg_tls_stat").exists());
            assert_eq!(insert(), Ok(()));
            Link::any().check();
            assert!(eventually(|| references() == 0));
        }
    });
}

/// Sockets come and go in three threads while the module is removed and inserted.
#[test]
fn removal_against_use() {
    let rounds = 30 * race::factor();
    let limit = std::time::Duration::from_secs(60 + rounds as u64);
    in_vm_for(limit, move || {
        let stop = Arc::new(AtomicBool::new(false));
        let worked = Arc::new(AtomicUsize::new(0));
        let users: Vec<_> = (0..3)
            .map(|who| {
                let (stop, worked) = (stop.clone(), worked.clone());
                thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let Ok(parent) = Parent::bind("gcm(aes)") else {
                            thread::yield_now();
                            continue;
                        };
                        // Held by the parent from here on.
                        let op = Arc::new(parent.accept().expect("accept"));
                        drop(parent);
                        let mut link =
                            Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
                        link.op = op;
                        let (tx, rx) = (Some(&link.tx), Some(&link.rx));
                        link.op.attach(&link.tcp, tx, rx).expect("attach");
                        if who == 0 {
                            link.check();
                        }
                        worked.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let mut removed = 0;
        while removed < rounds || worked.load(Ordering::SeqCst) < rounds {
            match remove() {
                Ok(()) => {
                    removed += 1;
                    assert_eq!(insert(), Ok(()));
                }
                // EBUSY: it is still being loaded or unloaded.
                Err(e) => assert!([EAGAIN, EBUSY].contains(&e.0), "{e:?}"),
            }
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        users.into_iter().for_each(join);
        assert!(eventually(|| references() == 0));
        assert_eq!(remove(), Ok(()));
        assert_eq!(insert(), Ok(()));
        Link::any().check();
    });
}
