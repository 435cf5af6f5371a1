// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel tests share.
//!
//! `op` speaks to the kernel TLS socket, `peer` is the other end of the
//! connection and uses none of our code: it seals and opens records with the
//! RustCrypto crates. `fixture` ties both to one loopback connection.
//!
//! The tests change namespaces, signals and user ids of their own threads and
//! need `algif_tls.ko`, so they run in the throwaway machine only and say so
//! (by failing) anywhere else.

pub mod counters;
pub mod faults;
pub mod fixture;
pub mod keys;
pub mod meddler;
pub mod net;
pub mod op;
pub mod peer;
pub mod programs;
pub mod programs_fixture;
pub mod programs_talk;
pub mod stage;
pub mod sys;
pub mod tools;
pub mod traffic;
pub mod veth;
pub mod watch;

pub use fixture::{FORMS, Link, SUITES, duo, pattern};
pub use keys::{Cipher, Keys, Version, random};
pub use op::{Dir, Op, Parent};
pub use peer::{Fault, Peer, Record};
pub use sys::{Errno, fail};
pub use watch::{eventually, figure, in_vm, in_vm_for, ms, patient, sleeper, within};
