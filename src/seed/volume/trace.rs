// SPDX-License-Identifier: BSD-2-Clause
//! The trace of a seed that its instance removes (`seed_persist`): a few words without secrets in the last 4 KiB of the
//! first MiB of the disk. They tell a later reinstall what the instance had, when the seed and its partition are gone.
//!
//! The end of the disk is no place for the trace, as the root file system grows there. A partition of its own would be
//! in the way when the disk grows, and a field of the partition table has a meaning for other programs. Nearly all
//! images begin their partitions at 1 MiB or later. GRUB uses the gap before them only with an MBR, and at most 444 KiB
//! of it (0x78000 - 0x9000 bytes, `maxsec` in util/setup.c). If the place is used, no trace is written.
//!
//! create writes the trace together with the seed, because the script in the guest may be unable to write it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{self, Table, read_boot_area};
use crate::node::size::MIB;

/// The offset of the trace in bytes.
const START: u64 = MIB - LEN as u64;

/// The length of the trace in bytes, which is a block on every disk.
const LEN: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trace {
    /// The serial number of the volume, which says to which instance the seed belonged.
    pub(crate) serial: u32,
    /// The number of SSH keys.
    pub(crate) keys: u32,
    pub(crate) user_data: bool,
}

impl Trace {
    pub(crate) fn read(disk: &dyn ReadAt) -> io::Result<Option<Self>> {
        if disk.len() < MIB {
            return Ok(None);
        }
        Ok(Trace::parse(&block(disk)?))
    }

    /// Writes the trace, over an older one. Returns false if something else is in its place.
    pub(crate) fn write(&self, disk: &mut dyn WriteAt) -> io::Result<bool> {
        if disk.len() < MIB || !is_free(disk)? {
            return Ok(false);
        }
        let mut block = vec![0; LEN];
        let text = self.text();
        block[..text.len()].copy_from_slice(text.as_bytes());
        disk.write_at(&block, START)?;
        Ok(true)
    }

    /// Parses what [`Trace::write`] writes, and nothing else.
    fn parse(block: &[u8]) -> Option<Self> {
        let len = block.iter().position(|byte| *byte == 0)?;
        let text = str::from_utf8(&block[..len]).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let trace = Trace {
            serial: u32::from_str_radix(value("serial=")?, 16).ok()?,
            keys: value("ssh_keys=")?.parse().ok()?,
            user_data: value("user_data=")? == "yes",
        };
        if trace.text() == text && block[len..].iter().all(|byte| *byte == 0) { Some(trace) } else { None }
    }

    /// Returns the text of the trace. Its first line is for people who look at the disk.
    fn text(&self) -> String {
        let user_data = if self.user_data { "yes" } else { "no" };
        format!(
            "simpleimage: this instance got a first-boot seed and may have removed it\nserial={:08x}\nssh_keys={}\nuser_data={user_data}\n",
            self.serial, self.keys
        )
    }
}

/// Removes the trace from `disk`. Returns false if there is none.
pub(crate) fn remove_trace(disk: &mut dyn WriteAt) -> io::Result<bool> {
    let is_there = Trace::read(disk)?.is_some();
    if is_there {
        disk.write_at(&[0; LEN], START)?;
    }
    Ok(is_there)
}

/// Returns whether the place is outside of all partitions, and empty or an older trace.
fn is_free(disk: &dyn ReadAt) -> io::Result<bool> {
    let Ok(table) = Table::parse(&read_boot_area(disk)?) else { return Ok(false) };
    let block = block(disk)?;
    let is_elsewhere = |partition: &partition::Partition| partition.start >= MIB || partition.end <= START;
    let is_empty = block.iter().all(|byte| *byte == 0) || Trace::parse(&block).is_some();
    Ok(is_empty && table.partitions().iter().all(is_elsewhere))
}

fn block(disk: &dyn ReadAt) -> io::Result<[u8; LEN]> {
    let mut block = [0; LEN];
    disk.read_at(&mut block, START)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::{LEN, Trace, remove_trace};
    use crate::disk::device::MemoryDisk;
    use proptest::prelude::{any, prop, proptest};

    const AT: usize = (1 << 20) - LEN;
    const TRACE: Trace = Trace { serial: 0x00ab_cdef, keys: 2, user_data: true };

    /// Returns a disk of 2 MiB with an MBR and one partition, in sectors.
    fn disk(start: u32, len: u32) -> MemoryDisk {
        let mut bytes = vec![0; 2 << 20];
        bytes[450] = 0x83;
        bytes[454..458].copy_from_slice(&start.to_le_bytes());
        bytes[458..462].copy_from_slice(&len.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        MemoryDisk(bytes)
    }

    #[test]
    fn a_trace_comes_back_until_it_is_removed() {
        let mut disk = disk(2048, 2048);
        let before = disk.0.clone();
        assert_eq!(Trace::read(&disk).unwrap(), None);
        for trace in [TRACE, Trace { serial: u32::MAX, keys: 0, user_data: false }] {
            assert!(trace.write(&mut disk).unwrap());
            assert_eq!(Trace::read(&disk).unwrap(), Some(trace));
        }
        assert!(disk.0[..AT] == before[..AT] && disk.0[AT + LEN..] == before[AT + LEN..]);
        assert!(remove_trace(&mut disk).unwrap() && !remove_trace(&mut disk).unwrap());
        assert!(disk.0 == before);
    }

    #[test]
    fn what_is_in_the_place_stays() {
        let mut content = disk(2048, 2048);
        content.0[AT + LEN - 1] = 1;
        for mut disk in
            [content, disk(63, 4000), disk(2047, 2), MemoryDisk(vec![0; 4 << 20]), MemoryDisk(vec![0; 4096])]
        {
            let before = disk.0.clone();
            assert!(!TRACE.write(&mut disk).unwrap());
            assert!(disk.0 == before && Trace::read(&disk).unwrap().is_none());
        }
        // A partition that ends before it is not in the way.
        assert!(TRACE.write(&mut disk(63, 2040 - 63)).unwrap());
    }

    proptest! {
        /// A guest may write anything there. It must not lead to a panic, and nothing may be taken for a trace that was
        /// not written as one.
        #[test]
        fn only_what_was_written_is_one(changes in prop::collection::vec((0..160_usize, any::<u8>()), 0..3)) {
            let mut disk = disk(2048, 2048);
            TRACE.write(&mut disk).unwrap();
            for (at, byte) in changes {
                disk.0[AT + at] = byte;
            }
            if let Some(trace) = Trace::read(&disk).unwrap() {
                let before = disk.0.clone();
                trace.write(&mut disk).unwrap();
                assert!(disk.0 == before);
            }
        }
    }
}
