// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask matrix`: real programs, with and without the shim, in one table.
//!
//! A row is a shell file in `tests/matrix/rows/` (see `tests/matrix/run.sh`). Each release's programs
//! lie in a root of their own (`matrix_root.rs`), one virtual machine runs them (`matrix_guest.rs`), the
//! verdict is made here (`matrix_judge.rs`). MATRIX.md holds nothing that varies between two runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::matrix_judge::{Verdict, judge};
use crate::matrix_root::{RELEASES, Release, Root};
use crate::{build, host, matrix_guest, matrix_table, paths, vm};

#[derive(Args, Debug)]
#[command(after_help = "\
Writes MATRIX.md if all rows of all releases ran; with names or --release it only prints what they give.

    cargo xtask matrix
    cargo xtask matrix nginx curl --release bookworm")]
pub struct Matrix {
    /// Rows to run (names of files in tests/matrix/rows); all without
    rows: Vec<String>,
    /// Programs of this release only
    #[arg(long)]
    release: Option<String>,
    /// TLS version: 1.2 or 1.3 only
    #[arg(long)]
    tls: Option<String>,
    /// Which kernel to boot
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Kernel,
    /// Keep everything that was seen, one JSON object per line
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Judge kept evidence (the last word on a row counts), and write MATRIX.md from it; boots nothing
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "evidence")]
    judge: Vec<PathBuf>,
    /// Runs inside the virtual machine (the other half of this command)
    #[arg(long, hide = true, value_name = "ROOT")]
    guest: Option<PathBuf>,
}

/// The head of a row's file: `# key: value`.
pub struct Row {
    pub name: String,
    head: BTreeMap<String, String>,
}

impl Row {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let pair = |line: &str| {
            let (key, value) = line.strip_prefix("# ")?.split_once(": ")?;
            Some((key.to_owned(), value.to_owned()))
        };
        let head = text.lines().take_while(|l| l.starts_with('#'));
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let row = Self {
            name: name.into_owned(),
            head: head.filter_map(pair).collect(),
        };
        for key in ["program", "role", "rules"] {
            if row.get(key).is_empty() {
                bail!("{}: no line \"# {key}: ...\"", path.display());
            }
        }
        Ok(row)
    }

    pub fn get(&self, key: &str) -> &str {
        self.head.get(key).map_or("", String::as_str)
    }

    pub fn versions(&self) -> Vec<&str> {
        match self.get("tls") {
            "" => vec!["1.2", "1.3"],
            text => text.split_whitespace().collect(),
        }
    }

    fn runs_on(&self, release: &Release, root: &Root) -> bool {
        let named = self.get("releases");
        let named = named.is_empty() || named.split_whitespace().any(|r| r == release.name);
        named && root.versions.contains_key(self.get("program"))
    }
}

/// One line of the table.
pub struct Line<'a> {
    pub release: &'static Release,
    pub row: &'a Row,
    pub program_version: String,
    pub tls: String,
    pub verdict: Verdict,
}

impl Matrix {
    pub fn run(self) -> Result<i32> {
        let fixture = paths::target().join("matrix");
        if let Some(root) = &self.guest {
            let shim = std::env::var_os("KTLSSHIM").context("KTLSSHIM names no shim")?;
            matrix_guest::run(root, &fixture, Path::new(&shim))?;
            return Ok(0);
        }
        let _lock = match self.judge.is_empty() {
            true => {
                build::shim(true)?;
                let lock = host::lock("matrix")?;
                make_fixture(&fixture)?;
                Some(lock)
            }
            false => None,
        };
        let rows = read_rows(&self.rows)?;
        let mut evidence = self.evidence.as_ref().map(fs::File::create).transpose()?;
        let mut lines = Vec::new();
        let mut sound = true;
        for release in &RELEASES {
            if self.release.as_ref().is_some_and(|r| r != release.name) {
                continue;
            }
            let root = release.prepare()?;
            let (plan, wanted) = self.plan(release, &root, &rows);
            let (events, content) = match self.judge.is_empty() {
                true => {
                    fs::write(fixture.join("plan.json"), serde_json::to_string(&plan)?)?;
                    self.boot(release, &fixture, &root, &mut evidence)?
                }
                false => (kept(&self.judge, release.name)?, true),
            };
            sound &= content;
            for (row, tls) in wanted {
                let seen = events
                    .iter()
                    .find(|e| e["row"] == format!("{}.sh", row.name) && e["version"] == tls);
                let verdict = match seen {
                    Some(event) => judge(event, row.get("role"), row.get("outside")),
                    None => Verdict {
                        differences: vec!["the machine did not report it".into()],
                        ..Verdict::default()
                    },
                };
                let program_version = root.versions.get(row.get("program"));
                lines.push(Line {
                    release,
                    row,
                    program_version: program_version.cloned().unwrap_or_default(),
                    tls: tls.to_owned(),
                    verdict,
                });
            }
        }
        self.tell(&lines, sound)
    }

    fn tell(&self, lines: &[Line], sound: bool) -> Result<i32> {
        let text = matrix_table::markdown(lines);
        let of = |verdict: &Verdict| [&verdict.differences[..], &verdict.findings[..]].concat();
        let faults: usize = lines.iter().map(|l| of(&l.verdict).len()).sum();
        for line in lines {
            for difference in of(&line.verdict) {
                let (release, row) = (line.release.name, &line.row.name);
                println!("{release} {row} TLS {}: {difference}", line.tls);
            }
        }
        let whole = self.rows.is_empty() && self.release.is_none() && self.tls.is_none();
        if whole && sound {
            let file = paths::workspace().join("MATRIX.md");
            let old = fs::read_to_string(&file).unwrap_or_default();
            fs::write(&file, &text)?;
            let changed = if old == text { "as it was" } else { "changed" };
            println!("{}: {changed}", file.display());
            println!("{}", matrix_table::summary(lines));
        } else {
            println!("{text}");
        }
        Ok(if faults == 0 && sound { 0 } else { 1 })
    }

    fn plan<'a>(
        &self,
        release: &Release,
        root: &Root,
        rows: &'a [Row],
    ) -> (Vec<Value>, Vec<(&'a Row, &'a str)>) {
        let mut wanted = Vec::new();
        for row in rows.iter().filter(|row| row.runs_on(release, root)) {
            for tls in row.versions() {
                if self.tls.as_ref().is_none_or(|t| t == tls) {
                    wanted.push((row, tls));
                }
            }
        }
        let plan = wanted
            .iter()
            .map(|(row, tls)| json!({ "row": format!("{}.sh", row.name), "version": tls }));
        (plan.collect(), wanted)
    }

    /// What the machine reported, and whether it and its kernel were content. Evidence is written as it
    /// comes: a machine that dies does not take it along.
    fn boot(
        &self,
        release: &Release,
        fixture: &Path,
        root: &Root,
        evidence: &mut Option<fs::File>,
    ) -> Result<(Vec<Value>, bool)> {
        let mut machine = vm::Machine::on(self.kernel);
        machine.timeout = 3600;
        machine.memory = 3072;
        // This very program: cargo may replace the file in target/ while the machine runs.
        let own = fixture.join(format!("guest-{}", std::process::id()));
        fs::copy("/proc/self/exe", &own)?;
        let argv = [
            own.display().to_string(),
            "matrix".into(),
            "--guest".into(),
            root.dir.display().to_string(),
        ];
        let started = Instant::now();
        let mut events = Vec::new();
        let mut hear = |line: &str| {
            let event = serde_json::from_str(line);
            let mut event: Value = event.unwrap_or_else(|_| json!({ "event": line }));
            if event["event"] == "note" {
                let text = event["text"].as_str().unwrap_or_default();
                eprintln!("matrix: [{:>4} s] {text}", started.elapsed().as_secs());
            } else {
                event["release"] = json!(release.name);
                if let Some(file) = evidence {
                    // Without it the run is still worth something.
                    let _ = writeln!(file, "{event}");
                }
                events.push(event);
            }
        };
        let ended = machine.run(&argv, false, Some(&mut hear))?;
        let _ = fs::remove_file(own);
        if ended.code() != 0 {
            eprintln!("matrix: the machine ended with status {}", ended.code());
        }
        Ok((events, ended.code() == 0))
    }
}

/// Kept evidence of one release, the last word first.
fn kept(files: &[PathBuf], release: &str) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).context("evidence")?;
            if event["release"] == release {
                events.push(event);
            }
        }
    }
    events.reverse();
    Ok(events)
}

fn read_rows(names: &[String]) -> Result<Vec<Row>> {
    let dir = paths::workspace().join("tests/matrix/rows");
    let mut files: Vec<_> = fs::read_dir(&dir)?.flatten().map(|e| e.path()).collect();
    files.sort();
    let known = |name: &String| dir.join(format!("{name}.sh")).exists();
    if let Some(name) = names.iter().find(|n| !known(n)) {
        bail!("no row {name} in {}", dir.display());
    }
    let rows = files.iter().map(|file| Row::read(file));
    let rows: Vec<_> = rows.collect::<Result<_>>()?;
    let wanted = |row: &Row| names.is_empty() || names.contains(&row.name);
    Ok(rows.into_iter().filter(wanted).collect())
}

/// What goes into every root: scripts, a certificate, and bytes of which no two blocks are alike.
fn make_fixture(dir: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir.join("rows"));
    fs::create_dir_all(dir.join("rows"))?;
    let scripts = paths::workspace().join("tests/matrix");
    for sub in ["", "rows"] {
        for entry in fs::read_dir(scripts.join(sub))?.flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), dir.join(sub).join(entry.file_name()))?;
            }
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // Letters only: some programs move text.
    let letters = (0..1_600_001).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state >> 32) as u8 % 26
    });
    fs::write(dir.join("blob"), letters.collect::<Vec<u8>>())?;
    if !dir.join("both.pem").exists() {
        let mut openssl = Command::new("openssl");
        openssl
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(' '))
            .args("-days 3650 -subj /CN=localhost".split(' '))
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .arg("-keyout")
            .arg(dir.join("key.pem"))
            .arg("-out")
            .arg(dir.join("cert.pem"));
        host::run_quiet(&mut openssl)?;
        let text = |name: &str| fs::read_to_string(dir.join(name));
        fs::write(dir.join("both.pem"), text("cert.pem")? + &text("key.pem")?)?;
    }
    Ok(())
}
