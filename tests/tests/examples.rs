// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in examples/ works as its comments say.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use ktlsshim_tests::counters::Counters;
use ktlsshim_tests::programs_fixture::{identity, noise};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("examples")
}

fn shim() -> String {
    std::env::var("KTLSSHIM").expect("KTLSSHIM names the shim")
}

fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn good(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {errors}",
        output.status
    );
    output.stdout
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The C program is compiled by its own Makefile and serves files of several sizes, each twice over
/// one parent socket, and the kernel says that the file's bytes came by sendfile.
#[test]
fn the_socket_by_hand() {
    let dir = std::env::temp_dir().join("ktlsshim-examples");
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join("alg_sendfile");
    for name in ["alg_sendfile.c", "Makefile"] {
        fs::copy(examples().join(name), dir.join(name)).unwrap();
    }
    let include = examples().join("../kmod/uapi");
    let flags = format!("-O2 -Wall -Wextra -Werror -I{}", include.display());
    // The copy lies elsewhere: the header of the rule's dependency is named by its real place.
    let make = fs::read_to_string(dir.join("Makefile")).unwrap();
    let make = make.replace("../kmod/uapi", &include.display().to_string());
    fs::write(dir.join("Makefile"), make).unwrap();
    good(
        Command::new("make")
            .arg("-C")
            .arg(&dir)
            .arg(format!("CFLAGS={flags}")),
    );

    for size in [0, 1, 16384, 16385, 3_000_000] {
        let file = dir.join("file");
        let bytes = noise(size);
        fs::write(&file, &bytes).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let before = Counters::read();
        let mut server = Command::new(&program)
            .args([&identity().cert, &identity().key, &file])
            .arg(port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .map(Reaped)
            .unwrap();
        let mut said = BufReader::new(server.0.stdout.take().unwrap());
        for _ in 0..2 {
            let got = good(
                Command::new("curl")
                    .args([
                        "-sSk",
                        "--retry",
                        "50",
                        "--retry-connrefused",
                        "--retry-delay",
                        "0",
                    ])
                    .arg(format!("https://localhost:{port}/")),
            );
            assert!(got == bytes, "{size}: {} bytes arrived", got.len());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{size} bytes by sendfile\n"));
        }
        drop(server);
        let after = Counters::read();
        assert_eq!(after.since(&before, "AlgTlsTx"), 2, "{size}");
        assert_eq!(
            after.since(&before, "AlgTlsSendfileBytes"),
            2 * size as i64,
            "{size}"
        );
        assert_eq!(
            after.since(&before, "AlgTlsTxControl"),
            2,
            "{size}: close_notify"
        );
    }
}

fn wrapper() -> Command {
    let mut wrapper = Command::new(examples().join("ktlsshim"));
    wrapper.arg("-s").arg(shim());
    wrapper
}

#[test]
fn the_wrapper_preloads_before_what_was_there() {
    let maps = good(wrapper().args(["cat", "/proc/self/maps"]));
    assert!(String::from_utf8_lossy(&maps).contains("libktlsshim.so"));
    let other = "/lib/x86_64-linux-gnu/libz.so.1";
    let value = good(wrapper().env("LD_PRELOAD", other).args([
        "sh",
        "-c",
        "echo $LD_PRELOAD $KTLSSHIM_LOG",
    ]));
    assert_eq!(
        String::from_utf8_lossy(&value),
        format!("{}:{other}\n", shim())
    );
    let value =
        good(
            wrapper()
                .current_dir("/run")
                .args(["-l", "x", "sh", "-c", "echo $KTLSSHIM_LOG"]),
        );
    assert_eq!(String::from_utf8_lossy(&value), "/run/x\n");
    let status = output(wrapper().args(["sh", "-c", "exit 7"])).status;
    assert_eq!(status.code(), Some(7));
}

#[test]
fn the_wrapper_refuses_what_it_cannot_prove() {
    let dir = std::env::temp_dir().join("ktlsshim-wrapper");
    fs::create_dir_all(&dir).unwrap();
    let nonsense = dir.join("libktlsshim.so");
    fs::write(&nonsense, "not a library").unwrap();
    let wrapper = || Command::new(examples().join("ktlsshim"));
    let refused = output(wrapper().arg("-s").arg(&nonsense).args(["echo", "ran"]));
    assert_eq!(
        (refused.status.code(), refused.stdout),
        (Some(126), Vec::new())
    );
    let absent = output(wrapper().args(["-s", "/no/such/lib.so", "echo", "ran"]));
    assert_eq!(
        (absent.status.code(), absent.stdout),
        (Some(127), Vec::new())
    );
    for program in ["/usr/bin/su", "/sbin/ldconfig"] {
        // One is set-uid, the other linked statically.
        let refused = output(wrapper().args(["-s", &shim(), program, "--version"]));
        assert_eq!(
            (refused.status.code(), refused.stdout),
            (Some(126), Vec::new()),
            "{program}"
        );
    }
}

#[test]
fn the_wrapper_looks_into_running_processes() {
    let mut with = wrapper()
        .args(["sleep", "100"])
        .spawn()
        .map(Reaped)
        .unwrap();
    let without = Command::new("sleep")
        .arg("100")
        .spawn()
        .map(Reaped)
        .unwrap();
    let check = |pid: u32| {
        let output =
            output(Command::new(examples().join("ktlsshim")).args(["-p", &pid.to_string()]));
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let pid = with.0.id();
    // The wrapper is that process until it executes the program.
    for _ in 0..500 {
        if fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(with.0.try_wait().unwrap().is_none());
    assert_eq!(check(pid), (Some(0), format!("{pid}: preloaded (sleep)\n")));
    let pid = without.0.id();
    assert_eq!(
        check(pid),
        (Some(1), format!("{pid}: not preloaded (sleep)\n"))
    );
}
