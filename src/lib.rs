//! ktlsshim
#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("the shim knows glibc on x86_64 Linux only");

pub mod boundary;
pub mod config;
pub mod conn;
pub mod errno;
pub mod fdtable;
pub mod hooks;
pub mod openssl;
pub mod ops;
pub mod process;
pub mod real;
pub mod reason;
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
