//! STAND-IN: replaced at merge.
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc, clippy::too_many_arguments)]
use crate::openssl::resolver::caller;
use crate::openssl::{Bio, KeylogCb, LibCtx, Method, PaddingCb, Ssl, SslCtx};
use core::ptr::null_mut;
use libc::{c_char, c_int, c_long, c_void};
pub enum Handshake { Connect, Accept, Do }
pub enum SetFd { Both, Read, Write }
pub unsafe fn handshake(ret: usize, which: Handshake, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { match which { Handshake::Connect => (t.SSL_connect)(s), Handshake::Accept => (t.SSL_accept)(s), Handshake::Do => (t.SSL_do_handshake)(s) } }, None => -1 } }
pub unsafe fn set_fd(ret: usize, which: SetFd, s: *mut Ssl, fd: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { match which { SetFd::Both => (t.SSL_set_fd)(s, fd), SetFd::Read => (t.SSL_set_rfd)(s, fd), SetFd::Write => (t.SSL_set_wfd)(s, fd) } }, None => 0 } }
pub unsafe fn read(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_read)(s, buf, n) }, None => -1 } }
pub unsafe fn peek(ret: usize, s: *mut Ssl, buf: *mut c_void, n: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_peek)(s, buf, n) }, None => -1 } }
pub unsafe fn read_ex(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_read_ex)(s, buf, n, got) }, None => 0 } }
pub unsafe fn peek_ex(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_peek_ex)(s, buf, n, got) }, None => 0 } }
pub unsafe fn write(ret: usize, s: *mut Ssl, buf: *const c_void, n: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_write)(s, buf, n) }, None => -1 } }
pub unsafe fn write_ex(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_write_ex)(s, buf, n, done) }, None => 0 } }
pub unsafe fn write_ex2(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, flags: u64, done: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { t.SSL_write_ex2.map_or(0, |f| f(s, buf, n, flags, done)) }, None => 0 } }
pub unsafe fn sendfile(ret: usize, s: *mut Ssl, fd: c_int, off: i64, size: usize, flags: c_int) -> isize { match caller(ret).ssl { Some(t) => unsafe { t.SSL_sendfile.map_or(-1, |f| f(s, fd, off, size, flags)) }, None => -1 } }
pub unsafe fn read_early_data(ret: usize, s: *mut Ssl, buf: *mut c_void, n: usize, got: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_read_early_data)(s, buf, n, got) }, None => 0 } }
pub unsafe fn write_early_data(ret: usize, s: *mut Ssl, buf: *const c_void, n: usize, done: *mut usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_write_early_data)(s, buf, n, done) }, None => 0 } }
pub unsafe fn shutdown(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_shutdown)(s) }, None => -1 } }
pub unsafe fn pending(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_pending)(s) }, None => 0 } }
pub unsafe fn has_pending(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_has_pending)(s) }, None => 0 } }
pub unsafe fn want(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_want)(s) }, None => 1 } }
pub unsafe fn clear(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_clear)(s) }, None => 0 } }
pub unsafe fn renegotiate(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_renegotiate)(s) }, None => 0 } }
pub unsafe fn renegotiate_abbreviated(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_renegotiate_abbreviated)(s) }, None => 0 } }
pub unsafe fn verify_client_post_handshake(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_verify_client_post_handshake)(s) }, None => 0 } }
pub unsafe fn stateless(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_stateless)(s) }, None => -1 } }
pub unsafe fn new_session_ticket(ret: usize, s: *mut Ssl) -> c_int { match caller(ret).ssl { Some(t) => unsafe { t.SSL_new_session_ticket.map_or(0, |f| f(s)) }, None => 0 } }
pub unsafe fn get_error(ret: usize, s: *mut Ssl, r: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_get_error)(s, r) }, None => 5 } }
pub unsafe fn key_update(ret: usize, s: *mut Ssl, kind: c_int) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_key_update)(s, kind) }, None => 0 } }
pub unsafe fn set_bio(ret: usize, s: *mut Ssl, r: *mut Bio, w: *mut Bio) { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set_bio)(s, r, w) }, None => () } }
pub unsafe fn set0_rbio(ret: usize, s: *mut Ssl, b: *mut Bio) { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set0_rbio)(s, b) }, None => () } }
pub unsafe fn set0_wbio(ret: usize, s: *mut Ssl, b: *mut Bio) { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set0_wbio)(s, b) }, None => () } }
pub unsafe fn dup(ret: usize, s: *mut Ssl) -> *mut Ssl { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_dup)(s) }, None => null_mut() } }
pub unsafe fn set_ssl_ctx(ret: usize, s: *mut Ssl, ctx: *mut SslCtx) -> *mut SslCtx { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set_SSL_CTX)(s, ctx) }, None => null_mut() } }
pub unsafe fn ctx_new(ret: usize, method: *const Method) -> *mut SslCtx { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_new)(method) }, None => null_mut() } }
pub unsafe fn ctx_new_ex(ret: usize, libctx: *mut LibCtx, propq: *const c_char, method: *const Method) -> *mut SslCtx { match caller(ret).ssl { Some(t) => unsafe { t.SSL_CTX_new_ex.map_or(null_mut(), |f| f(libctx, propq, method)) }, None => null_mut() } }
pub unsafe fn ctx_set_keylog(ret: usize, ctx: *mut SslCtx, cb: KeylogCb) { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_set_keylog_callback)(ctx, cb) }, None => () } }
pub unsafe fn ctx_get_keylog(ret: usize, ctx: *const SslCtx) -> KeylogCb { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_get_keylog_callback)(ctx) }, None => None } }
pub unsafe fn ctrl(ret: usize, s: *mut Ssl, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_ctrl)(s, cmd, larg, parg) }, None => 0 } }
pub unsafe fn ctx_ctrl(ret: usize, ctx: *mut SslCtx, cmd: c_int, larg: c_long, parg: *mut c_void) -> c_long { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_ctrl)(ctx, cmd, larg, parg) }, None => 0 } }
pub unsafe fn set_block_padding(ret: usize, s: *mut Ssl, n: usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set_block_padding)(s, n) }, None => 0 } }
pub unsafe fn ctx_set_block_padding(ret: usize, ctx: *mut SslCtx, n: usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_set_block_padding)(ctx, n) }, None => 0 } }
pub unsafe fn set_block_padding_ex(ret: usize, s: *mut Ssl, app: usize, hs: usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { t.SSL_set_block_padding_ex.map_or(0, |f| f(s, app, hs)) }, None => 0 } }
pub unsafe fn ctx_set_block_padding_ex(ret: usize, ctx: *mut SslCtx, app: usize, hs: usize) -> c_int { match caller(ret).ssl { Some(t) => unsafe { t.SSL_CTX_set_block_padding_ex.map_or(0, |f| f(ctx, app, hs)) }, None => 0 } }
pub unsafe fn set_record_padding_callback(ret: usize, s: *mut Ssl, cb: PaddingCb) -> c_int { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_set_record_padding_callback)(s, cb) }, None => 0 } }
pub unsafe fn ctx_set_record_padding_callback(ret: usize, ctx: *mut SslCtx, cb: PaddingCb) { match caller(ret).ssl { Some(t) => unsafe { (t.SSL_CTX_set_record_padding_callback)(ctx, cb) }, None => () } }
