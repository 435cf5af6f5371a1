// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is it faster here? A server of yours, without and with ktlsshim, in alternation, on this machine.
//!
//!     cargo run --release --example ab -- --url https://localhost:8443/file nginx -c /path/nginx.conf
//!
//! The command is started without the shim, loaded by wrk, stopped, started with the shim, loaded,
//! stopped, and so on (A B A B …): what drifts (clock rates, neighbours, caches) then hits both. Each
//! pair gives one ratio; the verdict is their median, and there is none if the pairs differ by more
//! than it says, or if the kernel did not carry the data. It runs one server at a time and kills only
//! what it started. The module has to be loaded (docs/algif_tls.4).

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: ab [OPTION…] COMMAND [ARGUMENT…]
  --url URL           what wrk asks for             (https://localhost:8443/)
  --pairs N           how often A B                 (5)
  --seconds N         of load per run               (10)
  --connections N     of wrk                        (16)
  --threads N         of wrk                        (1)
  --shim FILE         the library to preload        (target/release/libktlsshim.so)
COMMAND starts the server. It may become a daemon: its processes are found all the same.";

struct Options {
    url: String,
    pairs: usize,
    seconds: u64,
    connections: usize,
    threads: usize,
    shim: PathBuf,
    command: Vec<String>,
}

/// One run of the server under load.
#[derive(Clone, Default, Debug)]
struct Run {
    bytes: f64,
    seconds: f64,
    requests: f64,
    errors: u64,
    /// Milliseconds
    p50: f64,
    p99: f64,
    /// CPU seconds of the server's processes, and of the whole machine (wrk and interrupts too)
    server: f64,
    machine: f64,
    /// Plaintext bytes that the kernel socket sealed or opened meanwhile
    kernel: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.bytes / self.seconds
    }

    fn server_per_gib(&self) -> f64 {
        self.server / (self.bytes / GIB)
    }

    fn machine_per_gib(&self) -> f64 {
        self.machine / (self.bytes / GIB)
    }
}

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(why) => {
            eprintln!("ab: {why}");
            ExitCode::FAILURE
        }
    }
}

/// True if there was a verdict.
fn run() -> Outcome<bool> {
    let options = parse(std::env::args().skip(1))?;
    if !options.shim.exists() {
        return Err(format!("no {} (cargo build --release)", options.shim.display()).into());
    }
    // SAFETY: prctl with constants; a daemon of ours then becomes our child again, and can be found.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let mut pairs = Vec::new();
    println!(
        "pair  run        MiB/s   req/s  p50 ms  p99 ms  server s/GiB  machine s/GiB  in the kernel"
    );
    for pair in 1..=options.pairs {
        let plain = measure(&options, false)?;
        show(pair, "plain", &plain);
        let shim = measure(&options, true)?;
        show(pair, "ktlsshim", &shim);
        pairs.push((plain, shim));
    }
    let (text, good) = verdict(&pairs);
    println!("\n{text}");
    Ok(good)
}

fn parse(mut args: impl Iterator<Item = String>) -> Outcome<Options> {
    let shim = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .map(|dir| dir.join("libktlsshim.so"))
        .unwrap_or_default();
    let mut options = Options {
        url: "https://localhost:8443/".into(),
        pairs: 5,
        seconds: 10,
        connections: 16,
        threads: 1,
        shim,
        command: Vec::new(),
    };
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            options.command.push(arg);
            options.command.extend(args.by_ref());
            break;
        }
        if arg == "--" {
            continue;
        }
        let mut value = || args.next().ok_or(USAGE);
        match arg.as_str() {
            "--url" => options.url = value()?,
            "--pairs" => options.pairs = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--connections" => options.connections = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--shim" => options.shim = value()?.into(),
            _ => return Err(USAGE.into()),
        }
    }
    if options.command.is_empty() || options.pairs == 0 {
        return Err(USAGE.into());
    }
    Ok(options)
}

/// The address that the URL names: someone has to listen there, and nobody before we start.
fn address(url: &str) -> Outcome<std::net::SocketAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    let host = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:443")
    };
    let mut all = host.to_socket_addrs()?;
    // wrk takes whichever answers; servers mostly listen on IPv4.
    let first = all
        .clone()
        .find(std::net::SocketAddr::is_ipv4)
        .or_else(|| all.next());
    Ok(first.ok_or_else(|| format!("{host}: no address"))?)
}

fn measure(options: &Options, shim: bool) -> Outcome<Run> {
    let at = address(&options.url)?;
    if TcpStream::connect(at).is_ok() {
        return Err(format!("somebody listens on {at} already").into());
    }
    let mut server = Server::start(options, shim)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(at).is_err() {
        if Instant::now() > deadline {
            return Err(format!("nobody listens on {at} after 30 s").into());
        }
        sleep(Duration::from_millis(50));
    }
    if shim && !server.preloaded(&options.shim) {
        return Err("the shim is mapped in none of the server's processes".into());
    }
    wrk(options, 1)?;
    let (kernel, ran, busy) = (in_kernel(), server.ran(), machine_busy());
    let mut run = wrk(options, options.seconds)?;
    run.server = server.ran() - ran;
    run.machine = machine_busy() - busy;
    run.kernel = in_kernel() - kernel;
    server.stop(at)?;
    Ok(run)
}

/// Every process that is ours: the server and what it forked, daemons too.
struct Server;

impl Server {
    fn start(options: &Options, shim: bool) -> Outcome<Self> {
        let (program, arguments) = options.command.split_first().ok_or(USAGE)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        if shim {
            let library = fs::canonicalize(&options.shim)?;
            let mut list = library.into_os_string();
            if let Some(others) = std::env::var_os("LD_PRELOAD") {
                list.push(":");
                list.push(others);
            }
            command.env("LD_PRELOAD", list);
        }
        command.spawn().map_err(|e| format!("{program}: {e}"))?;
        Ok(Self)
    }

    fn processes(&self) -> Vec<i32> {
        let own = std::process::id().cast_signed();
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<i32>().ok())
                && let Some(parent) = parent(pid)
            {
                parents.push((pid, parent));
            }
        }
        let mut found = vec![own];
        // Generation by generation; a family tree has few of them.
        for _ in 0..8 {
            let more: Vec<_> = parents
                .iter()
                .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            found.extend(more);
        }
        found.retain(|pid| *pid != own);
        found
    }

    /// CPU seconds so far.
    fn ran(&self) -> f64 {
        let of = |pid: &i32| -> f64 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten();
            tasks
                .filter_map(|task| {
                    let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
                    text.split(' ').next()?.parse::<f64>().ok()
                })
                .sum()
        };
        self.processes().iter().map(of).sum::<f64>() / 1e9
    }

    fn preloaded(&self, shim: &Path) -> bool {
        let Some(name) = shim.file_name().and_then(|n| n.to_str()) else {
            return false;
        };
        self.processes().iter().any(|pid| {
            fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(name))
        })
    }

    fn stop(&mut self, at: std::net::SocketAddr) -> Outcome<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut signal = libc::SIGTERM;
        loop {
            for pid in self.processes() {
                // SAFETY: a signal to a process that is our descendant; no memory is involved.
                unsafe { libc::kill(pid, signal) };
            }
            sleep(Duration::from_millis(200));
            // SAFETY: reaps any child; no status is asked for.
            while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
            if self.processes().is_empty() && TcpStream::connect(at).is_err() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the server does not end".into());
            }
            if left < Duration::from_secs(20) {
                signal = libc::SIGKILL;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in self.processes() {
            // SAFETY: as in stop(); reached with processes only when a run failed half-way.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent …": the name may contain anything but ends at the last ')'.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Seconds that any CPU was not idle.
fn machine_busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|w| w.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq; guest times are inside of user
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|at| numbers.get(*at))
        .sum::<f64>();
    busy / 100.0
}

/// Both directions of /proc/net/alg_tls_stat; nothing without the module.
fn in_kernel() -> f64 {
    let text = fs::read_to_string("/proc/net/alg_tls_stat").unwrap_or_default();
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let wanted = name == "AlgTlsTxBytes" || name == "AlgTlsRxBytes";
        words.next().filter(|_| wanted)?.parse::<f64>().ok()
    };
    text.lines().filter_map(value).sum()
}

fn wrk(options: &Options, seconds: u64) -> Outcome<Run> {
    let output = Command::new("wrk")
        .arg("--latency")
        .args(["-t", &options.threads.to_string()])
        .args(["-c", &options.connections.to_string()])
        .args(["-d", &format!("{seconds}s")])
        .arg(&options.url)
        .env_remove("LD_PRELOAD")
        .output()
        .map_err(|e| format!("wrk: {e} (Debian: apt-get install wrk)"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("wrk: {}{text}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let run = read_wrk(&text).ok_or_else(|| format!("wrk said:\n{text}"))?;
    if run.errors > 0 || run.requests == 0.0 {
        return Err(format!("requests failed; wrk said:\n{text}").into());
    }
    Ok(run)
}

/// A number with a unit, of which the last letters are looked up in `units`.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    Some(number.parse::<f64>().ok()? * factor)
}

fn read_wrk(text: &str) -> Option<Run> {
    const TIME: [(&str, f64); 4] = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    const SIZE: [(&str, f64); 5] = [
        ("B", 1.0),
        ("KB", 1024.0),
        ("MB", MIB),
        ("GB", GIB),
        ("TB", 1024.0 * GIB),
    ];
    let mut run = Run::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", value] => run.p50 = with_unit(value, &TIME)?,
            ["99%", value] => run.p99 = with_unit(value, &TIME)?,
            [requests, "requests", "in", time, size, "read"] => {
                run.requests = requests.parse().ok()?;
                run.seconds = with_unit(time.trim_end_matches(','), &TIME)? / 1000.0;
                run.bytes = with_unit(size, &SIZE)?;
            }
            ["Non-2xx", .., number] => run.errors += number.parse::<u64>().ok()?,
            ["Socket", "errors:", rest @ ..] => {
                let numbers = rest
                    .iter()
                    .filter_map(|w| w.trim_end_matches(',').parse::<u64>().ok());
                run.errors += numbers.sum::<u64>();
            }
            _ => {}
        }
    }
    (run.bytes > 0.0 && run.seconds > 0.0).then_some(run)
}

fn show(pair: usize, name: &str, run: &Run) {
    println!(
        "{pair:>4}  {name:<8} {:>7.1} {:>7.0} {:>7.2} {:>7.2} {:>13.3} {:>14.3} {:>13.0} %",
        run.rate() / MIB,
        run.requests / run.seconds,
        run.p50,
        run.p99,
        run.server_per_gib(),
        run.machine_per_gib(),
        run.kernel / run.bytes * 100.0
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Ratios pair by pair, and what they come to. No verdict where the pairs differ by more than it says.
fn verdict(pairs: &[(Run, Run)]) -> (String, bool) {
    let mut text = String::new();
    let mut good = false;
    // wrk counts header bytes as well, and the shim leaves a connection's first record to OpenSSL.
    let carried = pairs
        .iter()
        .all(|(_, shim)| shim.kernel >= 0.9 * shim.bytes);
    let clean = pairs
        .iter()
        .all(|(plain, _)| plain.kernel < 0.01 * plain.bytes);
    if !carried {
        text += "No verdict: with the shim, the kernel carried less than 90 % of the data (KTLSSHIM_LOG says why).\n";
    }
    if !clean {
        text += "No verdict: the kernel carried data of the plain runs too; who else uses it?\n";
    }
    type Measure = fn(&Run) -> f64;
    let measures: [(&str, bool, Measure); 5] = [
        ("throughput", true, Run::rate),
        ("server CPU per GiB", false, Run::server_per_gib),
        ("machine CPU per GiB", false, Run::machine_per_gib),
        ("latency, median", false, |run| run.p50),
        ("latency, 99 %", false, |run| run.p99),
    ];
    for (name, more_is_better, of) in measures {
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|(plain, shim)| of(shim) / of(plain))
            .collect();
        let middle = median(&ratios);
        let most = ratios.iter().copied().fold(f64::MIN, f64::max);
        let least = ratios.iter().copied().fold(f64::MAX, f64::min);
        let list: Vec<_> = ratios.iter().map(|r| format!("{r:.3}")).collect();
        let _ = write!(
            text,
            "{name:<20} with/without {middle:.3}  ({})  ",
            list.join(" ")
        );
        let difference = middle - 1.0;
        let _ = if !(carried && clean) {
            writeln!(text)
        } else if pairs.len() < 3 {
            writeln!(text, "no verdict: fewer than 3 pairs")
        } else if most - least >= difference.abs() {
            writeln!(
                text,
                "no verdict: the pairs differ by {:.1} %, that is more than they say",
                (most - least) * 100.0
            )
        } else {
            good = true;
            let better = (difference > 0.0) == more_is_better;
            let word = if better { "better" } else { "worse" };
            writeln!(text, "{word} by {:.1} %", difference.abs() * 100.0)
        };
    }
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, kernel: f64) -> Run {
        Run {
            bytes: rate * 10.0,
            seconds: 10.0,
            requests: 100.0,
            p50: 1.0,
            p99: 2.0,
            server: 1.0,
            machine: 2.0,
            kernel: rate * 10.0 * kernel,
            ..Run::default()
        }
    }

    fn throughput(pairs: &[(Run, Run)]) -> String {
        let (text, _) = verdict(pairs);
        text.lines()
            .find(|l| l.starts_with("throughput"))
            .unwrap_or_default()
            .to_owned()
    }

    #[test]
    fn a_clear_difference_is_said() {
        let pairs: Vec<_> = [1.20, 1.21, 1.22]
            .iter()
            .map(|r| (run(1e8, 0.0), run(r * 1e8, 1.0)))
            .collect();
        assert!(
            throughput(&pairs).ends_with("better by 21.0 %"),
            "{}",
            throughput(&pairs)
        );
    }

    #[test]
    fn noise_is_no_verdict() {
        let pairs: Vec<_> = [0.98, 1.02, 1.05]
            .iter()
            .map(|r| (run(1e8, 0.0), run(r * 1e8, 1.0)))
            .collect();
        assert!(
            throughput(&pairs).contains("no verdict: the pairs differ"),
            "{}",
            throughput(&pairs)
        );
    }

    #[test]
    fn data_that_stayed_in_userspace_is_no_verdict() {
        let pairs: Vec<_> = [1.20, 1.21, 1.22]
            .iter()
            .map(|r| (run(1e8, 0.0), run(r * 1e8, 0.2)))
            .collect();
        let (text, good) = verdict(&pairs);
        assert!(!good && text.starts_with("No verdict"), "{text}");
    }

    #[test]
    fn wrk_is_understood() {
        let text = "Running 2s test\n  Latency Distribution\n     50%    1.50ms\n     75%  2.00ms\n     \
            99%   12.30ms\n  2434 requests in 2.01s, 2.38GB read\nRequests/sec:   1210.29\n";
        let run = read_wrk(text).unwrap_or_default();
        assert_eq!(
            (run.p50, run.p99, run.seconds, run.requests),
            (1.5, 12.3, 2.01, 2434.0)
        );
        assert_eq!(run.bytes, 2.38 * GIB);
        let text = text.to_owned() + "  Non-2xx or 3xx responses: 7\n";
        assert_eq!(read_wrk(&text).unwrap_or_default().errors, 7);
    }
}
