// SPDX-License-Identifier: MIT OR Apache-2.0
//! What no single call shows: complaints in the kernel log, and memory that is nobody's any more.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// New lines of the kernel log that say that something is wrong.
pub struct KernelLog(Option<File>);

const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "KASAN",
    "UBSAN",
    "kmemleak",
    "refcount_t",
    "possible recursive locking",
    "circular locking",
    "Call Trace",
    "general protection",
    "rcu_sched self-detected",
    "blocked for more than",
];

impl KernelLog {
    pub fn open() -> KernelLog {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        let mut log = KernelLog(file.ok());
        log.complaint();
        log
    }

    /// The first complaint since the last look.
    pub fn complaint(&mut self) -> Option<String> {
        let file = self.0.as_mut()?;
        let mut found = None;
        let mut buf = [0; 8192];
        // One read is one line; EPIPE says that some were overwritten.
        loop {
            match file.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    let text = String::from_utf8_lossy(&buf[..n]);
                    let line = text
                        .split(';')
                        .nth(1)
                        .unwrap_or("")
                        .lines()
                        .next()
                        .unwrap_or("");
                    if COMPLAINTS.iter().any(|c| line.contains(c)) {
                        found.get_or_insert_with(|| line.to_owned());
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        found
    }
}

/// Pages that /proc/meminfo assigns to nobody: what a module allocates for itself, and leaks.
pub fn stray_kib() -> i64 {
    // Pages on per-cpu lists count as used; compaction sends them home.
    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |name: &str| {
        text.lines()
            .find_map(|l| {
                l.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse::<i64>()
                    .ok()
            })
            .unwrap_or(0)
    };
    let known = [
        "MemFree:",
        "Buffers:",
        "Cached:",
        "AnonPages:",
        "Slab:",
        "KernelStack:",
        "PageTables:",
        "Percpu:",
        "SwapCached:",
    ];
    get("MemTotal:") - known.iter().map(|name| get(name)).sum::<i64>()
}

/// Pages of readers that are pinned now. The kernel counts both ways; this is exact once the counts of
/// each processor are gathered, which a look at stat_refresh does.
fn pinned() -> i64 {
    let _ = std::fs::read("/proc/sys/vm/stat_refresh");
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let get = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.trim().parse::<i64>().ok())
            .unwrap_or(0)
    };
    get("nr_foll_pin_acquired ") - get("nr_foll_pin_released ")
}

/// Pages that stay pinned although no call lasts so long. Other workers may be in one at any moment.
pub fn left_pinned() -> i64 {
    let mut least = pinned();
    crate::world::until(Duration::from_secs(1), || {
        least = least.min(pinned());
        least <= 0
    });
    least
}
