// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: one command in a throwaway virtual machine.
//!
//! Each run has a directory of its own, `target/vm/out/ID`, which the guest sees as /out; nothing
//! else is shared between runs. `image.rs` makes what is booted, `qemu.rs` the machine, `ports.rs`
//! follows it; here is decided what it should do and how it went.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use command_fds::CommandFdExt;

use crate::kernel::{Kernel, Prepared};
use crate::ports::{Finish, Ports, Tap};
use crate::qemu::Qemu;
use crate::{dmesg, host, image, paths};

/// What the machine needs to reach its root and its ports.
const MACHINE_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// What the TLS socket uses; a kernel that lacks one of these drivers takes another.
const CRYPTO_MODULES: &[&str] = &[
    "af_alg",
    "tls",
    "ctr",
    "gcm",
    "ccm",
    "cmac",
    "chacha20poly1305",
    "aesni_intel",
    "ghash_clmulni_intel",
    "chacha_x86_64",
    "poly1305_x86_64",
    "crypto_user",
];

/// Variables that reach the guest from the caller's environment.
const PASSED: &[&str] = &[
    "RUST_BACKTRACE",
    "RUST_LOG",
    "OPENSSL_CONF",
    "NO_COLOR",
    "LANG",
    "LC_ALL",
    "TERM",
];

pub const DEFAULT_TIMEOUT: u64 = 600;
const DEFAULT_MEMORY: u32 = 2048;

#[derive(Args, Clone, Debug)]
pub struct Machine {
    /// Which kernel to boot
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel: Kernel,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub cpus: u32,
    /// Memory in MiB; the guest's writable layer and /run live in it too
    #[arg(long, default_value_t = DEFAULT_MEMORY, value_name = "MIB")]
    pub memory: u32,
    /// Count instructions: one CPU, and rdtsc returns the number of instructions executed
    #[arg(long)]
    pub icount: bool,
    /// A QEMU plugin with its options; it is told to write to OUT/counts
    #[arg(long, hide = true, value_name = "FILE[,OPTION…]")]
    pub plugin: Option<String>,
    /// Kill the machine after so many seconds (exit status 124)
    #[arg(long, default_value_t = DEFAULT_TIMEOUT, value_name = "SECONDS")]
    pub timeout: u64,
    /// Boot without algif_tls.ko
    #[arg(long)]
    pub no_module: bool,
    /// Do not fail when the kernel warns (fault injection provokes warnings)
    #[arg(long)]
    pub ignore_dmesg: bool,
    /// Add or pass on an environment variable
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Count which lines of the module run: OUT/gcov/*.gcda (the debug kernel only)
    #[arg(long)]
    pub coverage: bool,
    /// Say nothing but what the command says
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The host's file system is the guest's root: read-only below, writable in memory, forgotten at the end.
The command runs as root in the caller's directory, with KTLSSHIM=…/libktlsshim.so (the release build),
KTLSSHIM_KMOD=…/algif_tls.ko, KTLSSHIM_VM=1 and a plain PATH. What it writes to /out is found in
target/vm/out/ID afterwards, beside dmesg. The exit status is the command's; 1 if the kernel complained,
124 on timeout, 125 if the machine itself failed.

    cargo xtask vm -- uname -a
    cargo xtask vm -- sh -c 'modprobe tun && lsmod'
    cargo xtask vm --icount -- ./measure
    LD_PRELOAD only inside: cargo xtask vm -- sh -c 'LD_PRELOAD=$KTLSSHIM curl …'")]
pub struct Vm {
    #[command(flatten)]
    pub machine: Machine,
    /// Run on this machine's own kernel instead (asks before it inserts the module)
    #[arg(long)]
    pub here: bool,
    /// With --here: do not ask
    #[arg(long, requires = "here")]
    pub yes: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// How a run ended.
pub struct Ended {
    pub status: i32,
    pub complaints: Vec<String>,
    /// Whether kmemleak went through memory at the end
    pub leaks_sought: bool,
    pub out: PathBuf,
}

impl Ended {
    /// The status that `cargo xtask` itself should return.
    pub fn code(&self) -> i32 {
        if self.status == 0 && !self.complaints.is_empty() {
            1
        } else {
            self.status
        }
    }
}

impl Vm {
    pub fn run(self) -> Result<i32> {
        if self.here {
            return crate::here::run(&self.command, self.yes);
        }
        // As the module is: what runs is what the sources say.
        crate::build::shim(true)?;
        let ended = self.machine.run(&self.command, false, None)?;
        Ok(ended.code())
    }
}

/// One run: what to do, and where its files are.
struct Run<'a> {
    machine: &'a Machine,
    argv: &'a [String],
    cwd: &'a Path,
    tty: bool,
    kernel: Prepared,
    module: Option<PathBuf>,
    out: PathBuf,
    private: PathBuf,
}

impl Machine {
    /// Boots, runs in the caller's directory, returns. With `tap`, stdout goes there line by line.
    pub fn run(&self, argv: &[String], tty: bool, tap: Tap) -> Result<Ended> {
        self.launch(argv, &std::env::current_dir()?, tty, tap)
    }

    /// The same in a directory of choice.
    pub fn run_in(&self, argv: &[String], cwd: &Path, tap: Tap) -> Result<Ended> {
        self.launch(argv, cwd, false, tap)
    }

    fn launch(&self, argv: &[String], cwd: &Path, tty: bool, tap: Tap) -> Result<Ended> {
        host::need(&[host::QEMU])?;
        if self.coverage && self.kernel != Kernel::Debug {
            bail!("--coverage takes --kernel debug: no other kernel counts");
        }
        let mut kernel = self.kernel.prepare()?;
        kernel.coverage = self.coverage;
        let (out, private) = run_dirs()?;
        // Copies: what a colleague, or an impatient editor, builds meanwhile must not reach this run.
        let module = match self.no_module {
            true => None,
            false => Some(kernel.copy_module(&private)?),
        };
        if paths::shim().exists() {
            fs::copy(paths::shim(), private.join(SHIM))?;
        }
        let machine = self;
        let run = Run {
            machine,
            argv,
            cwd,
            tty,
            kernel,
            module,
            out,
            private,
        };
        let started = Instant::now();
        let result = run.boot(tap);
        let console = fs::read_to_string(run.console()).unwrap_or_default();
        let _ = fs::remove_dir_all(&run.private);
        let (finish, log) = result?;
        let ended = run.judge(finish, &log, &console)?;
        if self.coverage {
            crate::coverage::save(&ended.out)?;
        }
        if !self.quiet {
            let seconds = started.elapsed().as_secs_f32();
            eprintln!("vm: exit status {} after {seconds:.1} s", ended.status);
        }
        Ok(ended)
    }

    /// As the command line would have it without options.
    pub fn on(kernel: Kernel) -> Self {
        Self {
            kernel,
            cpus: 2,
            memory: DEFAULT_MEMORY,
            icount: false,
            plugin: None,
            timeout: DEFAULT_TIMEOUT,
            no_module: false,
            ignore_dmesg: false,
            coverage: false,
            env: Vec::new(),
            quiet: true,
        }
    }

    /// Unless somebody asked for so many seconds, a slow kernel gets more of them.
    fn patience(&self) -> Duration {
        let factor = match self.timeout {
            DEFAULT_TIMEOUT => self.kernel.slowness(),
            _ => 1,
        };
        Duration::from_secs(self.timeout * factor)
    }
}

impl Run<'_> {
    fn console(&self) -> PathBuf {
        self.private.join("console")
    }

    fn boot(&self, tap: Tap) -> Result<(Finish, String)> {
        let initrd = self.private.join("initrd");
        let env = self.environment()?;
        let job = image::Job {
            argv: self.argv,
            env: &env,
            cwd: self.cwd,
            modules_dir: &self.kernel.modules_root(),
            tty: self.tty,
        };
        image::write(&initrd, &self.modules()?, &job)?;
        if !self.machine.quiet {
            let with = if self.module.is_some() {
                "with"
            } else {
                "without"
            };
            let (version, argv) = (&self.kernel.version, self.argv.join(" "));
            eprintln!("vm: Linux {version} {with} algif_tls (emulated): {argv}");
        }
        let qemu = Qemu {
            vmlinux: &self.kernel.vmlinux,
            initrd: &initrd,
            out: &self.out,
            console: &self.console(),
            cpus: self.machine.cpus,
            memory: self.machine.memory,
            parameters: self.machine.kernel.parameters(),
            icount: self.machine.icount,
            plugin: self.machine.plugin.as_deref(),
            tty: self.tty,
        };
        let (ports, guest_ends) = Ports::new()?;
        let mut qemu = qemu.command();
        qemu.fd_mappings(guest_ends)?;
        // SAFETY: between fork and exec a single prctl, which is async-signal-safe.
        unsafe {
            qemu.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        let child = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        drop(qemu); // holds the guest's ends of the ports; only QEMU may, or we never see their end
        Ok(ports.attend(child, tap, self.machine.patience()))
    }

    /// The path that a user would preload, if nothing was built to copy.
    fn shim(&self) -> PathBuf {
        let copy = self.private.join(SHIM);
        if copy.exists() { copy } else { paths::shim() }
    }

    fn environment(&self) -> Result<Vec<(String, String)>> {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let mut env = vec![
            pair(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            pair("HOME", "/root"),
            pair("USER", "root"),
            pair("LOGNAME", "root"),
            pair("SHELL", "/bin/sh"),
            pair("TMPDIR", "/tmp"),
        ];
        for (name, value) in std::env::vars() {
            if PASSED.contains(&name.as_str()) || name.starts_with("KTLSSHIM") {
                env.push((name, value));
            }
        }
        env.push(pair("KTLSSHIM", &self.shim().to_string_lossy()));
        env.push(pair("KTLSSHIM_VM", "1"));
        // The caller may know of a busy machine, and then has set it already.
        let slowness = self.machine.kernel.slowness();
        if std::env::var_os("KTLSSHIM_TEST_SLOWNESS").is_none() {
            env.push(pair("KTLSSHIM_TEST_SLOWNESS", &slowness.to_string()));
        }
        if let Some(module) = &self.module {
            env.push(pair("KTLSSHIM_KMOD", &module.to_string_lossy()));
        }
        if let Some((rows, columns)) = window().filter(|_| self.tty) {
            env.push(pair("LINES", &rows.to_string()));
            env.push(pair("COLUMNS", &columns.to_string()));
        }
        for item in &self.machine.env {
            match item.split_once('=') {
                Some((name, value)) => env.push(pair(name, value)),
                None => match std::env::var(item) {
                    Ok(value) => env.push(pair(item, &value)),
                    Err(_) => bail!("--env {item}: not set here; give a value: --env {item}=VALUE"),
                },
            }
        }
        Ok(env)
    }

    fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut modules = self.kernel.module_files(MACHINE_MODULES, false)?;
        for file in self.kernel.module_files(CRYPTO_MODULES, true)? {
            if !modules.contains(&file) {
                modules.push(file);
            }
        }
        modules.extend(self.module.clone());
        Ok(modules)
    }

    /// Says what went wrong, keeps the evidence, and puts a number to it.
    fn judge(&self, finish: Finish, log: &str, console: &str) -> Result<Ended> {
        let dmesg = self.out.join("dmesg");
        fs::write(&dmesg, if log.is_empty() { console } else { log })?;
        // A report of KASAN has three stacks, one of lockdep more.
        let debug = self.machine.kernel == Kernel::Debug;
        let mut complaints = dmesg::complaints(log, if debug { 60 } else { 12 });
        if complaints.is_empty() {
            // The serial console is the only witness of a kernel that died.
            complaints = dmesg::complaints(console, 40);
        }
        if self.machine.ignore_dmesg && matches!(finish, Finish::Exited(_)) {
            complaints.clear();
        }
        if !complaints.is_empty() {
            eprintln!("vm: the kernel complained ({}):", dmesg.display());
            complaints.iter().for_each(|l| eprintln!("  {l}"));
        }
        let status = match finish {
            Finish::Exited(status) => status,
            Finish::Timeout => {
                let patience = self.machine.patience().as_secs();
                eprintln!("vm: no end after {patience} s (--timeout): machine killed");
                124
            }
            Finish::Died(why) => {
                eprintln!("vm: {why}");
                let lines: Vec<_> = console.lines().collect();
                let tail = if complaints.is_empty() { 20 } else { 0 };
                let tail = &lines[lines.len().saturating_sub(tail)..];
                tail.iter().for_each(|l| eprintln!("  {l}"));
                125
            }
        };
        let complaints = complaints.into_iter().map(str::to_owned).collect();
        Ok(Ended {
            status,
            complaints,
            leaks_sought: log.contains(LEAKS_SOUGHT),
            out: self.out.clone(),
        })
    }
}

const SHIM: &str = "libktlsshim.so";

/// What vm-init adds to the log when it has let kmemleak look.
const LEAKS_SOUGHT: &str = "[kmemleak] scanned";

/// Two directories that no other run has: the guest's /out, which stays, and one for the run's time.
fn run_dirs() -> Result<(PathBuf, PathBuf)> {
    let base = paths::runs();
    fs::create_dir_all(&base)?;
    crate::clean::prune(&base);
    for n in 0.. {
        let out = base.join(format!("{}-{n}", std::process::id()));
        match fs::create_dir(&out) {
            Ok(()) => {
                let private = out.with_extension("run");
                fs::create_dir(&private)?;
                return Ok((out, private));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("{}", out.display())),
        }
    }
    unreachable!("the counter has no end")
}

/// The terminal's size: a console that virtio emulates would know none.
fn window() -> Option<(u16, u16)> {
    let mut size = nix::pty::Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel fills one winsize, a live local, and keeps no pointer to it.
    let result = unsafe { nix::libc::ioctl(0, nix::libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}
