// SPDX-License-Identifier: BSD-2-Clause
//! Reads the mounts of every mount namespace and the swap space, and tells which file systems answer without a server.

use std::fs::{File, read_dir, read_link, read_to_string};
use std::path::{Path, PathBuf};

use nix::sys::stat::major;

use super::layers::{self, device_number};
use super::processes;
use crate::node::file::descriptor_path;
use crate::node::mount_table::unescape;
use crate::node::sys::{self, FileIdentity};

/// File systems of this node without a block device of their own.
const LOCAL: [&str; 7] = ["bcachefs", "btrfs", "devtmpfs", "overlay", "ramfs", "tmpfs", "zfs"];

/// File systems on a block device that nevertheless ask other nodes or processes.
const SHARED: [&str; 3] = ["fuseblk", "gfs2", "ocfs2"];

/// All mounts of the node that this process can see.
#[derive(Debug)]
pub(super) struct Mounts(Vec<Mount>);

/// A line of proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    /// This number is unique in all namespaces.
    id: u64,
    /// The file system's device number.
    device: u64,
    /// The mount point, in which blanks and similar characters are octal escapes.
    place: String,
    file_system: String,
    source: String,
    /// Whether the file system can be written, whatever the options of this mount are.
    writable: bool,
    /// A process of the mount's namespace, if that is not ours.
    process: Option<u32>,
}

impl Mounts {
    pub(super) fn now() -> Self {
        let table = |process: &str| read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        let namespace = |process: &str| read_link(format!("/proc/{process}/ns/mnt")).ok();
        let mut all = mounts(&table("self"), None);
        let mut seen = vec![namespace("self")];
        for process in processes::other_processes() {
            let id = process.to_string();
            let namespace = namespace(&id);
            if !seen.contains(&namespace) {
                seen.push(namespace);
                all.extend(mounts(&table(&id), Some(process)));
            }
        }
        Mounts(all)
    }

    /// Returns in words where the block device is mounted. With `for_writing`, only a place counts whose file system
    /// can be written.
    pub(super) fn place(&self, number: u64, for_writing: bool) -> Option<String> {
        let mount = self.of_device(number).find(|mount| mount.writable || !for_writing)?;
        let place = &mount.place;
        Some(match mount.process {
            Some(process) => format!("{place} in the mount namespace of {}", processes::describe(process)),
            None => place.clone(),
        })
    }

    /// Returns the places where the block device is mounted in the namespace of this process.
    pub(super) fn own_places(&self, number: u64) -> impl Iterator<Item = PathBuf> {
        self.of_device(number).filter(|mount| mount.process.is_none()).map(|mount| unescape(&mount.place))
    }

    fn of_device(&self, number: u64) -> impl Iterator<Item = &Mount> {
        let parts = parts_of_btrfs(number);
        self.0.iter().filter(move |mount| mount.device == number || mount.is_btrfs_on(&parts))
    }

    /// Returns whether a file on the mount `id` can be examined without waiting for a server. `own` is the file system
    /// of a file that is already open: its server, if it has one, answers. Returns `None` for a mount that is in no
    /// namespace.
    pub(super) fn answers(&self, id: u64, own: Option<u64>) -> Option<bool> {
        let mount = self.0.iter().find(|mount| mount.id == id)?;
        Some(mount.is_local() || own == Some(mount.device))
    }

    /// Does what [`Mounts::answers`] does, for a path in our own namespace.
    pub(super) fn answers_at(&self, path: &Path, own: Option<u64>) -> bool {
        let ours = self.0.iter().filter(|mount| mount.process.is_none());
        let above_path = ours.filter(|mount| path.starts_with(unescape(&mount.place)));
        // If several mounts have the same place, only the last one is visible. `max_by_key` also returns the last one.
        let mount = above_path.max_by_key(|mount| unescape(&mount.place).components().count());
        mount.is_some_and(|mount| mount.is_local() || own == Some(mount.device))
    }

    /// Returns whether only this node has the file system with this device number.
    pub(super) fn is_local(&self, device: u64) -> bool {
        // Files of a btrfs and of an overlay have other device numbers than the mount, so no mount is found for them.
        self.0.iter().find(|mount| mount.device == device).is_none_or(Mount::is_local)
    }
}

impl Mount {
    fn read(line: &str, process: Option<u32>) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let (mut mount, mut file_system) = (mount.split(' '), file_system.split(' '));
        Some(Mount {
            id: mount.next()?.parse().ok()?,
            device: device_number(mount.nth(1)?)?,
            place: mount.nth(1)?.to_owned(),
            file_system: file_system.next()?.to_owned(),
            source: file_system.next()?.to_owned(),
            writable: file_system.next().is_none_or(|options| options.split(',').any(|option| option == "rw")),
            process,
        })
    }

    fn is_local(&self) -> bool {
        let kind = self.file_system.as_str();
        if major(self.device) == 0 { LOCAL.contains(&kind) } else { !SHARED.contains(&kind) }
    }

    /// Returns whether this mount is a btrfs on one of `parts`. A btrfs has a device number of its own, and its mount
    /// names one of its devices.
    fn is_btrfs_on(&self, parts: &[u64]) -> bool {
        major(self.device) == 0
            && self.file_system == "btrfs"
            && layers::block_device(Path::new(&self.source)).is_some_and(|number| parts.contains(&number))
    }
}

fn mounts(table: &str, process: Option<u32>) -> Vec<Mount> {
    table.lines().filter_map(|line| Mount::read(line, process)).collect()
}

/// Returns the block device, and the other devices of a mounted btrfs that it belongs to.
fn parts_of_btrfs(number: u64) -> Vec<u64> {
    let systems = read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let mut groups = systems.map(|system| {
        let devices = read_dir(system.path().join("devices")).into_iter().flatten().flatten();
        devices.filter_map(|device| layers::number_in(&device.path())).collect::<Vec<_>>()
    });
    groups.find(|group| group.contains(&number)).unwrap_or_else(|| vec![number])
}

/// The devices and files of proc_swaps(5).
#[derive(Debug)]
pub(super) struct Swaps(Vec<PathBuf>);

impl Swaps {
    pub(super) fn now() -> Self {
        let table = read_to_string("/proc/swaps").unwrap_or_default();
        Swaps(table.lines().skip(1).filter_map(swap_path).collect())
    }

    pub(super) fn has_device(&self, number: u64) -> bool {
        self.0.iter().any(|path| layers::block_device(path) == Some(number))
    }

    /// Returns whether the open file is used as swap space. The path in the table belongs to the mount namespace in
    /// which swapping began.
    pub(super) fn has_file(&self, file: &File, identity: FileIdentity, mounts: &Mounts) -> bool {
        let name = read_link(descriptor_path(file)).ok();
        let is_it = |path: &Path| {
            mounts.answers_at(path, Some(identity.file.0)) && sys::identify(path).is_ok_and(|found| found == identity)
        };
        self.0.iter().any(|path| Some(path) == name.as_ref() || is_it(path))
    }
}

/// Returns the path in a line. If the mount namespace of a device's path is gone, the path begins below the place where
/// /dev was mounted.
fn swap_path(line: &str) -> Option<PathBuf> {
    let mut fields = line.split_whitespace();
    let (path, kind) = (fields.next()?, fields.next()?);
    let lacks_dev = kind == "partition" && !path.starts_with("/dev/");
    Some(if lacks_dev { format!("/dev{path}").into() } else { unescape(path) })
}

#[cfg(test)]
mod tests {
    use super::{Mounts, mounts};
    use nix::sys::stat::makedev;
    use std::path::{Path, PathBuf};

    fn table() -> Mounts {
        let table = "36 35 98:0 /root /mnt\\0401 rw,noatime master:1 - ext4 /nonexistent rw,errors=continue\n\
                     37 35 0:98 / /proc rw - proc proc rw\nbroken\n\
                     38 35 8:1 / /a ro - ext4 /nonexistent rw,errors=continue\n\
                     39 35 8:2 / /b rw - ext4 /nonexistent ro\n\
                     40 35 0:44 / /b/nfs rw - nfs4 server:/x rw\n\
                     41 35 0:45 / /b/nfs/tmp rw - tmpfs tmpfs rw\n\
                     42 35 8:3 / /fuse rw - fuseblk /dev/nonexistent rw\n";
        Mounts(mounts(table, None))
    }

    #[test]
    fn the_mount_table_is_read_by_number() {
        let mounts = table();
        assert_eq!(mounts.place(makedev(98, 0), false).as_deref(), Some("/mnt\\0401"));
        assert_eq!(mounts.own_places(makedev(98, 0)).collect::<Vec<_>>(), [PathBuf::from("/mnt 1")]);
        assert_eq!(mounts.place(makedev(98, 1), false), None);
        // A mount may be read-only, or the whole file system.
        assert_eq!(mounts.place(makedev(8, 1), true).as_deref(), Some("/a"));
        assert_eq!(mounts.place(makedev(8, 2), true), None);
    }

    #[test]
    fn servers_are_not_waited_for() {
        let mounts = table();
        for (id, expected) in
            [(36, Some(true)), (37, Some(false)), (40, Some(false)), (41, Some(true)), (42, Some(false)), (99, None)]
        {
            assert_eq!(mounts.answers(id, None), expected, "{id}");
        }
        // The disk is on that file system, and it was opened.
        assert_eq!(mounts.answers(40, Some(makedev(0, 44))), Some(true));
        for (path, expected) in [("/b/x", true), ("/b/nfs/x", false), ("/b/nfs/tmp/x", true), ("/elsewhere", false)] {
            assert_eq!(mounts.answers_at(Path::new(path), None), expected, "{path}");
        }
        assert!(mounts.answers_at(Path::new("/b/nfs/x"), Some(makedev(0, 44))));
    }
}
