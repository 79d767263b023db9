// SPDX-License-Identifier: BSD-2-Clause
//! Devices that hooks made out of a disk and did not remove: loop devices, devices of the device mapper, arrays, swap space,
//! partitions of a loop device; and loop devices of ours that outlived their run.
//!
//! They are found in /sys: a device on the disk (`layers`) that was not there before the hooks ran is theirs, whatever
//! tool made it. Those that nobody uses are removed, the uppermost first, after SIGTERM too. A device that is in use is an
//! error that names its users.
//!
//! udev opens each device for a moment, and again after every writer. So the removal is tried again until a time limit. A
//! mapped device is removed by the kernel when udev has closed it (`--deferred`). swapoff is called only for what is swap,
//! because it opens its argument for writing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::layers::{self, Layer};
use super::mounts::{Mounts, Swaps};
use super::{hook_device, locks};
use crate::node::file::descriptor_path;
use crate::node::sys;

/// Time between two tries.
const POLL: Duration = Duration::from_millis(20);

/// The devices on a disk and the swap space of the node before hooks run.
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

    /// The devices that lie on the disk now and did not then, the uppermost first. The kernel and udev make and remove the
    /// partitions of the disk itself, so partitions count only if they lie on a new device.
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

    /// Stops swapping to the disk, and removes the new devices that nobody uses. Of the device `keep`, which is ours, only
    /// the partitions are removed. Tries for `patience`.
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
                // It fails for a device in use. The caller looks later for what is left.
                let _ = remove(device);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Calls swapoff(2) only for swap space: it opens its argument for writing, after which udev reads all of the device
    /// again.
    fn stop_swapping(&self, devices: &[Layer]) {
        let swaps = Swaps::now();
        let mut nodes: Vec<_> = devices.iter().map(|device| (device.node(), device.number)).collect();
        if let Ok(Some(number)) = self.disk_number() {
            nodes.extend(layers::partitions(number).iter().map(|part| (part.node(), part.number)));
            nodes.push((descriptor_path(&self.disk), number));
        }
        for (node, number) in nodes {
            if swaps.has_device(number) && !self.swaps.has_device(number) {
                // It fails if memory is short. Then the error about what is left says that it is swap space.
                let _ = sys::swap_off(&node);
            }
        }
    }

    /// The disk's device number, if it is a block device.
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
        // Documentation/admin-guide/md.rst: this stops the array.
        return fs::write(folder.join("md/array_state"), "clear");
    }
    let name = layers::attribute(device.number, "dm/name").ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new("dmsetup");
    // Without waiting for udev, because this may be the last thing that this process does. If udev has the device open,
    // the kernel removes it when udev closes it.
    command.args(["remove", "--deferred", "--noudevsync", "--", &name]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::start(&mut command)?.wait().map(drop)
}

/// A loop device that a run of this program attached, and that something of a hook's still uses though the run is over.
/// Only its users can have it detached: autoclear is set, and the kernel detaches it when the last one closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaleLoop {
    pub(crate) device: PathBuf,
    /// The disk's file.
    pub(crate) disk: PathBuf,
    /// Where it is mounted, as far as this process can see.
    pub(crate) mounted_on: Vec<PathBuf>,
    /// The kernel's names of the devices that lie on it.
    pub(crate) held_by: Vec<String>,
}

/// All stale loop devices of the node.
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
    // A device that is not attached has no such file.
    let Ok(disk) = fs::read_to_string(folder.join("loop/backing_file")) else { return Ok(None) };
    let (device, disk) = (Path::new("/dev").join(name), PathBuf::from(disk.trim_end_matches('\n')));
    let Some(backing) = file_of_our_loop(&device)? else { return Ok(None) };
    // The run that attached it holds a lock on the disk as long as it lives.
    if let Ok(file) = File::open(&disk) {
        let is_disk = file.metadata().is_ok_and(|data| (data.dev(), data.ino()) == backing);
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

/// Device and inode number of the file of a loop device that this program attached; none for other loop devices.
fn file_of_our_loop(device: &Path) -> io::Result<Option<(u64, u64)>> {
    match File::open(device) {
        Ok(handle) => {
            let status = sys::loop_status(&handle)?;
            let ours = status.filter(|status| status.name.starts_with(hook_device::LOOP_NAME));
            Ok(ours.map(|status| status.backing_file))
        }
        // It was detached meanwhile, or has no node here.
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => Ok(None),
        Err(err) => Err(err),
    }
}
