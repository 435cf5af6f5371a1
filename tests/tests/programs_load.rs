// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many connections to an unmodified nginx at once, and what they leave behind.

use std::fs;

use ktlsshim_tests::{
    programs::{Lab, Side, eventually},
    programs_fixture::{Nginx, files, nginx, noise},
    traffic::{Kernel, total},
};

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

/// A client that resets in the middle of a file, after an idle moment in which nginx's read had found
/// nothing. The failed SSL_sendfile must not look like a wait for input: nginx would call it again for ever.
#[test]
fn a_reset_in_mid_file_ends_the_connection() {
    const BIG: usize = 16 << 20;
    let lab = Lab::new("nginx-reset");
    files(&lab, &[100, BIG]);
    for side in [Side::Plain, Side::Shim] {
        let server = nginx(&lab, side);
        for turn in 0..6 {
            load::reset_in(server.port, turn, 100, BIG);
        }
        eventually("nginx closes what was reset", || {
            established(server.port) == 0
        });
        let cpu = server.worker_ticks();
        std::thread::sleep(std::time::Duration::from_millis(500));
        let spent = server.worker_ticks() - cpu;
        assert!(
            spent < 20,
            "{side:?}: an idle worker used {spent} ticks of 10 ms"
        );
        let log = server.stop().good().log;
        if side == Side::Shim {
            assert_eq!(log.len(), 6, "{log:#?}");
            assert!(log.iter().all(|l| l.offloaded()), "{log:#?}");
        }
    }
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
                .arg(server.url(20_000))
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
        os::fd::AsRawFd,
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

    /// One small answer, then an answer of `big` bytes of which a little is read before the reset.
    pub fn reset_in(port: u16, turn: usize, small: usize, big: usize) {
        let mut stream = connect(port, turn);
        let ask = |stream: &mut SslStream<TcpStream>, size: usize| {
            let request = format!("GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("a request");
        };
        ask(&mut stream, small);
        answer(&mut stream, small);
        // nginx finds nothing to read meanwhile.
        std::thread::sleep(Duration::from_millis(50));
        ask(&mut stream, big);
        let mut some = [0; 4096];
        stream
            .read_exact(&mut some)
            .expect("the start of an answer");
        // Some turns while nginx waits for room, some while it sends.
        std::thread::sleep(Duration::from_millis(turn as u64 * 20));
        let hard = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the descriptor is the stream's; `hard` outlives the call.
        let set = unsafe {
            libc::setsockopt(
                stream.get_ref().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const hard).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "SO_LINGER");
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
