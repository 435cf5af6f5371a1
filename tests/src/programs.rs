// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running somebody else's program with and without the shim.
//!
//! A [`Lab`] is one test's world: a directory of its own and a network
//! namespace of its own. The namespace is what makes the proof sharp: the
//! kernel's counters are per namespace, so that whatever they show was caused
//! by this test, and ports never collide although tests run side by side.
//!
//! Processes are owned by the value that started them and end with it: every
//! wait has a deadline, and every process leads a group of its own, which is
//! killed by its id.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::traffic::{self, Kernel, Line};

/// Emulated machines are slow; a healthy step takes a small part of this.
pub const PATIENCE: Duration = Duration::from_secs(90);

const TICK: Duration = Duration::from_millis(5);

/// Whether a program runs as its author built it, or under the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Plain,
    Shim,
}

/// The three ways in which a pair of programs can be mixed.
pub const MIXES: [(Side, Side); 3] = [
    (Side::Shim, Side::Plain),
    (Side::Plain, Side::Shim),
    (Side::Shim, Side::Shim),
];

/// One test's directory, network and bookkeeping.
pub struct Lab {
    pub dir: PathBuf,
    shim: Option<PathBuf>,
    serial: Cell<u32>,
    port: Cell<u16>,
}

impl Lab {
    /// Opens a laboratory, or fails the test where there is none to be had.
    ///
    /// `KTLSSHIM_TESTS_PLAIN=1` is for whoever writes a test: everything runs
    /// plain against plain, and the test then *fails* at its end, because
    /// nothing was proved.
    pub fn new(name: &str) -> Lab {
        static LABS: AtomicU32 = AtomicU32::new(0);

        let plain = std::env::var_os("KTLSSHIM_TESTS_PLAIN").is_some();
        let shim = (!plain).then(|| {
            assert!(
                std::env::var_os("KTLSSHIM_VM").is_some(),
                "run me by `cargo xtask test`: this test needs the kernel of the virtual machine"
            );
            let path =
                PathBuf::from(std::env::var_os("KTLSSHIM").expect("KTLSSHIM names the shim"));
            assert!(path.is_file(), "no shim at {}", path.display());
            path
        });

        own_network();
        let dir = std::env::temp_dir().join(format!(
            "ktlsshim-{name}-{}-{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&dir).expect("a directory for the test");
        // Servers drop their privileges and still log, and store uploads, here.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("chmod");
        Lab {
            dir,
            shim,
            serial: Cell::new(0),
            port: Cell::new(8442),
        }
    }

    /// True when there is no shim: proofs are left out, and the test fails.
    pub fn plain(&self) -> bool {
        self.shim.is_none()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A port that nobody else uses (the network is this test's own).
    pub fn port(&self) -> u16 {
        self.port.set(self.port.get() + 1);
        self.port.get()
    }

    /// A program that is ready to be given arguments and started.
    pub fn program(&self, side: Side, path: impl AsRef<Path>) -> Program {
        let path = path.as_ref();
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let stem = path
            .file_name()
            .expect("a program's name")
            .to_string_lossy();
        let label = format!("{serial:03}-{stem}");
        let mut program = Program {
            command: Command::new(path),
            out: self.path(&format!("{label}.out")),
            err: self.path(&format!("{label}.err")),
            log: self.path(&format!("{label}.log")),
            label,
            input: Input::Nothing,
        };
        program.command.process_group(0).current_dir(&self.dir);
        program.command.env_clear();
        program.command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        program
            .command
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8");
        program.command.env("PYTHONDONTWRITEBYTECODE", "1");
        if side == Side::Shim {
            for (key, value) in self.shim_environment(&program.log) {
                program.command.env(key, value);
            }
        }
        program
    }

    /// What the shim needs in a program's environment.
    pub fn shim_environment(&self, log: &Path) -> Vec<(&'static str, String)> {
        match &self.shim {
            None => Vec::new(),
            Some(shim) => vec![
                ("LD_PRELOAD", shim.display().to_string()),
                ("KTLSSHIM_LOG", log.display().to_string()),
            ],
        }
    }

    /// Runs `scenario` plain, then in every mix, and demands the same result.
    ///
    /// `proof` sees what the kernel counted meanwhile. That the plain run left
    /// no trace in the counters is demanded here, once for all tests.
    pub fn differ<T: PartialEq + std::fmt::Debug>(
        &self,
        mixes: &[(Side, Side)],
        scenario: impl Fn(Side, Side) -> (T, Evidence),
        proof: impl Fn((Side, Side), &Evidence, &Kernel),
    ) {
        let before = Kernel::now(self);
        let (expected, evidence) = scenario(Side::Plain, Side::Plain);
        let idle = Kernel::now(self).since(&before);
        assert_eq!(
            idle.get("AlgTlsTx") + idle.get("AlgTlsRx"),
            0,
            "a plain run was offloaded"
        );
        assert!(evidence.server.is_empty() && evidence.client.is_empty());
        for &mix in mixes {
            let before = Kernel::now(self);
            let (got, evidence) = scenario(mix.0, mix.1);
            if got != expected {
                panic!(
                    "(server, client) = {mix:?} differs from plain\n  plain: {expected:#?}\n  shim:  {got:#?}\n{}",
                    evidence.describe()
                );
            }
            if self.plain() {
                continue;
            }
            let kernel = Kernel::settled(self).since(&before);
            proof(mix, &evidence, &kernel);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what the test left behind is in {}", self.dir.display());
            return;
        }
        let _ = fs::remove_dir_all(&self.dir);
        assert!(
            !self.plain(),
            "PLAIN ONLY: the programs agree, and nothing was proved"
        );
    }
}

/// What the two programs' shims wrote about a scenario.
#[derive(Default, Debug)]
pub struct Evidence {
    pub server: Vec<Line>,
    pub client: Vec<Line>,
}

impl Evidence {
    pub fn describe(&self) -> String {
        let show = |lines: &[Line]| -> String {
            lines
                .iter()
                .map(|line| format!("    {}\n", line.text))
                .collect()
        };
        format!(
            "  server's log:\n{}  client's log:\n{}",
            show(&self.server),
            show(&self.client)
        )
    }
}

enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Open,
}

/// A command with its output files, its log and what goes to its stdin.
pub struct Program {
    pub command: Command,
    pub out: PathBuf,
    pub err: PathBuf,
    pub log: PathBuf,
    label: String,
    input: Input,
}

impl Program {
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    /// Several arguments in one string; none of ours contains a blank.
    pub fn args(mut self, args: &str) -> Program {
        self.command.args(args.split_whitespace());
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Program {
        self.command.env(key, value);
        self
    }

    pub fn input(mut self, bytes: &[u8]) -> Program {
        self.input = Input::Bytes(bytes.to_vec());
        self
    }

    /// Keeps stdin open: see [`Running::say`].
    pub fn interactive(mut self) -> Program {
        self.input = Input::Open;
        self
    }

    pub fn start(mut self) -> Running {
        let stdin = match self.input {
            Input::Nothing => Stdio::null(),
            _ => Stdio::piped(),
        };
        self.command.stdin(stdin);
        self.command
            .stdout(File::create(&self.out).expect("output file"));
        self.command
            .stderr(File::create(&self.err).expect("error file"));
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.label));
        let stdin = child.stdin.take().map(Stdin::new);
        let mut running = Running {
            child,
            stdin,
            ended: None,
            label: self.label,
            out: self.out,
            err: self.err,
            log: self.log,
        };
        if let Input::Bytes(bytes) = self.input {
            running.stdin.take().expect("a pipe to stdin").write(bytes);
        }
        running
    }

    /// Runs to the end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }
}

/// A pipe to a program that may read slowly, or end before it has read
/// everything: a thread feeds it, so that no test hangs in a write. Dropping
/// this closes the pipe as soon as everything is written.
struct Stdin {
    sender: mpsc::Sender<Vec<u8>>,
    /// Bytes that the thread has not written yet.
    queued: Arc<AtomicUsize>,
    pipe: OwnedFd,
}

impl Stdin {
    fn new(mut pipe: ChildStdin) -> Stdin {
        let copy = pipe.as_fd().try_clone_to_owned().expect("a copy of a pipe");
        let (sender, receiver) = mpsc::channel::<Vec<u8>>();
        let queued = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&queued);
        thread::spawn(move || {
            receiver.iter().try_for_each(|bytes| {
                pipe.write_all(&bytes)?;
                left.fetch_sub(bytes.len(), Ordering::SeqCst);
                io::Result::Ok(())
            })
        });
        Stdin {
            sender,
            queued,
            pipe: copy,
        }
    }

    /// False when the program has closed its end.
    fn write(&self, bytes: Vec<u8>) -> bool {
        self.queued.fetch_add(bytes.len(), Ordering::SeqCst);
        self.sender.send(bytes).is_ok()
    }

    /// Has the program read everything that was written?
    fn drained(&self) -> bool {
        let mut unread: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int, and `unread` is one.
        let asked = unsafe { libc::ioctl(self.pipe.as_raw_fd(), libc::FIONREAD, &mut unread) };
        self.queued.load(Ordering::SeqCst) == 0 && asked == 0 && unread == 0
    }
}

/// A started program. Dropping it ends its process group.
pub struct Running {
    child: Child,
    stdin: Option<Stdin>,
    ended: Option<ExitStatus>,
    label: String,
    pub out: PathBuf,
    pub err: PathBuf,
    pub log: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to the program's stdin.
    pub fn say(&mut self, text: &str) {
        if !self
            .stdin
            .as_ref()
            .expect("an open stdin")
            .write(text.into())
        {
            panic!(
                "{}: does not read its stdin any more\n{}",
                self.label,
                self.describe()
            );
        }
    }

    /// Writes to stdin what the program must get by a read of its own.
    pub fn say_alone(&mut self, text: &str) {
        self.say(text);
        let what = format!("{}: reads {text:?}", self.label);
        eventually(&what, || self.stdin.as_ref().is_some_and(Stdin::drained));
    }

    /// Closes the program's stdin.
    pub fn hush(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&self, signal: libc::c_int) {
        if self.ended.is_none() {
            // SAFETY: kill has no memory effects; the child is not yet reaped,
            // so the id is still its own.
            unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        }
    }

    /// Waits until the program has printed `needle` `times` times.
    pub fn expect(&mut self, file: &Path, needle: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read(file).unwrap_or_default();
            if count(&text, needle.as_bytes()) >= times {
                return;
            }
            if self.ended().is_some() || Instant::now() > deadline {
                panic!(
                    "{}: never saw {needle:?} × {times}\n{}",
                    self.label,
                    self.describe()
                );
            }
            thread::sleep(TICK);
        }
    }

    pub fn expect_out(&mut self, needle: &str) {
        let file = self.out.clone();
        self.expect(&file, needle, 1);
    }

    /// Waits until the program (or a child of it) listens on `port`.
    pub fn listening(mut self, port: u16) -> Running {
        let deadline = Instant::now() + PATIENCE;
        while !listens(port) {
            if self.ended().is_some() || Instant::now() > deadline {
                panic!(
                    "{}: does not listen on {port}\n{}",
                    self.label,
                    self.describe()
                );
            }
            thread::sleep(TICK);
        }
        self
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waitpid");
        }
        self.ended
    }

    fn wait_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline => return None,
                None => thread::sleep(TICK),
            }
        }
    }

    /// Waits for the end, at most [`PATIENCE`].
    pub fn wait(mut self) -> Outcome {
        if self.wait_until(Instant::now() + PATIENCE).is_none() {
            panic!(
                "{}: still running after {PATIENCE:?}\n{}",
                self.label,
                self.describe()
            );
        }
        self.outcome()
    }

    /// Asks the program to end, and demands that it does.
    pub fn stop(mut self, signal: libc::c_int) -> Outcome {
        self.stdin = None;
        self.signal(signal);
        if self
            .wait_until(Instant::now() + Duration::from_secs(20))
            .is_none()
        {
            panic!(
                "{}: does not end on signal {signal}\n{}",
                self.label,
                self.describe()
            );
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let status = self.ended.expect("an ended program");
        Outcome {
            label: self.label.clone(),
            status: status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or(0)),
            out: fs::read(&self.out).expect("output"),
            err: fs::read(&self.err).expect("errors"),
            log: traffic::lines(&self.log),
        }
    }

    pub fn describe(&self) -> String {
        let tail = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            let from = bytes.len().saturating_sub(2000);
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        };
        format!(
            "--- stdout\n{}\n--- stderr\n{}\n--- log\n{}",
            tail(&self.out),
            tail(&self.err),
            tail(&self.log)
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // SAFETY: as in `signal`; the group was made by `process_group(0)`.
            unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = self.child.wait();
        }
    }
}

/// What a program did. A death by signal is a negative status.
#[derive(Debug)]
pub struct Outcome {
    label: String,
    pub status: i32,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub log: Vec<Line>,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    pub fn good(self) -> Outcome {
        assert_eq!(
            self.status,
            0,
            "{}: {}\n{}",
            self.label,
            self.text(),
            self.errors()
        );
        self
    }
}

/// Occurrences of `needle` in `text`.
pub fn count(text: &[u8], needle: &[u8]) -> usize {
    crate::sys::occurrences(text, needle).len()
}

/// Polls until `check` holds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(TICK);
    }
}

/// Is there a listening TCP socket on `port`? Asked of the kernel, not by a
/// connection: servers count and report connections that go away again.
fn listens(port: u16) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let local = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields
            .next()
            .is_some_and(|address| address.ends_with(&local))
            && fields.nth(1) == Some("0A")
    })
}

/// Moves this thread, and what it starts, into a network namespace of its own.
fn own_network() {
    // SAFETY: unshare changes only this thread's namespace.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        done,
        0,
        "a network namespace: {}",
        io::Error::last_os_error()
    );

    // SAFETY: a zeroed ifreq is a valid value of plain integers and arrays; the
    // kernel reads and writes only this one structure.
    let up = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let up = libc::ioctl(fd, libc::SIOCSIFFLAGS, &request);
        libc::close(fd);
        up
    };
    assert_eq!(up, 0, "lo: {}", io::Error::last_os_error());
}
