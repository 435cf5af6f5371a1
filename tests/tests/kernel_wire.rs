// SPDX-License-Identifier: MIT OR Apache-2.0
//! What networks do to records: tiny segments, tiny windows, odd lengths, and
//! much of everything both ways at once.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, MAX, header};
use ktlsshim_tests::*;
use libc::*;

/// D10: record lengths at both ends of what is allowed.
#[test]
fn d10_the_shortest_and_longest_records_are_read() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            link.peer.send(DATA, b"");
            link.peer.send(DATA, b"x");
            assert_eq!(link.op.recv_exact(1), b"x");
            let data = random(MAX);
            link.peer.send(DATA, &data);
            assert!(link.op.recv_exact(MAX) == data);
            // One byte of plaintext too many, correctly sealed.
            let wire = link.peer.tx.seal(DATA, &random(MAX + 1), 0);
            link.peer.raw(&wire);
            assert_eq!(
                link.op.take(100, 0),
                fail(EMSGSIZE),
                "{version:?} {cipher:?}"
            );
        }
    });
}

#[test]
fn d10_every_length_below_the_least_is_refused() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let least = Keys::random(version, cipher).overhead() - 5;
            for len in 0..least {
                let mut link = Link::new(version, cipher);
                link.peer.raw(&header(DATA, len));
                link.peer.raw(&vec![0; len]);
                assert_eq!(link.op.take(100, 0), fail(EMSGSIZE), "length {len}");
            }
        }
    });
}

/// D10: far more fragments than one scatter list holds.
#[test]
fn d10_one_byte_segments() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(400);
            let mut wire = link.peer.tx.seal(DATA, &data[..300], 0);
            wire.extend(link.peer.tx.seal(DATA, &data[300..], 0));
            let mut tcp = link.peer.tcp.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                for byte in wire.chunks(1) {
                    tcp.write_all(byte).unwrap();
                }
            });
            assert!(link.op.recv_exact(400) == data, "{version:?} {cipher:?}");
            writer.join().unwrap();
            link.check();
        }
    });
}

/// No border of a record, of its header or of a cipher's block falls on one of a segment for long.
#[test]
fn segments_of_37_bytes() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(40_000);
            let mut wire = Vec::new();
            for (n, piece) in data.chunks(7_001).enumerate() {
                wire.extend(link.peer.tx.seal(DATA, piece, 0));
                if n == 2 {
                    wire.extend(link.peer.tx.seal(DATA, b"", 0));
                }
            }
            let mut tcp = link.peer.tcp.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                for segment in wire.chunks(37) {
                    tcp.write_all(segment).unwrap();
                }
            });
            assert!(link.op.recv_exact(40_000) == data, "{version:?} {cipher:?}");
            writer.join().unwrap();
            link.check();
        }
    });
}

#[test]
fn d10_thousands_of_one_byte_segments_before_the_reader_looks() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(2500);
            let wire = link.peer.tx.seal(DATA, &data, 0);
            for byte in wire.chunks(1) {
                link.peer.raw(byte);
            }
            link.arrived(wire.len());
            assert_eq!(link.op.take(10, MSG_PEEK).unwrap(), &data[..10]);
            assert!(link.op.recv_exact(2500) == data);
            link.check();
        }
    });
}

#[test]
fn d10_a_small_mss_both_ways() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let pair = net::pair_on("127.0.0.1:0", |n| net::mss(n, 88), |f| net::mss(f, 88));
            let mut link = Link::over(pair, version, cipher);
            let data = random(3 * MAX + 11);
            link.push(&data);
            let mut wire = Vec::new();
            for piece in data.chunks(MAX) {
                wire.extend(link.peer.tx.seal(DATA, piece, 0));
            }
            let mut tcp = link.peer.tcp.try_clone().unwrap();
            let writer = std::thread::spawn(move || tcp.write_all(&wire).unwrap());
            assert!(link.op.recv_exact(data.len()) == data);
            writer.join().unwrap();
            link.check();
        }
    });
}

/// The worst case for a whole-record reservation: window 100s of bytes, MSS 88.
#[test]
fn full_records_through_a_tiny_window() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let pair = net::pair_on(
                "127.0.0.1:0",
                |n| {
                    net::mss(n, 88);
                    net::sndbuf(n, 1);
                },
                |f| {
                    net::mss(f, 88);
                    net::rcvbuf(f, 1);
                },
            );
            let mut link = Link::over(pair, version, cipher);
            link.push(&random(2 * MAX));
            link.check_tx();
        }
    });
}

#[test]
fn records_cut_at_every_byte() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let len = link.rx.overhead() + 3;
            for cut in 1..len {
                let wire = link.peer.tx.seal(DATA, b"abc", 0);
                link.peer.raw(&wire[..cut]);
                link.arrived(cut);
                assert_eq!(link.op.take(9, MSG_DONTWAIT), fail(EAGAIN), "cut at {cut}");
                link.peer.raw(&wire[cut..]);
                assert_eq!(link.op.recv_exact(3), b"abc", "cut at {cut}");
            }
        }
    });
}

#[test]
fn two_kernel_sockets_exchange_odd_sizes() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let [(a, _ta), (b, _tb)] = duo(net::pair(), version, cipher);
            let data = pattern(200_000);
            for (from, to) in [(&a, &b), (&b, &a)] {
                let (from, copy) = (Arc::clone(from), data.clone());
                let sender = std::thread::spawn(move || {
                    let (mut at, mut step) = (0, 3);
                    while at < copy.len() {
                        step = step * 5 % 30_011;
                        let end = copy.len().min(at + step);
                        from.send_all(&copy[at..end]);
                        at = end;
                    }
                });
                assert!(to.recv_exact(data.len()) == data, "{version:?} {cipher:?}");
                sender.join().unwrap();
            }
        }
    });
}

/// One end of the flood: sends `len` bytes while it reads as many, and waits
/// with poll() on the TCP fd only.
fn flood(op: Arc<Op>, tcp: TcpStream, block: Arc<Vec<u8>>, len: usize) {
    let (mut sent, mut got) = (0, 0);
    let mut buf = vec![0; 128 * 1024];
    while sent < len || got < len {
        let want = POLLIN | if sent < len { POLLOUT } else { 0 };
        let events = net::poll(&tcp, want, Duration::from_secs(20));
        assert_ne!(events, 0, "deadlock: {sent} sent, {got} received of {len}");
        if events & POLLIN != 0 && got < len {
            match op.recv(&mut buf, MSG_DONTWAIT) {
                Ok(n) => {
                    assert_ne!(n, 0, "end of file");
                    let at = got % block.len();
                    let first = n.min(block.len() - at);
                    assert!(
                        buf[..first] == block[at..at + first],
                        "bytes differ near {got}"
                    );
                    let mut have = first;
                    while have < n {
                        let next = (n - have).min(block.len());
                        assert!(buf[have..have + next] == block[..next], "near {got}");
                        have += next;
                    }
                    got += n;
                }
                Err(e) => assert_eq!(e, Errno(EAGAIN)),
            }
        }
        if events & POLLOUT != 0 && sent < len {
            let at = sent % block.len();
            let end = block.len().min(at + (len - sent)).min(at + 64 * 1024);
            match op.send(&block[at..end], MSG_DONTWAIT) {
                Ok(n) => sent += n,
                Err(e) => assert_eq!(e, Errno(EAGAIN)),
            }
        }
    }
}

/// Default buffers, 32 MiB each way at the same time, both ends only poll: the
/// window must open again and again though records are taken whole only.
#[test]
fn much_data_both_ways_never_deadlocks() {
    in_vm_for(Duration::from_secs(120), || {
        let [(a, ta), (b, tb)] = duo(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let block = Arc::new(pattern(1 << 20));
        let copy = Arc::clone(&block);
        let len = 32 << 20;
        let other = std::thread::spawn(move || flood(b, tb, copy, len));
        flood(a, ta, block, len);
        other.join().unwrap();
    });
}

#[test]
fn less_data_both_ways_in_every_suite() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let [(a, ta), (b, tb)] = duo(net::pair(), version, cipher);
            let block = Arc::new(pattern(1 << 18));
            let copy = Arc::clone(&block);
            let len = 1 << 20;
            let other = std::thread::spawn(move || flood(b, tb, copy, len));
            flood(a, ta, block, len);
            other.join().unwrap();
        }
    });
}

/// A reader with a tiny buffer makes progress, and so does a tiny window.
#[test]
fn a_flood_through_tiny_buffers() {
    // A few bytes per round trip: on a busy machine that takes its time.
    in_vm_for(std::time::Duration::from_secs(180), || {
        let pair = net::pair_on(
            "127.0.0.1:0",
            |n| {
                net::sndbuf(n, 1);
                net::rcvbuf(n, 1);
            },
            |f| {
                net::sndbuf(f, 1);
                net::rcvbuf(f, 1);
            },
        );
        let [(a, ta), (b, tb)] = duo(pair, Version::Tls13, Cipher::Aes128Gcm);
        let block = Arc::new(pattern(1 << 16));
        let copy = Arc::clone(&block);
        let len = 400_000;
        let other = std::thread::spawn(move || flood(b, tb, copy, len));
        flood(a, ta, block, len);
        other.join().unwrap();
    });
}

#[test]
fn data_and_alerts_alternate() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            for turn in 0..50u8 {
                link.peer.data(&[turn; 100]);
                link.peer.send(ALERT, &[1, 90]);
                assert_eq!(link.op.recv_exact(100), [turn; 100]);
                assert_eq!(link.op.take(1, 0), fail(EIO));
                assert_eq!(link.op.recv_record(2, 0), Ok((Some(ALERT), vec![1, 90])));
                link.op.send_all(&[turn; 50]);
                link.op.send_record(ALERT, CLOSE_NOTIFY, 0).unwrap();
                assert_eq!(link.peer.expect(50), [turn; 50]);
                assert_eq!(link.peer.recv().unwrap().kind, ALERT);
            }
        }
    });
}
