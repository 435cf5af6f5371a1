// SPDX-License-Identifier: MIT OR Apache-2.0
//! The half of `cargo xtask matrix` that runs inside the virtual machine.
//!
//! It enters a release's root, has `tests/matrix/run.sh` make each row's exchange without and with the
//! shim, and reports what it saw, one JSON object per line. It judges nothing: `matrix_judge.rs` does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// One exchange may take so long; a hang is a difference.
const PATIENCE: Duration = Duration::from_secs(240);

/// Rows that run at the same time.
const AT_ONCE: usize = 3;

const WORK: &str = "/tmp/w";

/// `fixture` is what the host made: certificates, blob, and `plan.json` with the rows to run.
pub fn run(root: &Path, fixture: &Path, shim: &Path) -> Result<()> {
    let slowness = std::env::var("KTLSSHIM_TEST_SLOWNESS").ok();
    let slowness: u32 = slowness.and_then(|s| s.parse().ok()).unwrap_or(1);
    let plan: Vec<Value> = serde_json::from_str(&fs::read_to_string(fixture.join("plan.json"))?)?;
    enter(root, fixture, shim)?;
    // Servers that start as ordinary users make connections too.
    fs::write("/sys/module/algif_tls/parameters/unprivileged", "Y").context("unprivileged")?;
    let mut rows = Vec::new();
    for item in &plan {
        match (item["row"].as_str(), item["version"].as_str()) {
            (Some(row), Some(version)) => rows.push((row.to_owned(), version.to_owned())),
            _ => bail!("a plan without a row: {item}"),
        }
    }
    rows.reverse();
    let rows = Mutex::new(rows);
    // Programs mostly wait for one another: more than one pair of them fills the processors.
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            apart()?;
            loop {
                let next = rows.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((row, version)) = next else {
                    return Ok(());
                };
                say(&json!({ "event": "note", "text": format!("{row}, TLS {version}") }));
                let plain = exchange(&row, &version, "plain", PATIENCE * slowness)?;
                let shim = exchange(&row, &version, "shim", PATIENCE * slowness)?;
                say(&json!({ "event": "row", "row": row, "version": version,
                    "plain": plain, "shim": shim }));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| bail!("a worker panicked")))
    })
}

/// Gives the calling thread, and what it starts, a network (and its counters) and a /tmp of its own.
fn apart() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(
        Some("tmpfs"),
        "/tmp",
        Some("tmpfs"),
        flags,
        Some("mode=1777"),
    )
    .context("/tmp")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, none).context("/run")?;
    let up = Command::new("/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status();
    if !up.context("ip")?.success() {
        bail!("cannot bring up the loopback device");
    }
    Ok(())
}

/// Everything that the rows need goes into the root; then it is our root. All of it is memory.
fn enter(root: &Path, fixture: &Path, shim: &Path) -> Result<()> {
    let none = None::<&str>;
    for name in ["proc", "sys", "dev"] {
        let from = Path::new("/").join(name);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&from), &root.join(name), none, flags, none).context(name)?;
    }
    for name in ["tmp", "run", "matrix"] {
        let (to, flags) = (root.join(name), MsFlags::empty());
        mount(Some("tmpfs"), &to, Some("tmpfs"), flags, Some("mode=1777")).context(name)?;
    }
    fs::copy(shim, root.join("matrix/libktlsshim.so"))?;
    copy_tree(fixture, &root.join("matrix"))?;
    link_php(root)?;
    nix::unistd::chroot(root).context("chroot")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// What Debian's alternatives would have made: `php` is the php8.2, or whichever, that is there.
fn link_php(root: &Path) -> Result<()> {
    let is_php = |n: &String| n.starts_with("php") && n.ends_with(|c: char| c.is_ascii_digit());
    let names = fs::read_dir(root.join("usr/bin"))?.flatten();
    let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
    let Some(name) = names.filter(is_php).min() else {
        return Ok(());
    };
    for dir in ["etc/alternatives", "usr/bin"] {
        let link = root.join(dir).join("php");
        if link.symlink_metadata().is_err() {
            fs::create_dir_all(root.join(dir))?;
            std::os::unix::fs::symlink(format!("/usr/bin/{name}"), link)?;
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &to)?;
        } else {
            fs::copy(&path, &to)?;
            let mode = path.metadata()?.permissions().mode() | 0o444;
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// One run of a row: how it ended, what it left, and what kernel and shim say about it.
fn exchange(row: &str, version: &str, mode: &str, patience: Duration) -> Result<Value> {
    let _ = fs::remove_dir_all(WORK);
    fs::create_dir_all(WORK)?;
    let before = counters();
    let started = Instant::now();
    // The other version of this row may run at the same time.
    let name = format!("{row}-{version}");
    let heard = fs::File::create("/tmp/heard")?;
    let mut child = Command::new("/bin/sh")
        .args(["/matrix/run.sh", row, version, mode])
        .env_clear()
        .env("MATRIX_ROW", &name)
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(heard.try_clone()?)
        .stderr(heard)
        .process_group(0)
        .spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break json!(status.code());
        }
        if started.elapsed() > patience {
            break json!("hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let busy = if status == "hangs" {
        processes()
    } else {
        String::new()
    };
    let left = clear_away(child.id(), &name);
    let _ = child.wait();
    let after = counters();
    let grew: BTreeMap<_, _> = after
        .iter()
        .map(|(name, n)| (name.clone(), n - before.get(name).copied().unwrap_or(0)))
        .collect();
    let work = Path::new(WORK);
    let text =
        |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let log = text(&work.join("log"));
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|_| json!({ "unreadable": l })))
        .collect();
    Ok(json!({
        "status": status,
        "seconds": started.elapsed().as_secs(),
        "out": sums(&work.join("out"))?,
        "statuses": text(&work.join("out/status")),
        "idle": text(&work.join("idle")).trim(),
        "told": text(Path::new("/tmp/heard")),
        "busy": busy,
        "left": left,
        "kernel": grew,
        "log": lines,
    }))
}

/// Ends what the row left running: daemons leave their process group, but not their root.
fn clear_away(group: u32, name: &str) -> usize {
    let _ = killpg(Pid::from_raw(group as i32), Signal::SIGTERM);
    let mut left = 0;
    for round in 0..40 {
        let ours = subjects(name);
        if ours.is_empty() {
            break;
        }
        left = ours.len();
        if round > 20 {
            ours.iter().for_each(|pid| {
                let _ = kill(*pid, Signal::SIGKILL);
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = killpg(Pid::from_raw(group as i32), Signal::SIGKILL);
    left
}

/// Processes under test, wherever they are.
fn subjects(name: &str) -> Vec<Pid> {
    let mark = format!("MATRIX_SUBJECT={name}");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter(|entry| {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == mark.as_bytes())
    })
    .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    .map(Pid::from_raw)
    .collect()
}

fn processes() -> String {
    let output = Command::new("ps")
        .args(["-eo", "pid,ppid,stat,time,wchan:20,args"])
        .output();
    output.map_or(String::new(), |o| {
        let text = String::from_utf8_lossy(&o.stdout).into_owned();
        text.lines()
            .filter(|l| !l.contains(" ["))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn sums(dir: &Path) -> Result<BTreeMap<String, Value>> {
    let mut sums = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let output = Command::new("sha256sum").arg(entry.path()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let sum = text.split_whitespace().next().unwrap_or("").to_owned();
        let size = entry.metadata()?.len();
        sums.insert(
            entry.file_name().to_string_lossy().into_owned(),
            json!({ "size": size, "sha256": sum }),
        );
    }
    Ok(sums)
}

fn counters() -> BTreeMap<String, i64> {
    let text = fs::read_to_string("/proc/thread-self/net/alg_tls_stat").unwrap_or_default();
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn say(value: &Value) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // A closed pipe means that the host gave up.
    if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
