// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sequences until the time is up, in one network namespace per worker. A difference is shrunk and
//! becomes text that `--replay` reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use ktlsshim_tests::net;

use crate::generate;
use crate::health::{KernelLog, left_pinned, stray_kib};
use crate::hurt::Hurt;
use crate::program::Program;
use crate::run::{Difference, run};
use crate::shrink::{kind, shrink};
use crate::tally::Tally;
use crate::world::Source;

#[derive(Clone)]
pub struct Options {
    pub seed: u64,
    pub until: Instant,
    pub sequences: u64,
    pub workers: u64,
    /// End after so many differences
    pub differences: u64,
    pub shrink_for: Duration,
    /// KiB that may be missing at the end
    pub stray: i64,
    pub progress: bool,
    /// Percent of allocations and copies that fail
    pub faults: u32,
}

#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    pub what: String,
    pub program: String,
    pub after: Duration,
    pub sequences: u64,
}

/// So many sequences of one worker fill the kernel's caches (measured: 10 MiB); what grows from there on
/// is lost.
const SETTLED: u64 = 320;

/// The worker's own namespace: its counters, and receive buffers that hold what the model lets lie.
pub fn settle_in() {
    net::new_namespace();
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 1048576 6291456");
}

pub fn replay(program: &Program, faults: u32) -> Result<(Option<Difference>, Tally)> {
    let mut source = Source::new("replay")?;
    source.hurt = (faults > 0).then(|| Hurt::new(faults));
    let mut tally = Tally::default();
    let mut log = KernelLog::open();
    let mut difference = run(program, &source, &mut tally);
    if let Some(line) = log.complaint() {
        difference = Some(complaint(program, line));
    }
    Ok((difference, tally))
}

fn complaint(program: &Program, line: String) -> Difference {
    Difference {
        step: program.steps.len(),
        what: format!("the kernel complained: {line}"),
    }
}

pub fn campaign(options: &Options) -> Result<(Tally, Vec<Found>)> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let mut total = Tally::default();
    let mut all = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..options.workers)
            .map(|id| {
                let (next, stop) = (&next, &stop);
                scope.spawn(move || work(options, id, next, stop, started))
            })
            .collect();
        for worker in workers {
            let (tally, found) = worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            total.add(&tally);
            all.extend(found);
        }
        Ok(())
    })?;
    Ok((total, all))
}

fn work(
    options: &Options,
    id: u64,
    next: &AtomicU64,
    stop: &AtomicBool,
    started: Instant,
) -> Result<(Tally, Vec<Found>)> {
    settle_in();
    let mut source = Source::new(&id.to_string())?;
    source.hurt = (options.faults > 0).then(|| Hurt::new(options.faults));
    let mut tally = Tally::default();
    let mut found = Vec::new();
    let mut log = KernelLog::open();
    let mut told = Instant::now();
    let mut base = None;
    while Instant::now() < options.until && !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.sequences {
            break;
        }
        let seed = options.seed + number;
        let program = generate::program(seed);
        let mut difference = run(&program, &source, &mut tally);
        tally.sequences += 1;
        if difference.is_none()
            && let Some(line) = log.complaint()
        {
            difference = Some(complaint(&program, line));
        }
        if id == 0 && tally.sequences.is_multiple_of(8) && difference.is_none() {
            let pages = left_pinned();
            if pages > 0 {
                difference = Some(Difference {
                    step: program.steps.len(),
                    what: format!("{pages} pages are pinned after {number} sequences"),
                });
                stop.store(true, Ordering::Relaxed);
            }
        }
        if id == 0 && tally.sequences.is_multiple_of(64) && tally.sequences >= SETTLED {
            let now = stray_kib();
            let base = *base.get_or_insert(now);
            if now - base > options.stray && difference.is_none() {
                difference = Some(Difference {
                    step: program.steps.len(),
                    what: format!(
                        "{} KiB of memory are nobody's after {number} sequences",
                        now - base
                    ),
                });
                stop.store(true, Ordering::Relaxed);
            }
        }
        if let Some(d) = difference {
            tally.differences += 1;
            found.push(report(
                options, seed, &program, d, &source, &mut log, started, number,
            ));
            if tally.differences >= options.differences {
                stop.store(true, Ordering::Relaxed);
            }
        }
        if options.progress && id == 0 && told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let seconds = started.elapsed().as_secs();
            println!(
                "fuzz: {seconds} s, {} sequences, {} differences here",
                number + 1,
                tally.differences
            );
        }
    }
    tally.hits = source.hurt.as_ref().map_or(0, Hurt::hits);
    Ok((tally, found))
}

#[allow(clippy::too_many_arguments)]
fn report(
    options: &Options,
    seed: u64,
    program: &Program,
    d: Difference,
    source: &Source,
    log: &mut KernelLog,
    started: Instant,
    number: u64,
) -> Found {
    let after = started.elapsed();
    // At once: what follows may take long, or kill the machine.
    println!(
        "fuzz: difference (seed {seed}, after {:.1} s and {} sequences), step {}: {}",
        after.as_secs_f64(),
        number + 1,
        d.step,
        d.what
    );
    let mut cut = program.clone();
    cut.steps.truncate(d.step + 1);
    let until = Instant::now() + options.shrink_for;
    let mut what = d.what.clone();
    let mut scratch = Tally::default();
    let small = shrink(
        &cut,
        || Instant::now() < until,
        |candidate| {
            let result = run(candidate, source, &mut scratch)
                .or_else(|| log.complaint().map(|line| complaint(candidate, line)));
            match result {
                Some(other) if kind(&other.what) == kind(&d.what) => {
                    what = other.what;
                    true
                }
                _ => false,
            }
        },
    );
    Found {
        seed,
        what,
        program: small.text(),
        after,
        sequences: number + 1,
    }
}

impl Found {
    pub fn text(&self) -> String {
        format!(
            "difference (seed {}, after {:.1} s and {} sequences): {}\n{}",
            self.seed,
            self.after.as_secs_f64(),
            self.sequences,
            self.what,
            self.program
        )
    }
}
