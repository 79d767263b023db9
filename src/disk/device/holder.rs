// SPDX-License-Identifier: BSD-2-Clause
//! Who uses a disk that is refused, in words for the administrator, as far as /proc and /sys tell.
//!
//! Nothing here waits: only names below /dev, and names that are the disk's own, are looked up, so that no file of a
//! dead network server is touched.

use std::fs::{self, File, read_dir, read_link, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use super::descriptor_path;

/// More descriptors of other processes are not looked at: about a second's worth.
const MAX_DESCRIPTORS: usize = 500_000;

/// More processes are not named.
const MAX_NAMES: usize = 3;

/// Who uses the block device or file, and the way out; none when nobody is found. The second is whether that is a mount
/// or the like, which stays, and not only a process.
pub(super) fn find(disk: &File) -> Option<(String, bool)> {
    let data = disk.metadata().ok()?;
    let (claim, openers) = if data.file_type().is_block_device() {
        let devices = related(data.rdev());
        (claim(&devices, "it").map(lasting), openers(|link| is_one_of(link, &devices), false))
    } else {
        let name = read_link(descriptor_path(disk)).ok()?;
        let is_swap = swaps().any(|swap| Path::new(&swap) == name);
        let swap = is_swap.then(|| lasting("it is a swap file (run swapoff first)".to_owned()));
        (swap.or_else(|| loop_user(disk)), openers(|link| link == name, false))
    };
    claim.or_else(|| openers.map(passing))
}

/// Of a mount or the like.
fn lasting(words: String) -> (String, bool) {
    (words, true)
}

/// Of a process, which may be about to end.
fn passing(words: String) -> (String, bool) {
    (words, false)
}

/// Who uses the file as a disk through a loop device, as [`find`] tells it. One that nobody uses, such as a killed process
/// leaves, is no harm.
pub(super) fn loop_user(disk: &File) -> Option<(String, bool)> {
    loops_over(disk).into_iter().find_map(|device| {
        let words = format!("it is attached to /dev/{}, which", device.name);
        let devices = related(device.number);
        // udev has a look at devices, for reading only.
        claim(&devices, &words).map(lasting).or_else(|| {
            let writer = openers(|link| is_one_of(link, &devices), true)?;
            Some(passing(format!("through /dev/{} {writer}", device.name)))
        })
    })
}

/// Who can write to a file, itself or through a loop device, as [`find`] tells it.
pub(super) fn file_writer(file: &File) -> Option<(String, bool)> {
    let own = FileName::of(file)?;
    let opener = openers(|link| own.is_also(link), true).map(passing);
    opener.or_else(|| loops_over(file).iter().find_map(|device| stack_writer(device.number)))
}

/// Who can write to a block device.
pub(super) fn device_writer(device: &File) -> Option<(String, bool)> {
    stack_writer(device.metadata().ok()?.rdev())
}

/// Whether a loop device lies over a file.
pub(super) fn has_loops(file: &File) -> bool {
    !loops_over(file).is_empty()
}

/// Who can write to a device through a mount, as swap or by itself, or to one that was made of it.
fn stack_writer(number: u64) -> Option<(String, bool)> {
    let mut devices = related(number);
    let mut at = 0;
    while at < devices.len() && devices.len() < MAX_STACK {
        for number in holders(devices[at].number) {
            if devices.iter().all(|known| known.number != number) {
                devices.extend(related(number));
            }
        }
        at += 1;
    }
    let used = devices.iter().find_map(|Device { number, name, .. }| {
        if let Some(place) = mounted(*number, true) {
            return Some(format!("/dev/{name} is mounted on {place} (unmount that first)"));
        }
        let swap = swaps().any(|swap| is_device(Path::new(&swap), *number));
        swap.then(|| format!("/dev/{name} is swap space (run swapoff first)"))
    });
    used.map(lasting).or_else(|| {
        let name = &devices.first()?.name;
        let writer = openers(|link| is_one_of(link, &devices), true)?;
        Some(passing(format!("through /dev/{name} {writer}")))
    })
}

/// More devices that lie on one another are not looked at.
const MAX_STACK: usize = 64;

/// The devices that were made of this one.
fn holders(number: u64) -> Vec<u64> {
    let folder = format!("/sys/dev/block/{}:{}/holders", major(number), minor(number));
    let entries = read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(device(&entry.path(), "")?.number)).collect()
}

/// A block device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) number: u64,
    /// The kernel's.
    pub(super) name: String,
    /// What it is to the disk, if it is not the disk itself.
    pub(super) relation: Option<&'static str>,
}

impl Device {
    /// Its node, under the kernel's name.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// The device itself, its partitions, and the disk that it is a partition of: whoever has one claimed bars the others.
fn related(number: u64) -> Vec<Device> {
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    let folder = fs::canonicalize(&folder).unwrap_or(folder);
    let own = Device { number, name: file_name(&folder), relation: None };
    let whole = folder.parent().filter(|_| folder.join("partition").exists());
    let whole = whole.and_then(|folder| device(folder, "the whole disk"));
    let entries = read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries.filter(|path| path.join("partition").exists());
    let partitions = partitions.filter_map(|folder| device(&folder, "its partition"));
    [own].into_iter().chain(whole).chain(partitions).collect()
}

pub(super) fn device(folder: &Path, relation: &'static str) -> Option<Device> {
    let text = read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let number = makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Device { number, name: file_name(folder), relation: Some(relation) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The first of the devices that is mounted, swapped to, or a part of another one. `own` stands for the disk.
pub(super) fn claim(devices: &[Device], own: &str) -> Option<String> {
    devices.iter().find_map(|Device { number, name, relation }| {
        let subject = relation.map_or_else(|| own.to_owned(), |relation| format!("{relation} {name}"));
        if let Some(place) = mounted(*number, false) {
            return Some(format!("{subject} is mounted on {place} (unmount that first)"));
        }
        if swaps().any(|swap| is_device(Path::new(&swap), *number)) {
            return Some(format!("{subject} is swap space (run swapoff first)"));
        }
        above(*number).map(|above| format!("{subject} is part of device {above} (remove that first)"))
    })
}

/// The device that was made of this one: its kernel name, and that of the device mapper.
fn above(number: u64) -> Option<String> {
    let folder = format!("/sys/dev/block/{}:{}/holders", major(number), minor(number));
    let holder = read_dir(folder).ok()?.flatten().next()?.path();
    let name = file_name(&holder);
    match read_to_string(holder.join("dm/name")) {
        Ok(mapped) => Some(format!("{} ({name})", mapped.trim())),
        Err(_) => Some(name),
    }
}

/// Where a device is mounted, in any mount namespace; `for_writing` if only that counts.
fn mounted(number: u64, for_writing: bool) -> Option<String> {
    let table = |process: &str| read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    let namespace = |process: &str| read_link(format!("/proc/{process}/ns/mnt")).ok();
    if let Some(place) = mount_point(&table("self"), number, for_writing) {
        return Some(place.to_owned());
    }
    let mut seen = vec![namespace("self")];
    processes().find_map(|process| {
        let id = process.to_string();
        let namespace = namespace(&id);
        if seen.contains(&namespace) {
            return None;
        }
        seen.push(namespace);
        let table = table(&id);
        mount_point(&table, number, for_writing)
            .map(|place| format!("{place} in the mount namespace of {}", named(process)))
    })
}

/// The first mount point of a device in a table as proc_pid_mountinfo(5) describes it. A btrfs has a number of its own
/// there, so the source counts too.
/// Of a file system that can be written, its own options say so, whatever those of the mount are.
fn mount_point(table: &str, number: u64, for_writing: bool) -> Option<&str> {
    let own = format!("{}:{}", major(number), minor(number));
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (device, place) = (fields.nth(2)?, fields.nth(1)?);
        let mut file_system = fields.skip_while(|field| *field != "-").skip(2);
        let (source, options) = (file_system.next()?, file_system.next().unwrap_or_default());
        let counts = !for_writing || options.split(',').any(|option| option == "rw");
        (counts && (device == own || is_device(Path::new(source), number))).then_some(place)
    })
}

/// What is swapped to: paths of devices and files.
pub(super) fn swaps() -> impl Iterator<Item = String> {
    let table = read_to_string("/proc/swaps").unwrap_or_default();
    let paths: Vec<_> = table.lines().skip(1).filter_map(swap).collect();
    paths.into_iter()
}

/// The path in a line of proc_swaps(5). One of a mount namespace that is gone begins where /dev was mounted there.
fn swap(line: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (path, kind) = (fields.next()?, fields.next()?);
    let is_elsewhere = kind == "partition" && !path.starts_with("/dev/");
    Some(if is_elsewhere { format!("/dev{path}") } else { path.to_owned() })
}

pub(super) fn is_device(path: &Path, number: u64) -> bool {
    let data = path.starts_with("/dev").then(|| fs::metadata(path));
    data.is_some_and(|data| data.is_ok_and(|data| data.file_type().is_block_device() && data.rdev() == number))
}

fn is_one_of(path: &Path, devices: &[Device]) -> bool {
    devices.iter().any(|device| is_device(path, device.number))
}

/// What a file is called by others, as far as that can be told without waiting for a server.
struct FileName {
    path: PathBuf,
    numbers: (u64, u64),
}

impl FileName {
    fn of(file: &File) -> Option<Self> {
        let data = file.metadata().ok()?;
        Some(FileName { path: read_link(descriptor_path(file)).ok()?, numbers: (data.dev(), data.ino()) })
    }

    /// Whether `path` is the file. It may be known by another folder's name: a bind mount.
    fn is_also(&self, path: &Path) -> bool {
        path == self.path
            || (path.file_name() == self.path.file_name()
                && fs::metadata(path).is_ok_and(|data| (data.dev(), data.ino()) == self.numbers))
    }
}

/// The loop devices attached to a file.
fn loops_over(disk: &File) -> Vec<Device> {
    let Some(own) = FileName::of(disk) else { return Vec::new() };
    let is_own = |text: &str| own.is_also(Path::new(text.trim_end_matches('\n')));
    let all = read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.path());
    let attached =
        all.filter(|folder| read_to_string(folder.join("loop/backing_file")).is_ok_and(|text| is_own(&text)));
    attached.filter_map(|folder| device(&folder, "the loop device")).collect()
}

/// The other processes, less the children of this one: what a run starts to guard its disk is no user of it.
fn processes() -> impl Iterator<Item = u32> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id();
    all.filter(move |id| *id != own && parent(*id) != Some(own))
}

/// proc_pid_stat(5): number, (name), state, parent.
fn parent(process: u32) -> Option<u32> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn named(process: u32) -> String {
    let name = read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("process {process} ({})", name.trim())
}

/// The processes that have open what `is_ours` says of the names of descriptors; `writing` for those that can write.
pub(super) fn openers(is_ours: impl Fn(&Path) -> bool, writing: bool) -> Option<String> {
    let mut budget = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    for process in processes() {
        let mut descriptors = read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let holds = descriptors.any(|descriptor| {
            budget = budget.saturating_sub(1);
            read_link(descriptor.path()).is_ok_and(|link| is_ours(&link))
                && (!writing || can_write(process, &descriptor.file_name().to_string_lossy()))
        });
        found.extend(holds.then(|| named(process)));
        if budget == 0 || found.len() == MAX_NAMES {
            break;
        }
    }
    let have = if found.len() == 1 { "has" } else { "have" };
    (!found.is_empty()).then(|| format!("{} {have} it open (stop that first)", found.join(" and ")))
}

fn can_write(process: u32, descriptor: &str) -> bool {
    let info = read_to_string(format!("/proc/{process}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::mount_point;
    use nix::sys::stat::makedev;

    #[test]
    fn the_mount_table_is_read_by_number() {
        let table = "36 35 98:0 /root /mnt\\0401 rw,noatime master:1 - ext4 /nonexistent rw,errors=continue\n\
                     37 35 0:98 / /proc rw - proc proc rw\nbroken\n";
        assert_eq!(mount_point(table, makedev(98, 0), false), Some("/mnt\\0401"));
        assert_eq!(mount_point(table, makedev(0, 98), false), Some("/proc"));
        assert_eq!(mount_point(table, makedev(98, 1), false), None);
        // Read-only as a mount, or as a whole.
        let table =
            "36 35 8:1 / /a ro - ext4 /nonexistent rw,errors=continue\n37 35 8:2 / /b rw - ext4 /nonexistent ro\n";
        assert_eq!(mount_point(table, makedev(8, 1), true), Some("/a"));
        assert_eq!(mount_point(table, makedev(8, 2), true), None);
    }
}
