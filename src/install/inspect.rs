// SPDX-License-Identifier: BSD-2-Clause
//! The command `inspect`: it shows what an image is, and whether `create` would take it, without a disk.
//!
//! The body of a URL is read as far as the gate and a partition table need it. Then the connection is closed, which
//! works with any server. What is elsewhere (an archive's index, a raw image's end, logical partitions) is requested
//! as a range of that same version, in the same way as an interrupted download continues. It is left out if the
//! server gives no strong validator. Tables of a qcow2 are not followed over the network: the verdict says that only
//! the beginning was seen.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::in_worker;
use super::job::InspectJob;
use super::local_image::{UnsteadyImage, open_local};
use crate::disk::device::{MemoryDisk, ReadAt};
use crate::disk::partition::{self, ImageExtent, Partition, StreamedDisk, Table, TableError};
use crate::image::disk_size::DiskSize;
use crate::image::format::{Formats, ImageType};
use crate::image::gate::{Expected, likely_type, stream_reader};
use crate::image::policy::LocalPolicy;
use crate::image::reader::{ImageBytes, ImageReader};
use crate::image::reference::ImageRef;
use crate::image::stored::StoredImage;
use crate::node::parallel;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::node::size::MIB;
use crate::seed::volume;
use crate::store::cache::{Cache, CacheSettings};
use crate::store::http::{Client, Conditions, Content, HttpError, HttpSettings, ImageUrl, RangeReader, Response};

/// The verdict on an image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Judged {
    /// `create` would take the image.
    Taken(Inspected),
    /// The reason why `create` refuses the image on this node for every variant.
    Refused(String),
}

/// The description of an image. All sizes and offsets are in bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Inspected {
    /// The image type, written like the OS parameter `image_type`.
    pub(crate) image_type: String,
    /// The size of the file. It is unknown if the server does not tell it.
    pub(crate) size: Option<u64>,
    /// The size of the disk in the image, and so of the smallest disk that it fits onto.
    pub(crate) disk: DiskSize,
    /// The partition table of that disk.
    pub(crate) layout: Layout,
    /// The disk format, if a variant takes it only when `image_formats` lists it.
    pub(crate) to_be_listed: Option<String>,
    /// Whether `create` will find out more when it has all of the image and unpacks it.
    pub(crate) partly: bool,
    /// Whether the image is in the cache. `None` is for a file on the node.
    pub(crate) kept: Option<bool>,
}

/// A disk's partition table, as far as the beginning of the disk shows it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layout {
    /// The type of the table (`gpt` or `mbr`) and its partitions.
    Table(String, Vec<Part>),
    /// The disk has neither a GPT nor an MBR.
    None,
    /// The MBR says that there is a GPT, but the GPT is damaged.
    DamagedGpt,
    /// The table is unknown until all of the image is unpacked.
    Packed,
    /// The table is unknown until all of the image is on the node.
    Remote,
}

impl Layout {
    /// Returns whether every partition is within the first `len` bytes.
    fn is_within(&self, len: u64) -> bool {
        match self {
            Layout::Table(_, parts) => parts.iter().all(|part| part.start.saturating_add(part.size) <= len),
            Layout::None | Layout::DamagedGpt | Layout::Packed | Layout::Remote => true,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The number as Linux counts partitions, from 1.
    pub(crate) number: u32,
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// The length in bytes.
    pub(crate) size: u64,
    /// The type as lsblk(8) shows it.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The name of the partition, which only a GPT has.
    pub(crate) name: Option<String>,
}

/// The image to examine, and the reason.
#[derive(Clone, Copy)]
pub(super) struct Inspection<'r> {
    pub(super) image: &'r ImageRef,
    pub(super) expected: Expected,
    /// Without a policy, any regular file may be the image.
    pub(super) local: Option<&'r LocalPolicy>,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: Option<&'r CacheSettings>,
    /// The disk that gets a seed's partition, and its size in bytes.
    pub(super) room: Option<(&'r Path, u64)>,
    /// Whether more than the image is fetched from servers.
    pub(super) servers: bool,
}

/// Examines the image in a worker, with the same gate as `create`. Fetches no more of an image on a server than this
/// needs, and keeps nothing.
pub(crate) fn inspect(job: &InspectJob, run: &Run) -> anyhow::Result<Judged> {
    let InspectJob { image, expected, local, http, cache } = job;
    let inspection = Inspection {
        image,
        expected: *expected,
        local: local.as_ref(),
        http,
        cache: cache.as_ref(),
        room: None,
        servers: false,
    };
    inspect_in_worker(&inspection, run, |_| Ok(()))
}

/// Examines the image like [`inspect`], and lets the worker do `first` before that.
pub(super) fn inspect_in_worker(
    inspection: &Inspection<'_>,
    run: &Run,
    first: impl FnOnce(&Run) -> anyhow::Result<()>,
) -> anyhow::Result<Judged> {
    let (path, url) = match inspection.image {
        ImageRef::Path(path) => (Some(path.as_path()), None),
        ImageRef::Url(url) => (None, Some(url)),
    };
    // The image is opened outside the worker, which may write nothing, not even the lock of a cached image, and which
    // can't see the files that other processes have open.
    let image = match inspection.image {
        ImageRef::Path(path) => match open_local(path, inspection.local, &run.report) {
            Ok(image) => Some(image),
            Err(error) if error.is::<UnsteadyImage>() => return Ok(Judged::Refused(format!("{error:#}"))),
            Err(error) => return Err(error),
        },
        ImageRef::Url(url) => inspection.cached(url, run)?,
    };
    let needs = WorkerAccess { image: path, network: url.is_some() || inspection.servers, ..WorkerAccess::default() };
    in_worker(needs, run, |run| {
        first(run)?;
        match (&image, url) {
            (Some(image), url) => Ok(inspection.file(image, url.map(|_| true), run)),
            (None, Some(url)) => inspection.remote(url, run),
            (None, None) => bail!("image {} is not open", inspection.image),
        }
    })
}

impl Inspection<'_> {
    /// Returns the cached image that a `create` would use without asking the server.
    fn cached(&self, url: &ImageUrl, run: &Run) -> anyhow::Result<Option<StoredImage>> {
        let Some(settings) = self.cache else { return Ok(None) };
        let Some(cache) = Cache::existing(settings)? else { return Ok(None) };
        let cached = cache.fresh(url, &Client::new(self.http)?, run.began, &run.report)?;
        Ok(cached.map(|cached| StoredImage::cached(url, cached)))
    }

    fn file(&self, image: &StoredImage, kept: Option<bool>, run: &Run) -> Judged {
        let found = image.reader(self.expected, None).map_err(anyhow::Error::new).and_then(|reader| {
            let archived = reader.image_type.archive.is_some();
            let found = self.examine(reader, Some(image.size()), From::File, image.name(), run)?;
            if archived {
                image.check_archive()?;
            }
            Ok(Inspected { kept, ..found })
        });
        match found {
            Ok(found) => Judged::Taken(found),
            Err(error) => Judged::Refused(format!("{error:#}")),
        }
    }

    /// Reads the beginning of the server's answer, and closes the connection.
    fn remote(&self, url: &ImageUrl, run: &Run) -> anyhow::Result<Judged> {
        let client = Client::new(self.http)?;
        let Response::Content(content) = client.get(url, &Conditions::default(), &run.report)? else {
            // The client fails for a 304 without a condition, so this does not happen.
            bail!("{url}: the server sent no image");
        };
        let pieces = RangeReader::of(&content, url, &client, &run.report);
        let pieces = pieces.as_ref().map(|pieces| pieces as &dyn FileExt);
        let Content { content_length, body, .. } = *content;
        let name = url.to_string();
        let found = stream_reader((&name, url.member()), body, content_length, pieces, self.expected);
        let found = found.map_err(anyhow::Error::new).and_then(|reader| {
            let rest = if reader.image_type == ImageType::PLAIN_RAW { pieces.zip(content_length) } else { None };
            let found = self.examine(reader, content_length, From::Server(rest), &name, run)?;
            Ok(Inspected { kept: Some(false), ..found })
        });
        match found {
            Ok(found) => Ok(Judged::Taken(found)),
            // An error of the server says nothing about the image.
            Err(error) if is_the_networks(&error) => Err(error),
            Err(error) => Ok(Judged::Refused(format!("{error:#}"))),
        }
    }

    /// Describes the image with these contents and a size of `size` bytes. Fails if `create` would find that the
    /// image is incomplete.
    fn examine(
        &self,
        image: ImageReader<'_>,
        size: Option<u64>,
        from: From<'_>,
        name: &str,
        run: &Run,
    ) -> anyhow::Result<Inspected> {
        let image_type = image.image_type;
        let taken = Formats::default().has(image_type.format);
        let examined = self.disk(image, from, run).with_context(|| format!("image {name}"))?;
        Ok(Inspected {
            image_type: image_type.to_string(),
            size,
            disk: examined.size,
            layout: examined.layout,
            to_be_listed: if taken { None } else { Some(image_type.format.name().to_owned()) },
            partly: !examined.all,
            kept: None,
        })
    }

    /// Examines the disk in the image without unpacking it to a file.
    fn disk(&self, image: ImageReader<'_>, from: From<'_>, run: &Run) -> anyhow::Result<Examined> {
        let size = image.size;
        if let (Some(disk), Some(len)) = (image.disk(&run.children)?, size.least()) {
            return Ok(Examined { size, layout: self.here(&*disk, len, run)?, all: true });
        }
        match (image.bytes, from) {
            (ImageBytes::RawStream(decoded), From::File) => self.stream(decoded, size),
            (ImageBytes::RawStream(decoded), From::Server(rest)) => self.beginning(decoded, size, rest),
            _ => {
                let packed = image.image_type.compression.is_some() || image.image_type.archive.is_some();
                let layout = if packed { Layout::Packed } else { Layout::Remote };
                Ok(Examined { size, layout, all: false })
            }
        }
    }

    /// Examines the disk in an archive on the node.
    ///
    /// The beginning is enough if the archive tells the size of the disk and all partitions are within that size.
    /// Otherwise only the end shows whether the image is complete, so all of it is decoded.
    fn stream(&self, mut decoded: Box<dyn Read + Send + '_>, size: DiskSize) -> anyhow::Result<Examined> {
        let mut head = Vec::new();
        decoded.by_ref().take(MIB).read_to_end(&mut head)?;
        let beginning = MemoryDisk(head);
        if let DiskSize::Exact(len) | DiskSize::AtLeast(len) | DiskSize::Hint(len) = size
            && len >= beginning.len()
        {
            match self.whole(&beginning, len) {
                Ok(layout) if layout.is_within(len) => return Ok(Examined { size, layout, all: false }),
                Err(error) if size == DiskSize::Exact(len) => return Err(error),
                _ => {}
            }
        }
        let passing = StreamedDisk::read(beginning.0, &mut decoded)?;
        let len = passing.len();
        Ok(Examined { size: DiskSize::Exact(len), layout: self.whole(&passing, len)?, all: true })
    }

    /// Examines the disk in an image on a server, with no more than its beginning. If the server gives `rest` of a
    /// raw disk, then what the partition table refers to is fetched too. File systems further on are not, because
    /// each of them would cost a request.
    fn beginning(
        &self,
        decoded: Box<dyn Read + Send + '_>,
        size: DiskSize,
        rest: Option<(&dyn FileExt, u64)>,
    ) -> anyhow::Result<Examined> {
        let mut head = Vec::new();
        decoded.take(MIB).read_to_end(&mut head)?;
        let head = MemoryDisk(head);
        let layout = match size {
            DiskSize::Exact(len) => self.whole(&head, len)?,
            _ => self.on_disk(&head)?,
        };
        let further = rest.and_then(|(pieces, len)| self.on_disk(&Remote { head: &head.0, pieces, len }).ok());
        let all = rest.is_some();
        Ok(Examined { size, layout: further.unwrap_or(layout), all })
    }

    /// Examines a disk of which every byte can be read, like [`Inspection::whole`], and warns about what is doubtful.
    fn here(&self, disk: &dyn ReadAt, len: u64, run: &Run) -> anyhow::Result<Layout> {
        let layout = self.whole(disk, len)?;
        if let Some(doubt) = partition::missing_backup(disk, len)? {
            run.report.warn(doubt);
        }
        Ok(layout)
    }

    /// Returns the layout of a disk of `len` bytes, after checking that the disk is complete as far as `disk` shows
    /// it.
    fn whole(&self, disk: &dyn ReadAt, len: u64) -> anyhow::Result<Layout> {
        let room = self.room.map(|(_, size)| size);
        let extent = ImageExtent { image: len, disk: room, mbr_tolerance: self.expected.mbr_tolerance };
        partition::check_complete(disk, extent)?;
        self.on_disk(disk)
    }

    /// Returns the layout of the disk. Fails if there is no room for the seed that the disk gets.
    fn on_disk(&self, disk: &dyn ReadAt) -> anyhow::Result<Layout> {
        let head = partition::read_boot_area(disk)?;
        if let Some((path, size)) = self.room {
            volume::find_space(&head, size, path)?;
        }
        let table = match Table::parse(&head) {
            Ok(table) => table,
            Err(TableError::None) => return Ok(Layout::None),
            Err(TableError::Damaged) => return Ok(Layout::DamagedGpt),
        };
        let kind = match table {
            Table::Gpt(_) => "gpt",
            Table::Mbr(_) => "mbr",
        };
        let mut all = partition::all_partitions(disk, &table)?;
        all.sort_by_key(|partition| partition.number);
        let part = |Partition { number, start, end, kind, .. }: Partition| Part {
            number,
            start,
            size: end - start,
            kind: kind.to_string(),
            name: table.name(number),
        };
        Ok(Layout::Table(kind.to_owned(), all.into_iter().map(part).collect()))
    }
}

/// The source of an image's bytes.
enum From<'p> {
    /// A file on the node, of which all bytes may be read.
    File,
    /// A server. Of a raw disk it may give what is behind the beginning; the number is the image's length in bytes.
    Server(Option<(&'p dyn FileExt, u64)>),
}

struct Examined {
    size: DiskSize,
    layout: Layout,
    /// Whether everything was examined that `create` examines.
    all: bool,
}

/// Returns whether the server or the network caused the error.
fn is_the_networks(error: &anyhow::Error) -> bool {
    let inner = |cause: &(dyn std::error::Error + 'static)| {
        let of_io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<HttpError>() || of_io.is_some_and(|inner| inner.is::<HttpError>())
    };
    error.chain().any(inner)
}

/// A raw disk on a server. The beginning is in memory.
struct Remote<'p> {
    head: &'p [u8],
    pieces: &'p dyn FileExt,
    len: u64,
}

impl ReadAt for Remote<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let here = usize::try_from(offset).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        let (first, rest) = buf.split_at_mut(here.len().min(buf.len()));
        first.copy_from_slice(&here[..first.len()]);
        if rest.is_empty() { Ok(()) } else { self.pieces.read_exact_at(rest, offset + first.len() as u64) }
    }
}

/// Returns the image type that the first bytes of each file of a cache show, written like the OS parameter `image_type`. The
/// type is `None` for a file that is no disk image or is missing.
pub(crate) fn likely_types(files: &[PathBuf], run: &Run) -> anyhow::Result<Vec<Option<String>>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    // Nobody else writes to a cache, so there is no device or FIFO whose opening would do something.
    let look = |path: &PathBuf| Some(likely_type(&File::open(path).ok()?)?.to_string());
    in_worker(WorkerAccess::default(), run, |_| Ok(parallel::map(files, look)))
}
