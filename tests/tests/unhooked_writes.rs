// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to write, each by its name: modes, sizes of records, writes that give up and are repeated.

use ktlsshim_tests::{
    meddler::{Meddle, Passed},
    stage::{BOTH, Found, NEW, OLD, Scene, Suite, on_stage},
};

const FAST: i64 = 4;

fn play_with(suites: &[Suite], scene: &str, says: &[&str], proof: impl Fn(&Found)) {
    on_stage(|stage| {
        for suite in suites {
            stage.check(scene, *suite, says, &proof);
        }
    });
}

fn play(scene: &str, says: &[&str]) {
    play_with(&BOTH, scene, says, |found| found.offloaded(FAST));
}

#[test]
fn partial_writes() {
    let says = [
        "client: write: 16384 NONE",
        "server: wrote 400000",
        "server: read 482536",
    ];
    play("partial_write", &says);
}

#[test]
fn whole_writes() {
    play(
        "whole_write",
        &["client: wrote it all", "server: read 490000"],
    );
}

#[test]
fn moving_buffers() {
    let says = [
        "client: moved: -1 WANT_WRITE errno=11",
        "server: at last: 50000 NONE",
    ];
    play("moving_allowed", &says);
}

#[test]
fn a_moved_buffer_is_refused_without_the_mode() {
    play(
        "moving_forbidden",
        &["client: moved: -1 SSL errno=0 want=1 [bad write retry]"],
    );
}

#[test]
fn a_shorter_retry_is_refused() {
    play(
        "shorter",
        &["client: shorter: -1 SSL errno=0 want=1 [bad length]"],
    );
}

/// Plaintext sizes of the application records of one direction, run by run: (size, how many).
fn sizes(found: &Found, from_server: bool) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for passed in &found.passed {
        // In TLS 1.3 all but data is far smaller, or comes before it (tickets).
        let overhead = if found.suite == OLD { 8 + 16 } else { 1 + 16 };
        let size = passed.len.saturating_sub(overhead);
        if passed.from_server != from_server || passed.kind != 23 || size < 150 {
            continue;
        }
        match runs.last_mut() {
            Some((last, count)) if *last == size => *count += 1,
            _ => runs.push((size, 1)),
        }
    }
    runs
}

fn fragments(scene: &str, says: &[&str], expected: &[(usize, usize)]) {
    on_stage(|stage| {
        for suite in BOTH {
            let scene = Scene {
                name: scene,
                suite,
                says,
                meddle: Some(Meddle::Nothing),
            };
            stage.check_scene(scene, |found| {
                found.offloaded(FAST);
                for from_server in [false, true] {
                    let found_sizes = sizes(found, from_server);
                    assert!(
                        found_sizes.ends_with(expected),
                        "{found_sizes:?}\n{}",
                        found.text()
                    );
                }
            });
        }
    });
}

#[test]
fn max_send_fragment() {
    fragments(
        "send_fragment",
        &["client: fragment: 0", "server: write: 600 NONE"],
        &[
            (3000, 1),
            (2000, 3),
            (1000, 1),
            (2000, 2),
            (1000, 1),
            (2000, 2),
            (1000, 1),
            (600, 8),
            (200, 1),
            (600, 1),
        ],
    );
}

#[test]
fn max_fragment_length() {
    fragments(
        "fragment_length",
        &["client: ask: 1"],
        &[(1024, 4), (904, 1), (1024, 4), (904, 1)],
    );
}

/// Application records that the server sent.
fn from_server(found: &Found) -> Vec<Passed> {
    let mut all = found.passed.clone();
    all.retain(|passed| passed.from_server && passed.kind == 23);
    all
}

/// The kernel pads nothing: the padding end sends by OpenSSL, and everything else is the kernel's.
fn padded(scene: &str, multiple: bool) {
    on_stage(|stage| {
        let scene = |suite| Scene {
            name: scene,
            suite,
            says: &["client: peek: 3000 NONE"],
            meddle: Some(Meddle::Nothing),
        };
        stage.check_scene(scene(NEW), |found| {
            for line in found.each(1) {
                let pads = line.role == "server";
                assert_eq!(line.tx.kernel, !pads, "{}", found.text());
                assert!(
                    line.rx.kernel && line.rx.fast_records >= FAST,
                    "{}",
                    found.text()
                );
                if pads {
                    assert_eq!(line.tx.reason, "record-padding", "{}", found.text());
                } else {
                    assert!(line.tx.fast_records >= FAST, "{}", found.text());
                }
            }
            let records = from_server(found);
            assert!(records.len() > 10, "{}", found.text());
            for passed in records {
                let inner = passed.len - 16;
                let right = if multiple {
                    inner % 512 == 0
                } else {
                    inner >= 700
                };
                assert!(right, "{passed:?} is not padded\n{}", found.text());
            }
        });
        // TLS 1.2 has no padding. A shim that cannot know the version yet may stay out.
        stage.check_scene(scene(OLD), |found| {
            for line in found.each(1) {
                assert!(
                    line.rx.kernel && line.rx.fast_records >= FAST,
                    "{}",
                    found.text()
                );
            }
        });
    });
}

#[test]
fn record_padding_by_blocks() {
    padded("block_padding", true);
}

#[test]
fn record_padding_by_callback() {
    padded("callback_padding", false);
}

#[test]
fn send_timeout() {
    play(
        "sndtimeo",
        &[
            "client: full: -1 WANT_WRITE errno=11",
            "server: again: 200000 NONE",
        ],
    );
}

#[test]
fn eintr_while_writing() {
    play(
        "eintr_write",
        &[
            "client: full: -1 WANT_WRITE errno=4",
            "server: again: 200000 NONE",
        ],
    );
}

#[test]
fn signals_that_restart_are_not_noticed() {
    play("eintr_restart", &["client: rang: 1", "server: read 500000"]);
}
