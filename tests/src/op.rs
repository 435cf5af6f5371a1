// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel TLS socket, call by call, as `algif_tls.h` has it. The structures
//! are laid out here by hand, byte by byte, so that a change of the header that
//! breaks programs breaks these tests too. An `Op` owns its fd, nothing else.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::keys::Keys;
use crate::sys::{self, Control, Res, cvt_int};

pub const SOL_ALG: i32 = 279;
pub const SOL_TLS: i32 = 282;
pub const TLS_TX: i32 = 1;
pub const TLS_RX: i32 = 2;
pub const TLS_SET_RECORD_TYPE: i32 = 1;
pub const TLS_GET_RECORD_TYPE: i32 = 2;
pub const TLS_TX_MAX_PAYLOAD_LEN: i32 = 5;
pub const ALG_TLS_ATTACH: i32 = 0x7401;
pub const ALG_TLS_DETACH: i32 = 0x7402;
/// `_IOWR(0xA7, 1, struct alg_tls_sendfile)`
pub const IOC_SENDFILE: libc::c_ulong = (3 << 30) | (24 << 16) | (0xA7 << 8) | 1;

/// Room that is always enough for staged bytes.
pub const STAGED_MAX: usize = 17408;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dir {
    Tx = 1,
    Rx = 2,
}

/// A bound socket of type "tls".
pub struct Parent(pub OwnedFd);

impl Parent {
    pub fn bind(name: &str) -> Res<Parent> {
        Parent::bind_type("tls", name)
    }

    pub fn bind_type(kind: &str, name: &str) -> Res<Parent> {
        let fd = sys::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)?;
        let mut addr = [0u8; 88];
        addr[..2].copy_from_slice(&(libc::AF_ALG as u16).to_ne_bytes());
        addr[2..2 + kind.len()].copy_from_slice(kind.as_bytes());
        addr[24..24 + name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: struct sockaddr_alg is 88 bytes and has no pointers.
        cvt_int(unsafe { libc::bind(fd.as_raw_fd(), addr.as_ptr().cast(), 88) })?;
        Ok(Parent(fd))
    }

    pub fn accept(&self) -> Res<Op> {
        let none = std::ptr::null_mut();
        // SAFETY: no address is asked for.
        let fd =
            unsafe { libc::accept4(self.0.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC) };
        cvt_int(fd).map(|fd| Op(sys::own(fd)))
    }
}

/// `struct alg_tls_attach`, every field free to be wrong.
#[derive(Clone)]
pub struct Attach {
    pub size: u32,
    pub fd: RawFd,
    pub flags: u32,
    pub tx_max: u16,
    pub reserved: u16,
    pub tx: [u8; 56],
    pub rx: [u8; 56],
}

impl Attach {
    pub fn new(fd: RawFd, tx: Option<&Keys>, rx: Option<&Keys>) -> Attach {
        let room = |keys: Option<&Keys>| {
            let mut info = [0; 56];
            if let Some(keys) = keys {
                let bytes = keys.crypto_info();
                info[..bytes.len()].copy_from_slice(&bytes);
            }
            info
        };
        Attach {
            size: 128,
            fd,
            flags: 0,
            tx_max: 0,
            reserved: 0,
            tx: room(tx),
            rx: room(rx),
        }
    }

    pub fn bytes(&self) -> [u8; 128] {
        let mut b = [0; 128];
        b[..4].copy_from_slice(&self.size.to_ne_bytes());
        b[4..8].copy_from_slice(&self.fd.to_ne_bytes());
        b[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        b[12..14].copy_from_slice(&self.tx_max.to_ne_bytes());
        b[14..16].copy_from_slice(&self.reserved.to_ne_bytes());
        b[16..72].copy_from_slice(&self.tx);
        b[72..].copy_from_slice(&self.rx);
        b
    }
}

/// What a detached direction gives back.
#[derive(Debug, PartialEq, Eq)]
pub struct Detached {
    pub seq: u64,
    pub nonce: u64,
    pub staged: Vec<u8>,
}

/// What `TLS_TX` and `TLS_RX` read back.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub version: u16,
    pub cipher: u16,
    pub seq: u64,
    pub raw: Vec<u8>,
}

pub struct Op(pub OwnedFd);

impl AsRawFd for Op {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsRawFd for Parent {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Op {
    /// A new op on a parent of its own.
    pub fn new(name: &str) -> Op {
        let parent = Parent::bind(name).expect("bind");
        parent.accept().expect("accept")
    }

    pub fn attach(&self, tcp: &impl AsRawFd, tx: Option<&Keys>, rx: Option<&Keys>) -> Res<()> {
        self.attach_with(&Attach::new(tcp.as_raw_fd(), tx, rx))
    }

    pub fn attach_with(&self, attach: &Attach) -> Res<()> {
        sys::setsockopt(self, SOL_ALG, ALG_TLS_ATTACH, &attach.bytes())
    }

    pub fn detach(&self, dir: Dir) -> Res<Detached> {
        self.detach_into(dir, &mut vec![0; STAGED_MAX])
    }

    pub fn detach_into(&self, dir: Dir, room: &mut [u8]) -> Res<Detached> {
        let mut b = [0; 40];
        b[..4].copy_from_slice(&40u32.to_ne_bytes());
        b[4..8].copy_from_slice(&(dir as u32).to_ne_bytes());
        b[8..16].copy_from_slice(&(room.as_mut_ptr() as u64).to_ne_bytes());
        b[16..20].copy_from_slice(&(room.len() as u32).to_ne_bytes());
        self.detach_raw(&mut b)?;
        let word = |at: usize| u64::from_be_bytes(b[at..at + 8].try_into().expect("eight"));
        let len = u32::from_ne_bytes(b[16..20].try_into().expect("four")) as usize;
        Ok(Detached {
            seq: word(24),
            nonce: word(32),
            staged: room[..len].to_vec(),
        })
    }

    pub fn detach_raw(&self, detach: &mut [u8]) -> Res<usize> {
        sys::getsockopt(self, SOL_ALG, ALG_TLS_DETACH, detach)
    }

    pub fn rekey(&self, dir: Dir, keys: &Keys) -> Res<()> {
        sys::setsockopt(self, SOL_TLS, dir as i32, &keys.crypto_info())
    }

    pub fn state(&self, dir: Dir) -> Res<State> {
        let mut raw = vec![0; 56];
        let len = sys::getsockopt(self, SOL_TLS, dir as i32, &mut raw)?;
        raw.truncate(len);
        let half = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        let (version, cipher) = (half(0), half(2));
        let seq = u64::from_be_bytes(raw[len - 8..].try_into().expect("eight"));
        Ok(State {
            version,
            cipher,
            seq,
            raw,
        })
    }

    pub fn seq(&self, dir: Dir) -> u64 {
        self.state(dir).expect("read back").seq
    }

    pub fn set_tx_max(&self, len: i32) -> Res<()> {
        sys::set_int(self, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, len)
    }

    pub fn tx_max(&self) -> Res<i32> {
        sys::get_int(self, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN)
    }

    pub fn send(&self, data: &[u8], flags: i32) -> Res<usize> {
        sys::sendmsg(self, &[data], &[], flags | libc::MSG_NOSIGNAL)
    }

    /// Blocking, to the last byte.
    pub fn send_all(&self, mut data: &[u8]) {
        while !data.is_empty() {
            let n = self.send(data, 0).expect("send");
            data = &data[n..];
        }
    }

    pub fn send_record(&self, kind: u8, data: &[u8], flags: i32) -> Res<usize> {
        let control = record_type(kind);
        sys::sendmsg(self, &[data], &control.0[..24], flags | libc::MSG_NOSIGNAL)
    }

    pub fn recv(&self, buf: &mut [u8], flags: i32) -> Res<usize> {
        sys::recvmsg(self, &mut [buf], &mut [], flags).map(|r| r.len)
    }

    /// One call with room for `len` bytes.
    pub fn take(&self, len: usize, flags: i32) -> Res<Vec<u8>> {
        let mut buf = vec![0; len];
        let n = self.recv(&mut buf, flags)?;
        buf.truncate(n);
        Ok(buf)
    }

    /// Blocking calls until `len` bytes are there.
    pub fn recv_exact(&self, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        let mut have = 0;
        while have < len {
            let n = self.recv(&mut buf[have..], 0).expect("recv");
            assert_ne!(n, 0, "end of file after {have} of {len} bytes");
            have += n;
        }
        buf
    }

    /// With a control buffer: the type, if one came, and the bytes.
    pub fn recv_record(&self, len: usize, flags: i32) -> Res<(Option<u8>, Vec<u8>)> {
        let mut buf = vec![0; len];
        let mut control = Control([0; 64]);
        let r = sys::recvmsg(self, &mut [&mut buf], &mut control.0, flags)?;
        buf.truncate(r.len);
        if r.control == 0 {
            return Ok((None, buf));
        }
        let c = &control.0;
        let head = |at: usize| i32::from_ne_bytes(c[at..at + 4].try_into().expect("four"));
        assert_eq!(head(0), 17, "cmsg_len");
        assert_eq!((head(8), head(12)), (SOL_TLS, TLS_GET_RECORD_TYPE), "cmsg");
        Ok((Some(c[16]), buf))
    }

    /// `ALG_TLS_IOC_SENDFILE`; returns new offset and bytes sent.
    pub fn sendfile(
        &self,
        file: &impl AsRawFd,
        at: u64,
        count: u64,
        flags: i32,
    ) -> Res<(u64, u64)> {
        let mut arg = sendfile_arg(file, at, count, flags);
        let sent = self.sendfile_at(arg.as_mut_ptr() as usize)?;
        assert_eq!(sent, arg[2], "the result and the structure differ");
        Ok((arg[1], arg[2]))
    }

    /// The same with a structure of the caller's, by its address, which may be one where the kernel
    /// cannot write. Returns the bytes sent.
    pub fn sendfile_at(&self, arg: usize) -> Res<u64> {
        // SAFETY: what is there has the layout of struct alg_tls_sendfile on a little-endian machine,
        // or is nothing, which the kernel finds out.
        let sent = cvt_int(unsafe { libc::ioctl(self.as_raw_fd(), IOC_SENDFILE, arg) })?;
        Ok(sent as u64)
    }
}

/// struct alg_tls_sendfile.
pub fn sendfile_arg(file: &impl AsRawFd, at: u64, count: u64, flags: i32) -> [u64; 3] {
    let low = u64::from(file.as_raw_fd() as u32);
    let flags = u64::from((flags | libc::MSG_NOSIGNAL) as u32) << 32;
    [low | flags, at, count]
}

/// The control message that sets a record's type.
pub fn record_type(kind: u8) -> Control {
    let mut control = Control([0; 64]);
    control.0[..8].copy_from_slice(&17u64.to_ne_bytes());
    control.0[8..12].copy_from_slice(&SOL_TLS.to_ne_bytes());
    control.0[12..16].copy_from_slice(&TLS_SET_RECORD_TYPE.to_ne_bytes());
    control.0[16] = kind;
    control
}
