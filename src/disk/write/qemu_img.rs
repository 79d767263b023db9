// SPDX-License-Identifier: BSD-2-Clause
//! Copies an image of a format other than raw. qemu-img decodes and writes it, except for the boot area.
//!
//! If zeroing by range costs little time and space on the disk, this program zeroes the disk first, and qemu-img writes
//! only data (`--target-is-zero`). Otherwise qemu-img writes the zeros too.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::writer::ExpectedContent;
use super::{BOOT_AREA, DiskWriter, WriteError, check_fits, readback};
use crate::disk::device::{DirectReader, DiskKind, ReadAt, Target};
use crate::node::file::descriptor_path;
use crate::node::process::{self, Children, Lifetime};
use crate::node::sandbox::{Sandbox, Tool, ToolAccess};

/// The number of requests that qemu-img has in progress at the same time. 16 were measured to be 1.1 times as fast as
/// its default of 8.
const COROUTINES: &str = "16";

/// The unit of qemu-img's offsets, and of the differences that `qemu-img compare` finds, in bytes.
const SECTOR: u64 = 512;

/// Writes the image in `file` to the disk. qemu-img reads it with `driver`, and it holds a disk of `size` bytes. The
/// caller has checked the image.
///
/// qemu-img inherits both files as descriptors, so nobody can exchange a path meanwhile, and it gets explicit formats,
/// so it guesses nothing. The offset of its raw driver lets it leave out the first MiB. A second run of it reads the
/// first MiB into memory, so that this disk also becomes bootable at the very end. It runs in a sandbox, because the
/// image may be an attacker's.
pub fn convert(
    file: &File,
    driver: &'static str,
    size: u64,
    writer: &mut DiskWriter<'_>,
    children: &Children,
) -> Result<(), WriteError> {
    check_fits(size, writer.target())?;
    (writer.image_len, writer.by_qemu) = (size, true);
    let image = QemuImage { file: file.try_clone().map_err(WriteError::Image)?, driver };
    let boot_len = writer.boot_len().min(size);
    if size > boot_len {
        convert_rest(&image, boot_len, size - boot_len, writer, children)?;
    }
    let boot = read_part(&image, 0, boot_len, children)?;
    if let Some(expected) = &mut writer.expected {
        let converted = ConvertedImage { image, start: boot_len, size, children: children.clone() };
        *expected = ExpectedContent::Converted(converted);
    }
    writer.data(&boot, 0)
}

/// The disk in an image that qemu-img reads. It is used to examine places of the disk. Each read runs a process, as
/// [`convert`] does, but one process is enough for the first MiB.
pub struct QemuDisk<'c> {
    image: QemuImage,
    size: u64,
    children: &'c Children,
    beginning: OnceCell<Vec<u8>>,
}

impl<'c> QemuDisk<'c> {
    /// Takes the image in `file`, which qemu-img reads with `driver` and which holds a disk of `size` bytes. The caller
    /// has checked the image.
    pub(crate) fn open(file: &File, driver: &'static str, size: u64, children: &'c Children) -> io::Result<Self> {
        let image = QemuImage { file: file.try_clone()?, driver };
        Ok(QemuDisk { image, size, children, beginning: OnceCell::new() })
    }

    fn part(&self, start: u64, len: u64) -> io::Result<Vec<u8>> {
        read_part(&self.image, start, len, self.children).map_err(io::Error::other)
    }

    fn beginning(&self) -> io::Result<&[u8]> {
        if let Some(known) = self.beginning.get() {
            return Ok(known);
        }
        let read = self.part(0, self.size.min(BOOT_AREA as u64))?;
        Ok(self.beginning.get_or_init(|| read))
    }
}

impl ReadAt for QemuDisk<'_> {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let start = offset - offset % SECTOR;
        let index = |at: u64| usize::try_from(at).map_err(io::Error::other);
        if end <= BOOT_AREA as u64 {
            buf.copy_from_slice(&self.beginning()?[index(offset)?..index(end)?]);
            return Ok(());
        }
        let bytes = self.part(start, end.next_multiple_of(SECTOR).min(self.size) - start)?;
        buf.copy_from_slice(&bytes[index(offset - start)?..index(end - start)?]);
        Ok(())
    }
}

/// An open image, and qemu-img's name for its format.
struct QemuImage {
    file: File,
    driver: &'static str,
}

impl QemuImage {
    /// Returns qemu-img's description of the disk in the image, limited to `len` bytes from `start` on.
    fn options(&self, start: u64, len: u64) -> String {
        let path = descriptor_path(&self.file);
        format!(
            "driver=raw,offset={start},size={len},file.driver={},file.file.driver=file,file.file.locking=off,file.file.filename={}",
            self.driver,
            path.display()
        )
    }
}

/// Lets qemu-img write `len` bytes from `start` on to the disk.
fn convert_rest(
    image: &QemuImage,
    start: u64,
    len: u64,
    writer: &DiskWriter<'_>,
    children: &Children,
) -> Result<(), WriteError> {
    let target = writer.target();
    let mut command = convert_command();
    let (target_cache, source_cache) = (cache(target.takes_direct_io()), cache(is_better_direct(&image.file)));
    command.args(["-W", "-m", COROUTINES, "-t", target_cache, "-T", source_cache]);
    if target.zeroes_cheaply() {
        // The disk is zeroed here. This program never assumes that it is zero.
        writer.zero(start, len)?;
        command.arg("--target-is-zero");
    }
    // The progress of qemu-img (-p) begins at 0, so what was zeroed before is not counted.
    command.arg("-p");
    writer.done.store(0, Ordering::Relaxed);
    let progress = |hundredths: u64| {
        let done = u128::from(len) * u128::from(hundredths) / 10_000;
        writer.done.store(u64::try_from(done).unwrap_or(len), Ordering::Relaxed);
    };
    command.arg(image.options(start, len)).arg(disk_options(target, start, len));
    let file_size = if target.kind() == DiskKind::File { target.size() } else { 0 };
    let access =
        ToolAccess { tool: Tool::QemuImg, sources: &[&image.file], disks: &[target.file()], file_size, bytes: len };
    run(command, access, &[&image.file, target.file()], children, progress)
}

/// Parses the progress in a line such as ` (12.34/100%)`, and returns it in hundredths of a percent.
fn hundredths(line: &str) -> Option<u64> {
    let (whole, hundredths) = line.trim_start().strip_prefix('(')?.strip_suffix("/100%)")?.split_once('.')?;
    let number = |text: &str| text.parse::<u64>().ok();
    if hundredths.len() != 2 {
        return None;
    }
    Some(number(whole)?.min(100) * 100 + number(hundredths)?)
}

/// An image that qemu-img has written to a disk.
pub(super) struct ConvertedImage {
    image: QemuImage,
    /// The place on the disk where qemu-img began to write, in bytes.
    start: u64,
    /// The size in bytes of the disk in the image.
    size: u64,
    children: Children,
}

impl ConvertedImage {
    /// Lets qemu-img decode the image again and compare it with the disk, which it reads without the page cache.
    pub(super) fn check(&self, target: &Target) -> Result<(), WriteError> {
        if self.size <= self.start {
            return Ok(());
        }
        let direct = target.read_back().is_direct();
        let len = self.size - self.start;
        let mut command = qemu_img("compare");
        command.args(["--image-opts", "-T", cache(is_better_direct(&self.image.file))]);
        let disk =
            format!("{},cache.direct={}", disk_options(target, self.start, len), if direct { "on" } else { "off" });
        command.arg(self.image.options(self.start, len)).arg(disk);
        let sources: [&File; 2] = [&self.image.file, target.file()];
        let access = ToolAccess { tool: Tool::QemuImg, sources: &sources, disks: &[], file_size: 0, bytes: 2 * len };
        let (status, last_line) = run_to_end(command, access, &sources, &self.children, |_| ())?;
        match status.code() {
            Some(0) => Ok(()),
            // 1 means that the images differ. qemu-img(1) has other codes for errors.
            Some(1) => {
                let sector = mismatch_offset(&last_line).map(|at| self.start + at..self.start + at + SECTOR);
                Err(readback::differs(target, sector.unwrap_or(self.start..self.size), "the image"))
            }
            _ => Err(failed(status, last_line)),
        }
    }
}

/// Returns the number in "Content mismatch at offset 1048576!".
fn mismatch_offset(line: &str) -> Option<u64> {
    line.strip_prefix("Content mismatch at offset ")?.trim_end_matches('!').parse().ok()
}

/// Returns qemu-img's name of a cache mode. "none" is direct I/O, which not every file system offers.
fn cache(direct: bool) -> &'static str {
    if direct { "none" } else { "writeback" }
}

/// Returns qemu-img's description of the disk, limited to `len` bytes from `start` on. qemu-img gets no more than that,
/// because it may zero everything that it is given. It takes no locks, because this process holds them.
fn disk_options(target: &Target, start: u64, len: u64) -> String {
    let driver = match target.kind() {
        DiskKind::Block => "host_device",
        DiskKind::File => "file",
    };
    let path = descriptor_path(target.file());
    format!(
        "driver=raw,offset={start},size={len},file.driver={driver},file.locking=off,file.filename={}",
        path.display()
    )
}

/// Returns whether the image can be read without the page cache, and is not in it already, which would be faster.
fn is_better_direct(file: &File) -> bool {
    let reader = DirectReader::new(file);
    let len = file.metadata().ok().and_then(|data| usize::try_from(data.len()).ok());
    reader.is_direct() && !len.is_some_and(|len| reader.is_cached(0, len))
}

/// Reads `len` bytes from `start` on of the disk in the image. Both are on sector boundaries, except for the end of the
/// disk.
fn read_part(image: &QemuImage, start: u64, len: u64, children: &Children) -> Result<Vec<u8>, WriteError> {
    let memory_error = |err: io::Error| WriteError::QemuImg(format!("preparing memory for the boot area: {err}"));
    let memory = memfd_create(c"simpleimage-boot-area", MFdFlags::MFD_CLOEXEC);
    let memory = File::from(memory.map_err(|err| memory_error(err.into()))?);
    memory.set_len(len).map_err(memory_error)?;
    let mut command = convert_command();
    let target =
        format!("driver=raw,file.driver=file,file.locking=off,file.filename={}", descriptor_path(&memory).display());
    command.arg(image.options(start, len)).arg(target);
    let access = ToolAccess { tool: Tool::QemuImg, sources: &[&image.file], disks: &[], file_size: len, bytes: len };
    run(command, access, &[&image.file, &memory], children, |_| ())?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|err| memory_error(io::Error::other(err)))?];
    memory.read_exact_at(&mut bytes, 0).map_err(memory_error)?;
    Ok(bytes)
}

fn qemu_img(subcommand: &str) -> Command {
    // An attacker's image could make qemu-img leak its environment.
    let mut command = process::plain("qemu-img");
    command.arg(subcommand);
    command
}

fn convert_command() -> Command {
    let mut command = qemu_img("convert");
    command.args(["-n", "--image-opts", "--target-image-opts"]);
    command
}

fn run(
    command: Command,
    access: ToolAccess<'_>,
    files: &[&File; 2],
    children: &Children,
    progress: impl Fn(u64),
) -> Result<(), WriteError> {
    let (status, last_line) = run_to_end(command, access, files, children, progress)?;
    if status.success() { Ok(()) } else { Err(failed(status, last_line)) }
}

/// Runs qemu-img, which inherits `files`. Returns its exit status and last line. `progress` is called with hundredths
/// of a percent.
fn run_to_end(
    mut command: Command,
    access: ToolAccess<'_>,
    files: &[&File; 2],
    children: &Children,
    progress: impl Fn(u64),
) -> Result<(ExitStatus, String), WriteError> {
    let mut last_line = String::new();
    let keep = files.map(AsFd::as_fd);
    let sandbox = Sandbox::for_tool(&command, access)
        .map_err(|err| WriteError::QemuImg(format!("preparing qemu-img's sandbox: {err}")))?;
    sandbox.confine(&mut command);
    let on_line = |line: &str| match hundredths(line) {
        Some(done) => progress(done),
        None if line.is_empty() => {}
        None => line.clone_into(&mut last_line),
    };
    match process::run(command, &keep, Lifetime::Child, children, on_line) {
        Ok(status) => Ok((status, last_line)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Err(WriteError::QemuImg("qemu-img is not installed (install the package qemu-utils)".to_owned()))
        }
        Err(err) => Err(WriteError::QemuImg(format!("running qemu-img: {err}"))),
    }
}

fn failed(status: ExitStatus, last_line: String) -> WriteError {
    WriteError::QemuImg(if last_line.is_empty() { format!("qemu-img failed ({status})") } else { last_line })
}

#[cfg(test)]
mod tests {
    use super::hundredths;

    #[test]
    fn only_what_qemu_img_says_of_its_progress_is_progress() {
        for (line, expected) in [
            ("    (0.00/100%)", Some(0)),
            ("    (12.34/100%)", Some(1234)),
            ("    (100.00/100%)", Some(10_000)),
            ("(1.5/100%)", None),
            ("(x.00/100%)", None),
            ("qemu-img: error while reading at byte 0: (12.34/100%)", None),
            ("", None),
        ] {
            assert_eq!(hundredths(line), expected, "{line}");
        }
    }
}
