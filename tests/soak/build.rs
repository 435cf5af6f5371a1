// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles `endpoint.c` against this machine's OpenSSL, as anyone's program would be: a plain
//! executable that the dynamic linker, and so a preload, serves. A different OpenSSL is chosen at
//! run time with an endpoint of its own (`--endpoint`).

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=endpoint.c");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let endpoint = out.join("endpoint");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(cc)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&endpoint)
        .args(["endpoint.c", "-lssl", "-lcrypto"])
        .status()
        .expect("a C compiler (gcc)");
    assert!(
        status.success(),
        "endpoint.c does not compile (needs libssl-dev)"
    );
    println!(
        "cargo:rustc-env=KTLSSHIM_SOAK_ENDPOINT={}",
        endpoint.display()
    );
}
