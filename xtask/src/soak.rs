// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask soak`: the differential model test for as long as one likes, in the virtual machine.
//!
//! The tester itself is `tests/soak`; here it is built, and for an OpenSSL other than this machine's an
//! endpoint is compiled inside that OpenSSL's root and started by the root's own dynamic linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{self, cargo};
use crate::vm::Machine;
use crate::{host, paths};

#[derive(Args, Debug)]
#[command(after_help = "\
Random programs of TLS operations run four times each: no shim, shim at the client, at the server, at both.
Whatever an end can see must be equal, and the wire must decrypt without a fault. A difference is printed
with its seed and the shortest program that shows it; the exit status is 1 then. The last lines say what
was exercised and what the kernel carried.

    cargo xtask soak --minutes 20
    cargo xtask soak --openssl 3.5 --minutes 5
    cargo xtask soak --seed 6017 --programs 1     the same program again
    cargo xtask soak --replay FILE                a program as a report printed it")]
pub struct Soak {
    /// How long
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// Whose libssl: 3.0 is this machine's, others need target/roots/VERSION
    #[arg(long, default_value = "3.0", value_parser = ["3.0", "1.1.1", "3.5", "3.6", "4.0"])]
    pub openssl: String,
    /// The first program's seed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many programs
    #[arg(long)]
    pub programs: Option<u64>,
    /// Run one program, as a report printed it
    #[arg(long)]
    pub replay: Option<PathBuf>,
    /// Leave a kind of operation out (names in tests/soak/src/generate.rs)
    #[arg(long)]
    pub without: Vec<String>,
    /// How many programs run at once
    #[arg(long, default_value_t = 2)]
    pub workers: u32,
    #[command(flatten)]
    pub machine: Machine,
}

impl Soak {
    pub fn run(self) -> Result<i32> {
        host::need_packages(crate::test::BUILD_PACKAGES)?;
        build::shim(true)?;
        let target = paths::workspace().join("target/soak");
        let mut argv = vec![tester(&target)?.display().to_string()];
        argv.push(format!("--minutes={}", self.minutes));
        argv.push(format!("--workers={}", self.workers));
        argv.extend(self.seed.map(|n| format!("--seed={n}")));
        argv.extend(self.programs.map(|n| format!("--programs={n}")));
        argv.extend(self.without.iter().map(|n| format!("--without={n}")));
        if let Some(file) = &self.replay {
            argv.push(format!("--replay={}", file.canonicalize()?.display()));
        }
        if self.openssl != "3.0" {
            argv.push(format!("--endpoint={}", foreign(&target, &self.openssl)?));
        }
        let mut machine = self.machine.clone();
        // Shrinking goes on after the time is up.
        machine.timeout = machine.timeout.max((self.minutes * 60.0) as u64 + 600);
        Ok(machine.run_in(&argv, paths::workspace(), None)?.code())
    }
}

/// Built apart: the workspace's release profile optimises for the shim, and takes minutes.
fn tester(target: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "ktlsshim-soak",
        "--target-dir",
    ]);
    build.arg(target);
    for (name, value) in [
        ("LTO", "off"),
        ("CODEGEN_UNITS", "16"),
        ("DEBUG", "0"),
        ("OPT_LEVEL", "2"),
    ] {
        build.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    if !build.status().context("cannot run cargo")?.success() {
        bail!("ktlsshim-soak does not build");
    }
    Ok(target.join("release/soak"))
}

/// The command line of an endpoint that uses the libssl of `target/roots/VERSION`.
fn foreign(target: &Path, version: &str) -> Result<String> {
    let root = paths::workspace().join("target/roots").join(version);
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    // Merged /usr or not.
    let linker = ["usr/lib64", "lib64"].map(|dir| root.join(dir).join("ld-linux-x86-64.so.2"));
    let Some(linker) = linker.iter().find(|path| path.exists()) else {
        bail!(
            "no OpenSSL {version}: {} is not a root file system that has libssl and its headers",
            root.display()
        );
    };
    let library = ["libssl.so.4", "libssl.so.3", "libssl.so.1.1"]
        .iter()
        .find(|name| libraries.join(name).exists())
        .with_context(|| format!("no libssl in {}", libraries.display()))?;
    let endpoint = target.join(format!("endpoint-{version}"));
    let sources = fs::read_dir(paths::workspace().join("tests/soak/endpoint"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let sources = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "c"));
    host::run_quiet(
        Command::new("cc")
            .args(["-O2", "-o"])
            .arg(&endpoint)
            .arg("-isystem")
            .arg(root.join("usr/include"))
            .arg("-isystem")
            .arg(root.join("usr/include/x86_64-linux-gnu"))
            .args(sources)
            .arg(libraries.join(library))
            .arg(libraries.join(library.replace("ssl", "crypto")))
            // What these libraries need of a newer libc is there at run time.
            .arg("-Wl,--allow-shlib-undefined"),
    )?;
    let older = root.join("lib/x86_64-linux-gnu");
    let path = format!("{}:{}", libraries.display(), older.display());
    Ok(format!(
        "{} --library-path {path} {}",
        linker.display(),
        endpoint.display()
    ))
}
