// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles the C program of the `endings_*`, `unhooked_*`, `hostile_*` and `limits` tests, as anyone's program would
//! be: dynamically linked, so that a preload can stand in its way.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let sources = [
        "end.c",
        "endings.c",
        "paths.c",
        "waits.c",
        "life.c",
        "limits.c",
        "hostile.c",
        "besides.c",
    ];
    let dir = PathBuf::from("programs");
    println!("cargo:rerun-if-changed=programs/end.h");
    for source in sources {
        println!("cargo:rerun-if-changed=programs/{source}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let paths = sources.map(|s| dir.join(s));
    let sanitized = ["-fsanitize=address", "-fno-omit-frame-pointer", "-O1"];
    let builds: [(&str, &[&str]); 3] = [
        ("end", &[]),
        ("end-asan", &sanitized),
        (
            "end-asan-static",
            &[&sanitized[..], &["-static-libasan"]].concat(),
        ),
    ];
    for (name, flags) in builds {
        let program = out.join(name);
        compile(&program, &paths, flags, &["-lssl", "-lcrypto"]);
        let variable = name.to_uppercase().replace('-', "_");
        println!(
            "cargo:rustc-env=KTLSSHIM_TESTS_{variable}={}",
            program.display()
        );
    }
    let other = out.join("libother.so");
    println!("cargo:rerun-if-changed=programs/other.c");
    compile(&other, &[dir.join("other.c")], &["-shared", "-fPIC"], &[]);
    println!("cargo:rustc-env=KTLSSHIM_TESTS_OTHER={}", other.display());
}

fn compile(to: &Path, sources: &[PathBuf], flags: &[&str], libraries: &[&str]) {
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(to)
        .args(flags)
        .args(sources)
        .args(libraries)
        .status()
        .expect("a C compiler (gcc)");
    assert!(
        status.success(),
        "programs/*.c do not compile (they need libssl-dev)"
    );
}
