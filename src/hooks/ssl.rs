//! libssl's calls that move records, change keys or change where records go.

use super::traced;
use crate::openssl::{Bio, KeylogCb, LibCtx, Method, PaddingCb, Ssl, SslCtx, resolver};
use crate::ops::ssl::{self, Handshake, SetFd};
use core::ptr::null_mut;
use libc::{c_char, c_int, c_long, c_void};

traced! { resolver::no_ssl;
    SSL_connect["rsi"](s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Connect;
    SSL_accept["rsi"](s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Accept;
    SSL_do_handshake["rsi"](s: *mut Ssl) -> c_int, -1, ssl::handshake, Handshake::Do;
    SSL_stateless["rsi"](s: *mut Ssl) -> c_int, -1, ssl::stateless;

    SSL_read["rcx"](s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int, -1, ssl::read;
    SSL_read_ex["r8"](s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::read_ex;
    SSL_peek["rcx"](s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int, -1, ssl::peek;
    SSL_peek_ex["r8"](s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::peek_ex;
    SSL_read_early_data["r8"](s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int, 0, ssl::read_early_data;

    SSL_write["rcx"](s: *mut Ssl, buf: *const c_void, n: c_int) -> c_int, -1, ssl::write;
    SSL_write_ex["r8"](s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0, ssl::write_ex;
    SSL_write_ex2["r9"](s: *mut Ssl, buf: *const c_void, n: usize, flags: u64, done: *mut usize) -> c_int, 0, ssl::write_ex2;
    SSL_write_early_data["r8"](s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int, 0, ssl::write_early_data;
    SSL_sendfile["r9"](s: *mut Ssl, fd: c_int, off: i64, size: usize, flags: c_int) -> isize, -1, ssl::sendfile;

    SSL_shutdown["rsi"](s: *mut Ssl) -> c_int, -1, ssl::shutdown;
    SSL_shutdown_ex["r8"](s: *mut Ssl, flags: u64, args: *const c_void, len: usize) -> c_int, -1, shutdown_ex;
    SSL_pending["rsi"](s: *mut Ssl) -> c_int, 0, ssl::pending;
    SSL_has_pending["rsi"](s: *mut Ssl) -> c_int, 0, ssl::has_pending;
    SSL_get_error["rdx"](s: *mut Ssl, r: c_int) -> c_int, crate::openssl::SSL_ERROR_SYSCALL, ssl::get_error;
    SSL_want["rsi"](s: *mut Ssl) -> c_int, crate::openssl::SSL_NOTHING, ssl::want;
    SSL_net_read_desired["rsi"](s: *mut Ssl) -> c_int, 0, net_read_desired;
    SSL_net_write_desired["rsi"](s: *mut Ssl) -> c_int, 0, net_write_desired;

    SSL_set_fd["rdx"](s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Both;
    SSL_set_rfd["rdx"](s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Read;
    SSL_set_wfd["rdx"](s: *mut Ssl, fd: c_int) -> c_int, 0, ssl::set_fd, SetFd::Write;
    SSL_set_bio["rcx"](s: *mut Ssl, r: *mut Bio, w: *mut Bio) -> (), (), ssl::set_bio;
    SSL_set0_rbio["rdx"](s: *mut Ssl, b: *mut Bio) -> (), (), ssl::set0_rbio;
    SSL_set0_wbio["rdx"](s: *mut Ssl, b: *mut Bio) -> (), (), ssl::set0_wbio;

    SSL_set_connect_state["rdx"](s: *mut Ssl) -> (), (), ssl::set_state, Handshake::Connect;
    SSL_set_accept_state["rdx"](s: *mut Ssl) -> (), (), ssl::set_state, Handshake::Accept;
    SSL_clear["rsi"](s: *mut Ssl) -> c_int, 0, ssl::clear;
    SSL_dup["rsi"](s: *mut Ssl) -> *mut Ssl, null_mut(), ssl::dup;
    SSL_key_update["rdx"](s: *mut Ssl, kind: c_int) -> c_int, 0, ssl::key_update;
    SSL_renegotiate["rsi"](s: *mut Ssl) -> c_int, 0, ssl::renegotiate;
    SSL_renegotiate_abbreviated["rsi"](s: *mut Ssl) -> c_int, 0, ssl::renegotiate_abbreviated;
    SSL_new_session_ticket["rsi"](s: *mut Ssl) -> c_int, 0, ssl::new_session_ticket;
    SSL_verify_client_post_handshake["rsi"](s: *mut Ssl) -> c_int, 0, ssl::verify_client_post_handshake;

    SSL_set_SSL_CTX["rdx"](s: *mut Ssl, ctx: *mut SslCtx) -> *mut SslCtx, null_mut(), ssl::set_ssl_ctx;
    SSL_CTX_new["rsi"](method: *const Method) -> *mut SslCtx, null_mut(), ssl::ctx_new;
    SSL_CTX_new_ex["rcx"](libctx: *mut LibCtx, propq: *const c_char, method: *const Method) -> *mut SslCtx, null_mut(), ssl::ctx_new_ex;
    SSL_CTX_set_keylog_callback["rdx"](ctx: *mut SslCtx, cb: KeylogCb) -> (), (), ssl::ctx_set_keylog;
    SSL_CTX_get_keylog_callback["rsi"](ctx: *const SslCtx) -> KeylogCb, None, ssl::ctx_get_keylog;

    SSL_ctrl["r8"](s: *mut Ssl, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long, 0, ssl::ctrl;
    SSL_CTX_ctrl["r8"](ctx: *mut SslCtx, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long, 0, ssl::ctx_ctrl;

    SSL_set_block_padding["rdx"](s: *mut Ssl, n: usize) -> c_int, 0, ssl::set_block_padding;
    SSL_set_block_padding_ex["rcx"](s: *mut Ssl, app: usize, handshake: usize) -> c_int, 0, ssl::set_block_padding_ex;
    SSL_CTX_set_block_padding["rdx"](ctx: *mut SslCtx, n: usize) -> c_int, 0, ssl::ctx_set_block_padding;
    SSL_CTX_set_block_padding_ex["rcx"](ctx: *mut SslCtx, app: usize, handshake: usize) -> c_int, 0, ssl::ctx_set_block_padding_ex;
    SSL_set_record_padding_callback["rdx"](s: *mut Ssl, cb: PaddingCb) -> c_int, 0, ssl::set_record_padding_callback;
    SSL_CTX_set_record_padding_callback["rdx"](ctx: *mut SslCtx, cb: PaddingCb) -> (), (), ssl::ctx_set_record_padding_callback;
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
