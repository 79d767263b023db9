// SPDX-License-Identifier: BSD-2-Clause
//! Images that have the checksum they should have, and images that have not.

use std::fs;

use super::{Published, image_file, literal, sums, two_images};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::server::Reply;
use crate::support::world::World;

#[test]
fn every_form_of_the_right_checksum_is_taken_for_urls_and_files() {
    let image = disk(5 * MIB);
    for image_type in ["raw", "raw+gz", "qcow2", "qcow2+zst"] {
        let world = World::new();
        let file = encode(&world, &image, image_type);
        let name = file.file_name().unwrap().to_str().unwrap();
        let place = format!("/13/{name}");
        let server = Published::new(&[
            (&place, &fs::read(&file).unwrap()),
            ("/SHA256SUMS", sums("sha256sum", &[], &file).as_bytes()),
            ("/SHA512SUMS", sums("sha512sum", &["--binary"], &file).as_bytes()),
            ("/CHECKSUM", sums("sha256sum", &["--tag"], &file).as_bytes()),
        ]);
        let checksums = [
            literal("sha256", &file),
            literal("sha512", &file),
            server.url("/SHA256SUMS"),
            server.url("/SHA512SUMS"),
            server.url("/CHECKSUM?token=1"),
        ];
        for checksum in &checksums {
            for image_name in [server.url(&place), file.to_str().unwrap().to_owned()] {
                let target = Disk::stale(&world, "disk0", Kind::Block, 6 * MIB);
                let script = world.create(target.path(), &image_name, image_type).env("OSP_IMAGE_CHECKSUM", checksum);
                let log = script.run().succeeds();
                // Of a kept image only the SHA-256 is known without reading it, which is not called right today.
                let read = log.contains(" has the right checksum, sha");
                let stored = log.contains(" had the right checksum when it was downloaded, sha256:");
                let asks_stored = log.contains("is in the cache") && log.contains(", sha256:");
                assert!(read != stored && stored == asks_stored, "{log}");
                target.assert_holds(&image, &format!("{image_type} {checksum} {image_name}"));
            }
        }
        assert_eq!(server.gets(&place), 1);
    }
}

#[test]
fn a_first_download_with_a_wrong_checksum_leaves_neither_a_bootable_disk_nor_an_entry() {
    let (right, wrong) = two_images();
    for (algorithm, reinstall) in [("sha256", "0"), ("sha512", "0"), ("sha256", "1"), ("sha512", "1")] {
        for kind in KINDS {
            let world = World::new();
            let (file, other) = (world.path("right.raw"), world.path("wrong.raw"));
            fs::write(&file, &right).unwrap();
            fs::write(&other, &wrong).unwrap();
            let server = Published::new(&[("/x", &wrong)]);
            let (expected, found) = (literal(algorithm, &file), literal(algorithm, &other));
            let target = Disk::stale(&world, "disk0", kind, 6 * MIB);
            let script =
                world.create(target.path(), &server.url("/x?token=s3cret"), "").env("INSTANCE_REINSTALL", reinstall);
            let reason = format!("/x has checksum {} but should have {}", found, expected);
            script.env("OSP_IMAGE_CHECKSUM", &expected).run().fails(&["image http://127.0.0.1:", &reason]);
            if reinstall == "1" {
                target.assert_untouched(&reason)
            } else {
                target.assert_unbootable(&reason)
            }
            assert_eq!(server.gets("/x"), 1, "what was just downloaded is not downloaded again");
            assert_eq!(entries(&world), 0);
        }
    }
}

fn entries(world: &World) -> usize {
    let names = fs::read_dir(world.cache()).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "img" || e == "toml" || e == "part")).count()
}

#[test]
fn a_file_with_a_wrong_checksum_leaves_no_bootable_disk() {
    let (right, wrong) = two_images();
    let world = World::new();
    let (file, other) = (world.path("right.raw"), world.path("wrong.raw"));
    fs::write(&file, &right).unwrap();
    fs::write(&other, &wrong).unwrap();
    for (algorithm, reinstall) in [("sha256", "0"), ("sha512", "0"), ("sha256", "1")] {
        let (expected, found) = (literal(algorithm, &file), literal(algorithm, &other));
        let reason = format!("{} has checksum {} but should have {}", other.display(), found, expected);
        let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
        let script = world.create(target.path(), other.to_str().unwrap(), "").env("INSTANCE_REINSTALL", reinstall);
        script.env("OSP_IMAGE_CHECKSUM", &expected).run().fails(&[&reason]);
        if reinstall == "1" { target.assert_untouched(&reason) } else { target.assert_unbootable(&reason) }
    }
}

#[test]
fn a_sums_file_that_does_not_say_is_an_error_before_anything_is_written() {
    let world = World::new();
    let file = world.path("disk.raw");
    image_file(&file, MIB);
    let line = sums("sha256sum", &[], &file);
    let other = line.replacen(&line[..8], "00000000", 1);
    let server = Published::new(&[
        ("/disk.raw", &fs::read(&file).unwrap()),
        ("/MISSING", line.replace("disk.raw", "other.raw").as_bytes()),
        ("/TWICE", format!("{line}{}", other.replace("disk.raw", "b/disk.raw")).as_bytes()),
        ("/HUGE", &vec![b'\n'; 2 * MIB]),
        ("/MD5SUMS", sums("md5sum", &[], &file).as_bytes()),
    ]);
    server.reply("/CUT", Reply::ok(line.clone()).cut_after(20));
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    for (sums, reason) in [
        ("/MISSING", "/MISSING has no SHA-256 or SHA-512 checksum of disk.raw"),
        ("/MD5SUMS", "/MD5SUMS has no SHA-256 or SHA-512 checksum of disk.raw"),
        ("/TWICE", "/TWICE has more than one sha256 checksum of disk.raw"),
        ("/HUGE", "/HUGE: larger than 1 MiB"),
        ("/NONE", "/NONE: the server answered 404 Not Found"),
        ("/CUT", "/CUT: the connection was cut after 20 bytes"),
    ] {
        for image in [server.url("/disk.raw"), file.to_str().unwrap().to_owned()] {
            let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
            let script = world.create(target.path(), &image, "").env("INSTANCE_REINSTALL", "1");
            script.env("OSP_IMAGE_CHECKSUM", &server.url(sums)).run().fails(&[reason]);
            target.assert_untouched(reason);
        }
    }
    assert_eq!(server.gets("/disk.raw"), 0);
}

#[test]
fn a_page_instead_of_an_image_is_not_kept() {
    let world = World::new();
    let server = Published::new(&[("/x", b"<!DOCTYPE html><title>Log in</title>")]);
    let image = disk(2 * MIB);
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let create = || world.create(target.path(), &server.url("/x"), "").env("INSTANCE_REINSTALL", "1").run();
    create().fails(&["is an HTML page"]);
    assert_eq!(entries(&world), 0);
    target.assert_untouched("a page");
    server.put("/x", image.clone());
    create().succeeds();
    target.assert_holds(&image, "once it is there");
}
