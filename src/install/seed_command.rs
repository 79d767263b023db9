// SPDX-License-Identifier: BSD-2-Clause
//! The command `seed`: shows the seeds on a disk, and removes them. A guest wrote everything on the disk, also where
//! the seed is. So a worker reads it, and removes it too.
//!
//! A removal can be interrupted at any point: first the content is zeroed, then the backup partition table is
//! changed, then the primary one, and last the sector by which the volume is recognised.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::in_guest_worker;
use crate::disk::device::{ReadAt, SourceDisk, Target, WriteAt};
use crate::image::compression::Compression;
use crate::image::detect;
use crate::image::format::Format;
use crate::node::run::Run;
use crate::node::size::{ByteSize, MIB};
use crate::seed::volume::{self, Contents, Error, Found, Kind, Trace};

/// The length in bytes of the first part of a volume, which is removed last. The volume is recognised by it, so that
/// a removal that was interrupted can be repeated.
const FIRST: u64 = 4096;

/// The number of bytes at the start of a file that show its format.
const HEAD: usize = 4096;

/// The largest number of seeds on a disk that are read. If there are several, it is undefined which one cloud-init uses.
const MAX_SEEDS: usize = 8;

/// The largest size of all their files together, including the names, in bytes. The answer of a worker has little more.
const MAX_CONTENTS: u64 = 6 * MIB;

/// A disk, with what cloud-init would find on it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SeedDisk {
    /// The size of the disk in bytes.
    pub(crate) size: u64,
    /// The seeds on the disk, in the order of the partitions.
    pub(crate) seeds: Vec<ShownSeed>,
    /// The trace of a seed that the instance may have removed.
    pub(crate) trace: Option<Trace>,
}

/// A seed, with its files or the reason why they are not shown.
pub(crate) type ShownSeed = (Found, Result<Contents, String>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Removed {
    Seed(Found),
    /// The trace of a seed that the instance had already removed.
    Trace,
}

/// Looks for seeds on the disk, or in the image file, at `path`. The disk may be in use, because it is not opened
/// exclusively.
pub(crate) fn show_seeds(path: &Path, run: &Run) -> anyhow::Result<SeedDisk> {
    let disk = SourceDisk::open(path)?;
    in_guest_worker(&[], run, |_| {
        let reading = || format!("reading disk {}", path.display());
        let found = volume::find_seeds(&disk).with_context(reading)?;
        if found.is_empty() {
            refuse_packed(path, &disk)?;
        }
        let seeds = look_into(found, &disk).with_context(reading)?;
        Ok(SeedDisk { size: disk.size, seeds, trace: Trace::read(&disk).with_context(reading)? })
    })
}

fn look_into(found: Vec<Found>, disk: &dyn ReadAt) -> Result<Vec<ShownSeed>, Error> {
    let (mut seeds, mut room) = (Vec::with_capacity(found.len()), MAX_CONTENTS);
    for found in found {
        let contents = match seeds.len() {
            MAX_SEEDS.. => Err(format!("not read: {MAX_SEEDS} seeds come before it on the disk")),
            _ => contents(&found, disk)?.and_then(|contents| {
                let len = len(&contents);
                room = room.checked_sub(len).ok_or_else(|| {
                    format!(
                        "not shown: it holds {}, and all that is shown may have {}",
                        ByteSize(len),
                        ByteSize(MAX_CONTENTS)
                    )
                })?;
                Ok(contents)
            }),
        };
        seeds.push((found, contents));
    }
    Ok(seeds)
}

/// Reads the files of the volume. If the volume itself is the reason that they can't be read, the result has it in words.
fn contents(found: &Found, disk: &dyn ReadAt) -> Result<Result<Contents, String>, Error> {
    match found.load(disk).and_then(|bytes| Ok(Contents::read(&bytes)?)) {
        Ok(contents) => Ok(Ok(contents)),
        Err(Error::Volume(error)) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            Ok(Err(format!("{error}{}", source.unwrap_or_default())))
        }
        Err(error) => Err(error),
    }
}

/// Returns the size of all files in bytes, including their names.
fn len(contents: &Contents) -> u64 {
    let files = contents.files.iter().map(|(name, content)| name.len() + content.len());
    files.chain(contents.folders.iter().map(String::len)).sum::<usize>() as u64
}

/// Fails for an image that is compressed or not raw. It may contain a seed that can't be seen from outside.
fn refuse_packed(path: &Path, disk: &impl ReadAt) -> anyhow::Result<()> {
    let mut head = vec![0; usize::try_from(disk.len()).unwrap_or(usize::MAX).min(HEAD)];
    disk.read_at(&mut head, 0).with_context(|| format!("reading disk {}", path.display()))?;
    let what = match (Compression::detect(&head), detect::content(&head)) {
        (Some(compression), _) => format!("{compression} compression"),
        (None, detect::Content::Disk(format)) if format != Format::Raw => format!("{format} format"),
        _ => return Ok(()),
    };
    bail!("{} is in {what}: only a disk or a raw image can be looked at", path.display())
}

/// Removes the seed and its trace from the disk at `path`: its bytes read zero, and its partition is removed from the
/// partition table. Removes a seed that simpleimage did not make only if `force` is set.
///
/// # Errors
/// A disk that is in use, and one without a seed.
pub(crate) fn remove_seed(path: &Path, force: bool, run: &Run) -> anyhow::Result<Removed> {
    let mut disk = Target::open(path)?;
    let open = disk.file().try_clone().with_context(|| format!("sharing disk {}", path.display()))?;
    in_guest_worker(&[&open], run, |_| remove_from(&mut disk, path, force))
}

fn remove_from(disk: &mut Target, path: &Path, force: bool) -> anyhow::Result<Removed> {
    let seeds = volume::find_seeds(disk).with_context(|| format!("reading disk {}", path.display()))?;
    let ours = seeds.iter().find(|found| found.our_serial().is_some());
    if seeds.is_empty() {
        refuse_packed(path, disk)?;
    }
    let found = match (ours, seeds.first()) {
        (Some(ours), _) => ours,
        (None, None) => {
            let removing = || format!("removing the trace of a seed from disk {}", path.display());
            let removed = volume::remove_trace(disk).with_context(removing)?;
            WriteAt::sync(disk).with_context(removing)?;
            if removed {
                return Ok(Removed::Trace);
            }
            bail!("disk {} holds no seed", path.display())
        }
        (None, Some(Found { kind: Kind::Iso, .. })) => {
            bail!(
                "the seed on disk {} is an ISO 9660, which simpleimage does not make and does not remove",
                path.display()
            )
        }
        (None, Some(foreign)) if force => foreign,
        (None, Some(foreign)) => {
            bail!(
                "simpleimage did not make the seed on disk {} ({foreign}) (--force removes it all the same)",
                path.display()
            )
        }
    };
    remove(disk, found).with_context(|| format!("removing the seed from disk {}", path.display()))?;
    Ok(Removed::Seed(*found))
}

fn remove(disk: &mut Target, found: &Found) -> anyhow::Result<()> {
    let Kind::Fat { len, .. } = found.kind else { bail!("it is an ISO 9660") };
    let len = len.min(ReadAt::len(disk).saturating_sub(found.start));
    let first = FIRST.min(len);
    if let Some(number) = found.partition {
        volume::check_removable(disk, number).map_err(|reason| anyhow!("{reason}"))?;
    }
    volume::remove_trace(disk)?;
    disk.zero(found.start + first, len - first)?;
    WriteAt::sync(disk)?;
    if let Some(number) = found.partition {
        volume::remove_partition(disk, number)?;
        WriteAt::sync(disk)?;
    }
    disk.zero(found.start, first)?;
    WriteAt::sync(disk)?;
    Ok(disk.check_size()?)
}
