// SPDX-License-Identifier: BSD-2-Clause
//! The seed that a reinstalled instance had until now: what of it is kept, and what gets lost. A guest may have
//! written it, so nothing in it can make a run fail.
//!
//! Before the worker that installs, a reinstall forks a worker that reads the old seed, without network, and with
//! nothing to write to except the disks that are open anyway. Its answer is a `SeedContent`, in which every SSH key
//! was parsed. Anything wrong with the seed, even a panic, is a warning. The second worker compares the new seed with
//! the old one before the disk is touched. `seed_keep` is off by default, and OS parameters have priority: an
//! administrator who ends a break-in must be able to leave out what the guest may have written.

use std::io;

use serde::{Deserialize, Serialize};

use super::in_guest_worker;
use super::job::Job;
use crate::disk::device::{ReadAt, Target};
use crate::node::report::Report;
use crate::node::run::Run;
use crate::seed::volume::{self, Contents, Error, Found, Trace};
use crate::seed::{Identity, LostParameter, SeedContent};

/// The OS parameter that is private in most clusters.
const SSH_KEYS: &str = "ssh_keys";

/// The old seed, or what is left of it, on the instance's disks.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OldSeed {
    /// The seed on the first disk, which the image overwrites.
    first: Option<SeedContent>,
    /// The seed on a disk of its own, which only a new seed overwrites.
    own: Option<SeedContent>,
    /// The number of keys, and whether there was user-data, in a seed that the instance has removed.
    removed: Option<(u32, bool)>,
    /// The reason why the seed could not be read.
    unreadable: Option<String>,
}

fn warn_unreadable(why: &str, report: &Report) {
    report.warn(format_args!(
        "can't read the instance's old seed ({why}): nothing of it is kept, and what is lost is unknown"
    ));
}

impl OldSeed {
    /// Looks for the seed of the instance of `job` on its first disk, and on the disk for the seed, in a worker
    /// without network. A new instance has no old seed.
    pub(super) fn read_in_worker(job: &Job, first: &Target, own: Option<&Target>, run: &Run) -> Self {
        let Ok(identity) = &job.identity else { return OldSeed::default() };
        if !job.reinstall {
            return OldSeed::default();
        }
        in_guest_worker(&[], run, |_| Ok(OldSeed::on(first, own, identity))).unwrap_or_else(|error| {
            warn_unreadable(&format!("{error:#}"), &run.report);
            OldSeed::default()
        })
    }

    fn on(first: &Target, own: Option<&Target>, identity: &Identity) -> Self {
        let mut old = OldSeed::default();
        let mut held = |disk| {
            held_on(disk, identity).unwrap_or_else(|error| {
                old.unreadable = Some(format!("disk {}: {error:#}", disk.path().display()));
                None
            })
        };
        (old.first, old.own) = (held(first), own.and_then(held));
        // The trace of a removed seed is only of use if the seed itself is missing.
        if old.first.is_none() && old.unreadable.is_none() {
            let trace = Trace::read(first).ok().flatten().filter(|trace| trace.serial == identity.volume_serial());
            old.removed = trace.map(|trace| (trace.keys, trace.user_data));
        }
        old
    }

    /// The SSH keys and the user-data that the old seed gave to the instance.
    pub(super) fn held(&self) -> SeedContent {
        self.first.clone().unwrap_or_default().with(self.own.clone().unwrap_or_default())
    }

    /// Returns whether the old seed contains anything that can be kept.
    pub(super) fn has_something(&self) -> bool {
        [&self.first, &self.own].into_iter().flatten().any(|held| !held.keys.is_empty() || !held.user_data.is_empty())
    }

    /// Warns about what the instance had and will lose. `new` is what its new seed gives, and `None` if it gets no
    /// seed.
    pub(super) fn tell_losses(&self, new: Option<&SeedContent>, job: &Job, report: &Report) {
        if let Some(why) = &self.unreadable {
            warn_unreadable(why, report);
        }
        let lost = match new {
            Some(new) => self.held().lost_in(new),
            // A seed on a disk of its own stays there.
            None => self.first.iter().flat_map(|held| held.lost_in(&SeedContent::default())).collect(),
        };
        let (lost, what) = match self.removed {
            Some(removed) if lost.is_empty() => (
                lost_of_removed(removed, new.unwrap_or(&SeedContent::default())),
                "settings that it copied from its seed into its own file system (seed_persist); seed_keep can't read them there",
            ),
            _ => (lost, "what its old seed gave it"),
        };
        if lost.is_empty() {
            return;
        }
        let names = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        report.warn(format_args!(
            "the instance loses {what}: {names} (Ganeti forgets OS parameters that a reinstall's command line does not repeat; to bring them back: {})",
            command(&lost, &job.instance)
        ));
    }
}

fn lost_of_removed((keys, user_data): (u32, bool), new: &SeedContent) -> Vec<LostParameter> {
    // Only a guest can have written a count that does not fit.
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    let fewer = keys.saturating_sub(new.keys.len());
    let mut lost = Vec::new();
    if fewer > 0 {
        lost.push(LostParameter::keys(fewer, keys));
    }
    if user_data && new.user_data.is_empty() {
        lost.push(LostParameter::plain("user_data"));
    }
    lost
}

/// Returns the command for a reinstall that gives the lost OS parameters again.
fn command(lost: &[LostParameter], instance: &str) -> String {
    let mut command = "gnt-instance reinstall -O image=...".to_owned();
    for lost in lost.iter().filter(|lost| lost.parameter != SSH_KEYS) {
        command += &format!(",{}=...", lost.parameter);
    }
    if lost.iter().any(|lost| lost.parameter == SSH_KEYS) {
        command += &format!(" --os-parameters-private {SSH_KEYS}=...");
    }
    format!("{command} {instance}")
}

fn held_on(disk: &Target, identity: &Identity) -> anyhow::Result<Option<SeedContent>> {
    let Some(found) = find(disk, identity)? else { return Ok(None) };
    let (_, contents) = read(&found, disk)?;
    let files = contents.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    Ok(Some(SeedContent::of(files, identity)?))
}

/// Finds the instance's seed, also on a disk whose first MiB an earlier failed run zeroed.
fn find(disk: &dyn ReadAt, identity: &Identity) -> io::Result<Option<Found>> {
    let found = match own_seed(disk, identity)? {
        None => volume::seed_of_failed_run(disk)?,
        found => found,
    };
    Ok(found.filter(|found| found.our_serial() == Some(identity.volume_serial())))
}

/// Finds the seed of this instance on the disk.
pub(super) fn own_seed(disk: &dyn ReadAt, identity: &Identity) -> io::Result<Option<Found>> {
    let found = volume::find_seeds(disk)?;
    Ok(found.into_iter().find(|found| found.our_serial() == Some(identity.volume_serial())))
}

/// Reads the seed's volume, and returns its bytes and the files in it.
pub(super) fn read(found: &Found, disk: &dyn ReadAt) -> Result<(Vec<u8>, Contents), Error> {
    let bytes = found.load(disk)?;
    let contents = Contents::read(&bytes)?;
    Ok((bytes, contents))
}
