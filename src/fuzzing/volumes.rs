// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for the volumes that a guest may have written.

use std::path::Path;
use std::sync::LazyLock;

use super::disk::Disk;
use crate::disk::device::{ReadAt, WriteAt};
use crate::seed::volume::{
    Contents, Trace, VolumeError, find_space, format, read_boot_area, rebuild, remove_trace, survey,
};

/// Length of a volume that is made here, in bytes.
const LEN: u64 = 1 << 20;

const SERIAL: u32 = 0x1234_5678;

/// Volumes of ours, for sectors of 512 and 4096 bytes. Made once: that takes longer than reading one.
static OURS: LazyLock<[Disk; 2]> = LazyLock::new(|| {
    [512, 4096].map(|sector| {
        let files = [("meta-data", &b"{}"[..]), ("user-data", &[7; 5000]), ("a longer name than others", b"")];
        let mut disk = Disk::new(LEN);
        disk.write_at(&format(LEN, sector, SERIAL, files).expect("it fits"), 0).expect("memory does not fail");
        disk
    })
});

/// A disk, on which the first byte puts a volume of ours before the pieces come.
pub(super) fn volume(data: &[u8]) {
    let Some((flags, Some(pieces))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return;
    };
    let mut disk = Disk::new(pieces.len().max(LEN));
    if flags & 1 == 1 {
        OURS[usize::from(flags & 2 == 2)].write_onto(&mut disk);
    }
    pieces.write_onto(&mut disk);
    let found = survey(&disk).expect("memory does not fail");
    assert!(found.len() <= 4096);
    for one in &found {
        assert!(one.start < disk.len());
        let Ok(bytes) = one.load(&disk) else { continue };
        let Ok(contents) = Contents::read(&bytes) else { continue };
        let all: usize = contents.files.iter().map(|(_, content)| content.len()).sum();
        assert!(all <= bytes.len(), "more than the volume holds");
        if one.our_serial().is_some() {
            check_rebuilt(&bytes, &contents);
        }
    }
    let trace = Trace::read(&disk).expect("memory does not fail");
    assert_eq!(remove_trace(&mut disk).expect("memory does not fail"), trace.is_some());
    let _ = Contents::read(&disk.head(LEN));
    let _ = find_space(&read_boot_area(&disk).expect("memory does not fail"), disk.len(), Path::new("/disk"));
}

/// What was read is written and read again; or it is said what does not fit.
fn check_rebuilt(old: &[u8], contents: &Contents) {
    match rebuild(old, contents, SERIAL, &contents.files) {
        Ok(new) => {
            assert_eq!(new.len(), old.len());
            let again = Contents::read(&new).expect("what we wrote");
            for (name, content) in &again.files {
                assert!(contents.files.iter().any(|(other, before)| other == name && before == content), "{name:?}");
            }
            for (name, _) in &contents.files {
                assert!(again.file(name).is_some(), "{name:?} is lost");
            }
        }
        Err(error) => assert!(error.to_string().is_ascii(), "{error}"),
    }
}

/// What is in files is in them again when they are read: lines of a name, and bytes up to the next zero.
pub(super) fn volume_files(data: &[u8]) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for part in data.split(|byte| *byte == 0).take(100) {
        let (name, content) = part.split_at(part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len()));
        let Ok(name) = str::from_utf8(name) else { continue };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte);
        // FAT knows neither case nor what is blank or dots at the end of a name.
        let usable = (1..=200).contains(&name.len()) && name.bytes().all(known) && !name.starts_with(['.', ' ']);
        let repeated = files.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        if usable && !name.ends_with(['.', ' ']) && !repeated {
            files.push((name.to_owned(), content.repeat(1 + content.len() % 50)));
        }
    }
    match format(LEN, 512, SERIAL, files.iter().map(|(name, content)| (name, content))) {
        Ok(bytes) => {
            let contents = Contents::read(&bytes).expect("what we wrote");
            assert!(contents.folders.is_empty());
            assert!(contents.files == files, "{:?} is not {:?}", contents, files);
        }
        Err(VolumeError::Full { .. }) => {
            assert!(files.len() > 30 || files.iter().map(|(_, content)| content.len() + 2048).sum::<usize>() > 900_000);
        }
        Err(error) => panic!("{error}"),
    }
}
