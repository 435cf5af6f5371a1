// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection in a process that has children: borrowed memory, copied memory, other programs, and
//! descriptors that they inherit and close. Each scene (`programs/hostile.c`) is compared with plain runs.

use ktlsshim_tests::stage::{BOTH, Found, on_stage};

fn play(scene: &str, says: &[&str], least: i64) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, |found| went_on(found, least));
        }
    });
}

/// Forked children report the connection too when they close it; one process went on to the end.
fn went_on(found: &Found, least: i64) {
    for (lines, shim) in found.lines.iter().zip(found.shim) {
        assert!(
            !shim
                || lines.iter().any(|l| l.offloaded()
                    && l.tx.fast_records >= least
                    && l.rx.fast_records >= least),
            "nobody went on in the kernel\n{}",
            found.text()
        );
    }
    found.counted(found.shims());
}

/// `subprocess` of Python, ssh, sudo: the child borrows the parent's memory and closes everything.
#[test]
fn vforked_children_close_everything() {
    play(
        "children",
        &["server: vfork: 0", "client: vfork and exec: 0"],
        10,
    );
}

#[test]
fn posix_spawn_with_closing_actions() {
    play("spawned", &["server: spawned: 0", "client: spawned: 0"], 8);
}

#[test]
fn a_storm_of_forks_that_close_everything() {
    play(
        "storm",
        &["server: bad children: 0", "client: bad children: 0"],
        9,
    );
}

/// The program that is executed inherits as many descriptors as without the shim: none of ours.
#[test]
fn exec_with_and_without_close_on_exec() {
    play("executed", &["client: pclose: 0"], 7);
}
