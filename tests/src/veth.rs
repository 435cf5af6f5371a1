// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wire between two network namespaces, for what loopback does not do: join segments, lose or delay
//! them, or refuse to gather. Both namespaces live as long as the sockets and threads in them.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::channel;

use crate::{net, sys};

/// `ETHTOOL_S…` of linux/ethtool.h.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Feature {
    ScatterGather = 0x19,
    Tso = 0x1f,
    Gso = 0x24,
    Gro = 0x2c,
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// The device of the calling thread, and that of the far end.
pub const NEAR: &str = "va";
pub const FAR: &str = "vb";

/// A program of iproute2.
pub fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let status = Command::new(program).args(words).status();
    assert!(status.expect(program).success(), "{line}");
}

/// Switches what a device does by itself.
pub fn offload(device: &str, what: Feature, on: bool) {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
    let value = [what as u32, u32::from(on)];
    let mut ifreq = [0u8; 40];
    ifreq[..device.len()].copy_from_slice(device.as_bytes());
    ifreq[16..24].copy_from_slice(&(value.as_ptr() as u64).to_ne_bytes());
    // SAFETY: struct ifreq is 40 bytes: name, then a pointer to struct ethtool_value, which lives on.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, ifreq.as_mut_ptr()) };
    sys::cvt_int(ret).unwrap_or_else(|e| panic!("{device}: {what:?}: {e:?}"));
}

const NEAR_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Both ends of a connection over the wire; the first belongs to this thread, which is in a new
/// namespace for good. `near` and `far` prepare the devices, each in its own namespace.
pub fn wire(near: impl FnOnce(), far: impl FnOnce() + Send + 'static) -> (TcpStream, TcpStream) {
    connected(near, far, false)
}

/// A wire without scatter/gather: TCP has to copy what it is handed, and what arrives lies in one piece.
/// It does so only for a socket that does without GSO too, as one with signatures (RFC 2385) does.
pub fn wire_that_copies() -> (TcpStream, TcpStream) {
    connected(
        || offload(NEAR, Feature::ScatterGather, false),
        || offload(FAR, Feature::ScatterGather, false),
        true,
    )
}

fn connected(
    near: impl FnOnce(),
    far: impl FnOnce() + Send + 'static,
    signed: bool,
) -> (TcpStream, TcpStream) {
    net::new_namespace();
    run(&format!("ip link add {NEAR} type veth peer name {FAR}"));
    let (tell, told) = channel();
    let (go, gone) = channel::<()>();
    let (listens, listening) = channel();
    let thread = std::thread::spawn(move || {
        net::new_namespace();
        tell.send(sys::this_thread()).expect("told");
        gone.recv().expect("the device");
        run(&format!("ip addr add {FAR_IP}/24 dev {FAR}"));
        far();
        run(&format!("ip link set {FAR} up"));
        let listener = TcpListener::bind((FAR_IP, 0)).expect("bind");
        if signed {
            sign(&listener, NEAR_IP);
        }
        listens
            .send(listener.local_addr().expect("address"))
            .expect("told");
        listener.accept().expect("accept").0
    });
    let tid = told.recv().expect("the thread");
    run(&format!("ip link set {FAR} netns {tid}"));
    go.send(()).expect("it waits");
    run(&format!("ip addr add {NEAR_IP}/24 dev {NEAR}"));
    near();
    run(&format!("ip link set {NEAR} up"));
    let socket: OwnedFd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("socket");
    if signed {
        sign(&socket, FAR_IP);
    }
    net::connect(&socket, listening.recv().expect("an address")).expect("connect");
    (TcpStream::from(socket), thread.join().expect("the far end"))
}

/// `TCP_MD5SIG`: segments to and from `peer` carry a signature.
fn sign(socket: &impl AsRawFd, peer: Ipv4Addr) {
    const TCP_MD5SIG: i32 = 14;
    const KEY: &[u8] = b"both ends know this";
    // struct tcp_md5sig: sockaddr_storage, flags, prefix, length, interface, key.
    let mut sig = [0; 128 + 8 + 80];
    sig[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    sig[4..8].copy_from_slice(&peer.octets());
    sig[130..132].copy_from_slice(&(KEY.len() as u16).to_ne_bytes());
    sig[136..136 + KEY.len()].copy_from_slice(KEY);
    sys::setsockopt(socket, libc::IPPROTO_TCP, TCP_MD5SIG, &sig).expect("TCP_MD5SIG");
}

/// A counter of this thread's namespace: `("snmp", "Tcp", "InSegs")`, `("netstat", "TcpExt", …)`.
pub fn counter(file: &str, group: &str, name: &str) -> u64 {
    let path = format!("/proc/self/task/{}/net/{file}", sys::this_thread());
    let text = std::fs::read_to_string(&path).expect("counters");
    let group = format!("{group}: ");
    let mut lines = text.lines().filter(|l| l.starts_with(&group));
    let names = lines.next().expect("names").split(' ');
    let values = lines.next().expect("values").split(' ');
    let found = names.zip(values).find(|(n, _)| *n == name);
    let (_, value) = found.unwrap_or_else(|| panic!("{path} has no {name}"));
    value.parse().expect("a number")
}
