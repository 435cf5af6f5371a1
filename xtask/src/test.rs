// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: unit tests on this machine, everything else in the virtual machine.
//!
//! Each test program gets a boot of its own: a kernel that dies takes one program's results along,
//! not all. Every test that a program lists must report; one that does not (the program or the
//! kernel died) counts as failed, and so does a kernel warning.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use clap::Args;
use regex::Regex;
use serde_json::Value;

use crate::build::{self, cargo};
use crate::figures::{self, Figures};
use crate::kernel::Kernel;
use crate::vm::Machine;
use crate::{host, paths};

/// What compiling the workspace's tests takes besides Rust.
pub const BUILD_PACKAGES: &[&str] = &["gcc", "libc6-dev", "libssl-dev", "pkg-config"];

/// What the tests run.
pub const RUN_PACKAGES: &[&str] = &[
    "nginx-light",
    "haproxy",
    "curl",
    "wrk",
    "openssl",
    "gnutls-bin",
    "python3",
    "strace",
    "procps",
    "psmisc",
    "iproute2",
    "kmod",
    "libjemalloc2",
    "libtcmalloc-minimal4",
    "valgrind",
];

#[derive(Args, Debug)]
#[command(after_help = "\
The last line is `N passed, M failed`. The exit status is 0 only if nothing failed, the kernel did not
complain, and (without --unit) at least one test ran in the virtual machine.

    cargo xtask test
    cargo xtask test --unit
    cargo xtask test handback            tests whose name contains it
    cargo xtask test --program wire      only tests/tests/wire.rs
    cargo xtask test --program slow_tools   sanitizers, valgrind: no run without names has slow_*
    cargo xtask test --kernel debug      the kernel module's tests, where a mistake is seen
    cargo xtask test --kernel debug -e KTLSSHIM_TEST_ROUNDS=20     ... and each race 20 times as long")]
pub struct Test {
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// Only the unit tests, on this machine
    #[arg(long)]
    pub unit: bool,
    /// Only this test program (tests/tests/NAME.rs); may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "unit")]
    pub program: Vec<String>,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    in_vm: usize,
    figures: Figures,
    scans: usize,
    trouble: Vec<String>,
}

struct Program {
    name: String,
    path: PathBuf,
    manifest_dir: PathBuf,
}

/// Test programs that only the debug kernel can run begin so; other runs do not have them.
const DEBUG_ONLY: &str = "debug_";

/// Test programs that take minutes begin so; they run when they are named.
const SLOW: &str = "slow_";

/// The programs that test the kernel module and nothing else.
const KERNEL_PROGRAMS: [&str; 2] = ["kernel_*", "debug_*"];

/// The test program of ktlsshim-soak: a minute of random programs.
const SOAK: &str = "soak";

/// Unit tests of the shim that need the kernel socket: a module of this name.
const KERNEL_UNIT: &str = "kernel_test";

impl Test {
    /// The run that `cargo xtask coverage` counts.
    pub fn coverage(program: Vec<String>) -> Self {
        let mut machine = Machine::on(Kernel::Debug);
        machine.coverage = true;
        Self {
            filter: None,
            unit: false,
            program,
            machine,
        }
    }

    /// The debug kernel is there for the module. Whoever wants other programs on it names them.
    fn complete(&mut self) {
        if self.machine.kernel != Kernel::Debug || !self.program.is_empty() || self.unit {
            return;
        }
        self.program = KERNEL_PROGRAMS.map(str::to_owned).to_vec();
    }

    pub fn run(mut self) -> Result<i32> {
        self.complete();
        let mut tally = Tally::default();
        if self.program.is_empty()
            && let Err(e) = self.unit_tests(&mut tally)
        {
            tally.failed += 1;
            tally.trouble.push(format!("{e:#}"));
        }
        if !self.unit {
            if let Err(e) = self.vm_tests(&mut tally) {
                tally.failed += 1;
                tally.trouble.push(format!("{e:#}"));
            }
            if tally.in_vm == 0 {
                tally
                    .trouble
                    .push("no test ran in the virtual machine".into());
            }
        } else if tally.passed + tally.failed == 0 {
            tally.trouble.push("no unit test ran".into());
        }
        println!();
        tally.trouble.iter().for_each(|t| println!("test: {t}"));
        tally.figures.lines().iter().for_each(|f| println!("{f}"));
        if tally.scans > 0 {
            println!("kmemleak scanned at the end of {} boots", tally.scans);
        }
        if tally.ignored > 0 {
            println!(
                "test: {} ignored (neither passed nor failed)",
                tally.ignored
            );
        }
        println!("{} passed, {} failed", tally.passed, tally.failed);
        Ok(if tally.failed == 0 && tally.trouble.is_empty() {
            0
        } else {
            1
        })
    }

    fn unit_tests(&self, tally: &mut Tally) -> Result<()> {
        let mut all = programs(&["--package", "ktlsshim", "--lib"], tally)?;
        let target = paths::xtask_target().display().to_string();
        let own = [
            "--package",
            "xtask",
            "--bin",
            "xtask",
            "--target-dir",
            &target,
        ];
        all.extend(programs(&own, tally)?);
        for tester in ["ktlsshim-soak", "ktlsshim-fuzz"] {
            all.extend(programs(&["--package", tester, "--lib"], tally)?);
        }
        for program in all {
            let mut expected = self.listed(&program)?;
            expected.retain(|test| !test.contains(KERNEL_UNIT));
            if expected.is_empty() {
                continue;
            }
            host::say(&format!("unit tests of {} (this machine)", program.name));
            let mut run = Command::new(&program.path);
            run.args(&self.filter).args(["--skip", KERNEL_UNIT]);
            run.current_dir(&program.manifest_dir);
            run.env("CARGO_MANIFEST_DIR", &program.manifest_dir);
            let output = run.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            print!("{text}");
            let mut reading = Reading::default();
            text.lines().for_each(|l| reading.take(l));
            reading.settle(&program.name, &expected, output.status.success(), tally);
        }
        Ok(())
    }

    fn vm_tests(&self, tally: &mut Tally) -> Result<()> {
        host::need_packages(BUILD_PACKAGES)?;
        host::need_packages(RUN_PACKAGES)?;
        host::say("building the shim, the module and the test programs");
        build::shim(true)?;
        if !self.machine.no_module {
            let mut kernel = self.machine.kernel.prepare()?;
            kernel.coverage = self.machine.coverage;
            kernel.build_module()?;
        }
        let mut selection = vec!["--package", "ktlsshim-tests"];
        let named: Vec<_> = self.program.iter().filter(|p| *p != SOAK).collect();
        named
            .iter()
            .for_each(|p| selection.extend(["--test", p.as_str()]));
        let copies = Copies::new()?;
        let planted = copies.keep(&build::planted()?)?;
        let mut all = Vec::new();
        if self.program.is_empty() || !named.is_empty() {
            all.extend(programs(&selection, tally)?);
        }
        if self.program.is_empty() {
            all.extend(programs(&["--package", "ktlsshim", "--lib"], tally)?);
        }
        if self.program.is_empty() || self.program.iter().any(|p| p == SOAK) {
            let soak = ["--package", "ktlsshim-soak", "--test", SOAK];
            all.extend(programs(&soak, tally)?);
        }
        if self.machine.kernel != Kernel::Debug {
            all.retain(|p| !p.name.starts_with(DEBUG_ONLY));
        }
        if self.program.is_empty() {
            all.retain(|p| !p.name.starts_with(SLOW));
        }
        for program in copies.take(all)? {
            let mut expected = self.listed(&program)?;
            if program.name == "ktlsshim" {
                expected.retain(|test| test.contains(KERNEL_UNIT));
            }
            if expected.is_empty() {
                continue;
            }
            host::say(&format!(
                "{}: {} tests in the virtual machine",
                program.name,
                expected.len()
            ));
            self.in_vm(&program, &planted, &expected, tally);
        }
        Ok(())
    }

    fn in_vm(
        &self,
        program: &Program,
        planted: &Path,
        expected: &BTreeSet<String>,
        tally: &mut Tally,
    ) {
        let mut argv = vec![
            program.path.display().to_string(),
            "--test-threads=1".into(),
        ];
        if program.name == "ktlsshim" {
            argv.push("--exact".into());
            argv.extend(expected.iter().cloned());
        } else {
            argv.extend(self.filter.clone());
        }
        let mut machine = self.machine.clone();
        machine.quiet = true;
        machine.timeout = machine.timeout.max(60 * expected.len() as u64);
        let planted = planted.display();
        machine.env.push(format!("KTLSSHIM_PLANTED={planted}"));
        machine.env.push(format!(
            "CARGO_MANIFEST_DIR={}",
            program.manifest_dir.display()
        ));
        let mut reading = Reading::default();
        let mut tap = |line: &str| {
            println!("{line}");
            reading.take(line);
        };
        let before = tally.passed + tally.failed;
        match machine.run_in(&argv, &program.manifest_dir, Some(&mut tap)) {
            Ok(ended) => {
                reading.settle(&program.name, expected, ended.status == 0, tally);
                if self.machine.kernel == Kernel::Debug {
                    match ended.leaks_sought {
                        true => tally.scans += 1,
                        false => tally
                            .trouble
                            .push(format!("{}: not scanned for leaks", program.name)),
                    }
                }
                if !ended.complaints.is_empty() {
                    tally.failed += 1;
                    let log = ended.out.join("dmesg");
                    tally.trouble.push(format!(
                        "{}: the kernel complained: {}",
                        program.name,
                        log.display()
                    ));
                }
                tally.in_vm += tally.passed + tally.failed - before;
            }
            Err(e) => {
                tally.failed += expected.len();
                tally.trouble.push(format!("{}: {e:#}", program.name));
            }
        }
    }

    /// The names of the tests that the filter leaves, asked of the program itself.
    fn listed(&self, program: &Program) -> Result<BTreeSet<String>> {
        let text = host::run_quiet(Command::new(&program.path).args(&self.filter).arg("--list"))?;
        let tests = text.lines().filter_map(|l| l.strip_suffix(": test"));
        Ok(tests.map(str::to_owned).collect())
    }
}

/// Compiles test programs and asks cargo where they are. One that does not compile is a failure, but
/// keeps nobody from running the others.
fn programs(selection: &[&str], tally: &mut Tally) -> Result<Vec<Program>> {
    let output = cargo()
        .args(["test", "--quiet", "--no-run", "--no-fail-fast"])
        .arg("--message-format=json-render-diagnostics")
        .args(selection)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        tally.failed += 1;
        let what = selection.join(" ");
        tally
            .trouble
            .push(format!("does not build: cargo test --no-run {what}"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let tests = messages.filter(|m| m["profile"]["test"] == true);
    let mut programs: Vec<_> = tests
        .filter_map(|m| {
            let manifest = PathBuf::from(m["manifest_path"].as_str()?);
            Some(Program {
                name: m["target"]["name"].as_str()?.to_owned(),
                path: m["executable"].as_str()?.into(),
                manifest_dir: manifest.parent()?.to_owned(),
            })
        })
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// The programs as they were when this run began: the next build writes over cargo's files.
struct Copies(PathBuf);

impl Copies {
    fn new() -> Result<Self> {
        let name = format!("target/vm/programs/{}", std::process::id());
        let dir = paths::workspace().join(name);
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        Ok(Self(dir))
    }

    fn take(&self, mut programs: Vec<Program>) -> Result<Vec<Program>> {
        for program in &mut programs {
            program.path = self.keep(&program.path)?;
        }
        Ok(programs)
    }

    fn keep(&self, file: &Path) -> Result<PathBuf> {
        let copy = self
            .0
            .join(file.file_name().context("a file without a name")?);
        fs::copy(file, &copy).with_context(|| format!("{}", copy.display()))?;
        Ok(copy)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a libtest program says about itself.
#[derive(Default)]
struct Reading {
    ok: BTreeSet<String>,
    failed: BTreeSet<String>,
    ignored: BTreeSet<String>,
    figures: Vec<(String, String, u64)>,
    current: Option<String>,
}

static STARTED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^test (\S+)(?: - should panic)? \.\.\. ").expect("fixed"));
static VERDICT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?:^| )(ok|FAILED|ignored(?:,.*)?)$").expect("fixed"));

impl Reading {
    /// `test NAME ... ok`, or with output of the test between the dots and the verdict.
    fn take(&mut self, line: &str) {
        if let Some(started) = STARTED.captures(line) {
            self.current = Some(started[1].to_owned());
        }
        if let (Some(test), Some((name, number))) = (&self.current, figures::parse(line)) {
            self.figures.push((test.clone(), name.to_owned(), number));
        }
        if let (Some(name), Some(verdict)) = (&self.current, VERDICT.captures(line)) {
            let set = match &verdict[1] {
                "ok" => &mut self.ok,
                "FAILED" => &mut self.failed,
                _ => &mut self.ignored,
            };
            set.insert(name.clone());
            self.current = None;
        }
    }

    /// Adds what was read; a test that was expected and said nothing has failed.
    fn settle(self, program: &str, expected: &BTreeSet<String>, success: bool, tally: &mut Tally) {
        let silent = |t: &&String| {
            !self.ok.contains(*t) && !self.failed.contains(*t) && !self.ignored.contains(*t)
        };
        let silent: Vec<_> = expected.iter().filter(silent).collect();
        for (test, name, number) in &self.figures {
            let test = format!("{program}: {test}");
            tally.figures.add(&test, name, *number);
        }
        tally.passed += self.ok.difference(&self.failed).count();
        tally.failed += self.failed.len() + silent.len();
        tally.ignored += self.ignored.len();
        for test in &self.failed {
            tally.trouble.push(format!("{program}: {test}: failed"));
        }
        for test in &silent {
            tally
                .trouble
                .push(format!("{program}: {test}: never finished"));
        }
        if !success && self.failed.is_empty() && silent.is_empty() {
            tally.failed += 1;
            tally
                .trouble
                .push(format!("{program}: failed though each of its tests passed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, expected: &[&str], success: bool) -> Tally {
        let mut reading = Reading::default();
        text.lines().for_each(|l| reading.take(l));
        let expected = expected.iter().map(|s| (*s).to_owned()).collect();
        let mut tally = Tally::default();
        reading.settle("p", &expected, success, &mut tally);
        tally
    }

    #[test]
    fn verdicts_are_counted_once() {
        let t = read(
            "test a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\n",
            &["a", "b", "c"],
            false,
        );
        assert_eq!((t.passed, t.failed, t.ignored), (1, 1, 1));
    }

    #[test]
    fn a_test_that_prints_still_has_a_verdict() {
        let t = read(
            "test a ... hello\nworld\nok\ntest b ... ok",
            &["a", "b"],
            true,
        );
        assert_eq!((t.passed, t.failed), (2, 0));
    }

    #[test]
    fn silence_is_failure() {
        let t = read("test a ... ok\ntest b ... \n", &["a", "b", "c"], false);
        assert_eq!((t.passed, t.failed), (1, 2));
        assert_eq!(read("", &["a"], true).failed, 1);
    }

    #[test]
    fn a_bad_exit_without_a_failed_test_is_a_failure() {
        assert_eq!(read("test a ... ok", &["a"], false).failed, 1);
    }
}
