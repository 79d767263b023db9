// SPDX-License-Identifier: BSD-2-Clause
//! A cache folder on a disk that is too small.

use super::{Fixture, noon, read};
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
    let expected = format!("the download needs 3 MiB in the cache folder {folder}, which has ");
    let free = message.strip_prefix(&expected).unwrap_or_else(|| panic!("{message}"));
    let free = free.strip_suffix(" (simpleimage cache list shows what can be removed)").unwrap();
    assert!(free.ends_with("iB free") || free.ends_with("bytes) free"), "{message}");

    let message = test.failure(&server.url("/chunked"), noon());
    assert!(message.starts_with("writing ") && message.ends_with(".part"), "{message}");
    assert_eq!(test.suffixes(), ["lock", "lock"]);
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
