// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask roots`: other OpenSSLs than this machine's, each with the C library that it wants.
//!
//! A root is a handful of Debian packages, unpacked below `target/roots/VERSION` and never installed.
//! apt checks their signatures as it does for the kernels (`fetch.rs`). Programs are linked with a
//! root's headers and libraries and started by its dynamic linker, so nothing else of it is needed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::fetch::Apt;
use crate::{host, paths};

#[derive(Args, Debug)]
#[command(after_help = "\
Makes target/roots/VERSION unless it is there, and prints which packages it is made of.

    cargo xtask roots          all of them
    cargo xtask roots 3.5 4.0")]
pub struct Roots {
    /// Which OpenSSL
    #[arg(value_parser = VERSIONS)]
    pub versions: Vec<String>,
    /// Fetch again what is there
    #[arg(long)]
    pub again: bool,
}

/// The OpenSSLs that there are roots for.
pub const VERSIONS: [&str; 4] = ["1.1.1", "3.5", "3.6", "4.0"];

struct Spec {
    version: &'static str,
    /// Releases that may have this OpenSSL: the first one that does is used.
    releases: &'static [&'static str],
    library: &'static str,
    /// Where the C library and its like come from, if not from there.
    base: Option<&'static str>,
    packages: &'static [&'static str],
}

const SPECS: [Spec; 4] = [
    Spec {
        version: "1.1.1",
        releases: &["bullseye"],
        library: "libssl1.1",
        // bullseye's own is older than the one that a shim built on bookworm asks for.
        base: Some("bookworm"),
        packages: &["libc6", "libgcc-s1"],
    },
    Spec {
        version: "3.5",
        releases: &["trixie"],
        library: "libssl3t64",
        base: None,
        packages: PACKAGES,
    },
    Spec {
        version: "3.6",
        releases: &["forky", "sid"],
        library: "libssl3t64",
        base: None,
        packages: PACKAGES,
    },
    Spec {
        version: "4.0",
        releases: &["experimental", "sid", "forky"],
        library: "libssl4",
        base: Some("sid"),
        packages: PACKAGES,
    },
];

const PACKAGES: &[&str] = &["libc6", "libgcc-s1", "zlib1g", "libzstd1"];

impl Roots {
    pub fn run(self) -> Result<i32> {
        let wanted = match self.versions.is_empty() {
            true => VERSIONS.map(str::to_owned).to_vec(),
            false => self.versions,
        };
        for version in &wanted {
            let dir = root(version);
            if self.again && dir.exists() {
                fs::remove_dir_all(&dir)?;
            }
            let dir = prepare(version)?;
            print!("{version}: {}", fs::read_to_string(dir.join(MADE_OF))?);
        }
        Ok(0)
    }
}

/// Names the packages; written last, so that a root without it is none.
const MADE_OF: &str = "made-of";

fn root(version: &str) -> PathBuf {
    paths::workspace().join("target/roots").join(version)
}

/// Fetches and unpacks what is not there yet.
pub fn prepare(version: &str) -> Result<PathBuf> {
    let dir = root(version);
    if dir.join(MADE_OF).exists() {
        return Ok(dir);
    }
    let spec = SPECS.iter().find(|spec| spec.version == version);
    let spec = spec.with_context(|| format!("no release is known to have OpenSSL {version}"))?;
    let _lock = host::lock(&format!("root-{version}"))?;
    if !dir.join(MADE_OF).exists() {
        make(spec).with_context(|| format!("cannot fetch OpenSSL {version}"))?;
    }
    Ok(dir)
}

fn make(spec: &Spec) -> Result<()> {
    let dir = root(spec.version);
    host::say(&format!(
        "fetching OpenSSL {} from Debian into {} (once)",
        spec.version,
        dir.display()
    ));
    let (apt, release, has) = find(spec)?;
    let fresh = root(&format!("new-{}", spec.version.replace('.', "-")));
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let names = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let mut of = format!("{} {has} ({release})", spec.library);
    let mut packages = names(&[spec.library, "libssl-dev"]);
    match spec.base.filter(|base| *base != release) {
        None => packages.extend(names(spec.packages)),
        Some(base) => {
            Apt::open(base)?.unpack(&names(spec.packages), &fresh)?;
            of += &format!(", {} ({base})", spec.packages.join(" "));
        }
    }
    apt.unpack(&packages, &fresh)?;
    fs::write(fresh.join(MADE_OF), of + "\n")?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::rename(&fresh, &dir)?;
    Ok(())
}

/// The first release whose libssl is of that version, and that version in full. Rolling releases
/// move on: then this says what they have now.
fn find(spec: &Spec) -> Result<(Apt, &'static str, String)> {
    let mut seen = Vec::new();
    for release in spec.releases {
        let apt = Apt::open(release)?;
        match apt.candidate(spec.library)? {
            Some(has) if has.starts_with(spec.version) => return Ok((apt, release, has)),
            Some(has) => seen.push(format!("{release} has {has}")),
            None => seen.push(format!("{release} has no {}", spec.library)),
        }
    }
    bail!("no release has it any more: {}", seen.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_recipe() {
        assert_eq!(SPECS.each_ref().map(|spec| spec.version), VERSIONS);
    }
}
