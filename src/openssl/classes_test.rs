//! Compares the table with the libssl and the headers installed here (libssl-dev),
//! and with further ones below the roots in KTLSSHIM_TEST_OPENSSL_ROOTS.

use super::*;
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const LIB_DIR: &str = "usr/lib/x86_64-linux-gnu";
const HEADER_DIRS: [&str; 2] = [
    "usr/include/openssl",
    "usr/include/x86_64-linux-gnu/openssl",
];

fn libssl(root: &Path) -> PathBuf {
    let dir = root.join(LIB_DIR);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|f| f.unwrap().path())
        .filter(|p| {
            p.file_name()
                .unwrap()
                .to_str()
                .is_some_and(|n| n.starts_with("libssl.so."))
        })
        .collect();
    found.sort();
    found
        .pop()
        .unwrap_or_else(|| panic!("no libssl in {}", dir.display()))
}

fn exports(lib: &Path) -> BTreeSet<String> {
    let data = std::fs::read(lib).unwrap();
    let elf = object::File::parse(&*data).unwrap();
    elf.dynamic_symbols()
        .filter(|s| s.is_definition())
        .map(|s| s.name().unwrap().to_owned())
        .collect()
}

/// All headers as one text without comments and preprocessor lines.
fn headers(root: &Path) -> String {
    let mut text = String::new();
    for dir in HEADER_DIRS {
        for file in std::fs::read_dir(root.join(dir)).into_iter().flatten() {
            text += &std::fs::read_to_string(file.unwrap().path()).unwrap();
            text += "\n;\n";
        }
    }
    assert!(
        !text.is_empty(),
        "no OpenSSL headers below {}: install libssl-dev",
        root.display()
    );
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((code, comment)) = rest.split_once("/*") {
        plain += code;
        rest = comment.split_once("*/").map_or("", |c| c.1);
    }
    plain += rest;
    let joined = plain.replace("\\\n", " ");
    joined
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .flat_map(|l| [l, "\n"])
        .collect()
}

/// The parameters of each prototype of `name`, without those of callbacks in it.
fn parameters(text: &str, name: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices(name) {
        let after = text[at + name.len()..].trim_start();
        if text[..at].ends_with(word) || !after.starts_with('(') {
            continue;
        }
        let (mut depth, mut own) = (0, String::new());
        for c in after.chars() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                c if depth == 1 => own.push(c),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        found.push(own);
    }
    found
}

fn takes_ssl(parameters: &str) -> bool {
    parameters.split(',').any(|p| {
        let mut words = p.split_whitespace().flat_map(|w| w.split_inclusive('*'));
        words.any(|w| w == "SSL" || w == "SSL*") && p.contains('*')
    })
}

#[test]
fn every_function_of_every_known_libssl_is_classified() {
    let roots = std::env::var("KTLSSHIM_TEST_OPENSSL_ROOTS").unwrap_or_default();
    let roots = std::iter::once("/").chain(roots.split(':').filter(|r| !r.is_empty()));
    for root in roots.map(Path::new) {
        let lib = libssl(root);
        let text = headers(root);
        let mut taken = 0;
        let mut missing = Vec::new();
        for name in exports(&lib) {
            let prototypes = parameters(&text, &name);
            // PEM_*_SSL_SESSION come from a macro and take a SSL_SESSION.
            assert!(
                !prototypes.is_empty() || name.starts_with("PEM_"),
                "{name} has no prototype"
            );
            if prototypes.iter().any(|p| takes_ssl(p)) {
                taken += 1;
                if class(&name).is_none() {
                    missing.push(name);
                }
            }
        }
        assert!(
            taken > 200,
            "{}: only {taken} functions found: the parser is broken",
            lib.display()
        );
        assert!(
            missing.is_empty(),
            "{}: nobody decided about {missing:?}",
            lib.display()
        );
    }
}

#[test]
fn the_parser_sees_what_it_should() {
    let text = "int SSL_a(const SSL *s, int n); void SSL_CTX_b(SSL_CTX *c, int (*cb)(SSL *ssl, int));\nint SSL_c(SSL* s);";
    assert!(takes_ssl(&parameters(text, "SSL_a")[0]));
    assert!(!takes_ssl(&parameters(text, "SSL_CTX_b")[0]));
    assert!(takes_ssl(&parameters(text, "SSL_c")[0]));
}

#[test]
fn hook_means_exported() {
    let listed: BTreeSet<&str> = include_str!("../exports.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .collect();
    let mut names = BTreeSet::new();
    for group in GROUPS {
        for name in group.names {
            assert!(names.insert(*name), "{name} is classified twice");
            assert_eq!(group.class == Class::Hook, listed.contains(name), "{name}");
        }
    }
    for name in listed
        .iter()
        .filter(|n| n.starts_with("SSL_") && !n.starts_with("SSL_CTX_"))
    {
        assert_eq!(
            class(name),
            Some(Class::Hook),
            "{name} is exported but not classified as a hook"
        );
    }
}
