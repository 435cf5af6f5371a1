// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening, closing, killing, passing on: nothing leaks, nothing is lost, FIN
//! is sent at once, counters and references return to where they were.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, IntoRawFd};

use ktlsshim_tests::counters::Counters;
use ktlsshim_tests::net::open_fds;
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, Half, KEY_UPDATE};
use ktlsshim_tests::sys;
use ktlsshim_tests::*;
use libc::*;

/// Module references; each claim and each ALG socket holds some.
fn references() -> i64 {
    let text = std::fs::read_to_string("/sys/module/algif_tls/refcnt").expect("refcnt");
    text.trim().parse().expect("a number")
}

/// Runs `body` in a network namespace of its own, on its own thread.
fn apart(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        net::new_namespace();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// D1: the TCP file is never held, so closing the TCP fd sends FIN at once,
/// whatever becomes of the op; and no fd leaks.
#[test]
fn d01_closing_the_tcp_fd_sends_fin_at_once() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let before = (open_fds(), references());
            let mut link = Link::new(version, cipher);
            link.check();
            drop(link.tcp);
            assert_eq!(link.peer.recv(), Err(Fault::Eof), "{version:?} {cipher:?}");
            assert_eq!(link.op.send(b"x", 0), fail(EPIPE));
            assert!(link.op.take(10, MSG_DONTWAIT).is_err());
            drop((link.op, link.peer));
            assert!(eventually(|| (open_fds(), references()) == before), "leak");
        }
    });
}

#[test]
fn d01_any_route_and_any_order_of_closing() {
    in_vm(|| {
        // The op first: the TCP socket is plain TCP again.
        let mut link = Link::any();
        link.check();
        drop(link.op);
        assert_eq!(sys::write(&link.tcp, b"plain"), Ok(5));
        assert_eq!(net::read_exact(&link.peer.tcp, 5).unwrap(), b"plain");
        drop(link.tcp);
        assert_eq!(link.peer.recv(), Err(Fault::Eof));
        // dup2() over the TCP fd.
        let mut link = Link::any();
        let (other, _far) = net::pair();
        // SAFETY: no memory is passed; both fds are ours.
        assert!(unsafe { dup2(other.as_raw_fd(), link.tcp.as_raw_fd()) } >= 0);
        assert_eq!(link.peer.recv(), Err(Fault::Eof));
        // close_range().
        let mut link = Link::any();
        let fd = link.tcp.into_raw_fd() as c_long;
        // SAFETY: no memory is passed; the fd is owned by nobody now.
        assert_eq!(unsafe { syscall(SYS_close_range, fd, fd, 0) }, 0);
        assert_eq!(link.peer.recv(), Err(Fault::Eof));
        // One of two duplicates: the connection lives on.
        let mut link = Link::any();
        let dup = link.tcp.try_clone().unwrap();
        drop(std::mem::replace(&mut link.tcp, dup));
        link.check();
        let op = sys::dup(&*link.op);
        link.op = Op(op).into();
        link.check();
    });
}

#[test]
fn data_sent_before_close_arrives() {
    in_vm(|| {
        for op_first in [true, false] {
            let link = Link::any();
            let data = pattern(200_000);
            let sent = link.op.send(&data, MSG_DONTWAIT).expect("send");
            assert!(sent > 0);
            let Link {
                op, tcp, mut peer, ..
            } = link;
            if op_first {
                drop(op);
                drop(tcp);
            } else {
                drop(tcp);
                drop(op);
            }
            assert_eq!(peer.expect(sent), &data[..sent]);
            assert_eq!(peer.recv(), Err(Fault::Eof));
        }
    });
}

/// D2: closing in every state is harmless.
#[test]
fn d02_open_and_close_in_every_state() {
    in_vm(|| {
        let before = (open_fds(), references());
        for _ in 0..3 {
            drop(sys::socket(AF_ALG, SOCK_SEQPACKET, 0).unwrap());
            drop(Parent::bind("gcm(aes)").unwrap());
            drop(Op::new("gcm(aes)"));
            let parent = Parent::bind("ccm(aes)").unwrap();
            let (a, b) = (parent.accept().unwrap(), parent.accept().unwrap());
            drop((a, parent, b));
            for (tx, rx) in [(true, false), (false, true), (true, true)] {
                let link = Link::detached(net::pair(), Version::Tls13, Cipher::ChaCha20);
                let (tx, rx) = (tx.then_some(&link.tx), rx.then_some(&link.rx));
                link.op.attach(&link.tcp, tx, rx).unwrap();
            }
            // Detached again, half detached, failed, unread, unsent.
            let link = Link::any();
            link.op.detach(Dir::Tx).unwrap();
            drop(link);
            let link = Link::any();
            link.op.detach(Dir::Tx).unwrap();
            link.op.detach(Dir::Rx).unwrap();
            drop(link);
            let mut link = Link::any();
            link.peer.data(b"unread");
            link.arrived(6);
            drop(link);
            let mut link = Link::any();
            link.peer.data(b"a rest");
            assert_eq!(link.op.recv_exact(1), b"a");
            drop(link);
            let mut link = Link::any();
            link.peer.raw(b"not a record");
            assert_eq!(link.op.take(1, 0), fail(EPROTO));
            drop(link);
            let link = Link::any();
            link.op.send(b"held back", MSG_MORE).unwrap();
            drop(link);
            // The connection died first.
            let link = Link::any();
            net::linger_zero(&link.peer.tcp);
            drop(link.peer);
            net::poll(&link.tcp, POLLIN, ms(5000));
            drop(link.op);
            let link = Link::any();
            net::disconnect(&link.tcp).unwrap();
            drop(link);
        }
        assert!(eventually(|| (open_fds(), references()) == before), "leak");
    });
}

#[test]
fn an_op_outlives_its_parent_and_its_tcp_fd() {
    in_vm(|| {
        let parent = Parent::bind("gcm(aes)").unwrap();
        let mut link = Link::detached(net::pair(), Version::Tls12, Cipher::Aes256Gcm);
        link.op = parent.accept().unwrap().into();
        drop(parent);
        link.op
            .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
            .unwrap();
        link.check();
        let epoll = net::Epoll::new(&*link.op, EPOLLIN);
        drop(link.tcp);
        // Polling an op whose TCP socket is gone ends, and says so.
        let events = epoll.wait(ms(5000));
        assert_ne!(events & (EPOLLERR | EPOLLHUP), 0, "{events:#x}");
        assert_eq!(link.op.send(b"x", 0), fail(EPIPE));
        assert!(
            link.op
                .rekey(Dir::Tx, &Keys::random(Version::Tls12, Cipher::Aes256Gcm))
                .is_err()
        );
        link.op.detach(Dir::Rx).ok();
        drop(link.op);
        assert_eq!(epoll.wait(ms(0)), 0, "a closed op leaves the set");
    });
}

#[test]
fn a_socket_can_be_attached_again_by_a_new_op() {
    in_vm(|| {
        let mut link = Link::any();
        link.check();
        let (tx, rx) = (link.op.seq(Dir::Tx), link.op.seq(Dir::Rx));
        link.op = Op::new("gcm(aes)").into();
        let again = link.op.attach(
            &link.tcp,
            Some(&link.tx.after(tx)),
            Some(&link.rx.after(rx)),
        );
        assert_eq!(again, Ok(()), "the claim ended with its op");
        link.check();
    });
}

/// The kernel reads a socket's ULP without a lock, so it must never vanish.
#[test]
fn the_mark_of_a_claim_stays_for_the_tcp_sockets_life() {
    in_vm(|| {
        let before = references();
        let link = Link::any();
        let name = |tcp: &std::net::TcpStream| {
            let mut name = [0; 16];
            let len = sys::getsockopt(tcp, IPPROTO_TCP, TCP_ULP, &mut name).unwrap();
            name[..len]
                .split(|b| *b == 0)
                .next()
                .unwrap_or(b"")
                .to_vec()
        };
        assert_eq!(name(&link.tcp), b"alg_tls");
        drop(link.op);
        assert_eq!(name(&link.tcp), b"alg_tls");
        assert_eq!(references(), before + 1, "the module stays for it");
        let ulp = sys::setsockopt(&link.tcp, IPPROTO_TCP, TCP_ULP, b"tls");
        assert_eq!(ulp, fail(EEXIST));
        drop((link.tcp, link.peer));
        assert!(eventually(|| references() == before));
    });
}

#[test]
fn counters_count_and_return_to_zero() {
    in_vm(|| {
        apart(|| {
            let start = Counters::read();
            let clean = start.names().all(|n| start.get(n) == 0);
            assert!(clean, "a new namespace starts at zero: {start:?}");
            let mut link = Link::any();
            let idle = Op::new("gcm(aes)");
            let c = Counters::read();
            let now = [
                "AlgTlsCurrTx",
                "AlgTlsCurrRx",
                "AlgTlsTx",
                "AlgTlsRx",
                "AlgTlsOps",
            ];
            assert_eq!(now.map(|n| c.get(n)), [1, 1, 1, 1, 2]);
            link.check();
            link.op.send_all(&[0; 16385]);
            link.op.send_record(ALERT, &[1, 90], 0).unwrap();
            link.peer.send(ALERT, &[1, 90]);
            assert_eq!(link.op.take(1, 0), fail(EIO));
            link.op.recv_record(9, 0).unwrap();
            let c = Counters::read();
            let names = ["AlgTlsTxRecords", "AlgTlsTxBytes", "AlgTlsTxControl"];
            assert_eq!(names.map(|n| c.get(n)), [4, 15 + 16385 + 2, 1]);
            let names = ["AlgTlsRxRecords", "AlgTlsRxBytes", "AlgTlsRxControl"];
            assert_eq!(names.map(|n| c.get(n)), [2, 13 + 2, 1]);
            assert!(c.get("AlgTlsErrControl") >= 1);
            let keys = Keys::random(Version::Tls13, Cipher::Aes128Gcm);
            link.op.rekey(Dir::Tx, &keys).unwrap();
            link.op.rekey(Dir::Rx, &keys).unwrap();
            link.op.detach(Dir::Tx).unwrap();
            let c = Counters::read();
            let names = [
                "AlgTlsTxRekey",
                "AlgTlsRxRekey",
                "AlgTlsTxDetach",
                "AlgTlsRxDetach",
            ];
            assert_eq!(names.map(|n| c.get(n)), [1, 1, 1, 0]);
            assert_eq!((c.get("AlgTlsCurrTx"), c.get("AlgTlsCurrRx")), (0, 1));
            drop((link, idle));
            let c = Counters::read();
            let now = ["AlgTlsCurrTx", "AlgTlsCurrRx", "AlgTlsOps"];
            assert!(
                eventually(|| now.iter().all(|n| Counters::read().get(n) == 0)),
                "{c:?}"
            );
            assert_eq!(c.get("AlgTlsTx"), 1, "totals stay");
        });
    });
}

#[test]
fn each_kind_of_error_has_its_counter() {
    in_vm(|| {
        apart(|| {
            let mut before = Counters::read();
            let mut grew = |name: &str| {
                let now = Counters::read();
                assert!(now.since(&before, name) > 0, "{name} did not grow");
                before = now;
            };
            let keys = |seq| Keys::random_at(Version::Tls13, Cipher::Aes128Gcm, seq);
            let mut link = Link::any();
            link.peer.send(HANDSHAKE, KEY_UPDATE);
            link.op.recv_record(9, 0).unwrap();
            assert_eq!(link.op.take(1, 0), fail(EKEYEXPIRED));
            grew("AlgTlsErrNeedKey");
            link.op.send_all(b"x");
            assert_eq!(link.op.rekey(Dir::Tx, &link.tx), fail(EKEYREJECTED));
            grew("AlgTlsErrKeyReuse");
            let mut link = Link::any();
            link.peer.tx = Half::new(keys(0));
            link.peer.data(b"bad tag");
            assert_eq!(link.op.take(1, 0), fail(EBADMSG));
            grew("AlgTlsErrBadTag");
            let mut link = Link::any();
            link.peer.raw(b"no record");
            assert_eq!(link.op.take(1, 0), fail(EPROTO));
            grew("AlgTlsErrBadRecord");
            let mut link = Link::any();
            link.peer.raw(&peer::header(DATA, 17_000));
            assert_eq!(link.op.take(1, 0), fail(EMSGSIZE));
            grew("AlgTlsErrLength");
            let link = Link::any();
            sys::write(&link.tcp, b"raw").unwrap();
            assert_eq!(link.op.send(b"x", 0), fail(ESTALE));
            grew("AlgTlsErrStale");
            link.peer.tcp.shutdown(Shutdown::Write).unwrap();
            assert_eq!(link.op.take(1, 0), fail(ENODATA));
            grew("AlgTlsErrNoCloseNotify");
            let mut link = Link::any();
            link.peer.raw(&peer::header(DATA, 100));
            link.peer.tcp.shutdown(Shutdown::Write).unwrap();
            assert_eq!(link.op.take(1, 0), fail(ECONNABORTED));
            grew("AlgTlsErrTruncated");
            let link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
            link.op
                .attach(&link.tcp, Some(&keys(u64::MAX)), None)
                .unwrap();
            assert_eq!(link.op.send(b"x", 0), fail(EOVERFLOW));
            grew("AlgTlsErrSeqWrap");
        });
    });
}

#[test]
fn sendfile_bytes_are_counted() {
    in_vm(|| {
        apart(|| {
            let path = std::env::current_exe().unwrap();
            let file = std::fs::File::open(path).unwrap();
            let mut link = Link::any();
            assert_eq!(link.op.sendfile(&file, 0, 5000, 0), Ok((5000, 5000)));
            link.peer.expect(5000);
            assert_eq!(Counters::read().get("AlgTlsSendfileBytes"), 5000);
            sys::sendfile_all(&*link.op, &file, 0, 5000);
            link.peer.expect(5000);
            assert_eq!(Counters::read().get("AlgTlsSendfileBytes"), 10_000);
        });
    });
}

/// A child process shares the op; its death takes nothing away.
#[test]
fn fork_shares_and_kill_harms_nobody() {
    in_vm(|| {
        let mut link = Link::any();
        link.check();
        let (fd, byte) = (link.op.as_raw_fd(), [0u8; 64]);
        // SAFETY: the child makes raw system calls only, then waits to be
        // killed; nothing of the parent's locks is touched.
        let child = unsafe {
            let pid = fork();
            if pid == 0 {
                let sent = send(fd, b"child".as_ptr().cast(), 5, MSG_NOSIGNAL);
                if sent == 5 {
                    recv(fd, byte.as_ptr().cast_mut().cast(), byte.len(), 0);
                }
                _exit(1);
            }
            pid
        };
        assert!(child > 0);
        assert_eq!(link.peer.expect(5), b"child");
        let asleep = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|s| s.starts_with('S'))
        };
        assert!(eventually(asleep), "the child reads");
        // SAFETY: the child is ours; the status is not asked for.
        unsafe {
            assert_eq!(kill(child, SIGKILL), 0);
            assert_eq!(waitpid(child, std::ptr::null_mut(), 0), child);
        }
        link.check();
        assert_eq!((link.op.seq(Dir::Tx), link.op.seq(Dir::Rx)), (3, 2));
    });
}

/// Sends fds through a UNIX socket; they stay in its queue if nobody reads.
fn pass(through: &impl AsRawFd, fds: &[i32]) {
    let mut control = sys::Control([0; 64]);
    control.0[..8].copy_from_slice(&(16 + 4 * fds.len() as u64).to_ne_bytes());
    control.0[8..12].copy_from_slice(&SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&SCM_RIGHTS.to_ne_bytes());
    for (i, fd) in fds.iter().enumerate() {
        control.0[16 + 4 * i..20 + 4 * i].copy_from_slice(&fd.to_ne_bytes());
    }
    assert_eq!(sys::sendmsg(through, &[b"!"], &control.0[..24], 0), Ok(1));
}

#[test]
fn fds_in_flight_make_no_cycle() {
    in_vm(|| {
        let before = (open_fds(), references());
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut link = Link::any();
        link.check();
        pass(&a, &[link.op.as_raw_fd(), link.tcp.as_raw_fd()]);
        // The sockets that carry them go in flight as well: a real cycle of
        // UNIX sockets, which the kernel's collector must be able to end.
        pass(&a, &[a.as_raw_fd(), b.as_raw_fd()]);
        let Link {
            op, tcp, mut peer, ..
        } = link;
        drop((op, tcp));
        drop((a, b));
        // A new UNIX socket starts the collector.
        let done = std::thread::spawn(move || peer.recv());
        let collected = eventually(|| {
            drop(std::os::unix::net::UnixStream::pair());
            done.is_finished()
        });
        assert!(collected, "no FIN");
        assert_eq!(done.join().unwrap(), Err(Fault::Eof));
        assert!(eventually(|| (open_fds(), references()) == before), "leak");
    });
}

#[test]
fn the_op_gives_no_view_of_the_tcp_socket() {
    in_vm(|| {
        let link = Link::any();
        // Calls that an AF_ALG op does not have.
        let mut addr = [0u8; 128];
        let mut len: socklen_t = 128;
        let fd = link.op.as_raw_fd();
        // SAFETY: address and length are valid.
        unsafe {
            assert_eq!(getpeername(fd, addr.as_mut_ptr().cast(), &mut len), -1);
            assert_eq!(listen(fd, 1), -1);
            assert_eq!(bind(fd, addr.as_ptr().cast(), 88), -1);
            assert_eq!(accept(fd, std::ptr::null_mut(), std::ptr::null_mut()), -1);
        }
    });
}

#[test]
fn half_closed_both_ways() {
    in_vm(|| {
        let mut link = Link::any();
        link.op.send_record(ALERT, CLOSE_NOTIFY, 0).unwrap();
        link.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.peer.recv().unwrap().kind, ALERT);
        assert_eq!(link.peer.recv(), Err(Fault::Eof));
        link.check_rx();
        link.peer.send(ALERT, CLOSE_NOTIFY);
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.op.recv_record(9, 0).unwrap().0, Some(ALERT));
        assert_eq!(link.op.take(9, 0), Ok(vec![]));
        let mut byte = [0];
        link.op.detach(Dir::Rx).unwrap();
        assert_eq!((&link.tcp).read(&mut byte).unwrap(), 0);
    });
}

#[test]
fn many_connections_come_and_go() {
    in_vm(|| {
        let before = (open_fds(), references());
        let parent = Parent::bind("gcm(aes)").unwrap();
        for turn in 0..10 {
            let mut links: Vec<Link> = (0..20)
                .map(|_| {
                    let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
                    link.op = parent.accept().unwrap().into();
                    link.op
                        .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                        .unwrap();
                    link
                })
                .collect();
            links.iter_mut().for_each(Link::check);
            while links.len() > 1 {
                links.swap_remove((turn * 7) % links.len());
            }
        }
        drop(parent);
        assert!(eventually(|| (open_fds(), references()) == before), "leak");
    });
}
