// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that end in order: close_notify in each direction and order, and the plain socket
//! that it leaves.

use ktlsshim_tests::stage::{BOTH, Found, on_stage};

/// Records each way before the end that OpenSSL did not touch.
const FAST: i64 = 4;

fn play(scene: &str, says: &[&str], proof: impl Fn(&Found)) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, &proof);
        }
    });
}

/// Of each shimmed end both directions ended by a close_notify that went by.
fn in_order(found: &Found) {
    found.offloaded(FAST);
    for line in found.each(1) {
        assert_eq!(line.tx.reason, "close-notify", "{}", found.text());
        assert_eq!(line.rx.reason, "close-notify", "{}", found.text());
    }
}

#[test]
fn close_notify_by_the_client_first() {
    let says = ["client: shutdown: 0 SYSCALL", "client: shutdown: 1 NONE"];
    play("close_client_first", &says, in_order);
}

#[test]
fn close_notify_by_the_server_first() {
    let says = ["server: shutdown: 0 SYSCALL", "server: shutdown: 1 NONE"];
    play("close_server_first", &says, in_order);
}

#[test]
fn close_notify_by_both_at_once() {
    let says = ["server: shutdown: 1 NONE", "client: shutdown: 1 NONE"];
    play("close_both_at_once", &says, in_order);
}

#[test]
fn close_notify_without_waiting() {
    let says = ["client: shutdown: -1 WANT_READ", "client: shutdown: 1 NONE"];
    play("close_nonblocking", &says, in_order);
}

#[test]
fn one_way_shutdown_with_data_still_coming() {
    for (scene, says) in [
        ("one_way_client", "client: read 50000"),
        ("one_way_server", "server: read 50000"),
    ] {
        play(scene, &[says, "protocol is shutdown"], in_order);
    }
}

#[test]
fn data_where_the_answer_to_close_notify_is_awaited() {
    let says = ["application data after close notify"];
    for scene in ["data_after_shutdown", "held_data_after_shutdown"] {
        play(scene, &says, |found| found.offloaded(FAST));
    }
}

#[test]
fn close_notify_behind_unread_data() {
    let says = ["client: pending 6", "client: read: 0 ZERO_RETURN"];
    play("close_behind_data", &says, |found| {
        found.offloaded(FAST);
    });
}

#[test]
fn quiet_shutdown_and_no_shutdown_at_all() {
    play("quiet", &["server: shutdown: 1 NONE"], |found| {
        found.offloaded(FAST);
    });
    play("freed_without", &[], |found| {
        found.offloaded(FAST);
    });
}

/// Requirement of FTP's CCC: text goes by in clear both ways, and then TLS again, which goes to the
/// kernel again.
#[test]
fn the_socket_is_plain_after_a_completed_shutdown() {
    play(
        "clear_afterwards",
        &["recv: 16 hello, in clear", "server: read 3000"],
        |found| {
            let lines = found.each(2);
            for line in &lines {
                found.line_is_fast(line, 3);
            }
            found.counted(2 * found.shims());
        },
    );
    play(
        "clear_beside",
        &["peek: 3", "read: 13 221 goodbye"],
        in_order,
    );
}
