// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proof before the kernel gets keys, and that it can fail: a shim that was built with faults
//! (`src/planted.rs`) derives a wrong key, a wrong record number, keys for another cipher. Then the
//! connection stays with OpenSSL, nothing on the wire changes, and the log says why.

mod handback;

use std::path::PathBuf;

use handback::{Client, Ends, Found, SUITES12, SUITES13, Script, Server, TAIL};
use ktlsshim_soak::program::Program;

/// The shim with faults; without it nothing here is worth anything.
fn planted() -> PathBuf {
    let path =
        std::env::var_os("KTLSSHIM_PLANTED").expect("KTLSSHIM_PLANTED: run `cargo xtask test`");
    PathBuf::from(path)
}

/// Data, a re-key or a new handshake, data.
fn program(suite: &str) -> Program {
    let script = Script::new(suite).with(|setup| setup.tickets = 2);
    let script = if SUITES13.contains(&suite) {
        script.update(Client, true).update(Server, false)
    } else {
        script.renegotiate(Client)
    };
    script
        .write(Client, 40_000)
        .read_all(Server)
        .write(Server, 40_000)
        .read_all(Client)
        .tail()
}

/// Kind and length of the records of the tail, which are the same in every run. (A handshake holds a
/// signature, whose length is not.)
fn shape(wire: &[u8]) -> Vec<[u8; 5]> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(head) = wire.get(at..at + 5) {
        all.push(head.try_into().expect("five"));
        at += 5 + usize::from(head[3]) * 256 + usize::from(head[4]);
    }
    assert_eq!(at, wire.len(), "whole records");
    all.split_off(all.len() - TAIL - 2)
}

/// Runs the fault at either end and both, and compares with plain.
fn check(name: &str, suites: &[&str], fault: &str, proof: impl Fn(&Found)) {
    let shim = planted();
    let env = [("KTLSSHIM_PLANT", fault)];
    let mut ends = Ends::custom(name, "", Some(&shim), &env);
    for suite in suites {
        let program = program(suite);
        let plain = ends.lane(&program, [false, false]);
        let shapes = plain.lane.captured.each_ref().map(|wire| shape(wire));
        ends.check(&format!("{fault} {suite}"), &program, |found| {
            let now = found.lane.captured.each_ref().map(|wire| shape(wire));
            assert_eq!(now, shapes, "{}", found.text());
            proof(found);
        });
    }
}

/// The kernel never had anything to do with it.
fn in_userspace(found: &Found) {
    for (_, line) in found.ends() {
        for dir in [&line.tx, &line.rx] {
            assert!(!dir.kernel, "{}", found.text());
            assert_eq!(dir.fast_records + dir.slow_records, 0, "{}", found.text());
            assert_eq!(dir.reason, "proof-failed", "{}", found.text());
        }
    }
    for counter in [
        "AlgTlsTx",
        "AlgTlsRx",
        "AlgTlsTxRecords",
        "AlgTlsRxRecords",
        "AlgTlsErrBadTag",
    ] {
        assert_eq!(found.kernel.get(counter), 0, "{counter}\n{}", found.text());
    }
}

/// TLS 1.3, then TLS 1.2.
const ALL: [&str; 8] = [
    SUITES13[0],
    SUITES13[1],
    SUITES13[2],
    SUITES13[3],
    SUITES12[0],
    SUITES12[1],
    SUITES12[2],
    SUITES12[3],
];

/// The same library without a fault: the tests below test the fault.
#[test]
fn without_a_fault_it_is_offloaded() {
    check("proof-none", &[ALL[0], ALL[4]], "", |found| found.is_back());
}

#[test]
fn a_wrong_key_stays_in_userspace() {
    check(
        "proof-key",
        &[ALL[0], ALL[3], ALL[5], ALL[6]],
        "wrong-key",
        in_userspace,
    );
}

#[test]
fn a_wrong_record_number_stays_in_userspace() {
    check(
        "proof-seq",
        &[ALL[0], ALL[2], ALL[4], ALL[6]],
        "wrong-seq",
        in_userspace,
    );
}

#[test]
fn a_wrong_cipher_stays_in_userspace() {
    check(
        "proof-cipher",
        &[ALL[0], ALL[2], ALL[4], ALL[7]],
        "wrong-cipher",
        in_userspace,
    );
}

/// Receiving in TLS 1.3 is proved by the peer's Finished, which is under the handshake's keys. With a
/// wrong application key the kernel's first record does not open; it takes nothing, and OpenSSL does.
#[test]
fn a_wrong_key_after_the_proof_is_noticed_by_the_first_record() {
    check(
        "proof-traffic",
        &[ALL[0], ALL[2]],
        "wrong-traffic-key",
        |found| {
            for (_, line) in found.ends() {
                assert!(!line.tx.kernel, "{}", found.text());
                assert_eq!(line.rx.fast_records, 0, "{}", found.text());
                assert_eq!(line.tx.reason, "proof-failed", "{}", found.text());
                assert_eq!(line.rx.reason, "bad-record", "{}", found.text());
            }
            let shims = found.shims();
            for (counter, times) in [
                ("AlgTlsTx", 0),
                ("AlgTlsTxRecords", 0),
                ("AlgTlsRx", shims),
                ("AlgTlsRxDetach", shims),
                ("AlgTlsRxRecords", 0),
            ] {
                let counted = found.kernel.get(counter);
                assert_eq!(counted, times, "{counter}\n{}", found.text());
            }
            assert!(
                found.kernel.get("AlgTlsErrBadTag") >= shims,
                "{}",
                found.text()
            );
        },
    );
}
