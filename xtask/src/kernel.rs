// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that the virtual machine can boot, and the module built for it.
//!
//! `prepare` turns a `Kernel` into files under `target/kernels/NAME/`: `root/` (its modules, and of
//! Debian's kernels the headers), `vmlinux` (what QEMU loads; if possible the ELF image, since booting
//! that by PVH saves the decompression under emulation) and `kmod/` (our module, built there so that several kernels and
//! several people never share objects). `kernel_debian.rs` fetches, `kernel_debug.rs` builds.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::toolroot::ToolRoot;
use crate::{fetch, host, kernel_debian, kernel_debug, paths};

/// Kernels that are known by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kernel {
    /// Debian 12 (bookworm)
    #[value(name = "6.1")]
    Linux6_1,
    /// Debian 13 (trixie)
    #[value(name = "6.12")]
    Linux6_12,
    /// The newest that Debian has for a stable release (trixie-backports)
    #[value(name = "7")]
    Linux7,
    /// Debian 12's source with KASAN, lockdep, kmemleak and more, built here (slow)
    Debug,
}

/// A kernel whose files are all there.
pub struct Prepared {
    pub name: &'static str,
    /// `uname -r`
    pub version: String,
    pub vmlinux: PathBuf,
    pub dir: PathBuf,
    headers: PathBuf,
    /// The release whose compiler it takes, if not this machine's.
    tools: Option<&'static str>,
    /// Build the module so that it counts which of its lines run (the debug kernel only)
    pub coverage: bool,
}

impl Kernel {
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
            Self::Linux7 => "7",
            Self::Debug => "debug",
        }
    }

    fn release(self) -> &'static str {
        match self {
            Self::Linux6_1 => "bookworm",
            Self::Linux6_12 => "trixie",
            Self::Linux7 => "trixie-backports",
            Self::Debug => "bookworm",
        }
    }

    /// The release whose compiler built it, unless this machine's will do.
    fn tools(self) -> Option<&'static str> {
        match self {
            Self::Linux6_1 | Self::Debug => None,
            Self::Linux6_12 | Self::Linux7 => Some("trixie"),
        }
    }

    fn dir(self) -> PathBuf {
        paths::workspace().join("target/kernels").join(self.name())
    }

    /// `uname -r`, if it was fetched.
    pub fn version(self) -> Option<String> {
        fs::read_to_string(self.dir().join("version")).ok()
    }

    /// What the first verb that needs it will have to do.
    pub fn cost(self) -> &'static str {
        match self {
            Self::Debug => "fetched (140 MB) and built (1.5 GB, some minutes) by the first verb",
            _ => "fetched (80 MB) by the first verb that needs it",
        }
    }

    /// How many times longer than on Debian's kernel a test may take.
    pub fn slowness(self) -> u64 {
        if self == Self::Debug { 8 } else { 1 }
    }

    /// More of its command line. `kasan_multi_shot`: the second report may be the one that matters.
    /// The time-outs: an emulated CPU on a busy machine may stand still for half a minute.
    pub fn parameters(self) -> &'static str {
        match self {
            Self::Debug => "kasan_multi_shot kmemleak=on rcupdate.rcu_cpu_stall_timeout=180",
            _ => "",
        }
    }

    fn is_there(self, dir: &Path) -> bool {
        match self {
            Self::Debug => kernel_debug::is_current(dir),
            _ => dir.join("version").exists(),
        }
    }

    /// Fetches, unpacks and builds what is not there yet.
    pub fn prepare(self) -> Result<Prepared> {
        let (name, dir) = (self.name(), self.dir());
        if !self.is_there(&dir) {
            let _lock = host::lock(&format!("kernel-{name}"))?;
            if !self.is_there(&dir) {
                match self {
                    Self::Debug => kernel_debug::build(&dir).context("no debug kernel")?,
                    _ => kernel_debian::fetch(name, self.release(), &dir)
                        .with_context(|| format!("cannot fetch Linux {name}"))?,
                }
            }
        }
        let version = fs::read_to_string(dir.join("version"))?.trim().to_owned();
        let headers = match self {
            Self::Debug => dir.join("source"),
            _ => dir.join(format!("root/usr/src/linux-headers-{version}")),
        };
        Ok(Prepared {
            name,
            vmlinux: dir.join("vmlinux"),
            headers,
            version,
            dir,
            tools: self.tools(),
            coverage: false,
        })
    }
}

impl Prepared {
    pub fn modules_root(&self) -> PathBuf {
        self.dir.join("root/lib/modules")
    }

    pub fn headers(&self) -> &Path {
        &self.headers
    }

    /// The files of `wanted` modules and of all that they depend on, in order of insertion.
    /// Names that are built into the kernel, or that it does not know at all, yield nothing if
    /// `optional`.
    pub fn module_files(&self, wanted: &[&str], optional: bool) -> Result<Vec<PathBuf>> {
        let base = self.modules_root().join(&self.version);
        let read = |f: &str| {
            fs::read_to_string(base.join(f)).with_context(|| format!("{}/{f}", base.display()))
        };
        let name = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.split(".ko").next().unwrap_or(file).replace('-', "_")
        };
        let dep = read("modules.dep")?;
        let mut needs = BTreeMap::new();
        for line in dep.lines() {
            if let Some((path, deps)) = line.split_once(':') {
                needs.insert(
                    name(path),
                    (path, deps.split_whitespace().map(name).collect::<Vec<_>>()),
                );
            }
        }
        let builtin: HashSet<_> = read("modules.builtin")?.lines().map(name).collect();
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for module in wanted {
            let module = module.replace('-', "_");
            if !needs.contains_key(&module) && !builtin.contains(&module) && !optional {
                bail!("Linux {} has no module {module}", self.version);
            }
            visit(&module, &needs, &mut seen, &mut order);
        }
        return Ok(order.iter().map(|p| base.join(p)).collect());

        type Needs<'a> = BTreeMap<String, (&'a str, Vec<String>)>;
        fn visit<'a>(
            m: &str,
            needs: &Needs<'a>,
            seen: &mut HashSet<String>,
            order: &mut Vec<&'a str>,
        ) {
            if let Some((path, deps)) = needs.get(m)
                && seen.insert(m.to_owned())
            {
                deps.iter().for_each(|d| visit(d, needs, seen, order));
                order.push(path);
            }
        }
    }

    /// Builds our module for this kernel, if its sources changed; returns the `.ko`.
    pub fn build_module(&self) -> Result<PathBuf> {
        let _lock = host::lock(&format!("kmod-{}", self.name))?;
        self.build_module_locked()
    }

    /// The same as a copy of one's own: the next build by somebody else writes over the first.
    pub fn copy_module(&self, dir: &Path) -> Result<PathBuf> {
        let _lock = host::lock(&format!("kmod-{}", self.name))?;
        let built = self.build_module_locked()?;
        let copy = dir.join("algif_tls.ko");
        // Without its debug information, which would be nine tenths of what the guest must unpack.
        host::run_quiet(
            Command::new("strip")
                .arg("-g")
                .arg("-o")
                .arg(&copy)
                .arg(&built),
        )?;
        Ok(copy)
    }

    /// Where the module is built.
    pub fn work(&self) -> PathBuf {
        let name = if self.coverage { "kmod-gcov" } else { "kmod" };
        self.dir.join(name)
    }

    fn build_module_locked(&self) -> Result<PathBuf> {
        let work = self.work();
        let sources = link_sources(&paths::kmod_sources(), &work)?;
        let module = work.join("algif_tls.ko");
        let flags = self.flags().join(" ");
        let built_with = fs::read_to_string(work.join("flags")).unwrap_or_default();
        if module.exists()
            && built_with == flags
            && !sources.iter().any(|s| host::is_newer(&module, s))
        {
            return Ok(module);
        }
        if self.tools.is_none() {
            host::need(&[host::GCC, host::GCC12, host::MAKE])?;
        }
        // A source may be edited while the compiler reads it: its object would be the newer of the two,
        // and make would be content. So objects of such a build are worth nothing.
        for _ in 0..EDITS {
            let began = SystemTime::now();
            let module = self.compile(&work)?;
            // make may find nothing to do after a source was merely touched: remember that we looked,
            // and when we began to look.
            fs::File::open(&module)?.set_modified(began)?;
            fs::write(work.join("flags"), &flags)?;
            if !sources.iter().any(|s| host::is_newer(&module, s)) {
                return Ok(module);
            }
            drop_objects(&work)?;
        }
        bail!("kmod/ was edited during each of {EDITS} builds")
    }

    fn compile(&self, work: &Path) -> Result<PathBuf> {
        let module = work.join("algif_tls.ko");
        let progress = fetch::spinner(format!("building algif_tls.ko for Linux {}", self.version));
        let output = self
            .make(work)?
            .arg("modules")
            .stdin(Stdio::null())
            .output()?;
        progress.finish_and_clear();
        let text = tidy(&output.stdout, work) + &tidy(&output.stderr, work);
        if !output.status.success() || !module.exists() {
            bail!(
                "kmod/ does not build for Linux {} (`--no-module` boots without it):\n{text}",
                self.version
            );
        }
        let noise = |l: &&str| l.contains("warning:") || l.contains("WARNING:");
        text.lines().filter(noise).for_each(|l| eprintln!("{l}"));
        Ok(module)
    }

    /// `make` of this kernel's build system on a directory of module sources.
    pub fn make(&self, module_dir: &Path) -> Result<Command> {
        let mut make = match self.tools {
            Some(release) => ToolRoot::open(release)?.command("make"),
            None => Command::new("make"),
        };
        make.arg("-s")
            .arg("-C")
            .arg(self.headers())
            .arg(format!("M={}", module_dir.display()));
        // A MAKEFLAGS of cargo's job server would be none of kbuild's business.
        make.env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .env_remove("CARGO_MAKEFLAGS");
        make.env("LC_ALL", "C").arg("-j2");
        make.args(self.flags());
        Ok(make)
    }

    /// What our modules are instrumented with beyond what this kernel does to every module. The debug
    /// kernel itself has UBSAN's reports, but not its checks: they cost time and are about our code.
    fn flags(&self) -> Vec<&'static str> {
        let ubsan = (self.name == Kernel::Debug.name()).then_some("UBSAN_SANITIZE=y");
        let gcov = self.coverage.then_some("GCOV_PROFILE=y");
        ubsan.into_iter().chain(gcov).collect()
    }
}

/// How often a build that met an edit is begun again.
const EDITS: u32 = 5;

/// Removes what was compiled, all of it: which objects are stale is what we do not know.
fn drop_objects(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "o" || e == "ko") {
            fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        }
    }
    Ok(())
}

/// Mirrors a source tree as links, so that objects land beside the links; returns the sources.
pub fn link_sources(from: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(to)?;
    let mut sources = Vec::new();
    let mut names = HashSet::new();
    for entry in fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
        let entry = entry?;
        let link = to.join(entry.file_name());
        names.insert(entry.file_name());
        if entry.file_type()?.is_dir() {
            sources.extend(link_sources(&entry.path(), &link)?);
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.ends_with(".c")
            || name.ends_with(".h")
            || name.ends_with(".S")
            || name == "Kbuild"
            || name == "Makefile")
        {
            continue;
        }
        if fs::read_link(&link).ok().as_deref() != Some(&entry.path()) {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(entry.path(), &link)?;
        }
        sources.push(entry.path());
    }
    // A source that went away must not stay alive through its link.
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() && !names.contains(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(sources)
}

/// Compiler output with the names of the real sources.
pub fn tidy(text: &[u8], work: &Path) -> String {
    let text = String::from_utf8_lossy(text);
    text.replace(&format!("{}/", work.display()), "kmod/")
}
