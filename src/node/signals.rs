// SPDX-License-Identifier: BSD-2-Clause
//! A run that is told to end does so within a second, and leaves nothing behind.
//!
//! While the disk is written nothing has to be undone: its first MiB is zero. While hooks run two things have to be
//! done, in this order: what they made out of the disk is removed, and the disk is made unbootable again. The boot
//! area is written and that act ([`SignalCleanup`]) is set under one lock, so that no signal falls in between. Children get
//! half a second to clean up, and have ended, their mounts gone, before the disk is touched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};

use crate::node::process::Children;
use crate::node::report::{Progress, Report};
use crate::node::sys;

type Act = Box<dyn FnOnce() + Send>;

/// What is to be done before a signal ends the process, the latest first, while there is such a thing. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct SignalCleanup(Arc<Mutex<Vec<Act>>>);

impl SignalCleanup {
    fn acts(&self) -> MutexGuard<'_, Vec<Act>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, which `act` undoes from then on. A signal meanwhile waits for `work`, and then has the act done.
    pub(crate) fn after<T>(&self, work: impl FnOnce() -> T, act: impl FnOnce() + Send + 'static) -> T {
        let mut acts = self.acts();
        let done = work();
        acts.push(Box::new(act));
        done
    }

    /// Does `work`. A signal meanwhile has `act` done.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T, act: impl FnOnce() + Send + 'static) -> T {
        self.acts().push(Box::new(act));
        let done = work();
        drop(self.acts().pop());
        done
    }

    /// No longer to be done. Waits when it is being done: the process is about to end.
    pub(crate) fn clear(&self) {
        self.acts().clear();
    }

    /// Does it. Never gives the lock back: nobody may go on with work that the act undoes.
    fn perform(&self) {
        let mut acts = self.acts();
        while let Some(act) = acts.pop() {
            act();
        }
        std::mem::forget(acts);
    }
}

type Words = Box<dyn Fn() -> Option<String> + Send>;

/// What is to be said before a signal ends the process: what it leaves. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct FinalMessage(Arc<Mutex<Option<Words>>>);

impl FinalMessage {
    /// Has `words` asked for them.
    pub(crate) fn set(&self, words: impl Fn() -> Option<String> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(words));
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?()
    }
}

/// Ends the process on SIGTERM, SIGINT and SIGHUP: children first, then the last act, the bar and the last words, then exit
/// code 128 + signal.
///
/// The signals are blocked and a thread waits for them, so that nothing has to be safe inside a signal handler. Little
/// needs undoing: the disk's first MiB is written last, loop devices detach themselves, a partial download is not an
/// entry. Call this before any other thread starts, for threads inherit the mask.
pub(crate) fn end_on_signal(
    children: Children,
    signal_cleanup: SignalCleanup,
    final_message: FinalMessage,
    progress: Option<Arc<Progress>>,
    report: Report,
) -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            children.terminate();
            signal_cleanup.perform();
            // It would be drawn anew below the last words, where the shell goes on.
            progress.iter().for_each(|progress| progress.finish());
            if let Some(words) = final_message.get() {
                report.info(words);
            }
            report.error(format_args!("ended by {signal}"));
            sys::exit_now(128 + signal as i32);
        }
    });
    Ok(())
}
