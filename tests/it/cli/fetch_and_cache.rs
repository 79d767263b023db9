// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage fetch` and `simpleimage cache`, as people and their programs call them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::install::checks::{Published, sums};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, disk};
use crate::support::server::Reply;
use crate::support::world::World;

/// A node and a server with two images.
pub(super) struct Site {
    pub(super) world: World,
    pub(super) server: Published,
}

impl Site {
    pub(super) fn new() -> Self {
        let world = World::new();
        let server = Published::new(&[("/a.raw", &disk(2 * MIB)), ("/b.raw", &disk(3 * MIB))]);
        Site { world, server }
    }

    pub(super) fn fetch(&self, path: &str) -> String {
        let outcome = self.world.tool(&["fetch", &self.server.url(path)]).run();
        outcome.succeeds();
        outcome.output()
    }

    /// What a cache command writes.
    pub(super) fn cache(&self, args: &[&str]) -> String {
        let outcome = self.world.tool(&[&["cache"], args].concat()).run();
        assert_eq!(outcome.succeeds(), "", "a result needs no message");
        outcome.output()
    }

    pub(super) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.cache(&[&["--json"], args].concat())).unwrap()
    }

    fn refuses(&self, args: &[&str], reason: &str) {
        let outcome = self.world.tool(args).run();
        assert_eq!(outcome.fails(&[reason]).lines().count(), 1);
        assert_eq!(outcome.0.status.code(), Some(1));
    }

    pub(super) fn image(&self, url: &str) -> PathBuf {
        PathBuf::from(self.json(&["show", url])["path"].as_str().unwrap())
    }
}

#[test]
fn fetch_warms_the_cache_and_says_what_is_there() {
    let site = Site::new();
    let text = site.fetch("/a.raw?token=s3cret");
    let url = site.server.url("/a.raw");
    let sum = sums("sha256sum", &[], &site.image(&site.server.url("/a.raw?token=s3cret")));
    let path = site.image(&site.server.url("/a.raw?token=s3cret"));
    let (sum, path) = (&sum[..64], path.to_str().unwrap());
    let expected = format!("image:  {url}\ntype:   raw\nsize:   2 MiB\ndisk:   2 MiB\nsha256: {sum}\npath:   {path}\n");
    assert_eq!(text, expected);
    let outcome = site.world.tool(&["fetch", &site.server.url("/a.raw?token=s3cret"), "--json"]).run();
    let told: Value = serde_json::from_str(&outcome.output()).unwrap();
    let expected = serde_json::json!({
        "image": url, "type": "raw", "size": 2 << 20, "disk": 2 << 20, "disk_known": "exact", "sha256": sum, "path": path,
        "cache": "hit",
    });
    assert_eq!(told, expected);
    let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
    site.world.create(target.path(), &site.server.url("/a.raw?token=s3cret"), "").run().succeeds();
    target.assert_holds(&disk(2 * MIB), "from the cache");
    assert_eq!(site.server.gets("/a.raw"), 1);
}

#[test]
fn fetch_holds_the_image_against_type_checksum_and_policy() {
    let site = Site::new();
    let (url, wrong) = (site.server.url("/a.raw"), format!("sha256:{}", "0".repeat(64)));
    // All of it may be there before its type is found to be another one. Then it is kept.
    site.server.put("/typed.raw", disk(2 * MIB));
    let typed = site.server.url("/typed.raw");
    site.world
        .tool(&["fetch", &typed, "--type", "qcow2"])
        .run()
        .fails(&["is declared qcow2 but is not in qcow2 format"]);
    let only_typed =
        || site.json(&["list"]).as_array().unwrap().iter().all(|kept| kept.to_string().contains("/typed.raw"));
    site.world
        .tool(&["fetch", &url, "--checksum", &wrong])
        .run()
        .fails(&["but should have sha256:0000000000000000000000000000000000000000000000000000000000000000"]);
    assert!(only_typed());
    site.server.put("/page", "<html>");
    site.world.tool(&["fetch", &site.server.url("/page")]).run().fails(&["/page is an HTML page"]);
    site.world.tool(&["fetch", &site.server.url("/none")]).run().fails(&["/none: the server answered 404 Not Found"]);
    for file in ["/srv/a.raw", "./a.raw", "images/a.raw"] {
        site.world.tool(&["fetch", file]).run().fails(&["only images from an http or https URL are fetched"]);
    }
    assert!(only_typed());
    let file = site.world.path("a.raw");
    fs::write(&file, disk(2 * MIB)).unwrap();
    site.server.put("/SUMS", sums("sha512sum", &[], &file));
    site.world.variant_file("config.toml", "require_checksum = \"http\"\n");
    site.world.tool(&["fetch", &url]).run().fails(&["has no checksum, which this variant requires"]);
    let log = site.world.tool(&["fetch", &url, "--checksum", &site.server.url("/SUMS")]).run().succeeds();
    assert!(log.contains("has the right checksum, sha512:"), "{log}");
}

#[test]
fn a_variant_has_its_own_settings_and_folder() {
    let site = Site::new();
    let own = site.world.path("own");
    let folder = site.world.path("etc/ganeti/instance-simpleimage/web");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), format!("[cache]\ndir = \"{}\"\n", own.display())).unwrap();
    site.world.tool(&["fetch", &site.server.url("/a.raw"), "--variant", "web"]).run().succeeds();
    assert!(own.join("CACHEDIR.TAG").exists());
    assert_eq!(site.json(&["list"]).as_array().unwrap().len(), 0);
    assert_eq!(site.json(&["list", "--variant", "web"]).as_array().unwrap().len(), 1);
    let outcome = site.world.tool(&["cache", "list", "--variant", "../x"]).run();
    assert_eq!(outcome.0.status.code(), Some(2));
}

#[test]
fn the_list_is_for_people_and_the_same_in_json() {
    let site = Site::new();
    let head = "KEY  NAME  TYPE  SIZE  FETCHED  CHECKED  USED  URL\n";
    assert_eq!(site.cache(&["list"]), format!("{head}0 images, 0 bytes in all\n"));
    let named = format!("[images.debian-12]\nurl = \"{}\"\n", site.server.url("/b.raw?token=s3cret"));
    site.world.variant_file("config.toml", &named);
    let again = format!("[images.mine]\nurl = \"{}\"\n", site.server.url("/b.raw?token=s3cret"));
    site.world.variant_file("../web/config.toml", &again);
    site.world.variant_file("../broken/config.toml", "oops");
    site.fetch("/a.raw");
    assert!(site.cache(&["ls"]).ends_with("\n1 image, 2 MiB in all\n"));
    site.fetch("/b.raw?token=s3cret");
    let list = site.cache(&["list"]);
    assert_eq!(list, site.cache(&["ls"]));
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], head.split_whitespace().collect::<Vec<_>>());
    let url = site.server.url("/b.raw");
    assert_eq!((&lines[1][1..5], lines[1].last()), (&["debian-12,mine", "raw", "3", "MiB"][..], Some(&url.as_str())));
    assert_eq!((lines[2][1], list.lines().last()), ("-", Some("2 images, 5 MiB in all")));
    assert_eq!(lines.len(), 4);
    let json = site.json(&["list"]);
    let b = &json[0];
    assert_eq!((b["url"].as_str(), b["size"].as_u64()), (Some(site.server.url("/b.raw").as_str()), Some(3 << 20)));
    assert!(b["key"].as_str().unwrap().starts_with(lines[1][0]));
    assert_eq!((&b["names"], &b["type"]), (&serde_json::json!(["debian-12", "mine"]), &Value::from("raw")));
    assert_eq!(site.json(&["show", "debian-12"]), *b);
    assert_eq!(b["in_use"], Value::Bool(false));
    assert!(b["fetched_at"].as_u64().unwrap() > 1_700_000_000);
    let show = site.cache(&["show", lines[1][0]]);
    for part in [
        "name:          debian-12, mine",
        "type:          raw",
        "url:           http://",
        "size:          3 MiB",
        "sha256:        ",
        "used:          ",
        " s ago",
    ] {
        assert!(show.contains(part), "{part} in {show}");
    }
    let holder = File::open(site.image(&site.server.url("/a.raw"))).unwrap();
    holder.lock_shared().unwrap();
    assert_eq!(site.json(&["show", &site.server.url("/a.raw")])["in_use"], Value::Bool(true));
}

#[test]
fn entries_are_named_by_url_or_key() {
    let site = Site::new();
    site.fetch("/a.raw");
    site.refuses(
        &["cache", "show", "abc"],
        "'abc' is not an entry of the cache (give the image's name, its URL, or at least 4 digits of its key; simpleimage cache list shows them)",
    );
    site.refuses(&["cache", "remove", &site.server.url("/a.raw"), "zzzzz"], "'zzzzz' is not an entry of the cache");
    assert_eq!(site.json(&["list"]).as_array().unwrap().len(), 1, "all of them, or none");
    // A mistyped URL may hold a password.
    site.refuses(&["cache", "show", "http:/joe:hunter2@h/a"], "'...' is not an entry of the cache");
    site.refuses(&["cache", "show", "00000000000000"], "no image of 00000000000000 is in the cache");
    site.refuses(&["cache", "remove", &site.server.url("/b.raw?t=1")], "/b.raw is in the cache");
    for args in [vec!["cache"], vec!["cache", "remove"], vec!["cache", "list", "x"], vec!["fetch"]] {
        assert_eq!(site.world.tool(&args).run().0.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn remove_takes_what_nobody_uses() {
    let site = Site::new();
    site.fetch("/a.raw");
    site.fetch("/b.raw");
    let holder = File::open(site.image(&site.server.url("/a.raw"))).unwrap();
    holder.lock_shared().unwrap();
    site.refuses(&["cache", "remove", &site.server.url("/a.raw")], "/a.raw is in use");
    let removed = site.cache(&["remove", &site.server.url("/b.raw")]);
    assert!(removed.starts_with("removed ") && removed.ends_with("/b.raw\n"), "{removed}");
    drop(holder);
    let removed = site.json(&["remove", &site.server.url("/a.raw")]);
    assert_eq!(removed[0]["url"].as_str(), Some(site.server.url("/a.raw").as_str()));
    assert_eq!(site.json(&["list"]), Value::Array(Vec::new()));
}

#[test]
fn remove_all_leaves_what_is_in_use_and_says_so() {
    let site = Site::new();
    assert_eq!(site.cache(&["remove", "--all"]), "images removed: 0 (0 bytes)\n");
    for path in ["/a.raw", "/b.raw", "/a.raw?2"] {
        site.fetch(path);
    }
    let holder = File::open(site.image(&site.server.url("/a.raw"))).unwrap();
    holder.lock_shared().unwrap();
    let outcome = site.world.tool(&["cache", "rm", "--all"]).run();
    outcome.fails(&["/a.raw is in use"]);
    let told = outcome.output();
    assert!(told.lines().count() == 3 && told.ends_with("images removed: 2 (5 MiB)\n"), "{told}");
    assert_eq!(site.json(&["list"]).as_array().unwrap().len(), 1);
    drop(holder);
    let removed = site.json(&["remove", "--all"]);
    assert_eq!(removed.as_array().unwrap().len(), 1);
    assert_eq!(site.json(&["list"]), Value::Array(Vec::new()));
    for args in [&["cache", "remove", "--all", "abcd"][..], &["cache", "rm"]] {
        assert_eq!(site.world.tool(args).run().0.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn verify_finds_a_changed_byte_and_takes_the_image_out() {
    let site = Site::new();
    site.fetch("/a.raw");
    site.fetch("/b.raw");
    let intact = site.cache(&["verify"]);
    assert_eq!((intact.lines().count(), intact.matches(" intact: http://").count()), (2, 2), "{intact}");
    File::options().write(true).open(site.image(&site.server.url("/a.raw"))).unwrap().write_all_at(b"x", 5000).unwrap();
    assert!(site.cache(&["verify", &site.server.url("/b.raw")]).contains(" intact: "));
    let outcome = site.world.tool(&["cache", "verify", "--json"]).run();
    outcome.fails(&["1 of 2 kept images were damaged"]);
    let json: Value = serde_json::from_str(&outcome.output()).unwrap();
    let mut results: Vec<_> =
        json.as_array().unwrap().iter().map(|entry| (entry["url"].as_str().unwrap(), &entry["intact"])).collect();
    results.sort_by_key(|(url, _)| *url);
    assert_eq!(results.iter().map(|(_, intact)| intact.as_bool()).collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert_eq!(site.json(&["list"]).as_array().unwrap().len(), 1);
    site.fetch("/a.raw");
    assert_eq!(site.server.gets("/a.raw"), 2);
}

#[test]
fn prune_removes_what_is_left_over_or_too_much() {
    let site = Site::new();
    site.fetch("/a.raw");
    site.fetch("/b.raw");
    fs::write(site.image(&site.server.url("/a.raw")).with_extension("part"), "half").unwrap();
    assert_eq!(site.cache(&["prune"]), "images removed: 0 (0 bytes), left: 2 (5 MiB)\n");
    assert!(!site.image(&site.server.url("/a.raw")).with_extension("part").exists());
    site.world.variant_file("config.toml", "[cache]\nmax_size = \"4M\"\n");
    let json = site.json(&["prune"]);
    assert_eq!(json, serde_json::json!({ "removed": 1, "bytes": 2 << 20, "left": 1, "size": 3 << 20 }));
}

#[test]
fn a_terminal_gets_a_bar_and_everything_else_lines() {
    let site = Site::new();
    let file = site.world.path("noise.raw");
    let mut noise = crate::support::bytes(1, 8 * MIB);
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&file, noise).unwrap();
    let packed = fs::read(compress(&file, "gz")).unwrap();
    // Slow enough for the bar to be drawn.
    site.world.variant_file("config.toml", "[http]\nlimit_rate = \"12M\"\n");
    site.server.put("/noise.raw.gz", packed.clone());
    site.server.reply("/chunked.gz", Reply::ok(packed).chunked());
    for (path, shown) in [("/noise.raw.gz", " of 8.00 MiB ["), ("/chunked.gz", "MiB/s")] {
        let root = site.world.path("");
        let line =
            format!("{} --root {} fetch {}", env!("CARGO_BIN_EXE_simpleimage"), root.display(), site.server.url(path));
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(shown) && !text.contains("0/0"), "{text:?}");
        assert!(text.contains("sha256: "), "{text:?}");
    }
    let log = site.world.tool(&["fetch", &site.server.url("/noise.raw.gz?again")]).run().succeeds();
    assert!(!log.contains('\r') && !log.contains(" [") && log.lines().count() == 1, "{log}");
}

#[test]
fn an_image_that_is_named_twice_is_one() {
    let site = Site::new();
    let url = site.server.url("/a.raw");
    site.world.variant_file("config.toml", &format!("[images.a]\nurl = \"{url}\"\n[images.again]\nurl = \"{url}\"\n"));
    site.fetch("/a.raw");
    let key = site.json(&["list"])[0]["key"].as_str().unwrap()[..8].to_owned();
    assert_eq!(site.cache(&["verify", "a", "again", &url, &key]).lines().count(), 1);
    let removed = site.cache(&["remove", "a", "again", &url, &key, "a"]);
    assert!(removed.lines().count() == 1 && removed.starts_with("removed "), "{removed}");
}

#[test]
fn a_limit_of_the_process_is_no_full_disk() {
    let site = Site::new();
    let script = site.world.tool(&["fetch", &site.server.url("/a.raw")]).under("prlimit", &["--fsize=100000"]);
    script.run().fails(&[".part: File too large (os error 27)"]);
}

#[test]
fn a_mistyped_variant_is_an_error_of_a_file_too() {
    let site = Site::new();
    let file = site.world.path("a.raw");
    fs::write(&file, disk(2 * MIB)).unwrap();
    let inspect = |variant: &str| site.world.tool(&["inspect", file.to_str().unwrap(), "--variant", variant]).run();
    inspect("defualt").fails(&["there is no variant defualt", "the nearest is default"]);
    // Its settings say nothing about a file.
    site.world.variant_file("../web/config.toml", "oops");
    inspect("web").succeeds();
    inspect("default").succeeds();
}
