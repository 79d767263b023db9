// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage cleanup`: removes what killed runs and power failures left on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::bail;
use serde_json::{Value, json};

use super::output::{line, write_json};
use crate::config::{Paths, VariantName};
use crate::ganeti::request;
use crate::install::{self, Cleaned};
use crate::node::size::ByteSize;
use crate::store::cache::CleanupOptions;

#[derive(Debug, clap::Args)]
pub(super) struct CleanupArgs {
    /// Also remove interrupted downloads that a create could continue.
    #[arg(long)]
    all: bool,
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
    /// The variant whose cache folder is cleaned. Without it, the cache folders of all variants are.
    #[arg(long)]
    variant: Option<VariantName>,
}

/// Cleans up, and writes what was removed to `out`. A loop device that is still in use is an error, because only an
/// administrator can release it.
pub(super) fn cleanup(args: &CleanupArgs, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let paths = Paths::below(root);
    let caches = match &args.variant {
        Some(variant) => vec![request::variant_cache(variant, &paths)?],
        None => request::all_caches(&paths)?,
    };
    let cleaning = CleanupOptions { all: args.all, dry_run: args.dry_run };
    let cleaned = install::cleanup(&caches, SystemTime::now(), cleaning)?;
    if args.json {
        write_json(out, &as_json(&cleaned, args.dry_run))?
    } else {
        write_text(&cleaned, args.dry_run, out)?
    }
    match cleaned.devices.len() {
        0 => Ok(()),
        1 => bail!("1 loop device of a killed run is still in use (unmount it, and remove what lies on it)"),
        more => {
            bail!("{more} loop devices of killed runs are still in use (unmount them, and remove what lies on them)")
        }
    }
}

fn write_text(cleaned: &Cleaned, dry_run: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let Cleaned { files, devices } = cleaned;
    let done = if dry_run { "would remove" } else { "removed" };
    for file in files {
        let size = ByteSize(file.bytes).rounded();
        line(out, &format!("{done} {} ({size}): {}", file.path.display(), file.reason))?;
    }
    for left in devices {
        let users = match (joined(&left.mounted_on), left.held_by.join(", ")) {
            (mounts, _) if !mounts.is_empty() => format!("mounted on {mounts}"),
            (_, holders) if !holders.is_empty() => format!("held by {holders}"),
            _ => format!("in use: see fuser -v {}", left.device.display()),
        };
        line(out, &format!("still there: {} over {}, {users}", left.device.display(), left.disk.display()))?;
    }
    if files.is_empty() && devices.is_empty() {
        line(out, "nothing is left over")?;
    }
    Ok(())
}

fn as_json(cleaned: &Cleaned, dry_run: bool) -> Value {
    let Cleaned { files, devices } = cleaned;
    let removed: Vec<_> = files
        .iter()
        .map(|file| json!({ "path": file.path.display().to_string(), "bytes": file.bytes, "reason": file.reason }))
        .collect();
    let left: Vec<_> = devices
        .iter()
        .map(|left| {
            let mounted_on: Vec<_> = left.mounted_on.iter().map(|path| path.display().to_string()).collect();
            let (device, disk) = (left.device.display().to_string(), left.disk.display().to_string());
            json!({ "device": device, "disk": disk, "mounted_on": mounted_on, "held_by": left.held_by })
        })
        .collect();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    json!({ "dry_run": dry_run, "removed": removed, "bytes": bytes, "devices": left })
}

fn joined(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
