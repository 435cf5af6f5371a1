// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wire between two network namespaces, for what loopback does not do: join segments, lose or delay
//! them, or refuse to gather. Both namespaces live as long as the sockets and threads in them.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
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

/// Both ends of a connection over the wire; the first belongs to this thread, which is in a new
/// namespace for good. `near` and `far` prepare the devices, each in its own namespace.
pub fn wire(near: impl FnOnce(), far: impl FnOnce() + Send + 'static) -> (TcpStream, TcpStream) {
    net::new_namespace();
    run(&format!("ip link add {NEAR} type veth peer name {FAR}"));
    let (tell, told) = channel();
    let (go, gone) = channel::<()>();
    let (listens, listening) = channel();
    let thread = std::thread::spawn(move || {
        net::new_namespace();
        tell.send(sys::this_thread()).expect("told");
        gone.recv().expect("the device");
        run(&format!("ip addr add 10.9.0.2/24 dev {FAR}"));
        far();
        run(&format!("ip link set {FAR} up"));
        let listener = TcpListener::bind("10.9.0.2:0").expect("bind");
        listens
            .send(listener.local_addr().expect("address"))
            .expect("told");
        listener.accept().expect("accept").0
    });
    let tid = told.recv().expect("the thread");
    run(&format!("ip link set {FAR} netns {tid}"));
    go.send(()).expect("it waits");
    run(&format!("ip addr add 10.9.0.1/24 dev {NEAR}"));
    near();
    run(&format!("ip link set {NEAR} up"));
    let tcp = TcpStream::connect(listening.recv().expect("an address")).expect("connect");
    (tcp, thread.join().expect("the far end"))
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
