// SPDX-License-Identifier: BSD-2-Clause
//! Reads the members of a tar archive in one pass.
//!
//! The formats are ustar and pax (POSIX.1-2001, pax(1), "Extended Description"), and GNU's with long names and sparse files
//! (GNU tar manual, "Basic Tar Format" and "Storing Sparse Files"). The crate `tar` reads the headers; its own reader can't
//! be used, because it knows no sparse files of the pax format, and because an entry borrows the archive. No name in an
//! archive ever becomes a name in the file system.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::pax::PaxRecords;
use super::sparse::{self, Extent};
use crate::disk::fingerprint::is_zero;

/// The unit of a tar archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// A long name or the records of a pax header have at most this many bytes. A path on Linux has 4 KiB.
const MAX_RECORDS: u64 = 1 << 20;

/// Whether a file with these first bytes is a tar archive. Archives from before 1988 have no magic number and are not found.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// A member of an archive.
#[derive(Debug)]
pub(super) struct Member {
    /// The name without a leading `./`. Bytes that are not UTF-8 were replaced.
    pub(super) name: String,
    /// The length in bytes, holes included. Only a regular file has one.
    pub(super) size: u64,
    pub(super) is_file: bool,
}

/// The members of the archive `input`, and the bytes of the current one.
pub(super) struct TarReader<R> {
    input: R,
    /// The data of the current member, in ascending order; holes lie between.
    extents: std::vec::IntoIter<Extent>,
    /// The extent in which or before which the position is.
    extent: Option<Extent>,
    /// The position in the current member, and its size.
    position: u64,
    size: u64,
    /// The bytes of the current member that follow in the archive, and the padding after them.
    stored: u64,
    padding: u64,
}

/// The extension headers that belong to the next member.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    pax: PaxRecords,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        let extents = Vec::new().into_iter();
        TarReader { input, extents, extent: None, position: 0, size: 0, stored: 0, padding: 0 }
    }

    /// Skips what is left of the current member, and goes on to the next one. Returns `None` at the end of the archive, after
    /// which there is nothing but zeros.
    pub(super) fn next_member(&mut self) -> io::Result<Option<Member>> {
        self.skip(self.stored + self.padding)?;
        self.stored = 0;
        self.padding = 0;
        let mut extensions = Extensions::default();
        while let Some(block) = self.header()? {
            let header = Header::from_byte_slice(&block);
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => extensions.name = Some(self.name(header)?),
                EntryType::GNULongLink => drop(self.records(header)?),
                EntryType::XHeader => extensions.pax = PaxRecords::parse(&self.records(header)?)?,
                // Global records hold times and comments; git writes its commit there.
                EntryType::XGlobalHeader => drop(self.records(header)?),
                _ => return self.begin(header, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// Takes the member of `header` as the current one.
    fn begin(&mut self, header: &Header, extensions: Extensions) -> io::Result<Member> {
        let Extensions { name, pax } = extensions;
        let name = pax.name.clone().or(name).unwrap_or_else(|| header.path_bytes().into_owned());
        let name = String::from_utf8_lossy(&name).into_owned();
        let kind = header.entry_type();
        // GNU tar takes links as empty, whatever their size says.
        let stored = if kind.is_hard_link() { 0 } else { pax.size.map_or_else(|| header.entry_size(), Ok)? };
        if kind.as_byte() == b'M' {
            return Err(invalid(format!("{name} is continued from another volume of the tar archive")));
        }
        self.start(stored)?;
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse)
            // Before POSIX, a folder was a file whose name ends with a slash.
            && !name.ends_with('/');
        if is_file {
            self.map(header, &pax)?;
        }
        Ok(Member { name: name.trim_start_matches("./").to_owned(), size: self.size, is_file })
    }

    fn start(&mut self, stored: u64) -> io::Result<()> {
        self.stored = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.position = 0;
        self.size = 0;
        self.extent = None;
        if stored > i64::MAX as u64 {
            Err(invalid("a member of the tar archive has an impossible size".into()))
        } else {
            Ok(())
        }
    }

    /// Finds out which parts of the current member are stored. The map of a sparse file is read if it stands before the data.
    fn map(&mut self, header: &Header, pax: &PaxRecords) -> io::Result<()> {
        let (size, extents) = match (header.entry_type(), header.as_gnu(), &pax.sparse) {
            (EntryType::GNUSparse, Some(header), _) => sparse::of_gnu_header(header, &mut self.input)?,
            (_, _, Some(sparse)) => {
                let (size, extents, read) = sparse.extents(&mut self.input, self.stored)?;
                self.stored -= read;
                (size, extents)
            }
            _ => (self.stored, vec![Extent { start: 0, len: self.stored }]),
        };
        sparse::check(&extents, size, self.stored)?;
        self.size = size;
        self.extents = extents.into_iter();
        self.extent = self.extents.next();
        Ok(())
    }

    /// The next header. Returns `None` at the end of the archive.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = Vec::with_capacity(BLOCK);
        self.input.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        // Some programs write no block of zeros at the end, and GNU tar reads such archives.
        if block.is_empty() {
            return Ok(None);
        }
        let block: [u8; BLOCK] = block.try_into().map_err(|_short| cut("in a header"))?;
        if is_zero(&block) {
            return self.check_end().map(|()| None);
        }
        if !has_valid_checksum(&block) {
            return Err(invalid("a header of the tar archive is corrupt (its checksum is wrong)".into()));
        }
        Ok(Some(block))
    }

    /// Reads to the end of the input, where only zeros may follow the last member.
    fn check_end(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) if is_zero(&buffer[..len]) => {}
                Ok(_) => return Err(invalid("trailing data after the end of the tar archive".into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The name in a header of GNU's for long names. It ends with a zero byte.
    fn name(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let mut name = self.records(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// All data of the extension header `header`.
    fn records(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let len = header.entry_size()?;
        if len > MAX_RECORDS {
            return Err(invalid(format!(
                "an extension header of the tar archive has {len} bytes, more than {MAX_RECORDS}"
            )));
        }
        let mut records = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut records)?;
        if records.len() as u64 != len {
            return Err(cut("in an extension header"));
        }
        self.skip(len.next_multiple_of(BLOCK as u64) - len)?;
        Ok(records)
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(len), &mut io::sink())?;
        if skipped == len { Ok(()) } else { Err(cut("in a member")) }
    }
}

/// Reads the current member. Holes of a sparse file are zeros.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.extent.is_some_and(|extent| extent.end() <= self.position) {
            self.extent = self.extents.next();
        }
        let next = self.extent.map_or(self.size, |extent| extent.start.max(self.position));
        let hole = next.min(self.size) - self.position;
        if hole > 0 {
            let len = buf.len().min(usize::try_from(hole).unwrap_or(usize::MAX));
            buf[..len].fill(0);
            self.position += len as u64;
            return Ok(len);
        }
        let left = self.extent.map_or(0, |extent| extent.end().saturating_sub(self.position));
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let len = self.input.read(&mut buf[..want])?;
        if len == 0 {
            return Err(cut("in a member"));
        }
        self.position += len as u64;
        self.stored -= len as u64;
        Ok(len)
    }
}

/// Compares the checksum of a header with its bytes. Old programs added them as signed numbers.
fn has_valid_checksum(block: &[u8; BLOCK]) -> bool {
    let Ok(noted) = Header::from_byte_slice(block).cksum() else { return false };
    let field = 148..156;
    let counted = |index: usize, byte: u8| if field.contains(&index) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(index, byte)| counted(index, *byte));
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    noted == unsigned || i64::from(noted) == signed
}

pub(super) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

pub(super) fn cut(place: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the tar archive ends {place}"))
}
