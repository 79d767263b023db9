// SPDX-License-Identifier: BSD-2-Clause
//! Work on bytes of strangers, in a process of its own that can do little else.
//!
//! Capabilities, `no_new_privs`, Landlock and seccomp can't be taken back, and hooks need full root. So the script
//! forks before the first foreign byte, and the copy gives all that up; the script looks at no byte of the image. To
//! give up only where there are no hooks would leave most installs as they were. To lower the rights of single threads
//! would protect nothing, as they share their memory. docs/security.md says which work is confined, and what that is
//! good for.

use anyhow::{Context as _, anyhow};

use crate::node::process::{self, Answer, Children};
use crate::node::run::{Run, SignalCleanup};
use crate::node::sandbox::{Sandbox, WorkerAccess};

/// Does `work` in a confined copy of this process, and gives its answer. What needs root afterwards, hooks above all,
/// is up to this process, which sees nothing of what was fetched and decoded but the answer.
pub(super) fn confined(
    needs: WorkerAccess<'_>,
    run: &Run,
    work: impl FnOnce(&Run) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let sandbox = Sandbox::for_worker(needs).context("preparing the sandbox")?;
    if !sandbox.has_landlock() {
        run.report.debug("this kernel has no Landlock: what reads images can open other files too");
    }
    let answer = process::apart(&run.children, || {
        let done = sandbox.enter().context("giving up privileges").and_then(|()| {
            // The first process ends the copy's children, with the group of the copy, and does its last act.
            let (children, signal_cleanup) = (Children::in_own_group(), SignalCleanup::default());
            work(&Run { children, signal_cleanup, ..run.clone() })
        });
        done.map_err(|err| format!("{err:#}"))
    });
    answer.context("working apart")?.map_err(|words| anyhow!(words))
}
