// SPDX-License-Identifier: BSD-2-Clause
//! The tasks of this program, each as one flow through the modules of this room and the rooms below. A worker reads
//! everything that strangers wrote.
//!
//! Capabilities, `no_new_privs`, Landlock and seccomp can't be taken back, and hooks need full root. So the script
//! forks before it reads the first foreign byte, and the worker gives up these rights. The script itself parses nothing
//! of an image, and nothing of a guest's disk. To give up the rights only where there are no hooks would leave most
//! installations unprotected. To give them up in single threads would protect nothing, because threads share their
//! memory. docs/security.md says which work is confined, and what that is good for.

mod cache;
mod copy;
mod create;
mod download;
mod dump;
pub(crate) mod hook_files;
mod hook_variables;
pub(crate) mod hooks;
mod inspect;
pub mod job;
mod local_image;
mod old_seed;
mod progress;
mod rename;
mod seed;
mod seed_command;
mod stream;
mod verify;

use std::fs::File;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::process::{self, Children};
use crate::node::run::{Run, SignalCleanup};
use crate::node::sandbox::{Sandbox, WorkerAccess};
use crate::node::size::MIB;

pub(crate) use cache::{Cleaned, Fetched, cleanup, fetch};
pub(crate) use create::{Rehearsed, create, rehearse};
pub(crate) use download::{Verdict, verify_kept};
pub(crate) use dump::{export, import};
pub(crate) use inspect::{Inspected, Judged, Layout, Part, inspect, likely_types};
pub(crate) use rename::rename;
pub use seed::seed_files;
pub(crate) use seed_command::{Removed, SeedDisk, remove_seed, show_seeds};

/// Does `work` in a worker, and returns its answer. The script sees nothing else of what was fetched and decoded. The
/// script itself does what needs root afterwards, such as running hooks.
fn in_worker<T: Serialize + DeserializeOwned>(
    needs: WorkerAccess<'_>,
    run: &Run,
    work: impl FnOnce(&Run) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    in_worker_with_file(needs, run, |run| work(run).map(|answer| (answer, None))).map(|(answer, _)| answer)
}

/// The private memory in bytes of a worker that works on a guest's disk only. The largest volume of a seed that is read
/// needs 128 MiB together with its files, and a dump needs a few MiB.
const GUEST_MEMORY: u64 = 256 * MIB;

/// Does `work` in a worker like [`in_worker`], if the work is on a guest's disk only. It may write to the open `disks`.
fn in_guest_worker<T: Serialize + DeserializeOwned>(
    disks: &[&File],
    run: &Run,
    work: impl FnOnce(&Run) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    in_worker(WorkerAccess { disks, memory: Some(GUEST_MEMORY), ..WorkerAccess::default() }, run, work)
}

/// Does `work` in a worker like [`in_worker`], and returns its answer with an open file.
fn in_worker_with_file<T: Serialize + DeserializeOwned>(
    needs: WorkerAccess<'_>,
    run: &Run,
    work: impl FnOnce(&Run) -> anyhow::Result<(T, Option<File>)>,
) -> anyhow::Result<(T, Option<File>)> {
    let sandbox = Sandbox::for_worker(needs).context("preparing the sandbox")?;
    if !sandbox.has_landlock() {
        run.report.debug("this kernel has no Landlock: what reads images can open other files too");
    }
    let answer = process::run_in_worker(&run.children, || {
        let done = sandbox.enter().context("giving up privileges").and_then(|()| {
            // After a signal the script ends the worker's process group with all of the worker's children, and does the
            // cleanup. So the worker gets new values for both.
            let (children, signal_cleanup) = (Children::in_own_group(), SignalCleanup::default());
            work(&Run { children, signal_cleanup, ..run.clone() })
        });
        done.map_err(|err| format!("{err:#}"))
    });
    answer?.map_err(|words| anyhow!(words))
}
