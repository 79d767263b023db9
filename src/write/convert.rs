// SPDX-License-Identifier: BSD-2-Clause
//! Copies a qcow2 image: qemu-img decodes and writes it, except for the boot area.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{BOOT_AREA, DiskWriter, WriteError, check_fits};
use crate::device::{DirectReader, DiskKind, descriptor_path};
use crate::process::{self, Children, Lifetime};

/// Requests that qemu-img keeps in flight; measured: 16 is 1.1 times as fast as its default of 8.
const COROUTINES: &str = "16";

/// Writes the qcow2 image in `file`, whose header gives `size` bytes, to the disk. The caller has checked the header.
///
/// qemu-img sees both files through inherited descriptors, so no path can be exchanged behind our back, and with an
/// explicit format, so it guesses nothing. Through its raw driver's offset it leaves out the first MiB, which it hands
/// over in memory instead, so that this disk too becomes bootable at the very end.
pub fn qcow2(file: &File, size: u64, writer: &DiskWriter<'_>, children: &Children) -> Result<(), WriteError> {
    check_fits(size, writer.target())?;
    let boot_len = writer.boot_len().min(size);
    if size > boot_len {
        convert_rest(file, boot_len, size - boot_len, writer, children)?;
    }
    let boot = boot_area(file, boot_len, children)?;
    writer.data(&boot, 0)
}

/// The first MiB of the qcow2 image in `file`, whose header gives `size` bytes, or all of a smaller one.
pub fn head(file: &File, size: u64, children: &Children) -> Result<Vec<u8>, WriteError> {
    boot_area(file, size.min(BOOT_AREA as u64), children)
}

fn convert_rest(
    file: &File,
    start: u64,
    len: u64,
    writer: &DiskWriter<'_>,
    children: &Children,
) -> Result<(), WriteError> {
    let target = writer.target();
    let mut command = qemu_img();
    // "none" is past the page cache, which not every file system offers.
    let cache = |direct: bool| if direct { "none" } else { "writeback" };
    let (target_cache, source_cache) = (cache(target.takes_direct_io()), cache(is_better_direct(file)));
    command.args(["-W", "-m", COROUTINES, "-t", target_cache, "-T", source_cache]);
    if target.zeroes_cheaply() {
        // Zeroed here by range, so that qemu-img writes nothing but data. Never on trust that the disk is zero.
        writer.zero(start, target.size() - start)?;
        command.arg("--target-is-zero");
    }
    let driver = match target.kind() {
        DiskKind::Block => "host_device",
        DiskKind::File => "file",
    };
    let disk = format!(
        "driver=raw,offset={start},file.driver={driver},file.filename={}",
        descriptor_path(target.file()).display()
    );
    command.arg(source(file, start, len)).arg(disk);
    run(command, file, target.file(), children)
}

/// Whether the image can be read past the page cache, and does not lie in it already, from where it comes faster.
fn is_better_direct(file: &File) -> bool {
    let reader = DirectReader::new(file);
    let len = file.metadata().ok().and_then(|data| usize::try_from(data.len()).ok());
    reader.is_direct() && !len.is_some_and(|len| reader.is_cached(0, len))
}

/// The image's first `len` bytes.
fn boot_area(file: &File, len: u64, children: &Children) -> Result<Vec<u8>, WriteError> {
    let memory_error = |err: io::Error| WriteError::QemuImg(format!("preparing memory for the boot area: {err}"));
    let memory =
        memfd_create(c"simpleimage-boot-area", MFdFlags::MFD_CLOEXEC).map_err(|err| memory_error(err.into()))?;
    let memory = File::from(memory);
    memory.set_len(len).map_err(memory_error)?;
    let mut command = qemu_img();
    let target =
        format!("driver=raw,file.driver=file,file.locking=off,file.filename={}", descriptor_path(&memory).display());
    command.arg(source(file, 0, len)).arg(target);
    run(command, file, &memory, children)?;
    let mut boot = vec![0; usize::try_from(len).map_err(|err| memory_error(io::Error::other(err)))?];
    memory.read_exact_at(&mut boot, 0).map_err(memory_error)?;
    Ok(boot)
}

fn qemu_img() -> Command {
    let mut command = Command::new("qemu-img");
    command.env("LC_ALL", "C").args(["convert", "-n", "--image-opts", "--target-image-opts"]);
    command
}

/// qemu-img's words for `len` bytes from `start` of the disk inside a qcow2 file.
fn source(file: &File, start: u64, len: u64) -> String {
    let path = descriptor_path(file);
    format!(
        "driver=raw,offset={start},size={len},file.driver=qcow2,file.file.driver=file,file.file.locking=off,file.file.filename={}",
        path.display()
    )
}

fn run(command: Command, source: &File, target: &File, children: &Children) -> Result<(), WriteError> {
    let mut last = String::new();
    let keep = [source.as_fd(), target.as_fd()];
    debug_assert_ne!(source.as_raw_fd(), target.as_raw_fd());
    let status = process::run(command, &keep, Lifetime::Child, children, |line| line.clone_into(&mut last));
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if last.is_empty() => Err(WriteError::QemuImg(format!("qemu-img failed ({status})"))),
        Ok(_) => Err(WriteError::QemuImg(last)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Err(WriteError::QemuImg("qemu-img is not installed (install the package qemu-utils)".to_owned()))
        }
        Err(err) => Err(WriteError::QemuImg(format!("running qemu-img: {err}"))),
    }
}
