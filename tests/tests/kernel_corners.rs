// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths that no other test takes: `cargo xtask coverage` named them.

use std::arch::asm;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ktlsshim_tests::op::{IOC_SENDFILE, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, sendfile_arg};
use ktlsshim_tests::peer::{DATA, HANDSHAKE};
use ktlsshim_tests::*;
use libc::*;

/// A page of memory, nobody's yet.
fn new_page(more: c_int) -> *mut c_void {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | more;
    let none = std::ptr::null_mut();
    // SAFETY: a new mapping.
    let page = unsafe { mmap(none, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) };
    assert_ne!(page, MAP_FAILED);
    page
}

#[test]
fn a_bad_pointer_for_an_option_is_efault() {
    in_vm(|| {
        let mut link = Link::any();
        let get = |value: *mut c_void, len: *mut socklen_t| {
            let fd = link.op.as_raw_fd();
            // SAFETY: the kernel refuses bad pointers, good ones are the caller's.
            sys::cvt_int(unsafe { getsockopt(fd, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, value, len) })
        };
        let (mut value, mut len) = (0i32, 4);
        let bad = 8 as *mut c_void;
        assert_eq!(get(bad, &mut len), fail(EFAULT));
        assert_eq!(get((&raw mut value).cast(), bad.cast()), fail(EFAULT));
        assert_eq!(get((&raw mut value).cast(), &mut len), Ok(0));
        assert_eq!((value, len), (16384, 4));
        link.check();
    });
}

/// `ioctl(fd, request, arg)` as a 32-bit program makes it.
fn ioctl_32(fd: i32, request: u64, arg: u32) -> i32 {
    let mut ret: i32 = 54;
    // SAFETY: the gate of 32-bit calls works in 64-bit programs too; the kernel writes to `arg` only,
    // and rbx, which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "push rbx",
            "mov ebx, {fd:e}",
            "int 0x80",
            "pop rbx",
            fd = in(reg) fd,
            inlateout("eax") ret,
            in("ecx") request as u32,
            in("edx") arg,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    ret
}

#[test]
fn a_32_bit_program_has_the_same_ioctl() {
    in_vm(|| {
        let data = pattern(20_000);
        std::fs::write("/run/corners.data", &data).expect("a file");
        let file = std::fs::File::open("/run/corners.data").expect("the file");
        let mut link = Link::any();
        // Where 32 bits reach it.
        let page = new_page(MAP_32BIT);
        let arg = page.cast::<u64>();
        // SAFETY: within the page: struct alg_tls_sendfile.
        unsafe {
            *arg = file.as_raw_fd() as u64 | (MSG_NOSIGNAL as u64) << 32;
            *arg.add(1) = 1000;
            *arg.add(2) = 5000;
        }
        let fd = link.op.as_raw_fd();
        assert_eq!(ioctl_32(fd, IOC_SENDFILE, page as u32), 5000);
        // SAFETY: as above.
        assert_eq!(unsafe { (*arg.add(1), *arg.add(2)) }, (6000, 5000));
        assert_eq!(link.peer.expect(5000), data[1000..6000]);
        assert_eq!(ioctl_32(fd, IOC_SENDFILE, 8), -EFAULT);
        link.check();
    });
}

#[test]
fn a_sending_side_that_is_out_of_step_polls_as_an_error() {
    in_vm(|| {
        let link = Link::any();
        assert_eq!(net::poll(&*link.op, POLLOUT, ms(0)), POLLOUT);
        assert_eq!(sys::write(&link.tcp, b"a stranger's"), Ok(12));
        assert_eq!(link.op.send(b"x", 0), fail(ESTALE));
        assert_eq!(net::poll(&*link.op, POLLOUT, ms(0)), POLLOUT | POLLERR);
    });
}

/// A control record is one record, or an error: also where the limit sank while its sender slept.
#[test]
fn the_record_size_sinks_while_a_control_record_waits() {
    in_vm(|| {
        let pair = net::pair_on("127.0.0.1:0", |n| net::sndbuf(n, 1), |f| net::rcvbuf(f, 1));
        let mut link = Link::over(pair, Version::Tls13, Cipher::Aes128Gcm);
        let mut sent = 0;
        while let Ok(n) = link.op.send(&[7; 1000], MSG_DONTWAIT) {
            sent += n;
        }
        let op = Arc::clone(&link.op);
        let sender = sleeper(move || op.send_record(HANDSHAKE, &[1; 2000], 0));
        link.op.set_tx_max(1000).expect("a smaller size");
        while sent > 0 {
            let record = link.peer.recv().expect("a record");
            assert_eq!(record.kind, DATA);
            sent -= record.data.len();
        }
        assert_eq!(sender.end(), fail(EMSGSIZE));
        link.check();
    });
}

/// The structure goes while the file is on its way: what was sent is told all the same, or the caller
/// would send it again.
#[test]
fn a_sendfile_whose_answer_cannot_be_written_tells_what_it_sent() {
    in_vm(|| {
        let len = 3_000_000;
        let data = pattern(len);
        std::fs::write("/run/answer.data", &data).expect("write");
        let file = std::fs::File::open("/run/answer.data").expect("file");
        let mut link = Link::any();
        let page = new_page(0);
        let arg = page.cast::<[u64; 3]>();
        let asked = sendfile_arg(&file, 0, len as u64, 0);
        // SAFETY: within the page, which nobody else has yet.
        unsafe { *arg = asked };
        let (op, at) = (Arc::clone(&link.op), arg as usize);
        let thread = sleeper(move || op.sendfile_at(at));
        // SAFETY: our own page; the kernel alone writes to it.
        assert_eq!(unsafe { mprotect(page, 4096, PROT_READ) }, 0);
        assert!(link.peer.expect(len) == data, "bytes differ");
        assert_eq!(thread.end(), Ok(len as u64));
        // SAFETY: within the page, which is still there.
        assert_eq!(unsafe { *arg }, asked, "written to a page that cannot be");
        // Where it cannot be written from the start, nothing is sent.
        assert_eq!(link.op.sendfile_at(arg as usize), fail(EFAULT));
        link.check();
    });
}

/// Whatever a call waits for, a signal ends the wait, nothing was done, and the call can be made again.
#[test]
fn signals_end_each_sleep() {
    in_vm_for(ms(120_000), || {
        sys::handle_usr1(false);
        std::fs::write("/run/sleep.data", pattern(50_000)).unwrap();
        let file = Arc::new(std::fs::File::open("/run/sleep.data").unwrap());
        type Call = Box<dyn Fn(&Op) -> sys::Res<usize> + Send>;
        let copy = Arc::clone(&file);
        let full: [(&str, Call); 4] = [
            ("send", Box::new(|op| op.send(&pattern(9_000), 0))),
            (
                "ioctl",
                Box::new(move |op| {
                    let mut arg = sendfile_arg(&copy, 0, 9_000, 0);
                    op.sendfile_at(arg.as_mut_ptr() as usize)
                        .map(|n| n as usize)
                }),
            ),
            (
                "sendfile",
                Box::new(move |op| sys::sendfile(op, &*file, &mut 0, 9_000)),
            ),
            (
                "splice",
                Box::new(|op| {
                    let (out, into) = sys::pipe();
                    sys::write(&into, &pattern(9_000))?;
                    let sent = sys::splice(&out, op, 9_000, 0);
                    let left = sys::unread(&out);
                    assert_eq!(
                        left,
                        9_000 - sent.unwrap_or(0),
                        "what was not sent is there"
                    );
                    sent
                }),
            ),
        ];
        for (way, call) in full {
            let pair = net::pair_on(
                "127.0.0.1:0",
                |n| net::sndbuf(n, 30_000),
                |f| net::rcvbuf(f, 9_000),
            );
            let mut link = Link::over(pair, Version::Tls13, Cipher::Aes128Gcm);
            // TCP moves bytes to the peer's queue for a while after the first EAGAIN.
            let (mut sent, mut calm) = (0, 0);
            while calm < 4 {
                calm += 1;
                while link.op.send(&pattern(9_000), MSG_DONTWAIT) == Ok(9_000) {
                    (sent, calm) = (sent + 9_000, 0);
                }
                std::thread::sleep(ms(200));
            }
            let seq = link.op.seq(Dir::Tx);
            let (op, call) = (Arc::clone(&link.op), Arc::new(std::sync::Mutex::new(call)));
            let again = Arc::clone(&call);
            let waiting = sleeper(move || call.lock().unwrap()(&op));
            sys::interrupt(waiting.tid);
            assert_eq!(waiting.end(), fail(EINTR), "{way}");
            assert_eq!(link.op.seq(Dir::Tx), seq, "{way}: a number was used");
            let op = Arc::clone(&link.op);
            let waiting = sleeper(move || again.lock().unwrap()(&op));
            for at in (0..sent).step_by(9_000) {
                assert_eq!(link.peer.expect(9_000), pattern(9_000), "{way}: at {at}");
            }
            assert_eq!(waiting.end(), Ok(9_000), "{way}");
            assert_eq!(link.peer.expect(9_000), pattern(9_000), "{way}");
            link.check();
        }
        for way in ["recv", "record", "splice"] {
            let mut link = Link::any();
            // Part of a record, which makes no difference.
            let wire = link.peer.tx.seal(DATA, b"data", 0);
            link.peer.raw(&wire[..9]);
            let op = Arc::clone(&link.op);
            let waiting = sleeper(move || match way {
                "recv" => op.recv(&mut [0; 100], 0),
                "record" => op.recv_record(100, 0).map(|r| r.1.len()),
                _ => {
                    let (_out, into) = sys::pipe();
                    sys::splice(&*op, &into, 100, 0)
                }
            });
            sys::interrupt(waiting.tid);
            assert_eq!(waiting.end(), fail(EINTR), "{way}");
            link.peer.raw(&wire[9..]);
            assert_eq!(link.op.recv_exact(4), b"data", "{way}");
        }
    });
}

/// Records that hold nothing keep a reader busy without giving him anything: he can be called away.
#[test]
fn a_signal_ends_a_read_among_empty_records() {
    in_vm(|| {
        sys::handle_usr1(false);
        for way in ["recv", "splice"] {
            let mut link = Link::any();
            let mut tcp = link.peer.tcp.try_clone().unwrap();
            let mut wire = Vec::new();
            for _ in 0..20_000 {
                wire.extend(link.peer.tx.seal(DATA, b"", 0));
            }
            let all = wire.len();
            let writer = std::thread::spawn(move || std::io::Write::write_all(&mut tcp, &wire));
            link.arrived(all.min(40_000));
            let op = Arc::clone(&link.op);
            let (tell, told) = std::sync::mpsc::channel();
            let reader = std::thread::spawn(move || {
                tell.send(sys::this_thread()).unwrap();
                match way {
                    "recv" => op.recv(&mut [0; 100], 0),
                    _ => {
                        let (_out, into) = sys::pipe();
                        sys::splice(&*op, &into, 100, 0)
                    }
                }
            });
            let tid = told.recv().unwrap();
            let start = std::time::Instant::now();
            while !reader.is_finished() {
                assert!(
                    start.elapsed() < patient(ms(30_000)),
                    "{way}: never called away"
                );
                sys::interrupt(tid);
                std::thread::sleep(ms(1));
            }
            assert_eq!(reader.join().unwrap(), fail(EINTR), "{way}");
            // Nothing is lost: the next reader goes on where this one was.
            let op = Arc::clone(&link.op);
            let reader = std::thread::spawn(move || op.recv_exact(4));
            writer.join().unwrap().unwrap();
            link.peer.data(b"data");
            assert_eq!(reader.join().unwrap(), b"data", "{way}");
        }
    });
}
