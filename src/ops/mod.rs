//! STAND-IN: replaced at merge.
pub mod bio;
pub mod fd;
pub mod io;
pub mod ssl;
