// SPDX-License-Identifier: BSD-2-Clause
//! The scripts that Ganeti calls.

mod create;
mod create_log;
mod export_import;
mod faults;
mod kill_matrix;
mod new_disk;
mod scripts;
mod signals;
