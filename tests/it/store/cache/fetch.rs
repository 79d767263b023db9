// SPDX-License-Identifier: BSD-2-Clause
//! One fetch after the other.

use std::fs;
use std::os::unix::fs::MetadataExt;

use simpleimage::store::http::{HttpSettings, ImageUrl, UrlPrefix};

use super::{Fixture, HOUR, NOTHING, client_with, noon, read};
use crate::support::bytes;
use crate::support::server::{Reply, Server};

/// Answers like a file server that has one image: 304 to who has it already.
fn file_server(image: Vec<u8>) -> Server {
    Server::start(move |request, _| {
        let reply = Reply::ok(image.clone()).header("ETag", "\"v1\"").header("Last-Modified", "then");
        if request.header("if-none-match") == Some("\"v1\"") { Reply::not_modified() } else { reply }
    })
}

#[test]
fn a_second_fetch_needs_no_server() {
    let (test, image) = (Fixture::new(), bytes(1, 1_000_001));
    let server = file_server(image.clone());
    let url = server.url_for("joe:hunter2@127.0.0.1", "/disk.raw?key=s3cret");
    let mut first = test.fetch(&url, noon()).unwrap();
    assert!(!first.hit && read(&mut first) == image);
    let mut second = test.fetch(&url, noon() + HOUR / 2).unwrap();
    assert!(second.hit && read(&mut second) == image);
    assert_eq!(server.requests().len(), 1);
    assert_eq!((&second.path, &second.sha256), (&first.path, &first.sha256));
    let sum = std::process::Command::new("sha256sum").arg(&first.path).output().unwrap();
    assert_eq!(first.sha256.as_bytes(), &sum.stdout[..64]);

    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
    for suffix in test.suffixes() {
        assert_eq!(fs::metadata(test.file(&suffix)).unwrap().mode() & 0o7777, 0o600, "{suffix}");
    }
    let told = test.log.text() + &fs::read_to_string(test.file("toml")).unwrap();
    assert!(told.contains(&format!("downloading {} (", server.url("/disk.raw"))), "{told}");
    assert!(!told.contains("s3cret") && !told.contains("hunter2"), "{told}");
}

#[test]
fn an_old_image_is_used_again_when_the_server_says_so() {
    let (test, image) = (Fixture::new(), bytes(2, 5000));
    let server = file_server(image.clone());
    let url = server.url("/x");
    test.fetch(&url, noon()).unwrap();
    let mut checked = test.fetch(&url, noon() + HOUR).unwrap();
    assert!(checked.hit && read(&mut checked) == image);
    let request = &server.requests()[1];
    assert_eq!((request.header("if-none-match"), request.header("if-modified-since")), (Some("\"v1\""), Some("then")));
    // The check counts from now on.
    test.fetch(&url, noon() + HOUR + HOUR / 2).unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_changed_image_replaces_the_old_one_but_not_under_its_user() {
    let (test, old, new) = (Fixture::new(), bytes(3, 5000), bytes(4, 5000));
    let server = Server::sequence([Reply::ok(old.clone()).header("ETag", "\"v1\""), Reply::ok(new.clone())]);
    let mut in_use = test.fetch(&server.url("/x"), noon()).unwrap();
    let mut changed = test.fetch(&server.url("/x"), noon() + HOUR).unwrap();
    assert!(!changed.hit && read(&mut changed) == new);
    assert!(read(&mut in_use) == old);
}

#[test]
fn a_clock_set_back_and_max_age_zero_make_us_ask() {
    let mut test = Fixture::new();
    let server = file_server(bytes(5, 100));
    test.fetch(&server.url("/x"), noon()).unwrap();
    assert!(test.fetch(&server.url("/x"), noon() - HOUR).unwrap().hit);
    assert_eq!(server.requests().len(), 2);
    test.settings.max_age = std::time::Duration::ZERO;
    // Kept in use, or it would be pruned.
    let _used = test.fetch(&server.url("/x"), noon()).unwrap();
    assert!(test.fetch(&server.url("/x"), noon()).unwrap().hit);
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn the_kept_image_serves_while_the_server_is_down() {
    let mut test = Fixture::new();
    let image = bytes(6, 7000);
    let broken = Reply::ok(bytes(7, 7000)).cut_after(3000);
    let replies =
        [vec![Reply::ok(image.clone())], vec![Reply::status(503); 3], vec![broken; 3], vec![Reply::status(404)]]
            .concat();
    let server = Server::sequence(replies);
    let url = server.url("/x?k=s3cret");
    test.fetch(&url, noon()).unwrap();
    for reason in ["the server answered 503 Service Unavailable", "the connection was cut after 3000 bytes of 7000"] {
        let mut kept = test.fetch(&url, noon() + HOUR * 9).unwrap();
        assert!(kept.hit && read(&mut kept) == image);
        let warning =
            format!("warning: {}: {reason}; using the kept image, last checked 9 hours ago", server.url("/x"));
        assert!(test.log.text().contains(&warning), "{}", test.log.text());
    }
    // An image that is gone is not a server that is down.
    let gone = format!("{}: the server answered 404 Not Found", server.url("/x"));
    assert_eq!(test.failure(&url, noon() + HOUR * 9), gone);

    let address = server.address();
    drop(server);
    test.fetch(&url, noon() + HOUR * 9).unwrap();
    test.settings.stale_if_error = false;
    let refused = format!("{url}: cannot connect to {address}: connection refused");
    assert_eq!(test.failure(&url, noon() + HOUR * 9), refused);
}

#[test]
fn a_cut_download_is_tried_again_from_a_clean_start() {
    let (test, image) = (Fixture::new(), bytes(8, 400_000));
    let longer = Reply::ok(bytes(9, 500_000)).cut_after(450_000);
    let server = Server::sequence([longer, Reply::ok(image.clone())]);
    let mut fetched = test.fetch(&server.url("/x"), noon()).unwrap();
    assert!(read(&mut fetched) == image);
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
    assert!(test.log.text().contains("cut after 450000 bytes of 500000; trying again in 0.001 s (1 of 2)"));
}

#[test]
fn a_download_that_stays_cut_leaves_nothing_that_counts() {
    let (test, image) = (Fixture::new(), bytes(10, 80_000));
    let cut = Reply::ok(image.clone()).cut_after(40_000);
    let server = Server::sequence([vec![cut; 3], vec![Reply::ok(image.clone())]].concat());
    let url = server.url("/x");
    let expected = format!("{url}: the connection was cut after 40000 bytes of 80000");
    assert_eq!(test.failure(&url, noon()), expected);
    assert_eq!(test.suffixes(), NOTHING);
    let mut fetched = test.fetch(&url, noon()).unwrap();
    assert!(!fetched.hit && read(&mut fetched) == image);
}

#[test]
fn what_is_no_image_is_not_kept() {
    let test = Fixture::new();
    let cases = [
        (Reply::ok([]), "the server sent an empty image"),
        (Reply::ok([]).chunked(), "the server sent an empty image"),
        (Reply::status(404), "the server answered 404 Not Found"),
    ];
    for (reply, reason) in cases {
        let server = Server::sequence([reply]);
        let url = server.url("/x?k=s3cret");
        assert_eq!(test.failure(&url, noon()), format!("{}: {reason}", server.url("/x")));
        assert_eq!(server.requests().len(), 1);
    }
    assert_eq!(test.suffixes(), NOTHING);
}

#[test]
fn an_image_that_cannot_fit_is_refused_before_it_is_downloaded() {
    let test = Fixture::new();
    let server = Server::sequence([Reply::ok("image").content_length(1 << 60)]);
    let message = test.failure(&server.url("/x"), noon());
    let (needed, free) = message.split_once(", which has ").unwrap();
    let folder = test.settings.dir.display();
    assert_eq!(needed, format!("the download needs 1048576 TiB in the cache folder {folder}"));
    assert!(
        free.contains(" free, and ") && free.contains(" have to stay free (simpleimage cache list shows"),
        "{message}"
    );
    assert_eq!(test.suffixes(), NOTHING);
}

#[test]
fn remains_of_killed_runs_are_no_entries() {
    let (test, image) = (Fixture::new(), bytes(11, 6000));
    let server = Server::start({
        let image = image.clone();
        move |_, _| Reply::ok(image.clone())
    });
    let url = server.url("/x");
    test.fetch(&url, noon()).unwrap();
    let (img, toml) = (test.file("img"), test.file("toml"));
    let other: &[u8] = b"some other image";
    let damages: [&dyn Fn(); 4] = [
        &|| fs::remove_file(&toml).unwrap(),
        &|| fs::remove_file(&img).unwrap(),
        &|| fs::write(&img, other).unwrap(),
        &|| fs::write(&toml, "length = 16\n").unwrap(),
    ];
    for (count, damage) in damages.iter().enumerate() {
        damage();
        fs::write(img.with_extension("part"), bytes(12, 9000)).unwrap();
        fs::write(img.with_extension("tmp"), "half a side").unwrap();
        let mut fetched = test.fetch(&url, noon()).unwrap();
        assert!(!fetched.hit && read(&mut fetched) == image, "{count}");
        assert_eq!(server.requests().len(), count + 2);
        assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
    }
}

#[test]
fn urls_that_differ_in_a_secret_only_are_different_images() {
    let test = Fixture::new();
    let server = Server::start(|request, _| Reply::ok(request.target.clone()));
    let fetch = |path: &str| read(&mut test.fetch(&server.url(path), noon()).unwrap());
    assert_eq!(fetch("/x?key=1"), b"/x?key=1");
    assert_eq!(fetch("/x?key=2"), b"/x?key=2");
    assert_eq!(fetch("/x?key=1"), b"/x?key=1");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_image_that_another_policy_let_in_does_not_serve() {
    let test = Fixture::new();
    let hidden = Server::sequence([Reply::ok("image")]);
    let target = hidden.url("/image?k=s3cret").as_url().to_string();
    let server = Server::start(move |_, _| Reply::redirect(target.clone()));
    let url = server.url("/x");
    test.fetch(&url, noon()).unwrap();
    let sidecar = fs::read_to_string(test.file("toml")).unwrap();
    assert!(sidecar.contains("/image\"") && !sidecar.contains("s3cret"), "{sidecar}");
    let fetch = |allowed: &[&ImageUrl], now| {
        let allowed = allowed.iter().map(|url| UrlPrefix::parse(&url.to_string()).unwrap()).collect();
        let client = client_with(HttpSettings { allowed: Some(allowed), ..HttpSettings::default() });
        let fetched = test.cache().fetch(&url, &client, now, &test.log.report());
        fetched.map(|image| image.hit).map_err(|error| error.to_string())
    };
    assert_eq!(fetch(&[&url, &hidden.url("/image")], noon()), Ok(true));
    let not_listed = "is not in a place that allowed_images lists";
    let redirected = format!("{} {not_listed}, but the server redirects to it", hidden.url("/image"));
    // Neither when it is fresh nor when it is stale.
    for now in [noon(), noon() + HOUR] {
        assert_eq!(fetch(&[&url], now), Err(redirected.clone()));
    }
    assert_eq!(fetch(&[&hidden.url("/image")], noon()), Err(format!("{url} {not_listed}")));
    assert_eq!(test.fetch(&url, noon()).map(|image| image.hit).ok(), Some(true));
}

#[test]
fn a_folder_that_others_may_write_to_holds_no_image() {
    let test = Fixture::new();
    fs::create_dir(&test.settings.dir).unwrap();
    fs::set_permissions(&test.settings.dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let error = simpleimage::store::cache::Cache::open(&test.settings).unwrap_err();
    let expected = format!("cache folder {}: others may write to it (mode 0777)", test.settings.dir.display());
    assert_eq!(error.to_string(), expected);
}
