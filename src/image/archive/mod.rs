// SPDX-License-Identifier: BSD-2-Clause
//! Finds the one disk in an archive: an OVA, a Vagrant box, the `disk.raw` in a tar.gz that clouds take, a container image's
//! layer.
//!
//! A member is a disk if its first bytes are those of one. Unless the user names a member, there has to be exactly one. In a
//! stream that is known only at the end of the archive: until then the bytes of the first disk are given out, and then the
//! reader fails. A disk is never made bootable before its reader has come to the end.

mod pax;
mod sparse;
mod tar;

use std::fmt;
use std::io::{self, Read};

use self::tar::{Member, TarReader, invalid};
use super::detect::{self, Content, HEAD_LEN};

pub(crate) use self::tar::is_tar;

/// An error lists at most this many members.
const LISTED: usize = 10;

/// A disk in an archive. It reads the disk's bytes, and then the rest of the archive, which must hold no other disk.
pub(crate) struct ArchivedDisk<'r> {
    pub(crate) name: String,
    /// The first [`HEAD_LEN`] bytes of the member, or all of a smaller one.
    pub(crate) head: Vec<u8>,
    /// The length of the member in bytes.
    pub(crate) size: u64,
    /// The bytes after the head.
    pub(crate) rest: Rest<'r>,
}

/// The bytes of a disk that follow its head.
pub(crate) struct Rest<'r> {
    members: TarReader<Box<dyn Read + Send + 'r>>,
    wanted: Option<String>,
    /// The disks that were found.
    disks: Names,
    finished: bool,
}

/// Why an archive has no disk that can be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("the archive has no disk image; it has {0}")]
    NoDisk(Names),
    /// The name is not repeated, because what follows the `#` of a URL may be a secret.
    #[error("the archive has no file of the name that follows the #; it has {0}")]
    NoMember(Names),
}

impl<'r> ArchivedDisk<'r> {
    /// Looks for the disk in the tar archive `input`: for the member with the name `wanted`, or else for the first one that
    /// begins like a disk.
    pub(crate) fn in_tar(input: impl Read + Send + 'r, wanted: Option<&str>) -> Result<Self, ArchiveError> {
        let input: Box<dyn Read + Send + 'r> = Box::new(input);
        let mut members = TarReader::new(input);
        let mut passed = Names::default();
        while let Some(member) = members.next_member()? {
            if let Some(head) = head_of(&mut members, &member, wanted)? {
                let Member { name, size, .. } = member;
                let mut disks = Names::default();
                disks.add(&name);
                let wanted = wanted.map(str::to_owned);
                return Ok(ArchivedDisk { name, head, size, rest: Rest { members, wanted, disks, finished: false } });
            }
            passed.add(&member.name);
        }
        Err(match wanted {
            Some(_) => ArchiveError::NoMember(passed),
            None => ArchiveError::NoDisk(passed),
        })
    }
}

impl Read for Rest<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.finished {
            return Ok(0);
        }
        let len = self.members.read(buf)?;
        if len == 0 && !buf.is_empty() {
            self.finish()?;
        }
        Ok(len)
    }
}

impl Rest<'_> {
    /// Reads the rest of the archive, and fails if it holds another disk, or another member of the wanted name.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        while let Some(member) = self.members.next_member()? {
            if head_of(&mut self.members, &member, self.wanted.as_deref())?.is_some() {
                self.disks.add(&member.name);
            }
        }
        self.finished = true;
        match (&self.wanted, self.disks.count) {
            (_, 0 | 1) => Ok(()),
            (None, _) => Err(invalid(format!(
                "the archive has more than one disk: {} (choose one with #NAME after the image)",
                self.disks
            ))),
            (Some(wanted), _) => Err(invalid(format!("the archive has more than one file '{wanted}'"))),
        }
    }
}

/// Returns the first bytes of the current member if it is the `wanted` one, or a disk if none is wanted.
fn head_of(members: &mut impl Read, member: &Member, wanted: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let is_candidate = wanted.is_none_or(|wanted| wanted.trim_start_matches("./") == member.name);
    if !member.is_file || !is_candidate {
        return Ok(None);
    }
    let mut head = Vec::with_capacity(HEAD_LEN);
    members.take(HEAD_LEN as u64).read_to_end(&mut head)?;
    let is_disk = matches!(detect::content(&head), Content::Disk(_));
    Ok(Some(head).filter(|_| wanted.is_some() || is_disk))
}

/// Names of members for an error, of which the first ones are shown.
#[derive(Debug, Default)]
pub(crate) struct Names {
    shown: Vec<String>,
    count: usize,
}

impl Names {
    fn add(&mut self, name: &str) {
        self.count += 1;
        if self.shown.len() < LISTED {
            self.shown.push(name.chars().take(100).collect());
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("nothing");
        }
        f.write_str(&self.shown.join(", "))?;
        match self.count - self.shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
