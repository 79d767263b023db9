// SPDX-License-Identifier: BSD-2-Clause
//! The records of a pax header: `LEN KEY=VALUE\n`, where LEN counts the whole record (POSIX.1-2001, pax(1)). A value may have
//! any bytes, line feeds included, as those of extended attributes have; the crate `tar` reads lines.

use std::io;

use super::sparse::PaxSparse;
use super::tar::invalid;

/// What is used of the records of one member.
#[derive(Debug, Default)]
pub(super) struct PaxRecords {
    pub(super) name: Option<Vec<u8>>,
    /// The number of bytes in the archive.
    pub(super) size: Option<u64>,
    pub(super) sparse: Option<PaxSparse>,
}

impl PaxRecords {
    pub(super) fn parse(mut records: &[u8]) -> io::Result<Self> {
        let mut parsed = PaxRecords::default();
        let mut sparse_name = None;
        // Some programs fill the rest with zeros.
        while records.first().is_some_and(|byte| *byte != 0) {
            let (key, value, rest) =
                record(records).ok_or_else(|| invalid("a pax header of the tar archive is corrupt".into()))?;
            records = rest;
            match key {
                b"path" => parsed.name = Some(value.to_vec()),
                b"size" => parsed.size = Some(number(value)?),
                b"GNU.sparse.name" => sparse_name = Some(value.to_vec()),
                _ => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        parsed.sparse.get_or_insert_default().add(key, value)?;
                    }
                }
            }
        }
        // Here `path` is made up, so that programs without sparse files keep the map and the data apart.
        parsed.name = sparse_name.or(parsed.name);
        Ok(parsed)
    }
}

/// The key and the value of the first record, and the records after it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = records.iter().position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(&records[..digits]).ok()?.parse().ok()?;
    let text = records.get(digits + 1..len)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], &records[len..]))
}

/// A decimal number.
pub(super) fn number(digits: &[u8]) -> io::Result<u64> {
    let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("a number in a pax header of the tar archive is wrong".into()))
}
