// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles `endpoint/` against this machine's OpenSSL, as anyone's program would be: a plain
//! executable that the dynamic linker, and so a preload, serves. A different OpenSSL is chosen at
//! run time with an endpoint of its own (`--endpoint`).

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=endpoint");
    let sources: Vec<_> = std::fs::read_dir("endpoint")
        .expect("the endpoint's sources")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "c"))
        .collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let endpoint = out.join("endpoint");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(cc)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&endpoint)
        .args(&sources)
        .args(["-lssl", "-lcrypto"])
        .status()
        .expect("a C compiler (gcc)");
    assert!(
        status.success(),
        "the endpoint does not compile (needs libssl-dev)"
    );
    println!(
        "cargo:rustc-env=KTLSSHIM_SOAK_ENDPOINT={}",
        endpoint.display()
    );
}
