// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handlers that do I/O, jumps and cancellations out of a read that waits, and I/O while a thread ends.
//! Each scene (`programs/hostile.c`) is compared with plain runs.

use ktlsshim_tests::stage::{BOTH, on_stage};

fn play(scene: &str, says: &[&str], least: i64) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, |found| found.offloaded(least));
        }
    });
}

#[test]
fn a_handler_that_writes_and_closes() {
    play("handler", &["client: rang: 1", "server: rang: 1"], 9);
}

#[test]
fn siglongjmp_out_of_a_read() {
    play("jumped", &["client: out of it", "server: out of it"], 6);
}

#[test]
fn pthread_cancel_out_of_a_read() {
    play(
        "cancelled",
        &["client: cancelled: 1", "server: cancelled: 1"],
        6,
    );
}

#[test]
fn data_from_the_destructor_of_a_thread_key() {
    play("destructor", &["client: read 2000"], 10);
}
