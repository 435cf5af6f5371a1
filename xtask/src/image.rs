// SPDX-License-Identifier: MIT OR Apache-2.0
//! The initrd: PID 1, the modules it inserts, and the job it runs. Made anew for every boot, in a few
//! milliseconds and uncompressed, so that nothing in it can be stale.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cpio::newc::Builder;

use crate::{fetch, host, paths};

/// What `src/bin/vm-init.rs` reads from `/job`.
pub struct Job<'a> {
    pub argv: &'a [String],
    pub env: &'a [(String, String)],
    pub cwd: &'a Path,
    /// Directory on the host that becomes `/lib/modules`.
    pub modules_dir: &'a Path,
    pub tty: bool,
}

impl Job<'_> {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut text = String::new();
        let mut add = |key: &str, value: &str| -> Result<()> {
            if value.contains('\0') {
                bail!("a NUL in {key}");
            }
            text += &format!("{key}={value}\0");
            Ok(())
        };
        self.argv.iter().try_for_each(|a| add("arg", a))?;
        self.env
            .iter()
            .try_for_each(|(k, v)| add("env", &format!("{k}={v}")))?;
        add(
            "cwd",
            self.cwd
                .to_str()
                .context("the working directory's name is not UTF-8")?,
        )?;
        add(
            "modules",
            self.modules_dir
                .to_str()
                .context("the workspace's path is not UTF-8")?,
        )?;
        add("tty", if self.tty { "1" } else { "0" })?;
        Ok(text.into_bytes())
    }
}

/// Writes the initrd; `modules` are inserted in the order given.
pub fn write(to: &Path, modules: &[PathBuf], job: &Job) -> Result<()> {
    let mut archive = Vec::new();
    let mut inode = 0;
    let mut add = |name: &str, mode: u32, content: &[u8]| -> Result<()> {
        inode += 1;
        let mut writer = Builder::new(name)
            .ino(inode)
            .mode(mode)
            .write(&mut archive, content.len() as u32);
        std::io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    };
    add("init", 0o100755, &fs::read(init()?)?)?;
    add("job", 0o100600, &job.encode()?)?;
    add("modules", 0o040755, &[])?;
    for (n, path) in modules.iter().enumerate() {
        let file = path
            .file_name()
            .context("a module without a name")?
            .to_string_lossy();
        let content = unpacked(path).with_context(|| format!("{}", path.display()))?;
        let file = file.split(".ko").next().unwrap_or(&file);
        add(&format!("modules/{n:03}-{file}.ko"), 0o100644, &content)?;
    }
    cpio::newc::trailer(&mut archive)?;
    fs::write(to, archive).with_context(|| format!("{}", to.display()))
}

/// finit_module wants plain ELF; later releases ship their modules compressed.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|e| e == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output()?;
        if !output.status.success() {
            bail!("xz: {}", String::from_utf8_lossy(&output.stderr));
        }
        return Ok(output.stdout);
    }
    Ok(fs::read(path)?)
}

/// The static PID 1, built when its source changed.
fn init() -> Result<PathBuf> {
    let built = paths::workspace().join("target/vm/init");
    let source = paths::workspace().join("xtask/src/bin/vm-init.rs");
    if built.exists() && !host::is_newer(&built, &source) {
        return Ok(built);
    }
    let _lock = host::lock("vm-init")?;
    if built.exists() && !host::is_newer(&built, &source) {
        return Ok(built);
    }
    host::need(&[host::GCC])?;
    let progress = fetch::spinner("building the virtual machine's init".into());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    host::run_quiet(
        Command::new(cargo)
            .current_dir(paths::workspace())
            .args([
                "rustc",
                "--quiet",
                "--package",
                "xtask",
                "--bin",
                "vm-init",
                "--target-dir",
            ])
            .arg(paths::xtask_target())
            .args([
                "--",
                "-C",
                "target-feature=+crt-static",
                "-C",
                "strip=symbols",
                "-C",
                "opt-level=s",
            ]),
    )
    .context("vm-init does not build (a static link needs libc6-dev)")?;
    // Kept elsewhere: building or testing all of xtask overwrites cargo's copy with a dynamic one.
    fs::create_dir_all(paths::workspace().join("target/vm"))?;
    let fresh = built.with_extension("new");
    fs::copy(paths::xtask_target().join("debug/vm-init"), &fresh)?;
    fs::rename(&fresh, &built)?;
    progress.finish_and_clear();
    Ok(built)
}
