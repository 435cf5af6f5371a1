// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian packages without Debian's package state.
//!
//! apt is pointed at lists, a cache and an (empty) status file of our own under `target/kernels/apt`:
//! any release's packages can be had, and what the system believes about itself stays as it is. The
//! mirror is the one that the system's own sources name, with `KTLSSHIM_DEBIAN_MIRROR` to overrule it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{host, paths};

pub struct Apt {
    state: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Opens (and if need be fills) the package lists of one release.
    pub fn open(release: &str) -> Result<Self> {
        if host::find("apt-get").is_none() || host::find("dpkg-deb").is_none() {
            bail!(
                "kernels and other OpenSSLs come as Debian packages: apt-get and dpkg-deb are needed \
                 (Debian, Ubuntu)"
            );
        }
        let state = paths::workspace().join("target/kernels/apt").join(release);
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(dir))?;
        }
        fs::write(state.join("status"), "")?;
        fs::write(state.join("sources.list"), sources(release)?)?;
        let at = |option: &str, file: &str| format!("{option}={}", state.join(file).display());
        let options = vec![
            at("Dir::State", ""),
            at("Dir::State::status", "status"),
            at("Dir::State::lists", "lists"),
            at("Dir::Cache", "cache"),
            at("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Retries=3".into(),
            "Acquire::Languages=none".into(),
        ];
        let apt = Self { state, options };
        let spinner = spinner(format!("package lists of {release}"));
        host::run_quiet(apt.command("apt-get").arg("update"))
            .context("apt could not fetch the package lists; is the mirror reachable?")?;
        spinner.finish_and_clear();
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The real package behind a meta-package: `linux-image-amd64` → `linux-image-6.1.0-56-amd64`.
    pub fn dependency(&self, meta: &str, prefix: &str) -> Result<String> {
        let text = host::run_quiet(self.command("apt-cache").args(["depends", meta]))?;
        let found = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("Depends: "));
        found
            .map(str::trim)
            .find(|p| p.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{meta} depends on no {prefix}…; is the mirror complete?"))
    }

    /// The version of a package that this release has, if it has it.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let text = host::run_quiet(self.command("apt-cache").args(["policy", package]))?;
        let found = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(found.filter(|v| *v != "(none)").map(str::to_owned))
    }

    /// Downloads packages and unpacks them below `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        let debs = root.with_extension("debs");
        fs::create_dir_all(&debs)?;
        let spinner = spinner(format!("downloading {}", packages.join(" ")));
        host::run_quiet(
            self.command("apt-get")
                .current_dir(&debs)
                .arg("download")
                .args(packages),
        )?;
        unpack_all(&debs, root, &spinner)?;
        spinner.finish_and_clear();
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    /// Downloads packages with all that they depend on, and unpacks them below `root`.
    pub fn unpack_closure(&self, packages: &[&str], root: &Path) -> Result<()> {
        let cache = self.state.join("cache/archives");
        let spinner = spinner(format!("downloading {}", packages.join(" ")));
        host::run_quiet(
            self.command("apt-get")
                .args(["install", "--yes", "--download-only"])
                .args(["--no-install-recommends", "-o", "Debug::NoLocking=1"])
                .args(packages),
        )?;
        unpack_all(&cache, root, &spinner)?;
        spinner.finish_and_clear();
        host::run_quiet(self.command("apt-get").arg("clean"))?;
        Ok(())
    }
}

fn unpack_all(debs: &Path, root: &Path, spinner: &ProgressBar) -> Result<()> {
    for entry in fs::read_dir(debs)? {
        let deb = entry?.path();
        if deb.extension().is_none_or(|e| e != "deb") {
            continue;
        }
        let name = deb.file_name().unwrap_or_default().display();
        spinner.set_message(format!("unpacking {name}"));
        host::run_quiet(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
    }
    Ok(())
}

/// The release's own sources.list, with the system's mirror.
fn sources(release: &str) -> Result<String> {
    let uris = mirrors();
    let main = match std::env::var("KTLSSHIM_DEBIAN_MIRROR") {
        Ok(uri) => Some(uri),
        Err(_) => uris.iter().find(|u| u.ends_with("/debian")).cloned(),
    };
    let main = main.context(
        "no Debian mirror among the system's apt sources; name one:\n\n    \
         export KTLSSHIM_DEBIAN_MIRROR=http://MIRROR/debian\n",
    )?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    if !Path::new(keyring).exists() {
        bail!("{keyring} is missing: apt-get install debian-archive-keyring");
    }
    let mut text = format!("deb [signed-by={keyring}] {main} {release} main\n");
    let rolling =
        ["sid", "forky", "experimental"].contains(&release) || release.contains("backports");
    if !rolling {
        let security = uris
            .iter()
            .find(|u| u.ends_with("/debian-security"))
            .cloned();
        let security = security.unwrap_or_else(|| format!("{main}-security"));
        text += &format!("deb [signed-by={keyring}] {security} {release}-security main\n");
    }
    Ok(text)
}

/// Every URI in the system's apt sources, in both file formats.
fn mirrors() -> Vec<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    files.extend(parts.map(|e| e.path()));
    files.sort();
    let texts = files.iter().filter_map(|f| fs::read_to_string(f).ok());
    let words = texts.flat_map(|t| {
        let lines = t.lines().filter(|l| !l.trim_start().starts_with('#'));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words
        .filter(|w| w.contains("://"))
        .map(|w| w.trim_end_matches('/').to_owned())
        .collect()
}

/// One line that says what is going on; on a pipe it is printed once.
pub fn spinner(message: String) -> ProgressBar {
    use std::io::IsTerminal;
    if !std::io::stderr().is_terminal() {
        eprintln!("xtask: {message}");
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a fixed template"),
    );
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}
