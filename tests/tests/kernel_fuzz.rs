// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short run of the model fuzzer (`cargo xtask fuzz` is the long one): random calls of the kernel
//! socket, each of which must do what the model says.

use std::time::{Duration, Instant};

use ktlsshim_fuzz::campaign::{Options, campaign};
use ktlsshim_tests::in_vm_for;

#[test]
fn random_calls_do_what_the_model_says() {
    in_vm_for(Duration::from_secs(180), || {
        let options = Options {
            seed: std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_secs()) * 1_000_000,
            until: Instant::now() + Duration::from_secs(35),
            sequences: u64::MAX,
            workers: 2,
            differences: 1,
            shrink_for: Duration::from_secs(20),
            stray: 24 << 10,
            progress: false,
            faults: 0,
        };
        let (tally, found) = campaign(&options).expect("the fuzzer runs");
        for difference in &found {
            println!("{}", difference.text());
        }
        print!("{}", tally.table());
        assert!(found.is_empty(), "{}", found[0].what);
        let crossed = tally.sealed > 0 && tally.records_in > 0;
        assert!(crossed && tally.sequences > 5, "nothing was shown");
    });
}
