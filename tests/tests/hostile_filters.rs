// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands between OpenSSL and the socket, or reads the socket by another name. Each scene
//! (`programs/hostile.c`) is compared with plain runs.

use ktlsshim_tests::{
    meddler::Meddle,
    stage::{BOTH, Found, Scene, on_stage},
};

fn play(scene: &str, meddle: bool, says: &[&str], proof: impl Fn(&Found)) {
    on_stage(|stage| {
        for suite in BOTH {
            let scene = Scene {
                name: scene,
                suite,
                says,
                meddle: meddle.then_some(Meddle::Nothing),
            };
            stage.check_scene(scene, &proof);
        }
    });
}

/// A buffer holds records back: nothing overtakes them, and nothing leaves in clear text.
#[test]
fn a_buffer_before_the_socket() {
    play("buffered", true, &["client: flush: 1"], |found| {
        found.each(1);
        // The relay reads record headers: text without one would have no such kind.
        assert!(
            found.passed.iter().all(|p| (20..=23).contains(&p.kind)),
            "{}",
            found.text()
        );
    });
}

/// The kernel cannot do what a filter of the program's does to every byte. Sending never begins; that
/// received bytes are no records shows with the first one, which OpenSSL then gets as it came.
#[test]
fn a_filter_that_changes_every_byte() {
    play("filtered", false, &["client: read 2000"], |found| {
        for line in found.each(1) {
            assert!(!line.tx.kernel, "{}", found.text());
            assert_eq!(line.tx.before_bytes, line.tx.bytes(), "{}", found.text());
            assert_eq!(line.rx.before_bytes, line.rx.bytes(), "{}", found.text());
        }
        assert_eq!(found.kernel.get("AlgTlsRxRecords"), 0, "{}", found.text());
    });
}

/// `__read_chk` and `__recv_chk` of clear text that follows the shutdown.
#[test]
fn fortified_reads_after_the_shutdown() {
    play(
        "fortified",
        false,
        &["client: peek 5 clear", "client: read 10 clear text"],
        |found| found.offloaded(6),
    );
}
