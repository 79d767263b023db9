// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage inspect` of a URL or a name: what is told, how little is fetched for it, and under which policy.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::install::checks::Published;
use crate::support::bytes;
use crate::support::images::{MIB, compress, disk, encode, exact, to_qcow2};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool};

/// An 8 MiB disk of noise with a partition, and a logical one far behind its first MiB.
fn noise(world: &World) -> PathBuf {
    let path = world.path("noise.raw");
    fs::write(&path, bytes(1, 8 * MIB)).unwrap();
    let table = "label: dos\\n2048,2048,83,*\\n8192,8000,5\\n10240,2048,82\\n";
    tool("sh", &["-c", &format!("printf '{table}' | sfdisk --quiet {}", path.display())]);
    path
}

fn text(world: &World, args: &[&str]) -> String {
    let outcome = world.tool(&[&["inspect"], args].concat()).run();
    assert_eq!(outcome.succeeds(), "", "a result needs no message");
    outcome.output()
}

/// A server of one file that sends no more than its first 3 MiB at once, and then falls silent; it gives parts if it has a
/// validator.
fn slow(image: Vec<u8>, validator: Option<&'static str>) -> Server {
    Server::start(move |request, _| match validator {
        Some(validator) => Reply::file(request, &image, validator).stall_after(3 * MIB),
        None => Reply::ok(image.clone()).stall_after(3 * MIB),
    })
}

const PRIMARY: &str = "table: mbr\n  1: 1 MiB at 1 MiB, type 0x83\n  2: 3.90 MiB (4096000 bytes) at 4 MiB, type 0x5\n";
const LOGICAL: &str = "  5: 1 MiB at 5 MiB, type 0x82\n";
const PART: &str = ", as far as its beginning tells (create checks the rest)";

#[test]
fn no_more_is_fetched_than_has_to_be_looked_at() {
    let world = World::new();
    let raw = noise(&world);
    let xz = compress(&raw, "xz");
    for (image, validator, image_type, disk, table, verdict, requests) in [
        (&raw, None, "raw", "8 MiB", PRIMARY.to_owned(), PART, 1),
        (&raw, Some("\"v1\""), "raw", "8 MiB", format!("{PRIMARY}{LOGICAL}"), "", 3),
        (&xz, None, "raw+xz", "known only after decoding", PRIMARY.to_owned(), PART, 1),
        (&xz, Some("\"v1\""), "raw+xz", "8 MiB", PRIMARY.to_owned(), PART, 2),
        (&xz, Some("W/\"v1\""), "raw+xz", "known only after decoding", PRIMARY.to_owned(), PART, 1),
    ] {
        let server = slow(fs::read(image).unwrap(), validator);
        let url = server.url("/image").as_url().to_string();
        let size = exact(fs::metadata(image).unwrap().len());
        let expected = format!(
            "image: {url}\ntype:  {image_type}\nsize:  {size}\ndisk:  {disk}\n{table}safe to install: yes{verdict}\n"
        );
        assert_eq!(text(&world, &[&url]), expected, "{validator:?}");
        assert_eq!(server.requests().len(), requests, "{image_type} {validator:?}");
        assert!(server.requests().iter().skip(1).all(|request| request.header("range").is_some()));
    }
    assert!(!world.cache().exists(), "nothing is kept");
}

#[test]
fn a_qcow2_is_judged_by_its_header() {
    let world = World::new();
    let raw = noise(&world);
    let server = slow(fs::read(to_qcow2(&raw, &[])).unwrap(), Some("\"v1\""));
    let url = server.url("/image.qcow2").as_url().to_string();
    let found = text(&world, &[&url]);
    let rest = format!("disk:  8 MiB\ntable: known only once it is fetched\nsafe to install: yes{PART}\n");
    assert!(found.contains("type:  qcow2\n") && found.ends_with(&rest), "{found}");
    let json: Value = serde_json::from_str(&text(&world, &[&url, "--json"])).unwrap();
    assert_eq!(
        (&json["checked"], &json["kept"], &json["table"]),
        (&"beginning".into(), &false.into(), &"unknown".into())
    );
}

#[test]
fn what_create_refuses_is_refused_and_what_the_server_does_is_no_verdict() {
    let world = World::new();
    let server = Published::new(&[("/page", b"<html><body>"), ("/a.raw", &disk(2 * MIB))]);
    let outcome = world.tool(&["inspect", &server.url("/page"), "--json"]).run();
    outcome.fails(&["/page is an HTML page, not a disk image"]);
    assert!(outcome.output().contains("\"safe\": false"), "{}", outcome.output());
    server.reply("/cut", Reply::ok(disk(2 * MIB)).cut_after(1000));
    for (path, words) in [("/none", "the server answered 404 Not Found"), ("/cut", "the download was cut")] {
        let outcome = world.tool(&["inspect", &server.url(path), "--json"]).run();
        let log = outcome.fails(&[path]);
        assert!(log.contains(words) || path == "/cut", "{log}");
        assert_eq!(outcome.output(), "", "nothing was judged");
    }
    server.reply("/chunked", Reply::ok(disk(2 * MIB)).chunked());
    let found = text(&world, &[&server.url("/chunked")]);
    assert!(
        found.contains("size:  unknown (the server does not say it)\ndisk:  known only after decoding\n"),
        "{found}"
    );
}

#[test]
fn policy_and_credentials_are_those_of_create() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let server = Published::new(&[("/a.raw", &image)]);
    let url = server.url("/a.raw?token=s3cret");
    let config = format!(
        "require_checksum = \"always\"\n[http]\nuser = \"joe\"\npassword = \"pw\"\n[images.a]\nurl = \"{url}\"\n"
    );
    world.variant_file("config.toml", &config);
    for image in [url.as_str(), "a"] {
        let found = text(&world, &[image]);
        assert!(found.starts_with(&format!("image: {}\n", server.url("/a.raw"))), "{found}");
    }
    let requests = server.server.requests();
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Basic am9lOnB3")), "{requests:?}");
    world.variant_file("config.toml", &format!("allowed_images = [\"/srv\"]\n[images.a]\nurl = \"{url}\"\n"));
    for image in [url.as_str(), "a"] {
        let log = world.tool(&["inspect", image]).run().fails(&["allowed_images"]);
        assert!(!log.contains("s3cret"), "{log}");
    }
    assert_eq!(server.gets("/a.raw"), 2, "a place that is not allowed is not asked");
    let elsewhere = Reply::redirect(server.url("/a.raw"));
    server.reply("/moved", elsewhere);
    world.variant_file("config.toml", &format!("allowed_images = [\"{}\"]\n", server.url("/moved")));
    world.tool(&["inspect", &server.url("/moved")]).run().fails(&["but the server redirects to it"]);
}

#[test]
fn a_name_is_a_name_and_a_file_is_meant_by_a_path() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let golden = encode(&world, &image, "raw+gz");
    let config = format!("[images.golden]\npath = {golden:?}\n[images.wrong]\npath = {golden:?}\ntype = \"qcow2\"\n");
    world.variant_file("../web/config.toml", &config);
    let found = text(&world, &["golden", "--variant", "web"]);
    assert!(found.starts_with(&format!("image: {}\ntype:  raw+gz\n", golden.display())), "{found}");
    world.tool(&["inspect", "wrong", "--variant", "web"]).run().fails(&["is declared qcow2 but is in gz compression"]);
    let words = "image 'golden' is neither an absolute path nor an http or https URL, nor a name in config.toml";
    world.tool(&["inspect", "golden"]).run().fails(&[words]);
    fs::write(world.path("golden"), &image).unwrap();
    let here = |image: &str| {
        let script = world.tool(&["inspect", image, "--variant", "web"]).current_dir(&world.path(""));
        script.run().output()
    };
    assert!(here("golden").contains("type:  raw+gz\n") && here("./golden").contains("type:  raw\n"));
}

#[test]
fn what_the_cache_keeps_is_looked_at_there() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let server = Published::new(&[("/a.raw", &image)]);
    let url = server.url("/a.raw");
    world.tool(&["fetch", &url]).run().succeeds();
    server.reply("/a.raw", Reply::status(500));
    let found = text(&world, &[&url]);
    assert!(found.starts_with(&format!("image: {url} (kept in the cache)\ntype:  raw\n")), "{found}");
    assert!(found.ends_with("safe to install: yes\n"), "{found}");
    assert_eq!(server.gets("/a.raw"), 1);
    // Too old to be used without a question.
    world.variant_file("config.toml", "[cache]\nmax_age_days = 0\n[http]\nretries = 0\n");
    world.tool(&["inspect", &url]).run().fails(&["500"]);
    assert_eq!(server.gets("/a.raw"), 2);
}
