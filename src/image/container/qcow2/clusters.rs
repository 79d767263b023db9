// SPDX-License-Identifier: BSD-2-Clause
//! What an entry of an L2 table says of its cluster, and the decoding of a compressed one.
//!
//! All that is decided here is decided as QEMU does it (`qcow2_get_host_offset` in block/qcow2-cluster.c and
//! block/qcow2-threads.c): a guest must not get other bytes because another program read its image.

use std::io;

use flate2::{Decompress, FlushDecompress};
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer};

use super::header::Header;
use super::{COMPRESSED, ContainerError, OFFSET, SECTOR, ZERO, corrupt};

/// How an image compresses its clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterCompression {
    /// Deflate without a header.
    Zlib,
    Zstd,
}

/// Where the bytes of one cluster of the disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    Zeros,
    /// At this offset of the file.
    Data(u64),
    /// The cluster has 32 parts. Those whose bit is set are at their places behind this offset, and others are zero.
    Parts {
        start: u64,
        allocated: u32,
    },
    /// The compressed bytes begin at this offset and end before the other one.
    Compressed(u64, u64),
}

impl Cluster {
    /// Takes an entry, and the bitmap of its subclusters in an image with extended L2 entries.
    pub(super) fn of(header: &Header, entry: u64, bitmap: Option<u64>) -> Result<Self, ContainerError> {
        if entry & COMPRESSED != 0 {
            let (start, end) = compressed_place(header, entry);
            return Ok(Cluster::Compressed(start, end));
        }
        let start = entry & OFFSET;
        match bitmap {
            Some(bitmap) => Self::of_parts(start, bitmap),
            // Version 2 knows no such clusters, and QEMU refuses to read them.
            None if entry & ZERO != 0 && header.version < 3 => Err(corrupt("an image of version 2 has a zero cluster")),
            None if entry & ZERO != 0 || start == 0 => Ok(Cluster::Zeros),
            None => Ok(Cluster::Data(start)),
        }
    }

    /// The low half of the bitmap says which subclusters have data, and the high half which read zero.
    fn of_parts(start: u64, bitmap: u64) -> Result<Self, ContainerError> {
        let [allocated, zeros] =
            [bitmap, bitmap >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or_default());
        match (start, allocated) {
            _ if allocated & zeros != 0 => Err(corrupt("a subcluster has data and is zero")),
            (_, 0) => Ok(Cluster::Zeros),
            (0, _) => Err(corrupt("a subcluster has data, but its cluster has no place in the file")),
            _ => Ok(Cluster::Parts { start, allocated }),
        }
    }

    /// Returns the end of the bytes in a file of `len` bytes that are needed for a cluster with `size` bytes of the disk.
    pub(super) fn end(self, cluster: u64, size: u64, len: u64) -> u64 {
        match self {
            Cluster::Zeros => 0,
            Cluster::Data(start) => start + size,
            Cluster::Parts { start, allocated } => {
                let last = u64::from(u32::BITS - allocated.leading_zeros());
                start + (last * (cluster / PARTS)).min(size)
            }
            // The entry counts whole sectors, and the file may end within the last one.
            Cluster::Compressed(_, end) => end.min(len),
        }
    }
}

/// A cluster has this many subclusters.
pub(super) const PARTS: u64 = 32;

/// Returns where the compressed bytes of a cluster begin and end. How many bits of the entry are the offset depends on the
/// cluster size.
fn compressed_place(header: &Header, entry: u64) -> (u64, u64) {
    let offset_bits = 62 - (header.cluster_bits - 8);
    let start = entry & ((1 << offset_bits) - 1);
    let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
    (start, start - start % SECTOR + sectors * SECTOR)
}

impl ClusterCompression {
    /// Decodes `packed` into the whole `cluster`. Bytes after the end of the compressed data do not matter, because an entry
    /// counts whole sectors.
    pub(super) fn decode(self, packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
        let whole = match self {
            ClusterCompression::Zlib => inflate(packed, cluster),
            ClusterCompression::Zstd => decode_zstd(packed, cluster),
        };
        let error = || io::Error::new(io::ErrorKind::InvalidData, corrupt("a compressed cluster can't be decoded"));
        if whole { Ok(()) } else { Err(error()) }
    }
}

fn inflate(packed: &[u8], cluster: &mut [u8]) -> bool {
    let mut decoder = Decompress::new(false);
    // Whatever the decoder answers, it counts whether the cluster is full.
    decoder.decompress(packed, cluster, FlushDecompress::Finish).is_ok() && decoder.total_out() == cluster.len() as u64
}

/// The frame must end with the cluster.
fn decode_zstd(packed: &[u8], cluster: &mut [u8]) -> bool {
    let mut decoder = DCtx::create();
    let (mut input, mut output) = (InBuffer::around(packed), OutBuffer::around(cluster));
    loop {
        let before = (input.pos(), output.pos());
        let Ok(expected) = decoder.decompress_stream(&mut output, &mut input) else { return false };
        if output.pos() == output.capacity() {
            return expected == 0;
        }
        if (input.pos(), output.pos()) == before {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ClusterCompression::{Zlib, Zstd};
    use std::io::Write;

    #[test]
    fn a_cluster_is_decoded_as_a_whole_or_not_at_all() {
        let cluster: Vec<u8> = (0..65_536_u32).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&cluster).unwrap();
        let deflated = encoder.finish().unwrap();
        for (compression, packed) in [(Zlib, deflated), (Zstd, zstd::encode_all(&*cluster, 3).unwrap())] {
            let decode = |packed: &[u8], len: usize| {
                let mut decoded = vec![0; len];
                compression.decode(packed, &mut decoded).map(|()| decoded)
            };
            assert_eq!(decode(&packed, cluster.len()).unwrap(), cluster);
            let trailed = [&*packed, &[0x55; 300]].concat();
            assert_eq!(decode(&trailed, cluster.len()).unwrap(), cluster, "{compression:?}");
            for (packed, len) in
                [(&packed[..packed.len() / 2], cluster.len()), (&packed, cluster.len() + 1), (&[], 512)]
            {
                let message = decode(packed, len).unwrap_err().to_string();
                assert!(message.contains("a compressed cluster can't be decoded"), "{message}");
            }
        }
    }
}
