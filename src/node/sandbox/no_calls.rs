// SPDX-License-Identifier: BSD-2-Clause
//! The filter on architectures that seccompiler does not know: none.

use std::io;

use crate::node::sys::Filter;

/// What a process may do beyond its files: here, whatever its user may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// IP sockets.
    pub(super) network: bool,
    /// Signals to other processes.
    pub(super) signals: bool,
}

/// No filter.
pub(super) fn filter(_reach: Reach) -> io::Result<Filter> {
    Ok(())
}
