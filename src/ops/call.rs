//! The frame around a call into libssl.
//!
//! `Call::around` marks this thread as inside an SSL call of one connection, lets
//! the real function run, and tries to offload afterwards. libssl up to 3.5 enters
//! its own exports again (SSL_connect enters SSL_do_handshake); such a nested
//! call runs bare. Nothing is locked, counted or held by an object while the
//! real function runs, since it may be left by siglongjmp (P40).

use core::ffi::{c_int, c_void};
use core::ops::Deref;
use core::sync::atomic::Ordering;

use crate::config::config;
use crate::conn::{ConnId, Connection, mark, slab};
use crate::openssl::ask::Live;
use crate::openssl::crypto::ExData;
use crate::openssl::{SSL_KEY_UPDATE_NONE, Ssl, resolver, slot, ssl::Table};
use crate::process::{self, Phase};
use crate::{boundary, conn, thread};

use crate::conn::flag;

use super::context;

pub type Conn = Option<(ConnId, &'static Connection)>;

/// Calls a libssl function with the arguments that the program passed to ours.
macro_rules! real {
    ($table:expr, $f:ident $(, $arg:expr)*) => {{
        // SAFETY: the program called this very function with these arguments.
        unsafe { ($table.$f)($($arg),*) }
    }};
}

/// The same for a function that not every version has.
macro_rules! real_later {
    ($table:expr, $f:ident, $absent:expr $(, $arg:expr)*) => {
        match $table.$f {
            // SAFETY: the program called this very function with these arguments.
            Some(f) => unsafe { f($($arg),*) },
            None => $absent,
        }
    };
}

pub(super) use {real, real_later};

/// What an `_ex` function wrote, if it succeeded.
///
/// # Safety
/// `count` is null, or what the function was given to write to.
pub unsafe fn written(outcome: c_int, count: *const usize) -> usize {
    if outcome != 1 || count.is_null() {
        return 0;
    }
    // SAFETY: the real function has just written through this pointer.
    unsafe { *count }
}

/// The index of our place in an SSL. Made before the first SSL_CTX, so that every
/// SSL of the program's has the place.
pub(super) fn index(table: &'static Table) -> Option<c_int> {
    table.ex_ssl.get(table.crypto, slot::empty, freed)
}

/// CRYPTO_EX_free: the SSL object goes away.
unsafe extern "C" fn freed(
    parent: *mut c_void,
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
    if id.is_valid() && owner.is_some_and(|ssl| parent.is_null() || ssl == parent as usize) {
        boundary::guard((), || conn::end::finish(id));
    }
}

/// The connection of this SSL, if it has one.
pub fn known(live: &Live) -> Conn {
    let index = live.table.ex_ssl.known()?;
    if live.ptr().is_null() {
        return None;
    }
    // SAFETY: the object is alive; the index was made by its library.
    let value = unsafe { (live.table.SSL_get_ex_data)(live.ptr(), index) };
    let id = ConnId::from_u64(value as u64);
    let conn = slab::by_id(id)?;
    (conn.ssl.load(Ordering::Acquire) == live.ptr() as usize).then_some((id, conn))
}

/// The connection of this SSL, made now if it may still be offloaded one day.
pub fn known_or_new(live: &Live) -> Conn {
    if let Some(found) = known(live) {
        return Some(found);
    }
    let refused = live.ptr().is_null()
        || !config().enabled
        || process::phase() != Phase::Running
        || boundary::broken()
        || live.is_dtls()
        || live.is_quic();
    // After the handshake its secrets have gone by unseen.
    if refused || live.is_finished() {
        return None;
    }
    let index = index(live.table)?;
    let (id, conn) = Connection::create(*live)?;
    let value = id.to_u64() as *mut c_void;
    let stored = live.table.crypto.quiet(|| {
        // SAFETY: the object is alive; the index was made by its library. It has the
        // place already (slot.rs), unless the program made it past our hooks.
        unsafe { (live.table.SSL_set_ex_data)(live.ptr(), index, value) == 1 }
    });
    if !stored {
        conn.ssl.store(0, Ordering::Release);
        slab::give_back(id, |_| ());
        return None;
    }
    context::inherit(live, conn);
    Some((id, conn))
}

/// What the real function meets at the fd before any system call is made.
#[derive(Clone, Copy, Default)]
pub struct AtFd {
    pub read: i32,
    pub write: i32,
    /// The call is SSL_write's own: it settles a pending write.
    pub writes: bool,
    /// The call does no I/O and leaves SSL_want as it was.
    pub idle: bool,
    /// Past the one control record that waits, the wire is dry: what follows is
    /// the fast lane's.
    pub one: bool,
}

/// One hooked call: the SSL that the program passed, and who called.
#[derive(Clone, Copy)]
pub struct Call {
    live: Live,
    in_libssl: bool,
}

impl Deref for Call {
    type Target = Live;
    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Call {
    /// None when the caller's libssl cannot be found, which cannot happen to a
    /// program that called it.
    ///
    /// # Safety
    /// `s` is what the program passed to the hooked function, so it lives until
    /// that returns (or is null).
    pub unsafe fn of(ret: usize, s: *const Ssl) -> Option<Call> {
        let caller = resolver::caller(ret);
        // SAFETY: as the caller vouches.
        let live = unsafe { Live::new(caller.ssl?, s.cast_mut()) };
        Some(Call {
            live,
            in_libssl: caller.in_libssl,
        })
    }

    pub fn conn(&self) -> Conn {
        known(self)
    }

    /// Did libssl itself make it?
    pub fn from_libssl(&self) -> bool {
        self.in_libssl
    }

    /// Is this a call that libssl makes while it serves one of the program's?
    pub fn is_nested(&self) -> bool {
        thread::any_frame() && thread::top().is_some_and(|frame| frame.ssl == self.ptr() as usize)
    }

    /// Runs `real` as an SSL call of this object.
    pub fn around<R: Copy>(&self, at_fd: AtFd, real: impl FnOnce(&'static Table) -> R) -> R {
        let table = self.live.table;
        if self.is_nested() || self.ptr().is_null() {
            return real(table);
        }
        let Some((id, conn)) = known_or_new(self) else {
            return real(table);
        };
        if self.in_libssl {
            // libssl calls its own export for an SSL that no call of the
            // program's led to: the program's calls go past us (R10).
            conn.mark(mark::HIDDEN);
        }
        let said = match at_fd.idle {
            true => [false; 2],
            false => conn.real_call(),
        };
        // (A read that meets a dry wire reads nothing, so nothing comes of it.)
        let idle = at_fd.writes || at_fd.read != 0;
        // With a full wire libssl may park an alert or a ticket that only the next real
        // write sends, while its getters look idle.
        let full = conn.write_state.load(Ordering::Acquire) == super::transmit::PLACEHOLDER;
        let parks = !idle && full && !conn.is(mark::WRITE_SLOW_ONCE);
        if parks {
            conn.mark(mark::WRITE_SLOW_ONCE);
        }
        context::listen(self);
        let token = thread::push(id, self.ptr() as usize, thread::stack());
        if at_fd.read != 0 || at_fd.write != 0 || at_fd.one {
            thread::with(token, |frame| {
                if at_fd.one {
                    frame.flags |= flag::ONE;
                }
                frame.read_errno = at_fd.read;
                frame.write_errno = at_fd.write;
            });
        }
        let outcome = real(table);
        let used = thread::with(token, |frame| frame.flags & flag::USED_BIO != 0);
        thread::pop(token);
        // The call may have freed the SSL (a callback did): then the id is stale.
        if slab::by_id(id).is_some() {
            if parks && !self.in_init() && self.key_update() != SSL_KEY_UPDATE_NONE {
                // It was a KeyUpdate: its answer has a getter, and a place (transmit.rs).
                conn.unmark(mark::WRITE_SLOW_ONCE);
            }
            // SSL_shutdown refuses in mid-write, or in a handshake, without a look at
            // the wire: if OpenSSL wants something then, that is what an older call
            // wanted, before a fast one succeeded.
            if said != [false; 2] && used == Some(false) && self.wants_io() {
                conn.idle_call(said);
            }
            conn.try_offload(self);
        }
        outcome
    }
}
