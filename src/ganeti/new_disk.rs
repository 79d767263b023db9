// SPDX-License-Identifier: BSD-2-Clause
//! The OS scripts `create` and `import`, which make a new disk unbootable before they do anything else.
//!
//! A new disk may contain another tenant's system, and Ganeti keeps an instance whose script failed, so that somebody
//! could start it. So the disk is made unbootable before any value from the tenant or the administrator is examined.
//!
//! Before that only the disk's path and `INSTANCE_REINSTALL` are read, whatever else is wrong in the environment,
//! because a tenant can choose a parameter that fails. Ganeti runs no `create` for an adopted disk, so without that
//! variable the disk is new. If the variable has a value that Ganeti never sets, then nothing is known, and nothing
//! is written. A disk that is in use is named in the error and never written. A reinstall does the opposite: the old
//! system is the user's own, and stays until the new image is on the node and has passed every check.

use std::io::{self, ErrorKind};

use anyhow::Context as _;
use serde_json::json;

use super::env::Environment;
use super::request::{self, Asked};
use crate::config::{self, Paths, VariantName};
use crate::disk::device::Target;
use crate::disk::write::{self, WriteOptions};
use crate::install;
use crate::node::run::Run;
use crate::node::size::ByteSize;

/// Installs the image that Ganeti's variables ask for. A new disk is made unbootable after only its path and
/// `INSTANCE_REINSTALL` were read. A reinstall opens its disk after everything was checked that the variables and
/// settings alone show.
pub(super) fn create(env: &Environment, paths: &Paths, run: &Run) -> anyhow::Result<()> {
    if env.reinstall()? {
        return install::create(&request::job(Asked::of(env)?, paths)?, None, run);
    }
    let target = Target::open(&request::first_disk(env)?)?;
    write::make_unbootable(target.held())?;
    let settings = config::load(paths, &VariantName::parse(env.variant()?)?)?;
    if settings.wipe_other_disks {
        zero_others(env, settings.write_options(), run)
            .context("zeroing the instance's other disks (wipe_other_disks)")?;
    }
    let job = request::job_with(Asked::of(env)?, settings, paths)?;
    install::create(&job, Some(target), run)
}

/// Zeroes the instance's other disks, and then releases them, because hooks may make file systems on them.
///
/// This happens before the OS parameters are examined. If a `create` failed because of a parameter, then people would
/// try a reinstall next, which does not zero these disks.
fn zero_others(env: &Environment, options: WriteOptions, run: &Run) -> anyhow::Result<()> {
    let targets = env.other_disks()?.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?;
    // All disks are made unbootable first, because that takes a moment, and zeroing them may take hours.
    targets.iter().try_for_each(|target| write::make_unbootable(target.held()))?;
    for target in &targets {
        let (path, size) = (target.path().display(), target.size());
        let fields = json!({ "disk": path.to_string(), "disk_bytes": size });
        let message = format_args!("zeroing disk {path}, {} (wipe_other_disks)", ByteSize(size));
        run.report.event("wipe", fields, message);
        write::zero_all(target, options)?;
    }
    Ok(())
}

/// Restores the dump from standard input. Reads all of standard input even after an error, because Ganeti's pipeline
/// would otherwise fail with a broken pipe, and that message would hide ours.
pub(super) fn import(env: &Environment, paths: &Paths, run: &Run) -> anyhow::Result<()> {
    let imported = restore(env, paths, run);
    if imported.is_err() {
        drain();
    }
    imported
}

/// Restores the dump. The disk of an import is always new, so it is made unbootable before anything else is examined.
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
