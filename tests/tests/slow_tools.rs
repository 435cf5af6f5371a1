// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sanitizers and valgrind in the same process. Not part of a run without names: an emulator in an
//! emulator takes minutes.

use ktlsshim_tests::tools::{END, Variables, Way, compare, library};

/// Wherever its library stands, leaks counted too: its exit status would be another.
#[test]
fn address_sanitizer() {
    let asan = library("libasan.so.8").display().to_string();
    let unordered: Variables = &[("ASAN_OPTIONS", "verify_asan_link_order=0")];
    let ways: [(&str, String, Variables, &str); 3] = [
        (
            env!("KTLSSHIM_TESTS_END_ASAN"),
            "+".into(),
            unordered,
            "libasan",
        ),
        (
            env!("KTLSSHIM_TESTS_END_ASAN"),
            format!("{asan}:+"),
            &[],
            "libasan",
        ),
        (
            env!("KTLSSHIM_TESTS_END_ASAN_STATIC"),
            "+".into(),
            &[],
            "end-asan-static",
        ),
    ];
    for (program, preload, env, there) in ways {
        let way = Way {
            program,
            preload,
            env,
            wrapper: &[],
            there,
        };
        compare("asan", &way, &["mapped", "destructor"], 2);
    }
}

#[test]
fn valgrind() {
    let way = Way {
        program: END,
        preload: "+".into(),
        env: &[],
        wrapper: &["/usr/bin/valgrind", "--quiet", "--error-exitcode=99"],
        there: "# maps vgpreload_memcheck",
    };
    compare("valgrind", &way, &["mapped"], 1);
}
