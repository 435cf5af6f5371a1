// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which cryptography runs below, and that nothing of the keys stays behind.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use ktlsshim_tests::keys::random;
use ktlsshim_tests::net::crypto_user;
use ktlsshim_tests::*;

/// name → (driver, priority, references) of `/proc/crypto`.
fn drivers() -> Vec<(String, String, i64, i64)> {
    let text = std::fs::read_to_string("/proc/crypto").unwrap();
    text.split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| {
                block.lines().find_map(|l| {
                    let (key, value) = l.split_once(':')?;
                    (key.trim() == name).then(|| value.trim().to_owned())
                })
            };
            let number = |name| field(name)?.parse().ok();
            Some((
                field("name")?,
                field("driver")?,
                number("priority")?,
                number("refcnt")?,
            ))
        })
        .collect()
}

fn works(version: Version, cipher: Cipher) {
    let mut link = Link::new(version, cipher);
    for len in [1, 15, 4096, 16384, 40_000] {
        let data = random(len);
        link.push(&data);
        let (op, copy) = (link.op.clone(), data.clone());
        let reader = std::thread::spawn(move || op.recv_exact(copy.len()));
        link.peer.data(&data);
        assert!(reader.join().unwrap() == data);
    }
}

/// The fast driver is flagged asynchronous: who masks that flag gets one that
/// costs eighteen times as much.
#[test]
fn the_fast_gcm_driver_is_used() {
    in_vm(|| {
        drop(Link::any());
        let best = drivers()
            .into_iter()
            .filter(|(name, ..)| name == "gcm(aes)")
            .max_by_key(|(_, _, priority, _)| *priority)
            .expect("gcm(aes)");
        let idle = best.3;
        let link = Link::any();
        let held = drivers()
            .into_iter()
            .find(|d| d.1 == best.1)
            .expect("driver")
            .3;
        assert!(held > idle, "{} is the best and is not used", best.1);
        drop(link);
    });
}

/// Drivers that a kernel may have without having made them yet: the generic ones, and one that is
/// truly asynchronous (a crypto daemon's queue). Kernels differ in the names and in what is left.
const TEMPLATES: [&str; 7] = [
    "gcm_base(ctr(aes-generic),ghash-generic)",
    "cryptd(gcm_base(ctr(aes-generic),ghash-generic))",
    "ccm_base(ctr(aes-generic),cbcmac(aes-generic))",
    "ccm_base(ctr-aes-lib,cbcmac-aes-lib)",
    "rfc7539(chacha20-generic,poly1305-generic)",
    "gcm-aes-lib",
    "generic-gcm-aesni",
];

/// D13: the request has room for whatever the algorithm keeps in it. Each
/// driver that the kernel has is made the preferred one in turn.
#[test]
fn d13_several_aead_drivers() {
    in_vm_for(ms(180_000), || {
        works(Version::Tls13, Cipher::Aes128Gcm);
        works(Version::Tls12, Cipher::Aes128Ccm);
        works(Version::Tls13, Cipher::ChaCha20);
        let before = drivers();
        for (name, version, cipher, least) in [
            ("gcm(aes)", Version::Tls13, Cipher::Aes128Gcm, 3),
            ("gcm(aes)", Version::Tls12, Cipher::Aes256Gcm, 3),
            ("ccm(aes)", Version::Tls13, Cipher::Aes128Ccm, 2),
            (
                "rfc7539(chacha20,poly1305)",
                Version::Tls12,
                Cipher::ChaCha20,
                1,
            ),
        ] {
            // Made anew: one that nobody uses goes away.
            let made = TEMPLATES.iter().filter(|t| crypto_user(t, 1).is_ok());
            assert!(made.count() > 1, "the kernel made none of {TEMPLATES:?}");
            let same = |d: &(String, String, i64, i64)| d.0 == name;
            let all: Vec<_> = drivers().into_iter().filter(same).collect();
            println!("{name}: {:?}", all.iter().map(|d| &d.1).collect::<Vec<_>>());
            assert!(all.len() >= least, "{} drivers of {name}", all.len());
            for (_, driver, priority, _) in all {
                crypto_user(&driver, 9000).unwrap_or_else(|e| panic!("{driver}: {e:?}"));
                let best = drivers().into_iter().filter(same).max_by_key(|d| d.2);
                assert_eq!(best.expect("a driver").1, driver);
                works(version, cipher);
                crypto_user(&driver, priority as u32).expect("priority back");
            }
        }
        // To make one that exists already is to lower it: the next test looks for the best.
        for (_, driver, priority, _) in before {
            let _ = crypto_user(&driver, priority as u32);
        }
    });
}

/// Physical memory, as `(file, ranges)`: the direct map that `/proc/kcore` shows, or, on a kernel
/// built without it, `/dev/mem`.
fn memory() -> (File, Vec<(u64, u64)>) {
    let word = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    let Ok(kcore) = File::open("/proc/kcore") else {
        let ranges = std::fs::read_to_string("/proc/iomem").expect("/proc/iomem");
        let ram = ranges.lines().filter(|l| l.ends_with(" : System RAM"));
        let hex = |s: &str| u64::from_str_radix(s, 16).expect("an address");
        let ram = ram.map(|l| {
            let (from, to) = l.split_once(" : ").unwrap().0.split_once('-').unwrap();
            // Whole pages: the kernel warns of a page that is RAM in part.
            let (from, end) = (hex(from).next_multiple_of(4096), (hex(to) + 1) & !4095);
            (from, end.saturating_sub(from))
        });
        return (File::open("/dev/mem").expect("/dev/mem"), ram.collect());
    };
    let mut head = [0; 64];
    kcore.read_exact_at(&mut head, 0).unwrap();
    let (table, count) = (word(&head, 32), u16::from_le_bytes([head[56], head[57]]));
    let mut ranges = Vec::new();
    for i in 0..u64::from(count) {
        let mut ph = [0; 56];
        kcore.read_exact_at(&mut ph, table + i * 56).unwrap();
        let (kind, offset, at, len) = (ph[0], word(&ph, 8), word(&ph, 16), word(&ph, 32));
        // The direct map of x86-64 without KASLR.
        let direct = (0xffff_8880_0000_0000..0xffff_c880_0000_0000).contains(&at);
        if kind == 1 && direct {
            ranges.push((offset, len));
        }
    }
    (kcore, ranges)
}

/// Where the complement of `hidden` is in physical memory, and what stands around it; ends at the
/// first hit if `first`. Our own memory must be no hit: it holds the complement, and one half in the
/// clear.
fn memory_holds(hidden: &[u8], first: bool) -> Vec<String> {
    const BEHIND: usize = 4096;
    let (file, ranges) = memory();
    let half: Vec<u8> = hidden[..16].iter().map(|b| !b).collect();
    let mut block = vec![0; (1 << 20) + BEHIND];
    let mut hits = Vec::new();
    let mut seen = 0;
    'search: for (offset, len) in ranges {
        let mut from = 0;
        while from < len {
            // The page behind is read for the kernel's page of the transfer, which keeps what was read
            // last and may not be used again for long: that should not be a page with a hit.
            let read = (block.len() as u64).min(len - from) as usize;
            let n = read.min(block.len() - BEHIND);
            if file
                .read_exact_at(&mut block[..read], offset + from)
                .is_ok()
            {
                seen += n;
                for hit in sys::occurrences(&block[..n], &half) {
                    let rest = &block[hit + 16..n.min(hit + 32)];
                    if rest.iter().map(|b| !b).eq(hidden[16..].iter().copied()) {
                        let around = &block[hit.saturating_sub(64)..n.min(hit + 96)];
                        hits.push(format!("{:#x}: {around:02x?}", offset + from + hit as u64));
                    }
                }
                if !hits.is_empty() && first {
                    break 'search;
                }
            }
            from += n as u64;
        }
    }
    // What was read may be a hit of the next search; so may the kernel's page
    // for the transfer, which the second read overwrites.
    file.read_exact_at(&mut block[..4096], 0).unwrap();
    block.fill(0);
    std::hint::black_box(&block);
    assert!(
        first || seen > 1 << 30,
        "only {seen} bytes of memory were seen"
    );
    hits
}

/// Keys are cleansed: after detach and close no page of memory holds them.
#[test]
fn no_key_stays_in_memory() {
    in_vm_for(std::time::Duration::from_secs(150), || {
        let (near, _far) = net::pair();
        let op = Op::new("gcm(aes)");
        let mut keys = Keys::random(Version::Tls13, Cipher::Aes256Gcm);
        let mut attach = op::Attach::new(near.as_raw_fd(), Some(&keys), None);
        let mut bytes = attach.bytes();
        sys::setsockopt(&op, op::SOL_ALG, op::ALG_TLS_ATTACH, &bytes).expect("attach");
        let hidden: Vec<u8> = keys.key.iter().map(|b| !b).collect();
        for copy in [&mut keys.key[..], &mut attach.tx, &mut bytes] {
            copy.fill(0);
            std::hint::black_box(&copy);
        }
        op.send_all(b"use it");
        assert!(
            !memory_holds(&hidden, true).is_empty(),
            "the search does not find a key in use"
        );
        op.detach(Dir::Tx).expect("detach");
        drop((op, near));
        let left = memory_holds(&hidden, false);
        assert!(left.is_empty(), "a key that is gone: {left:#?}");
    });
}
