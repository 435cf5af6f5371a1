// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many records one key may protect. The limit is lowered to 20; what goes by on the wire is
//! counted by a relay between the ends, which needs no key for that: a KeyUpdate has a size of its own.

use ktlsshim_tests::{
    meddler::Meddle,
    stage::{Found, NEW, NEW_CHACHA, OLD, OLD_CHACHA, Scene, Stage, Suite},
};

const LIMIT: i64 = 20;
/// Handshake header, one byte, content type and tag.
const KEY_UPDATE: usize = 4 + 1 + 1 + 16;

fn stage(what: &str) -> Stage {
    Stage::new("limits")
        .env("KTLSSHIM_RECORD_LIMIT", &LIMIT.to_string())
        .env("KTLSSHIM_TLS12_LIMIT", what)
}

fn watched(name: &str, suite: Suite) -> Scene<'_> {
    Scene {
        name,
        suite,
        says: &[],
        meddle: Some(Meddle::Nothing),
    }
}

/// Records of application data under each key of one direction.
fn per_key(found: &Found, from_server: bool) -> Vec<i64> {
    let mut keys = vec![0];
    for passed in &found.passed {
        if passed.from_server != from_server || passed.kind != 23 {
            continue;
        }
        if passed.len == KEY_UPDATE {
            keys.push(0);
        } else if passed.len > 1000 {
            *keys.last_mut().expect("there is one") += 1;
        }
    }
    keys
}

fn updates(found: &Found) {
    for (side, lines) in found.lines.iter().enumerate() {
        let keys = per_key(found, side == 1);
        let what = format!("{keys:?}\n{}", found.text());
        for line in *lines {
            assert_eq!(line.tx.rekeys, keys.len() as i64 - 1, "{what}");
            assert!(keys.len() >= 5, "{what}");
            assert!(keys.iter().all(|n| *n <= LIMIT), "{what}");
            assert!(!line.text.contains("\"over_limit\":true"), "{what}");
        }
        // Without the shim nobody asks.
        assert!(found.shim[side] || keys.len() == 1, "{what}");
    }
    let asked: usize = (0..2).map(|side| per_key(found, side == 1).len() - 1).sum();
    assert!(found.kernel.get("AlgTlsTxRekey") > 0, "{}", found.text());
    assert_eq!(
        found.kernel.get("AlgTlsTxRekey"),
        asked as i64,
        "{}",
        found.text()
    );
}

#[test]
fn tls13_asks_for_a_key_update_before_the_limit() {
    let stage = stage("log");
    for suite in [NEW, (13, "TLS_AES_256_GCM_SHA384")] {
        stage.check_scene(watched("many_records", suite), |found| {
            found.offloaded(70);
            updates(found);
        });
    }
}

#[test]
fn tls13_counts_per_key() {
    stage("log").check_scene(watched("own_update", NEW), |found| {
        found.offloaded(20);
        for from_server in [false, true] {
            let keys = per_key(found, from_server);
            assert_eq!(keys, [15, 15], "{}", found.text());
        }
    });
}

#[test]
fn tls13_with_a_full_socket() {
    stage("log").check("full_socket", NEW, &["client: read 450000"], |found| {
        found.offloaded(20);
        for line in found.each(1) {
            assert!(line.tx.rekeys >= 1, "{}", found.text());
        }
    });
}

#[test]
fn sendfile_is_counted() {
    stage("log").check("files", NEW, &["client: read 100000"], |found| {
        found.offloaded(2);
        for line in found.each(1) {
            // A record after each KeyUpdate is OpenSSL's.
            assert!(line.tx.sendfile_bytes > 850_000, "{}", found.text());
            // Seven records each; one call is not cut in two.
            assert!(line.tx.rekeys >= 3, "{}", found.text());
        }
    });
}

#[test]
fn chacha_has_no_limit() {
    let stage = stage("renegotiate");
    for suite in [NEW_CHACHA, OLD_CHACHA] {
        stage.check_scene(watched("many_records", suite), |found| {
            found.offloaded(90);
            assert_eq!(found.kernel.get("AlgTlsTxRekey"), 0, "{}", found.text());
            assert_eq!(
                found.kernel.get("AlgTlsTx"),
                found.shims(),
                "{}",
                found.text()
            );
        });
    }
}

#[test]
fn tls12_says_so_and_goes_on() {
    stage("log").check("many_records", OLD, &[], |found| {
        found.offloaded(90);
        for line in found.each(1) {
            assert!(
                line.text.contains("\"over_limit\":true"),
                "{}",
                found.text()
            );
        }
        assert_eq!(
            found.kernel.get("AlgTlsTx"),
            found.shims(),
            "{}",
            found.text()
        );
    });
}

#[test]
fn tls12_below_the_limit_says_nothing() {
    stage("log").check("own_update", OLD, &["client: update: 0"], |found| {
        for line in found.each(1) {
            assert!(line.text.contains("\"over_limit\":"), "{}", found.text());
        }
    });
}

#[test]
fn tls12_asks_for_a_renegotiation() {
    let stage = stage("renegotiate");
    stage.check("alternating", OLD, &[], |found| {
        found.offloaded(20);
        for line in found.each(1) {
            assert!(line.tx.handbacks >= 1, "{}", found.text());
            assert!(
                !line.text.contains("\"over_limit\":true"),
                "{}",
                found.text()
            );
        }
        assert!(
            found.kernel.get("AlgTlsTx") >= 2 * found.shims(),
            "{}",
            found.text()
        );
        let begun = found
            .remarks
            .iter()
            .filter(|r| r.contains("# updates"))
            .count();
        assert_eq!(begun, 2, "{}", found.text());
        for remark in found.remarks.iter().filter(|r| r.contains("# updates")) {
            assert!(!remark.ends_with("starts 1"), "{}", found.text());
        }
    });
}

#[test]
fn tls12_renegotiates_with_a_full_socket() {
    stage("renegotiate").check("full_socket", OLD, &["client: read 450000"], |found| {
        found.offloaded(10);
    });
}

/// The other end sees a connection that was closed in order.
#[test]
fn tls12_closes() {
    stage("close").check("until_closed", OLD, &[], |found| {
        for line in found.each(1) {
            let fast = line.tx.fast_records.max(line.rx.fast_records);
            assert!(line.offloaded() && fast >= LIMIT - 1, "{}", found.text());
        }
        let says = |who: &str, what: &str| {
            assert!(
                found
                    .remarks
                    .iter()
                    .any(|r| r.contains(who) && r.contains(what)),
                "{who} does not say {what:?}\n{}",
                found.text()
            );
        };
        if found.shim[0] {
            says(
                "client",
                "# wrote 19 then -1 1 protocol is shutdown shutdown=1",
            );
            says("server", "# read 19 then 0 6");
        } else {
            says("client", "# wrote 100 then 1000 0");
            says("server", "# read 100 then 0 1");
        }
    });
}
