// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask doctor`: what is there, what is missing, and what to do about it. Changes nothing.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::kernel::Kernel;
use crate::{host, kernel_debug, paths, test};

#[derive(Args, Debug)]
pub struct Doctor {
    /// The kernel to ask about
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel: Kernel,
}

impl Doctor {
    pub fn run(self) -> Result<i32> {
        let mut missing = Vec::new();
        let tools = [
            host::QEMU,
            host::DEPMOD,
            host::XZ,
            host::GCC,
            host::GCC12,
            host::MAKE,
            host::PERL,
            host::SPARSE,
        ];
        for tool in tools {
            match host::find(tool.0) {
                Some(path) => say("there", tool.0, &path.display().to_string()),
                None => {
                    say("MISSING", tool.0, "");
                    missing.push(tool.1);
                }
            }
        }
        let debug: &[&str] = match self.kernel {
            Kernel::Debug => kernel_debug::BUILD_PACKAGES,
            _ => &[],
        };
        let packages = test::BUILD_PACKAGES.iter().chain(test::RUN_PACKAGES);
        for package in packages.chain(debug) {
            if !host::installed(package) && !missing.contains(package) {
                say("MISSING", package, "");
                missing.push(package);
            }
        }
        for part in ["fmt", "clippy"] {
            let found = Command::new("cargo").args([part, "--version"]).output();
            match found.is_ok_and(|o| o.status.success()) {
                true => say("there", &format!("cargo {part}"), ""),
                false => say(
                    "MISSING",
                    &format!("cargo {part}"),
                    "rustup component add rustfmt clippy",
                ),
            }
        }
        for kernel in Kernel::value_variants() {
            match kernel.version() {
                Some(version) => say("there", &format!("kernel {}", kernel.name()), &version),
                None => say("later", &format!("kernel {}", kernel.name()), kernel.cost()),
            }
        }
        match paths::shim().exists() {
            true => say("there", "shim", &paths::shim().display().to_string()),
            false => say("later", "shim", "cargo xtask build shim"),
        }
        say(
            "note",
            "accelerator",
            "TCG, always: a /dev/kvm that is there may still hang",
        );
        if missing.is_empty() {
            return Ok(0);
        }
        println!("\nRoot's verbs install what they need; to bring all of it at once:\n");
        println!("    sudo apt-get install {}\n", missing.join(" "));
        Ok(1)
    }
}

fn say(state: &str, what: &str, detail: &str) {
    println!("{state:>8}  {what:<20} {detail}");
}
