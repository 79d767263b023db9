// SPDX-License-Identifier: BSD-2-Clause
//! What create would do: everything is looked at that can be known without writing a byte.

use std::path::PathBuf;

use anyhow::Context as _;

use super::create::refuse_own_disk;
use super::inspect::{Inspected, Judged, Look, look_apart};
use super::job::{HookPlan, Job, SeedWish};
use super::seed::seed_files;
use super::seed_volume::own_path;
use super::summary;
use crate::disk::device::Target;
use crate::disk::write;
use crate::image::disk_size::DiskSize;
use crate::install::hooks;
use crate::node::run::Run;
use crate::seed::{Plan, SeedContent};

/// What was found.
#[derive(Debug)]
pub(crate) struct Rehearsed {
    /// The image's type.
    pub(crate) image_type: String,
    /// Size of the disk in the image.
    pub(crate) needs: DiskSize,
    /// Size of the disk in bytes.
    pub(crate) disk: u64,
    /// Whether create would look at more of the image.
    pub(crate) partly: bool,
    /// The hooks that would run, in that order.
    pub(crate) hooks: Vec<PathBuf>,
}

/// Opens the disk as create does, looks at the image as inspect does, and fetches what the seed is made of. Nothing is
/// written, and no hook runs.
///
/// # Errors
/// What create would refuse before it writes, as far as no more than the image's beginning is needed to know it.
pub(crate) fn rehearse(job: &Job, run: &Run) -> anyhow::Result<Rehearsed> {
    summary::tell_start(job, &run.report);
    let target = Target::open(&job.disk)?;
    summary::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    let Job { image, expected, local, http, cache, seed, .. } = job;
    // Whether anything of an old seed is kept shows only when it is looked at.
    let seed = if let SeedWish::Given(plan) = seed { Some(plan) } else { None };
    let own_disk = seed.map_or(Ok(None), |plan| own_path(plan.placement, job))?;
    let room = seed.filter(|_| own_disk.is_none()).map(|_| (target.path(), target.size()));
    let servers = seed.is_some_and(Plan::asks_servers);
    let look = Look { image, expected: *expected, local: Some(local), http, cache: Some(cache), room, servers };
    let judged = look_apart(&look, run, |run| {
        seed.map_or(Ok(()), |plan| seed_files(plan, &SeedContent::default(), http, run).map(drop))
    })?;
    let Inspected { image_type, disk: needs, partly, .. } = match judged {
        Judged::Taken(found) => found,
        Judged::Refused(reason) => anyhow::bail!(reason),
    };
    let fits = needs.least().map_or(Ok(()), |size| write::check_fits(size, &target));
    fits.with_context(|| format!("installing image {image}"))?;
    let mut hooks = Vec::new();
    for HookPlan { folder, .. } in [&job.pre_hooks, &job.hooks].into_iter().flatten() {
        if hooks::present(folder)? {
            let listed = hooks::list(folder, &run.children);
            hooks.extend(listed.with_context(|| format!("listing the hooks in {}", folder.display()))?);
        }
    }
    Ok(Rehearsed { image_type, needs, disk: target.size(), partly, hooks })
}
