// SPDX-License-Identifier: MIT OR Apache-2.0
//! An unmodified nginx whose records are made by the kernel.

use std::{fs, path::Path};

use ktlsshim_tests::{
    programs::{Lab, Program, Side, eventually},
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

fn url(server: &Nginx, name: impl std::fmt::Display) -> String {
    format!("https://localhost:{}/{name}", server.port)
}

/// Downloads every size on one connection and checks each against its file.
fn download(lab: &Lab, client: Side, server: &Nginx, options: &str, sizes: &[usize]) -> Vec<Reply> {
    let mut program = curl(lab, client, options).arg("-w").arg(FORMAT);
    for size in sizes {
        let _ = fs::remove_file(lab.path(&format!("got-{size}")));
        program = program
            .arg(url(server, size))
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
                    .arg(url(&server, 1 << 20));
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
                .arg(url(&server, "up/body"));
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
                        .arg(url(&server, size))
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
                    .arg(url(&server, "post"));
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

/// Requirement 7: 200 connections × 50 requests, then nothing is left.
#[test]
fn two_hundred_connections_leave_nothing_behind() {
    const CONNECTIONS: usize = 200;
    const ROUNDS: usize = 50;
    let lab = Lab::new("nginx-many");
    files(&lab, &[100]);
    let server = nginx(&lab, Side::Shim);
    // The first connection makes what stays for good (parents, pools, logs).
    load::run(server.port, 1, 1, &noise(100));
    Kernel::settled(&lab);
    eventually("the first connection ends", || {
        established(server.port) == 0
    });
    let start = Kernel::now(&lab);
    let before = left_over(&server);

    load::run(server.port, CONNECTIONS, ROUNDS, &noise(100));

    eventually("nginx closes its connections", || {
        established(server.port) == 0
    });
    assert_eq!(
        left_over(&server),
        before,
        "(files of the worker, ALG sockets)"
    );
    let kernel = Kernel::settled(&lab).since(&start);
    let worker = server.worker();
    let log = server.stop().good().log;
    if lab.plain() {
        return;
    }
    assert!(log.iter().all(|l| l.offloaded()), "{log:#?}");
    assert_eq!(
        log.len(),
        CONNECTIONS + 1,
        "one worker ({worker}), one line per connection"
    );
    assert_eq!(kernel.get("AlgTlsTx"), CONNECTIONS as i64, "{kernel:?}");
    assert_eq!(kernel.get("AlgTlsRx"), CONNECTIONS as i64, "{kernel:?}");
    assert_eq!(
        kernel.get("AlgTlsSendfileBytes"),
        (CONNECTIONS * ROUNDS * 100) as i64,
        "{kernel:?}"
    );
}

/// The worker's open files, and the ALG sockets of this namespace.
fn left_over(server: &Nginx) -> (usize, Option<String>) {
    let fds = fs::read_dir(format!("/proc/{}/fd", server.worker()))
        .expect("the worker's files")
        .count();
    let protocols = fs::read_to_string("/proc/thread-self/net/protocols").expect("protocols");
    let alg = protocols.lines().find(|l| l.starts_with("ALG ")).map(|l| {
        l.split_whitespace()
            .nth(2)
            .expect("the number of sockets")
            .to_owned()
    });
    (fds, alg)
}

/// Connections to or from `port` that are not quite over.
fn established(port: u16) -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("tcp");
    let of_port = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let end = format!(":{port:04X}");
        // Neither TIME_WAIT nor LISTEN.
        (fields[1].ends_with(&end) || fields[2].ends_with(&end))
            && !["06", "0A"].contains(&fields[3])
    };
    table.lines().skip(1).filter(of_port).count()
}

/// wrk sets its fd again before each retry of the handshake (R9), and reads as
/// fast as it can; it reports what went wrong.
#[test]
fn wrk_and_nginx_in_every_mix() {
    let lab = Lab::new("wrk");
    files(&lab, &[20_000]);
    lab.differ(
        &ktlsshim_tests::programs::MIXES,
        |side, client| {
            let server = nginx(&lab, side);
            let wrk = lab
                .program(client, "/usr/bin/wrk")
                .args("-t 1 -c 16 -d 5s --timeout 30s")
                .arg(url(&server, 20_000))
                .run()
                .good();
            let text = wrk.text();
            assert!(text.contains("requests in"), "{text}");
            let bad = text.contains("Socket errors") || text.contains("Non-2xx");
            assert!(!bad, "{text}");
            let evidence = ktlsshim_tests::programs::Evidence {
                client: wrk.log,
                server: server.stop().good().log,
            };
            ((), evidence)
        },
        |mix, evidence, kernel| {
            let what = format!("{mix:?}\n{}{kernel:?}", evidence.describe());
            if mix.0 == Side::Shim {
                assert_eq!(evidence.server.len(), 16, "{what}");
                assert!(evidence.server.iter().all(|l| l.offloaded()), "{what}");
                assert!(kernel.get("AlgTlsSendfileBytes") >= 16 * 20_000, "{what}");
            }
            if mix.1 == Side::Shim {
                assert_eq!(evidence.client.len(), 16, "{what}");
                assert!(evidence.client.iter().all(|l| l.offloaded()), "{what}");
                assert!(
                    total(&evidence.client, |l| l.rx.fast_bytes) >= 16 * 20_000,
                    "{what}"
                );
            }
        },
    );
}

/// A plain TLS client that keeps many connections open at once and sends an
/// exact number of requests.
mod load {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};

    pub fn run(port: u16, connections: usize, rounds: usize, body: &[u8]) {
        let mut all: Vec<SslStream<TcpStream>> =
            (0..connections).map(|i| connect(port, i)).collect();
        let request = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", body.len());
        for round in 0..rounds {
            for stream in &mut all {
                stream.write_all(request.as_bytes()).expect("a request");
            }
            for (i, stream) in all.iter_mut().enumerate() {
                let got = answer(stream, body.len());
                assert!(
                    got == body,
                    "round {round}, connection {i}: the body differs"
                );
            }
        }
        for stream in &mut all {
            stream.shutdown().expect("close_notify");
        }
    }

    /// Both versions, turn by turn.
    fn connect(port: u16, turn: usize) -> SslStream<TcpStream> {
        let mut builder = SslConnector::builder(SslMethod::tls()).expect("a connector");
        builder.set_verify(SslVerifyMode::NONE);
        let version = if turn.is_multiple_of(2) {
            SslVersion::TLS1_3
        } else {
            SslVersion::TLS1_2
        };
        builder
            .set_max_proto_version(Some(version))
            .expect("a version");
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        tcp.set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        builder
            .build()
            .connect("localhost", tcp)
            .expect("a handshake")
    }

    fn answer(stream: &mut SslStream<TcpStream>, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).expect("an answer");
            assert!(n > 0, "nginx closed the connection");
            got.extend_from_slice(&buffer[..n]);
            if let Some(head) = got.windows(4).position(|w| w == b"\r\n\r\n") {
                assert!(
                    got.starts_with(b"HTTP/1.1 200 "),
                    "{}",
                    String::from_utf8_lossy(&got[..head])
                );
                if got.len() >= head + 4 + len {
                    return got.split_off(head + 4);
                }
            }
        }
    }
}
