// SPDX-License-Identifier: BSD-2-Clause
//! What is removed, and what never is.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use simpleimage::store::cache::STALE_RETENTION;

use super::{Fixture, HOUR, NOTHING, files, noon, read};
use crate::support::server::{Reply, Server};

fn server() -> Server {
    Server::start(|request, _| Reply::ok(request.target.clone()))
}

/// As old as a file can be.
fn make_old(path: &Path) {
    File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

#[test]
fn expired_images_go_and_recent_ones_stay() {
    let (test, server) = (Fixture::new(), server());
    test.fetch(&server.url("/old"), noon() - STALE_RETENTION - HOUR * 2).unwrap();
    test.fetch(&server.url("/stale"), noon() - HOUR * 2).unwrap();
    test.fetch(&server.url("/recent"), noon()).unwrap();
    assert_eq!(test.cache().prune_expired(noon()).unwrap(), 0, "pruned by the fetch already");
    assert_eq!(test.suffixes(), ["img", "img", "lock", "lock", "toml", "toml"]);
    assert_eq!(test.cache().prune_expired(noon() + STALE_RETENTION).unwrap(), 1);
    assert_eq!(fs::read(test.file("img")).unwrap(), b"/recent");
    assert_eq!(test.cache().prune_expired(noon() + STALE_RETENTION + HOUR * 2).unwrap(), 1);
    assert_eq!(test.suffixes(), NOTHING);
}

#[test]
fn an_image_in_use_stays_until_it_is_not() {
    let (test, server) = (Fixture::new(), server());
    let mut used = test.fetch(&server.url("/x"), noon()).unwrap();
    assert_eq!(test.cache().prune_expired(noon() + STALE_RETENTION + HOUR * 9).unwrap(), 0);
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
    assert_eq!(read(&mut used), b"/x");
    drop(used);
    assert_eq!(test.cache().prune_expired(noon() + STALE_RETENTION + HOUR * 9).unwrap(), 1);
    assert_eq!(test.suffixes(), NOTHING);
}

#[test]
fn a_clock_set_back_removes_nothing() {
    let (test, server) = (Fixture::new(), server());
    test.fetch(&server.url("/x"), noon()).unwrap();
    assert_eq!(test.cache().prune_expired(noon() - HOUR * 9).unwrap(), 0);
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
}

#[test]
fn what_killed_downloads_left_goes_unless_somebody_is_at_it() {
    let (test, server) = (Fixture::new(), server());
    test.fetch(&server.url("/x"), noon()).unwrap();
    let (lock, part, tmp) =
        (test.file("lock"), test.file("lock").with_extension("part"), test.file("lock").with_extension("tmp"));
    fs::write(&part, "half").unwrap();
    fs::write(&tmp, "half").unwrap();
    let holder = File::open(&lock).unwrap();
    holder.lock().unwrap();
    test.cache().prune_expired(noon()).unwrap();
    assert!(part.exists() && tmp.exists());
    drop(holder);
    test.cache().prune_expired(noon()).unwrap();
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
}

#[test]
fn foreign_files_are_never_touched() {
    let (test, server) = (Fixture::new(), server());
    let (dir, key) = (&test.settings.dir, "0123456789abcdef".repeat(4));
    fs::create_dir(dir).unwrap();
    let golden = test.base.path().join("golden.img");
    fs::write(&golden, "golden").unwrap();
    make_old(&golden);
    let names =
        ["golden.img", "golden.lock", "disk.part", "CACHEDIR.TAG", &format!("{key}.raw"), &format!("{key}.img")];
    for name in names {
        fs::write(dir.join(name), "golden").unwrap();
        make_old(&dir.join(name));
    }
    // Names of ours, lock file included, but not files of ours.
    for (key, made) in [("f".repeat(64), "link"), ("e".repeat(64), "folder")] {
        fs::write(dir.join(format!("{key}.lock")), "").unwrap();
        let img = dir.join(format!("{key}.img"));
        if made == "link" { std::os::unix::fs::symlink(&golden, img).unwrap() } else { fs::create_dir(img).unwrap() }
    }
    let before = files(dir).len();

    test.fetch(&server.url("/x"), noon() - STALE_RETENTION - HOUR * 5).unwrap();
    assert_eq!(test.cache().prune_expired(noon()).unwrap(), 1);
    for path in names.map(|name| dir.join(name)).iter().chain([&golden]) {
        assert_eq!(fs::read(path).unwrap(), b"golden", "{}", path.display());
    }
    assert_eq!(files(dir).len(), before, "nothing is left of the pruned entry");
}
