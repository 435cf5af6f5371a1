// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to read that pass by the simple `SSL_read`, each by its name: what the shim holds and what
//! OpenSSL would hold look alike.

use ktlsshim_tests::stage::{ALL, BOTH, Found, NEW, Suite, on_stage};

/// Records of warm() each way that OpenSSL did not touch.
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
fn ssl_peek() {
    let says = [
        "client: peek: 3000 NONE",
        "client: pending 2900",
        "client: peek_ex: 1 NONE",
        "client: peek: -1 WANT_READ",
        "server: peek: 3000 NONE",
    ];
    play_with(&ALL, "peeks", &says, |found| found.offloaded(FAST + 2));
}

#[test]
fn tiny_buffers() {
    play("tiny_reads", &["client: read: 1 NONE", "server: read: 0 "]);
}

#[test]
fn huge_buffers() {
    let says = ["client: read 72770", "server: read: -1 WANT_READ"];
    play("huge_reads", &says);
}

#[test]
fn ssl_pending_and_ssl_has_pending() {
    let says = [
        "client: pending 2000 has_pending 1",
        "server: pending 1 has_pending 1",
    ];
    play("pending", &says);
}

#[test]
fn read_ahead_from_the_start() {
    play("ahead_from_start", &["client: read 72770"]);
}

#[test]
fn read_ahead_in_mid_life() {
    play(
        "ahead_in_mid_life",
        &["client: read 72770", "server: pending 2000 has_pending 1"],
    );
}

/// Early data is OpenSSL's; what follows it is the kernel's.
#[test]
fn early_data_accepted() {
    let says = [
        "server: early: 1, 1500",
        "client: early: 1 1000",
        "server: status 2",
    ];
    play_with(&[NEW], "early_accepted", &says, early);
}

#[test]
fn early_data_refused() {
    let says = [
        "client: early: 1 1500",
        "server: status 1",
        "client: status 1",
    ];
    play_with(&[NEW], "early_refused", &says, early);
}

fn early(found: &Found) {
    for line in found.each(2) {
        found.line_is_fast(line, FAST);
    }
    found.counted(2 * found.shims());
}

#[test]
fn auto_retry_on() {
    play("auto_retry_on", &["client: read: 500 NONE"]);
}

#[test]
fn auto_retry_off() {
    let says = ["client: read: -1 WANT_READ", "client: read: 500 NONE"];
    play("auto_retry_off", &says);
}

#[test]
fn sockets_that_block() {
    play(
        "blocking",
        &["client: read 300000", "server: read: 100 NONE"],
    );
}

#[test]
fn sockets_that_do_not_block() {
    let says = ["client: read: -1 WANT_READ errno=11", "server: read 400000"];
    play("nonblocking", &says);
}

#[test]
fn receive_timeout() {
    let says = [
        "client: read: -1 WANT_READ errno=11",
        "client: peek: -1 WANT_READ errno=11",
    ];
    play("rcvtimeo", &says);
}

#[test]
fn eintr_while_reading() {
    let says = [
        "client: read: -1 WANT_READ errno=4",
        "client: rang: 1",
        "client: read: 200 NONE",
    ];
    play("eintr_read", &says);
}
