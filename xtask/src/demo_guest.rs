// SPDX-License-Identifier: MIT OR Apache-2.0
//! The half of `cargo xtask demo` that runs inside the virtual machine.
//!
//! It starts Debian's nginx, downloads with Debian's curl, and reports *what it saw* as one JSON
//! object per line on stdout. It judges nothing: which numbers must be equal is decided by
//! `demo.rs` on the host, so that the verdict and the evidence come from different places.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const PORT: u16 = 8443;
const KERNEL_STAT: &str = "/proc/net/alg_tls_stat";
const MAINLINE_STAT: &str = "/proc/net/tls_stat";

/// Who is preloaded, and whether OpenSSL's own kernel TLS is switched on, in one run.
pub struct Scenario {
    pub name: &'static str,
    server: bool,
    client: bool,
    openssl_ktls: bool,
}

const fn scenario(name: &'static str, server: bool, client: bool, openssl_ktls: bool) -> Scenario {
    Scenario {
        name,
        server,
        client,
        openssl_ktls,
    }
}

pub const TRANSFERS: [Scenario; 5] = [
    scenario("plain", false, false, false),
    scenario("openssl-ktls", false, false, true),
    scenario("shim-server", true, false, false),
    scenario("shim-client", false, true, false),
    scenario("shim-both", true, true, false),
];

pub const COSTS: [Scenario; 3] = [
    scenario("plain", false, false, false),
    scenario("openssl-ktls", false, false, true),
    scenario("shim-server", true, false, false),
];

pub const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// The bulk file of the cost measurement, and the one whose cost is start-up only.
const BULK: &str = "16M.bin";
const SPECK: &str = "1.bin";

/// `fixture` is the directory that the host made: www/, cert.pem, key.pem, requests.json.
pub fn run(fixture: &Path, shim: &Path, cost: bool) -> Result<()> {
    let guest = Guest::new(fixture, shim)?;
    // Mainline's module is for the baseline only; a kernel without it says so in that row.
    if let Err(why) = run_quietly(Command::new("modprobe").arg("tls")) {
        note(&format!("modprobe tls: {why:#}"));
    }
    let scenarios: &[Scenario] = if cost { &COSTS } else { &TRANSFERS };
    for scenario in scenarios {
        for version in VERSIONS {
            let outcome = if cost {
                guest.cost(scenario, version)
            } else {
                guest.transfers(scenario, version)
            };
            // One broken run must not hide the others: it is reported, and fails the demo.
            if let Err(why) = outcome {
                let kind = if cost { "cost" } else { "run" };
                say(
                    json!({ "event": kind, "scenario": scenario.name, "tls": version,
                    "error": format!("{why:#}") }),
                );
            }
        }
    }
    say(json!({ "event": "end" }));
    Ok(())
}

struct Guest {
    shim: PathBuf,
    work: PathBuf,
    requests: Vec<Value>,
}

impl Guest {
    fn new(fixture: &Path, shim: &Path) -> Result<Self> {
        let work = PathBuf::from("/tmp/ktlsshim-demo");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        // The worker is www-data: it must reach the files, and nobody else need.
        for dir in ["www", "got", "nginx"] {
            fs::create_dir_all(work.join(dir))?;
        }
        fs::set_permissions(&work, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(fixture.join("www"))? {
            let entry = entry?;
            fs::copy(entry.path(), work.join("www").join(entry.file_name()))?;
        }
        for name in ["cert.pem", "key.pem"] {
            fs::copy(fixture.join(name), work.join(name))?;
        }
        // Nothing but the option: everything else stays Debian's default, as in the other runs.
        fs::write(
            work.join("ktls.cnf"),
            "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n\
             [all]\nMinProtocol = TLSv1.2\nCipherString = DEFAULT:@SECLEVEL=2\nOptions = KTLS\n",
        )?;
        let requests = fs::read_to_string(fixture.join("requests.json"))?;
        Ok(Guest {
            shim: shim.to_owned(),
            work,
            requests: serde_json::from_str(&requests)?,
        })
    }

    /// Every request of the fixture on a connection of its own, then all counters.
    fn transfers(&self, scenario: &Scenario, version: &str) -> Result<()> {
        note(&format!("{}, TLS {version}", scenario.name));
        let before = (stat(KERNEL_STAT), stat(MAINLINE_STAT));
        let mut server = self.start(scenario, version)?;
        let mapped = server.maps(&self.shim);
        let mut results = Vec::new();
        for request in &self.requests {
            let name = request["name"].as_str().context("request without a name")?;
            let got = self.work.join("got").join(name);
            let _ = fs::remove_file(&got);
            let mut curl = self.curl(scenario, version, request, &got)?;
            curl.args(["-w", "%{json}"]);
            let output = curl.output().context("curl")?;
            let told: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            results.push(json!({
                "name": name,
                "exit": output.status.code(),
                "stderr": String::from_utf8_lossy(&output.stderr),
                "sha256": sha256(&got)?,
                "http": told["http_code"],
                "sent": sum(&told, &["size_request", "size_upload"]),
                "got": sum(&told, &["size_header", "size_download"]),
            }));
        }
        server.stop()?;
        let after = (stat(KERNEL_STAT), stat(MAINLINE_STAT));
        say(json!({
            "event": "run",
            "scenario": scenario.name,
            "tls": version,
            "mapped": mapped,
            "requests": results,
            "access": json_lines(&self.work.join("nginx/access.jsonl")),
            "nginx_errors": fs::read_to_string(self.work.join("nginx/error.log")).unwrap_or_default(),
            "server_log": json_lines(&self.work.join("server.jsonl")),
            "client_log": json_lines(&self.work.join("client.jsonl")),
            "kernel": delta(&before.0, &after.0),
            "kernel_present": after.0.is_some(),
            "mainline": delta(&before.1, &after.1),
        }));
        Ok(())
    }

    /// Instructions for one bulk download less those for a one-byte download: what is left is the
    /// price of the bytes, without process start and handshake.
    fn cost(&self, scenario: &Scenario, version: &str) -> Result<()> {
        note(&format!(
            "counting instructions: {}, TLS {version}",
            scenario.name
        ));
        let before = (stat(KERNEL_STAT), stat(MAINLINE_STAT));
        let mut server = self.start(scenario, version)?;
        let request = |name: &str| json!({ "name": name, "file": name, "range": null });
        let (bulk, speck) = (request(BULK), request(SPECK));
        let null = Path::new("/dev/null");
        // The first download fills caches of every kind; it is not counted.
        run_quietly(&mut self.curl(scenario, version, &bulk, null)?)?;
        let mut samples = Vec::new();
        for _ in 0..2 {
            let mut counted = Vec::new();
            for request in [&speck, &bulk] {
                let mut curl = self.curl(scenario, version, request, null)?;
                let (nginx, all) = (
                    server.ran_ns()?,
                    server.ran_ns()? + children_ns() + softirq_ns(),
                );
                run_quietly(&mut curl)?;
                let now = server.ran_ns()?;
                counted.push((now + children_ns() + softirq_ns() - all, now - nginx));
            }
            samples.push(json!({
                "both": counted[1].0.saturating_sub(counted[0].0),
                "server": counted[1].1.saturating_sub(counted[0].1),
            }));
        }
        server.stop()?;
        let after = (stat(KERNEL_STAT), stat(MAINLINE_STAT));
        let size = |name| fs::metadata(self.work.join("www").join(name)).map(|m| m.len());
        say(json!({
            "event": "cost",
            "scenario": scenario.name,
            "tls": version,
            "bytes": size(BULK)? - size(SPECK)?,
            "samples": samples,
            "access": json_lines(&self.work.join("nginx/access.jsonl")),
            "kernel": delta(&before.0, &after.0),
            "mainline": delta(&before.1, &after.1),
        }));
        Ok(())
    }

    fn start(&self, scenario: &Scenario, version: &str) -> Result<Nginx> {
        for log in [
            "server.jsonl",
            "client.jsonl",
            "nginx/access.jsonl",
            "nginx/error.log",
        ] {
            let _ = fs::remove_file(self.work.join(log));
        }
        let work = self.work.display();
        let conf = self.work.join("nginx.conf");
        fs::write(
            &conf,
            format!(
                "daemon off;\nworker_processes 1;\nuser www-data;\npid {work}/nginx/pid;\n\
             error_log {work}/nginx/error.log notice;\nevents {{ }}\nhttp {{\n\
             \tlog_format seen escape=json '{{\"uri\":\"$uri\",\"range\":\"$http_range\",\
             \"status\":$status,\"sent\":$bytes_sent,\"got\":$request_length,\
             \"tls\":\"$ssl_protocol\",\"cipher\":\"$ssl_cipher\"}}';\n\
             \taccess_log {work}/nginx/access.jsonl seen;\n\
             \tclient_body_temp_path {work}/nginx;\n\tproxy_temp_path {work}/nginx;\n\
             \tfastcgi_temp_path {work}/nginx;\n\tuwsgi_temp_path {work}/nginx;\n\
             \tscgi_temp_path {work}/nginx;\n\tsendfile on;\n\tserver {{\n\
             \t\tlisten 127.0.0.1:{PORT} ssl;\n\t\tssl_protocols TLSv{version};\n\
             \t\tssl_certificate {work}/cert.pem;\n\t\tssl_certificate_key {work}/key.pem;\n\
             \t\troot {work}/www;\n\t\tlocation /copy/ {{ alias {work}/www/; sendfile off; }}\n\t}}\n}}\n"
            ),
        )?;
        let mut command = Command::new("nginx");
        command
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if scenario.server {
            self.preload(&mut command, "server.jsonl");
        }
        if scenario.openssl_ktls {
            command.env("OPENSSL_CONF", self.work.join("ktls.cnf"));
        }
        let child = command.stderr(Stdio::inherit()).spawn().context("nginx")?;
        let mut nginx = Nginx { child, worker: 0 };
        nginx.wait_until_ready()?;
        Ok(nginx)
    }

    fn curl(
        &self,
        scenario: &Scenario,
        version: &str,
        request: &Value,
        to: &Path,
    ) -> Result<Command> {
        let file = request["file"].as_str().context("request without a file")?;
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--http1.1",
            "--max-time",
            "300",
            "--tls-max",
            version,
        ]);
        curl.arg(format!("--tlsv{version}"))
            .arg("--cacert")
            .arg(self.work.join("cert.pem"));
        if let Some(range) = request["range"].as_str() {
            curl.args(["-r", range]);
        }
        curl.arg("-o")
            .arg(to)
            .arg(format!("https://localhost:{PORT}/{file}"));
        // The name is not looked up: a fresh machine need not have it in /etc/hosts.
        curl.args(["--resolve", &format!("localhost:{PORT}:127.0.0.1")]);
        if scenario.client {
            self.preload(&mut curl, "client.jsonl");
        }
        Ok(curl)
    }

    fn preload(&self, command: &mut Command, log: &str) {
        command
            .env("LD_PRELOAD", &self.shim)
            .env("KTLSSHIM_LOG", self.work.join(log));
    }
}

struct Nginx {
    child: Child,
    worker: u32,
}

impl Nginx {
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("nginx ended with {status} before it listened");
            }
            // The master listens before it forks. A probing connection would be one too many in
            // every counter that is compared afterwards.
            if let Some(worker) = child_of(self.child.id()) {
                self.worker = worker;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("nginx started no worker within a minute")
    }

    /// A preload that the loader could not use is ignored by it with a mere message: look.
    fn maps(&self, library: &Path) -> bool {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.worker)).unwrap_or_default();
        let name = library
            .file_name()
            .map(|n| n.to_string_lossy().into_owned());
        name.is_some_and(|name| maps.lines().any(|line| line.ends_with(&format!("/{name}"))))
    }

    /// Time on the CPU, which in the counting machine is instructions: one per nanosecond.
    fn ran_ns(&self) -> Result<u64> {
        ran_ns(self.worker)
    }

    /// A graceful end: the worker closes its connections, and their log lines are written.
    fn stop(&mut self) -> Result<()> {
        signal(self.child.id(), "QUIT")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("nginx did not end within 20 s of SIGQUIT")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Reached alive only when a run failed half-way; the next run needs the port.
        if let Ok(None) = self.child.try_wait() {
            let _ = signal(self.worker, "KILL");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // "pid (name) state parent …": the name may contain anything but ends at the last ')'.
        let of = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse::<u32>()
            .ok()?;
        (of == parent).then_some(pid)
    })
}

fn signal(pid: u32, name: &str) -> Result<()> {
    if pid == 0 {
        bail!("no process to send SIG{name}");
    }
    run_quietly(Command::new("kill").args(["-s", name, &pid.to_string()]))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).process_group(0).output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{:?}: {}: {}",
            command.get_program(),
            output.status,
            why.trim()
        );
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    if !path.exists() {
        return Ok("no file".into());
    }
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .context("sha256sum")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap_or("")
        .to_owned())
}

/// `Name value` lines; None when the kernel has no such file.
fn stat(path: &str) -> Option<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path).ok()?;
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    Some(text.lines().filter_map(pair).collect())
}

fn delta(
    before: &Option<BTreeMap<String, i64>>,
    after: &Option<BTreeMap<String, i64>>,
) -> BTreeMap<String, i64> {
    let zero = |name: &String| {
        before
            .as_ref()
            .and_then(|b| b.get(name))
            .copied()
            .unwrap_or(0)
    };
    let after = after.iter().flatten();
    after
        .map(|(name, value)| (name.clone(), value - zero(name)))
        .collect()
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |l: &str| serde_json::from_str(l).unwrap_or_else(|_| json!({ "unreadable": l }));
    text.lines().map(line).collect()
}

fn sum(value: &Value, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| value[*name].as_u64()).sum()
}

fn ran_ns(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    text.split_whitespace()
        .next()
        .context("schedstat is empty")?
        .parse()
        .context("schedstat")
}

/// What waited-for children (curl) ran. Not rdtsc: the counter jumps ahead while the CPU is idle,
/// and how long both ends happen to wait for each other is no cost of a byte.
fn children_ns() -> u64 {
    // SAFETY: rusage is plain old data, for which all zeroes is a valid value.
    let mut usage: nix::libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills one rusage, a live local, and keeps no pointer to it.
    unsafe { nix::libc::getrusage(nix::libc::RUSAGE_CHILDREN, &mut usage) };
    let ns = |t: nix::libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

/// Network work that neither end's context paid for.
fn softirq_ns() -> u64 {
    let named = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "ksoftirqd/0")
    };
    // One CPU: one thread, and one of the first.
    (1..100)
        .find(named)
        .and_then(|pid| ran_ns(pid).ok())
        .unwrap_or(0)
}

fn note(text: &str) {
    say(json!({ "event": "note", "text": text }));
}

fn say(value: Value) {
    let mut out = std::io::stdout().lock();
    // The host reads line by line to show progress; a closed pipe means that it gave up.
    if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
