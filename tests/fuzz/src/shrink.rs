// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a failing sequence small: takes steps away, in runs and one by one, then makes numbers and the
//! set-up plain, as long as the same difference remains.

use crate::program::{Damage, PeerDo, Program, Setup, Step};

/// The same difference: the text without its numbers.
pub fn kind(what: &str) -> String {
    let head: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
    // What was returned matters, how many bytes of it does not.
    head.split('[')
        .next()
        .unwrap_or("")
        .chars()
        .take(60)
        .collect()
}

fn smaller(step: &Step) -> Vec<Step> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Step, u32), n: u32| {
        for less in [1, 10, 100, 1000, n / 2] {
            if less < n {
                let mut other = step.clone();
                change(&mut other, less);
                all.push(other);
            }
        }
    };
    match step {
        Step::Send { len, .. }
        | Step::SendFile { len, .. }
        | Step::SendFile2 { len, .. }
        | Step::SpliceIn { len, .. }
        | Step::Recv { len, .. }
        | Step::SpliceOut { len, .. } => with(
            &|s, n| match s {
                Step::Send { len, .. }
                | Step::SendFile { len, .. }
                | Step::SendFile2 { len, .. }
                | Step::SpliceIn { len, .. }
                | Step::Recv { len, .. }
                | Step::SpliceOut { len, .. } => *len = n,
                _ => {}
            },
            *len,
        ),
        Step::Peer(_, PeerDo::Seal { len, .. }) => with(
            &|s, n| {
                if let Step::Peer(
                    _,
                    PeerDo::Seal {
                        len, pad, damage, ..
                    },
                ) = s
                {
                    *len = n;
                    if *damage == Damage::None {
                        *pad = 0;
                    }
                }
            },
            *len,
        ),
        _ => {}
    }
    if let Step::Send { parts, .. } | Step::Recv { parts, .. } = step
        && *parts > 1
    {
        let mut other = step.clone();
        if let Step::Send { parts, .. } | Step::Recv { parts, .. } = &mut other {
            *parts = 1;
        }
        all.push(other);
    }
    all
}

fn plainer(setup: &Setup) -> Vec<Setup> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Setup)| {
        let mut other = setup.clone();
        change(&mut other);
        if other != *setup {
            all.push(other);
        }
    };
    with(&|s| s.sndbuf = 0);
    with(&|s| s.rcvbuf = 0);
    with(&|s| s.mss = 0);
    with(&|s| s.short = false);
    with(&|s| s.nonblock = true);
    with(&|s| s.cipher = 0);
    with(&|s| s.tls13 = true);
    all
}

/// `fails` runs a candidate. `more` says whether there is time for another.
pub fn shrink(
    program: &Program,
    mut more: impl FnMut() -> bool,
    mut fails: impl FnMut(&Program) -> bool,
) -> Program {
    let mut best = program.clone();
    let mut size = best.steps.len().div_ceil(2);
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
    for setup in plainer(&best.setup) {
        let mut other = best.clone();
        other.setup = setup;
        if more() && fails(&other) {
            best = other;
        }
    }
    for i in 0..best.steps.len() {
        for step in smaller(&best.steps[i]) {
            let mut other = best.clone();
            other.steps[i] = step;
            if more() && fails(&other) {
                best = other;
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_one_step_that_matters() {
        let mut whole = crate::generate::program(3);
        whole.steps.insert(4, Step::Disconnect(7));
        let small = shrink(&whole, || true, |p| p.steps.contains(&Step::Disconnect(7)));
        assert_eq!(small.steps, [Step::Disconnect(7)]);
        assert_eq!((small.setup.sndbuf, small.setup.tls13), (0, true));
    }

    #[test]
    fn a_program_survives_its_text() {
        for seed in 0..300 {
            let program = crate::generate::program(seed);
            assert_eq!(Program::parse(&program.text()).unwrap(), program);
        }
    }

    #[test]
    fn numbers_make_no_other_difference() {
        assert_eq!(kind("recv 7: got 100"), kind("recv 12: got 3"));
        assert_ne!(kind("recv 7: EIO"), kind("recv 7: EBADMSG"));
    }
}
