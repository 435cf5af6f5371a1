// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPython: libssl comes by `dlopen`, one SSL object is used by two threads,
//! children are vforked, and `unwrap()` hands the socket back to clear text.

use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Program, Running, Side},
    programs_fixture::{Identity, files, identity, nginx, script},
    traffic::{Kernel, total},
};

const PYTHON: &str = "/usr/bin/python3";
const VERSIONS: [&str; 2] = ["TLSv1_2", "TLSv1_3"];

fn python(lab: &Lab, side: Side, name: &str) -> Program {
    lab.program(side, PYTHON).arg("-u").arg(script(name))
}

/// `NAME server PORT CERT KEY MORE`, listening.
fn server(lab: &Lab, side: Side, name: &str, port: u16, more: &str) -> Running {
    let Identity { cert, key } = identity();
    let program = python(lab, side, name)
        .arg("server")
        .arg(port.to_string())
        .arg(cert)
        .arg(key);
    program.args(more).start().listening(port)
}

fn client(lab: &Lab, side: Side, name: &str, port: u16, more: &str) -> Running {
    python(lab, side, name)
        .arg("client")
        .arg(port.to_string())
        .arg(&identity().cert)
        .args(more)
        .start()
}

/// Requirement 4: http.server and urllib, a thread per connection.
#[test]
fn http_server_and_urllib() {
    const SIZES: [usize; 3] = [1, 16_385, 1 << 20];
    let lab = Lab::new("python-http");
    let root = files(&lab, &SIZES);
    for version in VERSIONS {
        lab.differ(
            &MIXES,
            |server, client| {
                let port = lab.port();
                let Identity { cert, key } = identity();
                let mut program = python(&lab, server, "http_server.py")
                    .arg(port.to_string())
                    .arg(cert)
                    .arg(key)
                    .arg(version);
                program.command.current_dir(&root);
                let server = program.start().listening(port);
                let mut program = python(&lab, client, "http_client.py")
                    .arg(port.to_string())
                    .arg(cert);
                for size in SIZES {
                    program = program.arg(size.to_string());
                }
                let client = program.run();
                let server = server.stop(libc::SIGTERM);
                let got = (
                    client.status,
                    client.text(),
                    client.errors(),
                    server.status,
                    server.text(),
                    server.errors(),
                );
                (
                    got,
                    Evidence {
                        server: server.log,
                        client: client.log,
                    },
                )
            },
            |mix, evidence, kernel| {
                let what = format!("{version} {mix:?}\n{}{kernel:?}", evidence.describe());
                let (down, up) = ((SIZES.iter().sum::<usize>() + 300_001) as i64, 300_001);
                if mix.0 == Side::Shim {
                    assert!(
                        evidence.server.len() == 4 && evidence.server.iter().all(|l| l.offloaded()),
                        "{what}"
                    );
                    assert!(
                        total(&evidence.server, |l| l.tx.fast_bytes) >= down,
                        "{what}"
                    );
                    assert!(total(&evidence.server, |l| l.rx.fast_bytes) >= up, "{what}");
                }
                if mix.1 == Side::Shim {
                    assert!(
                        evidence.client.len() == 4 && evidence.client.iter().all(|l| l.rx.kernel),
                        "{what}"
                    );
                    assert!(
                        total(&evidence.client, |l| l.rx.fast_bytes) >= down,
                        "{what}"
                    );
                    // The POST's head is the one record that proves TX.
                    assert!(total(&evidence.client, |l| l.tx.fast_bytes) >= up, "{what}");
                }
                assert!(
                    kernel.get("AlgTlsTxBytes") >= if mix.0 == Side::Shim { down } else { up },
                    "{what}"
                );
            },
        );
    }
}

/// Requirement 4: clear text, TLS, close_notify both ways, clear text.
#[test]
fn clear_text_before_and_after() {
    let lab = Lab::new("python-unwrap");
    for version in VERSIONS {
        for first in ["server", "client"] {
            lab.differ(
                &MIXES,
                |one, two| {
                    let port = lab.port();
                    let server = server(
                        &lab,
                        one,
                        "clear_after.py",
                        port,
                        &format!("{version} {first}"),
                    );
                    let client = client(&lab, two, "clear_after.py", port, first).wait();
                    let server = server.wait();
                    assert!(client.text().ends_with("done\n"), "{}", client.errors());
                    let got = (
                        client.status,
                        client.text(),
                        client.errors(),
                        server.status,
                        server.text(),
                        server.errors(),
                    );
                    (
                        got,
                        Evidence {
                            server: server.log,
                            client: client.log,
                        },
                    )
                },
                |mix, evidence, kernel| {
                    let what = format!(
                        "{version} {first} {mix:?}\n{}{kernel:?}",
                        evidence.describe()
                    );
                    let sides = evidence.server.iter().chain(&evidence.client);
                    assert!(
                        sides.clone().count()
                            == [mix.0, mix.1].iter().filter(|s| **s == Side::Shim).count(),
                        "{what}"
                    );
                    for line in sides {
                        assert!(
                            line.tx.fast_records >= 2 && line.rx.fast_records >= 2,
                            "{what}"
                        );
                    }
                    // That the two hear each other afterwards is the proof of the way back.
                    assert!(kernel.get("AlgTlsTx") >= 1, "{what}");
                },
            );
        }
    }
}

/// Requirement 5: records that share a segment with the Finished, and requests
/// that share a record or a segment.
#[test]
fn coalesced_input_loses_nothing() {
    const NAMES: [usize; 6] = [0, 1, 100, 16_383, 16_384, 16_385];
    let lab = Lab::new("coalesce");
    files(&lab, &NAMES);
    files(&lab, &[40_000]);
    for version in VERSIONS {
        for test in ["finished", "pipeline", "records", "dribble"] {
            lab.differ(
                &[(Side::Shim, Side::Plain)],
                |side, _| {
                    let server = nginx(&lab, side);
                    let client = python(&lab, Side::Plain, "coalesce.py")
                        .arg(server.port.to_string())
                        .arg(&identity().cert)
                        .arg(version)
                        .arg(test)
                        .run();
                    let stored: Vec<Vec<u8>> = stored(&lab);
                    let log = server.stop().good().log;
                    (
                        (client.status, client.text(), client.errors(), stored),
                        Evidence {
                            server: log,
                            client: Vec::new(),
                        },
                    )
                },
                |_, evidence, kernel| {
                    let what = format!("{version} {test}\n{}{kernel:?}", evidence.describe());
                    let line = evidence.server.last().unwrap_or_else(|| panic!("{what}"));
                    assert!(line.tx.kernel, "{what}");
                    if test == "finished" {
                        assert!(line.rx.bytes() > 20_000, "{what}");
                    } else {
                        assert!(line.offloaded(), "{what}");
                        let bodies: i64 = [1, 16_385, 0, 100, 16_384, 1, 40_000, 16_383, 1]
                            .iter()
                            .sum();
                        assert_eq!(line.tx.sendfile_bytes, bodies, "{what}");
                        assert_eq!(kernel.get("AlgTlsSendfileBytes"), bodies, "{what}");
                    }
                },
            );
        }
    }
}

fn stored(lab: &Lab) -> Vec<Vec<u8>> {
    let take = |entry: std::fs::DirEntry| {
        let path = entry.path();
        path.is_file().then(|| {
            let bytes = std::fs::read(&path).expect("a body");
            std::fs::remove_file(&path).expect("rm");
            bytes
        })
    };
    std::fs::read_dir(lab.path("bodies"))
        .expect("bodies")
        .flatten()
        .filter_map(take)
        .collect()
}

/// Requirement 6: bulk both ways at once, default buffers, and no stall; one
/// thread with poll(), two threads with one SSL, and one way with blocking I/O.
///
/// There is no plain run to compare with: the scripts check every byte.
fn bulk(style: &str, version: &str, mb: usize) {
    let lab = Lab::new(&format!("bulk-{style}"));
    let two_ways = ["poll", "threads"].contains(&style);
    let before = Kernel::now(&lab);
    let port = lab.port();
    let side = Side::Shim;
    let server = server(
        &lab,
        side,
        "duplex.py",
        port,
        &format!("{version} {style} {mb}"),
    );
    let client = client(&lab, side, "duplex.py", port, &format!("{style} {mb}")).wait();
    let server = server.wait();
    let failed = client.status != 0 || server.status != 0;
    assert!(
        !failed,
        "client: {}\nserver: {}",
        client.errors(),
        server.errors()
    );
    let all = format!("sent {0} received {0}\n", mb << 20);
    assert!(
        client.text().ends_with(&all) && server.text().ends_with(&all),
        "{}{}",
        client.text(),
        server.text()
    );
    if lab.plain() {
        return;
    }
    let kernel = Kernel::settled(&lab).since(&before);
    let evidence = Evidence {
        server: server.log,
        client: client.log,
    };
    let what = format!("{style} {version}\n{}{kernel:?}", evidence.describe());
    let bytes = (mb << 20) as i64 * if two_ways { 2 } else { 1 };
    assert!(
        evidence.server.len() == 1 && evidence.client.len() == 1,
        "{what}"
    );
    for line in evidence.server.iter().chain(&evidence.client) {
        assert!(line.offloaded(), "{what}");
        // One record proves TX.
        assert!(
            line.tx.before_bytes <= 16_384 && line.rx.before_bytes <= 16_384,
            "{what}"
        );
        assert!(
            line.tx.slow_bytes <= bytes / 100 && line.rx.slow_bytes <= bytes / 100,
            "{what}"
        );
    }
    assert!(kernel.get("AlgTlsTxBytes") >= bytes - bytes / 100, "{what}");
    assert!(kernel.get("AlgTlsRxBytes") >= bytes, "{what}");
}

/// Megabytes each way: `KTLSSHIM_BULK_MB`, or what a slow machine moves in time.
fn megabytes(otherwise: usize) -> usize {
    let asked = std::env::var("KTLSSHIM_BULK_MB").ok();
    asked.map_or(otherwise, |mb| {
        mb.parse().expect("KTLSSHIM_BULK_MB is a number")
    })
}

#[test]
fn bulk_both_ways_with_poll() {
    bulk("poll", "TLSv1_3", megabytes(100));
}

#[test]
fn bulk_both_ways_with_two_threads() {
    bulk("threads", "TLSv1_2", megabytes(16));
}

#[test]
fn bulk_down_with_blocking_calls() {
    bulk("down", "TLSv1_2", megabytes(16));
}

#[test]
fn bulk_up_with_blocking_calls() {
    bulk("up", "TLSv1_3", megabytes(16));
}

/// Requirement 11: asyncio shows no fd; it stays in userspace and says why.
#[test]
fn asyncio_stays_in_userspace() {
    let lab = Lab::new("asyncio");
    lab.differ(
        &MIXES,
        |one, two| {
            let port = lab.port();
            let server = server(&lab, one, "asyncio_echo.py", port, "");
            let client = client(&lab, two, "asyncio_echo.py", port, "").wait();
            let server = server.wait();
            let got = (
                client.status,
                client.text(),
                client.errors(),
                server.status,
                server.text(),
                server.errors(),
            );
            assert!(got.1.contains("True") && got.4.contains("True"), "{got:#?}");
            (
                got,
                Evidence {
                    server: server.log,
                    client: client.log,
                },
            )
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            assert_eq!(kernel.get("AlgTlsTx") + kernel.get("AlgTlsRx"), 0, "{what}");
            for line in evidence.server.iter().chain(&evidence.client) {
                assert!(!line.tx.kernel && !line.rx.kernel, "{what}");
                assert!(
                    line.tx.reason.contains("fd") && line.rx.reason.contains("fd"),
                    "{what}"
                );
            }
            let lines = (evidence.server.len(), evidence.client.len());
            let expected = (
                usize::from(mix.0 == Side::Shim),
                usize::from(mix.1 == Side::Shim),
            );
            assert_eq!(lines, expected, "{what}");
        },
    );
}
