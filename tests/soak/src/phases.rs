// SPDX-License-Identifier: MIT OR Apache-2.0
//! What takes both ends: phases in which they run at once, and handshakes step by step.

use anyhow::Result;

use crate::program::Deed;
use crate::run::{EndState, Runner, value};

impl Runner<'_> {
    pub(crate) fn together(&mut self, deeds: &[Vec<Deed>; 2]) -> Result<()> {
        if !self.are_usable() || self.renegotiates()? {
            return Ok(());
        }
        let mut lists = [Vec::new(), Vec::new()];
        let mut sums = self.out;
        for side in 0..2 {
            for deed in &deeds[side] {
                lists[side].push(match deed {
                    Deed::Write(n) => {
                        sums[side] += i64::from(*n);
                        format!("w n={n} loose=1")
                    }
                    Deed::SendFile(n) => {
                        sums[side] += i64::from(*n);
                        format!("sf n={n} loose=1")
                    }
                    Deed::KeyUpdate { ask } => format!("ku n={} loose=1", i32::from(*ask)),
                });
            }
        }
        for side in 0..2 {
            if sums[1 - side] > 0 {
                lists[side].push(format!("rn n={} piece=16384 loose=1", sums[1 - side]));
            }
        }
        self.both([&lists[0], &lists[1]])?;
        self.hold(0);
        self.hold(1);
        Ok(())
    }

    pub(crate) fn barrier(&mut self) -> Result<()> {
        for round in 0..2 {
            for side in 0..2 {
                if self
                    .state
                    .iter()
                    .any(|s| s.broken || s.fd_closed || s.fin || s.parked || s.shutdown != 0)
                {
                    return Ok(());
                }
                let loose = i32::from(round == 0 || !self.exact(side));
                self.send(side, &format!("w n=3 loose={loose}"))?;
                let loose = i32::from(round == 0 || !self.exact(1 - side) || self.lag[1 - side]);
                self.release(1 - side);
                let n = self.out[side];
                self.send(1 - side, &format!("rn n={n} piece=16384 loose={loose}"))?;
                self.hold(1 - side);
            }
        }
        Ok(())
    }

    pub(crate) fn renegotiate(
        &mut self,
        by: usize,
        short: bool,
        suite: Option<&str>,
        ask: bool,
    ) -> Result<()> {
        if !self.are_usable() {
            return Ok(());
        }
        self.release(0);
        self.release(1);
        for side in 0..2 {
            if self.how.empty && self.out[1 - side] > 0 {
                self.read_loop(side, self.out[1 - side], 16384)?;
                self.relay.ways[1 - side].held = false;
            }
        }
        let other = 1 - by;
        if !self.polite() && self.program.setup.refuse_renegotiation != 0 {
            return Ok(());
        }
        if let Some(suite) = suite {
            self.send(0, &format!("suite suite={suite}"))?;
        }
        let ask = i32::from(ask && by == 1);
        let start = format!("ren n={} ask={ask}", i32::from(short));
        if self.polite() && self.exact(0) && self.exact(1) {
            self.send(by, &start)?;
            for _ in 0..6 {
                let name = if by == 0 { "dh1" } else { "r n=64" };
                let first = if by == 1 { "dh1" } else { name };
                let mine = self.send(by, first)?;
                let theirs = self.send(other, "r n=64")?;
                if by == 1 {
                    self.send(1, "r n=64")?;
                }
                if self.state.iter().any(|s| s.broken)
                    || (value(&mine, "ren") == 0
                        && value(&mine, "init") == 0
                        && value(&theirs, "init") == 0)
                {
                    break;
                }
            }
        } else {
            // A server's HelloRequest starts a handshake whose end it cannot wait for but by reading, and data
            // that meets such a handshake half-way is lost to a race in OpenSSL itself: only step by step.
            if self.out != [0, 0] || by == 1 {
                return Ok(());
            }
            let mut lists = [Vec::new(), Vec::new()];
            lists[by] = vec![
                format!("{start} loose=1"),
                "hs loose=1".into(),
                "settle loose=1".into(),
                "w n=7 loose=1".into(),
                "rn n=5 loose=1".into(),
            ];
            lists[other] = vec!["rn n=7 loose=1".into(), "w n=5 loose=1".into()];
            self.both([&lists[0], &lists[1]])?;
            self.barrier()?;
        }
        for side in 0..2 {
            self.send(side, "state")?;
        }
        self.hold(0);
        self.hold(1);
        Ok(())
    }

    fn are_usable(&self) -> bool {
        let usable =
            |s: &EndState| !s.broken && !s.fd_closed && !s.fin && !s.parked && s.shutdown == 0;
        self.state.iter().all(usable)
    }

    /// Is a renegotiation half-way? What both ends do then at once is a race in OpenSSL itself.
    fn renegotiates(&mut self) -> Result<bool> {
        let mut busy = false;
        for side in 0..2 {
            if !self.program.setup.tls13 {
                busy |= value(&self.send(side, "state")?, "busy") != 0;
            }
        }
        Ok(busy)
    }

    /// A thread per direction. The lock around each call is the programs' own: without one, two threads
    /// race for the object's state in OpenSSL itself, and no two runs would have to agree.
    pub(crate) fn duplex(&mut self, n: [u32; 2]) -> Result<()> {
        // A ticket that is read while a write waits ends the connection, in OpenSSL too.
        self.barrier()?;
        if !self.are_usable() || self.out != [0, 0] || self.renegotiates()? {
            return Ok(());
        }
        self.out = n.map(i64::from);
        let duo = |mine, others| [format!("duo n={mine} m={others} loose=1")];
        self.both([&duo(n[0], n[1]), &duo(n[1], n[0])])?;
        // SSL_want is that of either thread's last call: let it be this one's.
        self.barrier()
    }

    /// SSL_clear at both ends, and a new handshake on the same socket.
    pub(crate) fn again(&mut self, shutdown: bool, early: u32) -> Result<()> {
        // Whatever is under way would be taken for a part of the handshake.
        self.barrier()?;
        if !self.are_usable() || self.out != [0, 0] {
            return Ok(());
        }
        self.release(0);
        self.release(1);
        // SSL_clear fails in the middle of a renegotiation, and clears half of what there is.
        if self.renegotiates()? {
            return Ok(());
        }
        if shutdown {
            for side in [0, 1, 0, 1] {
                let loose = i32::from(!self.exact(side));
                self.send(side, &format!("sd loose={loose}"))?;
            }
        }
        for side in 0..2 {
            self.send(side, "anew loose=1")?;
        }
        if self.state.iter().any(|s| s.broken) {
            return Ok(());
        }
        let way = |side: usize| self.relay.ways[side].captured.len();
        let cut = [way(0), way(1)];
        // (A server that has once looked for early data cannot do so again, which early_handshake would.)
        let shake = match self.program.setup.tls13 && early > 0 {
            true => format!("early n={early} loose=1"),
            false => "hs loose=1".to_owned(),
        };
        let shake = [shake];
        self.both([&shake, &shake])?;
        // (That they fail alike the transcripts say.)
        match self.state.iter().any(|s| s.broken) {
            true => self.lane.failed = Some(cut),
            false => self.lane.cuts.push(cut),
        }
        for side in 0..2 {
            self.send(side, "state")?;
        }
        self.loose = [false; 2];
        self.hold(0);
        self.hold(1);
        Ok(())
    }
}
