// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a record lies in odd pieces, or goes into something too small for it.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::*;
use libc::*;

/// The receive buffer begins smaller than a record, and nobody has locked it: it grows.
#[test]
fn a_buffer_smaller_than_a_record_grows() {
    in_vm(|| {
        net::new_namespace();
        std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 8192 4194304").expect("tcp_rmem");
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let room = sys::get_int(&link.tcp, SOL_SOCKET, SO_RCVBUF).expect("SO_RCVBUF");
            assert!(room < 16_384, "{room}: larger than a record");
            let data = pattern(200_000);
            let op = Arc::clone(&link.op);
            let reader = std::thread::spawn(move || op.recv_exact(200_000));
            link.peer.data(&data);
            assert!(reader.join().expect("no panic") == data, "bytes differ");
            link.check();
        }
    });
}

/// A pipe with room for one page takes the rest of a record page by page, and one that nobody will
/// read from takes none of it.
#[test]
fn a_pipe_smaller_than_a_record_and_one_without_a_reader() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            let data = pattern(16_000);
            let wire = link.peer.tx.seal(DATA, &data, 0);
            link.peer.raw(&wire);
            link.arrived(wire.len());
            let (out, into) = sys::pipe();
            // SAFETY: no memory is passed.
            let size = unsafe { fcntl(into.as_raw_fd(), F_SETPIPE_SZ, 4096) };
            assert_eq!(size, 4096);
            // What is left begins in the middle of a page, so that a page's worth lies in two.
            let mut have = link.op.recv_exact(100);
            while have.len() < 10_000 {
                let n = sys::splice(&*link.op, &into, 16_000, 0).expect("a page");
                assert!(n > 0 && n <= 4096, "{n}");
                let mut room = vec![0; n];
                assert_eq!(sys::read(&out, &mut room), Ok(n));
                have.extend(room);
            }
            drop(out);
            assert_eq!(sys::splice(&*link.op, &into, 16_000, 0), fail(EPIPE));
            have.extend(link.op.recv_exact(16_000 - have.len()));
            assert!(have == data, "bytes differ");
            link.check();
        }
    });
}

/// Neighbours in one page that come as two pieces are sent as what they are.
#[test]
fn pieces_of_one_page() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            let data = pattern(3_000);
            let (out, into) = sys::pipe();
            let parts = [(0, 1_000), (1_000, 1), (1_001, 999), (2_500, 500)];
            let parts = parts.map(|(at, len)| iovec {
                iov_base: data[at..].as_ptr() as *mut c_void,
                iov_len: len,
            });
            // SAFETY: the pieces are of `data`, which outlives the pipe's use of its pages.
            let put = unsafe { vmsplice(into.as_raw_fd(), parts.as_ptr(), parts.len(), 0) };
            assert_eq!(put, 2_500);
            let op = Arc::clone(&link.op);
            let sender = std::thread::spawn(move || {
                let mut left = 2_500;
                while left > 0 {
                    left -= sys::splice(&out, &*op, left, 0).expect("splice");
                }
            });
            let got = link.peer.expect(2_500);
            sender.join().expect("no panic");
            assert!(got[..2_000] == data[..2_000] && got[2_000..] == data[2_500..]);
            link.check();
        }
    });
}
