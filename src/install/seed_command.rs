// SPDX-License-Identifier: BSD-2-Clause
//! The seeds on a disk, for people: to be looked at and to be removed.
//!
//! A removal can be cut anywhere: the content is zeroed first, then the backup table, then the primary one, and last
//! the sector by which the volume is known.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use crate::disk::device::{ReadAt, SourceDisk, Target, WriteAt};
use crate::image::compression::Compression;
use crate::image::detect;
use crate::image::format::Format;
use crate::seed::volume::{self, Contents, Error, Found, Kind, Trace, VolumeError};

/// What is left of a volume to the very last, in bytes: the sector by which it is known, so that a removal that was cut
/// can be done again.
const FIRST: u64 = 4096;

/// As much of a file as tells its format, in bytes.
const HEAD: usize = 4096;

/// A disk with what cloud-init would find on it.
#[derive(Debug)]
pub(crate) struct SeedDisk {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Each seed, with what is in it as far as it can be read.
    pub(crate) seeds: Vec<(Found, Result<Contents, VolumeError>)>,
    /// The trace of one that the instance may have removed.
    pub(crate) trace: Option<Trace>,
}

/// What was removed.
#[derive(Debug)]
pub(crate) enum Removed {
    /// A seed.
    Seed(Found),
    /// The trace of one that the instance had removed already.
    Trace,
}

/// Looks for seeds on the disk, or in the image file, at `path`. Holds nothing: it may be in use.
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

/// An image in another format, or packed, may hold a seed that can't be seen from outside.
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

/// Removes the seed from the disk at `path`, and its trace: its bytes read zero, and its partition is free. Only one of ours,
/// unless `force` is set. A disk in use is refused.
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
            let removed =
                volume::remove_trace(&mut disk).and_then(|removed| WriteAt::sync(&mut disk).map(|()| removed));
            return match removed
                .with_context(|| format!("removing the trace of a seed from disk {}", path.display()))?
            {
                true => Ok(Removed::Trace),
                false => bail!("disk {} holds no seed", path.display()),
            };
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
