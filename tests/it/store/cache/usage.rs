// SPDX-License-Identifier: BSD-2-Clause
//! Which images go when the cache is too large, and what is noted about those that stay.

use std::fs;
use std::time::Duration;

use simpleimage::node::size::ByteSize;
use simpleimage::store::cache::CachedImage;

use super::{Fixture, NOTHING, client, noon, read};
use crate::support::server::{Reply, Server};
use crate::support::world::wait_until;

const MINUTE: Duration = Duration::from_secs(60);

/// Images of 1000 bytes, which say what they are.
fn server() -> Server {
    Server::start(|request, _| Reply::ok(content(&request.target)))
}

fn content(name: &str) -> Vec<u8> {
    format!("{name:-<1000}").into_bytes()
}

/// The images that are kept, by their URLs' last letter, the one used last first.
fn kept(test: &Fixture) -> String {
    let images = test.cache().list().unwrap();
    images.iter().map(|image| image.url.chars().last().unwrap()).collect()
}

#[test]
fn the_image_used_longest_ago_goes_first() {
    let (mut test, server) = (Fixture::new(), server());
    for (minute, name) in (0..).zip(["/a", "/b", "/c"]) {
        test.fetch(&server.url(name), noon() + MINUTE * minute).unwrap();
    }
    // A hit is a use.
    assert!(test.fetch(&server.url("/a"), noon() + MINUTE * 3).unwrap().hit);
    assert_eq!(kept(&test), "acb");
    test.settings.max_size = Some(ByteSize(3000));
    test.fetch(&server.url("/d"), noon() + MINUTE * 4).unwrap();
    assert_eq!(kept(&test), "dac");
    test.settings.max_size = Some(ByteSize(1999));
    test.fetch(&server.url("/c"), noon() + MINUTE * 5).unwrap();
    assert_eq!(kept(&test), "c");
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
}

#[test]
fn what_is_in_use_stays_however_large_it_is() {
    let (mut test, server) = (Fixture::new(), server());
    let mut used: CachedImage = test.fetch(&server.url("/a"), noon()).unwrap();
    let mut other = test.fetch(&server.url("/b"), noon() + MINUTE).unwrap();
    test.settings.max_size = Some(ByteSize(10));
    assert_eq!(test.cache().prune_expired(noon() + MINUTE).unwrap(), 0);
    assert_eq!(kept(&test), "ba");
    assert!(test.cache().list().unwrap().iter().all(|image| image.in_use));
    assert_eq!((read(&mut used), read(&mut other)), (content("/a"), content("/b")));
    drop(used);
    // A child that another test has just started has all files of this process open until it is another program.
    wait_until("nobody uses it", || test.cache().prune_expired(noon() + MINUTE * 2).unwrap() == 1);
    assert_eq!(kept(&test), "b");
}

#[test]
fn a_foreign_file_counts_for_nothing() {
    let (mut test, server) = (Fixture::new(), server());
    test.settings.max_size = Some(ByteSize(1000));
    fs::create_dir(&test.settings.dir).unwrap();
    fs::write(test.settings.dir.join("golden.img"), vec![0; 5000]).unwrap();
    fs::write(test.settings.dir.join(format!("{}.img", "a".repeat(64))), vec![0; 5000]).unwrap();
    test.fetch(&server.url("/a"), noon()).unwrap();
    assert_eq!(test.cache().prune_expired(noon()).unwrap(), 0);
    assert_eq!(kept(&test), "a");
    assert!(test.settings.dir.join(format!("{}.img", "a".repeat(64))).exists());
}

#[test]
fn a_discarded_image_is_downloaded_anew_and_leaves_its_users_alone() {
    let (test, server) = (Fixture::new(), server());
    let mut used = test.fetch(&server.url("/a"), noon()).unwrap();
    test.cache().discard(&used.id).unwrap();
    assert_eq!(test.suffixes(), ["img", "lock"], "the image is in use, but no entry");
    assert_eq!(read(&mut used), content("/a"));
    let again = test.fetch(&server.url("/a"), noon() + MINUTE).unwrap();
    assert!(!again.hit);
    // What is there now is another download.
    test.cache().discard(&used.id).unwrap();
    assert!(test.fetch(&server.url("/a"), noon() + MINUTE).unwrap().hit);
    let id = again.id.clone();
    drop((used, again));
    test.cache().discard(&id).unwrap();
    assert_eq!(test.suffixes(), NOTHING);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_an_image_was_checked_against_is_known_of_that_download_only() {
    let (test, server) = (Fixture::new(), server());
    let url = server.url("/a");
    let cache = test.cache();
    assert!(cache.verified(&url, &client(), "proof", noon()).unwrap().is_none());
    let first = test.fetch(&url, noon()).unwrap();
    cache.mark_verified(&first.id, "proof").unwrap();
    assert!(cache.verified(&url, &client(), "other", noon()).unwrap().is_none());
    assert_eq!(read(&mut cache.verified(&url, &client(), "proof", noon()).unwrap().unwrap()), content("/a"));
    // A current image stays what it was found to be, another one is another.
    cache.discard(&first.id).unwrap();
    let second = test.fetch(&url, noon() + MINUTE).unwrap();
    cache.mark_verified(&first.id, "proof").unwrap();
    assert!(cache.verified(&url, &client(), "proof", noon()).unwrap().is_none());
    cache.mark_verified(&second.id, "proof").unwrap();
    assert!(cache.verified(&url, &client(), "proof", noon()).unwrap().is_some());
}
