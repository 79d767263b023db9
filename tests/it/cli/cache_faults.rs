// SPDX-License-Identifier: BSD-2-Clause
//! A cache with something wrong about it: lock files that are gone, sidecars that are damaged, a disk that takes nothing.

use std::fs;

use serde_json::Value;

use super::fetch_and_cache::Site;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk};
use crate::support::server::Reply;
use crate::support::tmpfs::Tmpfs;

/// Somebody removes all lock files by hand.
fn remove_locks(site: &Site) -> usize {
    let files = fs::read_dir(site.world.cache()).unwrap().map(|entry| entry.unwrap().path());
    let locks: Vec<_> = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "lock")).collect();
    locks.iter().for_each(|lock| fs::remove_file(lock).unwrap());
    locks.len()
}

#[test]
fn images_without_their_lock_files_are_images() {
    let site = Site::new();
    for path in ["/a.raw", "/b.raw"] {
        site.fetch(path);
    }
    assert_eq!(remove_locks(&site), 2);
    assert!(site.cache(&["list"]).ends_with("\n2 images, 5 MiB in all\n"));
    assert_eq!(site.cache(&["verify"]).matches(" intact: http://").count(), 2);
    assert_eq!(site.json(&["show", &site.server.url("/a.raw")])["in_use"], Value::Bool(false));
    site.fetch("/a.raw");
    assert_eq!(site.server.gets("/a.raw"), 1);
    remove_locks(&site);
    site.world.variant_file("config.toml", "[cache]\nmax_size = \"4M\"\n");
    assert_eq!(site.cache(&["prune"]), "images removed: 1 (3 MiB), left: 1 (2 MiB)\n");
    remove_locks(&site);
    assert!(site.cache(&["remove", "--all"]).ends_with("/a.raw\n"));
    let left: Vec<_> = fs::read_dir(site.world.cache()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["CACHEDIR.TAG"]);
}

#[test]
fn a_damaged_sidecar_ends_no_command_and_reaches_no_terminal() {
    let site = Site::new();
    for seconds in ["9223372036854775807", "18446744073709551615", "99999999999999999999", "-5"] {
        site.fetch("/a.raw");
        let sidecar = site.image(&site.server.url("/a.raw")).with_extension("toml");
        let text = fs::read_to_string(&sidecar).unwrap();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let text = text
            .replacen(&line("fetched_at"), &format!("fetched_at = {seconds}"), 1)
            .replacen(&line("checked_at"), &format!("checked_at = {seconds}"), 1)
            .replacen("url = \"", "url = \"\\u001b[2J\\u009b", 1)
            .replacen(&line("sha256"), "sha256 = \"\\u0007\"\netag = \"\\u001b]0;x\\u0007\"", 1);
        fs::write(&sidecar, text).unwrap();
        let url = site.server.url("/a.raw");
        let shown = [site.cache(&["list"]), site.cache(&["show", &url])].concat();
        assert!(
            shown.contains("\\u{1b}[2J\\u{9b}http://") && shown.contains("etag:          \\u{1b}]0;x\\u{7}"),
            "{shown}"
        );
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        let outcome = site.world.tool(&["cache", "verify"]).run();
        outcome.fails(&["1 of 1 kept images were damaged"]);
        assert!(!outcome.output().contains('\u{1b}'));
        site.fetch("/a.raw");
        fs::write(
            &sidecar,
            fs::read_to_string(&sidecar).unwrap().replacen(
                "checked_at = 1",
                &format!("checked_at = {}", &seconds[..1]),
                1,
            ),
        )
        .unwrap();
        site.cache(&["prune"]);
        site.cache(&["remove", "--all"]);
    }
}

#[test]
fn a_kept_image_serves_from_a_read_only_or_full_file_system() {
    for read_only in [true, false] {
        let site = Site::new();
        let cache = site.world.cache();
        fs::create_dir_all(cache.parent().unwrap()).unwrap();
        let small = Tmpfs::mount(&cache, "4M");
        site.server.reply("/a.raw", Reply::ok(disk(2 * MIB)).header("ETag", "\"v1\""));
        site.fetch("/a.raw");
        if read_only {
            small.make_read_only();
        } else {
            fs::write(cache.join("filler"), vec![0; 4 * MIB]).unwrap_err();
        }
        assert!(site.cache(&["list"]).ends_with("\n1 image, 2 MiB in all\n"));
        let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
        let create = || site.world.create(target.path(), &site.server.url("/a.raw"), "").run();
        create().succeeds();
        target.assert_holds(&disk(2 * MIB), "a recent one");
        assert_eq!(site.server.gets("/a.raw"), 1);
        // When it is old, the server says that it is current.
        site.world.variant_file("config.toml", "[cache]\nmax_age_days = 0\n");
        site.server.reply("/a.raw", Reply::status(304));
        let log = create().succeeds();
        target.assert_holds(&disk(2 * MIB), "one that is current");
        assert!(log.contains("/a.raw is in the cache and current"), "{log}");
        assert_eq!(site.server.gets("/a.raw"), 2);
        // Another one can't be kept.
        site.server.reply("/a.raw", Reply::ok(disk(2 * MIB)).header("ETag", "\"v2\""));
        create().fails(&[if read_only { "Read-only file system" } else { "have to stay free" }]);
    }
}
