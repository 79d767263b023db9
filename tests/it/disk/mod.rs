// SPDX-License-Identifier: BSD-2-Clause
//! What happens on the disk of an instance, and to whoever uses it.

mod holder_layers;
mod holder_names;
mod holder_scripts;
pub(super) mod holders;
mod readback;
mod thin;
mod wipe;
