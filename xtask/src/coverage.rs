// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask coverage`: which lines of the kernel module do the tests run?
//!
//! On the debug kernel the module can count its lines (gcov). Each boot with `--coverage` leaves its
//! counts in `target/coverage/RUN/`; here they are added up and set beside the sources. Any such boot
//! counts, so `cargo xtask vm --kernel debug --coverage -- …` adds to what the tests have run.
//! What never ran has to stand in `tests/UNCOVERED.md` (`uncovered.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::kernel::Kernel;
use crate::test::Test;
use crate::uncovered::Uncovered;
use crate::{host, paths};

#[derive(Args, Debug)]
#[command(after_help = "\
    cargo xtask coverage                          all kernel tests, then the table
    cargo xtask coverage --program kernel_send    only this test program
    cargo xtask coverage --report                 run nothing: what earlier runs have counted
    cargo xtask coverage --report --missing       ... and each line that never ran

All kernel tests together have to run 90 % of the lines, and each other line must have its reason in
tests/UNCOVERED.md.")]
pub struct Coverage {
    /// Only the table of what was counted already
    #[arg(long)]
    pub report: bool,
    /// Print the lines that never ran
    #[arg(long)]
    pub missing: bool,
    /// Add to earlier counts instead of beginning at nought
    #[arg(long)]
    pub keep: bool,
    /// Test programs to run (default: all of the kernel's)
    #[arg(long, value_name = "NAME")]
    pub program: Vec<String>,
}

/// Fewer lines than this (in percent) are a failure of the tests.
const LEAST: f64 = 90.0;

/// File → line → how often it ran, and the function that it is in.
type Counts = BTreeMap<String, BTreeMap<u64, (u64, String)>>;

pub fn dir() -> PathBuf {
    paths::workspace().join("target/coverage")
}

/// Moves what one machine counted to where it is kept.
pub fn save(out: &Path) -> Result<()> {
    let from = out.join("gcov");
    if from.exists() {
        fs::create_dir_all(dir())?;
        fs::rename(
            &from,
            dir().join(out.file_name().context("a run without a name")?),
        )?;
    }
    Ok(())
}

impl Coverage {
    pub fn run(self) -> Result<i32> {
        let mut kernel = Kernel::Debug.prepare()?;
        kernel.coverage = true;
        let mut status = 0;
        if !self.report {
            if !self.keep && dir().exists() {
                fs::remove_dir_all(dir())?;
            }
            status = Test::coverage(self.program.clone()).run()?;
        }
        let whole = self.program.is_empty();
        let (counts, runs) = add_up(&kernel.work())?;
        let share = table(&counts, runs);
        let unexplained = missing(&counts, self.missing, whole)?;
        if whole && (share < LEAST || unexplained > 0) {
            println!(
                "coverage: {share:.1} % ({LEAST} wanted), {unexplained} lines without a reason"
            );
            status = status.max(1);
        }
        Ok(status)
    }
}

/// The sum over all runs, and how many there were.
fn add_up(work: &Path) -> Result<(Counts, usize)> {
    host::need(&[host::GCC])?;
    let mut counts = Counts::new();
    let mut runs = 0;
    for run in fs::read_dir(dir())
        .context("nothing was counted yet")?
        .flatten()
    {
        runs += 1;
        for data in fs::read_dir(run.path())?.flatten().map(|e| e.path()) {
            if data.extension().is_some_and(|e| e == "gcda") {
                read(&data, work, &mut counts)?;
            }
        }
    }
    if counts.is_empty() {
        bail!("no counts in {}", dir().display());
    }
    Ok((counts, runs))
}

/// One object's counts. gcov wants the notes of the compiler beside them.
fn read(data: &Path, work: &Path, counts: &mut Counts) -> Result<()> {
    let notes = data.with_extension("gcno");
    let name = notes.file_name().context("a file without a name")?;
    fs::copy(work.join(name), &notes).with_context(|| format!("{}", notes.display()))?;
    let output = Command::new("gcov")
        .args(["--json-format", "--stdout"])
        .arg(data)
        .current_dir(work)
        .output()
        .context("gcov")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || complaint.contains("stamp mismatch") {
        bail!(
            "{}: counted by another build of the module ({}); begin anew without --keep or --report",
            data.display(),
            complaint.trim()
        );
    }
    for document in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
        let document = document.context("gcov")?;
        for file in document["files"].as_array().into_iter().flatten() {
            let path = file["file"].as_str().unwrap_or_default();
            // Relative names are the kernel's own headers.
            let Some(ours) = path.strip_prefix(&format!("{}/", work.display())) else {
                continue;
            };
            let lines = counts.entry(ours.to_owned()).or_default();
            for line in file["lines"].as_array().into_iter().flatten() {
                let number = line["line_number"].as_u64().unwrap_or(0);
                let (count, function) = lines.entry(number).or_default();
                *count += line["count"].as_u64().unwrap_or(0);
                if function.is_empty() {
                    *function = line["function_name"].as_str().unwrap_or("").to_owned();
                }
            }
        }
    }
    Ok(())
}

/// Prints lines, lines that ran, and their share, by file; returns the share of all.
fn table(counts: &Counts, runs: usize) -> f64 {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["file", "lines", "ran", "%"]);
    let percent = |ran: usize, all: usize| 100.0 * ran as f64 / all.max(1) as f64;
    let mut sum = (0, 0);
    let mut row = |name: &str, ran: usize, all: usize| {
        let share = format!("{:.1}", percent(ran, all));
        table.add_row([name, &all.to_string(), &ran.to_string(), &share]);
    };
    for (file, lines) in counts {
        let ran = lines.values().filter(|(n, _)| *n > 0).count();
        row(file, ran, lines.len());
        sum = (sum.0 + ran, sum.1 + lines.len());
    }
    row("all", sum.0, sum.1);
    println!("{table}\n({runs} runs)");
    percent(sum.0, sum.1)
}

/// How many lines never ran and have no reason; they are printed if `judge`, all that never ran if `all`.
fn missing(counts: &Counts, all: bool, judge: bool) -> Result<usize> {
    let mut list = Uncovered::read()?;
    let mut unexplained = 0;
    for (file, lines) in counts {
        let text = fs::read_to_string(paths::kmod_sources().join(file))?;
        let text: Vec<_> = text.lines().collect();
        for (number, (_, function)) in lines.iter().filter(|(_, (n, _))| *n == 0) {
            let line = text.get(*number as usize - 1).unwrap_or(&"").trim();
            let excused = list.excuses(&(file.clone(), function.clone(), line.to_owned()));
            unexplained += usize::from(!excused);
            if all || (judge && !excused) {
                let mark = if excused { "explained" } else { "NEVER RAN" };
                println!("{mark}: kmod/{file}:{number}: {function}: {line}");
            }
        }
    }
    if judge {
        for (file, function, line) in list.stale() {
            println!("listed, but it ran (or is gone): kmod/{file}: {function}: {line}");
        }
    }
    Ok(unexplained)
}
