// SPDX-License-Identifier: BSD-2-Clause
//! The seed on a disk of its own, the one named cidata.

use super::{UUID, Volume, gpt_image, seeded};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk};
use crate::support::world::{Script, World};

fn with_disk(script: Script, disk: &Disk) -> Script {
    script.env("DISK_COUNT", "3").env("DISK_2_NAME", "cidata").env("DISK_2_PATH", disk.path().to_str().unwrap())
}

#[test]
fn the_disk_named_cidata_is_the_volume() {
    let world = World::new();
    let image = disk(9 * MIB);
    let file = world.path("source.raw");
    // No partition table is needed.
    std::fs::write(&file, &image).unwrap();
    for kind in KINDS {
        for (size, len) in [(9 * MIB, 4 * MIB), (MIB + 512, MIB)] {
            let (root, own) = (Disk::stale(&world, "disk0", kind, 12 * MIB), Disk::stale(&world, "disk2", kind, size));
            for reinstall in ["0", "1"] {
                let script = seeded(&world, root.path(), &file, "raw").env("INSTANCE_REINSTALL", reinstall);
                let log = with_disk(script, &own).run().succeeds();
                assert!(log.contains(&format!("the first-boot seed is on disk {}", own.path().display())), "{log}");
                root.assert_holds(&image, "the first disk is the image");
                let bytes = own.bytes();
                assert_eq!(bytes.len(), size);
                assert!(bytes[len..].iter().all(|byte| *byte == 0), "behind the volume is another tenant's data");
                let volume = Volume::of(&world, &world.path("disk2"), 0, len);
                volume.assert_says(&world, "web1.example.org", UUID, "aa:00:00:00:00:01");
            }
        }
    }
}

#[test]
fn the_placement_is_the_parameters() {
    let world = World::new();
    let image = gpt_image(&world);
    let (root, own) =
        (Disk::stale(&world, "disk0", Kind::File, 40 * MIB), Disk::stale(&world, "disk2", Kind::File, MIB));
    let script = || seeded(&world, root.path(), &image, "raw");
    with_disk(script(), &own).env("OSP_CLOUD_INIT", "partition").run().succeeds();
    own.assert_untouched("partition");
    with_disk(script(), &own).env("OSP_CLOUD_INIT", "off").run().succeeds();
    own.assert_untouched("off");
    with_disk(script(), &own).env("OSP_CLOUD_INIT", "disk").run().succeeds();
    assert!(own.bytes()[3..11] == *b"SIMPLIMG");
    let log = script().env("OSP_CLOUD_INIT", "disk").run();
    log.fails(&["cloud_init=disk, but the instance has no disk named cidata (gnt-instance modify --disk add:size=16M,name=cidata)"]);
    let small = Disk::stale(&world, "disk3", Kind::File, MIB / 2);
    with_disk(script(), &small)
        .run()
        .fails(&["which is named cidata, has 512 KiB: a seed needs 1 MiB (use a larger one)"]);
}

#[test]
fn the_seeds_disk_is_held_and_no_other_tenants_seed_survives_a_failure() {
    let world = World::new();
    let (root, own) =
        (Disk::stale(&world, "disk0", Kind::File, 40 * MIB), Disk::stale(&world, "disk2", Kind::Block, 2 * MIB));
    let missing = world.path("missing.raw");
    with_disk(seeded(&world, root.path(), &missing, "raw"), &own).run().fails(&["opening image", "No such file"]);
    own.assert_unbootable("a new instance's");
    let own = Disk::stale(&world, "disk3", Kind::File, 2 * MIB);
    let again = with_disk(seeded(&world, root.path(), &missing, "raw"), &own).env("INSTANCE_REINSTALL", "1");
    again.run().fails(&["opening image", "No such file"]);
    own.assert_untouched("a reinstall");
    let same = with_disk(seeded(&world, root.path(), &gpt_image(&world), "raw"), &root);
    same.run().fails(&["is in use"]);
    let itself = with_disk(seeded(&world, root.path(), own.path(), "raw"), &own);
    itself.run().fails(&["is the instance's disk for the seed"]);
    own.assert_untouched("an image");
}
