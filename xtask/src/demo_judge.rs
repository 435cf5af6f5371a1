// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verdict of `cargo xtask demo`: what the guest saw, against what must be so.
//!
//! Three witnesses who do not know each other are compared: the programs (nginx's access log and
//! curl's own count of bytes), the kernel (`/proc/net/alg_tls_stat`), and the shim (its log). The
//! rules for every direction that was offloaded:
//!
//! ```text
//! kernel's payload - payload of control records + before the attach = bytes of the programs
//! shim's fast lane + slow lane                  + before the attach = bytes of the programs
//! ```
//!
//! Control records are alerts (two bytes) and TLS 1.3 session tickets (as long as OpenSSL likes).

use std::collections::BTreeMap;

use serde_json::Value;

/// The largest payload of one TLS record: more than that before the attach is too late.
const RECORD: i64 = 16384;

/// Counters that must not move in a run where nobody does anything wrong.
const MUST_STAY_ZERO: [&str; 7] = [
    "AlgTlsErrBadTag",
    "AlgTlsErrBadRecord",
    "AlgTlsErrLength",
    "AlgTlsErrStale",
    "AlgTlsErrSeqWrap",
    "AlgTlsErrKeyReuse",
    "AlgTlsErrHandOver",
];

/// Sums over all connections of one run, for one direction as the *kernel* sees it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    pub application: i64,
    pub before_attach: i64,
    pub kernel_bytes: i64,
    pub kernel_records: i64,
    pub kernel_sockets: i64,
    /// Records that were not application data, and their payload where the kernel counts it apart.
    pub control_records: i64,
    pub control_bytes: Option<i64>,
    /// Application bytes that the shim counted after the attach.
    pub shim_bytes: i64,
}

impl Sums {
    /// What the kernel counted beyond the application's bytes: due to control records alone.
    pub fn beyond(&self) -> i64 {
        self.kernel_bytes + self.before_attach - self.application
    }

    /// `tickets`: session tickets may be among the control records.
    fn balances(&self, tickets: bool) -> bool {
        let control = match self.control_bytes {
            Some(bytes) => self.beyond() == bytes,
            None if !tickets => self.beyond() == 2 * self.control_records,
            // A kernel that does not count them apart. The shim's account below has to be exact.
            None => {
                (2 * self.control_records..=RECORD * self.control_records).contains(&self.beyond())
            }
        };
        control && self.shim_bytes + self.before_attach == self.application
    }
}

/// One direction of one preloaded program.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lane {
    pub connections: usize,
    pub offloaded: usize,
    pub sendfile_bytes: i64,
    /// Reason codes of connections that stayed in userspace, with their number.
    pub reasons: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub scenario: String,
    pub tls: String,
    pub equal: usize,
    pub requests: usize,
    pub tx: Sums,
    pub rx: Sums,
    /// (program, direction) in the order server tx, server rx, client tx, client rx.
    pub lanes: Vec<(&'static str, Lane)>,
    /// Connections on which mainline's kernel TLS was on: (tx, rx).
    pub mainline: (i64, i64),
    pub sendfile_bytes: i64,
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn shim_server(&self) -> bool {
        matches!(self.scenario.as_str(), "shim-server" | "shim-both")
    }
    pub fn shim_client(&self) -> bool {
        matches!(self.scenario.as_str(), "shim-client" | "shim-both")
    }
}

/// `expected`: request name → sha256 of what must arrive.
pub fn judge(run: &Value, expected: &BTreeMap<String, String>) -> Verdict {
    let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
    let mut v = Verdict {
        scenario: text("scenario"),
        tls: text("tls"),
        ..Verdict::default()
    };
    v.requests = expected.len();
    if let Some(error) = run["error"].as_str() {
        v.faults.push(error.to_owned());
        return v;
    }
    checksums(&mut v, run, expected);
    let server = Bytes {
        tx: total(&run["access"], "sent"),
        rx: total(&run["access"], "got"),
    };
    let client = Bytes {
        tx: total(&run["requests"], "sent"),
        rx: total(&run["requests"], "got"),
    };
    if (server.tx, server.rx) != (client.rx, client.tx) {
        v.faults.push(format!(
            "nginx counts {}/{} bytes sent/received, curl {}/{} received/sent",
            server.tx, server.rx, client.rx, client.tx
        ));
    }
    v.mainline = (
        count(&run["mainline"], "TlsTxSw"),
        count(&run["mainline"], "TlsRxSw"),
    );
    if run["mapped"].as_bool() != Some(v.shim_server()) {
        v.faults.push(format!(
            "libktlsshim.so is {}mapped in nginx's worker",
            if v.shim_server() { "not " } else { "" }
        ));
    }
    if v.scenario == "openssl-ktls" && v.mainline.0 == 0 {
        v.faults
            .push("OpenSSL's kernel TLS was asked for and not used".into());
    }
    kernel(&mut v, run);
    if v.shim_server() {
        program(&mut v, "nginx", &run["server_log"], server);
    }
    if v.shim_client() {
        program(&mut v, "curl", &run["client_log"], client);
    }
    balance(&mut v);
    v
}

#[derive(Clone, Copy)]
struct Bytes {
    tx: i64,
    rx: i64,
}

fn checksums(v: &mut Verdict, run: &Value, expected: &BTreeMap<String, String>) {
    let none = Vec::new();
    for request in run["requests"].as_array().unwrap_or(&none) {
        let name = request["name"].as_str().unwrap_or_default();
        let good = request["exit"].as_i64() == Some(0)
            && matches!(request["http"].as_i64(), Some(200 | 206))
            && request["sha256"].as_str() == expected.get(name).map(String::as_str);
        if good {
            v.equal += 1;
        } else {
            let why = request["stderr"].as_str().unwrap_or_default().trim();
            v.faults.push(format!(
                "{name}: exit {}, HTTP {}, sha256 {} {why}",
                request["exit"], request["http"], request["sha256"]
            ));
        }
    }
    if v.equal != expected.len() && v.faults.is_empty() {
        v.faults.push(format!(
            "{} requests were made, {} were due",
            v.equal,
            expected.len()
        ));
    }
}

fn kernel(v: &mut Verdict, run: &Value) {
    let stat = &run["kernel"];
    let sums = |dir: &str| Sums {
        kernel_bytes: count(stat, &format!("AlgTls{dir}Bytes")),
        kernel_records: count(stat, &format!("AlgTls{dir}Records")),
        kernel_sockets: count(stat, &format!("AlgTls{dir}")),
        control_records: count(stat, &format!("AlgTls{dir}Control")),
        control_bytes: stat[format!("AlgTls{dir}ControlBytes")].as_i64(),
        ..Sums::default()
    };
    (v.tx, v.rx) = (sums("Tx"), sums("Rx"));
    v.sendfile_bytes = count(stat, "AlgTlsSendfileBytes");
    for name in MUST_STAY_ZERO {
        if count(stat, name) != 0 {
            v.faults
                .push(format!("the kernel counted {name} {}", count(stat, name)));
        }
    }
    for name in ["AlgTlsCurrTx", "AlgTlsCurrRx", "AlgTlsOps"] {
        if count(stat, name) != 0 {
            v.faults.push(format!(
                "{name} is {} after every connection has ended",
                count(stat, name)
            ));
        }
    }
    let shim = v.shim_server() || v.shim_client();
    if shim && run["kernel_present"].as_bool() != Some(true) {
        v.faults
            .push("the kernel has no /proc/net/alg_tls_stat: algif_tls is not loaded".into());
    }
    if !shim && v.tx.kernel_sockets + v.rx.kernel_sockets != 0 {
        v.faults
            .push("the kernel socket was used in a run without the shim".into());
    }
}

/// Adds one preloaded program: its application bytes and what its log says.
fn program(v: &mut Verdict, name: &'static str, log: &Value, bytes: Bytes) {
    let none = Vec::new();
    let lines = log.as_array().unwrap_or(&none);
    for (dir, application) in [("tx", bytes.tx), ("rx", bytes.rx)] {
        let mut lane = Lane {
            connections: lines.len(),
            ..Lane::default()
        };
        let (mut before, mut after) = (0, 0);
        for line in lines {
            let told = &line[dir];
            // The reason tells the last state, "close-notify" at the end of every good connection.
            if told["kernel"].as_bool() == Some(true) {
                lane.offloaded += 1;
            } else {
                let reason = told["reason"].as_str().unwrap_or("unreadable line");
                *lane.reasons.entry(reason.to_owned()).or_default() += 1;
            }
            lane.sendfile_bytes += count(told, "sendfile_bytes");
            after += count(told, "fast_bytes") + count(told, "slow_bytes");
            let early = count(told, "before_bytes");
            before += early;
            if early > RECORD {
                v.faults.push(format!(
                    "{name} {dir}: {early} bytes before the attach: over one record"
                ));
            }
        }
        if lines.len() != v.requests {
            v.faults.push(format!(
                "{name} {dir}: {} log lines for {} connections",
                lines.len(),
                v.requests
            ));
        }
        let sums = if dir == "tx" { &mut v.tx } else { &mut v.rx };
        sums.application += application;
        sums.before_attach += before;
        sums.shim_bytes += after;
        let label = match (name, dir) {
            ("nginx", "tx") => "nginx sends",
            ("nginx", _) => "nginx receives",
            (_, "tx") => "curl sends",
            _ => "curl receives",
        };
        v.lanes.push((label, lane));
    }
}

fn balance(v: &mut Verdict) {
    if v.lanes.is_empty() {
        return;
    }
    for (dir, s) in [("tx", v.tx), ("rx", v.rx)] {
        let tickets = dir == "rx" && v.shim_client() && v.tls == "1.3";
        if !s.balances(tickets) {
            v.faults.push(format!(
                "{dir}: kernel {} with {} control records ({}), shim {}, before attach {}, programs {}",
                s.kernel_bytes,
                s.control_records,
                s.control_bytes.map_or("uncounted".into(), |b| format!("{b} bytes")),
                s.shim_bytes,
                s.before_attach,
                s.application
            ));
        }
    }
    let by_sendfile: i64 = v.lanes.iter().map(|(_, l)| l.sendfile_bytes).sum();
    if by_sendfile != v.sendfile_bytes || (v.shim_server() && by_sendfile == 0) {
        v.faults.push(format!(
            "sendfile: the shim says {by_sendfile} bytes, the kernel {}",
            v.sendfile_bytes
        ));
    }
    // Where the bulk flows, every connection must have come into the kernel.
    for (label, lane) in &v.lanes {
        let bulk = matches!(*label, "nginx sends" | "curl receives");
        if bulk && (lane.offloaded == 0 || lane.offloaded != lane.connections) {
            v.faults.push(format!(
                "{label}: {} of {} connections offloaded",
                lane.offloaded, lane.connections
            ));
        }
    }
}

fn total(list: &Value, name: &str) -> i64 {
    list.as_array()
        .map_or(0, |l| l.iter().map(|item| count(item, name)).sum())
}

pub fn count(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expected() -> BTreeMap<String, String> {
        [("a".to_owned(), "5a".to_owned())].into()
    }

    fn good() -> Value {
        let dir = |fast: i64, before: i64| {
            json!({ "reason": "close-notify", "kernel": true,
            "fast_bytes": fast, "before_bytes": before, "sendfile_bytes": fast / 2 })
        };
        json!({
            "scenario": "shim-server", "tls": "1.3", "mapped": true, "kernel_present": true,
            "requests": [{ "name": "a", "exit": 0, "http": 200, "sha256": "5a", "sent": 80, "got": 1000 }],
            "access": [{ "sent": 1000, "got": 80 }],
            "server_log": [{ "tx": dir(1000, 0), "rx": dir(30, 50) }],
            "kernel": { "AlgTlsTx": 1, "AlgTlsRx": 1, "AlgTlsTxBytes": 1000, "AlgTlsRxBytes": 32,
                "AlgTlsTxRecords": 2, "AlgTlsRxRecords": 2, "AlgTlsRxControl": 1, "AlgTlsTxControl": 0,
                "AlgTlsSendfileBytes": 515 },
        })
    }

    #[test]
    fn a_good_run_has_no_fault() {
        let v = judge(&good(), &expected());
        assert_eq!(v.faults, Vec::<String>::new());
        assert_eq!(
            (v.equal, v.tx.kernel_bytes, v.rx.before_attach),
            (1, 1000, 50)
        );
    }

    /// Each of these is a way to be broken that must not pass.
    #[test]
    fn every_lie_is_found() {
        let lies: [(&str, Value); 14] = [
            ("/requests/0/sha256", json!("5b")),
            ("/requests/0/exit", json!(18)),
            ("/mapped", json!(false)),
            ("/kernel_present", json!(false)),
            ("/kernel/AlgTlsTxBytes", json!(999)),
            ("/kernel/AlgTlsTxBytes", json!(1002)),
            ("/kernel/AlgTlsRxControl", json!(0)),
            ("/kernel/AlgTlsSendfileBytes", json!(0)),
            ("/server_log/0/rx/before_bytes", json!(49)),
            ("/server_log/0/tx/fast_bytes", json!(998)),
            ("/server_log/0/tx/kernel", json!(false)),
            ("/server_log", json!([])),
            ("/kernel/AlgTlsCurrTx", json!(1)),
            ("/access/0/sent", json!(1001)),
        ];
        for (path, lie) in lies {
            let mut run = good();
            match run.pointer_mut(path) {
                Some(place) => *place = lie,
                None => run["kernel"]["AlgTlsCurrTx"] = lie,
            }
            assert!(!judge(&run, &expected()).faults.is_empty(), "{path}");
        }
    }

    #[test]
    fn tickets_need_a_margin_unless_they_are_counted() {
        let tickets = Sums {
            application: 100,
            kernel_bytes: 630,
            control_records: 2,
            shim_bytes: 100,
            ..Sums::default()
        };
        assert!(tickets.balances(true) && !tickets.balances(false));
        for (control_bytes, good) in [(530, true), (529, false)] {
            let counted = Sums {
                control_bytes: Some(control_bytes),
                ..tickets
            };
            assert_eq!(counted.balances(true), good);
        }
    }

    #[test]
    fn a_shim_that_stays_out_is_a_fault() {
        let mut run = good();
        run["kernel"] = json!({});
        for dir in ["tx", "rx"] {
            run["server_log"][0][dir] = json!({ "reason": "backend-unavailable", "kernel": false });
        }
        let v = judge(&run, &expected());
        assert!(
            v.faults
                .iter()
                .any(|f| f.contains("0 of 1 connections offloaded")),
            "{:?}",
            v.faults
        );
    }
}
