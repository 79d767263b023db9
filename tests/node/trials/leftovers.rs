// SPDX-License-Identifier: BSD-2-Clause
//! What a hook makes out of the disk and forgets is removed, after create, after import, and when a signal ends the run.

use std::fs::{self, File};

use crate::Case;
use crate::drive::Target;
use crate::guest;
use crate::support::disk::Kind;
use crate::support::watched::Watched;
use crate::support::world::{Script, World, wait_until};
use crate::traces::Traces;

pub(crate) const ALL: [Case; 11] = [
    ("a_hook_forgets_a_linear_device", || is_removed(DM)),
    ("a_hook_on_a_disk_file_forgets_devices_and_is_ended", of_a_file_is_ended),
    ("a_hook_forgets_partitions_of_kpartx", || is_removed("kpartx -as $T")),
    ("a_hook_forgets_an_array", || is_removed(MD)),
    ("a_hook_forgets_a_volume_group_of_the_guest", || is_removed(LVM)),
    ("a_hook_forgets_a_network_block_device", || is_removed("qemu-nbd --format=raw --connect=/dev/nbd3 $T")),
    ("a_hook_forgets_a_device_on_a_loop_device", || is_removed(DM_ON_LOOP)),
    ("a_hook_forgets_a_loop_device_on_a_device", || is_removed(LOOP_ON_DM)),
    ("a_hook_forgets_swap_space_on_a_device", || is_removed(SWAP_ON_DM)),
    ("a_hook_forgets_an_array_on_kpartx_partitions", || is_removed(MD_ON_KPARTX)),
    ("a_hook_forgets_partitions", || is_removed("partx --add $T || partx --update $T; swapon ${T}p3 || swapon ${T}3")),
];

const DM: &str = "dmsetup create left --table \"0 2048 linear $T 2048\"";
const MD: &str = "yes | mdadm --create /dev/md55 --level=1 --metadata=1.0 --raid-devices=2 --force --run $T missing";
const LVM: &str =
    "udevadm settle; test -b ${T}2 || kpartx -asp _p $T; vgchange --sysinit -ay guest; test -b /dev/mapper/guest-root";
const DM_ON_LOOP: &str = "l=$(losetup --find --show $T); dmsetup create left --table \"0 2048 linear $l 2048\"";
const LOOP_ON_DM: &str = "dmsetup create left --table \"0 16384 linear $T 2048\"; losetup --find /dev/mapper/left";
const SWAP_ON_DM: &str = "dmsetup create left --table \"0 4096 linear $T 34816\"; swapon /dev/mapper/left";
const MD_ON_KPARTX: &str = "kpartx -asp _p $T; m=/dev/mapper/${T#/dev/}_p
    yes | mdadm --create /dev/md55 --level=1 --metadata=1.0 --raid-devices=2 --force --run ${m}3 missing";

/// The lines of a hook that makes something with `make` out of `$T`, and says so.
fn hook(world: &World, make: &str, then: &str) -> String {
    let made = world.path("made");
    let _ = fs::remove_file(&made);
    format!("set -e; T=$TARGET_DISK_DEVICE\n{{ {make}; }} >&2\ntouch {}\n{then}", made.display())
}

fn is_removed(make: &str) {
    let world = World::new();
    let image = guest::image(&world);
    let create = |target: &Target| world.create(target.path(), image.to_str().unwrap(), "raw");
    ends(&world, "create on a drive", "hooks", make, Kind::Block, create);
    ends(&world, "create on a file", "hooks", make, Kind::File, create);
    let import = |target: &Target| {
        let script = world.script("import").env("IMPORT_DEVICE", target.text());
        script.stdin(File::open(&image).unwrap())
    };
    ends(&world, "import to a file", "hooks.import", make, Kind::File, import);
    is_ended(&world, "SIGTERM, on a drive", make, Kind::Block, create);
}

/// A run whose hook forgets something ends well, and nothing is left.
fn ends(world: &World, what: &str, folder: &str, make: &str, kind: Kind, script: impl Fn(&Target) -> Script) {
    eprintln!("{what}");
    let target = Target::stale(world, kind);
    let before = Traces::now();
    world.hook(&format!("{folder}/forgets"), &hook(world, make, ""));
    eprintln!("{}", script(&target).run().succeeds());
    assert!(world.path("made").exists(), "{what}: the hook made nothing");
    assert_eq!(before.new_ones(), [""; 0], "{what}");
    target.assert_free(what);
    assert_ne!(target.bytes()[510..512], [0, 0], "{what}: the disk can't boot");
}

/// The same when SIGTERM ends it while the hook runs; the disk can't boot then. In an emulated machine udev looks for longer at a new array
/// than a run has that was told to end.
fn is_ended(world: &World, what: &str, make: &str, kind: Kind, script: impl Fn(&Target) -> Script) {
    eprintln!("{what}");
    let target = Target::stale(world, kind);
    let before = Traces::now();
    world.hook("hooks/forgets", &hook(world, &format!("{make}; udevadm settle"), "exec sleep 1000"));
    let run = Watched::spawn(script(&target));
    wait_until("the hook has made a device", || world.path("made").exists());
    run.signal("TERM");
    run.finish().fails(&["ended by SIGTERM"]);
    assert_eq!(before.new_ones(), [""; 0], "{what}");
    target.assert_free(what);
    target.assert_unbootable(what);
}

fn of_a_file_is_ended() {
    let world = World::new();
    let image = guest::image(&world);
    let create = |target: &Target| world.create(target.path(), image.to_str().unwrap(), "raw");
    for make in [DM, DM_ON_LOOP, MD_ON_KPARTX] {
        is_ended(&world, make, make, Kind::File, create);
    }
}
