// SPDX-License-Identifier: MIT OR Apache-2.0
//! Out of memory and bad user memory at any point inside the module: no record is lost, repeated or
//! cut, an error leaves everything as it was, and the next try succeeds. Debug kernel only.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use ktlsshim_tests::faults::{Faults, KINDS, Kind, nth};
use ktlsshim_tests::op::sendfile_arg;
use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::{
    Cipher, Dir, Errno, FORMS, Keys, Link, Op, Parent, Version, figure, in_vm, net, pattern, sys,
};

/// What a call may answer to a fault inside the kernel; any other error is one of ours. ENFILE is what
/// accept(2) says when it has no memory for a socket.
const CLEAN: [i32; 5] = [
    libc::ENOMEM,
    libc::EFAULT,
    libc::ENOBUFS,
    libc::EAGAIN,
    libc::ENFILE,
];

/// A call can fail at this many places at most; a walk that goes on for ever has gone wrong.
const PLACES: u32 = 400;

#[track_caller]
fn clean(errno: Errno) {
    assert!(CLEAN.contains(&errno.0), "{errno:?}");
}

/// Sends all of `data` by calls of `step` bytes under `faults`; the peer opens each record.
fn send_all(
    link: &mut Link,
    data: &[u8],
    send: impl Fn(&Op, usize) -> Result<usize, Errno> + Sync,
) {
    let op = Arc::clone(&link.op);
    let peer = &mut link.peer;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < data.len() {
                match send(&op, at) {
                    Ok(n) => at += n,
                    Err(e) => clean(e),
                }
            }
        });
        let mut have = 0;
        while have < data.len() {
            let record = peer.recv().expect("a whole record in sequence");
            assert_eq!(record.kind, DATA);
            let same = data[have..].starts_with(&record.data);
            assert!(same && !record.data.is_empty(), "bytes differ at {have}");
            have += record.data.len();
        }
    });
}

/// How many faults there were.
fn each_share(suites: &[(Version, Cipher)], kinds: &[Kind], test: impl Fn(Link)) -> u64 {
    let mut sum = 0;
    for &kind in kinds {
        for percent in [1, 10, 30] {
            for &(version, cipher) in suites {
                let link = Link::new(version, cipher);
                let faults = Faults::new(&[kind], percent);
                test(link);
                let hits = faults.hits();
                println!("{kind:?} {percent} %: {hits} faults");
                figure("faults", hits);
                sum += hits;
            }
        }
    }
    sum
}

#[test]
fn send_under_faults() {
    in_vm(|| {
        let data = pattern(600_000);
        let seen = each_share(&FORMS, &KINDS, |mut link| {
            // Short calls are copied, long ones are pinned.
            send_all(&mut link, &data, |op, at| {
                let step = [700, 20_001, 3_000][at % 3];
                let end = data.len().min(at + step);
                op.send(&data[at..end], 0)
            });
        });
        assert!(seen > 50, "{} faults", seen);
    });
}

#[test]
fn sendfile_under_faults() {
    in_vm(|| {
        let data = pattern(300_000);
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open("/run/faults.data")
            .expect("file");
        file.write_all(&data).expect("write");
        file.seek(SeekFrom::Start(0)).expect("seek");
        let seen = each_share(&FORMS, &KINDS, |mut link| {
            send_all(&mut link, &data, |op, at| {
                // Not what the structure says: a fault may hit its second writing.
                let mut arg = sendfile_arg(&file, at as u64, 70_000, 0);
                op.sendfile_at(arg.as_mut_ptr() as usize)
                    .map(|n| n as usize)
            });
        });
        assert!(seen > 20, "{} faults", seen);
    });
}

#[test]
fn receive_under_faults() {
    in_vm(|| {
        let data = pattern(300_000);
        let seen = each_share(&FORMS, &KINDS, |link| {
            let Link { op, mut peer, .. } = link;
            std::thread::scope(|scope| {
                scope.spawn(|| peer.data(&data));
                let mut have = 0;
                let mut room = vec![0; 9_001];
                while have < data.len() {
                    match op.recv(&mut room, 0) {
                        Ok(0) => panic!("end of file after {have}"),
                        Ok(n) => {
                            assert!(data[have..].starts_with(&room[..n]), "differs at {have}");
                            have += n;
                        }
                        Err(e) => clean(e),
                    }
                }
            });
        });
        assert!(seen > 100, "{} faults", seen);
    });
}

/// CCM has no pages of others in its open records, but copies.
const SPLICED: [(Version, Cipher); 2] = [
    (Version::Tls13, Cipher::Aes128Gcm),
    (Version::Tls12, Cipher::Aes128Ccm),
];

/// Bytes that splice(2) took out of the pipe are sent, in the end; those that it did not are still there.
#[test]
fn splice_into_the_op_under_faults() {
    in_vm(|| {
        let data = pattern(300_000);
        let seen = each_share(&SPLICED, &[Kind::Slab, Kind::Page], |mut link| {
            let (out, into) = sys::pipe();
            sys::nonblocking(&into, true);
            let filled = std::sync::atomic::AtomicUsize::new(0);
            // An open record waits for the next call: the last one is none of splice.
            let end = data.len() - 100;
            send_all(&mut link, &data, |op, at| {
                if at >= end {
                    return op.send(&data[at..], 0);
                }
                let have = filled.load(std::sync::atomic::Ordering::Relaxed);
                if have == at {
                    // Small pieces and large, so that pages are shared and compound.
                    let step = [900, 5_000, 40_000][at % 3].min(end - at);
                    let n = sys::write(&into, &data[at..at + step])?;
                    filled.store(at + n, std::sync::atomic::Ordering::Relaxed);
                }
                let left = filled.load(std::sync::atomic::Ordering::Relaxed) - at;
                let wait = [0, libc::SPLICE_F_NONBLOCK, libc::SPLICE_F_MORE][at % 3];
                sys::splice(&out, op, left, wait)
            });
        });
        assert!(seen > 50, "{} faults", seen);
    });
}

#[test]
fn splice_out_under_faults() {
    in_vm(|| {
        let data = pattern(200_000);
        let seen = each_share(&SPLICED, &[Kind::Slab, Kind::Page], |link| {
            let Link { op, mut peer, .. } = link;
            let (out, into) = sys::pipe();
            std::thread::scope(|scope| {
                scope.spawn(|| peer.data(&data));
                let mut have = 0;
                let mut room = vec![0; 60_000];
                while have < data.len() {
                    match sys::splice(&*op, &into, 60_000, 0) {
                        Ok(0) => panic!("end of file after {have}"),
                        Ok(n) => {
                            assert_eq!(sys::read(&out, &mut room), Ok(n));
                            assert!(data[have..].starts_with(&room[..n]), "differs at {have}");
                            have += n;
                        }
                        Err(e) => clean(e),
                    }
                }
            });
        });
        assert!(seen > 20, "{} faults", seen);
    });
}

/// Walks `call` through every place where it can fail, until it does not get that far.
fn walk<T>(mut call: impl FnMut(u32) -> (Result<T, Errno>, bool)) -> u32 {
    for n in 1..PLACES {
        let (result, reached) = call(n);
        match result {
            Err(e) => clean(e),
            Ok(_) if !reached => {
                figure("places", u64::from(n - 1));
                return n - 1;
            }
            Ok(_) => {}
        }
    }
    panic!("the call fails in {PLACES} places");
}

#[test]
fn each_failing_place_of_bind_and_accept() {
    in_vm(|| {
        let places = walk(|n| nth(n, || Parent::bind("gcm(aes)").map(drop)));
        let parent = Parent::bind("gcm(aes)").expect("bind");
        let more = walk(|n| nth(n, || parent.accept().map(drop)));
        println!("bind: {places} places, accept: {more}");
        assert!(places > 2 && more > 2);
    });
}

#[test]
fn each_failing_place_of_attach_rekey_and_detach() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let attach = walk(|n| {
                let mut link = Link::detached(net::pair(), version, cipher);
                let (op, tcp) = (&link.op, &link.tcp);
                let (result, reached) = nth(n, || op.attach(tcp, Some(&link.tx), Some(&link.rx)));
                if result.is_err() {
                    op.attach(tcp, Some(&link.tx), Some(&link.rx))
                        .expect("nothing stays behind of an attach that failed");
                }
                link.check();
                (result, reached)
            });
            let rekey = walk(|n| {
                let mut link = Link::new(version, cipher);
                let keys = Keys::random(version, cipher);
                let (result, reached) = nth(n, || link.op.rekey(Dir::Tx, &keys));
                if result.is_ok() {
                    link.peer.rx = ktlsshim_tests::peer::Half::new(keys);
                }
                link.check();
                (result, reached)
            });
            let detach = walk(|n| {
                let mut link = Link::new(version, cipher);
                link.check();
                let mut room = vec![0; 20_000];
                let (result, reached) = nth(n, || link.op.detach_into(Dir::Rx, &mut room));
                if let Err(e) = &result {
                    clean(*e);
                    let gone = link.op.detach_into(Dir::Rx, &mut room);
                    assert!(gone.is_ok(), "{gone:?} after {e:?}");
                }
                link.check_tx();
                (result, reached)
            });
            println!("attach: {attach} places, re-key: {rekey}, detach: {detach}");
            assert!(attach > 2 && rekey > 0 && detach > 0);
        }
    });
}

#[test]
fn each_failing_place_of_send_and_receive() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let data = pattern(40_000);
            let send = walk(|n| {
                let mut link = Link::new(version, cipher);
                let (result, reached) = nth(n, || link.op.send(&data, 0));
                let done = *result.as_ref().unwrap_or(&0);
                if done > 0 {
                    assert_eq!(link.peer.expect(done), data[..done]);
                }
                link.check();
                (result, reached)
            });
            let receive = walk(|n| {
                let mut link = Link::new(version, cipher);
                let wire = link.peer.tx.seal(DATA, &data[..16_000], 0);
                link.peer.raw(&wire);
                link.arrived(wire.len());
                let mut room = vec![0; 16_000];
                let (result, reached) = nth(n, || link.op.recv(&mut room, 0));
                let done = *result.as_ref().unwrap_or(&0);
                assert_eq!(room[..done], data[..done]);
                let rest = link.op.recv_exact(16_000 - done);
                assert_eq!(rest, data[done..16_000]);
                link.check();
                (result, reached)
            });
            println!("send: {send} places, receive: {receive}");
            assert!(send > 2 && receive > 1);
        }
    });
}

#[test]
fn each_failing_place_of_sendfile() {
    in_vm(|| {
        let data = pattern(40_000);
        std::fs::write("/run/places.data", &data).expect("write");
        let file = std::fs::File::open("/run/places.data").expect("file");
        for (version, cipher) in SPLICED {
            let places = walk(|n| {
                let mut link = Link::new(version, cipher);
                let mut arg = sendfile_arg(&file, 0, 40_000, 0);
                let (result, reached) = nth(n, || link.op.sendfile_at(arg.as_mut_ptr() as usize));
                let done = *result.as_ref().unwrap_or(&0) as usize;
                if done > 0 {
                    assert_eq!(link.peer.expect(done), data[..done]);
                }
                // A record more than was told would come before this.
                link.check();
                (result, reached)
            });
            println!("sendfile: {places} places");
            assert!(places > 4);
        }
    });
}

#[test]
fn each_failing_place_of_splice() {
    in_vm(|| {
        for (version, cipher) in SPLICED {
            let data = pattern(40_000);
            let inward = walk(|n| {
                let mut link = Link::new(version, cipher);
                let (out, into) = sys::pipe();
                assert_eq!(sys::write(&into, &data), Ok(data.len()));
                let (result, reached) = nth(n, || sys::splice(&out, &*link.op, data.len(), 0));
                let done = *result.as_ref().unwrap_or(&0);
                let op = Arc::clone(&link.op);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut left = data.len() - done;
                        while left > 0 {
                            left -= sys::splice(&out, &*op, left, 0).expect("the rest");
                        }
                    });
                    assert!(link.peer.expect(data.len()) == data, "bytes differ");
                });
                link.check();
                (result, reached)
            });
            let outward = walk(|n| {
                let mut link = Link::new(version, cipher);
                let wire = link.peer.tx.seal(DATA, &data[..16_000], 0);
                link.peer.raw(&wire);
                link.arrived(wire.len());
                let (out, into) = sys::pipe();
                let (result, reached) = nth(n, || sys::splice(&*link.op, &into, 16_000, 0));
                let done = *result.as_ref().unwrap_or(&0);
                let mut room = vec![0; 16_000];
                if done > 0 {
                    assert_eq!(sys::read(&out, &mut room), Ok(done));
                }
                assert_eq!(room[..done], data[..done]);
                assert_eq!(link.op.recv_exact(16_000 - done), data[done..16_000]);
                link.check();
                (result, reached)
            });
            println!("splice in: {inward} places, out: {outward}");
            assert!(inward > 2 && outward > 1);
        }
    });
}

/// The instrument itself: a fault that is asked for happens, one that is not does not.
#[test]
fn faults_hit_the_module_and_nothing_else() {
    in_vm(|| {
        let mut link = Link::any();
        let faults = Faults::new(&[Kind::Usercopy], 100);
        assert_eq!(link.op.send(b"abc", 0), Err(Errno(libc::EFAULT)));
        assert!(faults.hits() > 0);
        let before = faults.hits();
        std::fs::read("/proc/self/status").expect("copied, since we are not on that stack");
        assert_eq!(faults.hits(), before);
        drop(faults);
        link.check();
    });
}
