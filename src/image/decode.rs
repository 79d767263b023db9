// SPDX-License-Identifier: BSD-2-Clause
//! Decodes archives that consist of several members. Whichever decoder is used for one member, all members are decoded,
//! and a truncated archive or trailing data is an error.

use std::io::{self, BufRead, Read};

/// Input is read in pieces of this many bytes.
const INPUT_LEN: usize = 256 << 10;

/// How many bytes after a member decide whether another one follows. xz needs six.
const MAGIC_LEN: usize = 16;

/// A decoder of one member (gzip), stream (xz) or frame (zstd). It consumes no byte after the end of the member.
pub(super) trait Member<R>: Read + Sized {
    fn start(input: R) -> io::Result<Self>;
    fn into_input(self) -> R;
}

/// Decodes members one after another, as the command line tools do.
pub(super) struct Members<R, M> {
    /// The name of the compression, for messages.
    compression: &'static str,
    /// Returns whether another member begins with these bytes.
    is_head: fn(&[u8]) -> bool,
    state: State<R, M>,
}

enum State<R, M> {
    Between(Input<R>),
    Inside(M),
    /// The archive has ended, or an error was returned.
    Done,
}

impl<R: Read, M: Member<Input<R>>> Members<R, M> {
    pub(super) fn new(input: R, compression: &'static str, is_head: fn(&[u8]) -> bool) -> Self {
        Members { compression, is_head, state: State::Between(Input::new(input)) }
    }

    /// Starts the next member, or finds the end of the archive after zero padding.
    fn next(&self, mut input: Input<R>) -> io::Result<State<R, M>> {
        let head = input.peek(MAGIC_LEN)?;
        if (self.is_head)(head) {
            return Ok(State::Inside(M::start(input)?));
        }
        loop {
            let rest = input.fill_buf()?;
            if rest.is_empty() {
                return Ok(State::Done);
            }
            if rest.iter().any(|byte| *byte != 0) {
                let message = format!("trailing data after the end of the {} archive", self.compression);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            let len = rest.len();
            input.consume(len);
        }
    }
}

impl<R: Read, M: Member<Input<R>>> Read for Members<R, M> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Between(input) => self.next(input)?,
                State::Inside(mut member) => match member.read(buf) {
                    Ok(0) => State::Between(member.into_input()),
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => State::Inside(member),
                    Err(err) => return Err(self.explained(err)),
                    Ok(len) => {
                        self.state = State::Inside(member);
                        return Ok(len);
                    }
                },
            }
        }
    }
}

impl<R, M> Members<R, M> {
    /// Adds the name of the archive to the messages of the decoders ("corrupt xz stream", "premature eof"). An error of
    /// the system is returned as it is, because then the disk has failed, and the archive may be good.
    fn explained(&self, err: io::Error) -> io::Error {
        if err.raw_os_error().is_some() {
            return err;
        }
        let state = if err.kind() == io::ErrorKind::UnexpectedEof { "truncated" } else { "corrupt" };
        io::Error::new(err.kind(), format!("the {} archive is {state} ({err})", self.compression))
    }
}

/// A buffered reader that can look ahead beyond the end of its buffer.
pub(super) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        Input { inner, buffer: vec![0; INPUT_LEN], start: 0, end: 0 }
    }

    /// Returns the next `len` bytes, or fewer at the end of the input, without consuming them.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < len {
                match self.read_more()? {
                    0 => break,
                    read => self.end += read,
                }
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + len)])
    }

    /// Reads into the free end of the buffer. Interrupted reads are repeated, because not every decoder does so.
    fn read_more(&mut self) -> io::Result<usize> {
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buf)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
    }
}
