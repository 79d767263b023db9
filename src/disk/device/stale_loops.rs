// SPDX-License-Identifier: BSD-2-Clause
//! Loop devices of ours that outlived their run, because something of a hook's still uses them.
//!
//! They can't be detached by anybody but their users: autoclear is set already, and the kernel detaches them when the
//! last one lets go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layers;
use super::loopback;
use super::mounts::Mounts;
use super::target;
use crate::node::sys;

/// A loop device that is still attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaleLoop {
    /// The device.
    pub(crate) device: PathBuf,
    /// The disk's file.
    pub(crate) disk: PathBuf,
    /// Where it is mounted, as far as this process can see.
    pub(crate) mounted_on: Vec<PathBuf>,
    /// The devices that lie on it, as the kernel names them.
    pub(crate) held_by: Vec<String>,
}

/// The loop devices that runs attached which are over.
pub(crate) fn stale_loops() -> io::Result<Vec<StaleLoop>> {
    let mounts = Mounts::now();
    let mut names: Vec<_> =
        fs::read_dir("/sys/block")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    let names = names.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with("loop"));
    let found = names.map(|name| left_device(name, &mounts).transpose());
    found.flatten().collect()
}

fn left_device(name: &str, mounts: &Mounts) -> io::Result<Option<StaleLoop>> {
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
    let Some(number) = layers::number_in(&folder) else { return Ok(None) };
    let held_by = layers::made_of(number).into_iter().map(|made| made.name).collect();
    let parts = layers::partitions(number).into_iter().map(|part| part.number);
    let mounted_on = [number].into_iter().chain(parts).flat_map(|number| mounts.own_places(number)).collect();
    Ok(Some(StaleLoop { device, disk, mounted_on, held_by }))
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
