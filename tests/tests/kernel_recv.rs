// SPDX-License-Identifier: MIT OR Apache-2.0
//! recvmsg(): partial reads, several records per call, control buffers, peeks.

use ktlsshim_tests::keys::random;
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, MAX};
use ktlsshim_tests::sys;
use ktlsshim_tests::*;
use libc::*;

/// Sends the records and waits until they all lie on the TCP receive queue.
fn deliver(link: &mut Link, records: &[&[u8]]) {
    let already = sys::unread(&link.tcp);
    let mut wire = Vec::new();
    for data in records {
        wire.extend(link.peer.tx.seal(DATA, data, 0));
    }
    link.peer.raw(&wire);
    link.arrived(already + wire.len());
}

#[test]
fn every_record_size_in_every_suite() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for len in [1, 2, 15, 16, 17, 255, 1448, 4095, 4096, 4097, 16383, MAX] {
                let data = random(len);
                link.peer.send(DATA, &data);
                assert_eq!(
                    link.op.recv_exact(len),
                    data,
                    "{version:?} {cipher:?} {len}"
                );
            }
            assert_eq!(link.op.seq(Dir::Rx), 12);
            assert_eq!(link.op.take(1, MSG_DONTWAIT), fail(EAGAIN));
        }
    });
}

/// D6: a buffer smaller than the record destroys nothing.
#[test]
fn d06_reads_of_one_to_n_bytes() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(301);
            for step in [1, 2, 3, 7, 16, 17, 100, 299, 300, 301, 302, 20_000] {
                deliver(&mut link, &[&data]);
                let mut got = Vec::new();
                while got.len() < data.len() {
                    let piece = link.op.take(step, MSG_DONTWAIT).expect("recv");
                    assert_eq!(piece.len(), step.min(data.len() - got.len()));
                    got.extend(piece);
                }
                assert_eq!(got, data, "steps of {step}");
                assert_eq!(link.op.take(1, MSG_DONTWAIT), fail(EAGAIN));
            }
        }
    });
}

#[test]
fn a_full_record_in_pieces() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(MAX);
            for step in [1000, 4096, 16383] {
                deliver(&mut link, &[&data]);
                let mut got = Vec::new();
                while got.len() < MAX {
                    got.extend(link.op.take(step, MSG_DONTWAIT).expect("recv"));
                }
                assert!(got == data, "steps of {step}");
            }
        }
    });
}

#[test]
fn several_records_in_one_call() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(1000);
            let records: Vec<&[u8]> = data.chunks(100).collect();
            deliver(&mut link, &records);
            assert_eq!(
                link.op.take(4096, 0),
                Ok(data.clone()),
                "{version:?} {cipher:?}"
            );
            deliver(&mut link, &records);
            assert_eq!(link.op.take(1000, 0), Ok(data), "exactly as much room");
        }
    });
}

#[test]
fn a_further_record_is_taken_only_if_it_fits_whole() {
    in_vm(|| {
        let mut link = Link::any();
        let data = random(300);
        let records: Vec<&[u8]> = data.chunks(100).collect();
        deliver(&mut link, &records);
        assert_eq!(link.op.take(250, 0).unwrap(), &data[..200]);
        assert_eq!(link.op.take(250, 0).unwrap(), &data[200..]);
        deliver(&mut link, &records);
        assert_eq!(link.op.take(199, 0).unwrap(), &data[..100]);
        // Only the first record of a call may leave a rest.
        assert_eq!(link.op.take(50, 0).unwrap(), &data[100..150]);
        assert_eq!(link.op.seq(Dir::Rx), 5);
        assert_eq!(link.op.take(149, 0).unwrap(), &data[150..200]);
        assert_eq!(link.op.take(149, 0).unwrap(), &data[200..]);
        deliver(&mut link, &records);
        assert_eq!(link.op.take(50, 0).unwrap(), &data[..50]);
        assert_eq!(
            link.op.take(150, 0).unwrap(),
            &data[50..200],
            "rest and one whole record"
        );
        assert_eq!(link.op.take(150, 0).unwrap(), &data[200..]);
    });
}

#[test]
fn with_a_control_buffer_exactly_one_record() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            deliver(&mut link, &[b"one", b"three"]);
            link.peer.send(ALERT, &[1, 90]);
            link.peer.send(HANDSHAKE, &[4, 0, 0, 1, 9]);
            link.peer.data(b"end");
            let next = |len| link.op.recv_record(len, 0).unwrap();
            assert_eq!(next(100), (Some(DATA), b"one".to_vec()));
            assert_eq!(next(2), (Some(DATA), b"th".to_vec()), "a rest stays");
            assert_eq!(next(100), (Some(DATA), b"ree".to_vec()));
            assert_eq!(next(100), (Some(ALERT), vec![1, 90]));
            assert_eq!(next(100), (Some(HANDSHAKE), vec![4, 0, 0, 1, 9]));
            assert_eq!(next(100), (Some(DATA), b"end".to_vec()));
            link.check();
        }
    });
}

#[test]
fn a_control_record_larger_than_the_buffer_comes_in_pieces() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(3000);
            link.peer.send(HANDSHAKE, &data);
            link.peer.data(b"later");
            let mut got = Vec::new();
            while got.len() < 3000 {
                // A reader without control buffer never gets a byte of it.
                assert_eq!(link.op.take(10, 0), fail(EIO));
                let (kind, piece) = link.op.recv_record(700, 0).expect("piece");
                assert_eq!(kind, Some(HANDSHAKE));
                got.extend(piece);
            }
            assert_eq!(got, data);
            assert_eq!(link.op.recv_exact(5), b"later");
        }
    });
}

#[test]
fn data_before_a_control_record_is_delivered_first() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let mut wire = link.peer.tx.seal(DATA, b"good", 0);
            wire.extend(link.peer.tx.seal(DATA, b"data", 0));
            wire.extend(link.peer.tx.seal(ALERT, CLOSE_NOTIFY, 0));
            link.peer.raw(&wire);
            link.arrived(wire.len());
            assert_eq!(link.op.take(100, 0).unwrap(), b"gooddata");
            assert_eq!(link.op.take(100, 0), fail(EIO));
        }
    });
}

#[test]
fn empty_records_are_skipped_and_are_not_eof() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            deliver(&mut link, &[b"", b"", b"x", b"", b"y", b""]);
            let mut got = link.op.take(100, 0).expect("recv");
            assert_ne!(got, b"", "an empty record looks like the end");
            got.extend(link.op.take(100, MSG_DONTWAIT).unwrap_or_default());
            assert_eq!(got, b"xy");
            assert_eq!(
                link.op.take(100, MSG_DONTWAIT),
                fail(EAGAIN),
                "not end of file"
            );
            assert_eq!(link.op.seq(Dir::Rx), 6);
            link.check();
        }
    });
}

/// Empty data never shows, an empty control record always does, in every order.
#[test]
fn empty_records_in_front_of_other_records() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            for order in 0..64 {
                let mut link = Link::new(version, cipher);
                let mut shown = Vec::new();
                // Data or control, empty or not, three times.
                for turn in 0..3 {
                    let bits = order >> (2 * turn) & 3;
                    let kind = [DATA, ALERT][bits & 1];
                    let data: &[u8] = [&b""[..], b"hello world"][bits >> 1];
                    link.peer.send(kind, data);
                    if kind == ALERT || !data.is_empty() {
                        shown.push((Some(kind), data.to_vec()));
                    }
                }
                for expected in shown {
                    assert_eq!(link.op.recv_record(100, 0), Ok(expected), "{order:#b}");
                }
                link.peer.data(b"");
                let end = link.op.recv_record(100, MSG_DONTWAIT);
                assert_eq!(end.err(), Some(Errno(EAGAIN)), "{order:#b}");
                link.check_rx();
            }
        }
    });
}

#[test]
fn an_empty_control_record_returns_zero_with_its_type() {
    in_vm(|| {
        let mut link = Link::any();
        link.peer.send(HANDSHAKE, b"");
        assert_eq!(link.op.recv_record(10, 0), Ok((Some(HANDSHAKE), vec![])));
        link.check();
    });
}

#[test]
fn padding_is_removed() {
    in_vm(|| {
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20, Cipher::Aes128Ccm] {
            let mut link = Link::new(Version::Tls13, cipher);
            for (len, pad) in [
                (5, 1),
                (5, 300),
                (0, 200),
                (1000, 4096),
                (16000, 384),
                (1, 16383),
            ] {
                let data = random(len);
                let wire = link.peer.tx.seal(DATA, &data, pad);
                link.peer.raw(&wire);
                link.peer.data(b"!");
                assert_eq!(link.op.recv_exact(len + 1), [&data[..], b"!"].concat());
            }
            // Zero bytes that are data, before the type, are no padding.
            let wire = link.peer.tx.seal(DATA, &[7, 0, 0, 0], 5);
            link.peer.raw(&wire);
            assert_eq!(link.op.recv_exact(4), [7, 0, 0, 0]);
            let wire = link.peer.tx.seal(ALERT, CLOSE_NOTIFY, 100);
            link.peer.raw(&wire);
            let close = (Some(ALERT), CLOSE_NOTIFY.to_vec());
            assert_eq!(link.op.recv_record(100, 0), Ok(close));
        }
    });
}

#[test]
fn peek_takes_nothing() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(500);
            deliver(&mut link, &[&data, b"next"]);
            for len in [1, 100, 500] {
                assert_eq!(link.op.take(len, MSG_PEEK).unwrap(), &data[..len]);
            }
            assert_eq!(link.op.take(100, 0).unwrap(), &data[..100]);
            assert_eq!(
                link.op.take(100, MSG_PEEK).unwrap(),
                &data[100..200],
                "peek of a rest"
            );
            let more = link.op.take(4096, MSG_PEEK).unwrap();
            assert!([&data[100..], b"next"].concat().starts_with(&more) && more.len() >= 400);
            assert_eq!(link.op.recv_exact(404), [&data[100..], b"next"].concat());
            assert_eq!(link.op.take(10, MSG_PEEK | MSG_DONTWAIT), fail(EAGAIN));
            link.check();
        }
    });
}

#[test]
fn peek_of_a_control_record_leaves_it() {
    in_vm(|| {
        let mut link = Link::any();
        link.peer.send(ALERT, CLOSE_NOTIFY);
        let close = (Some(ALERT), CLOSE_NOTIFY.to_vec());
        for _ in 0..3 {
            assert_eq!(link.op.recv_record(10, MSG_PEEK).as_ref(), Ok(&close));
        }
        assert_eq!(link.op.take(10, MSG_PEEK), fail(EIO));
        assert_eq!(link.op.take(10, 0), fail(EIO));
        assert_eq!(link.op.recv_record(10, 0), Ok(close));
        assert_eq!(link.op.take(10, 0), Ok(vec![]), "end of file");
    });
}

#[test]
fn waitall_waits_for_all_of_it() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(5000);
            let op = link.op.clone();
            let reader = sleeper(move || op.take(5000, MSG_WAITALL));
            for piece in data.chunks(1250) {
                assert!(!reader.done());
                link.peer.data(piece);
                std::thread::sleep(ms(5));
            }
            assert_eq!(reader.end(), Ok(data));
            // What is there counts when a control record ends the wait.
            let op = link.op.clone();
            let reader = sleeper(move || op.take(5000, MSG_WAITALL));
            link.peer.data(b"part");
            link.peer.send(ALERT, CLOSE_NOTIFY);
            assert_eq!(reader.end().unwrap(), b"part");
            assert_eq!(link.op.take(10, 0), fail(EIO));
        }
    });
}

#[test]
fn a_blocking_reader_returns_what_is_there() {
    in_vm(|| {
        let mut link = Link::any();
        let op = link.op.clone();
        let reader = sleeper(move || op.take(5000, 0));
        assert!(!reader.done());
        link.peer.data(b"some");
        assert_eq!(reader.end().unwrap(), b"some");
    });
}

#[test]
fn unknown_flags_are_refused_and_consume_nothing() {
    in_vm(|| {
        let mut link = Link::any();
        deliver(&mut link, &[b"data"]);
        for flag in [
            MSG_OOB,
            MSG_DONTROUTE,
            MSG_TRUNC,
            MSG_EOR,
            MSG_MORE,
            MSG_ERRQUEUE,
            MSG_ZEROCOPY,
        ] {
            assert_eq!(link.op.take(10, flag), fail(EOPNOTSUPP), "{flag:#x}");
            assert_eq!(link.op.recv_record(10, flag).err(), Some(Errno(EOPNOTSUPP)));
        }
        assert_eq!(link.op.recv_exact(4), b"data");
    });
}

#[test]
fn other_calls_and_scattered_buffers() {
    in_vm(|| {
        let mut link = Link::any();
        let data = random(200);
        deliver(&mut link, &[&data]);
        let mut buf = [0; 50];
        assert_eq!(sys::read(&*link.op, &mut buf), Ok(50));
        assert_eq!(buf, data[..50]);
        let (mut a, mut b, mut c) = ([0; 1], [0; 0], [0; 149]);
        let r = sys::recvmsg(&*link.op, &mut [&mut a, &mut b, &mut c], &mut [], 0).unwrap();
        assert_eq!(r.len, 150);
        assert_eq!([&a[..], &c].concat(), data[50..]);
        assert_eq!(r.flags & (MSG_TRUNC | MSG_CTRUNC | MSG_OOB), 0);
        deliver(&mut link, &[&data]);
        assert_eq!(link.op.take(0, 0), Ok(vec![]), "no room is no end of file");
        assert_eq!(link.op.recv_exact(200), data);
    });
}

/// D4: a bad buffer costs nothing; the stream goes on byte-exact.
#[test]
fn d04_a_bad_buffer_loses_nothing() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(3000);
            let nowhere = 0x10_0000_0000;
            let mut got = vec![0u8; 3000];
            deliver(
                &mut link,
                &[&data[..1000], &data[1000..2000], &data[2000..]],
            );
            let op = &*link.op;
            assert_eq!(sys::recvmsg_at(op, &[(nowhere, 4000)], 0), fail(EFAULT));
            assert_eq!(sys::recvmsg_at(op, &[(nowhere, 10)], 0), fail(EFAULT));
            let at = got.as_mut_ptr() as usize;
            let mut have = 0;
            // A second vector that faults: either nothing or what was written.
            match sys::recvmsg_at(op, &[(at, 600), (nowhere, 4000)], 0) {
                Ok(n) => have += n,
                Err(e) => assert_eq!(e, Errno(EFAULT)),
            }
            // First record good, second into nowhere.
            match sys::recvmsg_at(op, &[(at + have, 1000), (nowhere, 4000)], 0) {
                Ok(n) => have += n,
                Err(e) => assert_eq!(e, Errno(EFAULT)),
            }
            while have < 3000 {
                have += op.recv(&mut got[have..], MSG_DONTWAIT).expect("the rest");
            }
            assert!(got == data, "{version:?} {cipher:?}");
            link.check();
        }
    });
}

/// D4: EAGAIN and EINTR in the middle of records, then the stream goes on.
#[test]
fn d04_eagain_and_eintr_lose_nothing() {
    in_vm(|| {
        sys::handle_usr1(false);
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(4000);
            let wire = link.peer.tx.seal(DATA, &data, 0);
            for cut in [1, 4, 5, 6, 13, 2000, wire.len() - 1] {
                let wire = if cut == 1 {
                    wire.clone()
                } else {
                    link.peer.tx.seal(DATA, &data, 0)
                };
                link.peer.raw(&wire[..cut]);
                link.arrived(cut);
                assert_eq!(
                    link.op.take(10_000, MSG_DONTWAIT),
                    fail(EAGAIN),
                    "cut at {cut}"
                );
                let op = link.op.clone();
                let reader = sleeper(move || op.take(10_000, 0));
                sys::interrupt(reader.tid);
                assert_eq!(reader.end(), fail(EINTR), "cut at {cut}");
                link.peer.raw(&wire[cut..]);
                assert!(link.op.recv_exact(4000) == data, "cut at {cut}");
            }
        }
    });
}

#[test]
fn two_readers_share_the_stream_without_loss() {
    in_vm(|| {
        let mut link = Link::any();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let op = link.op.clone();
                std::thread::spawn(move || {
                    let mut got = Vec::new();
                    loop {
                        let piece = op.take(4, 0).expect("recv");
                        if piece == [255; 4] {
                            return got;
                        }
                        got.push(u32::from_be_bytes(piece.try_into().unwrap()));
                    }
                })
            })
            .collect();
        for i in 0..100u32 {
            let data: Vec<u8> = (0..5).flat_map(|j| (i * 5 + j).to_be_bytes()).collect();
            link.peer.data(&data);
        }
        for _ in 0..3 {
            link.peer.data(&[255; 4]);
        }
        let mut all: Vec<u32> = readers
            .into_iter()
            .flat_map(|r| r.join().unwrap())
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
    });
}
