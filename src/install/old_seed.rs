// SPDX-License-Identifier: BSD-2-Clause
//! The seed that a reinstalled instance has had so far: what of it goes on, and what gets lost. A guest could have written
//! it, so nothing in it can fail a run.
//!
//! A reinstall forks a worker for it, without network, and with nothing to write to but the disks that are open
//! anyway, before the one that installs. Its answer is a type whose keys are keys, with the user-data and which settings
//! there were (`seed::SeedContent`). Whatever is wrong with the seed, a panic included, is a warning. The second worker
//! compares the new seed with it, before the disk is touched. `seed_keep` is off unless it is set, and parameters are
//! stronger: who ends a break-in must be able to leave out what the guest may have written.

use std::io;

use serde::{Deserialize, Serialize};

use super::in_worker;
use super::job::Job;
use crate::disk::device::{ReadAt, Target};
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::seed::volume::{self, Contents, Error, Found, Trace};
use crate::seed::{Identity, LostParameter, SeedContent};

/// The parameter that is private in most clusters.
const SSH_KEYS: &str = "ssh_keys";

/// What the instance's disks say of its seed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OldSeed {
    /// Of the one on the first disk, which the image overwrites.
    first: Option<SeedContent>,
    /// Of the one on a disk of its own, which only a new seed overwrites.
    own: Option<SeedContent>,
    /// Keys, and whether there was user-data, of a seed that the instance has removed.
    removed: Option<(u32, bool)>,
    /// Why it is not known what the seed holds.
    unreadable: Option<String>,
}

fn warn_unreadable(why: &str, report: &Report) {
    report.warn(format_args!(
        "the old seed of the instance can't be read, so that nothing of it is kept, and nobody knows what gets lost: {why}"
    ));
}

impl OldSeed {
    /// Looks for the seed of the instance of `job` on its first disk, and on the one for the seed, in a worker without
    /// network. A new instance has none.
    pub(super) fn read_in_worker(job: &Job, first: &Target, own: Option<&Target>, run: &Run) -> Self {
        let Ok(identity) = &job.identity else { return OldSeed::default() };
        if !job.reinstall {
            return OldSeed::default();
        }
        in_worker(WorkerAccess::default(), run, |_| Ok(OldSeed::on(first, own, identity))).unwrap_or_else(|error| {
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
        // As long as the seed is there, its trace says nothing more.
        if old.first.is_none() && old.unreadable.is_none() {
            let trace = Trace::read(first).ok().flatten().filter(|trace| trace.serial == identity.volume_serial());
            old.removed = trace.map(|trace| (trace.keys, trace.user_data));
        }
        old
    }

    /// What it gave to the instance.
    pub(super) fn held(&self) -> SeedContent {
        self.first.clone().unwrap_or_default().with(self.own.clone().unwrap_or_default())
    }

    /// Whether there is anything in it that can be kept.
    pub(super) fn has_something(&self) -> bool {
        [&self.first, &self.own].into_iter().flatten().any(|held| !held.keys.is_empty() || !held.user_data.is_empty())
    }

    /// Warns of what the instance had and will not have: `new` is what its next seed gives, none if it gets none.
    pub(super) fn tell_losses(&self, new: Option<&SeedContent>, job: &Job, report: &Report) {
        if let Some(why) = &self.unreadable {
            warn_unreadable(why, report);
        }
        let lost = match new {
            Some(new) => self.held().lost_in(new),
            // What is on a disk of its own is still there.
            None => self.first.iter().flat_map(|held| held.lost_in(&SeedContent::default())).collect(),
        };
        let (lost, what) = match self.removed {
            Some(removed) if lost.is_empty() => (
                lost_of_removed(removed, new.unwrap_or(&SeedContent::default())),
                "a seed gave it that is in its own file system by now (seed_persist), where seed_keep can't reach it",
            ),
            _ => (lost, "its old seed gave it"),
        };
        if lost.is_empty() {
            return;
        }
        let names = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        report.warn(format_args!(
            "the instance loses what {what}: {names} (Ganeti forgets OS parameters that a reinstall's command line does not repeat; to bring them back: {})",
            command(&lost, &job.instance)
        ));
    }
}

fn lost_of_removed((keys, user_data): (u32, bool), new: &SeedContent) -> Vec<LostParameter> {
    // A number that no memory holds is one that a guest wrote.
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    let fewer = keys.saturating_sub(new.keys.len());
    let lost_keys = (fewer > 0).then(|| LostParameter::keys(fewer, keys));
    let lost_data = (user_data && new.user_data.is_empty()).then(|| LostParameter::plain("user_data"));
    lost_keys.into_iter().chain(lost_data).collect()
}

/// The reinstall that gives the parameters again.
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

/// The instance's seed, also on a disk that an earlier run left without its first MiB.
fn find(disk: &dyn ReadAt, identity: &Identity) -> io::Result<Option<Found>> {
    let found = match own_seed(disk, identity)? {
        None => volume::seed_of_failed_run(disk)?,
        found => found,
    };
    Ok(found.filter(|found| found.our_serial() == Some(identity.volume_serial())))
}

/// The seed of this instance on the disk.
pub(super) fn own_seed(disk: &dyn ReadAt, identity: &Identity) -> io::Result<Option<Found>> {
    let found = volume::find_seeds(disk)?;
    Ok(found.into_iter().find(|found| found.our_serial() == Some(identity.volume_serial())))
}

/// Its bytes, and what is in them.
pub(super) fn read(found: &Found, disk: &dyn ReadAt) -> Result<(Vec<u8>, Contents), Error> {
    let bytes = found.load(disk)?;
    let contents = Contents::read(&bytes)?;
    Ok((bytes, contents))
}
