// SPDX-License-Identifier: MIT OR Apache-2.0
//! Races of re-key, detach, attach and close with threads that read, write,
//! poll or splice. No byte may be lost or given twice, no number used twice, and
//! nobody may sleep through what he waits for.

mod race;

use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::thread;

use ktlsshim_tests::peer::{DATA, Half, MAX};
use ktlsshim_tests::*;
use libc::*;
use race::{CALLS, Call, drain, join, narrow, open_all, race, start};

const V13: (Version, Cipher) = (Version::Tls13, Cipher::Aes128Gcm);

fn keys() -> Keys {
    Keys::random(V13.0, V13.1)
}

#[test]
fn a_re_key_while_a_call_sleeps() {
    for call in CALLS {
        race(20, move |rng| {
            let mut link = Link::any();
            for _ in 0..2 {
                let thread = start(call, &link);
                rng.jitter().spend();
                let next = keys();
                link.op.rekey(Dir::Rx, &next).expect("re-key");
                link.peer.tx = Half::new(next);
                rng.jitter().spend();
                link.peer.data(b"under the new key");
                let got = join(thread);
                assert_eq!(got.as_deref(), Ok(&b"under the new key"[..]), "{call:?}");
            }
        });
    }
}

/// Who is told of the detach may end with ENOTCONN; who is not must wake later.
#[test]
fn detach_and_attach_while_a_call_sleeps() {
    for call in CALLS {
        race(30, move |rng| {
            let mut link = Link::any();
            let thread = start(call, &link);
            rng.jitter().spend();
            let back = link.op.detach(Dir::Rx).expect("detach");
            assert_eq!((back.seq, back.staged.len()), (0, 0));
            rng.jitter().spend();
            let again = link.op.attach(&link.tcp, None, Some(&link.rx));
            assert_eq!(again, Ok(()));
            rng.jitter().spend();
            link.peer.data(b"after all");
            match join(thread) {
                Ok(bytes) => assert_eq!(bytes, b"after all", "{call:?}"),
                Err(e) => {
                    assert_eq!(e, Errno(ENOTCONN), "{call:?}");
                    assert_ne!(call, Call::PollOp);
                    assert_eq!(link.op.recv_exact(9), b"after all");
                }
            }
        });
    }
}

/// A record arrives while RX is handed back: the reader has it, or the program.
#[test]
fn a_record_in_flight_while_rx_is_detached() {
    race(150, |rng| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal(DATA, &[7; 60], 0);
        let thread = start(Call::Recv, &link);
        let (pause, cut) = (rng.jitter(), rng.below(wire.len()));
        let far = link.peer.tcp.try_clone().unwrap();
        let copy = wire.clone();
        let sender = thread::spawn(move || {
            sys::write(&far, &copy[..cut]).unwrap();
            pause.spend();
            sys::write(&far, &copy[cut..]).unwrap();
        });
        rng.jitter().spend();
        let back = link.op.detach(Dir::Rx).expect("detach");
        join(sender);
        match join(thread) {
            Ok(bytes) => assert_eq!((bytes, back.seq), (vec![7; 60], 1)),
            Err(e) => {
                assert_eq!((e, back.seq), (Errno(ENOTCONN), 0));
                let left = wire.len() - back.staged.len();
                let rest = net::read_exact(&link.tcp, left).unwrap();
                assert_eq!([back.staged, rest].concat(), wire);
            }
        }
        let next = link.rx.after(1);
        link.op.attach(&link.tcp, None, Some(&next)).unwrap();
        link.check();
    });
}

/// The border between two keys is wherever the calls meet; each record is
/// under one of them, with a number of its own, and none is missing.
#[test]
fn tx_is_re_keyed_while_two_threads_send() {
    race(20, |rng| {
        let mut link = Link::any();
        const EACH: usize = 25;
        let mut next: Vec<Keys> = (0..6).map(|_| keys()).collect();
        next.reverse();
        let writers: Vec<_> = (0..2u8)
            .map(|who| {
                let op = link.op.clone();
                thread::spawn(move || {
                    for i in 0..EACH as u8 {
                        assert_eq!(op.send(&[who, i], 0), Ok(2));
                    }
                })
            })
            .collect();
        let mut later: Vec<Half> = Vec::new();
        for keys in &next {
            rng.jitter().spend();
            link.op.rekey(Dir::Tx, keys).expect("re-key");
            later.insert(0, Half::new(keys.clone()));
        }
        writers.into_iter().for_each(join);
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let wire = drain(&link.peer.tcp);
        let mut seen = [0u8; 2];
        let mut left = &wire[..];
        let mut half = Some(link.peer.rx);
        while let Some(mut current) = half {
            let (records, rest) = open_all(&mut current, left);
            for record in records {
                let [who, i] = record.data[..] else {
                    panic!("{record:?}")
                };
                assert_eq!(i, seen[usize::from(who)], "in order, none missing");
                seen[usize::from(who)] += 1;
            }
            left = rest;
            half = later.pop();
        }
        assert_eq!((seen, left.len()), ([EACH as u8; 2], 0));
        link.peer = peer::Peer::new(link.peer.tcp, link.rx, keys());
    });
}

/// TX is taken back and given again under writers that wait for room.
#[test]
fn tx_is_detached_while_a_writer_waits_for_room() {
    race(12, |rng| {
        let mut link = narrow();
        let op = link.op.clone();
        let writer = thread::spawn(move || {
            let mut sent = 0;
            let data = pattern(40_000);
            for _ in 0..4 {
                match op.send(&data, 0) {
                    Ok(n) => sent += n,
                    Err(e) => assert_eq!(e, Errno(ENOTCONN)),
                }
            }
            sent
        });
        let far = link.peer.tcp.try_clone().unwrap();
        let drained = thread::spawn(move || drain(&far));
        for _ in 0..5 {
            rng.jitter().spend();
            let back = link.op.detach(Dir::Tx).expect("detach");
            rng.jitter().spend();
            let next = link.tx.after(back.seq);
            link.op.attach(&link.tcp, Some(&next), None).unwrap();
        }
        let sent = join(writer);
        let numbers = link.op.seq(Dir::Tx);
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let wire = join(drained);
        let (records, rest) = open_all(&mut link.peer.rx, &wire);
        assert_eq!((records.len() as u64, rest.len()), (numbers, 0));
        let bytes: usize = records.iter().map(|r| r.data.len()).sum();
        assert_eq!(bytes, sent, "what was reported as sent, no more, no less");
        assert!(records.iter().all(|r| r.data.len() <= MAX));
    });
}

/// Of two ops one has the socket, and it works.
#[test]
fn two_ops_attach_the_same_socket() {
    race(80, |rng| {
        let mut link = Link::detached(net::pair(), V13.0, V13.1);
        let other = std::sync::Arc::new(Op::new("gcm(aes)"));
        let fd = link.tcp.as_raw_fd();
        let (pause, tx, rx) = (rng.jitter(), link.tx.clone(), link.rx.clone());
        let op = other.clone();
        let rival = thread::spawn(move || {
            pause.spend();
            op.attach_with(&op::Attach::new(fd, Some(&tx), Some(&rx)))
        });
        rng.jitter().spend();
        let mine = link.op.attach(&link.tcp, Some(&link.tx), Some(&link.rx));
        let theirs = join(rival);
        match (mine, theirs) {
            (Ok(()), Err(e)) => assert_eq!(e, Errno(EBUSY)),
            (Err(e), Ok(())) => {
                assert_eq!(e, Errno(EBUSY));
                link.op = other;
            }
            both => panic!("{both:?}"),
        }
        link.check();
    });
}

/// Closes an fd by number: close(), or dup2() of something else over it.
fn shut(fd: i32, over: Option<&TcpListener>) {
    // SAFETY: no memory is passed; the number is owned by nobody else.
    unsafe {
        match over {
            None => assert_eq!(close(fd), 0),
            Some(other) => {
                assert_eq!(dup2(other.as_raw_fd(), fd), fd);
                assert_eq!(close(fd), 0);
            }
        }
    }
}

struct Number(i32);

impl AsRawFd for Number {
    fn as_raw_fd(&self) -> i32 {
        self.0
    }
}

/// The op's fd is closed under a call: the call goes on until it has a record,
/// and then the socket is plain. Or it came too late and took nothing.
#[test]
fn the_op_is_closed_while_a_call_sleeps() {
    for call in [Call::Recv, Call::Record, Call::Splice] {
        race(40, move |rng| {
            let mut link = Link::any();
            let op = std::mem::replace(&mut link.op, Op::new("gcm(aes)").into());
            let fd = std::sync::Arc::into_inner(op).unwrap().0.into_raw_fd();
            let tcp = link.tcp.try_clone().unwrap();
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            // The number must not be given to a pipe that nobody writes to.
            let pipe = sys::pipe();
            let thread = thread::spawn(move || call.run_with(&Number(fd), &tcp, || pipe));
            rng.jitter().spend();
            let over = (rng.below(2) == 0).then_some(&other);
            shut(fd, over);
            let wire = link.peer.tx.seal(DATA, b"last record", 0);
            link.peer.raw(&wire);
            match join(thread) {
                Ok(bytes) => assert_eq!(bytes, b"last record"),
                // The number was closed, or something else's by then.
                Err(_) => {
                    let raw = net::read_exact(&link.tcp, wire.len()).unwrap();
                    assert_eq!(raw, wire);
                }
            }
            link.peer.raw(b"plain");
            assert_eq!(net::read_exact(&link.tcp, 5).unwrap(), b"plain");
        });
    }
}

/// The TCP fd is closed under a call, as with plain TCP: FIN comes when the call
/// has ended at the latest, and the call ends with data or an error.
#[test]
fn the_tcp_fd_is_closed_while_a_call_sleeps() {
    for call in [Call::Recv, Call::Record, Call::Splice] {
        race(30, move |rng| {
            let mut link = Link::any();
            let op = link.op.clone();
            let (spare, _far) = net::pair();
            let thread = thread::spawn(move || call.run(&*op, &spare));
            rng.jitter().spend();
            let fd = link.tcp.into_raw_fd();
            shut(fd, None);
            let wire = link.peer.tx.seal(DATA, b"last record", 0);
            // EPIPE or ECONNRESET when it was closed at once.
            let _ = sys::sendmsg(&link.peer.tcp, &[&wire], &[], MSG_NOSIGNAL);
            match join(thread) {
                Ok(bytes) => assert_eq!(bytes, b"last record"),
                Err(e) => assert!([ENOTCONN, ECONNABORTED, ECONNRESET].contains(&e.0), "{e:?}"),
            }
            assert_eq!(drain(&link.peer.tcp), b"", "FIN or RST");
            let sent = link.op.send(b"x", 0);
            assert!(sent == fail(EPIPE) || sent == fail(ECONNRESET), "{sent:?}");
        });
    }
}
