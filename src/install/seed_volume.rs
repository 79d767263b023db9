// SPDX-License-Identifier: BSD-2-Clause
//! create: the first-boot seed onto its volume, before the image can boot.
//!
//! The file system goes to the disk, and its entry into the primary table, which is in memory with the first MiB
//! (`write::PendingDisk`). So a half-written disk never boots, as without a seed. Whether there is room is asked of the
//! image's first MiB before the disk is touched: of a stream those bytes are read ahead, of a qcow2 they are converted
//! twice. Whether another CIDATA is there, all of a raw file tells in advance, other images only when they are on the
//! disk.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use super::image_disk::ImageDisk;
use super::job::Job;
use super::seed::seed_files;
use crate::disk::device::{FileBytes, ReadAt, Target, WriteAt};
use crate::disk::write::{self, PendingDisk};
use crate::image::reference::ImageRef;
use crate::node::process::Children;
use crate::node::run::Run;
use crate::node::size::{ByteSize, MIB};
use crate::seed::volume::{self, PlaceError, Trace};
use crate::seed::{Identity, Placement, Plan, SeedContent, SeedFiles};

/// A seed that is ready to be written.
pub(super) struct Seed<'p> {
    identity: &'p Identity,
    files: SeedFiles,
    /// The disk that is to be the volume; none for a partition of the first disk.
    disk: Option<&'p Target>,
    /// What the instance leaves of it when it has removed it; none if it does not do that.
    trace: Option<Trace>,
}

impl<'p> Seed<'p> {
    /// Gets all that it says, and of the `old` one what is to be kept. `disk` is its own, from [`own_disk`].
    pub(super) fn prepare(
        plan: &'p Plan,
        old: &SeedContent,
        disk: Option<&'p Target>,
        job: &Job,
        run: &Run,
    ) -> anyhow::Result<Self> {
        let (files, identity) = (seed_files(plan, old, &job.http, run)?, &plan.identity);
        let mut seed = Seed { identity, files, disk, trace: None };
        // What does not fit shall be known before anything is written.
        let len = seed.disk.map_or(volume::LEN, volume_len);
        seed.format(len, volume::SECTOR)?;
        if plan.persist && disk.is_none() {
            let SeedContent { keys, user_data, .. } = seed.gives();
            let (keys, user_data) = (u32::try_from(keys.len())?, !user_data.is_empty());
            seed.trace = Some(Trace { serial: identity.volume_serial(), keys, user_data });
        }
        Ok(seed)
    }

    /// What it gives to the instance.
    pub(super) fn gives(&self) -> SeedContent {
        // Our own files are of the form that is asked for.
        SeedContent::of(self.files.iter(), self.identity).unwrap_or_default()
    }

    /// Whether the image leaves room for it, as far as that is known before anything is written to `target`.
    pub(super) fn check(&self, disk: &mut ImageDisk<'_>, target: &Target, children: &Children) -> anyhow::Result<()> {
        if let ImageDisk::RawFile(file, len) = disk {
            volume::refuse_present(&FileBytes::new(file, *len))?;
        }
        let head = disk.beginning(children)?;
        if self.disk.is_none() {
            volume::find_space(&head, target.size(), target.path())?;
        }
        Ok(())
    }

    /// Writes it: onto its own disk, synced, or to the end of the first disk, which holds the image by now.
    pub(super) fn write(&self, whole: &mut PendingDisk<'_>, target: &Target, run: &Run) -> anyhow::Result<()> {
        volume::refuse_present(&*whole)?;
        if let Some(disk) = self.disk {
            self.write_disk(disk).with_context(|| format!("writing the seed to disk {}", disk.path().display()))?;
            run.report.info(format_args!("the first-boot seed is on disk {}", disk.path().display()));
            return Ok(());
        }
        let number = self.write_partition(whole, target.path())?;
        if let Some(trace) = self.trace
            && !trace.write(whole)?
        {
            run.report.debug("the image leaves no place for a trace of the seed that the instance removes");
        }
        run.report.info(format_args!("the first-boot seed is in partition {number} of the disk"));
        Ok(())
    }

    fn write_disk(&self, disk: &Target) -> anyhow::Result<()> {
        let len = volume_len(disk);
        let bytes = self.format(len, volume::SECTOR)?;
        disk.zero(len, disk.size() - len)?;
        disk.write_at(&bytes, 0)?;
        disk.held().set_unbootable(false);
        disk.sync()?;
        Ok(disk.check_size()?)
    }

    fn write_partition(&self, whole: &mut PendingDisk<'_>, path: &Path) -> anyhow::Result<u32> {
        let space = volume::find_space(&volume::read_boot_area(whole)?, ReadAt::len(whole), path)?;
        let bytes = self.format(volume::LEN, space.sector)?;
        whole.write_at(&bytes, space.start)?;
        Ok(volume::add_partition(whole, space, self.identity.uuid(), path)?)
    }

    fn format(&self, len: u64, sector: u64) -> Result<Vec<u8>, volume::VolumeError> {
        volume::format(len, sector, self.identity.volume_serial(), self.files.iter())
    }
}

/// Holds the disk named cidata, if the seed is to go there. That of a new instance, which may hold another tenant's seed,
/// holds none any more.
pub(super) fn own_disk(plan: &Plan, job: &Job) -> anyhow::Result<Option<Target>> {
    let Some(path) = own_path(plan.placement, job)? else { return Ok(None) };
    let disk = Target::open(&path)?;
    if matches!(&job.image, ImageRef::Path(path) if disk.is_same_file(path)) {
        bail!("image {} is the instance's disk for the seed", job.image);
    }
    if disk.size() < MIB {
        let size = ByteSize(disk.size());
        return Err(PlaceError::SmallDisk { disk: disk.path().to_owned(), size }.into());
    }
    if !job.reinstall {
        write::make_unbootable(disk.held())?;
    }
    Ok(Some(disk))
}

/// Where that disk is.
pub(super) fn own_path(placement: Placement, job: &Job) -> anyhow::Result<Option<PathBuf>> {
    let named = || job.seed_disk.as_ref().map(Clone::clone).map_err(|err| anyhow!("{err:#}"));
    Ok(match placement {
        Placement::Partition => None,
        Placement::Auto => named()?,
        Placement::Disk => Some(named()?.context(
            "cloud_init=disk, but the instance has no disk named cidata (gnt-instance modify --disk add:size=16M,name=cidata)",
        )?),
    })
}

/// How much of a disk of its own the seed's file system takes, in bytes; the rest of the disk is zero.
fn volume_len(disk: &Target) -> u64 {
    (disk.size() - disk.size() % MIB).min(volume::LEN)
}
