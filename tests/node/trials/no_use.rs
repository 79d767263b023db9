// SPDX-License-Identifier: BSD-2-Clause
//! What is no use of a disk: signatures in the guest's data that nobody has activated, not even udev, which is told not to, and idle loop devices.

use crate::Case;
use crate::support::disk::Kind::{Block, File};
use crate::ways::{Scene, Way};

pub(crate) const ALL: [Case; 6] = [
    ("a_volume_group_that_nobody_activated_is_no_use", || {
        installs(
            "p=$D; test -b $p || p=$(losetup --find --show $D)
            pvcreate $p; vgcreate --setautoactivation n -s 1M guest $p; lvcreate -L 4M -n root guest; vgchange -an guest",
        );
    }),
    ("a_volume_group_on_a_partition_that_nobody_activated_is_no_use", || {
        installs("echo 'start=2048' | sfdisk $D; udevadm settle; p=${D}1; test -b $p || p=$(losetup --find --show --offset 1M $D)
            pvcreate $p; vgcreate --setautoactivation n -s 1M guest $p; lvcreate -L 4M -n root guest; vgchange -an guest");
    }),
    // Not even udev: see what the machine begins with.
    ("an_array_that_nobody_started_is_no_use", || {
        installs(
            "p=$D; test -b $p || p=$(losetup --find --show $D)
            yes | mdadm --create /dev/md55 --level=1 --raid-devices=2 --force --run $p missing; mdadm --stop /dev/md55",
        );
    }),
    ("swap_space_that_nobody_uses_is_no_use", || installs("mkswap $D")),
    ("idle_loop_devices_are_no_use", || {
        installs("losetup --find --show $(losetup --find --show $D); losetup --find --show --offset 1M $D");
    }),
    ("an_idle_loop_device_on_a_partition_is_no_use", || {
        installs("echo 'start=2048' | sfdisk $D; udevadm settle; test ! -b ${D}1 || losetup --find --show ${D}1");
    }),
];

fn installs(make: &'static str) {
    // Each on a disk of its own: after an install there are no signatures.
    for (name, kind) in [("create", Block), ("rename", Block), ("reinstall", File), ("import", File)] {
        eprintln!("{name}, {kind:?}");
        let scene = Scene::set(Way { kind, make, end: "", clean: "losetup --detach-all" });
        scene.succeeds(name);
    }
}
