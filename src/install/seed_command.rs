// SPDX-License-Identifier: BSD-2-Clause
//! The command `seed`: shows the seeds on a disk, and removes them.
//!
//! A removal can be interrupted at any point: first the content is zeroed, then the backup partition table is
//! changed, then the primary one, and last the sector by which the volume is recognised.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use crate::disk::device::{ReadAt, SourceDisk, Target, WriteAt};
use crate::image::compression::Compression;
use crate::image::detect;
use crate::image::format::Format;
use crate::seed::volume::{self, Contents, Error, Found, Kind, Trace, VolumeError};

/// The length in bytes of the first part of a volume, which is removed last. The volume is recognised by it, so that
/// a removal that was interrupted can be repeated.
const FIRST: u64 = 4096;

/// The number of bytes at the start of a file that show its format.
const HEAD: usize = 4096;

/// A disk, with what cloud-init would find on it.
#[derive(Debug)]
pub(crate) struct SeedDisk {
    /// The size of the disk in bytes.
    pub(crate) size: u64,
    /// Each seed on the disk, with its files or the reason why they can't be read.
    pub(crate) seeds: Vec<(Found, Result<Contents, VolumeError>)>,
    /// The trace of a seed that the instance may have removed.
    pub(crate) trace: Option<Trace>,
}

#[derive(Debug)]
pub(crate) enum Removed {
    Seed(Found),
    /// The trace of a seed that the instance had already removed.
    Trace,
}

/// Looks for seeds on the disk, or in the image file, at `path`. The disk may be in use, because it is not opened
/// exclusively.
pub(crate) fn show_seeds(path: &Path) -> anyhow::Result<SeedDisk> {
    let disk = SourceDisk::open(path)?;
    let reading = || format!("reading disk {}", path.display());
    let contents = |found: Found| match found.load(&disk).map(|bytes| Contents::read(&bytes)) {
        Ok(contents) => Ok((found, contents)),
        Err(Error::Volume(error)) => Ok((found, Err(error))),
        Err(error) => Err(error),
    };
    let seeds = volume::find_seeds(&disk).with_context(reading)?.into_iter().map(contents);
    let seeds: Vec<_> = seeds.collect::<Result<_, _>>().with_context(reading)?;
    if seeds.is_empty() {
        refuse_packed(path, &disk)?;
    }
    Ok(SeedDisk { size: disk.size, seeds, trace: Trace::read(&disk).with_context(reading)? })
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
pub(crate) fn remove_seed(path: &Path, force: bool) -> anyhow::Result<Removed> {
    let mut disk = Target::open(path)?;
    let seeds = volume::find_seeds(&disk).with_context(|| format!("reading disk {}", path.display()))?;
    let ours = seeds.iter().find(|found| found.our_serial().is_some());
    if seeds.is_empty() {
        refuse_packed(path, &disk)?;
    }
    let found = match (ours, seeds.first()) {
        (Some(ours), _) => ours,
        (None, None) => {
            let removing = || format!("removing the trace of a seed from disk {}", path.display());
            let removed = volume::remove_trace(&mut disk).with_context(removing)?;
            WriteAt::sync(&mut disk).with_context(removing)?;
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
    remove(&mut disk, found).with_context(|| format!("removing the seed from disk {}", path.display()))?;
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
