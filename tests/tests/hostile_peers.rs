// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other ends that are slow or talk nonsense, and other descriptors beside the connection's.
//! Each scene (`programs/besides.c`) is compared with plain runs.

use ktlsshim_tests::stage::{BOTH, Found, on_stage};

fn play(scene: &str, says: &[&str], proof: impl Fn(&Found)) {
    on_stage(|stage| {
        for suite in BOTH {
            stage.check(scene, suite, says, &proof);
        }
    });
}

/// As postfix does: the keys of its tickets come over a UNIX socket, inside SSL_accept.
#[test]
fn other_sockets_inside_the_handshake() {
    play(
        "asks_elsewhere",
        &["client: asked: 1", "server: asked: 1"],
        |found| found.offloaded(8),
    );
}

/// By fclose, while the SSL is still there: the next connection under that number is a connection
/// like any other, and a file under it is a file.
#[test]
fn a_number_that_was_closed_unseen() {
    play(
        "unseen",
        &[
            "client: a file has it: 1",
            "server: a file has it: 1",
            "client: sendfile: 4000",
        ],
        |found| {
            for line in found.each(3) {
                found.line_is_fast(line, 6);
            }
        },
    );
}

#[test]
fn a_reader_that_sips_from_a_tiny_buffer() {
    play(
        "slow_reader",
        &["client: sipped 60000", "server: sipped 60000"],
        |found| found.offloaded(6),
    );
}

/// The alerts are the same, and so is what the program hears.
fn nonsense(scene: &str, liar: usize) {
    play(scene, &["shutdown: -1"], |found| {
        // The liar's own TLS is in memory.
        let honest = 1 - liar;
        if found.shim[honest] {
            assert_eq!(found.lines[honest].len(), 8, "{}", found.text());
            for line in found.lines[honest] {
                assert!(line.offloaded(), "{}\n{}", line.text, found.text());
            }
        }
    });
}

#[test]
fn a_client_that_talks_nonsense() {
    nonsense("nonsense_to_server", 0);
}

#[test]
fn a_server_that_talks_nonsense() {
    nonsense("nonsense_to_client", 1);
}

#[test]
fn nonsense_instead_of_a_handshake() {
    play("nonsense_first", &["handshake: -1"], |found| {
        assert_eq!(
            found.kernel.get("AlgTlsTx") + found.kernel.get("AlgTlsRx"),
            0,
            "{}",
            found.text()
        );
    });
}
