// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that must fail and change nothing: wrong sizes, pointers, descriptors and objects. Most have one
//! errno whatever the state; the model is asked where the state has a say.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use ktlsshim_tests::op::{
    ALG_TLS_ATTACH, ALG_TLS_DETACH, Attach, IOC_SENDFILE, SOL_ALG, SOL_TLS, TLS_RX, TLS_TX,
};
use ktlsshim_tests::sys::{self, Control, Res};
use ktlsshim_tests::{Op, Parent};
use libc::*;

use crate::model::Out;
use crate::run::{out, same};
use crate::world::{Check, World};

/// `what` of `Step::Misuse` is below this.
pub const KINDS: u8 = 46;

const BAD: usize = 0x10;

fn set(op: &Op, level: i32, name: i32, at: usize, len: usize) -> Res<()> {
    // SAFETY: the address is nobody's; the kernel checks it.
    sys::cvt_int(unsafe {
        setsockopt(op.as_raw_fd(), level, name, at as *const c_void, len as u32)
    })
    .map(drop)
}

fn get(op: &Op, level: i32, name: i32, at: usize, mut len: u32) -> Res<()> {
    // SAFETY: as above; the length is ours.
    sys::cvt_int(unsafe { getsockopt(op.as_raw_fd(), level, name, at as *mut c_void, &mut len) })
        .map(drop)
}

fn control(len: u64, level: i32, kind: i32, value: u8) -> Control {
    let mut control = Control([0; 64]);
    control.0[..8].copy_from_slice(&len.to_ne_bytes());
    control.0[8..12].copy_from_slice(&level.to_ne_bytes());
    control.0[12..16].copy_from_slice(&kind.to_ne_bytes());
    control.0[16] = value;
    control
}

impl World<'_> {
    pub fn misuse(&mut self, o: usize, op: &Op, what: u8) -> Check {
        let saw = self.misused(o, op, what);
        match saw {
            Some((text, saw, must)) => {
                self.tally.errno(must);
                same(&text, &saw, &Err(must))
            }
            None => Ok(()),
        }
    }

    /// An attach that is right but for one thing.
    fn bad_attach(
        &mut self,
        o: usize,
        op: &Op,
        fd: RawFd,
        change: impl FnOnce(&mut Attach),
    ) -> Out<()> {
        let keys = self.setup.keys(self.setup.suite(), 9_000_000 + o as u32, 0);
        let mut arg = Attach::new(fd, None, Some(&keys));
        change(&mut arg);
        out(op.attach_with(&arg))
    }

    #[allow(clippy::too_many_lines)]
    fn misused(&mut self, o: usize, op: &Op, what: u8) -> Option<(String, Out<()>, i32)> {
        let c = self.conn_of(o);
        let tcp = self
            .conns
            .iter()
            .find_map(|t| t.ours.as_ref())
            .map_or(-1, |t| t.as_raw_fd());
        let bound = c.is_some();
        let tx = self.model.ops[o].as_ref().is_some_and(|op| op.tx.is_some());
        let rx = self.model.ops[o].as_ref().is_some_and(|op| op.rx.is_some());
        let known = |e: i32| if bound { e } else { ENOTCONN };
        let name = |s: &str| s.to_owned();
        Some(match what {
            0 => (
                name("attach: size"),
                self.bad_attach(o, op, tcp, |a| a.size = 127),
                EINVAL,
            ),
            1 => (
                name("attach: flags"),
                self.bad_attach(o, op, tcp, |a| a.flags = 1),
                EINVAL,
            ),
            2 => (
                name("attach: reserved"),
                self.bad_attach(o, op, tcp, |a| a.reserved = 1),
                EINVAL,
            ),
            3 => (
                name("attach: tx_max 63"),
                self.bad_attach(o, op, tcp, |a| a.tx_max = 63),
                EINVAL,
            ),
            4 => (
                name("attach: tx_max 16385"),
                self.bad_attach(o, op, tcp, |a| a.tx_max = 16385),
                EINVAL,
            ),
            5 => (
                name("attach: no keys"),
                self.bad_attach(o, op, tcp, |a| a.rx = [0; 56]),
                EINVAL,
            ),
            6 => (
                name("attach: fd -1"),
                self.bad_attach(o, op, -1, |_| {}),
                EBADF,
            ),
            7 => (
                name("attach: a file"),
                self.bad_attach(o, op, self.file.file.as_raw_fd(), |_| {}),
                ENOTSOCK,
            ),
            8 => {
                let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
                (
                    name("attach: UDP"),
                    self.bad_attach(o, op, udp.as_raw_fd(), |_| {}),
                    ESOCKTNOSUPPORT,
                )
            }
            9 => {
                let listener = TcpListener::bind("127.0.0.1:0").ok()?;
                let must = if bound { EBUSY } else { ENOTCONN };
                (
                    name("attach: a listener"),
                    self.bad_attach(o, op, listener.as_raw_fd(), |_| {}),
                    must,
                )
            }
            10 => {
                let new = sys::socket(AF_INET, SOCK_STREAM, 0).ok()?;
                let must = if bound { EBUSY } else { ENOTCONN };
                (
                    name("attach: unconnected"),
                    self.bad_attach(o, op, new.as_raw_fd(), |_| {}),
                    must,
                )
            }
            11 => (
                name("attach: itself"),
                self.bad_attach(o, op, op.as_raw_fd(), |_| {}),
                ESOCKTNOSUPPORT,
            ),
            12 => (
                name("attach: null"),
                out(set(op, SOL_ALG, ALG_TLS_ATTACH, 0, 128)),
                EFAULT,
            ),
            13 => (
                name("attach: short"),
                out(set(op, SOL_ALG, ALG_TLS_ATTACH, BAD, 127)),
                EINVAL,
            ),
            14 | 15 => {
                // A version that is none, a cipher that is not the parent's.
                let c = c.or(if self.conns[0].ours.is_some() {
                    Some(0)
                } else {
                    None
                })?;
                let fd = self.conns[c].ours.as_ref()?.as_raw_fd();
                let at = if what == 14 { 0 } else { 2 };
                let saw = self.bad_attach(o, op, fd, |a| a.rx[at] ^= 0x40);
                (name("attach: version or cipher"), saw, EINVAL)
            }
            16 => {
                let c = c.or(if self.conns[0].ours.is_some() {
                    Some(0)
                } else {
                    None
                })?;
                let fd = self.conns[c].ours.as_ref()?.as_raw_fd();
                let used = 4 + 8 + 16 + 4 + 8;
                if self.setup.suite().key_len() != 16 {
                    return None;
                }
                let saw = self.bad_attach(o, op, fd, |a| a.rx[used] = 1);
                (name("attach: a tail"), saw, EINVAL)
            }
            17 => (
                name("detach: null"),
                out(get(op, SOL_ALG, ALG_TLS_DETACH, 0, 40)),
                EFAULT,
            ),
            18 => (
                name("detach: short"),
                out(get(op, SOL_ALG, ALG_TLS_DETACH, BAD, 39)),
                EINVAL,
            ),
            19 => {
                let mut b = [0u8; 40];
                (b[0], b[4]) = (40, 3);
                (
                    name("detach: direction 3"),
                    out(op.detach_raw(&mut b).map(drop)),
                    EINVAL,
                )
            }
            20 => {
                let mut b = [0u8; 40];
                (b[0], b[4], b[20]) = (40, 1, 1);
                (
                    name("detach: reserved"),
                    out(op.detach_raw(&mut b).map(drop)),
                    EINVAL,
                )
            }
            21 => (
                name("re-key: short"),
                out(set(op, SOL_TLS, TLS_TX, BAD, 3)),
                EINVAL,
            ),
            22 => (
                name("re-key: long"),
                out(set(op, SOL_TLS, TLS_RX, BAD, 57)),
                EINVAL,
            ),
            23 => (
                name("re-key: null"),
                out(set(op, SOL_TLS, TLS_TX, 0, 40)),
                known(EFAULT),
            ),
            24 => {
                let raw = [0u8; 56];
                let saw = sys::setsockopt(op, SOL_TLS, TLS_RX, &raw);
                (name("re-key: zeros"), out(saw), known(EINVAL))
            }
            25 => (name("tx_max: 63"), out(op.set_tx_max(63)), EINVAL),
            26 => (name("tx_max: huge"), out(op.set_tx_max(i32::MAX)), EINVAL),
            27 => (name("tx_max: null"), out(set(op, SOL_TLS, 5, 0, 4)), EFAULT),
            28 => (
                name("tx_max: short"),
                out(set(op, SOL_TLS, 5, BAD, 3)),
                EINVAL,
            ),
            29 => (
                name("tx_max: read 3"),
                out(get(op, SOL_TLS, 5, BAD, 3)),
                EINVAL,
            ),
            30 => (
                name("read back: bad"),
                out(get(op, SOL_TLS, TLS_TX, BAD, 56)),
                if tx { EFAULT } else { ENOTCONN },
            ),
            31 => (
                name("read back: 5 bytes"),
                out(get(op, SOL_TLS, TLS_RX, BAD, 5)),
                if rx { EINVAL } else { ENOTCONN },
            ),
            32 => (
                name("option 99"),
                out(set(op, SOL_TLS, 99, BAD, 4)),
                ENOPROTOOPT,
            ),
            33 => (
                name("option 99"),
                out(get(op, SOL_ALG, 99, BAD, 4)),
                ENOPROTOOPT,
            ),
            34 => {
                // SAFETY: the address is nobody's; the kernel checks it.
                let saw = sys::cvt_int(unsafe { ioctl(op.as_raw_fd(), IOC_SENDFILE, BAD) });
                (
                    name("sendfile ioctl: bad pointer"),
                    out(saw.map(drop)),
                    EFAULT,
                )
            }
            35 => {
                let saw = op.sendfile(&write_end(), 0, 10, 0).map(drop);
                (name("sendfile ioctl: write end"), out(saw), known(EBADF))
            }
            36 => {
                let saw = op.sendfile(&self.file.file, u64::MAX - 5, 10, 0).map(drop);
                (name("sendfile ioctl: offset"), out(saw), known(EINVAL))
            }
            37 => {
                // SAFETY: no memory is passed.
                let saw = sys::cvt_int(unsafe { ioctl(op.as_raw_fd(), 0x1234, 0) });
                (name("ioctl 0x1234"), out(saw.map(drop)), ENOTTY)
            }
            38 => {
                // SAFETY: no memory is passed.
                let saw = sys::cvt_int(unsafe { listen(op.as_raw_fd(), 1) });
                (name("listen"), out(saw.map(drop)), EOPNOTSUPP)
            }
            39 => {
                // SAFETY: no memory is passed.
                let saw = sys::cvt_int(unsafe { shutdown(op.as_raw_fd(), SHUT_RDWR) });
                (name("shutdown of the op"), out(saw.map(drop)), EOPNOTSUPP)
            }
            40 => {
                let none = std::ptr::null_mut();
                // SAFETY: no address is asked for.
                let saw = sys::cvt_int(unsafe { accept(op.as_raw_fd(), none, none.cast()) });
                (name("accept on the op"), out(saw.map(drop)), EOPNOTSUPP)
            }
            41..=43 => {
                let bad = match what {
                    41 => control(16, SOL_TLS, 1, 21),
                    42 => control(17, SOL_TLS, 2, 21),
                    _ => control(17, SOL_TLS, 1, 0),
                };
                let saw = sys::sendmsg(op, &[b"xy"], &bad.0[..24], MSG_NOSIGNAL | MSG_DONTWAIT);
                (name("sendmsg: control message"), out(saw.map(drop)), EINVAL)
            }
            44 => {
                let parent = Parent::bind("gcm(aes)").ok()?;
                let saw = sys::write(&parent, b"x").map(drop);
                (name("write to a parent"), out(saw), EOPNOTSUPP)
            }
            45 => {
                let saw = Parent::bind("gcm(camellia)").map(drop);
                (name("bind: a foreign name"), out(saw), ENOENT)
            }
            _ => return None,
        })
    }
}

/// The write end of a pipe, which nobody can read from.
fn write_end() -> std::os::fd::OwnedFd {
    sys::pipe().1
}
