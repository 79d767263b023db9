// SPDX-License-Identifier: BSD-2-Clause
//! network-config version 2 from what Ganeti says of the instance's NICs.

/// The network of one instance: the content of its network-config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network;
