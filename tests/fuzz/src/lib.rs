// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random calls of the kernel TLS socket, against a model of it.
//!
//! ```text
//!   program.rs    a sequence of calls as data: printed, shrunk, replayed
//!   generate.rs   made from a seed
//!   model.rs      what each call must do: claims, keys, readiness
//!   model_rx.rs     receiving: bytes, record types, errors, end of file
//!   model_tx.rs     sending: which records must appear
//!   world.rs      the descriptors beside the model, and the peer
//!   wire.rs       the peer's eyes: every record, every number, every nonce
//!   run.rs        runs a sequence and compares, call by call
//!   run_life.rs     attach, detach, re-key, close
//!   run_tx.rs       sending
//!   run_rx.rs       receiving
//!   run_tcp.rs      the TCP socket and the peer
//!   misuse.rs       calls that must fail
//!   hurt.rs         faults inside a call
//!   together.rs     steps with a second thread
//!   wake.rs         those in which it sleeps
//!   campaign.rs   sequences until the time is up; shrinks what differs
//!   health.rs     what no single call shows: kernel log, pages that are gone
//! ```
//!
//! # What is compared
//! Return values, errnos, bytes, record types, MSG_CTRUNC, sequence numbers and nonces, staged bytes,
//! readiness of the op and of the TCP socket (exactly, with SO_RCVLOWAT), each record on the wire, the
//! counters of the network namespace.
//!
//! # Where the interface leaves freedom
//! * Record borders of files and pipes: any, but as many as the sequence number says.
//! * Room: a call that may find the send buffer full may return whole records, or EAGAIN if something
//!   waits to be sent.
//! * A small receive buffer: any number of the records that were sent may have arrived, but one that was
//!   sent whole must make the TCP socket readable.
//! * A fault in a buffer: up to 63 bytes before it may not have been copied; none is lost.
//! * Threads: any order of whole records.

pub mod campaign;
pub mod generate;
pub mod generate_steps;
pub mod health;
pub mod hurt;
pub mod misuse;
pub mod model;
pub mod model_rx;
pub mod model_tx;
pub mod program;
pub mod rng;
pub mod run;
pub mod run_life;
pub mod run_rx;
pub mod run_tcp;
pub mod run_tx;
pub mod shrink;
pub mod tally;
pub mod together;
pub mod wake;
pub mod wire;
pub mod world;
