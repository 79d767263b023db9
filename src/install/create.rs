// SPDX-License-Identifier: BSD-2-Clause
//! The job itself: the variant's first hooks, the image onto the instance's first disk, the variant's other hooks.
//!
//! The first hooks get no device. They run when the disk is held, but before anything is read or written for the
//! image: what they wrote would be lost on a new instance, and harm the old system of a reinstalled one. Everything
//! that may fail with the network or costs time comes after them.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use super::confined::confined;
use super::copy::{Installed, Work, install_checked};
use super::fetch::tell_what_is_left;
use super::from_url::install_url;
use super::job::{Job, SeedWish};
use super::old_seed::{self, OldSeed};
use super::run_hooks::{HookDisk, run_hooks};
use super::seed_volume::{self, Seed};
use super::summary;
use super::unsteady::{self, ImageWatch};
use super::verify_image::Proof;
use crate::disk::device::Target;
use crate::disk::write;
use crate::image::reference::ImageRef;
use crate::image::source::ImageFile;
use crate::install::hooks;
use crate::install::hooks::variables::{self, Variables};
use crate::node::process::{self, Answer};
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::store::cache::Cache;
use crate::store::http::{HttpSettings, Secret};

/// Runs the hooks that may veto, installs the image, then runs the other hooks. All but the first MiB and the hooks is a
/// confined process's business. Whatever fails after the disk was touched leaves it unbootable: its first
/// MiB reads zero. `held` is the disk where it is held already: a new instance's is unbootable by then, for it may hold
/// another tenant's system. A reinstall touches the old system only when the new image is at hand and has passed every check.
pub(crate) fn install(job: &Job, held: Option<Target>, run: &Run) -> anyhow::Result<()> {
    summary::tell_start(job, &run.report);
    let target = held.map_or_else(|| Target::open(&job.disk), Ok)?;
    summary::tell_plan(job, target.size(), &run.report);
    refuse_own_disk(job, &target)?;
    // Nothing of a reinstall's disk was touched: a veto must not get lost, nor an image be written for hooks that can't run.
    for plan in [&job.pre_hooks, &job.hooks].into_iter().flatten() {
        hooks::present(&plan.folder)?;
    }
    let name = [variables::image(&job.image), proxies(&job.http)].concat();
    // No device: what they would write there is overwritten, and a reinstall's disk is still in use as it is.
    run_hooks(job.pre_hooks.as_ref(), HookDisk::Unlent(target.held()), name.clone(), run)?;
    // The image is open until the hooks have run, and in the cache as long.
    let (installed, image) = install_apart(job, &target, run)?;
    let done = installed.summary();
    // Under its name there may be another one meanwhile.
    let told = variables::installed(&process::path_in_namespace(&image), installed.sha256());
    installed
        .commit(&Work { job, target: &target, run, seed: None })
        .with_context(|| format!("installing image {}", job.image))?;
    let disk = target.release();
    let hooked = run_hooks(job.hooks.as_ref(), HookDisk::Lent(&disk), [name, told].concat(), run);
    // First of all, so that nothing that ends us comes in between.
    if hooked.is_err() {
        write::make_unbootable(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    run.signal_cleanup.clear();
    hooked?;
    summary::tell_end(job, &done, run.started.elapsed(), &run.report);
    Ok(())
}

/// An error where the image is what would be written over.
pub(super) fn refuse_own_disk(job: &Job, target: &Target) -> anyhow::Result<()> {
    match &job.image {
        ImageRef::Path(path) if target.is_same_file(path) => {
            bail!("image {} is the instance's disk itself", path.display())
        }
        _ => Ok(()),
    }
}

/// Has a confined process install the image, all but the boot area; gives that, and the image.
fn install_apart<'t>(job: &Job, target: &'t Target, run: &Run) -> anyhow::Result<(Installed<'t>, File)> {
    let seed_disk = job.seed.plan().map(|plan| seed_volume::own_disk(plan, job)).transpose()?.flatten();
    if let ImageRef::Url(url) = &job.image {
        tell_what_is_left(url, &job.cache, run);
    }
    // Made here, as the confined process can't. Where that fails, it will say so if it needs it.
    let folder = Cache::open(&job.cache).ok().map(|cache| cache.dir().to_owned());
    let (image, local) = open_local(job)?.unzip();
    let watch = local.as_ref().map(|image| ImageWatch::begin(image, SystemTime::now(), &run.report)).transpose()?;
    let disks: Vec<_> = [Some(target), seed_disk.as_ref()].into_iter().flatten().map(Target::file).collect();
    // What the instance had is a guest's bytes, and looked at by a process of its own.
    let old = old_seed::look(job, target, seed_disk.as_ref(), run);
    let needs = WorkerAccess { image, disks: &disks, folder: folder.as_deref(), network: true };
    let answer = confined(needs, run, |run| {
        // Before a reinstall touches the old system: a seed that can't be had is no reason to lose it.
        let seed = prepare_seed(job, &OldSeed::from_bytes(&old), seed_disk.as_ref(), run)?;
        install_image(local.as_ref(), &Work { job, target, run, seed: seed.as_ref() })
    });
    // An image that changed is the reason for whatever came of it.
    watch.map_or(Ok(()), |watch| watch.end())?;
    let answer = answer?;
    let image = local.map(ImageFile::into_file).or(answer.file).context("the working process gave no image")?;
    Ok((Installed::from_bytes(&answer.bytes, target, job.write)?, image))
}

/// An image on the node, and its path. It is opened where it can be seen who else has it open; no byte of it is read here.
fn open_local(job: &Job) -> anyhow::Result<Option<(&Path, ImageFile)>> {
    match &job.image {
        ImageRef::Url(_) => Ok(None),
        ImageRef::Path(path) => Ok(Some((path, unsteady::settle(ImageFile::open_allowed(path, &job.local)?)?))),
    }
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

/// Installs the image, which is `local` if it is one of the node, in the confined process; gives what the other one needs.
fn install_image(local: Option<&ImageFile>, work: &Work<'_>) -> anyhow::Result<Answer> {
    let Job { checks, image: name, http, .. } = work.job;
    if let ImageRef::Url(url) = name {
        let (image, installed) = install_url(url, work)?;
        let bytes = installed.to_bytes(image.download().map(|known| known.sha256.as_str()));
        return Ok(Answer { bytes, file: Some(image.into_file()) });
    }
    let image = local.with_context(|| format!("image {name} is not open"))?;
    let proof = Proof::gather(checks, name, http, work.run)?;
    let installed = install_checked(image, &proof, work)?;
    Ok(Answer { bytes: installed.to_bytes(proof.sha256()), file: None })
}

/// So that hooks reach servers the way that images come.
fn proxies(http: &HttpSettings) -> Variables {
    let secret = |proxy: &'_ Option<Secret>| proxy.as_ref().map(|proxy| proxy.0.clone());
    let plain = secret(&http.proxy);
    variables::proxies(plain.as_deref(), secret(&http.https_proxy).or(plain.clone()).as_deref())
}
