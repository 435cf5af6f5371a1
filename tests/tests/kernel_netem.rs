// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bad network: segments that are lost, doubled, delayed and out of order, on a wire between two
//! namespaces. The stream is exact all the same, and each record is whole and in sequence.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::veth::{self, Feature, counter};
use ktlsshim_tests::*;

const LIMIT: Duration = Duration::from_secs(180);

/// Both directions suffer `what`.
fn bad(what: &'static str) -> (TcpStream, TcpStream) {
    let spoil = move |device: &str| {
        // Segments of the usual size, so that there are enough of them.
        veth::offload(device, Feature::Tso, false);
        veth::offload(device, Feature::Gso, false);
        veth::run(&format!("tc qdisc add dev {device} root netem {what}"));
    };
    veth::wire(move || spoil(veth::NEAR), move || spoil(veth::FAR))
}

/// Segments that were sent again: on this wire because they, or what answers them, were lost.
fn again() -> u64 {
    counter("snmp", "Tcp", "RetransSegs")
}

/// Data both ways at once, in records of every kind of size.
fn both_ways(mut link: Link, len: usize) {
    let data = pattern(len);
    std::thread::scope(|scope| {
        let (op, bytes) = (Arc::clone(&link.op), &data);
        scope.spawn(move || {
            let mut at = 0;
            while at < len {
                let step = [16_384, 70, 30_000][at % 3].min(len - at);
                op.send_all(&bytes[at..at + step]);
                at += step;
            }
        });
        let (op, bytes) = (Arc::clone(&link.op), &data);
        scope.spawn(move || assert!(op.recv_exact(len) == *bytes, "bytes differ"));
        let mut tcp = link.peer.tcp.try_clone().expect("dup");
        let mut wire = Vec::new();
        for piece in data.chunks(9_000) {
            wire.extend(link.peer.tx.seal(DATA, piece, 0));
        }
        scope.spawn(move || std::io::Write::write_all(&mut tcp, &wire).expect("write"));
        let mut have = 0;
        while have < len {
            let record = link.peer.recv().expect("a whole record in sequence");
            assert!(data[have..].starts_with(&record.data), "differs at {have}");
            have += record.data.len();
        }
    });
    link.check();
}

fn each_form(what: &'static str, len: usize, happened: fn()) {
    for (version, cipher) in FORMS {
        // Its own thread: a namespace is for good.
        let thread = std::thread::spawn(move || {
            both_ways(Link::over(bad(what), version, cipher), len);
            happened();
        });
        thread.join().expect("no panic");
    }
}

#[test]
fn segments_are_lost() {
    in_vm_for(LIMIT, || {
        each_form("loss 4% delay 1ms limit 10000", 600_000, || {
            assert!(again() > 0, "nothing was lost");
        });
    });
}

#[test]
fn segments_come_out_of_order_and_twice() {
    in_vm_for(LIMIT, || {
        let what = "delay 5ms reorder 60% 50% duplicate 5% limit 10000";
        each_form(what, 600_000, || {
            let late = counter("netstat", "TcpExt", "TCPOFOQueue");
            assert!(late > 0, "nothing came out of order");
        });
    });
}

#[test]
fn segments_are_late_and_the_line_is_slow() {
    in_vm_for(LIMIT, || {
        each_form("delay 30ms 10ms rate 8mbit limit 10000", 300_000, || {});
    });
}

/// Here TCP takes a record piece by piece into buffers of its own.
#[test]
fn a_device_that_cannot_gather() {
    in_vm_for(LIMIT, || {
        for (version, cipher) in FORMS {
            let thread = std::thread::spawn(move || {
                both_ways(
                    Link::over(veth::wire_that_copies(), version, cipher),
                    300_000,
                );
            });
            thread.join().expect("no panic");
        }
    });
}

/// Two kernel sockets face to face, everything at once.
#[test]
fn two_kernel_sockets_over_a_bad_line() {
    in_vm_for(LIMIT, || {
        let what = "loss 2% delay 3ms 2ms duplicate 1% limit 10000";
        for (version, cipher) in FORMS {
            let thread = std::thread::spawn(move || {
                // Op and socket are of one namespace, and both ops are ours: the line is loopback.
                net::new_namespace();
                veth::run("ip link set lo mtu 1500");
                veth::offload("lo", Feature::Tso, false);
                veth::offload("lo", Feature::Gso, false);
                veth::run(&format!("tc qdisc add dev lo root netem {what}"));
                let [(a, _near), (b, _far)] = duo(net::pair(), version, cipher);
                let data = pattern(500_000);
                std::thread::scope(|scope| {
                    for (from, to) in [(&a, &b), (&b, &a)] {
                        let data = &data;
                        scope.spawn(move || from.send_all(data));
                        scope.spawn(move || {
                            assert!(to.recv_exact(data.len()) == *data, "bytes differ");
                        });
                    }
                });
                assert!(again() > 0, "nothing was lost");
            });
            thread.join().expect("no panic");
        }
    });
}
