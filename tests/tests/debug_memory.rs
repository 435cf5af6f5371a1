// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is refused for long: a sender waits for it as for room, and where TCP took a part of a
//! record and can take no more, the connection ends, for nobody could read what would follow. Debug
//! kernel only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ktlsshim_tests::faults::{Faults, Kind, after};
use ktlsshim_tests::op::sendfile_arg;
use ktlsshim_tests::*;
use libc::*;

/// The ways to send whose records need memory, each as a call of its own thread.
const WAYS: [&str; 3] = ["send", "sendfile", "splice"];

fn sends(way: &'static str, op: &Arc<Op>) -> impl FnOnce() -> sys::Res<usize> + Send + 'static {
    let op = Arc::clone(op);
    let data = pattern(1_000);
    move || match way {
        "send" => op.send(&data, 0),
        "sendfile" => {
            std::fs::write("/run/memory.data", &data).expect("write");
            let file = std::fs::File::open("/run/memory.data").expect("file");
            let mut arg = sendfile_arg(&file, 0, 1_000, 0);
            op.sendfile_at(arg.as_mut_ptr() as usize)
                .map(|n| n as usize)
        }
        _ => {
            let (out, into) = sys::pipe();
            assert_eq!(sys::write(&into, &data), Ok(data.len()));
            sys::splice(&out, &*op, data.len(), 0)
        }
    }
}

#[test]
fn who_waits_for_memory_heeds_signals_and_timeouts() {
    in_vm(|| {
        sys::handle_usr1(false);
        for way in WAYS {
            // CCM copies each text, so that each way needs pages.
            let mut link = Link::new(Version::Tls12, Cipher::Aes128Ccm);
            let faults = Faults::new(&[Kind::Page], 100);
            let waiting = sleeper(sends(way, &link.op));
            std::thread::sleep(ms(300));
            assert!(!waiting.done(), "{way}: it does not wait");
            sys::interrupt(waiting.tid);
            assert_eq!(waiting.end(), fail(EINTR), "{way}");
            sys::timeout(&link.tcp, SO_SNDTIMEO, ms(400));
            let start = Instant::now();
            assert_eq!(sends(way, &link.op)(), fail(EAGAIN), "{way}");
            assert!(start.elapsed() >= ms(390), "{way}: {:?}", start.elapsed());
            sys::timeout(&link.tcp, SO_SNDTIMEO, Duration::ZERO);
            // With a timeout that is not over, a signal does not restart.
            let waiting = sleeper(sends(way, &link.op));
            drop(faults);
            assert_eq!(waiting.end(), Ok(1_000), "{way}");
            assert_eq!(link.peer.expect(1_000), pattern(1_000));
            link.check();
        }
    });
}

/// A device that cannot gather makes TCP copy what it is handed, into buffers that may be refused.
#[test]
fn a_record_of_which_tcp_took_a_part_ends_the_connection() {
    in_vm_for(Duration::from_secs(180), || {
        let mut seen = [0; 3];
        for step in 0..10 {
            // Its own thread: a namespace is for good.
            let outcome = std::thread::spawn(move || part_of_a_record(step * 2_000));
            seen[outcome.join().expect("no panic")] += 1;
        }
        let [nothing, part, all] = seen;
        println!("nothing was sent: {nothing}, a part: {part}, all: {all}");
        assert!(nothing > 0 && part > 0, "{seen:?}");
    });
}

/// 0: nothing was sent, 1: the connection ended, 2: all was sent.
fn part_of_a_record(bytes: usize) -> usize {
    let mut link = Link::over(veth::wire_that_copies(), Version::Tls13, Cipher::Aes128Gcm);
    link.check();
    let data = pattern(16_000);
    let short = counters::Counters::read().get("AlgTlsErrHandOver");
    let (result, refused) = after("alg_tls_tx_record", bytes, || {
        link.op.send(&data, MSG_DONTWAIT)
    });
    let ended = counters::Counters::read().get("AlgTlsErrHandOver") - short;
    println!("after {bytes} bytes: {result:?}, {refused} refused");
    match result {
        Ok(n) => {
            assert_eq!((n, ended), (data.len(), 0));
            assert_eq!(link.peer.expect(n), data);
            link.check();
            2
        }
        Err(Errno(EAGAIN)) => {
            assert_eq!(ended, 0);
            link.check();
            0
        }
        Err(e) => {
            assert_eq!((e, ended), (Errno(EPIPE), 1));
            // What was sent is no record, and the peer is told that no more will come.
            let told = link.peer.recv().map(|r| r.data.len());
            assert!(matches!(told, Err(Fault::Reset)), "{told:?}");
            // As TCP has it: the reason once, and EPIPE from then on.
            assert_eq!(link.op.send(b"more", 0), fail(ECONNRESET));
            assert_eq!(link.op.send(b"more", 0), fail(EPIPE));
            assert_eq!(link.op.take(10, 0), fail(ECONNRESET));
            let gone = net::poll(&*link.op, POLLIN | POLLOUT, ms(0));
            assert_eq!(gone & (POLLHUP | POLLERR), POLLHUP | POLLERR);
            1
        }
    }
}
