// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one row's two runs mean: are they alike, and who moved the bytes.

use std::collections::BTreeMap;

use serde_json::Value;

/// A direction counts as in the kernel if the kernel moved that much of what it carried.
const SHARE: u64 = 90;
pub const MIB: u64 = 1 << 20;

/// Ticks of 10 ms in about 3 s of waiting that are noise on an emulated machine.
const IDLE_NOISE: u64 = 40;

#[derive(Default)]
pub struct Verdict {
    pub tx: Direction,
    pub rx: Direction,
    pub sendfile: bool,
    /// What is not as it is without the shim; nothing is what it should be.
    pub differences: Vec<String>,
    /// What is not where the row's file says that it should be
    pub findings: Vec<String>,
    /// None: the row has no slow client
    pub idle: Option<(u64, u64)>,
}

#[derive(Default, Clone)]
pub struct Direction {
    pub kernel: u64,
    pub before: u64,
    pub reason: String,
}

impl Direction {
    pub fn offloaded(&self) -> bool {
        self.kernel > 0 && self.kernel * 100 >= (self.kernel + self.before) * SHARE
    }

    pub fn bulk(&self) -> bool {
        self.kernel + self.before >= MIB
    }

    /// As the table has it.
    pub fn text(&self) -> String {
        let little = if self.bulk() { "" } else { " (little data)" };
        match (self.offloaded(), self.kernel + self.before) {
            (true, _) => format!("kernel{little}"),
            (false, 0) => "-".into(),
            (false, _) => format!("userspace: `{}`{little}", self.reason),
        }
    }
}

impl Verdict {
    /// Whether a slow client cost no more than without the shim; None: the row has none
    pub fn is_idle(&self) -> Option<bool> {
        self.idle.map(|(plain, shim)| shim <= plain + IDLE_NOISE)
    }
}

/// `outside`: why the row is not in the kernel, a reason of the log in backquotes or words; else empty.
pub fn judge(event: &Value, role: &str, outside: &str) -> Verdict {
    let (plain, shim) = (&event["plain"], &event["shim"]);
    let mut verdict = Verdict::default();
    let mut differ = |text: String| verdict.differences.push(text);
    for (name, run) in [("without", plain), ("with", shim)] {
        if run["status"] != 0 {
            let told = run["told"].as_str().unwrap_or("").trim();
            let tail: Vec<_> = told.lines().rev().take(4).collect();
            differ(format!(
                "{name} the shim: status {}: {}",
                run["status"],
                tail.join(" | ")
            ));
        }
    }
    if plain["statuses"] != shim["statuses"] {
        differ(format!(
            "statuses {} and {}",
            plain["statuses"], shim["statuses"]
        ));
    }
    let files = |run: &Value| -> BTreeMap<String, Value> {
        let map = run["out"].as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(name, _)| name != "status")
            .collect()
    };
    let (had, has) = (files(plain), files(shim));
    for name in had
        .keys()
        .chain(has.keys().filter(|n| !had.contains_key(*n)))
    {
        if had.get(name) != has.get(name) {
            let size = |f: Option<&Value>| f.map_or("no file".into(), |f| f["size"].to_string());
            differ(format!(
                "{name}: {} and {} bytes",
                size(had.get(name)),
                size(has.get(name))
            ));
        }
    }
    for line in plain["statuses"].as_str().unwrap_or("").lines() {
        // A server that was ended may say so; a client must be content.
        let ended = [" 0", " 143", " 130", " 137"]
            .iter()
            .any(|s| line.ends_with(s));
        if !ended {
            differ(format!("already without the shim: {line}"));
        }
    }
    let idle = |run: &Value| -> Option<(u64, String)> {
        let (ticks, rest) = run["idle"].as_str()?.split_once(' ')?;
        Some((ticks.parse().ok()?, rest.to_owned()))
    };
    if let (Some(plain), Some(shim)) = (idle(plain), idle(shim)) {
        if plain.1 != shim.1 || plain.1 != "whole" {
            differ(format!("a slow client got {} and {}", plain.1, shim.1));
        }
        verdict.idle = Some((plain.0, shim.0));
    } else if plain["idle"] != "" || shim["idle"] != "" {
        differ(format!(
            "a slow client got {} and {}",
            plain["idle"], shim["idle"]
        ));
    }
    let none = Vec::new();
    let lines = shim["log"].as_array().unwrap_or(&none);
    // Where OpenSSL's own kernel TLS came first, the shim need not have learnt the role.
    let ours = lines
        .iter()
        .filter(|l| l["role"] == role || l["role"] == "unknown");
    let mut worst = (0, 0);
    for line in ours {
        if line["tx"]["reason"] == "panic" || line["tx"]["reason"] == "proof-failed" {
            differ(format!("{line}"));
        }
        add(&mut verdict.tx, &line["tx"], &mut worst.0);
        add(&mut verdict.rx, &line["rx"], &mut worst.1);
        verdict.sendfile |= line["tx"]["sendfile_bytes"].as_u64().unwrap_or(0) >= MIB;
    }
    let whole = |d: &Direction| d.kernel + d.before;
    let largest = had.values().filter_map(|f| f["size"].as_u64()).max();
    let most = largest
        .unwrap_or(0)
        .max(whole(&verdict.tx))
        .max(whole(&verdict.rx));
    if most < MIB {
        verdict.differences.push("less than 1 MiB was moved".into());
    }
    let counted = |name: &str| shim["kernel"][name].as_u64().unwrap_or(0);
    // The library's word is not enough: the kernel must have counted as much.
    for (direction, name) in [
        (&verdict.tx, "AlgTlsTxBytes"),
        (&verdict.rx, "AlgTlsRxBytes"),
    ] {
        if counted(name) < direction.kernel {
            let text = format!(
                "the log says {}, {name} {}",
                direction.kernel,
                counted(name)
            );
            verdict.differences.push(text);
        }
    }
    if let (Some(false), Some((plain, shim))) = (verdict.is_idle(), verdict.idle) {
        let text = format!("a slow client costs {plain} and {shim} ticks");
        verdict.differences.push(text);
    }
    place(&mut verdict, outside);
    verdict
}

/// A program that is not offloaded is a finding, unless its row explains it; an explanation that is no
/// longer true is one too.
fn place(verdict: &mut Verdict, outside: &str) {
    for (name, direction) in [("tx", &verdict.tx), ("rx", &verdict.rx)] {
        let (text, wanted) = (direction.text(), outside.trim_matches('`'));
        let carries = direction.kernel + direction.before > 0;
        let fits = match (outside, outside.starts_with('`')) {
            ("", _) => direction.offloaded() || !direction.bulk(),
            (_, true) => direction.kernel == 0 && (!carries || direction.reason == wanted),
            (_, false) => !carries,
        };
        if !fits {
            verdict
                .findings
                .push(format!("{name}: {text}, expected {outside}"));
        }
    }
    if outside.is_empty() && !verdict.tx.bulk() && !verdict.rx.bulk() {
        verdict.findings.push("the shim saw less than 1 MiB".into());
    }
}

/// The reason that is told is that of the connection which moved most outside the kernel.
fn add(direction: &mut Direction, line: &Value, most: &mut u64) {
    let n = |name: &str| line[name].as_u64().unwrap_or(0);
    let before = n("before_bytes");
    direction.kernel += n("fast_bytes") + n("slow_bytes");
    direction.before += before;
    if direction.reason.is_empty() || before > *most {
        *most = before;
        direction.reason = line["reason"].as_str().unwrap_or("?").to_owned();
    }
}
