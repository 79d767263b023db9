// SPDX-License-Identifier: BSD-2-Clause
//! Many creates of one image at once on one node.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::install::checks::{Published, sums};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, disk};
use crate::support::world::{Outcome, World, wait_until};

const CROWD: usize = 20;

/// A node with as many disks, and a server with an image and its SUMS file.
struct Site {
    world: World,
    server: Published,
    image: Vec<u8>,
}

impl Site {
    /// The image has `len` bytes, of which few compress.
    fn new(len: usize) -> Self {
        let world = World::new();
        let mut image = disk(len);
        image[6 * MIB..len - MIB].copy_from_slice(&crate::support::bytes(5, len - 7 * MIB));
        let file = world.path("disk.raw");
        fs::write(&file, &image).unwrap();
        let packed = compress(&file, "gz");
        let server = Published::new(&[
            ("/disk.raw.gz", &fs::read(&packed).unwrap()),
            ("/SHA256SUMS", sums("sha256sum", &[], &packed).as_bytes()),
        ]);
        Site { world, server, image }
    }

    fn disks(&self) -> Vec<Disk> {
        let size = self.image.len() + MIB;
        (0..CROWD).map(|number| Disk::stale(&self.world, &format!("disk{number}"), Kind::File, size)).collect()
    }

    fn create(&self, target: &Disk) -> Child {
        let script = self.world.create(target.path(), &self.server.url("/disk.raw.gz"), "raw+gz");
        script.env("OSP_IMAGE_CHECKSUM", &self.server.url("/SHA256SUMS")).spawn()
    }

    fn all_succeed(&self) {
        let disks = self.disks();
        let children: Vec<_> = disks.iter().map(|target| self.create(target)).collect();
        for child in children {
            Outcome(child.wait_with_output().unwrap()).succeeds();
        }
        disks.iter().for_each(|target| target.assert_holds(&self.image, "one of many"));
    }

    fn suffixes(&self) -> Vec<String> {
        let names = fs::read_dir(self.world.cache()).unwrap().map(|entry| entry.unwrap().path());
        let mut suffixes: Vec<_> = names.filter_map(|path| Some(path.extension()?.to_str()?.to_owned())).collect();
        suffixes.sort();
        suffixes
    }

    /// A disk is as it was, or can't boot, or is the image: never anything in between.
    fn assert_no_wrong_disk(&self, target: &Disk) {
        let bytes = target.bytes();
        let old = bytes[..MIB].iter().all(|byte| *byte == 0xa5) && bytes.iter().all(|byte| *byte == 0xa5);
        // The first 4 KiB come last of all: without them there is no boot sector and no partition table.
        if !old && bytes[..4096].iter().any(|byte| *byte != 0) {
            target.assert_holds(&self.image, "a disk that may boot");
        }
    }
}

#[test]
fn twenty_creates_at_once_are_one_download_and_twenty_right_disks() {
    let site = Site::new(12 * MIB);
    site.all_succeed();
    assert_eq!(site.server.gets("/disk.raw.gz"), 1);
    assert_eq!(site.suffixes(), ["TAG", "img", "lock", "toml"]);
}

#[test]
fn one_that_began_long_before_the_download_shares_it() {
    let site = Site::new(12 * MIB);
    let [early, late] = site.disks().into_iter().take(2).collect::<Vec<_>>().try_into().ok().unwrap();
    let (fifo, waits) = (site.world.path("fifo"), site.world.path("waits"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Only the first one to come finds nobody waiting.
    let hook = format!(
        "[ -e '{waits}' ] || {{ : >'{waits}'; read -r _ <'{fifo}'; }}",
        waits = waits.display(),
        fifo = fifo.display()
    );
    site.world.hook("hooks.pre/waits", &hook);
    let first = site.create(&early);
    wait_until("its hook waits", || waits.exists());
    let begun = Instant::now();
    // The cache notes whole seconds.
    wait_until("time passes", || begun.elapsed() > Duration::from_secs(2));
    Outcome(site.create(&late).wait_with_output().unwrap()).succeeds();
    fs::write(&fifo, "go\n").unwrap();
    let log = Outcome(first.wait_with_output().unwrap()).succeeds();
    assert!(log.contains("/disk.raw.gz is in the cache\n"), "{log}");
    assert_eq!(site.server.gets("/disk.raw.gz"), 1);
    early.assert_holds(&site.image, "from the cache");
}

#[test]
fn twenty_killed_at_random_moments_leave_no_wrong_disk_and_no_poisoned_entry() {
    let site = Site::new(20 * MIB);
    let start = Instant::now();
    // The same moments each time the test runs.
    let mut moments = crate::support::bytes(7, 4 * CROWD).into_iter();
    for _ in 0..4 {
        let disks = site.disks();
        let children: Vec<_> = disks.iter().map(|target| site.create(target)).collect();
        let begun = Instant::now();
        thread::scope(|scope| {
            for mut child in children {
                let after = Duration::from_millis(u64::from(moments.next().unwrap()) * 6);
                scope.spawn(move || {
                    thread::sleep(after.saturating_sub(begun.elapsed()));
                    let _ = child.kill();
                    child.wait().unwrap();
                });
            }
        });
        disks.iter().for_each(|target| site.assert_no_wrong_disk(target));
    }
    site.all_succeed();
    site.world.tool(&["cache", "prune"]).run().succeeds();
    assert_eq!(site.suffixes(), ["TAG", "img", "lock", "toml"]);
    site.world.tool(&["cache", "verify"]).run().succeeds();
    assert!(start.elapsed() < Duration::from_secs(300), "nobody waits for the dead");
}
