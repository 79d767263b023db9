// SPDX-License-Identifier: BSD-2-Clause
//! Disks of an instance: files, and loop devices as Ganeti's external storage would give them.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::world::{World, tool, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Block,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::File, Kind::Block];

/// A disk that Ganeti gives us.
pub(crate) struct Disk {
    file: PathBuf,
    device: Option<PathBuf>,
}

/// What old data looks like.
pub(crate) const OLD: u8 = 0xa5;

impl Disk {
    /// A disk full of another tenant's data.
    pub(crate) fn stale(world: &World, name: &str, kind: Kind, size: usize) -> Self {
        let file = world.path(name);
        fs::write(&file, vec![OLD; size]).unwrap();
        Self::over(file, kind)
    }

    /// A disk over a file that is there.
    pub(crate) fn over(file: PathBuf, kind: Kind) -> Self {
        let device = (kind == Kind::Block)
            .then(|| PathBuf::from(tool("losetup", &["--find", "--show", file.to_str().unwrap()]).trim_end()));
        Disk { file, device }
    }

    /// What Ganeti calls it.
    pub(crate) fn path(&self) -> &Path {
        self.device.as_deref().unwrap_or(&self.file)
    }

    /// Unmounts the device, everywhere.
    pub(crate) fn unmount(&self) {
        tool("umount", &[self.path().to_str().unwrap()]);
        self.wait_until_unmounted();
    }

    /// Waits until nobody has the device mounted: the hooks of another test may have a copy of the mount in their namespace.
    pub(crate) fn wait_until_unmounted(&self) {
        wait_until("nobody has it mounted", || {
            let exclusive = fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.path());
            exclusive.is_ok()
        });
    }

    /// All of its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    /// Every byte is the image's, or zero behind it.
    pub(crate) fn assert_holds(&self, image: &[u8], what: &str) {
        let bytes = self.bytes();
        if let Some(at) = (0..image.len()).find(|at| bytes[*at] != image[*at]) {
            panic!("{what}: byte {at} is {:#x}, not the image's {:#x}", bytes[at], image[at]);
        }
        if let Some(at) = bytes[image.len()..].iter().position(|byte| *byte != 0) {
            panic!("{what}: byte {} behind the image is {:#x}", image.len() + at, bytes[image.len() + at]);
        }
        self.assert_still_ours(what);
    }

    /// Nothing was written to it.
    pub(crate) fn assert_untouched(&self, what: &str) {
        assert!(self.bytes().iter().all(|byte| *byte == OLD), "{what}: the disk was written to");
        self.assert_still_ours(what);
    }

    /// It can't boot: its first MiB reads zero.
    pub(crate) fn assert_unbootable(&self, what: &str) {
        let bytes = self.bytes();
        assert!(bytes[..bytes.len().min(1 << 20)].iter().all(|byte| *byte == 0), "{what}: the disk may boot");
        self.assert_still_ours(what);
    }

    /// A device that Ganeti gave is still attached, and nobody else is attached to the file.
    fn assert_still_ours(&self, what: &str) {
        let attached = loops_over(&self.file);
        let expected: Vec<_> = self.device.iter().map(|device| device.display().to_string()).collect();
        assert_eq!(attached, expected, "{what}: loop devices over {}", self.file.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            let _ = std::process::Command::new("losetup").arg("-d").arg(device).status();
            // Detaching is lazy while somebody looks at the device, and the next disk may have the same file.
            for _ in 0..1000 {
                if !loops_over(&self.file).contains(&device.display().to_string()) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// The loop devices attached to a file.
pub(crate) fn loops_over(file: &Path) -> Vec<String> {
    let listing = tool("losetup", &["--noheadings", "--output", "NAME", "--associated", file.to_str().unwrap()]);
    listing.lines().map(|line| line.trim().to_owned()).collect()
}
