// SPDX-License-Identifier: MIT OR Apache-2.0
//! A release's programs for `cargo xtask matrix`, in a root of their own.
//!
//! The packages and all that they depend on are unpacked below `target/roots/programs-RELEASE`, never
//! installed: what this machine has installed makes no difference to the matrix. What the packages'
//! scripts would have done, and the rows need, is done here: users, links, the linker's cache.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fetch::Apt;
use crate::{host, paths};

/// A release, and the packages of its root.
pub struct Release {
    pub name: &'static str,
    pub title: &'static str,
    packages: &'static [&'static [&'static str]],
    /// Unpacked over it, from another release: see below.
    over: Option<(&'static str, &'static [&'static str])>,
}

/// What the row scripts call, in every release.
const TOOLS: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "curl",
    "dash",
    "findutils",
    "grep",
    "iproute2",
    "libc-bin",
    "libio-socket-ssl-perl",
    "mawk",
    "mount",
    "openssl",
    "perl",
    "procps",
    "python3",
    "sed",
    "util-linux",
];

const MAIN: &[&str] = &[
    "apache2",
    "apache2-utils",
    "haproxy",
    "lighttpd",
    "lighttpd-mod-openssl",
    "nginx",
    "php-cli",
    "postgresql",
    "redis-server",
    "ruby",
    "socat",
    "stunnel4",
    "wrk",
];

const MORE: &[&str] = &[
    "dovecot-imapd",
    "git",
    "gnutls-bin",
    "lftp",
    "libcurl4",
    "mariadb-client",
    "mariadb-server",
    "memcached",
    "mosquitto",
    "mosquitto-clients",
    "nodejs",
    "openvpn",
    "php-curl",
    "postfix",
    "python3-psycopg2",
    "unbound",
    "vsftpd",
    "wget",
];

pub const RELEASES: [Release; 3] = [
    Release {
        name: "bookworm",
        title: "Debian 12",
        packages: &[TOOLS, MAIN, MORE],
        over: None,
    },
    Release {
        name: "trixie",
        title: "Debian 13",
        packages: &[TOOLS, MAIN],
        over: None,
    },
    Release {
        name: "bullseye",
        title: "Debian 11",
        packages: &[TOOLS, MAIN],
        // A shim built on bookworm asks for a newer C library than bullseye's own.
        over: Some(("bookworm", &["libc6", "libgcc-s1", "libc-bin"])),
    },
];

/// Names of users that a package's script would have made, with their numbers in the root.
const USERS: &[(&str, u32)] = &[
    ("postgres", 901),
    ("mysql", 902),
    ("redis", 903),
    ("postfix", 904),
    ("dovecot", 905),
    ("dovenull", 906),
    ("ftp", 907),
    ("haproxy", 908),
    ("memcache", 909),
    ("mosquitto", 910),
    ("unbound", 911),
    ("postdrop", 912),
    ("alice", 913),
];

/// Written last: a root without it is none. One line per package: name and version.
const VERSIONS: &str = "versions";

pub struct Root {
    pub dir: PathBuf,
    pub versions: BTreeMap<String, String>,
}

impl Release {
    /// Fetches and unpacks what is not there yet.
    pub fn prepare(&self) -> Result<Root> {
        let name = format!("programs-{}", self.name);
        let dir = paths::workspace().join("target/roots").join(&name);
        let wanted: Vec<_> = self.packages.iter().copied().flatten().copied().collect();
        if !complete(&dir, &wanted) {
            let _lock = host::lock(&name)?;
            if !complete(&dir, &wanted) {
                self.make(&dir, &wanted)
                    .with_context(|| format!("cannot fetch the programs of {}", self.name))?;
            }
        }
        let text = fs::read_to_string(dir.join(VERSIONS))?;
        let pair = |line: &str| {
            line.split_once(' ')
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
        };
        let versions = text.lines().filter_map(pair).collect();
        Ok(Root { dir, versions })
    }

    fn make(&self, dir: &Path, wanted: &[&str]) -> Result<()> {
        host::say(&format!(
            "fetching the programs of {} into {} (once, some hundred MB)",
            self.title,
            dir.display()
        ));
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir.join("usr"))?;
        // The links of a merged /usr, which the packages presuppose.
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(dir.join("usr").join(name))?;
            symlink(format!("usr/{name}"), dir.join(name))?;
        }
        let apt = Apt::open(self.name)?;
        let mut versions = String::new();
        for package in wanted {
            let version = apt.candidate(package)?;
            let version = version.with_context(|| format!("{} has no {package}", self.name))?;
            versions += &format!("{package} {version}\n");
        }
        apt.unpack_closure(wanted, dir)?;
        if let Some((release, packages)) = self.over {
            let names: Vec<_> = packages.iter().map(|p| (*p).to_owned()).collect();
            Apt::open(release)?.unpack(&names, dir)?;
        }
        finish(dir)?;
        fs::write(dir.join(VERSIONS), versions)?;
        Ok(())
    }
}

fn complete(dir: &Path, wanted: &[&str]) -> bool {
    let text = fs::read_to_string(dir.join(VERSIONS)).unwrap_or_default();
    let has: Vec<_> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    has == wanted
}

/// Does the little of the packages' scripts that the rows need.
fn finish(dir: &Path) -> Result<()> {
    for name in ["proc", "sys", "dev", "tmp", "run", "root", "matrix", "etc"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let master = |name: &str| dir.join("usr/share/base-passwd").join(name);
    let mut passwd = fs::read_to_string(master("passwd.master"))?;
    let mut group = fs::read_to_string(master("group.master"))?;
    for (name, id) in USERS {
        passwd += &format!("{name}:*:{id}:{id}::/tmp:/bin/sh\n");
        group += &format!("{name}:*:{id}:\n");
    }
    fs::write(dir.join("etc/passwd"), passwd)?;
    fs::write(dir.join("etc/group"), group)?;
    fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(
        dir.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files\n",
    )?;
    let links = [("sh", "dash"), ("awk", "mawk")];
    for (link, to) in links {
        let link = dir.join("usr/bin").join(link);
        if link.symlink_metadata().is_err() {
            symlink(to, link)?;
        }
    }
    let mut ldconfig = std::process::Command::new("ldconfig");
    host::run_quiet(ldconfig.arg("-r").arg(dir))?;
    Ok(())
}
