// SPDX-License-Identifier: BSD-2-Clause
//! What a run may do on the node, and what it logs.

mod json_log;
mod sandbox;
