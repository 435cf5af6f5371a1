// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are: everything that xtask makes lies under the workspace's `target/`.

use std::path::{Path, PathBuf};

/// The workspace root: xtask runs from the source tree that built it, never installed.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// xtask's own target directory, the one that the alias in .cargo/config.toml names.
pub fn xtask_target() -> PathBuf {
    workspace().join("target/xtask")
}

/// The shim as programs preload it.
pub fn shim() -> PathBuf {
    target().join("release/libktlsshim.so")
}

pub fn kmod_sources() -> PathBuf {
    workspace().join("kmod")
}

/// One directory per run of the virtual machine, each the guest's /out.
pub fn runs() -> PathBuf {
    workspace().join("target/vm/out")
}
