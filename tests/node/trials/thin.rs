// SPDX-License-Identifier: BSD-2-Clause
//! A thin volume takes from its pool about what the image's data need, and every byte of it is the image's or zero.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::Case;
use crate::drive::{self, LARGE_DRIVE};
use crate::support::bytes;
use crate::support::images::{MIB, encode};
use crate::support::world::{World, tool};

pub(crate) const ALL: [Case; 5] = [
    ("an_install_leaves_a_thin_volume_thin", || stays_thin("raw", &[("0", false), ("0", true), ("1", true)])),
    ("a_qcow2_image_leaves_a_thin_volume_thin", || stays_thin("qcow2", &[("0", true), ("1", false)])),
    ("a_dump_leaves_a_thin_volume_thin", imported),
    ("a_pool_without_discards_shows_no_old_data", || shows_nothing_old(&["--discards", "ignore"])),
    ("a_pool_without_zeroing_shows_no_old_data", || shows_nothing_old(&["--zero", "n"])),
];

const VOLUME: &str = "/dev/pool/disk0";
const VOLUME_MIB: usize = 600;

/// Of one that is written in full.
const SMALL_MIB: usize = 120;

/// More than the data of the image, in percent of the volume, with the chunks in which they lie.
const FEW: f32 = 8.0;

/// A thin volume, and its pool.
struct Thin {
    /// Of the volume.
    mebibytes: usize,
}

impl Thin {
    fn new(mebibytes: usize, options: &[&str]) -> Self {
        tool("vgcreate", &["-q", "--setautoactivation", "n", "pool", LARGE_DRIVE]);
        // No daemon that watches the pool.
        let quiet = ["-q", "--config", "activation/monitoring=0"];
        let pool = ["--type", "thin-pool", "-L", "900M", "-n", "thin", "pool"];
        tool("lvcreate", &[&quiet[..], &pool, options].concat());
        let size = format!("{mebibytes}M");
        tool("lvcreate", &[&quiet[..], &["-V", &size, "--thinpool", "thin", "-n", "disk0", "pool"]].concat());
        tool("udevadm", &["settle"]);
        Thin { mebibytes }
    }

    /// How much of it is taken.
    fn percent(&self) -> f32 {
        tool("lvs", &["--noheadings", "-o", "data_percent", "pool/disk0"]).trim().parse().unwrap()
    }

    /// Another tenant's data, here and there.
    fn make_dirty(&self) {
        let file = File::options().write(true).open(VOLUME).unwrap();
        // Not at a chunk's beginning, nor to its end.
        for (start, len) in [(0, 35 * MIB), (50 * MIB + 4096, 50 * MIB), (self.mebibytes * MIB - 5000, 5000)] {
            file.write_all_at(&vec![0xa5; len], start as u64).unwrap();
        }
        file.sync_all().unwrap();
        assert!(self.percent() > FEW);
    }

    fn assert_holds(&self, image: &[u8], what: &str) {
        tool("blockdev", &["--flushbufs", VOLUME]);
        let mut volume = File::open(VOLUME).unwrap();
        let (mut piece, zeros) = (vec![0; MIB], vec![0; MIB]);
        for index in 0..self.mebibytes {
            volume.read_exact(&mut piece).unwrap();
            let expected = image.get(index * MIB..(index + 1) * MIB).unwrap_or(&zeros);
            drive::assert_same(&piece, expected, &format!("{what}, MiB {index}"));
        }
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        let _ =
            Command::new("vgremove").args(["-q", "-y", "-f", "--config", "activation/monitoring=0", "pool"]).status();
        let _ = Command::new("wipefs").args(["-qa", LARGE_DRIVE]).status();
        let _ = Command::new("blkdiscard").arg(LARGE_DRIVE).status();
    }
}

/// 40 MiB with 28 MiB of data, in whole chunks and in parts of some.
fn image(seed: u64) -> Vec<u8> {
    let (mut image, data) = (vec![0; 40 * MIB], bytes(seed, 28 * MIB));
    image[..MIB].copy_from_slice(&data[..MIB]);
    image[3 * MIB + 4096..29 * MIB + 4096].copy_from_slice(&data[MIB..27 * MIB]);
    image[39 * MIB..].copy_from_slice(&data[27 * MIB..]);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

fn assert_thin(thin: &Thin, what: &str) {
    let percent = thin.percent();
    eprintln!("{what}: {percent} %");
    assert!(percent < FEW, "{what}: {percent} % of the volume is taken");
}

/// `runs`: whether each is a reinstall, and whether other data were there before.
fn stays_thin(image_type: &str, runs: &[(&str, bool)]) {
    let world = World::new();
    let thin = Thin::new(VOLUME_MIB, &[]);
    for (index, (reinstall, dirty)) in runs.iter().enumerate() {
        let what = format!("{image_type}, reinstall {reinstall}, dirty {dirty}");
        if *dirty {
            thin.make_dirty();
        }
        let content = image(index as u64);
        let file = encode(&world, &content, image_type);
        let script = world.create(Path::new(VOLUME), file.to_str().unwrap(), image_type);
        script.env("INSTANCE_REINSTALL", reinstall).run().succeeds();
        thin.assert_holds(&content, &what);
        assert_thin(&thin, &what);
    }
}

fn imported() {
    let world = World::new();
    let thin = Thin::new(VOLUME_MIB, &[]);
    let content = image(1);
    let file = encode(&world, &content, "raw");
    thin.make_dirty();
    // As long as the disk was, with its zeros.
    File::options().write(true).open(&file).unwrap().set_len((VOLUME_MIB * MIB) as u64).unwrap();
    let script = world.script("import").env("IMPORT_DEVICE", VOLUME);
    script.stdin(File::open(&file).unwrap()).run().succeeds();
    thin.assert_holds(&content, "import");
    assert_thin(&thin, "import");
}

/// What is dropped or not zeroed by the pool may still be read.
fn shows_nothing_old(options: &[&str]) {
    let world = World::new();
    let content = image(1);
    let file = encode(&world, &content, "raw");
    let thin = Thin::new(SMALL_MIB, options);
    thin.make_dirty();
    world.create(Path::new(VOLUME), file.to_str().unwrap(), "raw").run().succeeds();
    thin.assert_holds(&content, "create");
}
