// SPDX-License-Identifier: BSD-2-Clause
//! That the machine is one for the other trials.

use std::fs;
use std::path::Path;

use crate::Case;
use crate::drive::Target;
use crate::guest;
use crate::support::disk::KINDS;
use crate::support::world::World;

pub(crate) const ALL: [Case; 2] =
    [("the_kernel_knows_all_kinds_of_devices", has_all_kinds), ("an_image_lands_on_a_disk_of_the_node", installs)];

fn has_all_kinds() {
    let numbers = fs::read_to_string("/proc/devices").unwrap();
    for kind in ["loop", "device-mapper", "md", "nbd"] {
        assert!(numbers.lines().any(|line| line.ends_with(&format!(" {kind}"))), "{kind}: {numbers}");
    }
    for module in ["dm_thin_pool", "dm_flakey", "raid1"] {
        assert!(Path::new("/sys/module").join(module).exists(), "{module} is not loaded");
    }
}

fn installs() {
    let world = World::new();
    let image = guest::image(&world);
    for kind in KINDS {
        let target = Target::stale(&world, kind);
        world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        target.assert_holds(&fs::read(&image).unwrap(), &format!("{kind:?}"));
        target.assert_free("create");
    }
}
