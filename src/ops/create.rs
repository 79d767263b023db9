// SPDX-License-Identifier: BSD-2-Clause
//! create: the image onto the instance's first disk, then the variant's hooks.

use anyhow::{Context as _, bail};

use super::Context;
use super::from_url::install_url;
use super::install::{Job, install_checked};
use super::run_hooks::run_hooks;
use super::seed_volume::Seed;
use super::verify_image::Proof;
use crate::device::Target;
use crate::image::reference::ImageRef;
use crate::image::source::ImageFile;
use crate::request::CreateRequest;
use crate::write;

/// Installs the image, then runs the hooks. Whatever fails after the disk was touched leaves it unbootable: its first
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
    // Before a reinstall touches the old system: a seed that can't be had is no reason to lose it.
    let seed = request.seed.as_ref().map(|plan| Seed::prepare(plan, request, context)).transpose()?;
    let job = Job { request, target: &target, context, seed: seed.as_ref() };
    match &request.image {
        ImageRef::Url(url) => install_url(url, &job)?,
        ImageRef::Path(path) => {
            let image = ImageFile::open_allowed(path, &request.local)?;
            let proof = Proof::gather(&request.checks, &request.image, &request.http, context)?;
            install_checked(&image, &proof, &job)?;
        }
    }
    drop(seed);
    let disk = target.release();
    let hooked = run_hooks(&request.hooks, Some(&disk), context);
    context.last_act.clear();
    if hooked.is_err() {
        write::invalidate(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    hooked
}
