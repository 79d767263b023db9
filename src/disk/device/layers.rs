// SPDX-License-Identifier: BSD-2-Clause
//! Everything that lies on a disk, directly or on top of another layer: its partitions, what the kernel made out of it
//! (devices of the device mapper, arrays, bcache, DRBD), and loop devices.
//!
//! The layers are found in /sys by device numbers and inodes, and not by names or by the tool that made them.

use std::collections::VecDeque;
use std::fs::{self, File, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use super::mounts::Mounts;
use crate::node::file::descriptor_path;
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
    /// A device that the kernel made out of the disk, which it holds for that.
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
    /// The device that a folder of /sys describes.
    fn at(folder: &Path, kind: LayerKind) -> Option<Self> {
        Some(Layer { number: number_in(folder)?, name: file_name(folder), kind })
    }

    /// The path of its node, under the kernel's name.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The device's name in a sentence about the disk.
    pub(super) fn words(&self) -> String {
        match self.kind {
            LayerKind::Disk => "it".to_owned(),
            LayerKind::Parent => format!("the whole disk {}", self.name),
            LayerKind::Partition => format!("its partition {}", self.name),
            LayerKind::Loop => format!("the loop device {} on it", self.name),
            LayerKind::Made => format!("device {} on it", self.known_as()),
        }
    }

    /// The kernel's name, with the one that people know.
    pub(super) fn known_as(&self) -> String {
        if let Some(mapped) = attribute(self.number, "dm/name") {
            return format!("{mapped} ({})", self.name);
        }
        match attribute(self.number, "md/array_state") {
            // It has too few members to run, but holds those that it has.
            Some(state) if state == "inactive" => format!("{} ({state})", self.name),
            _ => self.name.clone(),
        }
    }

    /// The command that removes it, where that is known.
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

/// The volume group in the device mapper's name of a logical volume, in which each hyphen of a name is doubled.
fn volume_group(mapped: &str) -> String {
    let hidden = mapped.replace("--", "\0");
    hidden.split('-').next().unwrap_or_default().replace('\0', "-")
}

/// The first line of a file in the device's folder of /sys.
pub(super) fn attribute(number: u64, name: &str) -> Option<String> {
    Some(read_to_string(folder(number).join(name)).ok()?.trim().to_owned())
}

/// The device's folder of /sys.
pub(super) fn folder(number: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(number), minor(number)).into()
}

/// The number of the device that a folder of /sys describes.
pub(super) fn number_in(folder: &Path) -> Option<u64> {
    device_number(read_to_string(folder.join("dev")).ok()?.trim())
}

/// Parses `MAJOR:MINOR`.
pub(super) fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device with this node. The node has to be below /dev: a path elsewhere may wait for a server.
pub(super) fn block_device(path: &Path) -> Option<u64> {
    let data = path.starts_with("/dev").then(|| fs::metadata(path).ok()).flatten()?;
    data.file_type().is_block_device().then(|| data.rdev())
}

/// All layers on the disk. Each comes after the layers that it lies on.
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
        let over = |status: &LoopStatus| status.backing_file == (data.dev(), data.ino());
        add(loops_that(&loops, over), &mut waiting);
    }
    while let Some(number) = waiting.pop_front() {
        add(partitions(number), &mut waiting);
        add(made_of(number), &mut waiting);
        add(loops_that(&loops, |status| status.backing_device == number), &mut waiting);
    }
    Ok(found)
}

/// The block device itself. For a partition also its whole disk and what was made out of that: a claim on those keeps
/// others from the partition.
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

/// The devices that the kernel made out of this one.
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

/// The attached loop devices with their status. To tell a status the kernel asks the server of the file, if it has one.
/// So loop devices over files of other servers than the disk's are left out: such a server may be gone.
fn attached_loops(disk: &File, mounts: &Mounts) -> io::Result<Vec<(String, LoopStatus)>> {
    let own = disk.metadata().ok().map(|data| data.dev());
    let name = fs::read_link(descriptor_path(disk)).ok();
    let mut attached = Vec::new();
    for entry in read_dir("/sys/block")? {
        let entry = entry?;
        let Ok(text) = read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let text = text.trim_end_matches('\n');
        // The path may be one of another mount namespace. The disk's own path is compared with it in any case.
        let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
        if name.as_deref() != Some(path) && !mounts.answers_at(path, own) {
            continue;
        }
        // It may have been detached meanwhile, or have no node here.
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
