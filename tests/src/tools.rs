// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program of the scenes (`programs/end.h`) with somebody's tool in the same process.

use std::path::{Path, PathBuf};

use crate::{
    programs::{Lab, Outcome, Program, Side},
    programs_fixture::identity,
    traffic::Kernel,
};

pub const END: &str = env!("KTLSSHIM_TESTS_END");
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

pub type Variables = &'static [(&'static str, &'static str)];

/// One way to run a program: what is preloaded besides, and where `+` stands the shim comes.
pub struct Way {
    pub program: &'static str,
    pub preload: String,
    pub env: Variables,
    pub wrapper: &'static [&'static str],
    /// What has to be in the process (or have spoken in it), lest nothing is shown.
    pub there: &'static str,
}

impl Way {
    fn plain(&self) -> Way {
        let rest = self.preload.split(':').filter(|l| *l != "+");
        Way {
            preload: rest.collect::<Vec<_>>().join(":"),
            ..*self
        }
    }

    fn start(&self, lab: &Lab, side: Side) -> Program {
        let mut program = match self.wrapper {
            [] => lab.program(side, self.program),
            [wrapper, flags @ ..] => {
                let mut program = lab.program(side, wrapper);
                program.command.args(flags).arg(self.program);
                program
            }
        };
        let log = program.log.clone();
        let preload = lab
            .shim_environment(&log)
            .into_iter()
            .find(|(key, _)| *key == "LD_PRELOAD")
            .map_or(String::new(), |(_, path)| path);
        program = program.env("LD_PRELOAD", self.preload.replace('+', &preload));
        for (key, value) in self.env {
            program = program.env(key, value);
        }
        program
    }
}

/// Both ends play the scenes; what they said, without remarks.
fn play(lab: &Lab, way: &Way, side: Side, scenes: &[&str]) -> [Outcome; 2] {
    let port = lab.port();
    let lines: String = scenes
        .iter()
        .map(|scene| format!("{scene} 13 TLS_AES_128_GCM_SHA256 {port} {port}\n"))
        .collect();
    let end = |role: &str| {
        way.start(lab, side)
            .arg(role)
            .arg(port.to_string())
            .arg(&identity().cert)
            .arg(&identity().key)
            .input(lines.as_bytes())
    };
    let server = end("server").start().listening(port);
    let client = end("client").run();
    [server.wait(), client]
}

fn said(outcome: &Outcome) -> (i32, Vec<String>, String) {
    let text = outcome.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    (
        outcome.status,
        lines.map(str::to_owned).collect(),
        outcome.errors(),
    )
}

/// Plain and with the shim: the same words, the same end, nothing on stderr; and in the kernel.
pub fn compare(name: &str, way: &Way, scenes: &[&str], connections: usize) {
    let lab = Lab::new(name);
    let plain = play(&lab, &way.plain(), Side::Plain, scenes);
    let before = Kernel::now(&lab);
    let shim = play(&lab, way, Side::Shim, scenes);
    for (plain, shim) in plain.iter().zip(&shim) {
        let text = shim.text();
        assert_eq!(said(plain), said(shim), "{name}: {}", way.preload);
        assert_eq!((shim.status, shim.errors().as_str()), (0, ""), "{text}");
        assert!(!text.contains("FAILED"), "{text}");
        assert!(text.contains(way.there), "no {} in {text}", way.there);
        if lab.plain() {
            continue;
        }
        assert_eq!(shim.log.len(), connections, "{:#?}", shim.log);
        for line in &shim.log {
            assert!(line.offloaded(), "{}", line.text);
            assert!(
                line.tx.fast_records >= 5 && line.rx.fast_records >= 5,
                "{}",
                line.text
            );
        }
    }
    let kernel = Kernel::settled(&lab).since(&before);
    for counter in ["AlgTlsTx", "AlgTlsRx"] {
        assert_eq!(kernel.get(counter), 2 * connections as i64, "{kernel:?}");
    }
}

pub fn library(name: &str) -> PathBuf {
    let path = Path::new(LIBRARIES).join(name);
    assert!(path.exists(), "{} is not there", path.display());
    path
}

pub fn with_library(
    name: &str,
    path: &Path,
    there: &'static str,
    scenes: &[&str],
    connections: usize,
) {
    for preload in [
        format!("+:{}", path.display()),
        format!("{}:+", path.display()),
    ] {
        let way = Way {
            program: END,
            preload,
            env: &[],
            wrapper: &[],
            there,
        };
        compare(name, &way, scenes, connections);
    }
}
