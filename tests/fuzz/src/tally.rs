// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run has done, so that "no difference" can be told from "nothing was tried".

use std::collections::BTreeMap;
use std::fmt::Write;

use ktlsshim_tests::Errno;

use crate::program::Step;

#[derive(Default, Clone)]
pub struct Tally {
    pub sequences: u64,
    pub calls: BTreeMap<String, u64>,
    pub errnos: BTreeMap<i32, u64>,
    /// Records that the peer opened, bytes that we received
    pub sealed: u64,
    pub opened: u64,
    pub records_in: u64,
    pub differences: u64,
    /// Calls that an injected fault failed, and faults injected
    pub hurt: u64,
    pub hits: u64,
}

impl Tally {
    pub fn call(&mut self, step: &Step) {
        *self.calls.entry(step.name()).or_default() += 1;
    }

    pub fn errno(&mut self, e: i32) {
        *self.errnos.entry(e).or_default() += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.sequences += other.sequences;
        self.sealed += other.sealed;
        self.opened += other.opened;
        self.records_in += other.records_in;
        self.differences += other.differences;
        self.hurt += other.hurt;
        self.hits += other.hits;
        for (name, n) in &other.calls {
            *self.calls.entry(name.clone()).or_default() += n;
        }
        for (e, n) in &other.errnos {
            *self.errnos.entry(*e).or_default() += n;
        }
    }

    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |n: u64, what: &str| writeln!(text, "{n:>12} {what}").expect("a string");
        for (name, n) in &self.calls {
            line(*n, name);
        }
        for (e, n) in &self.errnos {
            line(*n, &format!("times {:?}", Errno(*e)));
        }
        line(
            self.sealed,
            "records sealed by the kernel and opened by the peer",
        );
        line(
            self.records_in,
            "records sealed by the peer and opened by the kernel",
        );
        line(self.opened, "bytes received");
        line(self.hits, "faults injected");
        line(self.hurt, "calls that failed for one and were made again");
        line(self.sequences, "sequences");
        line(self.total(), "calls");
        line(self.differences, "differences");
        text
    }
}
