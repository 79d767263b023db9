// SPDX-License-Identifier: BSD-2-Clause
//! The decoder against the bzip2 crate's, on archives of its encoder and on such as no encoder makes.

use std::io::{self, Read};

use ::bzip2::read::MultiBzDecoder;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::fuzzing::{encode, with_checksums};
use super::old::BitWriter;
use super::reader::Reader;
use super::{BLOCK_MAGIC, END_MAGIC};

fn decode(input: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Reader::new(input, 2).read_to_end(&mut out).map(|_| out)
}

fn decode_by_crate(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    MultiBzDecoder::new(archive).read_to_end(&mut out).map(|_| out)
}

/// Gives one byte at a time.
struct Bytewise<R>(R);

impl<R: Read> Read for Bytewise<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(1);
        self.0.read(&mut buf[..len])
    }
}

/// Fails behind its data.
struct Failing<'d>(&'d [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 if !buf.is_empty() => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the line is cut")),
            len => Ok(len),
        }
    }
}

/// Pseudo-random bytes below `limit`.
fn noise(len: usize, limit: u64) -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    std::iter::repeat_with(next).take(len).map(|value| u8::try_from(value).unwrap()).collect()
}

/// Pieces that meet what the layers do: noise, few values, runs about the lengths that count, words that come again.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        prop::collection::vec(0..3_u8, 0..600),
        (any::<u8>(), prop_oneof![0..12_usize, 250..270_usize, 1000..1100_usize, Just(70_000)])
            .prop_map(|(byte, len)| vec![byte; len]),
        (prop::collection::vec(any::<u8>(), 1..20), 1..200_usize).prop_map(|(word, count)| word.repeat(count)),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_streams_decode_to_the_whole(parts in prop::collection::vec((data(), 1..10_u32), 1..5), padding in 0..3_usize) {
        let mut archive: Vec<u8> = parts.iter().flat_map(|(part, level)| encode(part, *level)).collect();
        archive.extend(vec![0; padding * 700]);
        let whole: Vec<u8> = parts.into_iter().flat_map(|(part, _)| part).collect();
        prop_assert!(decode(archive.as_slice()).unwrap() == whole);
        let mut read = Vec::new();
        Reader::new(Bytewise(archive.as_slice()), 2).read_to_end(&mut read).unwrap();
        prop_assert!(read == whole);
    }
}

#[test]
fn blocks_of_every_level_are_put_in_order() {
    let data: Vec<u8> = [3, 30, 256].iter().flat_map(|limit| noise(500_000, *limit)).collect();
    for level in 1..=9 {
        assert!(decode(encode(&data, level).as_slice()).unwrap() == data, "level {level}");
    }
}

#[test]
fn a_slow_reader_of_single_bytes_gets_the_same() {
    let data = [noise(250_000, 40), vec![0; 300_000]].concat();
    let archive = encode(&data, 1);
    let mut read = Vec::new();
    Bytewise(Reader::new(archive.as_slice(), 2)).read_to_end(&mut read).unwrap();
    assert!(read == data);
}

#[test]
fn runs_of_all_lengths_and_blocks_of_zeros() {
    let runs: Vec<u8> = (0..700_u16).flat_map(|len| vec![len.to_le_bytes()[0] % 5; usize::from(len)]).collect();
    let zeros = vec![0; 100 << 20];
    for data in [&runs, &zeros] {
        for level in [1, 9] {
            assert!(decode(encode(data, level).as_slice()).unwrap() == *data);
        }
    }
}

/// Three blocks of level 1 that say little, and a second stream.
fn small_archive() -> (Vec<u8>, Vec<u8>) {
    let data = [b"0123456789".repeat(25_000), noise(40, 256)].concat();
    ([encode(&data, 1), encode(b"second", 9)].concat(), [data, b"second".to_vec()].concat())
}

#[test]
fn a_cut_at_any_byte_is_an_error() {
    let (archive, data) = small_archive();
    let first = archive.len() - encode(b"second", 9).len();
    for len in 1..archive.len() {
        let result = decode(&archive[..len]);
        if len == first {
            assert!(result.unwrap() == data[..data.len() - 6]);
            continue;
        }
        let error = result.expect_err(&format!("cut at {len}"));
        let message = error.to_string();
        let in_header = len < 10 || (first + 1..first + 10).contains(&len);
        let reason = if in_header { "trailing data after the end" } else { "the bz2 archive is truncated (" };
        assert!(message.contains(reason), "cut at {len}: {message}");
    }
    assert!(decode(archive.as_slice()).unwrap() == data);
    assert!(decode(&[][..]).unwrap().is_empty());
}

#[test]
fn a_flipped_bit_never_gives_wrong_bytes() {
    let (archive, data) = small_archive();
    for bit in 0..archive.len() * 8 {
        let mut flipped = archive.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match decode(flipped.as_slice()) {
            Ok(read) => {
                assert!(read == data, "bit {bit}");
                assert!(decode_by_crate(&flipped).unwrap() == data, "bit {bit}");
            }
            Err(err) => {
                let message = err.to_string();
                let reasons = ["is truncated (", "is corrupt (", "trailing data after the end"];
                assert!(reasons.iter().any(|reason| message.contains(reason)), "bit {bit}: {message}");
            }
        }
    }
}

#[test]
fn what_follows_the_archive_is_zeros_or_an_error() {
    let archive = encode(&noise(300_000, 9), 1);
    let data = decode_by_crate(&archive).unwrap();
    // More than a piece can be.
    let padded = [archive.clone(), vec![0; 8 << 20]].concat();
    assert!(decode(padded.as_slice()).unwrap() == data);
    let block = &archive[4..];
    for garbage in [b"x".as_slice(), b"BZh", b"BZh9", b"BZh9garbage", b"BZh0", block, b"\0\0BZh91AY&SY"] {
        for padding in [0, 8 << 20] {
            let archive = [archive.as_slice(), &vec![0; padding], garbage].concat();
            let message = decode(archive.as_slice()).unwrap_err().to_string();
            assert!(message.contains("trailing data after the end"), "{garbage:?}: {message}");
        }
    }
}

#[test]
fn a_failing_input_fails_behind_what_came_before() {
    let data = noise(1_000_000, 40);
    let archive = encode(&data, 1);
    let mut read = Vec::new();
    let error = Reader::new(Failing(&archive[..archive.len() / 2]), 2).read_to_end(&mut read).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::ConnectionReset, "the line is cut"));
    assert!(read.len() > 300_000 && read == data[..read.len()]);
    // All streams are whole, but whether there is another one can't be known.
    let error = decode(Failing(&archive)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reader_can_be_dropped_at_any_time() {
    let archive = encode(&noise(3_000_000, 200), 1);
    for len in [0, 1, 100_000, 2_000_000] {
        let mut reader = Reader::new(archive.as_slice().chain(io::repeat(0x31)), 4);
        reader.read_exact(&mut vec![0; len]).unwrap();
    }
}

#[test]
fn the_level_limits_a_block() {
    let mut archive = encode(&noise(300_000, 40), 3);
    assert!(decode(archive.as_slice()).is_ok());
    archive[3] = b'1';
    let message = decode(archive.as_slice()).unwrap_err().to_string();
    assert!(message.contains("is corrupt (a block is longer than its stream's level allows)"), "{message}");
}

/// An archive of one block whose code makes every hexadecimal digit but f a symbol, so that the block holds what one wants.
fn block_of_digits(digits: &[u8], origin: u32) -> Vec<u8> {
    block_and_gap(digits, origin, 0)
}

/// The same with `gap` one bits behind the block.
fn block_and_gap(digits: &[u8], origin: u32, gap: u32) -> Vec<u8> {
    let mut writer = BitWriter::default();
    let mut put = |value: u64, len: u32| writer.put(value, len);
    put(u64::from_be_bytes(*b"\0\0\0\0BZh9"), 32);
    put(BLOCK_MAGIC, 48);
    put(0, 32);
    put(0, 1);
    put(u64::from(origin), 24);
    // Fourteen values in one row: sixteen symbols.
    put(1 << 15, 16);
    put(0xfffc, 16);
    put(2, 3);
    let groups = digits.len() as u64 / 50 + 1;
    put(groups, 15);
    (0..groups).for_each(|_| put(0, 1));
    for _ in 0..2 {
        put(4, 5);
        put(0, 16);
    }
    digits.iter().for_each(|digit| put(u64::from(*digit), 4));
    put(0xf, 4);
    put(u64::MAX, gap);
    put(END_MAGIC, 48);
    put(0, 32);
    writer.finish()
}

fn digits_of(magic: u64) -> Vec<u8> {
    (0..12).rev().map(|place| (magic >> (place * 4) & 15) as u8).collect()
}

fn digits() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        // No runs, which would soon be too long.
        prop::collection::vec(2..15_u8, 1..300),
        Just(digits_of(BLOCK_MAGIC)),
        Just(digits_of(END_MAGIC)),
        prop::collection::vec(0..2_u8, 1..8),
    ];
    prop::collection::vec(piece, 1..30).prop_map(|mut pieces| {
        pieces.push(vec![2]);
        pieces.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// The chain of such a block need not go through all of it either.
    #[test]
    fn a_magic_inside_a_block_is_found_out(digits in digits(), origin in 0..30_u32, plain in data(), level in 1..10_u32) {
        let (block, data) = with_checksums(&block_of_digits(&digits, origin)).unwrap();
        // An origin outside the block gives nothing.
        if data.is_empty() {
            prop_assert!(decode(block.as_slice()).is_err());
        } else {
            let plain_archive = encode(&plain, level);
            let archive = [block.as_slice(), &plain_archive, &block, &block, &plain_archive].concat();
            let expected = [data.as_slice(), &plain, &data, &data, &plain].concat();
            prop_assert!(decode_by_crate(&archive).unwrap() == expected);
            prop_assert!(decode(archive.as_slice()).unwrap() == expected);
            prop_assert!(decode(Bytewise(archive.as_slice())).unwrap() == expected);
            // Cut inside the last block, behind the numbers in it.
            let cut = &archive[..archive.len() - plain_archive.len() - 12];
            let message = decode(cut).unwrap_err().to_string();
            prop_assert!(message.contains("is truncated ("), "{}", message);
            prop_assert_eq!(decode(Failing(cut)).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn bits_between_a_block_and_what_follows_are_an_error() {
    let digits = [3, 4, 5, 2, 7];
    let (whole, data) = with_checksums(&block_of_digits(&digits, 1)).unwrap();
    assert!(decode(whole.as_slice()).unwrap() == data);
    for gap in [1, 7, 8, 63] {
        let (archive, _) = with_checksums(&block_and_gap(&digits, 1, gap)).unwrap();
        // The end of the stream behind them; a cut before it.
        for archive in [archive.as_slice(), &archive[..archive.len() - 10]] {
            let message = decode(archive).unwrap_err().to_string();
            let expected = "is corrupt (what follows a block is neither a block nor the end of the stream)";
            assert!(message.contains(expected), "{gap} bits: {message}");
        }
    }
}

#[test]
fn numbers_all_over_a_long_block_are_found_out() {
    let numbers = [digits_of(BLOCK_MAGIC), vec![2], digits_of(END_MAGIC), vec![7, 9]].concat();
    let (block, data) = with_checksums(&block_of_digits(&numbers.repeat(20_000), 5)).unwrap();
    assert!(data.len() > 400_000);
    let archive = block.repeat(3);
    assert!(decode(archive.as_slice()).unwrap() == data.repeat(3));
}

#[test]
fn a_randomised_block_of_old_encoders_is_decoded() {
    let mut archive = encode(&noise(60_000, 20), 1);
    // Behind the header, the magic and the checksum.
    archive[14] |= 0x80;
    let (archive, data) = with_checksums(&archive).unwrap();
    assert!(data.len() == 60_000 && data != noise(60_000, 20));
    assert!(decode(archive.as_slice()).unwrap() == data);
    let twice = [archive.as_slice(), &encode(b"more", 9), &archive].concat();
    assert!(decode(twice.as_slice()).unwrap() == [data.as_slice(), b"more", &data].concat());
    let mut broken = archive;
    broken[100] ^= 1;
    let message = decode(broken.as_slice()).unwrap_err().to_string();
    assert!(message.contains("is corrupt ("), "{message}");
}
