// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requirement 10: in the fast lane libcrypto encrypts and decrypts nothing.
//!
//! A second preload counts what goes through libcrypto's EVP calls. Plain
//! programs must show everything there, so that the counter is known to count.

use std::{fs, path::PathBuf, process::Command};

use ktlsshim_tests::{
    programs::{Lab, Program, Side},
    programs_fixture::{Identity, files, identity, nginx_by, noise, script},
    traffic::Kernel,
};

const SIZE: usize = 8 << 20;

/// Builds the counter.
fn counter(lab: &Lab) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/evpcount/evpcount.c");
    let library = lab.path("evpcount.so");
    let cc = Command::new("/usr/bin/cc")
        .args(["-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .args(["-ldl"])
        .output()
        .expect("cc");
    assert!(
        cc.status.success() && cc.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&cc.stderr)
    );
    library
}

/// Puts the counter in front of whatever is preloaded.
fn counted(
    lab: &Lab,
    program: Program,
    side: Side,
    counter: &std::path::Path,
    name: &str,
) -> Program {
    let mut preload = counter.display().to_string();
    let log = program.log.clone();
    if side == Side::Shim {
        for (key, value) in lab.shim_environment(&log) {
            if key == "LD_PRELOAD" {
                preload = format!("{preload}:{value}");
            }
        }
    }
    program
        .env("LD_PRELOAD", preload)
        .env("EVPCOUNT", lab.path(name))
}

/// All that processes which used `name` have counted.
fn bytes(lab: &Lab, name: &str) -> usize {
    let prefix = format!("{name}.");
    let read = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let process = file.strip_prefix(&prefix)?;
        process.parse::<u32>().ok()?;
        fs::read_to_string(entry.path())
            .ok()?
            .trim()
            .parse::<usize>()
            .ok()
    };
    let counts: Vec<usize> = fs::read_dir(&lab.dir)
        .expect("the lab")
        .flatten()
        .filter_map(read)
        .collect();
    assert!(!counts.is_empty(), "{name}: nobody has counted");
    counts.iter().sum()
}

#[test]
fn nginx_and_curl_leave_libcrypto_idle() {
    let lab = Lab::new("evp-nginx");
    files(&lab, &[SIZE]);
    let counter = counter(&lab);
    for options in ["--tls-max 1.2", "--tlsv1.3"] {
        let round = |side: Side| {
            let tag = format!("{side:?}{}", options.len());
            let before = Kernel::now(&lab);
            let (nginx_tag, curl_tag) = (format!("nginx-{tag}"), format!("curl-{tag}"));
            let program = lab.program(side, "/usr/sbin/nginx");
            let server = nginx_by(&lab, counted(&lab, program, side, &counter, &nginx_tag));
            let port = server.port;
            let curl = counted(
                &lab,
                lab.program(side, "/usr/bin/curl"),
                side,
                &counter,
                &curl_tag,
            )
            .args("-sS --http1.1 --max-time 80 --cacert")
            .arg(&identity().cert)
            .args(options)
            .arg(format!("https://localhost:{port}/{SIZE}"))
            .arg("-o")
            .arg(lab.path("got"))
            .run()
            .good();
            let server = server.stop().good();
            assert!(fs::read(lab.path("got")).expect("got") == noise(SIZE));
            let kernel = Kernel::settled(&lab).since(&before);
            (
                bytes(&lab, &nginx_tag),
                bytes(&lab, &curl_tag),
                kernel,
                server.log,
                curl.log,
            )
        };
        let plain = round(Side::Plain);
        assert!(
            plain.0 >= SIZE && plain.1 >= SIZE,
            "the counter does not count: {plain:?}"
        );
        let shim = round(Side::Shim);
        if lab.plain() {
            continue;
        }
        // Tickets are sealed with libcrypto, a few records are translated.
        assert!(
            shim.0 < SIZE / 100 && shim.1 < SIZE / 100,
            "{options}: {shim:#?}"
        );
        assert!(
            shim.2.get("AlgTlsTxBytes") >= SIZE as i64
                && shim.2.get("AlgTlsRxBytes") >= SIZE as i64,
            "{shim:#?}"
        );
        assert!(
            shim.3
                .iter()
                .chain(&shim.4)
                .all(|l| l.tx.slow_bytes == 0 && l.rx.slow_bytes == 0),
            "{shim:#?}"
        );
    }
}

#[test]
fn python_leaves_libcrypto_idle_both_ways() {
    const MB: usize = 4;
    let lab = Lab::new("evp-python");
    let counter = counter(&lab);
    for version in ["TLSv1_2", "TLSv1_3"] {
        let round = |side: Side| {
            let port = lab.port();
            let Identity { cert, key } = identity();
            let tags = [
                format!("server-{side:?}-{version}"),
                format!("client-{side:?}-{version}"),
            ];
            let program = |tag: &str| {
                counted(
                    &lab,
                    lab.program(side, "/usr/bin/python3")
                        .arg(script("duplex.py")),
                    side,
                    &counter,
                    tag,
                )
            };
            let server = program(&tags[0])
                .arg("server")
                .arg(port.to_string())
                .arg(cert)
                .arg(key)
                .args(&format!("{version} poll {MB}"))
                .start()
                .listening(port);
            let client = program(&tags[1])
                .arg("client")
                .arg(port.to_string())
                .arg(cert)
                .args(&format!("poll {MB}"))
                .run()
                .good();
            server.wait().good();
            drop(client);
            [bytes(&lab, &tags[0]), bytes(&lab, &tags[1])]
        };
        let (plain, all) = (round(Side::Plain), 2 * (MB << 20));
        assert!(
            plain[0] >= all && plain[1] >= all,
            "the counter does not count: {plain:?}"
        );
        let shim = round(Side::Shim);
        if !lab.plain() {
            assert!(
                shim[0] < all / 100 && shim[1] < all / 100,
                "{version}: {shim:?} of {all}"
            );
        }
    }
}
