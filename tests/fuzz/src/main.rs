// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fuzz`: runs random sequences until the time is up. `cargo xtask fuzz` starts it in the virtual machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use ktlsshim_fuzz::campaign::{self, Options};
use ktlsshim_fuzz::generate;
use ktlsshim_fuzz::program::Program;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Stop after so many sequences
    #[arg(long, default_value_t = u64::MAX)]
    sequences: u64,
    /// The first seed; sequences have consecutive ones
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// Run this sequence (as a report prints it) instead of random ones
    #[arg(long)]
    replay: Option<PathBuf>,
    /// How often
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Print the sequence of --seed and end
    #[arg(long)]
    print: bool,
    /// Seconds for shrinking each difference
    #[arg(long, default_value_t = 20)]
    shrink: u64,
    /// Stop after so many differences
    #[arg(long, default_value_t = 5)]
    differences: u64,
    /// KiB of memory that may be missing
    #[arg(long, default_value_t = 24 << 10)]
    stray: i64,
    /// Percent of the module's allocations and user copies that fail (debug kernel)
    #[arg(long, default_value_t = 0)]
    faults: u32,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |d| d.as_secs() * 1_000_000)
    });
    if cli.print {
        print!("{}", generate::program(seed).text());
        return Ok(());
    }
    if let Some(path) = &cli.replay {
        let program = Program::parse(&std::fs::read_to_string(path)?)?;
        campaign::settle_in();
        let mut differs = false;
        for _ in 0..cli.times {
            let (difference, _) = campaign::replay(&program, cli.faults)?;
            differs |= difference.is_some();
            match difference {
                Some(d) => println!("step {}: {}", d.step, d.what),
                None => println!("no difference"),
            }
        }
        std::process::exit(i32::from(differs));
    }
    println!("fuzz: seed {seed}, {} workers", cli.workers);
    let started = Instant::now();
    let options = Options {
        seed,
        until: started + Duration::from_secs_f64(cli.minutes * 60.0),
        sequences: cli.sequences,
        // The faults' settings are the machine's.
        workers: if cli.faults > 0 { 1 } else { cli.workers },
        differences: cli.differences,
        shrink_for: Duration::from_secs(cli.shrink),
        stray: cli.stray,
        progress: true,
        faults: cli.faults,
    };
    let (tally, found) = campaign::campaign(&options)?;
    found.iter().for_each(|f| println!("{}", f.text()));
    print!("{}", tally.table());
    println!("{:>12.0} seconds", started.elapsed().as_secs_f64());
    if tally.sealed == 0 || tally.opened == 0 {
        println!("fuzz: no record crossed: nothing was shown");
        std::process::exit(1);
    }
    std::process::exit(i32::from(!found.is_empty()));
}
