// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults inside the kernel, where they hit our module: allocations that fail, user memory that cannot
//! be copied. Only the debug kernel injects them (`debug_*` test programs, `--kernel debug`).
//!
//! Three ways. [`Faults`] lets a share of all calls fail that have `algif_tls` on their stack, whoever
//! makes them: for load. [`nth`] lets exactly the nth call of this thread fail, wherever it is: to walk
//! through every failing path of one system call. [`after`] lets all of them fail once so much memory
//! was given out: for what is tried again and again.
//!
//! The settings are the machine's, so only one [`Faults`] exists at a time; dropping it ends them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// kmalloc and its kin
    Slab,
    /// Whole pages
    Page,
    /// copy_from_user, copy_to_user, and iterators over user memory
    Usercopy,
}

pub const KINDS: [Kind; 3] = [Kind::Slab, Kind::Page, Kind::Usercopy];

/// More faults than any test provokes: the kernel counts this down.
const BUDGET: u64 = 1_000_000_000;

static MACHINE: Mutex<()> = Mutex::new(());

impl Kind {
    fn dir(self) -> &'static str {
        match self {
            Kind::Slab => "failslab",
            Kind::Page => "fail_page_alloc",
            Kind::Usercopy => "fail_usercopy",
        }
    }

    fn path(self, name: &str) -> String {
        format!("/sys/kernel/debug/{}/{name}", self.dir())
    }

    fn set(self, name: &str, value: impl ToString) {
        let path = self.path(name);
        fs::write(&path, value.to_string())
            .unwrap_or_else(|e| panic!("{path}: {e} (needs --kernel debug)"));
    }

    fn injected(self) -> u64 {
        let path = self.path("times");
        let left = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        BUDGET - left.trim().parse::<u64>().expect("a number")
    }

    /// Silent, unlimited, and blocking allocations too: by default those are spared.
    fn prepare(self) {
        self.set("probability", 0);
        self.set("interval", 1);
        self.set("space", 0);
        self.set("times", BUDGET);
        self.set("verbose", 0);
        if self != Kind::Usercopy {
            self.set("ignore-gfp-wait", "N");
        }
        if self == Kind::Page {
            self.set("ignore-gfp-highmem", "N");
            self.set("min-order", 0);
        }
    }
}

/// The module's place in memory: base and end.
fn module() -> (u64, u64) {
    let modules = fs::read_to_string("/proc/modules").expect("/proc/modules");
    let line = modules.lines().find(|l| l.starts_with("algif_tls "));
    let fields: Vec<_> = line.expect("algif_tls").split_whitespace().collect();
    let size: u64 = fields[1].parse().expect("size");
    let base = u64::from_str_radix(fields[5].trim_start_matches("0x"), 16).expect("address");
    assert_ne!(base, 0, "addresses are hidden");
    (base, base + size)
}

/// Faults that are being injected.
pub struct Faults {
    kinds: Vec<Kind>,
    _machine: MutexGuard<'static, ()>,
}

impl Faults {
    /// `percent` of the calls of each kind fail if our module is on the stack.
    pub fn new(kinds: &[Kind], percent: u32) -> Faults {
        let faults = Faults::prepared(kinds, module());
        for kind in kinds {
            kind.set("probability", percent);
        }
        faults
    }

    /// Only where this code is on the stack, and not yet at all.
    fn prepared(kinds: &[Kind], (base, end): (u64, u64)) -> Faults {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in kinds {
            kind.prepare();
            kind.set("task-filter", "N");
            kind.set("stacktrace-depth", 32);
            kind.set("require-start", format!("{base:#x}"));
            kind.set("require-end", format!("{end:#x}"));
        }
        Faults {
            kinds: kinds.to_vec(),
            _machine: machine,
        }
    }

    /// How many calls failed until now: each had our module on its stack.
    pub fn hits(&self) -> u64 {
        self.kinds.iter().map(|k| k.injected()).sum()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for kind in &self.kinds {
            let _ = fs::write(kind.path("probability"), "0");
            let _ = fs::write(kind.path("space"), "0");
            let _ = fs::write(kind.path("task-filter"), "N");
            let _ = fs::write(kind.path("require-start"), "0");
            let _ = fs::write(kind.path("require-end"), "0xffffffffffffffff");
        }
    }
}

/// Where a function of the module begins and ends.
fn function(name: &str) -> (u64, u64) {
    let text = fs::read_to_string("/proc/kallsyms").expect("/proc/kallsyms");
    let ours = text.lines().filter(|l| l.ends_with("[algif_tls]"));
    let symbols: Vec<(u64, &str)> = ours
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let at = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((at, words.nth(1)?))
        })
        .collect();
    let (start, _) = *symbols.iter().find(|s| s.1 == name).expect("a function");
    let later = symbols.iter().map(|s| s.0).filter(|at| *at > start);
    (start, later.min().expect("it is not the last"))
}

/// Runs `call`; once this thread has been given `bytes` in small pieces, each further one that is asked
/// for below `name`, a function of the module, is refused. Tells how many were.
pub fn after<T>(name: &str, bytes: usize, call: impl FnOnce() -> T) -> (T, u64) {
    const MARK: &str = "/proc/thread-self/make-it-fail";
    let faults = Faults::prepared(&[Kind::Slab], function(name));
    let mark = |on: &str| fs::write(MARK, on).unwrap_or_else(|e| panic!("{MARK}: {e}"));
    Kind::Slab.set("task-filter", "Y");
    mark("1");
    Kind::Slab.set("space", bytes);
    Kind::Slab.set("probability", 100);
    let value = call();
    Kind::Slab.set("probability", 0);
    mark("0");
    (value, faults.hits())
}

/// Runs `call` with the `n`th (from 1) call that can fail failing in this thread; tells whether the
/// call got that far. It should make the one system call in question and nothing else.
pub fn nth<T>(n: u32, call: impl FnOnce() -> T) -> (T, bool) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    KINDS.iter().for_each(|k| k.prepare());
    let path = "/proc/thread-self/fail-nth";
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{path}: {e} (needs --kernel debug)"));
    let number = n.to_string();
    file.write_all_at(number.as_bytes(), 0).expect("fail-nth");
    let value = call();
    let left = left(&file);
    let _ = file.write_all_at(b"0", 0);
    (value, left == Some(0))
}

/// What is left of the count; None if the fault hit this very read.
fn left(file: &fs::File) -> Option<u32> {
    let mut text = [0; 16];
    let n = match file.read_at(&mut text, 0) {
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => panic!("fail-nth: {e}"),
        Err(_) => return None,
    };
    let text = std::str::from_utf8(&text[..n]).ok()?;
    text.trim().parse().ok()
}
