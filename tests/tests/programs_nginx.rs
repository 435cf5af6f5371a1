// SPDX-License-Identifier: MIT OR Apache-2.0
//! An unmodified nginx whose records are made by the kernel.

use std::{fs, path::Path};

use ktlsshim_tests::{
    programs::{Lab, Program, Side},
    programs_fixture::{Nginx, SIZES, files, identity, nginx, nginx_by, noise},
    traffic::{Kernel, total},
};

/// curl's options for one protocol version and cipher, and their names in the log.
struct Suite {
    options: &'static str,
    version: &'static str,
    aead: &'static str,
}

const SUITES: [Suite; 6] = [
    Suite {
        options: "--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256",
        version: "1.2",
        aead: "128",
    },
    Suite {
        options: "--tls-max 1.2 --ciphers ECDHE-ECDSA-AES256-GCM-SHA384",
        version: "1.2",
        aead: "256",
    },
    Suite {
        options: "--tls-max 1.2 --ciphers ECDHE-ECDSA-CHACHA20-POLY1305",
        version: "1.2",
        aead: "CHACHA20",
    },
    Suite {
        options: "--tlsv1.3 --tls13-ciphers TLS_AES_128_GCM_SHA256",
        version: "1.3",
        aead: "128",
    },
    Suite {
        options: "--tlsv1.3 --tls13-ciphers TLS_AES_256_GCM_SHA384",
        version: "1.3",
        aead: "256",
    },
    Suite {
        options: "--tlsv1.3 --tls13-ciphers TLS_CHACHA20_POLY1305_SHA256",
        version: "1.3",
        aead: "CHACHA20",
    },
];

/// Downloaded in one suite only.
const BULK: usize = 16 << 20;

/// What one request looked like from curl's side.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u32,
    header: i64,
    body: i64,
    request: i64,
    upload: i64,
    connects: i64,
}

const FORMAT: &str = "%{http_code} %{size_header} %{size_download} %{size_request} %{size_upload} %{num_connects}\\n";

fn curl(lab: &Lab, side: Side, options: &str) -> Program {
    lab.program(side, "/usr/bin/curl")
        .args("-sS --http1.1 --max-time 80 --cacert")
        .arg(&identity().cert)
        .args(options)
}

fn replies(text: &str) -> Vec<Reply> {
    let reply = |line: &str| {
        let n: Vec<i64> = line
            .split(' ')
            .map(|n| n.parse().expect("a number"))
            .collect();
        Reply {
            code: n[0] as u32,
            header: n[1],
            body: n[2],
            request: n[3],
            upload: n[4],
            connects: n[5],
        }
    };
    text.lines().map(reply).collect()
}

/// Downloads every size on one connection and checks each against its file.
fn download(lab: &Lab, client: Side, server: &Nginx, options: &str, sizes: &[usize]) -> Vec<Reply> {
    let mut program = curl(lab, client, options).arg("-w").arg(FORMAT);
    for size in sizes {
        let _ = fs::remove_file(lab.path(&format!("got-{size}")));
        program = program
            .arg(server.url(size))
            .arg("-o")
            .arg(lab.path(&format!("got-{size}")));
    }
    let done = program.run().good();
    for &size in sizes {
        // curl makes no file for an empty body.
        let got = fs::read(lab.path(&format!("got-{size}"))).unwrap_or_default();
        assert!(
            got == noise(size),
            "{options}: {size} bytes differ (got {})",
            got.len()
        );
    }
    replies(&done.text())
}

/// Requirement 1: six suites, sizes round the record's border, one connection
/// each; and every byte is accounted for.
#[test]
fn nginx_sends_files_of_every_size_through_the_kernel() {
    let lab = Lab::new("nginx-files");
    files(&lab, &SIZES);
    files(&lab, &[BULK]);
    let round = |server: &Nginx| -> Vec<(Vec<Reply>, Kernel)> {
        let one = |suite: &Suite| {
            let before = Kernel::now(&lab);
            let bulk = if suite.version == "1.3" && suite.aead == "128" {
                &[BULK][..]
            } else {
                &[]
            };
            let replies = download(
                &lab,
                Side::Plain,
                server,
                suite.options,
                &[&SIZES, bulk].concat(),
            );
            (replies, Kernel::settled(&lab).since(&before))
        };
        SUITES.iter().map(one).collect()
    };

    let server = nginx(&lab, Side::Plain);
    let plain = round(&server);
    server.stop().good();
    let server = nginx(&lab, Side::Shim);
    let shim = round(&server);
    let log = server.stop().good().log;

    for ((suite, plain), shim) in SUITES.iter().zip(&plain).zip(&shim) {
        assert_eq!(plain.0, shim.0, "{}", suite.options);
        assert_eq!(plain.1.get("AlgTlsTx"), 0, "a plain server was offloaded");
    }
    if lab.plain() {
        return;
    }

    assert_eq!(log.len(), SUITES.len(), "one line per connection: {log:#?}");
    for ((suite, (replies, kernel)), line) in SUITES.iter().zip(&shim).zip(&log) {
        let what = format!("{}\n{}\n{kernel:?}", suite.options, line.text);
        assert!(
            line.version.contains(suite.version) && line.cipher.contains(suite.aead),
            "{what}"
        );
        assert_eq!(line.role, "server", "{what}");
        assert!(line.offloaded(), "{what}");

        let bodies: i64 = replies.iter().map(|r| r.body).sum();
        let out: i64 = replies.iter().map(|r| r.header + r.body).sum();
        let requests: i64 = replies.iter().map(|r| r.request).sum();
        assert!(kernel.get("AlgTlsTxBytes") >= bodies, "{what}");
        assert_eq!(
            kernel.sent_but_alerts() + line.tx.before_bytes,
            out,
            "{what}"
        );
        assert_eq!(
            kernel.received_but_alerts() + line.rx.before_bytes,
            requests,
            "{what}"
        );
        // A request that came with the client's Finished may be OpenSSL's.
        assert!(line.rx.before_bytes <= replies[0].request, "{what}");
        assert_eq!(
            line.tx.before_bytes, 0,
            "the server proves TX before any data\n{what}"
        );
        // Empty files are not sent at all; all others by sendfile.
        assert_eq!(kernel.get("AlgTlsSendfileBytes"), bodies, "{what}");
        assert_eq!(line.tx.sendfile_bytes, bodies, "{what}");
        assert_eq!((line.tx.slow_bytes, line.rx.slow_bytes), (0, 0), "{what}");
    }
}

/// Requirement 1: parts of a file, on one connection per version.
#[test]
fn nginx_sends_ranges_through_the_kernel() {
    const RANGES: [&str; 6] = [
        "0-0",
        "16383-16384",
        "16384-32767",
        "1-49151",
        "-1",
        "1000000-",
    ];
    let lab = Lab::new("nginx-ranges");
    files(&lab, &[1 << 20]);
    let bytes = noise(1 << 20);
    let round = |side: Side| {
        let server = nginx(&lab, side);
        let mut all = Vec::new();
        for suite in [&SUITES[1], &SUITES[3]] {
            let mut program = curl(&lab, Side::Plain, suite.options);
            for (i, range) in RANGES.iter().enumerate() {
                if i > 0 {
                    program = program
                        .args("--next -sS --http1.1 --cacert")
                        .arg(&identity().cert)
                        .args(suite.options);
                }
                program = program
                    .arg("-r")
                    .arg(range)
                    .arg("-w")
                    .arg("%{http_code} ")
                    .arg(server.url(1 << 20));
                program = program.arg("-o").arg(lab.path(&format!("range-{i}")));
            }
            all.push(program.run().good().text());
            for (i, range) in RANGES.iter().enumerate() {
                let got = fs::read(lab.path(&format!("range-{i}"))).expect("a range");
                assert!(got == bytes[span(range, bytes.len())], "range {range}");
                fs::remove_file(lab.path(&format!("range-{i}"))).expect("rm");
            }
        }
        (all, server.stop().good().log)
    };
    let (plain, _) = round(Side::Plain);
    let before = Kernel::now(&lab);
    let (shim, log) = round(Side::Shim);
    assert_eq!(plain, shim);
    assert_eq!(
        plain,
        ["206 ".repeat(RANGES.len()), "206 ".repeat(RANGES.len())]
    );
    if lab.plain() {
        return;
    }
    let kernel = Kernel::settled(&lab).since(&before);
    let bodies: usize = RANGES
        .iter()
        .map(|range| span(range, bytes.len()).len())
        .sum();
    assert_eq!(
        kernel.get("AlgTlsSendfileBytes"),
        2 * bodies as i64,
        "{log:#?}"
    );
    assert_eq!(
        total(&log, |l| l.tx.sendfile_bytes),
        2 * bodies as i64,
        "{log:#?}"
    );
}

fn span(range: &str, len: usize) -> std::ops::Range<usize> {
    let (from, to) = range.split_once('-').expect("a range");
    match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => from..to + 1,
        (Ok(from), Err(_)) => from..len,
        (Err(_), Ok(last)) => len - last..len,
        _ => panic!("{range}"),
    }
}

/// Requirement 1: nginx never reads the file. Plain nginx does, so that this
/// test can tell.
#[test]
fn nginx_under_strace_reads_no_file() {
    const SIZE: usize = 1 << 20;
    let lab = Lab::new("nginx-strace");
    files(&lab, &[SIZE]);
    let round = |side: Side, tag: &str| {
        let trace = lab.path(&format!("trace-{tag}"));
        let log = lab.path(&format!("strace-{tag}.log"));
        let calls = "read,pread64,readv,preadv,preadv2,sendfile,splice,ioctl,mmap";
        let mut program = lab
            .program(Side::Plain, "/usr/bin/strace")
            .args("-f -y -o")
            .arg(&trace);
        program = program.arg("-e").arg(format!("trace={calls}"));
        if side == Side::Shim {
            // Into nginx, not into strace.
            for (key, value) in lab.shim_environment(&log) {
                program = program.arg("-E").arg(format!("{key}={value}"));
            }
        }
        let server = nginx_by(&lab, program.arg("/usr/sbin/nginx"));
        for suite in [&SUITES[1], &SUITES[4]] {
            download(&lab, Side::Plain, &server, suite.options, &[SIZE]);
        }
        // strace passes no signal on to its tracee.
        let master =
            fs::read_to_string(lab.path(&format!("nginx-{}.pid", server.port))).expect("pid file");
        // SAFETY: the process was started by this test and still runs.
        unsafe { libc::kill(master.trim().parse().expect("a pid"), libc::SIGQUIT) };
        server.running.wait().good();
        fs::read_to_string(trace).expect("strace's output")
    };
    let file = format!("/www/{SIZE}>");
    let reads = |trace: &str| {
        let read = |line: &&str| {
            let call = line
                .split_once(' ')
                .map_or("", |(_, call)| call.trim_start());
            [
                "read(", "pread64(", "readv(", "preadv(", "preadv2(", "mmap(",
            ]
            .iter()
            .any(|name| call.starts_with(name))
                && line.contains(&file)
        };
        trace.lines().filter(read).count()
    };
    let plain = round(Side::Plain, "plain");
    assert!(
        reads(&plain) >= 2 * SIZE / 65_536,
        "plain nginx reads the file"
    );
    let shim = round(Side::Shim, "shim");
    if lab.plain() {
        return;
    }
    assert_eq!(reads(&shim), 0, "nginx read the file:\n{shim}");
    let calls = shim
        .lines()
        .filter(|l| l.contains("0xa7, 0x1,") || l.contains("sendfile("))
        .count();
    assert!(calls >= 2, "no sendfile in\n{shim}");
}

/// Requirement 2, server's side: uploads of one record and of many.
#[test]
fn nginx_takes_uploads_through_the_kernel() {
    const SIZE: usize = 4 << 20;
    let lab = Lab::new("nginx-upload");
    fs::write(lab.path("body"), noise(SIZE)).expect("body");
    let round = |side: Side| {
        let server = nginx(&lab, side);
        let mut all = Vec::new();
        for suite in [&SUITES[0], &SUITES[5]] {
            let program = curl(&lab, Side::Plain, suite.options)
                .arg("-T")
                .arg(lab.path("body"))
                .arg("-w")
                .arg(FORMAT)
                .arg(server.url("up/body"));
            all.push(replies(&program.run().good().text()));
            assert!(
                fs::read(lab.path("up/body")).expect("stored") == noise(SIZE),
                "{}",
                suite.options
            );
            fs::remove_file(lab.path("up/body")).expect("rm");
        }
        (all, server.stop().good().log)
    };
    let (plain, _) = round(Side::Plain);
    let before = Kernel::now(&lab);
    let (shim, log) = round(Side::Shim);
    assert_eq!(plain, shim);
    if lab.plain() {
        return;
    }
    let kernel = Kernel::settled(&lab).since(&before);
    assert!(
        log.len() == 2 && log.iter().all(|l| l.offloaded()),
        "{log:#?}"
    );
    let requests: i64 = shim.iter().flatten().map(|r| r.request + r.upload).sum();
    assert_eq!(
        kernel.received_but_alerts() + total(&log, |l| l.rx.before_bytes),
        requests,
        "{log:#?}"
    );
    assert!(log.iter().all(|l| l.rx.before_bytes <= 16_384), "{log:#?}");
}

/// Requirement 2: curl alone, nginx alone, both; down and up.
#[test]
fn curl_and_nginx_in_every_mix() {
    const SIZES: [usize; 3] = [1, 16_385, 2 << 20];
    let lab = Lab::new("curl-nginx");
    files(&lab, &SIZES);
    fs::write(lab.path("body"), noise(1 << 20)).expect("body");
    for suite in [&SUITES[2], &SUITES[3]] {
        lab.differ(
            &[(Side::Plain, Side::Shim), (Side::Shim, Side::Shim)],
            |side, client| {
                let server = nginx(&lab, side);
                let mut program = curl(&lab, client, suite.options).arg("-w").arg(FORMAT);
                for size in SIZES {
                    program = program
                        .arg(server.url(size))
                        .arg("-o")
                        .arg(lab.path(&format!("got-{size}")));
                }
                program = program
                    .args("--next -sS --http1.1 --max-time 80 --cacert")
                    .arg(&identity().cert)
                    .args(suite.options);
                program = program
                    .arg("-w")
                    .arg(FORMAT)
                    .arg("--data-binary")
                    .arg(format!("@{}", lab.path("body").display()));
                program = program
                    .args("-H Expect:")
                    .arg("-o")
                    .arg(lab.path("answer"))
                    .arg(server.url("post"));
                let curl = program.run().good();
                for size in SIZES {
                    assert!(
                        fs::read(lab.path(&format!("got-{size}"))).expect("got") == noise(size)
                    );
                }
                assert_eq!(fs::read(lab.path("answer")).expect("answer"), b"stored\n");
                let bodies = lab.path("bodies");
                let uploads = drain(&bodies);
                assert!(
                    uploads.len() == 1 && uploads[0] == noise(1 << 20),
                    "the upload differs"
                );
                let evidence = ktlsshim_tests::programs::Evidence {
                    client: curl.log.clone(),
                    server: server.stop().good().log,
                };
                (replies(&curl.text()), evidence)
            },
            |mix, evidence, kernel| {
                let down: i64 = SIZES.iter().sum::<usize>() as i64;
                let up = 1 << 20;
                let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
                assert!(!evidence.client.is_empty(), "{what}");
                assert!(evidence.client.iter().all(|l| l.role == "client"), "{what}");
                let kernel_rx = evidence
                    .client
                    .iter()
                    .filter(|l| l.rx.kernel)
                    .map(|l| l.rx.fast_bytes)
                    .sum::<i64>();
                let kernel_tx = evidence
                    .client
                    .iter()
                    .filter(|l| l.tx.kernel)
                    .map(|l| l.tx.fast_bytes)
                    .sum::<i64>();
                assert!(kernel_rx >= down, "{what}");
                assert!(kernel_tx >= up, "{what}");
                // One record at most is OpenSSL's, in each direction and connection.
                assert!(
                    evidence
                        .client
                        .iter()
                        .all(|l| l.tx.before_bytes <= 16_384 && l.rx.before_bytes <= 16_384),
                    "{what}"
                );
                let both = i64::from(mix.0 == Side::Shim);
                assert!(kernel.get("AlgTlsRxBytes") >= down + both * up, "{what}");
                assert!(kernel.get("AlgTlsTxBytes") >= up + both * down, "{what}");
            },
        );
    }
}

/// Reads and removes what a directory holds.
fn drain(dir: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        if entry.path().is_file() {
            all.push(fs::read(entry.path()).expect("a file"));
            fs::remove_file(entry.path()).expect("rm");
        }
    }
    all
}
