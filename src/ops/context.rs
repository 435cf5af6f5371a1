//! SSL_CTX: the keylog callback, and settings that new connections inherit.
//!
//! TLS 1.3 secrets come from the keylog callback, the one public way to them. Ours
//! is chained before the program's own, which it can set, change and ask for as
//! if ours were not there (R25).
//!
//! Memory: one `Context` per SSL_CTX, boxed, in its ex_data. OpenSSL makes it together
//! with the SSL_CTX and frees it with it, both by callback, so no two threads make
//! one for the same SSL_CTX. The few that are older than the callback (made past our
//! hooks) have theirs in a list instead, which only grows.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicUsize, Ordering};

use crate::backend::{Backend, alg};
use crate::config::config;
use crate::conn::offload::records_only_shrink;
use crate::conn::{Connection, Lane, mark, slab};
use crate::keys::keylog;
use crate::openssl::ask::Live;
use crate::openssl::crypto::ExData;
use crate::openssl::{KeylogCb, SSL_CTRL_SET_MAX_SEND_FRAGMENT, Ssl, SslCtx, slot, ssl::Table};
use crate::process::{self, Phase};
use crate::{report, thread};

pub struct Context {
    /// The program's own keylog callback, as a number; 0 is none.
    chained: AtomicUsize,
    max_fragment: AtomicU16,
    padding: AtomicBool,
}

/// The libssl copy that a callback without a frame belongs to: the last seen.
static LAST: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

impl Context {
    const fn new() -> Context {
        Context {
            chained: AtomicUsize::new(0),
            max_fragment: AtomicU16::new(0),
            padding: AtomicBool::new(false),
        }
    }
}

fn index(table: &'static Table) -> Option<c_int> {
    table.ex_ctx.get(table.crypto, born, freed)
}

/// CRYPTO_EX_new: an SSL_CTX is being made.
unsafe extern "C" fn born(
    _parent: *mut c_void,
    _value: *mut c_void,
    ad: *mut ExData,
    index: c_int,
    _argl: c_long,
    argp: *mut c_void,
) {
    crate::boundary::guard((), || {
        let fresh = Box::into_raw(Box::new(Context::new())).cast();
        // SAFETY: OpenSSL's own arguments.
        if !unsafe { slot::place(ad, index, argp, fresh) } {
            // SAFETY: nobody else has seen the box.
            drop(unsafe { Box::from_raw(fresh.cast::<Context>()) });
        }
    });
}

unsafe extern "C" fn freed(
    parent: *mut c_void,
    value: *mut c_void,
    _ad: *mut ExData,
    _index: c_int,
    _argl: c_long,
    _argp: *mut c_void,
) {
    crate::boundary::guard((), || {
        if value.is_null() {
            elders::forget(parent as usize);
        } else {
            // SAFETY: only `born` stores here, and it stores leaked boxes; nobody
            // uses an SSL_CTX that is being freed.
            drop(unsafe { Box::from_raw(value.cast::<Context>()) });
        }
    });
}

/// The contexts that were made before `born` was registered. Storing a box in one of
/// those while other threads use it is what slot.rs warns of.
mod elders {
    use super::{AtomicPtr, AtomicUsize, Context, Ordering, ptr};

    struct Elder {
        /// The SSL_CTX, as a number; 0 when it is gone.
        key: AtomicUsize,
        context: Context,
        next: *const Elder,
    }

    static LIST: AtomicPtr<Elder> = AtomicPtr::new(ptr::null_mut());

    fn find(from: *const Elder, key: usize) -> Option<&'static Elder> {
        // SAFETY: entries are never freed, and `next` does not change once an entry
        // is in the list.
        let mut at = unsafe { from.as_ref() };
        while let Some(elder) = at {
            if elder.key.load(Ordering::Acquire) == key {
                return at;
            }
            // SAFETY: as above.
            at = unsafe { elder.next.as_ref() };
        }
        None
    }

    /// The entry of this SSL_CTX, made at first use.
    pub(super) fn of(key: usize) -> &'static Context {
        let mut fresh: *mut Elder = ptr::null_mut();
        loop {
            let head = LIST.load(Ordering::Acquire);
            if let Some(found) = find(head, key) {
                if !fresh.is_null() {
                    // SAFETY: it did not get into the list.
                    drop(unsafe { Box::from_raw(fresh) });
                }
                return &found.context;
            }
            if fresh.is_null() {
                fresh = Box::into_raw(Box::new(Elder {
                    key: AtomicUsize::new(key),
                    context: Context::new(),
                    next: ptr::null(),
                }));
            }
            // SAFETY: still ours alone.
            unsafe { (*fresh).next = head };
            // A head that did not change means that nothing was added since the search:
            // entries are never taken out.
            if LIST
                .compare_exchange(head, fresh, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                // SAFETY: never freed from here on.
                return unsafe { &(*fresh).context };
            }
        }
    }

    /// The SSL_CTX goes away; another one may get its address.
    pub(super) fn forget(key: usize) {
        if let Some(elder) = find(LIST.load(Ordering::Acquire), key) {
            elder.key.store(0, Ordering::Release);
        }
    }
}

/// The state of this SSL_CTX. None while another thread makes the index.
///
/// # Safety
/// `ctx` is a live SSL_CTX of `table`'s library, and stays so while the result is
/// in use.
unsafe fn of(table: &'static Table, ctx: *mut SslCtx) -> Option<&'static Context> {
    let index = index(table)?;
    // SAFETY: as the caller vouches; what is found there goes with `ctx` only.
    let placed = unsafe {
        (table.SSL_CTX_get_ex_data)(ctx, index)
            .cast::<Context>()
            .as_ref()
    };
    placed.or_else(|| Some(elders::of(ctx as usize)))
}

fn active() -> bool {
    config().enabled && process::phase() == Phase::Running
}

/// Puts our keylog callback on the SSL's context, if it is not there.
pub fn listen(live: &Live) {
    if live.in_init() {
        // SAFETY: a live SSL's context lives.
        unsafe { listen_on(live.table, live.context()) };
    }
}

/// # Safety
/// `ctx` is null or a live SSL_CTX.
pub unsafe fn listen_on(table: &'static Table, ctx: *mut SslCtx) {
    if ctx.is_null() || !active() {
        return;
    }
    LAST.store(ptr::from_ref(table).cast_mut(), Ordering::Release);
    // SAFETY: as the caller vouches.
    unsafe {
        let current = (table.SSL_CTX_get_keylog_callback)(ctx);
        if current.map_or(0, |f| f as usize) == heard as *const () as usize {
            return;
        }
        if let Some(context) = of(table, ctx) {
            context
                .chained
                .store(current.map_or(0, |f| f as usize), Ordering::Release);
            (table.SSL_CTX_set_keylog_callback)(ctx, Some(heard));
        }
    }
}

/// The keylog callback: learn, then pass on.
unsafe extern "C" fn heard(s: *const Ssl, line: *const c_char) {
    let chained = crate::boundary::guard(0usize, || {
        let frame = thread::top().and_then(|frame| slab::by_id(frame.conn));
        // SAFETY: tables are never freed.
        let last = unsafe { LAST.load(Ordering::Acquire).as_ref() };
        let Some(table) = frame.and_then(Connection::table).or(last) else {
            return 0;
        };
        // SAFETY: libssl calls with its live SSL and a C string.
        unsafe {
            let live = Live::new(table, s.cast_mut());
            if let Some((_, conn)) = super::call::known(&live) {
                learn(&live, conn, CStr::from_ptr(line).to_bytes());
            }
            of(table, live.context()).map_or(0, |context| context.chained.load(Ordering::Acquire))
        }
    });
    if chained != 0 {
        // SAFETY: the number is a KeylogCb that the program installed.
        let program: unsafe extern "C" fn(*const Ssl, *const c_char) =
            unsafe { core::mem::transmute(chained) };
        // SAFETY: the arguments that libssl meant for it.
        unsafe { program(s, line) };
    }
}

fn learn(live: &Live, conn: &Connection, line: &[u8]) {
    let Some((label, _, secret)) = keylog::parse(line) else {
        return;
    };
    let server = live.is_server();
    let Some(mut secrets) = conn.secrets.lock() else {
        return;
    };
    // The server's keys are tx on a server and rx on a client.
    let kernel = |is_server: bool| {
        let half = if is_server == server {
            &conn.tx
        } else {
            &conn.rx
        };
        half.lane() == Lane::Kernel
    };
    secrets.learn(label, secret, kernel);
}

/// Copies to a new connection what its context was told before.
pub fn inherit(live: &Live, conn: &Connection) {
    // SAFETY: a live SSL's context lives.
    if let Some(context) = unsafe { of(live.table, live.context()) } {
        conn.max_fragment.store(
            context.max_fragment.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        if context.padding.load(Ordering::Relaxed) {
            conn.mark(mark::PADDING);
        }
    }
}

/// A context is about to be made: have our places in it, and in its SSLs, from the
/// beginning.
pub fn making(table: &'static Table) {
    if active() {
        index(table);
        super::call::index(table);
    }
}

/// A context was made: the moment to use rights that the process may give up.
pub fn made(table: &'static Table, ctx: *mut SslCtx) {
    if ctx.is_null() || !active() {
        return;
    }
    report::open_log();
    // SAFETY: geteuid cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        crate::errno::preserve(|| alg().prepare());
        for parent in alg().parents() {
            crate::fdtable::set_own(parent);
        }
    }
    LAST.store(ptr::from_ref(table).cast_mut(), Ordering::Release);
}

/// SSL_CTX_set_keylog_callback.
///
/// # Safety
/// `ctx` is what the program passed.
pub unsafe fn set_keylog(table: &'static Table, ctx: *mut SslCtx, callback: KeylogCb) {
    // SAFETY: the program's own promise about `ctx`.
    unsafe {
        let ours = (table.SSL_CTX_get_keylog_callback)(ctx).map_or(0, |f| f as usize)
            == heard as *const () as usize;
        match of(table, ctx) {
            Some(context) if ours => context
                .chained
                .store(callback.map_or(0, |f| f as usize), Ordering::Release),
            _ => (table.SSL_CTX_set_keylog_callback)(ctx, callback),
        }
    }
}

/// SSL_CTX_get_keylog_callback: the program's own.
///
/// # Safety
/// `ctx` is what the program passed.
pub unsafe fn keylog_of(table: &'static Table, ctx: *const SslCtx) -> KeylogCb {
    // SAFETY: the program's own promise about `ctx`.
    unsafe {
        let current = (table.SSL_CTX_get_keylog_callback)(ctx);
        if current.map_or(0, |f| f as usize) != heard as *const () as usize {
            return current;
        }
        let chained =
            of(table, ctx.cast_mut()).map_or(0, |context| context.chained.load(Ordering::Acquire));
        // SAFETY: 0 or a KeylogCb that the program installed.
        core::mem::transmute::<usize, KeylogCb>(chained)
    }
}

/// Record padding was configured on the context.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn pad(table: &'static Table, ctx: *mut SslCtx, on: bool) {
    // SAFETY: as the caller vouches.
    if let Some(context) = unsafe { of(table, ctx) } {
        context.padding.store(on, Ordering::Relaxed);
    }
}

/// SSL_set_max_send_fragment succeeded.
pub fn fragment_set(table: &'static Table, size: &AtomicU16, value: c_long) {
    let new = value.clamp(0, 16_384) as u16;
    let old = size.load(Ordering::Relaxed);
    let least = old != 0 && records_only_shrink(table.crypto.version());
    size.store(if least { new.min(old) } else { new }, Ordering::Relaxed);
}

/// SSL_CTX_ctrl succeeded.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn told(table: &'static Table, ctx: *mut SslCtx, command: c_int, value: c_long) {
    if command == SSL_CTRL_SET_MAX_SEND_FRAGMENT {
        // SAFETY: as the caller vouches.
        if let Some(context) = unsafe { of(table, ctx) } {
            fragment_set(table, &context.max_fragment, value);
        }
    }
}

#[cfg(test)]
#[path = "context_test.rs"]
mod tests;
