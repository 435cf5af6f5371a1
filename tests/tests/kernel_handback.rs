// SPDX-License-Identifier: MIT OR Apache-2.0
//! The switch between kernel and userspace: detach, re-attach, re-key, read
//! back, staged bytes. This is what the sockets before this one could not do.

use std::io::Write;
use std::net::Shutdown;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::op::{Attach, STAGED_MAX};
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, Half, MAX};
use ktlsshim_tests::sys;
use ktlsshim_tests::*;
use libc::*;

/// A link whose receive window is full before a full record is whole.
fn cramped(version: Version, cipher: Cipher) -> Link {
    let pair = net::pair_on("127.0.0.1:0", |n| net::rcvbuf(n, 2300), |_| {});
    Link::over(pair, version, cipher)
}

/// Lets the peer push `wire` from a thread and reads until bytes are staged,
/// that is until EAGAIN though the window is full.
fn stage(link: &mut Link, wire: &[u8]) -> std::thread::JoinHandle<()> {
    let mut tcp = link.peer.tcp.try_clone().unwrap();
    let copy = wire.to_vec();
    let before = counters::Counters::read();
    let writer = std::thread::spawn(move || drop(tcp.write_all(&copy)));
    let staged = eventually(|| {
        assert_eq!(
            link.op.take(1, MSG_DONTWAIT | MSG_PEEK),
            fail(EAGAIN),
            "not whole yet"
        );
        counters::Counters::read().since(&before, "AlgTlsRxStaged") > 0
    });
    assert!(staged, "nothing was staged");
    writer
}

#[test]
fn read_back_gives_the_state_and_no_key() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for turn in 0..3 {
                for (dir, keys) in [(Dir::Tx, &link.tx), (Dir::Rx, &link.rx)] {
                    let state = link.op.state(dir).expect("read back");
                    assert_eq!(state.version, version.number());
                    assert_eq!(state.cipher, cipher.number());
                    assert_eq!(state.seq, turn);
                    let clean = keys.crypto_info();
                    assert_eq!(state.raw.len(), clean.len());
                    let leak = state
                        .raw
                        .windows(4)
                        .any(|w| keys.key.windows(4).any(|k| k == w));
                    assert!(!leak, "key bytes in {:?}", state.raw);
                }
                if link.tx.explicit_nonce() {
                    let raw = link.op.state(Dir::Tx).unwrap().raw;
                    let next = link.tx.nonce().wrapping_add(turn).to_be_bytes();
                    assert_eq!(raw[4..12], next, "the next explicit nonce");
                }
                link.check();
            }
        }
    });
}

#[test]
fn read_back_with_too_little_room_is_einval() {
    in_vm(|| {
        let link = Link::any();
        for len in [0, 2, 4, 39] {
            let got = sys::getsockopt(&*link.op, op::SOL_TLS, op::TLS_TX, &mut vec![0; len]);
            assert!(
                got == fail(EINVAL) || got == Ok(4) && len == 4,
                "{len}: {got:?}"
            );
        }
    });
}

/// One direction after the other leaves the kernel and comes back.
#[test]
fn detach_gives_number_and_nonce_and_attach_goes_on() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let (mut tx, mut rx) = (link.tx.clone(), link.rx.clone());
            for _ in 0..3 {
                link.check();
                link.check();
                (tx, rx) = (tx.after(2), rx.after(2));

                let back = link.op.detach(Dir::Tx).expect("detach TX");
                assert_eq!(back.seq, tx.seq);
                let nonce = if tx.explicit_nonce() { tx.nonce() } else { 0 };
                assert_eq!(back.nonce, nonce);
                assert_eq!(back.staged, b"");
                assert_eq!(link.op.send(b"x", 0), fail(ENOTCONN));
                assert_eq!(link.op.detach(Dir::Tx), fail(ENOTCONN));
                link.check_rx();
                rx = rx.after(1);
                // Userspace seals one record on the bare TCP socket.
                let wire = Half::new(tx.clone()).seal(HANDSHAKE, b"hello request", 0);
                (&link.tcp).write_all(&wire).unwrap();
                assert_eq!(link.peer.recv().unwrap().data, b"hello request");
                tx = tx.after(1);

                let back = link.op.detach(Dir::Rx).expect("detach RX");
                assert_eq!((back.seq, back.nonce), (rx.seq, 0));
                assert_eq!(link.op.take(10, 0), fail(ENOTCONN));
                link.peer.send(HANDSHAKE, b"client hello");
                let wire = net::read_exact(&link.tcp, 12 + rx.overhead()).unwrap();
                assert_eq!(
                    Half::new(rx.clone()).open(&wire).unwrap().data,
                    b"client hello"
                );
                rx = rx.after(1);

                link.op
                    .attach(&link.tcp, Some(&tx), None)
                    .expect("TX again");
                link.op
                    .attach(&link.tcp, None, Some(&rx))
                    .expect("RX again");
            }
            link.check();
        }
    });
}

/// D8: a control record goes back to userspace unchanged, and the kernel goes
/// on behind it; then the same the other way round.
#[test]
fn d08_control_records_are_handed_back_both_ways() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            link.check();
            let wire = link.peer.tx.seal(HANDSHAKE, &random(700), 0);
            link.peer.raw(&wire);
            link.peer.data(b"data behind it");
            assert_eq!(link.op.take(100, 0), fail(EIO));
            let back = link.op.detach(Dir::Rx).expect("detach");
            assert_eq!((back.seq, &back.staged[..]), (1, &b""[..]));
            assert_eq!(net::read_exact(&link.tcp, wire.len()).unwrap(), wire);
            link.op
                .attach(&link.tcp, None, Some(&link.rx.after(2)))
                .expect("attach at n+1");
            assert_eq!(link.op.recv_exact(14), b"data behind it");

            let back = link.op.detach(Dir::Tx).expect("detach");
            let mut half = Half::new(link.tx.after(back.seq));
            assert_eq!(
                half.keys().explicit_nonce().then_some(half.keys().nonce()),
                half.keys().explicit_nonce().then_some(back.nonce)
            );
            let wire = half.seal(ALERT, &[1, 100], 0);
            (&link.tcp).write_all(&wire).unwrap();
            assert_eq!(link.peer.recv().unwrap().data, [1, 100]);
            link.op
                .attach(&link.tcp, Some(half.keys()), None)
                .expect("attach at n+1");
            link.check();
        }
    });
}

/// D11: the keys of both directions are replaced, many times.
#[test]
fn d11_re_key_both_ways_many_times() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for turn in 0..20 {
                let tx = Keys::random_at(version, cipher, turn);
                let rx = Keys::random_at(version, cipher, turn * 3);
                link.op.send_all(b"old");
                link.op.rekey(Dir::Tx, &tx).expect("re-key TX");
                assert_eq!(link.op.seq(Dir::Tx), turn);
                link.op.send_all(b"new");
                assert_eq!(link.peer.expect(3), b"old");
                link.peer.rx = Half::new(tx);
                assert_eq!(link.peer.expect(3), b"new");

                link.peer.data(b"old");
                assert_eq!(link.op.recv_exact(3), b"old");
                link.op.rekey(Dir::Rx, &rx).expect("re-key RX");
                assert_eq!(link.op.seq(Dir::Rx), turn * 3);
                link.peer.tx = Half::new(rx);
                link.check_rx();
            }
        }
    });
}

#[test]
fn re_key_refuses_what_attach_refuses() {
    in_vm(|| {
        let mut link = Link::any();
        let good = Keys::random(Version::Tls13, Cipher::Aes128Gcm).crypto_info();
        let set = |bytes: &[u8]| sys::setsockopt(&*link.op, op::SOL_TLS, op::TLS_TX, bytes);
        for (at, value) in [(0, 0x02), (1, 0x02), (2, 54), (2, 0), (2, 53)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(set(&bad), fail(EINVAL), "byte {at} is {value}");
        }
        assert_eq!(set(&good[..39]), fail(EINVAL));
        assert_eq!(set(&good[..4]), fail(EINVAL));
        assert_eq!(set(&[]), fail(EINVAL));
        link.check();
    });
}

/// A KeyUpdate changes neither; a renegotiation may change the cipher.
#[test]
fn a_re_key_keeps_version_and_in_tls13_the_cipher() {
    in_vm(|| {
        let keys = Keys::random;
        let (v12, v13) = (Version::Tls12, Version::Tls13);
        let (small, large) = (Cipher::Aes128Gcm, Cipher::Aes256Gcm);
        let mut link = Link::new(v13, small);
        for dir in [Dir::Tx, Dir::Rx] {
            assert_eq!(link.op.rekey(dir, &keys(v12, small)), fail(EINVAL));
            assert_eq!(link.op.rekey(dir, &keys(v13, large)), fail(EINVAL));
        }
        link.check();
        let mut link = Link::new(v12, small);
        for dir in [Dir::Tx, Dir::Rx] {
            assert_eq!(link.op.rekey(dir, &keys(v13, small)), fail(EINVAL));
        }
        link.check();
        let (tx, rx) = (keys(v12, large), keys(v12, large));
        link.op.rekey(Dir::Tx, &tx).expect("another cipher");
        link.op.rekey(Dir::Rx, &rx).expect("another cipher");
        (link.peer.tx, link.peer.rx) = (Half::new(rx), Half::new(tx));
        link.check();
    });
}

#[test]
fn a_re_key_wakes_a_sleeping_reader_which_uses_the_new_key() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let op = link.op.clone();
            let reader = sleeper(move || op.take(10, 0));
            let rx = Keys::random(version, cipher);
            link.op.rekey(Dir::Rx, &rx).expect("re-key");
            link.peer.tx = Half::new(rx);
            link.peer.data(b"new");
            assert_eq!(reader.end().unwrap(), b"new");
        }
    });
}

#[test]
fn a_re_key_leaves_the_rest_of_a_record_readable() {
    in_vm(|| {
        let mut link = Link::any();
        link.peer.data(b"under the old key");
        assert_eq!(link.op.recv_exact(5), b"under");
        let rx = Keys::random(Version::Tls13, Cipher::Aes128Gcm);
        link.op.rekey(Dir::Rx, &rx).expect("re-key");
        link.peer.tx = Half::new(rx);
        link.peer.data(b"!");
        assert_eq!(link.op.recv_exact(13), b" the old key!");
    });
}

#[test]
fn a_used_number_or_nonce_of_the_same_key_is_refused() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for _ in 0..3 {
                link.check_tx();
            }
            assert_eq!(
                link.op.rekey(Dir::Tx, &link.tx),
                fail(EKEYREJECTED),
                "re-key"
            );
            assert_eq!(
                link.op.rekey(Dir::Tx, &link.tx.after(2)),
                fail(EKEYREJECTED)
            );
            link.check_tx();
            link.op.detach(Dir::Tx).expect("detach");
            for used in [0, 1, 3] {
                let again = link.op.attach(&link.tcp, Some(&link.tx.after(used)), None);
                assert_eq!(
                    again,
                    fail(EKEYREJECTED),
                    "{version:?} {cipher:?} number {used}"
                );
            }
            if link.tx.explicit_nonce() {
                let mut skewed = link.tx.after(4);
                skewed.set_nonce(link.tx.nonce().wrapping_add(3));
                let again = link.op.attach(&link.tcp, Some(&skewed), None);
                assert_eq!(again, fail(EKEYREJECTED), "a new number, a used nonce");
            }
            link.op
                .attach(&link.tcp, Some(&link.tx.after(4)), None)
                .expect("the next number");
            link.check();
        }
    });
}

#[test]
fn an_unread_rest_keeps_rx_attached() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.peer.data(b"abcdef");
            assert_eq!(link.op.recv_exact(2), b"ab");
            assert_eq!(link.op.detach(Dir::Rx), fail(EBUSY));
            assert_eq!(link.op.recv_exact(4), b"cdef", "nothing was detached");
            assert_eq!(link.op.detach(Dir::Rx).expect("detach").seq, 1);
        }
    });
}

#[test]
fn a_malformed_detach_is_einval() {
    in_vm(|| {
        let mut link = Link::any();
        let mut good = [0u8; 40];
        good[..4].copy_from_slice(&40u32.to_ne_bytes());
        good[4] = 1;
        for (at, value) in [(0, 39), (0, 41), (0, 0), (4, 0), (4, 3), (5, 1), (20, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(
                link.op.detach_raw(&mut bad),
                fail(EINVAL),
                "byte {at} is {value}"
            );
        }
        assert_eq!(link.op.detach_raw(&mut good[..39]), fail(EINVAL));
        link.check();
    });
}

#[test]
fn staged_bytes_come_back_with_detach() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = cramped(version, cipher);
            let wire = link.peer.tx.seal(DATA, &random(MAX), 0);
            let writer = stage(&mut link, &wire);
            assert_eq!(link.op.detach_into(Dir::Rx, &mut []), fail(ENOSPC));
            let back = link.op.detach(Dir::Rx).expect("detach");
            assert!(!back.staged.is_empty() && back.staged.len() < wire.len());
            assert_eq!(back.seq, 0);
            let rest = net::read_exact(&link.tcp, wire.len() - back.staged.len()).unwrap();
            assert!(
                [back.staged, rest].concat() == wire,
                "{version:?} {cipher:?}"
            );
            writer.join().unwrap();
            link.op
                .attach(&link.tcp, None, Some(&link.rx.after(1)))
                .expect("attach at n+1");
            link.check_rx();
        }
    });
}

#[test]
fn records_larger_than_the_window_are_read() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = cramped(version, cipher);
            let data = pattern(5 * MAX);
            let mut wire = Vec::new();
            for piece in data.chunks(MAX) {
                wire.extend(link.peer.tx.seal(DATA, piece, 0));
            }
            let mut tcp = link.peer.tcp.try_clone().unwrap();
            let writer = std::thread::spawn(move || tcp.write_all(&wire).unwrap());
            // The reader waits on the TCP fd only, as programs do.
            let mut got = Vec::new();
            while got.len() < data.len() {
                assert_ne!(
                    net::poll(&link.tcp, POLLIN, ms(10_000)),
                    0,
                    "stuck at {}",
                    got.len()
                );
                match link.op.take(MAX, MSG_DONTWAIT) {
                    Ok(piece) => got.extend(piece),
                    Err(e) => assert_eq!(e, Errno(EAGAIN)),
                }
            }
            assert!(got == data, "{version:?} {cipher:?}");
            writer.join().unwrap();
        }
    });
}

#[test]
fn an_alert_or_a_bad_tag_while_staged_goes_back_unchanged() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            for damaged in [false, true] {
                let mut link = cramped(version, cipher);
                let mut wire = link.peer.tx.seal(HANDSHAKE, &random(MAX), 0);
                if damaged {
                    wire[9000] ^= 1;
                }
                let writer = stage(&mut link, &wire);
                let errno = if damaged { EBADMSG } else { EIO };
                let failed = eventually(|| link.op.take(9, MSG_DONTWAIT) == fail(errno));
                assert!(failed, "{:?}", link.op.take(9, MSG_DONTWAIT));
                let back = link.op.detach(Dir::Rx).expect("detach");
                let rest = net::read_exact(&link.tcp, wire.len() - back.staged.len()).unwrap();
                assert!([back.staged, rest].concat() == wire);
                writer.join().unwrap();
            }
        }
    });
}

#[test]
fn a_re_key_while_staged_opens_the_record_with_the_new_key() {
    in_vm(|| {
        let (version, cipher) = (Version::Tls13, Cipher::Aes128Gcm);
        let mut link = cramped(version, cipher);
        let next = Keys::random(version, cipher);
        let data = random(MAX);
        let wire = Half::new(next.clone()).seal(DATA, &data, 0);
        let writer = stage(&mut link, &wire);
        link.op.rekey(Dir::Rx, &next).expect("re-key");
        assert!(link.op.recv_exact(MAX) == data);
        writer.join().unwrap();
    });
}

#[test]
fn closing_the_op_while_staged_resets_rather_than_loses() {
    in_vm(|| {
        let mut link = cramped(Version::Tls13, Cipher::Aes128Gcm);
        let wire = link.peer.tx.seal(DATA, &random(MAX), 0);
        let writer = stage(&mut link, &wire);
        drop(std::mem::replace(&mut link.op, Op::new("gcm(aes)").into()));
        assert_eq!(link.peer.recv().err(), Some(Fault::Reset));
        let mut byte = [0];
        let got = sys::read(&link.tcp, &mut byte);
        assert!(
            matches!(got, Err(Errno(ECONNRESET | ECONNABORTED))),
            "{got:?}"
        );
        writer.join().unwrap();
    });
}

#[test]
fn fin_while_staged_is_econnaborted_and_loses_nothing() {
    in_vm(|| {
        let mut link = cramped(Version::Tls13, Cipher::Aes128Gcm);
        let wire = link.peer.tx.seal(DATA, &random(MAX), 0);
        let cut = &wire[..wire.len() - 10];
        let writer = stage(&mut link, cut);
        let op = link.op.clone();
        let reader = std::thread::spawn(move || op.take(10, 0));
        writer.join().unwrap();
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.join().unwrap(), fail(ECONNABORTED));
        let back = link.op.detach(Dir::Rx).expect("detach");
        let rest = net::read_exact(&link.tcp, cut.len() - back.staged.len()).unwrap();
        assert!([back.staged, rest].concat() == cut);
    });
}

#[test]
fn staging_room_of_the_header_is_enough() {
    in_vm(|| {
        let mut link = cramped(Version::Tls12, Cipher::Aes128Gcm);
        let wire = link.peer.tx.seal(DATA, &random(MAX), 0);
        assert!(wire.len() <= STAGED_MAX);
        let writer = stage(&mut link, &wire);
        // Let it stage as much as it ever will.
        std::thread::sleep(ms(50));
        assert!(link.op.detach(Dir::Rx).is_ok());
        drop(link.tcp);
        drop(link.op);
        drop(link.peer);
        writer.join().unwrap();
    });
}

#[test]
fn a_reader_of_another_thread_survives_detach_and_attach() {
    in_vm(|| {
        let mut link = Link::any();
        for turn in 0..5 {
            let op = link.op.clone();
            let reader = sleeper(move || op.take(20, 0));
            let seq = link.op.detach(Dir::Rx).expect("detach").seq;
            assert_eq!(seq, turn);
            assert_eq!(reader.end(), fail(ENOTCONN));
            let attach = Attach::new(
                std::os::fd::AsRawFd::as_raw_fd(&link.tcp),
                None,
                Some(&link.rx.after(seq)),
            );
            link.op.attach_with(&attach).expect("attach");
            link.check();
        }
    });
}

#[test]
fn a_detached_socket_can_end_in_clear_text() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.op.send_record(ALERT, CLOSE_NOTIFY, 0).unwrap();
            link.op.detach(Dir::Tx).unwrap();
            (&link.tcp).write_all(b"221 bye").unwrap();
            assert_eq!(link.peer.recv().unwrap().kind, ALERT);
            assert_eq!(net::read_exact(&link.peer.tcp, 7).unwrap(), b"221 bye");
            link.peer.send(ALERT, CLOSE_NOTIFY);
            assert_eq!(link.op.recv_record(9, 0).unwrap().0, Some(ALERT));
            link.op.detach(Dir::Rx).unwrap();
            link.peer.raw(b"clear");
            assert_eq!(net::read_exact(&link.tcp, 5).unwrap(), b"clear");
        }
    });
}
