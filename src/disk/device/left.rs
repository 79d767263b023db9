// SPDX-License-Identifier: BSD-2-Clause
//! Loop devices of ours that outlived their run, because something of a hook's still uses them.
//!
//! They can't be detached by anybody but their users: autoclear is set already, and the kernel detaches them when the
//! last one lets go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::loopback;
use super::target;
use crate::node::sys;

/// A loop device that is still attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftDevice {
    /// The device.
    pub device: PathBuf,
    /// The disk's file.
    pub disk: PathBuf,
    /// Where it is mounted, as far as this process can see.
    pub mounted_on: Vec<PathBuf>,
    /// The devices that lie on it, as the kernel names them.
    pub held_by: Vec<String>,
}

/// The loop devices that runs attached which are over.
pub fn left_devices() -> io::Result<Vec<LeftDevice>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut names: Vec<_> =
        fs::read_dir("/sys/block")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    let names = names.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with("loop"));
    let found = names.map(|name| left_device(name, &mounts).transpose());
    found.flatten().collect()
}

fn left_device(name: &str, mounts: &str) -> io::Result<Option<LeftDevice>> {
    let folder = Path::new("/sys/block").join(name);
    // Bound to nothing, or not any more.
    let Ok(disk) = fs::read_to_string(folder.join("loop/backing_file")) else { return Ok(None) };
    let (device, disk) = (Path::new("/dev").join(name), PathBuf::from(disk.trim_end_matches('\n')));
    let Some(backing) = bound_by_us(&device)? else { return Ok(None) };
    // The run that attached it says so as long as it lives.
    let file = File::open(&disk).ok();
    let same = |file: &File| file.metadata().is_ok_and(|data| (data.dev(), data.ino()) == backing);
    if file.as_ref().filter(|file| same(file)).is_some_and(target::is_attended) {
        return Ok(None);
    }
    let holders = fs::read_dir(folder.join("holders")).into_iter().flatten().flatten();
    let held_by = holders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let mounted_on = mounts.lines().filter_map(|line| mount_of(line, &device)).collect();
    Ok(Some(LeftDevice { device, disk, mounted_on, held_by }))
}

/// Device and inode number of the file behind a loop device that this program attached.
fn bound_by_us(device: &Path) -> io::Result<Option<(u64, u64)>> {
    match File::open(device) {
        Ok(handle) => {
            let status = sys::loop_status(&handle)?;
            Ok(status.filter(|status| status.name.starts_with(loopback::MARK)).map(|status| status.backing_file))
        }
        // Detached meanwhile, or no node for it here.
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The mount point in a line of mountinfo (proc_pid_mountinfo(5)), if `device` or a partition of it is mounted there.
fn mount_of(line: &str, device: &Path) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let source = file_system.split(' ').nth(1)?;
    let partition = source.strip_prefix(device.to_str()?)?;
    let number = partition.strip_prefix('p').unwrap_or(partition);
    let ours = partition.is_empty() || (number.len() < partition.len() && number.bytes().all(|c| c.is_ascii_digit()));
    ours.then(|| mount.split(' ').nth(4).map(unescaped)).flatten()
}

/// Blanks and the like are in octal there.
fn unescaped(text: &str) -> PathBuf {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
        .into()
}

#[cfg(test)]
mod tests {
    use super::mount_of;
    use std::path::{Path, PathBuf};

    #[test]
    fn mounts_of_the_device_and_its_partitions_are_found() {
        let mount = |source: &str| {
            let line = format!(r"36 35 7:1 / /mnt/a\040b rw,noatime shared:1 - ext4 {source} rw");
            mount_of(&line, Path::new("/dev/loop1"))
        };
        for source in ["/dev/loop1", "/dev/loop1p2"] {
            assert_eq!(mount(source), Some(PathBuf::from("/mnt/a b")), "{source}");
        }
        for source in ["/dev/loop12", "/dev/loop", "/dev/loop1px", "/dev/loop12p1", "tmpfs"] {
            assert_eq!(mount(source), None, "{source}");
        }
    }
}
