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

pub(crate) struct Gen {
    pub(crate) rng: Rng,
    ids: u32,
    pub(crate) setup: Setup,
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

    pub(crate) fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    pub(crate) fn seq(&mut self) -> u64 {
        match self.rng.below(20) {
            0 => u64::MAX - self.rng.below(6),
            1 => self.rng.draw() >> 1,
            2 => 0xffff_fffe,
            _ => 0,
        }
    }

    pub(crate) fn fresh(&mut self) -> Pick {
        Pick::Fresh(self.id(), self.seq())
    }

    pub(crate) fn op(&mut self) -> u8 {
        match self.rng.below(10) {
            0 => 1,
            1 => self.rng.below(3) as u8,
            _ => 0,
        }
    }

    pub(crate) fn conn(&mut self) -> u8 {
        u8::from(self.rng.chance(8))
    }

    pub(crate) fn max(&mut self) -> u16 {
        match self.rng.below(4) {
            0 => 0,
            1 => 64 + self.rng.below(200) as u16,
            2 => 16384,
            _ => 64 + self.rng.below(16320) as u16,
        }
    }

    pub(crate) fn len(&mut self) -> u32 {
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

    pub(crate) fn send_flags(&mut self) -> i32 {
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

    pub(crate) fn recv_flags(&mut self) -> i32 {
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

    pub(crate) fn seal(&mut self, damage: Damage) -> PeerDo {
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
                    6 => Damage::OneTooLong,
                    7 => Damage::OneTooShort,
                    5 => Damage::NoType,
                    _ => Damage::None,
                };
                steps.push(Step::Peer(conn, self.seal(damage)));
                steps.push(Step::Peer(conn, PeerDo::Push(0)));
            }
        }
    }
}
