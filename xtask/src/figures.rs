// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run amounted to. A test that only says `ok` does not say whether a race was run ten times
//! or ten thousand, or whether a single fault was injected; so tests print `figure: NAME N`, past
//! libtest's capture (tests/src/watch.rs), and the last lines of a run add them up.

use std::collections::BTreeMap;

/// Test (with its program) → name → sum of what it printed.
#[derive(Default)]
pub struct Figures(BTreeMap<String, BTreeMap<String, u64>>);

/// `figure: NAME N`, perhaps behind libtest's `test x ... `.
pub fn parse(line: &str) -> Option<(&str, u64)> {
    let (_, said) = line.split_once("figure: ")?;
    let (name, number) = said.trim().split_once(' ')?;
    Some((name, number.parse().ok()?))
}

impl Figures {
    pub fn add(&mut self, test: &str, name: &str, number: u64) {
        let of = self.0.entry(test.to_owned()).or_default();
        *of.entry(name.to_owned()).or_default() += number;
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0
            .iter()
            .filter_map(move |(test, of)| Some((test.as_str(), *of.get(name)?)))
    }

    /// The lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let rounds: Vec<_> = self.of("rounds").collect();
        let least = rounds.iter().min_by_key(|(_, n)| *n);
        let most = rounds.iter().max_by_key(|(_, n)| *n);
        if let (Some(least), Some(most)) = (least, most) {
            let all: u64 = rounds.iter().map(|(_, n)| n).sum();
            lines.push(format!(
                "{} races, {all} rounds: {} ({}) to {} ({})",
                rounds.len(),
                least.1,
                least.0,
                most.1,
                most.0
            ));
        }
        for (name, what) in [
            ("faults", "faults injected below the module's functions"),
            ("places", "places at which one fault was injected"),
        ] {
            let all: u64 = self.of(name).map(|(_, n)| n).sum();
            if all > 0 {
                lines.push(format!("{all} {what} ({} tests)", self.of(name).count()));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_up_by_test() {
        let mut figures = Figures::default();
        for (test, line) in [
            ("a: x", "test x ... figure: rounds 20"),
            ("a: x", "figure: rounds 30"),
            ("b: y", "figure: rounds 7"),
            ("b: y", "figure: faults 9"),
        ] {
            let (name, number) = parse(line).expect("a figure");
            figures.add(test, name, number);
        }
        assert_eq!(
            figures.lines(),
            [
                "2 races, 57 rounds: 7 (b: y) to 50 (a: x)",
                "9 faults injected below the module's functions (1 tests)"
            ]
        );
    }

    #[test]
    fn other_lines_are_none() {
        assert_eq!(parse("test figure ... ok"), None);
        assert_eq!(parse("figure: rounds many"), None);
    }
}
