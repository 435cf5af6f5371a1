// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requirement 8: programs that have nothing to do with TLS notice nothing.

use std::fs;

use ktlsshim_tests::programs::{Lab, Side};

const COMMANDS: [&[&str]; 16] = [
    &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    &[
        "/bin/sh",
        "-c",
        "echo one | (read x; echo $x; exec cat </etc/passwd) | wc -l; kill -9 $$",
    ],
    &[
        "/bin/bash",
        "-c",
        "exec 3<>/dev/null 4>&1; echo hi >&4; exec 4>&-; echo bye >&4",
    ],
    &["/bin/ls", "-la", "/etc"],
    &["/bin/ls", "/no/such/place"],
    &["/usr/bin/git", "--version"],
    &[
        "/bin/sh",
        "-c",
        "git init -q r && cd r && echo a >a && git add a && git -c user.name=a -c user.email=a@b commit -qm a && git status --short && git log --format=%s",
    ],
    &["/usr/bin/python3", "-c", ""],
    &[
        "/usr/bin/python3",
        "-c",
        "import subprocess; print(subprocess.run(['ls', '/etc/passwd'], close_fds=True, capture_output=True))",
    ],
    &[
        "/usr/bin/python3",
        "-c",
        "import ssl, socket, os; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(9)); os.dup2(a.fileno(), 77); os.closerange(70, 80); a.close(); print(b.recv(9))",
    ],
    &[
        "/usr/bin/python3",
        "-c",
        "import os, sys; p = os.fork(); os.write(1, b'child\\n' if p == 0 else b''); os._exit(5) if p == 0 else print(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]))",
    ],
    &["/usr/bin/ssh", "-V"],
    &["/usr/bin/apt", "--version"],
    &["/usr/bin/openssl", "dgst", "-sha256", "/etc/passwd"],
    &[
        "/usr/bin/perl",
        "-e",
        "print qq(hi\\n); open my $f, '<', '/etc/passwd'; my @l = <$f>; print scalar(@l), qq(\\n); exit 7",
    ],
    &[
        "/bin/sh",
        "-c",
        "seq 1 100000 | sort -n | tail -1; dd if=/dev/zero bs=64k count=16 2>/dev/null | wc -c",
    ],
];

#[test]
fn programs_without_tls_are_left_alone() {
    let lab = Lab::new("foreign");
    for command in COMMANDS {
        let run = |side: Side| {
            let _ = fs::remove_dir_all(lab.path("r"));
            let program = command[1..]
                .iter()
                .fold(lab.program(side, command[0]), |p, arg| p.arg(arg));
            let done = program.run();
            // No log line, no open log: there was no TLS.
            assert!(done.log.is_empty(), "{command:?}: {:?}", done.log);
            (done.status, done.text(), done.errors())
        };
        let plain = run(Side::Plain);
        assert_ne!(plain.0, 127, "{command:?} is not here: {plain:?}");
        assert_eq!(plain, run(Side::Shim), "{command:?}");
    }
}

/// ld.so goes on without a library that it cannot load, and then everything
/// above holds for nothing: the shim must be seen in the process.
#[test]
fn the_preload_is_really_there() {
    let lab = Lab::new("mapped");
    let mapped = |side: Side| {
        let maps = lab
            .program(side, "/bin/cat")
            .arg("/proc/self/maps")
            .run()
            .good();
        (maps.text().contains("libktlsshim"), maps.errors())
    };
    assert_eq!(mapped(Side::Plain), (false, String::new()));
    if !lab.plain() {
        assert_eq!(mapped(Side::Shim), (true, String::new()));
    }
}
