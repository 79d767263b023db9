// SPDX-License-Identifier: BSD-2-Clause
//! Our reading of qcow2 images against that of qemu-img, for images of all its options and for damaged ones.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{ImageFile, Qcow2Disk};
use crate::disk::device::{AlignedBuf, ReadAt as _};
use crate::disk::write::{Extent, Extents as _};
use crate::image::container::check_file;
use crate::image::format::Format;

const HEAD_LEN: usize = 128 << 10;

fn run(command: &str, args: &[&str], folder: &Path) -> Result<(), String> {
    let output = Command::new(command).args(args).current_dir(folder).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Returns the disk in the image after all checks, read as extents and as a whole, which must be the same.
fn decode(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).unwrap();
    let (file, len) = (File::open(path).unwrap(), bytes.len() as u64);
    let head = &bytes[..bytes.len().min(HEAD_LEN)];
    check_file(Format::Qcow2, head, &file, len).map_err(|err| err.to_string())?;
    let disk = Qcow2Disk::open(head, ImageFile::Whole(&file, len))
        .map_err(|err| err.to_string())?
        .ok_or("left to qemu-img")?;
    let mut all = vec![0xaa; usize::try_from(disk.len()).unwrap()];
    let mut covered = 0;
    while let Some(extent) = disk.next().map_err(|err| err.to_string())? {
        let (Extent::Zeros { offset, .. } | Extent::Data { offset, .. }) = extent;
        let at = usize::try_from(offset).unwrap();
        match extent {
            Extent::Zeros { len, .. } => all[at..at + usize::try_from(len).unwrap()].fill(0),
            Extent::Data { len, .. } => {
                let mut buffer = AlignedBuf::new(disk.longest());
                disk.read(&mut buffer, offset, len).map_err(|err| err.to_string())?;
                all[at..at + len].copy_from_slice(&buffer[..len]);
            }
        }
        covered += match extent {
            Extent::Zeros { len, .. } => len,
            Extent::Data { len, .. } => len as u64,
        };
    }
    assert_eq!(covered, disk.len());
    let mut whole = vec![0x55; all.len()];
    disk.read_at(&mut whole, 0).map_err(|err| err.to_string())?;
    assert!(whole == all, "the extents differ from the whole");
    Ok(all)
}

/// A disk of `len` bytes with data that compresses, data that does not, and zeros.
fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).unwrap()
    };
    (0..len)
        .map(|at| match at >> 15 & 7 {
            0 | 5 => noise(),
            1 | 3 => u8::try_from(at / 5 % 200).unwrap(),
            _ => 0,
        })
        .collect()
}

struct Workshop {
    folder: TempDir,
    raw: Vec<u8>,
}

impl Workshop {
    fn new(len: usize) -> Self {
        let (folder, raw) = (tempfile::tempdir().unwrap(), content(len));
        fs::write(folder.path().join("raw"), &raw).unwrap();
        Workshop { folder, raw }
    }

    fn qemu_img(&self, args: &str) -> Result<(), String> {
        run("qemu-img", &args.split(' ').collect::<Vec<_>>(), self.folder.path())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What qemu-img reads in an image.
    fn reference(&self, name: &str) -> Result<Vec<u8>, String> {
        self.qemu_img(&format!("convert -f qcow2 -O raw {name} reference"))?;
        Ok(fs::read(self.path("reference")).unwrap())
    }
}

#[test]
fn images_of_all_options_give_the_bytes_that_went_into_them() {
    let workshop = Workshop::new((5 << 20) + 512 * 3);
    for cluster in ["512", "1k", "4k", "64k", "512k", "2M"] {
        for options in ["compat=0.10", "compat=1.1", "compression_type=zstd", "extended_l2=on", "refcount_bits=1"] {
            let too_small = options == "extended_l2=on" && ["512", "1k", "4k"].contains(&cluster);
            for compress in ["", " -c"].into_iter().filter(|_| !too_small) {
                let convert =
                    format!("convert -f raw -O qcow2{compress} -o cluster_size={cluster},{options} raw image");
                workshop.qemu_img(&convert).unwrap();
                assert!(decode(&workshop.path("image")).unwrap() == workshop.raw, "{convert}");
            }
        }
    }
}

/// A guest wrote over compressed clusters, took snapshots and discarded, and the disk was resized.
#[test]
fn images_with_a_history_give_what_qemu_img_reads() {
    let workshop = Workshop::new(3 << 20);
    let written = "write -P 7 100k 200k; write -P 9 1M 5k; write -z 2M 300k; discard 512k 128k; write -P 3 2500k 1k";
    for options in
        ["cluster_size=64k", "cluster_size=4k,compat=0.10", "cluster_size=16k,extended_l2=on,compression_type=zstd"]
    {
        workshop.qemu_img(&format!("convert -f raw -O qcow2 -c -o {options} raw image")).unwrap();
        workshop.qemu_img("snapshot -c before image").unwrap();
        let commands: Vec<&str> = written.split("; ").flat_map(|command| ["-c", command]).collect();
        run("qemu-io", &[&["-f", "qcow2", "image"], &*commands].concat(), workshop.folder.path()).unwrap();
        // An image of version 2 that has snapshots can't be resized.
        if options.contains("0.10") {
            workshop.qemu_img("snapshot -d before image").unwrap();
        }
        workshop.qemu_img("resize -f qcow2 image 40M").unwrap();
        run("qemu-io", &["-f", "qcow2", "image", "-c", "write -P 5 39M 70k"], workshop.folder.path()).unwrap();
        let reference = workshop.reference("image").unwrap();
        assert!(reference != workshop.raw && reference.len() == 40 << 20);
        assert!(decode(&workshop.path("image")).unwrap() == reference, "{options}");
        for preallocation in ["metadata", "falloc"] {
            workshop.qemu_img(&format!("create -f qcow2 -o preallocation={preallocation} empty 33M")).unwrap();
            assert!(decode(&workshop.path("empty")).unwrap().iter().all(|byte| *byte == 0), "{preallocation}");
        }
    }
}

/// How many damaged images are compared. A run with more of them is made by `QCOW2_MUTATIONS=1000000`.
fn mutations() -> usize {
    std::env::var("QCOW2_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// A damaged image gives an error or the bytes that qemu-img reads in it, and never others.
#[test]
fn a_damaged_image_gives_an_error_or_what_qemu_img_reads() {
    let workshop = Workshop::new(600 << 10);
    let options = [
        "cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=512",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=4k,compat=0.10",
    ];
    let seed = std::env::var("QCOW2_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    let mut random = Random(seed);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..mutations().div_ceil(50) {
        let compress = if round % 3 == 2 { "" } else { " -c" };
        let options = options[round % options.len()];
        workshop.qemu_img(&format!("convert -f raw -O qcow2{compress} -o {options} raw image")).unwrap();
        if round % 4 == 3 {
            workshop.qemu_img("snapshot -c before image").unwrap();
        }
        let image = fs::read(workshop.path("image")).unwrap();
        for _ in 0..50 {
            let damaged = random.damage(&image);
            File::create(workshop.path("damaged")).unwrap().write_all(&damaged).unwrap();
            let Ok(ours) = decode(&workshop.path("damaged")) else {
                refused += 1;
                continue;
            };
            sound += 1;
            let theirs = workshop.reference("damaged");
            if theirs.as_deref() != Ok(&*ours) {
                let kept = std::env::temp_dir().join("simpleimage-differs.qcow2");
                fs::write(&kept, &damaged).unwrap();
                let first = theirs.map(|theirs| ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs));
                panic!("{options}{compress}: qemu-img reads something else, from {first:?} on: {}", kept.display());
            }
        }
    }
    assert!(sound > 20 && refused > 20, "{sound} {refused}");
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % end
    }

    /// Changes some bytes, mostly where the header and the tables are, or copies entries over others.
    fn damage(&mut self, image: &[u8]) -> Vec<u8> {
        let mut damaged = image.to_vec();
        for _ in 0..=self.below(3) {
            let end = [112, image.len().min(0x6_0000), image.len()][self.below(3)];
            let at = self.below(end);
            match self.below(4) {
                0 => damaged[at] = u8::try_from(self.below(256)).unwrap(),
                1 => damaged[at] ^= 1 << self.below(8),
                2 => {
                    let (from, to) = (at & !7, self.below(end) & !7);
                    let entry: Vec<u8> = damaged[from..(from + 8).min(image.len())].to_vec();
                    let len = entry.len().min(image.len() - to);
                    damaged[to..to + len].copy_from_slice(&entry[..len]);
                }
                _ => damaged.truncate(image.len() - self.below(2000)),
            }
            damaged.resize(damaged.len().max(1), 0);
            if damaged.len() < image.len() {
                break;
            }
        }
        damaged
    }
}

/// What is not a multiple of the cluster is read at any place.
#[test]
fn any_place_can_be_read() {
    let workshop = Workshop::new((1 << 20) + 512);
    for options in ["cluster_size=4k", "cluster_size=64k,compression_type=zstd"] {
        workshop.qemu_img(&format!("convert -f raw -O qcow2 -c -o {options} raw image")).unwrap();
        let path = workshop.path("image");
        let (bytes, file) = (fs::read(&path).unwrap(), File::open(&path).unwrap());
        let disk = Qcow2Disk::open(&bytes[..bytes.len().min(HEAD_LEN)], ImageFile::Whole(&file, bytes.len() as u64));
        let disk = disk.unwrap().unwrap();
        let mut random = Random(7);
        for _ in 0..200 {
            let start = random.below(workshop.raw.len());
            let len = random.below((workshop.raw.len() - start).min(200_000) + 1);
            let mut buffer = vec![0xaa; len];
            disk.read_at(&mut buffer, start as u64).unwrap();
            assert!(buffer == workshop.raw[start..start + len], "{start} {len}");
        }
        let past = disk.read_at(&mut [0; 2], workshop.raw.len() as u64 - 1).unwrap_err();
        assert_eq!(past.kind(), std::io::ErrorKind::UnexpectedEof);
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, 0).unwrap();
    }
}
