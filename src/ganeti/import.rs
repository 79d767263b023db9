// SPDX-License-Identifier: BSD-2-Clause
//! import: the disk first, then what is asked for.

use std::io::{self, ErrorKind};

use super::env::Environment;
use super::request;
use crate::config::Paths;
use crate::disk::device::Target;
use crate::disk::write;
use crate::install;
use crate::node::run::Run;

/// Restores the dump on standard input. Whatever fails, that is read to its end: Ganeti's pipeline would else fail with a
/// broken pipe, and its error would hide ours.
pub(super) fn import(env: &Environment, paths: &Paths, run: &Run) -> anyhow::Result<()> {
    let imported = restore(env, paths, run);
    if imported.is_err() {
        drain();
    }
    imported
}

/// The disk is always a new one: it can't boot before anything else is looked at.
fn restore(env: &Environment, paths: &Paths, run: &Run) -> anyhow::Result<()> {
    let target = Target::open(&env.import_device()?)?;
    write::make_unbootable(target.held())?;
    install::import(&request::import(env, paths)?, target, run)
}

fn drain() {
    let mut input = io::stdin().lock();
    while let Err(err) = io::copy(&mut input, &mut io::sink()) {
        if err.kind() != ErrorKind::Interrupted {
            return;
        }
    }
}
