// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does the soak find a shim that is wrong? Random programs against one that commits a named fault
//! (`src/planted.rs` of the shim), until one differs.
//!
//! Both ends have the shim, so that each fault has twice the chance, and each program runs in that lane
//! and in the plain one only.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::endpoint;
use crate::generate::Without;
use crate::program::Program;
use crate::soak::{Options, Soak, Transcripts};

/// How many programs at most, and how long.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub programs: u64,
    pub time: Duration,
}

#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    /// What the oracle says of the wire, or "differs from plain".
    pub what: String,
    /// The first answers that differ: without and with the shim.
    pub answers: [String; 2],
}

pub struct Hunt {
    pub programs: u64,
    pub seconds: f64,
    pub found: Option<Found>,
}

const BOTH: usize = 3;

fn first_difference([plain, other]: &Transcripts) -> [String; 2] {
    let at = (0..plain.len().max(other.len())).find(|at| plain.get(*at) != other.get(*at));
    let line = |of: &[(usize, String)]| {
        let found = at.and_then(|at| of.get(at));
        found.map_or("(nothing)".into(), |(step, text)| format!("{step} {text}"))
    };
    [line(plain), line(other)]
}

fn start(shim: &Path, plant: Option<&str>, worker: usize) -> Result<Soak> {
    let plant = plant.map(|name| ("KTLSSHIM_PLANT".to_owned(), name.to_owned()));
    Soak::new(Options {
        endpoint: vec![endpoint::PROGRAM.to_owned()],
        shim: Some(PathBuf::from(shim)),
        env: plant.into_iter().collect(),
        without: Without::default(),
        // An end that hangs is a difference too.
        patience: Duration::from_secs(6),
        shrink_for: Duration::ZERO,
        worker,
    })
}

/// Makes of a random program one in which a rare state is common.
pub type Shape = fn(&mut Program);

/// Programs of the seeds from 1 on, two at a time.
pub fn hunt(
    shim: &Path,
    plant: Option<&str>,
    bounds: Bounds,
    shape: Option<Shape>,
) -> Result<Hunt> {
    let started = Instant::now();
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(None);
    let work = |worker: usize| -> Result<u64> {
        let mut soak = start(shim, plant, worker)?;
        let mut sound = None;
        let mut programs = 0;
        while !done.load(Ordering::Relaxed) && started.elapsed() < bounds.time {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= bounds.programs {
                break;
            }
            let mut program = soak.make(1 + n);
            if let Some(shape) = shape {
                shape(&mut program);
            }
            programs += 1;
            if let Some((what, transcripts)) = soak.differs(&program, BOTH) {
                if plant.is_some() {
                    if sound.is_none() {
                        sound = Some(start(shim, None, worker + 2)?);
                    }
                    // What differs without the fault too shows nothing of it.
                    if sound
                        .as_mut()
                        .is_some_and(|s| s.differs(&program, BOTH).is_some())
                    {
                        println!("(seed {} differs without the fault too)", 1 + n);
                        continue;
                    }
                }
                done.store(true, Ordering::Relaxed);
                let new = Found {
                    seed: 1 + n,
                    what,
                    answers: first_difference(&transcripts),
                };
                found
                    .lock()
                    .map_err(|_| anyhow!("a worker panicked"))?
                    .get_or_insert(new);
            }
        }
        Ok(programs)
    };
    let programs = std::thread::scope(|scope| {
        let workers = [0, 1].map(|n| scope.spawn(move || work(n)));
        let join = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
        join.sum::<Result<u64>>()
    })?;
    Ok(Hunt {
        programs,
        seconds: started.elapsed().as_secs_f64(),
        found: found
            .into_inner()
            .map_err(|_| anyhow!("a worker panicked"))?,
    })
}
