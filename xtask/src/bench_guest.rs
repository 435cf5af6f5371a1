// SPDX-License-Identifier: MIT OR Apache-2.0
//! The half of `cargo xtask bench` that runs inside the counting machine.
//!
//! It starts the programs of each cell, lets them repeat until the samples agree, and reports what was
//! counted as one JSON object per line. The counts come from outside of the machine: the plugin writes
//! a line to /out/counts whenever a program ends a marked region (tests/bench/count.c).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};

use crate::bench_cells::{Cell, Column};
use crate::bench_nginx;

const COUNTS: &str = "/out/counts";
/// Labels of one cell: its number times this, and so many samples at most.
const SAMPLES: u32 = 12;
/// The first sample fills caches of every kind and is not counted.
const ENOUGH: usize = 3;
/// (greatest - least) / median of the samples that count
const SPREAD: f64 = 0.01;

pub struct Guest {
    pub shim: PathBuf,
    pub work: PathBuf,
    /// Leave in /out what names of functions are made from
    profile: bool,
}

pub fn run(fixture: &Path, shim: &Path) -> Result<()> {
    // Mainline's module is for column B only; a kernel without it says so in its cells.
    let _ = Command::new("modprobe").arg("tls").status();
    // Addresses that stay the same: the plugin names functions by them.
    fs::write("/proc/sys/kernel/randomize_va_space", "0")?;
    many_descriptors()?;
    let guest = Guest::new(fixture, shim)?;
    let cells: Value = serde_json::from_str(&fs::read_to_string(fixture.join("cells.json"))?)?;
    for (number, cell) in cells.as_array().context("cells.json")?.iter().enumerate() {
        let cell = Cell::from_json(cell).context("cells.json: an unknown cell")?;
        let label = u32::try_from(number)? * SAMPLES;
        let result = guest.cell(&cell, label);
        // One broken cell must not hide the others; it has no figure, and says why.
        say(&result.unwrap_or_else(
            |why| json!({ "event": "cell", "key": cell.key(), "error": format!("{why:#}") }),
        ));
    }
    if guest.profile {
        fs::copy("/proc/kallsyms", "/out/kallsyms").context("kallsyms")?;
        for name in ["work", "libktlsshim.so"] {
            fs::copy(guest.work.join(name), Path::new("/out").join(name))?;
        }
    }
    say(&json!({ "event": "end" }));
    Ok(())
}

/// For the programs that are started from here: thousands of connections.
fn many_descriptors() -> Result<()> {
    let limit = nix::libc::rlimit {
        rlim_cur: 65536,
        rlim_max: 65536,
    };
    // SAFETY: the kernel reads one rlimit from a live local and keeps no pointer to it.
    let result = unsafe { nix::libc::setrlimit(nix::libc::RLIMIT_NOFILE, &limit) };
    nix::errno::Errno::result(result).context("RLIMIT_NOFILE")?;
    Ok(())
}

impl Guest {
    fn new(fixture: &Path, shim: &Path) -> Result<Self> {
        let work = PathBuf::from("/run/bench");
        fs::create_dir_all(&work)?;
        // From memory: the share is no part of what is measured.
        for name in ["far", "work", "fetch", "cert.pem", "key.pem", "ktls.cnf"] {
            if fixture.join(name).exists() {
                fs::copy(fixture.join(name), work.join(name)).with_context(|| name.to_owned())?;
            }
        }
        fs::copy(shim, work.join("libktlsshim.so"))?;
        bench_nginx::files(&work)?;
        Ok(Self {
            shim: work.join("libktlsshim.so"),
            work,
            profile: fixture.join("profile").exists(),
        })
    }

    fn cell(&self, cell: &Cell, label: u32) -> Result<Value> {
        let before = counters();
        let outcome = match cell.row.nginx {
            true => bench_nginx::run(self, cell, label)?,
            false => self.work(cell, label)?,
        };
        let grown = growth(&before, &counters());
        Ok(json!({
            "event": "cell",
            "key": cell.key(),
            "samples": outcome.samples,
            "ktls": outcome.ktls,
            "label": outcome.label,
            "memory": outcome.memory,
            "kernel": grown,
        }))
    }

    /// What makes a program one of this column.
    pub fn dress(&self, command: &mut Command, column: Column) {
        match column {
            Column::Tcp | Column::Openssl => {}
            Column::Ktls => {
                command.env("OPENSSL_CONF", self.work.join("ktls.cnf"));
            }
            Column::Shim => {
                command.env("LD_PRELOAD", &self.shim);
            }
        }
    }

    fn work(&self, cell: &Cell, label: u32) -> Result<Outcome> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut far = self.far(cell, &ours, label)?;
        let mut work = Command::new(self.work.join("work"));
        work.args(cell.row.options.split(' '));
        self.common(&mut work, cell, label);
        self.dress(&mut work, cell.column);
        on_three(&mut work, theirs.into())?;
        drop(ours);
        let mut child = work.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        drop(work);
        let child_id = child.id();
        let outcome = listen(&mut child, self.profile.then_some(child_id));
        let status = child.wait()?;
        if !status.success() {
            let _ = far.kill();
        }
        let far = far.wait()?;
        if !status.success() || !far.success() {
            bail!("work: {status}, far end: {far}");
        }
        outcome
    }

    /// The far end has the other role, and nothing else that a column brings.
    fn far(&self, cell: &Cell, control: &UnixStream, label: u32) -> Result<Child> {
        let mut far = Command::new(self.work.join("far"));
        let role = match cell.row.options.contains("role=server") {
            true => "role=client",
            false => "role=server",
        };
        far.arg(role);
        self.common(&mut far, cell, label);
        if self.profile {
            // Only to have its libraries at the same addresses: a profile knows no processes.
            self.dress(&mut far, cell.column);
            far.env("KTLSSHIM_DISABLE", "1").env_remove("OPENSSL_CONF");
        }
        on_three(&mut far, control.try_clone()?.into())?;
        far.spawn().context("far")
    }

    pub fn common(&self, command: &mut Command, cell: &Cell, label: u32) {
        let plain = i32::from(cell.column == Column::Tcp);
        command.args([
            format!("dir={}", self.work.display()),
            format!("tls={}", cell.tls),
            format!("cipher={}", cell.cipher),
            format!("plain={plain}"),
            format!("label={label}"),
            format!("total={}", cell.row.total),
            // Another port for each cell: the last one's connections may linger.
            format!("port={}", 20000 + 4 * label),
        ]);
    }
}

#[derive(Default)]
pub struct Outcome {
    samples: Vec<Value>,
    ktls: Value,
    label: u32,
    /// connections, bytes that the process has more, that the kernel has more
    memory: Value,
}

/// Reads a program's samples, and has it go on until they agree; keeps what is mapped in `maps_of`.
pub fn listen(child: &mut Child, maps_of: Option<u32>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut stdin = child.stdin.take().context("no pipe")?;
    let stdout = child.stdout.take().context("no pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["ktls", tx, rx] => outcome.ktls = json!([tx, rx]),
            ["memory", rest @ ..] => {
                let numbers: Vec<u64> = rest.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
                outcome.memory = json!(numbers);
            }
            ["sample", label, units, rest @ ..] => {
                let label = label.parse()?;
                if let Some(pid) = maps_of {
                    let maps = format!("/proc/{pid}/maps");
                    fs::write(format!("/out/maps.{label}"), fs::read(maps)?)?;
                }
                outcome.samples.push(sample(label, units.parse()?, rest)?);
                outcome.label = label;
                let go_on = !agree(&outcome.samples);
                stdin.write_all(if go_on { b"more\n" } else { b"stop\n" })?;
            }
            _ => eprintln!("bench: {line}"),
        }
    }
    if outcome.samples.len() <= ENOUGH && outcome.memory.is_null() {
        bail!("only {} samples", outcome.samples.len());
    }
    Ok(outcome)
}

/// Enough samples beside the first, and close together; or as many as there are labels for.
fn agree(samples: &[Value]) -> bool {
    let samples = &samples[1..];
    if samples.len() < ENOUGH {
        return false;
    }
    let mut costs: Vec<_> = samples.iter().map(cost).collect();
    costs.sort_by(f64::total_cmp);
    let (least, most) = (costs[0], costs[costs.len() - 1]);
    samples.len() as u32 + 1 >= SAMPLES || (most - least) / costs[costs.len() / 2] <= SPREAD
}

fn cost(sample: &Value) -> f64 {
    let insns = |mode: &str| sample[mode][0].as_f64().unwrap_or(0.0);
    insns("user") + insns("kernel")
}

/// The line that the plugin wrote for this label, beside what the program says.
fn sample(label: u32, units: u64, rest: &[&str]) -> Result<Value> {
    let text = fs::read_to_string(COUNTS).context("no counts: was the plugin loaded?")?;
    let line = text
        .lines()
        .rev()
        .find(|line| line.split(' ').next() == Some(&label.to_string()))
        .with_context(|| format!("no count with label {label}"))?;
    let numbers: Vec<u64> = line
        .split(' ')
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let mut value = json!({ "units": units, "user": numbers[..3], "kernel": numbers[3..] });
    for pair in rest {
        if let Some((name, number)) = pair.split_once('=') {
            value[name] = json!(number.parse::<u64>()?);
        }
    }
    Ok(value)
}

fn on_three(command: &mut Command, parent_fd: OwnedFd) -> Result<()> {
    command
        .fd_mappings(vec![FdMapping {
            parent_fd,
            child_fd: 3,
        }])
        .context("descriptor 3")?;
    Ok(())
}

/// Both kernels' counters; the names do not clash.
pub fn counters() -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    for path in ["/proc/net/alg_tls_stat", "/proc/net/tls_stat"] {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(path) {
            let _ = file.read_to_string(&mut text);
        }
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
                all.insert(name.to_owned(), value);
            }
        }
    }
    all
}

pub fn growth(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Value {
    let grown = after.iter().filter_map(|(name, value)| {
        let by = value - before.get(name).copied().unwrap_or(0);
        (by != 0).then(|| (name.clone(), json!(by)))
    });
    Value::Object(grown.collect())
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // The host reads line by line to show progress; a closed pipe means that it gave up.
    if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
