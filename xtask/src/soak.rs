// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask soak`: the differential model test for as long as one likes, in the virtual machine.
//!
//! The tester itself is `tests/soak`; here it is built, copied (so that nobody's next build reaches a
//! run), and started once per OpenSSL. For one other than this machine's the endpoint is compiled
//! against a root (`roots.rs`) and started by the root's own dynamic linker.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::build;
use crate::vm::Machine;
use crate::{host, paths, roots};

/// This machine's own.
const NATIVE: &str = "3.0";

const VERSIONS: [&str; 5] = [NATIVE, "1.1.1", "3.5", "3.6", "4.0"];

/// From so many minutes on a run claims something.
const FULL: f64 = 20.0;
/// What it claims: programs with 3.0, with each other OpenSSL, and how often each transition was seen.
const PROGRAMS: u64 = 2000;
const PROGRAMS_OTHERS: u64 = 200;
const EACH: u64 = 100;

#[derive(Args, Debug)]
#[command(after_help = "\
Random programs of TLS operations run four times each: no shim, shim at the client, at the server, at both.
Whatever an end can see must be equal, and the wire must decrypt without a fault. A difference is printed
with its seed and the shortest program that shows it; the exit status is 1 then. The last lines say what
was exercised and what the kernel carried.

Without --openssl all five have their turn: 3.0 for --minutes, each other one for an eighth of that. A run of
20 minutes or more goes on, for three times as long at most, until 2,000 programs count with 3.0 and 200
with each other one, and each operation has met each of its lane transitions 100 times with each; if
that is not reached the exit status is 1, too. A program counts if the kernel carried its data at
each end that has the shim.

    cargo xtask soak --minutes 20
    cargo xtask soak --openssl 3.5 --minutes 5
    cargo xtask soak --seed 6017 --programs 1     the same program again
    cargo xtask soak --replay FILE                a program as a report printed it")]
pub struct Soak {
    /// How long, with 3.0 or whatever --openssl names
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// Whose libssl; may be given several times. 3.0 is this machine's, others are fetched (`cargo xtask roots`)
    #[arg(long, value_parser = VERSIONS)]
    pub openssl: Vec<String>,
    /// The first program's seed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many programs
    #[arg(long)]
    pub programs: Option<u64>,
    /// Run one program, as a report printed it
    #[arg(long)]
    pub replay: Option<PathBuf>,
    /// Leave a kind of operation out (names in tests/soak/src/generate.rs)
    #[arg(long)]
    pub without: Vec<String>,
    /// How many programs run at once
    #[arg(long, default_value_t = 4)]
    pub workers: u32,
    #[command(flatten)]
    pub machine: Machine,
}

/// What one OpenSSL came to.
struct Part {
    version: String,
    status: i32,
    /// The tester's last line, if it got so far.
    summary: Value,
}

impl Soak {
    pub fn run(self) -> Result<i32> {
        host::need_packages(crate::test::BUILD_PACKAGES)?;
        build::shim(true)?;
        let tools = Tools::make()?;
        let one = self.seed.is_some() || self.programs.is_some() || self.replay.is_some();
        let versions = match (self.openssl.is_empty(), one) {
            (true, true) => vec![NATIVE.to_owned()],
            (true, false) => VERSIONS.map(str::to_owned).to_vec(),
            (false, _) => self.openssl.clone(),
        };
        // All that is to be fetched and compiled is there before the first hour begins.
        for version in &versions {
            tools.endpoint(version)?;
        }
        let mut parts = Vec::new();
        for version in versions {
            host::say(&format!("OpenSSL {version}"));
            let (status, summary) = self.with(&tools, &version)?;
            parts.push(Part {
                version,
                status,
                summary,
            });
        }
        if self.replay.is_none() {
            print!("{}", table(&parts));
        }
        Ok(parts
            .iter()
            .map(|p| p.status)
            .find(|s| *s != 0)
            .unwrap_or(0))
    }

    fn with(&self, tools: &Tools, version: &str) -> Result<(i32, Value)> {
        let alone = !self.openssl.is_empty();
        let minutes = match version == NATIVE || alone {
            true => self.minutes,
            false => self.minutes / 8.0,
        };
        let most = minutes * 3.0;
        let mut argv = vec![
            tools.tester().display().to_string(),
            format!("--endpoint={}", tools.endpoint(version)?),
            format!("--minutes={minutes}"),
            format!("--workers={}", self.workers),
        ];
        if self.minutes >= FULL && self.programs.is_none() {
            let counted = if version == NATIVE {
                PROGRAMS
            } else {
                PROGRAMS_OTHERS
            };
            argv.push(format!("--counted={counted}"));
            argv.push(format!("--each={EACH}"));
            argv.push(format!("--most-minutes={most}"));
        }
        argv.extend(self.seed.map(|n| format!("--seed={n}")));
        argv.extend(self.programs.map(|n| format!("--programs={n}")));
        argv.extend(self.without.iter().map(|n| format!("--without={n}")));
        if let Some(file) = &self.replay {
            argv.push(format!("--replay={}", file.canonicalize()?.display()));
        }
        let mut machine = self.machine.clone();
        // Shrinking goes on after the time is up.
        machine.timeout = machine.timeout.max((most * 60.0) as u64 + 900);
        let mut summary = Value::Null;
        let mut tap = |line: &str| match line.strip_prefix("soak-summary ") {
            Some(json) => summary = serde_json::from_str(json).unwrap_or(Value::Null),
            None => println!("{line}"),
        };
        let ended = machine.run_in(&argv, paths::workspace(), Some(&mut tap))?;
        Ok((ended.code(), summary))
    }
}

/// One line per OpenSSL.
fn table(parts: &[Part]) -> String {
    const COLUMNS: [(&str, &str); 10] = [
        ("programs", "programs"),
        ("counted", "count"),
        ("differences", "differ"),
        ("records", "records"),
        ("bytes", "bytes"),
        ("translated", "translated"),
        ("rekeys", "re-keys"),
        ("handbacks", "hand-backs"),
        ("resumes", "resumes"),
        ("rarest", "rarest"),
    ];
    let mut text = format!("\n{:<8}", "OpenSSL");
    COLUMNS
        .iter()
        .for_each(|(_, title)| text += &format!("{title:>12}"));
    text.push('\n');
    for part in parts {
        text += &format!("{:<8}", part.version);
        for (key, _) in COLUMNS {
            let n = part.summary[key].as_u64();
            text += &format!("{:>12}", n.map_or("-".into(), |n| n.to_string()));
        }
        text += match part.status {
            0 => "\n",
            _ => "  FAILED\n",
        };
    }
    text += "records, bytes: carried by the kernel in both directions; rarest: how often the rarest of the\n\
             lane transitions that must occur did\n";
    text
}

/// The programs of one run, in a directory of its own.
struct Tools(PathBuf);

impl Tools {
    fn make() -> Result<Self> {
        let target = paths::workspace().join("target/soak");
        build::tester("ktlsshim-soak", &target)?;
        let dir = target.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let tools = Self(dir);
        fs::copy(target.join("release/soak"), tools.tester())?;
        Ok(tools)
    }

    fn tester(&self) -> PathBuf {
        self.0.join("soak")
    }

    /// The command line of an endpoint that uses this OpenSSL; compiled at the first call.
    fn endpoint(&self, version: &str) -> Result<String> {
        let program = self.0.join(format!("endpoint-{version}"));
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-o"]).arg(&program).args(sources()?);
        if version == NATIVE {
            if !program.exists() {
                host::run_quiet(compile.args(["-lssl", "-lcrypto"]))?;
            }
            return Ok(program.display().to_string());
        }
        let root = roots::prepare(version)?;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        // Merged /usr or not.
        let linker = ["usr/lib64", "lib64"].map(|dir| root.join(dir).join("ld-linux-x86-64.so.2"));
        let linker = linker.iter().find(|path| path.exists());
        let linker = linker.with_context(|| format!("no dynamic linker in {}", root.display()))?;
        let library = ["libssl.so.4", "libssl.so.3", "libssl.so.1.1"]
            .iter()
            .find(|name| libraries.join(name).exists())
            .with_context(|| format!("no libssl in {}", libraries.display()))?;
        if !program.exists() {
            let include = root.join("usr/include");
            for dir in [&include, &include.join("x86_64-linux-gnu")] {
                compile.arg("-isystem").arg(dir);
            }
            for name in [*library, &library.replace("ssl", "crypto")] {
                compile.arg(libraries.join(name));
            }
            // What these libraries need of a newer libc is there at run time.
            host::run_quiet(compile.arg("-Wl,--allow-shlib-undefined"))?;
        }
        let older = root.join("lib/x86_64-linux-gnu");
        let path = format!("{}:{}", libraries.display(), older.display());
        Ok(format!(
            "{} --library-path {path} {}",
            linker.display(),
            program.display()
        ))
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sources() -> Result<Vec<PathBuf>> {
    let dir = paths::workspace().join("tests/soak/endpoint");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "c") {
            all.push(path);
        }
    }
    Ok(all)
}
