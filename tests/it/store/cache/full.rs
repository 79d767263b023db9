// SPDX-License-Identifier: BSD-2-Clause
//! A cache folder on a disk that is too small.

use simpleimage::node::size::ByteSize;
use simpleimage::store::cache::STALE_RETENTION;

use super::{Fixture, HOUR, NOTHING, files, noon, read};
use crate::support::bytes;
use crate::support::server::{Reply, Server};
use crate::support::tmpfs::Tmpfs;

#[test]
fn what_does_not_fit_is_refused_with_both_numbers_and_leaves_nothing() {
    let test = Fixture::new();
    let _small = Tmpfs::mount(&test.settings.dir, "1M");
    let (large, fitting) = (bytes(1, 3 << 20), bytes(2, 800_000));
    let server = Server::start({
        let fitting = fitting.clone();
        move |request, _| match request.target.as_str() {
            "/large" => Reply::file(request, &large, "\"v1\""),
            // The server does not say how much is to come.
            "/chunked" => Reply::file(request, &large, "\"v1\"").chunked(),
            _ => Reply::file(request, &fitting, "\"v1\""),
        }
    });
    let message = test.failure(&server.url("/large"), noon());
    let folder = test.settings.dir.display();
    let ways_out = "(simpleimage cache list shows what can be removed; or lower cache.min_free)";
    let told = |free: &str| {
        let (free, reserve) = free.split_once(" free, and ").unwrap_or_else(|| panic!("{message}"));
        assert!(free.ends_with("iB") || free.ends_with("bytes)"), "{message}");
        assert_eq!(reserve, format!("51.19 KiB (52428 bytes) have to stay free {ways_out}"), "{message}");
    };
    told(message.strip_prefix(&format!("the download needs 3 MiB in the cache folder {folder}, which has ")).unwrap());

    // The server does not say how long the image is.
    let url = server.url("/chunked");
    let message = test.failure(&url, noon());
    assert!(message.starts_with(&format!("{url}: the download was stopped after ")), "{message}");
    let place = format!(": there is no room for more in the cache folder {folder}, which has ");
    let (_, free) = message.split_once(&place).unwrap_or_else(|| panic!("{message}"));
    assert!(free.contains(" have to stay free (") && free.ends_with(ways_out), "{message}");
    assert_eq!(test.suffixes(), NOTHING);
    assert_eq!(server.requests().len(), 2, "a full disk is not tried again");
    assert!(read(&mut test.fetch(&server.url("/fits"), noon()).unwrap()) == fitting);
}

#[test]
fn the_rest_of_a_cut_download_only_needs_its_own_room() {
    let test = Fixture::new();
    let _small = Tmpfs::mount(&test.settings.dir, "1M");
    let image = bytes(3, 900_000);
    let server = Server::start({
        let image = image.clone();
        move |request, before| {
            let reply = Reply::file(request, &image, "\"v1\"");
            if before == 0 { reply.cut_after(700_000) } else { reply }
        }
    });
    test.fetch_once(&server.url("/x"), noon()).unwrap_err();
    assert!(read(&mut test.fetch_once(&server.url("/x"), noon()).unwrap()) == image);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=700000-"));
}

/// Says how much there is only if `announced`.
fn server_of(image: Vec<u8>, announced: bool) -> Server {
    Server::start(move |request, _| {
        let reply = Reply::file(request, &image, "\"v1\"");
        if announced { reply } else { reply.chunked() }
    })
}

#[test]
fn no_image_is_larger_than_max_size_whether_its_length_is_announced_or_not() {
    for announced in [true, false] {
        let mut test = Fixture::new();
        test.settings.max_size = Some(ByteSize(1_000_000));
        let (large, fitting) = (server_of(bytes(4, 1_000_001), announced), server_of(bytes(5, 1_000_000), announced));
        let url = large.url("/x");
        let limit = "the image is larger than 976.56 KiB (1000000 bytes), and kept images may not have more together";
        let expected = format!("{url}: the download was stopped: {limit} (raise cache.max_size)");
        assert_eq!(test.failure(&url, noon()), expected);
        assert_eq!(test.suffixes(), NOTHING);
        assert_eq!(large.requests().len(), 1);
        assert!(read(&mut test.fetch(&fitting.url("/x"), noon()).unwrap()) == bytes(5, 1_000_000));
    }
}

#[test]
fn the_reserve_stays_free_and_can_be_set() {
    for announced in [true, false] {
        let mut test = Fixture::new();
        let dir = test.settings.dir.clone();
        let small = Tmpfs::mount(&dir, "4M");
        test.settings.min_free = Some(ByteSize(2 << 20));
        let server = server_of(bytes(6, 3 << 20), announced);
        let message = test.failure(&server.url("/x"), noon());
        assert!(message.contains("2 MiB have to stay free (simpleimage cache list shows"), "{message}");
        assert_eq!(test.suffixes(), NOTHING);
        test.settings.min_free = Some(ByteSize(0));
        assert!(test.fetch(&server.url("/x"), noon()).is_ok());
        drop(small);
    }
}

#[test]
fn room_is_made_before_and_during_a_download_and_only_by_what_is_too_old_or_too_much() {
    for announced in [true, false] {
        let mut test = Fixture::new();
        let dir = test.settings.dir.clone();
        let small = Tmpfs::mount(&dir, "4M");
        let (old, new) = (server_of(bytes(7, 3 << 20), true), server_of(bytes(8, 2 << 20), announced));
        test.fetch(&old.url("/old"), noon()).unwrap();
        // It is neither too old nor too much, so that it stays.
        assert!(test.failure(&new.url("/new"), noon() + HOUR).contains(" have to stay free ("));
        assert!(test.fetch(&old.url("/old"), noon()).unwrap().hit);
        test.settings.max_size = Some(ByteSize(4 << 20));
        let fetched = test.fetch(&new.url("/new"), noon() + HOUR);
        assert!(read(&mut fetched.unwrap()) == bytes(8, 2 << 20), "{announced}");
        assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
        // The one that is used for the longest time stays while it is used.
        let mut used = test.fetch(&new.url("/new"), noon() + HOUR).unwrap();
        assert!(test.failure(&old.url("/old"), noon() + HOUR).contains(" have to stay free ("));
        assert!(read(&mut used) == bytes(8, 2 << 20));
        drop((used, small));
    }
}

#[test]
fn an_expired_image_goes_when_its_room_is_needed() {
    let test = Fixture::new();
    let dir = test.settings.dir.clone();
    let _small = Tmpfs::mount(&dir, "4M");
    let (old, new) = (server_of(bytes(9, 3 << 20), true), server_of(bytes(10, 2 << 20), true));
    test.fetch(&old.url("/old"), noon()).unwrap();
    let later = noon() + STALE_RETENTION + HOUR * 2;
    assert!(read(&mut test.fetch(&new.url("/new"), later).unwrap()) == bytes(10, 2 << 20));
}

#[test]
fn many_failed_downloads_leave_few_files() {
    let test = Fixture::new();
    let server = Server::start(|request, before| match before % 4 {
        0 => Reply::status(404),
        1 => Reply::ok(bytes(1, 9000)).cut_after(4000),
        // This one could be resumed.
        _ => Reply::file(request, &bytes(2, 9000), "\"v1\"").cut_after(4000),
    });
    for number in 0..40 {
        test.fetch_once(&server.url(&format!("/{number}")), noon()).unwrap_err();
    }
    let left = ["lock", "lock", "lock", "lock", "mark", "mark", "mark", "mark", "part", "part", "part", "part"];
    assert_eq!(test.suffixes(), left);
    assert_eq!(files(&test.settings.dir).len(), left.len() + 1, "and the tag");
}

#[test]
fn a_sidecar_that_finds_no_room_leaves_no_image() {
    let mut test = Fixture::new();
    let dir = test.settings.dir.clone();
    let _small = Tmpfs::mount(&dir, "1M");
    test.settings.min_free = Some(ByteSize(0));
    // All pages of the file system, less one for the folder's tag.
    let free = nix::sys::statvfs::statvfs(&dir).unwrap();
    let image = bytes(3, usize::try_from(free.blocks_available() * free.fragment_size()).unwrap());
    let server = server_of(image, true);
    let message = test.failure(&server.url("/x"), noon());
    assert!(message.starts_with("writing ") && message.ends_with(".v2.toml"), "{message}");
    assert_eq!(test.suffixes(), NOTHING);
}
