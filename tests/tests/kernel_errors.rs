// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each error has one meaning, consumes nothing, and sticks as promised.

use std::io::Read;
use std::net::Shutdown;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::peer::{
    ALERT, CCS, CLOSE_NOTIFY, DATA, HANDSHAKE, Half, KEY_UPDATE, MAX, header,
};
use ktlsshim_tests::sys;
use ktlsshim_tests::*;
use libc::*;

/// Both kinds of reader get `errno`, again and again, and nothing is consumed.
fn sticks(link: &Link, errno: i32, wire: &[u8]) {
    for _ in 0..2 {
        assert_eq!(link.op.take(100, MSG_DONTWAIT), fail(errno));
        assert_eq!(
            link.op.recv_record(100, MSG_DONTWAIT).err(),
            Some(Errno(errno))
        );
        assert_eq!(link.op.take(100, MSG_PEEK | MSG_DONTWAIT), fail(errno));
    }
    let seq = link.op.seq(Dir::Rx);
    let back = link.op.detach(Dir::Rx).expect("detach");
    assert_eq!(back.seq, seq);
    let rest = net::read_exact(&link.tcp, wire.len() - back.staged.len()).unwrap();
    assert_eq!([back.staged, rest].concat(), wire, "handed back unchanged");
}

#[test]
fn eio_parks_every_reader_until_the_record_is_taken() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let alert = link.peer.tx.seal(ALERT, &[1, 90], 0);
            let mut wire = alert.clone();
            wire.extend(link.peer.tx.seal(DATA, b"behind it", 0));
            link.peer.raw(&wire);
            link.arrived(wire.len());
            for _ in 0..3 {
                assert_eq!(link.op.take(100, 0), fail(EIO));
                assert_eq!(link.op.take(100, MSG_PEEK), fail(EIO));
            }
            let op = link.op.clone();
            assert_eq!(
                std::thread::spawn(move || op.take(9, 0)).join().unwrap(),
                fail(EIO)
            );
            assert_eq!(
                sys::unread(&link.tcp),
                wire.len(),
                "it stays on the TCP socket"
            );
            assert_eq!(link.op.seq(Dir::Rx), 0);
            assert_eq!(link.op.recv_record(100, 0), Ok((Some(ALERT), vec![1, 90])));
            assert_eq!(link.op.recv_exact(9), b"behind it");
        }
    });
}

#[test]
fn a_taken_key_update_wants_a_key_first() {
    in_vm(|| {
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20, Cipher::Aes128Ccm] {
            let mut link = Link::new(Version::Tls13, cipher);
            link.peer.send(HANDSHAKE, KEY_UPDATE);
            let next = Keys::random(Version::Tls13, cipher);
            link.peer.tx = Half::new(next.clone());
            link.peer.data(b"under the new key");
            assert_eq!(link.op.take(100, 0), fail(EIO));
            let taken = link.op.recv_record(100, 0).unwrap();
            assert_eq!(taken, (Some(HANDSHAKE), KEY_UPDATE.to_vec()));
            for _ in 0..2 {
                assert_eq!(link.op.take(100, 0), fail(EKEYEXPIRED));
                assert_eq!(link.op.recv_record(100, 0).err(), Some(Errno(EKEYEXPIRED)));
                assert_eq!(link.op.take(100, MSG_PEEK), fail(EKEYEXPIRED));
            }
            link.op.rekey(Dir::Rx, &next).expect("re-key");
            assert_eq!(link.op.recv_exact(17), b"under the new key");
            link.check();
        }
    });
}

#[test]
fn other_handshake_messages_want_no_key() {
    in_vm(|| {
        let mut link = Link::any();
        link.peer.send(HANDSHAKE, &[4, 0, 0, 3, 24, 24, 24]);
        link.peer.data(b"after a ticket");
        assert_eq!(link.op.recv_record(100, 0).unwrap().0, Some(HANDSHAKE));
        assert_eq!(link.op.recv_exact(14), b"after a ticket");
        // A message in two records, whose second one starts with byte 24.
        link.peer.send(HANDSHAKE, &[4, 0, 0, 5, 1, 2]);
        link.peer.send(HANDSHAKE, &[24, 0, 0]);
        link.peer.data(b"!");
        assert_eq!(link.op.recv_record(100, 0).unwrap().0, Some(HANDSHAKE));
        assert_eq!(link.op.recv_record(100, 0).unwrap().0, Some(HANDSHAKE));
        assert_eq!(link.op.recv_exact(1), b"!");
        // A ticket and a KeyUpdate in one record.
        link.peer
            .send(HANDSHAKE, &[&[4, 0, 0, 1, 9], KEY_UPDATE].concat());
        assert_eq!(link.op.recv_record(100, 0).unwrap().0, Some(HANDSHAKE));
        assert_eq!(link.op.take(1, MSG_DONTWAIT), fail(EKEYEXPIRED));
        // TLS 1.2 has no KeyUpdate.
        let mut link = Link::new(Version::Tls12, Cipher::Aes128Gcm);
        link.peer.send(HANDSHAKE, KEY_UPDATE);
        assert_eq!(link.op.recv_record(100, 0).unwrap().0, Some(HANDSHAKE));
        link.check();
    });
}

#[test]
fn a_key_update_in_two_records_is_recognised() {
    in_vm(|| {
        // The second half is under the old key still, wherever the cut is.
        for cut in 1..KEY_UPDATE.len() {
            let mut link = Link::any();
            link.peer.send(HANDSHAKE, &KEY_UPDATE[..cut]);
            link.peer.send(HANDSHAKE, &KEY_UPDATE[cut..]);
            for part in [&KEY_UPDATE[..cut], &KEY_UPDATE[cut..]] {
                let record = link.op.recv_record(100, 0);
                assert_eq!(record, Ok((Some(HANDSHAKE), part.to_vec())), "{cut}");
            }
            assert_eq!(link.op.take(1, MSG_DONTWAIT), fail(EKEYEXPIRED));
        }
    });
}

#[test]
fn a_wrong_tag_is_ebadmsg_and_sticks() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let wire_len = {
                let mut half = Half::new(Keys::random(version, cipher));
                half.seal(DATA, b"damaged", 0).len()
            };
            for at in [5, 12, 13, wire_len - 17, wire_len - 1] {
                let mut link = Link::new(version, cipher);
                link.check_rx();
                let mut wire = link.peer.tx.seal(DATA, b"damaged", 0);
                wire[at] ^= 0x40;
                link.peer.raw(&wire);
                link.arrived(wire.len());
                sticks(&link, EBADMSG, &wire);
            }
        }
    });
}

#[test]
fn a_lost_or_foreign_record_is_ebadmsg() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let _lost = link.peer.tx.seal(DATA, b"lost", 0);
            let wire = link.peer.tx.seal(DATA, b"out of sequence", 0);
            link.peer.raw(&wire);
            link.arrived(wire.len());
            sticks(&link, EBADMSG, &wire);
            let mut link = Link::new(version, cipher);
            let wire = Half::new(Keys::random(version, cipher)).seal(DATA, b"foreign", 0);
            link.peer.raw(&wire);
            link.arrived(wire.len());
            sticks(&link, EBADMSG, &wire);
        }
        // TLS 1.2 authenticates the type in the header.
        let mut link = Link::new(Version::Tls12, Cipher::Aes128Gcm);
        let mut wire = link.peer.tx.seal(ALERT, CLOSE_NOTIFY, 0);
        wire[0] = DATA;
        link.peer.raw(&wire);
        link.arrived(wire.len());
        sticks(&link, EBADMSG, &wire);
    });
}

#[test]
fn good_records_before_a_bad_one_are_delivered() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let mut wire = link.peer.tx.seal(DATA, b"good ", 0);
            wire.extend(link.peer.tx.seal(DATA, b"record", 0));
            let mut bad = link.peer.tx.seal(DATA, b"bad", 0);
            *bad.last_mut().unwrap() ^= 1;
            wire.extend(&bad);
            link.peer.raw(&wire);
            link.arrived(wire.len());
            assert_eq!(link.op.take(100, 0).unwrap(), b"good record");
            sticks(&link, EBADMSG, &bad);
        }
    });
}

#[test]
fn what_is_no_record_is_eproto_and_sticks() {
    in_vm(|| {
        let cases: &[&[u8]] = &[
            b"HTTP/1.1 400 Bad Request",
            b"SSH-2.0-OpenSSH",
            &[DATA, 3, 1, 0, 32, 0, 0, 0],
            &[DATA, 3, 4, 0, 32, 0, 0, 0],
            &[DATA, 0xfe, 0xfd, 0, 32, 0, 0, 0],
            &[0, 3, 3, 0, 32, 0, 0, 0],
            &[255, 3, 3, 0, 32, 0, 0, 0],
        ];
        for (version, cipher) in FORMS {
            for case in cases {
                let mut link = Link::new(version, cipher);
                link.check_rx();
                link.peer.raw(case);
                link.arrived(case.len());
                sticks(&link, EPROTO, case);
            }
        }
        // TLS 1.3 has one outer type.
        for kind in [ALERT, HANDSHAKE, 24] {
            let mut link = Link::any();
            let wire = [&header(kind, 32)[..], &random(32)].concat();
            link.peer.raw(&wire);
            link.arrived(wire.len());
            sticks(&link, EPROTO, &wire);
        }
    });
}

#[test]
fn an_inner_plaintext_without_type_is_eproto() {
    in_vm(|| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal_inner(&[0; 40]);
        link.peer.raw(&wire);
        link.arrived(wire.len());
        sticks(&link, EPROTO, &wire);
    });
}

/// The bytes of a stream that broke are for whoever reads the TCP fd: any of
/// them is an event, and who sleeps on either fd learns of the error.
#[test]
fn a_sticky_error_gives_the_low_water_mark_back_and_wakes() {
    in_vm(|| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal(DATA, &[7; 1000], 0);
        link.peer.raw(&wire[..100]);
        link.arrived(100);
        assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EAGAIN));
        assert_eq!(net::poll(&link.tcp, POLLIN, ms(0)), 0, "part of a record");
        let op = link.op.clone();
        let reader = sleeper(move || op.take(10, 0));
        let tcp = link.tcp.try_clone().unwrap();
        let poller = sleeper(move || net::poll(&tcp, POLLIN, ms(10_000)));
        (&link.tcp).read_exact(&mut [0; 10]).unwrap();
        assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(ESTALE));
        assert_eq!(reader.end(), fail(ESTALE));
        assert_eq!(poller.end(), POLLIN, "90 bytes wait");
        let lowat = sys::get_int(&link.tcp, SOL_SOCKET, SO_RCVLOWAT);
        assert_eq!(lowat, Ok(1));
    });
}

#[test]
fn a_strangers_read_is_estale() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.peer.data(b"stolen");
            link.peer.data(b"record");
            let mut byte = [0];
            (&link.tcp).read_exact(&mut byte).unwrap();
            for _ in 0..3 {
                assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(ESTALE));
                assert_eq!(
                    link.op.recv_record(10, MSG_DONTWAIT).err(),
                    Some(Errno(ESTALE))
                );
            }
            link.check_tx();
        }
        // A look without taking is no offence; nor is reading where only TX is ours.
        let mut link = Link::any();
        link.peer.data(b"seen");
        link.arrived(5);
        assert_eq!(link.tcp.peek(&mut [0; 5]).unwrap(), 5);
        assert_eq!(link.op.recv_exact(4), b"seen");
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        link.op.attach(&link.tcp, Some(&link.tx), None).unwrap();
        link.peer.raw(b"plain");
        assert_eq!(net::read_exact(&link.tcp, 5).unwrap(), b"plain");
        link.check_tx();
    });
}

#[test]
fn a_strangers_write_is_estale() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.check();
            sys::write(&link.tcp, b"raw").unwrap();
            for _ in 0..3 {
                assert_eq!(link.op.send(b"never sent", 0), fail(ESTALE));
                assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), fail(ESTALE));
            }
            link.check_rx();
            drop(link.op);
            drop(link.tcp);
            let mut rest = Vec::new();
            link.peer.tcp.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"raw", "no record after it");
        }
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        link.op.attach(&link.tcp, None, Some(&link.rx)).unwrap();
        sys::write(&link.tcp, b"raw").unwrap();
        link.check_rx();
    });
}

/// The same sock, connected elsewhere: nothing may go to the new peer.
#[test]
fn a_reconnected_socket_is_estale() {
    in_vm(|| {
        let mut link = Link::any();
        link.check();
        net::disconnect(&link.tcp).expect("disconnect");
        assert!(link.op.send(b"secret", 0).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        net::connect(&link.tcp, listener.local_addr().unwrap()).expect("connect");
        let (mut other, _) = listener.accept().unwrap();
        for _ in 0..2 {
            assert_eq!(link.op.send(b"secret", 0), fail(ESTALE));
            assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(ESTALE));
        }
        drop(link.op);
        link.tcp.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        other.read_to_end(&mut got).ok();
        assert_eq!(got, b"", "a record reached a stranger");
    });
}

#[test]
fn fin_at_a_border_is_enodata_and_inside_econnaborted() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.peer.data(b"last");
            link.peer.tcp.shutdown(Shutdown::Write).unwrap();
            assert_eq!(link.op.recv_exact(4), b"last");
            for _ in 0..2 {
                assert_eq!(link.op.take(10, 0), fail(ENODATA));
                assert_eq!(link.op.recv_record(10, 0).err(), Some(Errno(ENODATA)));
            }
            link.check_tx();
            for cut in [1, 4, 5, 6, 20] {
                let mut link = Link::new(version, cipher);
                let wire = link.peer.tx.seal(DATA, b"cut off", 0);
                link.peer.raw(&wire[..cut]);
                link.peer.tcp.shutdown(Shutdown::Write).unwrap();
                assert_eq!(link.op.take(10, 0), fail(ECONNABORTED), "cut at {cut}");
                assert_eq!(sys::unread(&link.tcp), cut);
                sticks(&link, ECONNABORTED, &wire[..cut]);
            }
        }
    });
}

#[test]
fn end_of_file_after_close_notify_and_clear_text_after_that() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            link.peer.data(b"bye");
            link.peer.send(ALERT, CLOSE_NOTIFY);
            link.peer.raw(b"250 clear text");
            assert_eq!(link.op.recv_exact(3), b"bye");
            assert_eq!(link.op.take(10, 0), fail(EIO));
            let close = (Some(ALERT), CLOSE_NOTIFY.to_vec());
            assert_eq!(link.op.recv_record(10, 0), Ok(close));
            for _ in 0..3 {
                assert_eq!(link.op.take(10, 0), Ok(vec![]));
            }
            link.check_tx();
            let back = link.op.detach(Dir::Rx).expect("detach");
            assert_eq!((back.seq, back.staged.len()), (2, 0));
            assert_eq!(net::read_exact(&link.tcp, 14).unwrap(), b"250 clear text");
        }
        // Another alert is no end of file.
        let mut link = Link::any();
        link.peer.send(ALERT, &[1, 90]);
        assert_eq!(link.op.recv_record(10, 0), Ok((Some(ALERT), vec![1, 90])));
        assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EAGAIN));
        link.check();
    });
}

#[test]
fn the_sequence_number_never_wraps() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let (near, far) = net::pair();
            let tx = Keys::random_at(version, cipher, u64::MAX - 2);
            let rx = Keys::random_at(version, cipher, u64::MAX - 2);
            let op = Op::new(cipher.name());
            op.attach(&near, Some(&tx), Some(&rx)).expect("attach");
            let peer = Peer::new(far, rx.clone(), tx.clone());
            let mut link = Link {
                op: op.into(),
                tcp: near,
                peer,
                tx,
                rx,
            };
            link.check();
            link.check();
            let wire = link.peer.tx.seal(DATA, b"one too many", 0);
            link.peer.raw(&wire);
            link.arrived(wire.len());
            for _ in 0..2 {
                assert_eq!(
                    link.op.send(b"x", 0),
                    fail(EOVERFLOW),
                    "{version:?} {cipher:?}"
                );
                assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), fail(EOVERFLOW));
                assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EOVERFLOW));
            }
            assert_eq!(link.op.seq(Dir::Tx), u64::MAX);
            // A new key starts a new count.
            let next = Keys::random(version, cipher);
            link.op.rekey(Dir::Tx, &next).expect("re-key");
            link.peer.rx = Half::new(next);
            link.check_tx();
        }
    });
}

#[test]
fn not_attached_is_enotconn_on_every_call() {
    in_vm(|| {
        let op = Op::new("gcm(aes)");
        let keys = Keys::random(Version::Tls13, Cipher::Aes128Gcm);
        assert_eq!(op.send(b"x", 0), fail(ENOTCONN));
        assert_eq!(op.send_record(ALERT, CLOSE_NOTIFY, 0), fail(ENOTCONN));
        assert_eq!(op.take(10, 0), fail(ENOTCONN));
        assert_eq!(op.recv_record(10, 0).err(), Some(Errno(ENOTCONN)));
        for dir in [Dir::Tx, Dir::Rx] {
            assert_eq!(op.state(dir).err(), Some(Errno(ENOTCONN)));
            assert_eq!(op.rekey(dir, &keys), fail(ENOTCONN));
            assert_eq!(op.detach(dir).err(), Some(Errno(ENOTCONN)));
        }
        let (_out, input) = sys::pipe();
        assert_eq!(sys::splice(&op, &input, 10, 0), fail(ENOTCONN));
    });
}

#[test]
fn too_long_too_short_is_emsgsize_from_the_header_alone() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let least = Keys::random(version, cipher).overhead() - 5;
            let most = MAX + if version == Version::Tls13 { 256 } else { 2048 };
            for len in [0, 1, 15, least - 1, most + 1, 0xffff] {
                let mut link = Link::new(version, cipher);
                link.check_rx();
                let wire = header(DATA, len);
                link.peer.raw(&wire);
                link.arrived(5);
                sticks(&link, EMSGSIZE, &wire);
            }
        }
    });
}

#[test]
fn a_change_cipher_spec_of_tls_12_parks_like_any_other() {
    in_vm(|| {
        let mut link = Link::new(Version::Tls12, Cipher::Aes128Gcm);
        link.peer.send(CCS, &[1]);
        assert_eq!(link.op.take(10, 0), fail(EIO));
        assert_eq!(link.op.recv_record(10, 0), Ok((Some(CCS), vec![1])));
    });
}
