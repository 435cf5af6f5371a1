// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not application data goes to OpenSSL and comes from it: alerts,
//! KeyUpdate, renegotiation, authentication after the handshake.

use std::{thread::sleep, time::Duration};

use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Side},
    programs_fixture::{identity, stranger},
    programs_talk::{NEW, OLD, SUITES, Talk, s_client, s_server, said, shimmed, shims},
};

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
                // A write that has a KeyUpdate to answer first is OpenSSL's.
                assert!(
                    line.tx.fast_records >= 10 && line.rx.fast_records >= 14,
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
                // s_client hangs in plain OpenSSL too, if data of the server's meets
                // its ClientHello: SSL_read then ends the handshake and waits for
                // more. Neither end says when it is through.
                sleep(Duration::from_secs(4));
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
