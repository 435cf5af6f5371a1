//! libssl's calls that move records, change keys or change where records go.

use super::traced;
use crate::openssl::{Bio, KeylogCb, LibCtx, Method, PaddingCb, Ssl, SslCtx, resolver};
use crate::ops::ssl::{self, Handshake, SetFd};
use core::ptr::null_mut;
use libc::{c_char, c_int, c_long, c_void};

traced! { resolver::no_ssl;
    SSL_connect(s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Connect;
    SSL_accept(s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Accept;
    SSL_do_handshake(s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Do;
    SSL_stateless(s: *mut Ssl) -> c_int, -1, ssl::stateless;

    SSL_read(s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int, -1, ssl::read;
    SSL_read_ex(s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::read_ex;
    SSL_peek(s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int, -1, ssl::peek;
    SSL_peek_ex(s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::peek_ex;
    SSL_read_early_data(s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::read_early_data;

    SSL_write(s: *mut Ssl, buf: *const c_void, n: c_int) -> c_int, -1, ssl::write;
    SSL_write_ex(s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0, ssl::write_ex;
    SSL_write_ex2(s: *mut Ssl, buf: *const c_void, n: usize, flags: u64, done: *mut usize) -> c_int, 0, ssl::write_ex2;
    SSL_write_early_data(s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0, ssl::write_early_data;
    SSL_sendfile(s: *mut Ssl, fd: c_int, off: i64, size: usize, flags: c_int) -> isize, -1, ssl::sendfile;

    SSL_shutdown(s: *mut Ssl) -> c_int, -1, ssl::shutdown;
    SSL_shutdown_ex(s: *mut Ssl, flags: u64, args: *const c_void, len: usize) -> c_int, -1, shutdown_ex;
    SSL_pending(s: *mut Ssl) -> c_int, 0, ssl::pending;
    SSL_has_pending(s: *mut Ssl) -> c_int, 0, ssl::has_pending;
    SSL_get_error(s: *mut Ssl, r: c_int) -> c_int, crate::openssl::SSL_ERROR_SYSCALL, ssl::get_error;
    SSL_want(s: *mut Ssl) -> c_int, crate::openssl::SSL_NOTHING, ssl::want;
    SSL_net_read_desired(s: *mut Ssl) -> c_int, 0, net_read_desired;
    SSL_net_write_desired(s: *mut Ssl) -> c_int, 0, net_write_desired;

    SSL_set_fd(s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Both;
    SSL_set_rfd(s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Read;
    SSL_set_wfd(s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Write;
    SSL_set_bio(s: *mut Ssl, r: *mut Bio, w: *mut Bio) -> (), (), ssl::set_bio;
    SSL_set0_rbio(s: *mut Ssl, b: *mut Bio) -> (), (), ssl::set0_rbio;
    SSL_set0_wbio(s: *mut Ssl, b: *mut Bio) -> (), (), ssl::set0_wbio;

    SSL_set_connect_state(s: *mut Ssl) -> (), (), ssl::set_state, Handshake::Connect;
    SSL_set_accept_state(s: *mut Ssl) -> (), (), ssl::set_state, Handshake::Accept;
    SSL_clear(s: *mut Ssl) -> c_int, 0, ssl::clear;
    SSL_dup(s: *mut Ssl) -> *mut Ssl, null_mut(), ssl::dup;
    SSL_key_update(s: *mut Ssl, kind: c_int) -> c_int, 0, ssl::key_update;
    SSL_renegotiate(s: *mut Ssl) -> c_int, 0, ssl::renegotiate;
    SSL_renegotiate_abbreviated(s: *mut Ssl) -> c_int, 0, ssl::renegotiate_abbreviated;
    SSL_new_session_ticket(s: *mut Ssl) -> c_int, 0, ssl::new_session_ticket;
    SSL_verify_client_post_handshake(s: *mut Ssl) -> c_int, 0, ssl::verify_client_post_handshake;

    SSL_set_SSL_CTX(s: *mut Ssl, ctx: *mut SslCtx) -> *mut SslCtx, null_mut(), ssl::set_ssl_ctx;
    SSL_CTX_new(method: *const Method) -> *mut SslCtx, null_mut(), ssl::ctx_new;
    SSL_CTX_new_ex(libctx: *mut LibCtx, propq: *const c_char, method: *const Method) -> *mut SslCtx, null_mut(), ssl::ctx_new_ex;
    SSL_CTX_set_keylog_callback(ctx: *mut SslCtx, cb: KeylogCb) -> (), (), ssl::ctx_set_keylog;
    SSL_CTX_get_keylog_callback(ctx: *const SslCtx) -> KeylogCb, None, ssl::ctx_get_keylog;

    SSL_ctrl(s: *mut Ssl, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long, 0, ssl::ctrl;
    SSL_CTX_ctrl(ctx: *mut SslCtx, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long, 0, ssl::ctx_ctrl;

    SSL_set_block_padding(s: *mut Ssl, n: usize) -> c_int, 0, ssl::set_block_padding;
    SSL_set_block_padding_ex(s: *mut Ssl, app: usize, handshake: usize) -> c_int, 0, ssl::set_block_padding_ex;
    SSL_CTX_set_block_padding(ctx: *mut SslCtx, n: usize) -> c_int, 0, ssl::ctx_set_block_padding;
    SSL_CTX_set_block_padding_ex(ctx: *mut SslCtx, app: usize, handshake: usize) -> c_int, 0, ssl::ctx_set_block_padding_ex;
    SSL_set_record_padding_callback(s: *mut Ssl, cb: PaddingCb) -> c_int, 0, ssl::set_record_padding_callback;
    SSL_CTX_set_record_padding_callback(ctx: *mut SslCtx, cb: PaddingCb) -> (), (), ssl::ctx_set_record_padding_callback;
}

/// For anything but QUIC libssl answers these from SSL_shutdown and SSL_want, but
/// not by way of the hooked symbols in a library linked with -Bsymbolic.
fn quic(ret: usize, s: *const Ssl) -> bool {
    let table = resolver::caller(ret).ssl;
    // SAFETY: the program's own object.
    table
        .and_then(|t| t.SSL_is_quic)
        .is_some_and(|f| unsafe { f(s) } != 0)
}

unsafe fn shutdown_ex(
    ret: usize,
    s: *mut Ssl,
    flags: u64,
    args: *const c_void,
    len: usize,
) -> c_int {
    let real = resolver::caller(ret).ssl.and_then(|t| t.SSL_shutdown_ex);
    match real {
        // SAFETY: the program's own call.
        Some(f) if quic(ret, s) => unsafe { f(s, flags, args, len) },
        // SAFETY: the program's own object.
        _ => unsafe { ssl::shutdown(ret, s) },
    }
}

unsafe fn net_read_desired(ret: usize, s: *mut Ssl) -> c_int {
    let real = resolver::caller(ret)
        .ssl
        .and_then(|t| t.SSL_net_read_desired);
    match real {
        // SAFETY: the program's own call.
        Some(f) if quic(ret, s) => unsafe { f(s) },
        // SAFETY: the program's own object.
        _ => c_int::from(unsafe { ssl::want(ret, s) } == crate::openssl::SSL_READING),
    }
}

unsafe fn net_write_desired(ret: usize, s: *mut Ssl) -> c_int {
    let real = resolver::caller(ret)
        .ssl
        .and_then(|t| t.SSL_net_write_desired);
    match real {
        // SAFETY: the program's own call.
        Some(f) if quic(ret, s) => unsafe { f(s) },
        // SAFETY: the program's own object.
        _ => c_int::from(unsafe { ssl::want(ret, s) } == crate::openssl::SSL_WRITING),
    }
}
