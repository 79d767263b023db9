// SPDX-License-Identifier: BSD-2-Clause
//! What hooks made out of a disk and did not remove: loop devices, devices of the device mapper, arrays, swap space,
//! partitions of a loop device.
//!
//! It is found in /sys, by device numbers and inodes, and not by what it was made with.

use std::collections::VecDeque;
use std::fs::{self, File, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::stat::{major, minor};

use super::descriptor_path;
use super::holder::{self, Device};
use crate::node::sys::{self, LoopStatus};

/// What there was on a disk before hooks ran, to tell it from what there is later.
#[derive(Debug)]
pub struct Before {
    disk: File,
    devices: Vec<u64>,
    swaps: Vec<String>,
}

impl Before {
    /// Now.
    pub(super) fn hooks(disk: &File) -> io::Result<Self> {
        let devices = stacked(disk)?.into_iter().map(|device| device.number).collect();
        Ok(Before { disk: disk.try_clone()?, devices, swaps: holder::swaps().collect() })
    }

    /// Devices that lie on the disk and did not then, the uppermost first. Those of the disk's own partition table are the
    /// kernel's and udev's business, so partitions count only if they lie on one that does.
    pub(super) fn made(&self) -> io::Result<Vec<Device>> {
        let mut made = stacked(&self.disk)?;
        made.retain(|device| !self.devices.contains(&device.number));
        if self.disk.metadata()?.file_type().is_block_device() {
            let own: Vec<_> = partitions(self.disk.metadata()?.rdev()).iter().map(|part| part.number).collect();
            made.retain(|device| !own.contains(&device.number));
        }
        made.reverse();
        Ok(made)
    }

    /// Removes what can be removed of that, and stops swapping to the disk; `keep` is a device of ours, of which only the
    /// partitions go. What somebody uses stays.
    pub fn remove(&self, keep: Option<&Path>) {
        let devices = self.made().unwrap_or_default();
        let nodes = devices.iter().map(|device| (device.node(), device.number));
        let own = self.disk.metadata().ok().filter(|data| data.file_type().is_block_device());
        let own = own.map(|data| (descriptor_path(&self.disk), data.rdev()));
        for (node, number) in nodes.chain(own) {
            if !self.swaps.iter().any(|swap| holder::is_device(Path::new(swap), number)) {
                // EINVAL: none. It stays where memory is short, and is named as what it is.
                let _ = sys::swap_off(&node);
            }
        }
        for device in devices.iter().filter(|device| keep != Some(&device.node())) {
            // In use: whoever asks what is left is told.
            let _ = remove(device);
        }
    }
}

fn remove(device: &Device) -> io::Result<()> {
    let folder = folder(device.number);
    if folder.join("loop").exists() {
        return sys::loop_detach(&File::open(device.node())?);
    }
    if let Ok(number) = read_to_string(folder.join("partition")) {
        let whole = fs::canonicalize(&folder)?;
        let whole = whole.parent().and_then(Path::file_name).ok_or(io::ErrorKind::NotFound)?;
        let number = number.trim().parse().map_err(io::Error::other)?;
        return sys::delete_partition(&File::open(Path::new("/dev").join(whole))?, number);
    }
    if folder.join("md").exists() {
        // Documentation/admin-guide/md.rst: stops the array.
        return fs::write(folder.join("md/array_state"), "clear");
    }
    let name = read_to_string(folder.join("dm/name"))?;
    let mut command = Command::new("dmsetup");
    // Without waiting for udev: this may be the last that this process does.
    command.args(["remove", "--noudevsync", "--", name.trim()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::start(&mut command)?.wait().map(drop)
}

/// All that lies on the disk, directly or by way of others; each behind what it lies on.
fn stacked(disk: &File) -> io::Result<Vec<Device>> {
    let data = disk.metadata()?;
    let loops = attached_loops()?;
    let mut waiting = VecDeque::new();
    let mut found: Vec<Device> = Vec::new();
    let mut add = |devices: Vec<Device>, waiting: &mut VecDeque<u64>| {
        for device in devices {
            // A device on two others has to be behind both.
            found.retain(|known| known.number != device.number);
            waiting.push_back(device.number);
            found.push(device);
        }
    };
    if data.file_type().is_block_device() {
        waiting.push_back(data.rdev());
    } else {
        let over = |status: &LoopStatus| status.backing_file == (data.dev(), data.ino());
        add(loops_that(&loops, over), &mut waiting);
    }
    while let Some(number) = waiting.pop_front() {
        add(partitions(number), &mut waiting);
        add(holders(number), &mut waiting);
        add(loops_that(&loops, |status| status.backing_device == number), &mut waiting);
    }
    Ok(found)
}

fn folder(number: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(number), minor(number)).into()
}

fn partitions(number: u64) -> Vec<Device> {
    let entries = read_dir(folder(number)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries.filter(|path| path.join("partition").exists());
    partitions.filter_map(|folder| holder::device(&folder, "its partition")).collect()
}

/// What the kernel knows to be made out of it: the device mapper's, arrays, bcache.
fn holders(number: u64) -> Vec<Device> {
    let entries = read_dir(folder(number).join("holders")).into_iter().flatten().flatten();
    entries.filter_map(|entry| holder::device(&entry.path(), "device")).collect()
}

fn loops_that(loops: &[(String, LoopStatus)], serve: impl Fn(&LoopStatus) -> bool) -> Vec<Device> {
    let names = loops.iter().filter(|(_, status)| serve(status)).map(|(name, _)| name);
    names.filter_map(|name| holder::device(&Path::new("/sys/block").join(name), "the loop device")).collect()
}

/// The loop devices that are attached, with what each serves.
fn attached_loops() -> io::Result<Vec<(String, LoopStatus)>> {
    let mut attached = Vec::new();
    for entry in read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        // Detached meanwhile, or without a node here.
        let Ok(Some(status)) = File::open(Path::new("/dev").join(&name)).and_then(|file| sys::loop_status(&file))
        else {
            continue;
        };
        attached.push((name, status));
    }
    Ok(attached)
}

/// Who uses the first of the devices that anybody uses, and the way out; of devices that nobody uses, that there is one.
pub(super) fn user(devices: &[Device]) -> Option<String> {
    let used = |device: &Device| {
        holder::claim(std::slice::from_ref(device), "it").or_else(|| {
            let opener = holder::openers(|link| holder::is_device(link, device.number), false)?;
            Some(format!("through {} {opener}", device.node().display()))
        })
    };
    let there = |device: &Device| format!("device {} was made of it (remove that first)", device.node().display());
    devices.iter().find_map(used).or_else(|| devices.first().map(there))
}
