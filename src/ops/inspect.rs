// SPDX-License-Identifier: BSD-2-Clause
//! inspect: what an image is, and whether create would take it, without a disk.

use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Context;
use super::confined::confined;
use crate::device::{FileBytes, Memory, ReadAt};
use crate::image::disk_size::DiskSize;
use crate::image::format::{Format, Formats};
use crate::image::source::{Body, Contents, Expected, ImageError, ImageFile};
use crate::partition::{self, Partition, Table, TableError};
use crate::process::Answer;
use crate::sandbox::Needs;
use crate::size::MIB;
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
    /// Size of the file.
    pub size: u64,
    /// Size of the disk in it, which is that of the disk it needs.
    pub disk: DiskSize,
    /// What lies where on that disk.
    pub layout: Layout,
    /// The disk format, where a variant takes it only if its `image_formats` lists it.
    pub to_be_listed: Option<String>,
    /// Whether create will find out more when it unpacks it.
    pub packed: bool,
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

/// Looks at the image file at `path`, in a confined process: the gate of create decides, without a variant.
pub fn inspect(path: &Path, context: &Context) -> anyhow::Result<Judged> {
    let needs = Needs { image: Some(path), ..Needs::default() };
    let answer = confined(needs, context, |context| {
        let image = ImageFile::open(path)?;
        let judged = match look(&image, context) {
            Ok(found) => Judged::Taken(found),
            Err(error) => Judged::Refused(format!("{error:#}")),
        };
        Ok(Answer { bytes: serde_json::to_vec(&judged)?, file: None })
    })?;
    serde_json::from_slice(&answer.bytes).context("reading the answer of the working process")
}

fn look(image: &ImageFile, context: &Context) -> anyhow::Result<Inspected> {
    // It knows no variant: all that any could take.
    let Contents { image_type, body } = image.contents(Expected { formats: Formats::ALL, ..Expected::default() })?;
    let taken = Formats::default().has(image_type.format);
    Ok(Inspected {
        image_type: image_type.to_string(),
        size: image.file().metadata()?.len(),
        disk: body.disk_size(),
        packed: image_type.compression.is_some(),
        layout: layout(body, image_type.format, image.name(), context)?,
        to_be_listed: (!taken).then(|| image_type.format.name().to_owned()),
    })
}

/// Reads no more of the disk than create does before it writes, and unpacks nothing to the node.
fn layout(body: Body<'_>, format: Format, name: &str, context: &Context) -> anyhow::Result<Layout> {
    match body {
        Body::RawFile(file, len) => on_disk(&FileBytes::new(file, len)),
        Body::RawStream(decoded, _) => {
            let mut head = Vec::new();
            let read = decoded.take(MIB).read_to_end(&mut head);
            read.map_err(|source| ImageError::Read { name: name.to_owned(), source })?;
            on_disk(&Memory(head))
        }
        Body::QemuFile(file, size) => {
            let head = write::head(file, format.name(), size, &context.children);
            on_disk(&Memory(head.with_context(|| format!("image {name}"))?))
        }
        Body::QemuStream(_) => Ok(Layout::Packed),
    }
}

fn on_disk(disk: &dyn ReadAt) -> anyhow::Result<Layout> {
    let table = match Table::parse(&partition::boot_area(disk)?) {
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
