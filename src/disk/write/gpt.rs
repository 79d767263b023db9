// SPDX-License-Identifier: BSD-2-Clause
//! Fits an image's GPT to a larger disk: its backup moves from the image's end to the disk's end.

use std::io;

use super::PendingDisk;
use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{Gpt, Mbr};

/// Moves the backup GPT to the end of the disk when the primary one is intact and the disk is larger than the image:
/// changes the primary one, writes the new backup and zeroes the old one. A disk without a GPT, or with a broken one,
/// stays as it is.
pub(crate) fn move_backup(disk: &mut PendingDisk<'_>, image_len: u64) -> io::Result<()> {
    let Some(mut table) = Gpt::parse(&disk.boot) else { return Ok(()) };
    let (sector, old) = (table.sector(), table.clone());
    let last = disk.len() / sector - 1;
    if image_len >= disk.len() || last <= old.alternate() || old.alternate() >= image_len.div_ceil(sector) {
        return Ok(());
    }
    // The last partition may end where the old backup begins, but not reach into the new one; nor may the boot area.
    let first_free = old.last_usable().saturating_add(1).max((disk.boot.len() as u64).div_ceil(sector));
    if last.checked_sub(old.entries_sectors()).is_none_or(|entries_at| entries_at < first_free) {
        return Ok(());
    }
    zero_old_backup(&old, disk)?;
    table.move_backup(last);
    table.write_backup(disk)?;
    table.write_primary(disk)?;
    if let Some(mut mbr) = Mbr::parse(&disk.boot) {
        mbr.grow_protective(old.alternate(), last);
        let (entries, at) = mbr.bytes();
        disk.write_at(entries, at)?;
    }
    Ok(())
}

/// Only what certainly is the old backup: its header, and the entries before it where no partition may lie.
fn zero_old_backup(table: &Gpt, disk: &mut PendingDisk<'_>) -> io::Result<()> {
    let (sector, alternate) = (table.sector(), table.alternate());
    let mut magic = [0; 8];
    disk.read_at(&mut magic, alternate * sector)?;
    if &magic != Gpt::MAGIC {
        return Ok(());
    }
    let start = alternate.saturating_sub(table.entries_sectors()).max(table.last_usable() + 1).min(alternate);
    disk.zero(start * sector, (alternate + 1 - start) * sector)
}
