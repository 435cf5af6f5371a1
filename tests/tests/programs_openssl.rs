// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two `openssl` programs that talk: echo, tickets, close, alerts, KeyUpdate,
//! renegotiation, post-handshake authentication, early data.
//!
//! What the two print is the transcript; it must not depend on who runs under
//! the shim.

use std::{fs, path::Path};

use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Outcome, Program, Running, Side, count, eventually},
    programs_fixture::{Identity, files, hex_noise, identity, noise, stranger},
    traffic::Line,
};

/// (options for both programs, part of the cipher's name)
const SUITES: [(&str, &str); 8] = [
    ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "128"),
    ("-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", "256"),
    ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20"),
    ("-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM", "CCM"),
    ("-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256", "128"),
    ("-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384", "256"),
    (
        "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256",
        "CHACHA20",
    ),
    ("-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256", "CCM"),
];
const OLD: &str = SUITES[1].0;
const NEW: &str = SUITES[4].0;

fn s_server(lab: &Lab, side: Side, port: u16, options: &str) -> Program {
    let Identity { cert, key } = identity();
    lab.program(side, "/usr/bin/openssl")
        .args(&format!(
            "s_server -accept 127.0.0.1:{port} -cert {} -key {}",
            cert.display(),
            key.display()
        ))
        .args(options)
        .interactive()
}

fn s_client(lab: &Lab, side: Side, port: u16, options: &str) -> Program {
    lab.program(side, "/usr/bin/openssl")
        .args(&format!(
            "s_client -connect 127.0.0.1:{port} -CAfile {}",
            identity().cert.display()
        ))
        .args(options)
        .interactive()
}

/// A server and a client in conversation.
struct Talk {
    server: Running,
    client: Running,
    said: usize,
}

impl Talk {
    fn open(
        lab: &Lab,
        server: Side,
        client: Side,
        options: &str,
        more_server: &str,
        more_client: &str,
    ) -> Talk {
        let port = lab.port();
        let server = s_server(
            lab,
            server,
            port,
            &format!("-naccept 1 {options} {more_server}"),
        )
        .start()
        .listening(port);
        let client = s_client(lab, client, port, &format!("{options} {more_client}")).start();
        Talk {
            server,
            client,
            said: 0,
        }
    }

    /// One line each way, and it must arrive before anything else happens.
    fn hello(&mut self) {
        self.said += 1;
        let line = format!("hello {} from the client", self.said);
        self.client.say(&format!("{line}\n"));
        self.server.expect_out(&line);
        let line = format!("hello {} from the server", self.said);
        self.server.say(&format!("{line}\n"));
        self.client.expect_out(&line);
    }

    fn hellos(&mut self, n: usize) {
        (0..n).for_each(|_| self.hello());
    }

    /// A command to the client, which says on stderr that it has begun.
    fn client_does(&mut self, command: &str, says: &str) {
        let file = self.client.err.clone();
        let before = count(&fs::read(&file).unwrap_or_default(), says.as_bytes());
        self.client.say_alone(&format!("{command}\n"));
        self.client.expect(&file, says, before + 1);
    }

    fn finish(self) -> (Vec<String>, Evidence) {
        let (client, server) = (self.client.wait(), self.server.wait());
        let mut transcript = said(&client, "client");
        transcript.extend(said(&server, "server"));
        (
            transcript,
            Evidence {
                server: server.log,
                client: client.log,
            },
        )
    }
}

/// What a program said that does not differ by itself from run to run.
fn said(outcome: &Outcome, who: &str) -> Vec<String> {
    let mut all = vec![format!("{who} ends with {}", outcome.status)];
    let keep = |line: &&str| {
        [
            "hello ",
            "error:",
            "KEYUPDATE",
            "RENEGOTIATING",
            "DONE",
            "closed",
            "CLOSED",
            "Reused,",
            "New,",
            "ERROR",
            "verify",
            "Verif",
            "early data",
            "Early data",
            "SSL_do_handshake",
            "drop connection",
            "shutting down",
            "Secure Renegotiation",
        ]
        .iter()
        .any(|word| line.contains(word))
    };
    for (stream, text) in [("out", outcome.text()), ("err", outcome.errors())] {
        for line in text.lines().filter(keep) {
            // In front of an error stands the thread's id; a line of the peer
            // may land in the middle of a session's dump.
            let line = ["error:", "hello "]
                .iter()
                .find_map(|word| line.find(word))
                .map_or(line, |at| &line[at..]);
            all.push(format!("{who} {stream}: {line}"));
        }
    }
    all
}

/// The shimmed sides' lines, of which there must be one per connection.
fn shimmed<'a>(mix: (Side, Side), evidence: &'a Evidence, connections: usize) -> Vec<&'a Line> {
    let count = |side, lines: &[Line]| {
        assert_eq!(
            lines.len(),
            if side == Side::Shim { connections } else { 0 },
            "{lines:#?}"
        )
    };
    count(mix.0, &evidence.server);
    count(mix.1, &evidence.client);
    evidence.server.iter().chain(&evidence.client).collect()
}

fn shims(mix: (Side, Side)) -> i64 {
    i64::from(mix.0 == Side::Shim) + i64::from(mix.1 == Side::Shim)
}

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
                    assert!(
                        kernel.get("AlgTlsTxControl") + kernel.get("AlgTlsRxControl") >= 1,
                        "close_notify\n{what}"
                    );
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
                    kernel.get("AlgTlsTxBytes") >= 2 * SIZE as i64 - 16_384,
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

/// Requirement 12: KeyUpdate by either side, with and without an answer.
#[test]
fn key_updates_by_either_side() {
    let lab = Lab::new("openssl-keyupdate");
    lab.differ(
        &MIXES,
        |server, client| {
            let mut talk = Talk::open(&lab, server, client, NEW, "", "");
            talk.hellos(2);
            for command in ["K", "k", "K"] {
                talk.client_does(command, "KEYUPDATE");
                talk.hellos(2);
                talk.server.say_alone(&format!("{command}\n"));
                talk.hellos(2);
            }
            // Two at once, so that a second one arrives before an answer went.
            talk.client_does("K", "KEYUPDATE");
            talk.client_does("K", "KEYUPDATE");
            talk.hellos(2);
            talk.client.say("Q\n");
            talk.finish()
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            for line in shimmed(mix, evidence, 1) {
                assert!(line.offloaded(), "{what}");
                assert!(line.tx.rekeys >= 5 && line.rx.rekeys >= 5, "{what}");
                assert!(
                    line.tx.fast_records >= 14 && line.rx.fast_records >= 14,
                    "{what}"
                );
            }
            assert!(kernel.get("AlgTlsTxRekey") >= 5 * shims(mix), "{what}");
            assert!(kernel.get("AlgTlsRxRekey") >= 5 * shims(mix), "{what}");
        },
    );
}

/// Requirement 12: TLS 1.2 renegotiation, asked for by either side.
#[test]
fn renegotiation_by_either_side() {
    let lab = Lab::new("openssl-renegotiate");
    for suite in [0, 2] {
        let options = SUITES[suite].0;
        lab.differ(
            &MIXES,
            |server, client| {
                let mut talk =
                    Talk::open(&lab, server, client, options, "-client_renegotiation", "");
                talk.hellos(2);
                talk.client_does("R", "RENEGOTIATING");
                talk.hellos(3);
                talk.server.say_alone("r\n");
                talk.hellos(3);
                talk.client.say("Q\n");
                talk.finish()
            },
            |mix, evidence, kernel| {
                let what = format!("{options} {mix:?}\n{}{kernel:?}", evidence.describe());
                for line in shimmed(mix, evidence, 1) {
                    assert!(line.offloaded(), "{what}");
                    assert!(
                        line.tx.fast_records >= 5 && line.rx.fast_records >= 5,
                        "{what}"
                    );
                }
                assert!(kernel.get("AlgTlsTxDetach") >= 2 * shims(mix), "{what}");
                assert!(kernel.get("AlgTlsRxDetach") >= 2 * shims(mix), "{what}");
                assert_eq!(
                    kernel.get("AlgTlsTx"),
                    3 * shims(mix),
                    "one attach per handshake\n{what}"
                );
            },
        );
    }
}

/// Requirement 12: a server that refuses to renegotiate (OpenSSL's default).
#[test]
fn renegotiation_refused() {
    let lab = Lab::new("openssl-refused");
    lab.differ(
        &MIXES,
        |server, client| {
            let mut talk = Talk::open(&lab, server, client, OLD, "", "");
            talk.hellos(2);
            talk.client_does("R", "RENEGOTIATING");
            talk.finish()
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            assert_eq!(shimmed(mix, evidence, 1).len() as i64, shims(mix), "{what}");
            assert_eq!(kernel.get("AlgTlsTx"), shims(mix), "{what}");
        },
    );
}

/// Requirement 3: a client that shows no certificate, or a stranger's.
#[test]
fn alerts_reach_openssl() {
    let lab = Lab::new("openssl-alerts");
    let demand = format!(
        "-Verify 1 -verify_return_error -CAfile {}",
        identity().cert.display()
    );
    let bad = format!(
        "-cert {} -key {}",
        stranger().cert.display(),
        stranger().key.display()
    );
    for options in [OLD, NEW] {
        for (shown, alert) in [("", "alert"), (bad.as_str(), "alert unknown ca")] {
            lab.differ(
                &MIXES,
                |server, client| {
                    let port = lab.port();
                    let server = s_server(
                        &lab,
                        server,
                        port,
                        &format!("-naccept 1 {options} {demand}"),
                    )
                    .start()
                    .listening(port);
                    let client = s_client(&lab, client, port, &format!("{options} {shown}"))
                        .start()
                        .wait();
                    let server = server.wait();
                    let mut transcript = said(&client, "client");
                    transcript.extend(said(&server, "server"));
                    assert!(
                        transcript
                            .iter()
                            .any(|l| l.starts_with("client err: error:") && l.contains(alert)),
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
                    let what = format!(
                        "{options} {shown} {mix:?}\n{}{kernel:?}",
                        evidence.describe()
                    );
                    // A 1.3 client has finished its handshake when the alert comes.
                    if options == NEW && mix.1 == Side::Shim {
                        assert!(
                            evidence.client.len() == 1 && evidence.client[0].rx.kernel,
                            "{what}"
                        );
                    }
                    assert!(
                        evidence.server.iter().all(|l| !l.tx.kernel && !l.rx.kernel),
                        "{what}"
                    );
                },
            );
        }
    }
}

/// Requirement 3: a peer that dies without close_notify is an error, as ever.
#[test]
fn truncation_is_noticed() {
    let lab = Lab::new("openssl-truncation");
    for options in [OLD, NEW] {
        lab.differ(
            &MIXES,
            |server, client| {
                let mut talk = Talk::open(&lab, server, client, options, "", "");
                talk.hellos(2);
                talk.client.signal(libc::SIGKILL);
                talk.finish()
            },
            |mix, evidence, kernel| {
                let what = format!("{options} {mix:?}\n{}{kernel:?}", evidence.describe());
                assert_eq!(kernel.get("AlgTlsTx"), shims(mix), "{what}");
                if mix.0 == Side::Shim {
                    assert!(
                        evidence.server.len() == 1 && evidence.server[0].offloaded(),
                        "{what}"
                    );
                }
            },
        );
    }
}

/// Handshake messages long after the handshake: the server asks for a
/// certificate in mid-life, twice.
#[test]
fn post_handshake_authentication() {
    let lab = Lab::new("openssl-pha");
    let shown = format!(
        "-enable_pha -cert {} -key {}",
        identity().cert.display(),
        identity().key.display()
    );
    let demand = format!("-verify 1 -CAfile {}", identity().cert.display());
    lab.differ(
        &MIXES,
        |server, client| {
            let mut talk = Talk::open(&lab, server, client, NEW, &demand, &shown);
            talk.hellos(2);
            for _ in 0..2 {
                talk.server.say_alone("c\n");
                talk.hellos(2);
            }
            talk.client.say("Q\n");
            talk.finish()
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            for line in shimmed(mix, evidence, 1) {
                assert!(
                    line.offloaded() && line.tx.fast_records >= 4 && line.rx.fast_records >= 4,
                    "{what}"
                );
            }
            assert!(
                kernel.get("AlgTlsTxControl") + kernel.get("AlgTlsRxControl") >= 4,
                "{what}"
            );
        },
    );
}

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
