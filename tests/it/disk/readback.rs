// SPDX-License-Identifier: BSD-2-Clause
//! `verify_readback`: a disk that gives back other bytes than it was given is found out, and does not boot.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use simpleimage::disk::device::Target;
use simpleimage::disk::write::{self, DiskWriter, PendingDisk, Wipe, WriteError, WriteOptions};
use simpleimage::node::process::Children;

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::World;

const SIZE: usize = 30 * MIB;

const VERIFIED: WriteOptions = WriteOptions { wipe: Wipe::Full, verify_readback: true };

/// One bit of what the disk's storage holds turns over: below the device, and not in its page cache.
fn flip(backing: &Path, at: usize) {
    let file = OpenOptions::new().read(true).write(true).open(backing).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
    file.sync_all().unwrap();
}

/// Writes an image of `image_type` with `options`, lets one bit turn over, and finishes.
fn install_with_fault(
    world: &World,
    file: &Path,
    image_type: &str,
    target: &Target,
    fault: Option<usize>,
    options: WriteOptions,
) -> Result<(), WriteError> {
    let mut writer = DiskWriter::begin(target, options)?;
    let file = File::open(file).unwrap();
    match image_type {
        "raw" => write::raw_file(&file, file.metadata().unwrap().len(), &mut writer, None)?,
        "stream" => write::stream(&mut &file, &mut writer)?,
        _ => write::convert(&file, "qcow2", 20 * MIB as u64, &mut writer, &Children::default())?,
    }
    // The device's page cache holds the right bytes.
    target.sync().unwrap();
    let cached = fs::read(target.path()).unwrap();
    assert_eq!(cached.len(), SIZE);
    fault.into_iter().for_each(|at| flip(&world.path("disk0"), at));
    writer.fill(|_| Ok(()))?.sync()?.commit()
}

#[test]
fn a_bit_that_turns_over_is_found_and_the_disk_does_not_boot() {
    let world = World::new();
    let image = disk(20 * MIB);
    // In data, in a hole, in the image's last sector.
    let faults =
        [(4 * MIB, 0, 8 * MIB - 1), (10 * MIB + 77, 8 * MIB, 16 * MIB - 1), (20 * MIB - 1, 16 * MIB, 20 * MIB - 1)];
    for image_type in ["raw", "stream", "qcow2"] {
        let file = encode(&world, &image, if image_type == "qcow2" { "qcow2" } else { "raw" });
        for kind in KINDS {
            for (at, first, last) in faults {
                let what = format!("{image_type} on {kind:?}, fault at {at}");
                let disk = Disk::stale(&world, "disk0", kind, SIZE);
                let target = Target::open(disk.path()).unwrap();
                let error = install_with_fault(&world, &file, image_type, &target, Some(at), VERIFIED).unwrap_err();
                // qemu-img names the sector; else it is the part of the disk that has a checksum.
                let (first, last) =
                    if image_type == "qcow2" { (at - at % 512, at - at % 512 + 511) } else { (first.max(MIB), last) };
                let expected = format!(
                    "disk {} reads back other data than was written: bytes {first} to {last} (the image) differ",
                    disk.path().display()
                );
                assert!(error.to_string().starts_with(&expected), "{what}: {error}");
                drop(target);
                disk.assert_unbootable(&what);
            }
        }
    }
}

#[test]
fn without_a_fault_it_says_nothing_and_without_being_asked_it_reads_nothing() {
    let world = World::new();
    let image = disk(20 * MIB);
    for image_type in ["raw", "stream", "qcow2"] {
        let file = encode(&world, &image, if image_type == "qcow2" { "qcow2" } else { "raw" });
        let stale = Disk::stale(&world, "disk0", Kind::Block, SIZE);
        let target = Target::open(stale.path()).unwrap();
        install_with_fault(&world, &file, image_type, &target, None, VERIFIED).unwrap();
        install_with_fault(&world, &file, image_type, &target, Some(4 * MIB), WriteOptions::default()).unwrap();
        drop(target);
        assert_ne!(stale.bytes()[4 * MIB], image[4 * MIB]);
    }
}

/// The other thread may not get its turn between the writing and the reading; so often it is tried.
const TRIES: usize = 20;

/// Writes over a byte again and again, until it is dropped.
fn keep_spoiling<T>(backing: &Path, at: usize, work: impl FnOnce() -> T) -> T {
    let file = OpenOptions::new().write(true).open(backing).unwrap();
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.write_all_at(&[0x5a], at as u64).unwrap();
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn the_zeros_behind_the_image_and_the_boot_area_are_read_back_too() {
    let world = World::new();
    let file = encode(&world, &disk(20 * MIB), "raw");
    for (at, what) in [(25 * MIB + 3, "zeros after the image"), (5000, "the boot area")] {
        for kind in KINDS {
            let stale = Disk::stale(&world, "disk0", kind, SIZE);
            let target = Target::open(stale.path()).unwrap();
            let attempt = || {
                let mut writer = DiskWriter::begin(&target, VERIFIED).unwrap();
                write::raw_file(&File::open(&file).unwrap(), 20 * MIB as u64, &mut writer, None).unwrap();
                let outcome = if what == "the boot area" {
                    let boot = writer.fill(|_| Ok(())).unwrap().sync().unwrap();
                    keep_spoiling(&world.path("disk0"), at, || boot.commit())
                } else {
                    keep_spoiling(&world.path("disk0"), at, || {
                        writer.fill(|_| Ok(())).and_then(PendingDisk::sync).map(drop)
                    })
                };
                outcome.err()
            };
            let error = (0..TRIES).find_map(|_| attempt()).expect("the byte was never spoiled in time").to_string();
            assert!(error.contains(&format!("bytes {at} to {at} ({what}) differ")), "{kind:?}: {error}");
            drop(target);
            let first_mib = &stale.bytes()[..MIB];
            let left = first_mib.iter().enumerate().filter(|(index, byte)| **byte != 0 && *index != at).count();
            assert_eq!(left, 0, "{kind:?}: the disk may boot");
        }
    }
}

#[test]
fn create_fails_over_a_disk_that_changes_bytes() {
    let world = World::new();
    world.variant_file("config.toml", "verify_readback = true\nqcow2 = 'qemu-img'\n");
    let file = encode(&world, &disk(20 * MIB), "qcow2");
    let tools = world.path("tools");
    fs::create_dir(&tools).unwrap();
    let fake = tools.join("qemu-img");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        // A qemu-img that spoils a byte once it has written the disk.
        let script = format!(
            "#!/bin/sh\n/usr/bin/qemu-img \"$@\" || exit\ncase \"$*\" in convert*-W*) for disk; do :; done; printf X | \
             dd of=\"${{disk##*filename=}}\" bs=1 seek={} conv=notrunc status=none ;; esac\n",
            12 * MIB
        );
        fs::write(&fake, script).unwrap();
        fs::set_permissions(&fake, Permissions::from_mode(0o755)).unwrap();
        let script = world.create(target.path(), file.to_str().unwrap(), "qcow2");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        let place = format!("bytes {} to {} (the image) differ", 12 * MIB, 12 * MIB + 511);
        script.env("PATH", &path).run().fails(&[
            "installing image /",
            "reads back other data than was written",
            &place,
        ]);
        target.assert_unbootable("a disk that changes bytes");
    }
}
