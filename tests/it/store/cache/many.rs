// SPDX-License-Identifier: BSD-2-Clause
//! Many images: what a list costs for each of them.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Fixture;

const MANY: usize = 300;

fn plant(test: &Fixture, number: usize, version: &str) {
    let name = |suffix: &str| test.settings.dir.join(format!("{number:064x}{version}.{suffix}"));
    let sidecar = format!(
        "url = \"http://h/{number}\"\nlength = 5\nsha256 = \"{number:064x}\"\nfetched_at = 5\nchecked_at = 5\n"
    );
    fs::write(name("img"), "image").unwrap();
    fs::write(name("toml"), sidecar).unwrap();
    fs::write(name("lock"), "").unwrap();
}

/// How often each kind of file was opened, and how often an image was read, while `act` ran.
fn opened(test: &Fixture, act: impl FnOnce()) -> (BTreeMap<String, usize>, usize) {
    let seen = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    seen.add_watch(&test.settings.dir, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS).unwrap();
    act();
    let (mut opened, mut read) = (BTreeMap::new(), 0);
    while let Ok(events) = seen.read_events() {
        for event in events {
            let suffix = event.name.as_ref().and_then(|name| Some(name.to_str()?.rsplit_once('.')?.1.to_owned()));
            let suffix = suffix.unwrap_or_else(|| "folder".to_owned());
            if event.mask.contains(AddWatchFlags::IN_OPEN) {
                *opened.entry(suffix).or_default() += 1;
            } else if suffix == "img" {
                read += 1;
            }
        }
    }
    (opened, read)
}

#[test]
fn a_list_opens_each_file_of_an_entry_once_and_reads_no_image() {
    for version in [".v2", ""] {
        let test = Fixture::new();
        test.cache();
        (0..MANY).for_each(|number| plant(&test, number, version));
        let (opened, read) = opened(&test, || assert_eq!(test.cache().list().unwrap().len(), MANY));
        assert_eq!(read, 0);
        for (suffix, count) in opened {
            let most = if suffix == "folder" { 2 } else { MANY };
            assert!(count <= most, "{suffix}: {count}");
        }
    }
}
