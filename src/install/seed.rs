// SPDX-License-Identifier: BSD-2-Clause
//! The seed of the OS script `create`: fetches its files from their sources, and writes it to its volume before the
//! image can boot.
//!
//! The seed's file system is written to the disk. Its entry in the primary partition table is written in memory,
//! together with the first MiB (`write::PendingDisk`). So a half-written disk never boots, with a seed as without
//! one. Before the disk is touched, the image's first MiB shows whether there is room. Of a stream those bytes are
//! read ahead, and of a qcow2 they are converted twice. Whether the image contains another CIDATA volume is known in
//! advance of a raw file only. Other images have to be on the disk first.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use super::job::Job;
use crate::disk::device::{FileBytes, ReadAt, Target, WriteAt};
use crate::disk::write::{self, PendingDisk};
use crate::image::reader::{ImageBytes, ImageReader};
use crate::image::reference::ImageRef;
use crate::node::process::Children;
use crate::node::run::Run;
use crate::node::size::{ByteSize, MIB};
use crate::seed::volume::{self, PlaceError, Trace};
use crate::seed::{self, Identity, MAX_FILE, NetworkPlan, Placement, Plan, SeedContent, SeedFiles, Source, UserData};
use crate::store::http::{Client, HttpSettings};

/// The largest size of one source in bytes, the same as for a small file from a server.
const MAX_SOURCE: u64 = MIB;

/// The largest size of all sources of one list in bytes, the same as of the volume. The next source is not read.
const MAX_SOURCES: u64 = volume::LEN;

/// Fetches what `plan` names and makes the files of the seed from it, with what is to be kept of the `old` seed.
/// Reports only the sizes of the content.
///
/// # Errors
/// A source that can't be read, an SSH key that is none, and a file that is too large. Messages do not repeat the
/// content.
pub fn seed_files(plan: &Plan, old: &SeedContent, http: &HttpSettings, run: &Run) -> anyhow::Result<SeedFiles> {
    let sources = Sources { http, run };
    tell_long_name(&plan.identity, run);
    let network_config = match &plan.network {
        NetworkPlan::Ganeti(network) => network.document(),
        NetworkPlan::Given(source) => Some(sources.network_config(source)?),
        NetworkPlan::Off => None,
    };
    let files = SeedFiles {
        meta_data: sources.meta_data(plan, old)?,
        user_data: sources.user_data(plan, old)?,
        network_config,
        vendor_data: plan.persist.then(|| seed::vendor_data(&plan.identity)),
    };
    check_size("meta-data (with the keys)", &files.meta_data)?;
    check_size("network-config", files.network_config.as_deref().unwrap_or_default())?;
    let sizes: Vec<_> = files.iter().map(|(name, file)| format!("{name} {} bytes", file.len())).collect();
    run.report.info(format_args!("first-boot seed: {}", sizes.join(", ")));
    Ok(files)
}

/// Warns if the name is too long for a Linux instance.
pub(super) fn tell_long_name(identity: &Identity, run: &Run) {
    if let Some(warning) = identity.warning() {
        run.report.warn(warning);
    }
}

/// Reads the sources of a plan.
struct Sources<'s> {
    http: &'s HttpSettings,
    run: &'s Run,
}

impl Sources<'_> {
    fn meta_data(&self, plan: &Plan, old: &SeedContent) -> anyhow::Result<Vec<u8>> {
        let mut keys = Vec::new();
        for ((number, source), content) in (1..).zip(&plan.keys).zip(self.read_all("ssh_keys", &plan.keys)?) {
            let entry = || format!("ssh_keys, entry {number}{}", shown(source));
            keys.extend(seed::parse_keys(&content).map_err(|error| anyhow!("{}: {error}", entry()))?);
        }
        if plan.keep.keys && !old.keys.is_empty() {
            let (with, count) = (seed::meta_data(&plan.identity, [&keys[..], &old.keys].concat()), old.keys.len());
            let report = &self.run.report;
            if with.len() <= MAX_FILE {
                report.info(format_args!("SSH keys kept from the old seed: {count} (seed_keep)"));
                return Ok(with);
            }
            report.warn(format_args!("the {count} SSH keys of the old seed are too many to be kept"));
        }
        Ok(seed::meta_data(&plan.identity, keys))
    }

    fn user_data(&self, plan: &Plan, old: &SeedContent) -> anyhow::Result<Vec<u8>> {
        if plan.keep.user_data && !old.user_data.is_empty() {
            let len = old.user_data.len();
            self.run.report.info(format_args!("user-data kept from the old seed: {len} bytes (seed_keep)"));
            return Ok(old.user_data.clone());
        }
        let UserData { document, unknown } = seed::user_data(self.read_all("user_data", &plan.user_data)?)?;
        for number in unknown {
            self.run.report.warn(format_args!(
                "part {number} of user_data begins with nothing that cloud-init knows, such as #cloud-config or #!: it will not use it"
            ));
        }
        Ok(document)
    }

    fn network_config(&self, source: &Source) -> anyhow::Result<Vec<u8>> {
        let content = self.read(source).with_context(|| format!("network_config{}", shown(source)))?;
        if content.trim_ascii().is_empty() {
            bail!("network_config{} is empty (use network_config=off for none)", shown(source));
        }
        if seed::is_html(&content) || std::str::from_utf8(&content).is_err() {
            bail!("network_config{} is an HTML page or not text", shown(source));
        }
        Ok(content)
    }

    /// Returns the contents of the sources of `parameter`, in their order.
    fn read_all(&self, parameter: &str, sources: &[Source]) -> anyhow::Result<Vec<Vec<u8>>> {
        let (mut contents, mut len) = (Vec::with_capacity(sources.len()), 0);
        for (number, source) in (1..).zip(sources) {
            let entry = || format!("{parameter}, entry {number}{}", shown(source));
            let content = self.read(source).with_context(entry)?;
            len += content.len() as u64;
            if len > MAX_SOURCES {
                bail!(
                    "{}: with it the list has {} and may have {} at most",
                    entry(),
                    ByteSize(len),
                    ByteSize(MAX_SOURCES)
                );
            }
            contents.push(content);
        }
        Ok(contents)
    }

    fn read(&self, source: &Source) -> anyhow::Result<Vec<u8>> {
        match source {
            Source::Inline(content) => Ok(content.clone()),
            Source::File { file, .. } => Ok(read_file(file)?),
            Source::Url(url) => Ok(Client::new(self.http)?.fetch_small(url, &self.run.report)?),
        }
    }
}

/// Returns the path of a file, for messages. Errors of a URL already name the URL.
fn shown(source: &Source) -> String {
    match source {
        Source::File { path, .. } => format!(" ({})", path.display()),
        Source::Inline(_) | Source::Url(_) => String::new(),
    }
}

fn read_file(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_SOURCE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SOURCE {
        return Err(io::Error::other(format!("larger than {}", ByteSize(MAX_SOURCE))));
    }
    Ok(content)
}

fn check_size(what: &str, content: &[u8]) -> anyhow::Result<()> {
    if content.len() > MAX_FILE {
        let size = ByteSize(content.len() as u64);
        bail!("the {what} has {size} and may have {} at most", ByteSize(MAX_FILE as u64));
    }
    Ok(())
}

pub(super) struct Seed<'p> {
    identity: &'p Identity,
    files: SeedFiles,
    /// The disk for the seed. Without one, the seed gets a partition of the first disk.
    disk: Option<&'p Target>,
    /// The trace that is left when the instance removes the seed. `None` if the instance does not remove it.
    trace: Option<Trace>,
}

impl<'p> Seed<'p> {
    /// Fetches the content of the seed, with what is to be kept of the `old` one. `disk` is the disk for the seed,
    /// from [`own_disk`].
    pub(super) fn prepare(
        plan: &'p Plan,
        old: &SeedContent,
        disk: Option<&'p Target>,
        job: &Job,
        run: &Run,
    ) -> anyhow::Result<Self> {
        let (files, identity) = (seed_files(plan, old, &job.http, run)?, &plan.identity);
        let mut seed = Seed { identity, files, disk, trace: None };
        // Files that do not fit are found before anything is written.
        let len = seed.disk.map_or(volume::LEN, volume_len);
        seed.format(len, volume::SECTOR)?;
        if plan.persist && disk.is_none() {
            let SeedContent { keys, user_data, .. } = seed.gives();
            let (keys, user_data) = (u32::try_from(keys.len())?, !user_data.is_empty());
            seed.trace = Some(Trace { serial: identity.volume_serial(), keys, user_data });
        }
        Ok(seed)
    }

    /// The SSH keys and the user-data that the seed gives to the instance.
    pub(super) fn gives(&self) -> SeedContent {
        // Our own files have the form that the parser expects, so this does not fail.
        SeedContent::of(self.files.iter(), self.identity).unwrap_or_default()
    }

    /// Fails if the image leaves no room for the seed, as far as that is known before anything is written to
    /// `target`.
    pub(super) fn check(
        &self,
        image: &mut ImageReader<'_>,
        target: &Target,
        children: &Children,
    ) -> anyhow::Result<()> {
        if let ImageBytes::RawFile(file, len) = image.bytes {
            volume::refuse_present(&FileBytes::new(file, len))?;
        }
        let head = image.beginning(children)?;
        if self.disk.is_none() {
            volume::find_space(&head, target.size(), target.path())?;
        }
        Ok(())
    }

    /// Writes the seed: to its own disk, and syncs it, or to the end of the first disk, which has the image by now.
    pub(super) fn write(&self, pending: &mut PendingDisk<'_>, target: &Target, run: &Run) -> anyhow::Result<()> {
        volume::refuse_present(&*pending)?;
        if let Some(disk) = self.disk {
            self.write_disk(disk).with_context(|| format!("writing the seed to disk {}", disk.path().display()))?;
            run.report.info(format_args!("the first-boot seed is on disk {}", disk.path().display()));
            return Ok(());
        }
        let number = self.write_partition(pending, target.path())?;
        if let Some(trace) = self.trace
            && !trace.write(pending)?
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

    fn write_partition(&self, pending: &mut PendingDisk<'_>, path: &Path) -> anyhow::Result<u32> {
        let space = volume::find_space(&volume::read_boot_area(pending)?, ReadAt::len(pending), path)?;
        let bytes = self.format(volume::LEN, space.sector)?;
        pending.write_at(&bytes, space.start)?;
        Ok(volume::add_partition(pending, space, self.identity.uuid(), path)?)
    }

    fn format(&self, len: u64, sector: u64) -> Result<Vec<u8>, volume::VolumeError> {
        volume::format(len, sector, self.identity.volume_serial(), self.files.iter())
    }
}

/// Opens the disk named cidata exclusively, if the seed goes there. The disk of a new instance may contain another
/// tenant's seed, so it is made unbootable at once, which also destroys that seed.
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

/// Returns the path of the disk for the seed. `None` if the seed gets a partition.
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

/// The size of the seed's file system on a disk of its own, in bytes. The rest of the disk is zeroed.
fn volume_len(disk: &Target) -> u64 {
    (disk.size() - disk.size() % MIB).min(volume::LEN)
}
