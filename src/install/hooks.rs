// SPDX-License-Identifier: BSD-2-Clause
//! Runs the variant's hooks with run-parts(8), and lends them the disk.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::hook_files::untrusted_places;
use super::hook_variables::{self, Variables};
use super::in_guest_worker;
use super::job::HookPlan;
use super::progress::seconds;
use crate::disk::device::{HeldDisk, HookDevice, WithheldDisk};
use crate::node::process::{self, Children, Lifetime};
use crate::node::report::Report;
use crate::node::run::Run;

/// How long we try to remove what hooks left behind after a signal. The run has to end within a second, and the hooks
/// themselves may have taken half of it.
const LAST_PATIENCE: Duration = Duration::from_millis(300);

/// The reason why not all hooks ran to their end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// run-parts or the folder is unusable.
    #[error("running the hooks in {folder}", folder = folder.display())]
    Start { folder: PathBuf, source: io::Error },
    /// Somebody else could have written what would run.
    #[error("refusing the hooks in {folder}: {problem}", folder = folder.display())]
    Unsafe {
        folder: PathBuf,
        /// Who could, and how to correct that.
        problem: String,
    },
    /// A hook failed; the hooks after it did not run.
    #[error("a hook in {folder} failed: {reason}", folder = folder.display())]
    Failed {
        folder: PathBuf,
        /// The last line of run-parts, which names the hook and its exit code.
        reason: String,
    },
}

/// The access of hooks to the instance's disk.
#[derive(Clone, Copy)]
pub(super) enum HookDisk<'d> {
    /// There is no disk.
    None,
    /// The hooks do not get the disk, because it is about to be written.
    Unlent(&'d HeldDisk),
    /// The hooks get the disk's device and its partitions.
    Lent(&'d HeldDisk),
}

/// Runs the variant's hooks if there are any, and puts what they wrote onto stable storage.
///
/// Hooks get the variables `told`, and those of the disk if it is lent to them. Afterwards no loop device of ours is
/// left, and nothing else that a hook made from the disk.
///
/// # Errors
/// A hook that failed, and anything that can't be removed because somebody uses it.
pub(super) fn run_hooks(plan: Option<&HookPlan>, disk: HookDisk<'_>, told: Variables, run: &Run) -> anyhow::Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    if !present(&plan.folder)? {
        run.report.debug(format_args!("no hooks in {}", plan.folder.display()));
        return Ok(());
    }
    let phase = json!({ "phase": plan.phase });
    run.report.event("hooks", phase, format_args!("running the hooks in {}", plan.folder.display()));
    let started = Instant::now();
    let ran = run_present(plan, disk, told, run);
    // The time is reported for a hook that failed, too.
    let took = started.elapsed();
    let fields = json!({ "phase": plan.phase, "seconds": took.as_secs_f64() });
    run.report.event("hooked", fields, format_args!("the hooks took {}", seconds(took)));
    ran
}

fn run_present(plan: &HookPlan, disk: HookDisk<'_>, told: Variables, run: &Run) -> anyhow::Result<()> {
    let mut environment = plan.environment.clone();
    environment.extend(hook_variables::phase(plan.phase).into_iter().chain(told));
    let without_device = || run_parts(&plan.folder, &environment, None, &run.children, &run.report);
    match disk {
        HookDisk::None => Ok(without_device()?),
        HookDisk::Unlent(disk) => {
            let unlent = WithheldDisk::before_hooks(disk)?;
            let before = Arc::clone(unlent.snapshot());
            let ran = run.signal_cleanup.during(without_device, move || drop(before.remove_new(None, LAST_PATIENCE)));
            let removed = unlent.finish();
            ran?;
            Ok(removed?)
        }
        HookDisk::Lent(disk) => run_lent(plan, disk, environment, run),
    }
}

fn run_lent(plan: &HookPlan, disk: &HeldDisk, mut environment: Variables, run: &Run) -> anyhow::Result<()> {
    environment.extend(partitions(disk, run)?);
    let device = HookDevice::open(disk)?;
    environment.extend(hook_variables::device(device.path()));
    let run_hooks = || run_parts(&plan.folder, &environment, Some(device.as_fd()), &run.children, &run.report);
    let (before, own) = (Arc::clone(device.snapshot()), device.attached().map(Path::to_owned));
    let written = device.as_fd().try_clone_to_owned().map(File::from);
    let written = written.with_context(|| format!("sharing {}", device.path().display()))?;
    let ran = run.signal_cleanup.during(run_hooks, move || {
        let _ = before.remove_new(own.as_deref(), LAST_PATIENCE);
        // A loop device would otherwise write its cached data to the disk's file when it is detached, which is after
        // the disk was made unbootable.
        let _ = written.sync_all();
    });
    let detached = device.finish();
    ran?;
    detached?;
    let path = disk.path();
    ensure!(disk.is_same_file(path), "disk {} was replaced by another one while hooks ran", path.display());
    disk.file().sync_all().with_context(|| format!("syncing disk {} after the hooks", disk.path().display()))
}

/// Returns the variables that describe the partitions. A worker reads the partition table, because a guest or the
/// publisher of an image wrote it.
fn partitions(disk: &HeldDisk, run: &Run) -> anyhow::Result<Variables> {
    in_guest_worker(&[], run, |run| {
        let reading = || format!("reading the partition table of disk {}", disk.path().display());
        hook_variables::partitions(disk, &run.report).with_context(reading)
    })
}

/// Returns whether `folder` contains anything. A missing folder contains nothing.
///
/// # Errors
/// Everything that [`refuse_untrusted`] refuses; a folder that can't be read; a link to nowhere in place of the folder,
/// above it or in it; and an entry that is neither a file nor a folder. In each case somebody wanted hooks to run that
/// would not run.
pub(crate) fn present(folder: &Path) -> Result<bool, HookError> {
    refuse_untrusted(folder)?;
    let start_error = |source| HookError::Start { folder: folder.to_owned(), source };
    if is_missing(folder).map_err(start_error)? {
        return Ok(false);
    }
    let mut present = false;
    for entry in std::fs::read_dir(folder).map_err(start_error)? {
        let entry = entry.map_err(start_error)?;
        if is_taken(&entry.file_name()) {
            check_link(&entry.path()).and_then(|()| check_kind(&entry.path())).map_err(start_error)?;
        }
        present = true;
    }
    Ok(present)
}

/// Fails if another user than root and the current user could change what the hooks in `folder` do. A missing folder is
/// no exception, because that user may have removed it.
pub(crate) fn refuse_untrusted(folder: &Path) -> Result<(), HookError> {
    let found = untrusted_places(folder).map_err(|source| HookError::Start { folder: folder.to_owned(), source })?;
    match found.first() {
        Some(found) => {
            let problem = found.words(folder, "what runs as root");
            Err(HookError::Unsafe { folder: folder.to_owned(), problem })
        }
        None => Ok(()),
    }
}

/// Returns whether the folder is missing. A link to nowhere is an error instead.
fn is_missing(folder: &Path) -> io::Result<bool> {
    for path in folder.ancestors() {
        match check_link(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(|()| path != folder),
        }
    }
    Ok(true)
}

/// Fails if there is nothing at `path`, or a link to nowhere. Only the first error has the kind `NotFound`.
fn check_link(path: &Path) -> io::Result<()> {
    path.symlink_metadata()?;
    let found = path.metadata().map(drop);
    found.map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("{} is a link that leads nowhere (correct or remove it)", path.display()))
        }
        _ => err,
    })
}

/// Fails for a FIFO, a socket or a device, because run-parts stops there. run-parts ignores folders.
fn check_kind(path: &Path) -> io::Result<()> {
    let kind = path.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is neither a file nor a folder (remove it)", path.display())))
}

/// Returns whether run-parts accepts a file with this name.
fn is_taken(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
}

/// Runs the hooks in `folder` in the order of their names with exactly `environment`, and stops at the first one that
/// fails. What hooks mount is unmounted when they have ended. They may write to `device`. Their output goes to
/// `report`, and so does a warning for each name that run-parts ignores silently.
fn run_parts(
    folder: &Path,
    environment: &[(OsString, OsString)],
    device: Option<BorrowedFd<'_>>,
    children: &Children,
    report: &Report,
) -> Result<(), HookError> {
    let start_error = |source| HookError::Start { folder: folder.to_owned(), source };
    let failed = |reason| Err(HookError::Failed { folder: folder.to_owned(), reason });
    let mut waiting = list(folder, children).map_err(start_error)?;
    warn_of_skipped(folder, &waiting, report).map_err(start_error)?;
    let mut command = Command::new("run-parts");
    command.args(["--exit-on-error", "--verbose", "--"]).arg(folder);
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let mut last = String::new();
    let status = process::run(command, &[], Lifetime::Namespace(device), children, |line| {
        // The text may not be at the start of the line, because the output of the hook before may end without a
        // newline.
        match line.rsplit_once("run-parts: executing ") {
            Some((_, hook)) => waiting.retain(|known| known != Path::new(hook)),
            None => line.clone_into(&mut last),
        }
        report.event("hook", json!({ "output": line }), format_args!("hook: {line}"));
    });
    let status = status.map_err(start_error)?;
    // run-parts reports no error for a hook that was removed, or lost its mode, before its turn came.
    match waiting.iter().find(|hook| !is_program(hook)) {
        None if status.success() => Ok(()),
        Some(hook) if status.success() => {
            failed(format!("{} did not run: it was removed or changed meanwhile", hook.display()))
        }
        _ if last.starts_with("run-parts:") => failed(last),
        _ => failed(format!("run-parts: {status}")),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The hooks in `folder` that run-parts would run, in that order.
pub(crate) fn list(folder: &Path, children: &Children) -> io::Result<Vec<PathBuf>> {
    let mut command = process::plain("run-parts");
    command.args(["--test", "--"]).arg(folder);
    let mut hooks = Vec::new();
    let status = process::run(command, &[], Lifetime::Child, children, |line| hooks.push(PathBuf::from(line)))?;
    if !status.success() {
        return Err(io::Error::other(format!("run-parts --test: {status}")));
    }
    Ok(hooks)
}

fn warn_of_skipped(folder: &Path, taken: &[PathBuf], report: &Report) -> io::Result<()> {
    for path in others(folder, taken)? {
        report.warn(format_args!(
            "hook {} is skipped by run-parts: it must be an executable file with only letters, digits, - and _ in its name",
            path.display()
        ));
    }
    Ok(())
}

/// The entries of `folder` that run-parts would skip, in the order of their names. It runs only executable files
/// whose names consist of letters, digits, `-` and `_`.
pub(crate) fn skipped(folder: &Path, children: &Children) -> io::Result<Vec<PathBuf>> {
    others(folder, &list(folder, children)?)
}

fn others(folder: &Path, taken: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut others = entries.collect::<io::Result<Vec<_>>>()?;
    others.retain(|path| !taken.contains(path));
    others.sort();
    Ok(others)
}
