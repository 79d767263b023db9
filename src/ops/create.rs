// SPDX-License-Identifier: BSD-2-Clause
//! create: the variant's first hooks, the image onto the instance's first disk, the variant's other hooks.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::Context;
use super::from_url::install_url;
use super::install::{Job, install_checked};
use super::run_hooks::run_hooks;
use super::seed_volume::Seed;
use super::verify_image::Proof;
use crate::device::Target;
use crate::hooks::variables::{self, Variables};
use crate::image::reference::ImageRef;
use crate::image::source::ImageFile;
use crate::request::CreateRequest;
use crate::write;

/// Runs the hooks that may veto, installs the image, then runs the other hooks. Whatever fails after the disk was touched leaves it unbootable: its first
/// MiB reads zero. A new instance's disk is made so at once, for it may hold another tenant's system; a reinstall
/// touches the old system only when the new image is at hand and has passed every check.
pub fn create(request: &CreateRequest, context: &Context) -> anyhow::Result<()> {
    context.report.info(format_args!(
        "version {}: installing instance {} (variant {}) from image {} onto disk {}",
        env!("CARGO_PKG_VERSION"),
        request.instance,
        request.variant,
        request.image,
        request.disk.display()
    ));
    let target = Target::open(&request.disk)?;
    if let ImageRef::Path(path) = &request.image
        && target.is_same_file(path)
    {
        bail!("image {} is the instance's disk itself", path.display());
    }
    if !request.reinstall {
        write::invalidate(target.held())?;
    }
    let name = variables::image(&request.image);
    // No device: what they would write there is overwritten, and a reinstall's disk is still in use as it is.
    run_hooks(&request.pre_hooks, None, name.clone(), context)?;
    // Before a reinstall touches the old system: a seed that can't be had is no reason to lose it.
    let seed = request.seed.as_ref().map(|plan| Seed::prepare(plan, request, context)).transpose()?;
    let job = Job { request, target: &target, context, seed: seed.as_ref() };
    // Its file stays open, and the image in the cache with it, until the hooks have run.
    let (image, installed) = install(&job)?;
    drop(seed);
    let disk = target.release();
    let hooked = run_hooks(&request.hooks, Some(&disk), [name, installed].concat(), context);
    drop(image);
    context.last_act.clear();
    if hooked.is_err() {
        write::invalidate(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    hooked
}

/// Installs the image; gives its file, and what hooks are told of it.
fn install(job: &Job<'_>) -> anyhow::Result<(ImageFile, Variables)> {
    let Job { request, context, .. } = job;
    let (image, told) = match &request.image {
        ImageRef::Url(url) => {
            let image = install_url(url, job)?;
            // Another create may put another image under its name in the cache meanwhile.
            let file = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), image.file().as_raw_fd()));
            let told = variables::installed(&file, image.download().map(|known| known.sha256.as_str()));
            (image, told)
        }
        ImageRef::Path(path) => {
            let image = ImageFile::open_allowed(path, &request.local)?;
            let proof = Proof::gather(&request.checks, &request.image, &request.http, context)?;
            install_checked(&image, &proof, job)?;
            (image, variables::installed(path, proof.sha256()))
        }
    };
    Ok((image, told))
}
