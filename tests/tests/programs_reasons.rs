// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that the kernel cannot or must not have: they work as ever,
//! and the log says why they stayed.

use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Side},
    programs_fixture::{Identity, files, identity, nginx, noise},
    traffic::Dir,
};

/// A talk of `openssl` programs; returns what arrived and how both ended.
fn talk(
    lab: &Lab,
    server: Side,
    client: Side,
    server_options: &str,
    client_options: &str,
) -> ((String, String, i32, i32), Evidence) {
    let port = lab.port();
    let Identity { cert, key } = identity();
    let mut server = lab
        .program(server, "/usr/bin/openssl")
        .args(&format!(
            "s_server -quiet -naccept 1 -accept 127.0.0.1:{port} -cert {} -key {}",
            cert.display(),
            key.display()
        ))
        .args(server_options)
        .interactive()
        .start()
        .listening(port);
    let mut client = lab
        .program(client, "/usr/bin/openssl")
        .args(&format!(
            "s_client -quiet -no_ign_eof -connect 127.0.0.1:{port} -CAfile {}",
            cert.display()
        ))
        .args(client_options)
        .interactive()
        .start();
    let long = "hello, this is quite a long line\n".repeat(2000);
    for turn in 0..3 {
        client.say(&format!("{long}client {turn}\n"));
        server.expect_out(&format!("client {turn}"));
        server.say(&format!("{long}server {turn}\n"));
        client.expect_out(&format!("server {turn}"));
    }
    client.hush();
    let (client, server) = (client.wait(), server.wait());
    let got = (client.text(), server.text(), client.status, server.status);
    (
        got,
        Evidence {
            server: server.log,
            client: client.log,
        },
    )
}

/// Runs `talk` in every mix; each shimmed side must have stayed in userspace.
fn stays(name: &str, server_options: &str, client_options: &str, why: impl Fn(&Dir) -> bool) {
    let lab = Lab::new(name);
    lab.differ(
        &MIXES,
        |server, client| talk(&lab, server, client, server_options, client_options),
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            assert_eq!(kernel.get("AlgTlsTx") + kernel.get("AlgTlsRx"), 0, "{what}");
            let shims = [mix.0, mix.1].iter().filter(|s| **s == Side::Shim).count();
            let lines: Vec<_> = evidence.server.iter().chain(&evidence.client).collect();
            assert_eq!(lines.len(), shims, "{what}");
            for line in lines {
                for dir in [&line.tx, &line.rx] {
                    assert!(!dir.kernel && why(dir), "{what}");
                }
            }
        },
    );
}

fn about_the_cipher(dir: &Dir) -> bool {
    dir.reason.contains("cipher")
}

#[test]
fn cbc_stays_in_userspace() {
    let options = "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA";
    stays("reason-cbc", options, options, about_the_cipher);
}

#[test]
fn short_tags_of_tls12_stay_in_userspace() {
    let options = "-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0";
    stays("reason-ccm8-12", options, options, about_the_cipher);
}

#[test]
fn short_tags_of_tls13_stay_in_userspace() {
    let options = "-tls1_3 -cipher DEFAULT:@SECLEVEL=0 -ciphersuites TLS_AES_128_CCM_8_SHA256";
    stays("reason-ccm8-13", options, options, about_the_cipher);
}

#[test]
fn old_versions_stay_in_userspace() {
    let options = "-tls1_1 -cipher ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0";
    stays("reason-tls11", options, options, |dir| {
        !dir.reason.is_empty() && dir.reason != "pending"
    });
}

/// Padding hides lengths; the kernel does not pad. The sender that asked for
/// it stays in userspace, its peer and its other direction do not.
#[test]
fn padded_records_stay_padded() {
    let lab = Lab::new("reason-padding");
    lab.differ(
        &MIXES,
        |server, client| {
            talk(
                &lab,
                server,
                client,
                "-tls1_3 -record_padding 512",
                "-tls1_3",
            )
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            if mix.0 == Side::Shim {
                let line = &evidence.server[0];
                assert!(
                    !line.tx.kernel && line.tx.reason.contains("padding") && line.rx.kernel,
                    "{what}"
                );
            }
            if mix.1 == Side::Shim {
                assert!(evidence.client[0].offloaded(), "{what}");
            }
        },
    );
}

/// Smaller records, asked for by an option or by the peer, stay small.
#[test]
fn fragment_sizes_are_kept() {
    let lab = Lab::new("reason-fragments");
    for (server, client) in [
        ("-tls1_3 -max_send_frag 1000", "-tls1_3"),
        ("-tls1_2", "-tls1_2 -maxfraglen 512"),
    ] {
        lab.differ(
            &MIXES,
            |one, two| talk(&lab, one, two, server, client),
            |mix, evidence, kernel| {
                let what = format!(
                    "{server} {client} {mix:?}\n{}{kernel:?}",
                    evidence.describe()
                );
                let largest = if server.contains("1000") { 1000 } else { 512 };
                if mix.0 == Side::Shim {
                    let tx = &evidence.server[0].tx;
                    // In the kernel or not, no record may be larger.
                    assert!(
                        tx.bytes() <= largest * (tx.fast_records + tx.slow_records + 1)
                            || !tx.kernel,
                        "{what}"
                    );
                    assert!(tx.kernel || !tx.reason.is_empty(), "{what}");
                }
                if mix.0 == Side::Shim && kernel.get("AlgTlsTx") > 0 && mix.1 == Side::Plain {
                    let bytes = kernel.get("AlgTlsTxBytes");
                    assert!(kernel.get("AlgTlsTxRecords") >= bytes / largest, "{what}");
                }
            },
        );
    }
}

/// `KTLSSHIM_TX=0` and `KTLSSHIM_RX=0`: one direction each.
#[test]
fn either_direction_alone() {
    const SIZE: usize = 1 << 20;
    let lab = Lab::new("one-way");
    if lab.plain() {
        return;
    }
    files(&lab, &[SIZE]);
    for off in ["KTLSSHIM_TX", "KTLSSHIM_RX"] {
        let server = nginx(&lab, Side::Plain);
        // The first request proves TX, the second one shows it.
        let url = format!("https://localhost:{}/{SIZE}", server.port);
        let curl = lab
            .program(Side::Shim, "/usr/bin/curl")
            .env(off, "0")
            .args("-sS --http1.1 --max-time 80 --cacert")
            .arg(&identity().cert)
            .arg(&url)
            .arg(&url)
            .run();
        server.stop().good();
        assert!(
            curl.out == [noise(SIZE), noise(SIZE)].concat(),
            "{off}: {}",
            curl.errors()
        );
        assert_eq!(curl.log.len(), 1, "{off}: {:?}", curl.log);
        let (tx, rx) = (&curl.log[0].tx, &curl.log[0].rx);
        let (gone, kept) = if off == "KTLSSHIM_TX" {
            (tx, rx)
        } else {
            (rx, tx)
        };
        assert!(
            !gone.kernel && gone.reason.contains("disabled"),
            "{off}: {}",
            curl.log[0].text
        );
        assert!(kept.kernel, "{off}: {}", curl.log[0].text);
    }
}
