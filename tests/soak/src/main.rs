// SPDX-License-Identifier: MIT OR Apache-2.0
//! `soak`: runs random programs until the time is up. `cargo xtask soak` starts it in the virtual
//! machine; by hand, on any machine, `soak --plain` compares plain with plain, which must be equal.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use ktlsshim_soak::generate::Without;
use ktlsshim_soak::program::Program;
use ktlsshim_soak::soak::{Options, Soak};
use ktlsshim_soak::tally::Tally;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Go on until so many programs count ...
    #[arg(long, default_value_t = 0)]
    counted: u64,
    /// ... and each lane transition was seen so often; a run that ends without has failed
    #[arg(long, default_value_t = 0)]
    each: u64,
    /// But not for longer than this; 0 is as long as --minutes
    #[arg(long, default_value_t = 0.0)]
    most_minutes: f64,
    /// Stop after so many programs
    #[arg(long)]
    programs: Option<u64>,
    /// The first seed; programs have consecutive ones
    #[arg(long)]
    seed: Option<u64>,
    /// No shim anywhere: tests the tester
    #[arg(long)]
    plain: bool,
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Run this program (as a report prints it) instead of random ones
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Print the program of --seed and end
    #[arg(long)]
    print: bool,
    /// Leave out, by name (see generate.rs)
    #[arg(long)]
    without: Vec<String>,
    /// The endpoint, with whatever must come before it
    #[arg(long, env = "KTLSSHIM_SOAK_COMMAND")]
    endpoint: Option<String>,
    /// Seconds before an operation counts as hung
    #[arg(long, default_value_t = 20)]
    patience: u64,
    /// Seconds for shrinking each difference
    #[arg(long, default_value_t = 30)]
    shrink: u64,
    /// Stop after so many differences
    #[arg(long, default_value_t = 10)]
    differences: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let shim = match cli.plain {
        true => None,
        false => Some(PathBuf::from(
            std::env::var_os("KTLSSHIM").context("KTLSSHIM names the shim; or --plain")?,
        )),
    };
    let endpoint = cli
        .endpoint
        .clone()
        .unwrap_or_else(|| env!("KTLSSHIM_SOAK_ENDPOINT").to_owned());
    let options = Options {
        endpoint: endpoint.split(' ').map(str::to_owned).collect(),
        shim,
        env: Vec::new(),
        without: Without(cli.without.clone()),
        patience: Duration::from_secs(cli.patience),
        shrink_for: Duration::from_secs(cli.shrink),
        worker: 0,
    };
    if let Some(path) = &cli.replay {
        return replay(&options, &std::fs::read_to_string(path)?);
    }
    let seed = cli.seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |d| d.as_secs() * 1_000_000)
    });
    if cli.print {
        print!(
            "{}",
            ktlsshim_soak::generate::program(seed, &options.without).text()
        );
        return Ok(());
    }
    println!("soak: seed {seed}, {} workers", cli.workers);
    let started = Instant::now();
    let after = |minutes: f64| started + Duration::from_secs_f64(minutes * 60.0);
    let times = [after(cli.minutes), after(cli.minutes.max(cli.most_minutes))];
    let next = std::sync::atomic::AtomicU64::new(0);
    let total = std::sync::Mutex::new(Tally::default());
    std::thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for worker in 0..cli.workers {
            let (options, next, total, cli) = (
                Options {
                    worker,
                    ..options.clone()
                },
                &next,
                &total,
                &cli,
            );
            workers.push(scope.spawn(move || work(options, cli, seed, times, next, total)));
        }
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    let total = total
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    print!("{}", total.table());
    let seconds = started.elapsed().as_secs_f64();
    println!("{seconds:>12.0} seconds");
    let mut fault = total.differences > 0;
    if total.programs == 0 || (!cli.plain && total.counted == 0) {
        println!("soak: no program counts: nothing was shown");
        fault = true;
    }
    if total.counted < cli.counted {
        println!(
            "soak: {} programs count, not {}",
            total.counted, cli.counted
        );
        fault = true;
    }
    for rare in total.rare(cli.each) {
        println!("soak: fewer than {}: {rare}", cli.each);
        fault = true;
    }
    println!("{SUMMARY}{}", total.summary(seconds));
    std::process::exit(i32::from(fault));
}

/// What a machine reads: the rest of the line is JSON.
const SUMMARY: &str = "soak-summary ";

fn work(
    options: Options,
    cli: &Cli,
    seed: u64,
    [least, most]: [Instant; 2],
    next: &std::sync::atomic::AtomicU64,
    total: &std::sync::Mutex<Tally>,
) -> Result<()> {
    use std::sync::atomic::Ordering;
    let mut soak = Soak::new(options)?;
    if cli.workers == 1 || soak.library().is_empty() {
        println!("soak: {}", soak.library());
    }
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let enough = now > least
            && (now > most
                || total.lock().is_ok_and(|total| {
                    total.counted >= cli.counted && total.rare(cli.each).is_empty()
                }));
        if cli.programs.is_some_and(|most| n >= most) || enough {
            return Ok(());
        }
        let program = soak.make(seed + n);
        let outcome = soak.try_program(&program);
        let (differences, programs) = {
            let Ok(mut total) = total.lock() else {
                return Ok(());
            };
            total.add(&outcome.tally);
            (total.differences, total.programs)
        };
        if programs % 25 == 0 {
            println!("soak: {programs} programs, {differences} differences");
        }
        if let Some((lane, what, transcripts)) = outcome.differences.into_iter().next() {
            println!("soak: seed {} differs, shrinking: {what}", seed + n);
            let found = soak.shrink(&program, lane, &what, transcripts);
            println!("---- seed {} ----\n{}----", seed + n, found.text());
            if differences >= cli.differences {
                return Ok(());
            }
        }
    }
}

fn replay(options: &Options, text: &str) -> Result<()> {
    let program = Program::parse(text)?;
    let mut soak = Soak::new(options.clone())?;
    let outcome = soak.try_program(&program);
    for (lane, what, transcripts) in &outcome.differences {
        let difference = ktlsshim_soak::soak::Difference {
            program: program.clone(),
            lane: *lane,
            what: what.clone(),
            transcripts: transcripts.clone(),
        };
        println!("{}", difference.text());
    }
    print!("{}", outcome.tally.table());
    std::process::exit(i32::from(!outcome.differences.is_empty()));
}
