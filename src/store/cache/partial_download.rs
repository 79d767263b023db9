// SPDX-License-Identifier: BSD-2-Clause
//! An image on its way: the `.part` file, and the mark beside it from which a later run may go on.
//!
//! What a mark vouches for is read and compared before anybody goes on from it, so that neither a power cut nor a crash at
//! any step, nor somebody's hand, makes a wrong byte part of an image. A file without a mark, or with one that does not
//! hold, is worth nothing.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use super::checkpoint::{Checkpoint, CheckpointFile, HashedPrefix, Origin, SavedCheckpoint};
use super::entry::{EntryFiles, Sidecar, hex};
use super::error::CacheError;
use super::shared_download::{DownloadInfo, SharedDownload};
use super::{Clock, folder, seconds};
use crate::node::report::Report;
use crate::node::size::{ByteSize, MIB};
use crate::node::sys;
use crate::store::http::{Content, RangeRequest};

/// Bytes taken from the network, and read back from the disk, at once, at most.
const BUFFER: usize = 256 << 10;

/// The disk begins to write the download every so many bytes: else all of it waits for the sync at the end.
const FLUSH_STEP: u64 = 8 * MIB;

/// After a power cut a download loses what came after its last mark that waited for the disk. Each costs two syncs, of
/// data that the disk has been writing all along.
const MARK_STEP: Duration = Duration::from_secs(2);

/// A download that is ended otherwise, be it by SIGKILL, loses less than this many bytes and what is in [`BUFFER`]: what
/// was written is the kernel's by then.
const NOTE_STEP: u64 = 512 << 10;

/// How long the part of a download that failed waits for somebody to go on with it, in seconds: it takes room.
const KEPT_FOR: u64 = 86_400;

/// A download going on. The caller holds the entry's lock alone.
pub(super) struct PartialDownload<'a> {
    files: &'a EntryFiles,
    clock: Clock,
    origin: Origin,
    file: File,
    /// Bytes in the file, and their hash so far.
    length: u64,
    hash: Sha256,
    /// Bytes that the disk was told to begin to write.
    flushed: u64,
    marked: Instant,
    /// The mark, once this run has written one, and how many bytes it vouches for.
    journal: Option<CheckpointFile>,
    noted: u64,
    /// Whether the reader of the download knows this file.
    followed: bool,
}

impl<'a> PartialDownload<'a> {
    /// An empty one for the image of which `content` follows.
    pub(super) fn begin(files: &'a EntryFiles, clock: Clock, content: &Content) -> Result<Self, CacheError> {
        files.discard_part()?;
        let Content { etag, last_modified, content_length, validator, .. } = content;
        let (etag, last_modified, validator) = (etag.clone(), last_modified.clone(), validator.clone());
        let via = content.redirects.iter().map(ToString::to_string).collect();
        let origin = Origin { via, etag, last_modified, total: *content_length, validator };
        let file = files.create_part()?;
        Ok(Self::new(files, clock, origin, file, (0, Sha256::new())))
    }

    /// What an earlier run left, as far as its mark holds; none when there is nothing to go on from.
    pub(super) fn left_by_earlier_run(files: &'a EntryFiles, clock: Clock, report: &Report) -> Option<Self> {
        let found = SavedCheckpoint::read(files).filter(SavedCheckpoint::is_usable)?;
        let mut file = files.open_part().ok()??;
        // Reading it back takes its time.
        report.info(format_args!("checking what an earlier run has downloaded: {}", ByteSize(found.length())));
        let (length, hash) = found.intact(&file).filter(|(length, _)| *length > 0)?;
        file.set_len(length).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self::new(files, clock, found.mark.origin, file, (length, hash)))
    }

    fn new(files: &'a EntryFiles, clock: Clock, origin: Origin, file: File, (length, hash): (u64, Sha256)) -> Self {
        let marked = Instant::now();
        PartialDownload {
            files,
            clock,
            origin,
            file,
            length,
            hash,
            flushed: length,
            marked,
            journal: None,
            noted: length,
            followed: false,
        }
    }

    /// What to ask the server for; none when that is all of the image.
    pub(super) fn rest(&self) -> Option<RangeRequest> {
        let validator = self.origin.validator.clone().filter(|_| self.length > 0)?;
        Some(RangeRequest { from: self.length, total: self.origin.total, validator })
    }

    /// Takes in what is new in the answer that brings the rest.
    pub(super) fn go_on(&mut self, content: &Content) {
        self.origin.total = content.content_length.or(self.origin.total);
        for url in content.redirects.iter().map(ToString::to_string) {
            if !self.origin.via.contains(&url) {
                self.origin.via.push(url);
            }
        }
    }

    /// Takes the space first: a full disk shows before the download instead of near its end.
    pub(super) fn reserve(&self) -> Result<(), CacheError> {
        let Some(missing) = self.origin.total.and_then(|total| total.checked_sub(self.length)) else { return Ok(()) };
        let full = |free| CacheError::Full { needed: missing, free, dir: self.files.dir().to_owned() };
        let free = folder::free_space(self.files.dir());
        if free.is_some_and(|free| missing > free) {
            return Err(full(free));
        }
        let range = i64::try_from(self.length).ok().zip(i64::try_from(missing).ok());
        let (at, missing) = range.ok_or_else(|| full(free))?;
        if missing == 0 {
            return Ok(());
        }
        // Not every file system can.
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at, missing) {
            Err(Errno::ENOSPC | Errno::EDQUOT) => Err(full(free)),
            // There may be room: files of this length are not permitted here (ulimit), or not possible.
            Err(Errno::EFBIG) => Err(CacheError::io("writing", &self.files.part)(Errno::EFBIG.into())),
            _ => Ok(()),
        }
    }

    /// Writes the body behind what is there, and tells `follow`.
    pub(super) fn receive(&mut self, content: &mut Content, follow: &SharedDownload) -> Result<(), CacheError> {
        if !self.followed {
            let promise = DownloadInfo { length: self.origin.total, validator: self.origin.validator.clone() };
            let begun = follow.begin(&self.file, promise, self.length);
            begun.map_err(CacheError::io("opening", &self.files.part))?;
            self.followed = true;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = content.body.receive(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.append(&buffer[..count])?;
            if !follow.advance(count) {
                return Err(CacheError::Abandoned);
            }
        }
    }

    fn append(&mut self, data: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(data).map_err(CacheError::io("writing", &self.files.part))?;
        self.hash.update(data);
        self.length += data.len() as u64;
        if self.length - self.flushed >= FLUSH_STEP {
            sys::start_writeback(&self.file, self.flushed, self.length - self.flushed);
            self.flushed = self.length;
        }
        if self.marked.elapsed() >= MARK_STEP {
            self.mark();
        } else if self.length - self.noted >= NOTE_STEP {
            self.note();
        }
        Ok(())
    }

    /// Whether there is a way to go on from here, and something missing.
    fn is_worth_marking(&self) -> bool {
        self.rest().is_some() && self.origin.total.is_none_or(|total| self.length < total)
    }

    /// Makes the bytes that are there something to go on from when this process is killed. That costs no sync.
    fn note(&mut self) {
        if !self.is_worth_marking() {
            return;
        }
        match &self.journal {
            Some(journal) => {
                // Nobody believes a note that does not hold.
                let _ = journal.note(&self.checkpoint());
                self.noted = self.length;
            }
            None => self.mark(),
        }
    }

    fn checkpoint(&self) -> HashedPrefix {
        HashedPrefix { length: self.length, sha256: hex(&self.hash.clone().finalize()) }
    }

    /// Makes the bytes that are there something to go on from after a crash. It is no reason to fail when that can't be
    /// done: then there is no mark.
    fn mark(&mut self) {
        if self.is_worth_marking() {
            self.journal = self.try_mark().ok();
            if self.journal.is_none() {
                let _ = self.files.discard_mark();
            }
        }
        (self.marked, self.noted) = (Instant::now(), self.length);
    }

    fn try_mark(&self) -> Result<CheckpointFile, CacheError> {
        self.file.sync_data().map_err(CacheError::io("syncing", &self.files.part))?;
        let written_at = seconds(self.clock.time());
        Checkpoint { safe: self.checkpoint(), written_at, origin: self.origin.clone() }.write(self.files)
    }

    /// Puts the whole image onto the disk, and says what it is. Its times are not set yet.
    pub(super) fn finish(self, url: String) -> Result<Sidecar, CacheError> {
        self.file.sync_all().map_err(CacheError::io("syncing", &self.files.part))?;
        let Origin { via, etag, last_modified, .. } = self.origin;
        let sha256 = hex(&self.hash.finalize());
        Ok(Sidecar {
            url,
            via,
            etag,
            last_modified,
            length: self.length,
            sha256,
            fetched_at: 0,
            checked_at: 0,
            verified: None,
        })
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The download failed. Keeps what another run can go on from, and gives how many bytes that is.
    pub(super) fn leave(mut self) -> Result<u64, CacheError> {
        if self.rest().is_none() {
            return self.files.discard_part().map(|()| 0);
        }
        // The space reserved for the rest is not needed until then.
        let _ = self.file.set_len(self.length);
        self.mark();
        Ok(if self.journal.is_some() { self.length } else { 0 })
    }
}

/// Removes what a killed or failed download left, unless it is worth going on with it at `now` (seconds since 1970). The
/// caller holds the entry's lock alone.
pub(super) fn remove_leftovers(files: &EntryFiles, now: u64) -> Result<(), CacheError> {
    files.discard_tmp()?;
    if useless(files, now).is_some() { files.discard_part() } else { Ok(()) }
}

/// What there is of a download that nobody goes on with at `now` (seconds since 1970) or later; none where there is
/// nothing, and where somebody can. Whether its bytes are still right is found out when they do.
pub(super) fn useless(files: &EntryFiles, now: u64) -> Option<&'static str> {
    let part = files.part_length();
    let Some(found) =
        SavedCheckpoint::read(files).filter(|found| found.is_usable() && part >= Some(found.mark.safe.length))
    else {
        return part
            .is_some()
            .then_some("a download that nobody can go on with")
            .or_else(|| files.has_mark().then_some("a download that is gone"));
    };
    // A time of the future is a clock set back, not age.
    let old = now.saturating_sub(found.mark.written_at) >= KEPT_FOR;
    old.then_some("a cut download that nobody went on with for a day")
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, HashedPrefix, Origin, PartialDownload, remove_leftovers};
    use crate::node::report::Report;
    use crate::store::cache::Clock;
    use crate::store::cache::entry::{EntryFiles, hex};
    use sha2::{Digest, Sha256};
    use std::fs;
    use std::time::{Duration, Instant, SystemTime};

    const NOW: u64 = 1_800_000_000;

    fn clock() -> Clock {
        Clock { now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), read_at: Instant::now() }
    }

    fn report() -> Report {
        Report::to_writer(None, false, std::io::sink())
    }

    fn origin() -> Origin {
        let validator = toml::from_str("source = 'http://h/x'\nif_range = '\"a\"'\n").unwrap();
        Origin {
            via: Vec::new(),
            etag: Some("\"a\"".to_owned()),
            last_modified: None,
            total: Some(10),
            validator: Some(validator),
        }
    }

    fn mark(content: &[u8]) -> Checkpoint {
        let safe = HashedPrefix { length: content.len() as u64, sha256: hex(&Sha256::digest(content)) };
        Checkpoint { safe, written_at: NOW, origin: origin() }
    }

    /// How much of `part` another run would go on from.
    fn usable(part: &[u8], mark: &str) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k");
        fs::write(&files.part, part).unwrap();
        fs::write(&files.mark, mark).unwrap();
        let found = PartialDownload::left_by_earlier_run(&files, clock(), &report())?;
        assert_eq!(found.rest().unwrap().from, found.length());
        assert_eq!(fs::metadata(&files.part).unwrap().len(), found.length());
        Some(found.length())
    }

    fn text(mark: &Checkpoint) -> String {
        toml::to_string(mark).unwrap()
    }

    #[test]
    fn only_bytes_that_the_mark_vouches_for_are_gone_on_from() {
        let good = text(&mark(b"01234"));
        assert_eq!(usable(b"01234", &good), Some(5));
        // What came after the mark may be torn.
        assert_eq!(usable(b"01234567", &good), Some(5));
        for torn in [&b"0123"[..], b"", b"01235", b"\0\0\0\0\0", b"01\x0034567"] {
            assert_eq!(usable(torn, &good), None, "{torn:?}");
        }
    }

    #[test]
    fn the_latest_note_counts_as_far_as_it_holds() {
        let note = |content: &[u8]| {
            let (length, sha256) = (content.len(), hex(&Sha256::digest(content)));
            format!("[latest]\nlength = {length:<20}\nsha256 = '{sha256}'\n")
        };
        let safe = |content: &[u8], note: &str| text(&mark(content)) + note;
        assert_eq!(usable(b"01234567", &safe(b"01234", &note(b"0123456"))), Some(7));
        assert_eq!(usable(b"01234567", &safe(b"", &note(b"0123456"))), Some(7), "nothing is safe yet");
        // What a power cut leaves: the note without its bytes, its bytes without all of the note, an older note.
        for (part, latest) in [
            (&b"01234"[..], note(b"0123456")),
            (b"01234\0\0\0", note(b"0123456")),
            (b"01234567", note(b"0123456").replace("length", "le\0gth")),
            (b"01234567", note(b"0123456")[..30].to_owned()),
            (b"01234567", note(b"012")),
            (b"01234567", note(b"0123x56")),
        ] {
            assert_eq!(usable(part, &safe(b"01234", &latest)), Some(5), "{part:?} {latest}");
        }
        assert_eq!(usable(b"\x001234567", &safe(b"01234", &note(b"0123456"))), None, "a safe byte is gone");
        assert_eq!(usable(b"01x34567", &safe(b"", &note(b"0123456"))), None);
    }

    #[test]
    fn a_mark_that_is_torn_or_says_too_little_is_none() {
        let good = text(&mark(b"01234"));
        for cut in 0..good.len() - 1 {
            assert_eq!(usable(b"01234", &good[..cut]), None, "{}", &good[..cut]);
        }
        assert_eq!(usable(b"01234", &"\0".repeat(good.len())), None);
        let without = Checkpoint { origin: Origin { validator: None, ..origin() }, ..mark(b"01234") };
        assert_eq!(usable(b"01234", &text(&without)), None);
        assert_eq!(usable(b"0123456789", &text(&mark(b"0123456789"))), None, "nothing is missing");
        assert_eq!(usable(b"", &text(&mark(b""))), None, "there is nothing");
        let unknown = Checkpoint { origin: Origin { total: None, ..origin() }, ..mark(b"0123456789") };
        assert_eq!(usable(b"0123456789", &text(&unknown)), Some(10));
    }

    #[test]
    fn a_link_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k");
        let golden = dir.path().join("golden");
        fs::write(&golden, "01234").unwrap();
        fs::write(&files.mark, text(&mark(b"0123"))).unwrap();
        std::os::unix::fs::symlink(&golden, &files.part).unwrap();
        assert!(PartialDownload::left_by_earlier_run(&files, clock(), &report()).is_none());
        assert_eq!(fs::read(&golden).unwrap(), b"01234");
    }

    #[test]
    fn leftovers_go_after_a_day_and_without_a_mark_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k");
        let left = |mark: &str, now| {
            fs::write(&files.part, "01234").unwrap();
            fs::write(&files.mark, mark).unwrap();
            fs::write(&files.tmp, "half").unwrap();
            remove_leftovers(&files, now).unwrap();
            assert!(!files.tmp.exists());
            assert_eq!(files.part.exists(), files.mark.exists());
            files.part.exists()
        };
        let good = text(&mark(b"01234"));
        assert!(left(&good, NOW + 86_399) && left(&good, NOW - 5));
        assert!(!left(&good, NOW + 86_400) && !left("", NOW));
        fs::write(&files.mark, &good).unwrap();
        remove_leftovers(&files, NOW).unwrap();
        assert!(!files.mark.exists(), "a mark of nothing");
    }
}
