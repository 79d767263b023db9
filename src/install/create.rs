// SPDX-License-Identifier: BSD-2-Clause
//! create: the variant's first hooks, the image onto the instance's first disk, the variant's other hooks.
//!
//! The first hooks get no device. They run when the disk is held, but before anything is read or written for the
//! image: what they wrote would be lost on a new instance, and harm the old system of a reinstalled one. Everything
//! that may fail with the network or costs time comes after them.

use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::copy::{InstallAnswer, Installation, commit, install_stored, installing};
use super::download::tell_what_is_left;
use super::hook_variables::{self, Variables};
use super::hooks::{self, HookDisk, run_hooks};
use super::in_worker_with_file;
use super::inspect::{Inspected, Inspection, Judged, inspect_in_worker};
use super::job::{HookPlan, Job, SeedWish};
use super::local_image::{ImageWatch, open_local};
use super::old_seed::OldSeed;
use super::progress;
use super::seed::{Seed, own_disk, own_path, seed_files};
use super::stream::install_url;
use super::verify::Verification;
use crate::disk::device::Target;
use crate::disk::write::{self, PendingDisk};
use crate::image::disk_size::DiskSize;
use crate::image::reference::ImageRef;
use crate::image::stored::StoredImage;
use crate::node::process;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::node::size::ByteSize;
use crate::seed::{Plan, SeedContent};
use crate::store::cache::Cache;
use crate::store::http::{HttpSettings, Secret};

/// Runs the hooks that may veto, installs the image, then runs the other hooks. All but the first MiB and the hooks is a
/// worker's business. Whatever fails after the disk was touched leaves it unbootable: its first MiB reads zero. `held` is
/// the disk where it is held already: a new instance's is unbootable by then, for it may hold another tenant's system. A
/// reinstall touches the old system only when the new image is at hand and has passed every check.
pub(crate) fn install(job: &Job, held: Option<Target>, run: &Run) -> anyhow::Result<()> {
    progress::tell_start(job, &run.report);
    let target = held.map_or_else(|| Target::open(&job.disk), Ok)?;
    progress::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    // Nothing of a reinstall's disk was touched: a veto must not get lost, nor an image be written for hooks that can't run.
    for plan in [&job.pre_hooks, &job.hooks].into_iter().flatten() {
        hooks::present(&plan.folder)?;
    }
    let name = [hook_variables::image(&job.image), proxies(&job.http)].concat();
    // No device: what they would write there is overwritten, and a reinstall's disk is still in use as it is.
    run_hooks(job.pre_hooks.as_ref(), HookDisk::Unlent(target.held()), name.clone(), run)?;
    // The image is open until the hooks have run, and in the cache as long.
    let (answer, image) = install_in_worker(job, &target, run)?;
    let InstallAnswer { boot_area, verified, summary } = answer;
    // Under its name there may be another one meanwhile.
    let installed = hook_variables::installed(&process::path_in_namespace(&image), verified.sha256.as_deref());
    let pending = PendingDisk::from_boot_area(&target, &boot_area, summary.len, job.write);
    let installation = Installation { job, target: &target, run, seed: None };
    commit(pending, &verified, &installation).with_context(|| installing(&job.image.to_string()))?;
    let message = format_args!("the image is on the disk: {}", ByteSize(summary.len));
    run.report.event("installed", json!({ "bytes": summary.len }), message);
    let disk = target.release();
    let hooked = run_hooks(job.hooks.as_ref(), HookDisk::Lent(&disk), [name, installed].concat(), run);
    // First of all, so that nothing that ends us comes in between.
    if hooked.is_err() {
        write::make_unbootable(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    run.signal_cleanup.clear();
    hooked?;
    progress::tell_end(job, &summary, run.started.elapsed(), &run.report);
    Ok(())
}

/// An error where the image is what would be written over.
fn refuse_own_disk(job: &Job, target: &Target) -> anyhow::Result<()> {
    match &job.image {
        ImageRef::Path(path) if target.is_same_file(path) => {
            bail!("image {} is the instance's disk itself", path.display())
        }
        _ => Ok(()),
    }
}

/// Has a worker install the image, all but the boot area; gives the image, too.
fn install_in_worker(job: &Job, target: &Target, run: &Run) -> anyhow::Result<(InstallAnswer, File)> {
    let seed_disk = job.seed.plan().map(|plan| own_disk(plan, job)).transpose()?.flatten();
    // Made here, as the worker can't. Where that fails, it will say so if it needs it.
    let folder = Cache::open(&job.cache).ok().map(|cache| cache.dir().to_owned());
    let local = match &job.image {
        ImageRef::Url(url) => {
            tell_what_is_left(url, &job.cache, run);
            None
        }
        ImageRef::Path(path) => Some(open_local(path, Some(&job.local))?),
    };
    let watch = local.as_ref().map(|image| ImageWatch::begin(image, SystemTime::now(), &run.report)).transpose()?;
    let disks: Vec<_> = [Some(target), seed_disk.as_ref()].into_iter().flatten().map(Target::file).collect();
    // What the instance had is a guest's bytes, and read by a worker of its own.
    let old = OldSeed::read_in_worker(job, target, seed_disk.as_ref(), run);
    let image = if let ImageRef::Path(path) = &job.image { Some(path.as_path()) } else { None };
    let needs = WorkerAccess { image, disks: &disks, folder: folder.as_deref(), network: true };
    let answer = in_worker_with_file(needs, run, |run| {
        // Before a reinstall touches the old system: a seed that can't be had is no reason to lose it.
        let seed = prepare_seed(job, &old, seed_disk.as_ref(), run)?;
        install_image(local.as_ref(), &Installation { job, target, run, seed: seed.as_ref() })
    });
    // An image that changed is the reason for whatever came of it.
    if let Some(watch) = watch {
        watch.end()?;
    }
    let (answer, fetched) = answer?;
    let image = local.map(StoredImage::into_file).or(fetched).context("the working process gave no image")?;
    Ok((answer, image))
}

/// The seed, if there is to be one. That the instance loses something by it, or by having none, is told.
fn prepare_seed<'r>(
    job: &'r Job,
    old: &OldSeed,
    disk: Option<&'r Target>,
    run: &Run,
) -> anyhow::Result<Option<Seed<'r>>> {
    let plan = match &job.seed {
        SeedWish::IfKept(_) if !old.has_something() => None,
        SeedWish::IfKept(Err(error)) => bail!("keeping the old seed (seed_keep): {error:#}"),
        wish => wish.plan(),
    };
    let seed = plan.map(|plan| Seed::prepare(plan, &old.held(), disk, job, run)).transpose()?;
    old.tell_losses(seed.as_ref().map(Seed::gives).as_ref(), job, &run.report);
    Ok(seed)
}

/// Installs the image in the worker. Gives the image from a URL, too; `local` is one that is a file of the node.
fn install_image(
    local: Option<&StoredImage>,
    installation: &Installation<'_>,
) -> anyhow::Result<(InstallAnswer, Option<File>)> {
    let Job { checks, image: name, http, .. } = installation.job;
    if let ImageRef::Url(url) = name {
        let (image, answer) = install_url(url, installation)?;
        return Ok((answer, Some(image.into_file())));
    }
    let image = local.with_context(|| format!("image {name} is not open"))?;
    let verification = Verification::gather(checks, name, http, installation.run)?;
    Ok((install_stored(image, &verification, installation)?, None))
}

/// So that hooks reach servers the way that images come.
fn proxies(http: &HttpSettings) -> Variables {
    let secret = |proxy: &'_ Option<Secret>| proxy.as_ref().map(|proxy| proxy.0.clone());
    let plain = secret(&http.proxy);
    hook_variables::proxies(plain.as_deref(), secret(&http.https_proxy).or(plain.clone()).as_deref())
}

/// What [`rehearse`] found.
#[derive(Debug)]
pub(crate) struct Rehearsed {
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
    progress::tell_start(job, &run.report);
    let target = Target::open(&job.disk)?;
    progress::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    let Job { image, expected, local, http, cache, seed, .. } = job;
    // Whether anything of an old seed is kept shows only when it is looked at.
    let seed = if let SeedWish::Given(plan) = seed { Some(plan) } else { None };
    let own_disk = seed.map_or(Ok(None), |plan| own_path(plan.placement, job))?;
    let room = seed.filter(|_| own_disk.is_none()).map(|_| (target.path(), target.size()));
    let servers = seed.is_some_and(Plan::asks_servers);
    let inspection =
        Inspection { image, expected: *expected, local: Some(local), http, cache: Some(cache), room, servers };
    let judged = inspect_in_worker(&inspection, run, |run| match seed {
        Some(plan) => seed_files(plan, &SeedContent::default(), http, run).map(drop),
        None => Ok(()),
    })?;
    let Inspected { image_type, disk: needs, partly, .. } = match judged {
        Judged::Taken(found) => found,
        Judged::Refused(reason) => bail!(reason),
    };
    if let Some(size) = needs.least() {
        write::check_fits(size, &target).with_context(|| installing(&image.to_string()))?;
    }
    let mut hooks = Vec::new();
    for HookPlan { folder, .. } in [&job.pre_hooks, &job.hooks].into_iter().flatten() {
        if hooks::present(folder)? {
            let listed = hooks::list(folder, &run.children);
            hooks.extend(listed.with_context(|| format!("listing the hooks in {}", folder.display()))?);
        }
    }
    Ok(Rehearsed { image_type, needs, disk: target.size(), partly, hooks })
}
