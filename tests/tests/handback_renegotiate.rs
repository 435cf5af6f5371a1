// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS 1.2 renegotiation: the kernel gives both directions back, OpenSSL shakes hands on the wire, and
//! the kernel gets the new keys. The capture of every run is judged: no key meets a nonce twice.

mod handback;

use handback::{Client, Ends, Found, SUITES12, Script, Server, renegotiated};
use ktlsshim_soak::oracle;
use ktlsshim_soak::program::{Op, Step};

/// For servers. Otherwise the second handshake resumes the first one's session, with its cipher and
/// without a certificate.
const FULL: &str = "Options = NoResumptionOnRenegotiation";

fn states(found: &Found) -> Vec<&str> {
    let states = found
        .lane
        .transcript
        .iter()
        .filter(|(_, a)| a.contains(" =state "));
    states.map(|(_, answer)| answer.as_str()).collect()
}

#[test]
fn by_either_end() {
    let mut ends = Ends::new("ren-ends");
    for suite in SUITES12 {
        for by in [Client, Server] {
            let script = Script::new(suite).renegotiate(by).rounds(2);
            let what = format!("{suite} by {by:?}");
            ends.check(&what, &script.tail(), |found| renegotiated(found, 1));
        }
    }
}

/// The classic use: a client that showed nothing is asked for its certificate once it has said what it
/// wants.
#[test]
fn a_client_certificate_is_asked_for_in_the_second_handshake() {
    let mut ends = Ends::with("ren-cert", FULL);
    for (suite, shows) in [(SUITES12[0], true), (SUITES12[2], false)] {
        let script = Script::new(suite)
            .with(|setup| setup.client_certificate = shows)
            .op(Server, Op::State)
            .step(Step::Renegotiate {
                by: Server,
                short: false,
                suite: None,
                ask: true,
            });
        let what = format!("client has one: {shows}");
        ends.check(&what, &script.tail(), |found| {
            let server: Vec<_> = states(found)
                .into_iter()
                .filter(|s| s.starts_with('S'))
                .collect();
            assert!(server[0].contains(" cert=0"), "{server:?}");
            let later = format!(" cert={}", i32::from(shows));
            assert!(server[1..].iter().all(|s| s.contains(&later)), "{server:?}");
            renegotiated(found, 1);
        });
    }
}

/// To every other cipher that the kernel has, and back.
#[test]
fn to_another_cipher() {
    let mut ends = Ends::with("ren-cipher", FULL);
    let mut script = Script::new(SUITES12[0]);
    let order = [1, 2, 3, 0];
    for (n, suite) in order.into_iter().enumerate() {
        script = script
            .step(Step::Renegotiate {
                by: if n % 2 == 0 { Client } else { Server },
                short: false,
                suite: Some(SUITES12[suite].to_owned()),
                ask: false,
            })
            .rounds(1)
            .write(Client, 20_000)
            .read_all(Server)
            .write(Server, 20_000)
            .read_all(Client);
    }
    ends.check("ciphers", &script.tail(), |found| {
        let seen = states(found);
        for suite in order {
            let name = format!("cipher={} ", SUITES12[suite]);
            assert!(seen.iter().any(|s| s.contains(&name)), "{name}: {seen:#?}");
        }
        renegotiated(found, order.len() as u64);
    });
}

/// With data of both ends unread on the wire. The end that did not ask reads the other's data before
/// it comes to the request, and its own data meets a handshake that has begun.
#[test]
fn in_the_middle_of_transfers() {
    let mut ends = Ends::new("ren-middle");
    for by in [Client, Server] {
        let other = by.other();
        let mut script = Script::new(SUITES12[1])
            .write(by, 50_000)
            .op(other, Op::ReadOnce(3000))
            .renegotiate(by)
            .write(other, 30_000)
            .op(
                by,
                Op::ReadPart {
                    percent: 40,
                    piece: 900,
                },
            )
            .read_all(other)
            .read_all(by);
        for _ in 0..4 {
            // Data may come at any time, so it is SSL_read that goes on with the handshake.
            script = script.op(other, Op::ReadOnce(64)).op(by, Op::ReadOnce(64));
        }
        let what = format!("by {by:?}");
        ends.check(&what, &script.rounds(1).tail(), |found| {
            renegotiated(found, 1)
        });
    }
}

#[test]
fn refused_by_policy() {
    let mut ends = Ends::new("ren-refused");
    for (by, refuses) in [(Client, 2), (Server, 1)] {
        let script = Script::new(SUITES12[0])
            .with(|setup| setup.refuse_renegotiation = refuses)
            .renegotiate(by)
            .write(by, 500)
            .read_all(by.other())
            .write(by.other(), 500)
            .read_all(by);
        let what = format!("by {by:?}");
        ends.check(&what, &script.program, |found| {
            for side in 0..2 {
                assert_eq!(found.wire[side].handshakes, 1, "{}", found.text());
            }
            // It was the kernel that carried the refusal, and nothing was attached anew.
            for (_, line) in found.ends() {
                assert!(line.offloaded(), "{}", found.text());
            }
            assert_eq!(
                found.kernel.get("AlgTlsTx"),
                found.shims(),
                "{}",
                found.text()
            );
            assert!(
                found.kernel.get("AlgTlsTxControl") + found.kernel.get("AlgTlsRxControl")
                    >= found.shims(),
                "{}",
                found.text()
            );
        });
    }
}

/// Full and abbreviated, by turns.
#[test]
fn repeated() {
    let mut ends = Ends::new("ren-often");
    let mut script = Script::new(SUITES12[0]);
    for n in 0..8 {
        script = script
            .step(Step::Renegotiate {
                by: if n & 1 == 0 { Client } else { Server },
                short: n & 2 != 0,
                suite: None,
                ask: false,
            })
            .write(Client, 1000 * n)
            .read_all(Server)
            .write(Server, 700 * n)
            .read_all(Client);
    }
    ends.check("often", &script.tail(), |found| renegotiated(found, 8));
}

/// The judge of all the captures above: a record repeated under the last keys of such a run, and one
/// under the first keys, are found.
#[test]
fn a_repeated_nonce_in_such_a_capture_is_noticed() {
    let mut ends = Ends::new("ren-nonce");
    let program = Script::new(SUITES12[0]).renegotiate(Client).tail();
    let mut found = ends.lane(&program, [true, true]);
    renegotiated(&found, 1);
    let good = found.lane.captured.clone();
    for (side, whole) in good.iter().enumerate() {
        let all = records(whole);
        let last = all.last().expect("records").to_vec();
        let first = all.iter().find(|r| r[0] == 23).expect("data").to_vec();
        // The same record again, under the same keys.
        found.lane.captured[side].extend(&last);
        let error = oracle::judge(&found.lane.captured, &found.lane.keylog).unwrap_err();
        assert!(error.contains("on the wire already"), "{error}");
        // And one that was sealed with keys that are gone.
        found.lane.captured[side] = [&whole[..], &first].concat();
        assert!(oracle::judge(&found.lane.captured, &found.lane.keylog).is_err());
        found.lane.captured[side] = whole.clone();
    }
    oracle::judge(&found.lane.captured, &found.lane.keylog).expect("good again");
}

fn records(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while wire.len() >= 5 {
        let n = 5 + usize::from(wire[3]) * 256 + usize::from(wire[4]);
        let (record, rest) = wire.split_at(n.min(wire.len()));
        all.push(record);
        wire = rest;
    }
    all
}
