//! The libssl calls that do not move application data.
//!
//! All are "run the real function inside a frame"; what they do beside that is
//! said at each.

use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::Ordering;

pub use super::file::sendfile;
pub use super::receive::{has_pending, peek, peek_ex, pending, read, read_ex};
pub use super::transmit::{write, write_ex, write_ex2};

use crate::conn::{Connection, Half, Lane, end, mark};
use crate::openssl::{
    Bio, KeylogCb, LibCtx, Method, PaddingCb, SSL_CTRL_SET_MAX_SEND_FRAGMENT, SSL_ERROR_SYSCALL,
    SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_NOTHING, SSL_SENT_SHUTDOWN, SSL_WRITING, Ssl,
    SslCtx, resolver, ssl::Table,
};
use crate::reason::Reason;

use super::call::{self, AtFd, Call, real, real_later};
use super::context;
use core::ffi::c_char;
use core::ptr::null_mut;

/// The call with `s`, or the function's failure value.
macro_rules! call_of {
    ($ret:expr, $s:expr) => {
        call_of!($ret, $s, ())
    };
    ($ret:expr, $s:expr, $lost:expr) => {
        // SAFETY: the program's own promise about `s`.
        match unsafe { Call::of($ret, $s) } {
            Some(call) => call,
            None => return $lost,
        }
    };
}

/// The libssl that the caller means, or the function's failure value.
macro_rules! table_of {
    ($ret:expr) => {
        table_of!($ret, ())
    };
    ($ret:expr, $lost:expr) => {
        match resolver::caller($ret).ssl {
            Some(table) => table,
            None => return $lost,
        }
    };
}

/// Functions that only need their frame.
macro_rules! framed {
    ($idle:literal: $($(#[$doc:meta])* fn $name:ident = $f:ident($($arg:ident: $t:ty),*) -> $r:ty, $lost:expr;)*) => {
        $($(#[$doc])*
        /// # Safety
        /// As libssl's function of that name.
        pub unsafe fn $name(ret: usize, s: *mut Ssl, $($arg: $t),*) -> $r {
            let at_fd = AtFd { idle: $idle, ..AtFd::default() };
            let call = call_of!(ret, s, $lost);
            show_held(&call);
            call.around(at_fd, |t| real!(t, $f, s $(, $arg)*))
        })*
    };
}

/// What the shim holds unread, OpenSSL must know of before a call that changes what
/// it does next: it puts off a renegotiation while data is pending, and a read that
/// we serve from memory would never send what waits. It gets the bytes back, and
/// one real peek makes them pending as they would be without us. What OpenSSL waited
/// for is not changed by that: the program did not peek.
pub(super) fn show_held(call: &Call) {
    let Some((_, conn)) = call.conn().filter(|_| !call.is_nested()) else {
        return;
    };
    if conn.held.load(Ordering::Acquire) == 0 {
        return;
    }
    let waits_for_room = want_of(call) == SSL_WRITING;
    conn.give_back_held();
    let (s, mut byte) = (call.ptr(), 0u8);
    // SAFETY: the object is alive and the buffer has one byte.
    call.around(AtFd::default(), |t| unsafe {
        (t.SSL_peek)(s, (&raw mut byte).cast(), 1)
    });
    if waits_for_room {
        conn.waits_for_room();
    }
}

// These only change what the next I/O call will do.
framed! { true:
    fn key_update = SSL_key_update(kind: c_int) -> c_int, 0;
    fn renegotiate = SSL_renegotiate() -> c_int, 0;
    fn renegotiate_abbreviated = SSL_renegotiate_abbreviated() -> c_int, 0;
    fn verify_client_post_handshake = SSL_verify_client_post_handshake() -> c_int, 0;
}

framed! { false:
    fn stateless = SSL_stateless() -> c_int, -1;
    /// Early data is OpenSSL's alone; the connection is weighed when init is over.
    fn read_early_data = SSL_read_early_data(buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0;
    fn write_early_data = SSL_write_early_data(buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0;
}

#[derive(Clone, Copy)]
pub enum Handshake {
    Connect,
    Accept,
    Do,
}

/// # Safety
/// As libssl's function of that name; so for all below.
pub unsafe fn handshake(ret: usize, which: Handshake, s: *mut Ssl) -> c_int {
    let call = call_of!(ret, s, -1);
    show_held(&call);
    // After the handshake there is nothing to do.
    let idle = !call.in_init() && call.is_finished() && !call.is_renegotiating();
    let at_fd = AtFd {
        idle,
        ..AtFd::default()
    };
    call.around(at_fd, |t| match which {
        Handshake::Connect => real!(t, SSL_connect, s),
        Handshake::Accept => real!(t, SSL_accept, s),
        Handshake::Do => real!(t, SSL_do_handshake, s),
    })
}

/// The second call reads until the peer's close_notify: what the shim still holds
/// must then be OpenSSL's to complain about.
///
/// # Safety
/// As libssl's.
pub unsafe fn shutdown(ret: usize, s: *mut Ssl) -> c_int {
    let call = call_of!(ret, s, -1);
    if let Some((_, conn)) = call.conn()
        && call.shutdown_state() & SSL_SENT_SHUTDOWN != 0
    {
        conn.give_back_held();
    }
    call.around(AtFd::default(), |t| real!(t, SSL_shutdown, s))
}

/// SSL_sendfile in the kernel leaves no trace in OpenSSL: whether it waits for room or has
/// failed for good is said here. OpenSSL's own "wants to read" is that of an older call,
/// and a program that believes it (nginx) waits for ever on a connection that was reset.
///
/// # Safety
/// As libssl's.
pub unsafe fn get_error(ret: usize, s: *const Ssl, outcome: c_int) -> c_int {
    let call = call_of!(ret, s, SSL_ERROR_SYSCALL);
    let conn = call.conn().map(|(_, conn)| conn);
    if let Some(conn) = conn.filter(|_| call.from_libssl()) {
        // BIO_f_ssl asks about a call of its own, which went past us (R11).
        conn.real_call();
    }
    if outcome < 0 && conn.is_some_and(Connection::wants_room) {
        return SSL_ERROR_WANT_WRITE;
    }
    let said = real!(call.table, SSL_get_error, s, outcome);
    let stale = matches!(said, SSL_ERROR_WANT_READ | SSL_ERROR_WANT_WRITE);
    if stale && conn.is_some_and(Connection::was_fast) {
        return SSL_ERROR_SYSCALL;
    }
    said
}

/// After a fast success OpenSSL's own answer would be that of an older call.
///
/// # Safety
/// As libssl's.
pub unsafe fn want(ret: usize, s: *const Ssl) -> c_int {
    want_of(&call_of!(ret, s, SSL_NOTHING))
}

fn want_of(call: &Call) -> c_int {
    match call.conn() {
        Some((_, conn)) if conn.wants_room() => SSL_WRITING,
        Some((_, conn)) if conn.was_fast() => SSL_NOTHING,
        _ => real!(call.table, SSL_want, call.ptr()),
    }
}

#[derive(Clone, Copy)]
pub enum SetFd {
    Both,
    Read,
    Write,
}

/// The same fd again is common during a handshake (R9). Another one in mid-life
/// keeps the old fd translated, and ends the fast lane, which would go to it.
///
/// # Safety
/// As libssl's.
pub unsafe fn set_fd(ret: usize, which: SetFd, s: *mut Ssl, fd: c_int) -> c_int {
    let call = call_of!(ret, s, 0);
    let conn = call.conn().map(|(_, conn)| conn);
    let as_before = conn.is_some_and(|conn| {
        conn.unmark(mark::BIOS_KNOWN);
        let halves: &[&Half] = match which {
            SetFd::Both => &[&conn.rx, &conn.tx],
            SetFd::Read => &[&conn.rx],
            SetFd::Write => &[&conn.tx],
        };
        for half in halves {
            if half.lane() == Lane::Kernel && half.fd.load(Ordering::Acquire) != fd {
                conn.mark(mark::SLOW_ONLY);
            }
        }
        !conn.is(mark::SLOW_ONLY)
    });
    let outcome = match which {
        SetFd::Both => real!(call.table, SSL_set_fd, s, fd),
        SetFd::Read => real!(call.table, SSL_set_rfd, s, fd),
        SetFd::Write => real!(call.table, SSL_set_wfd, s, fd),
    };
    // libssl has set a new BIO by its own export (`with_bios`), upon the same socket.
    let alive = |conn: &&Connection| as_before && !conn.dead.load(Ordering::Acquire);
    if let Some(conn) = conn.filter(alive) {
        conn.unmark(mark::SLOW_ONLY);
    }
    outcome
}

/// Looks whether the object has other BIOs after `set` than before.
fn with_bios(call: &Call, set: impl FnOnce(&'static Table)) {
    let before = call
        .conn()
        .map(|(_, conn)| (conn, call.rbio(), call.wbio()));
    set(call.table);
    if let Some((conn, rbio, wbio)) = before
        && (rbio != call.rbio() || wbio != call.wbio())
    {
        conn.unmark(mark::BIOS_KNOWN);
        if conn.rx.lane() == Lane::Kernel || conn.tx.lane() == Lane::Kernel {
            conn.mark(mark::SLOW_ONLY);
        }
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn set_bio(ret: usize, s: *mut Ssl, r: *mut Bio, w: *mut Bio) {
    with_bios(&call_of!(ret, s), |t| real!(t, SSL_set_bio, s, r, w));
}

/// # Safety
/// As libssl's.
pub unsafe fn set0_rbio(ret: usize, s: *mut Ssl, b: *mut Bio) {
    with_bios(&call_of!(ret, s), |t| real!(t, SSL_set0_rbio, s, b));
}

/// # Safety
/// As libssl's.
pub unsafe fn set0_wbio(ret: usize, s: *mut Ssl, b: *mut Bio) {
    with_bios(&call_of!(ret, s), |t| real!(t, SSL_set0_wbio, s, b));
}

/// The object starts anew: so does what we know of it. The real function first: if
/// it refuses, libssl goes on with its keys and numbers, and so must we. Neither
/// of these functions does I/O.
///
/// # Safety
/// As libssl's.
pub unsafe fn clear(ret: usize, s: *mut Ssl) -> c_int {
    let call = call_of!(ret, s, 0);
    let outcome = real!(call.table, SSL_clear, s);
    if outcome == 1 {
        anew(&call);
    }
    outcome
}

fn anew(call: &Call) {
    if let Some((id, conn)) = call.conn() {
        end::restart(id, conn);
    }
}

/// Also called before a first handshake, where there is nothing to end yet.
///
/// # Safety
/// As libssl's.
pub unsafe fn set_state(ret: usize, which: Handshake, s: *mut Ssl) {
    let call = call_of!(ret, s);
    let used = call.is_finished();
    match which {
        Handshake::Accept => real!(call.table, SSL_set_accept_state, s),
        _ => real!(call.table, SSL_set_connect_state, s),
    }
    if used {
        anew(&call);
    }
}

/// ex_data of the copy names the original's connection; `call::known` sees that it
/// is not the copy's.
///
/// # Safety
/// As libssl's.
pub unsafe fn dup(ret: usize, s: *mut Ssl) -> *mut Ssl {
    real!(table_of!(ret, null_mut()), SSL_dup, s)
}

/// A full wire leaves the ticket for the next real SSL_write while every getter
/// looks idle: let that one be real.
///
/// # Safety
/// As libssl's.
pub unsafe fn new_session_ticket(ret: usize, s: *mut Ssl) -> c_int {
    let call = call_of!(ret, s, 0);
    show_held(&call);
    if let Some((_, conn)) = call.conn() {
        conn.mark(mark::WRITE_SLOW_ONCE);
    }
    let at_fd = AtFd {
        idle: true,
        ..AtFd::default()
    };
    call.around(at_fd, |t| real_later!(t, SSL_new_session_ticket, 0, s))
}

/// SNI callbacks change the context in mid-handshake: listen there too (R25).
///
/// # Safety
/// As libssl's.
pub unsafe fn set_ssl_ctx(ret: usize, s: *mut Ssl, ctx: *mut SslCtx) -> *mut SslCtx {
    let call = call_of!(ret, s, null_mut());
    if call.in_init() && call.conn().is_some() {
        // SAFETY: the program passes a live context, or null.
        unsafe { context::listen_on(call.table, ctx) };
    }
    real!(call.table, SSL_set_SSL_CTX, s, ctx)
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_new(ret: usize, method: *const Method) -> *mut SslCtx {
    let table = table_of!(ret, null_mut());
    context::making(table);
    let made = real!(table, SSL_CTX_new, method);
    context::made(table, made);
    made
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_new_ex(
    ret: usize,
    lib: *mut LibCtx,
    query: *const c_char,
    method: *const Method,
) -> *mut SslCtx {
    let table = table_of!(ret, null_mut());
    context::making(table);
    let made = real_later!(table, SSL_CTX_new_ex, null_mut(), lib, query, method);
    context::made(table, made);
    made
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_set_keylog(ret: usize, ctx: *mut SslCtx, callback: KeylogCb) {
    let table = table_of!(ret);
    // SAFETY: the program passes a live context.
    unsafe { context::set_keylog(table, ctx, callback) }
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_get_keylog(ret: usize, ctx: *const SslCtx) -> KeylogCb {
    let table = table_of!(ret, None);
    // SAFETY: the program passes a live context.
    unsafe { context::keylog_of(table, ctx) }
}

/// max_send_fragment has no getter: note what is set.
///
/// # Safety
/// As libssl's.
pub unsafe fn ctrl(
    ret: usize,
    s: *mut Ssl,
    command: c_int,
    larg: c_long,
    parg: *mut c_void,
) -> c_long {
    let call = call_of!(ret, s, 0);
    let outcome = real!(call.table, SSL_ctrl, s, command, larg, parg);
    if command == SSL_CTRL_SET_MAX_SEND_FRAGMENT
        && outcome == 1
        && let Some((_, conn)) = call::known_or_new(&call)
    {
        context::fragment_set(call.table, &conn.max_fragment, larg);
        if conn.tx.lane() == Lane::Kernel {
            // The peer's own limit still holds.
            let size = conn.fragment(&call);
            if conn.limit_records(size).is_err() {
                conn.mark(mark::SLOW_ONLY);
            }
        }
    }
    outcome
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_ctrl(
    ret: usize,
    ctx: *mut SslCtx,
    command: c_int,
    larg: c_long,
    parg: *mut c_void,
) -> c_long {
    let table = table_of!(ret, 0);
    let outcome = real!(table, SSL_CTX_ctrl, ctx, command, larg, parg);
    if outcome == 1 {
        // SAFETY: the program passes a live context.
        unsafe { context::told(table, ctx, command, larg) };
    }
    outcome
}

/// Padding set before the kernel sends: it never will. Set on a connection that
/// the kernel sends for already, it has no effect; a documented limit, since the
/// direction cannot go back (the sequence numbers differ).
fn padded(call: &Call, on: bool) {
    if let Some((_, conn)) = on.then(|| call::known_or_new(call)).flatten() {
        conn.mark(mark::PADDING);
        conn.tx.refuse(Reason::RecordPadding);
    }
}

/// # Safety
/// As libssl's.
pub unsafe fn set_block_padding(ret: usize, s: *mut Ssl, n: usize) -> c_int {
    let call = call_of!(ret, s, 0);
    padded(&call, n > 1);
    real!(call.table, SSL_set_block_padding, s, n)
}

/// # Safety
/// As libssl's.
pub unsafe fn set_block_padding_ex(ret: usize, s: *mut Ssl, app: usize, hs: usize) -> c_int {
    let call = call_of!(ret, s, 0);
    padded(&call, app > 1 || hs > 1);
    real_later!(call.table, SSL_set_block_padding_ex, 0, s, app, hs)
}

/// # Safety
/// As libssl's.
pub unsafe fn set_record_padding_callback(ret: usize, s: *mut Ssl, callback: PaddingCb) -> c_int {
    let call = call_of!(ret, s, 0);
    padded(&call, callback.is_some());
    real!(call.table, SSL_set_record_padding_callback, s, callback)
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_set_block_padding(ret: usize, ctx: *mut SslCtx, n: usize) -> c_int {
    let table = table_of!(ret, 0);
    // SAFETY: the program passes a live context.
    unsafe { context::pad(table, ctx, n > 1) };
    real!(table, SSL_CTX_set_block_padding, ctx, n)
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_set_block_padding_ex(
    ret: usize,
    ctx: *mut SslCtx,
    app: usize,
    hs: usize,
) -> c_int {
    let table = table_of!(ret, 0);
    // SAFETY: the program passes a live context.
    unsafe { context::pad(table, ctx, app > 1 || hs > 1) };
    real_later!(table, SSL_CTX_set_block_padding_ex, 0, ctx, app, hs)
}

/// # Safety
/// As libssl's.
pub unsafe fn ctx_set_record_padding_callback(ret: usize, ctx: *mut SslCtx, callback: PaddingCb) {
    let table = table_of!(ret);
    // SAFETY: the program passes a live context.
    unsafe { context::pad(table, ctx, callback.is_some()) };
    real!(table, SSL_CTX_set_record_padding_callback, ctx, callback)
}
