// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says about itself while a program runs: /proc/net/alg_tls_stat, after each
//! operation. The counters belong to a network namespace, so each worker has one of its own, with
//! nothing in it but its four endpoints and a loopback device.
//!
//! Nothing here asks the shim: a shim that only says that the kernel carried the data is found out.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

/// One direction, as counts since the namespace was made.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Way {
    pub attached: u64,
    pub detached: u64,
    pub rekeyed: u64,
    pub records: u64,
    /// Of the records, those that were not data.
    pub control: u64,
    pub bytes: u64,
}

impl Way {
    fn since(&self, before: &Way) -> Way {
        Way {
            attached: self.attached.saturating_sub(before.attached),
            detached: self.detached.saturating_sub(before.detached),
            rekeyed: self.rekeyed.saturating_sub(before.rekeyed),
            records: self.records.saturating_sub(before.records),
            control: self.control.saturating_sub(before.control),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    pub fn add(&mut self, other: &Way) {
        self.attached += other.attached;
        self.detached += other.detached;
        self.rekeyed += other.rekeyed;
        self.records += other.records;
        self.control += other.control;
        self.bytes += other.bytes;
    }
}

/// Sending and receiving.
pub type Both = [Way; 2];

pub const WAYS: [&str; 2] = ["tx", "rx"];

/// The counters of this thread's namespace.
pub struct Counters {
    file: Option<File>,
    last: Both,
}

impl Counters {
    /// Moves this thread, and what it starts from now on, into a network namespace of its own.
    pub fn isolate() -> Result<Counters> {
        // SAFETY: no pointers.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error()).context("no network namespace (root?)");
        }
        loopback_up().context("lo")?;
        let file = File::open("/proc/thread-self/net/alg_tls_stat").context("alg_tls_stat")?;
        let mut counters = Counters {
            file: Some(file),
            last: Both::default(),
        };
        counters.last = counters.read().context("alg_tls_stat says nothing")?;
        Ok(counters)
    }

    /// None to be had: without the module there is no shim either.
    pub fn none() -> Counters {
        Counters {
            file: None,
            last: Both::default(),
        }
    }

    fn read(&self) -> Option<Both> {
        let mut room = [0u8; 4096];
        let n = self.file.as_ref()?.read_at(&mut room, 0).ok()?;
        parse(std::str::from_utf8(room.get(..n)?).ok()?)
    }

    /// What happened since the last call.
    pub fn news(&mut self) -> Both {
        let Some(now) = self.read() else {
            return Both::default();
        };
        let news = [now[0].since(&self.last[0]), now[1].since(&self.last[1])];
        self.last = now;
        news
    }
}

fn parse(text: &str) -> Option<Both> {
    let values: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, value.trim().parse().ok()?))
        })
        .collect();
    let way = |name: &str| {
        let value = |what: &str| values.get(format!("AlgTls{name}{what}").as_str()).copied();
        Some(Way {
            attached: value("")?,
            detached: value("Detach")?,
            rekeyed: value("Rekey")?,
            records: value("Records")?,
            control: value("Control")?,
            bytes: value("Bytes")?,
        })
    };
    Some([way("Tx")?, way("Rx")?])
}

fn loopback_up() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the kernel reads one ifreq, a live local.
    match unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_module_prints() {
        let mut text = String::new();
        for (n, name) in ["Tx", "Rx"].iter().enumerate() {
            let n = n * 10;
            for (i, what) in ["", "Records", "Bytes", "Control", "Rekey", "Detach"]
                .iter()
                .enumerate()
            {
                text += &format!("{:<32}{}\n", format!("AlgTls{name}{what}"), n + i);
            }
        }
        let [tx, rx] = parse(&text).unwrap();
        assert_eq!((tx.attached, tx.detached, tx.bytes), (0, 5, 2));
        assert_eq!((rx.records, rx.rekeyed, rx.control), (11, 14, 13));
        assert_eq!(parse("AlgTlsTx 1\n"), None);
        assert_eq!(rx.since(&tx).detached, 10);
    }
}
