// SPDX-License-Identifier: BSD-2-Clause
//! What a guest has on its disk: a system as an image of a disk with partitions, one of them LVM's.

use std::fs;
use std::path::PathBuf;

use crate::support::images::{MIB, age};
use crate::support::world::{World, tool};

/// The guest's volume group, which has a logical volume `root`.
const GROUP: &str = "guest";

/// Of the image, in bytes.
const LEN: usize = 20 * MIB;

/// The table, for sfdisk: an ext4, LVM, and swap space.
const TABLE: &str =
    "label: dos\nstart=2048, size=16384, type=83\nstart=18432, size=16384, type=8e\nstart=34816, size=4096, type=82\n";

/// An image of such a disk, in a file of the world.
pub(crate) fn image(world: &World) -> PathBuf {
    let (path, table) = (world.path("guest.raw"), world.path("table"));
    let text = path.to_str().unwrap();
    fs::write(&path, vec![0; LEN]).unwrap();
    fs::write(&table, TABLE).unwrap();
    tool("sh", &["-c", "sfdisk --quiet \"$0\" <\"$1\"", text, table.to_str().unwrap()]);
    tool("mkfs.ext4", &["-q", "-F", "-E", "offset=1048576", text, "8192k"]);
    let device = part(text, 9, 8);
    tool("pvcreate", &["-q", &device]);
    // udev activates the guest's groups where it meets one: not while a trial looks for what others do.
    tool("vgcreate", &["-q", "-s", "1M", "--setautoactivation", "n", GROUP, &device]);
    // Not activated, so neither zeroed nor wiped.
    tool("lvcreate", &["-q", "-an", "-Zn", "-Wn", "-L", "4M", "-n", "root", GROUP]);
    tool("losetup", &["-d", &device]);
    let device = part(text, 17, 2);
    tool("mkswap", &[&device]);
    tool("losetup", &["-d", &device]);
    age(&path);
    path
}

/// A loop device over so many MiB from there on.
fn part(file: &str, start: usize, len: usize) -> String {
    let (start, len) = ((start * MIB).to_string(), (len * MIB).to_string());
    let args = ["--find", "--show", "--offset", &start, "--sizelimit", &len, file];
    tool("losetup", &args).trim().to_owned()
}
