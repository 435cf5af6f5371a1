//! The libssl calls that do not move application data.
//!
//! All are "run the real function inside a frame"; what they do beside that is
//! said at each.

use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::Ordering;

pub use super::file::sendfile;
pub use super::receive::{has_pending, peek, peek_ex, pending, read, read_ex};
pub use super::transmit::{write, write_ex, write_ex2};

use crate::backend::{Backend, alg};
use crate::conn::{Lane, end, mark};
use crate::openssl::{
    KeylogCb, LibCtx, Method, PaddingCb, SSL_CTRL_SET_MAX_SEND_FRAGMENT, SSL_ERROR_SYSCALL, SSL_ERROR_WANT_WRITE,
    SSL_NOTHING, SSL_SENT_SHUTDOWN, SSL_WRITING, Bio, Ssl, SslCtx, resolver,
};

use super::call::{self, AtFd, around};
use super::context;
use core::ffi::c_char;

const NOTHING: AtFd = AtFd { read: 0, write: 0, writes: false };

#[derive(Clone, Copy)]
pub enum Handshake {
    Connect,
    Accept,
    Do,
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn handshake(ret: usize, which: Handshake, s: *mut Ssl) -> c_int {
    unsafe {
        around(ret, s, -1, NOTHING, |t| match which {
            Handshake::Connect => (t.SSL_connect)(s),
            Handshake::Accept => (t.SSL_accept)(s),
            Handshake::Do => (t.SSL_do_handshake)(s),
        })
    }
}

/// The second call reads until the peer's close_notify: what the shim still holds
/// must then be OpenSSL's to complain about.
pub unsafe fn shutdown(ret: usize, s: *mut Ssl) -> c_int {
    if let Some(table) = resolver::caller(ret).ssl {
        if let Some((_, conn)) = unsafe { call::known(table, s) } {
            if unsafe { (table.SSL_get_shutdown)(s) } & SSL_SENT_SHUTDOWN != 0 {
                conn.give_back_held();
            }
        }
    }
    unsafe { around(ret, s, -1, NOTHING, |t| (t.SSL_shutdown)(s)) }
}

/// SSL_sendfile that met a full socket left no trace in OpenSSL: say it here.
pub unsafe fn get_error(ret: usize, s: *const Ssl, outcome: c_int) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return SSL_ERROR_SYSCALL };
    let error = unsafe { (table.SSL_get_error)(s, outcome) };
    if error == SSL_ERROR_SYSCALL
        && unsafe { call::known(table, s.cast_mut()) }.is_some_and(|(_, conn)| conn.is(mark::SENDFILE_WANTS))
    {
        return SSL_ERROR_WANT_WRITE;
    }
    error
}

/// After a fast success OpenSSL's own answer would be that of an older call.
pub unsafe fn want(ret: usize, s: *const Ssl) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return SSL_NOTHING };
    if let Some((_, conn)) = unsafe { call::known(table, s.cast_mut()) } {
        if conn.is(mark::SENDFILE_WANTS) {
            return SSL_WRITING;
        }
        if conn.is(mark::FAST_SUCCESS) {
            return SSL_NOTHING;
        }
    }
    unsafe { (table.SSL_want)(s) }
}

#[derive(Clone, Copy)]
pub enum SetFd {
    Both,
    Read,
    Write,
}

/// The same fd again is common during a handshake (R9). Another one in mid-life
/// keeps the old fd translated, and ends the fast lane, which would go to it.
pub unsafe fn set_fd(ret: usize, which: SetFd, s: *mut Ssl, fd: c_int) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    if let Some((_, conn)) = unsafe { call::known(table, s) } {
        conn.unmark(mark::BIOS_KNOWN);
        for half in [&conn.rx, &conn.tx] {
            if half.lane() == Lane::Kernel && half.fd.load(Ordering::Acquire) != fd {
                conn.mark(mark::SLOW_ONLY);
            }
        }
    }
    unsafe {
        match which {
            SetFd::Both => (table.SSL_set_fd)(s, fd),
            SetFd::Read => (table.SSL_set_rfd)(s, fd),
            SetFd::Write => (table.SSL_set_wfd)(s, fd),
        }
    }
}

/// Looks whether `s` has other BIOs after `set` than before.
unsafe fn with_bios(ret: usize, s: *mut Ssl, set: impl FnOnce(&'static crate::openssl::ssl::Table)) {
    let Some(table) = resolver::caller(ret).ssl else { return };
    let Some((_, conn)) = (unsafe { call::known(table, s) }) else { return set(table) };
    let bios = || unsafe { ((table.SSL_get_rbio)(s), (table.SSL_get_wbio)(s)) };
    let before = bios();
    set(table);
    if bios() != before {
        conn.unmark(mark::BIOS_KNOWN);
        if conn.rx.lane() == Lane::Kernel || conn.tx.lane() == Lane::Kernel {
            conn.mark(mark::SLOW_ONLY);
        }
    }
}

pub unsafe fn set_bio(ret: usize, s: *mut Ssl, r: *mut Bio, w: *mut Bio) {
    unsafe { with_bios(ret, s, |t| (t.SSL_set_bio)(s, r, w)) }
}

pub unsafe fn set0_rbio(ret: usize, s: *mut Ssl, b: *mut Bio) {
    unsafe { with_bios(ret, s, |t| (t.SSL_set0_rbio)(s, b)) }
}

pub unsafe fn set0_wbio(ret: usize, s: *mut Ssl, b: *mut Bio) {
    unsafe { with_bios(ret, s, |t| (t.SSL_set0_wbio)(s, b)) }
}

/// The object starts anew: so does what we know of it.
pub unsafe fn clear(ret: usize, s: *mut Ssl) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    if let Some((_, conn)) = unsafe { call::known(table, s) } {
        end::restart(conn);
    }
    unsafe { (table.SSL_clear)(s) }
}

/// ex_data of the copy names the original's connection; `known` sees that it is
/// not the copy's.
pub unsafe fn dup(ret: usize, s: *mut Ssl) -> *mut Ssl {
    let Some(table) = resolver::caller(ret).ssl else { return core::ptr::null_mut() };
    unsafe { (table.SSL_dup)(s) }
}

pub unsafe fn key_update(ret: usize, s: *mut Ssl, kind: c_int) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_key_update)(s, kind)) }
}

pub unsafe fn renegotiate(ret: usize, s: *mut Ssl) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_renegotiate)(s)) }
}

pub unsafe fn renegotiate_abbreviated(ret: usize, s: *mut Ssl) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_renegotiate_abbreviated)(s)) }
}

/// A full wire leaves the ticket for the next real SSL_write while every getter
/// looks idle: let that one be real.
pub unsafe fn new_session_ticket(ret: usize, s: *mut Ssl) -> c_int {
    if let Some(table) = resolver::caller(ret).ssl {
        if let Some((_, conn)) = unsafe { call::known(table, s) } {
            conn.mark(mark::WRITE_SLOW_ONCE);
        }
    }
    unsafe { around(ret, s, 0, NOTHING, |t| t.SSL_new_session_ticket.map_or(0, |f| f(s))) }
}

pub unsafe fn verify_client_post_handshake(ret: usize, s: *mut Ssl) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_verify_client_post_handshake)(s)) }
}

pub unsafe fn stateless(ret: usize, s: *mut Ssl) -> c_int {
    unsafe { around(ret, s, -1, NOTHING, |t| (t.SSL_stateless)(s)) }
}

/// Early data is OpenSSL's alone; the connection is weighed when init is over.
pub unsafe fn read_early_data(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_read_early_data)(s, buf, n, got)) }
}

pub unsafe fn write_early_data(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int {
    unsafe { around(ret, s, 0, NOTHING, |t| (t.SSL_write_early_data)(s, buf, n, done)) }
}

/// SNI callbacks change the context in mid-handshake: listen there too (R25).
pub unsafe fn set_ssl_ctx(ret: usize, s: *mut Ssl, ctx: *mut SslCtx) -> *mut SslCtx {
    let Some(table) = resolver::caller(ret).ssl else { return core::ptr::null_mut() };
    unsafe {
        if (table.SSL_in_init)(s) != 0 && call::known(table, s).is_some() {
            context::listen_on(table, ctx);
        }
        (table.SSL_set_SSL_CTX)(s, ctx)
    }
}

pub unsafe fn ctx_new(ret: usize, method: *const Method) -> *mut SslCtx {
    let Some(table) = resolver::caller(ret).ssl else { return core::ptr::null_mut() };
    let made = unsafe { (table.SSL_CTX_new)(method) };
    context::made(table, made);
    made
}

pub unsafe fn ctx_new_ex(ret: usize, lib: *mut LibCtx, query: *const c_char, method: *const Method) -> *mut SslCtx {
    let Some(table) = resolver::caller(ret).ssl else { return core::ptr::null_mut() };
    let made = table.SSL_CTX_new_ex.map_or(core::ptr::null_mut(), |f| unsafe { f(lib, query, method) });
    context::made(table, made);
    made
}

pub unsafe fn ctx_set_keylog(ret: usize, ctx: *mut SslCtx, callback: KeylogCb) {
    if let Some(table) = resolver::caller(ret).ssl {
        unsafe { context::set_keylog(table, ctx, callback) }
    }
}

pub unsafe fn ctx_get_keylog(ret: usize, ctx: *const SslCtx) -> KeylogCb {
    unsafe { resolver::caller(ret).ssl.and_then(|table| context::keylog_of(table, ctx)) }
}

/// max_send_fragment has no getter: note what is set.
pub unsafe fn ctrl(ret: usize, s: *mut Ssl, command: c_int, larg: c_long, parg: *mut c_void) -> c_long {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    let outcome = unsafe { (table.SSL_ctrl)(s, command, larg, parg) };
    if command == SSL_CTRL_SET_MAX_SEND_FRAGMENT && outcome == 1 {
        if let Some((_, conn)) = unsafe { call::known_or_new(table, s) } {
            let size = larg.clamp(0, 16_384) as u16;
            conn.max_fragment.store(size, Ordering::Relaxed);
            if conn.tx.lane() == Lane::Kernel
                && alg().set_tx_max(conn.tx.op.load(Ordering::Acquire), size).is_err()
            {
                conn.mark(mark::SLOW_ONLY);
            }
        }
    }
    outcome
}

pub unsafe fn ctx_ctrl(ret: usize, ctx: *mut SslCtx, command: c_int, larg: c_long, parg: *mut c_void) -> c_long {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    let outcome = unsafe { (table.SSL_CTX_ctrl)(ctx, command, larg, parg) };
    if outcome == 1 {
        unsafe { context::told(table, ctx, command, larg) };
    }
    outcome
}

/// Padding set on a connection that the kernel sends for already: OpenSSL pads, the
/// virtual wire would drop it. The direction cannot go back (the numbers differ),
/// so at least no fast write follows and the limit is documented.
fn padded(table: &'static crate::openssl::ssl::Table, s: *mut Ssl, on: bool) {
    if !on {
        return;
    }
    if let Some((_, conn)) = unsafe { call::known_or_new(table, s) } {
        conn.mark(mark::PADDING);
        conn.tx.refuse(crate::reason::Reason::RecordPadding);
    }
}

pub unsafe fn set_block_padding(ret: usize, s: *mut Ssl, n: usize) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    padded(table, s, n > 1);
    unsafe { (table.SSL_set_block_padding)(s, n) }
}

pub unsafe fn set_block_padding_ex(ret: usize, s: *mut Ssl, app: usize, hs: usize) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    padded(table, s, app > 1 || hs > 1);
    table.SSL_set_block_padding_ex.map_or(0, |f| unsafe { f(s, app, hs) })
}

pub unsafe fn ctx_set_block_padding(ret: usize, ctx: *mut SslCtx, n: usize) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    unsafe { context::pad(table, ctx, n > 1) };
    unsafe { (table.SSL_CTX_set_block_padding)(ctx, n) }
}

pub unsafe fn ctx_set_block_padding_ex(ret: usize, ctx: *mut SslCtx, app: usize, hs: usize) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    unsafe { context::pad(table, ctx, app > 1 || hs > 1) };
    table.SSL_CTX_set_block_padding_ex.map_or(0, |f| unsafe { f(ctx, app, hs) })
}

pub unsafe fn set_record_padding_callback(ret: usize, s: *mut Ssl, callback: PaddingCb) -> c_int {
    let Some(table) = resolver::caller(ret).ssl else { return 0 };
    padded(table, s, callback.is_some());
    unsafe { (table.SSL_set_record_padding_callback)(s, callback) }
}

pub unsafe fn ctx_set_record_padding_callback(ret: usize, ctx: *mut SslCtx, callback: PaddingCb) {
    if let Some(table) = resolver::caller(ret).ssl {
        unsafe {
            context::pad(table, ctx, callback.is_some());
            (table.SSL_CTX_set_record_padding_callback)(ctx, callback);
        }
    }
}

