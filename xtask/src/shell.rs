// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask shell`: the virtual machine, interactively.

use anyhow::{Result, bail};
use clap::Args;

use crate::vm::Machine;

#[derive(Args, Debug)]
#[command(
    after_help = "The machine is gone, with all that was written outside /out, when the shell ends."
)]
pub struct Shell {
    #[command(flatten)]
    pub machine: Machine,
    /// What to run instead of a login shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Shell {
    pub fn run(mut self) -> Result<i32> {
        use std::io::IsTerminal;
        if !std::io::stdin().is_terminal() {
            bail!("shell needs a terminal; for scripts there is: cargo xtask vm -- sh -c '…'");
        }
        // Nobody wants to be thrown out of a shell; an explicit --timeout still holds.
        if self.machine.timeout == crate::vm::DEFAULT_TIMEOUT {
            self.machine.timeout = 7 * 24 * 3600;
        }
        let command = match self.command {
            c if c.is_empty() => vec!["/bin/bash".into(), "-l".into()],
            c => c,
        };
        Ok(self.machine.run(&command, true, None)?.code())
    }
}
