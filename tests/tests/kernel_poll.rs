// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting: poll, select, epoll (level and edge) on the op and on the TCP fd,
//! wake-ups per record, blocking calls, timeouts, signals.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use ktlsshim_tests::net::{Epoll, poll};
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, MAX};
use ktlsshim_tests::sys::{self, Res};
use ktlsshim_tests::*;
use libc::*;

struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// The fds that a program may watch: its TCP fd, and the op.
fn watched(link: &Link) -> [(&'static str, Fd); 2] {
    [
        ("TCP", Fd(link.tcp.as_raw_fd())),
        ("op", Fd(link.op.as_raw_fd())),
    ]
}

/// A link whose send buffer is soon full.
fn narrow() -> Link {
    let pair = net::pair_on(
        "127.0.0.1:0",
        |n| net::sndbuf(n, 30_000),
        |f| net::rcvbuf(f, 9000),
    );
    Link::over(pair, Version::Tls13, Cipher::Aes128Gcm)
}

/// Sends until the socket is full, and stays so: TCP goes on moving bytes to the
/// peer's queue for a while after the first EAGAIN. poll() cannot tell: it wants
/// a third of the buffer free, while a send takes any room there is.
fn fill(link: &Link) -> usize {
    let data = pattern(MAX);
    let mut records = 0;
    let mut calm = 0;
    while calm < 4 {
        calm += 1;
        while link.op.send(&data, MSG_DONTWAIT) == Ok(MAX) {
            records += 1;
            calm = 0;
        }
        std::thread::sleep(ms(200));
    }
    records
}

/// D3: the callbacks of the TCP socket are never replaced, so every way to
/// wait works on both fds, and only a whole record is an event.
#[test]
fn d03_poll_and_select_on_both_fds() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            for (name, fd) in watched(&link) {
                assert_eq!(poll(&fd, POLLIN | POLLOUT, ms(0)), POLLOUT, "{name} idle");
                assert_eq!(net::select(&fd, ms(0)), (false, true), "{name} idle");
                let wire = link.peer.tx.seal(DATA, b"whole record", 0);
                link.peer.raw(&wire[..wire.len() - 1]);
                link.arrived(wire.len() - 1);
                // The reader looks once, as every event loop does.
                assert_eq!(link.op.take(100, MSG_DONTWAIT), fail(EAGAIN));
                assert_eq!(poll(&fd, POLLIN, ms(30)), 0, "{name} half a record");
                assert!(!net::select_read(&fd, ms(30)), "{name} half a record");
                link.peer.raw(&wire[wire.len() - 1..]);
                assert_eq!(poll(&fd, POLLIN, ms(5000)), POLLIN, "{name} whole record");
                assert!(net::select_read(&fd, ms(5000)), "{name} whole record");
                assert_eq!(net::select(&fd, ms(0)), (true, true));
                assert_eq!(link.op.take(100, 0).unwrap(), b"whole record");
                assert_eq!(poll(&fd, POLLIN, ms(0)), 0, "{name} read");
            }
        }
    });
}

#[test]
fn d03_level_and_edge_triggered_epoll_on_both_fds() {
    in_vm(|| {
        let mut link = Link::any();
        for (name, fd) in watched(&link) {
            let level = Epoll::new(&fd, EPOLLIN);
            let edge = Epoll::new(&fd, EPOLLIN | EPOLLET);
            assert_eq!((level.wait(ms(0)), edge.wait(ms(0))), (0, 0), "{name} idle");
            for _ in 0..3 {
                link.peer.data(b"record");
                assert_eq!(level.wait(ms(5000)), EPOLLIN, "{name}");
                assert_eq!(level.wait(ms(0)), EPOLLIN, "{name} level stays");
                assert_eq!(edge.wait(ms(5000)), EPOLLIN, "{name}");
                assert_eq!(edge.wait(ms(0)), 0, "{name} an edge comes once");
                assert_eq!(link.op.recv_exact(6), b"record");
                assert_eq!(level.wait(ms(0)), 0, "{name} level falls");
            }
            // A new record on top of an unread one is a new edge.
            link.peer.data(b"one");
            assert_eq!(edge.wait(ms(5000)), EPOLLIN);
            link.peer.data(b"two");
            assert_eq!(edge.wait(ms(5000)), EPOLLIN, "{name} second edge");
            assert_eq!(link.op.recv_exact(6), b"onetwo");
        }
    });
}

#[test]
fn edge_triggered_writers_are_woken_after_eagain() {
    in_vm(|| {
        for which in [0, 1] {
            let mut link = narrow();
            let (name, fd) = &watched(&link)[which];
            let edge = Epoll::new(fd, EPOLLOUT | EPOLLET);
            assert_eq!(
                edge.wait(ms(5000)) & EPOLLOUT,
                EPOLLOUT,
                "{name} writable at first"
            );
            for turn in 0..3 {
                let records = fill(&link);
                assert!(records > 0, "turn {turn}");
                while edge.wait(ms(20)) != 0 {}
                let more = fill(&link);
                for _ in 0..records + more {
                    link.peer.recv().expect("a record");
                }
                assert_eq!(
                    edge.wait(ms(5000)) & EPOLLOUT,
                    EPOLLOUT,
                    "{name} turn {turn}"
                );
                assert_eq!(poll(fd, POLLOUT, ms(0)), POLLOUT);
            }
        }
    });
}

#[test]
fn a_level_triggered_writer_neither_spins_nor_sleeps() {
    in_vm(|| {
        let mut link = narrow();
        let mut sent = fill(&link);
        assert_eq!(
            poll(&*link.op, POLLOUT, ms(50)),
            0,
            "EAGAIN and writable at once: it spins"
        );
        let data = pattern(MAX);
        let mut spins = 0;
        for _ in 0..30 {
            link.peer.recv().expect("a record");
            sent -= 1;
            while sent < 3 {
                match link.op.send(&data, MSG_DONTWAIT) {
                    Ok(_) => sent += 1,
                    Err(e) => {
                        assert_eq!(e, Errno(EAGAIN));
                        if sent > 0 {
                            break;
                        }
                        assert_eq!(poll(&*link.op, POLLOUT, ms(5000)), POLLOUT);
                        spins += 1;
                    }
                }
            }
        }
        assert!(spins < 300, "{spins} vain wake-ups");
    });
}

#[test]
fn poll_of_an_op_without_socket_is_err_and_hup() {
    in_vm(|| {
        let op = Op::new("gcm(aes)");
        let events = poll(&op, POLLIN | POLLOUT, ms(0));
        assert_eq!(events & (POLLERR | POLLHUP), POLLERR | POLLHUP);
        let epoll = Epoll::new(&op, EPOLLIN);
        assert_eq!(
            epoll.wait(ms(0)) & (EPOLLERR | EPOLLHUP),
            EPOLLERR | EPOLLHUP
        );
    });
}

#[test]
fn the_rest_of_a_record_keeps_the_op_readable() {
    in_vm(|| {
        let mut link = Link::any();
        link.peer.data(b"abcdef");
        let edge = Epoll::new(&*link.op, EPOLLIN);
        assert_eq!(edge.wait(ms(5000)), EPOLLIN);
        assert_eq!(link.op.take(2, 0).unwrap(), b"ab");
        assert_eq!(poll(&*link.op, POLLIN, ms(0)), POLLIN);
        assert_eq!(edge.wait(ms(0)), EPOLLIN);
        assert_eq!(link.op.take(4, 0).unwrap(), b"cdef");
        assert_eq!(poll(&*link.op, POLLIN, ms(0)), 0);
        assert_eq!(edge.wait(ms(0)), 0);
    });
}

#[test]
fn control_records_fin_and_reset_are_events() {
    in_vm(|| {
        for which in [0, 1] {
            let mut link = Link::any();
            let (name, fd) = &watched(&link)[which];
            link.peer.send(ALERT, CLOSE_NOTIFY);
            assert_eq!(poll(fd, POLLIN, ms(5000)), POLLIN, "{name} alert");
            assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EIO));
            assert_eq!(poll(fd, POLLIN, ms(0)), POLLIN, "{name} parked");
            link.op.recv_record(10, 0).expect("alert");
            link.peer.tcp.shutdown(Shutdown::Write).unwrap();
            let events = poll(fd, POLLRDHUP, ms(5000));
            assert_eq!(events & POLLRDHUP, POLLRDHUP, "{name} FIN");
            assert_eq!(
                poll(fd, POLLIN, ms(0)) & POLLIN,
                POLLIN,
                "{name} FIN is readable"
            );

            let link = Link::any();
            let (name, fd) = &watched(&link)[which];
            net::linger_zero(&link.peer.tcp);
            drop(link.peer);
            let events = poll(fd, POLLIN, ms(5000));
            assert_eq!(
                events & (POLLERR | POLLHUP),
                POLLERR | POLLHUP,
                "{name} reset"
            );
        }
    });
}

/// 8 records of 16 KiB in 1448-byte pieces. OpenSSL's two reads per record
/// cost 93 wake-ups; a level-triggered program must not spin on half a record.
#[test]
fn a_level_triggered_reader_wakes_for_whole_records_only() {
    in_vm(|| {
        let mut link = Link::any();
        let data = pattern(8 * MAX);
        let tcp = link.tcp.try_clone().unwrap();
        let op = link.op.clone();
        let expected = data.clone();
        let reader = std::thread::spawn(move || {
            let epoll = Epoll::new(&tcp, EPOLLIN);
            let mut got = Vec::new();
            let mut wakes = 0;
            while got.len() < expected.len() {
                assert_ne!(epoll.wait(ms(20_000)), 0, "asleep at {}", got.len());
                wakes += 1;
                while let Ok(piece) = op.take(65536, MSG_DONTWAIT) {
                    got.extend(piece);
                }
            }
            assert!(got == expected);
            wakes
        });
        for piece in data.chunks(MAX) {
            let wire = link.peer.tx.seal(DATA, piece, 0);
            for segment in wire.chunks(1448) {
                link.peer.raw(segment);
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        }
        let wakes = reader.join().unwrap();
        assert!(wakes <= 24, "{wakes} wake-ups for 8 records");
    });
}

/// What a blocked reader gets when `event` happens.
fn woken(version: Version, event: impl FnOnce(&mut Link)) -> Res<Vec<u8>> {
    let mut link = Link::new(version, Cipher::Aes128Gcm);
    let op = link.op.clone();
    let reader = sleeper(move || op.take(100, 0));
    assert!(!reader.done(), "nothing to read yet");
    event(&mut link);
    reader.end()
}

/// D5: everything that a reader must learn wakes it.
#[test]
fn d05_each_event_wakes_a_blocked_reader() {
    in_vm(|| {
        for version in [Version::Tls12, Version::Tls13] {
            assert_eq!(
                woken(version, |l| l.peer.data(b"data")),
                Ok(b"data".to_vec())
            );
            assert_eq!(
                woken(version, |l| l.peer.send(ALERT, CLOSE_NOTIFY)),
                fail(EIO)
            );
            let fin = |l: &mut Link| l.peer.tcp.shutdown(Shutdown::Write).unwrap();
            assert_eq!(woken(version, fin), fail(ENODATA));
            let cut = woken(version, |l| {
                let wire = l.peer.tx.seal(DATA, b"data", 0);
                l.peer.raw(&wire[..wire.len() - 1]);
                l.peer.tcp.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(cut, fail(ECONNABORTED));
            let bad = woken(version, |l| {
                let mut wire = l.peer.tx.seal(DATA, b"data", 0);
                *wire.last_mut().unwrap() ^= 1;
                l.peer.raw(&wire);
            });
            assert_eq!(bad, fail(EBADMSG));
            assert_eq!(
                woken(version, |l| l.peer.raw(b"HTTP/1.1 400\r\n")),
                fail(EPROTO)
            );
            let long = woken(version, |l| l.peer.raw(&peer::header(DATA, 20_000)));
            assert_eq!(long, fail(EMSGSIZE));
            let detach = |l: &mut Link| drop(l.op.detach(Dir::Rx).expect("detach"));
            assert_eq!(woken(version, detach), fail(ENOTCONN));
            let reset = woken(version, |l| {
                // The last fd is the fixture's: a shutdown of both ways with
                // unread data would not do, an aborting close does.
                let (other, _) = net::pair();
                let far = std::mem::replace(&mut l.peer.tcp, other);
                net::linger_zero(&far);
                drop(far);
            });
            assert_eq!(reset, fail(ECONNRESET));
        }
    });
}

#[test]
fn closing_the_tcp_fd_ends_blocked_calls() {
    in_vm(|| {
        let mut link = Link::any();
        let op = link.op.clone();
        let reader = sleeper(move || op.take(100, 0));
        let (other, _far) = net::pair();
        drop(std::mem::replace(&mut link.tcp, other));
        // The sleeper holds the file: FIN may wait for it, but not for ever.
        link.peer.data(b"wakes it");
        reader.end().ok();
        let end = link.peer.recv();
        assert!(matches!(end, Err(Fault::Eof | Fault::Reset)), "{end:?}");
    });
}

#[test]
fn shutdown_of_the_reading_side_ends_blocked_calls() {
    in_vm(|| {
        let link = Link::any();
        let op = link.op.clone();
        let reader = sleeper(move || op.take(100, 0));
        link.tcp.shutdown(Shutdown::Read).unwrap();
        let end = reader.end();
        assert!(end == fail(ENODATA) || end == Ok(vec![]), "{end:?}");
    });
}

#[test]
fn the_timeouts_of_the_tcp_socket_rule() {
    in_vm(|| {
        let mut link = Link::any();
        sys::timeout(&link.tcp, SO_RCVTIMEO, ms(200));
        let start = Instant::now();
        assert_eq!(link.op.take(10, 0), fail(EAGAIN));
        let waited = start.elapsed();
        assert!(waited >= ms(150) && waited < ms(5000), "{waited:?}");
        assert_eq!(link.op.take(10, MSG_WAITALL), fail(EAGAIN));
        link.peer.data(b"later");
        assert_eq!(link.op.recv_exact(5), b"later");

        let mut link = narrow();
        let records = fill(&link);
        sys::timeout(&link.tcp, SO_SNDTIMEO, ms(200));
        let start = Instant::now();
        assert_eq!(link.op.send(&pattern(MAX), 0), fail(EAGAIN));
        let waited = start.elapsed();
        assert!(waited >= ms(150) && waited < ms(5000), "{waited:?}");
        for _ in 0..records {
            link.peer.recv().expect("a record");
        }
        link.check_tx();
    });
}

#[test]
fn the_blocking_mode_of_the_tcp_socket_rules() {
    in_vm(|| {
        let mut link = narrow();
        for _ in 0..3 {
            sys::nonblocking(&link.tcp, true);
            assert_eq!(link.op.take(10, 0), fail(EAGAIN));
            assert_eq!(link.op.take(10, MSG_WAITALL), fail(EAGAIN));
            let records = fill(&link);
            assert_eq!(link.op.send(&pattern(MAX), 0), fail(EAGAIN));
            sys::nonblocking(&link.tcp, false);
            let op = link.op.clone();
            let reader = sleeper(move || op.take(10, 0));
            let op = link.op.clone();
            let sender = sleeper(move || op.send(&pattern(MAX), 0));
            assert!(!reader.done(), "blocking again: {:?}", reader.end());
            assert!(!sender.done(), "blocking again: {:?}", sender.end());
            link.peer.data(b"go");
            assert_eq!(reader.end(), Ok(b"go".to_vec()));
            for _ in 0..=records {
                link.peer.recv().expect("a record");
            }
            assert_eq!(sender.end(), Ok(MAX));
        }
    });
}

#[test]
fn signals_interrupt_and_restart_as_for_tcp() {
    in_vm(|| {
        sys::handle_usr1(false);
        let mut link = narrow();
        let op = link.op.clone();
        let reader = sleeper(move || op.take(10, 0));
        sys::interrupt(reader.tid);
        assert_eq!(reader.end(), fail(EINTR));
        let records = fill(&link);
        let op = link.op.clone();
        let sender = sleeper(move || op.send(&pattern(MAX), 0));
        sys::interrupt(sender.tid);
        assert_eq!(sender.end(), fail(EINTR), "nothing was sent");
        assert_eq!(link.op.seq(Dir::Tx), records as u64, "no number was used");
        // Bytes that went before the signal are counted, not lost.
        let (op, data) = (link.op.clone(), pattern(40 * MAX));
        let sender = sleeper(move || op.send(&data, 0));
        for _ in 0..records + 2 {
            link.peer.recv().expect("a record");
        }
        std::thread::sleep(ms(50));
        sys::interrupt(sender.tid);
        let sent = sender.end().expect("a short count");
        assert!(sent > 0 && sent < 40 * MAX && sent % MAX == 0, "{sent}");
        for _ in 0..sent / MAX - 2 {
            link.peer.recv().expect("a record");
        }
        link.check();

        sys::handle_usr1(true);
        let op = link.op.clone();
        let reader = sleeper(move || op.take(10, 0));
        sys::interrupt(reader.tid);
        std::thread::sleep(ms(50));
        assert!(!reader.done(), "restarted");
        link.peer.data(b"data");
        assert_eq!(reader.end(), Ok(b"data".to_vec()));
        // With a timeout nothing restarts (signal(7)).
        sys::timeout(&link.tcp, SO_RCVTIMEO, ms(30_000));
        let op = link.op.clone();
        let reader = sleeper(move || op.take(10, 0));
        sys::interrupt(reader.tid);
        assert_eq!(reader.end(), fail(EINTR));
    });
}

#[test]
fn the_programs_rcvlowat_comes_back() {
    in_vm(|| {
        let lowat = |l: &Link| sys::get_int(&l.tcp, SOL_SOCKET, SO_RCVLOWAT).unwrap();
        for value in [1, 700] {
            let prepared = || {
                let link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
                sys::set_int(&link.tcp, SOL_SOCKET, SO_RCVLOWAT, value).unwrap();
                link.op
                    .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                    .unwrap();
                link
            };
            let mut link = prepared();
            link.check();
            let wire = link.peer.tx.seal(DATA, &[0; 5000], 0);
            link.peer.raw(&wire[..2000]);
            link.arrived(2000);
            assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EAGAIN));
            link.op.detach(Dir::Rx).unwrap();
            assert_eq!(lowat(&link), value, "after detach");
            let mut link = prepared();
            link.check();
            link.op = Op::new("gcm(aes)").into();
            assert_eq!(lowat(&link), value, "after close");
        }
    });
}

/// The program's low-water mark is for its poll(); who sleeps in recv() wants the
/// next record, whatever another thread's call has left behind.
#[test]
fn a_sleeping_reader_is_woken_below_the_programs_rcvlowat() {
    in_vm(|| {
        let mut link = Link::any();
        sys::set_int(&link.tcp, SOL_SOCKET, SO_RCVLOWAT, 32_768).unwrap();
        let op = link.op.clone();
        let reader = sleeper(move || op.take(200, 0));
        assert_eq!(link.op.take(200, MSG_DONTWAIT), fail(EAGAIN));
        link.peer.data(&[7; 100]);
        assert_eq!(reader.end(), Ok(vec![7; 100]));
        // With nobody asleep it is the program's again.
        assert_eq!(link.op.take(200, MSG_DONTWAIT), fail(EAGAIN));
        let lowat = sys::get_int(&link.tcp, SOL_SOCKET, SO_RCVLOWAT);
        assert_eq!(lowat, Ok(32_768));
    });
}

/// SO_RCVLOWAT falls when the op goes: what lies in the queue is an event now.
#[test]
fn closing_the_op_wakes_who_polls_the_tcp_fd() {
    in_vm(|| {
        let mut link = Link::any();
        link.check();
        let wire = link.peer.tx.seal(DATA, &[0; 5000], 0);
        link.peer.raw(&wire[..2000]);
        link.arrived(2000);
        assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EAGAIN));
        let tcp = sys::dup(&link.tcp);
        let start = Instant::now();
        let poller = sleeper(move || poll(&tcp, POLLIN, ms(8000)));
        assert!(!poller.done(), "half a record is no event");
        link.op = Op::new("gcm(aes)").into();
        assert_eq!(poller.end(), POLLIN);
        // At its timeout poll() looks once more and would find it, too.
        assert!(start.elapsed() < ms(6000), "{:?}", start.elapsed());
    });
}
