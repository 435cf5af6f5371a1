//! A TLS connection as the shim knows it.
//!
//! ```text
//!   program ── SSL_read/SSL_write ──▶ fast lane ─────────────▶ op socket (kernel TLS)
//!      │                                                            │
//!      └─ real libssl ◀─BIO─▶ libc hooks ◀─ virtual wire ───────────┘
//!              consumed/produced   delivered/carried
//! ```
//!
//! Each direction is in one *lane* at a time:
//!
//! | lane | bytes of the fd | records |
//! |---|---|---|
//! | `Watch` | pass through, are counted and traced | OpenSSL seals and opens |
//! | `Kernel` | are translated (virtual wire) | kernel, or OpenSSL over the virtual wire |
//! | `Raw` | pass through | OpenSSL, for good |
//!
//! Four counters per connection say whether a lane may change (R2, R3):
//! *delivered* (fd → program's BIO), *consumed* (BIO → libssl), *produced*
//! (libssl → BIO), *carried* (BIO → fd).
//!
//! Memory: connections live in the slab (`slab.rs`) and are named by `ConnId`;
//! an SSL's ex_data holds the id, never a pointer. What two threads may touch at
//! once is atomic; the rest is behind one lock per direction.

pub mod attach;
pub mod discover;
pub mod end;
pub mod fast;
pub mod lock;
pub mod offload;
pub mod proof;
pub mod rx;
pub mod secrets;
pub mod slab;
pub mod tx;

use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};

use crate::openssl::ask::Live;
use crate::openssl::ssl::Table;
use crate::reason::{AtomicReason, Reason};
use crate::record::cipher::RecordCipher;
pub use crate::thread::ConnId;
use lock::{Baton, Lock};
use secrets::Secrets;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lane {
    Watch = 0,
    Kernel = 1,
    Raw = 2,
}

/// What is known of a connection beside its lanes; bits of `Connection::marks`.
pub mod mark {
    /// Record padding is configured: the kernel must not send (it would drop it).
    pub const PADDING: u32 = 1 << 0;
    /// OpenSSL's own kernel TLS took the socket.
    pub const OPENSSL_KTLS: u32 = 1 << 1;
    /// The caller reaches libssl or libc past our hooks (R10).
    pub const HIDDEN: u32 = 1 << 2;
    /// The SSL was pointed at another fd or BIO: translate, no fast lane.
    pub const SLOW_ONLY: u32 = 1 << 3;
    /// BIO_CTRL_GET_KTLS_SEND was answered 1: SSL_sendfile is owed for ever (R13).
    pub const PROMISED: u32 = 1 << 4;
    /// More than one TCP socket, or a second connection, was seen on its fds.
    pub const TWO_SOCKETS: u32 = 1 << 5;
    /// Inside its SSL calls only non-TCP descriptors were seen.
    pub const NOT_TCP: u32 = 1 << 6;
    /// The read BIO is the program's own and not known to be safe (R5).
    pub const WARY_READ: u32 = 1 << 7;
    /// The write BIO is not libcrypto's socket BIO: no placeholder (R6).
    pub const OWN_WBIO: u32 = 1 << 8;
    /// The BIOs were looked at.
    pub const BIOS_KNOWN: u32 = 1 << 9;
    /// After a failed read, the next goes to OpenSSL (R5).
    pub const READ_SLOW_ONCE: u32 = 1 << 10;
    /// A real call ran while a placeholder was pending: the next write is OpenSSL's.
    pub const WRITE_SLOW_ONCE: u32 = 1 << 11;
    /// A real SSL_read found nothing more to read.
    pub const DRAINED: u32 = 1 << 12;
    /// Data goes through a BIO of type SSL, which calls libssl's inner functions (R11).
    pub const SSL_BIO: u32 = 1 << 13;
    /// A TLS 1.2 key reached its record limit.
    pub const LIMIT_SEEN: u32 = 1 << 15;
    /// ... and went on beyond it, as plain OpenSSL does.
    pub const OVER_LIMIT: u32 = 1 << 16;
}

/// Bits of a call's frame (`thread::Frame::flags`).
pub mod flag {
    /// A BIO call of this SSL call is under way.
    pub const IN_BIO: u32 = 1 << 0;
    /// One control record, then the wire is dry (`ops::call::AtFd::one`).
    pub const ONE: u32 = 1 << 1;
    /// ... it was delivered,
    pub const SERVED: u32 = 1 << 2;
    /// ... and OpenSSL asked for more.
    pub const ASKED: u32 = 1 << 3;
    /// OpenSSL has used one of its BIOs.
    pub const USED_BIO: u32 = 1 << 4;
}

/// One direction.
pub struct Half {
    lane: AtomicU8,
    pub reason: AtomicReason,
    /// Op socket, or -1.
    pub op: AtomicI32,
    /// Raw descriptor of the TCP socket, or -1 (unknown, or closed).
    pub fd: AtomicI32,
    /// delivered (rx) or produced (tx).
    pub entered: AtomicU64,
    /// consumed (rx) or carried (tx).
    pub left: AtomicU64,
    /// The virtual wire holds bytes (rx: not yet delivered, tx: half a record).
    pub wire_busy: AtomicBool,
    /// A handshake message has begun and not ended.
    pub message_open: AtomicBool,
    /// close_notify crossed: what follows is clear text.
    pub closed: AtomicBool,
    /// libc calls that are in the kernel with raw bytes of this direction, and
    /// the mark that makes new ones wait while the lane changes.
    pub inflight: AtomicU32,
    pub switch: Baton,
    /// SO_COOKIE of the TCP socket: its descriptor's number may be reused.
    pub cookie: AtomicU64,
    /// The kernel's refusal, for the log.
    pub refused_errno: AtomicI32,
    /// Proofs that failed although a record was there.
    pub failed_proofs: AtomicU8,
    pub fast_calls: AtomicU64,
    pub fast_bytes: AtomicU64,
    pub slow_records: AtomicU64,
    pub slow_bytes: AtomicU64,
    pub before_bytes: AtomicU64,
    pub sendfile_bytes: AtomicU64,
    pub rekeys: AtomicU32,
    pub handbacks: AtomicU32,
    /// The kernel carried records at some time.
    pub was_kernel: AtomicBool,
    /// Records that the kernel carried before its last detach.
    pub records: AtomicU64,
    /// Records that went by before the application keys, plus 1; 0 is unknown.
    pub epoch: AtomicU64,
    /// Records sealed under the present key (tx).
    pub key_records: AtomicU64,
    /// Sequence number at the last attach or re-key.
    pub first_seq: AtomicU64,
}

impl Half {
    const fn vacant() -> Self {
        Self {
            lane: AtomicU8::new(Lane::Watch as u8),
            reason: AtomicReason::new(Reason::Pending),
            op: AtomicI32::new(-1),
            fd: AtomicI32::new(-1),
            entered: AtomicU64::new(0),
            left: AtomicU64::new(0),
            wire_busy: AtomicBool::new(false),
            message_open: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            inflight: AtomicU32::new(0),
            switch: Baton::new(),
            cookie: AtomicU64::new(0),
            refused_errno: AtomicI32::new(0),
            failed_proofs: AtomicU8::new(0),
            fast_calls: AtomicU64::new(0),
            fast_bytes: AtomicU64::new(0),
            slow_records: AtomicU64::new(0),
            slow_bytes: AtomicU64::new(0),
            before_bytes: AtomicU64::new(0),
            sendfile_bytes: AtomicU64::new(0),
            rekeys: AtomicU32::new(0),
            handbacks: AtomicU32::new(0),
            was_kernel: AtomicBool::new(false),
            records: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            key_records: AtomicU64::new(0),
            first_seq: AtomicU64::new(0),
        }
    }

    pub fn lane(&self) -> Lane {
        match self.lane.load(Ordering::Acquire) {
            0 => Lane::Watch,
            1 => Lane::Kernel,
            _ => Lane::Raw,
        }
    }

    pub fn set_lane(&self, lane: Lane, reason: Reason) {
        self.reason.set(reason);
        self.lane.store(lane as u8, Ordering::Release);
    }

    /// close_notify crossed. The kernel lets go of the direction when the next raw
    /// byte asks for it, or when the op closes: most programs do neither before.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reason.set(Reason::CloseNotify);
    }

    /// Leaves the direction to OpenSSL for good, unless the kernel has it.
    pub fn refuse(&self, reason: Reason) {
        if self.lane() == Lane::Watch {
            self.set_lane(Lane::Raw, reason);
        }
    }

    /// Nothing is parked between libssl and the fd in this direction.
    pub fn level(&self) -> bool {
        self.entered.load(Ordering::Acquire) == self.left.load(Ordering::Acquire)
    }

    /// Runs a raw libc call in a lane that may be about to change, and `account`s
    /// for its outcome before a change can happen. None: the kernel has the
    /// direction now, translate instead. A thread blocked in a raw read while
    /// another attaches would steal records from the op (R20).
    pub fn raw_call(&self, real: &dyn Fn() -> isize, account: impl FnOnce(isize)) -> Option<isize> {
        if self.lane() == Lane::Raw {
            return Some(real());
        }
        self.inflight.fetch_add(1, Ordering::SeqCst);
        if self.switch.wait().is_err() {
            // A signal handler in the middle of its own thread's switch, or a
            // fork child of a thread that was in one: nobody knows which lane it is.
            self.inflight.fetch_sub(1, Ordering::SeqCst);
            return Some(crate::errno::fail(libc::EAGAIN));
        }
        // No guard object: `real` may be left by siglongjmp or cancellation.
        // The count then stays up, and the direction stays in userspace.
        let outcome = (self.lane() != Lane::Kernel).then(real);
        if let Some(n) = outcome
            && n > 0
        {
            account(n);
        }
        self.inflight.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    /// Where the stream stands: it must not have moved between proof and attach.
    pub fn position(&self) -> (u64, u64) {
        (
            self.entered.load(Ordering::SeqCst),
            self.left.load(Ordering::SeqCst),
        )
    }

    /// Shuts out raw calls while the lane changes. False: one is under way.
    pub fn begin_switch(&self) -> bool {
        if !self.switch.try_take() {
            return false;
        }
        if self.inflight.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.end_switch();
        false
    }

    pub fn end_switch(&self) {
        self.switch.release();
    }

    /// The kernel carried records up to, not including, number `seq` of this key.
    pub fn count_until(&self, seq: u64) {
        let first = self.first_seq.load(Ordering::Relaxed);
        Self::add(&self.records, seq.saturating_sub(first) as usize);
    }

    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::AcqRel);
    }

    fn reset(&self) {
        self.set_lane(Lane::Watch, Reason::Pending);
        self.op.store(-1, Ordering::Relaxed);
        self.fd.store(-1, Ordering::Relaxed);
        for counter in [
            &self.entered,
            &self.left,
            &self.fast_calls,
            &self.fast_bytes,
            &self.slow_records,
            &self.slow_bytes,
            &self.before_bytes,
            &self.sendfile_bytes,
            &self.records,
            &self.key_records,
            &self.epoch,
            &self.first_seq,
            &self.cookie,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        for flag in [
            &self.wire_busy,
            &self.message_open,
            &self.closed,
            &self.was_kernel,
        ] {
            flag.store(false, Ordering::Relaxed);
        }
        self.inflight.store(0, Ordering::Relaxed);
        self.switch.reset();
        self.refused_errno.store(0, Ordering::Relaxed);
        self.failed_proofs.store(0, Ordering::Relaxed);
        self.rekeys.store(0, Ordering::Relaxed);
        self.handbacks.store(0, Ordering::Relaxed);
    }
}

/// What the log says about a connection. Copied when the handshake is over,
/// because SSL_free's order differs by version.
pub struct Identity {
    pub role: &'static str,
    pub version: &'static str,
    /// Points into libssl, which stays loaded.
    pub cipher: &'static [u8],
    pub sni: [u8; 255],
    pub sni_len: u8,
}

impl Identity {
    const fn new() -> Self {
        Self {
            role: "unknown",
            version: "unknown",
            cipher: b"unknown",
            sni: [0; 255],
            sni_len: 0,
        }
    }
}

pub struct Connection {
    pub(crate) generation: AtomicU32,
    pub(crate) next_free: AtomicU32,
    /// The SSL object, as a number; 0 when the slot is vacant.
    pub ssl: AtomicUsize,
    table: AtomicPtr<Table>,
    pub marks: AtomicU32,
    /// max_send_fragment as the program set it; 0 is the protocol's own.
    pub max_fragment: AtomicU16,
    /// Plaintext that was received and not yet read: the rest of one record.
    pub held: AtomicUsize,
    /// A write that OpenSSL waits to have repeated (`ops::transmit`): its state,
    /// and how many of its bytes are sent.
    pub write_state: AtomicU8,
    pub write_done: AtomicUsize,
    /// Of a placeholder: where in the program's buffer its byte is, and the buffer's
    /// address, for OpenSSL takes no other at the retry.
    pub held_at: AtomicUsize,
    pub held_in: AtomicUsize,
    /// Bytes in `WriteSide::file` that OpenSSL has not taken.
    pub file_left: AtomicUsize,
    /// The cipher that the op socket was opened for (`keys::Aead`).
    pub op_aead: AtomicU8,
    pub identity: Lock<Identity>,
    /// The thread whose last I/O call was a fast success: to it, SSL_want says
    /// "nothing". Another thread may at the same time look into the failure of
    /// its own call (R20).
    fast_by: AtomicUsize,
    /// The thread whose SSL_sendfile met a full socket, or whose SSL_write did before a
    /// peek of ours made OpenSSL forget it: to it, SSL_get_error says WANT_WRITE.
    wants_by: AtomicUsize,
    /// The translation cannot go on: nothing more may reach the wire.
    pub dead: AtomicBool,
    /// The next one-byte data record from OpenSSL is the placeholder of a write
    /// that met a full socket: it was never data.
    pub swallow: AtomicBool,
    /// Plaintext bytes per record that the kernel sends.
    pub record: AtomicUsize,
    /// Whoever weighs the connection; one at a time.
    pub settling: Baton,
    pub rx: Half,
    pub tx: Half,
    pub read: Lock<rx::ReadSide>,
    pub write: Lock<tx::WriteSide>,
    pub secrets: Lock<Secrets>,
}

impl Connection {
    pub(crate) const fn vacant() -> Self {
        Self {
            generation: AtomicU32::new(1),
            next_free: AtomicU32::new(0),
            ssl: AtomicUsize::new(0),
            table: AtomicPtr::new(ptr::null_mut()),
            marks: AtomicU32::new(0),
            max_fragment: AtomicU16::new(0),
            held: AtomicUsize::new(0),
            write_state: AtomicU8::new(0),
            write_done: AtomicUsize::new(0),
            held_at: AtomicUsize::new(0),
            held_in: AtomicUsize::new(0),
            file_left: AtomicUsize::new(0),
            op_aead: AtomicU8::new(0),
            identity: Lock::new(Identity::new()),
            fast_by: AtomicUsize::new(0),
            wants_by: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            swallow: AtomicBool::new(false),
            record: AtomicUsize::new(rx::PLAIN_MAX),
            settling: Baton::new(),
            rx: Half::vacant(),
            tx: Half::vacant(),
            read: Lock::new(rx::ReadSide::new()),
            write: Lock::new(tx::WriteSide::new()),
            secrets: Lock::new(Secrets::new()),
        }
    }

    /// A fresh connection for this SSL.
    pub fn create(live: Live) -> Option<(ConnId, &'static Connection)> {
        let (id, conn) = slab::take()?;
        conn.marks.store(0, Ordering::Relaxed);
        conn.max_fragment.store(0, Ordering::Relaxed);
        conn.forget_io();
        if let Some(mut identity) = conn.identity.lock() {
            *identity = Identity::new();
        }
        conn.rx.reset();
        conn.tx.reset();
        conn.table
            .store(ptr::from_ref(live.table).cast_mut(), Ordering::Release);
        conn.ssl.store(live.ptr() as usize, Ordering::Release);
        Some((id, conn))
    }

    /// A cipher for the virtual wire: OpenSSL's key of a direction that the kernel has.
    fn virtual_cipher(&self, dir: Dir) -> Option<RecordCipher> {
        let table = self.table()?;
        let mut secrets = self.secrets.lock()?;
        RecordCipher::new(table.crypto, secrets.in_use(dir).as_ref()?)
    }

    /// The SSL object, alive as long as its connection.
    pub fn live(&self) -> Option<Live> {
        let s = self.ssl.load(Ordering::Acquire);
        let table = self.table()?;
        // SAFETY: the number is cleared before the object is freed (`end::finish`).
        (s != 0).then(|| unsafe { Live::new(table, s as *mut crate::openssl::Ssl) })
    }

    /// What a new handshake must not find.
    fn forget_io(&self) {
        for count in [
            &self.held,
            &self.write_done,
            &self.held_at,
            &self.held_in,
            &self.file_left,
            &self.fast_by,
            &self.wants_by,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        self.write_state.store(0, Ordering::Relaxed);
        self.dead.store(false, Ordering::Relaxed);
        self.swallow.store(false, Ordering::Relaxed);
        self.settling.reset();
    }

    /// Back to the state before a handshake, on the same SSL.
    fn start_over(&self) {
        // A first handshake begins with a SSL_clear of libssl's own.
        let kept = mark::PADDING | mark::PROMISED | mark::HIDDEN | mark::SSL_BIO;
        self.marks.fetch_and(kept, Ordering::AcqRel);
        self.forget_io();
        self.rx.reset();
        self.tx.reset();
    }

    /// The libssl copy that this connection's SSL belongs to.
    pub fn table(&self) -> Option<&'static Table> {
        // SAFETY: only `create` stores here, and only pointers to tables that
        // are never freed.
        unsafe { self.table.load(Ordering::Acquire).as_ref() }
    }

    pub fn is(&self, bit: u32) -> bool {
        self.marks.load(Ordering::Acquire) & bit != 0
    }

    // A plain test first in all three: they run on the fast lane, where little
    // changes.
    pub fn mark(&self, bit: u32) {
        if self.marks.load(Ordering::Acquire) & bit != bit {
            self.marks.fetch_or(bit, Ordering::AcqRel);
        }
    }

    pub fn unmark(&self, bit: u32) {
        if self.is(bit) {
            self.marks.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// This thread's I/O call ended without OpenSSL: with success, or SSL_sendfile's with
    /// an error that no later call mends.
    pub fn fast_end(&self) {
        let me = crate::thread::identity();
        // Another thread's wait for room goes on (R20).
        if self.wants_by.load(Ordering::Relaxed) == me {
            self.wants_by.store(0, Ordering::Relaxed);
        }
        if self.fast_by.load(Ordering::Relaxed) != me {
            self.fast_by.store(me, Ordering::Relaxed);
        }
    }

    /// This thread makes a real I/O call: OpenSSL's own state speaks again. What it
    /// said of us until now goes to `idle_call`, should the call come to nothing.
    pub fn real_call(&self) -> [bool; 2] {
        let me = crate::thread::identity();
        [&self.wants_by, &self.fast_by].map(|by| {
            let mine = by.load(Ordering::Relaxed) == me;
            if mine {
                by.store(0, Ordering::Relaxed);
            }
            mine
        })
    }

    /// The real call left OpenSSL's state as an older one had: ours is the last word.
    pub fn idle_call(&self, before: [bool; 2]) {
        let me = crate::thread::identity();
        for (by, mine) in [&self.wants_by, &self.fast_by].into_iter().zip(before) {
            if mine {
                by.store(me, Ordering::Relaxed);
            }
        }
    }

    pub fn was_fast(&self) -> bool {
        self.fast_by.load(Ordering::Relaxed) == crate::thread::identity()
    }

    /// This thread's write found no room, and OpenSSL does not know.
    pub fn waits_for_room(&self) {
        self.real_call();
        self.wants_by
            .store(crate::thread::identity(), Ordering::Relaxed);
    }

    pub fn wants_room(&self) -> bool {
        self.wants_by.load(Ordering::Relaxed) == crate::thread::identity()
    }

    /// Clears the bit and says whether it was set.
    pub fn take_mark(&self, bit: u32) -> bool {
        self.is(bit) && self.marks.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    pub fn half(&self, dir: Dir) -> &Half {
        match dir {
            Dir::Rx => &self.rx,
            Dir::Tx => &self.tx,
        }
    }

    /// Leaves both directions to OpenSSL, as far as the kernel has not got them.
    pub fn refuse(&self, reason: Reason) {
        self.rx.refuse(reason);
        self.tx.refuse(reason);
    }
}

pub use crate::backend::Dir;

/// The live connection that owns `fd`, by the table. A stale entry is dropped.
pub fn of_fd(fd: i32) -> Option<(ConnId, &'static Connection)> {
    match crate::fdtable::entry(fd) {
        crate::fdtable::Entry::Conn(id) => match slab::by_id(id) {
            Some(conn) => Some((id, conn)),
            None => {
                crate::fdtable::clear_if(fd, id);
                None
            }
        },
        _ => None,
    }
}

/// Called once by the fini function, after the phase is Exiting: connections
/// that nobody freed get their line in the log. Nothing is taken down, for
/// libraries still call SSL_shutdown after this.
pub fn at_exit() {
    slab::each(|_, conn| end::report(conn));
}
