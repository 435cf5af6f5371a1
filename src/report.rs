//! One JSON line per connection, for whoever asks by `KTLSSHIM_LOG`.
//!
//! The line is made in a stack buffer and leaves by one raw `write` (P18): nothing
//! is allocated, nothing is locked, lines of several processes do not mix
//! (O_APPEND). The log's descriptor is ours, but a program may close it past our
//! hooks and open something else in its place, so before each line its identity is
//! compared: we never write into a stranger's file.

use crate::reason::Reason;
use crate::{config, fdtable, sys};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};

/// One direction of a connection, at its end.
#[derive(Clone, Copy, Debug)]
pub struct Dir {
    pub reason: Reason,
    /// Was it ever in the kernel?
    pub kernel: bool,
    pub fast_records: u64,
    pub fast_bytes: u64,
    pub slow_records: u64,
    pub slow_bytes: u64,
    /// Application bytes before the direction was attached.
    pub before_bytes: u64,
    pub rekeys: u64,
    pub handbacks: u64,
    pub sendfile_bytes: u64,
}

impl Dir {
    pub const fn new(reason: Reason) -> Dir {
        Dir {
            reason,
            kernel: false,
            fast_records: 0,
            fast_bytes: 0,
            slow_records: 0,
            slow_bytes: 0,
            before_bytes: 0,
            rekeys: 0,
            handbacks: 0,
            sendfile_bytes: 0,
        }
    }
}

pub struct Report<'a> {
    pub role: &'a str,
    pub version: &'a str,
    pub cipher: &'a str,
    /// As the peer sent it: any bytes.
    pub sni: &'a [u8],
    pub tx: Dir,
    pub rx: Dir,
    /// The backend's last refusal, 0 if there was none.
    pub errno: i32,
    /// A key protected more records than RFC 9846 §5.5 allows.
    pub over_limit: bool,
}

static LOG: AtomicI32 = AtomicI32::new(NOT_OPEN);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
const NOT_OPEN: i32 = -1;
const OPENING: i32 = -2;
const FAILED: i32 = -3;

/// Opens the log, once; early, because servers drop privileges later. A failure is
/// final and silent.
pub fn open_log() {
    if LOG.load(Relaxed) != NOT_OPEN {
        return;
    }
    let Some(path) = config::config().log else {
        return;
    };
    if LOG
        .compare_exchange(NOT_OPEN, OPENING, AcqRel, Acquire)
        .is_err()
    {
        return;
    }
    LOG.store(open(path).unwrap_or(FAILED), Release);
}

fn open(path: &core::ffi::CStr) -> Option<i32> {
    let flags = libc::O_WRONLY
        | libc::O_APPEND
        | libc::O_CREAT
        | libc::O_CLOEXEC
        | libc::O_NOCTTY
        | libc::O_NONBLOCK;
    let at = libc::AT_FDCWD as usize;
    // SAFETY: a C string and numbers.
    let low = unsafe {
        sys::call(
            libc::SYS_openat,
            [at, path.as_ptr() as usize, flags as usize, 0o600, 0, 0],
        )
    }
    .ok()? as i32;
    // A low number is better than no log.
    let fd = sys::move_high(low).unwrap_or(low);
    match identity(fd) {
        Some((dev, ino)) if fdtable::set_own(fd) => {
            DEVICE.store(dev, Relaxed);
            INODE.store(ino, Relaxed);
            Some(fd)
        }
        _ => {
            sys::close(fd);
            None
        }
    }
}

fn identity(fd: i32) -> Option<(u64, u64)> {
    let mut st = core::mem::MaybeUninit::<libc::stat>::zeroed();
    let args = [fd as usize, st.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel fills the structure that we own.
    unsafe { sys::call(libc::SYS_fstat, args) }.ok()?;
    // SAFETY: zeroed is a valid stat, and the kernel filled it.
    let st = unsafe { st.assume_init() };
    Some((st.st_dev, st.st_ino))
}

/// Writes the line of a connection that ended. errno stays as it is.
pub fn write(report: &Report) {
    let fd = LOG.load(Acquire);
    if fd < 0 || identity(fd) != Some((DEVICE.load(Relaxed), INODE.load(Relaxed))) {
        return;
    }
    let mut line = Line {
        bytes: [0; ROOM],
        used: 0,
    };
    if compose(
        &mut line,
        report,
        config::config().program,
        sys::getpid(),
        sys::now(),
    )
    .is_ok()
    {
        // A full disk is nobody's business.
        let _ = sys::write(fd, line.text());
    }
}

/// Room for every number at its longest and a 255-byte name of nothing but escapes.
const ROOM: usize = 4096;

struct Line {
    bytes: [u8; ROOM],
    used: usize,
}

impl Line {
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or(&[])
    }
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let to = self
            .bytes
            .get_mut(self.used..)
            .and_then(|r| r.get_mut(..s.len()))
            .ok_or(fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.used += s.len();
        Ok(())
    }
}

fn compose(
    l: &mut Line,
    r: &Report,
    program: &[u8],
    pid: i32,
    (sec, nsec): (i64, i64),
) -> fmt::Result {
    write!(l, "{{\"time\":{sec}.{:03},\"program\":", nsec / 1_000_000)?;
    quote(l, program)?;
    write!(l, ",\"pid\":{pid},\"role\":")?;
    quote(l, r.role.as_bytes())?;
    l.write_str(",\"version\":")?;
    quote(l, r.version.as_bytes())?;
    l.write_str(",\"cipher\":")?;
    quote(l, r.cipher.as_bytes())?;
    l.write_str(",\"sni\":")?;
    quote(l, r.sni)?;
    direction(l, "tx", &r.tx)?;
    direction(l, "rx", &r.rx)?;
    writeln!(
        l,
        ",\"errno\":{},\"over_limit\":{}}}",
        r.errno, r.over_limit
    )
}

fn direction(l: &mut Line, name: &str, d: &Dir) -> fmt::Result {
    write!(
        l,
        ",\"{name}\":{{\"reason\":\"{}\",\"kernel\":{}",
        d.reason.as_str(),
        d.kernel
    )?;
    for (key, value) in [
        ("fast_records", d.fast_records),
        ("fast_bytes", d.fast_bytes),
        ("slow_records", d.slow_records),
        ("slow_bytes", d.slow_bytes),
        ("before_bytes", d.before_bytes),
        ("rekeys", d.rekeys),
        ("handbacks", d.handbacks),
        ("sendfile_bytes", d.sendfile_bytes),
    ] {
        write!(l, ",\"{key}\":{value}")?;
    }
    l.write_str("}")
}

/// A JSON string. Names come from peers and file systems: everything but plain
/// printable ASCII is escaped byte by byte, and long ones are cut.
fn quote(l: &mut Line, bytes: &[u8]) -> fmt::Result {
    l.write_str("\"")?;
    for &b in bytes.iter().take(255) {
        match b {
            b'"' | b'\\' => write!(l, "\\{}", b as char)?,
            b' '..=b'~' => write!(l, "{}", b as char)?,
            _ => write!(l, "\\u00{b:02x}")?,
        }
    }
    l.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(sni: &'a [u8]) -> Report<'a> {
        let most = Dir {
            kernel: true,
            fast_records: u64::MAX,
            fast_bytes: u64::MAX,
            slow_records: u64::MAX,
            slow_bytes: u64::MAX,
            before_bytes: u64::MAX,
            rekeys: u64::MAX,
            handbacks: u64::MAX,
            sendfile_bytes: u64::MAX,
            ..Dir::new(Reason::Offloaded)
        };
        Report {
            role: "server",
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sni,
            tx: most,
            rx: most,
            errno: 97,
            over_limit: true,
        }
    }

    #[test]
    fn the_longest_line_fits_and_is_one_line() {
        let mut l = Line {
            bytes: [0; ROOM],
            used: 0,
        };
        assert!(
            compose(
                &mut l,
                &sample(&[1; 300]),
                &[2; 63],
                i32::MAX,
                (i64::MAX, 999_999_999)
            )
            .is_ok()
        );
        let text = core::str::from_utf8(l.text()).unwrap_or("");
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.ends_with("}\n") && text.contains("\"reason\":\"offloaded\""));
        assert_eq!(text.matches("\\u0001").count(), 255);
    }

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        let mut l = Line {
            bytes: [0; ROOM],
            used: 0,
        };
        assert!(quote(&mut l, b"a\"b\\c\n\xff").is_ok());
        assert_eq!(l.text(), b"\"a\\\"b\\\\c\\u000a\\u00ff\"");
    }

    #[test]
    fn a_stolen_descriptor_is_not_written_to() {
        let dir = std::env::temp_dir().join(format!("ktlsshim-report-{}", std::process::id()));
        let (ours, theirs) = (dir.with_extension("log"), dir.with_extension("other"));
        let c_path =
            std::ffi::CString::new(ours.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let fd = open(&c_path).unwrap_or(FAILED);
        assert!(fd >= 0 && fdtable::entry(fd) == fdtable::Entry::Own);
        LOG.store(fd, Release);
        write(&sample(b"x"));
        let first = std::fs::read(&ours).unwrap_or_default();
        assert!(first.ends_with(b"}\n"));
        let other = std::fs::File::create(&theirs)
            .map(std::os::fd::IntoRawFd::into_raw_fd)
            .unwrap_or(-1);
        // SAFETY: both descriptors are this test's.
        unsafe { libc::dup2(other, fd) };
        write(&sample(b"x"));
        assert_eq!(std::fs::read(&theirs).unwrap_or_default(), b"");
        assert_eq!(std::fs::read(&ours).unwrap_or_default(), first);
        LOG.store(NOT_OPEN, Release);
        fdtable::clear(fd);
        sys::close(fd);
        let _ = (std::fs::remove_file(&ours), std::fs::remove_file(&theirs));
    }
}
