// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue of rules and the manual pages say what the sources say.
//!
//! Documents rot silently; these tests make them fail loudly. They read the source tree only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every source file of the tree, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if path.is_dir() && entry.file_name() != "target" {
                walk(&path, found);
            } else if ["rs", "c", "h", "py", "sh"].contains(&extension) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    for dir in ["src", "kmod", "tests", "xtask", "examples"] {
        walk(&root().join(dir), &mut found);
    }
    assert!(
        found.len() > 20,
        "the tree was not found: {} files",
        found.len()
    );
    found
}

/// `D4`, `(P27)`, `R2,` in running text; not `P9` as the name of something.
fn rules_of(text: &str) -> BTreeSet<String> {
    let comments = text.lines().filter(|l| {
        let l = l.trim_start();
        l.starts_with("//") || l.starts_with('*') || l.starts_with("/*") || l.contains(" // ")
    });
    let mut rules = BTreeSet::new();
    for line in comments {
        for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '/') {
            let (kind, number) = word.split_at(word.len().min(1));
            let number: Option<u32> = number.parse().ok();
            if matches!(kind, "D" | "P" | "R") && number.is_some_and(|n| n < 100) {
                rules.insert(word.to_owned());
            }
        }
    }
    rules
}

fn rows(catalogue: &str) -> Vec<(&str, &str)> {
    catalogue
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let rule = cells.next()?.trim();
            let shown = cells.last()?.trim_end_matches('|').trim();
            (rule.len() > 1 && rule[1..].parse::<u32>().is_ok()).then_some((rule, shown))
        })
        .collect()
}

#[test]
fn every_rule_and_test_exists() {
    let catalogue = read("tests/CATALOGUE.md");
    let rows = rows(&catalogue);
    let numbers: BTreeSet<_> = rows.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    assert_eq!(numbers.len(), rows.len(), "a rule stands there twice");
    for (kind, last) in [("D", 13), ("P", 41), ("R", 27)] {
        for n in 1..=last {
            assert!(
                numbers.contains(&format!("{kind}{n}")),
                "{kind}{n} is missing"
            );
        }
    }
    for (path, text) in sources() {
        for rule in rules_of(&text) {
            assert!(
                numbers.contains(&rule),
                "{}: {rule} is not in the catalogue",
                path.display()
            );
        }
    }
    for (rule, shown) in rows {
        assert!(!shown.is_empty(), "{rule}: not even \"not shown\"");
        for name in shown.split('`').skip(1).step_by(2) {
            // `program::test`, or `a/file.rs::test` for a unit test.
            let Some((program, test)) = name.split_once("::") else {
                panic!("{rule}: {name} names no test");
            };
            let file = if program.contains('/') {
                program.to_owned()
            } else {
                format!("tests/tests/{program}.rs")
            };
            assert!(
                read(&file).contains(&format!("fn {test}(")),
                "{rule}: no test {test} in {file}"
            );
        }
        let plain: String = shown.split('`').step_by(2).collect();
        for word in plain.split([' ', ',', ';']).filter(|w| !w.is_empty()) {
            let said = shown == "not shown" || shown.ends_with(", \"Limits\"");
            assert!(said || root().join(word).exists(), "{rule}: no file {word}");
        }
    }
}

#[test]
fn the_manual_has_every_reason() {
    let page = read("docs/ktlsshim.7").replace('\n', " ");
    let source = read("src/reason.rs");
    let mut shim = sources();
    shim.retain(|(path, _)| path.starts_with(root().join("src")) && !path.ends_with("reason.rs"));
    let mut reasons = 0;
    for line in source.lines() {
        let parts: Vec<_> = line.trim().split('"').collect();
        // Name = "code", "Sentence.";
        if let [name, code, ", ", sentence, ";"] = parts[..]
            && name.ends_with(" = ")
        {
            assert!(
                page.contains(&format!(".It {code} {sentence}")),
                "ktlsshim(7) lacks {code}"
            );
            let variant = format!("Reason::{}", name.trim_end_matches(" = "));
            let used = |text: &str| {
                text.split(&variant)
                    .skip(1)
                    .any(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
            };
            assert!(
                shim.iter().any(|(_, text)| used(text)),
                "{code} never happens"
            );
            reasons += 1;
        }
    }
    assert!(
        reasons > 10,
        "src/reason.rs was not understood: {reasons} reasons"
    );
}

#[test]
fn the_manual_has_every_variable() {
    let page = read("docs/ktlsshim.7");
    let mut variables = BTreeSet::new();
    for (_, text) in sources()
        .iter()
        .filter(|(path, _)| path.starts_with(root().join("src")))
    {
        for piece in text.split("b\"KTLSSHIM_").skip(1) {
            let name = piece.split(['"', '=']).next().unwrap_or_default();
            variables.insert(name.to_owned());
        }
    }
    variables.remove(""); // the common prefix
    assert!(
        variables.len() > 3,
        "the configuration was not understood: {variables:?}"
    );
    for name in variables {
        assert!(
            page.contains(&format!("KTLSSHIM_{name}")),
            "ktlsshim(7) lacks KTLSSHIM_{name}"
        );
    }
}

#[test]
fn the_manual_has_every_counter_and_error() {
    let page = read("docs/algif_tls.4");
    let source = read("kmod/stat.c");
    let counters: Vec<_> = source
        .split('"')
        .filter(|name| name.starts_with("AlgTls"))
        .collect();
    assert!(counters.len() > 10, "the counters were not found");
    for name in counters {
        assert!(page.contains(name), "algif_tls(4) lacks {name}");
    }
    for word in
        read("kmod/uapi/algif_tls.h").split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
    {
        let error = word != "ESTABLISHED"
            && word.starts_with('E')
            && word.len() > 2
            && word
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if error {
            assert!(page.contains(word), "algif_tls(4) lacks {word}");
        }
    }
}
