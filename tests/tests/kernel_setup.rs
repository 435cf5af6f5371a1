// SPDX-License-Identifier: MIT OR Apache-2.0
//! From bind() to attach: which names, which user, which fds, which structures.

use std::fs::File;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::op::{ALG_TLS_ATTACH, Attach, SOL_ALG, SOL_TLS};
use ktlsshim_tests::sys::{self, Res};
use ktlsshim_tests::*;
use libc::*;

fn keys() -> Keys {
    Keys::random(Version::Tls13, Cipher::Aes128Gcm)
}

/// Attaches both directions of a fresh op to `fd`.
fn try_attach(fd: &impl AsRawFd) -> Res<()> {
    Op::new("gcm(aes)").attach(fd, Some(&keys()), Some(&keys()))
}

#[test]
fn bind_takes_the_names_of_the_table_only() {
    in_vm(|| {
        let good = [
            "gcm(aes)",
            "rfc5288(gcm(aes))",
            "rfc7539(chacha20,poly1305)",
            "ccm(aes)",
        ];
        for name in good {
            assert!(
                Parent::bind(name).and_then(|p| p.accept()).is_ok(),
                "{name}"
            );
        }
        let long = "g".repeat(63);
        let bad = [
            "",
            "aes",
            "cbc(aes)",
            "gcm(aes) ",
            "gcm(aes)x",
            "gcm(aes",
            "GCM(AES)",
            "gcm(aes-generic)",
            "generic-gcm-aesni",
            "rfc4106(gcm(aes))",
            "ccm(aes)ccm(aes)",
            "rfc7539(chacha20-generic,poly1305-generic)",
            "authenc(hmac(sha1),cbc(aes))",
            "tls",
            "cryptd(gcm(aes))",
            "%s%n",
            &long,
        ];
        for name in bad {
            assert_eq!(Parent::bind(name).err(), Some(Errno(ENOENT)), "{name:?}");
        }
    });
}

#[test]
fn an_unprivileged_user_cannot_bind_but_can_use_what_root_bound() {
    in_vm(|| {
        let parent = Parent::bind("gcm(aes)").expect("root binds");
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        std::thread::spawn(move || {
            sys::become_nobody();
            assert_eq!(Parent::bind("gcm(aes)").err(), Some(Errno(EPERM)));
            link.op = parent.accept().expect("accept as nobody").into();
            link.op
                .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                .expect("attach as nobody");
            link.check();
        })
        .join()
        .unwrap();
    });
}

#[test]
fn every_suite_carries_data_both_ways() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::new(version, cipher);
            link.check();
            link.check();
        }
    });
}

#[test]
fn the_rfc_name_is_the_same_socket() {
    in_vm(|| {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm] {
            let mut link = Link::detached(net::pair(), Version::Tls12, cipher);
            link.op = Op::new("rfc5288(gcm(aes))").into();
            link.op
                .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                .expect("attach");
            link.check();
        }
    });
}

#[test]
fn one_op_may_use_two_ciphers_of_its_name() {
    in_vm(|| {
        let (near, far) = net::pair();
        let tx = Keys::random(Version::Tls13, Cipher::Aes256Gcm);
        let rx = Keys::random(Version::Tls13, Cipher::Aes128Gcm);
        let op = Op::new("gcm(aes)");
        op.attach(&near, Some(&tx), Some(&rx)).expect("attach");
        let peer = Peer::new(far, rx.clone(), tx.clone());
        Link {
            op: op.into(),
            tcp: near,
            peer,
            tx,
            rx,
        }
        .check();
    });
}

#[test]
fn directions_attach_one_after_the_other() {
    in_vm(|| {
        for (version, cipher) in FORMS {
            let mut link = Link::detached(net::pair(), version, cipher);
            link.op
                .attach(&link.tcp, Some(&link.tx), None)
                .expect("TX first");
            link.check_tx();
            assert_eq!(link.op.take(10, 0), fail(ENOTCONN), "RX is not attached");
            link.op
                .attach(&link.tcp, None, Some(&link.rx))
                .expect("RX later");
            link.check();

            let mut link = Link::detached(net::pair(), version, cipher);
            link.op
                .attach(&link.tcp, None, Some(&link.rx))
                .expect("RX first");
            link.check_rx();
            assert_eq!(link.op.send(b"x", 0), fail(ENOTCONN), "TX is not attached");
            link.op
                .attach(&link.tcp, Some(&link.tx), None)
                .expect("TX later");
            link.check();
        }
    });
}

#[test]
fn attach_starts_at_any_sequence_number() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            for seq in [1, 255, 256, 0xffff_ffff, 1 << 40] {
                let (near, far) = net::pair();
                let tx = Keys::random_at(version, cipher, seq);
                let rx = Keys::random_at(version, cipher, seq + 7);
                let op = Op::new(cipher.name());
                op.attach(&near, Some(&tx), Some(&rx)).expect("attach");
                let peer = Peer::new(far, rx.clone(), tx.clone());
                let mut link = Link {
                    op: op.into(),
                    tcp: near,
                    peer,
                    tx,
                    rx,
                };
                link.check();
                assert_eq!(link.op.seq(Dir::Tx), seq + 1);
                assert_eq!(link.op.seq(Dir::Rx), seq + 8);
            }
        }
    });
}

#[test]
fn tls12_explicit_nonce_wraps_without_harm() {
    in_vm(|| {
        let mut link = Link::detached(net::pair(), Version::Tls12, Cipher::Aes128Gcm);
        link.tx.set_nonce(u64::MAX);
        link.rx.set_nonce(u64::MAX);
        link.peer = Peer::new(link.peer.tcp, link.rx.clone(), link.tx.clone());
        link.op
            .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
            .expect("attach");
        link.check();
        link.check();
    });
}

#[test]
fn ipv6_and_close_wait_are_welcome() {
    in_vm(|| {
        let pair = net::pair_on("[::1]:0", |_| {}, |_| {});
        Link::over(pair, Version::Tls13, Cipher::Aes128Gcm).check();

        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        link.peer.data(b"early");
        link.peer.tcp.shutdown(Shutdown::Write).unwrap();
        let hup = net::poll(&link.tcp, POLLRDHUP, ms(5000));
        assert_ne!(hup & POLLRDHUP, 0, "CLOSE_WAIT");
        link.op
            .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
            .expect("attach in CLOSE_WAIT");
        assert_eq!(link.op.recv_exact(5), b"early");
        link.check_tx();
    });
}

#[test]
fn bytes_that_came_before_attach_are_read() {
    in_vm(|| {
        for (version, cipher) in SUITES {
            let mut link = Link::detached(net::pair(), version, cipher);
            link.peer.data(b"between Finished ");
            link.peer.data(b"and attach");
            link.op
                .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                .expect("attach");
            assert_eq!(link.op.recv_exact(27), b"between Finished and attach");
        }
    });
}

#[test]
fn d09_each_wrong_fd_has_its_own_errno() {
    in_vm(|| {
        struct Fd(i32);
        impl AsRawFd for Fd {
            fn as_raw_fd(&self) -> i32 {
                self.0
            }
        }
        assert_eq!(try_attach(&Fd(-1)), fail(EBADF));
        assert_eq!(try_attach(&Fd(1_000_000)), fail(EBADF));
        assert_eq!(
            try_attach(&File::open("/dev/null").unwrap()),
            fail(ENOTSOCK)
        );
        assert_eq!(try_attach(&sys::pipe().0), fail(ENOTSOCK));
        assert_eq!(
            try_attach(&UnixStream::pair().unwrap().0),
            fail(ESOCKTNOSUPPORT)
        );
        for (family, kind, protocol) in [
            (AF_INET, SOCK_DGRAM, 0),
            (AF_INET, SOCK_RAW, IPPROTO_ICMP),
            (AF_NETLINK, SOCK_RAW, 0),
            (AF_ALG, SOCK_SEQPACKET, 0),
        ] {
            let other = sys::socket(family, kind, protocol).unwrap();
            assert_eq!(try_attach(&other), fail(ESOCKTNOSUPPORT), "{family}");
        }
        // Not in every kernel; where it exists it is not plain TCP.
        if let Ok(mptcp) = sys::socket(AF_INET, SOCK_STREAM, 262) {
            assert_eq!(try_attach(&mptcp), fail(ESOCKTNOSUPPORT), "MPTCP");
        }
        let op = Op::new("gcm(aes)");
        assert_eq!(try_attach(&op), fail(ESOCKTNOSUPPORT), "another op");
        assert_eq!(
            op.attach(&op, Some(&keys()), None),
            fail(ESOCKTNOSUPPORT),
            "itself"
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(try_attach(&listener), fail(ENOTCONN), "listener");
        let fresh = sys::socket(AF_INET, SOCK_STREAM, 0).unwrap();
        assert_eq!(try_attach(&fresh), fail(ENOTCONN), "not connected");
        let (near, _far) = net::pair();
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(try_attach(&near), fail(ENOTCONN), "FIN was sent");
        let (near, far) = net::pair();
        net::linger_zero(&far);
        drop(far);
        assert_ne!(net::poll(&near, POLLIN, ms(5000)) & POLLHUP, 0);
        assert_eq!(try_attach(&near), fail(ENOTCONN), "RST came");
    });
}

#[test]
fn d09_another_namespace_is_exdev() {
    in_vm(|| {
        let (near, _far) = net::pair();
        let outside = Op::new("gcm(aes)");
        std::thread::spawn(move || {
            net::new_namespace();
            assert_eq!(try_attach(&near), fail(EXDEV));
            let (inner, _far) = net::pair();
            assert_eq!(outside.attach(&inner, Some(&keys()), None), fail(EXDEV));
            assert_eq!(try_attach(&inner), Ok(()), "op and TCP both inside");
        })
        .join()
        .unwrap();
    });
}

#[test]
fn d09_a_claimed_socket_is_busy() {
    in_vm(|| {
        let mut link = Link::any();
        assert_eq!(try_attach(&link.tcp), fail(EBUSY), "a second op");
        let (other, _far) = net::pair();
        let moved = link.op.attach(&other, Some(&keys()), None);
        assert!(moved.is_err(), "an op belongs to its first socket");
        assert_eq!(
            link.op.attach(&link.tcp, Some(&keys()), None),
            fail(EALREADY)
        );
        assert_eq!(
            link.op.attach(&link.tcp, None, Some(&keys())),
            fail(EALREADY)
        );
        link.check();

        let (near, _far) = net::pair();
        sys::setsockopt(&near, IPPROTO_TCP, TCP_ULP, b"tls").expect("TCP_ULP tls");
        assert_eq!(try_attach(&near), fail(EBUSY), "mainline kTLS");

        let (near, _far) = net::pair();
        sys::set_int(&near, IPPROTO_TCP, TCP_REPAIR, 1).expect("TCP_REPAIR");
        assert_eq!(try_attach(&near), fail(EBUSY), "TCP_REPAIR");
        sys::set_int(&near, IPPROTO_TCP, TCP_REPAIR, 0).expect("TCP_REPAIR");
        assert_eq!(try_attach(&near), Ok(()));

        let (near, _far) = net::pair();
        let map = net::Sockmap::new();
        map.insert(&near).expect("sockmap");
        assert_eq!(try_attach(&near), fail(EBUSY), "sockmap");
    });
}

#[test]
fn the_claim_keeps_others_away() {
    in_vm(|| {
        let mut link = Link::any();
        let ulp = sys::setsockopt(&link.tcp, IPPROTO_TCP, TCP_ULP, b"tls");
        assert_eq!(ulp, fail(EEXIST), "TCP_ULP");
        assert!(net::Sockmap::new().insert(&link.tcp).is_err(), "sockmap");
        link.check();
    });
}

#[test]
fn fd_zero_works() {
    in_vm(|| {
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let attach = Attach::new(0, Some(&link.tx), Some(&link.rx));
        let result = sys::with_stdin(&link.tcp, || link.op.attach_with(&attach));
        assert_eq!(result, Ok(()));
        link.check();
    });
}

#[test]
fn a_malformed_attach_is_einval_and_leaves_the_socket_alone() {
    in_vm(|| {
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        let good = Attach::new(link.tcp.as_raw_fd(), Some(&link.tx), Some(&link.rx));
        let op = &link.op;
        let refused = |what: &str, change: &dyn Fn(&mut Attach)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(op.attach_with(&bad), fail(EINVAL), "{what}");
        };
        for size in [0, 1, 127, 129, 4096, u32::MAX] {
            refused("size", &move |a| a.size = size);
        }
        for flags in [1, 0x8000_0000] {
            refused("flags", &move |a| a.flags = flags);
        }
        refused("reserved", &|a| a.reserved = 1);
        for max in [1, 63, 16385, u16::MAX] {
            refused("tx_max", &move |a| a.tx_max = max);
        }
        refused("no direction", &|a| {
            a.tx = [0; 56];
            a.rx = [0; 56];
        });
        for version in [0u16, 0x0300, 0x0302, 0x0305, 0xfefd] {
            refused("version", &move |a| {
                a.tx[..2].copy_from_slice(&version.to_ne_bytes())
            });
            refused("version", &move |a| {
                a.rx[..2].copy_from_slice(&version.to_ne_bytes())
            });
        }
        for cipher in [0u16, 50, 53, 54, 55, 56, 60000] {
            refused("cipher", &move |a| {
                a.tx[2..4].copy_from_slice(&cipher.to_ne_bytes())
            });
            refused("cipher", &move |a| {
                a.rx[2..4].copy_from_slice(&cipher.to_ne_bytes())
            });
        }
        refused("tail", &|a| a.tx[55] = 1);
        refused("tail", &|a| a.rx[40] = 1);

        let bytes = good.bytes();
        for len in [0, 4, 64, 127] {
            let short = sys::setsockopt(&**op, SOL_ALG, ALG_TLS_ATTACH, &bytes[..len]);
            assert_eq!(short, fail(EINVAL), "optlen {len}");
        }
        let mut long = bytes.to_vec();
        long.extend([0; 8]);
        assert_eq!(
            sys::setsockopt(&**op, SOL_ALG, ALG_TLS_ATTACH, &long),
            fail(EINVAL)
        );

        op.attach_with(&good).expect("the socket is still free");
        link.check();
    });
}

#[test]
fn ciphers_of_another_parent_are_einval() {
    in_vm(|| {
        let (near, _far) = net::pair();
        for (version, cipher) in SUITES {
            let keys = Keys::random(version, cipher);
            for name in ["gcm(aes)", "rfc7539(chacha20,poly1305)", "ccm(aes)"] {
                if name != cipher.name() {
                    let op = Op::new(name);
                    assert_eq!(op.attach(&near, Some(&keys), None), fail(EINVAL), "{name}");
                }
            }
        }
        assert_eq!(try_attach(&near), Ok(()));
    });
}

#[test]
fn unknown_options_are_refused() {
    in_vm(|| {
        let mut link = Link::any();
        let op = &*link.op;
        for (level, name) in [(SOL_ALG, 1), (SOL_ALG, 0x7403), (SOL_TLS, 3), (SOL_TLS, 99)] {
            assert!(
                sys::setsockopt(op, level, name, &[0; 128]).is_err(),
                "set {level}/{name}"
            );
            assert!(
                sys::getsockopt(op, level, name, &mut [0; 128]).is_err(),
                "get"
            );
        }
        link.check();
    });
}

#[test]
fn d12_keys_belong_to_the_op_never_to_the_parent() {
    in_vm(|| {
        let parent = Parent::bind("gcm(aes)").unwrap();
        const ALG_SET_KEY: i32 = 1;
        let set = sys::setsockopt(&parent, SOL_ALG, ALG_SET_KEY, &random(16));
        assert!(set.is_err(), "a parent takes no key");
        let mut links: Vec<Link> = (0..3)
            .map(|_| {
                let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
                link.op = parent.accept().unwrap().into();
                assert_eq!(
                    link.op.send(b"x", 0),
                    fail(ENOTCONN),
                    "a new op has no keys"
                );
                link
            })
            .collect();
        for link in &mut links {
            link.op
                .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
                .expect("attach");
        }
        for _ in 0..3 {
            links.iter_mut().for_each(Link::check);
        }
        drop(parent);
        links.iter_mut().for_each(Link::check);
    });
}

/// af_alg releases the socket of an accept() that failed half way.
#[test]
fn an_accept_without_memory_is_only_an_error() {
    in_vm(|| {
        let limit = "/proc/sys/net/core/optmem_max";
        let before = std::fs::read_to_string(limit).expect("optmem_max");
        let parent = Parent::bind("gcm(aes)").unwrap();
        std::fs::write(limit, "500").unwrap();
        let results = [0; 3].map(|_| parent.accept().err());
        std::fs::write(limit, before).unwrap();
        assert_eq!(results, [Some(Errno(ENOMEM)); 3]);
        let mut link = Link::detached(net::pair(), Version::Tls13, Cipher::Aes128Gcm);
        link.op = parent.accept().expect("with memory").into();
        link.op
            .attach(&link.tcp, Some(&link.tx), Some(&link.rx))
            .expect("attach");
        link.check();
    });
}
