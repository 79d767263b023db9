// SPDX-License-Identifier: BSD-2-Clause
//! A disk that fails: the device mapper's error and flakey targets under a part of it. A run ends with one error, and the disk can't boot.

use std::path::Path;
use std::process::Command;

use crate::Case;
use crate::drive::{self, LEN, Target};
use crate::support::disk::{Kind, OLD};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Script, World, tool};

pub(crate) const ALL: [Case; 6] = [
    ("a_disk_that_can_not_be_written_below_the_image", || create_fails("error", IMAGE_LEN - 2048, &WRITING)),
    ("a_disk_that_can_not_be_written_behind_the_image", || create_fails("error", LEN - 2 * MIB, &WRITING)),
    ("a_disk_that_takes_no_writes_but_can_be_read", || create_fails("error_writes", 4 * MIB, &WRITING)),
    ("a_disk_that_forgets_what_was_written_is_found_out_by_readback", forgets),
    ("a_disk_that_can_not_be_read_ends_an_export", export_ends),
    ("a_disk_that_fails_ends_an_import", import_fails),
];

const IMAGE_LEN: usize = 8 * MIB;

/// The one sector's worth that is bad, in bytes.
const BAD_LEN: usize = 4096;

const WRITING: [&str; 2] = ["writing to disk /dev/mapper/bad", "Input/output error"];

/// A device over the drive, of which a few sectors at one place are bad.
struct Bad {
    target: Target,
}

impl Bad {
    /// `how`: not there at all (`error`), or a feature of the flakey target, which is always down.
    fn at(world: &World, at: usize, how: &str) -> Self {
        let target = Target::stale(world, Kind::Block);
        let (start, len, all) = (at / 512, BAD_LEN / 512, LEN / 512);
        let (drive, end) = (target.text(), start + len);
        let bad = match how {
            "error" => "error".to_owned(),
            feature => format!("flakey {drive} {start} 0 60 1 {feature}"),
        };
        let good =
            |from, to| if from < to { format!("{from} {} linear {drive} {from}\n", to - from) } else { String::new() };
        let table = format!("{}{start} {len} {bad}\n{}", good(0, start), good(end, all));
        tool("sh", &["-c", "printf \"$0\" | dmsetup create bad && udevadm settle", &table]);
        Bad { target }
    }

    fn path(&self) -> &'static Path {
        Path::new("/dev/mapper/bad")
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        let _ = Command::new("dmsetup").args(["remove", "--retry", "bad"]).status();
    }
}

fn create_fails(how: &str, at: usize, reasons: &[&str]) {
    let world = World::new();
    let image = encode(&world, &disk(IMAGE_LEN), "raw");
    for reinstall in ["0", "1"] {
        let bad = Bad::at(&world, at, how);
        let script = world.create(bad.path(), image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", reinstall);
        in_time(script).run().fails(reasons);
        bad.target.assert_unbootable(how);
    }
    // By qemu-img, which says itself what it could not write.
    let image = encode(&world, &disk(IMAGE_LEN), "qcow2");
    let bad = Bad::at(&world, at, how);
    in_time(world.create(bad.path(), image.to_str().unwrap(), "qcow2")).run().fails(&["Input/output error"]);
    bad.target.assert_unbootable("qcow2");
}

/// Whoever hangs is ended, and fails for want of an error line.
fn in_time(script: Script) -> Script {
    script.under("timeout", &["60"])
}

fn forgets() {
    let world = World::new();
    let image = encode(&world, &disk(IMAGE_LEN), "raw");
    world.variant_file("config.toml", "verify_readback = true\n");
    for at in [4 * MIB, 20 * MIB] {
        let bad = Bad::at(&world, at, "drop_writes");
        let script = world.create(bad.path(), image.to_str().unwrap(), "raw");
        in_time(script).run().fails(&["disk /dev/mapper/bad reads back other data than was written"]);
        bad.target.assert_unbootable("drop_writes");
    }
}

fn export_ends() {
    let world = World::new();
    for at in [0, 4096, MIB, LEN / 2, LEN - BAD_LEN] {
        let bad = Bad::at(&world, at, "error");
        let script = world.script("export").env("EXPORT_DEVICE", "/dev/mapper/bad").env("EXPORT_INDEX", "0");
        let outcome = in_time(script).run();
        outcome.fails(&["reading disk /dev/mapper/bad at byte ", "Input/output error"]);
        // What came before it is no whole dump.
        let dump = outcome.0.stdout;
        assert!(dump.len() <= at && dump.iter().all(|byte| *byte == OLD), "{at}: {} bytes", dump.len());
        drop(bad);
    }
}

fn import_fails() {
    let world = World::new();
    let dump = disk(IMAGE_LEN);
    for at in [4 * MIB, LEN - BAD_LEN] {
        let bad = Bad::at(&world, at, "error");
        let script = world.script("import").env("IMPORT_DEVICE", "/dev/mapper/bad").env("IMPORT_INDEX", "0");
        // All of the dump is taken: Ganeti's end of the pipe is not to fail as well.
        in_time(script).run_with(&dump).fails(&WRITING);
        bad.target.assert_unbootable("import");
        assert!(drive::is_free(bad.path()));
    }
}
