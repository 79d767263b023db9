// SPDX-License-Identifier: BSD-2-Clause
//! The first install from a URL: download, cache and disk in one pass.

use std::fs;

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode, to_qcow2};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool, wait_until};

/// An image in which the second MiB is data.
fn image() -> Vec<u8> {
    let mut image = disk(9 * MIB);
    image[MIB..2 * MIB].copy_from_slice(&crate::support::bytes(3, MIB));
    image
}

#[test]
fn the_disk_is_written_while_the_download_goes_on_and_cannot_boot_before_its_end() {
    for (kind, image_type) in KINDS.into_iter().flat_map(|kind| [(kind, "raw"), (kind, "qcow2")]) {
        let world = World::new();
        let image = image();
        let body = fs::read(encode(&world, &image, image_type)).unwrap();
        let stall = body.len() * 2 / 3;
        let server = Server::sequence([Reply::ok(body).stall_after(stall)]);
        let target = Disk::stale(&world, "disk0", kind, 10 * MIB);
        let child = world.create(target.path(), server.url("/x").as_url().as_str(), image_type).spawn();
        wait_until("data is on the disk", || target.bytes()[MIB..2 * MIB] == image[MIB..2 * MIB]);
        target.assert_unbootable("in the middle of the download");
        tool("kill", &["-TERM", &child.id().to_string()]);
        crate::support::world::Outcome(child.wait_with_output().unwrap()).fails(&["ended by SIGTERM"]);
        target.assert_unbootable("after a signal");
    }
}

#[test]
fn a_download_that_begins_again_still_gives_the_right_disk() {
    for image_type in ["raw", "raw+zst", "qcow2"] {
        let world = World::new();
        let image = image();
        let body = fs::read(encode(&world, &image, image_type)).unwrap();
        // What came first is another image's.
        let other = fs::read(encode(&world, &crate::support::images::disk(8 * MIB), image_type)).unwrap();
        let cut = other.len() * 2 / 3;
        let server = Server::sequence([Reply::ok(other).cut_after(cut), Reply::ok(body)]);
        let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
        let log = world.create(target.path(), server.url("/x").as_url().as_str(), image_type).run().succeeds();
        assert!(log.contains("trying again"), "{log}");
        target.assert_holds(&image, image_type);
    }
}

/// A guest wrote to it, and its snapshot keeps the old clusters: tables and data are in no order.
#[test]
fn a_qcow2_in_any_order_is_written_while_it_comes() {
    let world = World::new();
    let raw = encode(&world, &image(), "raw");
    let file = to_qcow2(&raw, &["-c"]);
    let path = file.to_str().unwrap();
    tool("qemu-img", &["snapshot", "-c", "before", path]);
    let writes = ["write -P 7 6M 300k", "write -P 9 1M 5k", "write -z 2M 300k", "write -P 3 100k 1k"];
    let commands: Vec<&str> = writes.iter().flat_map(|write| ["-c", *write]).collect();
    tool("qemu-io", &[&["-f", "qcow2", path], &*commands].concat());
    tool("qemu-img", &["resize", "-f", "qcow2", path, "64M"]);
    tool("qemu-io", &["-f", "qcow2", path, "-c", "write -P 5 63M 70k"]);
    let expected = world.path("expected");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", path, expected.to_str().unwrap()]);
    let body = fs::read(&file).unwrap();
    let server = cutting_server(body, &[100_000, 1, 500_000]);
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 65 * MIB);
        let log = world.create(target.path(), server.url("/x").as_url().as_str(), "").run().succeeds();
        assert!(log.contains("simpleimage decodes the image"), "{log}");
        target.assert_holds(&fs::read(&expected).unwrap(), "an image in any order");
    }
}

/// Serves ranges of `body`; the answers to the first requests are cut after so many bytes each.
fn cutting_server(body: Vec<u8>, cuts: &'static [usize]) -> Server {
    Server::start(move |request, before| {
        let reply = Reply::file(request, &body, "\"v1\"");
        cuts.get(before).map_or(reply.clone(), |cut| reply.cut_after(*cut))
    })
}

#[test]
fn a_cut_download_that_goes_on_is_still_one_pass() {
    for image_type in ["raw", "raw+zst", "raw+gz", "qcow2", "qcow2+gz"] {
        let world = World::new();
        world.variant_file("config.toml", "[http]\nretries = 3\n");
        let image = image();
        let body = fs::read(encode(&world, &image, image_type)).unwrap();
        let server = cutting_server(body, &[100_000, 1, 500_000]);
        let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
        let log = world.create(target.path(), server.url("/x").as_url().as_str(), image_type).run().succeeds();
        assert_eq!(log.matches("going on with the download").count(), 3, "{log}");
        // Said at the beginning of every pass.
        assert_eq!(log.matches(&format!("image type {image_type}")).count(), 1, "{log}");
        target.assert_holds(&image, image_type);
    }
}

#[test]
fn a_create_goes_on_with_the_download_of_one_that_failed_or_was_ended() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    let image = image();
    let body = fs::read(encode(&world, &image, "raw+zst")).unwrap();
    let half = body.len() / 2;
    let server = Server::start(move |request, before| {
        let reply = Reply::file(request, &body, "\"v1\"");
        match before {
            0 => reply.cut_after(half),
            1 => reply.pieces(1000, std::time::Duration::from_millis(20)),
            _ => reply,
        }
    });
    let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
    let create = || world.create(target.path(), server.url("/x").as_url().as_str(), "raw+zst");
    create().run().fails(&["the connection was cut after"]);
    target.assert_unbootable("after a cut");
    let part = || {
        let files = fs::read_dir(world.cache()).unwrap().map(|entry| entry.unwrap().path());
        let mark = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "mark"));
        mark.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    };
    let (first, child) = (part(), create().spawn());
    assert!(first.contains(&format!("length = {half}\n")), "{first}");
    wait_until("more of it is on the disk", || part() != first);
    tool("kill", &["-TERM", &child.id().to_string()]);
    crate::support::world::Outcome(child.wait_with_output().unwrap()).fails(&["ended by SIGTERM"]);
    target.assert_unbootable("after a signal");
    let log = create().run().succeeds();
    assert_eq!(log.matches("image type raw+zst").count(), 1, "{log}");
    target.assert_holds(&image, "raw+zst");
    let starts: Vec<u64> = server
        .requests()
        .iter()
        .filter_map(|request| request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .collect();
    assert!(starts.len() == 2 && starts[0] == half as u64 && starts[1] > starts[0], "{starts:?}");
}

#[test]
fn a_cut_download_names_the_download_and_the_disk_cannot_boot() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    for image_type in ["raw", "raw+gz"] {
        let body = fs::read(encode(&world, &image(), image_type)).unwrap();
        let cut = body.len() * 2 / 3;
        let server = Server::sequence([Reply::ok(body).cut_after(cut)]);
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        world
            .create(target.path(), server.url("/x").as_url().as_str(), image_type)
            .run()
            .fails(&["/x", &cut.to_string()]);
        target.assert_unbootable(image_type);
    }
}

#[test]
fn a_refused_image_ends_the_download_and_is_not_kept() {
    let world = World::new();
    let large = disk(40 * MIB);
    let page = [b"<html><title>Welcome to the wireless network</title>".to_vec(), vec![b' '; MIB]].concat();
    for (body, reason) in [(large, "the image needs 40 MiB but disk"), (page, "is an HTML page")] {
        // Were the rest waited for, this would hang.
        let server = Server::sequence([Reply::ok(body).stall_after(MIB)]);
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        world.variant_file("config.toml", "[http]\nstall_timeout = 3\nretries = 0\n");
        world.create(target.path(), server.url("/x").as_url().as_str(), "raw").run().fails(&["/x", reason]);
        target.assert_unbootable(reason);
        let kept = fs::read_dir(world.cache()).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(kept.filter(|path| path.extension().is_some_and(|e| e != "lock" && e != "TAG")).count(), 0);
    }
}

#[test]
fn a_reinstall_waits_for_the_whole_image() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    let server = Server::sequence([Reply::ok(image()).cut_after(6 * MIB), Reply::ok(image())]);
    let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
    let create = || {
        let script = world.create(target.path(), server.url("/x").as_url().as_str(), "raw");
        script.env("INSTANCE_REINSTALL", "1").run()
    };
    create().fails(&["/x"]);
    target.assert_untouched("the old system is still there");
    create().succeeds();
    target.assert_holds(&image(), "reinstall");
}

#[test]
fn the_kept_image_serves_when_a_newer_one_cannot_be_had() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 1\n[cache]\nmax_age_days = 0\n");
    let (kept, newer) = (image(), disk(8 * MIB));
    let server = Server::sequence([Reply::ok(kept.clone()), Reply::ok(newer).cut_after(5 * MIB), Reply::status(503)]);
    for _ in 0..2 {
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        world.create(target.path(), server.url("/x").as_url().as_str(), "raw").run().succeeds();
        target.assert_holds(&kept, "the kept image");
    }
    assert_eq!(server.requests().len(), 3);
}
