// SPDX-License-Identifier: BSD-2-Clause
//! One run of a script or a command: its messages, its children, and how a signal ends it.
//!
//! A run that gets a signal ends within a second and leaves nothing behind. While the disk is written, nothing has to
//! be undone, because its first MiB is zero. While hooks run, two things have to be done in this order: the devices
//! that they made out of the disk are removed, and the disk is made unbootable again. The boot area is written and this
//! cleanup ([`SignalCleanup`]) is registered under one lock, so that no signal comes in between. Children get half a
//! second to clean up. Before the disk is touched, they have ended and their mounts are gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use super::process::Children;
use super::report::{Progress, Report};
use super::sys;

/// How long a signal waits for its last messages. Whoever should read them may have stopped reading, and then another thread waits
/// in the middle of a message and keeps the lock of the report.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The context that every operation works in.
#[derive(Clone)]
pub struct Run {
    pub(crate) report: Report,
    pub(crate) children: Children,
    /// The actions of a signal before it ends the run.
    pub(crate) signal_cleanup: SignalCleanup,
    /// The message of a signal before it ends the run.
    pub(crate) final_message: FinalMessage,
    /// When the run began, by the clock that file times use.
    pub(crate) began: SystemTime,
    /// When the run began, by a clock that nobody sets.
    pub(crate) started: Instant,
    /// `None` if nobody watches the progress.
    pub(crate) progress: Option<Arc<Progress>>,
}

impl Run {
    /// Returns a run that a signal ends at once.
    pub fn new(report: Report) -> Self {
        Run {
            report,
            children: Children::default(),
            signal_cleanup: SignalCleanup::default(),
            final_message: FinalMessage::default(),
            began: SystemTime::now(),
            started: Instant::now(),
            progress: None,
        }
    }

    /// Returns a run that ends on a signal as [`Run::end_on_signal`] says. It has to be called before any other thread
    /// starts.
    ///
    /// # Errors
    /// Fails if signals can't be blocked.
    pub(crate) fn ended_by_signals(report: Report) -> anyhow::Result<Self> {
        let run = Run::new(report);
        run.end_on_signal().context("setting up signals")?;
        Ok(run)
    }

    /// Does what [`Run::ended_by_signals`] does, for a run that shows its progress.
    ///
    /// # Errors
    /// Fails if signals can't be blocked.
    pub(crate) fn with_progress(progress: Progress) -> anyhow::Result<Self> {
        let report = progress.report().clone();
        let run = Run { progress: Some(Arc::new(progress)), ..Run::new(report) };
        run.end_on_signal().context("setting up signals")?;
        Ok(run)
    }

    /// Makes SIGTERM, SIGINT and SIGHUP end the process: first the children end, then come the cleanup, the end of the
    /// progress bar, and the final message. The exit code is 128 + signal.
    ///
    /// The signals are blocked and a thread waits for them, so nothing has to be safe inside a signal handler. Little
    /// has to be undone: the first MiB of the disk is written last, loop devices detach themselves, and a partial
    /// download is no cache entry. This has to be called before any other thread starts, because threads inherit the
    /// signal mask.
    fn end_on_signal(&self) -> nix::Result<()> {
        let mut signals = SigSet::empty();
        signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        signals.thread_block()?;
        let Run { children, signal_cleanup, final_message, progress, report, .. } = self.clone();
        std::thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                children.terminate();
                signal_cleanup.perform();
                within(LAST_WORDS, move || {
                    // Otherwise the bar would be drawn again below the last message.
                    if let Some(progress) = progress {
                        progress.finish();
                    }
                    if let Some(message) = final_message.get() {
                        report.info(message);
                    }
                    report.error(format_args!("ended by {signal}"));
                });
                sys::exit_now(128 + signal as i32);
            }
        });
        Ok(())
    }
}

/// Does `work` in a thread, and waits for its end, but no longer than `time`.
fn within(time: Duration, work: impl FnOnce() + Send + 'static) {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || {
        work();
        // Nobody listens any more after `time`.
        let _ = sender.send(());
    });
    let _ = done.recv_timeout(time);
}

type Action = Box<dyn FnOnce() + Send>;

/// The actions that a signal takes before it ends the process, the latest first. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct SignalCleanup(Arc<Mutex<Vec<Action>>>);

impl SignalCleanup {
    fn actions(&self) -> MutexGuard<'_, Vec<Action>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`. From then on a signal does `undo`. A signal during `work` waits for its end.
    pub(crate) fn after<T>(&self, work: impl FnOnce() -> T, undo: impl FnOnce() + Send + 'static) -> T {
        let mut actions = self.actions();
        let done = work();
        actions.push(Box::new(undo));
        done
    }

    /// Does `work`. Only a signal during `work` does `cleanup`.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T, cleanup: impl FnOnce() + Send + 'static) -> T {
        self.actions().push(Box::new(cleanup));
        let done = work();
        drop(self.actions().pop());
        done
    }

    /// Forgets all actions. If a signal is doing them, this never returns: the process is about to end.
    pub(crate) fn clear(&self) {
        self.actions().clear();
    }

    /// Takes the actions. Keeps the lock for ever, so that nobody continues work that an action has undone.
    fn perform(&self) {
        let mut actions = self.actions();
        while let Some(action) = actions.pop() {
            action();
        }
        std::mem::forget(actions);
    }
}

type Message = Box<dyn Fn() -> Option<String> + Send>;

/// A message that is reported before a signal ends the process, such as the files that it leaves. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct FinalMessage(Arc<Mutex<Option<Message>>>);

impl FinalMessage {
    /// Sets the message. A signal calls `message`.
    pub(crate) fn set(&self, message: impl Fn() -> Option<String> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(message));
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?()
    }
}
