// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask clean`: what runs left behind; with --all also what was fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;

#[derive(Args, Debug)]
pub struct Clean {
    /// Kernels, headers and package lists too: the next run fetches them again
    #[arg(long)]
    pub all: bool,
}

impl Clean {
    pub fn run(self) -> Result<i32> {
        let target = paths::workspace().join("target");
        let mut gone = vec![paths::runs()];
        if self.all {
            gone.extend([target.join("kernels"), target.join("vm")]);
        }
        for dir in gone.iter().filter(|d| d.exists()) {
            println!("removing {}", dir.display());
            fs::remove_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        }
        Ok(0)
    }
}

/// How many finished runs are kept, and for how long at least.
const KEPT: usize = 64;
const YOUNG: Duration = Duration::from_secs(3600);

/// Forgets the oldest runs, so that nobody has to clean by hand. A young one may still be running,
/// or its owner may be reading: it stays.
pub fn prune(runs: &Path) {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut dirs: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    dirs.sort();
    let surplus = dirs.len().saturating_sub(KEPT);
    let old = |t: &SystemTime| t.elapsed().is_ok_and(|age| age > YOUNG);
    for (_, dir) in dirs.iter().take(surplus).filter(|(t, _)| old(t)) {
        // Two runs may prune at once; who comes second finds nothing, which is what it wanted.
        let _ = fs::remove_dir_all(dir);
    }
}
