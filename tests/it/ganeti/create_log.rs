// SPDX-License-Identifier: BSD-2-Clause
//! What create tells in the node's log: what it is going to do, how long each part took, and what was done.

use crate::install::checks::Published;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::World;

/// The log of a create of `image` onto a disk of 6 MiB, line by line without the program's name, and times as `T`.
fn story(world: &World, image: &str, more: &[(&str, &str)]) -> Vec<String> {
    let target = Disk::stale(world, "disk0", Kind::File, 6 * MIB);
    let create = world.create(target.path(), image, "");
    let log = more.iter().fold(create, |script, (name, value)| script.env(name, value)).run().succeeds();
    assert!(!log.contains("s3cret"), "{log}");
    log.lines().map(|line| line.strip_prefix("simpleimage[create]: ").unwrap().to_owned()).collect()
}

#[test]
fn a_log_says_what_will_be_done_and_ends_with_what_was() {
    let world = World::new();
    let mut image = vec![0; 4 * MIB];
    image[..2 * MIB].copy_from_slice(&crate::support::bytes(1, 2 * MIB));
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let server = Published::new(&[("/a.raw", &image)]);
    world.hook("hooks/true", "true");
    let url = server.url("/a.raw?token=s3cret").replace("http://", "http://joe:s3cret@");
    for (more, plan, origin) in [
        (&[][..], "new instance with a disk of 6 MiB; declared type auto, checksum none, signature none", "miss"),
        (
            &[("INSTANCE_REINSTALL", "1"), ("OSP_IMAGE_TYPE", "raw")],
            "reinstall onto a disk of 6 MiB; declared type raw, checksum none, signature none",
            "hit",
        ),
    ] {
        let lines = story(&world, &url, more);
        assert!(lines[0].starts_with("version ") && lines[0].contains("/a.raw onto disk /"), "{lines:?}");
        assert_eq!(lines[1], plan);
        let told = |start: &str| lines.iter().any(|line| line.starts_with(start) && line.ends_with(" s"));
        assert!(told("written and synced in ") && told("the hooks took "), "{lines:?}");
        let last = lines.last().unwrap();
        let done = format!(": a disk image of 4 MiB (a cache {origin}), 2 MiB of data and 4 MiB of zeros written in ");
        assert!(last.starts_with("done in ") && last.contains(&done) && last.ends_with("/s)"), "{last}");
    }
}

#[test]
fn what_qemu_img_wrote_is_not_counted() {
    let world = World::new();
    world.qemu_img_decodes();
    let file = encode(&world, &disk(5 * MIB), "qcow2");
    let lines = story(&world, file.to_str().unwrap(), &[]);
    let last = lines.last().unwrap();
    assert!(last.contains(": a disk image of 5 MiB (a file on the node), written by qemu-img in "), "{last}");
}
