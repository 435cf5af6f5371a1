// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a soak has done: counts that show that the kernel carried the data, and what was exercised.

use std::collections::BTreeMap;

use serde_json::Value;

/// Sums over shim log lines.
#[derive(Default, Clone, Copy, Debug)]
pub struct Carried {
    pub connections: u64,
    pub fast_records: u64,
    pub slow_records: u64,
    pub rekeys: u64,
    pub handbacks: u64,
    /// Directions that ended in the kernel although they had been handed back.
    pub resumes: u64,
    pub sendfile_bytes: u64,
    /// Directions that never were in the kernel.
    pub userspace: u64,
}

impl Carried {
    pub fn read(log: &str, why: &mut BTreeMap<String, u64>) -> Carried {
        let mut sum = Carried::default();
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                *why.entry("unreadable log line".into()).or_default() += 1;
                continue;
            };
            sum.connections += 1;
            for name in ["tx", "rx"] {
                let dir = &line[name];
                let n = |key: &str| dir[key].as_u64().unwrap_or(0);
                sum.fast_records += n("fast_records");
                sum.slow_records += n("slow_records");
                sum.rekeys += n("rekeys");
                sum.handbacks += n("handbacks");
                sum.sendfile_bytes += n("sendfile_bytes");
                let reason = dir["reason"].as_str().unwrap_or("?");
                let kernel = dir["kernel"].as_bool().unwrap_or(false);
                // Two detaches need an attach between them.
                let last = u64::from(reason == "offloaded");
                sum.resumes += (n("handbacks") + last).saturating_sub(1);
                sum.userspace += u64::from(!kernel);
                let lane = if kernel { "kernel, ended" } else { "never" };
                *why.entry(format!("{name} {lane} {reason}")).or_default() += 1;
            }
        }
        sum
    }

    pub fn add(&mut self, other: &Carried) {
        self.connections += other.connections;
        self.fast_records += other.fast_records;
        self.slow_records += other.slow_records;
        self.rekeys += other.rekeys;
        self.handbacks += other.handbacks;
        self.resumes += other.resumes;
        self.sendfile_bytes += other.sendfile_bytes;
        self.userspace += other.userspace;
    }
}

#[derive(Default)]
pub struct Tally {
    pub programs: u64,
    /// Programs in which the kernel carried records in every shimmed lane.
    pub counted: u64,
    pub lanes: u64,
    pub carried: Carried,
    pub differences: u64,
    pub wire_records: u64,
    pub wire_updates: u64,
    pub wire_handshakes: u64,
    pub granted: u64,
    /// Operation × lane: how often.
    pub operations: BTreeMap<String, [u64; 4]>,
    pub reasons: BTreeMap<String, u64>,
}

pub const LANES: [&str; 4] = ["plain", "client", "server", "both"];

impl Tally {
    pub fn operation(&mut self, answer: &str, lane: usize) {
        let name = answer
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .trim_start_matches('=');
        let failed = if answer.contains(" err=0") || !answer.contains(" err=") {
            ""
        } else {
            " (not done)"
        };
        self.operations
            .entry(format!("{name}{failed}"))
            .or_default()[lane] += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.programs += other.programs;
        self.counted += other.counted;
        self.lanes += other.lanes;
        self.carried.add(&other.carried);
        self.differences += other.differences;
        self.wire_records += other.wire_records;
        self.wire_updates += other.wire_updates;
        self.wire_handshakes += other.wire_handshakes;
        self.granted += other.granted;
        for (name, lanes) in &other.operations {
            let own = self.operations.entry(name.clone()).or_default();
            own.iter_mut().zip(lanes).for_each(|(a, b)| *a += b);
        }
        for (name, n) in &other.reasons {
            *self.reasons.entry(name.clone()).or_default() += n;
        }
    }

    pub fn table(&self) -> String {
        let mut text = String::from("\noperation             ");
        LANES.iter().for_each(|l| text += &format!("{l:>9}"));
        text.push('\n');
        for (name, lanes) in &self.operations {
            text += &format!("{name:<22}");
            lanes.iter().for_each(|n| text += &format!("{n:>9}"));
            text.push('\n');
        }
        text.push('\n');
        for (name, n) in &self.reasons {
            text += &format!("{n:>8} {name}\n");
        }
        let c = &self.carried;
        let rows = [
            ("programs", self.programs),
            (
                "  of these in the kernel in every shimmed lane",
                self.counted,
            ),
            ("lanes run", self.lanes),
            ("connections under the shim", c.connections),
            ("records carried by the kernel, fast", c.fast_records),
            ("records translated", c.slow_records),
            ("re-keys in the kernel", c.rekeys),
            ("hand-backs to OpenSSL", c.handbacks),
            ("resumes after a hand-back", c.resumes),
            ("bytes by SSL_sendfile", c.sendfile_bytes),
            ("records judged on the wire", self.wire_records),
            ("KeyUpdates on the wire", self.wire_updates),
            ("Finished messages on the wire", self.wire_handshakes),
            ("differences", self.differences),
        ];
        text.push('\n');
        for (name, n) in rows {
            text += &format!("{n:>12} {name}\n");
        }
        text
    }
}
