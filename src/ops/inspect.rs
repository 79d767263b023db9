// SPDX-License-Identifier: BSD-2-Clause
//! inspect: what an image is, and whether create would take it, without a disk.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Context;
use super::confined::confined;
use crate::cache::{Cache, CacheSettings};
use crate::device::{FileBytes, Memory, ReadAt};
use crate::http::{Client, Conditions, Content, HttpError, HttpSettings, ImageUrl, Pieces, Response};
use crate::image::disk_size::DiskSize;
use crate::image::format::{Format, Formats};
use crate::image::policy::LocalPolicy;
use crate::image::reference::ImageRef;
use crate::image::source::{Body, Contents, Expected, ImageError, ImageFile, remote_contents};
use crate::partition::{self, Partition, Table, TableError};
use crate::process::Answer;
use crate::request::InspectRequest;
use crate::sandbox::Needs;
use crate::size::MIB;
use crate::volume;
use crate::write;

/// An image, judged.
#[derive(Debug, Serialize, Deserialize)]
pub enum Judged {
    /// What it is.
    Taken(Inspected),
    /// Why create refuses it here, whatever the variant.
    Refused(String),
}

/// What an image is. All sizes and places are in bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inspected {
    /// Its type, as the OS parameter `image_type`.
    pub image_type: String,
    /// Size of the file, where its server says it.
    pub size: Option<u64>,
    /// Size of the disk in it, which is that of the disk it needs.
    pub disk: DiskSize,
    /// What lies where on that disk.
    pub layout: Layout,
    /// The disk format, where a variant takes it only if its `image_formats` lists it.
    pub to_be_listed: Option<String>,
    /// Whether create will find out more when it has all of it, and unpacks it.
    pub partly: bool,
    /// Whether it is the one that the cache keeps; none for a file of the node's.
    pub kept: Option<bool>,
}

/// A disk's partition table, as far as its beginning shows it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Its kind (`gpt`, `mbr`) and its partitions.
    Table(String, Vec<Part>),
    /// Neither a GPT nor an MBR.
    None,
    /// The MBR says that there is a GPT, but it is not intact.
    DamagedGpt,
    /// It shows only once all of the image is unpacked.
    Packed,
    /// It shows only once all of the image is on the node.
    Remote,
}

/// A partition.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// As Linux counts them, from 1.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// As lsblk(8) shows it.
    #[serde(rename = "type")]
    pub kind: String,
    /// In a GPT.
    pub name: Option<String>,
}

/// Which image is looked at, and what for.
#[derive(Clone, Copy)]
pub(super) struct Look<'r> {
    pub(super) image: &'r ImageRef,
    pub(super) expected: Expected,
    /// None: any regular file may be the image.
    pub(super) local: Option<&'r LocalPolicy>,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: Option<&'r CacheSettings>,
    /// Where a seed's partition is to be added: the disk and its size in bytes.
    pub(super) room: Option<(&'r Path, u64)>,
}

/// Looks at the image in a confined process: the gate of create decides. Of one at a server no more is fetched than that
/// needs, and nothing is kept.
pub fn inspect(request: &InspectRequest, context: &Context) -> anyhow::Result<Judged> {
    let InspectRequest { image, expected, local, http, cache } = request;
    let look = Look { image, expected: *expected, local: local.as_ref(), http, cache: cache.as_ref(), room: None };
    look_apart(&look, context, |_| Ok(()))
}

/// The same, with something more for the confined process to do first.
pub(super) fn look_apart(
    look: &Look<'_>,
    context: &Context,
    first: impl FnOnce(&Context) -> anyhow::Result<()>,
) -> anyhow::Result<Judged> {
    let (path, url) = match look.image {
        ImageRef::Path(path) => (Some(path.as_path()), None),
        ImageRef::Url(url) => (None, Some(url)),
    };
    // Opened here, for the confined process may write nothing, not even the lock of a kept image.
    let kept = url.map_or(Ok(None), |url| look.kept(url, context))?;
    let needs = Needs { image: path, network: url.is_some(), ..Needs::default() };
    let answer = confined(needs, context, |context| {
        first(context)?;
        let judged = match (look.image, kept) {
            (ImageRef::Url(url), None) => look.remote(url, context)?,
            (_, Some(image)) => look.file(&image, Some(true), context),
            (ImageRef::Path(path), None) => {
                let image =
                    look.local.map_or_else(|| ImageFile::open(path), |local| ImageFile::open_allowed(path, local))?;
                look.file(&image, None, context)
            }
        };
        Ok(Answer { bytes: serde_json::to_vec(&judged)?, file: None })
    })?;
    serde_json::from_slice(&answer.bytes).context("reading the answer of the working process")
}

impl Look<'_> {
    /// The image that a create would use without asking the server.
    fn kept(&self, url: &ImageUrl, context: &Context) -> anyhow::Result<Option<ImageFile>> {
        let cache = self.cache.map_or(Ok(None), Cache::existing)?;
        let Some(cache) = cache else { return Ok(None) };
        let kept = cache.fresh(url, &Client::new(self.http)?, context.began, &context.report)?;
        Ok(kept.map(|kept| ImageFile::cached(url, kept)))
    }

    fn file(&self, image: &ImageFile, kept: Option<bool>, context: &Context) -> Judged {
        let found = image.contents(self.expected).map_err(anyhow::Error::new).and_then(|contents| {
            let partly = contents.image_type.compression.is_some();
            let found = self.examine(contents, Some(image.size()), None, image.name(), context)?;
            Ok(Inspected { partly, kept, ..found })
        });
        found.map_or_else(|error| Judged::Refused(format!("{error:#}")), Judged::Taken)
    }

    /// Reads the beginning of the answer, and closes the connection.
    fn remote(&self, url: &ImageUrl, context: &Context) -> anyhow::Result<Judged> {
        let client = Client::new(self.http)?;
        let Response::Content(content) = client.get(url, &Conditions::default(), &context.report)? else {
            // The client refuses a 304 that nobody asked for.
            anyhow::bail!("{url}: the server sent no image");
        };
        let pieces = Pieces::of(&content, url, &client, &context.report);
        let pieces = pieces.as_ref().map(|pieces| pieces as &dyn FileExt);
        let Content { content_length, body, .. } = *content;
        let name = url.to_string();
        let found = remote_contents(&name, body, content_length, pieces, self.expected);
        let found = found.map_err(anyhow::Error::new).and_then(|contents| {
            let image_type = contents.image_type;
            let raw = image_type.compression.is_none() && image_type.format == Format::Raw;
            let rest = pieces.zip(content_length).filter(|_| raw);
            let found = self.examine(contents, content_length, rest, &name, context)?;
            Ok(Inspected { partly: rest.is_none(), kept: Some(false), ..found })
        });
        match found {
            Ok(found) => Ok(Judged::Taken(found)),
            // That the server fails says nothing of the image.
            Err(error) if is_the_networks(&error) => Err(error),
            Err(error) => Ok(Judged::Refused(format!("{error:#}"))),
        }
    }

    /// What the image with these contents is. Of a raw disk at a server `rest` gives what lies behind its beginning, and its
    /// length in bytes.
    fn examine(
        &self,
        contents: Contents<'_>,
        size: Option<u64>,
        rest: Option<(&dyn FileExt, u64)>,
        name: &str,
        context: &Context,
    ) -> anyhow::Result<Inspected> {
        let Contents { image_type, body } = contents;
        let (disk, taken) = (body.disk_size(), Formats::default().has(image_type.format));
        let layout = match body {
            Body::QemuStream(_) if image_type.compression.is_none() => Layout::Remote,
            body => self.layout(body, image_type.format, rest, name, context)?,
        };
        Ok(Inspected {
            image_type: image_type.to_string(),
            size,
            disk,
            layout,
            to_be_listed: (!taken).then(|| image_type.format.name().to_owned()),
            partly: false,
            kept: None,
        })
    }

    /// Reads no more of the disk than create does before it writes, and unpacks nothing to the node.
    fn layout(
        &self,
        body: Body<'_>,
        format: Format,
        rest: Option<(&dyn FileExt, u64)>,
        name: &str,
        context: &Context,
    ) -> anyhow::Result<Layout> {
        match body {
            Body::RawFile(file, len) => self.on_disk(&FileBytes::new(file, len)),
            Body::RawStream(decoded, _) => {
                let mut head = Vec::new();
                let read = decoded.take(MIB).read_to_end(&mut head);
                read.map_err(|source| ImageError::Read { name: name.to_owned(), source })?;
                let whole = rest.and_then(|(pieces, len)| self.on_disk(&Remote { head: &head, pieces, len }).ok());
                whole.map_or_else(|| self.on_disk(&Memory(head)), Ok)
            }
            Body::QemuFile(file, size) => {
                let head = write::head(file, format.name(), size, &context.children);
                self.on_disk(&Memory(head.with_context(|| format!("image {name}"))?))
            }
            Body::QemuStream(_) => Ok(Layout::Packed),
        }
    }

    /// An error too where a seed would have no place.
    fn on_disk(&self, disk: &dyn ReadAt) -> anyhow::Result<Layout> {
        let head = partition::boot_area(disk)?;
        self.room.map_or(Ok(()), |(path, size)| volume::find_space(&head, size, path).map(drop))?;
        let table = match Table::parse(&head) {
            Ok(table) => table,
            Err(TableError::None) => return Ok(Layout::None),
            Err(TableError::Damaged) => return Ok(Layout::DamagedGpt),
        };
        let kind = match table {
            Table::Gpt(_) => "gpt",
            Table::Mbr(_) => "mbr",
        };
        let mut all = partition::everywhere(disk, &table)?;
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

/// Whether it is the way to the image that failed.
fn is_the_networks(error: &anyhow::Error) -> bool {
    let inner = |cause: &(dyn std::error::Error + 'static)| {
        let of_io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<HttpError>() || of_io.is_some_and(|inner| inner.is::<HttpError>())
    };
    error.chain().any(inner)
}

/// A raw disk at a server, of which the beginning is here.
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
