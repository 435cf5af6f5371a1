// SPDX-License-Identifier: MIT OR Apache-2.0
//! The three streams between a running machine and us: the job's stdout and stderr, and the lines
//! in which vm-init reports. Their host ends are socket pairs: no path, no network port, so that any
//! number of machines may run side by side.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use command_fds::FdMapping;

/// Name in the guest, descriptor in QEMU.
pub const PORTS: [(&str, i32); 3] = [("out", 10), ("err", 11), ("ctl", 12)];

/// Receives what the job writes; None stands for the caller's own stdout and stderr.
pub type Tap<'a> = Option<&'a mut (dyn FnMut(&str) + Send)>;

pub enum Finish {
    Exited(i32),
    Timeout,
    Died(String),
}

pub struct Ports {
    out: UnixStream,
    err: UnixStream,
    ctl: UnixStream,
}

impl Ports {
    /// Our ends, and the guest's ends for QEMU to inherit.
    pub fn new() -> Result<(Self, Vec<FdMapping>)> {
        let (out, guest_out) = UnixStream::pair()?;
        let (err, guest_err) = UnixStream::pair()?;
        let (ctl, guest_ctl) = UnixStream::pair()?;
        let guest = [guest_out, guest_err, guest_ctl];
        let mappings = PORTS.iter().zip(guest).map(|((_, fd), end)| FdMapping {
            parent_fd: OwnedFd::from(end),
            child_fd: *fd,
        });
        Ok((Self { out, err, ctl }, mappings.collect()))
    }

    /// Follows a running machine to its end; returns how it ended and the kernel's log.
    pub fn attend(self, mut child: Child, tap: Tap, patience: Duration) -> (Finish, String) {
        let deadline = Instant::now() + patience;
        let messages = listen(self.ctl);
        let (out, err) = (self.out, self.err);
        std::thread::scope(|scope| {
            let out = scope.spawn(move || match tap {
                Some(tap) => lines(out, tap),
                None => copy(out, std::io::stdout()),
            });
            let err = scope.spawn(move || copy(err, std::io::stderr()));
            let result = follow(&messages, deadline);
            if !matches!(result.0, Finish::Exited(_)) {
                let _ = child.kill();
            }
            end(&mut child);
            let _ = (out.join(), err.join());
            result
        })
    }
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

fn copy(mut from: UnixStream, mut to: impl Write) {
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        // A reader that went away must not stop the machine: go on draining.
        let _ = to.write_all(&buffer[..n]).and_then(|()| to.flush());
    }
}

fn lines(from: UnixStream, tap: &mut (dyn FnMut(&str) + Send)) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        tap(&String::from_utf8_lossy(&line));
    }
}

fn listen(ctl: UnixStream) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(ctl).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// Reads what vm-init says until it says the status.
fn follow(messages: &Receiver<String>, deadline: Instant) -> (Finish, String) {
    let mut log = String::new();
    let mut failed = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match messages.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return (Finish::Timeout, log),
            Err(RecvTimeoutError::Disconnected) => {
                let unsaid = || "the machine ended without an exit status".into();
                return (Finish::Died(failed.unwrap_or_else(unsaid)), log);
            }
        };
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("status", status) => return (verdict(status, failed), log),
            ("failed", why) => failed = Some(why.to_owned()),
            ("kmsg", record) => {
                // "kmsg LEVEL [time] message": the level has served vm-init's own remarks only.
                log += record.split_once(' ').map_or(record, |(_, text)| text);
                log.push('\n');
            }
            _ => {}
        }
    }
}

fn verdict(status: &str, failed: Option<String>) -> Finish {
    match (status.parse::<i32>(), failed) {
        // A command may return 255 too; vm-init then has nothing to complain about.
        (Ok(255), Some(why)) | (Err(_), Some(why)) => Finish::Died(why),
        (Ok(status), why) => {
            why.iter().for_each(|w| eprintln!("vm: {w}"));
            Finish::Exited(status)
        }
        (Err(_), None) => Finish::Died(format!("vm-init reported the status {status:?}")),
    }
}
