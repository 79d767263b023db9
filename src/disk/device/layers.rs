// SPDX-License-Identifier: BSD-2-Clause
//! Everything that lies on a disk, directly or by way of others: its partitions, what the kernel made out of it (the device
//! mapper's devices, arrays, bcache, DRBD), and loop devices.
//!
//! It is found in /sys, by device numbers and inodes, and not by names or by what it was made with.

use std::collections::VecDeque;
use std::fs::{self, File, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use super::descriptor_path;
use super::mounts::Mounts;
use crate::node::sys::{self, LoopStatus};

/// What a device is to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The disk itself.
    Disk,
    /// What the disk is a partition of.
    Whole,
    Partition,
    /// A loop device over it.
    Loop,
    /// The kernel made it out of it, and holds it for that.
    Made,
}

/// A block device.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) number: u64,
    /// The kernel's.
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Layer {
    /// What the folder of /sys describes.
    fn at(folder: &Path, kind: Kind) -> Option<Self> {
        Some(Layer { number: number_in(folder)?, name: file_name(folder), kind })
    }

    /// Its node, under the kernel's name.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// What it is called in a sentence about the disk.
    pub(super) fn words(&self) -> String {
        match self.kind {
            Kind::Disk => "it".to_owned(),
            Kind::Whole => format!("the whole disk {}", self.name),
            Kind::Partition => format!("its partition {}", self.name),
            Kind::Loop => format!("the loop device {} on it", self.name),
            Kind::Made => format!("device {} on it", self.known_as()),
        }
    }

    /// The kernel's name, and the one that people know.
    pub(super) fn known_as(&self) -> String {
        let attribute = |name| attribute(self.number, name);
        match (attribute("dm/name"), attribute("md/array_state")) {
            (Some(mapped), _) => format!("{mapped} ({})", self.name),
            // Assembled, but without enough members to run: it holds them nevertheless.
            (None, Some(state)) if state == "inactive" => format!("{} ({state})", self.name),
            _ => self.name.clone(),
        }
    }

    /// How it is removed, as a command where that is known.
    pub(super) fn way_out(&self) -> String {
        let node = self.node();
        if attribute(self.number, "md/array_state").is_some() {
            return format!("mdadm --stop {}", node.display());
        }
        let Some(name) = attribute(self.number, "dm/name") else { return "remove that first".to_owned() };
        // Who made it says so there.
        match attribute(self.number, "dm/uuid").unwrap_or_default().split_once('-').map_or("", |(maker, _)| maker) {
            "LVM" => format!("if that is the guest's: vgchange -an {}", volume_group(&name)),
            "CRYPT" => format!("cryptsetup close {name}"),
            "mpath" => format!("multipath -f {name}"),
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

/// `MAJOR:MINOR`.
pub(super) fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device with this node, which has to be below /dev: a path elsewhere may wait for a server.
pub(super) fn block_device(path: &Path) -> Option<u64> {
    let data = path.starts_with("/dev").then(|| fs::metadata(path).ok()).flatten()?;
    data.file_type().is_block_device().then(|| data.rdev())
}

/// All that lies on the disk; each behind what it lies on.
pub(super) fn on(disk: &File, mounts: &Mounts) -> io::Result<Vec<Layer>> {
    let data = disk.metadata()?;
    let loops = attached_loops(disk, mounts)?;
    let mut waiting = VecDeque::new();
    let mut found: Vec<Layer> = Vec::new();
    let mut add = |layers: Vec<Layer>, waiting: &mut VecDeque<u64>| {
        for layer in layers {
            // A device on two others has to be behind both.
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

/// The block device itself; and if it is a partition, its whole disk and what was made of that: whoever claims those
/// bars the partition.
pub(super) fn below(number: u64) -> Vec<Layer> {
    let folder = fs::canonicalize(folder(number)).unwrap_or_else(|_| folder(number));
    let own = Layer { number, name: file_name(&folder), kind: Kind::Disk };
    let whole = folder.parent().filter(|_| folder.join("partition").exists());
    let whole: Vec<_> = whole.and_then(|folder| Layer::at(folder, Kind::Whole)).into_iter().collect();
    let made: Vec<_> = whole.iter().flat_map(|whole| made_of(whole.number)).collect();
    [vec![own], whole, made].concat()
}

pub(super) fn partitions(number: u64) -> Vec<Layer> {
    let entries = read_dir(folder(number)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries.filter(|path| path.join("partition").exists());
    partitions.filter_map(|folder| Layer::at(&folder, Kind::Partition)).collect()
}

/// What the kernel knows to be made out of it.
pub(super) fn made_of(number: u64) -> Vec<Layer> {
    let entries = read_dir(folder(number).join("holders")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Layer::at(&entry.path(), Kind::Made)).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn loops_that(loops: &[(String, LoopStatus)], serve: impl Fn(&LoopStatus) -> bool) -> Vec<Layer> {
    let names = loops.iter().filter(|(_, status)| serve(status)).map(|(name, _)| name);
    names.filter_map(|name| Layer::at(&Path::new("/sys/block").join(name), Kind::Loop)).collect()
}

/// The loop devices that are attached, with what each serves. The kernel asks a file's server for that: of files of
/// servers other than the disk's, which may be gone, none is asked.
fn attached_loops(disk: &File, mounts: &Mounts) -> io::Result<Vec<(String, LoopStatus)>> {
    let own = disk.metadata().ok().map(|data| data.dev());
    let name = fs::read_link(descriptor_path(disk)).ok();
    let mut attached = Vec::new();
    for entry in read_dir("/sys/block")? {
        let entry = entry?;
        let Ok(text) = read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let text = text.trim_end_matches('\n');
        // Of another mount namespace's file the name says little, but that the kernel took it from there.
        let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
        if name.as_deref() != Some(path) && !mounts.answers_at(path, own) {
            continue;
        }
        // Detached meanwhile, or without a node here.
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
