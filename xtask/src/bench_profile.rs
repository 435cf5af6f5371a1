// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench --profile`: which functions the instructions of a cell were executed in.
//!
//! The plugin counts runs of translated blocks; here their addresses get names: from the guest's
//! kallsyms for the kernel, from the dynamic symbols of the mapped libraries for programs (a stripped
//! library names only what it exports, so a name there means "at or after").

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bench_cells::{Cell, Column};
use crate::bench_table::Figures;

/// Shown per cell.
const LINES: usize = 60;

/// Addresses of functions, ascending, with name and object.
type Symbols = BTreeMap<u64, String>;

/// Each column with a profile, D beside A: where D executes more, and where less.
pub fn print(out: &Path, figures: &Figures, cells: &[Cell]) -> Result<()> {
    let kernel = kallsyms(&out.join("kallsyms"))?;
    for cell in cells {
        let Some((total, functions)) = profile_of(out, figures, cell, &kernel)? else {
            continue;
        };
        let plain = Cell {
            column: Column::Openssl,
            ..cell.clone()
        };
        let beside = match cell.column == Column::Openssl {
            true => None,
            false => profile_of(out, figures, &plain, &kernel)?,
        };
        let (than, beside) = beside.unwrap_or_default();
        println!("\n{}: {total} instructions (A: {than})", cell.key());
        let mut lines: Vec<_> = functions
            .iter()
            .map(|(name, count)| (name, *count, beside.get(name).copied().unwrap_or(0)))
            .collect();
        lines.sort_by_key(|l| std::cmp::Reverse(l.1));
        for (name, count, plain) in lines.iter().take(LINES) {
            let share = *count as f64 / total as f64 * 100.0;
            println!("{share:>6.2} %  {count:>12}  A {plain:>12}  {name}");
        }
    }
    Ok(())
}

type Profile = (u64, BTreeMap<String, u64>);

fn profile_of(
    out: &Path,
    figures: &Figures,
    cell: &Cell,
    kernel: &Symbols,
) -> Result<Option<Profile>> {
    let key = cell.key();
    let Some(label) = figures.label(&key) else {
        return Ok(None);
    };
    let mut symbols = kernel.clone();
    let maps = fs::read_to_string(out.join(format!("maps.{label}")));
    for line in maps.unwrap_or_default().lines() {
        map_line(line, out, &mut symbols);
    }
    let counts = fs::read_to_string(out.join(format!("counts.{label}")))
        .with_context(|| format!("no profile of {key}"))?;
    Ok(Some(sum(&counts, &symbols)))
}

fn sum(counts: &str, symbols: &Symbols) -> Profile {
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    let mut total = 0;
    for line in counts.lines() {
        let mut words = line.split(' ');
        let address = words.next().and_then(|w| u64::from_str_radix(w, 16).ok());
        let (Some(address), Some(Ok(count))) = (address, words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        let name = symbols.range(..=address).next_back();
        let name = match name {
            Some((_, name)) if !name.is_empty() => name.clone(),
            _ => "(no symbol)".to_owned(),
        };
        let object = match name.rsplit_once('[') {
            Some((_, object)) => format!("= all of {}", object.trim_end_matches(']')),
            None if name.starts_with("k ") => "= all of the kernel itself".to_owned(),
            None => "= all else".to_owned(),
        };
        *functions.entry(object).or_default() += count;
        *functions.entry(name).or_default() += count;
        total += count;
    }
    (total, functions)
}

fn kallsyms(file: &Path) -> Result<Symbols> {
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let kind = words.next()?;
        let name = words.next()?;
        let module = words.next().unwrap_or("");
        matches!(kind, "t" | "T" | "w" | "W").then(|| (address, format!("k {name} {module}")))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// A line of /proc/PID/maps: the functions of what it maps, and a border at its end.
fn map_line(line: &str, out: &Path, symbols: &mut Symbols) {
    let words: Vec<_> = line.split_whitespace().collect();
    let [range, perms, offset, _, _, path] = words.as_slice() else {
        return;
    };
    let parse = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    let Some((from, to)) = range.split_once('-') else {
        return;
    };
    if !perms.contains('x') {
        return;
    }
    let (from, to, offset) = (parse(from), parse(to), parse(offset));
    let object = path.rsplit('/').next().unwrap_or(path);
    // The guest's own copies were in its memory; it left others in /out.
    let file = match path.starts_with("/run/bench/") {
        true => out.join(object),
        false => Path::new(path).to_owned(),
    };
    symbols.insert(from, format!("u {object}"));
    symbols.entry(to).or_default();
    // `nm` for both tables: what the linker kept, else what the object exports.
    for option in [["-D", "--defined-only"], ["-a", "--defined-only"]] {
        let output = std::process::Command::new("nm")
            .args(option)
            .arg(&file)
            .output();
        let Ok(output) = output else { return };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut words = line.split_whitespace();
            let (Some(value), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let value = parse(value);
            // Segments of these objects are mapped at their own offsets.
            let base = from - offset;
            if matches!(kind, "t" | "T" | "w" | "W" | "i")
                && value >= offset
                && value < offset + (to - from)
            {
                let name = name.split('@').next().unwrap_or(name);
                symbols.insert(base + value, format!("u {name} [{object}]"));
            }
        }
    }
}
