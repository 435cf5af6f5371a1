// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another Debian release's compiler, for kernels that this machine's compiler is too old for.
//!
//! A module must come from the compiler that built its kernel, and the kernel's build tools are
//! linked against that release's libraries. So its packages are unpacked, nothing more, under
//! `target/kernels/tools-RELEASE/`, and programs run in there in a mount namespace of their own,
//! where the workspace lies at its usual path. As an ordinary user that takes a user namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::fetch::Apt;
use crate::{host, paths};

/// A compiler, `make`, what kbuild's scripts call, and the libraries of kbuild's programs.
const PACKAGES: &[&str] = &[
    "gcc-14",
    "gcc-14-for-host",
    "make",
    "bash",
    "dash",
    "coreutils",
    "findutils",
    "grep",
    "sed",
    "mawk",
    "pahole",
    "perl-base",
    "libelf1t64",
    "libssl3t64",
    "zlib1g",
];

/// `$1`: the root, `$2`: the workspace, then the command. /proc, because some of kbuild's programs
/// look for themselves there.
const ENTER: &str = "set -e; root=$1 work=$2; shift 2; mount --bind \"$root\" \"$root\"; \
    mount --rbind /proc \"$root/proc\"; mount --rbind /dev \"$root/dev\"; \
    mount --rbind \"$work\" \"$root$work\"; exec chroot \"$root\" \"$@\"";

pub struct ToolRoot {
    root: PathBuf,
}

impl ToolRoot {
    /// Fetches and unpacks what is not there yet.
    pub fn open(release: &str) -> Result<Self> {
        let name = format!("tools-{release}");
        let root = paths::workspace().join("target/kernels").join(&name);
        let done = root.join("complete");
        if !done.exists() {
            let _lock = host::lock(&name)?;
            if !done.exists() {
                unpack(release, &root)
                    .with_context(|| format!("cannot fetch the compiler of {release}"))?;
                fs::write(done, "")?;
            }
        }
        Ok(Self { root })
    }

    /// A command that runs inside; it sees the workspace and starts in `/`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(host::find("unshare").unwrap_or_else(|| "unshare".into()));
        command.args(["--mount", "--propagation", "private"]);
        if !nix::unistd::geteuid().is_root() {
            command.args(["--map-root-user"]);
        }
        command.args(["sh", "-c", ENTER, "sh"]);
        command.arg(&self.root).arg(paths::workspace()).arg(program);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/").env_remove("TMPDIR");
        command.current_dir("/");
        command
    }
}

fn unpack(release: &str, root: &PathBuf) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    fs::create_dir_all(root.join("usr"))?;
    // The links of a merged /usr, which the packages presuppose.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        symlink(format!("usr/{dir}"), root.join(dir))?;
    }
    Apt::open(release)?.unpack_closure(PACKAGES, root)?;
    for dir in ["proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let work = paths::workspace();
    fs::create_dir_all(root.join(work.strip_prefix("/").unwrap_or(work)))?;
    // What the packages' scripts would have linked.
    for (link, to) in [("awk", "mawk"), ("sh", "dash"), ("gcc", "gcc-14")] {
        let link = root.join("usr/bin").join(link);
        if link.symlink_metadata().is_err() {
            symlink(to, link)?;
        }
    }
    Ok(())
}
