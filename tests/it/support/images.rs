// SPDX-License-Identifier: BSD-2-Clause
//! Disk images, encoded by the tools that people use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::bytes;
use super::world::{World, tool};

pub(crate) const MIB: usize = 1 << 20;

/// A disk with a boot signature, data, zero runs and holes of all sizes; `len` need not be a multiple of anything.
pub(crate) fn disk(len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    let data = bytes(len as u64, len);
    for (start, end) in
        [(0, 5000), (70_000, 200_000), (900_000, 1_100_000), (3 * MIB, 5 * MIB), (len.saturating_sub(3000), len)]
    {
        let (start, end) = (start.min(len), end.min(len));
        image[start..end].copy_from_slice(&data[start..end]);
    }
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

/// As the program shows sizes, below 1 GiB.
pub(crate) fn exact(len: u64) -> String {
    match len {
        1..1024 => format!("{len} bytes"),
        _ if len.is_multiple_of(1 << 20) => format!("{} MiB", len >> 20),
        _ if len < 1 << 20 && len.is_multiple_of(1024) => format!("{} KiB", len >> 10),
        _ if len < 1 << 20 => format!("{}.{:02} KiB ({len} bytes)", len >> 10, ((len * 100) >> 10) % 100),
        _ => format!("{}.{:02} MiB ({len} bytes)", len >> 20, ((len * 100) >> 20) % 100),
    }
}

/// The same without the exact number.
pub(crate) fn shown(len: u64) -> String {
    exact(len).split(" (").next().unwrap().to_owned()
}

/// An ext4 file system without partitions, as an image.
pub(crate) fn file_system(world: &World) -> String {
    let path = world.path("fs.raw").to_str().unwrap().to_owned();
    tool("truncate", &["-s", "8M", &path]);
    tool("mkfs.ext4", &["-qF", &path]);
    path
}

/// Writes `image` as a sparse file: only what is not zero, block by block.
pub(crate) fn write_sparse(path: &Path, image: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(image.len() as u64).unwrap();
    for (index, block) in image.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, index as u64 * 4096).unwrap();
        }
    }
}

/// `image` as a file of `image_type`, made by the format's own tool.
pub(crate) fn encode(world: &World, image: &[u8], image_type: &str) -> PathBuf {
    let raw = world.path(&format!("source-{}.raw", image_type.replace('+', ".")));
    write_sparse(&raw, image);
    let (format, compression) = image_type.split_once('+').map_or((image_type, None), |(f, c)| (f, Some(c)));
    let plain = match format {
        "raw" => raw,
        "qcow2" => to_qcow2(&raw, &[]),
        other => convert(&raw, other, &[]),
    };
    let image = compression.map_or(plain.clone(), |compression| compress(&plain, compression));
    age(&image);
    image
}

/// As if the image had been there for an hour: of one that was just written create warns.
pub(crate) fn age(image: &Path) {
    let then = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(image).unwrap().set_modified(then).unwrap();
}

/// Converts a raw file to qcow2 beside it, with options for qemu-img.
pub(crate) fn to_qcow2(raw: &Path, options: &[&str]) -> PathBuf {
    convert(raw, "qcow2", options)
}

/// Converts a raw file to another of QEMU's formats beside it.
pub(crate) fn convert(raw: &Path, format: &str, options: &[&str]) -> PathBuf {
    let converted = raw.with_extension(format);
    let files = [raw.to_str().unwrap(), converted.to_str().unwrap()];
    tool("qemu-img", &[&["convert", "-f", "raw", "-O", format], options, &files].concat());
    converted
}

/// Compresses a file beside itself.
pub(crate) fn compress(plain: &Path, compression: &str) -> PathBuf {
    let name = plain.to_str().unwrap();
    match compression {
        "gz" => tool("gzip", &["-1kf", name]),
        "bz2" | "bzip2" => tool("bzip2", &["-1kf", name]),
        "xz" => tool("xz", &["-0kf", name]),
        "zst" => tool("zstd", &["-q", "-1kf", name]),
        other => panic!("no tool for {other}"),
    };
    let extension = if compression == "bzip2" { "bz2" } else { compression };
    PathBuf::from(format!("{name}.{extension}"))
}

/// The first half of a file.
pub(crate) fn truncate(path: &Path) {
    let content = fs::read(path).unwrap();
    fs::write(path, &content[..content.len() / 2]).unwrap();
}
