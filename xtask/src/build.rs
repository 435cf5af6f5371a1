// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the shim as it is shipped, and the module for a kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::kernel::Kernel;
use crate::paths;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// target/release/libktlsshim.so (target/debug with --debug)
    Shim,
    /// target/kernels/NAME/kmod/algif_tls.ko
    Kmod,
    /// target/planted/libktlsshim.so: a shim with faults, for tests of the tests
    Planted,
}

#[derive(Args, Debug)]
pub struct Build {
    /// Only this part
    #[arg(value_enum)]
    pub part: Option<Part>,
    /// The kernel to build the module for
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel: Kernel,
    /// Build the shim optimised (the default: it is what the virtual machine preloads)
    #[arg(long, conflicts_with = "debug")]
    pub release: bool,
    /// Build the shim without optimisation
    #[arg(long)]
    pub debug: bool,
}

impl Build {
    pub fn run(self) -> Result<i32> {
        if self.part == Some(Part::Planted) {
            println!("{}", planted()?.display());
            return Ok(0);
        }
        if self.part != Some(Part::Kmod) {
            let release = !self.debug;
            shim(release)?;
            let profile = if release { "release" } else { "debug" };
            let library = paths::target().join(profile).join("libktlsshim.so");
            println!("{}", library.display());
        }
        if self.part != Some(Part::Shim) {
            let module = self.kernel.prepare()?.build_module()?;
            println!("{}", module.display());
        }
        Ok(0)
    }
}

/// cargo shows its own progress; a build that is up to date says nothing.
pub fn shim(release: bool) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "ktlsshim"]);
    if release {
        build.arg("--release");
    }
    if !build.status().context("cannot run cargo")?.success() {
        bail!("the shim does not build");
    }
    Ok(())
}

/// The shim that commits the fault which KTLSSHIM_PLANT names (src/planted.rs), in a profile, and so a
/// place, of its own: nobody can take it for the one that is shipped.
pub fn planted() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "ktlsshim"]);
    build.args(["--profile", "planted", "--features", "planted"]);
    if !build.status().context("cannot run cargo")?.success() {
        bail!("the shim with faults does not build");
    }
    Ok(paths::target().join("planted/libktlsshim.so"))
}

/// A tester that runs in the virtual machine; built apart into `target`, for the workspace's release
/// profile optimises for the shim, and takes minutes.
pub fn tester(package: &str, target: &Path) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", package]);
    build.arg("--target-dir").arg(target);
    for (name, value) in [
        ("LTO", "off"),
        ("CODEGEN_UNITS", "16"),
        ("DEBUG", "0"),
        ("OPT_LEVEL", "2"),
    ] {
        build.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    if !build.status().context("cannot run cargo")?.success() {
        bail!("{package} does not build");
    }
    Ok(())
}

/// The cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace());
    cargo
}
