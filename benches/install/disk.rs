// SPDX-License-Identifier: BSD-2-Clause
//! The disks that are written: loop devices over files without a name, so that the kernel takes both away when this
//! program ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use loopdev::{LoopControl, LoopDevice};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use simpleimage::disk::device::AlignedBuf;
use simpleimage::node::file::descriptor_path;
use simpleimage::node::size::MIB;

use crate::extents;

/// One write while a disk is filled, in bytes.
const STEP: usize = 4 << 20;

/// How often a free loop device is asked for: another program may take it first.
const ATTACH_TRIES: usize = 50;

/// How many places of a disk are looked at to see that it really holds old data.
const SAMPLES: u64 = 256;

/// A block device over a file.
pub(crate) struct Disk {
    /// Open for reading only, as is the device: a disk that somebody can write to is in use, and create refuses it.
    backing: File,
    path: PathBuf,
    size: u64,
    /// Bytes from the start that hold old data before a run; the rest is a hole.
    stale: u64,
    /// Attached for as long as this is open.
    _device: File,
}

impl Disk {
    /// A disk of `size` bytes in `folder`, the first `stale` of which will be preallocated and hold old data.
    pub(crate) fn new(folder: &Path, size: u64, stale: u64) -> anyhow::Result<Self> {
        let backing =
            tempfile::tempfile_in(folder).with_context(|| format!("making a disk in {}", folder.display()))?;
        backing.set_len(size)?;
        let device = attach(&backing).context("attaching a loop device")?;
        let path = device.path().context("the loop device has no path")?;
        let _device = File::open(&path)?;
        let backing = File::open(descriptor_path(&backing))?;
        Ok(Disk { backing, path, size, stale, _device })
    }

    /// The block device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file below it.
    pub(crate) fn backing(&self) -> &File {
        &self.backing
    }

    /// Fills the disk with old data, the same way before every run of every contender: whatever the last one did to
    /// the file (holes, unwritten extents), it is again allocated and written, and nothing of it is in the page cache.
    pub(crate) fn refill(&self) -> anyhow::Result<()> {
        let direct = self.open_direct()?;
        if self.stale < self.size {
            direct.set_len(self.stale)?;
            direct.set_len(self.size)?;
        }
        fallocate(&direct, FallocateFlags::empty(), 0, i64::try_from(self.stale)?)?;
        let pattern = old_data();
        let mut at = 0;
        while at < self.stale {
            let step = usize::try_from(self.stale - at).unwrap_or(STEP).min(STEP);
            direct.write_all_at(&pattern[..step], at)?;
            at += step as u64;
        }
        self.chill()?;
        self.ensure_stale(&direct, &pattern)
    }

    /// Opens the file below the disk past the page cache.
    fn open_direct(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(descriptor_path(&self.backing))
    }

    /// Copies all of `image`, its zeros written out, as on a disk that was in use for long.
    pub(crate) fn fill_with(&self, image: &File) -> anyhow::Result<()> {
        let direct = self.open_direct()?;
        let mut buffer = AlignedBuf::new(STEP);
        let mut at = 0;
        while at < self.size {
            let step = usize::try_from(self.size - at).unwrap_or(STEP).min(STEP);
            extents::read_or_zero(image, &mut buffer[..step], at)?;
            direct.write_all_at(&buffer[..step], at)?;
            at += step as u64;
        }
        self.chill()
    }

    /// Nothing of the disk is left in the page cache, neither of the file nor of the device.
    pub(crate) fn chill(&self) -> anyhow::Result<()> {
        self.backing.sync_all()?;
        let flushed = Command::new("blockdev").arg("--flushbufs").arg(&self.path).status();
        ensure!(flushed.context("running blockdev")?.success(), "blockdev --flushbufs failed");
        posix_fadvise(&self.backing, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }

    fn ensure_stale(&self, direct: &File, pattern: &[u8]) -> anyhow::Result<()> {
        let written = extents::data(&self.backing)?;
        ensure!(
            matches!(&written[..], [whole] if *whole == (0..self.stale)),
            "the disk is not full of old data: {written:?}"
        );
        let mut block = AlignedBuf::new(4096);
        let blocks = self.stale / 4096;
        for sample in 0..SAMPLES.min(blocks) {
            let at = sample * (blocks / SAMPLES.min(blocks)) * 4096;
            direct.read_exact_at(&mut block, at)?;
            let in_pattern = usize::try_from(at % STEP as u64)?;
            ensure!(block[..] == pattern[in_pattern..in_pattern + 4096], "no old data at byte {at} of the disk");
        }
        Ok(())
    }
}

/// Bytes that no contender writes, in which nothing repeats.
pub(crate) fn old_data() -> AlignedBuf {
    let mut buffer = AlignedBuf::new(STEP);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for word in buffer.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    buffer
}

fn attach(backing: &File) -> io::Result<LoopDevice> {
    let control = LoopControl::open()?;
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTACH_TRIES {
        let device = control.next_free()?;
        match device.with().autoclear(true).attach_fd(backing.as_raw_fd()) {
            Ok(()) => return Ok(device),
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => last = err,
            Err(err) => return Err(err),
        }
    }
    Err(last)
}

/// A file system of its own in a sparse file. A disk in it can be far larger than the free space of the machine, even
/// when a contender makes the file system reserve all of it, as zeroing ranges of a loop device does.
pub(crate) struct Nested {
    mount: PathBuf,
}

impl Nested {
    /// With room for `capacity` bytes of files, on a disk that has far less: only what is written takes space there.
    pub(crate) fn mount(folder: &Path, capacity: u64) -> anyhow::Result<Self> {
        let (image, mount) = (folder.join("nested.img"), folder.join("nested"));
        fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(capacity + capacity / 16 + 512 * MIB)?;
        // Nothing initialised lazily: the kernel would go on writing behind the measurements.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-J", "size=64", "-T", "largefile4", "-E", lazy])
            .arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        fs::remove_file(&image)?;
        Ok(Nested { mount })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        // Were it to fail, the mount would still be gone with this program's mount namespace.
        let _ = run(Command::new("umount").arg(&self.mount));
        let _ = fs::remove_dir(&self.mount);
    }
}

/// Runs a tool, which has to succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("running {program}"))?;
    ensure!(status.success(), "{program} failed ({status})");
    Ok(())
}
