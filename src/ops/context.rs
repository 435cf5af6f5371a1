//! SSL_CTX: the keylog callback, and settings that new connections inherit.
//!
//! TLS 1.3 secrets come from the keylog callback, the one public way to them. Ours
//! is chained before the program's own, which it can set, change and ask for as
//! if ours were not there (R25).
//!
//! Memory: one `Context` per SSL_CTX, boxed, in its ex_data; freed by the ex_data
//! callback.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicUsize, Ordering};

use crate::backend::{Backend, alg};
use crate::config::config;
use crate::conn::{Connection, Lane, mark, slab};
use crate::keys::keylog;
use crate::openssl::ask::Live;
use crate::openssl::crypto::ExData;
use crate::openssl::{
    EX_INDEX_SSL_CTX, KeylogCb, SSL_CTRL_SET_MAX_SEND_FRAGMENT, Ssl, SslCtx, ssl::Table,
};
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

fn index(table: &'static Table) -> Option<c_int> {
    const BUSY: c_int = -2;
    loop {
        match table.ex_ctx.load(Ordering::Acquire) {
            BUSY => core::hint::spin_loop(),
            -1 => {
                if table
                    .ex_ctx
                    .compare_exchange(-1, BUSY, Ordering::AcqRel, Ordering::Acquire)
                    .is_err()
                {
                    continue;
                }
                // SAFETY: the callback matches CRYPTO_EX_free.
                let made = unsafe {
                    (table.crypto.CRYPTO_get_ex_new_index)(
                        EX_INDEX_SSL_CTX,
                        0,
                        ptr::null_mut(),
                        None,
                        None,
                        Some(freed),
                    )
                };
                table.ex_ctx.store(made.max(-1), Ordering::Release);
                return (made >= 0).then_some(made);
            }
            made => return Some(made),
        }
    }
}

unsafe extern "C" fn freed(
    _parent: *mut c_void,
    value: *mut c_void,
    _ad: *mut ExData,
    _index: c_int,
    _argl: c_long,
    _argp: *mut c_void,
) {
    if !value.is_null() {
        // SAFETY: only `of` stores here, and it stores leaked boxes.
        drop(unsafe { Box::from_raw(value.cast::<Context>()) });
    }
}

/// The state of this SSL_CTX, made at first use.
///
/// # Safety
/// `ctx` is a live SSL_CTX of `table`'s library.
unsafe fn of(table: &'static Table, ctx: *mut SslCtx) -> Option<&'static Context> {
    let index = index(table)?;
    // SAFETY: as the caller vouches. The reference is used within the calling hook
    // only, during which the program keeps `ctx` alive.
    if let Some(found) = unsafe {
        (table.SSL_CTX_get_ex_data)(ctx, index)
            .cast::<Context>()
            .as_ref()
    } {
        return Some(found);
    }
    let fresh = Box::into_raw(Box::new(Context {
        chained: AtomicUsize::new(0),
        max_fragment: AtomicU16::new(0),
        padding: AtomicBool::new(false),
    }));
    // SAFETY: `ctx` is live; on failure nobody but us has seen the box.
    unsafe {
        if (table.SSL_CTX_set_ex_data)(ctx, index, fresh.cast()) != 1 {
            drop(Box::from_raw(fresh));
            return None;
        }
        fresh.as_ref()
    }
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

/// SSL_CTX_ctrl succeeded.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn told(table: &'static Table, ctx: *mut SslCtx, command: c_int, value: c_long) {
    if command == SSL_CTRL_SET_MAX_SEND_FRAGMENT {
        // SAFETY: as the caller vouches.
        if let Some(context) = unsafe { of(table, ctx) } {
            context
                .max_fragment
                .store(value.clamp(0, 16_384) as u16, Ordering::Relaxed);
        }
    }
}
