// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requirement 9: where the kernel socket is missing or denied, everything goes
//! on as without the shim, silently but for the log.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ktlsshim_tests::{
    programs::{Evidence, Lab, Program, Side},
    programs_fixture::{Identity, files, identity, noise, script},
    traffic::{Kernel, Line},
};

const SIZE: usize = 300_000;

/// The tests here take the module away from each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ends under the shim, after `change` has been made to each; returns
/// what curl printed and how it ended.
fn exchange(
    lab: &Lab,
    side: Side,
    change: &dyn Fn(Program) -> Program,
) -> ((i32, bool, String, i32, String), Evidence) {
    let root = files(lab, &[SIZE]);
    let port = lab.port();
    let Identity { cert, key } = identity();
    let mut program = lab
        .program(side, "/usr/bin/python3")
        .arg("-u")
        .arg(script("http_server.py"))
        .arg(port.to_string())
        .arg(cert)
        .arg(key)
        .arg("TLSv1_3");
    program.command.current_dir(&root);
    let server = change(program).start().listening(port);
    let url = format!("https://localhost:{port}/{SIZE}");
    let curl = lab
        .program(side, "/usr/bin/curl")
        .args("-sS --max-time 80 --cacert")
        .arg(cert)
        .arg(&url)
        .arg(&url);
    let curl = change(curl).run();
    let server = server.stop(libc::SIGTERM);
    let same = curl.out == [noise(SIZE), noise(SIZE)].concat();
    let got = (
        curl.status,
        same,
        curl.errors(),
        server.status,
        server.errors(),
    );
    (
        got,
        Evidence {
            server: server.log,
            client: curl.log,
        },
    )
}

/// Nothing is offloaded, and nobody but the log tells.
fn passes_silently(name: &str, change: &dyn Fn(Program) -> Program, proof: impl Fn(&[Line], &str)) {
    let lab = Lab::new(name);
    lab.differ(
        &[(Side::Shim, Side::Shim)],
        |side, _| {
            let (got, evidence) = exchange(&lab, side, change);
            assert!(got.1, "the bytes differ: {got:?}");
            (got, evidence)
        },
        |_, evidence, kernel| {
            let what = format!("{}{kernel:?}", evidence.describe());
            assert_eq!(kernel.get("AlgTlsTx") + kernel.get("AlgTlsRx"), 0, "{what}");
            proof(&evidence.server, &what);
            proof(&evidence.client, &what);
        },
    );
}

/// One line, and both its directions give this reason.
fn because(word: &str) -> impl Fn(&[Line], &str) {
    move |lines, what| {
        assert_eq!(lines.len(), 1, "{what}");
        for dir in [&lines[0].tx, &lines[0].rx] {
            assert!(
                !dir.kernel && dir.reason.contains(word),
                "expected {word:?}\n{what}"
            );
        }
    }
}

#[test]
fn it_would_be_offloaded_otherwise() {
    let _alone = alone();
    let lab = Lab::new("present");
    if lab.plain() {
        return;
    }
    let before = Kernel::now(&lab);
    let (got, evidence) = exchange(&lab, Side::Shim, &|program| program);
    assert!(got.1 && got.0 == 0, "{got:?}");
    let kernel = Kernel::settled(&lab).since(&before);
    assert_eq!(
        (kernel.get("AlgTlsTx"), kernel.get("AlgTlsRx")),
        (2, 2),
        "{}",
        evidence.describe()
    );
}

#[test]
fn switched_off_by_backend() {
    let _alone = alone();
    passes_silently(
        "backend-off",
        &|program| program.env("KTLSSHIM_BACKEND", "off"),
        because("disabled"),
    );
}

#[test]
fn disabled_altogether() {
    let _alone = alone();
    passes_silently(
        "disabled",
        &|program| program.env("KTLSSHIM_DISABLE", "1"),
        |lines, what| {
            assert!(lines.iter().all(|l| !l.tx.kernel && !l.rx.kernel), "{what}");
        },
    );
}

#[test]
fn programs_on_the_deny_list() {
    let _alone = alone();
    let deny = |program: Program| program.env("KTLSSHIM_PROGRAMS", "!curl:!python3.11:!python3");
    passes_silently("denied-programs", &deny, |lines, what| {
        assert!(lines.iter().all(|l| !l.tx.kernel && !l.rx.kernel), "{what}");
    });
}

#[test]
fn a_user_without_rights() {
    let _alone = alone();
    let nobody = |mut program: Program| {
        program.command.uid(65_534).gid(65_534);
        program
    };
    passes_silently("unprivileged", &nobody, because("backend-unavailable"));
}

#[test]
fn address_family_denied_by_seccomp() {
    let _alone = alone();
    for errno in [libc::EPERM, libc::EAFNOSUPPORT, libc::EACCES] {
        let deny = move |mut program: Program| {
            // SAFETY: the closure makes two system calls and touches only its
            // own stack, as it must between fork and exec.
            unsafe { program.command.pre_exec(move || deny_alg(errno)) };
            program
        };
        passes_silently("seccomp", &deny, because("backend-unavailable"));
    }
}

#[test]
fn module_missing() {
    let _alone = alone();
    let lab = Lab::new("no-module");
    if lab.plain() {
        return;
    }
    let (expected, _) = exchange(&lab, Side::Plain, &|program| program);
    let (got, evidence) = {
        let _without = Without::module();
        assert!(Kernel::read().is_none(), "the module is still there");
        exchange(&lab, Side::Shim, &|program| program)
    };
    assert_eq!(got, expected);
    assert!(got.1, "the bytes differ");
    let what = evidence.describe();
    because("backend-unavailable")(&evidence.server, &what);
    because("backend-unavailable")(&evidence.client, &what);
}

/// Takes the module out, and puts it back when dropped.
struct Without;

impl Without {
    fn module() -> Without {
        run(Command::new("/sbin/rmmod").arg("algif_tls"));
        Without
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        let module = std::env::var_os("KTLSSHIM_KMOD").expect("KTLSSHIM_KMOD names the module");
        run(Command::new("/sbin/insmod").arg(module));
    }
}

fn run(command: &mut Command) {
    let done = command.output().expect("a command");
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// As container runtimes do it: socket(AF_ALG, …) fails, all else is allowed.
fn deny_alg(errno: libc::c_int) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // Offsets in struct seccomp_data: nr, and the low half of args[0].
    let mut filter = [
        op(LOAD, 0, 0, 0),
        op(EQUAL, 0, 3, libc::SYS_socket as u32),
        op(LOAD, 0, 0, 16),
        op(EQUAL, 0, 1, libc::AF_ALG as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` describes `filter`, which outlives both calls; the
    // kernel copies it.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
    };
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
