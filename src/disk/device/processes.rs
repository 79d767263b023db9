// SPDX-License-Identifier: BSD-2-Clause
//! Which processes have a disk open, by what their descriptors lead to and not by names.
//!
//! No file of a server that is gone is waited for. A link of /proc leads to the open file without a way to it, and the
//! kernel is asked for what it knows. And that only of files on this node's own file systems and on the disk's, which
//! answered when it was opened: each descriptor's mount says which that is (Linux 5.8 has no inode numbers there).
//!
//! fdinfo's inode number would say more, but only from Linux 5.14 on, and nothing of a device's node in a container.

use std::fs::{read_dir, read_link, read_to_string, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::mounts::Mounts;
use crate::node::sys;

/// More descriptors of other processes are not looked at: a few seconds' worth.
const MAX_DESCRIPTORS: usize = 500_000;

/// More processes are not named.
const MAX_NAMES: usize = 3;

/// What processes may have open.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Numbers of block devices, whatever their nodes are called.
    pub(super) devices: Vec<u64>,
    /// Device and inode number of a file.
    pub(super) file: Option<(u64, u64)>,
}

/// Which descriptors count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Any,
    Writing,
}

/// The other processes, less the children of this one: what a run starts to guard its disk is no user of it.
pub(super) fn others() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    all().filter(move |id| *id != own && parent(*id) != Some(own))
}

fn all() -> impl Iterator<Item = u32> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// proc_pid_stat(5): number, (name), state, parent.
fn parent(process: u32) -> Option<u32> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(super) fn named(process: u32) -> String {
    let name = read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("process {process} ({})", name.trim())
}

/// A process that has something open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opener {
    pub(super) process: u32,
    /// The block device; none for the file.
    pub(super) device: Option<u64>,
}

/// The other processes that have one of these open, but for this one's children.
pub(super) fn openers(wanted: &Wanted, mode: Mode, mounts: &Mounts) -> Vec<Opener> {
    let mut budget = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    for process in others() {
        found.extend(opened_by(process, wanted, mode, mounts, &mut budget));
        if budget == 0 {
            break;
        }
    }
    found
}

/// The processes, and the way out; none without any.
pub(super) fn have_it_open(processes: &[u32]) -> Option<String> {
    let names: Vec<_> = processes.iter().take(MAX_NAMES).map(|process| named(*process)).collect();
    let have = if names.len() == 1 { "has" } else { "have" };
    (!names.is_empty()).then(|| format!("{} {have} it open (stop that first)", names.join(" and ")))
}

/// Whether this process or one that it started has it open for writing.
pub(super) fn we_write(wanted: &Wanted, mounts: &Mounts) -> bool {
    let own = std::process::id();
    let mut ours = all().filter(|id| *id == own || parent(*id) == Some(own));
    let mut budget = MAX_DESCRIPTORS;
    ours.any(|process| !opened_by(process, wanted, Mode::Writing, mounts, &mut budget).is_empty())
}

/// What a process has open, each once.
fn opened_by(process: u32, wanted: &Wanted, mode: Mode, mounts: &Mounts, budget: &mut usize) -> Vec<Opener> {
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

/// The block device that a descriptor leads to, or none for the file; nothing if it is neither.
fn wanted_in(descriptor: &Path, wanted: &Wanted, mode: Mode, mounts: &Mounts) -> Option<Option<u64>> {
    // The link's own permissions say how it was opened: proc_pid_fd(5).
    let bits = if mode == Mode::Writing { 0o200 } else { 0o600 };
    let opened_so = symlink_metadata(descriptor).is_ok_and(|link| link.mode() & bits != 0);
    if !opened_so || !may_be_wanted(descriptor, wanted, mounts) {
        return None;
    }
    let found = sys::look(descriptor).ok()?;
    let is_wanted =
        found.block_device.map_or(wanted.file == Some(found.file), |number| wanted.devices.contains(&number));
    is_wanted.then_some(found.block_device)
}

/// Whether the descriptor leads to a file that can be looked at, and is not known to be another one.
fn may_be_wanted(descriptor: &Path, wanted: &Wanted, mounts: &Mounts) -> bool {
    // Pipes, sockets and the like have no path.
    let Ok(link) = read_link(descriptor) else { return false };
    if !link.is_absolute() {
        return false;
    }
    let info = descriptor.to_string_lossy().replacen("/fd/", "/fdinfo/", 1);
    let info = read_to_string(info).unwrap_or_default();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let own = wanted.file.map(|(device, _)| device);
    let known = field("mnt_id:").and_then(|id| mounts.answers(id, own));
    // On a mount that is in no namespace any more, such as one that was detached.
    let detached = || match (wanted.file, field("ino:")) {
        (Some((_, inode)), Some(found)) => inode == found || link.starts_with("/dev"),
        _ => link.starts_with("/dev"),
    };
    known.unwrap_or_else(detached)
}
