// SPDX-License-Identifier: BSD-2-Clause
//! The OS script `create`: it runs the variant's first hooks, installs the image onto the instance's first disk, and
//! runs the variant's other hooks.
//!
//! The first hooks get no device. They run when the disk is held, but before anything is read or written for the
//! image: what they wrote to the disk would be lost on a new instance, and would damage the old system of a
//! reinstalled one. Everything that can fail because of the network, or that takes long, comes after them.

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

/// Runs the hooks that may refuse the installation, installs the image, then runs the other hooks.
///
/// A worker does everything except the first MiB and the hooks. Any failure after the disk was touched leaves the
/// disk unbootable: its first MiB reads zero. `held` is the disk if the caller holds it already. The caller has then
/// made a new instance's disk unbootable, because it may contain another tenant's system. A reinstall does not touch
/// the old system until the new image is on the node and has passed every check.
pub(crate) fn create(job: &Job, held: Option<Target>, run: &Run) -> anyhow::Result<()> {
    progress::tell_start(job, &run.report);
    let target = match held {
        Some(target) => target,
        None => Target::open(&job.disk)?,
    };
    progress::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    // The hooks folders are checked while a reinstall's disk is still untouched. The hooks that may refuse the
    // installation must not be missed, and no image shall be written if the later hooks can't run.
    for plan in [&job.pre_hooks, &job.hooks].into_iter().flatten() {
        hooks::present(&plan.folder)?;
    }
    let name = [hook_variables::image(&job.image), proxies(&job.http)].concat();
    // These hooks get no device. The installation would overwrite what they write there, and a reinstall's disk still
    // holds its old system.
    run_hooks(job.pre_hooks.as_ref(), HookDisk::Unlent(target.held()), name.clone(), run)?;
    // The open file keeps the image in the cache until the hooks have run.
    let (answer, image) = install_in_worker(job, &target, run)?;
    let InstallAnswer { boot_area, verified, summary } = answer;
    // Hooks open the image by our descriptor, because another image may have taken its name in the meantime.
    let installed = hook_variables::installed(&process::path_in_namespace(&image), verified.sha256.as_deref());
    let pending = PendingDisk::from_boot_area(&target, &boot_area, summary.len, job.write);
    let installation = Installation { job, target: &target, run, seed: None };
    commit(pending, &verified, &installation).with_context(|| installing(&job.image.to_string()))?;
    let message = format_args!("the image is on the disk: {}", ByteSize(summary.len));
    run.report.event("installed", json!({ "bytes": summary.len }), message);
    let disk = target.release();
    let hooked = run_hooks(job.hooks.as_ref(), HookDisk::Lent(&disk), [name, installed].concat(), run);
    // This comes first, so that nothing can end this process before it is done.
    if hooked.is_err() {
        write::make_unbootable(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    run.signal_cleanup.clear();
    hooked?;
    progress::tell_end(job, &summary, run.started.elapsed(), &run.report);
    Ok(())
}

/// Fails if the image is the disk that would be overwritten.
fn refuse_own_disk(job: &Job, target: &Target) -> anyhow::Result<()> {
    match &job.image {
        ImageRef::Path(path) if target.is_same_file(path) => {
            bail!("image {} is the instance's disk itself", path.display())
        }
        _ => Ok(()),
    }
}

/// Installs all of the image except the boot area, in a worker. Returns the worker's answer, and the image as an open
/// file.
fn install_in_worker(job: &Job, target: &Target, run: &Run) -> anyhow::Result<(InstallAnswer, File)> {
    let seed_disk = match job.seed.plan() {
        Some(plan) => own_disk(plan, job)?,
        None => None,
    };
    // The worker has no right to create the cache folder. If this fails, the worker reports it when it needs the
    // cache.
    let cache = Cache::open(&job.cache).ok();
    let local = match &job.image {
        ImageRef::Url(url) => {
            tell_what_is_left(url, &job.cache, run);
            None
        }
        ImageRef::Path(path) => Some(open_local(path, Some(&job.local), &run.report)?),
    };
    let watch = local.as_ref().map(|image| ImageWatch::begin(image, SystemTime::now(), &run.report)).transpose()?;
    let disks: Vec<_> = [Some(target), seed_disk.as_ref()].into_iter().flatten().map(Target::file).collect();
    // A guest may have written the old seed, so a worker of its own reads it.
    let old = OldSeed::read_in_worker(job, target, seed_disk.as_ref(), run);
    let image = if let ImageRef::Path(path) = &job.image { Some(path.as_path()) } else { None };
    let needs =
        WorkerAccess { image, disks: &disks, folder: cache.as_ref().map(Cache::dir), network: true, memory: None };
    let answer = in_worker_with_file(needs, run, |run| {
        // The seed is prepared before a reinstall touches the old system, so that a seed that can't be made does not
        // cost it.
        let seed = prepare_seed(job, &old, seed_disk.as_ref(), run)?;
        install_image(local.as_ref(), &Installation { job, target, run, seed: seed.as_ref() })
    });
    // If the image changed while it was read, then that is the cause of any other error, so it is reported first.
    if let Some(watch) = watch {
        watch.end()?;
    }
    let (answer, fetched) = answer?;
    if let (Some(cache), Some(image)) = (&cache, &fetched) {
        cache.note_use(image);
    }
    let image = local.map(StoredImage::into_file).or(fetched).context("the worker gave no image")?;
    Ok((answer, image))
}

/// Prepares the seed if the instance gets one. Warns about what the instance loses because its new seed lacks it, or
/// because it gets no seed.
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

/// Installs the image; this runs in the worker. `local` is the image if it is a file on the node. An image from a URL
/// is returned as an open file.
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

/// The proxies of the settings, so that hooks reach servers by the same proxies as the download of an image.
fn proxies(http: &HttpSettings) -> Variables {
    let secret = |proxy: &'_ Option<Secret>| proxy.as_ref().map(|proxy| proxy.0.clone());
    let plain = secret(&http.proxy);
    hook_variables::proxies(plain.as_deref(), secret(&http.https_proxy).or(plain.clone()).as_deref())
}

/// The result of [`rehearse`].
#[derive(Debug)]
pub(crate) struct Rehearsed {
    pub(crate) image_type: String,
    /// The size of the disk in the image.
    pub(crate) needs: DiskSize,
    /// The size of the instance's disk in bytes.
    pub(crate) disk: u64,
    /// Whether `create` would examine more of the image.
    pub(crate) partly: bool,
    /// The hooks that would run, in this order.
    pub(crate) hooks: Vec<PathBuf>,
}

/// Opens the disk as `create` does, examines the image as `inspect` does, and fetches what the seed needs. Writes
/// nothing and runs no hook.
///
/// # Errors
/// Everything that `create` would refuse before it writes, as far as the beginning of the image shows it.
pub(crate) fn rehearse(job: &Job, run: &Run) -> anyhow::Result<Rehearsed> {
    progress::tell_start(job, &run.report);
    let target = Target::open(&job.disk)?;
    progress::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    let Job { image, expected, local, http, cache, seed, .. } = job;
    // `rehearse` does not read the old seed, so it can't know whether anything of it would be kept.
    let seed = if let SeedWish::Given(plan) = seed { Some(plan) } else { None };
    let own_disk = match seed {
        Some(plan) => own_path(plan.placement, job)?,
        None => None,
    };
    let in_partition = seed.is_some() && own_disk.is_none();
    let room = if in_partition { Some((target.path(), target.size())) } else { None };
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
