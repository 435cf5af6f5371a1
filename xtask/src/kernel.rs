// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that the virtual machine can boot, and the module built for it.
//!
//! A `Kernel` is a description: which release's packages, which headers. `prepare` turns it into
//! files under `target/kernels/NAME/`: `root/` (the unpacked packages), `vmlinux` (the ELF image out
//! of Debian's bzImage: booting that by PVH saves the decompression under emulation) and `kmod/`
//! (our module, built there so that several kernels and several people never share objects).

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::fetch::Apt;
use crate::{fetch, host, paths};

/// Kernels that are known by name. Adding one means adding a line to `spec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kernel {
    /// Debian 12 (bookworm)
    #[value(name = "6.1")]
    Linux6_1,
}

struct Spec {
    name: &'static str,
    release: &'static str,
    image: &'static str,
    headers: &'static str,
    kbuild: &'static str,
}

/// A kernel whose files are all there.
pub struct Prepared {
    pub name: &'static str,
    /// `uname -r`
    pub version: String,
    pub vmlinux: PathBuf,
    pub dir: PathBuf,
}

impl Kernel {
    fn spec(self) -> Spec {
        match self {
            Self::Linux6_1 => Spec {
                name: "6.1",
                release: "bookworm",
                image: "linux-image-amd64",
                headers: "linux-headers-amd64",
                kbuild: "linux-kbuild-6.1",
            },
        }
    }

    /// `uname -r`, if it was fetched.
    pub fn version(self) -> Option<String> {
        let dir = paths::workspace()
            .join("target/kernels")
            .join(self.spec().name);
        fs::read_to_string(dir.join("version")).ok()
    }

    /// Fetches and unpacks what is not there yet.
    pub fn prepare(self) -> Result<Prepared> {
        let spec = self.spec();
        let dir = paths::workspace().join("target/kernels").join(spec.name);
        let done = dir.join("version");
        if !done.exists() {
            let _lock = host::lock(&format!("kernel-{}", spec.name))?;
            if !done.exists() {
                fetch_kernel(&spec, &dir)
                    .with_context(|| format!("cannot fetch Linux {}", spec.name))?;
            }
        }
        let version = fs::read_to_string(&done)?.trim().to_owned();
        Ok(Prepared {
            name: spec.name,
            version,
            vmlinux: dir.join("vmlinux"),
            dir,
        })
    }
}

fn fetch_kernel(spec: &Spec, dir: &Path) -> Result<()> {
    host::need(&[host::DEPMOD, host::XZ])?;
    eprintln!(
        "xtask: fetching Debian's Linux {} into {} (once)",
        spec.name,
        dir.display()
    );
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let apt = Apt::open(spec.release)?;
    let image = apt.dependency(spec.image, "linux-image-")?;
    let version = image.trim_start_matches("linux-image-").to_owned();
    let headers = apt.dependency(spec.headers, "linux-headers-")?;
    let common = apt.dependency(&headers, "linux-headers-")?;
    if !headers.ends_with(&version) {
        bail!("the mirror has image {version} but headers {headers}; try again later");
    }
    apt.unpack(&[image, headers.clone(), common, spec.kbuild.into()], &root)?;

    // The headers' Makefile includes its common part by absolute path.
    let makefile = root.join("usr/src").join(&headers).join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    fs::write(
        &makefile,
        text.replace("/usr/src/", &format!("{}/usr/src/", root.display())),
    )?;

    let depmod = host::find("depmod").context("depmod")?;
    host::run_quiet(Command::new(depmod).arg("-b").arg(&root).arg(&version))?;
    let bzimage = root.join("boot").join(format!("vmlinuz-{version}"));
    extract_vmlinux(&bzimage, &dir.join("vmlinux"))?;
    fs::write(dir.join("version"), version)?;
    Ok(())
}

/// Takes the ELF kernel out of a bzImage: the setup header says where the payload lies, the payload's
/// last four bytes are its unpacked length (Documentation/x86/boot.rst).
fn extract_vmlinux(bzimage: &Path, to: &Path) -> Result<()> {
    let image = fs::read(bzimage).with_context(|| format!("{}", bzimage.display()))?;
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("{} is no bzImage", bzimage.display());
    }
    let start = (image[0x1f1] as usize + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?;
    let payload = image
        .get(start..start + length - 4)
        .context("the payload lies outside the image")?;
    let unpack: &[&str] = match payload {
        [0xfd, b'7', b'z', ..] => &["xz", "-dc"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dc"],
        [0x1f, 0x8b, ..] => &["gzip", "-dc"],
        _ => bail!("{}: unknown compression", bzimage.display()),
    };
    let packed = to.with_extension("packed");
    fs::write(&packed, payload)?;
    let status = Command::new(unpack[0])
        .args(&unpack[1..])
        .stdin(fs::File::open(&packed)?)
        .stdout(fs::File::create(to)?)
        .status()
        .with_context(|| format!("cannot run {}", unpack[0]))?;
    fs::remove_file(&packed)?;
    let elf = fs::read(to)?;
    if !status.success() || !elf.starts_with(b"\x7fELF") || elf.len() != word(start + length - 4)? {
        bail!(
            "{}: the payload did not unpack to the ELF kernel it promises",
            bzimage.display()
        );
    }
    Ok(())
}

impl Prepared {
    pub fn modules_root(&self) -> PathBuf {
        self.dir.join("root/lib/modules")
    }

    pub fn headers(&self) -> PathBuf {
        self.dir
            .join("root/usr/src")
            .join(format!("linux-headers-{}", self.version))
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

    fn build_module_locked(&self) -> Result<PathBuf> {
        let work = self.dir.join("kmod");
        let sources = link_sources(&paths::kmod_sources(), &work)?;
        let module = work.join("algif_tls.ko");
        if module.exists() && !sources.iter().any(|s| host::is_newer(&module, s)) {
            return Ok(module);
        }
        host::need(&[host::GCC, host::GCC12, host::MAKE])?;
        let progress = fetch::spinner(format!("building algif_tls.ko for Linux {}", self.version));
        let output = self
            .make(&work)
            .arg("modules")
            .stdin(Stdio::null())
            .output()?;
        progress.finish_and_clear();
        let text = tidy(&output.stdout, &work) + &tidy(&output.stderr, &work);
        if !output.status.success() || !module.exists() {
            bail!(
                "kmod/ does not build for Linux {} (`--no-module` boots without it):\n{text}",
                self.version
            );
        }
        let noise = |l: &&str| l.contains("warning:") || l.contains("WARNING:");
        text.lines().filter(noise).for_each(|l| eprintln!("{l}"));
        // make may find nothing to do after a source was merely touched; remember that we looked.
        fs::File::open(&module)?.set_modified(std::time::SystemTime::now())?;
        Ok(module)
    }

    /// `make` of this kernel's build system on a directory of module sources.
    pub fn make(&self, module_dir: &Path) -> Command {
        let mut make = Command::new("make");
        make.arg("-s")
            .arg("-C")
            .arg(self.headers())
            .arg(format!("M={}", module_dir.display()));
        // A MAKEFLAGS of cargo's job server would be none of kbuild's business.
        make.env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .env_remove("CARGO_MAKEFLAGS");
        make.env("LC_ALL", "C").arg("-j2");
        make
    }
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
