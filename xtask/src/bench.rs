// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what a byte, a round trip or a connection costs, in instructions and in bytes
//! moved, without TLS, with OpenSSL, with OpenSSL's own kernel TLS, and with the shim.
//!
//! A virtual machine of one CPU, whose clock counts instructions, runs the programs of tests/bench;
//! a QEMU plugin (count.c) counts between the markers that they execute. The same work costs the same
//! on every machine and under every load, which is what lets `--check` see two per cent. Rows and
//! targets are in `bench_cells.rs`, what happens inside the machine in `bench_guest.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use serde_json::{Value, json};

use crate::bench_cells::{self, COLUMNS, Carried, Cell, Column, Row};
use crate::bench_table::{self, Figures};
use crate::host::Tool;
use crate::kernel::Kernel;
use crate::{bench_guest, bench_svg, build, host, paths, vm};

#[derive(Args, Debug)]
#[command(after_help = "\
    cargo xtask bench                        every row, TLS 1.3, AES-128-GCM
    cargo xtask bench write read --tls 1.2   the rows whose names begin so
    cargo xtask bench --check                the short rows against benches/figures.json
    cargo xtask bench write-16K --profile    where the instructions go, by function")]
pub struct Bench {
    /// Only these rows, or all whose name begins so
    rows: Vec<String>,
    /// Versions of TLS
    #[arg(long, value_name = "VERSION", default_value = "1.3", value_parser = ["1.2", "1.3"])]
    tls: Vec<String>,
    /// Ciphers
    #[arg(long, default_value = "aes128", value_parser = ["aes128", "aes256", "chacha20"])]
    cipher: Vec<String>,
    /// Only these columns
    #[arg(long, value_parser = ["tcp", "openssl", "ktls", "shim"])]
    column: Vec<String>,
    /// Which kernel to boot
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Kernel,
    /// Also write the figures to this file (they are always in target/bench/last.json)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show kept figures once more; measures nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "check", "profile"])]
    show: Option<PathBuf>,
    /// Draw them, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure the short rows and compare with the committed figures
    #[arg(long)]
    check: bool,
    /// Add what was measured to the committed figures, benches/figures.json
    #[arg(long, conflicts_with = "check")]
    save: bool,
    /// Instructions only: counting bytes moved makes the machine slower
    #[arg(long)]
    no_bytes: bool,
    /// Say which functions the instructions of column D, and of A, were executed in
    #[arg(long)]
    profile: bool,
    /// Runs inside the virtual machine (the other half of this command)
    #[arg(long, hide = true, value_name = "DIR")]
    guest: Option<PathBuf>,
}

/// How much worse a committed figure may become.
const TOLERANCE: f64 = 0.02;

impl Bench {
    pub fn run(self) -> Result<i32> {
        if let Some(fixture) = &self.guest {
            let shim = std::env::var_os("KTLSSHIM").context("KTLSSHIM names no shim")?;
            bench_guest::run(fixture, Path::new(&shim))?;
            return Ok(0);
        }
        let figures = match &self.show {
            Some(file) => Figures::read(file)?,
            None => self.measure()?,
        };
        println!("{}", bench_table::table(&figures));
        let mut bad = figures.faults();
        if self.show.is_none() {
            fs::create_dir_all(directory())?;
            figures.write(&directory().join("last.json"))?;
            if let Some(file) = &self.json {
                figures.write(file)?;
            }
        }
        if let Some(file) = &self.svg {
            bench_svg::draw(&figures, &self.tls[0], &self.cipher[0], file)?;
        }
        if self.check {
            // A connection without TLS is so short that the scheduler's part of it varies.
            bad.retain(|line| !line.contains(&format!("/{}:", Column::Tcp.name())));
            let kept = Figures::read(&committed())?;
            for other in figures.differently_made(&kept) {
                println!(
                    "bench: the committed figures were made with {other}: only D/A is compared"
                );
            }
            bad.extend(figures.worse_than(&kept, TOLERANCE));
        } else if self.save {
            let mut kept = Figures::read(&committed()).unwrap_or_default();
            kept.merge(figures);
            kept.write(&committed())?;
        }
        bad.iter().for_each(|line| println!("bench: {line}"));
        Ok(i32::from(!bad.is_empty()))
    }

    fn measure(&self) -> Result<Figures> {
        let rows: Vec<&Row> = match self.check && self.rows.is_empty() {
            true => bench_cells::ROWS.iter().filter(|row| row.short).collect(),
            false => bench_cells::chosen(&self.rows),
        };
        if rows.is_empty() {
            let names: Vec<_> = bench_cells::ROWS.iter().map(|row| row.name).collect();
            bail!("no such row; there are: {}", names.join(", "));
        }
        host::need(&[
            host::QEMU,
            host::GCC,
            Tool("nginx", "nginx-light"),
            Tool("openssl", "openssl"),
            Tool("modprobe", "kmod"),
        ])?;
        build::shim(true)?;
        let cells = self.cells(&rows);
        let run = Fixture::new(&cells, self.profile)?;
        let mut figures = Figures::default();
        let mut options = String::new();
        if !self.no_bytes {
            options.push_str(",bytes=on");
        }
        if self.profile {
            options.push_str(",profile=on");
        }
        let started = Instant::now();
        let mut done = 0;
        let mut hear = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(event) if event["event"] == "cell" => {
                done += 1;
                let seconds = started.elapsed().as_secs();
                let key = event["key"].as_str().unwrap_or("?").to_owned();
                eprintln!("bench: [{seconds:>4} s] {done}/{} {key}", cells.len());
                figures.take(key, event);
            }
            Ok(_) => {}
            Err(_) => eprintln!("bench: {line}"),
        };
        let out = self.boot(&run, &options, &mut hear)?;
        for cell in &cells {
            figures.expect(&cell.key());
        }
        figures.judge();
        for package in ["libssl3", "nginx", "qemu-system-x86"] {
            figures.made_with(package, version(package));
        }
        figures.made_with("linux", self.kernel.prepare()?.version);
        if self.profile {
            crate::bench_profile::print(&out, &figures, &cells)?;
        }
        Ok(figures)
    }

    fn cells(&self, rows: &[&'static Row]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for row in rows {
            for tls in &self.tls {
                for cipher in &self.cipher {
                    for column in COLUMNS {
                        let wanted = self.column.is_empty()
                            || self.column.iter().any(|c| c == column.name());
                        // Without TLS there is no version and no cipher: once is enough.
                        let again = column == Column::Tcp
                            && (tls != &self.tls[0] || cipher != &self.cipher[0]);
                        if wanted && !again {
                            cells.push(Cell {
                                row,
                                column,
                                tls: tls.clone(),
                                cipher: cipher.clone(),
                            });
                        }
                    }
                }
            }
        }
        cells
    }

    /// Returns the machine's /out.
    fn boot(
        &self,
        run: &Fixture,
        options: &str,
        hear: &mut (dyn FnMut(&str) + Send),
    ) -> Result<PathBuf> {
        #[derive(Parser)]
        struct Wrap {
            #[command(flatten)]
            machine: vm::Machine,
        }
        // Through the parser, so that the defaults are those of `cargo xtask vm`.
        let mut machine = Wrap::parse_from(["vm", "--quiet", "--timeout", "3000"]).machine;
        machine.kernel = self.kernel;
        machine.icount = true;
        machine.plugin = Some(format!("{}{options}", run.dir.join("count.so").display()));
        let argv = [
            run.dir.join("xtask").display().to_string(),
            "bench".into(),
            "--guest".into(),
            run.dir.display().to_string(),
        ];
        let ended = machine.run(&argv, false, Some(hear))?;
        if ended.code() != 0 {
            bail!("the machine ended with status {}", ended.code());
        }
        Ok(ended.out)
    }
}

fn version(package: &str) -> String {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Version}", package]);
    host::run_quiet(&mut query).unwrap_or_else(|_| "none".into())
}

fn directory() -> PathBuf {
    paths::workspace().join("target/bench")
}

fn committed() -> PathBuf {
    paths::workspace().join("benches/figures.json")
}

/// What one run needs: programs, certificate, the list of cells. Removed at the end.
struct Fixture {
    dir: PathBuf,
}

impl Fixture {
    fn new(cells: &[Cell], profile: bool) -> Result<Self> {
        let dir = directory().join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let run = Self { dir };
        let dir = &run.dir;
        compile(
            dir,
            "count.so",
            &["count.c"],
            &["-fPIC", "-shared", "-fvisibility=hidden"],
        )?;
        for (program, source) in [("work", "work.c"), ("far", "far.c"), ("fetch", "fetch.c")] {
            compile(dir, program, &[source, "common.c"], &["-lssl", "-lcrypto"])?;
        }
        // This very program: cargo may replace the file in target/ while the machine runs.
        fs::copy("/proc/self/exe", dir.join("xtask"))?;
        host::certificate(dir, &[])?;
        // Nothing but the option: everything else stays Debian's default, as in the other columns.
        fs::write(
            dir.join("ktls.cnf"),
            "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n\
             [all]\nMinProtocol = TLSv1.2\nCipherString = DEFAULT:@SECLEVEL=2\nOptions = KTLS\n",
        )?;
        let list: Vec<_> = cells.iter().map(Cell::to_json).collect();
        fs::write(dir.join("cells.json"), json!(list).to_string())?;
        if profile {
            fs::write(dir.join("profile"), "")?;
        }
        Ok(run)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Whoever keeps it (a full disk, an editor) will find it under target/ anyway.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn compile(dir: &Path, name: &str, sources: &[&str], options: &[&str]) -> Result<()> {
    let from = paths::workspace().join("tests/bench");
    let mut gcc = Command::new(host::GCC.0);
    gcc.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o"]);
    gcc.arg(dir.join(name));
    gcc.args(sources.iter().map(|s| from.join(s))).args(options);
    host::run_quiet(&mut gcc).map(drop)
}

/// Whether a cell of column D was carried as its row demands: bytes that the kernel counted.
pub fn carried(row: &Row, units: u64, tx: i64, rx: i64) -> bool {
    let due = i64::try_from(units * row.bytes).unwrap_or(i64::MAX);
    match row.carried {
        Carried::Tx => tx >= due,
        Carried::Rx => rx >= due,
        Carried::Both => tx >= due && rx >= due,
        Carried::Either => true,
    }
}
