// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP pairs on loopback, network namespaces, and the three ways to wait.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::{self, Errno, Res, cvt_int};

/// A connected pair with the kernel's default buffers.
pub fn pair() -> (TcpStream, TcpStream) {
    pair_on("127.0.0.1:0", |_| {}, |_| {})
}

/// A connected pair; each function may set options before the connection
/// exists (receive buffers and MSS must be set then).
pub fn pair_on(
    addr: &str,
    near: impl FnOnce(&OwnedFd),
    far: impl FnOnce(&TcpListener),
) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(addr).expect("listen");
    far(&listener);
    let to = listener.local_addr().expect("address");
    let family = if to.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let socket = sys::socket(family, libc::SOCK_STREAM, 0).expect("socket");
    near(&socket);
    connect(&socket, to).expect("connect");
    let (other, _) = listener.accept().expect("accept");
    other.set_nodelay(true).expect("TCP_NODELAY");
    (TcpStream::from(socket), other)
}

pub fn connect(socket: &impl AsRawFd, to: std::net::SocketAddr) -> Res<()> {
    let mut addr = [0u8; 28];
    addr[2..4].copy_from_slice(&to.port().to_be_bytes());
    let len = match to {
        std::net::SocketAddr::V4(a) => {
            addr[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            addr[4..8].copy_from_slice(&a.ip().octets());
            16
        }
        std::net::SocketAddr::V6(a) => {
            addr[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            addr[8..24].copy_from_slice(&a.ip().octets());
            28
        }
    };
    // SAFETY: the array holds a sockaddr of `len` bytes.
    cvt_int(unsafe { libc::connect(socket.as_raw_fd(), addr.as_ptr().cast(), len) }).map(drop)
}

/// connect(AF_UNSPEC): the socket is unconnected again.
pub fn disconnect(socket: &impl AsRawFd) -> Res<()> {
    let addr = [0u8; 16];
    // SAFETY: the array holds a sockaddr of family AF_UNSPEC.
    cvt_int(unsafe { libc::connect(socket.as_raw_fd(), addr.as_ptr().cast(), 16) }).map(drop)
}

pub fn rcvbuf(fd: &impl AsRawFd, bytes: i32) {
    sys::set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes).expect("SO_RCVBUF");
}

pub fn sndbuf(fd: &impl AsRawFd, bytes: i32) {
    sys::set_int(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes).expect("SO_SNDBUF");
}

pub fn mss(fd: &impl AsRawFd, bytes: i32) {
    sys::set_int(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, bytes).expect("TCP_MAXSEG");
}

/// The next close() sends RST.
pub fn linger_zero(fd: &impl AsRawFd) {
    let mut value = [0u8; 8];
    value[0] = 1;
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &value).expect("SO_LINGER");
}

/// Moves the calling thread into a network namespace of its own, lo up.
pub fn new_namespace() {
    // SAFETY: no memory is passed; only this thread moves.
    cvt_int(unsafe { libc::unshare(libc::CLONE_NEWNET) }).expect("unshare");
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
    let mut ifreq = [0u8; 40];
    ifreq[..2].copy_from_slice(b"lo");
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    ifreq[16..18].copy_from_slice(&up.to_ne_bytes());
    // SAFETY: struct ifreq is 40 bytes: name, then the flags.
    cvt_int(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ifreq.as_mut_ptr()) })
        .expect("lo up");
}

/// poll() on one fd; 0 when the time is over.
pub fn poll(fd: &impl AsRawFd, events: i16, limit: Duration) -> i16 {
    let mut p = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd.
        match cvt_int(unsafe { libc::poll(&mut p, 1, limit.as_millis() as i32) }) {
            Ok(_) => return p.revents,
            Err(Errno(libc::EINTR)) => {}
            Err(e) => panic!("poll: {e:?}"),
        }
    }
}

/// select() on one fd: readable, writable.
pub fn select(fd: &impl AsRawFd, limit: Duration) -> (bool, bool) {
    let fd = fd.as_raw_fd();
    // SAFETY: all zero is an empty set; fd is below FD_SETSIZE in our tests.
    unsafe {
        let mut sets: [libc::fd_set; 2] = std::mem::zeroed();
        let [r, w] = &mut sets;
        libc::FD_SET(fd, r);
        libc::FD_SET(fd, w);
        let mut time = libc::timeval {
            tv_sec: limit.as_secs() as i64,
            tv_usec: i64::from(limit.subsec_micros()),
        };
        let none = std::ptr::null_mut();
        cvt_int(libc::select(fd + 1, r, w, none, &mut time)).expect("select");
        (libc::FD_ISSET(fd, r), libc::FD_ISSET(fd, w))
    }
}

/// select() for reading only.
pub fn select_read(fd: &impl AsRawFd, limit: Duration) -> bool {
    let fd = fd.as_raw_fd();
    // SAFETY: as above.
    unsafe {
        let mut r: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &mut r);
        let mut time = libc::timeval {
            tv_sec: limit.as_secs() as i64,
            tv_usec: i64::from(limit.subsec_micros()),
        };
        let none = std::ptr::null_mut();
        cvt_int(libc::select(fd + 1, &mut r, none, none, &mut time)).expect("select") == 1
    }
}

/// An epoll set with one member.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new(fd: &impl AsRawFd, events: i32) -> Epoll {
        // SAFETY: no memory is passed.
        let ep = cvt_int(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).expect("epoll");
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: 1,
        };
        // SAFETY: `ep` is new and owned by nobody else; the event is valid.
        let ep = unsafe {
            cvt_int(libc::epoll_ctl(
                ep,
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &mut event,
            ))
            .expect("epoll_ctl");
            OwnedFd::from_raw_fd(ep)
        };
        Epoll(ep)
    }

    /// The events, 0 when the time is over.
    pub fn wait(&self, limit: Duration) -> i32 {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let ms = limit.as_millis() as i32;
        loop {
            // SAFETY: room for one event.
            match cvt_int(unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, ms) }) {
                Ok(0) => return 0,
                Ok(_) => return event.events as i32,
                Err(Errno(libc::EINTR)) => {}
                Err(e) => panic!("epoll_wait: {e:?}"),
            }
        }
    }
}

/// The number of this process's open fds.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .map(Iterator::count)
        .expect("/proc/self/fd")
}

/// Reads what is there and what comes until `len` bytes are read.
pub fn read_exact(mut tcp: &TcpStream, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    io::Read::read_exact(&mut tcp, &mut buf)?;
    Ok(buf)
}

/// A BPF sockmap with room for one socket.
pub struct Sockmap(OwnedFd);

impl Default for Sockmap {
    fn default() -> Sockmap {
        Sockmap::new()
    }
}

impl Sockmap {
    pub fn new() -> Sockmap {
        const BPF_MAP_CREATE: i32 = 0;
        const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
        let mut attr = [0; 128];
        for (at, word) in [BPF_MAP_TYPE_SOCKMAP, 4, 4, 1].into_iter().enumerate() {
            attr[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        Sockmap(sys::own(
            sys::bpf(BPF_MAP_CREATE, &mut attr).expect("sockmap"),
        ))
    }

    pub fn insert(&self, fd: &impl AsRawFd) -> Res<()> {
        const BPF_MAP_UPDATE_ELEM: i32 = 2;
        let (key, value) = (0u32, fd.as_raw_fd());
        let mut attr = [0; 128];
        attr[..4].copy_from_slice(&self.0.as_raw_fd().to_ne_bytes());
        attr[8..16].copy_from_slice(&(&raw const key as u64).to_ne_bytes());
        attr[16..24].copy_from_slice(&(&raw const value as u64).to_ne_bytes());
        sys::bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

/// Sets the priority of a crypto driver, making an instance of it if need be.
pub fn crypto_user(driver: &str, priority: u32) -> Res<()> {
    const NETLINK_CRYPTO: i32 = 21;
    const CRYPTO_MSG_NEWALG: u16 = 16;
    const CRYPTO_MSG_UPDATEALG: u16 = 18;
    const CRYPTOCFGA_PRIORITY_VAL: u16 = 1;
    const NLM_F_REQUEST_ACK: u16 = 5;
    // struct crypto_user_alg: three names of 64 bytes, four words.
    let mut alg = [0u8; 208];
    alg[64..64 + driver.len()].copy_from_slice(driver.as_bytes());
    // CRYPTO_ALG_TYPE_AEAD and its mask.
    (alg[192], alg[196]) = (3, 0xf);
    let call = |kind: u16| {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_CRYPTO)?;
        let len = 16 + alg.len() + 8;
        let mut msg = Vec::with_capacity(len);
        msg.extend((len as u32).to_ne_bytes());
        msg.extend(kind.to_ne_bytes());
        msg.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
        msg.extend([0; 8]);
        msg.extend(alg);
        msg.extend(8u16.to_ne_bytes());
        msg.extend(CRYPTOCFGA_PRIORITY_VAL.to_ne_bytes());
        msg.extend(priority.to_ne_bytes());
        sys::sendmsg(&socket, &[&msg], &[], 0)?;
        let mut answer = [0; 512];
        sys::read(&socket, &mut answer)?;
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if code == 0 { Ok(()) } else { Err(Errno(-code)) }
    };
    match call(CRYPTO_MSG_UPDATEALG) {
        Err(Errno(libc::ENOENT)) => call(CRYPTO_MSG_NEWALG),
        other => other,
    }
}
