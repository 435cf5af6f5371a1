// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: how people build, lint and test ktlsshim. One verb per chore, one file per verb;
//! everything that a verb makes or fetches lies under `target/`.

mod bench;
mod bench_cells;
mod bench_guest;
mod bench_nginx;
mod bench_profile;
mod bench_svg;
mod bench_table;
mod build;
mod clean;
mod coverage;
mod demo;
mod demo_guest;
mod demo_judge;
mod demo_table;
mod dmesg;
mod doctor;
mod fetch;
mod figures;
mod fuzz;
mod here;
mod host;
mod image;
mod kernel;
mod kernel_debian;
mod kernel_debug;
mod lint;
mod matrix;
mod matrix_guest;
mod matrix_judge;
mod matrix_root;
mod matrix_table;
mod paths;
mod ports;
mod qemu;
mod roots;
mod shell;
mod soak;
mod splats;
mod test;
mod toolroot;
mod uncovered;
mod vm;

use clap::{Parser, Subcommand};

/// Chores of ktlsshim
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a command in a throwaway virtual machine with the kernel module
    Vm(vm::Vm),
    /// The same, interactively
    Shell(shell::Shell),
    /// Build the shim and the kernel module
    Build(build::Build),
    /// Run all tests: on this machine, then in the virtual machine
    Test(test::Test),
    /// Check form and hygiene of the Rust and C sources
    Lint(lint::Lint),
    /// Say what is missing on this machine, and what brings it
    Doctor(doctor::Doctor),
    /// Remove what runs left behind
    Clean(clean::Clean),
    /// Show the main job: nginx and curl, with and without ktlsshim
    Demo(demo::Demo),
    /// Count what a byte costs, without TLS, with OpenSSL, its own kernel TLS, and ktlsshim
    Bench(bench::Bench),
    /// Run real programs with and without ktlsshim, and write MATRIX.md
    Matrix(matrix::Matrix),
    /// Fetch other OpenSSLs to test with
    Roots(roots::Roots),
    /// Plant mistakes in the debug kernel, and see each of them found
    Splats(splats::Splats),
    /// Run the kernel tests on the debug kernel and say which lines of the module they ran
    Coverage(coverage::Coverage),
    /// Run random calls of the kernel socket against a model of it
    Fuzz(fuzz::Fuzz),
    /// Compare random programs with and without ktlsshim, for as long as you like
    Soak(soak::Soak),
}

fn main() {
    let result = match Cli::parse().verb {
        Verb::Vm(verb) => verb.run(),
        Verb::Shell(verb) => verb.run(),
        Verb::Build(verb) => verb.run(),
        Verb::Test(verb) => verb.run(),
        Verb::Lint(verb) => verb.run(),
        Verb::Doctor(verb) => verb.run(),
        Verb::Clean(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Matrix(verb) => verb.run(),
        Verb::Roots(verb) => verb.run(),
        Verb::Fuzz(verb) => verb.run(),
        Verb::Soak(verb) => verb.run(),
        Verb::Splats(verb) => verb.run(),
        Verb::Coverage(verb) => verb.run(),
    };
    match result {
        Ok(status) => std::process::exit(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            // As env, nohup and timeout do: 125 is the tool's own failure, not the command's.
            std::process::exit(125);
        }
    }
}
