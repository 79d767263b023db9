// SPDX-License-Identifier: BSD-2-Clause
//! One run of a script or a command: its messages, its children, and what a signal does to it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;

use super::process::Children;
use super::report::{Progress, Report};
use super::signals::{self, FinalMessage, SignalCleanup};

/// What every operation works with.
#[derive(Clone)]
pub struct Run {
    /// Where messages go.
    pub(crate) report: Report,
    /// The children that run.
    pub(crate) children: Children,
    /// What a signal still has to do before it ends the run.
    pub(crate) signal_cleanup: SignalCleanup,
    /// What a signal still has to say before it ends the run.
    pub(crate) final_message: FinalMessage,
    /// When the run began, by the clock that files have.
    pub(crate) began: SystemTime,
    /// The same, by one that nobody sets.
    pub(crate) started: Instant,
    /// Where it is shown how far the run is, if anybody is there to look.
    pub(crate) progress: Option<Arc<Progress>>,
}

impl Run {
    /// For an operation that no signal has to wait for.
    pub fn new(report: Report) -> Self {
        let (children, signal_cleanup, final_message) =
            (Children::default(), SignalCleanup::default(), FinalMessage::default());
        Run {
            report,
            children,
            signal_cleanup,
            final_message,
            began: SystemTime::now(),
            started: Instant::now(),
            progress: None,
        }
    }

    /// For an operation that ends on a signal, and the process with it, as [`signals::end_on_signal`] says. Call it before
    /// any other thread starts.
    ///
    /// # Errors
    /// The system's, where signals can't be blocked.
    pub(crate) fn ended_by_signals(report: Report) -> anyhow::Result<Self> {
        Run::new(report).ended()
    }

    /// The same for one that shows how far it is.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn with_progress(progress: Progress) -> anyhow::Result<Self> {
        let report = progress.report().clone();
        Run { progress: Some(Arc::new(progress)), ..Run::new(report) }.ended()
    }

    fn ended(self) -> anyhow::Result<Self> {
        let Run { children, signal_cleanup, final_message, progress, report, .. } = self.clone();
        signals::end_on_signal(children, signal_cleanup, final_message, progress, report)
            .context("setting up signals")?;
        Ok(self)
    }
}
