// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may use the socket, and what it gives away: nothing of a key by any call,
//! file or log line, and no log line at all that a user can cause at will.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use ktlsshim_tests::op::{ALG_TLS_ATTACH, ALG_TLS_DETACH, SOL_ALG, SOL_TLS};
use ktlsshim_tests::peer::{ALERT, DATA};
use ktlsshim_tests::sys::{Res, cvt_int};
use ktlsshim_tests::*;
use libc::*;

const NOBODY: u32 = 65534;
const MODULE: &str = "/sys/module/algif_tls/parameters";

/// Exit codes of a child that are no errno.
const PANIC: i32 = 201;
const NO_NAMESPACE: i32 = 202;

/// Runs `body` in a child process (which may do to its credentials what it
/// likes) and returns its answer. The child allocates: glibc's malloc is whole
/// after a fork, and the tests run one at a time.
fn child(body: impl FnOnce() -> Res<()>) -> Res<()> {
    // SAFETY: the child ends by _exit() and never returns from here.
    let pid = unsafe { fork() };
    if pid == 0 {
        let body = std::panic::AssertUnwindSafe(body);
        let code = match std::panic::catch_unwind(body) {
            Ok(Ok(())) => 0,
            Ok(Err(Errno(e))) => e,
            Err(_) => PANIC,
        };
        // SAFETY: ends the child.
        unsafe { _exit(code) };
    }
    let mut status = -1;
    // SAFETY: the child is ours and `status` is writable.
    assert_eq!(unsafe { waitpid(pid, &mut status, 0) }, pid);
    assert!(WIFEXITED(status), "status {status:#x}");
    match WEXITSTATUS(status) {
        0 => Ok(()),
        e => fail(e),
    }
}

fn bind() -> Res<()> {
    Parent::bind("gcm(aes)").map(drop)
}

fn unshare_user() -> Res<()> {
    // SAFETY: no memory is passed.
    let ret = cvt_int(unsafe { unshare(CLONE_NEWUSER | CLONE_NEWNET) });
    ret.map(drop).map_err(|_| Errno(NO_NAMESPACE))
}

struct Saved(&'static str, String);

impl Saved {
    fn set(name: &'static str, value: &str) -> Saved {
        let path = format!("{MODULE}/{name}");
        let old = fs::read_to_string(&path).expect("a parameter");
        fs::write(path, value).expect("root may write it");
        Saved(name, old)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // In a test that fails already, one more failure says nothing.
        let _ = fs::write(format!("{MODULE}/{}", self.0), &self.1);
    }
}

fn capset(keep: u64) {
    // struct __user_cap_header, version 3; effective, permitted, inheritable.
    let mut head = [0x2008_0522u32, 0];
    let (low, high) = (keep as u32, (keep >> 32) as u32);
    let data = [low, low, 0, high, high, 0];
    // SAFETY: both arrays have the layout of version 3.
    let ret = unsafe { syscall(SYS_capset, head.as_mut_ptr(), data.as_ptr()) };
    assert_eq!(ret, 0, "capset");
}

const CAP_NET_ADMIN: u64 = 1 << 12;

#[test]
fn bind_asks_for_net_admin_in_the_initial_namespace() {
    in_vm(|| {
        assert_eq!(child(bind), Ok(()), "root");
        let without = || {
            capset(!CAP_NET_ADMIN & ((1 << 38) - 1));
            bind()
        };
        assert_eq!(child(without), fail(EPERM), "root without the capability");
        let only = || {
            // SAFETY: no memory is passed.
            unsafe { prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) };
            sys::become_nobody();
            capset(CAP_NET_ADMIN);
            bind()
        };
        assert_eq!(child(only), Ok(()), "nobody with the capability");
        let nobody = || {
            sys::become_nobody();
            bind()
        };
        assert_eq!(child(nobody), fail(EPERM), "nobody");
        let dropped = || {
            let parent = Parent::bind("gcm(aes)")?;
            sys::become_nobody();
            assert_eq!(bind(), fail(EPERM));
            parent.accept().map(drop)
        };
        assert_eq!(child(dropped), Ok(()), "bound as root, then dropped");
    });
}

/// All capabilities of a user namespace are none of the initial one's.
#[test]
fn a_user_namespace_gives_nothing() {
    in_vm(|| {
        let root = || {
            unshare_user()?;
            bind()
        };
        assert_eq!(child(root), fail(EPERM), "root in a namespace of its own");
        let nobody = || {
            sys::become_nobody();
            unshare_user()?;
            bind()
        };
        let got = child(nobody);
        assert_eq!(got, fail(EPERM), "nobody in a namespace of its own");
        // Root's group 0, mapped from nobody's: not the group of the parameter.
        let _gid = Saved::set("gid", "0");
        let mapped = || {
            sys::become_nobody();
            // Makes /proc/self writable again after the change of user.
            // SAFETY: no memory is passed.
            unsafe { prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) };
            unshare_user()?;
            let write = |file: &str, text: &str| {
                fs::write(format!("/proc/self/{file}"), text).expect("a map");
            };
            write("setgroups", "deny");
            write("gid_map", &format!("0 {NOBODY} 1"));
            // SAFETY: no memory is passed.
            assert_eq!(unsafe { getegid() }, 0);
            bind()
        };
        assert_eq!(child(mapped), fail(EPERM), "group 0 of the namespace");
    });
}

#[test]
fn the_parameters_admit_a_group_or_everybody() {
    in_vm(|| {
        let as_nobody = |groups: &'static [u32]| {
            child(move || {
                // SAFETY: the list has the length that is passed.
                let ret = unsafe { setgroups(groups.len(), groups.as_ptr()) };
                assert_eq!(ret, 0);
                let id = c_long::from(NOBODY);
                // SAFETY: no memory is passed.
                let ret = unsafe {
                    syscall(SYS_setresgid, id, id, id) | syscall(SYS_setresuid, id, id, id)
                };
                assert_eq!(ret, 0);
                bind()
            })
        };
        assert_eq!(as_nobody(&[]), fail(EPERM));
        {
            let _gid = Saved::set("gid", "4242");
            assert_eq!(as_nobody(&[]), fail(EPERM), "not a member");
            assert_eq!(as_nobody(&[17, 4242]), Ok(()), "a member");
            assert_eq!(as_nobody(&[17]), fail(EPERM), "another group");
        }
        {
            let _gid = Saved::set("gid", "65534");
            assert_eq!(as_nobody(&[]), Ok(()), "the effective group");
        }
        {
            let _all = Saved::set("unprivileged", "1");
            assert_eq!(as_nobody(&[]), Ok(()), "everybody");
            assert_eq!(
                child(|| {
                    sys::become_nobody();
                    unshare_user()?;
                    bind()
                }),
                Ok(()),
                "in a namespace as well"
            );
        }
        assert_eq!(as_nobody(&[]), fail(EPERM), "and no longer");
        let mode = |name| {
            let meta = fs::metadata(format!("{MODULE}/{name}")).unwrap();
            std::os::unix::fs::MetadataExt::mode(&meta) & 0o777
        };
        assert_eq!((mode("gid"), mode("unprivileged")), (0o644, 0o644));
    });
}

/// A parent that was passed on is the right to use it.
#[test]
fn a_passed_parent_serves_an_unprivileged_process() {
    in_vm(|| {
        let parent = Parent::bind("gcm(aes)").unwrap();
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let (tx, rx) = (link.tx.clone(), link.rx.clone());
        let tcp = link.tcp.try_clone().unwrap();
        // Inherited by fork, used by nobody in a user namespace.
        let used = child(|| {
            sys::become_nobody();
            unshare_user()?;
            // The op belongs to the parent's network namespace, not to the child's.
            let op = parent.accept()?;
            op.attach(&tcp, Some(&tx), Some(&rx))?;
            op.send(b"from the child", 0).map(drop)
        });
        assert_eq!(used, Ok(()));
        assert_eq!(link.peer.expect(14), b"from the child");
    });
}

/// A TCP socket taken from another process is a descriptor like any other, and
/// to take it is the kernel's question, not ours.
#[test]
fn another_process_socket_by_pidfd_getfd() {
    in_vm(|| {
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let number = link.tcp.as_raw_fd();
        // SAFETY: the child waits for its end.
        let pid = unsafe {
            let pid = fork();
            if pid == 0 {
                pause();
                _exit(0);
            }
            pid
        };
        let get = || -> Res<OwnedFd> {
            // SAFETY: no memory is passed; the fds are new.
            unsafe {
                let pidfd = cvt_int(syscall(SYS_pidfd_open, pid, 0) as i32)?;
                let pidfd = OwnedFd::from_raw_fd(pidfd);
                let fd = syscall(SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0);
                cvt_int(fd as i32).map(|fd| OwnedFd::from_raw_fd(fd))
            }
        };
        let nobody = || {
            sys::become_nobody();
            get().map(drop)
        };
        assert_eq!(child(nobody), fail(EPERM));
        let stolen = get().expect("root may");
        link.op
            .attach(&stolen, Some(&link.tx), Some(&link.rx))
            .expect("attach");
        drop(stolen);
        link.check();
        // SAFETY: the child is ours.
        unsafe {
            assert_eq!(kill(pid, SIGKILL), 0);
            assert_eq!(waitpid(pid, std::ptr::null_mut(), 0), pid);
        }
        link.check();
    });
}

/// Names that the crypto API would understand load and build nothing.
#[test]
fn a_name_outside_the_table_reaches_nobody() {
    in_vm(|| {
        // Everything that the table needs is there.
        for name in ["gcm(aes)", "ccm(aes)", "rfc7539(chacha20,poly1305)"] {
            drop(Parent::bind(name).unwrap());
        }
        let before = fs::read_to_string("/proc/crypto").unwrap();
        let modules = fs::read_to_string("/proc/modules").unwrap();
        let names = [
            "cryptd(__gcm(aes))",
            "pcrypt(gcm(aes))",
            "seqiv(rfc4106(gcm(aes)))",
            "gcm(twofish)",
            "ccm(camellia)",
            "authenc(hmac(md5),ecb(cipher_null))",
            "hmac(sha256)",
            "../../etc/passwd",
        ];
        for name in names {
            assert_eq!(Parent::bind(name).err(), Some(Errno(ENOENT)), "{name}");
        }
        assert_eq!(fs::read_to_string("/proc/crypto").unwrap(), before);
        let strip = |text: &str| -> Vec<String> {
            let first = |l: &str| l.split(' ').next().unwrap_or("").to_owned();
            text.lines().map(first).collect()
        };
        let after = fs::read_to_string("/proc/modules").unwrap();
        assert_eq!(strip(&after), strip(&modules));
    });
}

/// Any eight bytes in a row of a key, raw or in hexadecimal.
struct Needles(Vec<Vec<u8>>);

impl Needles {
    fn new(link: &Link) -> Needles {
        let keys = [&link.tx.key, &link.rx.key];
        let parts = keys.iter().flat_map(|key| key.windows(8));
        Needles(parts.flat_map(forms).collect())
    }

    fn check(&self, text: &[u8], what: &str) {
        let lower = text.to_ascii_lowercase();
        let hit = |n: &Vec<u8>| {
            !sys::occurrences(text, n).is_empty() || !sys::occurrences(&lower, n).is_empty()
        };
        // Most answers are empty.
        let empty = text.iter().all(|b| *b == 0);
        assert!(empty || !self.0.iter().any(hit), "{what} shows a key");
    }
}

fn forms(part: &[u8]) -> [Vec<u8>; 2] {
    let hex: String = part.iter().map(|b| format!("{b:02x}")).collect();
    [part.to_vec(), hex.into_bytes()]
}

#[test]
fn the_search_finds_a_key() {
    let link_free = |key: &[u8]| Needles(key.windows(8).flat_map(forms).collect());
    let key = [7, 200, 1, 2, 3, 4, 5, 6, 99, 98, 97];
    let caught = |text: &[u8]| {
        let text = text.to_vec();
        std::panic::catch_unwind(move || link_free(&key).check(&text, "it")).is_err()
    };
    assert!(caught(&[&[0; 30][..], &key[2..10], &[1; 9]].concat()));
    assert!(caught(b"key: C801020304050663 ;"));
    assert!(!caught(&key[..7]));
}

#[test]
fn no_option_and_no_ioctl_shows_a_key() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.check();
            let needles = Needles::new(&link);
            let clean = |text: &[u8], what: &str| needles.check(text, what);
            // The levels of options that we have, and those that we have not.
            for level in [SOL_ALG, SOL_TLS, SOL_SOCKET, 0] {
                for name in (0..300).chain(ALG_TLS_ATTACH - 40..ALG_TLS_ATTACH + 200) {
                    if level == SOL_ALG && name == ALG_TLS_DETACH {
                        continue;
                    }
                    for len in [4, 56, 300] {
                        let mut value = vec![0; len];
                        let _ = sys::getsockopt(&*link.op, level, name, &mut value);
                        clean(&value, &format!("option {level} {name} {len}"));
                        let _ = sys::getsockopt(&link.tcp, level, name, &mut value);
                        clean(&value, &format!("option {level} {name} of TCP"));
                    }
                }
            }
            for kind in [0x54, 0xA7] {
                for number in 0..256 {
                    for direction in 0..4u64 {
                        let mut buf = [0u8; 256];
                        let request = direction << 30 | 40 << 16 | kind << 8 | number;
                        // SAFETY: the buffer is larger than any of these.
                        unsafe { ioctl(link.op.as_raw_fd(), request, buf.as_mut_ptr()) };
                        clean(&buf, &format!("ioctl {request:#x}"));
                    }
                }
            }
            // SAFETY: a mapping that must be refused.
            let map = unsafe {
                let none = std::ptr::null_mut();
                mmap(none, 4096, PROT_READ, MAP_SHARED, link.op.as_raw_fd(), 0)
            };
            assert_eq!(map, MAP_FAILED);
            let back = link.op.detach(Dir::Tx).unwrap();
            clean(
                &[back.seq.to_be_bytes(), back.nonce.to_be_bytes()].concat(),
                "detach",
            );
        }
    });
}

#[test]
fn no_file_of_proc_and_no_tool_shows_a_key() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.check();
            let needles = Needles::new(&link);
            let op = link.op.as_raw_fd();
            let tcp = link.tcp.as_raw_fd();
            let files = [
                format!("/proc/thread-self/fdinfo/{op}"),
                format!("/proc/thread-self/fdinfo/{tcp}"),
                "/proc/thread-self/net/alg_tls_stat".into(),
                "/proc/thread-self/net/tcp".into(),
                "/proc/thread-self/net/protocols".into(),
                "/proc/crypto".into(),
                "/proc/keys".into(),
                "/proc/slabinfo".into(),
                "/proc/modules".into(),
            ];
            for file in files {
                // Some are the kernel's choice to have.
                let text = fs::read(&file).unwrap_or_default();
                needles.check(&text, &file);
            }
            for line in [&["ss", "-tnieomO"][..], &["dmesg"], &["lsmod"]] {
                let out = Command::new(line[0])
                    .args(&line[1..])
                    .output()
                    .expect(line[0]);
                let text = [out.stdout, out.stderr].concat();
                needles.check(&text, line[0]);
            }
        }
    });
}

/// Is the complement of `hidden` anywhere in this process's writable memory?
fn own_memory_holds(hidden: &[u8]) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let mut found = false;
    for line in maps.lines().filter(|l| l.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let at = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (from, to) = (at(from), at(to));
        let mut text = vec![0; (to - from).min(64 << 20) as usize];
        if memory.read_at(&mut text, from).is_err() {
            continue;
        }
        text.iter_mut().for_each(|b| *b = !*b);
        found |= !sys::occurrences(&text, hidden).is_empty();
        text.fill(0);
    }
    found
}

/// What a core file would hold: our own memory, after we wiped what we knew. The
/// key is read straight into the structure, so that there is one copy.
#[test]
fn the_programs_own_memory_holds_no_key_of_the_kernel() {
    in_vm(|| {
        let (near, _far) = net::pair();
        let op = Op::new("gcm(aes)");
        let fd = near.as_raw_fd();
        let mut attach = Box::new(op::Attach::new(fd, None, None).bytes());
        // AES-256-GCM: head, iv, key, salt, number.
        attach[16..20].copy_from_slice(&[4, 3, 52, 0]);
        let mut random = fs::File::open("/dev/urandom").unwrap();
        random.read_exact(&mut attach[28..60]).unwrap();
        let hidden: Vec<u8> = attach[28..60].iter().map(|b| !b).collect();
        assert!(own_memory_holds(&hidden), "the search finds a key");
        sys::setsockopt(&op, SOL_ALG, ALG_TLS_ATTACH, &attach[..]).expect("attach");
        attach.fill(0);
        std::hint::black_box(&attach);
        // Use what could leave something behind.
        op.send_all(&[0; 1000]);
        op.state(Dir::Tx).unwrap();
        assert!(!own_memory_holds(&hidden), "attached");
        op.detach(Dir::Tx).unwrap();
        assert!(!own_memory_holds(&hidden), "detached");
    });
}

/// The kernel's log, from now on.
struct Log(fs::File);

impl Log {
    fn follow() -> Log {
        let mut file = fs::File::options()
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open("/dev/kmsg")
            .expect("/dev/kmsg");
        file.seek(SeekFrom::End(0)).unwrap();
        Log(file)
    }

    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = [0; 8192];
        while let Ok(n) = self.0.read(&mut line) {
            lines.push(String::from_utf8_lossy(&line[..n]).into_owned());
        }
        lines
    }
}

/// Every error that a user or a peer can cause, over and over.
fn provoke(parent: &Parent, mut link: Link) {
    for name in ["", "gcm(aes)", "nonsense"] {
        let _ = Parent::bind(name);
        let _ = Parent::bind_type("nonsense", name);
    }
    let op = parent.accept().expect("accept");
    let mut value = [0; 200];
    for level in [SOL_ALG, SOL_TLS] {
        for name in [0, 1, 2, 5, ALG_TLS_ATTACH, ALG_TLS_DETACH] {
            for len in [0, 4, 40, 56, 128, 200] {
                let _ = sys::setsockopt(&op, level, name, &value[..len]);
                let _ = sys::getsockopt(&op, level, name, &mut value[..len]);
            }
        }
    }
    let _ = op.send(b"x", MSG_OOB);
    let _ = op.sendfile(&op, 0, 10, 0);
    link.op = op.into();
    let (tx, rx) = (Some(&link.tx), Some(&link.rx));
    link.op.attach(&link.tcp, tx, rx).unwrap();
    let _ = link.op.attach(&link.tcp, tx, rx);
    let _ = sys::recvmsg_at(&*link.op, &[(8, 100)], MSG_DONTWAIT);
    let _ = sys::sendmsg_at(&*link.op, &[(8, 100)], MSG_DONTWAIT);
    link.peer.data(b"good");
    link.peer.send(ALERT, &[1, 90]);
    let _ = link.op.take(4, 0);
    let _ = link.op.take(4, 0);
    let _ = link.op.recv_record(4, 0);
    sys::sendmsg(&link.peer.tcp, &[b"!"], &[], MSG_OOB).unwrap();
    let wire = link.peer.tx.seal(DATA, &[0; 10], 0);
    link.peer.raw(&wire[..wire.len() - 1]);
    link.peer.raw(b"?garbage that is no record");
    let _ = link.op.take(100, 0);
    let _ = sys::write(&link.tcp, b"stranger");
    let _ = link.op.send(b"x", 0);
    let _ = link.op.detach(Dir::Rx);
    let _ = net::disconnect(&link.tcp);
    let _ = link.op.detach(Dir::Tx);
}

#[test]
fn no_user_can_write_to_the_log() {
    in_vm(|| {
        let parent = Parent::bind("gcm(aes)").unwrap();
        // Once is no flood: what the kernel says of AF_ALG itself.
        let link = || Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        provoke(&parent, link());
        let links: Vec<_> = (0..20).map(|_| link()).collect();
        let mut log = Log::follow();
        let thread = std::thread::spawn(move || {
            sys::become_nobody();
            for link in links {
                provoke(&parent, link);
            }
        });
        thread.join().unwrap();
        let lines = log.lines();
        assert!(lines.is_empty(), "{lines:#?}");
        // And the log was followed.
        fs::write("/dev/kmsg", "it was followed\n").unwrap();
        assert!(log.lines().iter().any(|l| l.contains("it was followed")));
    });
}

/// The counters are nobody's secret, but each namespace has its own.
#[test]
fn the_counters_can_be_read_and_not_written() {
    in_vm(|| {
        let got = child(|| {
            sys::become_nobody();
            let path = "/proc/self/net/alg_tls_stat";
            assert!(fs::read_to_string(path).is_ok());
            fs::write(path, "0").map_err(Errno::from)
        });
        assert!(got.is_err());
    });
}
