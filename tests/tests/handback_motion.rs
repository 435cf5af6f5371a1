// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys that change while something else goes on in the same connection: a thread that sleeps in
//! SSL_read, a file that SSL_sendfile sends in pieces (`programs/motion.c`).

mod handback;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use handback::{
    Found, re_keyed,
    tap::{Record, Tap},
};
use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Program, Side},
    programs_fixture::{identity, script},
};

/// The program, compiled as anyone's would be.
fn motion() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = std::env::temp_dir().join(format!("motion-{}", std::process::id()));
        let made = Command::new("cc")
            .args(["-O2", "-pthread", "-o"])
            .arg(&program)
            .arg(script("motion.c"))
            .args(["-lssl", "-lcrypto"])
            .output()
            .expect("a C compiler (gcc)");
        let errors = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "motion.c: {errors}");
        program
    })
}

fn end(lab: &Lab, side: Side, role: &str, port: u16, test: &str) -> Program {
    let id = identity();
    lab.program(side, motion()).args(&format!(
        "{role} {port} {} {} {} {test}",
        id.cert.display(),
        id.key.display(),
        lab.path(&format!("{role}.keys")).display()
    ))
}

/// Both programs to their ends over a tapped wire, in every mix.
fn run(name: &str, test: &str, proof: impl Fn(&Found, &[bool; 2])) {
    let lab = Lab::new(name);
    let record = Record::default();
    lab.differ(
        &MIXES,
        |server, client| {
            let port = lab.port();
            let server = end(&lab, server, "server", port, test)
                .start()
                .listening(port);
            let tap = Tap::new(port);
            let client = end(&lab, client, "client", tap.port, test).run();
            let server = server.wait();
            if client.status != 0 || server.status != 0 {
                panic!("{client:?}\n{server:?}");
            }
            record.keep(tap.end(), &lab.path("client.keys"));
            let granted = server.errors().contains("granted 1");
            fs::write(lab.path("granted"), granted.to_string()).expect("a note");
            let said = [client.text(), server.text()];
            let evidence = Evidence {
                server: server.log,
                client: client.log,
            };
            (said, evidence)
        },
        |mix, evidence, kernel| {
            let found = record.found(mix, evidence, kernel);
            let granted = fs::read_to_string(lab.path("granted")).expect("a note");
            assert_eq!(
                granted == "true",
                found.shim[1] && test == "file",
                "{}",
                found.text()
            );
            proof(&found, &found.shim);
        },
    );
}

/// Six times: the sleeper gets a new key, its own end takes one, it gets one that wants an answer,
/// which the other thread sends, and it gets the answer to one.
#[test]
fn a_thread_sleeps_in_a_read() {
    run("motion-reader", "reader", |found, _| {
        // Of each end's own; the client's answer to the request; the server's to the client's.
        re_keyed(found, 6 * 3, 6 * 3);
        for (_, line) in found.ends() {
            assert!(
                line.tx.fast_records >= 60 && line.rx.fast_records >= 60,
                "{}",
                found.text()
            );
        }
    });
}

#[test]
fn a_file_is_on_its_way() {
    run("motion-file", "file", |found, shim| {
        let [client, server] = [0, 1].map(|side| found.wire[side].key_updates);
        // Eight of its own, and answers to the client's; some answer several at once.
        assert!(client >= 8 && server > 8, "{}", found.text());
        re_keyed(found, client, server);
        if shim[1] {
            // What follows a key update first is OpenSSL's to send, from the file all the same.
            let sent = found.lines[1][0].tx.sendfile_bytes;
            assert!(sent > 100_000, "{}", found.text());
            let counted = found.kernel.get("AlgTlsSendfileBytes");
            assert_eq!(counted, sent, "{}", found.text());
        }
    });
}
