// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a soak has done: counts that show that the kernel carried the data, and what was exercised.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::counters::{Both, WAYS, Way};

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
    /// Operation, direction, transition: how often, by `WHO`.
    pub transitions: BTreeMap<(String, &'static str, &'static str), [u64; 5]>,
    /// Records that were not data, by what they were: sent and received under the shim.
    pub controls: BTreeMap<String, [u64; 2]>,
    /// What the kernel counted, sending and receiving.
    pub kernel: Both,
}

/// Whose connection in the kernel it was. Of phases in which two shimmed ends run at once nobody
/// can tell.
pub const WHO: [&str; 5] = ["client", "server", "cl.+shim", "se.+shim", "both"];

/// Between lanes: T is the one in which OpenSSL gets a record translated.
const CARRIED: &str = "kernel > kernel";
const TRANSLATED: &str = "kernel > T > kernel";
const REKEYED: &str = "kernel > kernel, next key";
const ATTACHED: &str = "userspace > kernel";
const HANDED_BACK: &str = "kernel > userspace";
const RESUMED: &str = "userspace > kernel again";

/// What must have happened often enough for a long run to show anything.
pub const REQUIRED: &[(&str, &str, &str)] = &[
    ("handshake", "rx", ATTACHED),
    ("w", "tx", ATTACHED),
    ("w", "tx", CARRIED),
    ("w", "tx", REKEYED),
    ("w", "tx", TRANSLATED),
    ("r", "rx", CARRIED),
    ("r", "rx", TRANSLATED),
    ("rn", "rx", CARRIED),
    ("rn", "rx", REKEYED),
    ("rn", "rx", TRANSLATED),
    ("pk", "rx", CARRIED),
    ("sf", "tx", CARRIED),
    ("wpark", "tx", CARRIED),
    ("wgo", "tx", CARRIED),
    ("together", "tx", CARRIED),
    ("together", "rx", CARRIED),
    ("sd", "tx", TRANSLATED),
    ("renegotiate", "tx", HANDED_BACK),
    ("renegotiate", "rx", HANDED_BACK),
    ("renegotiate", "tx", RESUMED),
    ("renegotiate", "rx", RESUMED),
];

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

    /// What the kernel did in one lane. Did it carry records at each shimmed end?
    pub fn kernel(&mut self, lane: usize, deeds: &[(String, usize, String, Both)]) -> bool {
        let mut given_back = [[false; 2]; 5];
        let mut sum = Both::default();
        for (name, side, _, news) in deeds {
            let who = if lane == 3 { 2 + side } else { lane - 1 };
            for (way, news) in news.iter().enumerate() {
                sum[way].add(news);
                for (transition, n) in transitions(news, &mut given_back[who][way]) {
                    let key = (name.clone(), WAYS[way], transition);
                    self.transitions.entry(key).or_default()[who] += n;
                }
            }
        }
        let carried = sum.iter().map(|way| way.records - way.control).sum::<u64>() > 0;
        self.kernel.iter_mut().zip(&sum).for_each(|(a, b)| a.add(b));
        carried
    }

    /// `side` sent so many control records of this kind.
    pub fn control(&mut self, name: &str, lane: usize, side: usize, n: u64) {
        let own = self.controls.entry(name.to_owned()).or_default();
        own[0] += n * (lane >> side & 1) as u64;
        own[1] += n * (lane >> (1 - side) & 1) as u64;
    }

    /// Transitions of `REQUIRED` that were seen less often.
    pub fn rare(&self, least: u64) -> Vec<String> {
        let mut rare = Vec::new();
        for (name, way, transition) in REQUIRED {
            let key = ((*name).to_owned(), *way, *transition);
            let n: u64 = self.transitions.get(&key).map_or(0, |n| n.iter().sum());
            if n < least {
                rare.push(format!("{name} {way} {transition}: {n}"));
            }
        }
        rare
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
        for (key, by) in &other.transitions {
            let own = self.transitions.entry(key.clone()).or_default();
            own.iter_mut().zip(by).for_each(|(a, b)| *a += b);
        }
        for (name, n) in &other.controls {
            let own = self.controls.entry(name.clone()).or_default();
            own.iter_mut().zip(n).for_each(|(a, b)| *a += b);
        }
        let ours = self.kernel.iter_mut();
        ours.zip(&other.kernel).for_each(|(a, b)| a.add(b));
    }

    /// The sums, as JSON.
    pub fn summary(&self, seconds: f64) -> String {
        let [tx, rx] = &self.kernel;
        let sum = |transition: &str| -> u64 {
            let all = self
                .transitions
                .iter()
                .filter(|(key, _)| key.2 == transition);
            all.map(|(_, by)| by.iter().sum::<u64>()).sum()
        };
        let rarest = REQUIRED.iter().map(|(name, way, transition)| -> u64 {
            let key = ((*name).to_owned(), *way, *transition);
            self.transitions.get(&key).map_or(0, |by| by.iter().sum())
        });
        serde_json::json!({
            "programs": self.programs,
            "counted": self.counted,
            "differences": self.differences,
            "records": tx.records + rx.records,
            "bytes": tx.bytes + rx.bytes,
            "translated": sum(TRANSLATED),
            "rekeys": sum(REKEYED),
            "handbacks": sum(HANDED_BACK),
            "resumes": sum(RESUMED),
            "rarest": rarest.min().unwrap_or(0),
            "seconds": seconds.round(),
        })
        .to_string()
    }

    fn lanes_table(&self) -> String {
        let mut text = format!("{:<46}", "operation and lane transition");
        WHO.iter().for_each(|who| text += &format!("{who:>9}"));
        text.push_str("      sum\n");
        for ((name, way, transition), by) in &self.transitions {
            text += &format!("{name:<12} {way} {transition:<30}");
            by.iter().for_each(|n| text += &format!("{n:>9}"));
            text += &format!("{:>9}\n", by.iter().sum::<u64>());
        }
        text += &format!(
            "\n{:<46}     sent received\n",
            "control records under the shim"
        );
        for (name, [sent, received]) in &self.controls {
            text += &format!("{name:<46}{sent:>9}{received:>9}\n");
        }
        text.push('\n');
        text
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
        text += &self.lanes_table();
        let c = &self.carried;
        let [tx, rx] = &self.kernel;
        let rows = [
            ("programs", self.programs),
            (
                "  of these in the kernel in every shimmed lane",
                self.counted,
            ),
            ("lanes run", self.lanes),
            ("connections under the shim", c.connections),
            ("records that the kernel sent", tx.records),
            ("bytes of these", tx.bytes),
            ("records that the kernel received", rx.records),
            ("bytes of these", rx.bytes),
            ("control records of all these", tx.control + rx.control),
            ("of all these, the shim says: fast", c.fast_records),
            ("of all these, the shim says: translated", c.slow_records),
            ("re-keys in the kernel, sending", tx.rekeyed),
            ("re-keys in the kernel, receiving", rx.rekeyed),
            ("hand-backs to OpenSSL, sending", tx.detached),
            ("hand-backs to OpenSSL, receiving", rx.detached),
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

/// The lane transitions of one direction in one operation. `given_back`: that direction has been
/// OpenSSL's since it was the kernel's.
fn transitions(news: &Way, given_back: &mut bool) -> Vec<(&'static str, u64)> {
    let mut all = vec![
        (CARRIED, u64::from(news.records > news.control)),
        (TRANSLATED, news.control),
        (REKEYED, news.rekeyed),
        (HANDED_BACK, news.detached),
    ];
    let mut attached = news.attached;
    if news.detached > 0 {
        *given_back = true;
    } else if attached > 0 && !*given_back {
        all.push((ATTACHED, 1));
        attached -= 1;
    }
    all.push((if *given_back { RESUMED } else { ATTACHED }, attached));
    all.retain(|(_, n)| *n > 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(name: &str, side: usize, tx: Way) -> (String, usize, String, Both) {
        (name.to_owned(), side, String::new(), [tx, Way::default()])
    }

    #[test]
    fn a_direction_that_comes_back_has_resumed() {
        let way = |attached, detached, records, control| Way {
            attached,
            detached,
            records,
            control,
            ..Way::default()
        };
        let mut tally = Tally::default();
        let deeds = [
            deed("w", 0, way(1, 0, 2, 0)),
            deed("renegotiate", 0, way(0, 1, 1, 1)),
            deed("renegotiate", 0, way(1, 0, 0, 0)),
        ];
        assert!(tally.kernel(1, &deeds));
        let n = |name: &str, transition| tally.transitions[&(name.to_owned(), "tx", transition)];
        assert_eq!(n("w", ATTACHED), [1, 0, 0, 0, 0]);
        assert_eq!(n("w", CARRIED), [1, 0, 0, 0, 0]);
        assert_eq!(n("renegotiate", HANDED_BACK), [1, 0, 0, 0, 0]);
        assert_eq!(n("renegotiate", RESUMED), [1, 0, 0, 0, 0]);
        assert_eq!(n("renegotiate", TRANSLATED), [1, 0, 0, 0, 0]);
        // Nothing else has happened, and nobody may say so.
        assert_eq!(tally.rare(1).len(), REQUIRED.len() - 4);
        assert!(!Tally::default().kernel(3, &[deed("w", 1, way(1, 0, 1, 1))]));
    }
}
