//! The frame around a call into libssl.
//!
//! `around` marks this thread as inside an SSL call of one connection, lets the
//! real function run, and tries to offload afterwards. libssl up to 3.5 enters
//! its own exports again (SSL_connect enters SSL_do_handshake); such a nested
//! call runs bare. Nothing is locked, counted or held by an object while the
//! real function runs, since it may be left by siglongjmp (P40).

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

use crate::config::config;
use crate::conn::{Connection, ConnId, mark, slab};
use crate::openssl::crypto::ExData;
use crate::openssl::{EX_INDEX_SSL, Ssl, resolver, ssl::Table};
use crate::process::{self, Phase};
use crate::{conn, thread};

use super::context;

pub type Conn = Option<(ConnId, &'static Connection)>;

/// The slot in an SSL's ex_data, made at first use.
fn index(table: &'static Table) -> Option<i32> {
    /// Another thread is making the index.
    const BUSY: i32 = -2;
    loop {
        match table.ex_ssl.load(Ordering::Acquire) {
            BUSY => core::hint::spin_loop(),
            -1 => {
                if table.ex_ssl.compare_exchange(-1, BUSY, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    continue;
                }
                // SAFETY: the callbacks match CRYPTO_EX_dup and CRYPTO_EX_free.
                let made = unsafe {
                    (table.crypto.CRYPTO_get_ex_new_index)(EX_INDEX_SSL, 0, ptr::null_mut(), None, None, Some(freed))
                };
                table.ex_ssl.store(made.max(-1), Ordering::Release);
                return (made >= 0).then_some(made);
            }
            made => return Some(made),
        }
    }
}

/// CRYPTO_EX_free: the SSL object goes away.
unsafe extern "C" fn freed(
    _parent: *mut c_void,
    value: *mut c_void,
    _ad: *mut ExData,
    _index: libc::c_int,
    _argl: libc::c_long,
    _argp: *mut c_void,
) {
    let id = ConnId::from_u64(value as u64);
    // SSL_dup copies the value; only the object that the connection was made for
    // ends it.
    let owner = slab::by_id(id).map(|conn| conn.ssl.load(Ordering::Acquire));
    if id.is_valid() && owner.is_some_and(|ssl| _parent.is_null() || ssl == _parent as usize) {
        crate::boundary::guard((), || conn::end::finish(id));
    }
}

/// The connection of this SSL, if it has one.
///
/// # Safety
/// `s` is a live SSL of `table`'s library.
pub unsafe fn known(table: &'static Table, s: *mut Ssl) -> Conn {
    let index = table.ex_ssl.load(Ordering::Acquire);
    if index < 0 || s.is_null() {
        return None;
    }
    // SAFETY: as the caller vouches; the index was made by this library.
    let id = ConnId::from_u64(unsafe { (table.SSL_get_ex_data)(s, index) } as u64);
    let conn = slab::by_id(id)?;
    (conn.ssl.load(Ordering::Acquire) == s as usize).then_some((id, conn))
}

/// The connection of this SSL, made now if it may still be offloaded one day.
///
/// # Safety
/// As for `known`.
pub unsafe fn known_or_new(table: &'static Table, s: *mut Ssl) -> Conn {
    // SAFETY: as the caller vouches, here and below.
    if let Some(found) = unsafe { known(table, s) } {
        return Some(found);
    }
    let refused = s.is_null()
        || !config().enabled
        || process::phase() != Phase::Running
        || crate::boundary::broken()
        || unsafe { (table.SSL_is_dtls)(s) } != 0
        || table.SSL_is_quic.is_some_and(|is_quic| unsafe { is_quic(s) } != 0);
    if refused {
        return None;
    }
    // Its secrets went by unseen if the handshake is over already.
    if unsafe { (table.SSL_is_init_finished)(s) } != 0 {
        return None;
    }
    let index = index(table)?;
    let (id, conn) = Connection::create(table, s as usize)?;
    if unsafe { (table.SSL_set_ex_data)(s, index, id.to_u64() as *mut c_void) } != 1 {
        conn.ssl.store(0, Ordering::Release);
        slab::give_back(id, |_| ());
        return None;
    }
    unsafe { context::inherit(table, s, conn) };
    Some((id, conn))
}

/// What the real function meets at the fd before any system call is made.
#[derive(Clone, Copy, Default)]
pub struct AtFd {
    pub read: i32,
    pub write: i32,
    /// The call is SSL_write's own: it settles a pending write.
    pub writes: bool,
}

/// Runs `real` as an SSL call of `s`. `lost` is the answer when the program's
/// libssl cannot be found, which cannot happen to a program that called it.
///
/// # Safety
/// `s` is what the program passed to the hooked function.
pub unsafe fn around<R: Copy>(
    ret: usize,
    s: *mut Ssl,
    lost: R,
    at_fd: AtFd,
    real: impl FnOnce(&'static Table) -> R,
) -> R {
    let caller = resolver::caller(ret);
    let Some(table) = caller.ssl else { return lost };
    let inside = thread::top().is_some_and(|frame| frame.ssl == s as usize);
    if inside || s.is_null() {
        return real(table);
    }
    // SAFETY: the program's own promise about `s`.
    let Some((id, conn)) = (unsafe { known_or_new(table, s) }) else { return real(table) };
    if caller.in_libssl {
        // libssl calls its own export for an SSL that no call of the program's
        // led to: the program's calls go past us (R10).
        conn.mark(mark::HIDDEN);
    }
    conn.unmark(mark::FAST_SUCCESS);
    conn.unmark(mark::SENDFILE_WANTS);
    if !at_fd.writes && conn.write_state.load(Ordering::Acquire) == super::transmit::PLACEHOLDER {
        // With a full wire libssl may park an alert or a ticket that only the
        // next real write sends, while its getters look idle.
        conn.mark(mark::WRITE_SLOW_ONCE);
    }
    // SAFETY: `s` is live.
    unsafe { context::listen(table, s) };
    let token = thread::push(id, s as usize, thread::stack());
    if at_fd.read != 0 || at_fd.write != 0 {
        thread::with(token, |frame| {
            frame.read_errno = at_fd.read;
            frame.write_errno = at_fd.write;
        });
    }
    let outcome = real(table);
    thread::pop(token);
    // The call may have freed the SSL (a callback did): then the id is stale.
    if slab::by_id(id).is_some() {
        // SAFETY: the connection lives, so does its SSL.
        unsafe { conn.try_offload(table, s) };
    }
    outcome
}
