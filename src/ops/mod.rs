// SPDX-License-Identifier: BSD-2-Clause
//! What the OS scripts do, each as one flow through the modules below.

mod along;
mod cleanup;
mod confined;
mod create;
mod export;
mod fetch;
mod from_url;
mod import;
mod inspect;
mod install;
mod kept;
mod old_seed;
mod rehearse;
mod remote;
mod rename;
mod run_hooks;
mod seed;
mod seed_identity;
mod seed_volume;
mod seeds;
mod standard;
mod summary;
mod types;
mod unsteady;
mod verify_image;
mod watch;

pub use cleanup::{Cleaned, cleanup};
pub use create::create;
pub use export::export;
pub use fetch::{Fetched, fetch};
pub use import::import;
pub use inspect::{Inspected, Judged, Layout, Part, inspect};
pub use kept::{Verdict, verify_kept};
pub use rehearse::{Rehearsed, rehearse};
pub use rename::rename;
pub use seed::seed_files;
pub use seeds::{Removed, SeedDisk, remove_seed, show_seeds};
pub use types::likely_types;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;

use crate::process::Children;
use crate::report::{Progress, Report};
use crate::signals::{self, LastAct, LastWords};

/// What every operation works with.
#[derive(Clone)]
pub struct Context {
    /// Where messages go.
    pub report: Report,
    /// The children that run.
    pub children: Children,
    /// What a signal still has to do before it ends the run.
    pub last_act: LastAct,
    /// What a signal still has to say before it ends the run.
    pub last_words: LastWords,
    /// When the run began.
    pub began: SystemTime,
    /// Where it is shown how far the run is, if anybody is there to look.
    pub progress: Option<Arc<Progress>>,
}

impl Context {
    /// For an operation that no signal has to wait for.
    pub fn new(report: Report) -> Self {
        let (children, last_act, last_words) = (Children::default(), LastAct::default(), LastWords::default());
        Context { report, children, last_act, last_words, began: SystemTime::now(), progress: None }
    }

    /// For an operation that ends on a signal, and the process with it, as [`signals::end_on_signal`] says. Call it before
    /// any other thread starts.
    ///
    /// # Errors
    /// The system's, where signals can't be blocked.
    pub fn ended_by_signals(report: Report) -> anyhow::Result<Self> {
        Context::new(report).ended()
    }

    /// The same for one that shows how far it is.
    ///
    /// # Errors
    /// As there.
    pub fn shown(progress: Progress) -> anyhow::Result<Self> {
        let report = progress.report().clone();
        Context { progress: Some(Arc::new(progress)), ..Context::new(report) }.ended()
    }

    fn ended(self) -> anyhow::Result<Self> {
        let Context { children, last_act, last_words, progress, report, .. } = self.clone();
        signals::end_on_signal(children, last_act, last_words, progress, report).context("setting up signals")?;
        Ok(self)
    }
}
