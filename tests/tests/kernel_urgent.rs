// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP urgent data. A peer, or anybody on the path, may set the urgent pointer
//! wherever it likes; TLS over recv() survives that, and so must the op: without
//! SO_OOBINLINE the urgent byte is no part of the stream, with it it is one.

use std::net::Shutdown;
use std::sync::Arc;

use ktlsshim_tests::counters::Counters;
use ktlsshim_tests::peer::{ALERT, DATA, HANDSHAKE};
use ktlsshim_tests::*;
use libc::*;

const FOREIGN: &[u8] = b"!";

fn oob(link: &Link, bytes: &[u8]) {
    let sent = sys::sendmsg(&link.peer.tcp, &[bytes], &[], MSG_OOB);
    assert_eq!(sent, Ok(bytes.len()));
}

fn inline(link: &Link, on: bool) {
    sys::set_int(&link.tcp, SOL_SOCKET, SO_OOBINLINE, i32::from(on)).expect("SO_OOBINLINE");
}

/// In the header, at its end, in the explicit nonce, in the text, in the tag,
/// before the last byte, and at the record's end.
fn places(wire: &[u8]) -> [usize; 9] {
    let len = wire.len();
    [0, 1, 4, 5, 9, 20, len - 10, len - 1, len]
}

/// How the reader behaves while the pieces of a record arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    /// Looks after each piece.
    Eager,
    /// Sleeps in recv() all the time.
    Asleep,
    /// Looks when everything is there.
    Late,
}

/// Sends `wire` in two parts with `urgent` between them; the op reads `text`.
fn cross(link: &mut Link, parts: [&[u8]; 3], text: &[u8], reader: Reader) {
    let [front, urgent, back] = parts;
    let op = Arc::clone(&link.op);
    let len = text.len();
    let asleep = (reader == Reader::Asleep).then(|| sleeper(move || op.recv_exact(len)));
    let mut have = Vec::new();
    for (part, is_urgent) in [(front, false), (urgent, true), (back, false)] {
        if part.is_empty() {
            continue;
        }
        if is_urgent {
            oob(link, part);
        } else {
            link.peer.raw(part);
        }
        if reader == Reader::Eager {
            let events = net::poll(&link.tcp, POLLIN, ms(20));
            match link.op.take(len, MSG_DONTWAIT) {
                Ok(bytes) => have.extend(bytes),
                Err(e) => assert_eq!(e, Errno(EAGAIN), "{events:#x}"),
            }
        }
    }
    if reader == Reader::Late {
        let all = front.len() + urgent.len() + back.len();
        // FIONREAD ends at the mark: wait for the mark or for all of it.
        let there = eventually(|| {
            let n = sys::unread(&link.tcp);
            n == all || n == front.len() || n + 1 == all
        });
        assert!(there, "{} of {all}", sys::unread(&link.tcp));
    }
    let got = match asleep {
        Some(asleep) => asleep.end(),
        None => {
            let rest = link.op.recv_exact(len - have.len());
            have.extend(rest);
            have
        }
    };
    assert_eq!(got, text);
}

#[test]
fn an_urgent_byte_is_stepped_over() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            for reader in [Reader::Eager, Reader::Asleep, Reader::Late] {
                for len in [16, 700, 16384] {
                    let text = pattern(len);
                    let probe = places(&vec![0; len + link.rx.overhead()]);
                    for at in probe {
                        let before = Counters::read();
                        let wire = link.peer.tx.seal(DATA, &text, 0);
                        let (front, back) = wire.split_at(at);
                        cross(&mut link, [front, FOREIGN, back], &text, reader);
                        link.check_rx();
                        let stepped = Counters::read().since(&before, "AlgTlsRxUrgent");
                        assert_eq!(stepped, 1, "{version:?} {reader:?} {len} at {at}");
                    }
                }
            }
            assert_eq!(net::poll(&link.tcp, POLLPRI, ms(0)), 0, "the mark is gone");
            link.check();
        }
    });
}

#[test]
fn with_oobinline_an_urgent_byte_is_part_of_the_record() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            inline(&link, true);
            for reader in [Reader::Eager, Reader::Asleep] {
                for len in [16, 700, 16384] {
                    let text = pattern(len);
                    for at in &places(&vec![0; len + link.rx.overhead()])[..8] {
                        let wire = link.peer.tx.seal(DATA, &text, 0);
                        let (front, back) = wire.split_at(*at);
                        let (urgent, back) = back.split_at(1);
                        cross(&mut link, [front, urgent, back], &text, reader);
                        link.check_rx();
                    }
                }
            }
            assert_eq!(net::poll(&link.tcp, POLLPRI, ms(0)), 0, "the mark is gone");
            // And back: what was set later counts.
            inline(&link, false);
            let wire = link.peer.tx.seal(DATA, b"once more", 0);
            let parts = [&wire[..7], FOREIGN, &wire[7..]];
            cross(&mut link, parts, b"once more", Reader::Eager);
        }
    });
}

/// TCP keeps one mark. An urgent byte that nobody read yet is dropped when the
/// next one follows it at once: copied_seq moves, and no stranger moved it.
#[test]
fn urgent_bytes_in_a_row_are_no_stranger() {
    in_vm(|| {
        for count in 1..6 {
            let mut link = Link::any();
            link.check_rx();
            for _ in 0..count {
                oob(&link, FOREIGN);
                // One segment each, or only the last byte is urgent.
                assert!(eventually(|| sys::unsent(&link.peer.tcp) == 0));
            }
            link.check_rx();
            link.op.detach(Dir::Rx).expect("detach");
        }
    });
}

/// What recv() makes of the same bytes, reading as TLS does.
#[test]
fn plain_recv_steps_over_the_same_byte() {
    in_vm(|| {
        let mut link = Link::any();
        let (near, far) = net::pair();
        let text = pattern(700);
        let wire = link.peer.tx.seal(DATA, &text, 0);
        for at in places(&wire) {
            let (front, back) = wire.split_at(at);
            sys::write(&far, front).unwrap_or(0);
            assert_eq!(sys::sendmsg(&far, &[FOREIGN], &[], MSG_OOB), Ok(1));
            sys::write(&far, back).unwrap_or(0);
            assert_eq!(net::read_exact(&near, wire.len()).unwrap(), wire);
        }
    });
}

#[test]
fn control_records_and_fin_behind_urgent_data() {
    in_vm(|| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal(HANDSHAKE, &[4; 100], 0);
        link.peer.raw(&wire[..50]);
        oob(&link, FOREIGN);
        link.peer.raw(&wire[50..]);
        assert_eq!(link.op.take(10, 0), fail(EIO));
        let taken = link.op.recv_record(200, 0);
        assert_eq!(taken, Ok((Some(HANDSHAKE), vec![4; 100])));
        // A mark in front of an alert, peeked at first.
        oob(&link, FOREIGN);
        link.peer.send(ALERT, &[1, 90]);
        let peeked = link.op.recv_record(200, MSG_PEEK);
        assert_eq!(peeked, Ok((Some(ALERT), vec![1, 90])));
        assert_eq!(link.op.recv_record(200, 0), peeked);
        // The last byte of all.
        link.check_rx();
        oob(&link, FOREIGN);
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.op.take(10, 0), fail(ENODATA));

        let mut link = Link::any();
        let wire = link.peer.tx.seal(DATA, b"cut off", 0);
        link.peer.raw(&wire[..9]);
        oob(&link, FOREIGN);
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.op.take(10, 0), fail(ECONNABORTED));
    });
}

/// What precedes the mark was taken off TCP and comes back with detach; the
/// urgent byte does not.
#[test]
fn detach_gives_back_what_surrounds_an_urgent_byte() {
    in_vm(|| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal(DATA, &pattern(300), 0);
        link.peer.raw(&wire[..100]);
        oob(&link, FOREIGN);
        link.peer.raw(&wire[100..200]);
        let staged = || {
            assert_eq!(link.op.take(10, MSG_DONTWAIT), fail(EAGAIN));
            sys::unread(&link.tcp) == 100
        };
        assert!(eventually(staged), "the mark was passed");
        let back = link.op.detach(Dir::Rx).expect("detach");
        assert_eq!(back.staged, &wire[..100]);
        let queued = net::read_exact(&link.tcp, 100).unwrap();
        assert_eq!(queued, &wire[100..200]);
        // From here on it is a plain socket with plain urgent data.
        oob(&link, FOREIGN);
        assert_ne!(net::poll(&link.tcp, POLLPRI, ms(5000)), 0);
    });
}

/// The program may take the byte itself, out of band, before the op looks.
#[test]
fn out_of_band_reads_of_the_tcp_fd_are_no_theft() {
    in_vm(|| {
        let mut link = Link::any();
        let wire = link.peer.tx.seal(DATA, b"urgent", 0);
        link.peer.raw(&wire[..9]);
        oob(&link, FOREIGN);
        link.peer.raw(&wire[9..]);
        assert_ne!(net::poll(&link.tcp, POLLPRI, ms(5000)), 0);
        let mut byte = [0];
        let got = sys::recvmsg(&link.tcp, &mut [&mut byte], &mut [], MSG_OOB);
        assert_eq!((got.map(|r| r.len), &byte[..]), (Ok(1), FOREIGN));
        assert_eq!(link.op.recv_exact(6), b"urgent");
        link.check();
    });
}

/// Our own program's urgent data is a stranger's write (the op refuses it).
#[test]
fn urgent_data_of_our_own_side_is_estale() {
    in_vm(|| {
        let link = Link::any();
        assert_eq!(link.op.send(b"!", MSG_OOB), fail(EOPNOTSUPP));
        assert_eq!(sys::sendmsg(&link.tcp, &[FOREIGN], &[], MSG_OOB), Ok(1));
        assert_eq!(link.op.send(b"x", 0), fail(ESTALE));
    });
}

/// Urgent bytes in tiny segments until the receive buffer is full of them: TCP
/// collapses its queue, marks overtake each other, and the end is an error.
#[test]
fn urgent_data_that_nobody_reads() {
    in_vm(|| {
        for lookers in [false, true] {
            let link = Link::any();
            sys::nonblocking(&link.peer.tcp, true);
            let mut sent = 0;
            while sent < 4_000 {
                match sys::sendmsg(&link.peer.tcp, &[b"noise"], &[], MSG_OOB) {
                    Ok(n) => assert_eq!(n, 5),
                    Err(e) => {
                        assert_eq!(e, Errno(EAGAIN));
                        break;
                    }
                }
                sent += 1;
                if lookers {
                    let got = link.op.take(100, MSG_DONTWAIT);
                    assert!(got == fail(EAGAIN) || got == fail(EPROTO), "{got:?}");
                }
            }
            assert_eq!(link.op.take(100, 0), fail(EPROTO));
            link.op.detach(Dir::Rx).expect("detach");
            link.op.detach(Dir::Tx).expect("detach");
        }
    });
}
