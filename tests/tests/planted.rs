// SPDX-License-Identifier: MIT OR Apache-2.0
//! The soak finds each fault of the lanes that the shim can be made to commit (src/planted.rs): random
//! programs, one after the other, until one differs from plain OpenSSL or is wrong on the wire. A fault
//! that stays hidden fails its test: then the generator is not good enough.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ktlsshim_soak::planted::{Bounds, Hunt, Shape, hunt};
use ktlsshim_soak::program::{Op, Program, Side, Step};

const BOUNDS: Bounds = Bounds {
    programs: 150,
    time: Duration::from_secs(150),
};

fn shim() -> PathBuf {
    let shim = std::env::var_os("KTLSSHIM_PLANTED");
    PathBuf::from(
        shim.expect("run me by `cargo xtask test`: KTLSSHIM_PLANTED names a shim with faults"),
    )
}

fn find(plant: &str, shape: Option<Shape>) -> Hunt {
    let hunt = hunt(&shim(), Some(plant), BOUNDS, shape).expect("endpoints");
    match &hunt.found {
        Some(found) => {
            let [plain, other] = &found.answers;
            println!(
                "{plant}: seed {}, {} programs, {:.0} s: {}\n  plain {plain}\n  fault {other}",
                found.seed, hunt.programs, hunt.seconds, found.what
            );
        }
        None => panic!(
            "{plant} was not found: {} programs, {:.0} s",
            hunt.programs, hunt.seconds
        ),
    }
    hunt
}

macro_rules! faults {
    ($($name:ident = $plant:literal,)*) => {
        $(#[test]
        fn $name() {
            find($plant, None);
        })*

        /// Faults that a whole program shows.
        const LANES: &[&str] = &[$($plant),*];
    };
}

faults! {
    a_key_update_received = "skip-rekey-rx",
    a_key_update_sent = "skip-rekey-tx",
    a_number_of_the_virtual_wire = "wire-seq-plus-one",
    a_placeholder_sent = "keep-placeholder",
    a_write_from_its_start = "forget-write-done",
    a_held_byte_lost = "drop-held",
    a_late_detach = "detach-late",
    a_close_notify_ignored = "ignore-received-shutdown",
    a_reset_as_an_end = "reset-as-eof",
    data_before_a_key_update = "fast-with-keyupdate-pending",
    a_peek_that_takes = "peek-consumes",
    data_before_older_data = "fast-while-wire-busy",
}

/// A window that is smaller than a record, a record that arrives in parts and is bad: rare among all
/// random programs, and the only way in which bytes are handed back that nobody else has.
#[test]
fn staged_bytes_lost() {
    find("lose-staged", Some(taken_in_part));
}

fn taken_in_part(program: &mut Program) {
    for end in &mut program.setup.ends {
        end.receive_buffer = 9000;
    }
    // The data with which each program begins, and a little of its own.
    program.steps.truncate(8);
    program.steps.extend([
        Step::Barrier,
        Step::Damage { to: Side::Server },
        Step::Do(Side::Client, Op::Write(40_000)),
        Step::Do(Side::Server, Op::ReadAll { piece: 16_384 }),
        Step::Do(Side::Client, Op::ReadOnce(100)),
    ]);
}

/// Both ends agree about everything here: only the wire shows it.
#[test]
fn a_nonce_used_twice() {
    let found = find("reuse-nonce", None).found.expect("was found");
    assert!(
        found.what.contains("are on the wire already"),
        "the oracle did not see it: {}",
        found.what
    );
}

/// Whatever the sources can plant is looked for: here, or where the proof is tested.
#[test]
fn none_is_forgotten() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/planted.rs");
    let source = std::fs::read_to_string(source).expect("the list of faults");
    let all: BTreeSet<&str> = source
        .lines()
        .filter_map(|l| l.trim().strip_suffix("\",")?.split_once(" = \""))
        .map(|(_, name)| name)
        .collect();
    let proof = [
        "wrong-key",
        "wrong-traffic-key",
        "wrong-seq",
        "wrong-cipher",
    ];
    let alone = ["reuse-nonce", "lose-staged"];
    let here = LANES.iter().copied().chain(alone).chain(proof);
    assert_eq!(all, here.collect());
}

/// The same shim without a fault differs in nothing: it is the fault that is found.
#[test]
fn without_a_fault_there_is_nothing_to_find() {
    let bounds = Bounds {
        programs: 12,
        time: Duration::from_secs(60),
    };
    let hunt = hunt(&shim(), None, bounds, None).expect("endpoints");
    assert!(hunt.programs > 0);
    if let Some(found) = hunt.found {
        panic!("seed {}: {}: {:#?}", found.seed, found.what, found.answers);
    }
}
