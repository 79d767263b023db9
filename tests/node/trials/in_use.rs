// SPDX-License-Identifier: BSD-2-Clause
//! A disk in use is refused by every script that would write to it, before the first byte, and whoever uses it is named.

use std::fs;

use crate::Case;
use crate::support::disk::Kind::{Block, File};
use crate::support::images::{MIB, disk, encode};
use crate::support::watched::Watched;
use crate::support::world::wait_until;
use crate::ways::{Scene, Way};

pub(crate) const ALL: [Case; 21] = [
    ("a_volume_on_the_disk_is_active", || refused(LVM, &["guest-root"])),
    ("a_volume_on_a_partition_is_active", || refused(LVM_ON_PARTITION, &["guest-root"])),
    ("a_linear_device_lies_on_the_disk", || refused(LINEAR, &["left"])),
    ("an_array_has_the_disk_as_a_member", || refused(MD, &["md55"])),
    ("the_disk_is_swap_space", || refused(SWAP, &["is swap space"])),
    ("a_partition_is_swap_space", || refused(SWAP_ON_PARTITION, &["vdc1 is swap space"])),
    ("a_partition_is_mounted", || refused(PARTITION, &["vdc1 is mounted on $W/mnt"])),
    ("a_partition_is_mounted_in_another_namespace", || {
        refused(NAMESPACE, &["vdc1 is mounted on $W/mnt", "process $P"])
    }),
    ("a_loop_device_on_the_disk_is_mounted", || refused(LOOP, &["loop", "is mounted on $W/mnt"])),
    ("a_loop_device_on_a_partition_is_mounted", || refused(LOOP_ON_PARTITION, &["loop", "is mounted on $W/mnt"])),
    ("a_loop_device_on_another_is_mounted", || refused(LOOP_ON_LOOP, &["loop", "is mounted on $W/mnt"])),
    ("a_linear_device_lies_on_a_loop_device", || refused(LINEAR_ON_LOOP, &["left"])),
    ("a_network_block_device_serves_the_disk", || refused(NBD, &["(qemu-nbd)"])),
    ("a_program_writes_to_the_disk", || refused(WRITER, &["process $P (sleep)"])),
    ("a_program_writes_to_a_partition", || refused(WRITER_ON_PARTITION, &["vdc1", "process $P (sleep)"])),
    ("a_linear_device_lies_on_a_loop_device_over_the_file", || refused(of_file(LINEAR_ON_LOOP), &["left"])),
    ("an_array_has_a_loop_device_over_the_file", || refused(MD_ON_LOOP, &["md55"])),
    ("a_volume_in_the_file_is_active", || refused(LVM_ON_LOOP, &["guest-root"])),
    ("a_loop_device_over_the_file_is_swap_space", || refused(SWAP_ON_LOOP, &["loop", "is swap space"])),
    ("a_network_block_device_serves_the_file", || refused(of_file(NBD), &["(qemu-nbd)"])),
    ("another_run_has_the_disk", another_run),
];

const fn way(make: &'static str, end: &'static str, clean: &'static str) -> Way {
    Way { kind: Block, make, end, clean }
}

const fn of_file(way: Way) -> Way {
    Way { kind: File, ..way }
}

const LVM: Way = way(
    "pvcreate $D; vgcreate --setautoactivation n -s 1M guest $D; lvcreate -L 4M -n root guest",
    "vgchange -an guest",
    "",
);
const LVM_ON_PARTITION: Way = way(
    "echo 'start=2048' | sfdisk $D; udevadm settle; pvcreate ${D}1; vgcreate --setautoactivation n -s 1M guest ${D}1; lvcreate -L 4M -n root guest",
    "vgchange -an guest",
    "",
);
const LINEAR: Way = way("dmsetup create left --table \"0 2048 linear $D 2048\"", "dmsetup remove left", "");
// The array's superblock is written until it is clean. Without it udev does not start the array again.
const MD: Way = way(
    "yes | mdadm --create /dev/md55 --level=1 --raid-devices=2 --force --run $D missing
    until grep clean /sys/block/md55/md/array_state; do sleep 0.05; done",
    "mdadm --stop /dev/md55; wipefs --all $D; udevadm settle",
    "",
);
const SWAP: Way = way("mkswap $D; swapon $D", "swapoff $D", "");
const SWAP_ON_PARTITION: Way =
    way("echo 'start=2048' | sfdisk $D; udevadm settle; mkswap ${D}1; swapon ${D}1", "swapoff ${D}1", "");
const PARTITION: Way = way(
    "echo 'start=2048' | sfdisk $D; udevadm settle; mkfs.ext4 -qF ${D}1; mount -o ro ${D}1 $W/mnt",
    "umount $W/mnt",
    "",
);
const NAMESPACE: Way = way(
    "echo 'start=2048' | sfdisk $D; udevadm settle; mkfs.ext4 -qF ${D}1
    unshare --mount sh -c 'mount -o ro ${D}1 $W/mnt && touch $W/ready && exec sleep 1000' & echo $! >$W/pid
    until test -e $W/ready; do sleep 0.05; done",
    "kill $(cat $W/pid); while test -e /proc/$(cat $W/pid); do sleep 0.05; done",
    "",
);
const LOOP: Way = way(
    "l=$(losetup --find --show $D); mkfs.ext4 -qF $l; mount -o ro $l $W/mnt",
    "umount $W/mnt",
    "losetup --detach-all",
);
const LOOP_ON_PARTITION: Way = way(
    "echo 'start=2048' | sfdisk $D; udevadm settle
    l=$(losetup --find --show ${D}1); mkfs.ext4 -qF $l; mount -o ro $l $W/mnt",
    "umount $W/mnt",
    "losetup --detach-all",
);
const LOOP_ON_LOOP: Way = way(
    "l=$(losetup --find --show $(losetup --find --show $D)); mkfs.ext4 -qF $l; mount -o ro $l $W/mnt",
    "umount $W/mnt",
    "losetup --detach-all",
);
const LINEAR_ON_LOOP: Way = way(
    "l=$(losetup --find --show $D); dmsetup create left --table \"0 2048 linear $l 2048\"",
    "dmsetup remove left",
    "losetup --detach-all",
);
const NBD: Way = way(
    "qemu-nbd --format=raw --connect=/dev/nbd3 $D; udevadm settle",
    "qemu-nbd --disconnect /dev/nbd3; while pidof qemu-nbd; do sleep 0.05; done",
    "",
);
const WRITER: Way = way("sleep 1000 <>$D & echo $! >$W/pid", "kill $(cat $W/pid)", "");
const WRITER_ON_PARTITION: Way = way(
    "echo 'start=2048' | sfdisk $D; udevadm settle; sleep 1000 <>${D}1 & echo $! >$W/pid",
    "kill $(cat $W/pid)",
    "",
);
const MD_ON_LOOP: Way = Way {
    kind: File,
    make: "l=$(losetup --find --show $D); yes | mdadm --create /dev/md55 --level=1 --raid-devices=2 --force --run $l missing
    until grep clean /sys/block/md55/md/array_state; do sleep 0.05; done",
    end: "mdadm --stop /dev/md55; wipefs --all $D; udevadm settle",
    clean: "losetup --detach-all",
};
const LVM_ON_LOOP: Way = Way {
    kind: File,
    make: "l=$(losetup --find --show $D); pvcreate $l; vgcreate --setautoactivation n -s 1M guest $l; lvcreate -L 4M -n root guest",
    end: "vgchange -an guest",
    clean: "losetup --detach-all",
};
const SWAP_ON_LOOP: Way = Way {
    kind: File,
    make: "l=$(losetup --find --show $D); mkswap $l; swapon $l; echo $l >$W/loop",
    end: "swapoff $(cat $W/loop)",
    clean: "losetup --detach-all",
};

/// As long as it is in use each script fails for this reason and changes no byte. Then nothing keeps one from its work.
fn refused(way: Way, reasons: &[&str]) {
    let mut scene = Scene::set(way);
    let before = scene.target.bytes();
    let reasons: Vec<_> = reasons.iter().map(|reason| scene.expand(reason)).collect();
    let begin = format!("disk {} is in use: ", scene.target.text());
    let parts: Vec<_> = [begin.as_str()].into_iter().chain(reasons.iter().map(String::as_str)).collect();
    for (name, outcome) in scene.scripts() {
        eprintln!("{name}");
        eprintln!("{}", outcome.fails(&parts));
        assert!(scene.target.bytes() == before, "{name}: the disk was written to");
        assert!(!scene.was_renamed(), "{name}: the hook ran");
    }
    scene.end();
    scene.succeeds("create");
}

fn another_run() {
    for kind in [Block, File] {
        let scene = Scene::set(Way { kind, ..way("", "", "") });
        let (world, go) = (&scene.world, scene.world.path("go"));
        let lines =
            format!("touch {}; while ! test -e {}; do sleep 0.05; done", world.path("started").display(), go.display());
        world.hook("hooks/wait", &lines);
        let image = encode(world, &disk(4 * MIB), "raw");
        let first = Watched::spawn(world.create(scene.target.path(), image.to_str().unwrap(), "raw"));
        wait_until("the hook runs", || world.path("started").exists());
        let before = scene.target.bytes();
        let begin = format!("disk {} is in use: ", scene.target.text());
        for (name, outcome) in scene.scripts() {
            eprintln!("{name}");
            outcome.fails(&[&begin, "(simpleimage)"]);
            assert!(scene.target.bytes() == before, "{name}: the disk was written to");
        }
        fs::write(go, "").unwrap();
        first.finish().succeeds();
    }
}
