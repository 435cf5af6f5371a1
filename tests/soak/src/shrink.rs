// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a failing program small: takes steps away, in runs and one by one, then makes the set-up
//! plain, as long as it still fails.

use crate::program::{Deed, End, Io, Op, Program, Step};

fn plain(end: &End) -> Vec<End> {
    let mut simpler = Vec::new();
    let mut with = |change: &dyn Fn(&mut End)| {
        let mut other = end.clone();
        change(&mut other);
        if other != *end {
            simpler.push(other);
        }
    };
    with(&|e| e.io = Io::Socket);
    with(&|e| e.modes = 4);
    with(&|e| (e.nonblocking, e.timeout) = (true, 0));
    with(&|e| e.use_ex = false);
    with(&|e| e.read_ahead = false);
    with(&|e| e.max_fragment = 0);
    with(&|e| e.send_buffer = 131_072);
    with(&|e| e.receive_buffer = 4 << 20);
    simpler
}

fn smaller(step: &Step) -> Vec<Step> {
    let sizes = |n: u32| [1, 100, n / 2].into_iter().filter(move |m| *m < n);
    match step {
        Step::Do(side, Op::Write(n)) => sizes(*n).map(|m| Step::Do(*side, Op::Write(m))).collect(),
        Step::Do(side, Op::SendFile(n)) => sizes(*n)
            .map(|m| Step::Do(*side, Op::SendFile(m)))
            .collect(),
        Step::Together(deeds) => {
            let mut all = Vec::new();
            for side in 0..2 {
                for i in 0..deeds[side].len() {
                    let mut fewer = deeds.clone();
                    fewer[side].remove(i);
                    all.push(Step::Together(fewer));
                    if let Deed::Write(n) = deeds[side][i] {
                        let mut less = deeds.clone();
                        less[side][i] = Deed::Write(n / 2);
                        if n > 0 {
                            all.push(Step::Together(less));
                        }
                    }
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

/// `fails` runs a candidate. `more` says whether there is time for another.
pub fn shrink(
    program: &Program,
    mut more: impl FnMut() -> bool,
    mut fails: impl FnMut(&Program) -> bool,
) -> Program {
    let mut best = program.clone();
    let mut size = best.steps.len() / 2;
    while size >= 1 {
        let mut at = 0;
        while at < best.steps.len() {
            if !more() {
                return best;
            }
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + size).min(best.steps.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    for side in 0..2 {
        for simpler in plain(&best.setup.ends[side].clone()) {
            let mut other = best.clone();
            // One property at a time, on top of those that were plain already.
            let keep = best.setup.ends[side].clone();
            other.setup.ends[side] = merge(&keep, &program.setup.ends[side], &simpler);
            if other != best && more() && fails(&other) {
                best = other;
            }
        }
    }
    loop {
        let mut moved = false;
        for i in 0..best.steps.len() {
            for step in smaller(&best.steps[i]) {
                let mut other = best.clone();
                other.steps[i] = step;
                if !more() {
                    return best;
                }
                if fails(&other) {
                    best = other;
                    moved = true;
                    break;
                }
            }
        }
        if !moved {
            return best;
        }
    }
}

/// `current` with the one property in which `simpler` is not `original`.
fn merge(current: &End, original: &End, simpler: &End) -> End {
    macro_rules! take {
        ($($field:ident),*) => {
            End { $($field: if simpler.$field != original.$field { simpler.$field } else { current.$field }),* }
        };
    }
    take!(
        io,
        modes,
        nonblocking,
        timeout,
        use_ex,
        read_ahead,
        max_fragment,
        send_buffer,
        receive_buffer
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Without, program};
    use crate::program::Side;

    #[test]
    fn finds_the_one_step_that_matters() {
        let mut whole = program(3, &Without::default());
        whole.steps.insert(5, Step::Do(Side::Server, Op::Ticket));
        let small = shrink(
            &whole,
            || true,
            |p| p.steps.contains(&Step::Do(Side::Server, Op::Ticket)),
        );
        assert_eq!(small.steps, [Step::Do(Side::Server, Op::Ticket)]);
    }
}
