// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: random calls of the kernel socket against a model of it, in the virtual machine.
//!
//! The tester is `tests/fuzz`. Here it is built and started, once, or with `--planted` once for each bug
//! that `kmod/planted.h` can commit: a fuzzer that has never found anything may be blind.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::kernel::{self, Prepared};
use crate::vm::Machine;
use crate::{host, paths};

/// The name that `plant=` takes, and what it breaks.
const PLANTS: [(&str, &str); 23] = [
    (
        "lock",
        "the TCP lock is given up between sealing and hand-over",
    ),
    ("number", "the sequence number does not carry"),
    (
        "wake",
        "who sleeps is not woken by detach, re-key or an error",
    ),
    ("lowat", "the low-water mark is one byte too high"),
    ("page", "pages of the unread rest are not released"),
    ("pin", "pinned pages of a reader are not released"),
    ("staged", "a staged byte is dropped"),
    ("peek", "MSG_PEEK consumes"),
    ("errno", "FIN inside a record is told as FIN at a border"),
    ("length", "a record may be one byte too long"),
    ("rekey", "a re-key keeps the old key"),
    ("close", "close_notify is no end of file"),
    (
        "nonce",
        "the last key may be attached again with a used number",
    ),
    ("more", "the end of a MSG_MORE series is not pushed"),
    ("rest", "detach forgets the unread rest of a record"),
    (
        "type",
        "a reader without control buffer is given any record",
    ),
    ("fault", "a fault loses the rest"),
    ("space", "poll() does not ask to be told of room"),
    ("urgent", "an urgent byte stays in the stream"),
    ("split", "a KeyUpdate in two records goes unnoticed"),
    ("sticky", "a bad record's error does not stay"),
    ("limit", "SO_SNDBUF is not put back after a hand-over"),
    ("update", "a sender may go on after its own KeyUpdate"),
];

#[derive(Args, Debug)]
#[command(after_help = "\
Random sequences of all calls of the kernel TLS socket, valid and not, with several ops, connections and
threads, run beside a model that says what each call must return. A difference is printed with its seed
and the shortest sequence that shows it; the exit status is 1 then. The last lines say what was tried.

    cargo xtask fuzz --minutes 30 --kernel debug
    cargo xtask fuzz --seed 6017 --sequences 1     the same sequence again
    cargo xtask fuzz --replay FILE                 a sequence as a report printed it
    cargo xtask fuzz --faults 10 --kernel debug    with failing allocations
    cargo xtask fuzz --plant peek                  with a bug in the module
    cargo xtask fuzz --planted                     each such bug must be found")]
pub struct Fuzz {
    /// How long (with --planted: for each bug)
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// The first sequence's seed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many sequences
    #[arg(long)]
    pub sequences: Option<u64>,
    /// Run one sequence, as a report printed it
    #[arg(long)]
    pub replay: Option<PathBuf>,
    /// Commit this bug (names in kmod/planted.h and here)
    #[arg(long, conflicts_with = "planted")]
    pub plant: Vec<String>,
    /// Commit each bug, one after the other
    #[arg(long)]
    pub planted: bool,
    /// Let so many percent of the module's allocations and user copies fail (--kernel debug)
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    pub faults: u32,
    /// How many sequences run at once
    #[arg(long, default_value_t = 2)]
    pub workers: u32,
    #[command(flatten)]
    pub machine: Machine,
}

impl Fuzz {
    pub fn run(self) -> Result<i32> {
        host::need_packages(crate::test::BUILD_PACKAGES)?;
        let tester = tester()?;
        if self.planted || !self.plant.is_empty() {
            return self.plants(&tester);
        }
        let mut machine = self.machine.clone();
        // Shrinking goes on after the time is up.
        machine.timeout = machine.timeout.max((self.minutes * 60.0) as u64 + 300);
        let argv = self.argv(&tester)?;
        Ok(machine.run_in(&argv, paths::workspace(), None)?.code())
    }

    fn argv(&self, tester: &Path) -> Result<Vec<String>> {
        let mut argv = vec![tester.display().to_string()];
        argv.push(format!("--minutes={}", self.minutes));
        argv.push(format!("--workers={}", self.workers));
        argv.extend(self.seed.map(|n| format!("--seed={n}")));
        argv.extend(self.sequences.map(|n| format!("--sequences={n}")));
        argv.push(format!("--faults={}", self.faults));
        if let Some(file) = &self.replay {
            argv.push(format!("--replay={}", file.canonicalize()?.display()));
        }
        Ok(argv)
    }

    fn plants(&self, tester: &Path) -> Result<i32> {
        let known = |name: &&String| PLANTS.iter().any(|(plant, _)| plant == name);
        if let Some(unknown) = self.plant.iter().find(|name| !known(name)) {
            let names: Vec<_> = PLANTS.iter().map(|(name, _)| *name).collect();
            bail!("no bug is called {unknown}, but {}", names.join(", "));
        }
        let module = module(&self.machine.kernel.prepare()?)?;
        if self.planted {
            match self.one(tester, &module, "none")? {
                Verdict::Missed => println!("none (as a control): no difference"),
                other => bail!("nothing was planted, but {other}"),
            }
        }
        let mut table = format!("{:8} {:>8} {:>10}\n", "plant", "seconds", "sequences");
        let mut missed = 0u32;
        for (name, what) in PLANTS {
            if !self.planted && !self.plant.iter().any(|plant| plant == name) {
                continue;
            }
            let verdict = self.one(tester, &module, name)?;
            println!("{name} ({what}): {verdict}");
            table += &match &verdict {
                Verdict::Found(found) => {
                    format!("{name:8} {:>8} {:>10}\n", found.seconds, found.sequences)
                }
                _ => format!("{name:8} not found\n"),
            };
            missed += u32::from(!matches!(verdict, Verdict::Found(_)));
        }
        print!("\n{table}");
        println!("{missed} missed");
        Ok(i32::from(missed > 0))
    }

    /// Whether the tester noticed, and what it said.
    fn one(&self, tester: &Path, module: &Path, name: &str) -> Result<Verdict> {
        let mut argv = self.argv(tester)?;
        argv.extend(["--differences=1", "--stray=2048"].map(str::to_owned));
        if self.planted {
            argv.push("--shrink=0".into());
        }
        let insert = format!(
            "insmod {} plant={name} && exec {}",
            module.display(),
            argv.join(" ")
        );
        let mut machine = self.machine.clone();
        machine.no_module = true;
        machine.ignore_dmesg = true;
        machine.quiet = true;
        machine.timeout = (self.minutes * 60.0) as u64 + 120;
        let mut found = None;
        let alone = !self.planted;
        let mut tap = |line: &str| {
            if alone {
                println!("{line}");
            }
            if found.is_none() {
                found = Found::parse(line);
            }
        };
        let command = ["sh", "-c", &insert].map(str::to_owned);
        let ended = machine.run_in(&command, paths::workspace(), Some(&mut tap))?;
        Ok(match (found, ended.status) {
            (Some(found), _) => Verdict::Found(found),
            (None, 0) => Verdict::Missed,
            // Says nothing of what differed, and a loaded machine may do it by itself.
            (None, status) => Verdict::Unclear(status),
        })
    }
}

enum Verdict {
    Found(Found),
    Missed,
    Unclear(i32),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found(found) => write!(f, "found {}", found.text),
            Self::Missed => write!(f, "no difference: MISSED"),
            Self::Unclear(status) => write!(f, "NO VERDICT: the machine ended with {status}"),
        }
    }
}

/// The tester's line about its first difference.
struct Found {
    seconds: String,
    sequences: String,
    text: String,
}

impl Found {
    fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix("fuzz: difference ")?;
        let (seconds, rest) = text.split_once("after ")?.1.split_once(" s and ")?;
        let (sequences, _) = rest.split_once(" sequences")?;
        Some(Self {
            seconds: seconds.to_owned(),
            sequences: sequences.to_owned(),
            text: text.to_owned(),
        })
    }
}

/// Shares its directory with the soak's.
fn tester() -> Result<PathBuf> {
    let target = paths::workspace().join("target/soak");
    build::tester("ktlsshim-fuzz", &target)?;
    Ok(target.join("release/fuzz"))
}

/// The module with the bugs, in a place of its own.
fn module(kernel: &Prepared) -> Result<PathBuf> {
    let work = kernel.dir.join("kmod-planted");
    let _lock = host::lock(&format!("kmod-planted-{}", kernel.name))?;
    kernel::link_sources(&paths::kmod_sources(), &work)?;
    let mut make = kernel.make(&work)?;
    host::run_quiet(make.args(["KCFLAGS=-DALG_TLS_PLANTED", "modules"]))
        .context("kmod/ does not build with its bugs")?;
    Ok(work.join("algif_tls.ko"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn what_the_tester_says_is_understood() {
        let line =
            "fuzz: difference (seed 7, after 3.6 s and 47 sequences), step 4: EIO after 9 s and 2";
        let found = super::Found::parse(line).unwrap();
        assert_eq!((&*found.seconds, &*found.sequences), ("3.6", "47"));
        assert!(super::Found::parse("fuzz: 11 s, 17 sequences, 1 differences here").is_none());
    }

    #[test]
    fn the_module_has_the_bugs_that_are_named_here() {
        let mut there = BTreeSet::new();
        for entry in std::fs::read_dir(crate::paths::kmod_sources()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "c") {
                let text = std::fs::read_to_string(&path).unwrap();
                let parts = text.split("alg_tls_planted(\"").skip(1);
                there.extend(parts.map(|p| p.split('"').next().unwrap().to_owned()));
            }
        }
        let here: BTreeSet<_> = super::PLANTS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert_eq!(here, there);
    }
}
