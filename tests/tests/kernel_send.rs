// SPDX-License-Identifier: MIT OR Apache-2.0
//! sendmsg(): record sizes, framing, numbers, control records, flags, full
//! buffers. Every record is opened by the independent peer in sequence.

use std::net::Shutdown;
use std::os::fd::AsRawFd;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::op::{Attach, record_type};
use ktlsshim_tests::peer::{ALERT, CCS, CLOSE_NOTIFY, DATA, HANDSHAKE, Half, KEY_UPDATE, MAX};
use ktlsshim_tests::sys::{self, Control};
use ktlsshim_tests::*;
use libc::*;

fn sizes(records: &[Record]) -> Vec<usize> {
    records.iter().map(|r| r.data.len()).collect()
}

/// How `len` bytes are cut into records of `max`.
fn cut(len: usize, max: usize) -> Vec<usize> {
    let mut sizes = vec![max; len / max];
    if !len.is_multiple_of(max) {
        sizes.push(len % max);
    }
    sizes
}

/// Both ends take the next key for what the op sends.
fn next_key(link: &mut Link) {
    let next = Keys::random(link.tx.version, link.tx.cipher);
    link.op.rekey(Dir::Tx, &next).expect("re-key");
    link.peer.rx = Half::new(next.clone());
    link.tx = next;
}

#[test]
fn every_size_in_every_suite() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let mut records = 0;
            for len in [
                1, 2, 15, 16, 17, 63, 64, 255, 1448, 4095, 4096, 4097, 16383, MAX, 16385,
            ] {
                let got = sizes(&link.push(&random(len)));
                assert_eq!(got, cut(len, MAX), "{version:?} {cipher:?}");
                records += got.len() as u64;
            }
            assert_eq!(link.op.seq(Dir::Tx), records, "numbers are contiguous");
        }
    });
}

#[test]
fn large_sends_are_cut_into_full_records() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            for len in [65535, 65536, 65537, 100_000, 300_001] {
                assert_eq!(sizes(&link.push(&random(len))), cut(len, MAX));
            }
        }
    });
}

#[test]
fn an_empty_send_is_zero_and_disturbs_nothing() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            assert_eq!(link.op.send(b"", 0), Ok(0));
            assert_eq!(link.op.send(b"after", 0), Ok(5));
            let records = link.op.seq(Dir::Tx);
            let mut data = Vec::new();
            for _ in 0..records {
                data.extend(link.peer.recv().expect("a record").data);
            }
            assert_eq!(data, b"after");
            link.check();
        }
    });
}

#[test]
fn scattered_buffers_become_one_record() {
    in_vm(|| {
        let mut link = Link::any();
        let data = random(9000);
        let parts = [
            &data[..1],
            &data[1..1],
            &data[1..5000],
            &data[5000..5017],
            &data[5017..],
        ];
        assert_eq!(sys::sendmsg(&*link.op, &parts, &[], 0), Ok(9000));
        assert_eq!(link.peer.recv(), Ok(Record { kind: DATA, data }));
        // write(2) and many small parts work too.
        assert_eq!(sys::write(&*link.op, b"written"), Ok(7));
        assert_eq!(link.peer.expect(7), b"written");
        let small: Vec<&[u8]> = (0..1000).map(|_| &b"abc"[..]).collect();
        assert_eq!(sys::sendmsg(&*link.op, &small, &[], 0), Ok(3000));
        assert_eq!(link.peer.recv().unwrap().data, b"abc".repeat(1000));
    });
}

#[test]
fn unaligned_source_buffers() {
    in_vm(|| {
        let mut link = Link::any();
        let data = random(20_000);
        for at in [1, 3, 17, 2049] {
            let mut copy = vec![0; at];
            copy.extend(&data);
            link.push(&copy[at..]);
        }
    });
}

#[test]
fn tx_max_cuts_records() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            for max in [64u16, 100, 512, 4096, 16384] {
                let mut link = Link::detached(net::pair(), version, cipher);
                let mut attach = Attach::new(link.tcp.as_raw_fd(), Some(&link.tx), Some(&link.rx));
                attach.tx_max = max;
                link.op.attach_with(&attach).expect("attach");
                assert_eq!(link.op.tx_max(), Ok(i32::from(max)));
                let max = usize::from(max);
                for len in [max - 1, max, max + 1, 3 * max + 5] {
                    assert_eq!(
                        sizes(&link.push(&random(len))),
                        cut(len, max),
                        "tx_max {max}"
                    );
                }
            }
        }
    });
}

#[test]
fn tx_max_can_be_changed_between_records() {
    in_vm(|| {
        let mut link = Link::any();
        assert_eq!(link.op.tx_max(), Ok(16384), "0 at attach means all of it");
        for bad in [0, -1, 1, 63, 16385, i32::MAX] {
            assert_eq!(link.op.set_tx_max(bad), fail(EINVAL), "{bad}");
        }
        for max in [64, 16384, 1000] {
            link.op.set_tx_max(max).expect("tx_max");
            assert_eq!(sizes(&link.push(&random(5000))), cut(5000, max as usize));
        }
        let idle = Op::new("gcm(aes)");
        assert!(idle.set_tx_max(100).is_err(), "before attach");
    });
}

#[test]
fn control_records_go_out_with_their_type() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for (kind, data) in [
                (HANDSHAKE, KEY_UPDATE),
                (ALERT, &[1, 90][..]),
                (CCS, &[1]),
                (DATA, b"data by cmsg"),
                (24, b"heartbeat"),
                (HANDSHAKE, &random(MAX)),
            ] {
                assert_eq!(link.op.send(b"before", 0), Ok(6));
                assert_eq!(link.op.send_record(kind, data, 0), Ok(data.len()));
                assert_eq!(link.peer.recv().unwrap().data, b"before");
                assert_eq!(
                    link.peer.recv(),
                    Ok(Record {
                        kind,
                        data: data.to_vec()
                    })
                );
                if data == KEY_UPDATE && version == Version::Tls13 {
                    next_key(&mut link);
                }
            }
            assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), Ok(2));
            let record = link.peer.recv().unwrap();
            assert_eq!((record.kind, &record.data[..]), (ALERT, CLOSE_NOTIFY));
        }
    });
}

#[test]
fn a_control_record_is_never_split() {
    in_vm(|| {
        let mut link = Link::any();
        let big = random(MAX + 1);
        assert_eq!(link.op.send_record(HANDSHAKE, &big, 0), fail(EMSGSIZE));
        link.op.set_tx_max(512).unwrap();
        assert_eq!(
            link.op.send_record(HANDSHAKE, &big[..513], 0),
            fail(EMSGSIZE)
        );
        assert_eq!(link.op.send_record(HANDSHAKE, &big[..512], 0), Ok(512));
        assert_eq!(link.peer.recv().unwrap().data, &big[..512]);
        link.check();
        assert_eq!(link.op.seq(Dir::Tx), 2, "refused records used no number");
    });
}

/// RFC 8446 4.6.3: nothing may follow a KeyUpdate under the old key.
#[test]
fn after_a_sent_key_update_only_the_next_key_sends() {
    in_vm(|| {
        let mut link = Link::any();
        for _ in 0..3 {
            link.check();
            assert_eq!(link.op.send_record(HANDSHAKE, KEY_UPDATE, 0), Ok(5));
            let used = link.op.seq(Dir::Tx);
            assert_eq!(link.op.send(b"too early", 0), fail(EKEYEXPIRED));
            let alert = link.op.send_record(ALERT, CLOSE_NOTIFY, 0);
            assert_eq!(alert, fail(EKEYEXPIRED));
            assert_eq!(link.op.seq(Dir::Tx), used, "nothing was sealed");
            link.check_rx();
            assert_eq!(link.peer.recv().unwrap().data, KEY_UPDATE);
            next_key(&mut link);
        }
        link.check();
    });
}

#[test]
fn bad_control_messages_are_einval() {
    in_vm(|| {
        let mut link = Link::any();
        let good = record_type(ALERT);
        let with = |at: usize, value: &[u8]| {
            let mut c = Control(good.0);
            c.0[at..at + value.len()].copy_from_slice(value);
            c
        };
        let mut twice = Control(good.0);
        twice.0.copy_within(..24, 24);
        let cases = [
            ("type", with(12, &99i32.to_ne_bytes()), 24),
            ("no byte", with(0, &16u64.to_ne_bytes()), 16),
            ("longer than the buffer", with(0, &200u64.to_ne_bytes()), 24),
            ("record type 0", record_type(0), 24),
            ("two types", twice, 48),
        ];
        for (what, control, len) in cases {
            let sent = sys::sendmsg(&*link.op, &[CLOSE_NOTIFY], &control.0[..len], 0);
            assert_eq!(sent, fail(EINVAL), "{what}");
        }
        assert_eq!(
            link.op.send_record(ALERT, CLOSE_NOTIFY, MSG_MORE),
            fail(EINVAL)
        );
        assert_eq!(link.op.seq(Dir::Tx), 0);
        // Other levels are other people's, as everywhere in Linux.
        let other = with(8, &SOL_SOCKET.to_ne_bytes());
        assert_eq!(
            sys::sendmsg(&*link.op, &[b"data"], &other.0[..24], 0),
            Ok(4)
        );
        assert_eq!(link.peer.expect(4), b"data");
        link.check();
    });
}

#[test]
fn unknown_flags_are_refused_and_use_nothing() {
    in_vm(|| {
        let mut link = Link::any();
        // The last three are the kernel's own, forged by a user. MSG_EOR is not
        // here: every write() to a SEQPACKET socket comes with it.
        let flags = [
            MSG_OOB,
            MSG_PEEK,
            MSG_DONTROUTE,
            MSG_CTRUNC,
            MSG_TRUNC,
            MSG_WAITALL,
            MSG_FIN,
            MSG_SYN,
            MSG_CONFIRM,
            MSG_RST,
            MSG_ERRQUEUE,
            MSG_WAITFORONE,
            MSG_ZEROCOPY,
            MSG_FASTOPEN,
            0x20000,
            0x80000,
            0x10_0000,
        ];
        let mut stripped = 0;
        for flag in flags {
            let sent = link.op.send(b"no", flag);
            // Newer kernels refuse or strip their internal flags before us.
            let internal = flag >= 0x10000 && flag != MSG_ZEROCOPY && flag != MSG_FASTOPEN;
            if internal && sent == Ok(2) {
                assert_eq!(link.peer.expect(2), b"no");
                stripped += 1;
                continue;
            }
            let refused = sent == fail(EOPNOTSUPP);
            assert!(
                refused || (internal && sent == fail(EINVAL)),
                "{flag:#x}: {sent:?}"
            );
            assert!(link.op.send_record(ALERT, CLOSE_NOTIFY, flag).is_err());
        }
        assert_eq!(link.op.seq(Dir::Tx), stripped);
        link.check();
    });
}

#[test]
fn msg_more_holds_back_but_loses_nothing() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(40_000);
            for piece in data[..30_000].chunks(3001) {
                assert_eq!(link.op.send(piece, MSG_MORE), Ok(piece.len()));
            }
            assert_eq!(link.op.send(&data[30_000..], 0), Ok(10_000));
            assert_eq!(link.peer.expect(40_000), data);
            // An open record is closed before a record of another type.
            assert_eq!(link.op.send(b"open", MSG_MORE), Ok(4));
            assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), Ok(2));
            assert_eq!(link.peer.expect(4), b"open");
            assert_eq!(link.peer.recv().unwrap().kind, ALERT);
        }
    });
}

#[test]
fn msg_more_alone_is_pushed_by_an_uncork_of_time() {
    in_vm(|| {
        let mut link = Link::any();
        assert_eq!(link.op.send(b"and then silence", MSG_MORE), Ok(16));
        assert_eq!(link.peer.expect(16), b"and then silence");
    });
}

/// The next record does not fit: whoever waits for POLLOUT must not wait for
/// bytes that MSG_MORE holds back.
#[test]
fn msg_more_then_eagain_then_poll() {
    in_vm(|| {
        let pair = net::pair_on("127.0.0.1:0", |n| net::sndbuf(n, 20_000), |_| {});
        let mut link = Link::over(pair, Version::Tls13, Cipher::Aes128Gcm);
        let data = pattern(400_000);
        let op = link.op.clone();
        let copy = data.clone();
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < copy.len() {
                let end = copy.len().min(sent + 5000);
                match op.send(&copy[sent..end], MSG_MORE | MSG_DONTWAIT) {
                    Ok(n) => sent += n,
                    Err(Errno(EAGAIN)) => {
                        let out = net::poll(&*op, POLLOUT, ms(10_000));
                        assert_eq!(out & POLLOUT, POLLOUT, "writable again");
                    }
                    Err(e) => panic!("{e:?}"),
                }
            }
        });
        assert_eq!(link.peer.expect(data.len()), data);
        sender.join().unwrap();
    });
}

#[test]
fn eagain_uses_no_number_and_the_next_record_follows() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let pair = net::pair_on(
                "127.0.0.1:0",
                |n| net::sndbuf(n, 30_000),
                |f| net::rcvbuf(f, 9000),
            );
            let mut link = Link::over(pair, version, cipher);
            let data = pattern(MAX);
            let mut records = 0;
            while link.op.send(&data, MSG_DONTWAIT) == Ok(MAX) {
                records += 1;
                assert!(records < 1000, "EAGAIN never comes");
            }
            assert_eq!(link.op.send(&data, MSG_DONTWAIT), fail(EAGAIN));
            assert_eq!(
                link.op.send_record(ALERT, CLOSE_NOTIFY, MSG_DONTWAIT),
                fail(EAGAIN)
            );
            assert_eq!(link.op.seq(Dir::Tx), records);
            for _ in 0..records {
                assert_eq!(link.peer.recv().unwrap().data, data);
            }
            link.check_tx();
        }
    });
}

#[test]
fn a_short_count_is_whole_records() {
    in_vm(|| {
        let pair = net::pair_on("127.0.0.1:0", |n| net::sndbuf(n, 60_000), |_| {});
        let mut link = Link::over(pair, Version::Tls13, Cipher::ChaCha20);
        link.op.set_tx_max(5000).unwrap();
        let data = pattern(4_000_001);
        let sent = link.op.send(&data, MSG_DONTWAIT).expect("some of it");
        assert!(sent > 0 && sent < data.len(), "{sent}");
        assert_eq!(sent % 5000, 0);
        assert_eq!(link.op.seq(Dir::Tx), (sent / 5000) as u64);
        assert_eq!(link.peer.expect(sent), &data[..sent]);
        link.check_tx();
    });
}

/// D7: a tiny send buffer, a reader that reads little at a time.
#[test]
fn d07_tiny_send_buffer_and_slow_reader_are_byte_exact() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let pair = net::pair_on(
                "127.0.0.1:0",
                |n| net::sndbuf(n, 1),
                |f| net::rcvbuf(f, 2300),
            );
            let mut link = Link::over(pair, version, cipher);
            let data = pattern(150_000);
            let (op, copy) = (link.op.clone(), data.clone());
            let sender = std::thread::spawn(move || {
                let mut sent = 0;
                let mut step = 1;
                while sent < copy.len() {
                    step = step * 7 % 20_011;
                    let end = copy.len().min(sent + step);
                    match op.send(&copy[sent..end], MSG_DONTWAIT) {
                        Ok(n) => sent += n,
                        Err(Errno(EAGAIN)) => {
                            assert_ne!(net::poll(&*op, POLLOUT, ms(20_000)), 0, "stuck at {sent}");
                        }
                        Err(e) => panic!("{e:?}"),
                    }
                }
            });
            let mut got = Vec::new();
            while got.len() < data.len() {
                got.extend(link.peer.recv().expect("a record").data);
                if got.len() % 3 == 0 {
                    std::thread::sleep(ms(1));
                }
            }
            assert!(got == data, "bytes differ");
            sender.join().unwrap();
            link.check();
        }
    });
}

#[test]
fn a_blocking_sender_waits_for_room() {
    in_vm(|| {
        let pair = net::pair_on(
            "127.0.0.1:0",
            |n| net::sndbuf(n, 30_000),
            |f| net::rcvbuf(f, 9000),
        );
        let mut link = Link::over(pair, Version::Tls12, Cipher::Aes256Gcm);
        let data = pattern(500_000);
        let (op, copy) = (link.op.clone(), data.clone());
        let sender = sleeper(move || op.send(&copy, 0));
        assert!(!sender.done(), "the buffers cannot hold it");
        assert_eq!(link.peer.expect(data.len()), data);
        assert_eq!(sender.end(), Ok(data.len()), "a blocking send is not short");
    });
}

#[test]
fn a_fault_in_the_buffer_loses_nothing() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(100);
            let good = data.as_ptr() as usize;
            let nowhere = 0x10_0000_0000;
            let op = &*link.op;
            assert_eq!(sys::sendmsg_at(op, &[(nowhere, 100)], 0), fail(EFAULT));
            assert_eq!(link.op.seq(Dir::Tx), 0, "nothing was sealed");
            // What could be read is sent and counted, as TCP does.
            for max in [16384, 64] {
                link.op.set_tx_max(max).unwrap();
                let op = &*link.op;
                match sys::sendmsg_at(op, &[(good, 100), (nowhere, 100)], 0) {
                    Ok(n) => assert_eq!(link.peer.expect(n), &data[..n]),
                    other => assert_eq!(other, fail(EFAULT)),
                }
                link.check();
            }
        }
    });
}

#[test]
fn epipe_after_shutdown_and_reset_after_reset() {
    in_vm(|| {
        let mut link = Link::any();
        link.check();
        link.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.op.send(b"x", 0), fail(EPIPE));
        assert_eq!(
            link.peer.recv(),
            Err(Fault::Eof),
            "FIN after the last record"
        );

        let link = Link::any();
        net::linger_zero(&link.peer.tcp);
        drop(link.peer);
        assert_ne!(net::poll(&link.tcp, POLLIN, ms(5000)) & POLLERR, 0);
        assert_eq!(link.op.send(b"x", 0), fail(ECONNRESET));
        assert_eq!(link.op.send(b"x", 0), fail(EPIPE));
    });
}

#[test]
fn two_senders_never_mix_records() {
    in_vm(|| {
        let mut link = Link::any();
        let threads: Vec<_> = (0..4u8)
            .map(|i| {
                let op = link.op.clone();
                std::thread::spawn(move || {
                    for _ in 0..20 {
                        op.send_all(&[i; 1500]);
                    }
                })
            })
            .collect();
        let mut counts = [0; 4];
        for _ in 0..80 {
            let record = link.peer.recv().expect("a record");
            assert_eq!(record.data, vec![record.data[0]; 1500]);
            counts[usize::from(record.data[0])] += 1;
        }
        assert_eq!(counts, [20; 4]);
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}
