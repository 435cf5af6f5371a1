// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of a random sequence, by what they are about. Some come in groups, as a program would make
//! them: a detach is often followed by an attach, a KeyUpdate by a re-key.

use libc::*;

use crate::generate::Gen;
use crate::program::*;

impl Gen {
    pub(crate) fn sending(&mut self, op: u8, steps: &mut Vec<Step>) {
        let (len, flags) = (self.len(), self.send_flags());
        let r = &mut self.rng;
        let more = flags & MSG_MORE != 0;
        steps.push(match r.below(20) {
            0 | 1 => Step::SendFile {
                op,
                at: r.below(300_100) as u32,
                len,
                flags,
            },
            2 | 3 => Step::SendFile2 {
                op,
                at: r.below(300_000) as u32,
                len: len.max(1),
            },
            4 | 5 => Step::SpliceIn {
                op,
                len: len.max(1),
                more,
            },
            6 => Step::SendFault {
                op,
                good: r.size(30_000) as u32,
                bad: 1 + r.below(9000) as u32,
            },
            7..=9 => {
                let kind = if r.chance(5) {
                    0
                } else {
                    r.pick(&[20, 21, 21, 22, 22, 23, 24])
                };
                let len = if kind == 22 && r.chance(25) {
                    5
                } else {
                    len.min(if r.chance(10) { 20_000 } else { 64 })
                };
                let flags = if r.chance(5) {
                    flags
                } else {
                    flags & !MSG_MORE
                };
                Step::Send {
                    op,
                    len,
                    flags,
                    kind: Some(kind),
                    parts: 1,
                }
            }
            _ => Step::Send {
                op,
                len,
                flags,
                kind: None,
                parts: 1 + r.below(5) as u8,
            },
        });
        if more && self.rng.chance(60) {
            steps.push(Step::Send {
                op,
                len: self.rng.size(300) as u32,
                flags: 0,
                kind: None,
                parts: 1,
            });
        }
    }

    pub(crate) fn peer_sends(&mut self, conn: u8, steps: &mut Vec<Step>) {
        for _ in 0..1 + self.rng.below(3) {
            let seal = self.seal(Damage::None);
            steps.push(Step::Peer(conn, seal));
        }
        let n = if self.rng.chance(40) {
            self.rng.size(3000) as u32
        } else {
            0
        };
        steps.push(Step::Peer(conn, PeerDo::Push(n)));
        if self.rng.chance(6) {
            steps.push(Step::Peer(conn, PeerDo::Urgent));
        }
    }

    pub(crate) fn receiving(&mut self, op: u8, steps: &mut Vec<Step>) {
        let flags = self.recv_flags();
        let r = &mut self.rng;
        let len = match r.below(5) {
            0 => r.size(40) as u32,
            1 => 20_000 + r.below(20_000) as u32,
            _ => r.size(6000) as u32,
        };
        steps.push(match r.below(20) {
            0 | 1 => Step::SpliceOut {
                op,
                len: len.max(1),
            },
            2 => Step::RecvFault {
                op,
                good: r.size(9000) as u32,
                bad: 1 + r.below(9000) as u32,
            },
            3 => Step::Fionread(op),
            4..=9 => {
                let control = r.pick(&[64, 64, 64, 24, 17, 16, 8]);
                Step::Recv {
                    op,
                    len,
                    flags,
                    control,
                    parts: 1 + r.below(4) as u8,
                }
            }
            _ => Step::Recv {
                op,
                len,
                flags,
                control: 0,
                parts: 1 + r.below(4) as u8,
            },
        });
    }

    pub(crate) fn tcp(&mut self, conn: u8, steps: &mut Vec<Step>) {
        let r = &mut self.rng;
        steps.push(match r.below(9) {
            8 => Step::Sndbuf {
                conn,
                n: 2000 + r.size(60_000) as u32,
            },
            0 | 1 => Step::Lowat {
                conn,
                n: r.size(20_000) as u32,
            },
            2 => Step::SoError(conn),
            3 => Step::Nonblock {
                conn,
                on: r.chance(50),
            },
            4 | 5 => Step::Peer(conn, PeerDo::Pause),
            _ => Step::Peer(conn, PeerDo::Resume),
        });
    }

    /// Another op, another connection.
    pub(crate) fn second(&mut self, steps: &mut Vec<Step>) {
        let (op, conn) = (1 + self.rng.below(2) as u8, self.conn());
        let (tx, rx, max) = (self.fresh(), self.fresh(), self.max());
        steps.push(match self.rng.below(5) {
            0 => Step::Accept(0),
            1 | 2 => Step::Accept(op),
            3 => Step::Attach {
                op,
                conn,
                tx,
                rx,
                max,
            },
            _ => Step::CloseOp(op),
        });
    }

    /// Detach, and perhaps attach again.
    pub(crate) fn handing(&mut self, op: u8, conn: u8, steps: &mut Vec<Step>) {
        let dir = if self.rng.chance(50) {
            Dir::Tx
        } else {
            Dir::Rx
        };
        let room = if self.rng.chance(80) {
            17408
        } else {
            self.rng.size(400) as u32
        };
        if self.rng.chance(70) {
            steps.push(Step::Recv {
                op,
                len: 40_000,
                flags: MSG_DONTWAIT,
                control: 0,
                parts: 1,
            });
        }
        steps.push(Step::Detach { op, dir, room });
        if self.rng.chance(25) {
            let len = 1 + self.rng.size(500) as u32;
            steps.push(match dir {
                Dir::Tx => Step::RawWrite { conn, len },
                Dir::Rx => Step::RawRead { conn, len },
            });
        }
        if self.rng.chance(85) {
            let pick = match self.rng.below(10) {
                0 => self.fresh(),
                1 | 2 => Pick::Again(self.rng.below(4) as u8),
                _ => Pick::Continue,
            };
            let max = self.max();
            let (tx, rx) = match dir {
                Dir::Tx => (pick, Pick::None),
                Dir::Rx if matches!(pick, Pick::Again(_)) => (Pick::None, Pick::Continue),
                Dir::Rx => (Pick::None, pick),
            };
            let attach = |(tx, rx)| Step::Attach {
                op,
                conn,
                tx,
                rx,
                max,
            };
            steps.push(attach((tx, rx)));
            if self.rng.chance(40) {
                steps.push(attach(match dir {
                    Dir::Tx => (Pick::Continue, Pick::None),
                    Dir::Rx => (Pick::None, Pick::Continue),
                }));
            }
        }
    }

    pub(crate) fn keys(&mut self, op: u8, conn: u8, steps: &mut Vec<Step>) {
        let (id, next) = (self.id(), self.id());
        match self.rng.below(8) {
            0 | 1 => {
                if self.setup.tls13 {
                    let len = if self.rng.chance(50) {
                        5
                    } else {
                        self.rng.size(40) as u32
                    };
                    steps.push(Step::Send {
                        op,
                        len,
                        flags: 0,
                        kind: Some(22),
                        parts: 1,
                    });
                }
                let pick = if self.rng.chance(85) {
                    Pick::Fresh(id, self.seq())
                } else {
                    Pick::Again(self.rng.below(3) as u8)
                };
                if self.rng.chance(90) {
                    steps.push(Step::Rekey {
                        op,
                        dir: Dir::Tx,
                        pick,
                    });
                }
            }
            2 => steps.push(Step::Rekey {
                op,
                dir: Dir::Rx,
                pick: Pick::Next(id),
            }),
            _ => {
                let what = if self.setup.tls13 {
                    PeerDo::Handshake {
                        len: self.rng.size(60) as u32,
                        update: self.rng.chance(80),
                        split: if self.rng.chance(50) {
                            self.rng.below(70) as u8
                        } else {
                            0
                        },
                        rekey: self.rng.chance(95).then_some(id),
                    }
                } else {
                    PeerDo::Ccs { rekey: Some(id) }
                };
                steps.push(Step::Peer(conn, what));
                steps.push(Step::Peer(
                    conn,
                    PeerDo::Push(if self.rng.chance(80) {
                        0
                    } else {
                        self.rng.size(100) as u32
                    }),
                ));
                let control = Step::Recv {
                    op,
                    len: 300,
                    flags: 0,
                    control: 64,
                    parts: 1,
                };
                for _ in 0..1 + self.rng.below(3) {
                    steps.push(control.clone());
                }
                if self.rng.chance(90) {
                    steps.push(Step::Rekey {
                        op,
                        dir: Dir::Rx,
                        pick: Pick::Next(next),
                    });
                }
            }
        }
    }

    pub(crate) fn reading_back(&mut self, op: u8, steps: &mut Vec<Step>) {
        let dir = if self.rng.chance(50) {
            Dir::Tx
        } else {
            Dir::Rx
        };
        let r = &mut self.rng;
        steps.push(match r.below(6) {
            0 => Step::SetMax {
                op,
                max: 60 + r.size(16_400) as i32,
            },
            1 => Step::GetMax(op),
            _ => Step::ReadBack {
                op,
                dir,
                room: r.pick(&[56, 56, 56, 4, 40, 60, 12]),
            },
        });
    }

    /// The connection ends, often inside a record, and a reader reads to the end: whether all came is what
    /// he has to know.
    fn cut(&mut self, op: u8, conn: u8, end: PeerDo, steps: &mut Vec<Step>) {
        let look = self.rng.chance(60);
        if look {
            let seal = self.seal(Damage::None);
            let part = self.rng.size(60) as u32;
            steps.push(Step::Peer(conn, seal));
            steps.push(Step::Peer(conn, PeerDo::Push(part)));
        }
        steps.push(Step::Peer(conn, end));
        for _ in 0..u64::from(look) * (1 + self.rng.below(4)) {
            steps.push(Step::Recv {
                op,
                len: 40_000,
                flags: 0,
                control: 64,
                parts: 1,
            });
        }
    }

    pub(crate) fn ending(&mut self, steps: &mut Vec<Step>) {
        let (op, conn) = (self.op(), self.conn());
        let r = &mut self.rng;
        match r.below(14) {
            0 => {
                steps.push(Step::Peer(conn, PeerDo::CloseNotify));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
                for _ in 0..r.below(3) {
                    steps.push(Step::Recv {
                        op,
                        len: 9000,
                        flags: 0,
                        control: 64,
                        parts: 1,
                    });
                }
            }
            1 | 2 => self.cut(op, conn, PeerDo::Fin, steps),
            3 => self.cut(op, conn, PeerDo::Rst, steps),
            4 => steps.push(Step::Shutdown {
                conn,
                how: r.below(3) as u8,
            }),
            5 => steps.push(Step::Disconnect(conn)),
            6 => steps.push(Step::CloseTcp(conn)),
            7 => steps.push(Step::CloseOp(op)),
            8 => steps.push(Step::CloseParent),
            9 => steps.push(Step::RawWrite {
                conn,
                len: 1 + r.size(400) as u32,
            }),
            10 => steps.push(Step::RawRead {
                conn,
                len: 1 + r.size(400) as u32,
            }),
            11 => {
                steps.push(Step::Peer(conn, PeerDo::Junk(1 + r.size(30) as u32)));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
            }
            _ => {
                let damage = r.pick(&[
                    Damage::Tag,
                    Damage::Type,
                    Damage::Version,
                    Damage::TooLong,
                    Damage::TooShort,
                    Damage::OneTooLong,
                    Damage::OneTooShort,
                    Damage::NoType,
                ]);
                steps.push(Step::Peer(conn, self.seal(damage)));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
            }
        }
    }
}
