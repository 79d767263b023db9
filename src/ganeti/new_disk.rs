// SPDX-License-Identifier: BSD-2-Clause
//! create and import: the disk first, then what is asked for.
//!
//! A new disk may hold another tenant's system, and Ganeti keeps an instance whose script failed, so that it can be
//! started. So the disk is made unbootable before any word of the tenant or the administrator is looked at.
//!
//! Only the disk's path and `INSTANCE_REINSTALL` are read before that, whatever else is broken in the environment: a
//! tenant can choose a parameter that fails. An adopted disk never gets a create, so that without that variable the
//! disk is new. With a value of it that Ganeti never sets nothing is known, and nothing is written. A disk in use is
//! named and never written. A reinstall is the other way round: the old system is the user's own, and stays until the
//! new image is at hand and has passed every check.

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

/// Installs the image that Ganeti's variables ask for. Of these only the disk, and whether it is a new one, are looked at
/// before a new disk is unbootable; a reinstall's disk is opened when all is known that the words alone tell.
pub(super) fn create(env: &Environment, paths: &Paths, run: &Run) -> anyhow::Result<()> {
    if env.reinstall()? {
        return install::install(&request::job(Asked::of(env)?, paths)?, None, run);
    }
    let target = Target::open(&request::first_disk(env)?)?;
    write::make_unbootable(target.held())?;
    let settings = config::load(paths, &VariantName::parse(env.variant()?)?)?;
    if settings.wipe_other_disks {
        zero_others(env, settings.write_options(), run)
            .context("zeroing the instance's other disks (wipe_other_disks)")?;
    }
    let job = request::job_with(Asked::of(env)?, settings, paths)?;
    install::install(&job, Some(target), run)
}

/// Zeroes the other disks. That comes before the OS parameters are looked at: when a create failed
/// over those, people try a reinstall next, which leaves these disks alone. They are given back after that: hooks may want
/// to make file systems on them.
fn zero_others(env: &Environment, options: WriteOptions, run: &Run) -> anyhow::Result<()> {
    let targets = env.other_disks()?.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?;
    // That takes a moment, all of it may take hours.
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
