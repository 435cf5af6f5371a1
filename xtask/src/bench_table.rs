// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of `cargo xtask bench`: reading, judging, comparing and showing them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use serde_json::{Map, Value, json};

use crate::bench_cells::{self, COLUMNS, Column, Row, Unit, WAKES};

/// Cells by key (`row/tls/cipher/column`), each as the guest reported it and, once judged, with
/// `insns`, `user`, `far`, `moved`, `spread` (per unit), `wakes`, `in_kernel`.
#[derive(Default, Clone)]
pub struct Figures {
    cells: BTreeMap<String, Value>,
    /// Package or kernel, and version: other versions execute other instructions
    made_with: BTreeMap<String, String>,
}

/// A row of one version and cipher.
pub struct Ratios<'a> {
    pub row: &'static Row,
    cells: [Option<&'a Value>; 4],
}

impl Ratios<'_> {
    /// What a column costs as a part of what OpenSSL does: instructions, or wake-ups in their rows.
    pub fn to_openssl(&self, column: Column) -> Option<f64> {
        let what = main_figure(self.row);
        let value = |column: Column| self.cells[column as usize]?[what].as_f64();
        Some(value(column)? / value(Column::Openssl)?)
    }
}

fn main_figure(row: &Row) -> &'static str {
    match row.name.starts_with("wake") {
        true => "wakes",
        false => "insns",
    }
}

impl Figures {
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
        Ok(Self {
            cells: serde_json::from_value(value["cells"].clone()).context("cells")?,
            made_with: serde_json::from_value(value["made_with"].clone()).context("made_with")?,
        })
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let all = json!({ "made_with": self.made_with, "cells": self.cells });
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(file, text + "\n").with_context(|| format!("{}", file.display()))
    }

    pub fn take(&mut self, key: String, event: Value) {
        self.cells.insert(key, event);
    }

    pub fn merge(&mut self, other: Self) {
        self.cells.extend(other.cells);
        self.made_with = other.made_with;
    }

    pub fn made_with(&mut self, what: &str, version: String) {
        self.made_with.insert(what.to_owned(), version);
    }

    /// What `kept` was made with, and is another version here.
    pub fn differently_made(&self, kept: &Self) -> Vec<String> {
        let other = kept.made_with.iter().filter_map(|(name, version)| {
            let here = self.made_with.get(name).map_or("none", String::as_str);
            (here != version).then(|| format!("{name} {version}, here {here}"))
        });
        other.collect()
    }

    pub fn ratios(&self, tls: &str, cipher: &str) -> Vec<Ratios<'_>> {
        let mut all = Vec::new();
        for row in bench_cells::ROWS {
            let cells = COLUMNS.map(|column| {
                let found = self.get(row.name, tls, cipher, column);
                found.filter(|cell| cell[main_figure(row)].is_number())
            });
            let ratios = Ratios { row, cells };
            if ratios.to_openssl(Column::Shim).is_some() {
                all.push(ratios);
            }
        }
        all
    }

    /// A cell of which nothing was heard is a cell that failed.
    pub fn expect(&mut self, key: &str) {
        self.cells
            .entry(key.to_owned())
            .or_insert_with(|| json!({ "error": "the machine ended before this cell" }));
    }

    pub fn get(&self, row: &str, tls: &str, cipher: &str, column: Column) -> Option<&Value> {
        self.cells
            .get(&bench_cells::key(row, tls, cipher, column.name()))
    }

    pub fn label(&self, key: &str) -> Option<u64> {
        self.cells.get(key)?["label"].as_u64()
    }

    /// Turns samples into figures, and marks what is not what it seems.
    pub fn judge(&mut self) {
        for (key, cell) in &mut self.cells {
            let mut parts = key.split('/');
            let row = parts.next().and_then(bench_cells::find);
            let column = parts.nth(2).unwrap_or("");
            if let Some(row) = row.filter(|_| cell["error"].is_null()) {
                *cell = judged(row, column, cell);
            }
        }
    }

    /// What makes a run a failed one: cells without a figure, and figures that do not hold.
    pub fn faults(&self) -> Vec<String> {
        let fault = |(key, cell): (&String, &Value)| {
            if let Some(error) = cell["error"].as_str() {
                return Some(format!("{key}: {error}"));
            }
            if cell["in_kernel"]["as_due"] == false {
                return Some(format!(
                    "{key}: the kernel did not carry it, so this is not its cost"
                ));
            }
            let spread = cell["spread"].as_f64().unwrap_or(1.0);
            (spread > 0.01).then(|| format!("{key}: samples differ by {:.1} %", spread * 100.0))
        };
        self.cells.iter().filter_map(fault).collect()
    }

    /// Every cell of ours that costs more than `kept` says it did: what others cost is no fault of a
    /// change, and a connection without TLS varies by more than the tolerance. Where other programs were measured only the
    /// ratio of D to A can be compared.
    pub fn worse_than(&self, kept: &Self, tolerance: f64) -> Vec<String> {
        if !self.differently_made(kept).is_empty() {
            return self.worse_ratios(kept, tolerance);
        }
        let mut lines = Vec::new();
        let ours = |key: &str| key.rsplit('/').next() == Some(Column::Shim.name());
        for (key, cell) in self.cells.iter().filter(|(key, _)| ours(key)) {
            let Some(old) = kept.cells.get(key) else {
                lines.push(format!("{key}: no committed figure (--save adds one)"));
                continue;
            };
            for what in ["insns", "moved"] {
                let (Some(now), Some(then)) = (cell[what].as_f64(), old[what].as_f64()) else {
                    continue;
                };
                if now > then * (1.0 + tolerance) {
                    let by = (now / then - 1.0) * 100.0;
                    lines.push(format!("{key}: {what} {then:.4} → {now:.4}, {by:+.1} %"));
                }
            }
        }
        lines
    }

    fn worse_ratios(&self, kept: &Self, tolerance: f64) -> Vec<String> {
        let mut lines = Vec::new();
        for (row, tls, cipher) in self.groups() {
            let of = |figures: &Self| {
                let all = figures.ratios(&tls, &cipher);
                let ratio = all.iter().find(|r| r.row.name == row.name)?;
                ratio.to_openssl(Column::Shim)
            };
            match (of(self), of(kept)) {
                (Some(now), Some(then)) if now <= then * (1.0 + tolerance) => {}
                (Some(now), Some(then)) => {
                    lines.push(format!(
                        "{} {tls} {cipher}: D/A {then:.3} → {now:.3}",
                        row.name
                    ));
                }
                _ => lines.push(format!("{} {tls} {cipher}: nothing to compare", row.name)),
            }
        }
        lines
    }

    /// (row, tls, cipher) in the order of the rows.
    fn groups(&self) -> Vec<(&'static Row, String, String)> {
        let mut groups = Vec::new();
        for row in bench_cells::ROWS {
            for key in self.cells.keys() {
                let parts: Vec<_> = key.split('/').collect();
                if let [name, tls, cipher, _] = parts.as_slice()
                    && *name == row.name
                {
                    let group = (row, (*tls).to_owned(), (*cipher).to_owned());
                    if !groups.iter().any(|g: &(&Row, _, _)| {
                        g.0.name == group.0.name && g.1 == group.1 && g.2 == group.2
                    }) {
                        groups.push(group);
                    }
                }
            }
        }
        groups
    }
}

/// Cells of memory have no samples: one number of bytes, over hundreds of connections.
fn judged_memory(column: &str, cell: &Value) -> Value {
    let number = |at: usize| cell["memory"][at].as_f64().unwrap_or(0.0);
    let (connections, own, kernel) = (number(0), number(1), number(2));
    let grown = |name: &str| cell["kernel"][name].as_i64().unwrap_or(0);
    let in_kernel = match column {
        "shim" => json!({ "tx": grown("AlgTlsTx"), "rx": grown("AlgTlsRx"),
            "tx_bytes": grown("AlgTlsTxBytes"), "rx_bytes": grown("AlgTlsRxBytes"),
            "as_due": grown("AlgTlsTx") as f64 >= connections && grown("AlgTlsRx") as f64 >= connections }),
        "ktls" => json!({ "tx": grown("TlsTxSw"), "rx": grown("TlsRxSw") }),
        _ => Value::Null,
    };
    json!({ "process": (own / connections).round(), "kernel": (kernel / connections).round(),
        "spread": 0.0, "in_kernel": in_kernel })
}

fn judged(row: &Row, column: &str, cell: &Value) -> Value {
    if cell["memory"].is_array() {
        return judged_memory(column, cell);
    }
    // The first sample is not counted.
    let samples: Vec<_> = cell["samples"]
        .as_array()
        .into_iter()
        .flatten()
        .skip(1)
        .collect();
    let units = |s: &Value| s["units"].as_f64().unwrap_or(1.0);
    let per_unit = |read: &dyn Fn(&Value) -> f64| {
        let mut values: Vec<_> = samples.iter().map(|s| read(s) / units(s)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let number = |s: &Value, mode: &str, at: usize| s[mode][at].as_f64().unwrap_or(0.0);
    let insns = per_unit(&|s| number(s, "user", 0) + number(s, "kernel", 0));
    let user = per_unit(&|s| number(s, "user", 0));
    let moved = per_unit(&|s| {
        ["user", "kernel"]
            .iter()
            .map(|mode| number(s, mode, 1) + number(s, mode, 2))
            .sum()
    });
    let far = per_unit(&|s| s["far"].as_f64().unwrap_or(0.0));
    let wakes = per_unit(&|s| s["wakes"].as_f64().unwrap_or(0.0));
    let median = |values: &[f64]| values.get(values.len() / 2).copied().unwrap_or(0.0);
    let spread = match (insns.first(), insns.last()) {
        (Some(least), Some(most)) => (most - least) / median(&insns),
        _ => 1.0,
    };
    let total: u64 = cell["samples"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s["units"].as_u64())
        .sum();
    let grown = |name: &str| cell["kernel"][name].as_i64().unwrap_or(0);
    let (tx, rx) = (grown("AlgTlsTxBytes"), grown("AlgTlsRxBytes"));
    let in_kernel = match column {
        "shim" => json!({
            "tx": grown("AlgTlsTx"), "rx": grown("AlgTlsRx"), "tx_bytes": tx, "rx_bytes": rx,
            "as_due": crate::bench::carried(row, total, tx, rx),
        }),
        "ktls" => json!({ "tx": grown("TlsTxSw"), "rx": grown("TlsRxSw") }),
        _ => Value::Null,
    };
    let mut figures = Map::new();
    figures.insert("insns".into(), json!(round(median(&insns))));
    figures.insert("user".into(), json!(round(median(&user))));
    if median(&moved) > 0.0 {
        figures.insert("moved".into(), json!(round(median(&moved))));
    }
    figures.insert("far".into(), json!(round(median(&far))));
    if row.name.starts_with("wake") {
        figures.insert("wakes".into(), json!(round(median(&wakes))));
    }
    figures.insert("spread".into(), json!(round(spread)));
    figures.insert("samples".into(), json!(insns.len()));
    figures.insert("label".into(), cell["label"].clone());
    figures.insert("in_kernel".into(), in_kernel);
    Value::Object(figures)
}

fn round(value: f64) -> f64 {
    (value * 100_000.0).round() / 100_000.0
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn per(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Byte => format!("{value:.2}"),
        _ if value >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        _ => format!("{value:.0}"),
    }
}

/// One line per row: instructions in each column, ratios and targets, bytes moved, the far end.
pub fn table(figures: &Figures) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let header = [
        "row",
        "per",
        "TCP",
        "A",
        "B",
        "D",
        "D user",
        "D/A",
        "at most",
        "D/B",
        "at most",
        "moved\nTCP",
        "A",
        "B",
        "D",
        "far end\nA",
        "D",
        "spread\nmost",
        "D in the\nkernel",
    ];
    table.set_header(
        header
            .iter()
            .map(|h| Cell::new(h).add_attribute(Attribute::Bold)),
    );
    for (row, tls, cipher) in figures.groups().into_iter().filter(|g| g.0.name != "idle") {
        let cell = |column: Column| {
            let found = figures.get(row.name, &tls, &cipher, column);
            // Without TLS there is one cell for all versions and ciphers.
            found.or_else(|| {
                let any = |(key, _): &(&String, &Value)| {
                    key.starts_with(&format!("{}/", row.name)) && key.ends_with("/tcp")
                };
                (column == Column::Tcp)
                    .then(|| figures.cells.iter().find(any).map(|(_, cell)| cell))
                    .flatten()
            })
        };
        let value = |column, what: &str| cell(column).and_then(|c| c[what].as_f64());
        let shown = |column, what: &str| {
            right(match (value(column, what), cell(column)) {
                (Some(value), _) => per(row.unit, value),
                (None, Some(c)) if c["error"].is_string() => "failed".into(),
                _ => "–".into(),
            })
        };
        // Wake-ups are the point of their rows: ratios are of them.
        let what = main_figure(row);
        let ratio = |to| Some(value(Column::Shim, what)? / value(to, what)?);
        let b_can = can_ktls(row, cell(Column::Ktls));
        let targets = targets(row);
        let mut line = vec![
            Cell::new(format!("{}\n{tls} {cipher}", row.name)),
            Cell::new(row.unit.name()),
        ];
        line.extend(COLUMNS.map(|column| shown(column, "insns")));
        line.push(shown(Column::Shim, "user"));
        line.push(against(ratio(Column::Openssl), targets.0));
        line.push(right(limit(targets.0)));
        line.push(match b_can {
            true => against(ratio(Column::Ktls), targets.1),
            false => right("B cannot"),
        });
        line.push(right(limit(targets.1.filter(|_| b_can))));
        line.extend(COLUMNS.map(|column| shown(column, "moved")));
        line.push(shown(Column::Openssl, "far"));
        line.push(shown(Column::Shim, "far"));
        let spreads = COLUMNS.into_iter().filter_map(|c| value(c, "spread"));
        line.push(right(format!(
            "{:.2} %",
            spreads.fold(0.0, f64::max) * 100.0
        )));
        line.push(Cell::new(in_kernel(cell(Column::Shim))));
        table.add_row(line);
    }
    format!(
        "{table}\n\
         Instructions per unit of the whole machine: program, far end, TCP over loopback. A: OpenSSL. B: its own\n\
         kernel TLS (Options = KTLS). D: the shim over algif_tls. Moved: bytes loaded and stored per unit. Far end:\n\
         its part, as the kernel accounts it. Wake rows: ratios are of wake-ups (A {}). A wide instruction\n\
         counts as one: this is not speed.\n{}",
        wakes(figures),
        memory(figures)
    )
}

/// Bytes per idle connection, in the process and in the kernel (both ends' sockets).
fn memory(figures: &Figures) -> String {
    let mut text = String::new();
    for (row, tls, cipher) in figures.groups().into_iter().filter(|g| g.0.name == "idle") {
        let of = |column| {
            let cell = figures.get(row.name, &tls, &cipher, column)?;
            Some((cell["process"].as_f64()?, cell["kernel"].as_f64()?))
        };
        let shown = COLUMNS.map(|column| match of(column) {
            Some((process, kernel)) => format!("{} {process} + {kernel}", column.name()),
            None => format!("{} –", column.name()),
        });
        text += &format!(
            "Idle connection, {tls} {cipher}, bytes in the process + in the kernel's slabs, both ends' sockets: {}",
            shown.join(", ")
        );
        if let (Some(a), Some(d)) = (of(Column::Openssl), of(Column::Shim)) {
            let ratio = (d.0 + d.1) / (a.0 + a.1);
            let own = d.0 / a.0;
            text += &format!(
                "; D/A {ratio:.2} (process {own:.2}; at most {:.2})",
                row.to_openssl
            );
        }
        text += "\n";
    }
    text
}

fn wakes(figures: &Figures) -> String {
    let mut all = Vec::new();
    for (row, tls, cipher) in figures.groups() {
        if row.name.starts_with("wake") {
            let of = |column| {
                let wakes = figures.get(row.name, &tls, &cipher, column)?["wakes"].as_f64()?;
                Some(format!("{wakes:.2}"))
            };
            let columns = COLUMNS.map(|c| of(c).unwrap_or_else(|| "–".into()));
            all.push(format!("{} {tls}: {}", row.name, columns.join(" / ")));
        }
    }
    all.join(", ")
}

fn targets(row: &Row) -> (Option<f64>, Option<f64>) {
    if row.name == WAKES.0 {
        return (Some(WAKES.1), Some(WAKES.2));
    }
    match row.name.starts_with("wake") {
        true => (None, None),
        false => (Some(row.to_openssl), row.to_ktls),
    }
}

fn limit(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{v:.2}"))
}

fn against(ratio: Option<f64>, limit: Option<f64>) -> Cell {
    let Some(ratio) = ratio else {
        return right("–");
    };
    let digits = if ratio < 0.1 { 4 } else { 3 };
    let cell = right(format!("{ratio:.digits$}"));
    match limit {
        Some(limit) if ratio <= limit => cell.fg(Color::Green),
        Some(_) => cell.fg(Color::Red),
        None => cell,
    }
}

/// OpenSSL 3.0 has no kernel receive in TLS 1.3: where the work is receiving, column B is column A.
fn can_ktls(row: &Row, cell: Option<&Value>) -> bool {
    use crate::bench_cells::Carried;
    let Some(cell) = cell else { return false };
    let (tx, rx) = (&cell["in_kernel"]["tx"], &cell["in_kernel"]["rx"]);
    match row.carried {
        Carried::Tx => tx != 0,
        Carried::Rx => rx != 0,
        Carried::Both | Carried::Either => tx != 0 || rx != 0,
    }
}

fn in_kernel(cell: Option<&Value>) -> String {
    let Some(cell) = cell.filter(|c| c["in_kernel"].is_object()) else {
        return "–".into();
    };
    let kernel = &cell["in_kernel"];
    let bytes = |name: &str| kernel[name].as_i64().unwrap_or(0);
    let missing = if kernel["as_due"] == true {
        ""
    } else {
        "NOT AS DUE "
    };
    let mut parts = Vec::new();
    for (name, count, sum) in [("tx", "tx", "tx_bytes"), ("rx", "rx", "rx_bytes")] {
        if bytes(count) > 0 {
            parts.push(format!("{name} {} B", bytes(sum)));
        }
    }
    match parts.is_empty() {
        true => format!("{missing}no"),
        false => format!("{missing}{}", parts.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(insns: f64) -> Figures {
        let mut figures = Figures::default();
        figures.take(
            "write-16K/1.3/aes128/shim".into(),
            json!({ "insns": insns, "spread": 0.001 }),
        );
        figures
    }

    #[test]
    fn two_per_cent_are_seen() {
        let kept = figures(2.0);
        assert_eq!(figures(2.03).worse_than(&kept, 0.02), Vec::<String>::new());
        assert_eq!(figures(2.05).worse_than(&kept, 0.02).len(), 1);
        assert_eq!(figures(2.0).worse_than(&Figures::default(), 0.02).len(), 1);
    }

    #[test]
    fn another_openssl_is_compared_by_ratio() {
        let with = |version: &str, plain: f64, shim: f64| {
            let mut f = figures(shim);
            let key = "write-16K/1.3/aes128/openssl".to_owned();
            f.take(key, json!({ "insns": plain, "spread": 0.0 }));
            f.made_with("libssl3", version.into());
            f
        };
        let kept = with("1", 2.0, 1.0);
        assert_eq!(
            with("1", 4.0, 2.0).worse_than(&kept, 0.02).len(),
            1,
            "twice as dear"
        );
        assert_eq!(
            with("2", 4.0, 2.0).worse_than(&kept, 0.02),
            Vec::<String>::new()
        );
        assert_eq!(with("2", 4.0, 2.1).worse_than(&kept, 0.02).len(), 1);
    }

    #[test]
    fn a_wide_spread_or_a_missing_cell_is_a_fault() {
        let mut f = figures(2.0);
        assert_eq!(f.faults(), Vec::<String>::new());
        f.expect("read-16K/1.3/aes128/shim");
        f.take(
            "write-1K/1.3/aes128/shim".into(),
            json!({ "insns": 1.0, "spread": 0.02 }),
        );
        assert_eq!(f.faults().len(), 2);
        f.take(
            "echo-1K/1.3/aes128/shim".into(),
            json!({ "insns": 1.0, "spread": 0.0, "in_kernel": { "as_due": false } }),
        );
        assert_eq!(f.faults().len(), 3, "a shim that stayed out");
    }

    #[test]
    fn the_first_sample_is_not_counted() {
        let sample = |n: u64| json!({ "units": 10, "user": [n, 0, 0], "kernel": [0, 0, 0], "far": 0, "wakes": 0 });
        let cell = json!({ "samples": [sample(900), sample(10), sample(20), sample(30)], "label": 3,
            "kernel": { "AlgTlsTx": 1, "AlgTlsTxBytes": 39 } });
        let row = bench_cells::find("write-16K").expect("a row");
        let judged = judged(row, "shim", &cell);
        assert_eq!(judged["insns"], 2.0);
        assert_eq!(judged["in_kernel"]["as_due"], false, "39 bytes of 40");
    }
}
