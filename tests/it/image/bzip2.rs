// SPDX-License-Identifier: BSD-2-Clause
//! Archives of the bzip2 encoders that people use.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use simpleimage::image::compression::Compression;

use crate::support::images::{MIB, disk};
use crate::support::world::tool;

/// A disk, and text that compresses well: several blocks at every level.
fn data() -> Vec<u8> {
    let text = (0..200_000).map(|line| format!("line {line} of {}\n", line * 7919 % 10_007)).collect::<String>();
    [disk(6 * MIB), text.into_bytes()].concat()
}

fn decoded(archive: &Path) -> Vec<u8> {
    let mut data = Vec::new();
    Compression::Bzip2.reader(File::open(archive).unwrap()).read_to_end(&mut data).unwrap();
    data
}

#[test]
fn archives_of_every_tool_and_level_decode_to_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    let data = data();
    fs::write(&plain, &data).unwrap();
    // bzip2 makes one stream, lbzip2 too but blocks of its own, pbzip2 one stream for each block.
    let archives: Vec<PathBuf> = ["bzip2", "lbzip2", "pbzip2"]
        .into_iter()
        .flat_map(|program| (1..=9).map(move |level| (program, level)))
        .map(|(program, level)| {
            tool(program, &[&format!("-{level}"), "--keep", "--force", plain.to_str().unwrap()]);
            let archive = folder.path().join(format!("{program}-{level}.bz2"));
            fs::rename(folder.path().join("plain.bz2"), &archive).unwrap();
            assert!(decoded(&archive) == data, "{program} -{level}");
            archive
        })
        .collect();
    let all: Vec<u8> = archives.iter().flat_map(|archive| fs::read(archive).unwrap()).collect();
    let joined = folder.path().join("joined.bz2");
    fs::write(&joined, all).unwrap();
    assert!(decoded(&joined) == data.repeat(archives.len()));
}
