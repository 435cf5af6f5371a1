// SPDX-License-Identifier: MIT OR Apache-2.0
//! An endpoint process (`endpoint/`). It lives through many connections, since starting a process
//! under a preload in an emulated machine costs more than most programs here. The value that started it
//! kills it, by its id, when it goes.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// `endpoint/`, compiled for this machine.
pub const PROGRAM: &str = env!("KTLSSHIM_SOAK_ENDPOINT");

/// How endpoints are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The endpoint, with whatever must come before it.
    pub command: Vec<String>,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub shim: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub env: Vec<(String, String)>,
}

pub struct Endpoint {
    launch: Launch,
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    partial: Vec<u8>,
    /// Whole lines that nobody took yet.
    lines: std::collections::VecDeque<String>,
    pub library: String,
    log_at: u64,
}

impl Endpoint {
    pub fn start(launch: &Launch) -> Result<Endpoint> {
        let (program, before) = launch.command.split_first().context("no endpoint")?;
        let mut command = Command::new(program);
        command.args(before).arg(&launch.cert).arg(&launch.key);
        command
            .env_remove("LD_PRELOAD")
            .env_remove("KTLSSHIM_LOG")
            .env_remove("SSLKEYLOGFILE");
        command.envs(launch.env.iter().map(|(k, v)| (k, v)));
        if let Some(shim) = &launch.shim {
            command.env("LD_PRELOAD", shim);
        }
        if let Some(log) = &launch.log {
            let _ = std::fs::remove_file(log);
            command.env("KTLSSHIM_LOG", log);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let to = child.stdin.take().context("stdin")?;
        let from = child.stdout.take().context("stdout")?;
        let fd = from.as_raw_fd();
        // SAFETY: plain fcntl on our own pipe.
        unsafe {
            libc::fcntl(
                fd,
                libc::F_SETFL,
                libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK,
            )
        };
        let mut endpoint = Endpoint {
            launch: launch.clone(),
            child,
            to,
            from,
            partial: Vec::new(),
            lines: std::collections::VecDeque::new(),
            library: String::new(),
            log_at: 0,
        };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(line) = endpoint.line()? {
                endpoint.library = line.trim_start_matches("=ready ").to_owned();
                return Ok(endpoint);
            }
            if Instant::now() > until {
                bail!("{program} does not start");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn restart(&mut self) -> Result<()> {
        let launch = self.launch.clone();
        *self = Endpoint::start(&launch)?;
        Ok(())
    }

    pub fn send(&mut self, command: &str) -> Result<()> {
        self.to.write_all(command.as_bytes())?;
        self.to.write_all(b"\n")?;
        Ok(())
    }

    pub fn fd(&self) -> i32 {
        self.from.as_raw_fd()
    }

    /// The next line that is there.
    pub fn line(&mut self) -> Result<Option<String>> {
        if let Some(line) = self.lines.pop_front() {
            return Ok(Some(line));
        }
        let mut room = [0u8; 8192];
        match self.from.read(&mut room) {
            Ok(0) => {
                let status = self.child.wait()?;
                bail!("the endpoint died: {status}")
            }
            Ok(n) => {
                for byte in &room[..n] {
                    if *byte == b'\n' {
                        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial))
                            .into_owned();
                        self.lines.push_back(line);
                    } else {
                        self.partial.push(*byte);
                    }
                }
                Ok(self.lines.pop_front())
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What the shim has logged since the last time.
    pub fn new_log(&mut self) -> String {
        let Some(path) = &self.launch.log else {
            return String::new();
        };
        // Only the end of it: the log grows with each connection.
        let mut new = Vec::new();
        if let Ok(mut file) = std::fs::File::open(path) {
            let _ = file.seek(SeekFrom::Start(self.log_at));
            let _ = file.read_to_end(&mut new);
        }
        self.log_at += new.len() as u64;
        String::from_utf8_lossy(&new).into_owned()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
