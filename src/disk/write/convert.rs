// SPDX-License-Identifier: BSD-2-Clause
//! Copies an image in a format of its own: qemu-img decodes and writes it, except for the boot area.
//!
//! Where zeroing by range is cheap, also in room, this program zeroes the disk first, and qemu-img writes only data
//! (`--target-is-zero`). Elsewhere qemu-img writes the zeros too.

use std::cell::OnceCell;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{BOOT_AREA, DiskWriter, Expected, WriteError, check_fits, readback};
use crate::disk::device::{DirectReader, DiskKind, ReadAt, Target, descriptor_path};
use crate::node::process::{self, Children, Lifetime};
use crate::node::sandbox::{Sandbox, ToolAccess};

/// Requests that qemu-img keeps in flight; measured: 16 is 1.1 times as fast as its default of 8.
const COROUTINES: &str = "16";

/// The unit of qemu-img's places, and what `qemu-img compare` calls different, in bytes.
const SECTOR: u64 = 512;

/// Writes the image in `file` to the disk, which qemu-img reads with `driver`, and which holds a disk of `size` bytes.
/// The caller has checked it.
///
/// qemu-img sees both files through inherited descriptors, so no path can be exchanged behind our back, and with an
/// explicit format, so it guesses nothing. Through its raw driver's offset it leaves out the first MiB, which it hands
/// over in memory instead, so that this disk too becomes bootable at the very end. It runs in a sandbox, for it reads
/// what a stranger wrote.
pub fn convert(
    file: &File,
    driver: &'static str,
    size: u64,
    writer: &mut DiskWriter<'_>,
    children: &Children,
) -> Result<(), WriteError> {
    check_fits(size, writer.target())?;
    (writer.image_len, writer.by_qemu) = (size, true);
    let image = Image { file: file.try_clone().map_err(WriteError::Image)?, driver };
    let boot_len = writer.boot_len().min(size);
    if size > boot_len {
        convert_rest(&image, boot_len, size - boot_len, writer, children)?;
    }
    let boot = part(&image, 0, boot_len, children)?;
    if let Some(expected) = &mut writer.expected {
        *expected = Expected::Converted(Converted { image, start: boot_len, size, children: children.clone() });
    }
    writer.data(&boot, 0)
}

/// The disk in an image that qemu-img reads, for a look at places of it: each costs a process, as for [`convert`], but the
/// first MiB only one.
pub struct QemuDisk<'c> {
    image: Image,
    size: u64,
    children: &'c Children,
    beginning: OnceCell<Vec<u8>>,
}

impl<'c> QemuDisk<'c> {
    /// Of `size` bytes, in `file`, which qemu-img reads with `driver`. The caller has checked it.
    pub(crate) fn open(file: &File, driver: &'static str, size: u64, children: &'c Children) -> io::Result<Self> {
        Ok(QemuDisk { image: Image { file: file.try_clone()?, driver }, size, children, beginning: OnceCell::new() })
    }

    fn part(&self, start: u64, len: u64) -> io::Result<Vec<u8>> {
        part(&self.image, start, len, self.children).map_err(io::Error::other)
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
struct Image {
    file: File,
    driver: &'static str,
}

impl Image {
    /// qemu-img's words for `len` bytes from `start` of the disk in it.
    fn source(&self, start: u64, len: u64) -> String {
        let path = descriptor_path(&self.file);
        format!(
            "driver=raw,offset={start},size={len},file.driver={},file.file.driver=file,file.file.locking=off,file.file.filename={}",
            self.driver,
            path.display()
        )
    }
}

fn convert_rest(
    image: &Image,
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
        // Zeroed here by range, so that qemu-img writes nothing but data. Never on trust that the disk is zero.
        writer.zero(start, len)?;
        command.arg("--target-is-zero");
    }
    // It tells how far it is; what was zeroed for it is not counted twice.
    command.arg("-p");
    writer.done.store(0, Ordering::Relaxed);
    let progress = |hundredths: u64| {
        let done = u128::from(len) * u128::from(hundredths) / 10_000;
        writer.done.store(u64::try_from(done).unwrap_or(len), Ordering::Relaxed);
    };
    command.arg(image.source(start, len)).arg(disk(target, start, len));
    let file_size = if target.kind() == DiskKind::File { target.size() } else { 0 };
    let work = ToolAccess { sources: &[&image.file], disks: &[target.file()], file_size, bytes: len };
    run(command, work, &[&image.file, target.file()], children, progress)
}

/// How far qemu-img is, in hundredths of a percent, in a line as `    (12.34/100%)`.
fn hundredths(line: &str) -> Option<u64> {
    let (whole, hundredths) = line.trim_start().strip_prefix('(')?.strip_suffix("/100%)")?.split_once('.')?;
    let number = |text: &str| text.parse::<u64>().ok();
    (hundredths.len() == 2).then_some(number(whole)?.min(100) * 100 + number(hundredths)?)
}

/// An image that qemu-img has written to a disk.
pub(super) struct Converted {
    image: Image,
    /// Where on the disk it began to write, in bytes.
    start: u64,
    /// Size of the disk in the image, in bytes.
    size: u64,
    children: Children,
}

impl Converted {
    /// Has qemu-img decode the image once more and compare it with what the disk holds, which is read past the page cache.
    pub(super) fn check(&self, target: &Target) -> Result<(), WriteError> {
        if self.size <= self.start {
            return Ok(());
        }
        let direct = target.read_back().is_direct();
        let len = self.size - self.start;
        let mut command = qemu_img("compare");
        command.args(["--image-opts", "-T", cache(is_better_direct(&self.image.file))]);
        let disk = format!("{},cache.direct={}", disk(target, self.start, len), if direct { "on" } else { "off" });
        command.arg(self.image.source(self.start, len)).arg(disk);
        let work = ToolAccess { sources: &[&self.image.file, target.file()], disks: &[], file_size: 0, bytes: 2 * len };
        let (status, said) = output(command, work, &[&self.image.file, target.file()], &self.children, |_| ())?;
        match status.code() {
            Some(0) => Ok(()),
            // "Images differ", as opposed to an error: qemu-img(1).
            Some(1) => {
                let sector = offset_in(&said).map(|at| self.start + at..self.start + at + SECTOR);
                Err(readback::differs(target, sector.unwrap_or(self.start..self.size), "the image"))
            }
            _ => Err(failed(status, said)),
        }
    }
}

/// The number in "Content mismatch at offset 1048576!".
fn offset_in(said: &str) -> Option<u64> {
    said.strip_prefix("Content mismatch at offset ")?.trim_end_matches('!').parse().ok()
}

/// qemu-img's word for a cache mode: "none" is past the page cache, which not every file system offers.
fn cache(direct: bool) -> &'static str {
    if direct { "none" } else { "writeback" }
}

/// qemu-img's words for `len` bytes from `start` of the disk. It may zero all that it is given, so that is all it gets.
/// It takes no locks of its own: we hold them.
fn disk(target: &Target, start: u64, len: u64) -> String {
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

/// Whether the image can be read past the page cache, and does not lie in it already, from where it comes faster.
fn is_better_direct(file: &File) -> bool {
    let reader = DirectReader::new(file);
    let len = file.metadata().ok().and_then(|data| usize::try_from(data.len()).ok());
    reader.is_direct() && !len.is_some_and(|len| reader.is_cached(0, len))
}

/// `len` bytes from `start` of the disk in the image; both are whole sectors, or the disk's end.
fn part(image: &Image, start: u64, len: u64, children: &Children) -> Result<Vec<u8>, WriteError> {
    let memory_error = |err: io::Error| WriteError::QemuImg(format!("preparing memory for the boot area: {err}"));
    let memory =
        memfd_create(c"simpleimage-boot-area", MFdFlags::MFD_CLOEXEC).map_err(|err| memory_error(err.into()))?;
    let memory = File::from(memory);
    memory.set_len(len).map_err(memory_error)?;
    let mut command = convert_command();
    let target =
        format!("driver=raw,file.driver=file,file.locking=off,file.filename={}", descriptor_path(&memory).display());
    command.arg(image.source(start, len)).arg(target);
    let work = ToolAccess { sources: &[&image.file], disks: &[], file_size: len, bytes: len };
    run(command, work, &[&image.file, &memory], children, |_| ())?;
    let mut boot = vec![0; usize::try_from(len).map_err(|err| memory_error(io::Error::other(err)))?];
    memory.read_exact_at(&mut boot, 0).map_err(memory_error)?;
    Ok(boot)
}

fn qemu_img(subcommand: &str) -> Command {
    let mut command = Command::new("qemu-img");
    // OS parameters may be secrets, and it reads what a stranger wrote.
    command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path))).env("LC_ALL", "C").arg(subcommand);
    command
}

fn convert_command() -> Command {
    let mut command = qemu_img("convert");
    command.args(["-n", "--image-opts", "--target-image-opts"]);
    command
}

fn run(
    command: Command,
    work: ToolAccess<'_>,
    files: &[&File; 2],
    children: &Children,
    progress: impl Fn(u64),
) -> Result<(), WriteError> {
    let (status, said) = output(command, work, files, children, progress)?;
    if status.success() { Ok(()) } else { Err(failed(status, said)) }
}

/// Exit status and last line of qemu-img, which inherits `files`. How far it says that it is goes to `progress`.
fn output(
    mut command: Command,
    work: ToolAccess<'_>,
    files: &[&File; 2],
    children: &Children,
    progress: impl Fn(u64),
) -> Result<(ExitStatus, String), WriteError> {
    let mut last = String::new();
    let keep = files.map(AsFd::as_fd);
    let sandbox = Sandbox::for_tool(&command, work)
        .map_err(|err| WriteError::QemuImg(format!("preparing qemu-img's sandbox: {err}")))?;
    sandbox.confine(&mut command);
    let on_line = |line: &str| match hundredths(line) {
        Some(done) => progress(done),
        None if line.is_empty() => {}
        None => line.clone_into(&mut last),
    };
    match process::run(command, &keep, Lifetime::Child, children, on_line) {
        Ok(status) => Ok((status, last)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Err(WriteError::QemuImg("qemu-img is not installed (install the package qemu-utils)".to_owned()))
        }
        Err(err) => Err(WriteError::QemuImg(format!("running qemu-img: {err}"))),
    }
}

fn failed(status: ExitStatus, said: String) -> WriteError {
    WriteError::QemuImg(if said.is_empty() { format!("qemu-img failed ({status})") } else { said })
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
