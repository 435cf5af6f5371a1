// SPDX-License-Identifier: MIT OR Apache-2.0
//! KERNEL_SELFTESTS.md is a checklist, and a checklist is worth what it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_name_has_a_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("KERNEL_SELFTESTS.md")).unwrap();
    let rows: Vec<_> = list
        .lines()
        .filter_map(|l| l.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(name, _)| *name != "mainline")
        .collect();
    let names: BTreeSet<_> = rows.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), rows.len(), "a name stands there twice");
    assert!(names.len() > 90, "{} names", names.len());
    for (name, ours) in &rows {
        let reason = ours.starts_with("no option");
        assert!(ours.contains("::") || reason, "{name}: {ours}");
    }
    let mut tests = 0;
    for piece in list.split('`').skip(1).step_by(2) {
        let Some((program, test)) = piece.split_once("::") else {
            continue;
        };
        let file = root.join(format!("tests/{program}.rs"));
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{piece}: {e}"));
        let there = text.contains(&format!("#[test]\nfn {test}("));
        assert!(there, "no test {piece}");
        tests += 1;
    }
    assert!(tests > names.len(), "the table was not understood");
}
