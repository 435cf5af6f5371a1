// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs do with the objects around a connection, each by its name: SSL objects used again
//! or copied, other descriptors and BIOs in mid-life, threads, fork, data through a BIO of type SSL.

use ktlsshim_tests::stage::{ALL, BOTH, Found, OLD, Suite, on_stage};

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

/// An SSL served two connections, and both went to the kernel.
fn twice(found: &Found) {
    for line in found.each(2) {
        found.line_is_fast(line, FAST);
    }
    found.counted(2 * found.shims());
}

#[test]
fn ssl_clear_and_reuse() {
    play_with(
        &ALL,
        "cleared",
        &["client: clear: 1", "client: set_fd: 1"],
        twice,
    );
}

#[test]
fn ssl_clear_in_mid_life() {
    play_with(&BOTH, "cleared_in_mid_life", &["server: clear: 1"], twice);
}

/// OpenSSL itself allows it for TLS 1.2 only.
#[test]
fn another_handshake_by_a_new_state() {
    play_with(&[OLD], "new_state", &["server: set_fd: 1"], twice);
}

#[test]
fn set_fd_to_another_number_of_the_socket() {
    play("another_fd", &["client: set_fd: 1", "server: read 2000"]);
}

#[test]
fn set_fd_to_the_same_number() {
    play_with(&BOTH, "same_fd", &[], |found| found.offloaded(FAST + 4));
}

#[test]
fn set_rfd_and_set_wfd() {
    play(
        "read_and_write_fd",
        &["client: set_wfd: 1", "client: set_rfd: 1"],
    );
}

#[test]
fn set_bio_to_another_of_the_socket() {
    play("another_bio", &["server: read 2000"]);
}

#[test]
fn set_bio_to_memory() {
    play("memory_bios", &["server: read it: 1"]);
}

/// Records for the socket that the kernel seals for cannot go to another one: without the shim the
/// connection goes on there, with it ends, and nothing is ever sealed twice.
#[test]
fn set_fd_to_another_socket() {
    play_with(&BOTH, "elsewhere", &["client: set_fd: 1"], |found| {
        found.offloaded(FAST);
        // A shimmed writer refuses; a shimmed reader cannot open what comes.
        let wrote = if found.shim[0] {
            "# write -1, 5"
        } else {
            "# write 100, 0"
        };
        for what in [wrote, "# read 0 in all"] {
            assert!(
                found.remarks.iter().any(|r| r.contains(what)),
                "{what}\n{}",
                found.text()
            );
        }
    });
}

#[test]
fn ssl_dup() {
    play("copied", &["client: the same: 1"]);
}

#[test]
fn a_thread_per_direction_with_a_lock() {
    play(
        "threads_with_lock",
        &["client: read 200000", "server: wrote 200000"],
    );
}

#[test]
fn a_thread_per_direction_without_a_lock() {
    play_with(
        &ALL,
        "threads_without_lock",
        &["client: read 400000", "server: wrote 400000"],
        |found| found.offloaded(40),
    );
}

#[test]
fn a_thread_for_each_call() {
    play_with(&BOTH, "handed_to_threads", &[], |found| {
        found.offloaded(FAST + 5)
    });
}

/// Both processes report: what there was before the fork, and one of them what it did afterwards.
fn forked(found: &Found) {
    for line in found.each(2) {
        found.line_is_fast(line, FAST);
    }
    for lines in found.lines.iter().filter(|lines| !lines.is_empty()) {
        let went_on = lines.iter().any(|l| {
            let after = FAST + 5;
            l.tx.fast_records >= after && l.rx.fast_records >= after
        });
        assert!(went_on, "nobody went on in the kernel\n{}", found.text());
    }
    found.counted(found.shims());
}

#[test]
fn fork_and_the_child_goes_on() {
    play_with(
        &ALL,
        "fork_child",
        &["client: child: 0", "server: read 2000"],
        forked,
    );
}

#[test]
fn fork_and_the_parent_goes_on() {
    play_with(
        &ALL,
        "fork_parent",
        &["client: child: 0", "server: read 2000"],
        forked,
    );
}

#[test]
fn dup_ed_descriptors() {
    let says = [
        "client: ioctl 0 something 1",
        "client: peek 1",
        "client: peek -1 11",
    ];
    play("dups", &says);
}

/// The end whose data the shim cannot see stays in userspace and says why; the other does not.
fn behind_bio(found: &Found, role: &str) {
    for line in found.each(1) {
        if line.role == role {
            assert!(!line.tx.kernel && !line.rx.kernel, "{}", found.text());
            assert_eq!(line.tx.reason, "ssl-bio", "{}", found.text());
            assert_eq!(line.rx.reason, "ssl-bio", "{}", found.text());
        } else {
            found.line_is_fast(line, FAST);
        }
    }
}

#[test]
fn a_bio_of_type_ssl_at_either_end() {
    let says = [
        "handshake: 1",
        "pending 2900",
        "gets: 7 a line",
        "gets: 9 and more",
    ];
    play_with(&BOTH, "ssl_bio_client", &says, |found| {
        behind_bio(found, "client")
    });
    play_with(&BOTH, "ssl_bio_server", &says, |found| {
        behind_bio(found, "server")
    });
}

#[test]
fn a_bio_of_type_ssl_in_mid_life() {
    play(
        "ssl_bio_in_mid_life",
        &["client: write: 20000", "server: read: 500 NONE"],
    );
}
