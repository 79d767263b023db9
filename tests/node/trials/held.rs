// SPDX-License-Identifier: BSD-2-Clause
//! What hooks made out of the disk and somebody of the node uses: an error that says who, and after create a disk that can't boot.

use std::fs::{self, File};
use std::process::{Child, Command};

use crate::Case;
use crate::drive::Target;
use crate::guest;
use crate::support::disk::Kind;
use crate::support::watched::Watched;
use crate::support::world::{Outcome, Script, World, tool, wait_until};
use crate::traces::Traces;

/// A folder of hooks, and where they run. Each run waits for five seconds in vain: not all of both are tried with each.
type Run = (&'static str, Kind);

pub(crate) const ALL: [Case; 5] = [
    ("a_partition_of_the_disk_stays_mounted", || {
        stays(&[("hooks", Kind::Block), ("hooks.import", Kind::Block)], PARTITION)
    }),
    ("a_linear_device_of_a_hook_stays_mounted", || stays(&[("hooks", Kind::File)], LINEAR)),
    ("an_array_of_a_hook_stays_mounted", || stays(&[("hooks", Kind::Block)], MD)),
    ("a_volume_of_the_guest_stays_mounted", || stays(&[("hooks", Kind::File)], LVM)),
    ("a_partition_of_kpartx_stays_open", stays_open),
];

/// A device that a hook makes.
#[derive(Clone, Copy)]
struct Made {
    /// The hook's lines; `$T` is the disk.
    make: &'static str,
    /// Its node.
    node: &'static str,
    /// What it is called in the error.
    name: &'static str,
    /// What removes it in the end.
    remove: &'static str,
}

const PARTITION: Made =
    Made { make: "test -b ${T}1 || partx --add $T", node: "/dev/vdc1", name: "vdc1", remove: "true" };
const LINEAR: Made = Made {
    make: "dmsetup create left --table \"0 16384 linear $T 2048\"",
    node: "/dev/mapper/left",
    name: "dm-0",
    remove: "dmsetup remove --retry left",
};
const MD: Made = Made {
    make: "dmsetup create left --table \"0 16384 linear $T 2048\"
        yes | mdadm --build /dev/md55 --level=1 --raid-devices=2 --force /dev/mapper/left missing",
    node: "/dev/md55",
    name: "md55",
    remove: "mdadm --stop /dev/md55; udevadm settle; dmsetup remove --retry left",
};
const LVM: Made = Made {
    make: "kpartx -asp _p $T; vgchange --sysinit -ay guest; mkfs.ext4 -qF /dev/mapper/guest-root",
    node: "/dev/mapper/guest-root",
    name: "dm-3",
    remove: "vgchange -an guest; kpartx -dp _p $(cat $W/disk)",
};

/// A run whose hook has made the device, and waits until it may end.
struct Waiting<'w> {
    world: &'w World,
    run: Watched,
}

impl<'w> Waiting<'w> {
    fn start(world: &'w World, folder: &str, made: Made, script: Script) -> Self {
        let [disk, go] = ["disk", "go"].map(|name| world.path(name));
        let _ = (fs::remove_file(&disk), fs::remove_file(&go));
        let lines = format!(
            "set -e; T=$TARGET_DISK_DEVICE\n{{ {}; }} >&2\necho $T >{disk}.new; mv {disk}.new {disk}
            while ! test -e {go}; do sleep 0.05; done",
            made.make,
            disk = disk.display(),
            go = go.display()
        );
        world.hook(&format!("{folder}/makes"), &lines);
        let run = Watched::spawn(script);
        wait_until("the hook has made a device", || disk.exists());
        Waiting { world, run }
    }

    fn finish(self) -> Outcome {
        fs::write(self.world.path("go"), "").unwrap();
        self.run.finish()
    }
}

/// What is still there: a device of the device mapper goes by itself when its last user has gone.
fn remove(world: &World, made: Made) {
    let _ = Command::new("sh").args(["-c", made.remove]).env("W", world.path("")).status();
}

fn stays(runs: &[Run], made: Made) {
    let world = World::new();
    let image = guest::image(&world);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    let mounted = format!("is mounted on {} (unmount that first)", place.display());
    for (folder, kind) in runs {
        eprintln!("{folder} on {kind:?}");
        let target = Target::stale(&world, *kind);
        let before = Traces::now();
        let waiting = Waiting::start(&world, folder, made, script(&world, folder, &target, image.to_str().unwrap()));
        // The node's own mount: those of hooks end with them.
        tool("mount", &["-o", "ro", made.node, place.to_str().unwrap()]);
        let outcome = waiting.finish();
        tool("umount", &[place.to_str().unwrap()]);
        outcome.fails(&["is still in use after the hooks: ", made.name, &mounted]);
        check_boot(&target, folder, &fs::read(&image).unwrap());
        remove(&world, made);
        assert_eq!(before.new_ones(), [""; 0]);
    }
}

fn script(world: &World, folder: &str, target: &Target, image: &str) -> Script {
    if folder == "hooks" {
        return world.create(target.path(), image, "raw");
    }
    world.script("import").env("IMPORT_DEVICE", target.text()).stdin(File::open(image).unwrap())
}

/// What create wrote can't boot, what import wrote is as it was.
fn check_boot(target: &Target, folder: &str, image: &[u8]) {
    if folder == "hooks" {
        target.assert_unbootable(folder);
    } else {
        assert!(target.bytes()[..4096] == image[..4096], "{folder}: the first sectors are not the image's");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn stays_open() {
    let world = World::new();
    let image = guest::image(&world);
    let made = Made { make: "kpartx -asp _p $T", node: "", name: "", remove: "kpartx -dp _p $(cat $W/disk)" };
    let target = Target::stale(&world, Kind::Block);
    let before = Traces::now();
    let waiting = Waiting::start(&world, "hooks", made, script(&world, "hooks", &target, image.to_str().unwrap()));
    let disk = fs::read_to_string(world.path("disk")).unwrap();
    let node = format!("/dev/mapper/{}_p1", disk.trim().trim_start_matches("/dev/"));
    let sleep = Command::new("sleep").arg("1000").stdin(File::open(&node).unwrap()).spawn();
    let holder = Running(sleep.unwrap());
    let outcome = waiting.finish();
    let name = fs::canonicalize(&node).unwrap();
    let process = holder.0.id();
    drop(holder);
    let user = format!("through {} process {process} (sleep) has it open (stop that first)", name.display());
    outcome.fails(&["is still in use after the hooks: ", &user]);
    target.assert_unbootable("open");
    remove(&world, made);
    assert_eq!(before.new_ones(), [""; 0]);
}
