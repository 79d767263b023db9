// SPDX-License-Identifier: BSD-2-Clause
//! The variant's hooks, run by run-parts(8).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Children, Lifetime};
use crate::report::Report;

/// Why hooks did not run to their end.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// run-parts or the folder is unusable.
    #[error("running the hooks in {folder}", folder = folder.display())]
    Start {
        /// The hooks folder.
        folder: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A hook failed; the hooks after it did not run.
    #[error("a hook in {folder} failed: {reason}", folder = folder.display())]
    Failed {
        /// The hooks folder.
        folder: PathBuf,
        /// run-parts' last line, which names the hook and its exit code.
        reason: String,
    },
}

/// Whether `folder` has anything in it. A missing folder is fine; one that can't be read is an error.
pub fn present(folder: &Path) -> Result<bool, HookError> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HookError::Start { folder: folder.to_owned(), source }),
    }
}

/// Runs the hooks in `folder` in name order with exactly `environment`, and stops at the first that fails. Their output
/// goes to `report`; names that run-parts would skip in silence are named there in a warning.
pub fn run(
    folder: &Path,
    environment: &[(OsString, OsString)],
    children: &Children,
    report: &Report,
) -> Result<(), HookError> {
    let start_error = |source| HookError::Start { folder: folder.to_owned(), source };
    warn_of_skipped(folder, children, report).map_err(start_error)?;
    let mut command = run_parts(folder, "--exit-on-error");
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let mut last = String::new();
    let status = process::run(command, &[], Lifetime::Group, children, |line| {
        report.info(format_args!("hook: {line}"));
        line.clone_into(&mut last);
    });
    let status = status.map_err(start_error)?;
    if status.success() {
        return Ok(());
    }
    let reason = if last.starts_with("run-parts:") { last } else { format!("run-parts: {status}") };
    Err(HookError::Failed { folder: folder.to_owned(), reason })
}

fn run_parts(folder: &Path, option: &str) -> Command {
    let mut command = Command::new("run-parts");
    command.arg(option).arg("--").arg(folder);
    command
}

fn warn_of_skipped(folder: &Path, children: &Children, report: &Report) -> io::Result<()> {
    for path in skipped(folder, children)? {
        report.warn(format_args!(
            "hook {} is skipped by run-parts: it must be an executable file with only letters, digits, - and _ in its name",
            path.display()
        ));
    }
    Ok(())
}

/// What is in `folder` but that run-parts would skip, in name order. It takes only executable files whose names have
/// letters, digits, `-` and `_`.
pub fn skipped(folder: &Path, children: &Children) -> io::Result<Vec<PathBuf>> {
    let mut taken = Vec::new();
    let status = process::run(run_parts(folder, "--test"), &[], Lifetime::Child, children, |line| {
        taken.push(PathBuf::from(line))
    })?;
    if !status.success() {
        return Err(io::Error::other(format!("run-parts --test: {status}")));
    }
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut skipped = entries.collect::<io::Result<Vec<_>>>()?;
    skipped.retain(|path| !taken.contains(path));
    skipped.sort();
    Ok(skipped)
}
