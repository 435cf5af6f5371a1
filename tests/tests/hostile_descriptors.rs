// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors that are copied, closed behind a connection's back, passed on, used up, or raced for.
//! Each scene (`programs/hostile.c`) is compared with plain runs.

use ktlsshim_tests::stage::{BOTH, Found, on_stage};

fn play(scene: &str, says: &[&str], proof: impl Fn(&Found)) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, &proof);
        }
    });
}

#[test]
fn dup2_and_dup3_over_itself_and_close_range() {
    play(
        "copies",
        &["client: dup3: 210, cloexec 1", "client: gone: -1 9"],
        |found| found.offloaded(8),
    );
}

/// The number is free without a hook having seen it go; its next owner is a pipe.
#[test]
fn fclose_of_a_connection() {
    play("closed_by_fclose", &["client: pipe: 5 5 hello"], |found| {
        for line in found.each(2) {
            found.line_is_fast(line, 5);
        }
    });
}

#[test]
fn close_range_of_a_connection() {
    play("closed_by_range", &["client: pipe: 5 5 hello"], |found| {
        for line in found.each(2) {
            found.line_is_fast(line, 5);
        }
    });
}

/// From SSL_set_fd with the new number on records go by OpenSSL and its BIO to the kernel.
#[test]
fn passed_by_scm_rights() {
    play("passed_on", &["client: set_fd: 1"], |found| {
        found.offloaded(7)
    });
}

/// No number is left while the keys are in the kernel, also when they change.
#[test]
fn no_number_left_in_mid_offload() {
    play("used_up", &["client: no more: 1"], |found| {
        found.offloaded(8)
    });
}

/// No number is left when the handshake begins: whatever the shim does, nothing is lost.
#[test]
fn no_number_left_before_the_handshake() {
    play("used_up_early", &["client: no more: 1"], |found| {
        found.each(1);
    });
}

#[test]
fn a_connection_that_is_stdin() {
    play("number_zero", &["client: fd 0", "server: fd 0"], |found| {
        found.offloaded(7)
    });
}

/// A second thread gets each number that becomes free.
#[test]
fn numbers_that_two_threads_race_for() {
    play(
        "raced",
        &["client: wrong: 0", "server: wrong: 0"],
        |found| {
            for line in found.each(6) {
                found.line_is_fast(line, 5);
            }
        },
    );
}
