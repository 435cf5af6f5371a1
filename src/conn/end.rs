//! The end of a connection: its line in the log, and what it held.

use core::sync::atomic::Ordering;

use super::{ConnId, Connection, Dir, Half, Lane, mark, slab};
use crate::backend::{Backend, alg, sys};
use crate::errno;
use crate::fdtable;
use crate::reason::Reason;
use crate::report::{self, Report};

/// The SSL object is gone (its ex_data is being freed), in this process.
///
/// Another process may share the connection (fork): closing our op fd leaves
/// the kernel's state to it, since op sockets are reference counted. Nothing is
/// detached here.
pub fn finish(id: ConnId) {
    slab::give_back(id, |conn| {
        report(conn);
        conn.ssl.store(0, Ordering::Release);
        release_ops(conn);
        for half in [&conn.rx, &conn.tx] {
            let fd = half.fd.swap(-1, Ordering::AcqRel);
            if fd >= 0 {
                fdtable::clear_if(fd, id);
            }
            half.set_lane(Lane::Raw, Reason::Detached);
        }
        if let Some(mut side) = conn.read.lock() {
            side.wipe();
        }
        if let Some(mut side) = conn.write.lock() {
            side.wipe();
        }
        if let Some(mut secrets) = conn.secrets.lock() {
            secrets.wipe();
        }
    });
}

fn summary(half: &Half, dir: Dir) -> report::Dir {
    let mut records = half.records.load(Ordering::Relaxed);
    let kernel = half.was_kernel.load(Ordering::Relaxed);
    if half.lane() == Lane::Kernel {
        let op = half.op.load(Ordering::Relaxed);
        if let Ok((seq, _)) = alg().sequence(op, dir) {
            records += seq.saturating_sub(half.first_seq.load(Ordering::Relaxed));
        }
    }
    report::Dir {
        reason: half.reason.get(),
        kernel,
        fast_records: records.saturating_sub(half.slow_records.load(Ordering::Relaxed)),
        fast_bytes: half.fast_bytes.load(Ordering::Relaxed),
        slow_records: half.slow_records.load(Ordering::Relaxed),
        slow_bytes: half.slow_bytes.load(Ordering::Relaxed),
        before_bytes: half.before_bytes.load(Ordering::Relaxed),
        sendfile_bytes: half.sendfile_bytes.load(Ordering::Relaxed),
        rekeys: u64::from(half.rekeys.load(Ordering::Relaxed)),
        handbacks: u64::from(half.handbacks.load(Ordering::Relaxed)),
    }
}

fn errno_of(half: &Half) -> i32 {
    half.refused_errno.load(Ordering::Relaxed)
}

/// Writes the connection's line, if a log was asked for.
pub fn report(conn: &Connection) {
    if crate::config::config().log.is_none() {
        return;
    }
    if conn.ssl.load(Ordering::Acquire) == 0 {
        return;
    }
    // An object that never did anything (s_server clears one before use).
    let idle = |half: &Half| {
        half.entered.load(Ordering::Relaxed) == 0 && half.reason.get() == Reason::Pending
    };
    if idle(&conn.rx) && idle(&conn.tx) {
        return;
    }
    let Some(identity) = conn.identity.lock() else {
        return;
    };
    report::write(&Report {
        role: identity.role,
        version: identity.version,
        cipher: core::str::from_utf8(identity.cipher).unwrap_or("unknown"),
        sni: identity
            .sni
            .get(..usize::from(identity.sni_len))
            .unwrap_or_default(),
        tx: summary(&conn.tx, Dir::Tx),
        rx: summary(&conn.rx, Dir::Rx),
        errno: errno_of(&conn.rx).max(errno_of(&conn.tx)),
        over_limit: conn.is(mark::OVER_LIMIT),
    });
}

/// Gives the op sockets back to the system.
pub fn release_ops(conn: &Connection) {
    let (rx, tx) = (
        conn.rx.op.swap(-1, Ordering::AcqRel),
        conn.tx.op.swap(-1, Ordering::AcqRel),
    );
    for op in [rx, if tx == rx { -1 } else { tx }] {
        if op >= 0 {
            fdtable::clear(op);
            errno::preserve(|| sys::close(op));
        }
    }
}

/// The object will do another handshake, perhaps on another socket: SSL_clear, or
/// SSL_set_connect_state and SSL_set_accept_state after a first connection.
pub fn restart(id: ConnId, conn: &Connection) {
    let moved = |half: &Half| half.entered.load(Ordering::Relaxed) != 0;
    if moved(&conn.rx) || moved(&conn.tx) {
        report(conn);
    }
    conn.rx_to_raw(Reason::Detached);
    conn.tx_to_raw(Reason::Detached);
    if let Some(mut side) = conn.read.lock() {
        side.wipe();
    }
    if let Some(mut side) = conn.write.lock() {
        side.wipe();
    }
    if let Some(mut secrets) = conn.secrets.lock() {
        secrets.wipe();
    }
    release_ops(conn);
    for half in [&conn.rx, &conn.tx] {
        let fd = half.fd.swap(-1, Ordering::AcqRel);
        if fd >= 0 {
            fdtable::clear_if(fd, id);
        }
    }
    conn.start_over();
}
