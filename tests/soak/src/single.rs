// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations of one end: what each comes to now, and whether its answer can be compared.

use anyhow::Result;

use crate::program::{Ending, Op, SIDES};
use crate::run::{Runner, side_of, value};

impl Runner<'_> {
    pub(crate) fn op(&mut self, side: usize, op: &Op) -> Result<()> {
        for from in 0..2 {
            // Only the very next write is to be damaged.
            if self.relay.ways[from].damage && !(from == side && matches!(op, Op::Write(_))) {
                self.relay.ways[from].damage = false;
            }
        }
        let there = self.out[1 - side];
        let state = &self.state[side];
        if state.fd_closed {
            return Ok(());
        }
        if !matches!(
            op,
            Op::ReadAll { .. } | Op::ReadPart { .. } | Op::Write(_) | Op::State
        ) {
            self.release(side);
        }
        let reads = matches!(
            op,
            Op::ReadOnce(_) | Op::Peek(_) | Op::ReadAll { .. } | Op::ReadPart { .. }
        );
        if self.how.careful && self.state[side].waiting && reads && !self.may_wait(side) {
            self.send(side, "dh1 loose=1")?;
        }
        let loose = i32::from(!self.exact(side));
        let parked = self.state[side].parked;
        match op {
            Op::Write(n) if !parked => {
                // A write reads too when an answer to a KeyUpdate is due: not timed.
                self.send(side, &format!("w n={n} loose={loose}"))?;
                if self.relay.ways[side].damage {
                    self.relay.damage(side);
                    self.quiet = self.relay.settle();
                }
            }
            Op::SendFile(n) if !parked => {
                self.send(side, &format!("sf n={n} loose={loose}"))?;
                self.loose[side] = true;
            }
            Op::ReadOnce(n) | Op::Peek(n) => {
                let name = if matches!(op, Op::Peek(_)) { "pk" } else { "r" };
                if self.may_wait(side) {
                    return Ok(());
                }
                if self.exact(side) {
                    self.send(side, &format!("{name} n={}", n.clamp(&1, &16383)))?;
                } else if there > 0 {
                    self.read_loop(side, there, 16384)?;
                }
            }
            Op::ReadAll { piece } if there > 0 => self.read_loop(side, there, *piece)?,
            Op::ReadPart { percent, piece } if there > 0 => {
                let part = (there * i64::from(*percent) / 100).max(1);
                let n = if self.exact(side) || self.lag[side] && !self.loose[1 - side] {
                    part
                } else {
                    there
                };
                self.read_loop(side, n, *piece)?;
            }
            // Nothing there: the single call says so.
            Op::ReadAll { .. } | Op::ReadPart { .. } => return self.op(side, &Op::ReadOnce(100)),
            Op::HasPending if self.exact(side) && !self.program.end(side_of(side)).read_ahead => {
                self.send(side, "hp")?;
            }
            Op::KeyUpdate { ask } => {
                self.send(side, &format!("ku n={} loose={loose}", i32::from(*ask)))?;
            }
            Op::Handshake if !self.may_wait(side) && self.exact(side) => {
                self.send(side, "dh1")?;
            }
            Op::Ticket => {
                self.send(side, &format!("nst loose={loose}"))?;
            }
            Op::AskCertificate => {
                self.send(side, &format!("pha loose={loose}"))?;
            }
            Op::Shutdown => {
                // The second call waits for the peer's close_notify.
                if self.state[side].shutdown & 1 != 0 && (self.may_wait(side) || !self.exact(side))
                {
                    return Ok(());
                }
                self.send(side, &format!("sd loose={loose}"))?;
            }
            Op::Modes(bits) if !parked => {
                self.send(side, &format!("mode n={bits} loose={loose}"))?;
                self.state[side].auto_retry = bits & 4 != 0;
            }
            Op::NonBlocking(on) => {
                self.send(side, &format!("nb n={} loose={loose}", i32::from(*on)))?;
                self.state[side].blocking = !on;
            }
            Op::MaxFragment(n) if !parked => {
                self.send(side, &format!("msf n={n} loose={loose}"))?;
            }
            Op::Park(n) if !parked && !self.state[side].broken => {
                // Where nothing else ends the wait, a signal does.
                let name = match self.state[side].blocking && !self.state[side].timeout {
                    true => "wint",
                    false => "wpark",
                };
                self.relay.ways[side].stalled = true;
                let answer = self.send(side, &format!("{name} n={n} loose={loose}"))?;
                self.state[side].parked = value(&answer, "err") == 3 || value(&answer, "err") == 2;
                if !self.state[side].parked {
                    self.relay.ways[side].stalled = false;
                }
            }
            Op::Finish if parked => {
                self.relay.ways[side].stalled = false;
                self.state[side].parked = false;
                self.send(side, &format!("wgo loose={loose}"))?;
            }
            Op::WriteTwice(n, m) if !parked => {
                self.send(side, &format!("w2 n={n} m={m} loose={loose}"))?;
            }
            Op::Dup(n) if !parked => {
                self.send(side, &format!("dup n={n} loose={loose}"))?;
            }
            Op::ChangeFd(how) if !parked => {
                self.send(side, &format!("fd n={how} loose={loose}"))?;
            }
            Op::ChainWrite(n) if !parked => {
                self.send(side, &format!("cw n={n} loose={loose}"))?;
            }
            Op::ChainRead if there > 0 && !parked => {
                self.send(side, &format!("cr n={there} loose={loose}"))?;
                self.hold(side);
            }
            Op::Fork { child } if !parked => {
                self.send(side, &format!("fork n={} loose={loose}", i32::from(*child)))?;
            }
            Op::Interrupted(n) if !parked && self.exact(side) => {
                self.send(side, &format!("int n={}", n.clamp(&1, &16383)))?;
                self.state[side].timeout = false;
            }
            Op::Timeout(ms) => {
                self.send(side, &format!("to n={ms} loose={loose}"))?;
                self.state[side].timeout = *ms != 0;
            }
            Op::ClearSend(n) if self.is_clear() => {
                self.send(side, &format!("xs n={n}"))?;
            }
            Op::ClearReceive if self.is_clear() && self.clear[1 - side] > 0 => {
                let n = self.clear[1 - side];
                self.send(side, &format!("xr n={n}"))?;
            }
            Op::State => {
                self.send(side, "state")?;
            }
            Op::End(ending) => self.end(side, *ending)?,
            _ => {}
        }
        Ok(())
    }

    /// Both close_notify are through, and nobody reads ahead: the wire is plain. (An end may still have
    /// answered a KeyUpdate or a certificate request after its own close_notify: what plain OpenSSL
    /// leaves to the program, which would take it for clear text, the shim has taken off the wire. So
    /// the lane without a shim decides.)
    fn is_clear(&mut self) -> bool {
        if let Some(plain) = self.how.plain {
            return plain.clear_in.contains(&self.step);
        }
        let is_last = |side: usize| {
            let sent = self.relay.ways[side].captured.len() as i64;
            self.state[side].closed_at == Some(sent - self.clear_sent[side])
        };
        let clear = self
            .state
            .iter()
            .all(|s| s.shutdown == 3 && !s.broken && !s.parked && !s.fin && !s.fd_closed)
            && (0..2).all(is_last)
            && SIDES.iter().all(|side| !self.program.end(*side).read_ahead)
            && self.out.iter().all(|n| *n <= 0);
        if clear {
            self.lane.clear_in.push(self.step);
        }
        clear
    }

    fn end(&mut self, side: usize, ending: Ending) -> Result<()> {
        // An RST cuts off what still waits for room at the other end, at a place that time decides.
        let ending = match self.out[side] > 0 && !self.exact(1 - side) {
            true => Ending::Fin,
            false => ending,
        };
        let state = &mut self.state[side];
        self.lane.cut_off[side] |= state.parked;
        let command = match ending {
            Ending::Close => "close",
            Ending::Fin => "fin",
            Ending::Reset => "rst",
        };
        state.fin = true;
        state.fd_closed = ending != Ending::Fin;
        self.relay.ways[side].stalled = false;
        self.relay.gone[side] = ending == Ending::Close;
        self.send(side, command)?;
        self.relay.await_end(side);
        Ok(())
    }
}
