// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shim costs a process that never uses TLS: no thread, no descriptor, no memory beyond its
//! own pages and the first page of its table.

use ktlsshim_tests::programs::{Lab, Side};

/// Threads, descriptors, and the kilobytes that are nobody's file, as the process itself sees them.
const LOOK: &str = "import os, re
s = open('/proc/self/status').read()
a = 0
for block in re.split(r'\\n(?=[0-9a-f]+-)', open('/proc/self/smaps').read()):
    head = block.split('\\n', 1)[0].split()
    if len(head) == 5 or head[-1] == '[heap]':
        a += int(re.search(r'Private_Dirty: *([0-9]+)', block)[1])
print(re.search(r'Threads:\\s*([0-9]+)', s)[1], len(os.listdir('/proc/self/fd')), a)";

#[test]
fn a_process_without_tls_has_no_thread_no_descriptor_no_memory_for_it() {
    let lab = Lab::new("idle");
    let look = |side| {
        let done = lab
            .program(side, "/usr/bin/python3")
            .env("PYTHONHASHSEED", "0")
            .arg("-S")
            .arg("-c")
            .arg(LOOK)
            .run()
            .good();
        let words: Vec<i64> = done
            .text()
            .split_whitespace()
            .map(|w| w.parse().expect("a number"))
            .collect();
        (words[0], words[1], words[2])
    };
    let least = |side| (0..3).map(|_| look(side)).min().expect("three");
    let (plain, shim) = (least(Side::Plain), least(Side::Shim));
    println!("threads, descriptors, KiB: plain {plain:?}, shim {shim:?}");
    assert_eq!((plain.0, plain.1), (shim.0, shim.1));
    assert!(
        shim.2 - plain.2 <= 64,
        "plain {plain:?}, with the shim {shim:?} (threads, descriptors, KiB)"
    );
}
