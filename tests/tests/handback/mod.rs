// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named programs for two endpoints, in every mix, with the proof that the kernel had the keys, gave
//! them back and got the next ones.
//!
//! The endpoints, the wire and its oracle are the soak's (`tests/soak`): one step at a time, the wire
//! at rest between steps, so that each answer of the shimmed ends must equal the plain ends' answer.
//! What the soak finds by chance stands in the `handback_*` tests by name.

// Every test program compiles this file and uses its part of it.
#![allow(dead_code, unused_imports)]

pub mod tap;

use std::{fs, path::Path, time::Duration};

use ktlsshim_soak::{
    endpoint::{self, Endpoint, Launch},
    oracle::{self, Seen},
    program::{Cut, Deed, End, Io, Op, Program, Setup, Side, Step},
    run::{self, Lane},
};
use ktlsshim_tests::{
    programs::Lab,
    programs_fixture::identity,
    traffic::{Kernel, Line, lines_in},
};

pub use ktlsshim_soak::generate::{SUITES12, SUITES13};
pub use ktlsshim_soak::program::Side::{Client, Server};

/// Records each way after what a test is about: more than the fast ones before it, so that so many
/// fast records mean that the kernel has the direction back.
pub const TAIL: usize = 12;

/// What one mix came to.
pub struct Found {
    /// Which ends had the shim: client, server.
    pub shim: [bool; 2],
    pub lines: [Vec<Line>; 2],
    pub kernel: Kernel,
    pub wire: [Seen; 2],
    pub lane: Lane,
}

impl Found {
    pub fn shims(&self) -> i64 {
        self.shim.iter().map(|s| i64::from(*s)).sum()
    }

    pub fn text(&self) -> String {
        let mut text = format!("shim (client, server) = {:?}\n", self.shim);
        for line in self.lines.iter().flatten() {
            text += &format!("  {}\n", line.text);
        }
        text += &format!("  wire {:?}\n  {:?}\n", self.wire, self.kernel);
        text + &self.answers(self)
    }

    /// What both ends said; where `plain` says otherwise, both.
    fn answers(&self, plain: &Found) -> String {
        let mut text = String::new();
        let (ours, theirs) = (&self.lane.transcript, &plain.lane.transcript);
        for at in 0..ours.len().max(theirs.len()) {
            let show = |of: Option<&(usize, String)>| match of {
                Some((step, text)) => format!("{step:>3} {text}"),
                None => "(nothing)".into(),
            };
            let (a, b) = (ours.get(at), theirs.get(at));
            if a.zip(b).is_some_and(|(a, b)| same(a, b)) {
                text += &format!("  {}\n", show(a));
            } else {
                text += &format!("- {}\n+ {}\n", show(b), show(a));
            }
        }
        text
    }

    fn equals(&self, plain: &Found) -> bool {
        let (ours, theirs) = (&self.lane.transcript, &plain.lane.transcript);
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same(a, b))
    }

    /// The one connection of each shimmed end: `(0 client or 1 server, line)`.
    pub fn ends(&self) -> Vec<(usize, &Line)> {
        let mut all = Vec::new();
        for side in 0..2 {
            let lines = &self.lines[side];
            assert_eq!(lines.len(), usize::from(self.shim[side]), "{}", self.text());
            all.extend(lines.first().map(|line| (side, line)));
        }
        all
    }

    /// Both directions of each shimmed end are in the kernel now, and carried the tail there.
    pub fn is_back(&self) {
        for (_, line) in self.ends() {
            let tail = TAIL as i64;
            assert!(line.offloaded(), "{}", self.text());
            assert!(
                line.tx.fast_records >= tail && line.rx.fast_records >= tail,
                "the tail went not by the kernel\n{}",
                self.text()
            );
            // A kernel that still has the direction when it is closed in order says so by that reason.
            let there = |reason: &str| reason == "offloaded" || reason == "close-notify";
            assert!(
                there(&line.tx.reason) && there(&line.rx.reason),
                "{}",
                self.text()
            );
        }
    }
}

/// So many KeyUpdates of client and server were on the wire; each shimmed end replaced so many keys,
/// the kernel counted the same, and nothing was detached.
pub fn re_keyed(found: &Found, by_client: u64, by_server: u64) {
    let sent = [by_client, by_server];
    let crossed = [0, 1].map(|side| found.wire[side].key_updates);
    assert_eq!(crossed, sent, "{}", found.text());
    let [client, server] = sent.map(|n| n as i64);
    let mut kernel = [0, 0];
    for (side, line) in found.ends() {
        let [tx, rx] = [[client, server], [server, client]][side];
        assert_eq!(
            [line.tx.rekeys, line.rx.rekeys],
            [tx, rx],
            "{}",
            found.text()
        );
        for dir in [&line.tx, &line.rx] {
            let last = i64::from(dir.reason == "close-notify");
            assert!((0..=last).contains(&dir.handbacks), "{}", found.text());
        }
        kernel = [kernel[0] + tx, kernel[1] + rx];
    }
    let counted = ["AlgTlsTxRekey", "AlgTlsRxRekey"].map(|name| found.kernel.get(name));
    assert_eq!(counted, kernel, "{}", found.text());
    assert_eq!(found.kernel.get("AlgTlsErrBadTag"), 0, "{}", found.text());
    found.is_back();
}

/// `n` renegotiations went through on the wire; each shimmed end handed both directions back as often
/// and attached them again.
pub fn renegotiated(found: &Found, n: u64) {
    for side in 0..2 {
        assert_eq!(found.wire[side].handshakes, 1 + n, "{}", found.text());
    }
    let n = n as i64;
    let mut detached = [0, 0];
    for (_, line) in found.ends() {
        for (way, dir) in [&line.tx, &line.rx].into_iter().enumerate() {
            // A direction may be handed back once more when it is closed.
            let last = i64::from(dir.reason == "close-notify");
            assert!((n..=n + last).contains(&dir.handbacks), "{}", found.text());
            detached[way] += dir.handbacks;
        }
    }
    for (counter, times) in [
        ("AlgTlsTxDetach", detached[0]),
        ("AlgTlsRxDetach", detached[1]),
        ("AlgTlsTx", (1 + n) * found.shims()),
        ("AlgTlsRx", (1 + n) * found.shims()),
        ("AlgTlsErrBadTag", 0),
        ("AlgTlsErrKeyReuse", 0),
    ] {
        let counted = found.kernel.get(counter);
        assert_eq!(counted, times, "{counter}\n{}", found.text());
    }
    found.is_back();
}

/// Are two answers the same? One that was given before the wire had come to rest is short.
fn same(a: &(usize, String), b: &(usize, String)) -> bool {
    let ends = |text: &str| text.find(" want=").unwrap_or(text.len());
    let (x, y) = (ends(&a.1), ends(&b.1));
    let short = x == a.1.len() || y == b.1.len();
    a.0 == b.0
        && if short {
            a.1[..x] == b.1[..y]
        } else {
            a.1 == b.1
        }
}

/// Two endpoints under the shim and two without, and what they are measured by.
pub struct Ends {
    pub lab: Lab,
    /// plain, shimmed: client, server.
    ends: [[Endpoint; 2]; 2],
}

impl Ends {
    pub fn new(name: &str) -> Ends {
        Ends::with(name, "")
    }

    /// `options`: lines of the section that OpenSSL applies to every context.
    pub fn with(name: &str, options: &str) -> Ends {
        Ends::custom(name, options, None, &[])
    }

    /// With another shim than the one under test, and more in its environment.
    pub fn custom(name: &str, options: &str, other: Option<&Path>, env: &[(&str, &str)]) -> Ends {
        let lab = Lab::new(name);
        let conf = lab.path("openssl.cnf");
        let text = format!(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = contexts\n[contexts]\n{options}\n"
        );
        fs::write(&conf, text).expect("openssl.cnf");
        let start = |shimmed: bool, name: &str| {
            let log = lab.path(&format!("{name}.log"));
            let vars = if shimmed {
                lab.shim_environment(&log)
            } else {
                Vec::new()
            };
            let of = |key: &str| {
                let found = vars.iter().find(|(k, _)| *k == key)?;
                Some(found.1.clone().into())
            };
            let mut env: Vec<_> = if shimmed { env } else { &[] }
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            env.push(("OPENSSL_CONF".to_owned(), conf.display().to_string()));
            Endpoint::start(&Launch {
                command: vec![endpoint::PROGRAM.to_owned()],
                cert: identity().cert.clone(),
                key: identity().key.clone(),
                shim: other
                    .filter(|_| shimmed)
                    .map_or_else(|| of("LD_PRELOAD"), |p| Some(p.to_owned())),
                log: of("KTLSSHIM_LOG"),
                env,
            })
            .expect("an endpoint")
        };
        let ends = [
            [start(false, "c0"), start(false, "s0")],
            [start(true, "c1"), start(true, "s1")],
        ];
        Ends { lab, ends }
    }

    /// Runs the program plain, then in the three mixes: the same answers, a wire without a fault, and
    /// what `proof` demands.
    pub fn check(&mut self, what: &str, program: &Program, proof: impl Fn(&Found)) {
        let plain = self.lane(program, [false, false]);
        assert!(
            plain.lane.trouble.is_none(),
            "{what}: trouble without the shim\n{}",
            plain.text()
        );
        assert_eq!(
            plain.kernel.get("AlgTlsTx") + plain.kernel.get("AlgTlsRx"),
            0,
            "{what}: a plain run was offloaded"
        );
        if self.lab.plain() {
            println!("{what}\n{}", plain.text());
            return;
        }
        for shim in [[true, false], [false, true], [true, true]] {
            let found = self.lane(program, shim);
            if !found.equals(&plain) {
                panic!(
                    "{what}: differs from plain\n{}\n{}",
                    found.text(),
                    found.answers(&plain)
                );
            }
            // Appended to a failure, so that the name of the program is on the screen.
            println!("{what}: {shim:?}");
            proof(&found);
        }
    }

    pub fn lane(&mut self, program: &Program, shim: [bool; 2]) -> Found {
        let before = Kernel::now(&self.lab);
        let [[c0, s0], [c1, s1]] = &mut self.ends;
        let client = if shim[0] { c1 } else { c0 };
        let server = if shim[1] { s1 } else { s0 };
        let patience = Duration::from_secs(30);
        let mut counters = ktlsshim_soak::counters::Counters::none();
        let lane = run::run(
            program,
            client,
            server,
            patience,
            run::How::default(),
            &mut counters,
        );
        let kernel = if self.lab.plain() {
            Kernel::default()
        } else {
            Kernel::settled(&self.lab).since(&before)
        };
        let [client, server] = &lane.logs;
        let mut found = Found {
            shim,
            lines: [lines_in(client), lines_in(server)],
            kernel,
            wire: Default::default(),
            lane,
        };
        if found.lane.trouble.is_none() {
            match oracle::judge(&found.lane.captured, &found.lane.keylog) {
                Ok(seen) => found.wire = seen,
                Err(e) => panic!("the wire: {e}\n{}", found.text()),
            }
        }
        found
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // A failure's logs stay with the laboratory.
        if !std::thread::panicking() {
            for name in ["c1", "s1"] {
                let _ = fs::remove_file(self.lab.path(&format!("{name}.log")));
            }
        }
    }
}

/// An ordinary end: a non-blocking socket and OpenSSL's defaults.
pub fn end() -> End {
    End {
        io: Io::Socket,
        modes: 4,
        nonblocking: true,
        timeout: 0,
        use_ex: false,
        read_ahead: false,
        max_fragment: 0,
        send_buffer: 131_072,
        receive_buffer: 4 << 20,
    }
}

/// A program as it grows. It begins with data both ways, so that both directions are in the kernel
/// when the rest begins.
pub struct Script {
    pub program: Program,
}

impl Script {
    pub fn new(suite: &str) -> Script {
        let setup = Setup {
            tls13: SUITES13.contains(&suite),
            suite: suite.to_owned(),
            ends: [end(), end()],
            tickets: 2,
            refuse_renegotiation: 0,
            ask_certificate: false,
            client_certificate: true,
            fragment_length: 0,
            eof_is_fine: false,
        };
        let program = Program {
            seed: 0,
            setup,
            steps: Vec::new(),
        };
        Script { program }.rounds(2)
    }

    pub fn with(mut self, change: impl FnOnce(&mut Setup)) -> Script {
        change(&mut self.program.setup);
        self
    }

    pub fn step(mut self, step: Step) -> Script {
        self.program.steps.push(step);
        self
    }

    pub fn op(self, side: Side, op: Op) -> Script {
        self.step(Step::Do(side, op))
    }

    pub fn write(self, side: Side, n: u32) -> Script {
        self.op(side, Op::Write(n))
    }

    pub fn read_all(self, side: Side) -> Script {
        self.op(side, Op::ReadAll { piece: 16384 })
    }

    pub fn update(self, side: Side, ask: bool) -> Script {
        self.op(side, Op::KeyUpdate { ask })
    }

    pub fn together(self, client: Vec<Deed>, server: Vec<Deed>) -> Script {
        self.step(Step::Together([client, server]))
            .step(Step::Barrier)
    }

    pub fn renegotiate(self, by: Side) -> Script {
        self.step(Step::Renegotiate {
            by,
            short: false,
            suite: None,
            ask: false,
        })
    }

    pub fn cut(self, to: Side, cut: Cut) -> Script {
        self.step(Step::Wire {
            to,
            cut,
            lag: false,
        })
    }

    /// `n` times a record each way.
    pub fn rounds(mut self, n: usize) -> Script {
        for i in 0..n as u32 {
            for side in [Client, Server] {
                self = self.write(side, 100 + i).read_all(side.other());
            }
        }
        self
    }

    /// As it is, for what ends otherwise than by more data.
    pub fn bare(self) -> Program {
        self.program
    }

    /// The records that must go by the kernel.
    pub fn tail(self) -> Program {
        let writes = vec![Deed::Write(150); TAIL];
        let mut script = self
            .step(Step::Barrier)
            .together(writes.clone(), writes)
            .rounds(1);
        script.program.steps.push(Step::Do(Client, Op::State));
        script.program.steps.push(Step::Do(Server, Op::State));
        script.program
    }
}
