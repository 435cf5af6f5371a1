// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time limits: a kernel bug must end as a failed test, not as a hung machine.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// A test body's limit. Generous: the machine may be emulated.
const LIMIT: Duration = Duration::from_secs(60);

/// A limit as this machine should have it: the debug kernel is several times slower.
pub fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("KTLSSHIM_TEST_SLOWNESS").ok();
    limit * factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}

/// Runs a test body in the throwaway machine; anywhere else the test fails.
pub fn in_vm(body: impl FnOnce() + Send + 'static) {
    in_vm_for(LIMIT, body);
}

pub fn in_vm_for(limit: Duration, body: impl FnOnce() + Send + 'static) {
    assert!(
        std::env::var_os("KTLSSHIM_VM").is_some(),
        "run me by `cargo xtask test`"
    );
    within(limit, body);
}

/// Something that a run counts (rounds of a race, faults injected): `cargo xtask test` adds them up.
/// Written past libtest, which would keep the output of a test that passes.
pub fn figure(name: &str, number: u64) {
    let line = format!("figure: {name} {number}\n");
    // Whoever closed our stdout does not want to know.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Runs `body` on a thread of its own and fails if it is not done in time.
/// The thread of a body that hangs is left behind.
pub fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let limit = patient(limit);
    let (done, wait) = channel();
    let thread = thread::spawn(move || {
        let value = body();
        // The waiter may have given up already.
        let _ = done.send(());
        value
    });
    match wait.recv_timeout(limit) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(RecvTimeoutError::Timeout) => panic!("not done after {limit:?}"),
    }
}

/// Waits until `test` holds; false if it does not within ten (patient) seconds.
pub fn eventually(mut test: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let limit = patient(Duration::from_secs(10));
    while !test() {
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A call that blocks, on a thread of its own.
pub struct Sleeper<T> {
    thread: thread::JoinHandle<T>,
    pub tid: i32,
}

/// Starts `call` and returns once its thread sleeps in the kernel.
pub fn sleeper<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Sleeper<T> {
    let (tell, hear) = channel();
    let thread = thread::spawn(move || {
        let _ = tell.send(sys::this_thread());
        call()
    });
    let tid = hear.recv().expect("thread");
    let mut calm = 0;
    let slept = eventually(|| {
        calm = if sys::asleep(tid) { calm + 1 } else { 0 };
        calm > 5 || thread.is_finished()
    });
    assert!(slept, "the call neither sleeps nor ends");
    Sleeper { thread, tid }
}

impl<T> Sleeper<T> {
    pub fn done(&self) -> bool {
        self.thread.is_finished()
    }

    /// The call's value; fails if it does not end within ten seconds.
    pub fn end(self) -> T {
        assert!(eventually(|| self.thread.is_finished()), "still asleep");
        match self.thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
