// SPDX-License-Identifier: BSD-2-Clause
//! Finds the processes that have a disk open, by the files that their descriptors lead to and not by names.
//!
//! This never waits for a server that is gone. A link of /proc leads to the open file without a path that a server
//! would have to resolve, and the kernel answers from what it knows. It is asked only about files on the node's own
//! file systems and on the file system of the disk, which answered when the disk was opened. The mount of a descriptor
//! tells which file system that is. The inode number in fdinfo would tell more, but only from Linux 5.14 on, and not
//! for the node of a device in a container.

use std::fs::{read_dir, read_link, read_to_string, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::mounts::Mounts;
use crate::node::sys;

/// The largest number of descriptors of other processes that are examined, which takes a few seconds.
const MAX_DESCRIPTORS: usize = 500_000;

/// The largest number of processes that a message names.
const MAX_NAMES: usize = 3;

/// The devices and the file that are searched for in descriptors.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The numbers of block devices, whose nodes may have any name.
    pub(super) devices: Vec<u64>,
    /// The device and the inode number of a file.
    pub(super) file: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenMode {
    Any,
    Writing,
}

/// Returns all processes except this one and its children, because the processes that a run starts to guard its disk
/// are not users of it.
pub(super) fn other_processes() -> impl Iterator<Item = u32> {
    all_processes().filter(|id| !is_ours(*id))
}

fn all_processes() -> impl Iterator<Item = u32> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_ours(process: u32) -> bool {
    let own = std::process::id();
    process == own || parent(process) == Some(own)
}

/// Returns the parent of a process. The fields of proc_pid_stat(5) are number, (name), state, parent.
fn parent(process: u32) -> Option<u32> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(super) fn describe(process: u32) -> String {
    let name = read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("process {process} ({})", name.trim())
}

/// A process that has something open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opener {
    process: u32,
    /// The block device, or `None` if the process has the file open.
    device: Option<u64>,
}

/// Returns the other processes that have one of the devices or the file open.
pub(super) fn openers(wanted: &Wanted, mode: OpenMode, mounts: &Mounts) -> Vec<Opener> {
    let mut budget = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    for process in other_processes() {
        found.extend(opened_by(process, wanted, mode, mounts, &mut budget));
        if budget == 0 {
            break;
        }
    }
    found
}

/// Names those of the processes `found` that have `device` open (or the file, if `device` is `None`), and says what the
/// administrator can do. Returns `None` if there are none.
pub(super) fn have_it_open(found: &[Opener], device: Option<u64>) -> Option<String> {
    let openers = found.iter().filter(|opener| opener.device == device).take(MAX_NAMES);
    let names: Vec<_> = openers.map(|opener| describe(opener.process)).collect();
    let have = if names.len() == 1 { "has" } else { "have" };
    (!names.is_empty()).then(|| format!("{} {have} it open (stop that first)", names.join(" and ")))
}

/// Returns whether this process or a child of it has one of the devices or the file open for writing.
pub(super) fn is_ours_writing(wanted: &Wanted, mounts: &Mounts) -> bool {
    let mut ours = all_processes().filter(|id| is_ours(*id));
    let mut budget = MAX_DESCRIPTORS;
    ours.any(|process| !opened_by(process, wanted, OpenMode::Writing, mounts, &mut budget).is_empty())
}

/// Returns the wanted devices and the wanted file that a process has open, each of them once. Each descriptor takes one
/// from `budget`.
fn opened_by(process: u32, wanted: &Wanted, mode: OpenMode, mounts: &Mounts, budget: &mut usize) -> Vec<Opener> {
    let mut found = Vec::new();
    for descriptor in read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten() {
        let opener = wanted_in(&descriptor.path(), wanted, mode, mounts).map(|device| Opener { process, device });
        found.extend(opener.filter(|opener| !found.contains(opener)));
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            break;
        }
    }
    found
}

/// Returns `Some(Some(number))` if the descriptor leads to one of the devices, `Some(None)` if it leads to the file,
/// and `None` for anything else.
fn wanted_in(descriptor: &Path, wanted: &Wanted, mode: OpenMode, mounts: &Mounts) -> Option<Option<u64>> {
    // The permissions of the link itself tell how the descriptor was opened (proc_pid_fd(5)).
    let bits = if mode == OpenMode::Writing { 0o200 } else { 0o600 };
    let opened_so = symlink_metadata(descriptor).is_ok_and(|link| link.mode() & bits != 0);
    if !opened_so || !may_be_wanted(descriptor, wanted, mounts) {
        return None;
    }
    let found = sys::identify(descriptor).ok()?;
    let is_wanted = match found.block_device {
        Some(number) => wanted.devices.contains(&number),
        None => wanted.file == Some(found.file),
    };
    is_wanted.then_some(found.block_device)
}

/// Returns whether the descriptor leads to a file that can be examined and that is not known to be another one.
fn may_be_wanted(descriptor: &Path, wanted: &Wanted, mounts: &Mounts) -> bool {
    // Pipes, sockets and similar files have no path.
    let Ok(link) = read_link(descriptor) else { return false };
    if !link.is_absolute() {
        return false;
    }
    let info = descriptor.to_string_lossy().replacen("/fd/", "/fdinfo/", 1);
    let info = read_to_string(info).unwrap_or_default();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let own = wanted.file.map(|(device, _)| device);
    if let Some(answers) = field("mnt_id:").and_then(|id| mounts.answers(id, own)) {
        return answers;
    }
    // The mount was detached and is in no namespace any more.
    let is_same_inode = wanted.file.is_some_and(|(_, inode)| field("ino:") == Some(inode));
    is_same_inode || link.starts_with("/dev")
}
