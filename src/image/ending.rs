// SPDX-License-Identifier: BSD-2-Clause
//! The end of a raw image that comes as a stream: some formats only show there that they are not raw.

use std::io::{self, Read};

use super::detect::{self, TAIL_LEN};

/// Gives `inner`'s bytes, and an error in place of their end when that is another format's.
pub(crate) struct Ending<R> {
    inner: R,
    /// The last bytes so far.
    tail: Vec<u8>,
}

impl<R> Ending<R> {
    pub(crate) fn new(inner: R) -> Self {
        Ending { inner, tail: Vec::with_capacity(2 * TAIL_LEN) }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_LEN)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_LEN));
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.keep(&buf[..len]);
        match detect::ending(&self.tail).filter(|_| len == 0 && !buf.is_empty()) {
            Some(words) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {words}"))),
            None => Ok(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ending;
    use std::io::Read;

    #[test]
    fn the_end_decides_however_it_comes() {
        let mut image = vec![7; 3000];
        image[2488..2496].copy_from_slice(b"conectix");
        for (bytes, words) in
            [(&image[..2999], None), (&image[..], Some("it is a VHD image of fixed size")), (&image[..5], None)]
        {
            for step in [1, 511, 700, 5000] {
                let mut reader = Ending::new(bytes);
                let (mut all, mut piece) = (Vec::new(), vec![0; step]);
                let end = loop {
                    match reader.read(&mut piece) {
                        Ok(0) => break None,
                        Ok(len) => all.extend_from_slice(&piece[..len]),
                        Err(err) => break Some(err.to_string()),
                    }
                };
                assert_eq!(all, bytes);
                assert_eq!(end.as_deref().map(|end| &end[..31]), words, "{step}");
            }
        }
    }
}
