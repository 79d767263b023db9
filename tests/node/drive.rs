// SPDX-License-Identifier: BSD-2-Clause
//! The machine's own disks: what a node has as block devices, with partitions that the kernel reads.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::support::disk::OLD;
use crate::support::images::MIB;
use crate::support::world::{tool, wait_until};

/// The kernel's name and the length in bytes of each disk behind the root's and the archive's.
pub(crate) const DRIVES: [(&str, u64); 2] = [("/dev/vdc", 32 * MIB as u64), ("/dev/vdd", 1024 * MIB as u64)];

/// An instance's disk that is a disk of the machine.
pub(crate) struct Drive(&'static str);

impl Drive {
    /// The smaller one, full of another tenant's data, without partitions.
    pub(crate) fn stale() -> Self {
        let (path, len) = DRIVES[0];
        fill(Path::new(path), OLD, len);
        // The partitions that it had go.
        wait_until("the kernel sees no partitions", || {
            tool("udevadm", &["settle"]);
            let _ = std::process::Command::new("blockdev").args(["--rereadpt", path]).output();
            !Path::new("/dev/vdc1").exists()
        });
        Drive(path)
    }

    /// What Ganeti calls it.
    pub(crate) fn path(&self) -> &Path {
        Path::new(self.0)
    }
}

/// Writes one byte everywhere.
pub(crate) fn fill(device: &Path, byte: u8, len: u64) {
    let file = OpenOptions::new().write(true).open(device).unwrap();
    let piece = vec![byte; MIB];
    for at in (0..len).step_by(MIB) {
        let rest = usize::try_from((len - at).min(MIB as u64)).unwrap();
        file.write_all_at(&piece[..rest], at).unwrap();
    }
    file.sync_all().unwrap();
}

/// All bytes of a device, and not what the page cache holds of it: a partition has a cache of its own.
pub(crate) fn bytes(device: &Path) -> Vec<u8> {
    tool("blockdev", &["--flushbufs", device.to_str().unwrap()]);
    fs::read(device).unwrap()
}

/// Every byte is the image's, or zero behind it.
pub(crate) fn assert_holds(device: &Path, image: &[u8], what: &str) {
    let bytes = bytes(device);
    let differs = (0..image.len()).find(|at| bytes[*at] != image[*at]);
    assert_eq!(differs, None, "{what}: the first byte that is not the image's");
    let stays = bytes[image.len()..].iter().position(|byte| *byte != 0);
    assert_eq!(stays.map(|at| at + image.len()), None, "{what}: the first byte behind the image that is not zero");
}

/// It can't boot: its first MiB reads zero.
pub(crate) fn assert_unbootable(device: &Path, what: &str) {
    assert!(bytes(device)[..MIB].iter().all(|byte| *byte == 0), "{what}: the disk may boot");
}

/// Nobody has it claimed: no mount, no device made of it, no swap space.
pub(crate) fn is_free(device: &Path) -> bool {
    File::options().read(true).custom_flags(libc::O_EXCL).open(device).is_ok()
}
