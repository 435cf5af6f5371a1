//! ktlsshim: kernel TLS for OpenSSL programs that nobody has to change.
//!
//! A map of the house, from the street to the cellar:
//!
//! | room | what it is |
//! |---|---|
//! | `hooks` | the exported symbols of libc, libssl and libcrypto; thin |
//! | `ops` | what a hooked call does |
//! | `conn` | one TLS connection: lanes, virtual wire, proof, attach |
//! | `record`, `keys` | TLS records and key schedules over the process's libcrypto |
//! | `backend` | the kernel TLS socket (`kmod/uapi/algif_tls.h`) |
//! | `openssl` | finding libssl and libcrypto, and their functions |
//! | `fdtable`, `thread`, `process` | which fd, which call, which process |
//! | `config`, `reason`, `report` | what the user says, and is told |
//! | `planted` | faults on purpose, for tests of the tests (off) |
//! | `boundary`, `errno`, `real`, `sys` | the edge to C |

// In a test a panic is the report, and the bounds are the test's own.
#![cfg_attr(
    test,
    allow(
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing
    )
)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("the shim knows glibc on x86_64 Linux only");

pub mod backend;
pub mod boundary;
pub mod config;
pub mod conn;
pub mod errno;
pub mod fdtable;
pub mod hooks;
pub mod keys;
pub mod openssl;
pub mod ops;
pub mod planted;
pub mod process;
pub mod real;
pub mod reason;
pub mod record;
pub mod report;
pub mod sys;
pub mod thread;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A test may fail loudly.
mod elf_check;
