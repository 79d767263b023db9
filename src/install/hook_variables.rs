// SPDX-License-Identifier: BSD-2-Clause
//! The environment variables that hooks get in addition to Ganeti's.
//!
//! They cost nothing without hooks, because the partition table is read only if there is a hook. No image is hashed
//! for them: the cache knows the SHA-256 of a download, and for a checked image it is known anyway. A cached image is
//! named by our open descriptor, because another `create` may replace the image under its name in the meantime.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::disk::device::ReadAt;
use crate::disk::partition::{self, Partition, Table, TableError, read_boot_area};
use crate::node::report::Report;

/// Names and values of environment variables.
pub(crate) type Variables = Vec<(OsString, OsString)>;

/// The phase in which the hooks run.
pub(crate) fn phase(name: &str) -> Variables {
    vec![("SIMPLEIMAGE_PHASE".into(), name.into())]
}

/// The block device that hooks may change.
pub(crate) fn device(path: &Path) -> Variables {
    vec![("TARGET_DISK_DEVICE".into(), path.into())]
}

/// The image that `create` installs: a path, or a URL without its secrets.
pub(crate) fn image(name: &dyn Display) -> Variables {
    vec![("SIMPLEIMAGE_IMAGE".into(), name.to_string().into())]
}

/// The proxies of the settings, for http and for https, under the names that the shell provider used for its hooks.
pub(crate) fn proxies(http: Option<&str>, https: Option<&str>) -> Variables {
    let set = [("http_proxy", http), ("HTTPS_PROXY", https)];
    set.into_iter().filter_map(|(name, proxy)| Some((name.into(), proxy?.into()))).collect()
}

/// The installed image: a path by which it can be opened as it was published, and its SHA-256 as hex digits if that
/// is known.
pub(crate) fn installed(file: &Path, sha256: Option<&str>) -> Variables {
    let sha256 = sha256.map(|hex| ("SIMPLEIMAGE_IMAGE_SHA256".into(), hex.into()));
    [("SIMPLEIMAGE_IMAGE_FILE".into(), file.into())].into_iter().chain(sha256).collect()
}

/// The disk's partitions in the order of their numbers: the type of the partition table, the number of partitions,
/// and the number, first byte, length in bytes and type of each. Warns about each partition that is left out.
pub(crate) fn partitions(disk: &dyn ReadAt, report: &Report) -> io::Result<Variables> {
    let table = match Table::parse(&read_boot_area(disk)?) {
        Ok(table) => Some(table),
        Err(TableError::None) => None,
        Err(error @ TableError::Damaged) => {
            report.warn(format_args!("the disk has {error}: its hooks are told of no partitions"));
            None
        }
    };
    let all = match &table {
        Some(table) => partition::all_partitions(disk, table)?,
        None => Vec::new(),
    };
    let (mut known, outside): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|partition| partition.start < partition.end && partition.end <= disk.len());
    for Partition { number, .. } in outside {
        report.warn(format_args!("partition {number} does not lie on the disk: its hooks are not told of it"));
    }
    known.sort_by_key(|partition| partition.number);
    let kind = match table {
        Some(Table::Gpt(_)) => Some("gpt"),
        Some(Table::Mbr(_)) => Some("dos"),
        None => None,
    };
    let kind = kind.map(|kind| ("SIMPLEIMAGE_PARTITION_TABLE".into(), kind.into()));
    let count = ("SIMPLEIMAGE_PARTITION_COUNT".into(), known.len().to_string().into());
    let each = known.iter().zip(1_usize..).flat_map(|(partition, index)| describe(partition, index));
    Ok(kind.into_iter().chain([count]).chain(each).collect())
}

fn describe(partition: &Partition, index: usize) -> [(OsString, OsString); 4] {
    let Partition { number, start, end, kind, .. } = partition;
    let say = |what: &str, value: &dyn Display| {
        (format!("SIMPLEIMAGE_PARTITION_{index}_{what}").into(), value.to_string().into())
    };
    [say("NUMBER", number), say("OFFSET", start), say("SIZE", &(end - start)), say("TYPE", kind)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    const MANUAL: &str = include_str!("../../man/simpleimage-hooks.7");

    /// All variable names in the code above. The names for partitions are those of the first partition.
    fn names() -> BTreeSet<String> {
        let code = include_str!("hook_variables.rs").split("#[cfg(test)]").next().unwrap();
        let strings: BTreeSet<_> = code.split('"').skip(1).step_by(2).filter(|text| is_name(text)).collect();
        let (whole, parts): (BTreeSet<_>, BTreeSet<_>) = strings.into_iter().partition(|text| text.contains('_'));
        let (patterns, whole): (BTreeSet<_>, BTreeSet<_>) = whole.into_iter().partition(|text| text.contains('{'));
        assert_eq!(patterns.into_iter().collect::<Vec<_>>(), ["SIMPLEIMAGE_PARTITION_{index}_{what}"]);
        let of_partition = parts.iter().map(|part| format!("SIMPLEIMAGE_PARTITION_1_{part}"));
        of_partition.chain(whole.into_iter().map(str::to_owned)).collect()
    }

    fn is_name(text: &str) -> bool {
        (text.starts_with(|c: char| c.is_ascii_uppercase()) || text.ends_with("_proxy")) && !text.contains(' ')
    }

    #[test]
    fn the_manual_describes_every_variable_and_no_other() {
        let list = MANUAL.split_once("and nothing else but:").unwrap().1;
        let items = list.lines().filter_map(|line| line.strip_prefix(".It Ev "));
        let described: BTreeSet<_> = items.flat_map(|item| item.split(" , ")).map(str::to_owned).collect();
        assert_eq!(described, names());
    }
}
