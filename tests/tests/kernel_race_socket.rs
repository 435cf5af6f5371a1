// SPDX-License-Identifier: MIT OR Apache-2.0
//! Races of the op with what may happen to its TCP socket: disconnect, shutdown
//! from another process, other claimants, SOCK_DESTROY, RST and FIN anywhere in a
//! record, and every order of going away.

mod race;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::*;
use libc::*;
use race::{CALLS, Call, drain, join, open_all, race, start};

/// The same TCP socket, connected elsewhere: no record may go there.
#[test]
fn disconnect_and_reconnect_elsewhere_under_a_writer() {
    race(90, |rng| {
        let link = Link::any();
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let op = link.op.clone();
        let writer = thread::spawn(move || {
            loop {
                if let Err(e) = op.send(&[1; 500], 0) {
                    return e;
                }
                thread::yield_now();
            }
        });
        rng.jitter().spend();
        net::disconnect(&link.tcp).unwrap();
        rng.jitter().spend();
        net::connect(&link.tcp, elsewhere.local_addr().unwrap()).unwrap();
        let (far, _) = elsewhere.accept().unwrap();
        let end = join(writer);
        assert!([ESTALE, EPIPE].contains(&end.0), "{end:?}");
        assert_eq!(link.op.send(b"x", 0), fail(ESTALE), "and it stays so");
        // A stranger's stream is neither read nor cut off by the op.
        assert_eq!(sys::write(&far, b"hello"), Ok(5));
        assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(ESTALE));
        drop(link.op);
        assert_eq!(net::read_exact(&link.tcp, 5).unwrap(), b"hello");
        assert_eq!(sys::write(&link.tcp, b"only this"), Ok(9));
        link.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(drain(&far), b"only this");
    });
}

#[test]
fn disconnect_while_a_call_sleeps() {
    for call in CALLS {
        race(18, move |rng| {
            let link = Link::any();
            let thread = start(call, &link);
            rng.jitter().spend();
            net::disconnect(&link.tcp).unwrap();
            let got = join(thread);
            assert!(got.is_err(), "{call:?} {got:?}");
            // Stale, whoever came first; the socket is free for another life.
            assert_eq!(link.op.send(b"x", 0), fail(ESTALE));
        });
    }
}

/// A child that shares the TCP socket shuts it down and ends.
#[test]
fn shutdown_from_another_process() {
    for how in [SHUT_RD, SHUT_WR, SHUT_RDWR] {
        race(24, move |rng| {
            let mut link = Link::any();
            let (fd, pause) = (link.tcp.as_raw_fd(), rng.below(300) as u32);
            let op = link.op.clone();
            let writer = thread::spawn(move || {
                let mut sent = 0;
                while sent < 200 {
                    match op.send(&[1; 100], 0) {
                        Ok(_) => sent += 1,
                        Err(e) => return (sent, Some(e)),
                    }
                }
                (sent, None)
            });
            let reader = start(Call::Recv, &link);
            // SAFETY: the child makes raw system calls only.
            let child = unsafe {
                let pid = fork();
                if pid == 0 {
                    usleep(pause);
                    _exit(shutdown(fd, how));
                }
                pid
            };
            let mut status = -1;
            // SAFETY: the child is ours and `status` is writable.
            assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "shutdown");
            let (sent, end) = join(writer);
            match how {
                SHUT_RD => assert_eq!((sent, end), (200, None)),
                _ => assert!(end.is_none_or(|e| e == Errno(EPIPE)), "{end:?}"),
            }
            if how == SHUT_WR {
                link.peer.data(b"still read");
                assert_eq!(join(reader).as_deref(), Ok(&b"still read"[..]));
            } else {
                assert_eq!(join(reader), fail(ENODATA));
            }
            // What was reported as sent arrives.
            link.tcp.shutdown(Shutdown::Both).unwrap_or(());
            let wire = drain(&link.peer.tcp);
            let (records, rest) = open_all(&mut link.peer.rx, &wire);
            assert_eq!((records.len(), rest.len()), (sent, 0));
        });
    }
}

/// One of two claimants has the socket, the other is refused, and it works.
#[test]
fn attach_against_other_claimants() {
    type Claim = fn(&TcpStream) -> sys::Res<()>;
    let claims: [(&str, Claim); 2] = [
        ("kTLS", |tcp| {
            sys::setsockopt(tcp, IPPROTO_TCP, TCP_ULP, b"tls")
        }),
        ("sockmap", |tcp| {
            let map = net::Sockmap::new();
            let result = map.insert(tcp);
            // As long as the map lives.
            if result.is_ok() {
                std::mem::forget(map);
            }
            result
        }),
    ];
    for (what, claim) in claims {
        // The maps leak, on purpose: their fds are not counted.
        let mut ours = 0;
        let rounds = 60 * race::factor();
        in_vm_for(
            std::time::Duration::from_secs(60 + rounds as u64),
            move || {
                let mut rng = race::rng();
                for _ in 0..rounds {
                    let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
                    let (tcp, pause) = (link.tcp.try_clone().unwrap(), rng.jitter());
                    let rival = thread::spawn(move || {
                        pause.spend();
                        claim(&tcp)
                    });
                    rng.jitter().spend();
                    let mine = link.op.attach(&link.tcp, Some(&link.tx), Some(&link.rx));
                    let theirs = join(rival);
                    assert!(
                        mine.is_ok() != theirs.is_ok(),
                        "{what}: {mine:?} {theirs:?}"
                    );
                    if mine.is_ok() {
                        ours += 1;
                        link.check();
                        assert!(claim(&link.tcp).is_err(), "{what} after attach");
                    } else {
                        assert_eq!(mine, fail(EBUSY), "{what}");
                    }
                }
                assert!(ours > 0 && ours < rounds, "{what}: {ours} of {rounds}");
            },
        );
    }
}

/// TCP_REPAIR goes on and off: whoever looks meanwhile finds the op stale.
#[test]
fn tcp_repair_goes_on_and_off() {
    race(60, |rng| {
        let link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let (tcp, pause) = (link.tcp.try_clone().unwrap(), rng.jitter());
        let repair = |tcp: &TcpStream, on| sys::set_int(tcp, IPPROTO_TCP, TCP_REPAIR, on);
        let other = thread::spawn(move || {
            assert_eq!(repair(&tcp, 1), Ok(()));
            pause.spend();
            // TCP_REPAIR_OFF_NO_WP: no window probe.
            assert_eq!(repair(&tcp, -1), Ok(()));
        });
        rng.jitter().spend();
        let mut attached = link.op.attach(&link.tcp, Some(&link.tx), Some(&link.rx));
        let sent = link.op.send(b"x", 0);
        join(other);
        match attached {
            Ok(()) => assert!(sent == Ok(1) || sent == fail(ESTALE), "{sent:?}"),
            Err(e) => {
                assert_eq!((e, sent), (Errno(EBUSY), fail(ENOTCONN)));
                attached = link.op.attach(&link.tcp, Some(&link.tx), Some(&link.rx));
                assert_eq!(attached, Ok(()));
            }
        }
        if sent == Ok(1) || sent == fail(ENOTCONN) {
            let mut link = link;
            if sent == Ok(1) {
                assert_eq!(link.peer.expect(1), b"x");
            }
            link.check();
        }
    });
}

/// disconnect + listen, before and after attach: a listener is never claimed, and
/// what was claimed once never listens.
#[test]
fn a_socket_that_turns_into_a_listener() {
    race(90, |rng| {
        let link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let (tcp, pause) = (link.tcp.try_clone().unwrap(), rng.jitter());
        let other = thread::spawn(move || {
            pause.spend();
            net::disconnect(&tcp).unwrap();
            // SAFETY: no memory is passed.
            let listens = unsafe { listen(tcp.as_raw_fd(), 1) } == 0;
            (listens, tcp)
        });
        rng.jitter().spend();
        let attached = link.op.attach(&link.tcp, Some(&link.tx), Some(&link.rx));
        let (listens, tcp) = join(other);
        assert_eq!(attached.is_ok(), !listens, "{attached:?}");
        if listens {
            assert_eq!(attached, fail(ENOTCONN));
            drop(tcp);
        } else {
            assert_eq!(link.op.send(b"x", 0), fail(ESTALE));
            assert_eq!(link.op.take(1, MSG_DONTWAIT), fail(ESTALE));
        }
    });
}

/// `ss -K`, what an administrator or an OOM daemon does to a connection.
#[test]
fn sock_destroy_while_calls_sleep() {
    race(15, |rng| {
        let link = Link::any();
        let call = CALLS[rng.below(CALLS.len())];
        let port = link.tcp.local_addr().unwrap().port();
        let thread = start(call, &link);
        let op = link.op.clone();
        let writer = thread::spawn(move || {
            loop {
                if let Err(e) = op.send(&[0; 16384], 0) {
                    return e;
                }
            }
        });
        rng.jitter().spend();
        let filter = format!("sport = :{port}");
        let done = Command::new("ss")
            .args(["-tnK", &filter])
            .output()
            .expect("ss");
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(text.contains(&port.to_string()), "{text}");
        let got = join(thread);
        let end = join(writer);
        assert!(got.is_err(), "{call:?}");
        let told = [ECONNABORTED, EPIPE, ECONNRESET];
        assert!(told.contains(&end.0), "{end:?}");
        let events = net::poll(&*link.op, POLLIN | POLLOUT, ms(0));
        assert_ne!(events & POLLHUP, 0, "{events:#x}");
        link.op.detach(Dir::Tx).expect("detach of a dead stream");
        link.op.detach(Dir::Rx).expect("detach of a dead stream");
    });
}

/// FIN and RST after each byte of a record, with a reader already asleep or not.
#[test]
fn fin_and_rst_at_every_point_of_a_record() {
    for reset in [false, true] {
        race(2, move |rng| {
            let len = Link::any().peer.tx.seal(DATA, b"whole", 0).len();
            for cut in 0..=len {
                let mut link = Link::any();
                let wire = link.peer.tx.seal(DATA, b"whole", 0);
                let call = [Call::Recv, Call::Record, Call::Splice][rng.below(3)];
                let thread = start(call, &link);
                rng.jitter().spend();
                if cut > 0 {
                    link.peer.raw(&wire[..cut]);
                }
                rng.jitter().spend();
                if reset {
                    net::linger_zero(&link.peer.tcp);
                }
                drop(link.peer);
                let got = join(thread);
                let end = if cut < len {
                    got.expect_err("no record").0
                } else {
                    match got {
                        Ok(bytes) => assert_eq!(bytes, b"whole"),
                        // RST may overtake the reader.
                        Err(e) => assert!(reset && e.0 == ECONNRESET, "{e:?}"),
                    }
                    call.run(&*link.op, &link.tcp).expect_err("end").0
                };
                let expected = match (reset, cut) {
                    (false, 0) => vec![ENODATA],
                    (false, _) if cut == len => vec![ENODATA],
                    (false, _) => vec![ECONNABORTED],
                    // Told once; then the end, by what is on the queue.
                    (true, _) => vec![ECONNRESET, ENODATA, ECONNABORTED, ENOTCONN],
                };
                assert!(expected.contains(&end), "{reset} {cut}: {end}");
                if !reset && cut > 0 && cut < len {
                    let back = link.op.detach(Dir::Rx).unwrap();
                    let rest = net::read_exact(&link.tcp, cut - back.staged.len()).unwrap();
                    assert_eq!([back.staged, rest].concat(), &wire[..cut]);
                }
            }
        });
    }
}

/// Sends fds through a UNIX socket that nobody reads.
fn pass(through: &impl AsRawFd, fds: &[i32]) {
    let mut control = sys::Control([0; 64]);
    control.0[..8].copy_from_slice(&(16 + 4 * fds.len() as u64).to_ne_bytes());
    control.0[8..12].copy_from_slice(&SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&SCM_RIGHTS.to_ne_bytes());
    for (i, fd) in fds.iter().enumerate() {
        control.0[16 + 4 * i..20 + 4 * i].copy_from_slice(&fd.to_ne_bytes());
    }
    let room = 16 + (4 * fds.len()).next_multiple_of(8);
    assert_eq!(sys::sendmsg(through, &[b"!"], &control.0[..room], 0), Ok(1));
}

/// The op outlives the TCP fd, and the other way round: by close, by dup2, by the
/// exit of the process that has them, and in flight through UNIX sockets.
#[test]
fn the_two_fds_go_in_any_order_and_by_any_way() {
    race(72, |rng| {
        let mut link = Link::any();
        if rng.below(2) == 0 {
            link.check();
        }
        if rng.below(3) == 0 {
            link.peer.data(b"unread");
        }
        let (other, _far) = net::pair();
        let (op, tcp) = (link.op.as_raw_fd(), link.tcp.as_raw_fd());
        let first_op = rng.below(2) == 0;
        match rng.below(4) {
            0 => {}
            1 => {
                let over = if first_op { op } else { tcp };
                // SAFETY: no memory is passed; the number stays owned.
                assert_eq!(unsafe { dup2(other.as_raw_fd(), over) }, over);
            }
            2 => {
                // A child with both, whose exit closes them last.
                let pause = rng.below(1000) as u32;
                // SAFETY: the child makes raw system calls only.
                let child = unsafe {
                    let pid = fork();
                    if pid == 0 {
                        usleep(pause);
                        _exit(0);
                    }
                    pid
                };
                thread::spawn(move || {
                    // SAFETY: the child is ours.
                    unsafe { waitpid(child, std::ptr::null_mut(), 0) };
                });
            }
            _ => {
                let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
                pass(&a, &[op, tcp]);
                // A cycle, for the collector of UNIX sockets.
                pass(&a, &[a.as_raw_fd(), b.as_raw_fd()]);
            }
        }
        let Link { op, tcp, peer, .. } = link;
        if first_op {
            drop(op);
            rng.jitter().spend();
            drop(tcp);
        } else {
            drop(tcp);
            rng.jitter().spend();
            drop(op);
        }
        let ended = thread::spawn(move || {
            drain(&peer.tcp);
        });
        // A new UNIX socket starts the collector.
        assert!(eventually(|| {
            drop(std::os::unix::net::UnixStream::pair());
            ended.is_finished()
        }));
        join(ended);
    });
}

/// A network namespace ends while ops live in it, and the other way round.
#[test]
fn a_namespace_ends_with_ops_in_it() {
    race(15, |rng| {
        let (order, pause) = (rng.below(3), rng.jitter());
        let thread = thread::spawn(move || {
            net::new_namespace();
            let mut link = Link::any();
            link.check();
            link.peer.data(b"unread");
            (Op::new("gcm(aes)"), link)
        });
        // The thread is gone; sockets alone hold the namespace now.
        let (idle, mut link) = join(thread);
        link.check_tx();
        pause.spend();
        match order {
            0 => drop((link, idle)),
            1 => {
                drop(link.tcp);
                drop(link.peer);
                pause.spend();
                drop((link.op, idle));
            }
            _ => {
                drop(link.op);
                drop(idle);
                pause.spend();
                drop((link.tcp, link.peer));
            }
        }
    });
}
