// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles the C program of the `endings_*`, `unhooked_*`, `hostile_*` and `limits` tests, as anyone's program would
//! be: dynamically linked, so that a preload can stand in its way.

use std::path::PathBuf;
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
    ];
    let dir = PathBuf::from("programs");
    println!("cargo:rerun-if-changed=programs/end.h");
    for source in sources {
        println!("cargo:rerun-if-changed=programs/{source}");
    }
    let program =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("end");
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .args(sources.map(|s| dir.join(s)))
        .args(["-lssl", "-lcrypto"])
        .status()
        .expect("a C compiler (gcc)");
    assert!(
        status.success(),
        "programs/*.c do not compile (they need libssl-dev)"
    );
    println!("cargo:rustc-env=KTLSSHIM_TESTS_END={}", program.display());
}
