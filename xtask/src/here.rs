// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm --here`: the running kernel instead of a virtual machine. The only verb that
//! touches it, and it asks first.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{host, kernel, paths};

pub fn run(command: &[String], yes: bool) -> Result<i32> {
    let version = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    if !Path::new("/sys/module/algif_tls").exists() {
        insert(&version, yes)?;
    }
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("KTLSSHIM", paths::shim())
        .env_remove("KTLSSHIM_VM")
        .status()
        .with_context(|| format!("cannot run {}", command[0]))?;
    Ok(status.code().unwrap_or(255))
}

fn insert(version: &str, yes: bool) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "inserting a module needs root: run as root, or drop --here to use the virtual machine"
        );
    }
    if !Path::new("/proc/modules").exists() {
        bail!("this kernel ({version}) loads no modules; drop --here to use the virtual machine");
    }
    let headers = PathBuf::from(format!("/lib/modules/{version}/build"));
    if !headers.exists() {
        bail!("no headers for {version}: apt-get install linux-headers-{version}");
    }
    host::need(&[host::GCC, host::MAKE])?;
    let work = paths::workspace().join("target/kernels/here/kmod");
    let _lock = host::lock("kmod-here")?;
    kernel::link_sources(&paths::kmod_sources(), &work)?;
    let mut make = Command::new("make");
    make.arg("-s")
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", work.display()))
        .arg("modules");
    host::run_quiet(&mut make).context("kmod/ does not build for the running kernel")?;
    let module = work.join("algif_tls.ko");
    eprintln!(
        "vm --here: about to run on THIS kernel: modprobe af_alg; insmod {}",
        module.display()
    );
    if !yes {
        if !std::io::stdin().is_terminal() {
            bail!("not inserted: nobody to ask; say --here --yes");
        }
        eprint!("Insert it? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            bail!("not inserted");
        }
    }
    for module in ["af_alg", "gcm", "ccm", "chacha20poly1305"] {
        // Some are built in, some absent: what is really needed, insmod and bind will say.
        let _ = Command::new("modprobe").arg(module).status();
    }
    host::run_quiet(Command::new("insmod").arg(&module))?;
    Ok(())
}
