// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scenes for two ends of a connection (`programs/end.h`), played plain and in every mix, with all
//! that the ends could observe compared.
//!
//! A [`Stage`] owns one plain and one shimmed process for each end, and the [`Lab`] with their
//! network and directory. The processes play scene after scene, since starting one under a preload
//! in an emulated machine costs more than most scenes. [`on_stage`] has one stage for all tests of
//! a test program; it ends with that program, when the processes' stdin does.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    os::fd::AsRawFd,
    sync::{Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use crate::{
    meddler::{Meddle, Meddler, Passed},
    programs::{Evidence, Lab, MIXES, Running, Side},
    programs_fixture::identity,
    traffic::{Kernel, Line, lines_in},
};

/// A scene takes a small part of this, on a slow machine too; but for a thousand handshakes.
const PATIENCE: Duration = Duration::from_secs(120);

/// `programs/end.c`, compiled.
const END: &str = env!("KTLSSHIM_TESTS_END");

/// Protocol version and cipher suite.
pub type Suite = (u32, &'static str);

pub const OLD: Suite = (12, "ECDHE-ECDSA-AES128-GCM-SHA256");
pub const OLD_CHACHA: Suite = (12, "ECDHE-ECDSA-CHACHA20-POLY1305");
pub const NEW: Suite = (13, "TLS_AES_128_GCM_SHA256");
pub const NEW_CHACHA: Suite = (13, "TLS_CHACHA20_POLY1305_SHA256");
/// Both versions, and both ways to make a nonce of TLS 1.2.
pub const ALL: [Suite; 3] = [OLD, OLD_CHACHA, NEW];
pub const BOTH: [Suite; 2] = [OLD, NEW];

/// One mix of one scene.
pub struct Found<'a> {
    /// Which ends had the shim: client, server.
    pub shim: [bool; 2],
    pub suite: Suite,
    /// What the shims logged: client, server.
    pub lines: [&'a [Line]; 2],
    pub kernel: &'a Kernel,
    /// The remarks of both ends.
    pub remarks: Vec<String>,
    /// What went by, if a relay stood between the ends.
    pub passed: Vec<Passed>,
    text: String,
}

impl Found<'_> {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn shims(&self) -> i64 {
        self.shim.iter().map(|s| i64::from(*s)).sum()
    }

    /// The lines of the shimmed ends, which must be so many at each of them.
    pub fn each(&self, connections: usize) -> Vec<&Line> {
        for side in 0..2 {
            let want = if self.shim[side] { connections } else { 0 };
            assert_eq!(self.lines[side].len(), want, "{}", self.text);
        }
        self.lines.iter().flat_map(|lines| lines.iter()).collect()
    }

    /// One connection at each shimmed end, and its records were the kernel's in both directions,
    /// `least` of them without OpenSSL. [`Found::each`] with the usual proof.
    pub fn offloaded(&self, least: i64) {
        for line in self.each(1) {
            self.line_is_fast(line, least);
        }
        self.counted(self.shims());
    }

    pub fn line_is_fast(&self, line: &Line, least: i64) {
        assert!(line.offloaded(), "{}\n{}", line.text, self.text);
        assert!(
            line.tx.fast_records >= least && line.rx.fast_records >= least,
            "{}\n{}",
            line.text,
            self.text
        );
    }

    /// So many directions of each kind were attached, and each moved records.
    pub fn counted(&self, attached: i64) {
        for name in ["AlgTlsTx", "AlgTlsRx"] {
            assert!(self.kernel.get(name) >= attached, "{name}\n{}", self.text);
        }
        for name in ["AlgTlsTxBytes", "AlgTlsRxBytes"] {
            assert!(
                self.kernel.get(name) >= 4000 * attached,
                "{name}\n{}",
                self.text
            );
        }
    }
}

/// A process that plays scenes.
struct Actor {
    running: Running,
    out_at: usize,
    log_at: usize,
}

impl Actor {
    fn begin(&mut self, command: &str) {
        self.running.say(command);
    }

    /// Waits for the end of the scene; false when it does not come.
    fn ends(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = fs::read(&self.running.out).unwrap_or_default();
            if said[self.out_at..].ends_with(b"=end\n") {
                return true;
            }
            if self.running.ended().is_some() || Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it says now, and where its threads are.
    fn describe(&self) -> String {
        let said = fs::read(&self.running.out).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&said[self.out_at..]).into_owned();
        for file in ["status", "wchan", "stack", "syscall"] {
            let path = format!("/proc/{}/{file}", self.running.pid());
            let all = fs::read_to_string(path).unwrap_or_default();
            let lines = all
                .lines()
                .filter(|l| file != "status" || l.starts_with("State"));
            text += &lines.map(|l| format!("  {file} {l}\n")).collect::<String>();
        }
        text
    }

    /// What it has said, and what its shim has logged.
    fn finish(&mut self) -> (String, Vec<Line>) {
        let said = fs::read(&self.running.out).expect("output");
        let text = String::from_utf8_lossy(&said[self.out_at..]).into_owned();
        self.out_at = said.len();
        let log = fs::read(&self.running.log).unwrap_or_default();
        let new = String::from_utf8_lossy(&log[self.log_at..]).into_owned();
        self.log_at = log.len();
        (text, lines_in(&new))
    }
}

/// Two ends that can be with and without the shim.
pub struct Stage {
    env: Vec<(String, String)>,
    ports: [u16; 2],
    /// By (is the server, has the shim). Goes before the directory that the lab removes.
    actors: RefCell<BTreeMap<(bool, bool), Actor>>,
    lab: Lab,
}

/// What is played, by which rules, and what must be said lest the scene has missed its point.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub name: &'a str,
    pub suite: Suite,
    pub says: &'a [&'a str],
    /// What a relay between the ends does, if there is to be one.
    pub meddle: Option<Meddle>,
}

/// Runs `test` on the stage that all tests of this program share.
pub fn on_stage(test: impl FnOnce(&Stage)) {
    static STAGE: OnceLock<(Mutex<Stage>, File)> = OnceLock::new();

    let (stage, network) = STAGE.get_or_init(|| {
        let stage = Stage::new("stage");
        let network = File::open("/proc/thread-self/ns/net").expect("our network");
        (Mutex::new(stage), network)
    });
    // SAFETY: setns changes this thread's network only; each test has a thread of its own.
    let entered = unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "cannot enter the stage's network");
    let stage = stage.lock().unwrap_or_else(|poisoned| {
        // The test before this one left its ends in the middle of a scene.
        let stage = poisoned.into_inner();
        stage.actors.borrow_mut().clear();
        stage
    });
    test(&stage);
    assert!(
        !stage.lab.plain(),
        "PLAIN ONLY: the programs agree, and nothing was proved"
    );
}

#[derive(Default)]
struct Played {
    transcript: Vec<String>,
    remarks: Vec<String>,
    passed: Vec<Passed>,
}

impl Stage {
    /// A stage of one test's own.
    pub fn new(name: &str) -> Stage {
        let lab = Lab::new(name);
        Stage {
            env: Vec::new(),
            ports: [lab.port(), lab.port()],
            actors: RefCell::default(),
            lab,
        }
    }

    /// For the shim of either end.
    pub fn env(mut self, key: &str, value: &str) -> Stage {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Plays the scene plain and in every mix, and demands equal transcripts.
    pub fn check(&self, name: &str, suite: Suite, says: &[&str], proof: impl Fn(&Found)) {
        let scene = Scene {
            name,
            suite,
            says,
            meddle: None,
        };
        self.check_mixes(&MIXES, scene, proof);
    }

    pub fn check_scene(&self, scene: Scene, proof: impl Fn(&Found)) {
        self.check_mixes(&MIXES, scene, proof);
    }

    pub fn check_mixes(&self, mixes: &[(Side, Side)], scene: Scene, proof: impl Fn(&Found)) {
        let Scene {
            name,
            suite,
            says,
            meddle,
        } = scene;
        let played = RefCell::new(Played::default());
        self.lab.differ(
            mixes,
            |server, client| {
                let (now, evidence) = self.play(scene, server, client);
                for word in says {
                    assert!(
                        now.transcript.iter().any(|line| line.contains(word)),
                        "{name} {suite:?}: nobody says {word:?}\n{:#?}",
                        now.transcript
                    );
                }
                let transcript = now.transcript.clone();
                played.replace(now);
                (transcript, evidence)
            },
            |mix, evidence, kernel| {
                let now = played.take();
                let text = format!(
                    "{name} {suite:?} {meddle:?} (server, client) = {mix:?}\n{}  {kernel:?}\n  {}\n  {}",
                    evidence.describe(),
                    now.transcript.join("\n  "),
                    now.remarks.join("\n  ")
                );
                proof(&Found {
                    shim: [mix.1 == Side::Shim, mix.0 == Side::Shim],
                    suite,
                    lines: [&evidence.client, &evidence.server],
                    kernel,
                    remarks: now.remarks,
                    passed: now.passed,
                    text,
                });
            },
        );
    }

    fn play(&self, scene: Scene, server: Side, client: Side) -> (Played, Evidence) {
        let Scene {
            name,
            suite,
            meddle,
            ..
        } = scene;
        let mut actors = self.actors.borrow_mut();
        let port = self.ports[usize::from(server == Side::Shim)];
        let relay = meddle.map(|meddle| Meddler::to(port, meddle));
        let data = relay.as_ref().map_or(port, |relay| relay.port);
        let command = format!("{name} {} {} {port} {data}\n", suite.0, suite.1);
        let keys = [(true, server == Side::Shim), (false, client == Side::Shim)];
        for key in keys {
            let actor = match actors.entry(key) {
                Entry::Occupied(actor) => actor.into_mut(),
                Entry::Vacant(place) => place.insert(self.start(key)),
            };
            actor.begin(&command);
        }
        let ended = keys.map(|key| actors.get_mut(&key).is_some_and(Actor::ends));
        assert!(
            ended == [true; 2],
            "{name} {suite:?} (server, client) = {:?} has no end\nserver:\n{}client:\n{}",
            (server, client),
            actors[&keys[0]].describe(),
            actors[&keys[1]].describe(),
        );
        let mut played = Played::default();
        let mut evidence = Evidence::default();
        for key in keys {
            let (text, lines) = actors.get_mut(&key).expect("it plays").finish();
            let who = if key.0 { "server" } else { "client" };
            for line in text.lines().filter(|line| *line != "=end") {
                let list = if line.starts_with('#') {
                    &mut played.remarks
                } else {
                    &mut played.transcript
                };
                list.push(format!("{who}: {line}"));
            }
            if key.0 {
                evidence.server = lines;
            } else {
                evidence.client = lines;
            }
        }
        let failed = |line: &String| line.contains("FAILED") || line.contains("WRONG BYTES");
        assert!(
            !played.transcript.iter().any(failed),
            "{name} {suite:?} (server, client) = {:?}\n{:#?}\n{}",
            (server, client),
            played.transcript,
            evidence.describe()
        );
        played.passed = relay.map(|relay| relay.passed()).unwrap_or_default();
        (played, evidence)
    }

    fn start(&self, (is_server, shim): (bool, bool)) -> Actor {
        let side = if shim { Side::Shim } else { Side::Plain };
        let port = self.ports[usize::from(shim)];
        let mut program = self
            .lab
            .program(side, END)
            .arg(if is_server { "server" } else { "client" })
            .arg(port.to_string())
            .arg(&identity().cert)
            .arg(&identity().key)
            .interactive();
        for (key, value) in self.env.iter().filter(|_| shim) {
            program = program.env(key, value);
        }
        // For whoever tests these tests: a fault in the shim, if it was built with faults.
        if let Some(plant) = std::env::var_os("KTLSSHIM_PLANT").filter(|_| shim) {
            program = program.env("KTLSSHIM_PLANT", plant);
        }
        let mut running = program.start();
        if is_server {
            running = running.listening(port);
        }
        Actor {
            running,
            out_at: 0,
            log_at: 0,
        }
    }
}
