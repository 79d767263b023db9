// SPDX-License-Identifier: BSD-2-Clause
//! A run that is told to end does so within a second, and leaves nothing behind.

use nix::sys::signal::{SigSet, Signal};

use crate::process::Children;
use crate::report::Report;
use crate::sys;

/// Ends the process on SIGTERM, SIGINT and SIGHUP: children first, then a last line, then exit code 128 + signal.
///
/// The signals are blocked and a thread waits for them, so that nothing has to be safe inside a signal handler. Nothing
/// needs undoing: the disk's first MiB is written last, loop devices detach themselves, a partial download is not an
/// entry. Call this before any other thread starts, for threads inherit the mask (children do not: `std` resets it).
pub fn end_on_signal(children: Children, report: Report) -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            children.terminate();
            report.error(format_args!("ended by {signal}"));
            sys::exit_now(128 + signal as i32);
        }
    });
    Ok(())
}
