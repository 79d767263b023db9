// SPDX-License-Identifier: BSD-2-Clause
//! Images that change between the look that finds them right and the one that writes them.
//!
//! They are block devices: of a file its times would tell too, and here it is the bytes that have to.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{literal, sums};
use crate::support::bytes;
use crate::support::disk::{Disk, Kind};
use crate::support::gpg::Key;
use crate::support::images::{MIB, compress};
use crate::support::watched::Watched;
use crate::support::world::{Script, World};

/// Length of the disk in the image.
const LEN: usize = 96 * MIB;

/// Length of what is exchanged in an archive.
const SHORT: usize = 64 << 10;

/// The change may come too late, when all was read; so often it is tried.
const TRIES: usize = 20;

/// A block device that holds an image, and what its end is overwritten with.
struct Image {
    device: Disk,
    file: PathBuf,
    content: Vec<u8>,
    disk: Vec<u8>,
    end: Vec<u8>,
    /// Length of the content without what fills the last sectors.
    len: usize,
}

impl Image {
    /// The disk as it is.
    fn raw(world: &World) -> Self {
        let mut disk = bytes(1, LEN);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        Self::new(world, disk.clone(), disk, bytes(2, MIB))
    }

    /// The disk in many gzip members, of which another may take the last one's place.
    fn packed(world: &World) -> Self {
        let mut disk = bytes(1, LEN);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let member = |content: &[u8]| {
            let path = world.path("member");
            fs::write(&path, content).unwrap();
            fs::read(compress(&path, "gz")).unwrap()
        };
        // The last one is so short that it is exchanged in one go.
        let (long, short) = disk.split_at(LEN - SHORT);
        let content = long.chunks(8 * MIB).chain([short]).flat_map(member).collect();
        let other = member(&bytes(2, SHORT));
        Self::new(world, content, disk, other)
    }

    fn new(world: &World, content: Vec<u8>, disk: Vec<u8>, end: Vec<u8>) -> Self {
        // Whole sectors; an archive may be followed by zeros.
        let (len, mut padded) = (content.len(), content);
        padded.resize(padded.len().next_multiple_of(4096), 0);
        let device = Disk::stale(world, "image", Kind::Block, padded.len());
        let file = world.path("image");
        let image = Image { device, file, content: padded, disk, end, len };
        image.restore();
        let allowed = format!("allowed_images = ['{}']\n", image.device.path().display());
        world.variant_file("config.toml", &allowed);
        image
    }

    fn path(&self) -> &Path {
        self.device.path()
    }

    fn restore(&self) {
        self.write(&self.content, 0);
    }

    fn change(&self) {
        self.write(&self.end, self.len - self.end.len());
    }

    fn write(&self, data: &[u8], offset: usize) {
        let device = File::options().write(true).open(self.path()).unwrap();
        device.write_all_at(data, offset as u64).unwrap();
        device.sync_all().unwrap();
    }

    fn create(&self, world: &World, target: &Disk, reinstall: &str) -> Script {
        let script = world.create(target.path(), self.path().to_str().unwrap(), "");
        script.env("INSTANCE_REINSTALL", reinstall)
    }
}

/// Runs it and changes the image as soon as it was found right: either that came too late, and the disk holds what was
/// found right, or it is an error, and the disk can't boot.
fn refused_in_the_end(image: &Image, target: &Disk, run: impl Fn() -> Script, right: &str) {
    for _ in 0..TRIES {
        image.restore();
        let run = Watched::spawn(run());
        run.wait_for(right);
        image.change();
        let outcome = run.finish();
        if outcome.0.status.success() {
            target.assert_holds(&image.disk, "what was found right");
            continue;
        }
        // It came in the middle of the last member.
        if outcome.log().contains("archive is corrupt") {
            continue;
        }
        let words = " changed while it was read: what was written is not what was checked";
        outcome.fails(&[&format!("image {}{words}", image.path().display())]);
        return target.assert_unbootable("a changed image");
    }
    panic!("the change always came too late");
}

#[test]
fn what_was_hashed_is_what_is_written() {
    for kind in [Image::raw, Image::packed] {
        let world = World::new();
        let image = kind(&world);
        for algorithm in ["sha256", "sha512"] {
            image.restore();
            let checksum = literal(algorithm, &image.file);
            let target = Disk::stale(&world, "disk0", Kind::File, LEN);
            let run = || image.create(&world, &target, "1").env("OSP_IMAGE_CHECKSUM", &checksum);
            refused_in_the_end(&image, &target, run, "has the right checksum");
        }
    }
}

#[test]
fn what_was_signed_is_what_is_written() {
    let world = World::new();
    let (image, key) = (Image::raw(&world), Key::new());
    let config = format!("allowed_images = ['{}', '{}']\n", image.path().display(), world.path("sig").display());
    world.variant_file("config.toml", &config);
    fs::write(world.variant_file("keyring.gpg", ""), key.public()).unwrap();
    let signature = world.path("sig");
    fs::write(&signature, key.sign(&image.content, &[])).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, LEN);
    let run = || image.create(&world, &target, "1").env("OSP_IMAGE_SIGNATURE", signature.to_str().unwrap());
    refused_in_the_end(&image, &target, run, "has a good signature");
}

/// Holes and blocks of zeros in any place, and ends that are no multiple of anything.
#[test]
fn no_image_is_said_to_have_changed_that_has_not() {
    for len in [1, 4095, 4097, 9 * MIB - 1, 17 * MIB + 5] {
        let world = World::new();
        let mut image = vec![0; len.max(512)];
        for start in [0, 3000, 8 * MIB - 5000, 12 * MIB + 4096] {
            let end = (start + 6000).min(image.len());
            image[start.min(end)..end].copy_from_slice(&bytes(7, 6000)[..end - start.min(end)]);
        }
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        let raw = world.path("image.raw");
        crate::support::images::write_sparse(&raw, &image);
        for file in
            [raw.clone(), compress(&raw, "gz"), compress(&raw, "bz2"), compress(&raw, "xz"), compress(&raw, "zst")]
        {
            let checksum = sums("sha512sum", &[], &file);
            let checksum = format!("sha512:{}", checksum.split(' ').next().unwrap());
            for reinstall in ["0", "1"] {
                let target = Disk::stale(&world, "disk0", Kind::File, 18 * MIB);
                let run = world.create(target.path(), file.to_str().unwrap(), "").env("INSTANCE_REINSTALL", reinstall);
                run.env("OSP_IMAGE_CHECKSUM", &checksum).run().succeeds();
                target.assert_holds(&image, &format!("{} {reinstall}", file.display()));
            }
        }
    }
}
