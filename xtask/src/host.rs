// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the development machine must bring. As root on Debian a missing package is installed;
//! otherwise the error names the command that brings it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;

/// A program that some verb needs, and the Debian package that has it.
pub struct Tool(pub &'static str, pub &'static str);

pub const QEMU: Tool = Tool("qemu-system-x86_64", "qemu-system-x86");
pub const DEPMOD: Tool = Tool("depmod", "kmod");
pub const XZ: Tool = Tool("xz", "xz-utils");
pub const GCC: Tool = Tool("gcc", "gcc");
pub const GCC12: Tool = Tool("gcc-12", "gcc-12");
pub const MAKE: Tool = Tool("make", "make");
pub const PERL: Tool = Tool("perl", "perl");
pub const SPARSE: Tool = Tool("sparse", "sparse");

/// Finds a program also where an ordinary user's PATH does not look.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/local/sbin";
    which::which_in(program, Some(path), "/").ok()
}

/// Makes sure that all of `tools` are there.
pub fn need(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools
        .iter()
        .filter(|t| find(t.0).is_none())
        .map(|t| t.1)
        .collect();
    install(&missing)?;
    match tools.iter().find(|t| find(t.0).is_none()) {
        Some(t) => bail!("{} is still missing after installing {}", t.0, t.1),
        None => Ok(()),
    }
}

/// Makes sure that Debian packages are installed.
pub fn need_packages(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|p| !installed(p)).collect();
    install(&missing)
}

pub fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    query.is_ok_and(|o| o.stdout == b"installed")
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!(
            "missing: {list} (these are Debian's package names; install your system's equivalents)"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing packages; install them with:\n\n    sudo apt-get install {list}\n");
    }
    // Several xtasks may start on a fresh machine at once; dpkg's own lock comes too late for apt's lists.
    let _lock = lock("apt-system")?;
    eprintln!("xtask: installing {list}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        apt.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
        apt
    };
    let try_install = || {
        let args = [
            "install",
            "-y",
            "--no-install-recommends",
            "-o",
            "Dpkg::Use-Pty=0",
        ];
        apt()
            .args(args)
            .args(packages)
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !try_install() {
        // The lists may be absent or stale: say so by fetching them, once.
        eprintln!("xtask: apt-get update, then once more");
        let _ = apt().arg("update").status();
        if !try_install() {
            bail!(
                "apt-get could not install {list}; try: apt-get update && apt-get install {list}"
            );
        }
    }
    Ok(())
}

/// An exclusive lock among xtasks of this workspace; freed when dropped, or when the process dies.
pub fn lock(name: &str) -> Result<File> {
    let dir = paths::workspace().join("target/locks");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = File::create(dir.join(name))?;
    if file.try_lock().is_err() {
        eprintln!("xtask: waiting for another xtask ({name})");
        file.lock()?;
    }
    Ok(file)
}

/// Runs a command whose output matters only when it fails.
pub fn run_quiet(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {what}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{what}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}

pub fn is_newer(than: &Path, file: &Path) -> bool {
    let time = |p: &Path| p.metadata().and_then(|m| m.modified());
    match (time(than), time(file)) {
        (Ok(than), Ok(file)) => file > than,
        _ => true,
    }
}

/// One line that says what comes next.
pub fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// A certificate for localhost and its key, `cert.pem` and `key.pem` in `dir`.
pub fn certificate(dir: &Path, more: &[&str]) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    openssl.args(["-nodes", "-days", "3650", "-subj", "/CN=localhost"]);
    openssl.args(more);
    openssl.arg("-keyout").arg(dir.join("key.pem"));
    openssl.arg("-out").arg(dir.join("cert.pem"));
    run_quiet(&mut openssl).map(drop)
}
