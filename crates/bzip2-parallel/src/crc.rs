// SPDX-License-Identifier: BSD-2-Clause
//! The checksum of bzip2: CRC-32 of polynomial 0x04c11db7, most significant bit first.

const POLYNOMIAL: u32 = 0x04c1_1db7;

/// Bytes that are looked up at once.
const SLICES: usize = 16;

/// `TABLES[n][byte]`: what `byte` does to the checksum once `n` more bytes have followed.
static TABLES: [[u32; 256]; SLICES] = tables();

/// A run of at least this many bytes is cheaper by multiplication.
const LONG_RUN: u32 = 1024;

/// The checksum of what it was fed so far.
#[derive(Clone, Copy)]
pub(super) struct Crc(u32);

impl Crc {
    /// Of nothing.
    pub(super) fn new() -> Self {
        Crc(u32::MAX)
    }

    /// As it stands in the file.
    pub(super) fn value(self) -> u32 {
        !self.0
    }

    /// Feeds `data`.
    pub(super) fn update(&mut self, data: &[u8]) {
        let (chunks, rest) = data.as_chunks::<SLICES>();
        for chunk in chunks {
            self.sixteen(*chunk);
        }
        for byte in rest {
            self.byte(*byte);
        }
    }

    /// Feeds `byte` `len` times.
    pub(super) fn repeat(&mut self, byte: u8, len: u32) {
        if len >= LONG_RUN {
            self.long_run(byte, len);
            return;
        }
        for _ in 0..len / 16 {
            self.sixteen([byte; SLICES]);
        }
        for _ in 0..len % 16 {
            self.byte(byte);
        }
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        let [high, ..] = self.0.to_be_bytes();
        self.0 = self.0 << 8 ^ TABLES[0][usize::from(high ^ byte)];
    }

    #[inline(always)]
    fn sixteen(&mut self, mut chunk: [u8; SLICES]) {
        for (byte, state) in chunk.iter_mut().zip(self.0.to_be_bytes()) {
            *byte ^= state;
        }
        self.0 = 0;
        for (byte, table) in chunk.iter().zip(TABLES.iter().rev()) {
            self.0 ^= table[usize::from(*byte)];
        }
    }

    /// The checksum is linear: the state goes on by `len` zero bytes, and the run's own share is added. That share
    /// doubles in length by going on by its own length and adding itself.
    fn long_run(&mut self, byte: u8, len: u32) {
        let mut state = self.0;
        // Share and distance of a run of 1, 2, 4, ... bytes.
        let mut share = TABLES[0][usize::from(byte)];
        let mut power = 1 << 8;
        let mut rest = len;
        loop {
            if rest & 1 == 1 {
                state = multiply(state, power) ^ share;
            }
            rest >>= 1;
            if rest == 0 {
                break;
            }
            share ^= multiply(share, power);
            power = multiply(power, power);
        }
        self.0 = state;
    }
}

/// The product of two polynomials over GF(2), modulo the checksum's.
fn multiply(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    while right != 0 {
        product ^= left & (right & 1).wrapping_neg();
        right >>= 1;
        left = left << 1 ^ (POLYNOMIAL & (left >> 31).wrapping_neg());
    }
    product
}

const fn tables() -> [[u32; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut state = eight_steps(byte << 24);
        let mut slice = 0;
        while slice < SLICES {
            tables[slice][byte as usize] = state;
            state = eight_steps(state);
            slice += 1;
        }
        byte += 1;
    }
    tables
}

const fn eight_steps(mut state: u32) -> u32 {
    let mut step = 0;
    while step < 8 {
        state = if state >> 31 == 1 { state << 1 ^ POLYNOMIAL } else { state << 1 };
        step += 1;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::Crc;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn of(data: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.update(data);
        crc.value()
    }

    /// The check value of CRC-32/BZIP2 in the catalogue of parametrised CRC algorithms.
    #[test]
    fn the_catalogue_agrees() {
        assert_eq!(of(b"123456789"), 0xfc89_1918);
    }

    proptest! {
        #[test]
        fn a_run_is_its_bytes(before in prop::collection::vec(any::<u8>(), 0..40), byte: u8, len in 0..20_000_u32) {
            let mut crc = Crc::new();
            crc.update(&before);
            crc.repeat(byte, len);
            prop_assert_eq!(crc.value(), of(&[before, vec![byte; len as usize]].concat()));
        }
    }
}
