// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps with a second thread.

use std::sync::Arc;

use ktlsshim_tests::Op;

use crate::program::Meet;
use crate::world::{Check, World};

impl World<'_> {
    pub fn together(&mut self, _o: usize, _op: &Arc<Op>, _meet: &Meet) -> Check {
        Ok(())
    }
}
