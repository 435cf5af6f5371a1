// SPDX-License-Identifier: MIT OR Apache-2.0
//! The debug kernel: Debian's `linux-source-6.1`, configured to find our mistakes and built here.
//!
//! Debian's own kernels cannot report a use after free, a lock taken in the wrong order or a leak;
//! this one does little else. `kernels/debug.config` says what is in it. The build happens once and
//! stays in `target/kernels/debug/source`, where our module is built against it; another
//! configuration builds what changed.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::fetch::{self, Apt};
use crate::host;

const CONFIG: &str = include_str!("../kernels/debug.config");
const PACKAGE: &str = "linux-source-6.1";

/// What building a kernel takes besides a compiler.
pub const BUILD_PACKAGES: &[&str] = &[
    "gcc",
    "gcc-12",
    "make",
    "bc",
    "bison",
    "flex",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "lz4",
    "perl",
    "xz-utils",
];

/// Objects of one build, for the progress bar: counted once, only the bar suffers when it is off.
const STEPS: u64 = 1978;

/// Whether what lies in `dir` was built from this configuration.
pub fn is_current(dir: &Path) -> bool {
    let used = fs::read_to_string(dir.join("config"));
    used.is_ok_and(|c| c == CONFIG) && dir.join("version").exists()
}

/// Builds what is not there yet. A build that was interrupted goes on where it was.
pub fn build(dir: &Path) -> Result<()> {
    host::need_packages(BUILD_PACKAGES)?;
    let source = dir.join("source");
    let _ = fs::remove_file(dir.join("version"));
    if !source.join("Kbuild").exists() {
        unpack(dir, &source)?;
    }
    allow_stack_filter(&source)?;
    fs::write(dir.join("asked.config"), CONFIG)?;
    let mut configure = make(&source);
    configure.arg(format!(
        "KCONFIG_ALLCONFIG={}",
        dir.join("asked.config").display()
    ));
    host::run_quiet(configure.arg("allnoconfig")).context("kconfig")?;
    check(&fs::read_to_string(source.join(".config"))?)?;

    host::say("building the debug kernel (once; 8 minutes on two idle cores)");
    follow(
        make(&source).args(["bzImage", "modules"]),
        &dir.join("build.log"),
    )?;

    let release = host::run_quiet(make(&source).args(["-s", "kernelrelease"]))?;
    let release = release.trim();
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    let mut install = make(&source);
    install.arg(format!("INSTALL_MOD_PATH={}", root.display()));
    host::run_quiet(install.args(["-s", "modules_install"]))?;
    // The packed image: by PVH, QEMU would enter C code that runs before KASAN has its shadow.
    fs::copy(source.join("arch/x86/boot/bzImage"), dir.join("vmlinux"))?;
    fs::write(dir.join("config"), CONFIG)?;
    fs::write(dir.join("version"), release)?;
    Ok(())
}

fn unpack(dir: &Path, source: &Path) -> Result<()> {
    let packages = dir.join("package");
    let apt = Apt::open("bookworm")?;
    apt.unpack(&[PACKAGE.to_owned()], &packages)?;
    let progress = fetch::spinner(format!("unpacking {PACKAGE}"));
    let fresh = dir.join("source.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    let archive = packages.join(format!("usr/src/{PACKAGE}.tar.xz"));
    host::run_quiet(
        Command::new("tar")
            .args(["--strip-components=1", "-xf"])
            .arg(&archive)
            .arg("-C")
            .arg(&fresh),
    )?;
    fs::rename(&fresh, source)?;
    fs::remove_dir_all(&packages)?;
    progress.finish_and_clear();
    Ok(())
}

/// Faults are to be injected where our module is on the stack, and nowhere else. 6.1 does not offer
/// that filter on x86-64, from the days of its unreliable unwinder; with frame pointers it works.
fn allow_stack_filter(source: &Path) -> Result<()> {
    const REFUSAL: &str = "\tdepends on !X86_64\n";
    let file = source.join("lib/Kconfig.debug");
    let text = fs::read_to_string(&file)?;
    let option = "config FAULT_INJECTION_STACKTRACE_FILTER\n";
    let (before, after) = text
        .split_once(option)
        .context("lib/Kconfig.debug has no stack trace filter")?;
    let end = after.find("\nconfig ").unwrap_or(after.len());
    if after[..end].contains(REFUSAL) {
        let after = after.replacen(REFUSAL, "", 1);
        fs::write(&file, format!("{before}{option}{after}"))?;
    }
    Ok(())
}

/// kconfig drops silently what has an unmet dependency; a debug kernel that lost its KASAN would
/// find nothing and say nothing.
fn check(config: &str) -> Result<()> {
    let set: std::collections::HashSet<_> = config.lines().collect();
    let asked = CONFIG.lines().filter(|l| l.starts_with("CONFIG_"));
    let lost: Vec<_> = asked.filter(|l| !set.contains(l)).collect();
    if lost.is_empty() {
        return Ok(());
    }
    bail!("kconfig did not take: {}", lost.join(" "))
}

fn make(source: &Path) -> Command {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    let mut make = Command::new("nice");
    make.args(["-n", "5", "make", &format!("-j{cores}"), "-C"]);
    make.arg(source).env("LC_ALL", "C");
    // Equal sources give equal kernels.
    make.env("KBUILD_BUILD_USER", "ktlsshim")
        .env("KBUILD_BUILD_HOST", "ktlsshim");
    for name in ["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"] {
        make.env_remove(name);
    }
    make.stdin(Stdio::null());
    make
}

/// Runs make with a bar, or, on a pipe, a line at each twentieth.
fn follow(make: &mut Command, log: &Path) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::new(STEPS).with_style(
        ProgressStyle::with_template("{bar:40} {percent} % {elapsed} {wide_msg}")
            .expect("a fixed template"),
    );
    fs::write(log, "")?;
    let append = || fs::File::options().append(true).open(log);
    let (out, err) = (append()?, append()?);
    let mut child = make
        .stdout(Stdio::piped())
        .stderr(err)
        .spawn()
        .context("cannot run make")?;
    let lines = BufReader::new(child.stdout.take().context("make without stdout")?).lines();
    let mut out = std::io::LineWriter::new(out);
    let mut said = 0;
    for (n, line) in (1..).zip(lines.map_while(Result::ok)) {
        use std::io::Write;
        writeln!(out, "{line}")?;
        let done = STEPS.min(n);
        bar.set_position(done);
        bar.set_message(line.trim().to_owned());
        if !terminal && done * 20 / STEPS > said {
            said = done * 20 / STEPS;
            eprintln!("xtask: kernel {} %", said * 5);
        }
    }
    bar.finish_and_clear();
    if !child.wait()?.success() {
        let text = fs::read_to_string(log)?;
        let errors = text.lines().filter(|l| l.contains("rror"));
        let errors: Vec<_> = errors.take(20).collect();
        bail!(
            "the debug kernel does not build ({}):\n{}",
            log.display(),
            errors.join("\n")
        );
    }
    Ok(())
}
