// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop: make a program, run it in all lanes, compare, judge the wire, count.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::counters::Counters;
use crate::endpoint::{Endpoint, Launch};
use crate::generate::{self, Without};
use crate::program::Program;
use crate::run::{self, How, Lane};
use crate::tally::{Carried, LANES, Tally};
use crate::{oracle, shrink};

#[derive(Clone)]
pub struct Options {
    pub endpoint: Vec<String>,
    pub shim: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    pub without: Without,
    pub patience: Duration,
    pub shrink_for: Duration,
    /// Distinguishes the files of several workers.
    pub worker: usize,
}

/// A program that did not do the same in two lanes.
pub struct Difference {
    pub program: Program,
    pub lane: usize,
    pub what: String,
    pub transcripts: Transcripts,
}

impl Difference {
    pub fn text(&self) -> String {
        let mut text = format!(
            "lane {}: {}\n{}",
            LANES[self.lane],
            self.what,
            self.program.text()
        );
        let [plain, other] = &self.transcripts;
        for i in 0..plain.len().max(other.len()) {
            let (a, b) = (plain.get(i), other.get(i));
            let line = |l: Option<&(usize, String)>| {
                l.map_or("(nothing)".into(), |(n, t)| format!("{n:>3} {t}"))
            };
            if a == b {
                text += &format!("  {}\n", line(a));
            } else {
                text += &format!("- {}\n+ {}\n", line(a), line(b));
            }
        }
        text
    }
}

/// Four processes: client and server, plain and shimmed.
pub struct Soak {
    options: Options,
    ends: [[Endpoint; 2]; 2],
    counters: Counters,
    dir: PathBuf,
}

/// What both ends said, step by step.
pub type Transcripts = [Vec<(usize, String)>; 2];

/// What one program came to.
pub struct Outcome {
    pub tally: Tally,
    pub differences: Vec<(usize, String, Transcripts)>,
}

impl Soak {
    /// With a shim this thread moves into a network namespace, so that the kernel counts for
    /// this one alone.
    pub fn new(options: Options) -> Result<Soak> {
        let counters = match options.shim {
            Some(_) => Counters::isolate()?,
            None => Counters::none(),
        };
        let dir =
            std::env::temp_dir().join(format!("soak-{}-{}", std::process::id(), options.worker));
        std::fs::create_dir_all(&dir)?;
        let (cert, key) = (dir.join("cert"), dir.join("key"));
        let made = std::process::Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=soak".split(' '))
            .arg("-out")
            .arg(&cert)
            .arg("-keyout")
            .arg(&key)
            .output()
            .context("openssl")?;
        if !made.status.success() {
            bail!("openssl req: {}", String::from_utf8_lossy(&made.stderr));
        }
        let start = |shimmed: bool, name: &str| {
            Endpoint::start(&Launch {
                command: options.endpoint.clone(),
                cert: cert.clone(),
                key: key.clone(),
                shim: options.shim.clone().filter(|_| shimmed),
                log: options
                    .shim
                    .is_some()
                    .then(|| dir.join(format!("{name}.log")))
                    .filter(|_| shimmed),
                env: options.env.clone(),
            })
        };
        let ends = [
            [start(false, "c0")?, start(false, "s0")?],
            [start(true, "c1")?, start(true, "s1")?],
        ];
        Ok(Soak {
            options,
            ends,
            counters,
            dir,
        })
    }

    pub fn library(&self) -> &str {
        &self.ends[1][0].library
    }

    fn lane(&mut self, program: &Program, lane: usize, plain: Option<&Lane>) -> Lane {
        let (client, server) = (lane & 1, lane >> 1);
        let [[c0, s0], [c1, s1]] = &mut self.ends;
        let c = if client == 1 { c1 } else { c0 };
        let s = if server == 1 { s1 } else { s0 };
        // Without a shim there is nothing to count, and reading it is dear.
        let mut nothing = Counters::none();
        let counters = match lane {
            0 => &mut nothing,
            _ => &mut self.counters,
        };
        let without = |name| self.options.without.has(name);
        let how = How {
            careful: without("S2"),
            empty: without("S4"),
            plain,
        };
        let mut run = run::run(program, c, s, self.options.patience, how, counters);
        if self.options.without.has("S1") {
            run.transcript
                .iter_mut()
                .for_each(|(_, answer)| without_want(answer));
        }
        run
    }

    /// Runs the program in all lanes.
    pub fn try_program(&mut self, program: &Program) -> Outcome {
        let mut outcome = Outcome {
            tally: Tally::default(),
            differences: Vec::new(),
        };
        let tally = &mut outcome.tally;
        tally.programs = 1;
        let mut in_kernel = true;
        let plain = self.lane(program, 0, None);
        for lane in 0..4 {
            let fresh;
            let run = if lane == 0 {
                &plain
            } else {
                fresh = self.lane(program, lane, Some(&plain));
                &fresh
            };
            tally.lanes += 1;
            for (_, answer) in &run.transcript {
                tally.operation(answer, lane);
            }
            tally.granted += run.granted as u64;
            if lane != 0 {
                for (side, log) in run.logs.iter().enumerate() {
                    let carried = Carried::read(log, &mut tally.reasons);
                    if lane >> side & 1 == 1 {
                        in_kernel &= carried.fast_records > 0;
                    }
                    tally.carried.add(&carried);
                }
                in_kernel &= tally.kernel(lane, &run.deeds) || self.options.shim.is_none();
            }
            let mut what = None;
            if !same(&run.transcript, &plain.transcript) {
                let at = run
                    .transcript
                    .iter()
                    .zip(&plain.transcript)
                    .position(|(a, b)| !is_same(a, b));
                let at = at.unwrap_or(run.transcript.len().min(plain.transcript.len()));
                let first = run
                    .transcript
                    .get(at)
                    .or(plain.transcript.get(at))
                    .map_or(0, |l| l.0);
                what = Some(format!("differs from plain in step {first}"));
            } else if lane == 0 {
                what = run
                    .trouble
                    .as_ref()
                    .map(|t| format!("trouble without the shim: {t}"));
            }
            if run.trouble.is_none() {
                match oracle::judge_parts(&run.captured, &run.cuts, &run.keylog) {
                    Ok(seen) => {
                        for (side, seen) in seen.iter().enumerate() {
                            tally.wire_records += seen.records;
                            tally.wire_updates += seen.key_updates;
                            tally.wire_handshakes += seen.handshakes;
                            for (name, n) in &seen.control {
                                tally.control(name, lane, side, *n);
                            }
                            if seen.tail > 0 && !run.cut_off[side] && what.is_none() {
                                what = Some(format!("wire: side {side} ends inside a record"));
                            }
                        }
                    }
                    Err(e) => what = what.or(Some(format!("wire: {e}"))),
                }
            }
            if let Some(what) = what {
                outcome.differences.push((
                    lane,
                    what,
                    [plain.transcript.clone(), run.transcript.clone()],
                ));
            }
        }
        tally.differences = outcome.differences.len() as u64;
        tally.counted = u64::from(in_kernel);
        outcome
    }

    /// The first difference that a program shows in one lane.
    pub fn differs(&mut self, program: &Program, lane: usize) -> Option<(String, Transcripts)> {
        let plain = self.lane(program, 0, None);
        let run = self.lane(program, lane, Some(&plain));
        if plain.trouble.is_some() && lane != 0 {
            return None;
        }
        let both = [plain.transcript, run.transcript];
        if !same(&both[0], &both[1]) {
            return Some(("differs from plain".into(), both));
        }
        if let Err(e) = oracle::judge_parts(&run.captured, &run.cuts, &run.keylog) {
            return Some((format!("wire: {e}"), both));
        }
        None
    }

    /// Makes a difference as small as the time allows.
    pub fn shrink(
        &mut self,
        program: &Program,
        lane: usize,
        what: &str,
        transcripts: Transcripts,
    ) -> Difference {
        let until = Instant::now() + self.options.shrink_for;
        let patience = std::mem::replace(&mut self.options.patience, Duration::from_secs(3));
        let mut last = (what.to_owned(), transcripts);
        let small = shrink::shrink(
            program,
            || Instant::now() < until,
            |candidate| match self.differs(candidate, lane) {
                Some(found) => {
                    last = found;
                    true
                }
                None => false,
            },
        );
        self.options.patience = patience;
        Difference {
            program: small,
            lane,
            what: last.0,
            transcripts: last.1,
        }
    }

    pub fn make(&self, seed: u64) -> Program {
        generate::program(seed, &self.options.without)
    }
}

/// The same answers. What only one of two tells, since the wire was not at rest in time where the other
/// was made, says nothing.
fn same(one: &[(usize, String)], other: &[(usize, String)]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
}

fn is_same(one: &(usize, String), other: &(usize, String)) -> bool {
    let [a, b] = [&one.1, &other.1].map(|answer| match answer.split_once(" want=") {
        Some((short, rest)) => (short, Some(rest)),
        None => (answer.as_str(), None),
    });
    let only_one_tells = a.1.is_some() != b.1.is_some();
    one.0 == other.0 && a.0 == b.0 && (only_one_tells || a.1 == b.1)
}

/// SSL_want after calls that move nothing is a deviation that is known ("S1").
fn without_want(answer: &mut String) {
    let name = answer.split(' ').nth(1).unwrap_or_default();
    let moves = ["=r", "=rn", "=pk", "=w", "=wgo", "=wpark", "=sf", "=hs"].contains(&name);
    if let (false, Some(at)) = (moves, answer.find(" want=")) {
        let end = answer[at + 1..]
            .find(' ')
            .map_or(answer.len(), |n| at + 1 + n);
        answer.replace_range(at..end, "");
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
