// SPDX-License-Identifier: BSD-2-Clause
//! The mounts of this process. A bind mount shows a folder, or one file, under another name.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// A line of proc_pid_mountinfo(5).
struct Mount {
    /// The number of the file system.
    device: String,
    /// The folder of the file system that is shown.
    root: PathBuf,
    place: PathBuf,
}

/// Returns the paths under which the mounts of this process show the file or folder `path`, which has no links in it. One
/// of them is `path` itself, unless the table can't be read.
pub(crate) fn names_of(path: &Path) -> Vec<PathBuf> {
    names_in(&read_to_string("/proc/self/mountinfo").unwrap_or_default(), path)
}

fn names_in(table: &str, path: &Path) -> Vec<PathBuf> {
    let mounts: Vec<_> = table.lines().filter_map(Mount::read).collect();
    // Of two mounts at one place the later one is seen.
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.place));
    let Some(holding) = holding.max_by_key(|mount| mount.place.components().count()) else { return Vec::new() };
    let Ok(rest) = path.strip_prefix(&holding.place) else { return Vec::new() };
    let inside = holding.root.join(rest);
    let same = mounts.iter().filter(|mount| mount.device == holding.device);
    same.filter_map(|mount| Some(mount.place.join(inside.strip_prefix(&mount.root).ok()?))).collect()
}

impl Mount {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(2);
        let (device, root, place) = (fields.next()?.to_owned(), fields.next()?, fields.next()?);
        Some(Mount { device, root: unescape(root), place: unescape(place) })
    }
}

/// Returns a path of a table in /proc, where blanks and similar characters are written in octal.
pub(crate) fn unescape(text: &str) -> PathBuf {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
        .into()
}

#[cfg(test)]
mod tests {
    use super::names_in;
    use std::path::Path;

    #[test]
    fn a_bind_mount_is_another_name() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     30 22 8:2 / /srv rw - ext4 /dev/sdb1 rw\n\
                     31 22 8:2 /disks/web1 /mnt/my\\040images rw - ext4 /dev/sdb1 rw\n\
                     32 22 8:2 /disks/web1/disk0 /golden.raw rw - ext4 /dev/sdb1 rw\nbroken\n";
        let names = |path: &str| names_in(table, Path::new(path));
        let all = ["/srv/disks/web1/disk0", "/mnt/my images/disk0", "/golden.raw"].map(Path::new);
        for path in all {
            assert_eq!(names(path.to_str().unwrap()), all, "{path:?}");
        }
        assert_eq!(names("/srv/disks/web2/disk0"), [Path::new("/srv/disks/web2/disk0")]);
        assert_eq!(names("/etc/passwd"), [Path::new("/etc/passwd")]);
        assert!(names_in("", Path::new("/x")).is_empty());
    }
}
