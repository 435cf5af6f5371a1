// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs from seeds. Every choice has a weight; what is rare in life (renegotiation, a damaged
//! record, a parked write with a KeyUpdate in between) is common here. Of the odder operations each program
//! has some, and those often: two of a kind meet more easily than in programs that have a little of all.

use crate::program::{Cut, Deed, End, Ending, Io, Op, Program, SIDES, Setup, Side, Step};
use crate::rng::Rng;

pub const SUITES13: [&str; 4] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256",
];
pub const SUITES12: [&str; 4] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
];

/// The largest single write: the writer's buffer, and what a receive buffer holds.
pub const BIG: u64 = 200 * 1024;

/// What a generator leaves out, by name: bugs that are known and not yet mended.
#[derive(Clone, Default)]
pub struct Without(pub Vec<String>);

impl Without {
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|n| n == name)
    }
}

struct Maker<'a> {
    rng: Rng,
    without: &'a Without,
    setup: Setup,
    steps: Vec<Step>,
    parked: [bool; 2],
    lag: [bool; 2],
    odd: [bool; ODD],
    /// There was early data: SSL_clear does not clear what OpenSSL remembers of it, and the next handshake
    /// of that object fails.
    early: bool,
}

/// Operations that a program either has or has not.
const ODD: usize = 13;
/// The index of one of them.
const WRITE_TWICE: usize = 6;

pub fn program(seed: u64, without: &Without) -> Program {
    let mut rng = Rng::new(seed);
    let setup = setup(&mut rng, without);
    let mut maker = Maker {
        rng,
        without,
        setup,
        steps: Vec::new(),
        parked: [false; 2],
        lag: [false; 2],
        odd: [false; ODD],
        early: false,
    };
    for odd in &mut maker.odd {
        *odd = maker.rng.chance(40);
    }
    // What it is for, the other BIOs do not have.
    maker.odd[WRITE_TWICE] |= maker.buffering().is_some();
    maker.fill();
    Program {
        seed,
        setup: maker.setup,
        steps: maker.steps,
    }
}

fn setup(rng: &mut Rng, without: &Without) -> Setup {
    let tls13 = rng.chance(50);
    let suites = if tls13 { &SUITES13 } else { &SUITES12 };
    let mut ends = [end(rng, without), end(rng, without)];
    // Two ends of which neither may wait leave nothing to compare step by step.
    if !ends[0].nonblocking && ends[0].timeout == 0 && rng.chance(50) {
        ends[1].nonblocking = true;
    }
    Setup {
        tls13,
        suite: suites[rng.weighted(&[40, 20, 20, 20])].to_owned(),
        ends,
        tickets: rng.below(3) as u8,
        refuse_renegotiation: if rng.chance(15) {
            1 + rng.below(3) as u8
        } else {
            0
        },
        ask_certificate: rng.chance(10),
        client_certificate: rng.chance(60),
        fragment_length: if rng.chance(6) {
            1 + rng.below(4) as u8
        } else {
            0
        },
        eof_is_fine: rng.chance(20),
    }
}

fn end(rng: &mut Rng, without: &Without) -> End {
    let io = [Io::Socket, Io::Own, Io::Buffer][rng.weighted(&[55, 25, 20])];
    let io = if without.has("own-bio") && io == Io::Own {
        Io::Socket
    } else {
        io
    };
    let io = if without.has("buffer-bio") && io == Io::Buffer {
        Io::Socket
    } else {
        io
    };
    let style = rng.weighted(&[65, 20, 15]);
    let read_ahead = rng.chance(8);
    End {
        io,
        modes: (rng.below(4)
            | if rng.chance(70) { 4 } else { 0 }
            | if rng.chance(10) { 8 } else { 0 }) as u8,
        nonblocking: style == 0,
        timeout: if style == 1 { 15 } else { 0 },
        use_ex: rng.chance(30),
        read_ahead: read_ahead && !without.has("read-ahead"),
        max_fragment: if rng.chance(25) {
            512 + rng.size(16384 - 512) as u16
        } else {
            0
        },
        send_buffer: [131_072, 4608, 30_000][rng.weighted(&[70, 15, 15])],
        receive_buffer: [4 << 20, 9000, 20_000][rng.weighted(&[80, 12, 8])],
    }
}

impl Maker<'_> {
    fn side(&mut self) -> Side {
        if self.rng.chance(50) {
            Side::Client
        } else {
            Side::Server
        }
    }

    /// The end that has a buffering BIO, if one has.
    fn buffering(&self) -> Option<Side> {
        let mut sides = SIDES.into_iter();
        sides.find(|side| self.setup.ends[side.index()].io == Io::Buffer)
    }

    fn may(&self, what: &str) -> bool {
        !self.without.has(what)
    }

    fn add(&mut self, side: Side, op: Op) {
        self.steps.push(Step::Do(side, op));
    }

    fn fill(&mut self) {
        let from = self.side();
        // Some data first, in both directions: most offloads are settled by it.
        let n = 1 + self.rng.size(3000) as u32;
        self.add(from, Op::Write(n));
        self.add(from.other(), Op::ReadAll { piece: 16384 });
        self.add(from.other(), Op::Write(n / 2 + 1));
        self.add(from, Op::ReadAll { piece: 16384 });
        for _ in 0..14 + self.rng.below(20) {
            self.step();
        }
        self.finish();
    }

    fn write_size(&mut self) -> u32 {
        match self.rng.weighted(&[20, 40, 25, 15]) {
            0 => self.rng.pick(&[0, 1, 16383, 16384, 16385, 32768]),
            1 => self.rng.size(2000) as u32,
            2 => self.rng.size(40_000) as u32,
            _ => self.rng.size(BIG) as u32,
        }
    }

    fn piece(&mut self) -> u32 {
        match self.rng.weighted(&[20, 30, 30, 20]) {
            0 => 1 + self.rng.below(40) as u32,
            1 => 1 + self.rng.size(5000) as u32,
            2 => self.rng.pick(&[16384, 16383, 16385, 32768, 65536]),
            _ => 131_072,
        }
    }

    fn step(&mut self) {
        let side = self.side();
        let tls13 = self.setup.tls13;
        let only13 = |weight| if tls13 { weight } else { 0 };
        let odd = self.odd;
        let mut number = 0..;
        let mut odd = |weight: u64| {
            let has = number.next().is_some_and(|n: usize| odd[n]);
            if has { 5 * weight / 2 } else { 0 }
        };
        let weights = [
            24, // 0 write
            16, // 1 read all
            7,  // 2 read part
            7,  // 3 read once
            7,  // 4 peek
            only13(10),
            12 - only13(12), // 6 renegotiate
            only13(odd(18)),
            only13(odd(14)),
            odd(6), // 9 together
            odd(7), // 10 park
            odd(6), // 11 sendfile
            7,      // 12 wire
            6,      // 13 modes
            9,      // 14 non-blocking
            odd(6), // 15 max fragment
            5,      // 16 has_pending
            4,      // 17 handshake call
            4,      // 18 state
            1,      // 19 one-way shutdown in mid-life
            odd(5), // 20 two writes, a buffer between
            odd(7), // 21 a second owner
            odd(6), // 22 another descriptor
            odd(8), // 23 BIO_f_ssl
            odd(8), // 24 fork
            odd(7), // 25 a thread per direction
            odd(6), // 26 the next connection
            8,      // 27 interrupted
            7,      // 28 timeouts
        ];
        match self.rng.weighted(&weights) {
            0 => {
                let n = self.write_size();
                self.add(side, Op::Write(n));
            }
            1 => {
                let piece = self.piece();
                self.add(side, Op::ReadAll { piece });
            }
            2 => {
                let (percent, piece) = (1 + self.rng.below(99) as u8, self.piece());
                self.add(side, Op::ReadPart { percent, piece });
            }
            3 => {
                let n = 1 + self.rng.size(16_382) as u32;
                self.add(side, Op::ReadOnce(n));
            }
            4 => {
                let n = 1 + self.rng.size(16_382) as u32;
                if self.may("peek") {
                    self.add(side, Op::Peek(n));
                }
            }
            5 if self.may("key-update") => {
                for _ in 0..self.rng.pick(&[1, 1, 1, 2, 3, 5]) {
                    let ask = self.rng.chance(50);
                    self.add(side, Op::KeyUpdate { ask });
                    if self.rng.chance(70) {
                        let n = self.rng.size(3000) as u32;
                        self.add(side, Op::Write(n));
                    }
                }
            }
            6 if self.may("renegotiate") => {
                let step = Step::Renegotiate {
                    by: side,
                    short: self.rng.chance(30),
                    suite: if self.rng.chance(30) {
                        Some(self.rng.pick(&SUITES12).to_owned())
                    } else {
                        None
                    },
                    ask: self.rng.chance(30),
                };
                self.steps.push(step);
                // The classic use: go on with the new keys.
                let n = self.rng.size(20_000) as u32;
                self.add(side, Op::Write(n));
                self.add(side.other(), Op::ReadAll { piece: 16384 });
            }
            7 if self.may("ticket") => self.add(Side::Server, Op::Ticket),
            8 if self.may("pha") => {
                self.add(Side::Server, Op::AskCertificate);
                self.add(Side::Server, Op::Handshake);
                self.add(Side::Client, Op::ReadOnce(64));
                self.add(Side::Server, Op::ReadOnce(64));
                self.add(Side::Server, Op::State);
            }
            9 if self.may("together") => self.together(),
            10 if self.may("park") => self.park(side),
            11 if self.may("sendfile") => {
                let n = 1 + self.write_size();
                self.add(side, Op::SendFile(n));
            }
            12 => {
                let cut = match self.rng.below(4) {
                    0 => Cut::Whole,
                    1 => Cut::Bytes,
                    2 => Cut::Every(1 + self.rng.size(40) as u16),
                    _ => Cut::Every(100 + self.rng.size(9000) as u16),
                };
                let lag = self.rng.chance(60);
                self.lag[side.index()] = lag;
                self.steps.push(Step::Wire { to: side, cut, lag });
            }
            13 => {
                let modes = self.rng.below(8) as u8;
                if !self.parked[side.index()] {
                    self.add(side, Op::Modes(modes));
                }
            }
            14 => {
                let on = self.rng.chance(50);
                self.add(side, Op::NonBlocking(on));
            }
            15 if self.may("max-fragment") => {
                let n = 512 + self.rng.size(16384 - 512) as u16;
                self.add(side, Op::MaxFragment(n));
            }
            16 => self.add(side, Op::HasPending),
            17 => self.add(side, Op::Handshake),
            18 => self.add(side, Op::State),
            19 if self.may("half-close") && self.rng.chance(50) => {
                self.add(side, Op::Shutdown);
            }
            20 => {
                let side = self.buffering().unwrap_or(side);
                if tls13 && self.rng.chance(70) {
                    let ask = self.rng.chance(50);
                    self.add(side, Op::KeyUpdate { ask });
                }
                let (n, m) = (1 + self.rng.size(3000), 1 + self.rng.size(9000));
                self.add(side, Op::WriteTwice(n as u32, m as u32));
            }
            21 => {
                let n = 1 + self.rng.size(20_000) as u32;
                self.add(side, Op::Dup(n));
            }
            22 => {
                let how = self.rng.below(5) as u8;
                self.add(side, Op::ChangeFd(how));
            }
            23 if self.may("chain") => {
                let n = 1 + self.rng.size(40_000) as u32;
                self.add(side, Op::ChainWrite(n));
                let reader = self.side();
                self.add(reader, Op::ChainRead);
            }
            24 if self.may("fork") => {
                let child = self.rng.chance(50);
                self.add(side, Op::Fork { child });
            }
            25 if self.may("duplex") => {
                let n = [0; 2].map(|_| 1 + self.rng.size(60_000) as u32);
                self.steps.push(Step::Duplex(n));
            }
            26 if self.may("again") && !self.early => self.again(),
            27 => {
                let n = 1 + self.rng.size(16_382) as u32;
                self.add(side, Op::Interrupted(n));
            }
            28 => {
                let ms = self.rng.pick(&[0, 5, 15]);
                self.add(side, Op::Timeout(ms));
            }
            _ => {}
        }
    }

    fn again(&mut self) {
        let shutdown = self.rng.chance(60);
        let early = match self.setup.tls13 && shutdown && self.rng.chance(60) {
            true => 1 + self.rng.size(8000) as u32,
            false => 0,
        };
        self.early = early != 0;
        self.steps.push(Step::Again { shutdown, early });
        let (side, n) = (self.side(), self.rng.size(20_000) as u32);
        self.add(side, Op::Write(n));
        self.add(side.other(), Op::ReadAll { piece: 16384 });
    }

    /// The last byte of a record is not what it was.
    fn damage(&mut self, side: Side) {
        let side = self.tight().map_or(side, Side::other);
        self.steps.push(Step::Damage { to: side.other() });
        let n = match self.tight() {
            // More than fits, so that the record comes in parts.
            Some(_) => 9000 + self.rng.size(60_000) as u32,
            None => self.write_size().max(1),
        };
        self.add(side, Op::Write(n));
        self.add(side.other(), Op::ReadAll { piece: 16384 });
        self.add(side, Op::ReadOnce(100));
    }

    /// The end whose receive buffer is small, if one's is.
    fn tight(&self) -> Option<Side> {
        let mut sides = SIDES.into_iter();
        sides.find(|side| self.setup.ends[side.index()].receive_buffer < 1 << 20)
    }

    fn together(&mut self) {
        let mut deeds = [Vec::new(), Vec::new()];
        for list in &mut deeds {
            for _ in 0..self.rng.below(5) {
                let update = self.setup.tls13 && !self.without.has("key-update");
                list.push(
                    match self.rng.weighted(&[60, 10, if update { 30 } else { 0 }]) {
                        0 => Deed::Write(self.rng.size(120_000) as u32),
                        1 if !self.without.has("sendfile") => {
                            Deed::SendFile(1 + self.rng.size(60_000) as u32)
                        }
                        2 => Deed::KeyUpdate {
                            ask: self.rng.chance(50),
                        },
                        _ => Deed::Write(100),
                    },
                );
            }
        }
        self.steps.push(Step::Together(deeds));
        self.steps.push(Step::Barrier);
    }

    fn park(&mut self, side: Side) {
        let n = (400_000 + self.rng.size(200_000)) as u32;
        self.add(side, Op::Park(n));
        self.parked[side.index()] = true;
        // A read meanwhile with a ticket waiting ends the connection in OpenSSL itself, and how much of the
        // write was through by then is TCP's affair: either, not both.
        let reads = self.rng.chance(50);
        for _ in 0..self.rng.below(4) {
            let op = match self.rng.below(6) {
                0 if reads => Op::ReadOnce(100),
                1 if self.setup.tls13 && self.may("park-key-update") => Op::KeyUpdate {
                    ask: self.rng.chance(50),
                },
                2 => Op::HasPending,
                3 if !reads && self.setup.tls13 && self.may("park-ticket") => Op::Ticket,
                4 if reads => Op::Peek(50),
                _ => Op::State,
            };
            if op == Op::Ticket {
                self.add(Side::Server, op);
            } else {
                self.add(side, op);
            }
        }
        self.add(side, Op::Finish);
        self.parked[side.index()] = false;
        self.add(side.other(), Op::ReadAll { piece: 131_072 });
    }

    fn finish(&mut self) {
        let side = self.side();
        // A kernel that has taken part of a record off the socket gives it back when that record is bad.
        let damage = if self.tight().is_some() { 50 } else { 12 };
        match self.rng.weighted(&[40, 10, 9, 9, 10, damage, 6]) {
            0 => {
                // Both ways, sometimes with unread data, then clear text.
                if self.rng.chance(80) {
                    self.add(side.other(), Op::ReadAll { piece: 16384 });
                    self.add(side, Op::ReadAll { piece: 16384 });
                }
                self.add(side, Op::Shutdown);
                if self.rng.chance(30) {
                    let n = self.rng.size(30_000) as u32;
                    self.add(side.other(), Op::Write(n));
                    if self.rng.chance(80) {
                        self.add(side, Op::ReadAll { piece: 16384 });
                    }
                }
                self.add(side.other(), Op::ReadOnce(100));
                self.add(side.other(), Op::Shutdown);
                self.add(side, Op::Shutdown);
                self.add(side, Op::ReadOnce(100));
                if self.rng.chance(85) && self.may("clear") {
                    let n = 1 + self.rng.size(5000) as u32;
                    self.add(side, Op::ClearSend(n));
                    self.add(side.other(), Op::ClearSend(n / 2 + 1));
                    self.add(side.other(), Op::ClearReceive);
                    self.add(side, Op::ClearReceive);
                }
            }
            1 => {
                self.add(side, Op::Shutdown);
                self.add(side, Op::Write(10));
                self.add(side.other(), Op::ReadAll { piece: 16384 });
                self.add(side.other(), Op::ReadOnce(10));
                self.add(side.other(), Op::Write(100));
            }
            2 => self.cut_off(side, Ending::Fin),
            3 => self.cut_off(side, Ending::Close),
            4 => self.cut_off(side, Ending::Reset),
            5 if self.may("damage") => self.damage(side),
            _ => {}
        }
    }

    fn cut_off(&mut self, side: Side, ending: Ending) {
        self.add(side, Op::End(ending));
        if self.rng.chance(60) {
            self.add(side.other(), Op::ReadAll { piece: 16384 });
        }
        self.add(side.other(), Op::ReadOnce(100));
        self.add(side.other(), Op::Write(100));
        self.add(side.other(), Op::Write(100));
        self.add(side.other(), Op::ReadOnce(100));
        self.add(side.other(), Op::Shutdown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many of each kind, so that each meets each state of the lanes often.
    #[test]
    fn no_operation_is_rare() {
        let mut counts = std::collections::BTreeMap::<String, u32>::new();
        for seed in 0..200 {
            for step in program(seed, &Without::default()).steps {
                let text = match step {
                    Step::Do(_, op) => format!("{op:?}"),
                    Step::Together(_) => "Together".to_owned(),
                    other => format!("{other:?}"),
                };
                let name = text.split([' ', '(', '{']).next().unwrap_or_default();
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        println!("{counts:#?}");
        // These end a connection, or begin what ends it: one per program at most.
        let last = ["Damage", "ClearSend", "ClearReceive", "End"];
        assert!(counts.len() > 30, "{} kinds", counts.len());
        for (name, n) in counts {
            assert!(n >= 120 || last.contains(&&*name), "{n} times {name}");
        }
    }

    #[test]
    fn a_seed_is_a_program() {
        for seed in 0..200 {
            let one = program(seed, &Without::default());
            assert_eq!(one, program(seed, &Without::default()));
            assert_eq!(one, Program::parse(&one.text()).expect("its own text"));
        }
        assert_ne!(
            program(1, &Without::default()).steps,
            program(2, &Without::default()).steps
        );
    }
}
