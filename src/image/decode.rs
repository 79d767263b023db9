// SPDX-License-Identifier: BSD-2-Clause
//! Decodes archives that consist of several members. Whichever decoder is used for one member, all members are decoded,
//! and a truncated archive or trailing data is an error.

use std::io::{self, BufRead, Read};

/// Input is read in pieces of this many bytes.
const INPUT_LEN: usize = 256 << 10;

/// How many bytes after a member decide whether another one follows, and what it needs. The header of a frame of zstd has at
/// most 18.
const HEAD_LEN: usize = 18;

/// A decoder of one member (gzip), stream (xz) or frame (zstd). It consumes no byte after the end of the member.
pub(super) trait Member<R>: Read + Sized {
    /// Starts with a member that begins with the bytes `head`, which are not consumed.
    fn start(input: R, head: &[u8]) -> io::Result<Self>;
    fn into_input(self) -> R;
}

/// The zeros that may stand after a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// None: zstd(1) refuses them.
    Never,
    /// Any number after the last member, as gzip(1) takes them.
    AtEnd,
    /// A multiple of four after each stream (section 2.2 of the specification of .xz).
    Words,
}

/// What all members of an archive have in common.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// The name of the compression, for messages.
    pub(super) compression: &'static str,
    /// Returns whether another member begins with these bytes.
    pub(super) is_head: fn(&[u8]) -> bool,
    pub(super) padding: Padding,
}

/// Decodes members one after another, as the command line tools do.
pub(super) struct Members<R, M> {
    form: Form,
    state: State<R, M>,
}

enum State<R, M> {
    Between(Input<R>),
    Inside(M),
    /// The archive has ended, or an error was returned.
    Done,
}

impl<R: Read, M: Member<Input<R>>> Members<R, M> {
    pub(super) fn new(input: R, form: Form) -> Self {
        Members { form, state: State::Between(Input::new(input)) }
    }

    /// Starts the next member, or finds the end of the archive. Zero padding may come before both.
    fn next(&self, mut input: Input<R>) -> io::Result<State<R, M>> {
        let end = input.offset;
        let zeros = input.skip_zeros()?;
        let head = input.peek(HEAD_LEN)?.to_vec();
        let is_allowed = match self.form.padding {
            _ if zeros == 0 => true,
            Padding::Never => false,
            Padding::AtEnd => head.is_empty(),
            Padding::Words => zeros.is_multiple_of(4),
        };
        match is_allowed {
            true if head.is_empty() => Ok(State::Done),
            true if (self.form.is_head)(&head) => {
                M::start(input, &head).map(State::Inside).map_err(|err| self.explained(err))
            }
            _ => {
                let message =
                    format!("trailing data after the end of the {} archive, at byte {end}", self.form.compression);
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
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
        let state = match err.kind() {
            io::ErrorKind::UnexpectedEof => "is truncated",
            io::ErrorKind::Unsupported => "can't be decoded",
            _ => "is corrupt",
        };
        io::Error::new(err.kind(), format!("the {} archive {state} ({err})", self.form.compression))
    }
}

/// A buffered reader that can look ahead beyond the end of its buffer.
pub(super) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes were consumed.
    offset: u64,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        Input { inner, buffer: vec![0; INPUT_LEN], start: 0, end: 0, offset: 0 }
    }

    /// Consumes zeros up to another byte or the end, and returns how many there were.
    fn skip_zeros(&mut self) -> io::Result<u64> {
        let first = self.offset;
        loop {
            let rest = self.fill_buf()?;
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            let is_end = rest.is_empty() || zeros < rest.len();
            self.consume(zeros);
            if is_end {
                return Ok(self.offset - first);
            }
        }
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
        self.offset += len as u64;
    }
}
