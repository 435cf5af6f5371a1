// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lint`: rustfmt, clippy, checkpatch and sparse. All of them run, then the verdict.
//!
//! Not smatch, the kernel's other checker: Debian has no package of it in any release (bullseye to sid
//! and experimental, looked through in November 2026), and what a verb runs must come from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::cargo;
use crate::fetch::{self, Apt};
use crate::kernel::{self, Kernel};
use crate::{host, paths};

#[derive(Args, Debug)]
pub struct Lint {
    /// The kernel whose headers sparse reads
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel: Kernel,
    /// Only Rust: rustfmt and clippy
    #[arg(long, conflicts_with = "c")]
    pub rust: bool,
    /// Only C: checkpatch and sparse
    #[arg(long)]
    pub c: bool,
}

impl Lint {
    pub fn run(self) -> Result<i32> {
        let mut checks: Vec<(&str, Result<()>)> = Vec::new();
        if !self.c {
            checks.push(("rustfmt", rustfmt()));
            checks.push(("clippy", clippy()));
        }
        if !self.rust {
            checks.push(("checkpatch", checkpatch()));
            checks.push(("sparse", sparse(self.kernel)));
        }
        if !self.rust {
            println!("lint: smatch: not run: {}", no_smatch());
        }
        let mut bad = 0;
        for (name, result) in &checks {
            match result {
                Ok(()) => println!("lint: {name}: clean"),
                Err(e) => {
                    bad += 1;
                    println!("lint: {name}: {e:#}");
                }
            }
        }
        Ok(if bad == 0 { 0 } else { 1 })
    }
}

/// Asks the archive again, so that nobody has to remember to.
fn no_smatch() -> &'static str {
    let policy = host::run_quiet(Command::new("apt-cache").args(["policy", "smatch"]));
    match policy
        .is_ok_and(|text| text.contains("Candidate: ") && !text.contains("Candidate: (none)"))
    {
        true => "but the archive has it now: teach xtask/src/lint.rs",
        false => "Debian has no such package",
    }
}

fn rustfmt() -> Result<()> {
    host::say("cargo fmt --check");
    match cargo()
        .args(["fmt", "--all", "--check"])
        .status()?
        .success()
    {
        true => Ok(()),
        false => bail!("not formatted; run: cargo fmt --all"),
    }
}

fn clippy() -> Result<()> {
    host::need_packages(crate::test::BUILD_PACKAGES)?;
    host::say("cargo clippy --workspace --all-targets");
    let args = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    match cargo().args(args).status()?.success() {
        true => Ok(()),
        false => bail!("has complaints (above)"),
    }
}

/// `checkpatch.pl --strict` over the C that is, or shows, kernel interface. The tests' own programs
/// are userspace in its own style.
fn checkpatch() -> Result<()> {
    host::need(&[host::PERL])?;
    let scripts = checkpatch_scripts()?;
    let files = c_files()?;
    if files.is_empty() {
        bail!("found no C file");
    }
    host::say(&format!("checkpatch --strict, {} files", files.len()));
    let mut clean = true;
    for file in &files {
        let name = file.strip_prefix(paths::workspace())?;
        let mut check = Command::new("perl");
        check
            .arg(scripts.join("checkpatch.pl"))
            .current_dir(paths::workspace());
        check.args([
            "--strict",
            "--no-tree",
            "--no-summary",
            "--terse",
            "--show-types",
            "--color=never",
        ]);
        check.arg("--ignore").arg(exceptions(name));
        let output = check
            .arg("--file")
            .arg(name)
            .stdin(Stdio::null())
            .output()?;
        print!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        clean &= output.status.success();
    }
    if clean {
        Ok(())
    } else {
        bail!("has complaints (above)")
    }
}

/// Rules of the kernel's tree that cannot hold at this place in ours.
fn exceptions(file: &Path) -> &'static str {
    if file.ends_with("compat.h") {
        // The one file that may ask for the kernel's version, in the idiom of all who do.
        "LINUX_VERSION_CODE,CONSTANT_COMPARISON"
    } else if file.components().any(|c| c.as_os_str() == "uapi") {
        // Userspace, which includes it too, lacks the kernel's attribute macros.
        "PREFER_DEFINED_ATTRIBUTE_MACRO"
    } else if !file.starts_with("kmod") {
        // OpenSSL's names are what they are.
        "CAMELCASE"
    } else {
        "FILE_PATH_CHANGES"
    }
}

/// checkpatch.pl and its word lists out of Debian's kernel source package: no smaller one has them.
fn checkpatch_scripts() -> Result<PathBuf> {
    let dir = paths::workspace().join("target/kernels/checkpatch");
    let scripts = dir.join("scripts");
    if scripts.join("checkpatch.pl").exists() {
        return Ok(scripts);
    }
    let _lock = host::lock("checkpatch")?;
    if scripts.join("checkpatch.pl").exists() {
        return Ok(scripts);
    }
    host::need(&[host::XZ])?;
    let root = dir.join("root");
    Apt::open("bookworm")?.unpack(&["linux-source-6.1".into()], &root)?;
    let progress = fetch::spinner("taking checkpatch.pl out of the kernel source".into());
    // Renamed into place when complete: a half-unpacked directory must not look finished.
    let fresh = dir.join("fresh");
    fs::create_dir_all(&fresh)?;
    let names = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"];
    host::run_quiet(
        Command::new("tar")
            .arg("-xJf")
            .arg(root.join("usr/src/linux-source-6.1.tar.xz"))
            .arg("-C")
            .arg(&fresh)
            .arg("--strip-components=2")
            .args(names.map(|n| format!("linux-source-6.1/scripts/{n}"))),
    )?;
    fs::remove_dir_all(&root)?;
    fs::rename(&fresh, &scripts)?;
    progress.finish_and_clear();
    Ok(scripts)
}

/// All C of the tree: the module first of all, but also examples and test programs.
fn c_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in ["kmod", "examples"] {
        collect(&paths::workspace().join(dir), &mut files)?;
    }
    files.sort();
    return Ok(files);

    fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Ok(());
        };
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                collect(&path, files)?;
            } else if (name.ends_with(".c") || name.ends_with(".h")) && !name.ends_with(".mod.c") {
                files.push(path);
            }
        }
        Ok(())
    }
}

/// Builds the module once more with every file passed through sparse. What sparse says about the
/// kernel's own headers is counted and named, never silently dropped; only ours fails the check.
fn sparse(kernel: Kernel) -> Result<()> {
    host::need(&[host::SPARSE, host::GCC, host::GCC12, host::MAKE])?;
    let kernel = kernel.prepare()?;
    let _lock = host::lock("sparse")?;
    let work = kernel.dir.join("sparse");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let sources = kernel::link_sources(&paths::kmod_sources(), &work)?;
    let units = sources
        .iter()
        .filter(|s| s.extension().is_some_and(|e| e == "c"))
        .count();
    let version = host::run_quiet(Command::new("sparse").arg("--version"))?;
    host::say(&format!(
        "sparse {} over {units} files, headers of Linux {}",
        version.trim(),
        kernel.version
    ));
    // -s would hide the CHECK lines, by which we see that sparse really ran.
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(kernel.headers())
        .arg(format!("M={}", work.display()));
    make.args(["C=2", "W=1", "CF=-fdiagnostic-prefix=sparse", "modules"]);
    make.env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("CARGO_MAKEFLAGS")
        .env("LC_ALL", "C");
    let output = make.stdin(Stdio::null()).output().context("make")?;
    let text = kernel::tidy(&output.stdout, &work) + &kernel::tidy(&output.stderr, &work);
    let ran = text
        .lines()
        .filter(|l| l.trim_start().starts_with("CHECK "))
        .count();
    if !output.status.success() || ran == 0 {
        bail!("the module does not build under sparse ({ran} files checked):\n{text}");
    }
    let complaint = |l: &&str| l.contains("warning:") || l.contains("error:");
    let (ours, theirs): (Vec<_>, Vec<_>) = text
        .lines()
        .filter(complaint)
        .partition(|l| l.trim_start_matches("sparse: ").starts_with("kmod/"));
    ours.iter().for_each(|l| println!("{l}"));
    if !theirs.is_empty() {
        println!(
            "sparse: {} remarks on the kernel's own headers, e.g. {}",
            theirs.len(),
            theirs[0]
        );
    }
    if ours.is_empty() {
        Ok(())
    } else {
        bail!("{} complaints (above)", ours.len())
    }
}
