// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two `openssl` programs that talk: echo, bulk, tickets, early data.
//!
//! What the two print is the transcript; it must not depend on who runs under
//! the shim.

use std::{fs, path::Path};

use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Side, eventually},
    programs_fixture::{files, hex_noise, identity, noise},
    programs_talk::{NEW, OLD, SUITES, Talk, s_client, s_server, said, shimmed, shims},
    traffic::Line,
};

/// Requirement 3: lines both ways; the client closes, then the server does.
#[test]
fn echo_both_ways_and_close_by_either() {
    let lab = Lab::new("openssl-echo");
    for options in [OLD, NEW] {
        for closer in ["client", "server"] {
            lab.differ(
                &MIXES,
                |server, client| {
                    let mut talk = Talk::open(&lab, server, client, options, "", "");
                    talk.hellos(3);
                    if closer == "client" {
                        talk.client.say("Q\n")
                    } else {
                        talk.server.say("Q\n")
                    }
                    talk.finish()
                },
                |mix, evidence, kernel| {
                    let what = format!(
                        "{options} {closer} {mix:?}\n{}{kernel:?}",
                        evidence.describe()
                    );
                    for line in shimmed(mix, evidence, 1) {
                        assert!(line.offloaded(), "{what}");
                        // A 1.3 client proves TX by its first record.
                        assert!(
                            line.tx.fast_records >= 2 && line.rx.fast_records >= 3,
                            "{what}"
                        );
                    }
                    assert!(kernel.get("AlgTlsTxRecords") >= 2 * shims(mix), "{what}");
                    // s_server closes its socket first: no close_notify from there.
                    let alerts = kernel.get("AlgTlsTxControl") + kernel.get("AlgTlsRxControl");
                    assert!(alerts >= 1 || closer == "server", "{what}");
                },
            );
        }
    }
}

/// Requirements 1 and 3: every suite, a megabyte each way.
#[test]
fn a_megabyte_each_way_in_every_suite() {
    const SIZE: usize = 1 << 20;
    let lab = Lab::new("openssl-suites");
    let text = String::from_utf8(hex_noise(SIZE)).expect("hex");
    for (options, aead) in SUITES {
        lab.differ(
            &[(Side::Shim, Side::Shim)],
            |server, client| {
                let port = lab.port();
                let options = format!("-quiet {options}");
                let mut server = s_server(&lab, server, port, &format!("-naccept 1 {options}"))
                    .start()
                    .listening(port);
                let mut client =
                    s_client(&lab, client, port, &format!("{options} -no_ign_eof")).start();
                client.say(&text);
                server.say(&text);
                eventually("both have it all", || {
                    assert!(
                        server.ended().is_none() && client.ended().is_none(),
                        "{}",
                        client.describe()
                    );
                    size(&server.out) >= SIZE && size(&client.out) >= SIZE
                });
                client.hush();
                let (client, server) = (client.wait(), server.wait());
                let same = client.text() == text && server.text() == text;
                assert!(same, "{options}: the text differs");
                (
                    (client.status, server.status),
                    Evidence {
                        server: server.log,
                        client: client.log,
                    },
                )
            },
            |mix, evidence, kernel| {
                let what = format!("{options} {mix:?}\n{}{kernel:?}", evidence.describe());
                for line in shimmed(mix, evidence, 1) {
                    assert!(line.offloaded() && line.cipher.contains(aead), "{what}");
                    assert_eq!(
                        (line.tx.bytes(), line.rx.bytes()),
                        (SIZE as i64, SIZE as i64),
                        "{what}"
                    );
                }
                assert!(
                    kernel.get("AlgTlsTxBytes") >= 2 * (SIZE as i64 - 16_384),
                    "{what}"
                );
                assert!(kernel.get("AlgTlsRxBytes") >= 2 * SIZE as i64, "{what}");
            },
        );
    }
}

fn size(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |meta| meta.len() as usize)
}

/// Requirement 3: tickets are made, kept and used again.
#[test]
fn sessions_are_resumed() {
    let lab = Lab::new("openssl-resume");
    for options in [OLD, NEW] {
        lab.differ(
            &MIXES,
            |server, client| {
                let (port, ticket) = (lab.port(), lab.path("ticket"));
                let mut server = s_server(&lab, server, port, &format!("-naccept 3 {options}"))
                    .start()
                    .listening(port);
                let (mut transcript, mut log) = (Vec::new(), Vec::new());
                for (turn, flag) in ["-sess_out", "-sess_in", "-sess_in"].iter().enumerate() {
                    let options = format!("{options} {flag} {}", ticket.display());
                    let mut client = s_client(&lab, client, port, &options).start();
                    client.say(&format!("hello {turn} from the client\n"));
                    server.expect_out(&format!("hello {turn} from the client"));
                    server.say(&format!("hello {turn} from the server\n"));
                    client.expect_out(&format!("hello {turn} from the server"));
                    client.say("Q\n");
                    let client = client.wait();
                    transcript.extend(said(&client, "client"));
                    log.extend(client.log);
                }
                let server = server.wait();
                transcript.extend(said(&server, "server"));
                let reused = transcript
                    .iter()
                    .filter(|l| l.starts_with("client out: Reused,"))
                    .count();
                assert_eq!(reused, 2, "{transcript:#?}");
                (
                    transcript,
                    Evidence {
                        server: server.log,
                        client: log,
                    },
                )
            },
            |mix, evidence, kernel| {
                let what = format!("{options} {mix:?}\n{}{kernel:?}", evidence.describe());
                assert!(
                    shimmed(mix, evidence, 3).iter().all(|l| l.offloaded()),
                    "{what}"
                );
                assert_eq!(kernel.get("AlgTlsTx"), 3 * shims(mix), "{what}");
            },
        );
    }
}

/// Requirement 3: the client drops the connection five times and comes back.
#[test]
fn s_client_reconnects() {
    let lab = Lab::new("openssl-reconnect");
    lab.differ(
        &MIXES,
        |server, client| {
            let port = lab.port();
            let mut server = s_server(&lab, server, port, &format!("-naccept 6 {OLD}"))
                .start()
                .listening(port);
            let mut client = s_client(&lab, client, port, &format!("{OLD} -reconnect")).start();
            client.expect(&client.out.clone(), "Reused,", 5);
            client.say("hello again\n");
            server.expect_out("hello again");
            client.say("Q\n");
            let (client, server) = (client.wait(), server.wait());
            let mut transcript = said(&client, "client");
            transcript.extend(said(&server, "server"));
            (
                transcript,
                Evidence {
                    server: server.log,
                    client: client.log,
                },
            )
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            // s_client uses one SSL object, cleared, for all six.
            let last: Vec<&Line> = evidence
                .server
                .last()
                .into_iter()
                .chain(evidence.client.last())
                .collect();
            assert!(
                last.len() as i64 == shims(mix) && last.iter().all(|l| l.offloaded()),
                "{what}"
            );
        },
    );
}

/// Handshake messages long after the handshake: the server asks for a
/// Early data is OpenSSL's; what follows is the kernel's.
#[test]
fn early_data_stays_with_openssl() {
    let lab = Lab::new("openssl-early");
    fs::write(lab.path("early"), "hello early\n").expect("early data");
    lab.differ(
        &MIXES,
        |server, client| {
            let (port, ticket) = (lab.port(), lab.path("ticket"));
            let mut server = s_server(&lab, server, port, &format!("-naccept 2 {NEW} -early_data"))
                .start()
                .listening(port);
            let mut first = s_client(
                &lab,
                Side::Plain,
                port,
                &format!("{NEW} -sess_out {}", ticket.display()),
            )
            .start();
            first.say("hello first\n");
            server.expect_out("hello first");
            server.say("hello first from the server\n");
            first.expect_out("hello first from the server");
            first.say("Q\n");
            first.wait();
            let options = format!("{NEW} -sess_in {} -early_data early", ticket.display());
            let mut client = s_client(&lab, client, port, &options).start();
            server.expect_out("hello early");
            client.say("hello second\n");
            server.expect_out("hello second");
            server.say("hello second from the server\n");
            client.expect_out("hello second from the server");
            client.say("hello third\n");
            server.expect_out("hello third");
            client.say("Q\n");
            let (client, server) = (client.wait(), server.wait());
            let mut transcript = said(&client, "client");
            transcript.extend(said(&server, "server"));
            assert!(
                transcript
                    .iter()
                    .any(|l| l.contains("Early data was accepted")),
                "{transcript:#?}"
            );
            (
                transcript,
                Evidence {
                    server: server.log,
                    client: client.log,
                },
            )
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            let last: Vec<&Line> = evidence
                .server
                .last()
                .into_iter()
                .chain(evidence.client.last())
                .collect();
            assert!(last.len() as i64 == shims(mix), "{what}");
            // Offloaded afterwards or not: early data itself never is.
            let early = "hello early\n".len() as i64;
            for line in last {
                let dir = if line.role == "client" {
                    &line.tx
                } else {
                    &line.rx
                };
                let all = early + "hello second\nhello third\n".len() as i64;
                assert!(dir.fast_bytes + dir.slow_bytes <= all - early, "{what}");
            }
        },
    );
}

/// Requirement 3: s_server's web server hides its data calls in a BIO_f_ssl.
/// Whatever the shim makes of that, the bytes are the same, and it says so.
#[test]
fn the_web_server_of_s_server_still_works() {
    const SIZES: [usize; 3] = [1, 16_385, 1 << 20];
    let lab = Lab::new("openssl-www");
    let root = files(&lab, &SIZES);
    for options in ["-tls1_2", "-tls1_3"] {
        lab.differ(
            &MIXES,
            |server, client| {
                let port = lab.port();
                let mut server = s_server(
                    &lab,
                    server,
                    port,
                    &format!("-WWW -naccept {} {options}", SIZES.len()),
                );
                server.command.current_dir(&root);
                let server = server.start().listening(port);
                let (mut all, mut log) = (Vec::new(), Vec::new());
                for size in SIZES {
                    let curl = lab
                        .program(client, "/usr/bin/curl")
                        .args("-sS --http0.9 --max-time 60 --cacert")
                        .arg(&identity().cert)
                        .arg(format!("https://localhost:{port}/{size}"))
                        .run();
                    assert!(
                        curl.out == noise(size),
                        "{size} bytes differ: {}",
                        curl.errors()
                    );
                    all.push((curl.status, curl.errors()));
                    log.extend(curl.log);
                }
                let server = server.wait();
                (
                    (all, server.status),
                    Evidence {
                        server: server.log,
                        client: log,
                    },
                )
            },
            |mix, evidence, kernel| {
                let what = format!("{options} {mix:?}\n{}{kernel:?}", evidence.describe());
                for line in shimmed(mix, evidence, SIZES.len()) {
                    let explained = |kernel: bool, reason: &str| kernel || !reason.is_empty();
                    assert!(
                        explained(line.tx.kernel, &line.tx.reason)
                            && explained(line.rx.kernel, &line.rx.reason),
                        "{what}"
                    );
                }
                assert!(evidence.client.iter().all(|l| l.rx.kernel), "{what}");
            },
        );
    }
}
