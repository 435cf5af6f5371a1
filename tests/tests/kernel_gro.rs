// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records out of segments that the network layer has put together (GRO): page fragments by the dozen,
//! and a list of buffers for what did not fit among them. Loopback has neither, so there is a wire
//! between two network namespaces, whose sender cuts segments itself and whose receiver joins them.

use std::net::TcpStream;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::veth::{self, Feature, offload};
use ktlsshim_tests::*;

fn wire(join: bool) -> (TcpStream, TcpStream) {
    veth::wire(
        || offload(veth::NEAR, Feature::Gro, join),
        || {
            offload(veth::FAR, Feature::Tso, false);
            offload(veth::FAR, Feature::Gso, false);
        },
    )
}

/// Segments as they were on the wire (`tcpi_segs_in`), and as they reached this namespace's TCP.
fn segments(tcp: &TcpStream) -> (u64, u64) {
    let mut info = [0; 232];
    let n = sys::getsockopt(tcp, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).expect("TCP_INFO");
    assert!(n >= 144);
    let sent = u32::from_ne_bytes(info[140..144].try_into().expect("four"));
    (u64::from(sent), veth::counter("snmp", "Tcp", "InSegs"))
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
