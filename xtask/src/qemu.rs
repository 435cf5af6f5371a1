// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine as QEMU's command line describes it.
//!
//! Emulation (TCG) only: development machines often have a /dev/kvm that cannot run this kernel, and
//! finding out may hang.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::host;
use crate::ports::PORTS;

pub struct Qemu<'a> {
    pub vmlinux: &'a Path,
    pub initrd: &'a Path,
    /// The guest's /out
    pub out: &'a Path,
    /// Receives the serial console
    pub console: &'a Path,
    pub cpus: u32,
    pub memory: u32,
    /// What this kernel's command line needs besides
    pub parameters: &'a str,
    pub icount: bool,
    /// A plugin and its options; what it writes goes to the guest's /out
    pub plugin: Option<&'a str>,
    pub tty: bool,
}

/// `notests`: the drivers' self-tests take 6 s under emulation. `oops=panic`: an oops ends the run.
/// An emulated UART is slow: `loglevel` lets it carry only what is worth a warning.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 log_buf_len=1M panic=-1 oops=panic tsc=reliable \
    no_timer_check mitigations=off cryptomgr.notests=1 nokaslr random.trust_cpu=on";

impl Qemu<'_> {
    pub fn command(&self) -> Command {
        let program = host::find(host::QEMU.0).unwrap_or_else(|| host::QEMU.0.into());
        let mut qemu = Command::new(program);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-M", "q35"]);
        qemu.args(["-display", "none"]);
        self.processor(&mut qemu);
        qemu.args(["-m", &format!("{}M", self.memory)]);
        qemu.arg("-kernel").arg(self.vmlinux);
        qemu.arg("-initrd").arg(self.initrd);
        qemu.arg("-append");
        let clock = match tsc_khz().filter(|_| !self.icount) {
            Some(khz) => format!("tsc_early_khz={khz}"),
            None => String::new(),
        };
        qemu.arg(format!("{COMMAND_LINE} {clock} {}", self.parameters));
        qemu.args(["-serial", &format!("file:{}", escape(self.console))]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        if let Some(plugin) = self.plugin {
            let out = escape(&self.out.join("counts"));
            qemu.args(["-plugin", &format!("{plugin},out={out}")]);
        }
        share(&mut qemu, "hostroot", Path::new("/"), ",readonly=on");
        share(&mut qemu, "out", self.out, "");
        self.streams(&mut qemu);
        qemu
    }

    fn processor(&self, qemu: &mut Command) {
        if self.icount {
            // ERMS and FSRM would make each byte of a `rep movsb` count as an instruction.
            qemu.args(["-accel", "tcg,thread=single,tb-size=512", "-smp", "1"]);
            qemu.args(["-cpu", "max,-erms,-fsrm"]);
            qemu.args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]);
            qemu.args(["-smp", &self.cpus.to_string()]);
        }
    }

    fn streams(&self, qemu: &mut Command) {
        qemu.args(["-device", "virtio-serial-pci"]);
        for (port, fd) in PORTS {
            qemu.args(["-chardev", &format!("socket,id={port},fd={fd}")]);
            let device = format!("virtserialport,chardev={port},name={port}");
            qemu.args(["-device", &device]);
        }
        if self.tty {
            qemu.args(["-chardev", "stdio,id=tty,signal=off"]);
            qemu.args(["-device", "virtconsole,chardev=tty"]);
        } else {
            qemu.stdin(Stdio::null()).stdout(Stdio::null());
        }
    }
}

/// The rate of this machine's TSC, which is the guest's too. On a busy machine the guest cannot measure
/// it: it may find a fifth, and then its clocks run five times too fast and every time limit trips.
#[cfg(target_arch = "x86_64")]
fn tsc_khz() -> Option<u64> {
    use std::time::{Duration, Instant};
    // Both clocks at one moment: of several readings the one that nothing came in between.
    let read = || {
        let readings = (0..20).map(|_| {
            // SAFETY: rdtsc exists on every x86-64 and only reads a counter.
            let before = unsafe { std::arch::x86_64::_rdtsc() };
            let now = Instant::now();
            // SAFETY: as above.
            let after = unsafe { std::arch::x86_64::_rdtsc() };
            (after - before, now, before + (after - before) / 2)
        });
        readings.min_by_key(|r| r.0)
    };
    let (_, from, first) = read()?;
    std::thread::sleep(Duration::from_millis(30));
    let (_, to, last) = read()?;
    let micros = u64::try_from((to - from).as_micros()).ok()?;
    Some((last - first) * 1000 / micros)
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc_khz() -> Option<u64> {
    None
}

fn share(qemu: &mut Command, tag: &str, path: &Path, more: &str) {
    let path = escape(path);
    let options = format!("id={tag},path={path},security_model=none,multidevs=remap{more}");
    qemu.args(["-fsdev", &format!("local,{options}")]);
    let device = format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}");
    qemu.args(["-device", &device]);
}

/// A comma separates QEMU's options, two are one.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
