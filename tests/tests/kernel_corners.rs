// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths that no other test takes: `cargo xtask coverage` named them.

use std::arch::asm;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ktlsshim_tests::op::{IOC_SENDFILE, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, sendfile_arg};
use ktlsshim_tests::peer::{DATA, HANDSHAKE};
use ktlsshim_tests::*;
use libc::*;

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
        // SAFETY: a new mapping, where 32 bits reach it.
        let page = unsafe {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
            mmap(
                std::ptr::null_mut(),
                4096,
                PROT_READ | PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(page, MAP_FAILED);
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
        // SAFETY: a new mapping.
        let page = unsafe {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS;
            mmap(
                std::ptr::null_mut(),
                4096,
                PROT_READ | PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(page, MAP_FAILED);
        let arg = page.cast::<[u64; 3]>();
        let asked = sendfile_arg(&file, 0, len as u64, 0);
        // SAFETY: within the page, which nobody else has yet.
        unsafe { *arg = asked };
        let (op, at) = (Arc::clone(&link.op), arg as usize);
        let thread = sleeper(move || op.sendfile_at(at as *mut [u64; 3]));
        // SAFETY: our own page; the kernel alone writes to it.
        assert_eq!(unsafe { mprotect(page, 4096, PROT_READ) }, 0);
        assert!(link.peer.expect(len) == data, "bytes differ");
        assert_eq!(thread.end(), Ok(len as u64));
        // SAFETY: within the page, which is still there.
        assert_eq!(unsafe { *arg }, asked, "written to a page that cannot be");
        // Where it cannot be written from the start, nothing is sent.
        assert_eq!(link.op.sendfile_at(arg), fail(EFAULT));
        link.check();
    });
}
