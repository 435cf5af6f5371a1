// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that end without a word: FIN, RST, and what a program that still writes gets.

use ktlsshim_tests::{
    meddler::Meddle,
    stage::{BOTH, Found, Scene, on_stage},
};

const FAST: i64 = 4;

fn fast(found: &Found) {
    found.offloaded(FAST);
}

fn play(scene: &str, says: &[&str]) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, fast);
        }
    });
}

/// Ends the connection inside of a record, at different places for the two versions.
fn cut(how: fn(usize) -> Meddle, places: [&[usize]; 2], says: &[&str]) {
    on_stage(|stage| {
        for (suite, places) in BOTH.into_iter().zip(places) {
            for at in places {
                let scene = Scene {
                    name: "cut",
                    suite,
                    says,
                    meddle: Some(how(*at)),
                };
                stage.check_scene(scene, fast);
            }
        }
    });
}

#[test]
fn fin_without_close_notify_is_an_unexpected_eof() {
    let says = ["client: read 300", "[unexpected eof while reading]"];
    play("fin", &says);
}

#[test]
fn fin_where_the_program_tolerates_it() {
    play("fin_tolerated", &["client: read: 0 ZERO_RETURN"]);
}

#[test]
fn fin_without_waiting() {
    let says = ["client: read: -1 WANT_READ", "unexpected eof"];
    play("fin_nonblocking", &says);
}

#[test]
fn the_program_shuts_its_own_direction() {
    play("shut_rd", &["unexpected eof"]);
}

#[test]
fn fin_inside_of_a_record() {
    let says = ["client: read 400", "unexpected eof"];
    cut(Meddle::Fin, [&[1, 5, 4000], &[3, 6, 7010]], &says);
}

#[test]
fn rst_inside_of_a_record() {
    let says = ["client: read 400", "SYSCALL errno=104"];
    cut(Meddle::Rst, [&[0, 4000], &[3, 7000]], &says);
}

#[test]
fn rst_met_by_a_read() {
    play("rst_read", &["client: read: -1 SYSCALL errno=104"]);
}

#[test]
fn rst_met_by_a_write() {
    play("rst_write", &["client: write: -1 SYSCALL errno=104"]);
}

#[test]
fn rst_met_by_a_shutdown() {
    play("rst_shutdown", &["client: shutdown: -1"]);
}

#[test]
fn rst_behind_unread_data() {
    play("rst_behind_data", &["SYSCALL errno=104"]);
}

#[test]
fn sigpipe_is_raised_as_often() {
    play("sigpipe", &["client: SIGPIPE 1"]);
}

#[test]
fn a_blocked_reader_learns_of_each_kind_of_end() {
    play("blocked_close", &["client: read: 0 ZERO_RETURN"]);
    play("blocked_fin", &["unexpected eof"]);
    play("blocked_rst", &["SYSCALL errno=104"]);
}
