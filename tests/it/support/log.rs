// SPDX-License-Identifier: BSD-2-Clause
//! The messages of a run, for reading and for waiting on.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use simpleimage::node::report::Report;

/// A wait that is only over this late when the test has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Collects what a [`Report`] says.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<String>, Condvar)>);

impl Log {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A report, details included, whose messages come here.
    pub(crate) fn report(&self) -> Report {
        Report::to_writer(Some("create"), true, self.clone())
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits until the messages hold `part`.
    pub(crate) fn wait_for(&self, part: &str) {
        let (text, changed) = &*self.0;
        let guard = text.lock().unwrap();
        let (guard, timeout) = changed.wait_timeout_while(guard, LONG, |text| !text.contains(part)).unwrap();
        assert!(!timeout.timed_out(), "no message '{part}' in: {guard}");
    }
}

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().push_str(std::str::from_utf8(data).unwrap());
        self.0.1.notify_all();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
