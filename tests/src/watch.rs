// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time limits: a kernel bug must end as a failed test, not as a hung machine.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A test body's limit. Generous: the machine may be emulated.
const LIMIT: Duration = Duration::from_secs(60);

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

/// Runs `body` on a thread of its own and fails if it is not done in time.
/// The thread of a body that hangs is left behind.
pub fn within<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
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

/// Waits until `test` holds; false if it does not within ten seconds.
pub fn eventually(mut test: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !test() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
