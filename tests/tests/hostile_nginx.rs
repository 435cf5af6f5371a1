// SPDX-License-Identifier: MIT OR Apache-2.0
//! nginx as its administrators treat it: reloaded, upgraded in flight, with a worker that dies, several
//! server blocks, HTTP/2. Every step is compared with an nginx without the shim.

use std::fs;

use ktlsshim_tests::{
    programs::{Lab, Running, Side, eventually},
    programs_fixture::{Identity, files, identity, noise},
    traffic::{Kernel, Line},
};

const SIZE: usize = 200_000;

struct Server {
    running: Running,
    port: u16,
    pid_file: std::path::PathBuf,
}

impl Server {
    /// `/SIZE` on two names; the second one has no such file.
    ///
    /// An nginx that is no daemon refuses to be upgraded while the parent lives that started it: it is
    /// started by a shell that goes away, and stays in the process group that the lab ends.
    fn start(lab: &Lab, side: Side, main: &str) -> Server {
        files(lab, &[SIZE]);
        fs::create_dir_all(lab.path("empty")).expect("a directory");
        let port = lab.port();
        let dir = lab.dir.display();
        let Identity { cert, key } = identity();
        let (cert, key) = (cert.display(), key.display());
        let block = |name: &str, root: &str| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl http2; server_name {name}; root {dir}/{root};\n\
                 ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; }}\n"
            )
        };
        let text = format!(
            "daemon off; master_process on; worker_processes 1; user nobody nogroup; {main}\n\
             pid {dir}/nginx-{port}.pid; error_log {dir}/nginx-{port}.error notice;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; server_tokens off;\n\
             client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n{}{} }}\n",
            block("full.test", "www"),
            block("empty.test", "empty")
        );
        let conf = lab.path(&format!("nginx-{port}.conf"));
        fs::write(&conf, text).expect("nginx.conf");
        let running = lab
            .program(side, "/bin/sh")
            .arg("-c")
            .arg("( \"$@\" & sleep 2 ); exec sleep 100000")
            .arg("sh")
            .arg("/usr/sbin/nginx")
            .arg("-c")
            .arg(&conf)
            .arg("-p")
            .arg(&lab.dir)
            .start()
            .listening(port);
        Server {
            running,
            port,
            pid_file: lab.path(&format!("nginx-{port}.pid")),
        }
    }

    fn master(&self) -> u32 {
        let text = fs::read_to_string(&self.pid_file).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Ends nginx, then the program that kept its group.
    fn stop(self) -> Vec<Line> {
        let master = self.master();
        if master != 0 {
            signal(master, libc::SIGTERM);
            eventually("nginx ends", || !self.pid_file.exists());
        }
        self.running.stop(libc::SIGTERM).log
    }

    /// What curl says of a file: status, HTTP version and code, bytes as they should be.
    fn fetch(&self, lab: &Lab, host: &str, how: &str) -> (i32, String, bool) {
        let out = lab.path("fetched");
        let _ = fs::remove_file(&out);
        let done = lab
            .program(Side::Plain, "/usr/bin/curl")
            .args("-sk --max-time 60 -w %{http_version}/%{http_code}")
            .args(how)
            .arg("--resolve")
            .arg(format!("{host}:{}:127.0.0.1", self.port))
            .arg("-o")
            .arg(&out)
            .arg(format!("https://{host}:{}/{SIZE}", self.port))
            .run();
        let same = fs::read(&out).is_ok_and(|bytes| bytes == noise(SIZE));
        (done.status, done.text(), same)
    }
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect()
}

fn parent(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("PPid:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn signal(pid: u32, signal: libc::c_int) {
    assert!(pid > 1);
    // SAFETY: kill has no memory to spoil; the process is one that this test started.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
}

/// Plays with and without the shim; the answers must be equal.
fn compare<T: PartialEq + std::fmt::Debug>(
    name: &str,
    main: &str,
    scene: impl Fn(&Lab, &mut Server, Side) -> T,
) -> (T, Vec<Line>, Kernel) {
    let lab = Lab::new(name);
    let mut plain = Server::start(&lab, Side::Plain, main);
    let expected = scene(&lab, &mut plain, Side::Plain);
    plain.stop();
    let before = Kernel::now(&lab);
    let mut server = Server::start(&lab, Side::Shim, main);
    let got = scene(&lab, &mut server, Side::Shim);
    let log = server.stop();
    assert_eq!(expected, got, "{log:#?}");
    let kernel = Kernel::settled(&lab).since(&before);
    (got, log, kernel)
}

/// So many connections, all of them sent by the kernel.
fn sent_by_kernel(connections: usize, log: &[Line], kernel: &Kernel) {
    assert_eq!(log.len(), connections, "{log:#?}");
    assert!(log.iter().all(|l| l.tx.kernel), "{log:#?}");
    let bytes = (connections * SIZE) as i64;
    assert!(kernel.get("AlgTlsTxBytes") >= bytes, "{kernel:?}\n{log:#?}");
}

fn another_worker(master: u32, old: &[u32]) {
    eventually("there is another worker", || {
        let now = children(master);
        !now.is_empty() && now.iter().all(|pid| !old.contains(pid))
    });
}

#[test]
fn reload() {
    let (_, log, kernel) = compare("nginx-reload", "", |lab, server, _| {
        let first = server.fetch(lab, "full.test", "--http1.1");
        let old = children(server.master());
        signal(server.master(), libc::SIGHUP);
        another_worker(server.master(), &old);
        (first, server.fetch(lab, "full.test", "--http1.1"))
    });
    sent_by_kernel(2, &log, &kernel);
}

#[test]
fn a_worker_that_is_killed() {
    let (_, log, kernel) = compare("nginx-crash", "", |lab, server, _| {
        let first = server.fetch(lab, "full.test", "--http1.1");
        let old = children(server.master());
        old.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        another_worker(server.master(), &old);
        (first, server.fetch(lab, "full.test", "--http1.1"))
    });
    sent_by_kernel(2, &log, &kernel);
}

#[test]
fn few_descriptors() {
    let main = "worker_rlimit_nofile 24;";
    let (_, log, _) = compare("nginx-rlimit", main, |lab, server, _| {
        [(); 4].map(|()| server.fetch(lab, "full.test", "--http1.1"))
    });
    assert_eq!(log.len(), 4, "{log:#?}");
}

#[test]
fn server_blocks_by_name_and_http2() {
    let (got, log, kernel) = compare("nginx-names", "", |lab, server, _| {
        let mut all = Vec::new();
        for how in ["--http1.1", "--http2", "--http2 --tls-max 1.2"] {
            all.push(server.fetch(lab, "full.test", how));
            all.push(server.fetch(lab, "empty.test", how));
        }
        all
    });
    assert_eq!(got[2], (0, "2/200".to_owned(), true));
    assert_eq!(got[3], (0, "2/404".to_owned(), false));
    assert_eq!(log.len(), 6, "{log:#?}");
    assert!(log.iter().all(|l| l.tx.kernel), "{log:#?}");
    assert!(kernel.get("AlgTlsTxBytes") >= 3 * SIZE as i64, "{kernel:?}");
}

/// A new master by SIGUSR2; the old one goes. nginx hands on no variable that it is not told to.
fn upgrade(name: &str, main: &str, kept: bool) {
    let (_, log, kernel) = compare(name, main, |lab, server, side| {
        let first = server.fetch(lab, "full.test", "--http1.1");
        let old = server.master();
        eventually("nginx is an orphan", || parent(old) == 1);
        signal(old, libc::SIGUSR2);
        eventually("there is another master with a worker", || {
            let now = server.master();
            now != 0 && now != old && !children(now).is_empty()
        });
        let new = server.master();
        let maps = fs::read_to_string(format!("/proc/{new}/maps")).expect("maps");
        assert_eq!(
            maps.contains("libktlsshim"),
            kept && side == Side::Shim && !lab.plain()
        );
        signal(old, libc::SIGQUIT);
        eventually("the old master ends", || children(old).is_empty());
        let second = server.fetch(lab, "full.test", "--http1.1");
        (first, second)
    });
    sent_by_kernel(if kept { 2 } else { 1 }, &log, &kernel);
}

#[test]
fn binary_upgrade_with_the_preload_kept() {
    upgrade(
        "nginx-upgrade-kept",
        "env LD_PRELOAD; env KTLSSHIM_LOG;",
        true,
    );
}

#[test]
fn binary_upgrade_that_drops_the_preload() {
    upgrade("nginx-upgrade-dropped", "", false);
}
