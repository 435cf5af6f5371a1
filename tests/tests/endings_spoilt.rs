// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records that were spoilt on the way, and fatal alerts sent and received: OpenSSL says what is
//! wrong, to the program and to the peer, in the words that it has without the shim.

use ktlsshim_tests::{
    meddler::Meddle,
    stage::{ALL, BOTH, Found, OLD, Scene, Suite, on_stage},
};

const FAST: i64 = 4;

fn fast(found: &Found) {
    found.offloaded(FAST);
}

/// `meddle` on a record in either direction; `victim` and `peer` are words of OpenSSL's.
fn spoil(suites: &[Suite], meddle: Meddle, victim: &str, peer: &str) {
    on_stage(|stage| {
        for suite in suites {
            for name in ["spoilt_to_client", "spoilt_to_server"] {
                let scene = Scene {
                    name,
                    suite: *suite,
                    says: &[victim, peer],
                    meddle: Some(meddle),
                };
                stage.check_scene(scene, fast);
            }
        }
    });
}

const BAD_MAC: [&str; 2] = [
    "[decryption failed or bad record mac]",
    "alert bad record mac]",
];

#[test]
fn bad_mac_on_the_wire() {
    spoil(&ALL, Meddle::Tag, BAD_MAC[0], BAD_MAC[1]);
    spoil(&BOTH, Meddle::Body, BAD_MAC[0], BAD_MAC[1]);
}

#[test]
fn bad_mac_without_waiting() {
    on_stage(|stage| {
        for suite in ALL {
            let scene = Scene {
                name: "spoilt_nonblocking",
                suite,
                says: &BAD_MAC,
                meddle: Some(Meddle::Tag),
            };
            stage.check_scene(scene, fast);
        }
    });
}

#[test]
fn a_record_that_comes_twice() {
    spoil(&ALL, Meddle::Twice, BAD_MAC[0], BAD_MAC[1]);
}

#[test]
fn a_record_that_never_comes() {
    spoil(&BOTH, Meddle::Dropped, BAD_MAC[0], BAD_MAC[1]);
}

#[test]
fn a_header_of_another_version() {
    spoil(&BOTH, Meddle::Version, "version", "alert");
}

#[test]
fn a_header_of_an_unknown_kind() {
    spoil(&BOTH, Meddle::Kind, "SSL errno", "alert");
}

#[test]
fn a_record_that_is_too_long_or_too_short() {
    spoil(
        &BOTH,
        Meddle::TooLong,
        "length too long",
        "alert record overflow",
    );
    spoil(&BOTH, Meddle::TooShort, "SSL errno", "alert");
}

#[test]
fn an_alert_that_is_not_sealed() {
    spoil(&BOTH, Meddle::ClearAlert, "SSL errno", "alert");
}

/// An alert of the handshake's in mid-life, after a demand for a certificate.
#[test]
fn a_fatal_alert_of_a_later_handshake() {
    let says = [
        "server: read: -1 SSL errno=0 want=1 [peer did not return a certificate]",
        "alert",
    ];
    on_stage(|stage| {
        for suite in BOTH {
            stage.check("demanded", suite, &says, fast);
        }
    });
}

#[test]
fn renegotiation_is_refused_by_an_alert() {
    on_stage(|stage| stage.check("no_renegotiation", OLD, &["[no renegotiation]"], fast));
}
