// SPDX-License-Identifier: BSD-2-Clause
//! Who gets a kept image: those who could have fetched it, and nobody else without a word of the server.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use simpleimage::store::cache::CacheError;
use simpleimage::store::http::{HttpSettings, ImageUrl, Secret};

use super::{Fixture, HOUR, NOTHING, client_with, noon, read};
use crate::support::bytes;
use crate::support::log::LONG;
use crate::support::server::{Reply, Request, Server};
use crate::support::tls::{Authority, Identity, Wish};

const TAG: &str = "\"v1\"";

fn plain() -> HttpSettings {
    HttpSettings { retries: 0, ..HttpSettings::default() }
}

fn with_password(password: &str) -> HttpSettings {
    HttpSettings { user: Some(Secret("joe".to_owned())), password: Secret(password.to_owned()), ..plain() }
}

fn with_header(value: &str) -> HttpSettings {
    HttpSettings { headers: vec![("X-Token".to_owned(), Secret(value.to_owned()))], ..plain() }
}

/// The image, or that it has not changed.
fn conditional(request: &Request, image: &[u8]) -> Reply {
    match request.header("if-none-match") {
        Some(TAG) => Reply::not_modified(),
        _ => Reply::ok(image).header("ETag", TAG),
    }
}

/// Gives its image only to those who show a password or a token.
fn private_server(image: Vec<u8>) -> Server {
    Server::start(move |request, _| match (request.header("authorization"), request.header("x-token")) {
        (None, None) => Reply::status(401),
        _ => conditional(request, &image),
    })
}

fn public_server(image: Vec<u8>) -> Server {
    Server::start(move |request, _| conditional(request, &image))
}

impl Fixture {
    /// What somebody with these settings gets after so many minutes: whether it was kept, and the bytes.
    fn get(&self, url: &ImageUrl, settings: &HttpSettings, minutes: u64) -> Result<(bool, Vec<u8>), String> {
        let now = noon() + Duration::from_secs(60 * minutes);
        let fetched = self.cache().fetch(url, &client_with(settings.clone()), now, &self.log.report());
        fetched.map(|mut image| (image.hit, read(&mut image))).map_err(|error| chain(&error))
    }
}

fn chain(error: &CacheError) -> String {
    error.to_string()
}

fn tags(server: &Server) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header("if-none-match").map(str::to_owned)).collect()
}

#[test]
fn what_a_password_or_a_token_got_is_for_those_who_have_it() {
    for settings in [with_password("hunter2"), with_header("hunter2")] {
        let (test, image) = (Fixture::new(), bytes(1, 5000));
        let server = private_server(image.clone());
        let url = server.url("/x");
        assert_eq!(test.get(&url, &settings, 0), Ok((false, image.clone())));
        let refused = Err(format!("{url}: the server answered 401 Unauthorized"));
        // Neither while the image is recent, nor later.
        for minutes in [1, 61, 1] {
            assert_eq!(test.get(&url, &plain(), minutes), refused);
        }
        assert_eq!(test.get(&url, &settings, 1), Ok((true, image.clone())));
        assert_eq!(tags(&server), [None, Some(TAG), Some(TAG), Some(TAG)].map(|tag| tag.map(str::to_owned)));
        let kept = fs::read_to_string(test.file("toml")).unwrap();
        assert!(!kept.contains("hunter2") && !kept.contains("joe"), "{kept}");

        // Nor while nobody can be asked.
        let address = server.address();
        drop(server);
        let unreachable = format!("{url}: cannot connect to {address}: connection refused");
        for minutes in [1, 61] {
            assert_eq!(test.get(&url, &plain(), minutes), Err(unreachable.clone()));
            assert_eq!(test.get(&url, &settings, minutes), Ok((true, image.clone())), "{}", test.log.text());
        }
    }
}

#[test]
fn a_server_that_is_down_is_no_word_of_it() {
    let (test, image) = (Fixture::new(), bytes(2, 5000));
    let server = Server::start({
        let image = image.clone();
        move |request, _| match request.header("authorization") {
            None => Reply::status(503),
            Some(_) => conditional(request, &image),
        }
    });
    let url = server.url("/x");
    assert_eq!(test.get(&url, &with_password("pw"), 0), Ok((false, image)));
    for minutes in [1, 61] {
        let refused = format!("{url}: the server answered 503 Service Unavailable");
        assert_eq!(test.get(&url, &plain(), minutes), Err(refused));
    }
}

#[test]
fn who_asked_once_by_other_means_is_known_from_then_on() {
    let (test, image) = (Fixture::new(), bytes(3, 5000));
    let server = public_server(image.clone());
    let url = server.url("/x");
    let all = [plain(), with_password("one"), with_password("two"), with_header("one")];
    for settings in &all {
        let kept = !server.requests().is_empty();
        assert_eq!(test.get(&url, settings, 0), Ok((kept, image.clone())));
    }
    assert_eq!(tags(&server), [None, Some(TAG), Some(TAG), Some(TAG)].map(|tag| tag.map(str::to_owned)));
    for settings in &all {
        assert_eq!(test.get(&url, settings, 59), Ok((true, image.clone())));
    }
    assert_eq!(server.requests().len(), 4);
    // What one is told counts for that one only.
    assert_eq!(test.get(&url, &all[1], 61), Ok((true, image.clone())));
    assert_eq!(test.get(&url, &all[1], 62), Ok((true, image.clone())));
    assert_eq!(server.requests().len(), 5);
    assert_eq!(test.get(&url, &all[2], 62), Ok((true, image)));
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn an_image_that_came_again_byte_for_byte_stays_everybodys_and_another_one_is_its_owners() {
    let test = Fixture::new();
    // No validator, so that all of it comes.
    let server = Server::start(|request, _| match request.header("x-token") {
        Some("other") => Reply::ok("something else"),
        _ => Reply::ok("image"),
    });
    let url = server.url("/x");
    let (image, other) = (b"image".to_vec(), b"something else".to_vec());
    assert_eq!(test.get(&url, &plain(), 0), Ok((false, image.clone())));
    assert_eq!(test.get(&url, &with_header("same"), 1), Ok((false, image.clone())));
    assert_eq!(test.get(&url, &plain(), 2), Ok((true, image.clone())));
    assert_eq!(test.get(&url, &with_header("same"), 2), Ok((true, image.clone())));
    assert_eq!(test.get(&url, &with_header("other"), 3), Ok((false, other.clone())));
    assert_eq!(test.get(&url, &with_header("other"), 4), Ok((true, other)));
    assert_eq!(test.get(&url, &plain(), 4), Ok((false, image)));
    assert_eq!(server.requests().len(), 4);
}

/// A server on 127.0.0.1 that shows this certificate.
fn tls_server(identity: &Identity, image: Vec<u8>) -> Server {
    Server::start_tls(identity.server_config(), move |request, _| conditional(request, &image))
}

fn trusting(path: &Path) -> HttpSettings {
    HttpSettings { ca_file: Some(path.to_owned()), ..plain() }
}

#[test]
fn what_came_without_a_look_at_the_certificate_is_not_for_those_who_look() {
    let (test, image) = (Fixture::new(), bytes(4, 5000));
    let authority = Authority::new();
    let server = tls_server(&authority.issue(&Wish::host("127.0.0.1")), image.clone());
    let url = server.url("/x");
    let insecure = HttpSettings { insecure_tls: true, ..plain() };
    assert_eq!(test.get(&url, &insecure, 0), Ok((false, image.clone())));
    for minutes in [1, 61] {
        let refused = test.get(&url, &plain(), minutes).unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }
    assert_eq!(server.requests().len(), 1);
    let (own, others) = (test.base.path().join("own.pem"), test.base.path().join("others.pem"));
    authority.save(&own);
    Authority::new().save(&others);
    assert!(test.get(&url, &trusting(&others), 1).unwrap_err().contains("certificate"));
    // Over a connection that was verified the server's word counts.
    assert_eq!(test.get(&url, &trusting(&own), 1), Ok((true, image.clone())));
    assert_eq!(test.get(&url, &trusting(&own), 2), Ok((true, image.clone())));
    assert_eq!(tags(&server), [None, Some(TAG.to_owned())]);

    drop(server);
    for minutes in [3, 61] {
        assert!(test.get(&url, &plain(), minutes).is_err());
        assert_eq!(test.get(&url, &trusting(&own), minutes), Ok((true, image.clone())));
        assert_eq!(test.get(&url, &insecure, minutes), Ok((true, image.clone())));
    }
}

/// Writes what version 0.1.0 kept of `url`, which its server said half an hour ago.
fn keep_formerly(test: &Fixture, url: &ImageUrl, image: &[u8], lock: bool) {
    test.cache();
    let name = |suffix: &str| {
        let key: String = Sha256::digest(url.as_url().as_str()).iter().map(|byte| format!("{byte:02x}")).collect();
        test.settings.dir.join(format!("{key}.{suffix}"))
    };
    let sum: String = Sha256::digest(image).iter().map(|byte| format!("{byte:02x}")).collect();
    let then = 1_800_000_000 - 1800;
    let sidecar = format!(
        "url = \"{url}\"\netag = '{TAG}'\nlength = {}\nsha256 = \"{sum}\"\nfetched_at = {then}\nchecked_at = {then}\n",
        image.len()
    );
    fs::write(name("img"), image).unwrap();
    fs::write(name("toml"), sidecar).unwrap();
    if lock {
        fs::write(name("lock"), "").unwrap();
    }
}

#[test]
fn what_version_0_1_0_kept_serves_after_one_question() {
    for lock in [true, false] {
        let (test, image) = (Fixture::new(), bytes(5, 5000));
        let server = public_server(image.clone());
        let url = server.url("/x");
        keep_formerly(&test, &url, &image, lock);
        let listed = test.cache().list().unwrap();
        assert_eq!(listed.iter().map(|image| image.url.clone()).collect::<Vec<_>>(), [url.to_string()]);
        assert_eq!(test.suffixes(), NOTHING);
        for minutes in [0, 1, 59] {
            assert_eq!(test.get(&url, &plain(), minutes), Ok((true, image.clone())));
        }
        assert_eq!(tags(&server), [Some(TAG.to_owned())]);
        assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
        assert_eq!(test.cache().list().unwrap().len(), 1);
    }
}

#[test]
fn what_version_0_1_0_kept_is_for_nobody_while_its_server_says_nothing() {
    let (test, image) = (Fixture::new(), bytes(6, 5000));
    let server = Server::sequence([Reply::status(503)]);
    let url = server.url("/x");
    keep_formerly(&test, &url, &image, true);
    let refused = format!("{url}: the server answered 503 Service Unavailable");
    assert_eq!(test.get(&url, &plain(), 0), Err(refused));
    assert_eq!(test.cache().list().unwrap().len(), 1, "it is still there");
}

#[test]
fn who_waits_for_the_download_of_others_asks_too() {
    let (test, image) = (Fixture::new(), bytes(7, 5000));
    let (arrival, arrived) = mpsc::channel();
    let (gate, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let server = Server::start({
        let image = image.clone();
        move |request, _| match request.header("authorization") {
            None => Reply::status(401),
            Some(_) => {
                arrival.send(()).unwrap();
                // An error is the dropped gate: open.
                let _ = opened.lock().unwrap().recv();
                conditional(request, &image)
            }
        }
    });
    let url = server.url("/x");
    thread::scope(|scope| {
        let first = scope.spawn(|| test.get(&url, &with_password("pw"), 0));
        arrived.recv_timeout(LONG).unwrap();
        let second = scope.spawn(|| test.get(&url, &plain(), 0));
        test.log.wait_for("waiting for another download");
        drop(gate);
        assert_eq!(first.join().unwrap(), Ok((false, image.clone())));
        let refused = format!("{url}: the server answered 401 Unauthorized");
        assert_eq!(second.join().unwrap(), Err(refused));
    });
}

#[test]
fn nobody_goes_on_with_the_download_that_others_began() {
    let (test, image) = (Fixture::new(), bytes(8, 50_000));
    let server = Server::start({
        let image = image.clone();
        move |request, before| {
            let reply = Reply::file(request, &image, TAG);
            if before < 2 { reply.cut_after(20_000) } else { reply }
        }
    });
    let url = server.url("/x");
    let cut = Err(format!("{url}: the connection was cut after 20000 bytes of 50000"));
    assert_eq!(test.get(&url, &with_password("pw"), 0), cut);
    assert_eq!(test.get(&url, &plain(), 0), cut);
    assert_eq!(test.get(&url, &plain(), 0), Ok((false, image)));
    let ranges: Vec<_> = server.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, None, Some("bytes=20000-".to_owned())]);
}

#[test]
fn a_proof_of_others_is_no_proof() {
    let (test, image) = (Fixture::new(), bytes(9, 5000));
    let server = private_server(image);
    let url = server.url("/x");
    let cache = test.cache();
    let owner = client_with(with_password("pw"));
    let kept = cache.fetch(&url, &owner, noon(), &test.log.report()).unwrap();
    cache.mark_verified(&kept.id, "proof").unwrap();
    assert!(cache.verified(&url, &owner, "proof", noon() + HOUR).unwrap().is_some());
    assert!(cache.verified(&url, &client_with(plain()), "proof", noon() + HOUR).unwrap().is_none());
}
