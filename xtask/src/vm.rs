// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: one command in a throwaway virtual machine.
//!
//! Emulation (TCG) only: development machines often have a /dev/kvm that cannot run this kernel, and
//! finding out may hang. Each run has a directory of its own, `target/vm/out/ID`, which the guest sees
//! as /out; nothing else is shared between runs, so any number may go on side by side. The streams
//! arrive over virtio ports whose host ends are socket pairs: no path, no network port.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use command_fds::{CommandFdExt, FdMapping};

use crate::kernel::{Kernel, Prepared};
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

#[derive(Args, Clone, Debug)]
pub struct Machine {
    /// Which kernel to boot
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel: Kernel,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub cpus: u32,
    /// Memory in MiB; the guest's writable layer and /run live in it too
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub memory: u32,
    /// Count instructions: one CPU, and rdtsc returns the number of instructions executed
    #[arg(long)]
    pub icount: bool,
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
        let ended = self.machine.run(&self.command, false, None)?;
        Ok(ended.code())
    }
}

struct Launch<'a> {
    argv: &'a [String],
    cwd: &'a Path,
    tty: bool,
}

/// Receives what the job writes; None stands for the caller's own stdout and stderr.
pub type Tap<'a> = Option<&'a mut (dyn FnMut(&str) + Send)>;

impl Machine {
    /// Boots, runs in the caller's directory, returns. With `tap`, stdout goes there line by line.
    pub fn run(&self, argv: &[String], tty: bool, tap: Tap) -> Result<Ended> {
        let cwd = std::env::current_dir()?;
        self.launch(
            &Launch {
                argv,
                cwd: &cwd,
                tty,
            },
            tap,
        )
    }

    /// The same in a directory of choice.
    pub fn run_in(&self, argv: &[String], cwd: &Path, tap: Tap) -> Result<Ended> {
        self.launch(
            &Launch {
                argv,
                cwd,
                tty: false,
            },
            tap,
        )
    }

    fn launch(&self, launch: &Launch, tap: Tap) -> Result<Ended> {
        host::need(&[host::QEMU])?;
        let kernel = self.kernel.prepare()?;
        let mut modules = kernel.module_files(MACHINE_MODULES, false)?;
        for file in kernel.module_files(CRYPTO_MODULES, true)? {
            if !modules.contains(&file) {
                modules.push(file);
            }
        }
        let module = if self.no_module {
            None
        } else {
            Some(kernel.build_module()?)
        };
        modules.extend(module.clone());
        let out = run_dir()?;
        let private = out.with_extension("run");
        fs::create_dir(&private)?;
        let started = Instant::now();
        let result = self.boot(
            &kernel,
            &modules,
            module.as_deref(),
            launch,
            &out,
            &private,
            tap,
        );
        let console = fs::read_to_string(private.join("console")).unwrap_or_default();
        let _ = fs::remove_dir_all(&private);
        let (status, log) = result?;

        fs::write(
            out.join("dmesg"),
            if log.is_empty() { &console } else { &log },
        )?;
        let mut complaints = dmesg::complaints(&log, 12);
        if complaints.is_empty() {
            // The serial console is the only witness of a kernel that died.
            complaints = dmesg::complaints(&console, 40);
        }
        if self.ignore_dmesg && matches!(status, Finish::Exited(_)) {
            complaints.clear();
        }
        let complaints: Vec<_> = complaints.into_iter().map(str::to_owned).collect();
        if !complaints.is_empty() {
            eprintln!(
                "vm: the kernel complained ({}):",
                out.join("dmesg").display()
            );
            complaints.iter().for_each(|l| eprintln!("  {l}"));
        }
        let status = match status {
            Finish::Exited(status) => status,
            Finish::Timeout => {
                eprintln!(
                    "vm: no end after {} s (--timeout): machine killed",
                    self.timeout
                );
                124
            }
            Finish::Died(why) => {
                eprintln!("vm: {why}");
                let tail = if complaints.is_empty() { 20 } else { 0 };
                console
                    .lines()
                    .rev()
                    .take(tail)
                    .collect::<Vec<_>>()
                    .iter()
                    .rev()
                    .for_each(|l| eprintln!("  {l}"));
                125
            }
        };
        if !self.quiet {
            eprintln!(
                "vm: exit status {status} after {:.1} s",
                started.elapsed().as_secs_f32()
            );
        }
        Ok(Ended {
            status,
            complaints,
            out,
        })
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one caller; the parts of one run"
    )]
    fn boot(
        &self,
        kernel: &Prepared,
        modules: &[PathBuf],
        module: Option<&Path>,
        launch: &Launch,
        out: &Path,
        private: &Path,
        tap: Tap,
    ) -> Result<(Finish, String)> {
        let &Launch { argv, cwd, tty } = launch;
        let modules_dir = kernel.modules_root();
        let env = self.environment(module)?;
        let job = image::Job {
            argv,
            env: &env,
            cwd,
            modules_dir: &modules_dir,
            tty,
        };
        let initrd = private.join("initrd");
        image::write(&initrd, modules, &job)?;
        if !self.quiet {
            let what = if module.is_some() {
                "with algif_tls"
            } else {
                "without algif_tls"
            };
            eprintln!(
                "vm: Linux {} {what} (emulated): {}",
                kernel.version,
                argv.join(" ")
            );
        }

        let (ours, theirs) = ports()?;
        let mut qemu = self.qemu(kernel, &initrd, out, private, tty);
        qemu.fd_mappings(theirs)?;
        // SAFETY: between fork and exec a single prctl, which is async-signal-safe.
        unsafe {
            qemu.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        let child = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        drop(qemu); // holds the guest's ends of the ports; only QEMU may
        self.attend(child, ours, tap)
    }

    /// Follows a running machine to its end.
    fn attend(
        &self,
        mut child: Child,
        ports: [UnixStream; 3],
        tap: Tap,
    ) -> Result<(Finish, String)> {
        let [out, err, ctl] = ports;
        let messages = listen(ctl);
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let result = std::thread::scope(|scope| {
            let out = scope.spawn(move || match tap {
                Some(tap) => lines(out, tap),
                None => copy(out, std::io::stdout()),
            });
            let err = scope.spawn(move || copy(err, std::io::stderr()));
            let result = follow(&messages, deadline);
            // After the status the machine ends by itself; otherwise there is nothing to wait for.
            if !matches!(result.0, Finish::Exited(_)) {
                let _ = child.kill();
            }
            end(&mut child);
            let _ = (out.join(), err.join());
            result
        });
        Ok(result)
    }

    fn qemu(
        &self,
        kernel: &Prepared,
        initrd: &Path,
        out: &Path,
        private: &Path,
        tty: bool,
    ) -> Command {
        let mut qemu =
            Command::new(host::find(host::QEMU.0).unwrap_or_else(|| host::QEMU.0.into()));
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "q35",
        ]);
        if self.icount {
            // ERMS and FSRM would make each byte of a `rep movsb` count as an instruction.
            qemu.args([
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-cpu",
                "max,-erms,-fsrm",
                "-smp",
                "1",
            ]);
            qemu.args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]);
            qemu.args(["-smp", &self.cpus.to_string()]);
        }
        qemu.args(["-m", &format!("{}M", self.memory)]);
        qemu.arg("-kernel")
            .arg(&kernel.vmlinux)
            .arg("-initrd")
            .arg(initrd);
        qemu.args(["-append", COMMAND_LINE]);
        // An emulated UART is slow: it carries only what is worth a warning.
        qemu.arg("-serial")
            .arg(format!("file:{}", private.join("console").display()));
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        let share = |tag: &str, path: &Path, more: &str| {
            let path = path.display().to_string().replace(',', ",,");
            [
                "-fsdev".to_owned(),
                format!("local,id={tag},path={path},security_model=none,multidevs=remap{more}"),
                "-device".to_owned(),
                format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
            ]
        };
        qemu.args(share("hostroot", Path::new("/"), ",readonly=on"));
        qemu.args(share("out", out, ""));
        qemu.args(["-device", "virtio-serial-pci"]);
        for (port, fd) in PORTS {
            qemu.args(["-chardev", &format!("socket,id={port},fd={fd}")]);
            qemu.args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        if tty {
            qemu.args([
                "-chardev",
                "stdio,id=tty,signal=off",
                "-device",
                "virtconsole,chardev=tty",
            ]);
        } else {
            qemu.stdin(Stdio::null());
        }
        qemu.stdout(if tty { Stdio::inherit() } else { Stdio::null() });
        qemu
    }

    fn environment(&self, module: Option<&Path>) -> Result<Vec<(String, String)>> {
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
        env.push(pair("KTLSSHIM", &paths::shim().to_string_lossy()));
        env.push(pair("KTLSSHIM_VM", "1"));
        if let Some(module) = module {
            env.push(pair("KTLSSHIM_KMOD", &module.to_string_lossy()));
        }
        for item in &self.env {
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
}

/// `notests`: the drivers' self-tests take 6 s under emulation. `oops=panic`: an oops ends the run.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 log_buf_len=1M panic=-1 oops=panic tsc=reliable \
    no_timer_check mitigations=off cryptomgr.notests=1 nokaslr random.trust_cpu=on";

const PORTS: [(&str, i32); 3] = [("out", 10), ("err", 11), ("ctl", 12)];

enum Finish {
    Exited(i32),
    Timeout,
    Died(String),
}

/// A machine that said its status leaves by itself, at once; should it not, it is helped.
fn end(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A directory that no other run has.
fn run_dir() -> Result<PathBuf> {
    let base = paths::runs();
    fs::create_dir_all(&base)?;
    crate::clean::prune(&base);
    for n in 0.. {
        let dir = base.join(format!("{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("{}", dir.display())),
        }
    }
    unreachable!("the counter has no end")
}

fn ports() -> Result<([UnixStream; 3], Vec<FdMapping>)> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for (_, child_fd) in PORTS {
        let (here, there) = UnixStream::pair()?;
        ours.push(here);
        theirs.push(FdMapping {
            parent_fd: OwnedFd::from(there),
            child_fd,
        });
    }
    let ours = ours
        .try_into()
        .map_err(|_| anyhow::anyhow!("three ports"))?;
    Ok((ours, theirs))
}

fn copy(mut from: UnixStream, mut to: impl Write) {
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        // A reader that went away must not stop the machine: go on draining.
        let _ = to.write_all(&buffer[..n]).and_then(|()| to.flush());
    }
}

fn lines(from: UnixStream, tap: &mut (dyn FnMut(&str) + Send)) {
    for line in BufReader::new(from).split(b'\n') {
        match line {
            Ok(line) => tap(&String::from_utf8_lossy(&line)),
            Err(_) => break,
        }
    }
}

fn listen(ctl: UnixStream) -> Receiver<String> {
    let (send, receive) = channel();
    let _: JoinHandle<()> = std::thread::spawn(move || {
        for line in BufReader::new(ctl).split(b'\n').map_while(Result::ok) {
            if send
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    receive
}

/// Reads what vm-init says until it says the status. Returns the kernel log too.
fn follow(messages: &Receiver<String>, deadline: Instant) -> (Finish, String) {
    let mut log = String::new();
    let mut failed = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match messages.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return (Finish::Timeout, log),
            Err(RecvTimeoutError::Disconnected) => {
                let why =
                    failed.unwrap_or_else(|| "the machine ended without an exit status".into());
                return (Finish::Died(why), log);
            }
        };
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("status", status) => {
                let finish = match (status.parse(), failed) {
                    (Ok(255), Some(why)) | (Err(_), Some(why)) => Finish::Died(why),
                    (Ok(status), why) => {
                        why.iter().for_each(|w| eprintln!("vm: {w}"));
                        Finish::Exited(status)
                    }
                    (Err(_), None) => Finish::Died(format!("vm-init said: {line}")),
                };
                return (finish, log);
            }
            ("failed", why) => failed = Some(why.to_owned()),
            ("kmsg", record) => {
                log += record.split_once(' ').map_or(record, |(_, text)| text);
                log.push('\n');
            }
            _ => {}
        }
    }
}
