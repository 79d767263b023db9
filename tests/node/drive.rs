// SPDX-License-Identifier: BSD-2-Clause
//! The disks that trials install on: a disk of the machine, with partitions that the kernel reads, and a file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::disk::{Disk, Kind, OLD};
use crate::support::images::MIB;
use crate::support::world::{World, tool, wait_until};

/// The kernel's name and the length in bytes of each disk behind the root's and the archive's.
pub(crate) const DRIVES: [(&str, u64); 2] = [(DRIVE, LEN as u64), (LARGE_DRIVE, 1024 * MIB as u64)];

const DRIVE: &str = "/dev/vdc";

/// Has no partitions, and no data that a trial could rely on.
pub(crate) const LARGE_DRIVE: &str = "/dev/vdd";

/// Of the disks that trials install on.
pub(crate) const LEN: usize = 32 * MIB;

/// An instance's disk.
pub(crate) enum Target {
    Drive(&'static Path),
    File(Disk),
}

impl Target {
    /// One full of another tenant's data. There is one drive: it is given back by then.
    pub(crate) fn stale(world: &World, kind: Kind) -> Self {
        if kind == Kind::File {
            return Target::File(Disk::stale(world, "disk0", Kind::File, LEN));
        }
        let path = Path::new(DRIVE);
        fill(path, OLD);
        forget_partitions(path);
        Target::Drive(path)
    }

    /// What Ganeti calls it.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Target::Drive(path) => path,
            Target::File(disk) => disk.path(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }

    /// All of its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Target::Drive(path) => bytes(path),
            Target::File(disk) => disk.bytes(),
        }
    }

    /// Every byte is the image's, or zero behind it.
    pub(crate) fn assert_holds(&self, image: &[u8], what: &str) {
        assert_holds(&self.bytes(), image, what);
    }

    /// It can't boot: its first MiB reads zero.
    pub(crate) fn assert_unbootable(&self, what: &str) {
        assert!(self.bytes()[..MIB] == vec![0; MIB], "{what}: the disk may boot");
    }

    /// Nobody has it claimed: no mount, no device made of it, no swap space.
    pub(crate) fn assert_free(&self, what: &str) {
        if let Target::Drive(path) = self {
            assert!(is_free(path), "{what}: {} is claimed", path.display());
        }
    }
}

impl Drop for Target {
    /// What LVM and the like would find in the next trial goes.
    fn drop(&mut self) {
        if let Target::Drive(path) = self {
            let _ = Command::new("blkdiscard").args(["--force", "--zeroout"]).arg(&path).output();
            let _ = Command::new("blockdev").arg("--rereadpt").arg(path).output();
        }
    }
}

/// Waits until the kernel has seen that there are none.
fn forget_partitions(device: &Path) {
    wait_until("the kernel sees no partitions", || {
        tool("udevadm", &["settle"]);
        let _ = Command::new("blockdev").arg("--rereadpt").arg(device).output();
        !Path::new(&format!("{}1", device.display())).exists()
    });
}

/// Writes one byte everywhere.
pub(crate) fn fill(device: &Path, byte: u8) {
    let len = tool("blockdev", &["--getsize64", device.to_str().unwrap()]).trim().parse().unwrap();
    let file = OpenOptions::new().write(true).open(device).unwrap();
    let piece = vec![byte; MIB];
    for at in (0..len).step_by(MIB) {
        let rest = usize::try_from(len - at).unwrap().min(MIB);
        file.write_all_at(&piece[..rest], at).unwrap();
    }
    file.sync_all().unwrap();
}

/// All bytes of a device, and not what the page cache holds of it: a partition has a cache of its own.
pub(crate) fn bytes(device: &Path) -> Vec<u8> {
    tool("blockdev", &["--flushbufs", device.to_str().unwrap()]);
    fs::read(device).unwrap()
}

fn assert_holds(bytes: &[u8], image: &[u8], what: &str) {
    assert_same(&bytes[..image.len()], image, what);
    assert_same(&bytes[image.len()..], &vec![0; bytes.len() - image.len()], &format!("{what}, behind the image"));
}

/// Byte by byte only where they differ: without optimisation, and emulated, that takes seconds.
pub(crate) fn assert_same(bytes: &[u8], expected: &[u8], what: &str) {
    if bytes != expected {
        let differs = (0..expected.len()).find(|at| bytes[*at] != expected[*at]);
        panic!("{what}: byte {differs:?} is the first wrong one");
    }
}

pub(crate) fn is_free(device: &Path) -> bool {
    File::options().read(true).custom_flags(libc::O_EXCL).open(device).is_ok()
}
