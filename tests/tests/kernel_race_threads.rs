// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many threads on one op, and options of the TCP socket that change under
//! them. Records are units: whole, in order, each to one reader.

mod race;

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ktlsshim_tests::net::Epoll;
use ktlsshim_tests::peer::{ALERT, DATA, MAX};
use ktlsshim_tests::*;
use libc::*;
use race::{Rng, drain, join, narrow, open_all, race};

/// Control records among data: two readers who can take them, two who cannot.
/// Every record is delivered once, and every reader sees them in order.
#[test]
fn two_readers_of_each_kind_and_control_records() {
    race(24, |rng| {
        let mut link = Link::any();
        const RECORDS: u8 = 40;
        let kinds: Vec<u8> = (0..RECORDS)
            .map(|_| if rng.below(4) == 0 { ALERT } else { DATA })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|who| {
                let (op, stop) = (link.op.clone(), stop.clone());
                thread::spawn(move || {
                    let mut got = Vec::new();
                    loop {
                        // Two bytes per record: a plain read takes one.
                        let taken = if who < 2 {
                            op.recv_record(2, MSG_DONTWAIT)
                                .map(|(k, d)| (k.unwrap(), d))
                        } else {
                            op.take(2, MSG_DONTWAIT).map(|d| (DATA, d))
                        };
                        match taken {
                            Ok((kind, data)) => {
                                assert_eq!(data.len(), 2);
                                got.push((data[0], kind));
                            }
                            Err(Errno(EIO)) if who >= 2 => thread::yield_now(),
                            Err(Errno(EAGAIN)) if stop.load(Ordering::SeqCst) => return got,
                            Err(Errno(EAGAIN)) => {
                                net::poll(&*op, POLLIN, ms(5));
                            }
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                })
            })
            .collect();
        for (i, kind) in kinds.iter().enumerate() {
            if rng.below(8) == 0 {
                rng.jitter().spend();
            }
            // Not close_notify.
            link.peer.send(*kind, &[i as u8, 90]);
        }
        let expected = u64::from(RECORDS);
        assert!(eventually(|| link.op.seq(Dir::Rx) == expected));
        stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for reader in readers {
            let got = join(reader);
            assert!(got.is_sorted(), "in order for each reader");
            all.extend(got);
        }
        all.sort_unstable();
        let sent: Vec<_> = kinds
            .iter()
            .enumerate()
            .map(|(i, k)| (i as u8, *k))
            .collect();
        assert_eq!(all, sent, "each record once");
    });
}

/// Data and control records of several writers: whole, in each one's order.
#[test]
fn four_writers_of_both_kinds() {
    race(18, |rng| {
        let link = Link::any();
        const EACH: u8 = 20;
        let sizes: Vec<usize> = (0..4).map(|_| 2 + rng.below(3000)).collect();
        let writers: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(who, size)| {
                let (op, size) = (link.op.clone(), *size);
                thread::spawn(move || {
                    for i in 0..EACH {
                        let mut data = vec![who as u8; size];
                        data[1] = i;
                        let sent = if who % 2 == 0 {
                            op.send(&data, 0)
                        } else {
                            op.send_record(ALERT, &data, 0)
                        };
                        assert_eq!(sent, Ok(size));
                    }
                })
            })
            .collect();
        let far = link.peer.tcp.try_clone().unwrap();
        let drained = thread::spawn(move || drain(&far));
        writers.into_iter().for_each(join);
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let wire = join(drained);
        let mut half = link.peer.rx;
        let (records, rest) = open_all(&mut half, &wire);
        assert_eq!((records.len(), rest.len()), (4 * usize::from(EACH), 0));
        let mut next = [0; 4];
        for record in records {
            let who = usize::from(record.data[0]);
            assert_eq!(record.data.len(), sizes[who]);
            assert_eq!(record.data[1], next[who], "in order");
            assert_eq!(record.kind, if who % 2 == 0 { DATA } else { ALERT });
            next[who] += 1;
        }
    });
}

/// Both directions of two ops at once, while the options of both TCP sockets
/// change at random. Nothing sleeps for ever, and the program's low-water mark
/// is left behind.
#[test]
fn buffer_sizes_and_low_water_marks_change_under_traffic() {
    race(7, |rng| {
        let sides = duo(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        const ALL: usize = 300_000;
        let data = Arc::new(pattern(ALL));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (op, _) in &sides {
            let (writer, copy) = (op.clone(), data.clone());
            threads.push(thread::spawn(move || {
                for piece in copy.chunks(7001) {
                    writer.send_all(piece);
                }
            }));
            let (reader, copy) = (op.clone(), data.clone());
            threads.push(thread::spawn(move || {
                assert!(reader.recv_exact(ALL) == *copy);
            }));
        }
        let fds: Vec<_> = sides.iter().map(|(_, t)| t.try_clone().unwrap()).collect();
        let (mut own, over) = (rng.fork(), stop.clone());
        let meddler = thread::spawn(move || {
            let mut last = [1, 1];
            while !over.load(Ordering::SeqCst) {
                let side = own.below(2);
                let (name, value) = match own.below(3) {
                    0 => (SO_RCVLOWAT, 1 + own.below(5000) as i32),
                    1 => (SO_RCVBUF, 2000 + own.below(200_000) as i32),
                    _ => (SO_SNDBUF, 2000 + own.below(200_000) as i32),
                };
                sys::set_int(&fds[side], SOL_SOCKET, name, value).unwrap();
                if name == SO_RCVLOWAT {
                    last[side] = value;
                }
                own.jitter().spend();
            }
            last
        });
        threads.into_iter().for_each(join);
        stop.store(true, Ordering::SeqCst);
        let last = join(meddler);
        for ((op, tcp), lowat) in sides.iter().zip(last) {
            op.detach(Dir::Rx).unwrap();
            let left = sys::get_int(tcp, SOL_SOCKET, SO_RCVLOWAT).unwrap();
            // The kernel cuts the mark to half of a receive buffer that is set.
            assert!(
                left == lowat || left < lowat && left > 0,
                "{left} of {lowat}"
            );
        }
    });
}

/// Non-blocking writers with the smallest send buffer, woken by every kind of
/// event set; the peer reads in fits. A lost wake-up is five silent seconds.
fn writer_by_epoll(rounds: usize, on_op: bool, edge: bool) {
    race(rounds, move |rng| {
        let mut link = narrow();
        let flags = EPOLLOUT | if edge { EPOLLET } else { 0 };
        let set = if on_op {
            Epoll::new(&*link.op, flags)
        } else {
            Epoll::new(&link.tcp, flags)
        };
        let far = link.peer.tcp.try_clone().unwrap();
        let mut own = rng.fork();
        let drained = thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                own.jitter().spend();
                let mut buf = vec![0; 1 + own.below(9000)];
                match sys::read(&far, &mut buf) {
                    Ok(0) => return all,
                    Ok(n) => all.extend(&buf[..n]),
                    Err(e) => panic!("{e:?}"),
                }
            }
        });
        let (mut left, mut waits) = (60_000, 0);
        while left > 0 {
            let len = left.min(1 + rng.below(MAX));
            match link.op.send(&vec![1; len], MSG_DONTWAIT) {
                Ok(n) => left -= n,
                Err(e) => {
                    assert_eq!(e, Errno(EAGAIN));
                    assert_ne!(set.wait(ms(5000)), 0, "a lost wake-up, {left} left");
                    waits += 1;
                }
            }
        }
        assert!(waits > 0, "the buffer never was full");
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let wire = join(drained);
        let (records, rest) = open_all(&mut link.peer.rx, &wire);
        let bytes: usize = records.iter().map(|r| r.data.len()).sum();
        assert_eq!((bytes, rest.len()), (60_000, 0));
    });
}

#[test]
fn an_edge_triggered_writer_on_the_op() {
    writer_by_epoll(6, true, true);
}

#[test]
fn an_edge_triggered_writer_on_the_tcp_fd() {
    writer_by_epoll(6, false, true);
}

#[test]
fn a_level_triggered_writer_on_the_op() {
    writer_by_epoll(6, true, false);
}

#[test]
fn a_level_triggered_writer_on_the_tcp_fd() {
    writer_by_epoll(6, false, false);
}

/// Readers by event set, records in crumbs.
fn reader_by_epoll(on_op: bool, edge: bool) {
    race(15, move |rng| {
        let mut link = Link::any();
        let flags = EPOLLIN | if edge { EPOLLET } else { 0 };
        let set = if on_op {
            Epoll::new(&*link.op, flags)
        } else {
            Epoll::new(&link.tcp, flags)
        };
        let texts: Vec<Vec<u8>> = (0..10).map(|_| pattern(1 + rng.below(2000))).collect();
        let wire: Vec<u8> = texts
            .iter()
            .flat_map(|t| link.peer.tx.seal(DATA, t, 0))
            .collect();
        let all = texts.concat();
        let (far, mut own) = (link.peer.tcp.try_clone().unwrap(), rng.fork());
        let sender = thread::spawn(move || {
            let mut at = 0;
            while at < wire.len() {
                let end = wire.len().min(at + 1 + own.below(1200));
                assert_eq!(sys::write(&far, &wire[at..end]), Ok(end - at));
                at = end;
                own.jitter().spend();
            }
        });
        let mut got = Vec::new();
        while got.len() < all.len() {
            match link.op.take(1 + rng.below(3000), MSG_DONTWAIT) {
                Ok(bytes) => got.extend(bytes),
                Err(e) => {
                    assert_eq!(e, Errno(EAGAIN));
                    assert_ne!(set.wait(ms(5000)), 0, "a lost wake-up");
                }
            }
        }
        assert!(got == all);
        join(sender);
    });
}

#[test]
fn an_edge_triggered_reader_on_the_op() {
    reader_by_epoll(true, true);
}

#[test]
fn an_edge_triggered_reader_on_the_tcp_fd() {
    reader_by_epoll(false, true);
}

#[test]
fn a_level_triggered_reader_on_the_op() {
    reader_by_epoll(true, false);
}

#[test]
fn a_level_triggered_reader_on_the_tcp_fd() {
    reader_by_epoll(false, false);
}

/// sendfile, splice, send and the ioctl at once: whole records of each.
#[test]
fn every_way_to_send_at_once() {
    race(9, |rng: &mut Rng| {
        let link = Link::any();
        let path = std::env::current_exe().unwrap();
        let file = std::fs::File::open(path).unwrap();
        let data = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let len = 5000 + rng.below(60_000);
        let far = link.peer.tcp.try_clone().unwrap();
        let drained = thread::spawn(move || drain(&far));
        let sent: usize = thread::scope(|s| {
            let (op, file, data) = (&link.op, &file, &data);
            let a = s.spawn(move || {
                sys::sendfile_all(&**op, file, 0, len);
                len
            });
            let b = s.spawn(move || {
                let mut at = 0;
                while at < len {
                    let (next, _) = op.sendfile(file, at as u64, (len - at) as u64, 0).unwrap();
                    at = next as usize;
                }
                len
            });
            let c = s.spawn(move || {
                op.send_all(&data[..len]);
                len
            });
            let d = s.spawn(move || {
                let (out, into) = sys::pipe();
                let n = len.min(4096);
                assert_eq!(sys::write(&into, &data[..n]), Ok(n));
                let mut left = n;
                while left > 0 {
                    left -= sys::splice(&out, &**op, left, SPLICE_F_MORE).unwrap();
                }
                n
            });
            [a, b, c, d].into_iter().map(|t| t.join().unwrap()).sum()
        });
        // What a splice with MORE left open goes out with the next call.
        link.op.send_all(b"");
        assert_eq!(link.op.detach(Dir::Tx).map(|d| d.nonce), Ok(0));
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let wire = join(drained);
        let mut half = link.peer.rx;
        let (records, rest) = open_all(&mut half, &wire);
        let bytes: usize = records.iter().map(|r| r.data.len()).sum();
        assert_eq!((bytes, rest.len()), (sent, 0));
    });
}
