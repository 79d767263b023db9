// SPDX-License-Identifier: BSD-2-Clause
//! What hooks made out of a disk and did not remove: loop devices, devices of the device mapper, arrays, swap space,
//! partitions of a loop device.
//!
//! They are found in /sys. Of the devices on the disk (`device::layers`), those that were not there before the hooks
//! are theirs. They are removed as far as nobody uses them, the uppermost first, after SIGTERM too. Nobody asks what a
//! device was made with. A device that is used is an error that names who uses it.
//!
//! udev opens each device for a moment, and again after every writer. So the removal is tried until the end of a
//! patience; what the device mapper made goes by itself when udev has looked (`--deferred`); and only what is swap is
//! asked to be none, for swapoff opens it for writing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::descriptor_path;
use super::layers::{self, Layer};
use super::mounts::Mounts;
use super::swaps::Swaps;
use crate::node::sys;

/// How often it is looked what is left.
const POLL: Duration = Duration::from_millis(20);

/// What there was on a disk before hooks ran, to tell it from what there is later.
#[derive(Debug)]
pub(crate) struct DeviceSnapshot {
    disk: File,
    devices: Vec<u64>,
    swaps: Swaps,
}

impl DeviceSnapshot {
    /// Now.
    pub(super) fn hooks(disk: &File) -> io::Result<Self> {
        let devices = layers::on(disk, &Mounts::now())?.into_iter().map(|device| device.number).collect();
        Ok(DeviceSnapshot { disk: disk.try_clone()?, devices, swaps: Swaps::now() })
    }

    /// Devices that lie on the disk and did not then, the uppermost first. Those of the disk's own partition table are the
    /// kernel's and udev's business, so partitions count only if they lie on one that does.
    pub(super) fn made(&self) -> io::Result<Vec<Layer>> {
        let mut made = layers::on(&self.disk, &Mounts::now())?;
        made.retain(|device| !self.devices.contains(&device.number));
        if self.disk.metadata()?.file_type().is_block_device() {
            let own: Vec<_> = layers::partitions(self.disk.metadata()?.rdev()).iter().map(|part| part.number).collect();
            made.retain(|device| !own.contains(&device.number));
        }
        made.reverse();
        Ok(made)
    }

    /// Removes what can be removed of that, and stops swapping to the disk; `keep` is a device of ours, of which only the
    /// partitions go. What somebody uses stays. Tries for so long as `patience` says: udev has a look at each device, also when what lies
    /// on it is gone.
    pub(crate) fn remove(&self, keep: Option<&Path>, patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let mut left = self.made()?;
            self.stop_swapping(&left);
            left.retain(|device| keep != Some(&device.node()));
            if left.is_empty() || start.elapsed() > patience {
                return Ok(());
            }
            for device in &left {
                // In use: whoever asks what is left is told.
                let _ = remove(device);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Nobody is asked who does not swap: swapoff(2) opens what it is given for writing, and udev reads all of a device anew after that.
    fn stop_swapping(&self, devices: &[Layer]) {
        let swaps = Swaps::now();
        let own = self.disk.metadata().ok().filter(|data| data.file_type().is_block_device()).map(|data| data.rdev());
        let own_nodes = own.map(|number| (descriptor_path(&self.disk), number));
        let nodes = devices.iter().cloned().chain(own.into_iter().flat_map(layers::partitions));
        for (node, number) in nodes.map(|device| (device.node(), device.number)).chain(own_nodes) {
            if swaps.has_device(number) && !self.swaps.has_device(number) {
                // It stays where memory is short, and is named as what it is.
                let _ = sys::swap_off(&node);
            }
        }
    }
}

fn remove(device: &Layer) -> io::Result<()> {
    let folder = layers::folder(device.number);
    if folder.join("loop").exists() {
        return sys::loop_detach(&File::open(device.node())?);
    }
    if let Some(number) = layers::attribute(device.number, "partition") {
        let whole = fs::canonicalize(&folder)?;
        let whole = whole.parent().and_then(Path::file_name).ok_or(io::ErrorKind::NotFound)?;
        let number = number.parse().map_err(io::Error::other)?;
        return sys::delete_partition(&File::open(Path::new("/dev").join(whole))?, number);
    }
    if folder.join("md").exists() {
        // Documentation/admin-guide/md.rst: stops the array.
        return fs::write(folder.join("md/array_state"), "clear");
    }
    let name = layers::attribute(device.number, "dm/name").ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new("dmsetup");
    // Without waiting for udev: this may be the last that this process does. Deferred: where udev has a look at it, it goes then.
    command.args(["remove", "--deferred", "--noudevsync", "--", &name]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::start(&mut command)?.wait().map(drop)
}
