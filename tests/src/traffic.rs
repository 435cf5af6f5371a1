// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel and the shim say about the records that went by.
//!
//! The kernel's counters are the witness: a shim that failed to load, or gave
//! up, passes every comparison of bytes, but leaves these at zero.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::programs::Lab;

/// `/proc/net/alg_tls_stat` of the test's own network namespace.
#[derive(Clone, Debug, Default)]
pub struct Kernel(BTreeMap<String, i64>);

impl Kernel {
    pub fn now(lab: &Lab) -> Kernel {
        if lab.plain() {
            return Kernel::default();
        }
        // Not /proc/net: that is the first thread's namespace.
        Kernel::read().expect("/proc/net/alg_tls_stat: is the module in?")
    }

    /// `None` where the module is absent.
    pub fn read() -> Option<Kernel> {
        let text = fs::read_to_string("/proc/thread-self/net/alg_tls_stat").ok()?;
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        });
        Some(Kernel(pairs.collect()))
    }

    /// The counters once nothing is attached any more: programs that have
    /// ended leave sockets that close a moment later.
    pub fn settled(lab: &Lab) -> Kernel {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Kernel::now(lab);
            let left = ["AlgTlsCurrTx", "AlgTlsCurrRx", "AlgTlsOps"].map(|name| now.get(name));
            if left == [0, 0, 0] {
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "kernel sockets are left over: {now:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn since(&self, before: &Kernel) -> Kernel {
        let difference = self.0.iter().map(|(name, value)| {
            (
                name.clone(),
                value - before.0.get(name).copied().unwrap_or(0),
            )
        });
        Kernel(difference.collect())
    }

    /// A counter that does not exist is a broken test, not a zero.
    pub fn get(&self, name: &str) -> i64 {
        if self.0.is_empty() {
            return 0;
        }
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no counter {name} in {self:?}"))
    }
}

impl Kernel {
    /// Application bytes sent. The kernel counts the payload of every record;
    /// the only other ones in most tests are alerts, of two bytes.
    pub fn sent_but_alerts(&self) -> i64 {
        self.get("AlgTlsTxBytes") - 2 * self.get("AlgTlsTxControl")
    }

    /// Application bytes received, likewise.
    pub fn received_but_alerts(&self) -> i64 {
        self.get("AlgTlsRxBytes") - 2 * self.get("AlgTlsRxControl")
    }
}

/// One direction of a connection, as the shim reported it.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    pub kernel: bool,
    pub reason: String,
    pub fast_records: i64,
    pub fast_bytes: i64,
    pub slow_records: i64,
    pub slow_bytes: i64,
    pub before_bytes: i64,
    pub rekeys: i64,
    pub handbacks: i64,
    pub sendfile_bytes: i64,
}

impl Dir {
    fn new(value: &Value) -> Dir {
        let number = |key: &str| {
            value[key]
                .as_i64()
                .unwrap_or_else(|| panic!("{key} in {value}"))
        };
        Dir {
            kernel: value["kernel"]
                .as_bool()
                .unwrap_or_else(|| panic!("kernel in {value}")),
            reason: value["reason"]
                .as_str()
                .unwrap_or_else(|| panic!("reason in {value}"))
                .to_owned(),
            fast_records: number("fast_records"),
            fast_bytes: number("fast_bytes"),
            slow_records: number("slow_records"),
            slow_bytes: number("slow_bytes"),
            before_bytes: number("before_bytes"),
            rekeys: number("rekeys"),
            handbacks: number("handbacks"),
            sendfile_bytes: number("sendfile_bytes"),
        }
    }

    /// Application bytes by any way.
    pub fn bytes(&self) -> i64 {
        self.before_bytes + self.fast_bytes + self.slow_bytes
    }
}

/// One connection in `KTLSSHIM_LOG`.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub program: String,
    pub role: String,
    pub version: String,
    pub cipher: String,
    pub tx: Dir,
    pub rx: Dir,
}

impl Line {
    fn new(text: &str) -> Line {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        let string = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Line {
            program: string("program"),
            role: string("role"),
            version: string("version"),
            cipher: string("cipher"),
            tx: Dir::new(&value["tx"]),
            rx: Dir::new(&value["rx"]),
            text: text.to_owned(),
        }
    }

    /// Both directions went to the kernel.
    pub fn offloaded(&self) -> bool {
        self.tx.kernel && self.rx.kernel
    }
}

/// All lines of a log; a log that was never opened has none.
pub fn lines(log: &Path) -> Vec<Line> {
    lines_in(&fs::read_to_string(log).unwrap_or_default())
}

/// The lines of a piece of a log.
pub fn lines_in(text: &str) -> Vec<Line> {
    text.lines().map(Line::new).collect()
}

/// Sum over connections.
pub fn total(lines: &[Line], of: impl Fn(&Line) -> i64) -> i64 {
    lines.iter().map(of).sum()
}
