//! What the user asked for, read once in the constructor (P34): programs such as
//! nginx overwrite their environment later. All memory is static; strings are
//! copied. Until the snapshot is taken, and for set-uid programs (P33), everything
//! is off.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering::*};
use libc::c_char;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    Auto,
    Alg,
    Off,
}

/// What happens when a TLS 1.2 key has protected as many records as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtLimit {
    /// The connection's log line says so, as plain OpenSSL does not.
    Log,
    Renegotiate,
    Close,
}

/// AES-GCM's limit is 2^24.5 records (RFC 9846 §5.5). What one call may send
/// before the count is looked at again lies far below the rest.
const RECORD_LIMIT: u64 = 1 << 24;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// False: every hook only calls the real function.
    pub enabled: bool,
    /// Where one line per connection goes.
    pub log: Option<&'static CStr>,
    pub backend: Backend,
    pub tx: bool,
    pub rx: bool,
    /// Records under one sending key before it is changed.
    pub record_limit: u64,
    pub tls12_limit: AtLimit,
    /// Base name of the program, for the log.
    pub program: &'static [u8],
    #[cfg(feature = "planted")]
    pub plant: Option<crate::planted::Plant>,
}

const OFF: Config = Config {
    enabled: false,
    log: None,
    backend: Backend::Off,
    tx: false,
    rx: false,
    record_limit: RECORD_LIMIT,
    tls12_limit: AtLimit::Log,
    program: b"",
    #[cfg(feature = "planted")]
    plant: None,
};

const PATH: usize = libc::PATH_MAX as usize;

struct Store {
    config: UnsafeCell<Config>,
    log: UnsafeCell<[u8; PATH]>,
    program: UnsafeCell<[u8; 64]>,
}

// SAFETY: written by the constructor alone, before READY; read only after it.
unsafe impl Sync for Store {}

static STORE: Store = Store {
    config: UnsafeCell::new(OFF),
    log: UnsafeCell::new([0; PATH]),
    program: UnsafeCell::new([0; 64]),
};
static EARLY: Config = OFF;
static READY: AtomicBool = AtomicBool::new(false);

#[inline]
pub fn config() -> &'static Config {
    if !READY.load(Acquire) {
        return &EARLY;
    }
    // SAFETY: READY was set after the last write.
    unsafe { &*STORE.config.get() }
}

/// Reads the environment.
///
/// # Safety
/// `envp` is null or a null-terminated array of C strings; called once, by the
/// constructor.
pub unsafe fn snapshot(envp: *const *const c_char) {
    if READY.load(Acquire) {
        return;
    }
    // SAFETY: the auxiliary vector is always there; AT_EXECFN is null or a string.
    let (secure, exec) = unsafe {
        (
            libc::getauxval(libc::AT_SECURE),
            libc::getauxval(libc::AT_EXECFN),
        )
    };
    let mut parsed = Config {
        enabled: true,
        backend: Backend::Auto,
        tx: true,
        rx: true,
        ..OFF
    };
    // SAFETY: nobody reads the buffers before READY, and the constructor is alone.
    let (log, program) = unsafe { (&mut *STORE.log.get(), &mut *STORE.program.get()) };
    // SAFETY: see above; the kernel's string outlives the constructor.
    parsed.program = keep(base_name(unsafe { bytes(exec as *const c_char) }), program);
    if secure != 0 {
        parsed.enabled = false;
    } else {
        let mut at = envp;
        // SAFETY: the caller's promise: walk until the null pointer.
        while let Some(entry) = unsafe { at.as_ref() }.filter(|e| !e.is_null()) {
            // SAFETY: a C string by the caller's promise; `at` stays in the array.
            let line = unsafe { bytes(*entry) };
            if let Some((name, value)) = split(line) {
                if name == b"KTLSSHIM_LOG" {
                    if !value.is_empty() && value.len() < PATH {
                        keep(value, log);
                        // SAFETY: `log` is zeroed behind the value and never written again.
                        parsed.log = CStr::from_bytes_until_nul(unsafe { &*STORE.log.get() }).ok();
                    }
                } else {
                    apply(&mut parsed, name, value);
                }
            }
            // SAFETY: the null pointer was not reached yet.
            at = unsafe { at.add(1) };
        }
    }
    // SAFETY: as above.
    unsafe { *STORE.config.get() = parsed };
    READY.store(true, Release);
}

/// `KTLSSHIM_X=value` to its halves; `None` for everybody else's variables.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if !line.starts_with(b"KTLSSHIM_") {
        return None;
    }
    let at = line.iter().position(|&b| b == b'=')?;
    Some((line.get(..at)?, line.get(at + 1..)?))
}

/// One variable. Values that we do not know leave things as they are: a typing
/// error in a global setting must not change what programs do.
fn apply(c: &mut Config, name: &[u8], value: &[u8]) {
    match (name, value) {
        (b"KTLSSHIM_DISABLE", v) if on(v) => c.enabled = false,
        (b"KTLSSHIM_TX", b"0") => c.tx = false,
        (b"KTLSSHIM_TLS12_LIMIT", b"log") => c.tls12_limit = AtLimit::Log,
        (b"KTLSSHIM_TLS12_LIMIT", b"renegotiate") => c.tls12_limit = AtLimit::Renegotiate,
        (b"KTLSSHIM_TLS12_LIMIT", b"close") => c.tls12_limit = AtLimit::Close,
        (b"KTLSSHIM_RECORD_LIMIT", v) => {
            // Only downwards: a larger number would defeat the limit.
            let number = core::str::from_utf8(v).ok().and_then(|v| v.parse().ok());
            c.record_limit = number.map_or(c.record_limit, |n: u64| n.clamp(1, RECORD_LIMIT));
        }
        (b"KTLSSHIM_RX", b"0") => c.rx = false,
        (b"KTLSSHIM_BACKEND", b"alg") => c.backend = Backend::Alg,
        (b"KTLSSHIM_BACKEND", b"off") => c.backend = Backend::Off,
        (b"KTLSSHIM_BACKEND", b"auto") => c.backend = Backend::Auto,
        (b"KTLSSHIM_PROGRAMS", v) if !allowed(v, c.program) => c.enabled = false,
        // (Not in the manual: no shipped build knows it.)
        #[cfg(feature = "planted")]
        (name, v) if name.ends_with(b"_PLANT") => c.plant = crate::planted::Plant::named(v),
        _ => {}
    }
}

fn on(value: &[u8]) -> bool {
    !value.is_empty() && value != b"0"
}

/// `nginx:curl` names who may, `!ssh` who may not; only refusals mean everybody else.
fn allowed(list: &[u8], program: &[u8]) -> bool {
    let mut named = false;
    let mut found = false;
    for item in list.split(|&b| b == b':').filter(|i| !i.is_empty()) {
        if let Some(refused) = item.strip_prefix(b"!") {
            if refused == program {
                return false;
            }
        } else {
            named = true;
            found |= item == program;
        }
    }
    found || !named
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

/// Copies what fits; the last byte of `room` stays 0.
fn keep<'a>(from: &[u8], room: &'a mut [u8]) -> &'a [u8] {
    let n = from.len().min(room.len().saturating_sub(1));
    for (to, b) in room.iter_mut().zip(from.iter().take(n)) {
        *to = *b;
    }
    room.get(..n).unwrap_or(&[])
}

/// # Safety
/// `p` is null or a C string that lives as long as the result is used.
unsafe fn bytes<'a>(p: *const c_char) -> &'a [u8] {
    if p.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(p) }.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs() {
        assert!(allowed(b"", b"curl"));
        assert!(allowed(b"nginx:curl", b"curl"));
        assert!(!allowed(b"nginx:curl", b"ssh"));
        assert!(!allowed(b"!ssh", b"ssh"));
        assert!(allowed(b"!ssh", b"curl"));
        assert!(!allowed(b"ssh:!ssh", b"ssh"));
    }

    #[test]
    fn variables() {
        let mut c = Config {
            enabled: true,
            tx: true,
            rx: true,
            backend: Backend::Auto,
            program: b"x",
            ..OFF
        };
        apply(&mut c, b"KTLSSHIM_TX", b"0");
        apply(&mut c, b"KTLSSHIM_BACKEND", b"nonsense");
        apply(&mut c, b"KTLSSHIM_DISABLE", b"0");
        assert!(c.enabled && !c.tx && c.rx && c.backend == Backend::Auto);
        apply(&mut c, b"KTLSSHIM_DISABLE", b"1");
        assert!(!c.enabled);
        assert_eq!(
            split(b"KTLSSHIM_LOG=/a=b"),
            Some((&b"KTLSSHIM_LOG"[..], &b"/a=b"[..]))
        );
        assert_eq!(split(b"KTLSSHIM_LOG"), None);
        assert_eq!(split(b"HOME=/"), None);
        assert_eq!(base_name(b"/usr/sbin/nginx"), b"nginx");
    }

    #[test]
    fn everything_is_off_before_the_snapshot() {
        // The test harness runs without our constructor.
        assert!(!config().enabled && config().log.is_none());
    }
}
