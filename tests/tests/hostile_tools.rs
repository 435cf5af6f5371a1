// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other people's libraries in the same process: allocators, another preload. The same scenes run
//! without the shim and with it, before and after the other library.

use std::path::PathBuf;

use ktlsshim_tests::tools::{library, with_library};

#[test]
fn jemalloc_before_and_after() {
    let path = library("libjemalloc.so.2");
    let scenes = ["mapped", "destructor"];
    with_library("jemalloc", &path, "# maps libjemalloc", &scenes, 2);
}

#[test]
fn tcmalloc_before_and_after() {
    let path = library("libtcmalloc_minimal.so.4");
    let scenes = ["mapped", "destructor"];
    with_library("tcmalloc", &path, "# maps libtcmalloc", &scenes, 2);
}

/// It stands in the way of the same functions, and hands on to the next library that has them.
#[test]
fn another_preload_before_and_after() {
    let path = PathBuf::from(env!("KTLSSHIM_TESTS_OTHER"));
    with_library("other", &path, "# the other preload saw", &["mapped"], 1);
}
