// SPDX-License-Identifier: BSD-2-Clause
//! The decoder against the bzip2 crate's, on any bytes.

use std::io::{self, Read, Write};

use bzip2::bufread::BzDecoder;
use bzip2::write::BzEncoder;
use bzip2::{Compression, Decompress};

use super::crc::Crc;
use super::reader::Reader;
use super::{END_MAGIC, MAGIC_LEN};

/// A few bytes may decode to very many: so many are compared.
const MAX_DECODED: u64 = 4 << 20;

/// Archives that the first byte makes of the others: as they are; with the checksums that their content has, which
/// nobody finds by chance; twice, with padding; encoded, and encoded and cut.
pub fn archive(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let level = u32::from(kind >> 4) % 9 + 1;
    match kind & 7 {
        0 => compare(data),
        1 | 2 => with_checksums(data).iter().for_each(|(archive, _)| compare(archive)),
        3 => {
            let Some((archive, _)) = with_checksums(data) else { return };
            compare(&[&archive[..], &archive, &[0; 9]].concat());
            compare(&[&archive[..], data].concat());
        }
        4 => {
            let archive = encode(data, level);
            assert!(decode(&archive).is_ok_and(|decoded| decoded == data));
            compare(&archive);
        }
        5 => {
            let archive = encode(data, level);
            (1..archive.len()).step_by(archive.len() / 8 + 1).for_each(|len| compare(&archive[..len]));
        }
        // Two streams, of which one is any bytes.
        _ => compare(&[encode(b"0123456789", level).as_slice(), data].concat()),
    }
}

/// Both decoders give the same bytes, or both an error.
fn compare(archive: &[u8]) {
    match (decode(archive), decode_by_crate(archive)) {
        (Ok(ours), Ok(theirs)) => assert!(ours == theirs, "{} bytes, not {}", ours.len(), theirs.len()),
        (Ok(ours), Err(error)) => panic!("{} bytes where the crate says: {error}", ours.len()),
        // Cut here by the limit, before what is wrong with it.
        (Err(_), Ok(theirs)) if theirs.len() as u64 == MAX_DECODED => {}
        // So far round no encoder goes, and the header of a block would have no largest size.
        (Err(error), Ok(_)) if error.to_string().contains("a Huffman code has an impossible length") => {}
        (Err(error), Ok(theirs)) => panic!("{error}, where the crate gives {} bytes", theirs.len()),
        (Err(error), Err(_)) => {
            let words = error.to_string();
            let reasons = ["is truncated (", "is corrupt (", "trailing data after the end"];
            assert!(reasons.iter().any(|reason| words.contains(reason)), "{words}");
        }
    }
}

pub(super) fn encode(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory does not fail")
}

fn decode(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Reader::new(archive, 1).take(MAX_DECODED).read_to_end(&mut out).map(|_| out)
}

/// Stream after stream, and zeros behind the last one.
fn decode_by_crate(mut archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    while archive.iter().any(|byte| *byte != 0) && (out.len() as u64) < MAX_DECODED {
        let mut decoder = BzDecoder::new(archive);
        Read::by_ref(&mut decoder).take(MAX_DECODED - out.len() as u64).read_to_end(&mut out)?;
        archive = decoder.into_inner();
    }
    Ok(out)
}

/// The bytes that the crate gives before it finds a checksum wrong, 8 MiB at most; none where nothing is wrong.
fn decode_unchecked(archive: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decompress::new(false);
    let mut out = vec![0; 8 << 20];
    decoder.decompress(archive, &mut out).err()?;
    out.truncate(usize::try_from(decoder.total_out()).unwrap_or(0));
    Some(out)
}

/// `archive` of one block, with the checksums that its content has, and that; none where it is no such archive.
pub(super) fn with_checksums(archive: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let data = decode_unchecked(archive)?;
    let mut crc = Crc::new();
    crc.update(&data);
    let mut fixed = archive.to_vec();
    fixed.get_mut(10..14)?.copy_from_slice(&crc.value().to_be_bytes());
    // The stream's is behind the last magic, at any bit.
    let word = |at: usize| archive.get(at..)?.first_chunk().map(|word| u64::from_be_bytes(*word));
    let mut ends = (0..archive.len().saturating_sub(8)).rev().flat_map(|at| (0..8).map(move |shift| (at, shift)));
    let (at, shift) = ends.find(|(at, shift)| word(*at).is_some_and(|word| word << shift >> 16 == END_MAGIC))?;
    let first = at * 8 + shift + usize::try_from(MAGIC_LEN).ok()?;
    for bit in 0..32 {
        let place = first + bit;
        let value = (crc.value() >> (31 - bit) & 1) as u8;
        let byte = fixed.get_mut(place / 8)?;
        *byte = *byte & !(0x80 >> (place % 8)) | value << (7 - place % 8);
    }
    Some((fixed, data))
}
