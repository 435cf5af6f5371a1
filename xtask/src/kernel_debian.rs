// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's own kernels: image, headers and build tools out of its packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fetch::Apt;
use crate::host;

/// Fills `dir` with the kernel that `release` calls its own.
pub fn fetch(name: &str, release: &str, dir: &Path) -> Result<()> {
    host::need(&[host::DEPMOD, host::XZ])?;
    eprintln!(
        "xtask: fetching Debian's Linux {name} ({release}) into {} (once)",
        dir.display()
    );
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let apt = Apt::open(release)?;
    let image = apt.dependency("linux-image-amd64", "linux-image-")?;
    let version = image.trim_start_matches("linux-image-").to_owned();
    let headers = apt.dependency("linux-headers-amd64", "linux-headers-")?;
    let common = apt.dependency(&headers, "linux-headers-")?;
    let kbuild = apt.dependency(&headers, "linux-kbuild-")?;
    if !headers.ends_with(&version) {
        bail!("the mirror has image {version} but headers {headers}; try again later");
    }
    let mut packages = vec![image, headers.clone(), common, kbuild];
    // 7.x splits its image package into these.
    for part in ["linux-binary-", "linux-modules-", "linux-base-"] {
        packages.extend(apt.dependency(&packages[0], part).ok());
    }
    apt.unpack(&packages, &root)?;

    // Later releases ship everything below /usr.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }

    // The headers' Makefile includes its common part by absolute path.
    let makefile = root.join("usr/src").join(&headers).join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    fs::write(
        &makefile,
        text.replace("/usr/src/", &format!("{}/usr/src/", root.display())),
    )?;

    let depmod = host::find("depmod").context("depmod")?;
    host::run_quiet(Command::new(depmod).arg("-b").arg(&root).arg(&version))?;
    let places = [
        root.join(format!("boot/vmlinuz-{version}")),
        root.join(format!("lib/modules/{version}/vmlinuz")),
    ];
    let bzimage = places.iter().find(|p| p.exists());
    let bzimage = bzimage.context("the packages contain no vmlinuz where one was expected")?;
    extract_vmlinux(bzimage, &dir.join("vmlinux"))?;
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
