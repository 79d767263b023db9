// SPDX-License-Identifier: BSD-2-Clause
//! Finds everything that lies on a disk, directly or on top of another layer: partitions, loop devices, and the devices
//! that the kernel made out of the disk (device mapper, arrays, bcache, DRBD).
//!
//! The layers are found in /sys by device numbers and inodes, and not by their names or by the tool that made them.

use std::collections::VecDeque;
use std::fs::{self, File, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use super::mounts::Mounts;
use crate::node::file::{descriptor_path, identity};
use crate::node::sys::{self, LoopStatus};

/// The relation of a device to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerKind {
    /// The disk itself.
    Disk,
    /// The whole disk, if the disk is a partition.
    Parent,
    Partition,
    /// A loop device over the disk.
    Loop,
    /// A device that the kernel made out of the disk. The kernel holds the disk for it.
    Made,
}

/// A block device.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) number: u64,
    /// The kernel's name of the device.
    pub(super) name: String,
    pub(super) kind: LayerKind,
}

impl Layer {
    /// Returns the device that a folder of /sys describes.
    fn at(folder: &Path, kind: LayerKind) -> Option<Self> {
        Some(Layer { number: number_in(folder)?, name: file_name(folder), kind })
    }

    /// Returns the path of the device's node under the kernel's name.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Returns the name of the device as it stands in a sentence about the disk.
    pub(super) fn words(&self) -> String {
        match self.kind {
            LayerKind::Disk => "it".to_owned(),
            LayerKind::Parent => format!("the whole disk {}", self.name),
            LayerKind::Partition => format!("its partition {}", self.name),
            LayerKind::Loop => format!("the loop device {} on it", self.name),
            LayerKind::Made => format!("device {} on it", self.known_as()),
        }
    }

    /// Returns the kernel's name together with the name that people know.
    pub(super) fn known_as(&self) -> String {
        if let Some(mapped) = attribute(self.number, "dm/name") {
            return format!("{mapped} ({})", self.name);
        }
        match attribute(self.number, "md/array_state") {
            // An inactive array has too few members to run, but it holds those that it has.
            Some(state) if state == "inactive" => format!("{} ({state})", self.name),
            _ => self.name.clone(),
        }
    }

    /// Returns the command that removes the device, if it is known.
    pub(super) fn removal_command(&self) -> String {
        let node = self.node();
        if attribute(self.number, "md/array_state").is_some() {
            return format!("mdadm --stop {}", node.display());
        }
        let Some(name) = attribute(self.number, "dm/name") else { return "remove that first".to_owned() };
        // The UUID begins with the name of the subsystem that made the device.
        let uuid = attribute(self.number, "dm/uuid").unwrap_or_default();
        match uuid.split_once('-').map(|(maker, _)| maker) {
            Some("LVM") => format!("if that is the guest's: vgchange -an {}", volume_group(&name)),
            Some("CRYPT") => format!("cryptsetup close {name}"),
            Some("mpath") => format!("multipath -f {name}"),
            _ => format!("dmsetup remove {name}"),
        }
    }
}

/// Returns the volume group in the device mapper's name of a logical volume, in which each hyphen of a name is doubled.
fn volume_group(mapped: &str) -> String {
    let hidden = mapped.replace("--", "\0");
    hidden.split('-').next().unwrap_or_default().replace('\0', "-")
}

/// Returns the first line of a file in the device's folder of /sys.
pub(super) fn attribute(number: u64, name: &str) -> Option<String> {
    Some(read_to_string(folder(number).join(name)).ok()?.trim().to_owned())
}

/// Returns the folder of the device in /sys.
pub(super) fn folder(number: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(number), minor(number)).into()
}

/// Returns the number of the device that a folder of /sys describes.
pub(super) fn number_in(folder: &Path) -> Option<u64> {
    device_number(read_to_string(folder.join("dev")).ok()?.trim())
}

/// Parses `MAJOR:MINOR`.
pub(super) fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Returns the number of the block device with this node. The node has to be below /dev: a path elsewhere may wait for
/// a server.
pub(super) fn block_device(path: &Path) -> Option<u64> {
    let data = path.starts_with("/dev").then(|| fs::metadata(path).ok()).flatten()?;
    data.file_type().is_block_device().then(|| data.rdev())
}

/// Returns all layers on the disk. Each of them comes after the layers that it lies on.
pub(super) fn on(disk: &File, mounts: &Mounts) -> io::Result<Vec<Layer>> {
    let data = disk.metadata()?;
    let loops = attached_loops(disk, mounts)?;
    let mut waiting = VecDeque::new();
    let mut found: Vec<Layer> = Vec::new();
    let mut add = |layers: Vec<Layer>, waiting: &mut VecDeque<u64>| {
        for layer in layers {
            // A device on two others has to come after both.
            found.retain(|known| known.number != layer.number);
            waiting.push_back(layer.number);
            found.push(layer);
        }
    };
    if data.file_type().is_block_device() {
        waiting.push_back(data.rdev());
    } else {
        let over = |status: &LoopStatus| status.backing_file == identity(&data);
        add(loops_that(&loops, over), &mut waiting);
    }
    while let Some(number) = waiting.pop_front() {
        add(partitions(number), &mut waiting);
        add(made_of(number), &mut waiting);
        add(loops_that(&loops, |status| status.backing_device == number), &mut waiting);
    }
    Ok(found)
}

/// Returns the block device itself. For a partition it also returns the whole disk and the devices that were made out
/// of that, because a claim on one of them keeps others from the partition.
pub(super) fn disk_and_parent(number: u64) -> Vec<Layer> {
    let folder = fs::canonicalize(folder(number)).unwrap_or_else(|_| folder(number));
    let mut all = vec![Layer { number, name: file_name(&folder), kind: LayerKind::Disk }];
    if !folder.join("partition").exists() {
        return all;
    }
    if let Some(parent) = folder.parent().and_then(|folder| Layer::at(folder, LayerKind::Parent)) {
        let made = made_of(parent.number);
        all.push(parent);
        all.extend(made);
    }
    all
}

pub(super) fn partitions(number: u64) -> Vec<Layer> {
    let entries = read_dir(folder(number)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries.filter(|path| path.join("partition").exists());
    partitions.filter_map(|folder| Layer::at(&folder, LayerKind::Partition)).collect()
}

/// Returns the devices that the kernel made out of this one.
pub(super) fn made_of(number: u64) -> Vec<Layer> {
    let entries = read_dir(folder(number).join("holders")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Layer::at(&entry.path(), LayerKind::Made)).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn loops_that(loops: &[(String, LoopStatus)], serve: impl Fn(&LoopStatus) -> bool) -> Vec<Layer> {
    let names = loops.iter().filter(|(_, status)| serve(status)).map(|(name, _)| name);
    names.filter_map(|name| Layer::at(&Path::new("/sys/block").join(name), LayerKind::Loop)).collect()
}

/// Returns the attached loop devices with their status. To tell the status, the kernel asks the server of the file, if
/// it has one. So loop devices over files of other servers than the disk's are left out, because such a server may be
/// gone.
fn attached_loops(disk: &File, mounts: &Mounts) -> io::Result<Vec<(String, LoopStatus)>> {
    let own = disk.metadata().ok().map(|data| data.dev());
    let name = fs::read_link(descriptor_path(disk)).ok();
    let mut attached = Vec::new();
    for entry in read_dir("/sys/block")? {
        let entry = entry?;
        let Ok(text) = read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let text = text.trim_end_matches('\n');
        // The path may belong to another mount namespace. In any case it is compared with the path of the disk.
        let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
        if name.as_deref() != Some(path) && !mounts.answers_at(path, own) {
            continue;
        }
        // The device may have been detached meanwhile, or have no node here.
        let device = entry.file_name().to_string_lossy().into_owned();
        let status = File::open(Path::new("/dev").join(&device)).and_then(|file| sys::loop_status(&file));
        attached.extend(status.ok().flatten().map(|status| (device, status)));
    }
    Ok(attached)
}

#[cfg(test)]
mod tests {
    use super::volume_group;

    #[test]
    fn hyphens_of_a_volume_group_are_its_own() {
        assert_eq!(volume_group("vg-root"), "vg");
        assert_eq!(volume_group("my--vg-a--b"), "my-vg");
        assert_eq!(volume_group("a----b-c"), "a--b");
    }
}
