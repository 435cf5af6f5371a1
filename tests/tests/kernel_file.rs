// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data that never visits the program: sendfile, splice both ways, the ioctl.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use ktlsshim_tests::keys::random;
use ktlsshim_tests::peer::{ALERT, CLOSE_NOTIFY, DATA, MAX};
use ktlsshim_tests::sys::{self, cvt_int, own};
use ktlsshim_tests::*;
use libc::*;

/// An unnamed file with `data`, its position at the start.
fn file_of(data: &[u8]) -> File {
    // SAFETY: the name is a C string.
    let fd = cvt_int(unsafe { memfd_create(c"data".as_ptr(), MFD_CLOEXEC) }).expect("memfd");
    let mut file = File::from(own(fd));
    file.write_all(data).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn filled_pipe(data: &[u8]) -> OwnedFd {
    let (out, input) = sys::pipe();
    assert_eq!(sys::write(&input, data), Ok(data.len()));
    out
}

/// sendfile(2) or the ioctl until `len` bytes are sent, on its own thread,
/// while the peer reads and compares.
fn transfer(link: &mut Link, data: &[u8], send: impl FnOnce(&Op) + Send + 'static) -> Vec<usize> {
    let op = link.op.clone();
    let sender = std::thread::spawn(move || send(&op));
    let mut have = 0;
    let mut sizes = Vec::new();
    while have < data.len() {
        let record = link.peer.recv().expect("a record");
        assert_eq!(record.kind, DATA);
        assert!(
            data[have..].starts_with(&record.data),
            "bytes differ after {have}"
        );
        have += record.data.len();
        sizes.push(record.data.len());
    }
    sender.join().unwrap();
    sizes
}

#[test]
fn sendfile_sends_the_file() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for len in [1, 4096, 16384, 16385, 200_000] {
                let data = random(len);
                let file = file_of(&data);
                let sizes = transfer(&mut link, &data, move |op| {
                    sys::sendfile_all(op, &file, 0, len);
                    let mut at = len as i64;
                    assert_eq!(sys::sendfile(op, &file, &mut at, 10), Ok(0), "end of file");
                });
                assert!(sizes.iter().all(|s| *s > 0));
            }
            link.check();
        }
    });
}

#[test]
fn sendfile_starts_at_an_odd_offset_and_ends_early() {
    in_vm(|| {
        let mut link = Link::any();
        let data = random(60_000);
        for (from, len) in [(1, 100), (4095, 2), (777, 40_001), (59_999, 1)] {
            let file = file_of(&data);
            transfer(&mut link, &data[from..from + len], move |op| {
                sys::sendfile_all(op, &file, from, from + len);
            });
        }
        // Asking for more than there is sends what there is.
        let file = file_of(&data[..100]);
        let mut at = 50;
        assert_eq!(sys::sendfile(&*link.op, &file, &mut at, 1 << 20), Ok(50));
        assert_eq!(at, 100);
        assert_eq!(link.peer.expect(50), &data[50..100]);
    });
}

#[test]
fn sendfile_between_records_keeps_the_order() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(9000);
            let file = file_of(&data);
            let mut at = 0;
            assert_eq!(link.op.send(b"head", MSG_MORE), Ok(4));
            assert_eq!(sys::sendfile(&*link.op, &file, &mut at, 9000), Ok(9000));
            assert_eq!(link.op.send(b"tail", 0), Ok(4));
            assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), Ok(2));
            assert_eq!(
                link.peer.expect(9008),
                [b"head", &data[..], b"tail"].concat()
            );
            assert_eq!(link.peer.recv().unwrap().kind, ALERT);
        }
    });
}

#[test]
fn a_file_of_a_disk_is_sent_too() {
    in_vm(|| {
        let path = std::env::current_exe().unwrap();
        let data = std::fs::read(&path).unwrap();
        let len = data.len().min(300_000);
        let mut link = Link::any();
        let file = File::open(&path).unwrap();
        transfer(&mut link, &data[..len], move |op| {
            sys::sendfile_all(op, &file, 0, len);
        });
        let file = File::open(&path).unwrap();
        transfer(&mut link, &data[..len], move |op| {
            assert_eq!(
                op.sendfile(&file, 0, len as u64, 0),
                Ok((len as u64, len as u64))
            );
        });
    });
}

#[test]
fn the_ioctl_fills_whole_records() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = random(100_003);
            let file = file_of(&data);
            let sizes = transfer(&mut link, &data, move |op| {
                let all = 100_003;
                assert_eq!(op.sendfile(&file, 0, all, 0), Ok((all, all)));
            });
            assert_eq!(sizes, [16384, 16384, 16384, 16384, 16384, 16384, 1699]);
            link.check();
        }
    });
}

#[test]
fn the_ioctl_heeds_offset_count_and_tx_max() {
    in_vm(|| {
        let mut link = Link::any();
        link.op.set_tx_max(1000).unwrap();
        let data = random(10_000);
        let file = file_of(&data);
        assert_eq!(link.op.sendfile(&file, 123, 2500, 0), Ok((2623, 2500)));
        for size in [1000, 1000, 500] {
            assert_eq!(link.peer.recv().unwrap().data.len(), size);
        }
        assert_eq!(
            link.op.sendfile(&file, 9990, 500, 0),
            Ok((10_000, 10)),
            "short file"
        );
        assert_eq!(link.peer.expect(10), &data[9990..]);
        assert_eq!(
            link.op.sendfile(&file, 10_000, 500, 0),
            Ok((10_000, 0)),
            "at the end"
        );
        assert_eq!(
            link.op.sendfile(&file, 1 << 40, 500, 0),
            Ok((1 << 40, 0)),
            "beyond the end"
        );
        assert_eq!(
            link.op.sendfile(&file, 5, 0, 0),
            Ok((5, 0)),
            "nothing asked for"
        );
        assert_eq!(link.op.seq(Dir::Tx), 4);
        assert_eq!(
            (&file).stream_position().unwrap(),
            0,
            "the file's own position stays"
        );
        link.check();
    });
}

#[test]
fn the_ioctl_with_dontwait_goes_on_where_it_stopped() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let pair = net::pair_on(
                "127.0.0.1:0",
                |n| net::sndbuf(n, 40_000),
                |f| net::rcvbuf(f, 9000),
            );
            let mut link = Link::over(pair, version, cipher);
            let data = pattern(600_001);
            let file = file_of(&data);
            transfer(&mut link, &data, move |op| {
                let (mut at, mut full) = (0, 0);
                while at < 600_001 {
                    match op.sendfile(&file, at, 600_001 - at, MSG_DONTWAIT) {
                        Ok((next, n)) => {
                            assert_eq!(next, at + n);
                            assert!(n > 0 && (n % 16384 == 0 || next == 600_001), "{n}");
                            at = next;
                        }
                        Err(Errno(EAGAIN)) => {
                            full += 1;
                            assert_ne!(net::poll(op, POLLOUT, ms(10_000)), 0);
                        }
                        Err(e) => panic!("{e:?}"),
                    }
                }
                assert_ne!(full, 0, "the buffer was never full");
            });
            link.check();
        }
    });
}

#[test]
fn the_ioctl_refuses_what_it_cannot_read() {
    in_vm(|| {
        let mut link = Link::any();
        let path = std::env::temp_dir().join(format!("ktlsshim-{}", std::process::id()));
        let only = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let op = &*link.op;
        assert_eq!(op.sendfile(&only, 0, 10, 0), fail(EBADF), "write only");
        let dir = File::open("/").unwrap();
        assert!(op.sendfile(&dir, 0, 10, 0).is_err(), "directory");
        struct No;
        impl AsRawFd for No {
            fn as_raw_fd(&self) -> i32 {
                -1
            }
        }
        assert_eq!(op.sendfile(&No, 0, 10, 0), fail(EBADF));
        let file = file_of(b"0123456789");
        for flag in [MSG_OOB, MSG_ZEROCOPY, MSG_FASTOPEN, MSG_PEEK, MSG_EOR] {
            assert_eq!(
                op.sendfile(&file, 0, 10, flag),
                fail(EOPNOTSUPP),
                "{flag:#x}"
            );
        }
        assert!(
            op.sendfile(&file, u64::MAX - 3, 10, 0).is_err(),
            "offset wraps"
        );
        assert!(
            op.sendfile(&file, 1 << 63, 10, 0).is_err(),
            "negative offset"
        );
        let idle = Op::new("gcm(aes)");
        assert_eq!(idle.sendfile(&file, 0, 10, 0), fail(ENOTCONN));
        assert_eq!(link.op.seq(Dir::Tx), 0);
        assert_eq!(
            link.op.sendfile(&file, 0, u64::MAX, 0),
            Ok((10, 10)),
            "all there is"
        );
        assert_eq!(link.peer.expect(10), b"0123456789");
        link.check();
    });
}

#[test]
fn splice_in_from_a_pipe() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for len in [1, 4096, 5000, 60_000] {
                let data = random(len);
                let pipe = filled_pipe(&data);
                transfer(&mut link, &data, move |op| {
                    let mut sent = 0;
                    while sent < len {
                        sent += sys::splice(&pipe, op, len - sent, 0).expect("splice");
                    }
                });
            }
            link.check();
        }
    });
}

/// More pipe buffers than a record has room for pages, each of a few bytes.
#[test]
fn many_small_pipe_buffers_lose_nothing() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let mut fds = [-1; 2];
            // SAFETY: the array has room for both.
            assert_eq!(unsafe { pipe2(fds.as_mut_ptr(), O_CLOEXEC | O_DIRECT) }, 0);
            let (out, into) = (sys::own(fds[0]), sys::own(fds[1]));
            // SAFETY: no memory is passed.
            assert!(unsafe { fcntl(into.as_raw_fd(), F_SETPIPE_SZ, 256 * 4096) } > 0);
            let data = random(200);
            for piece in data.chunks(3) {
                // A packet, i.e. a buffer of its own.
                assert_eq!(sys::write(&into, piece), Ok(piece.len()));
            }
            transfer(&mut link, &data, move |op| {
                let mut sent = 0;
                while sent < 200 {
                    sent += sys::splice(&out, op, 200 - sent, 0).expect("splice");
                }
            });
            link.check();
        }
    });
}

#[test]
fn splice_with_more_and_control_in_between() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = random(6000);
            let pipe = filled_pipe(&data);
            let mut sent = 0;
            while sent < 6000 {
                sent += sys::splice(&pipe, &*link.op, 6000 - sent, SPLICE_F_MORE).expect("splice");
            }
            assert_eq!(link.op.send_record(ALERT, CLOSE_NOTIFY, 0), Ok(2));
            assert_eq!(
                link.peer.expect(6000),
                data,
                "bytes reported as sent are on the wire"
            );
            assert_eq!(link.peer.recv().unwrap().kind, ALERT);
        }
    });
}

#[test]
fn splice_with_more_then_close_or_detach_sends_all() {
    in_vm(|| {
        for detach in [true, false] {
            let mut link = Link::any();
            let data = random(5000);
            let pipe = filled_pipe(&data);
            let mut sent = 0;
            while sent < 5000 {
                sent += sys::splice(&pipe, &*link.op, 5000 - sent, SPLICE_F_MORE).expect("splice");
            }
            if detach {
                let records = link.op.detach(Dir::Tx).expect("detach").seq;
                assert_eq!(link.peer.expect(5000), data);
                assert_eq!(link.peer.rx.seq(), records);
            } else {
                drop(link.op);
                assert_eq!(link.peer.expect(5000), data);
            }
        }
    });
}

/// A page that changes under the seal must not give a broken record: the file
/// is rewritten all the time while it is sent (CCM reads its source twice).
#[test]
fn a_file_that_changes_meanwhile_gives_valid_records() {
    in_vm(|| {
        for (version, cipher) in [
            (Version::Tls13, Cipher::Aes128Ccm),
            (Version::Tls12, Cipher::Aes128Ccm),
            (Version::Tls13, Cipher::Aes128Gcm),
            (Version::Tls13, Cipher::ChaCha20),
        ] {
            let mut link = Link::new(version, cipher);
            let file = file_of(&[0; 65536]);
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let writer = std::thread::spawn({
                let (mut file, stop) = (file.try_clone().unwrap(), stop.clone());
                move || {
                    let mut turn = 0u8;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        turn = turn.wrapping_add(1);
                        file.seek(SeekFrom::Start(0)).unwrap();
                        file.write_all(&[turn; 65536]).unwrap();
                    }
                }
            });
            let op = link.op.clone();
            let sender = std::thread::spawn(move || {
                for _ in 0..4 {
                    op.sendfile(&file, 0, 65536, 0).expect("ioctl");
                    sys::sendfile_all(&*op, &file, 0, 65536);
                }
            });
            link.peer.expect(8 * 65536);
            sender.join().unwrap();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            writer.join().unwrap();
        }
    });
}

/// The page cache must never see ciphertext (CVE-2026-31431's kind of bug).
#[test]
fn the_file_itself_is_never_written() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let data = random(50_000);
            let file = file_of(&data);
            let mut link = Link::new(version, cipher);
            let copy = file.try_clone().unwrap();
            transfer(&mut link, &data, move |op| {
                op.sendfile(&copy, 0, 20_000, 0).expect("ioctl");
                sys::sendfile_all(op, &copy, 20_000, 50_000);
            });
            let mut now = vec![0; 50_000];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut now, 0).unwrap();
            assert!(now == data, "{version:?} {cipher:?} wrote to the file");
        }
    });
}

#[test]
fn splice_out_to_a_pipe() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let (out, input) = sys::pipe();
            for len in [1, 100, 4096, MAX, 40_000] {
                let data = random(len);
                link.peer.data(&data);
                let mut got = Vec::new();
                while got.len() < len {
                    let n = sys::splice(&*link.op, &input, len - got.len(), 0).expect("splice");
                    assert_ne!(n, 0);
                    let mut buf = vec![0; n];
                    assert_eq!(sys::read(&out, &mut buf), Ok(n));
                    got.extend(buf);
                }
                assert!(got == data, "{version:?} {cipher:?} {len}");
            }
            link.check();
        }
    });
}

#[test]
fn splice_out_in_small_pieces_and_mixed_with_recv() {
    in_vm(|| {
        let mut link = Link::any();
        let (out, input) = sys::pipe();
        let data = random(3000);
        link.peer.data(&data);
        let mut got = Vec::new();
        while got.len() < 3000 {
            let n = sys::splice(&*link.op, &input, 77, 0).expect("splice");
            let mut buf = vec![0; n];
            sys::read(&out, &mut buf).unwrap();
            got.extend(buf);
            if got.len() < 3000 {
                got.extend(link.op.take(50, 0).expect("recv"));
            }
        }
        assert_eq!(got, data);
    });
}

#[test]
fn splice_out_meets_control_records_eof_and_nothing() {
    in_vm(|| {
        let mut link = Link::any();
        let (_out, input) = sys::pipe();
        let splice = |op: &Op| sys::splice(op, &input, 100, SPLICE_F_NONBLOCK);
        assert_eq!(splice(&link.op), fail(EAGAIN));
        link.peer.send(ALERT, CLOSE_NOTIFY);
        assert_ne!(net::poll(&*link.op, POLLIN, ms(5000)), 0);
        assert_eq!(splice(&link.op), fail(EIO));
        assert_eq!(link.op.recv_record(10, 0).unwrap().0, Some(ALERT));
        assert_eq!(splice(&link.op), Ok(0), "end of file after close_notify");
        // A full pipe takes no record.
        let link = {
            let mut link = Link::any();
            link.peer.data(b"data");
            link.arrived(4);
            link
        };
        let (_out, input) = sys::pipe();
        sys::nonblocking(&input, true);
        while sys::write(&input, &[0; 4096]).is_ok() {}
        assert_eq!(
            sys::splice(&*link.op, &input, 4, SPLICE_F_NONBLOCK),
            fail(EAGAIN)
        );
        assert_eq!(link.op.recv_exact(4), b"data", "still there");
    });
}

/// A link whose send buffer is soon full.
fn narrow(version: Version, cipher: Cipher) -> Link {
    let pair = net::pair_on(
        "127.0.0.1:0",
        |n| net::sndbuf(n, 30_000),
        |f| net::rcvbuf(f, 9000),
    );
    Link::over(pair, version, cipher)
}

/// A sender that slept for room finds the record that sendfile(2) opened
/// meanwhile. Each way of sending has its own byte values: what the peer opens
/// must be each one's data, in order and nothing else.
#[test]
fn an_open_record_survives_senders_that_slept() {
    const EACH: usize = 400_000;
    let stream = |way: u8| -> Vec<u8> { (0..EACH).map(|i| way << 6 | (i % 61) as u8).collect() };
    in_vm(move || {
        for (version, cipher) in FORMS {
            let mut link = narrow(version, cipher);
            let ways = [0, 1, 2, 3].map(stream);
            let send = |way: usize| (link.op.clone(), ways[way].clone());
            let threads = [
                std::thread::spawn({
                    let (op, data) = send(0);
                    move || sys::sendfile_all(&*op, &file_of(&data), 0, EACH)
                }),
                std::thread::spawn({
                    let (op, data) = send(1);
                    move || data.chunks(3000).for_each(|part| op.send_all(part))
                }),
                std::thread::spawn({
                    let (op, data) = send(2);
                    move || {
                        let mut at = 0;
                        let file = file_of(&data);
                        while at < EACH as u64 {
                            at = op.sendfile(&file, at, 20_000, 0).expect("ioctl").0;
                        }
                    }
                }),
                std::thread::spawn({
                    let (op, data) = send(3);
                    move || sys::sendfile_all(&*op, &file_of(&data), 0, EACH)
                }),
            ];
            let mut have = [0; 4];
            while have.iter().sum::<usize>() < 4 * EACH {
                for byte in link.peer.recv().expect("a record").data {
                    let way = usize::from(byte >> 6);
                    assert_eq!(Some(&byte), ways[way].get(have[way]), "{have:?}");
                    have[way] += 1;
                }
            }
            threads.into_iter().for_each(|t| t.join().unwrap());
            link.check();
        }
    });
}

/// The room for a record is that of the size in force when it begins, not of
/// the one when its sender went to sleep.
#[test]
fn a_larger_record_size_while_sendfile_sleeps() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = narrow(version, cipher);
            let mut filled = 0;
            while let Ok(n) = link.op.send(&[7; MAX], MSG_DONTWAIT) {
                filled += n;
            }
            link.op.set_tx_max(64).unwrap();
            let data = random(100_000);
            let file = file_of(&data);
            let op = link.op.clone();
            let sender = sleeper(move || sys::sendfile_all(&*op, &file, 0, 100_000));
            link.op.set_tx_max(16384).unwrap();
            assert_eq!(link.peer.expect(filled), vec![7; filled]);
            assert_eq!(link.peer.expect(data.len()), data);
            sender.end();
            link.check();
        }
    });
}
