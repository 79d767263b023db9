// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage install`: what create does, without Ganeti.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};

use super::Said;
use crate::config::{Paths, VariantName};
use crate::env::{API_VERSION, Environment};
use crate::image::reference::RefError;
use crate::ops;
use crate::report::{Progress, Report, Subject};
use crate::request::CreateCall;

/// Each read gives another UUID: random(4).
const NEW_UUID: &str = "/proc/sys/kernel/random/uuid";

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// The image: a path with a slash in it, an http or https URL, or its name in config.toml.
    image: String,
    /// The disk, a block device or a file. All that is on it is lost.
    disk: PathBuf,
    #[command(flatten)]
    said: Said,
    /// The variant whose settings hold and whose hooks run.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// The instance's name, for hooks and the first-boot seed; that of the disk's file if none is given.
    #[arg(long)]
    name: Option<String>,
    /// Run no hooks.
    #[arg(long)]
    no_hooks: bool,
}

impl Install {
    pub(super) fn subject(&self) -> Subject {
        Subject { instance: Some(self.instance()), variant: Some(self.variant.to_string()) }
    }

    /// The name that was given, or else that of the disk's file.
    fn instance(&self) -> String {
        let of_disk = |disk: PathBuf| disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(|| absolute(&self.disk).map(of_disk).unwrap_or_default())
    }
}

/// Installs the image. What is on the disk stays until the image is at hand and has passed every check.
pub(super) fn install(args: Install, root: &Path, report: &Report, caller: &Environment) -> anyhow::Result<()> {
    let (no_hooks, image) = (args.no_hooks, args.image.clone());
    let (environment, paths) = (environment(args, caller)?, Paths::below(root));
    let call = CreateCall::new(&environment, &paths)?;
    let call = if no_hooks { call.without_hooks() } else { call };
    let progress = Arc::new(Progress::stderr(report));
    let context = ops::Context::ended_by_signals(progress.report().clone())?;
    let created = ops::create(&call, &ops::Context { progress: Some(progress), ..context });
    created.map_err(|err| match err.downcast_ref() {
        Some(RefError::UnknownName { .. }) if Path::new(&image).exists() => {
            anyhow!("there is no image {image} in config.toml (write ./{image} for the file in this folder)")
        }
        _ => err,
    })
}

/// The variables that Ganeti would give to a create of an instance that was installed before. Of the caller's own only
/// PATH counts: what else is there may be meant for another program.
fn environment(args: Install, caller: &Environment) -> anyhow::Result<Environment> {
    let disk = absolute(&args.disk).context("finding out where the disk is")?;
    let name = args.instance();
    let uuid = fs::read_to_string(NEW_UUID).with_context(|| format!("reading {NEW_UUID}"))?;
    let given = [
        ("OS_API_VERSION", API_VERSION),
        ("OS_NAME", "simpleimage"),
        ("OS_VARIANT", args.variant.as_str()),
        ("INSTANCE_NAME", &name),
        ("INSTANCE_UUID", uuid.trim()),
        ("INSTANCE_REINSTALL", "1"),
        ("DISK_COUNT", "1"),
        ("NIC_COUNT", "0"),
        ("OSP_IMAGE_TYPE", args.said.image_type.as_deref().unwrap_or_default()),
        ("OSP_IMAGE_CHECKSUM", args.said.checksum.as_deref().unwrap_or_default()),
    ];
    let given =
        given.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.into(), value.into()));
    let path = caller.to_vec().into_iter().filter(|(name, _)| name == "PATH");
    let files = [("OSP_IMAGE", image(&args.image)?), ("DISK_0_PATH", disk.into_os_string())];
    let files = files.into_iter().map(|(name, value)| (name.into(), value));
    Ok(Environment::new(path.chain(given).chain(files)))
}

/// What create is told of the image. Its paths are absolute; a word without a slash is a name in config.toml.
fn image(text: &str) -> anyhow::Result<OsString> {
    if text.contains('/') && !text.contains("://") {
        return Ok(absolute(text).context("finding out where the image is")?.into_os_string());
    }
    Ok(text.into())
}
