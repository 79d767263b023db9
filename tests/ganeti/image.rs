// SPDX-License-Identifier: BSD-2-Clause
//! Disk images for the trials, the same bytes in every run.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::command::run;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SECTOR: usize = 512;

/// Images in one folder that is also served over HTTP.
pub(crate) struct Images {
    folder: PathBuf,
    /// What `first.raw`, `first.raw.xz` and `first.qcow2` hold: a disk with a partition table.
    pub(crate) first: Vec<u8>,
    /// What `second.raw` holds: another disk, shorter than the first.
    pub(crate) second: Vec<u8>,
}

impl Images {
    pub(crate) fn make(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("creating the images' folder");
        let first = disk(6 * MIB, &[MIB..2 * MIB + 100 * KIB, 4 * MIB + 4 * KIB..6 * MIB], 1);
        // Not a whole number of MiB, nor of 4 KiB blocks.
        let second = disk(3 * MIB + 9 * SECTOR, &[MIB..2 * MIB, 2 * MIB + 64 * KIB..3 * MIB + 9 * SECTOR], 2);
        let images = Self { folder, first, second };
        fs::write(images.path("first.raw"), &images.first).expect("writing an image");
        fs::write(images.path("second.raw"), &images.second).expect("writing an image");
        run("xz", &["--keep", "-0", &images.path_text("first.raw")]);
        let (raw, qcow2) = (images.path_text("first.raw"), images.path_text("first.qcow2"));
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2]);
        images.make_file_system();
        images
    }

    /// `filesystem.raw`: ext4 on the whole disk, without partitions, so that a hook can mount it as it is.
    fn make_file_system(&self) {
        let path = self.path("filesystem.raw");
        fs::File::create(&path).and_then(|file| file.set_len(8 * MIB as u64)).expect("creating an image");
        run("mkfs.ext4", &["-q", "-O", "^has_journal", &self.path_text("filesystem.raw")]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The absolute path of an image, as an OS parameter takes it.
    pub(crate) fn path_text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path of the tests' own").to_owned()
    }
}

/// A disk of `size` bytes with an MBR, one bootable partition, pseudo-random bytes in the ranges `data`, and holes.
fn disk(size: usize, data: &[Range<usize>], seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for byte in data.iter().flat_map(Clone::clone) {
        // xorshift64: a run of equal bytes as long as a block does not happen.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[byte] = state.to_le_bytes()[3];
    }
    let first_sector = u32::try_from(MIB / SECTOR).expect("small");
    let sectors = u32::try_from((size - MIB) / SECTOR).expect("small");
    bytes[446] = 0x80;
    bytes[450] = 0x83;
    bytes[454..458].copy_from_slice(&first_sector.to_le_bytes());
    bytes[458..462].copy_from_slice(&sectors.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    bytes
}

/// Panics unless the file `disk` has `size_mib` MiB: the bytes of `image`, then zeros.
pub(crate) fn assert_disk_holds(disk: &Path, size_mib: u32, image: &[u8]) {
    let mut expected = image.to_vec();
    expected.resize(size_mib as usize * MIB, 0);
    assert_same_bytes(disk, &expected);
}

/// Panics unless the file `disk` has exactly the bytes `expected`, naming the first one that differs.
pub(crate) fn assert_same_bytes(disk: &Path, expected: &[u8]) {
    let found = fs::read(disk).unwrap_or_else(|error| panic!("reading {}: {error}", disk.display()));
    assert_eq!(found.len(), expected.len(), "size of {}", disk.display());
    let different = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(offset) = different {
        let (found, expected) = (found[offset], expected[offset]);
        panic!("{}: byte {offset} is {found:#04x} instead of {expected:#04x}", disk.display());
    }
}
