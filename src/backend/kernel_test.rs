//! The backend against the real kernel socket: what it sends is opened, and
//! what it receives was sealed, by `RecordCipher`. Needs the module, so it
//! runs in the virtual machine only; `cargo xtask test` sees to that by the name
//! of this module.

use super::{Backend, Dir, alg, sys, uapi};
use crate::keys::{Suite, TrafficKeys, Version};
use crate::openssl::crypto::tests::table;
use crate::record::{RecordCipher, Stream};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

const SUITES: [(Version, u16); 8] = [
    (Version::Tls12, 0xc02f),
    (Version::Tls12, 0xc030),
    (Version::Tls12, 0xcca8),
    (Version::Tls12, 0xc0ac),
    (Version::Tls13, 0x1301),
    (Version::Tls13, 0x1302),
    (Version::Tls13, 0x1303),
    (Version::Tls13, 0x1304),
];

fn keys(suite: Suite, fill: u8) -> TrafficKeys {
    let (key, iv) = ([fill; 32], [fill ^ 0xff; 12]);
    TrafficKeys::new(suite, &key[..suite.key_len()], &iv[..suite.iv_len()]).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    for s in [&a, &b] {
        s.set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
    }
    (a, b)
}

/// Reads records from the wire and opens them at `seq`, `seq` + 1, …
struct Peer {
    tcp: TcpStream,
    opener: RecordCipher,
    seq: u64,
}

impl Peer {
    fn next(&mut self) -> (u8, Vec<u8>, [u8; 8]) {
        let mut stream = Stream::new();
        let mut record = vec![0; 5];
        self.tcp.read_exact(&mut record).unwrap();
        let body = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + body, 0);
        self.tcp.read_exact(&mut record[5..]).unwrap();
        stream.feed(&record, true);
        assert_eq!(stream.last(), Some(&record[..]));
        let mut out = vec![0; record.len()];
        let opened = self.opener.open(self.seq, &record, &mut out).unwrap();
        self.seq += 1;
        assert_eq!(opened.padding, 0);
        out.truncate(opened.len);
        (opened.kind, out, opened.explicit)
    }
}

fn iov(s: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: s.as_ptr().cast_mut().cast(),
        iov_len: s.len(),
    }
}

#[test]
fn every_suite_both_ways() {
    for (version, id) in SUITES {
        one(Suite::from_id(version, id).unwrap());
    }
    assert_eq!(alg().parents().count(), 3);
}

fn one(suite: Suite) {
    let explicit_suite = suite.explicit_len() == 8;
    let (tx, rx) = (keys(suite, 1), keys(suite, 2));
    let (ours, theirs) = pair();
    let op = alg().open(suite.aead).unwrap();
    let (tx_nonce, rx_seq) = (0x1122_3344_5566_7788u64, 5);
    let (info, rx_info) = (
        tx.crypto_info(3, tx_nonce.to_be_bytes()),
        rx.crypto_info(rx_seq, [0; 8]),
    );
    alg()
        .attach(op, ours.as_raw_fd(), Some(&info), Some(&rx_info), 4096)
        .unwrap();
    let mut peer = Peer {
        tcp: theirs,
        opener: RecordCipher::new(table(), &tx).unwrap(),
        seq: 3,
    };
    let nonce = |n: u64| {
        if explicit_suite {
            (tx_nonce + n).to_be_bytes()
        } else {
            [0; 8]
        }
    };

    // Sending: data in records of at most 4,096 bytes, then one of another type.
    let data: Vec<u8> = (0..10_000u32).map(|i| (i % 253) as u8).collect();
    // SAFETY: both buffers are slices.
    let sent = unsafe { alg().send(op, &[iov(&data[..10]), iov(&data[10..])], 0) };
    assert_eq!(sent, Ok(data.len()));
    assert_eq!(alg().send_record(op, 22, b"\x04\0\0\x01\0", 0), Ok(5));
    let mut got = Vec::new();
    for n in 0..3 {
        let (kind, text, explicit) = peer.next();
        assert_eq!((kind, explicit), (23, nonce(n)));
        got.extend_from_slice(&text);
    }
    assert_eq!(got, data);
    assert_eq!(peer.next(), (22, b"\x04\0\0\x01\0".to_vec(), nonce(3)));
    assert_eq!(alg().sequence(op, Dir::Tx), Ok((7, nonce(4))));

    // A file, smaller records, and new keys.
    alg().set_tx_max(op, 1024).unwrap();
    let path = std::env::temp_dir().join(format!("ktlsshim-sendfile-{}", std::process::id()));
    std::fs::write(&path, &data).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let mut offset = 100;
    assert_eq!(
        alg().sendfile(op, file.as_raw_fd(), &mut offset, 2000, 0),
        Ok(2000)
    );
    let _ = std::fs::remove_file(&path);
    assert_eq!(offset, 2100);
    let (first, second) = (peer.next(), peer.next());
    assert_eq!([first.1, second.1].concat(), data[100..2100]);
    let new = keys(suite, 3);
    alg()
        .rekey(op, Dir::Tx, &new.crypto_info(0, [9; 8]))
        .unwrap();
    (peer.opener, peer.seq) = (RecordCipher::new(table(), &new).unwrap(), 0);
    // SAFETY: a slice.
    assert_eq!(unsafe { alg().send(op, &[iov(b"new key")], 0) }, Ok(7));
    let explicit = if explicit_suite { [9; 8] } else { [0; 8] };
    assert_eq!(peer.next(), (23, b"new key".to_vec(), explicit));

    // Receiving: two data records, then a control record that parks.
    let mut sealer = RecordCipher::new(table(), &rx).unwrap();
    let mut wire = vec![0; 1 << 15];
    for (seq, kind, text) in [
        (5, 23, &b"first"[..]),
        (6, 23, b"second"),
        (7, 22, b"\x04\0\0\0"),
    ] {
        let len = sealer
            .seal(seq, seq.to_be_bytes(), kind, text, &mut wire)
            .unwrap();
        peer.tcp.write_all(&wire[..len]).unwrap();
    }
    let mut out = [0u8; 64];
    let room = [libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    }];
    let mut stream = Vec::new();
    while stream.len() < 11 {
        // SAFETY: `room` is `out`.
        let (kind, n) = unsafe { alg().recv_record(op, &room, 0) }.unwrap();
        assert_eq!(kind, 23);
        stream.extend_from_slice(&out[..n]);
    }
    assert_eq!(stream, b"firstsecond");
    // SAFETY: as above.
    let parked = unsafe { alg().recv(op, out.as_mut_ptr(), 64, 0) };
    assert_eq!(parked, Err(libc::EIO));
    // SAFETY: as above.
    let taken = unsafe { alg().recv_record(op, &room, 0) };
    assert_eq!(taken, Ok((22, 4)));
    assert_eq!(out[..4], [4, 0, 0, 0]);
    assert_eq!(alg().sequence(op, Dir::Rx), Ok((8, [0; 8])));
    // SAFETY: as above.
    let empty = unsafe { alg().recv(op, out.as_mut_ptr(), 64, libc::MSG_DONTWAIT) };
    assert_eq!(empty, Err(libc::EAGAIN));

    // Back to plain TCP.
    let detached = alg().detach(op, Dir::Tx, &mut []).unwrap();
    let next = if explicit_suite {
        [9, 9, 9, 9, 9, 9, 9, 10]
    } else {
        [0; 8]
    };
    assert_eq!(
        (detached.seq, detached.nonce, detached.staged),
        (1, next, 0)
    );
    let mut staged = vec![0; uapi::STAGED_MAX];
    let detached = alg().detach(op, Dir::Rx, &mut staged).unwrap();
    assert_eq!(
        (detached.seq, detached.nonce, detached.staged),
        (8, [0; 8], 0)
    );
    (&ours).write_all(b"clear").unwrap();
    let mut clear = [0; 5];
    peer.tcp.read_exact(&mut clear).unwrap();
    assert_eq!(&clear, b"clear");
    assert_eq!(alg().sequence(op, Dir::Tx), Err(libc::ENOTCONN));
    sys::close(op);
}
