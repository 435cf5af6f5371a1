// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask demo` shows: two tables and a last line.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::demo_guest::{COSTS, VERSIONS};
use crate::demo_judge::{Lane, Verdict, count};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        header
            .iter()
            .map(|h| Cell::new(h).add_attribute(Attribute::Bold)),
    );
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

pub fn transfers(verdicts: &[Verdict]) -> String {
    let mut table = table(&[
        "run",
        "equal",
        "connections in the kernel",
        "",
        "records,\nkernel",
        "bytes,\nkernel",
        "control",
        "before\nattach",
        "bytes,\nprograms",
        "verdict",
    ]);
    for v in verdicts {
        let (lanes, directions) = (lanes(v), !v.lanes.is_empty());
        let both = |f: &dyn Fn(crate::demo_judge::Sums) -> i64| {
            if directions {
                format!("{}\n{}", group(f(v.tx)), group(f(v.rx)))
            } else {
                "–".into()
            }
        };
        let verdict = if v.faults.is_empty() {
            Cell::new("ok").fg(Color::Green)
        } else {
            Cell::new("FAILED")
                .fg(Color::Red)
                .add_attribute(Attribute::Bold)
        };
        table.add_row(vec![
            Cell::new(format!("{}\nTLS {}", title(&v.scenario), v.tls)),
            right(format!("{}/{}", v.equal, v.requests)),
            Cell::new(lanes),
            Cell::new(if directions { "out\nin" } else { "" }),
            right(both(&|s| s.kernel_records)),
            right(both(&|s| s.kernel_bytes)),
            right(both(&|s| s.beyond())),
            right(both(&|s| s.before_attach)),
            right(both(&|s| s.application)),
            verdict,
        ]);
    }
    format!(
        "{table}\n\
         kTLS is OpenSSL's own, with mainline's tls module, switched on in openssl.cnf.\n\
         Equal: downloads whose sha256 is right. In the kernel: connections whose records the kernel\n\
         sealed (sends) or opened (receives). Kernel: growth of /proc/net/alg_tls_stat, of it control:\n\
         alerts and session tickets. Before attach: application bytes that the shim's log says OpenSSL\n\
         still handled. Programs: nginx's access log and curl's own count. It must come out:\n\
         kernel - control + before attach = programs.\n"
    )
}

fn title(scenario: &str) -> &str {
    match scenario {
        "plain" => "plain OpenSSL",
        "openssl-ktls" => "nginx by kTLS",
        "shim-server" => "nginx preloaded",
        "shim-client" => "curl preloaded",
        "shim-both" => "both preloaded",
        other => other,
    }
}

fn lanes(v: &Verdict) -> String {
    if v.scenario == "openssl-ktls" {
        return format!(
            "nginx sends {}/{}\nnginx receives {}/{}",
            v.mainline.0, v.requests, v.mainline.1, v.requests
        );
    }
    if v.lanes.is_empty() {
        return "nothing".into();
    }
    v.lanes
        .iter()
        .map(|(label, lane)| lane_text(label, lane))
        .collect::<Vec<_>>()
        .join("\n")
}

fn lane_text(label: &str, lane: &Lane) -> String {
    let mut text = format!("{label} {}/{}", lane.offloaded, lane.connections);
    if lane.sendfile_bytes > 0 {
        text += ", sendfile";
    }
    for (reason, number) in &lane.reasons {
        text += &format!("\n  {number} × {reason}");
    }
    text
}

/// The cheapest of the samples: the machine is deterministic, what differs is a timer's tick.
fn least(cost: &Value, what: &str) -> Option<f64> {
    let bytes = count(cost, "bytes");
    let samples = cost["samples"].as_array()?;
    let least = samples.iter().map(|s| count(s, what)).min()?;
    (bytes > 0 && least > 0).then(|| least as f64 / bytes as f64)
}

pub fn costs(costs: &[&Value]) -> String {
    let mut table = table(&[
        "instructions per byte",
        "TLS",
        "nginx + curl",
        "to plain",
        "nginx alone",
        "to plain",
        "bytes by sendfile",
    ]);
    for version in VERSIONS {
        let find = |name: &str| {
            costs
                .iter()
                .find(|c| c["scenario"] == name && c["tls"] == version)
                .copied()
        };
        let plain = find("plain");
        for scenario in &COSTS {
            let cost = find(scenario.name);
            let mut row = vec![Cell::new(title(scenario.name)), Cell::new(version)];
            for what in ["both", "server"] {
                let value = cost.and_then(|c| least(c, what));
                let base = plain.and_then(|c| least(c, what));
                row.push(right(value.map_or("–".into(), |v| format!("{v:.2}"))));
                let ratio = value.zip(base).map(|(v, b)| (v / b - 1.0) * 100.0);
                row.push(right(match ratio {
                    Some(r) if scenario.name != "plain" => format!("{r:+.1} %"),
                    _ => String::new(),
                }));
            }
            row.push(right(cost.map_or("–".into(), |c| {
                match count(&c["kernel"], "AlgTlsSendfileBytes") {
                    0 if count(&c["mainline"], "TlsTxSw") > 0 => "not counted".into(),
                    0 => "no".into(),
                    n => group(n),
                }
            })));
            table.add_row(row);
        }
    }
    format!(
        "{table}\n\
         A 16 MiB download less a 1-byte download, user and kernel, TCP over loopback included.\n\
         curl is plain OpenSSL and the same in every row. Measured in an emulated machine of one CPU\n\
         that counts instructions; that is not speed: a wide instruction counts as one.\n"
    )
}

/// Faults follow from each other: the first few of a run tell enough.
const SHOWN: usize = 4;

/// What went wrong, one line each; empty when nothing did.
pub fn faults(verdicts: &[Verdict], costs: &[&Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for v in verdicts {
        let line = |f: &String| format!("{}, TLS {}: {f}", v.scenario, v.tls);
        lines.extend(v.faults.iter().take(SHOWN).map(line));
        if v.faults.len() > SHOWN {
            lines.push(line(&format!("and {} more", v.faults.len() - SHOWN)));
        }
    }
    for cost in costs {
        let name = format!("counting {}, TLS {}", cost["scenario"], cost["tls"]);
        if let Some(error) = cost["error"].as_str() {
            lines.push(format!("{name}: {error}"));
        } else if cost["scenario"] == "shim-server" && count(&cost["kernel"], "AlgTlsTxBytes") == 0
        {
            lines.push(format!(
                "{name}: the kernel socket sent nothing, so this row is not its cost"
            ));
        } else if cost["scenario"] == "openssl-ktls" && count(&cost["mainline"], "TlsTxSw") == 0 {
            lines.push(format!(
                "{name}: mainline's TLS was not used, so this row is not its cost"
            ));
        }
    }
    lines
}

pub fn summary(verdicts: &[Verdict], good: bool) -> String {
    let (equal, due): (usize, usize) = (
        verdicts.iter().map(|v| v.equal).sum(),
        verdicts.iter().map(|v| v.requests).sum(),
    );
    let shim = verdicts
        .iter()
        .filter(|v| v.shim_server() || v.shim_client());
    let kernel: i64 = shim.map(|v| v.tx.kernel_bytes + v.rx.kernel_bytes).sum();
    let what = format!(
        "{equal} of {due} downloads byte-exact; {} bytes went through the kernel socket",
        group(kernel)
    );
    if good {
        format!("demo: passed: {what}")
    } else {
        format!("demo: FAILED: {what}")
    }
}

fn group(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_three() {
        assert_eq!(
            [0, 999, 1000, -1_234_567].map(group),
            ["0", "999", "1,000", "-1,234,567"]
        );
    }
}
