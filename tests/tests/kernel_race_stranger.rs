// SPDX-License-Identifier: MIT OR Apache-2.0
//! Races of the op with somebody who reads or writes the TCP fd itself. The op
//! must notice (ESTALE), and until it does neither may get what the other got.

mod race;

use std::net::Shutdown;
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
