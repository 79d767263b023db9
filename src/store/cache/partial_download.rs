// SPDX-License-Identifier: BSD-2-Clause
//! The `.part` file of a download, and the checkpoints from which a later run can resume it.
//!
//! Before a download is resumed, its bytes are read again and compared with the checkpoint. So neither a power cut nor a
//! crash nor a change by hand can put a wrong byte into an image. A file without a valid checkpoint is useless. So is one
//! that somebody else has begun, with another password or without looking at certificates: see `access`.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use super::access::Requester;
use super::checkpoint::{Checkpoint, CheckpointFile, HashedPrefix, Origin, SavedCheckpoint};
use super::entry::EntryFiles;
use super::error::CacheError;
use super::room::Room;
use super::shared_download::{DownloadInfo, SharedDownload};
use super::sidecar::Sidecar;
use super::{Clock, folder, seconds};
use crate::node::report::Report;
use crate::node::size::{ByteSize, MIB};
use crate::node::sys;
use crate::store::hex;
use crate::store::http::{Content, RangeRequest};

/// Bytes taken from the network at once, at most.
const BUFFER: usize = 256 << 10;

/// The disk begins to write the download after every so many bytes. Otherwise all of it would wait for the sync at the
/// end.
const FLUSH_STEP: u64 = 8 * MIB;

/// Time between checkpoints. A power cut loses what came after the last one. Each costs two syncs, of data that the disk
/// has been writing all along.
const CHECKPOINT_STEP: Duration = Duration::from_secs(2);

/// Bytes between the notes of a checkpoint. A process that is killed loses less than this and what is in [`BUFFER`].
const NOTE_STEP: u64 = 512 << 10;

/// A failed download waits this many seconds for a run that resumes it. Then it is removed to make room.
const MAX_AGE: u64 = 86_400;

/// A download in progress. The caller holds the entry's lock alone.
pub(super) struct PartialDownload<'a> {
    files: &'a EntryFiles,
    clock: Clock,
    origin: Origin,
    file: File,
    /// Bytes in the file, and their hash.
    length: u64,
    hash: Sha256,
    /// Bytes that the disk has begun to write.
    flushed: u64,
    /// Time of the last checkpoint, and its file if this run has written one.
    checkpoint_time: Instant,
    checkpoint: Option<CheckpointFile>,
    /// Bytes that the checkpoint or its note tells of.
    noted: u64,
    /// Whether the reader of the download knows this file.
    is_shared: bool,
    /// Whether the file system has set aside all that is missing.
    is_reserved: bool,
}

impl<'a> PartialDownload<'a> {
    /// Starts an empty file for the image that `content` brings.
    pub(super) fn begin(
        files: &'a EntryFiles,
        clock: Clock,
        content: &Content,
        requester: &Requester<'_>,
    ) -> Result<Self, CacheError> {
        files.discard_part()?;
        let origin = Origin {
            via: content.redirects.iter().map(ToString::to_string).collect(),
            etag: content.etag.clone(),
            last_modified: content.last_modified.clone(),
            total: content.content_length,
            validator: content.validator.clone(),
            access: requester.record(&content.redirects, 0),
        };
        let file = files.create_part()?;
        Ok(Self::new(files, clock, origin, file, (0, Sha256::new())))
    }

    /// What an earlier run left, up to the last byte that its checkpoint confirms; none if it can't be resumed.
    pub(super) fn left_by_earlier_run(
        files: &'a EntryFiles,
        clock: Clock,
        requester: &Requester<'_>,
        report: &Report,
    ) -> Option<Self> {
        let saved = SavedCheckpoint::read(files).filter(SavedCheckpoint::is_usable)?;
        if !requester.may_resume(&saved.checkpoint.origin.access) {
            return None;
        }
        let mut file = files.open_part().ok()??;
        // Reading the bytes takes some time.
        report.info(format_args!("checking what an earlier run has downloaded: {}", ByteSize(saved.length())));
        let (length, hash) = saved.verify(&file).filter(|(length, _)| *length > 0)?;
        file.set_len(length).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self::new(files, clock, saved.checkpoint.origin, file, (length, hash)))
    }

    fn new(files: &'a EntryFiles, clock: Clock, origin: Origin, file: File, (length, hash): (u64, Sha256)) -> Self {
        PartialDownload {
            files,
            clock,
            origin,
            file,
            length,
            hash,
            flushed: length,
            checkpoint_time: Instant::now(),
            checkpoint: None,
            noted: length,
            is_shared: false,
            is_reserved: false,
        }
    }

    /// The request for the missing bytes; none if the whole image has to be requested.
    pub(super) fn missing_range(&self) -> Option<RangeRequest> {
        let validator = self.origin.validator.clone().filter(|_| self.length > 0)?;
        Some(RangeRequest { from: self.length, total: self.origin.total, validator })
    }

    /// Takes over what is new in the answer with the missing bytes.
    pub(super) fn resume(&mut self, content: &Content) {
        self.origin.total = content.content_length.or(self.origin.total);
        for url in content.redirects.iter().map(ToString::to_string) {
            if !self.origin.via.contains(&url) {
                self.origin.via.push(url);
            }
        }
    }

    /// Reserves disk space, so that a full disk shows before the download and not near its end.
    pub(super) fn reserve(&mut self, room: &Room<'_>) -> Result<(), CacheError> {
        let Some(total) = self.origin.total else { return room.grow(self.length) };
        let missing = total.saturating_sub(self.length);
        room.announce(total, missing)?;
        let (Ok(at), Ok(len)) = (i64::try_from(self.length), i64::try_from(missing)) else {
            return Err(CacheError::io("writing", &self.files.part)(Errno::EFBIG.into()));
        };
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len) {
            Ok(()) => self.is_reserved = true,
            Err(Errno::ENOSPC | Errno::EDQUOT) => return Err(room.full(missing)),
            // There may be space, but files of this length are not permitted (ulimit) or not possible.
            Err(Errno::EFBIG) => return Err(CacheError::io("writing", &self.files.part)(Errno::EFBIG.into())),
            // Other errors mean that the file system can't reserve space.
            Err(_) => {}
        }
        Ok(())
    }

    /// Appends the body to the file, and tells the reader of `shared`.
    pub(super) fn receive(
        &mut self,
        content: &mut Content,
        shared: &SharedDownload,
        room: &Room<'_>,
    ) -> Result<(), CacheError> {
        if !self.is_shared {
            let info = DownloadInfo { length: self.origin.total, validator: self.origin.validator.clone() };
            let begun = shared.begin(&self.file, info, self.length);
            begun.map_err(CacheError::io("opening", &self.files.part))?;
            self.is_shared = true;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = content.body.receive(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.append(&buffer[..count], room)?;
            if !shared.advance(count) {
                return Err(CacheError::Abandoned);
            }
        }
    }

    fn append(&mut self, data: &[u8], room: &Room<'_>) -> Result<(), CacheError> {
        // Others may fill the disk meanwhile, but what was set aside for this image is its own.
        if !self.is_reserved {
            room.grow(self.length + data.len() as u64)?;
        }
        let written = self.file.write_all(data).map_err(CacheError::io("writing", &self.files.part));
        written.map_err(|error| if error.is_unwritable() { room.stopped(self.length) } else { error })?;
        self.hash.update(data);
        self.length += data.len() as u64;
        if self.length - self.flushed >= FLUSH_STEP {
            sys::start_writeback(&self.file, self.flushed, self.length - self.flushed);
            self.flushed = self.length;
        }
        if self.checkpoint_time.elapsed() >= CHECKPOINT_STEP {
            self.save_checkpoint();
        } else if self.length - self.noted >= NOTE_STEP {
            self.save_note();
        }
        Ok(())
    }

    /// Whether another run could resume the download here, and has bytes to request.
    fn is_resumable(&self) -> bool {
        self.missing_range().is_some() && self.origin.total.is_none_or(|total| self.length < total)
    }

    /// Saves how far the download is, in case this process is killed. That needs no sync.
    fn save_note(&mut self) {
        if !self.is_resumable() {
            return;
        }
        match &self.checkpoint {
            Some(file) => {
                // A note that is damaged does not count.
                let _ = file.write_note(&self.hashed_prefix());
                self.noted = self.length;
            }
            None => self.save_checkpoint(),
        }
    }

    /// Saves how far the download is, in case of a power cut. A failure only means that there is no checkpoint.
    fn save_checkpoint(&mut self) {
        if self.is_resumable() {
            self.checkpoint = self.try_save_checkpoint().ok();
            if self.checkpoint.is_none() {
                let _ = self.files.discard_checkpoint();
            }
        }
        (self.checkpoint_time, self.noted) = (Instant::now(), self.length);
    }

    fn try_save_checkpoint(&self) -> Result<CheckpointFile, CacheError> {
        self.file.sync_data().map_err(CacheError::io("syncing", &self.files.part))?;
        let written_at = seconds(self.clock.time());
        Checkpoint { safe: self.hashed_prefix(), written_at, origin: self.origin.clone() }.write(self.files)
    }

    fn hashed_prefix(&self) -> HashedPrefix {
        HashedPrefix { length: self.length, sha256: hex(&self.hash.clone().finalize()) }
    }

    /// Syncs the complete image to the disk, and describes it.
    pub(super) fn finish(self, url: String, requester: &Requester<'_>) -> Result<Sidecar, CacheError> {
        self.file.sync_all().map_err(CacheError::io("syncing", &self.files.part))?;
        let HashedPrefix { length, sha256 } = self.hashed_prefix();
        let Origin { via, etag, last_modified, .. } = self.origin;
        let now = seconds(self.clock.time());
        let access = vec![requester.record_of_texts(via.clone(), now)];
        let (fetched_at, checked_at, verified) = (now, now, None);
        Ok(Sidecar { url, via, etag, last_modified, length, sha256, fetched_at, checked_at, verified, access })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Ends a failed download. Keeps what another run can resume, and gives its number of bytes.
    pub(super) fn leave(mut self) -> Result<u64, CacheError> {
        if self.missing_range().is_none() {
            return self.files.discard_part().map(|()| 0);
        }
        // This gives back the reserved space, which the next run reserves again.
        let _ = self.file.set_len(self.length);
        self.save_checkpoint();
        Ok(if self.checkpoint.is_some() { self.length } else { 0 })
    }
}

/// Removes what a killed or failed download left, unless it can be resumed at `now` (seconds since 1970). The caller
/// holds the entry's lock alone.
pub(super) fn remove_leftovers(files: &EntryFiles, now: u64) -> Result<(), CacheError> {
    files.discard_tmp()?;
    if useless(files, now).is_some() { files.discard_part() } else { Ok(()) }
}

/// Why what is left of a download is useless at `now` (seconds since 1970). It is none if nothing is left, or the download
/// can be resumed. The hashes are not compared before that happens.
pub(super) fn useless(files: &EntryFiles, now: u64) -> Option<&'static str> {
    let part = files.part_length();
    let saved = SavedCheckpoint::read(files).filter(SavedCheckpoint::is_usable);
    match (part, saved) {
        (Some(length), Some(saved)) if length >= saved.checkpoint.safe.length => {
            // A time in the future means that the clock was set back.
            let is_old = now.saturating_sub(saved.checkpoint.written_at) >= MAX_AGE;
            is_old.then_some("an interrupted download that nobody resumed for a day")
        }
        (Some(_), _) => Some("an interrupted download that can't be resumed"),
        (None, _) => folder::regular_file(&files.mark).map(|_| "the checkpoint of a download that is gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, HashedPrefix, Origin, PartialDownload, remove_leftovers};
    use crate::node::report::Report;
    use crate::store::cache::Clock;
    use crate::store::cache::access::Requester;
    use crate::store::cache::entry::{EntryFiles, Naming};
    use crate::store::hex;
    use crate::store::http::{Client, HttpSettings, ImageUrl};
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
            access: toml::from_str("tls = 'none'\nchecked_at = 0\n").unwrap(),
        }
    }

    fn checkpoint(content: &[u8]) -> Checkpoint {
        let safe = HashedPrefix { length: content.len() as u64, sha256: hex(&Sha256::digest(content)) };
        Checkpoint { safe, written_at: NOW, origin: origin() }
    }

    /// What another run would go on with.
    fn left(files: &EntryFiles) -> Option<PartialDownload<'_>> {
        let (client, url) = (Client::new(&HttpSettings::default()).unwrap(), ImageUrl::parse("http://h/x").unwrap());
        let requester = Requester::new(&client, &url, files.img.parent().unwrap());
        PartialDownload::left_by_earlier_run(files, clock(), &requester, &report())
    }

    /// How many bytes of `part` another run would use.
    fn usable(part: &[u8], checkpoint: &str) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
        fs::write(&files.part, part).unwrap();
        fs::write(&files.mark, checkpoint).unwrap();
        let found = left(&files)?;
        assert_eq!(found.missing_range().unwrap().from, found.length());
        assert_eq!(fs::metadata(&files.part).unwrap().len(), found.length());
        Some(found.length())
    }

    fn text(checkpoint: &Checkpoint) -> String {
        toml::to_string(checkpoint).unwrap()
    }

    #[test]
    fn only_bytes_that_the_checkpoint_confirms_are_used() {
        let good = text(&checkpoint(b"01234"));
        assert_eq!(usable(b"01234", &good), Some(5));
        // What came after the checkpoint may be torn.
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
        let safe = |content: &[u8], note: &str| text(&checkpoint(content)) + note;
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
    fn a_checkpoint_that_is_torn_or_says_too_little_is_none() {
        let good = text(&checkpoint(b"01234"));
        for cut in 0..good.len() - 1 {
            assert_eq!(usable(b"01234", &good[..cut]), None, "{}", &good[..cut]);
        }
        assert_eq!(usable(b"01234", &"\0".repeat(good.len())), None);
        let without = Checkpoint { origin: Origin { validator: None, ..origin() }, ..checkpoint(b"01234") };
        assert_eq!(usable(b"01234", &text(&without)), None);
        assert_eq!(usable(b"0123456789", &text(&checkpoint(b"0123456789"))), None, "nothing is missing");
        assert_eq!(usable(b"", &text(&checkpoint(b""))), None, "there is nothing");
        let unknown = Checkpoint { origin: Origin { total: None, ..origin() }, ..checkpoint(b"0123456789") };
        assert_eq!(usable(b"0123456789", &text(&unknown)), Some(10));
    }

    #[test]
    fn a_link_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
        let golden = dir.path().join("golden");
        fs::write(&golden, "01234").unwrap();
        fs::write(&files.mark, text(&checkpoint(b"0123"))).unwrap();
        std::os::unix::fs::symlink(&golden, &files.part).unwrap();
        assert!(left(&files).is_none());
        assert_eq!(fs::read(&golden).unwrap(), b"01234");
    }

    #[test]
    fn leftovers_go_after_a_day_and_without_a_checkpoint_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
        let left = |checkpoint: &str, now| {
            fs::write(&files.part, "01234").unwrap();
            fs::write(&files.mark, checkpoint).unwrap();
            fs::write(&files.tmp, "half").unwrap();
            remove_leftovers(&files, now).unwrap();
            assert!(!files.tmp.exists());
            assert_eq!(files.part.exists(), files.mark.exists());
            files.part.exists()
        };
        let good = text(&checkpoint(b"01234"));
        assert!(left(&good, NOW + 86_399) && left(&good, NOW - 5));
        assert!(!left(&good, NOW + 86_400) && !left("", NOW));
        fs::write(&files.mark, &good).unwrap();
        remove_leftovers(&files, NOW).unwrap();
        assert!(!files.mark.exists(), "a checkpoint of nothing");
    }
}
