// SPDX-License-Identifier: BSD-2-Clause
//! The last steps of writing a disk that has the whole image except the boot area.

use std::io;
use std::time::Instant;

use super::writer::Written;
use super::{WriteError, WriteOptions, disk_error, make_unbootable, readback};
use crate::disk::device::{ALIGNMENT, AlignedBuf, ReadAt, Target, WriteAt};
use crate::disk::partition::{Gpt, Mbr};

/// A disk that has the whole image except the boot area, which is still in memory. It can be read and changed as the
/// one disk that it is going to be.
#[must_use = "without it the disk can't boot"]
pub struct PendingDisk<'t> {
    target: &'t Target,
    boot: AlignedBuf,
    /// The writes after the boot area since the image was complete. `None` if the disk is not read back.
    changes: Option<Vec<Change>>,
    image_len: u64,
    written: Option<Written>,
    started: Instant,
}

/// Bytes that were written over the image.
struct Change {
    /// The place on the disk in bytes.
    offset: u64,
    bytes: Vec<u8>,
}

impl<'t> PendingDisk<'t> {
    pub(super) fn new(
        target: &'t Target,
        boot: AlignedBuf,
        read_back: bool,
        image_len: u64,
        written: Option<Written>,
        started: Instant,
    ) -> Self {
        PendingDisk { target, boot, changes: read_back.then(Vec::new), image_len, written, started }
    }

    /// Takes the boot area from another process, which has written everything else and put it onto stable storage.
    pub(crate) fn from_boot_area(target: &'t Target, bytes: &[u8], image_len: u64, options: WriteOptions) -> Self {
        let mut boot = AlignedBuf::new(bytes.len());
        boot.copy_from_slice(bytes);
        Self::new(target, boot, options.verify_readback, image_len, None, Instant::now())
    }

    /// Returns the boot area, for the process that commits it.
    pub(crate) fn boot_area(&self) -> &[u8] {
        &self.boot
    }

    /// Returns the size in bytes of the disk in the image.
    pub(crate) fn image_len(&self) -> u64 {
        self.image_len
    }

    /// Returns how much was written, or `None` if qemu-img wrote it.
    pub(crate) fn written(&self) -> Option<Written> {
        self.written
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Puts everything but the boot area onto stable storage.
    pub fn sync(mut self) -> Result<Self, WriteError> {
        let target = self.target;
        target.sync().map_err(|err| disk_error(target.path(), err))?;
        let mut changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        for at in 0..changes.len() {
            let (earlier, later) = changes.split_at_mut(at + 1);
            // Where a later change covers this one, the disk has to hold the later one.
            let Change { offset, bytes } = &mut earlier[at];
            later.iter().for_each(|over| overlay(bytes, *offset, over));
            readback::check_bytes(target, bytes, *offset, "what was added to the image")?;
        }
        Ok(self)
    }

    /// Writes the boot area of a disk that is synced. Its first block comes last: only that block makes a boot sector
    /// or a partition table valid, and it gets onto the disk as a whole or not at all. Afterwards the disk can boot,
    /// but not after an error.
    pub fn commit(self) -> Result<(), WriteError> {
        self.write_boot_area().and_then(|()| self.check_boot_area()).map_err(|err| {
            match make_unbootable(self.target.held()) {
                Ok(()) => err,
                Err(_) => WriteError::MayBoot(Box::new(err)),
            }
        })
    }

    fn write_boot_area(&self) -> Result<(), WriteError> {
        let target = self.target;
        let (first, rest) = self.boot.split_at(ALIGNMENT.min(self.boot.len()));
        target.held().set_unbootable(false);
        let write = |data, offset| target.write_at(data, offset).and_then(|()| target.sync());
        let written = target.check_size().and_then(|()| write(rest, first.len() as u64)).and_then(|()| write(first, 0));
        written.map_err(|err| disk_error(target.path(), err))
    }

    fn check_boot_area(&self) -> Result<(), WriteError> {
        match self.changes {
            Some(_) => readback::check_bytes(self.target, &self.boot, 0, "the boot area"),
            None => Ok(()),
        }
    }

    /// Fits the GPT of an image of `image_len` bytes to a larger disk. If the primary table is intact, its backup moves
    /// from the end of the image to the end of the disk: the primary table is changed, the new backup is written, and
    /// the old one is zeroed. A disk without a GPT or with a broken one stays as it is.
    pub(crate) fn move_backup_gpt(&mut self, image_len: u64) -> io::Result<()> {
        let Some(mut table) = Gpt::parse(&self.boot) else { return Ok(()) };
        let (sector, old) = (table.sector(), table.clone());
        let last = self.len() / sector - 1;
        if image_len >= self.len() || last <= old.alternate() || old.alternate() >= image_len.div_ceil(sector) {
            return Ok(());
        }
        // The last partition may end where the old backup begins. The new backup must overlap neither that partition
        // nor the boot area.
        let first_free = old.last_usable().saturating_add(1).max((self.boot.len() as u64).div_ceil(sector));
        if last.checked_sub(old.entries_sectors()).is_none_or(|entries_at| entries_at < first_free) {
            return Ok(());
        }
        self.zero_old_backup(&old)?;
        table.move_backup(last);
        table.write_backup(self)?;
        table.write_primary(self)?;
        if let Some(mut mbr) = Mbr::parse(&self.boot) {
            mbr.grow_protective(old.alternate(), last);
            let (entries, at) = mbr.bytes();
            self.write_at(entries, at)?;
        }
        Ok(())
    }

    /// Zeroes only what is certainly the old backup: its header, and the entries before it where no partition may lie.
    fn zero_old_backup(&mut self, table: &Gpt) -> io::Result<()> {
        let (sector, alternate) = (table.sector(), table.alternate());
        let mut magic = [0; 8];
        self.read_at(&mut magic, alternate * sector)?;
        if &magic != Gpt::MAGIC {
            return Ok(());
        }
        let start = alternate.saturating_sub(table.entries_sectors()).max(table.last_usable() + 1).min(alternate);
        self.zero(start * sector, (alternate + 1 - start) * sector)
    }

    /// Makes `len` bytes at `offset` zero.
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let (at, in_boot) = self.in_boot(len, offset);
        self.boot[at..at + in_boot].fill(0);
        let (offset, len) = (offset + in_boot as u64, len - in_boot);
        if let Some(changes) = &mut self.changes {
            changes.push(Change { offset, bytes: vec![0; len] });
        }
        self.target.zero(offset, len as u64)
    }

    /// Returns the part of `len` bytes at `offset` that lies in the boot area: its beginning in there, and its length.
    fn in_boot(&self, len: usize, offset: u64) -> (usize, usize) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(self.boot.len());
        (at, (self.boot.len() - at).min(len))
    }
}

impl ReadAt for PendingDisk<'_> {
    fn len(&self) -> u64 {
        self.target.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(buf.len(), offset);
        let (boot, rest) = buf.split_at_mut(in_boot);
        boot.copy_from_slice(&self.boot[at..at + in_boot]);
        if rest.is_empty() { Ok(()) } else { self.target.read_at(rest, offset + in_boot as u64) }
    }
}

impl WriteAt for PendingDisk<'_> {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(data.len(), offset);
        let (boot, rest) = data.split_at(in_boot);
        self.boot[at..at + in_boot].copy_from_slice(boot);
        if rest.is_empty() {
            return Ok(());
        }
        let offset = offset + in_boot as u64;
        if let Some(changes) = &mut self.changes {
            changes.push(Change { offset, bytes: rest.to_vec() });
        }
        self.target.write_at(rest, offset)
    }

    /// Does nothing, because the disk is not used without its boot area, so the order of writes does not matter.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies the part of `over` that covers `bytes` onto them. `bytes` begin at `offset`.
fn overlay(bytes: &mut [u8], offset: u64, over: &Change) {
    let (end, over_end) = (offset + bytes.len() as u64, over.offset + over.bytes.len() as u64);
    let (start, end) = (offset.max(over.offset), end.min(over_end));
    if start < end {
        // Both places are in their slices, so they fit into a usize.
        let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
        let from = &over.bytes[index(start, over.offset)..index(end, over.offset)];
        bytes[index(start, offset)..index(end, offset)].copy_from_slice(from);
    }
}
