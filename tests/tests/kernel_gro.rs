// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records out of segments that the network layer has put together (GRO): page fragments by the dozen,
//! and a list of buffers for what did not fit among them. Loopback has neither, so there is a wire
//! between two network namespaces, whose sender cuts segments itself and whose receiver joins them.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::channel;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::*;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.expect("ip").success(), "ip {words}");
}

fn offload(device: &str, what: u32, on: bool) {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
    let value = [what, u32::from(on)];
    let mut ifreq = [0u8; 40];
    ifreq[..device.len()].copy_from_slice(device.as_bytes());
    ifreq[16..24].copy_from_slice(&(value.as_ptr() as u64).to_ne_bytes());
    // SAFETY: struct ifreq is 40 bytes: name, then a pointer to struct ethtool_value, which lives on.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, ifreq.as_mut_ptr()) };
    sys::cvt_int(ret).unwrap_or_else(|e| panic!("{device}: {what:#x}: {e:?}"));
}

/// Both ends of a connection over the wire; the first belongs to this thread, which is in a new
/// namespace and joins what it receives if `join`.
fn wire(join: bool) -> (TcpStream, TcpStream) {
    net::new_namespace();
    ip("link add va type veth peer name vb");
    let (tell, told) = channel();
    let (go, gone) = channel::<()>();
    let (listens, listening) = channel();
    let far = std::thread::spawn(move || {
        net::new_namespace();
        tell.send(sys::this_thread()).expect("told");
        gone.recv().expect("the device");
        ip("addr add 10.9.0.2/24 dev vb");
        offload("vb", ETHTOOL_STSO, false);
        offload("vb", ETHTOOL_SGSO, false);
        ip("link set vb up");
        let listener = TcpListener::bind("10.9.0.2:0").expect("bind");
        listens
            .send(listener.local_addr().expect("address"))
            .expect("told");
        listener.accept().expect("accept").0
    });
    ip(&format!(
        "link set vb netns {}",
        told.recv().expect("the thread")
    ));
    go.send(()).expect("it waits");
    ip("addr add 10.9.0.1/24 dev va");
    offload("va", ETHTOOL_SGRO, join);
    ip("link set va up");
    let near = TcpStream::connect(listening.recv().expect("an address")).expect("connect");
    (near, far.join().expect("the far end"))
}

/// Segments as they were on the wire (`tcpi_segs_in`), and as they reached this namespace's TCP.
fn segments(tcp: &TcpStream) -> (u64, u64) {
    let mut info = [0; 232];
    let n = sys::getsockopt(tcp, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).expect("TCP_INFO");
    assert!(n >= 144);
    let sent = u32::from_ne_bytes(info[140..144].try_into().expect("four"));
    let path = format!("/proc/self/task/{}/net/snmp", sys::this_thread());
    let text = std::fs::read_to_string(path).expect("snmp");
    let mut tcp = text.lines().filter(|l| l.starts_with("Tcp: "));
    let names = tcp.next().expect("names").split(' ');
    let values = tcp.next().expect("values").split(' ');
    let came = names.zip(values).find(|(name, _)| *name == "InSegs");
    let came = came.expect("InSegs").1.parse().expect("a number");
    (u64::from(sent), came)
}

fn receive_all(join: bool) {
    let data = pattern(2_000_000);
    for (version, cipher) in SUITES {
        // Its own thread: a namespace is for good.
        let data = data.clone();
        let thread = std::thread::spawn(move || {
            let link = Link::over(wire(join), version, cipher);
            let Link {
                op, tcp, mut peer, ..
            } = link;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut at = 0;
                    let mut wire = Vec::new();
                    while at < data.len() {
                        // Full records, and small ones of which many are in one segment.
                        let step = [16_384, 100, 5_000][at % 3].min(data.len() - at);
                        wire.extend(peer.tx.seal(DATA, &data[at..at + step], 0));
                        at += step;
                    }
                    peer.raw(&wire);
                });
                assert!(op.recv_exact(data.len()) == data, "bytes differ");
            });
            let (sent, came) = segments(&tcp);
            println!("{version:?} {cipher:?}: {sent} segments, {came} received");
            if join {
                assert!(came * 3 < sent * 2, "nothing was joined: {came} of {sent}");
            } else {
                assert!(came >= sent, "joined: {came} of {sent}");
            }
        });
        thread.join().expect("no panic");
    }
}

#[test]
fn segments_that_were_joined_hold_the_same_records() {
    in_vm(|| receive_all(true));
}

#[test]
fn segments_as_they_were_sent() {
    in_vm(|| receive_all(false));
}
