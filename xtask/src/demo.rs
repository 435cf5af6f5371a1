// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: the main job, in one command, on a machine that has nothing but Rust.
//!
//! Both halves are built, a virtual machine is booted, Debian's nginx serves files over TLS and
//! Debian's curl fetches them, with and without the shim. A first machine compares checksums and
//! counters (`demo_judge.rs`); a second one, whose clock counts instructions, compares what a
//! byte costs. What happens inside the machines is in `demo_guest.rs`, the tables are in
//! `demo_table.rs`. Nothing that it prints is written down anywhere beforehand.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser};
use serde_json::{Value, json};

use crate::demo_judge::judge;
use crate::host::Tool;
use crate::kernel::Kernel;
use crate::{build, demo_guest, demo_table, host, paths, vm};

#[derive(Args, Debug)]
pub struct Demo {
    /// Which kernel to boot
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Kernel,
    /// Compare checksums and counters only; count no instructions
    #[arg(long)]
    no_cost: bool,
    /// Keep everything that was seen, one JSON object per line
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Judge kept evidence once more; boots nothing
    #[arg(long, value_name = "FILE", conflicts_with = "evidence")]
    judge: Option<PathBuf>,
    /// Boot without algif_tls.ko: the demo must then fail
    #[arg(long, hide = true)]
    no_module: bool,
    /// Runs inside the virtual machine (the other half of this command)
    #[arg(long, hide = true, value_name = "DIR")]
    guest: Option<PathBuf>,
    /// With --guest: count instructions
    #[arg(long, hide = true, requires = "guest")]
    cost: bool,
}

/// name, file, range, offset, length
type Request = (
    &'static str,
    &'static str,
    Option<&'static str>,
    usize,
    usize,
);

const MIB: usize = 1 << 20;

/// Sizes sit on both sides of one TLS record (16,384 bytes); ranges cross record borders.
const REQUESTS: [Request; 12] = [
    ("0 B", "0.bin", None, 0, 0),
    ("1 B", "1.bin", None, 0, 1),
    ("16 KiB - 1", "16383.bin", None, 0, 16383),
    ("16 KiB", "16384.bin", None, 0, 16384),
    ("16 KiB + 1", "16385.bin", None, 0, 16385),
    ("1 MiB", "1M.bin", None, 0, MIB),
    ("1 MiB without sendfile", "copy/1M.bin", None, 0, MIB),
    ("16 MiB", "16M.bin", None, 0, 16 * MIB),
    ("first byte of 16 MiB", "16M.bin", Some("0-0"), 0, 1),
    (
        "across a record border",
        "1M.bin",
        Some("16383-16384"),
        16383,
        2,
    ),
    (
        "300 kB out of the middle",
        "1M.bin",
        Some("100001-400000"),
        100_001,
        300_000,
    ),
    (
        "last 20,000 bytes",
        "16M.bin",
        Some("-20000"),
        16 * MIB - 20_000,
        20_000,
    ),
];

const FILES: [(&str, usize); 7] = [
    ("0.bin", 0),
    ("1.bin", 1),
    ("16383.bin", 16383),
    ("16384.bin", 16384),
    ("16385.bin", 16385),
    ("1M.bin", MIB),
    ("16M.bin", 16 * MIB),
];

impl Demo {
    pub fn run(self) -> Result<i32> {
        if let Some(fixture) = &self.guest {
            let shim = std::env::var_os("KTLSSHIM").context("KTLSSHIM names no shim")?;
            demo_guest::run(fixture, Path::new(&shim), self.cost)?;
            return Ok(0);
        }
        let progress = Progress {
            started: Instant::now(),
        };
        host::need(&[
            Tool("nginx", "nginx-light"),
            Tool("curl", "curl"),
            Tool("openssl", "openssl"),
            Tool("modprobe", "kmod"),
        ])?;
        if self.judge.is_none() {
            progress.say("building libktlsshim.so");
            build::shim(true)?;
        }
        let expected = make_fixture(&progress)?;
        let (events, machines_ok) = match &self.judge {
            Some(file) => (kept(file)?, true),
            None => self.gather(&progress)?,
        };
        Ok(if self.verdict(&events, &expected, machines_ok) {
            0
        } else {
            1
        })
    }

    /// Both machines, one after the other.
    fn gather(&self, progress: &Progress) -> Result<(Vec<Value>, bool)> {
        // Opened first: a name that cannot be written to should not cost a run.
        let evidence = match &self.evidence {
            Some(path) => {
                Some(fs::File::create(path).with_context(|| format!("{}", path.display()))?)
            }
            None => None,
        };
        progress.say("first machine: checksums and counters");
        let (mut events, mut content) = self.boot(false, progress)?;
        if !self.no_cost {
            progress.say("second machine: one CPU whose clock counts instructions (slower)");
            let (more, ok) = self.boot(true, progress)?;
            events.extend(more);
            content &= ok;
        }
        let _ = fs::remove_file(own_copy()?);
        if let Some(mut file) = evidence {
            events
                .iter()
                .try_for_each(|event| writeln!(file, "{event}"))?;
        }
        Ok((events, content))
    }

    /// Prints what was seen and says whether it is good.
    fn verdict(
        &self,
        events: &[Value],
        expected: &BTreeMap<String, String>,
        machines_ok: bool,
    ) -> bool {
        let of = |kind: &str| {
            events
                .iter()
                .filter(|e| e["event"] == kind)
                .collect::<Vec<_>>()
        };
        let verdicts: Vec<_> = of("run")
            .into_iter()
            .map(|run| judge(run, expected))
            .collect();
        let costs = of("cost");
        println!();
        println!("{}", demo_table::transfers(&verdicts));
        if !self.no_cost {
            println!("{}", demo_table::costs(&costs));
        }
        let broken = demo_table::faults(&verdicts, &costs);
        broken.iter().for_each(|line| println!("  {line}"));
        // A machine that died half-way must not pass for what it managed to report.
        let runs = demo_guest::TRANSFERS.len() * demo_guest::VERSIONS.len();
        let cost_runs = if self.no_cost {
            0
        } else {
            demo_guest::COSTS.len() * demo_guest::VERSIONS.len()
        };
        let complete = verdicts.len() == runs && costs.len() == cost_runs;
        if !complete {
            println!(
                "  {} of {runs} runs and {} of {cost_runs} cost runs were reported",
                verdicts.len(),
                costs.len()
            );
        }
        let good = broken.is_empty() && complete && machines_ok;
        println!("{}", demo_table::summary(&verdicts, good));
        good
    }

    /// One machine; its events, and whether it and its kernel were content.
    fn boot(&self, cost: bool, progress: &Progress) -> Result<(Vec<Value>, bool)> {
        #[derive(Parser)]
        struct Wrap {
            #[command(flatten)]
            machine: vm::Machine,
        }
        // Through the parser, so that the defaults are those of `cargo xtask vm`.
        let mut machine = Wrap::parse_from(["vm", "--quiet", "--timeout", "1500"]).machine;
        machine.kernel = self.kernel;
        machine.icount = cost;
        machine.no_module = self.no_module;
        let this = own_copy()?.display().to_string();
        let mut argv = vec![
            this,
            "demo".into(),
            "--guest".into(),
            fixture_dir().display().to_string(),
        ];
        if cost {
            argv.push("--cost".into());
        }
        let mut events = Vec::new();
        let mut hear = |line: &str| {
            let event: Value =
                serde_json::from_str(line).unwrap_or_else(|_| json!({ "event": line }));
            if event["event"] == "note" {
                progress.say(event["text"].as_str().unwrap_or_default());
            } else {
                events.push(event);
            }
        };
        let ended = machine.run(&argv, false, Some(&mut hear))?;
        if ended.code() != 0 {
            progress.say(&format!("the machine ended with status {}", ended.code()));
        }
        Ok((events, ended.code() == 0))
    }
}

struct Progress {
    started: Instant,
}

impl Progress {
    fn say(&self, text: &str) {
        eprintln!("demo: [{:>4} s] {text}", self.started.elapsed().as_secs());
    }
}

fn fixture_dir() -> PathBuf {
    paths::workspace().join("target/demo")
}

fn kept(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("evidence"))
        .collect()
}

/// This very program, for the guest: cargo may replace the file in target/ while the machine runs.
fn own_copy() -> Result<PathBuf> {
    let copy = fixture_dir().join(format!("guest-{}", std::process::id()));
    if !copy.exists() {
        fs::copy("/proc/self/exe", &copy).with_context(|| format!("{}", copy.display()))?;
    }
    Ok(copy)
}

/// Files, certificate and list of requests; returns what must arrive. Made once, outside the slow
/// machine, and by a generator, so that no two 16 KiB blocks are alike: a lost, doubled or swapped
/// record changes the checksum.
fn make_fixture(progress: &Progress) -> Result<BTreeMap<String, String>> {
    let dir = fixture_dir();
    let www = dir.join("www");
    fs::create_dir_all(&www)?;
    for (name, size) in FILES {
        let path = www.join(name);
        if fs::metadata(&path).map_or(usize::MAX, |m| m.len() as usize) != size {
            fs::write(&path, noise(size))?;
        }
    }
    if !dir.join("cert.pem").exists() {
        progress.say("making a certificate");
        host::certificate(&dir, &["-addext", "subjectAltName=DNS:localhost"])?;
    }
    let request = |r: &Request| json!({ "name": r.0, "file": r.1, "range": r.2 });
    let list: Vec<_> = REQUESTS.iter().map(request).collect();
    fs::write(dir.join("requests.json"), serde_json::to_string(&list)?)?;
    REQUESTS
        .iter()
        .map(|(name, file, _, offset, length)| {
            let file = www.join(file.trim_start_matches("copy/"));
            let bytes = fs::read(&file)?;
            let slice = bytes
                .get(*offset..offset + length)
                .context("a range beyond the file")?;
            Ok(((*name).to_owned(), sha256(slice)?))
        })
        .collect()
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no pipe to sha256sum")?
        .write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .next()
        .context("sha256sum said nothing")?
        .to_owned())
}
