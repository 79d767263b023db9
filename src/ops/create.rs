// SPDX-License-Identifier: BSD-2-Clause
//! create: the variant's first hooks, the image onto the instance's first disk, the variant's other hooks.

use std::fs::File;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::Context;
use super::confined::confined;
use super::fetch::tell_what_is_left;
use super::from_url::install_url;
use super::install::{Installed, Job, install_checked};
use super::old_seed::{self, OldSeed};
use super::run_hooks::run_hooks;
use super::seed_volume::{self, Seed};
use super::summary;
use super::unsteady::{self, ImageWatch};
use super::verify_image::Proof;
use crate::cache::Cache;
use crate::device::Target;
use crate::hooks;
use crate::hooks::variables::{self, Variables};
use crate::http::{HttpSettings, Secret};
use crate::image::reference::ImageRef;
use crate::image::source::ImageFile;
use crate::process::{self, Answer};
use crate::request::{CreateCall, CreateRequest, OtherDisks, SeedWish};
use crate::sandbox::Needs;
use crate::size::ByteSize;
use crate::write;

/// Runs the hooks that may veto, installs the image, then runs the other hooks. All but the first MiB and the hooks is a
/// confined process's business. Whatever fails after the disk was touched leaves it unbootable: its first
/// MiB reads zero. A new instance's disk is made so before all else, for it may hold another tenant's system; a reinstall
/// touches the old system only when the new image is at hand and has passed every check.
pub fn create(call: &CreateCall<'_>, context: &Context) -> anyhow::Result<()> {
    let started = Instant::now();
    let (request, target) = begin(call, context)?;
    install_and_run_hooks(&request, target, context, started)
}

fn install_and_run_hooks(
    request: &CreateRequest,
    target: Target,
    context: &Context,
    started: Instant,
) -> anyhow::Result<()> {
    // Nothing of a reinstall's disk was touched: a veto must not get lost, nor an image be written for hooks that can't run.
    for plan in [&request.pre_hooks, &request.hooks].into_iter().flatten() {
        hooks::present(&plan.folder)?;
    }
    let name = [variables::image(&request.image), proxies(&request.http)].concat();
    // No device: what they would write there is overwritten, and a reinstall's disk is still in use as it is.
    run_hooks(request.pre_hooks.as_ref(), None, name.clone(), context)?;
    // The image is open until the hooks have run, and in the cache as long.
    let (installed, image) = install_apart(request, &target, context)?;
    let done = installed.summary();
    // Under its name there may be another one meanwhile.
    let told = variables::installed(&process::path_in_namespace(&image), installed.sha256());
    installed
        .commit(&Job { request, target: &target, context, seed: None })
        .with_context(|| format!("installing image {}", request.image))?;
    let disk = target.release();
    let hooked = run_hooks(request.hooks.as_ref(), Some(&disk), [name, told].concat(), context);
    // First of all, so that nothing that ends us comes in between.
    if hooked.is_err() {
        write::invalidate(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    context.last_act.clear();
    hooked?;
    summary::tell_end(request, &done, started.elapsed(), &context.report);
    Ok(())
}

/// Learns what is asked for, and holds the disk. A new instance's can't boot before anything else is looked at; before a
/// reinstall's is opened, all is known that the words alone tell.
fn begin(call: &CreateCall<'_>, context: &Context) -> anyhow::Result<(CreateRequest, Target)> {
    if call.reinstall {
        let request = call.request()?;
        summary::tell_start(&request, &context.report);
        let target = Target::open(&call.disk)?;
        tell_plan(&request, &target, context)?;
        return Ok((request, target));
    }
    let target = Target::open(&call.disk)?;
    write::invalidate(target.held())?;
    zero_others(&call.other_disks()?, context).context("zeroing the instance's other disks (wipe_other_disks)")?;
    let request = call.request()?;
    summary::tell_start(&request, &context.report);
    tell_plan(&request, &target, context)?;
    Ok((request, target))
}

/// Zeroes all of these disks. They are given back after that: hooks may want to make file systems on them.
fn zero_others(disks: &OtherDisks, context: &Context) -> anyhow::Result<()> {
    let targets = disks.to_zero.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?;
    // That takes a moment, all of it may take hours.
    targets.iter().try_for_each(|target| write::invalidate(target.held()))?;
    for target in &targets {
        let (path, size) = (target.path().display(), target.size());
        let fields = json!({ "disk": path.to_string(), "disk_bytes": size });
        let message = format_args!("zeroing disk {path}, {} (wipe_other_disks)", ByteSize(size));
        context.report.event("wipe", fields, message);
        write::zero_all(target, disks.write)?;
    }
    Ok(())
}

fn tell_plan(request: &CreateRequest, target: &Target, context: &Context) -> anyhow::Result<()> {
    summary::tell_plan(request, target.size(), &context.report);
    refuse_own_disk(request, target)
}

/// An error where the image is what would be written over.
pub(super) fn refuse_own_disk(request: &CreateRequest, target: &Target) -> anyhow::Result<()> {
    match &request.image {
        ImageRef::Path(path) if target.is_same_file(path) => {
            bail!("image {} is the instance's disk itself", path.display())
        }
        _ => Ok(()),
    }
}

/// Has a confined process install the image, all but the boot area; gives that, and the image.
fn install_apart<'t>(
    request: &CreateRequest,
    target: &'t Target,
    context: &Context,
) -> anyhow::Result<(Installed<'t>, File)> {
    let seed_disk = request.seed.plan().map(|plan| seed_volume::own_disk(plan, request)).transpose()?.flatten();
    if let ImageRef::Url(url) = &request.image {
        tell_what_is_left(url, &request.cache, context);
    }
    // Made here, as the confined process can't. Where that fails, it will say so if it needs it.
    let folder = Cache::open(&request.cache).ok().map(|cache| cache.dir().to_owned());
    let (image, local) = open_local(request)?.unzip();
    let watch = local.as_ref().map(|image| ImageWatch::begin(image, SystemTime::now(), &context.report)).transpose()?;
    let disks: Vec<_> = [Some(target), seed_disk.as_ref()].into_iter().flatten().map(Target::file).collect();
    // What the instance had is a guest's bytes, and looked at by a process of its own.
    let old = old_seed::look(request, target, seed_disk.as_ref(), context);
    let needs = Needs { image, disks: &disks, folder: folder.as_deref(), network: true };
    let answer = confined(needs, context, |context| {
        // Before a reinstall touches the old system: a seed that can't be had is no reason to lose it.
        let seed = prepare_seed(request, &OldSeed::from_bytes(&old), seed_disk.as_ref(), context)?;
        install(local.as_ref(), &Job { request, target, context, seed: seed.as_ref() })
    });
    // An image that changed is the reason for whatever came of it.
    watch.map_or(Ok(()), |watch| watch.end())?;
    let answer = answer?;
    let image = local.map(ImageFile::into_file).or(answer.file).context("the working process gave no image")?;
    Ok((Installed::from_bytes(&answer.bytes, target, request.write)?, image))
}

/// An image on the node, and its path. It is opened where it can be seen who else has it open; no byte of it is read here.
fn open_local(request: &CreateRequest) -> anyhow::Result<Option<(&Path, ImageFile)>> {
    match &request.image {
        ImageRef::Url(_) => Ok(None),
        ImageRef::Path(path) => Ok(Some((path, unsteady::settle(ImageFile::open_allowed(path, &request.local)?)?))),
    }
}

/// The seed, if there is to be one. That the instance loses something by it, or by having none, is told.
fn prepare_seed<'r>(
    request: &'r CreateRequest,
    old: &OldSeed,
    disk: Option<&'r Target>,
    context: &Context,
) -> anyhow::Result<Option<Seed<'r>>> {
    let plan = match &request.seed {
        SeedWish::IfKept(_) if !old.has_something() => None,
        SeedWish::IfKept(Err(error)) => bail!("keeping the old seed (seed_keep): {error:#}"),
        wish => wish.plan(),
    };
    let seed = plan.map(|plan| Seed::prepare(plan, &old.held(), disk, request, context)).transpose()?;
    old.tell_losses(seed.as_ref().map(Seed::gives).as_ref(), request, &context.report);
    Ok(seed)
}

/// Installs the image, which is `local` if it is one of the node, in the confined process; gives what the other one needs.
fn install(local: Option<&ImageFile>, job: &Job<'_>) -> anyhow::Result<Answer> {
    let CreateRequest { checks, image: name, http, .. } = job.request;
    if let ImageRef::Url(url) = name {
        let (image, installed) = install_url(url, job)?;
        let bytes = installed.to_bytes(image.download().map(|known| known.sha256.as_str()));
        return Ok(Answer { bytes, file: Some(image.into_file()) });
    }
    let image = local.with_context(|| format!("image {name} is not open"))?;
    let proof = Proof::gather(checks, name, http, job.context)?;
    let installed = install_checked(image, &proof, job)?;
    Ok(Answer { bytes: installed.to_bytes(proof.sha256()), file: None })
}

/// So that hooks reach servers the way that images come.
fn proxies(http: &HttpSettings) -> Variables {
    let secret = |proxy: &'_ Option<Secret>| proxy.as_ref().map(|proxy| proxy.0.clone());
    let plain = secret(&http.proxy);
    variables::proxies(plain.as_deref(), secret(&http.https_proxy).or(plain.clone()).as_deref())
}
