// SPDX-License-Identifier: BSD-2-Clause
//! Finds the devices that hooks made out of a disk and did not remove: loop devices, devices of the device mapper,
//! arrays, swap space and partitions of a loop device. It also finds loop devices of ours that outlived their run.
//!
//! The devices are found in /sys. A device on the disk (`layers`) that was not there before the hooks ran belongs to
//! them, whatever tool made it. Those that nobody uses are removed, the uppermost first, after SIGTERM too. If a device
//! is in use, the error names its users.
//!
//! udev opens each device for a moment, and again after every writer, so the removal is tried again until a time limit.
//! The kernel removes a mapped device when udev has closed it (`--deferred`). swapoff is called only for swap space,
//! because it opens its argument for writing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::layers::{self, Layer};
use super::mounts::{Mounts, Swaps};
use super::{hook_device, locks};
use crate::node::file::{descriptor_path, identity};
use crate::node::process;
use crate::node::sys;

const POLL: Duration = Duration::from_millis(20);

/// The devices on a disk and the swap space of the node, as they were before hooks ran.
#[derive(Debug)]
pub(crate) struct DeviceSnapshot {
    disk: File,
    devices: Vec<u64>,
    swaps: Swaps,
}

impl DeviceSnapshot {
    pub(super) fn take(disk: &File) -> io::Result<Self> {
        let devices = layers::on(disk, &Mounts::now())?.into_iter().map(|device| device.number).collect();
        Ok(DeviceSnapshot { disk: disk.try_clone()?, devices, swaps: Swaps::now() })
    }

    /// Returns the devices that lie on the disk now and did not before, the uppermost first. The kernel and udev make
    /// and remove the partitions of the disk itself, so a partition counts only if it lies on a new device.
    pub(super) fn new_devices(&self) -> io::Result<Vec<Layer>> {
        let mut made = layers::on(&self.disk, &Mounts::now())?;
        made.retain(|device| !self.devices.contains(&device.number));
        if let Some(number) = self.disk_number()? {
            let own: Vec<_> = layers::partitions(number).iter().map(|part| part.number).collect();
            made.retain(|device| !own.contains(&device.number));
        }
        made.reverse();
        Ok(made)
    }

    /// Stops swapping to the disk, and removes the new devices that nobody uses. The device `keep` is ours, so only its
    /// partitions are removed. Tries again for `patience`.
    pub(crate) fn remove_new(&self, keep: Option<&Path>, patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let mut left = self.new_devices()?;
            self.stop_swapping(&left);
            left.retain(|device| keep != Some(&device.node()));
            if left.is_empty() || start.elapsed() > patience {
                return Ok(());
            }
            for device in &left {
                // This fails for a device in use. The caller looks later for what is left.
                let _ = remove(device);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Calls swapoff(2) for swap space and for nothing else. swapoff opens its argument for writing, after which udev
    /// would read all of the device again.
    fn stop_swapping(&self, devices: &[Layer]) {
        let swaps = Swaps::now();
        let mut nodes: Vec<_> = devices.iter().map(|device| (device.node(), device.number)).collect();
        if let Ok(Some(number)) = self.disk_number() {
            nodes.extend(layers::partitions(number).iter().map(|part| (part.node(), part.number)));
            nodes.push((descriptor_path(&self.disk), number));
        }
        for (node, number) in nodes {
            if swaps.has_device(number) && !self.swaps.has_device(number) {
                // This fails if memory is short. Then the error about what is left says that the device is swap space.
                let _ = sys::swap_off(&node);
            }
        }
    }

    /// Returns the device number of the disk, or `None` if it is a file.
    fn disk_number(&self) -> io::Result<Option<u64>> {
        let data = self.disk.metadata()?;
        Ok(data.file_type().is_block_device().then(|| data.rdev()))
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
        // This stops the array (Documentation/admin-guide/md.rst).
        return fs::write(folder.join("md/array_state"), "clear");
    }
    let name = layers::attribute(device.number, "dm/name").ok_or(io::ErrorKind::NotFound)?;
    let mut command = process::plain("dmsetup");
    // dmsetup does not wait for udev, because this may be the last thing that this process does. If udev has the device
    // open, the kernel removes it when udev closes it.
    command.args(["remove", "--deferred", "--noudevsync", "--", &name]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::start(&mut command)?.wait().map(drop)
}

/// A loop device that a run of this program attached, and that a program started by a hook still uses after the end of
/// the run. Only its users can have it detached: the kernel detaches it when the last one closes it, because autoclear
/// is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaleLoop {
    pub(crate) device: PathBuf,
    /// The disk's file.
    pub(crate) disk: PathBuf,
    /// The places where it is mounted, as far as this process can see them.
    pub(crate) mounted_on: Vec<PathBuf>,
    /// The kernel's names of the devices that lie on it.
    pub(crate) held_by: Vec<String>,
}

/// Returns all stale loop devices of the node.
pub(crate) fn stale_loops() -> io::Result<Vec<StaleLoop>> {
    let mounts = Mounts::now();
    let entries = fs::read_dir("/sys/block")?.map(|entry| Ok(entry?.file_name()));
    let mut names: Vec<_> = entries.collect::<io::Result<_>>()?;
    names.sort();
    let mut found = Vec::new();
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with("loop")) {
        found.extend(stale_loop(name, &mounts)?);
    }
    Ok(found)
}

fn stale_loop(name: &str, mounts: &Mounts) -> io::Result<Option<StaleLoop>> {
    let folder = Path::new("/sys/block").join(name);
    // Only an attached device has this file.
    let Ok(disk) = fs::read_to_string(folder.join("loop/backing_file")) else { return Ok(None) };
    let (device, disk) = (Path::new("/dev").join(name), PathBuf::from(disk.trim_end_matches('\n')));
    let Some(backing) = file_of_our_loop(&device)? else { return Ok(None) };
    // The run that attached the device holds a lock on the disk until its end.
    if let Ok(file) = File::open(&disk) {
        let is_disk = file.metadata().is_ok_and(|data| identity(&data) == backing);
        if is_disk && locks::are_hooks_attended(&file) {
            return Ok(None);
        }
    }
    let Some(number) = layers::number_in(&folder) else { return Ok(None) };
    let held_by = layers::made_of(number).into_iter().map(|made| made.name).collect();
    let parts = layers::partitions(number).into_iter().map(|part| part.number);
    let mounted_on = std::iter::once(number).chain(parts).flat_map(|number| mounts.own_places(number)).collect();
    Ok(Some(StaleLoop { device, disk, mounted_on, held_by }))
}

/// Returns the device and the inode number of the file of a loop device that this program attached, or `None` for any
/// other loop device.
fn file_of_our_loop(device: &Path) -> io::Result<Option<(u64, u64)>> {
    match File::open(device) {
        Ok(handle) => {
            let status = sys::loop_status(&handle)?;
            let ours = status.filter(|status| status.name.starts_with(hook_device::LOOP_NAME));
            Ok(ours.map(|status| status.backing_file))
        }
        // The device was detached meanwhile, or has no node here.
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => Ok(None),
        Err(err) => Err(err),
    }
}
