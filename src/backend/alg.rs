//! The kernel TLS socket (`kmod/uapi/algif_tls.h`).
//!
//! Owns one bound socket per cipher name for the life of the process; op
//! sockets are handed out and belong to whoever asked for them.

use super::parent::Parent;
use super::uapi::{self, SockaddrAlg};
use super::{Backend, CryptoInfo, Detached, Dir, Errno, data, sys};
use crate::keys::suite::Aead;
use core::ffi::c_int;
use core::ptr::null_mut;

pub struct Alg {
    gcm: Parent,
    chacha: Parent,
    ccm: Parent,
}

static ALG: Alg = Alg {
    gcm: Parent::new(),
    chacha: Parent::new(),
    ccm: Parent::new(),
};

pub fn alg() -> &'static Alg {
    &ALG
}

/// A control message of one byte, as large as `CMSG_SPACE(1)`.
#[repr(C, align(8))]
struct RecordType {
    len: usize,
    level: c_int,
    name: c_int,
    kind: u8,
    pad: [u8; 7],
}

pub(super) const RECORD_TYPE_SPACE: usize = size_of::<RecordType>();
pub(super) const RECORD_TYPE_LEN: usize = core::mem::offset_of!(RecordType, kind) + 1;

impl RecordType {
    const fn new(kind: u8) -> RecordType {
        RecordType {
            len: RECORD_TYPE_LEN,
            level: uapi::SOL_TLS,
            name: uapi::TLS_SET_RECORD_TYPE,
            kind,
            pad: [0; 7],
        }
    }

    const fn empty() -> RecordType {
        RecordType {
            len: 0,
            level: 0,
            name: 0,
            kind: 0,
            pad: [0; 7],
        }
    }

    /// The type that the kernel put here, given how much it wrote.
    const fn received(&self, written: usize) -> Option<u8> {
        if written >= RECORD_TYPE_LEN
            && self.len == RECORD_TYPE_LEN
            && self.level == uapi::SOL_TLS
            && self.name == uapi::TLS_GET_RECORD_TYPE
        {
            Some(self.kind)
        } else {
            None
        }
    }
}

/// No name, no control data, `iov` as it stands.
const fn message(iov: *const libc::iovec, count: usize) -> libc::msghdr {
    libc::msghdr {
        msg_name: null_mut(),
        msg_namelen: 0,
        msg_iov: iov.cast_mut(),
        msg_iovlen: count,
        msg_control: null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

impl Alg {
    fn parent(&self, aead: Aead) -> Result<i32, Errno> {
        let (parent, name): (_, &[u8]) = match aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => (&self.gcm, b"gcm(aes)"),
            Aead::ChaCha20Poly1305 => (&self.chacha, b"rfc7539(chacha20,poly1305)"),
            Aead::Aes128Ccm => (&self.ccm, b"ccm(aes)"),
        };
        parent.get(|| self.bind(name))
    }

    fn bind(&self, name: &[u8]) -> Result<i32, Errno> {
        let mut address = SockaddrAlg {
            family: libc::AF_ALG as u16,
            kind: [0; 14],
            feat: 0,
            mask: 0,
            name: [0; 64],
        };
        copy(&mut address.kind, uapi::ALG_TLS_TYPE);
        copy(&mut address.name, name);
        let low = sys::socket(libc::AF_ALG, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0)?;
        if let Err(errno) = sys::bind(low, &address) {
            sys::close(low);
            return Err(errno);
        }
        raise(low)
    }

    /// The bound sockets that exist now, so that the caller can mark them as
    /// the shim's own.
    pub fn parents(&self) -> impl Iterator<Item = i32> + '_ {
        [&self.gcm, &self.chacha, &self.ccm]
            .into_iter()
            .filter_map(Parent::peek)
    }
}

/// Our numbers are high ones or none: an op fd that sat among the program's could be
/// replaced by its dup2.
fn raise(low: i32) -> Result<i32, Errno> {
    sys::move_high(low).inspect_err(|_| sys::close(low))
}

fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

const fn option(dir: Dir) -> c_int {
    match dir {
        Dir::Tx => uapi::TLS_TX,
        Dir::Rx => uapi::TLS_RX,
    }
}

impl Backend for Alg {
    fn prepare(&self) {
        for aead in [Aead::Aes128Gcm, Aead::ChaCha20Poly1305, Aead::Aes128Ccm] {
            let _ = self.parent(aead); // a refusal is remembered and reported when asked for
        }
    }

    fn usable(&self, aead: Aead) -> Result<(), Errno> {
        self.parent(aead).map(drop)
    }

    fn open(&self, aead: Aead) -> Result<i32, Errno> {
        let parent = self.parent(aead)?;
        sys::move_op(sys::accept(parent, libc::SOCK_CLOEXEC)?)
    }

    fn attach(
        &self,
        op: i32,
        tcp: i32,
        tx: Option<&CryptoInfo>,
        rx: Option<&CryptoInfo>,
        tx_max: u16,
    ) -> Result<(), Errno> {
        let mut attach = uapi::Attach {
            size: size_of::<uapi::Attach>() as u32,
            fd: tcp,
            flags: 0,
            tx_max,
            reserved: 0,
            tx: CryptoInfo::zero(),
            rx: CryptoInfo::zero(),
        };
        if let Some(tx) = tx {
            attach.tx.copy_from(tx);
        }
        if let Some(rx) = rx {
            attach.rx.copy_from(rx);
        }
        sys::setsockopt(
            op,
            uapi::SOL_ALG,
            uapi::ALG_TLS_ATTACH,
            &attach,
            size_of_val(&attach),
        )
    }

    fn rekey(&self, op: i32, dir: Dir, info: &CryptoInfo) -> Result<(), Errno> {
        sys::setsockopt(op, uapi::SOL_TLS, option(dir), info, info.size())
    }

    fn set_tx_max(&self, op: i32, tx_max: u16) -> Result<(), Errno> {
        let value = c_int::from(tx_max);
        sys::setsockopt(
            op,
            uapi::SOL_TLS,
            uapi::TLS_TX_MAX_PAYLOAD_LEN,
            &value,
            size_of_val(&value),
        )
    }

    fn sequence(&self, op: i32, dir: Dir) -> Result<(u64, [u8; 8]), Errno> {
        let mut info = CryptoInfo::zero();
        // SAFETY: a CryptoInfo is plain bytes; the option fills it and follows
        // no pointer.
        unsafe { sys::getsockopt(op, uapi::SOL_TLS, option(dir), &mut info) }?;
        info.position().ok_or(libc::EPROTO)
    }

    fn detach(&self, op: i32, dir: Dir, staged: &mut [u8]) -> Result<Detached, Errno> {
        let mut detach = uapi::Detach {
            size: size_of::<uapi::Detach>() as u32,
            dir: option(dir) as u32,
            staged: staged.as_mut_ptr() as u64,
            staged_len: u32::try_from(staged.len()).unwrap_or(u32::MAX),
            reserved: 0,
            rec_seq: [0; 8],
            nonce: [0; 8],
        };
        // SAFETY: all fields are plain numbers; the buffer that `staged` names
        // is borrowed mutably for this call and as long as `staged_len` says.
        unsafe { sys::getsockopt(op, uapi::SOL_ALG, uapi::ALG_TLS_DETACH, &mut detach) }?;
        Ok(Detached {
            seq: u64::from_be_bytes(detach.rec_seq),
            nonce: detach.nonce,
            staged: (detach.staged_len as usize).min(staged.len()),
        })
    }

    unsafe fn send(&self, op: i32, iov: &[libc::iovec], flags: c_int) -> Result<usize, Errno> {
        // SAFETY: the caller's buffers, and nothing else in the message.
        unsafe {
            match iov {
                [one] => data::send(op, one.iov_base.cast(), one.iov_len, flags),
                _ => data::sendmsg(op, &message(iov.as_ptr(), iov.len()), flags),
            }
        }
    }

    fn send_record(&self, op: i32, kind: u8, payload: &[u8], flags: c_int) -> Result<usize, Errno> {
        let iov = libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        };
        let mut control = RecordType::new(kind);
        let mut message = message(&iov, 1);
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = RECORD_TYPE_SPACE;
        // SAFETY: one buffer to read from and one control message, both alive
        // here and given with their lengths.
        unsafe { data::sendmsg(op, &message, flags) }
    }

    unsafe fn recv(&self, op: i32, buf: *mut u8, len: usize, flags: c_int) -> Result<usize, Errno> {
        // SAFETY: the caller's buffer.
        unsafe { data::recv(op, buf, len, flags) }
    }

    unsafe fn recv_record(
        &self,
        op: i32,
        iov: &[libc::iovec],
        flags: c_int,
    ) -> Result<(u8, usize), Errno> {
        let mut control = RecordType::empty();
        let mut message = message(iov.as_ptr(), iov.len());
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = RECORD_TYPE_SPACE;
        // SAFETY: the caller's buffers, and a control buffer of that length.
        let len = unsafe { data::recvmsg(op, &mut message, flags) }?;
        Ok((control.received(message.msg_controllen).unwrap_or(0), len))
    }

    fn sendfile(
        &self,
        op: i32,
        fd: i32,
        offset: &mut u64,
        count: usize,
        flags: c_int,
    ) -> Result<usize, Errno> {
        let mut sendfile = uapi::Sendfile {
            fd,
            flags: flags as u32,
            offset: *offset,
            count: count as u64,
        };
        // SAFETY: this request works on this structure, which has no pointer.
        unsafe { sys::ioctl(op, uapi::ALG_TLS_IOC_SENDFILE, &mut sendfile) }?;
        *offset = sendfile.offset;
        Ok(usize::try_from(sendfile.count).unwrap_or(count).min(count))
    }
}

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::*;

    fn flags(fd: i32) -> i32 {
        // SAFETY: asks for the flags of a number, no pointer.
        unsafe { libc::fcntl(fd, libc::F_GETFD) }
    }

    fn pair() -> [i32; 2] {
        let mut fds = [0; 2];
        // SAFETY: room for two numbers.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
        assert_eq!(made, 0);
        fds
    }

    fn fresh() -> Alg {
        Alg {
            gcm: Parent::new(),
            chacha: Parent::new(),
            ccm: Parent::new(),
        }
    }

    /// With the module loaded this opens sockets, without it it is refused;
    /// either way the answer is one and the same for every question.
    #[test]
    fn the_kernel_gives_one_answer() {
        let alg = fresh();
        alg.prepare();
        for aead in [
            Aead::Aes128Gcm,
            Aead::Aes256Gcm,
            Aead::ChaCha20Poly1305,
            Aead::Aes128Ccm,
        ] {
            let usable = alg.usable(aead);
            assert_eq!(alg.usable(aead), usable);
            let op = alg.open(aead);
            assert_eq!(op.map(drop), usable);
            let Ok(op) = op else {
                assert!(usable.is_err_and(|errno| errno > 0));
                continue;
            };
            assert_eq!(flags(op), libc::FD_CLOEXEC);
            assert_eq!(alg.sequence(op, Dir::Tx), Err(libc::ENOTCONN));
            assert_eq!(alg.send_record(op, 23, b"x", 0), Err(libc::ENOTCONN));
            sys::close(op);
        }
        let parents: Vec<i32> = alg.parents().collect();
        assert_eq!(parents.is_empty(), alg.usable(Aead::Aes128Gcm).is_err());
        parents.into_iter().for_each(sys::close);
    }

    #[test]
    fn data_calls_carry_their_buffers() {
        let [a, b] = pair();
        let iov = |s: &[u8]| libc::iovec {
            iov_base: s.as_ptr().cast_mut().cast(),
            iov_len: s.len(),
        };
        // A local socket ignores the record type and gives none back.
        assert_eq!(ALG.send_record(a, 21, &[1, 0], 0), Ok(2));
        let mut out = [0u8; 8];
        let room = [
            iov(&[]),
            libc::iovec {
                iov_base: out.as_mut_ptr().cast(),
                iov_len: 8,
            },
        ];
        // SAFETY: both buffers are as long as they say.
        assert_eq!(unsafe { ALG.recv_record(b, &room, 0) }, Ok((0, 2)));
        assert_eq!(out[..2], [1, 0]);
        // SAFETY: as above.
        assert_eq!(unsafe { ALG.send(a, &[iov(b"abc"), iov(b"de")], 0) }, Ok(5));
        // SAFETY: as above.
        let peeked = unsafe { ALG.recv_record(b, &room, libc::MSG_PEEK) };
        assert_eq!(peeked, Ok((0, 5)));
        assert_eq!(&out[..5], b"abcde");
        // SAFETY: as above.
        assert_eq!(unsafe { ALG.recv(b, out.as_mut_ptr(), 8, 0) }, Ok(5));
        // SAFETY: as above.
        let empty = unsafe { ALG.recv(b, out.as_mut_ptr(), 8, libc::MSG_DONTWAIT) };
        assert_eq!(empty, Err(libc::EAGAIN));
        // Not a socket of ours: told so, nothing invented.
        let info = CryptoInfo::zero();
        assert!(ALG.attach(a, b, Some(&info), None, 0).is_err());
        assert!(ALG.rekey(a, Dir::Rx, &info).is_err());
        assert!(ALG.sequence(a, Dir::Tx).is_err());
        assert!(ALG.detach(a, Dir::Rx, &mut out).is_err());
        let mut offset = 3;
        assert!(ALG.sendfile(a, b, &mut offset, 1, 0).is_err());
        assert_eq!(offset, 3);
        sys::close(b);
        assert_eq!(
            ALG.send_record(a, 23, b"x", libc::MSG_NOSIGNAL),
            Err(libc::EPIPE)
        );
        sys::close(a);
    }

    #[test]
    fn record_type_is_taken_from_the_right_message_only() {
        let mut message = RecordType::new(21);
        assert_eq!(
            message.received(RECORD_TYPE_SPACE),
            None,
            "that one sets a type"
        );
        message.name = uapi::TLS_GET_RECORD_TYPE;
        assert_eq!(message.received(RECORD_TYPE_SPACE), Some(21));
        assert_eq!(message.received(RECORD_TYPE_LEN), Some(21));
        assert_eq!(message.received(0), None);
        message.level = libc::SOL_SOCKET;
        assert_eq!(message.received(RECORD_TYPE_SPACE), None);
        assert_eq!(RecordType::empty().received(RECORD_TYPE_SPACE), None);
    }
}
