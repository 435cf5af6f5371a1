// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sequence from a seed. Most steps keep the connection alive, so that the later ones meet more than
//! errors; what ends it comes near the end.

use crate::rng::Rng;
use libc::*;

use crate::misuse;
use crate::program::*;

pub fn program(seed: u64) -> Program {
    let mut g = Gen {
        rng: Rng::new(seed),
        ids: 10,
        setup: Setup {
            seed,
            tls13: false,
            cipher: 0,
            sndbuf: 0,
            rcvbuf: 0,
            mss: 0,
            nonblock: false,
            short: false,
        },
    };
    g.setup();
    let mut steps = g.begin();
    let len = 8 + g.rng.below(50);
    for _ in 0..len {
        g.step(&mut steps);
    }
    for _ in 0..g.rng.below(4) {
        g.ending(&mut steps);
        for _ in 0..g.rng.below(5) {
            g.step(&mut steps);
        }
    }
    Program {
        setup: g.setup,
        steps,
    }
}

struct Gen {
    rng: Rng,
    ids: u32,
    setup: Setup,
}

impl Gen {
    fn setup(&mut self) {
        let r = &mut self.rng;
        self.setup.tls13 = r.chance(60);
        self.setup.cipher = r.below(4) as u8;
        match r.below(10) {
            0 => self.setup.sndbuf = r.pick(&[4608, 9000, 20_000, 60_000]),
            1 => self.setup.rcvbuf = r.pick(&[2304, 4096, 9000, 20_000]),
            2 => self.setup.mss = r.pick(&[88, 300, 1000]),
            3 => {
                self.setup.rcvbuf = r.pick(&[4096, 16_000]);
                self.setup.mss = r.pick(&[88, 536, 1400]);
            }
            _ => {}
        }
        self.setup.nonblock = r.chance(40);
        self.setup.short = r.chance(10);
    }

    fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    fn seq(&mut self) -> u64 {
        match self.rng.below(20) {
            0 => u64::MAX - self.rng.below(6),
            1 => self.rng.draw() >> 1,
            2 => 0xffff_fffe,
            _ => 0,
        }
    }

    fn fresh(&mut self) -> Pick {
        Pick::Fresh(self.id(), self.seq())
    }

    fn op(&mut self) -> u8 {
        match self.rng.below(10) {
            0 => 1,
            1 => self.rng.below(3) as u8,
            _ => 0,
        }
    }

    fn conn(&mut self) -> u8 {
        u8::from(self.rng.chance(8))
    }

    fn max(&mut self) -> u16 {
        match self.rng.below(4) {
            0 => 0,
            1 => 64 + self.rng.below(200) as u16,
            2 => 16384,
            _ => 64 + self.rng.below(16320) as u16,
        }
    }

    fn len(&mut self) -> u32 {
        let max = self.rng.pick(&[200, 2000, 17_000, 40_000]);
        match self.rng.below(8) {
            0 => self.rng.pick(&[
                0, 1, 511, 512, 2048, 2049, 4095, 4096, 4097, 16383, 16384, 16385,
            ]),
            _ => self.rng.size(max) as u32,
        }
    }

    fn begin(&mut self) -> Vec<Step> {
        let (tx, rx, max) = (self.fresh(), self.fresh(), self.max());
        let mut steps = vec![Step::Accept(0)];
        if self.rng.chance(10) {
            steps.push(Step::Poll(0));
        }
        if self.rng.chance(80) {
            steps.push(Step::Attach {
                op: 0,
                conn: 0,
                tx,
                rx,
                max,
            });
        } else {
            steps.push(Step::Attach {
                op: 0,
                conn: 0,
                tx,
                rx: Pick::None,
                max,
            });
            steps.push(Step::Attach {
                op: 0,
                conn: 0,
                tx: Pick::None,
                rx,
                max: 0,
            });
        }
        steps
    }

    fn send_flags(&mut self) -> i32 {
        match self.rng.below(12) {
            0..=2 => MSG_MORE,
            3 => MSG_DONTWAIT,
            4 => MSG_DONTWAIT | MSG_MORE,
            5 if self.rng.chance(30) => {
                self.rng
                    .pick(&[MSG_OOB, MSG_ZEROCOPY, MSG_CONFIRM, 1 << 28, MSG_SYN])
            }
            _ => 0,
        }
    }

    fn recv_flags(&mut self) -> i32 {
        match self.rng.below(14) {
            0..=2 => MSG_PEEK,
            3 => MSG_WAITALL,
            4 => MSG_DONTWAIT,
            5 => MSG_PEEK | MSG_DONTWAIT,
            6 => MSG_PEEK | MSG_WAITALL,
            7 if self.rng.chance(40) => {
                self.rng
                    .pick(&[MSG_OOB, MSG_TRUNC, MSG_ERRQUEUE, MSG_CMSG_CLOEXEC])
            }
            _ => 0,
        }
    }

    fn seal(&mut self, damage: Damage) -> PeerDo {
        let kind = match self.rng.below(20) {
            0 => 21,
            1 => 22,
            2 if self.setup.tls13 => self.rng.pick(&[20, 24, 99]),
            2 => 24,
            _ => 23,
        };
        let mut len = match self.rng.below(6) {
            0 => self.len().min(16384),
            1 => 0,
            _ => self.rng.size(3000) as u32,
        };
        if kind == 22 {
            // Random handshake bytes would be messages of random lengths.
            len = 0;
        }
        let pad = if self.rng.chance(15) {
            self.rng.below(255) as u8
        } else {
            0
        };
        PeerDo::Seal {
            kind,
            len,
            pad,
            damage,
        }
    }

    fn event(&mut self) -> Event {
        match self.rng.below(18) {
            0..=4 => Event::Record(1 + self.rng.size(9000) as u32),
            5..=9 => Event::Pieces(1 + self.rng.size(9000) as u32),
            10 => Event::Control,
            11 => Event::Fin,
            12 => Event::Rst,
            13 => Event::Shutdown,
            14 => Event::BadTag,
            _ => Event::Detach,
        }
    }

    fn meet(&mut self) -> Meet {
        let r = &mut self.rng;
        match r.below(10) {
            0 | 1 => Meet::Reader(self.event()),
            2 | 3 => {
                let op = r.chance(50);
                Meet::Poller(op, self.event())
            }
            4 => Meet::Writer {
                len: 20_000 + r.below(150_000) as u32,
                file: r.chance(50),
            },
            5 => Meet::Room(r.chance(50)),
            6 => Meet::Writers {
                each: 1 + r.size(9000) as u32,
                count: 2 + r.below(8) as u8,
                rekeys: if r.chance(50) {
                    1 + r.below(5) as u8
                } else {
                    0
                },
            },
            7 => Meet::Readers {
                count: 2 + r.below(20) as u8,
                len: 4 + r.size(1000) as u32,
            },
            8 => Meet::Duplex {
                len: 1000 + r.below(60_000) as u32,
            },
            _ => Meet::DetachWriter {
                each: 1 + r.size(5000) as u32,
            },
        }
    }

    fn step(&mut self, steps: &mut Vec<Step>) {
        let (op, conn) = (self.op(), self.conn());
        match self.rng.weighted(&[26, 34, 22, 5, 4, 3, 7, 6, 5, 6, 7, 3]) {
            0 => self.sending(op, steps),
            1 => self.peer_sends(conn, steps),
            2 => self.receiving(op, steps),
            3 => steps.push(Step::Poll(op)),
            4 => self.tcp(conn, steps),
            5 => self.second(steps),
            6 => self.handing(op, conn, steps),
            7 => self.keys(op, conn, steps),
            8 => steps.push(Step::Misuse {
                op,
                what: self.rng.below(u64::from(misuse::KINDS)) as u8,
            }),
            9 => steps.push(Step::Together(op, self.meet())),
            10 => self.reading_back(op, steps),
            _ => {
                let damage = match self.rng.below(12) {
                    0 => Damage::Tag,
                    1 => Damage::Type,
                    2 => Damage::Version,
                    3 => Damage::TooLong,
                    4 => Damage::TooShort,
                    5 => Damage::NoType,
                    _ => Damage::None,
                };
                steps.push(Step::Peer(conn, self.seal(damage)));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
            }
        }
    }

    fn sending(&mut self, op: u8, steps: &mut Vec<Step>) {
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

    fn peer_sends(&mut self, conn: u8, steps: &mut Vec<Step>) {
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

    fn receiving(&mut self, op: u8, steps: &mut Vec<Step>) {
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

    fn tcp(&mut self, conn: u8, steps: &mut Vec<Step>) {
        let r = &mut self.rng;
        steps.push(match r.below(8) {
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
    fn second(&mut self, steps: &mut Vec<Step>) {
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
    fn handing(&mut self, op: u8, conn: u8, steps: &mut Vec<Step>) {
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
            steps.push(Step::Attach {
                op,
                conn,
                tx,
                rx,
                max,
            });
            if self.rng.chance(40) {
                let (tx, rx) = match dir {
                    Dir::Tx => (Pick::Continue, Pick::None),
                    Dir::Rx => (Pick::None, Pick::Continue),
                };
                steps.push(Step::Attach {
                    op,
                    conn,
                    tx,
                    rx,
                    max,
                });
            }
        }
    }

    fn keys(&mut self, op: u8, conn: u8, steps: &mut Vec<Step>) {
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

    fn reading_back(&mut self, op: u8, steps: &mut Vec<Step>) {
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

    fn ending(&mut self, steps: &mut Vec<Step>) {
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
            1 | 2 => steps.push(Step::Peer(conn, PeerDo::Fin)),
            3 => steps.push(Step::Peer(conn, PeerDo::Rst)),
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
                    Damage::NoType,
                ]);
                steps.push(Step::Peer(conn, self.seal(damage)));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
            }
        }
    }
}
