// SPDX-License-Identifier: BSD-2-Clause
//! The jobs themselves, each as one flow through the modules of this room and the rooms below. What strangers wrote is read
//! in a worker.
//!
//! Capabilities, `no_new_privs`, Landlock and seccomp can't be taken back, and hooks need full root. So the script
//! forks before the first foreign byte, and the worker gives all that up; the script looks at no byte of the image. To
//! give up only where there are no hooks would leave most installs as they were. To lower the rights of single threads
//! would protect nothing, as they share their memory. docs/security.md says which work is confined, and what that is
//! good for.

mod cache;
mod copy;
mod create;
mod download;
mod dump;
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

pub(crate) use cache::{Cleaned, Fetched, cleanup, fetch};
pub(crate) use create::{Rehearsed, install, rehearse};
pub(crate) use download::{Verdict, verify_kept};
pub(crate) use dump::{export, import};
pub(crate) use inspect::{Inspected, Judged, Layout, Part, inspect, likely_types};
pub(crate) use rename::rename;
pub use seed::seed_files;
pub(crate) use seed_command::{Removed, SeedDisk, remove_seed, show_seeds};

/// Does `work` in a worker, and gives its answer. The script sees nothing else of what was fetched and decoded. What needs
/// root afterwards, hooks above all, is the script's to do.
fn in_worker<T: Serialize + DeserializeOwned>(
    needs: WorkerAccess<'_>,
    run: &Run,
    work: impl FnOnce(&Run) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    in_worker_with_file(needs, run, |run| work(run).map(|answer| (answer, None))).map(|(answer, _)| answer)
}

/// As [`in_worker`], for an answer with an open file.
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
            // The script ends the worker's children, with the group of the worker, and does its cleanup after a signal.
            let (children, signal_cleanup) = (Children::in_own_group(), SignalCleanup::default());
            work(&Run { children, signal_cleanup, ..run.clone() })
        });
        done.map_err(|err| format!("{err:#}"))
    });
    answer.context("working apart")?.map_err(|words| anyhow!(words))
}
