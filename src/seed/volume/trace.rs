// SPDX-License-Identifier: BSD-2-Clause
//! The trace of a seed that its instance removes (`seed_persist`): a few words, none of them a secret, in the last 4 KiB of
//! the disk's first MiB. A later reinstall tells by them what the instance had.
//!
//! They outlive the seed's partition there. The end of the disk is no place for them, for there the root grows. Partitions
//! begin at 1 MiB or behind it in nearly every image; GRUB uses the gap before them of an MBR only, and no more than 444 KiB of
//! it (0x78000 - 0x9000 bytes, `maxsec` in util/setup.c). Where anything else is in that place, there is no trace.
//!
//! A partition would be in the way when a disk grows or a dump is restored to a larger one; a field of the table would
//! have a meaning for others. create writes the trace with the seed, as the guest's script could not be sure to.

use std::io;

use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{self, Table, read_boot_area};
use crate::node::size::MIB;

/// Where it is, in bytes.
const START: u64 = MIB - LEN as u64;

/// What is kept for it, in bytes: a block on every disk.
const LEN: usize = 4096;

/// What was in a seed, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The serial number of the seed's volume, which says whose it was.
    pub(crate) serial: u32,
    /// How many SSH keys were in it.
    pub(crate) keys: u32,
    /// Whether there was user-data.
    pub(crate) user_data: bool,
}

impl Trace {
    /// The trace on `disk`, if there is one.
    pub(crate) fn read(disk: &dyn ReadAt) -> io::Result<Option<Self>> {
        if disk.len() < MIB {
            return Ok(None);
        }
        Ok(Trace::parse(&block(disk)?))
    }

    /// Leaves the trace on `disk`, in the place of an older one; false if something else is there.
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

    /// Only what [`Trace::write`] has written is one.
    fn parse(block: &[u8]) -> Option<Self> {
        let len = block.iter().position(|byte| *byte == 0)?;
        let text = str::from_utf8(&block[..len]).ok()?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let trace = Trace {
            serial: u32::from_str_radix(value("serial=")?, 16).ok()?,
            keys: value("ssh_keys=")?.parse().ok()?,
            user_data: value("user_data=")? == "yes",
        };
        (trace.text() == text && block[len..].iter().all(|byte| *byte == 0)).then_some(trace)
    }

    /// Words for whoever looks at the disk, too.
    fn text(&self) -> String {
        let user_data = if self.user_data { "yes" } else { "no" };
        format!(
            "simpleimage: this instance got a first-boot seed and may have removed it\nserial={:08x}\nssh_keys={}\nuser_data={user_data}\n",
            self.serial, self.keys
        )
    }
}

/// Removes the trace from `disk`; false if there is none.
pub(crate) fn remove_trace(disk: &mut dyn WriteAt) -> io::Result<bool> {
    let is_there = Trace::read(disk)?.is_some();
    if is_there {
        disk.write_at(&[0; LEN], START)?;
    }
    Ok(is_there)
}

/// Whether no partition has the place, and nothing is in it but an older trace.
fn is_free(disk: &dyn ReadAt) -> io::Result<bool> {
    let Ok(table) = Table::parse(&read_boot_area(disk)?) else { return Ok(false) };
    let block = block(disk)?;
    let apart = |partition: &partition::Partition| partition.start >= MIB || partition.end <= START;
    let is_empty = block.iter().all(|byte| *byte == 0) || Trace::parse(&block).is_some();
    Ok(is_empty && table.partitions().iter().all(apart))
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

    /// A disk of 2 MiB with an MBR and one partition, in sectors.
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
        /// A guest may write what it likes there: no panic, and nothing is taken for a trace that was not written as one.
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
