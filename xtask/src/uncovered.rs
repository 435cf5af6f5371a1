// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tests/UNCOVERED.md`: the lines of the module that no test runs, each with a reason.
//!
//! Lines are known by their file, function and text, which survive edits elsewhere. A line that never
//! ran and is not in the list fails `cargo xtask coverage`; one that is in the list and did run is
//! only named: some of them run by chance.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::paths;

/// File, function, text.
pub type Line = (String, String, String);

/// The list: line → whether it was met among those that never ran.
pub struct Uncovered(BTreeMap<Line, bool>);

const NAME: &str = "tests/UNCOVERED.md";

impl Uncovered {
    pub fn read() -> Result<Self> {
        let path = paths::workspace().join(NAME);
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Self::parse(&text)
    }

    /// `### FILE: FUNCTION`, below it lines of code, indented by four, and a reason, not indented.
    fn parse(text: &str) -> Result<Self> {
        let mut lines = BTreeMap::new();
        for section in text.split("\n### ").skip(1) {
            let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
            let of = heading.trim().split_once(": ");
            let (file, function) = of.with_context(|| format!("{NAME}: {heading}: of what?"))?;
            let body = body.split("\n## ").next().unwrap_or("");
            let (code, reason): (Vec<_>, Vec<_>) = body
                .lines()
                .filter(|l| !l.trim().is_empty())
                .partition(|l| l.starts_with("    "));
            if code.is_empty() || reason.is_empty() {
                bail!("{NAME}: {heading}: needs both code and a reason");
            }
            for line in code {
                let line = line.trim().to_owned();
                lines.insert((file.to_owned(), function.to_owned(), line), false);
            }
        }
        Ok(Self(lines))
    }

    /// Whether this line, which never ran, has its reason.
    pub fn excuses(&mut self, line: &Line) -> bool {
        match self.0.get_mut(line) {
            Some(met) => {
                *met = true;
                true
            }
            None => false,
        }
    }

    /// What is listed though it ran, or is no more.
    pub fn stale(&self) -> impl Iterator<Item = &Line> {
        self.0
            .iter()
            .filter(|(_, met)| !**met)
            .map(|(line, _)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        ("a.c".into(), "f".into(), text.into())
    }

    #[test]
    fn a_listed_line_is_excused_and_another_is_not() {
        let text = "# T\n\n## One\n\n### a.c: f\n\n    return -EIO;\n    x++;\n\nNobody can.\n";
        let mut list = Uncovered::parse(text).expect("a list");
        assert!(list.excuses(&line("return -EIO;")));
        assert!(!list.excuses(&line("y++;")));
        assert_eq!(list.stale().collect::<Vec<_>>(), [&line("x++;")]);
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(Uncovered::parse("\n### a.c: f\n\n    x++;\n").is_err());
        assert!(Uncovered::parse("\n### a.c: f\n\nwhy\n").is_err());
        assert!(Uncovered::parse("\n### a.c\n\n    x++;\n\nwhy\n").is_err());
    }

    #[test]
    fn the_list_can_be_read() {
        Uncovered::read().expect("tests/UNCOVERED.md");
    }
}
