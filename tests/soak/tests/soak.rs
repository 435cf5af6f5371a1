// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short soak of every test run: random programs for less than a minute, no difference, and the
//! kernel must have carried records in all shimmed lanes of most of them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ktlsshim_soak::generate::Without;
use ktlsshim_soak::soak::{Difference, Options, Soak};
use ktlsshim_soak::tally::Tally;

fn soak(shim: Option<PathBuf>) -> Soak {
    Soak::new(Options {
        endpoint: vec![env!("KTLSSHIM_SOAK_ENDPOINT").to_owned()],
        shim,
        env: Vec::new(),
        // Another handshake on the same object is still a step of the tester's that can hang by itself,
        // without any shim; `cargo xtask soak` makes it, and shows it.
        without: Without(vec!["again".to_owned()]),
        patience: Duration::from_secs(30),
        shrink_for: Duration::from_secs(60),
        worker: 0,
    })
    .expect("endpoints")
}

/// So many programs, of the seeds from 1 on, or as many as there is time for: every machine runs the
/// same ones. The first difference, made small, if any.
fn run(soak: &mut Soak, programs: u64, time: Duration) -> (Tally, Option<Difference>) {
    let mut tally = Tally::default();
    let until = Instant::now() + time;
    for seed in 1..=programs {
        let program = soak.make(seed);
        let outcome = soak.try_program(&program);
        tally.add(&outcome.tally);
        if let Some((lane, what, transcripts)) = outcome.differences.into_iter().next() {
            return (tally, Some(soak.shrink(&program, lane, &what, transcripts)));
        }
        if Instant::now() > until {
            break;
        }
    }
    (tally, None)
}

#[test]
fn a_short_soak_shows_no_difference() {
    assert!(
        std::env::var_os("KTLSSHIM_VM").is_some(),
        "run me by `cargo xtask test`: this needs the virtual machine"
    );
    let shim = PathBuf::from(std::env::var_os("KTLSSHIM").expect("KTLSSHIM names the shim"));
    let (tally, difference) = run(&mut soak(Some(shim)), 40, Duration::from_secs(90));
    println!("{}", tally.table());
    if let Some(difference) = difference {
        panic!("{}", difference.text());
    }
    assert!(tally.programs > 0);
    assert!(
        tally.counted * 2 > tally.programs,
        "the kernel carried {} of {} programs",
        tally.counted,
        tally.programs
    );
}

/// Without any shim all lanes are the same thing: what differs then is the tester's fault.
#[test]
fn plain_equals_plain() {
    let (tally, difference) = run(&mut soak(None), 4, Duration::from_secs(20));
    if let Some(difference) = difference {
        panic!("{}", difference.text());
    }
    assert!(tally.wire_records > 0);
}
