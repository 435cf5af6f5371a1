// SPDX-License-Identifier: MIT OR Apache-2.0
//! Races of the op with somebody who reads or writes the TCP fd itself. The op
//! must notice (ESTALE), and until it does neither may get what the other got.

mod race;

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::*;
use libc::*;
use race::{drain, open_all, race};

const RECORDS: usize = 8;

#[test]
fn a_raw_reader_of_the_tcp_fd() {
    race(100, |rng| {
        let mut link = Link::any();
        let texts: Vec<Vec<u8>> = (0..RECORDS as u8).map(|i| vec![i; 40]).collect();
        let wires: Vec<_> = texts
            .iter()
            .map(|t| link.peer.tx.seal(DATA, t, 0))
            .collect();
        let all = wires.concat();
        let (delay, amount) = (rng.jitter(), 1 + rng.below(200));
        let cuts: Vec<_> = (0..4)
            .map(|_| (rng.below(all.len()), rng.jitter()))
            .collect();
        let op = link.op.clone();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            loop {
                match op.take(40, 0) {
                    Ok(bytes) => got.extend(bytes),
                    Err(e) => return (got, e),
                }
            }
        });
        let tcp = link.tcp.try_clone().unwrap();
        let thief = thread::spawn(move || {
            delay.spend();
            let mut buf = vec![0; amount];
            let n = sys::recvmsg(&tcp, &mut [&mut buf], &mut [], MSG_DONTWAIT);
            buf.truncate(n.map_or(0, |r| r.len));
            buf
        });
        let mut at = 0;
        let mut cuts = cuts;
        cuts.sort_by_key(|c| c.0);
        for (cut, pause) in cuts {
            link.peer.raw(&all[at..cut]);
            pause.spend();
            at = cut;
        }
        link.peer.raw(&all[at..]);
        let stolen = race::join(thief);
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        let (got, end) = race::join(reader);

        assert_eq!(got.len() % 40, 0, "whole records");
        let taken = got.len() / 40;
        assert_eq!(got, texts[..taken].concat());
        if stolen.is_empty() {
            assert_eq!((taken, end), (RECORDS, Errno(ENODATA)));
        } else {
            // It began where the op had stopped, and the op stayed there.
            let from = wires[..taken].concat().len();
            assert_eq!(end, Errno(ESTALE), "{taken} taken");
            assert!(all[from..].starts_with(&stolen));
        }
    });
}

/// Who slept in recv() on the TCP fd before the attach wakes after it, and steals.
#[test]
fn a_raw_reader_that_slept_before_attach() {
    race(60, |rng| {
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let wire = link.peer.tx.seal(DATA, &pattern(9000), 0);
        let amount = 1 + rng.below(wire.len());
        let tcp = link.tcp.try_clone().unwrap();
        let thief = thread::spawn(move || {
            let mut buf = vec![0; amount];
            let n = sys::recvmsg(&tcp, &mut [&mut buf], &mut [], MSG_WAITALL);
            buf.truncate(n.expect("recv").len);
            buf
        });
        rng.jitter().spend();
        link.op.attach(&link.tcp, None, Some(&link.rx)).unwrap();
        let op = link.op.clone();
        let reader = thread::spawn(move || op.take(9000, 0));
        link.peer.raw(&wire);
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        let stolen = race::join(thief);
        match race::join(reader) {
            Ok(bytes) => assert!(bytes == pattern(9000) && stolen.is_empty()),
            Err(e) => {
                assert!([ESTALE, ECONNABORTED].contains(&e.0), "{e:?}");
                assert!(wire.starts_with(&stolen));
            }
        }
    });
}

fn a_raw_writer(rounds: usize, flags: i32) {
    race(rounds, move |rng| {
        let link = Link::any();
        sys::set_int(&link.peer.tcp, SOL_SOCKET, SO_OOBINLINE, 1).unwrap();
        let delay = rng.jitter();
        let op = link.op.clone();
        let writer = thread::spawn(move || {
            let mut sent = 0u8;
            while sent < 20 {
                match op.send(&[sent; 100], 0) {
                    Ok(n) => assert_eq!(n, 100),
                    Err(e) => return (sent, Some(e)),
                }
                sent += 1;
            }
            (sent, None)
        });
        delay.spend();
        let alien = sys::sendmsg(&link.tcp, &[b"plain text"], &[], flags);
        assert_eq!(alien, Ok(10));
        let (sent, end) = race::join(writer);
        link.tcp.shutdown(Shutdown::Write).unwrap();

        let wire = drain(&link.peer.tcp);
        let mut half = link.peer.rx;
        let (records, rest) = open_all(&mut half, &wire);
        assert_eq!(records.len(), usize::from(sent), "a number for each record");
        for (i, record) in records.iter().enumerate() {
            assert_eq!((record.kind, &record.data[..]), (DATA, &[i as u8; 100][..]));
        }
        assert_eq!(rest, b"plain text", "nothing was sealed behind it");
        assert_eq!(end, (sent < 20).then_some(Errno(ESTALE)));
    });
}

#[test]
fn a_raw_writer_of_the_tcp_fd() {
    a_raw_writer(100, 0);
}

#[test]
fn urgent_data_written_to_the_tcp_fd() {
    a_raw_writer(40, MSG_OOB);
}

/// The peer's urgent bytes, at any place and time, while a reader sleeps. One
/// mark at a time: TCP keeps no more (see kernel_urgent).
#[test]
fn urgent_bytes_while_a_reader_sleeps() {
    let mut link = None;
    race(100, move |rng| {
        if rng.below(50) == 0 {
            link = None;
        }
        let link: &mut Link = link.get_or_insert_with(Link::any);
        let text = pattern(1 + rng.below(2000));
        let wire = link.peer.tx.seal(DATA, &text, 0);
        let (op, len) = (link.op.clone(), text.len());
        let reader = thread::spawn(move || op.recv_exact(len));
        let at = rng.below(wire.len() + 1);
        rng.jitter().spend();
        if at > 0 {
            link.peer.raw(&wire[..at]);
        }
        rng.jitter().spend();
        assert_eq!(sys::sendmsg(&link.peer.tcp, &[b"!"], &[], MSG_OOB), Ok(1));
        rng.jitter().spend();
        link.peer.raw(&wire[at..]);
        assert_eq!(race::join(reader), text);
        // The mark may be behind the record, where nobody looked yet.
        link.check_rx();
    });
}

/// A page whose header says, by turns, that the record is long and that it ends
/// in the first few bytes. Queued pages of a peer on this machine stay the peer's,
/// so what was judged once must be what is used. An urgent byte makes the op stage.
#[test]
fn a_header_that_changes_under_our_eyes() {
    const LONG: u16 = 0x4011;
    const SHORT: u16 = 0x0011;
    let stop = Arc::new(AtomicBool::new(false));
    let over = stop.clone();
    race(40, move |rng| {
        // SAFETY: the name ends with a zero; the fd is new.
        let file = sys::own(unsafe { memfd_create(c"page".as_ptr(), MFD_CLOEXEC) });
        let mut page = vec![0x5a; 65536];
        page[..3].copy_from_slice(&[DATA, 3, 3]);
        assert_eq!(sys::write(&file, &page), Ok(page.len()));
        // SAFETY: a mapping of a file that has these bytes.
        let map = unsafe {
            let none = std::ptr::null_mut();
            let prot = PROT_READ | PROT_WRITE;
            mmap(none, 4096, prot, MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(map, MAP_FAILED);
        let at = map as usize;
        over.store(false, Ordering::SeqCst);
        let over = over.clone();
        let toggle = thread::spawn(move || {
            // SAFETY: the mapping outlives this thread. Byte by byte would do:
            // half of a length is a length as well.
            let cell = |i: usize| unsafe { &*((at + i) as *const std::sync::atomic::AtomicU8) };
            let turn = AtomicU16::new(0);
            while !over.load(Ordering::Relaxed) {
                let n = turn.fetch_add(1, Ordering::Relaxed);
                let [high, low] = if n & 1 == 0 { LONG } else { SHORT }.to_be_bytes();
                cell(3).store(high, Ordering::Relaxed);
                cell(4).store(low, Ordering::Relaxed);
                for _ in 0..(n >> 3) & 63 {
                    std::hint::spin_loop();
                }
            }
        });
        let link = Link::any();
        let op = link.op.clone();
        let reader = thread::spawn(move || {
            let got = op.take(20_000, 0);
            got.expect_err("bytes of nothing")
        });
        let first = 200 + rng.below(3000);
        rng.jitter().spend();
        sys::sendfile_all(&link.peer.tcp, &file, 0, first);
        rng.jitter().spend();
        let oob = sys::sendmsg(&link.peer.tcp, &[b"!"], &[], MSG_OOB | MSG_NOSIGNAL);
        assert_eq!(oob, Ok(1));
        sys::sendfile_all(&link.peer.tcp, &file, 8192, 8192 + 20_000);
        let end = race::join(reader);
        assert!([EPROTO, EBADMSG, EMSGSIZE].contains(&end.0), "{end:?}");
        stop.store(true, Ordering::SeqCst);
        race::join(toggle);
        // SAFETY: nobody uses the mapping any more.
        assert_eq!(unsafe { munmap(map, 4096) }, 0);
    });
}
