// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage install`: installs an image like the OS script `create`, but without Ganeti.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::output::{line, printable};
use super::{ImageArgs, absolute_place, not_empty, refuse_tilde};
use crate::config::{Paths, VariantName};
use crate::ganeti::env::{API_VERSION, Environment, OsParams};
use crate::ganeti::request::{self, Asked};
use crate::image::reference::RefError;
use crate::install::job::{Job, SeedWish};
use crate::install::{self, Rehearsed};
use crate::node::report::{Progress, Report, Subject};
use crate::node::run::Run;
use crate::node::size::ByteSize;

/// Each read of this file returns a new UUID (random(4)).
const NEW_UUID: &str = "/proc/sys/kernel/random/uuid";

/// The largest value of an OS parameter, in bytes. Hooks get it in a variable, and Linux allows at most 128 KiB for a
/// variable with its name (MAX_ARG_STRLEN in execve(2)).
const MAX_VALUE: usize = 120 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct InstallArgs {
    /// The image: a path with a slash in it, an http or https URL, or its name in config.toml.
    #[arg(value_parser = not_empty)]
    image: String,
    /// The disk, a block device or a file. All data on it is lost.
    disk: PathBuf,
    #[command(flatten)]
    image_args: ImageArgs,
    /// The variant whose settings are used and whose hooks run.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// The instance's name, for hooks and the first-boot seed. The default is the name of the disk's file.
    #[arg(long, value_parser = not_empty)]
    name: Option<String>,
    /// A public SSH key for the first boot: the key, a file, a URL, or an entry as in the OS parameter ssh_keys. Can
    /// be given several times.
    #[arg(long, value_name = "KEY", value_parser = not_empty)]
    ssh_key: Vec<String>,
    /// User-data for the first boot: a file, a URL, or an entry as in the OS parameter user_data. Can be given
    /// several times.
    #[arg(long, value_name = "FILE", value_parser = not_empty)]
    user_data: Vec<String>,
    /// Run no hooks.
    #[arg(long)]
    no_hooks: bool,
    /// Only show what would be installed, after checking everything that can be checked without writing, and without
    /// fetching all of the image.
    #[arg(long)]
    dry_run: bool,
}

impl InstallArgs {
    pub(super) fn subject(&self) -> Subject {
        Subject { instance: Some(self.instance()), variant: Some(self.variant.to_string()) }
    }

    /// Returns the given name, or else the name of the disk's file.
    fn instance(&self) -> String {
        let of_disk = |disk: PathBuf| disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(|| absolute(&self.disk).map(of_disk).unwrap_or_default())
    }
}

/// Installs the image. The content of the disk stays until the image is on this machine and has passed every check.
pub(super) fn install(
    args: InstallArgs,
    root: &Path,
    report: &Report,
    caller: &Environment,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (no_hooks, dry_run, image) = (args.no_hooks, args.dry_run, args.image.clone());
    let paths = Paths::below(root);
    refuse_names_of_files(&args, &paths)?;
    let job =
        request::job(reinstall_request(args, caller)?, &paths).map_err(|err| explain_unknown_name(err, &image))?;
    let job = if no_hooks { job.without_hooks() } else { job };
    if dry_run {
        let rehearsed = install::rehearse(&job, &Run::ended_by_signals(report.clone())?)?;
        return write_plan(&job, &rehearsed, out);
    }
    install::create(&job, None, &Run::with_progress(Progress::stderr(report))?)
}

/// Adds advice for an unknown name, because the user may have meant the file in this folder.
fn explain_unknown_name(err: anyhow::Error, image: &str) -> anyhow::Error {
    match err.downcast_ref() {
        Some(RefError::UnknownName { .. }) if Path::new(image).exists() => {
            anyhow!("there is no image {image} in config.toml (write ./{image} for the file in this folder)")
        }
        _ => err,
    }
}

/// Fails for a word without a slash that names only a file in this folder. Such a word means a file of the variant,
/// but the user most likely meant the file in this folder.
fn refuse_names_of_files(args: &InstallArgs, paths: &Paths) -> anyhow::Result<()> {
    let folder = paths.user_data_dir(&args.variant);
    let places = [("--ssh-key", &args.ssh_key), ("--user-data", &args.user_data)];
    let of_variant = places.into_iter().flat_map(|(flag, words)| words.iter().map(move |word| (flag, word)));
    let of_variant = of_variant.filter(|(_, word)| !folder.join(word).exists());
    let signature = args.image_args.signature.iter().map(|word| ("--signature", word));
    for (flag, word) in of_variant.chain(signature) {
        if !word.contains('/') && Path::new(word).is_file() {
            bail!("{flag}: write ./{word} for the file in this folder");
        }
    }
    Ok(())
}

/// Makes the request of a reinstall, so that the disk stays unchanged until the image has passed every check.
fn reinstall_request(args: InstallArgs, caller: &Environment) -> anyhow::Result<Asked> {
    let disk = absolute(&args.disk).context("finding out where the disk is")?;
    let name = args.instance();
    let InstallArgs { image, image_args, variant, ssh_key, user_data, .. } = args;
    let mut params = image_args.into_params(absolute_place(&image)?)?;
    params.seed.ssh_keys = joined_entries("--ssh-key", ssh_key)?;
    params.seed.user_data = joined_entries("--user-data", user_data)?;
    let uuid = fs::read_to_string(NEW_UUID).with_context(|| format!("reading {NEW_UUID}"))?.trim().to_owned();
    Ok(Asked {
        hook_environment: hook_environment(&variant, &name, &uuid, &disk, &params, caller),
        variant,
        params,
        name,
        uuid: Ok(uuid),
        reinstall: true,
        disk,
        seed_disk: Ok(None),
        nics: Ok(Vec::new()),
    })
}

/// Returns the variables that hooks get when Ganeti reinstalls an instance, so that the same hooks work here. Only
/// PATH is taken from the caller's environment, because other variables may be meant for other programs.
fn hook_environment(
    variant: &VariantName,
    name: &str,
    uuid: &str,
    disk: &Path,
    params: &OsParams,
    caller: &Environment,
) -> Vec<(OsString, OsString)> {
    let known = [
        ("OS_API_VERSION", Some(API_VERSION)),
        ("OS_NAME", Some("simpleimage")),
        ("OS_VARIANT", Some(variant.as_str())),
        ("INSTANCE_NAME", Some(name)),
        ("INSTANCE_UUID", Some(uuid)),
        ("INSTANCE_REINSTALL", Some("1")),
        ("DISK_COUNT", Some("1")),
        ("NIC_COUNT", Some("0")),
        ("OSP_IMAGE", params.image.as_deref()),
        ("OSP_IMAGE_TYPE", params.image_type.as_deref()),
        ("OSP_IMAGE_CHECKSUM", params.image_checksum.as_deref()),
        ("OSP_IMAGE_SIGNATURE", params.image_signature.as_deref()),
        ("OSP_SSH_KEYS", params.seed.ssh_keys.as_deref()),
        ("OSP_USER_DATA", params.seed.user_data.as_deref()),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into())));
    let path = caller.to_vec().into_iter().filter(|(name, _)| name == "PATH");
    known.chain([("DISK_0_PATH".into(), disk.into())]).chain(path).collect()
}

/// Makes the OS parameter from the values of `flag`, with one entry on each line.
fn joined_entries(flag: &str, given: Vec<String>) -> anyhow::Result<Option<String>> {
    if given.is_empty() {
        return Ok(None);
    }
    let entries = given.iter().map(|text| entry(text)).collect::<anyhow::Result<Vec<_>>>();
    let value = entries.with_context(|| flag.to_owned())?.join("\n");
    if value.len() > MAX_VALUE {
        let max = ByteSize(MAX_VALUE as u64);
        bail!(
            "{flag}: more than {max} in base64 (put it into the variant's user-data folder, and give its name there)"
        );
    }
    Ok(Some(value))
}

/// Makes the entry for one value. A URL or a name is already an entry. For a key or a file, the entry has the content
/// in base64, because the content may contain the characters that separate entries.
fn entry(text: &str) -> anyhow::Result<String> {
    let packed = |content: &[u8]| format!("base64:{}", BASE64_STANDARD.encode(content));
    if text.contains("://") || text.starts_with("base64:") {
        return Ok(text.to_owned());
    }
    if text.contains(char::is_whitespace) {
        return Ok(packed(text.as_bytes()));
    }
    if !text.contains('/') {
        return Ok(text.to_owned());
    }
    refuse_tilde(text)?;
    let mut content = Vec::new();
    let limit = MAX_VALUE as u64 + 1;
    let read = File::open(text).and_then(|file| file.take(limit).read_to_end(&mut content));
    read.with_context(|| format!("reading {text}"))?;
    if content.trim_ascii().is_empty() {
        bail!("{text} is empty");
    }
    Ok(packed(&content))
}

fn write_plan(job: &Job, rehearsed: &Rehearsed, out: &mut dyn Write) -> anyhow::Result<()> {
    let Rehearsed { image_type, needs, disk, partly, hooks } = rehearsed;
    let rest = if *partly { ", as far as its beginning tells" } else { "" };
    let names = |name: &&PathBuf| printable(&name.display().to_string());
    let hooks = hooks.iter().map(|hook| names(&hook)).collect::<Vec<_>>().join(", ");
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let seed = match job.seed {
        SeedWish::Off => "none",
        SeedWish::Given(_) => "yes",
        SeedWish::IfKept(_) => "what is kept of the old one",
    };
    for (name, value) in [
        ("image", job.image.to_string()),
        ("type", format!("{image_type}{rest}")),
        ("needs", needs.to_string()),
        ("disk", format!("{}, {}", job.disk.display(), ByteSize(*disk))),
        ("checks", job.checks.to_string()),
        ("seed", seed.to_owned()),
        ("hooks", or_none(hooks)),
    ] {
        line(out, &format!("{:<8} {value}", format!("{name}:")))?;
    }
    line(out, "dry run: nothing was written")
}
