// SPDX-License-Identifier: BSD-2-Clause
//! What the OS scripts do, each as one flow through the modules below.

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
mod remote;
mod rename;
mod run_hooks;
mod seed;
mod seed_identity;
mod seed_volume;
mod seeds;
mod standard;
mod summary;
mod verify_image;

pub use cleanup::{Cleaned, cleanup};
pub use create::create;
pub use export::export;
pub use fetch::{Fetched, fetch};
pub use import::import;
pub use inspect::{Inspected, Judged, Layout, Part, inspect};
pub use kept::{Verdict, verify_kept};
pub use rename::rename;
pub use seed::seed_files;
pub use seeds::{SeedDisk, remove_seed, show_seeds};

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::process::Children;
use crate::report::{Progress, Report};
use crate::signals::LastAct;

/// What every operation works with.
pub struct Context {
    /// Where messages go.
    pub report: Report,
    /// The children that run.
    pub children: Children,
    /// What a signal still has to do before it ends the run.
    pub last_act: LastAct,
    /// The time when the run began.
    pub now: SystemTime,
    /// The same moment, to measure from.
    pub began: Instant,
    /// Where it is shown how far a download is, if anybody is there to look.
    pub progress: Option<Arc<Progress>>,
}

impl Context {
    /// For an operation that no signal has to wait for.
    pub fn new(report: Report, now: SystemTime) -> Self {
        let (children, last_act) = (Children::default(), LastAct::default());
        Context { report, children, last_act, now, began: Instant::now(), progress: None }
    }

    /// The current time: hooks before the image may take long.
    pub fn time(&self) -> SystemTime {
        self.now + self.began.elapsed()
    }
}
