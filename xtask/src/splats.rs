// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask splats`: would a mistake be seen? Boots the debug kernel once for each kind of mistake
//! that it is there to find, lets `kernels/planted` make it, and wants the run to fail for that reason.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use regex::Regex;

use crate::kernel::{self, Kernel, Prepared};
use crate::vm::Machine;
use crate::{host, paths};

/// The mistake, as the module calls it, and what the complaint must say.
const MISTAKES: [(&str, &str); 15] = [
    ("overrun", r"KASAN: slab-out-of-bounds in overrun"),
    ("freed", r"KASAN: (slab-)?use-after-free in freed"),
    ("leak", r"\[kmemleak\] unreferenced object .*size 2\d\d"),
    ("shift", r"UBSAN: shift-out-of-bounds in .*planted"),
    ("bounds", r"UBSAN: array-index-out-of-bounds in .*planted"),
    ("order", r"possible circular locking dependency"),
    ("softirq", r"inconsistent lock state"),
    ("asleep", r"scheduling while atomic"),
    ("rcu", r"suspicious RCU usage"),
    ("list", r"list_add double add|list_add corruption"),
    ("refcount", r"refcount_t: addition on 0"),
    ("object", r"ODEBUG: free active .*timer_list"),
    ("held", r"lock held when returning to user space"),
    ("warn", r"WARNING: .* warn\+"),
    ("null", r"NULL pointer dereference|null-ptr-deref"),
];

#[derive(Args, Debug)]
pub struct Splats {
    /// Only these mistakes (default: all)
    pub only: Vec<String>,
}

impl Splats {
    pub fn run(self) -> Result<i32> {
        let known = |o: &&String| !MISTAKES.iter().any(|(name, _)| name == o);
        if let Some(unknown) = self.only.iter().find(known) {
            bail!("no mistake is called {unknown}: {MISTAKES:?}");
        }
        let kernel = Kernel::Debug.prepare()?;
        let module = build(&kernel)?;
        let boot = |mistake: &str| {
            let command = format!("insmod {} mistake={mistake}", module.display());
            let mut machine = machine();
            if mistake != "leak" && mistake != "none" {
                machine.env.push("KTLSSHIM_VM_LEAKS=0".into());
            }
            let ended = machine.run(&["sh".into(), "-c".into(), command], false, None)?;
            anyhow::Ok((ended.status, ended.complaints))
        };
        let (status, complaints) = boot("none")?;
        if status != 0 || !complaints.is_empty() {
            bail!("the debug kernel complains (status {status}) though nothing was planted");
        }
        println!("none: no complaint");
        let mut missed = 0;
        for (name, wanted) in MISTAKES {
            if !self.only.is_empty() && !self.only.iter().any(|o| o == name) {
                continue;
            }
            let wanted = Regex::new(wanted)?;
            let (_, complaints) = boot(name)?;
            match complaints.iter().find(|l| wanted.is_match(l)) {
                Some(line) => println!("{name}: found: {}", line.trim()),
                None => {
                    missed += 1;
                    println!("{name}: MISSED ({} other lines)", complaints.len());
                }
            }
        }
        println!("{missed} missed");
        Ok(i32::from(missed > 0))
    }
}

fn machine() -> Machine {
    let mut machine = Machine::on(Kernel::Debug);
    machine.no_module = true;
    machine
}

fn build(kernel: &Prepared) -> Result<PathBuf> {
    let work = kernel.dir.join("planted");
    let _lock = host::lock("planted")?;
    kernel::link_sources(&paths::workspace().join("xtask/kernels/planted"), &work)?;
    let mut make = kernel.make(&work)?;
    host::run_quiet(make.arg("modules")).context("kernels/planted does not build")?;
    Ok(work.join("planted.ko"))
}
