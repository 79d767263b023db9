// SPDX-License-Identifier: BSD-2-Clause
//! A run that is watched while it goes on.

use std::process::{Child, ExitStatus, Output};
use std::thread::{self, JoinHandle};

use super::log::Log;
use super::processes::living_in_session;
use super::world::{Outcome, Script, tool, wait_until};

/// A script in a session of its own, and what it has said so far.
pub(crate) struct Watched {
    pub(crate) child: Child,
    log: Log,
    reading: JoinHandle<()>,
}

impl Watched {
    pub(crate) fn spawn(script: Script) -> Self {
        let mut child = script.under("setsid", &[]).spawn();
        let (mut stderr, log) = (child.stderr.take().unwrap(), Log::new());
        let mut copy = log.clone();
        let reading = thread::spawn(move || drop(std::io::copy(&mut stderr, &mut copy)));
        Watched { child, log, reading }
    }

    /// Waits until it has said `part`.
    pub(crate) fn wait_for(&self, part: &str) {
        self.log.wait_for(part);
    }

    pub(crate) fn signal(&self, name: &str) {
        tool("kill", &["-s", name, &self.child.id().to_string()]);
    }

    /// Waits for its end, and until no process of its session is left.
    pub(crate) fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let (session, stdout) = (self.child.id(), self.child.stdout.take());
        let status: ExitStatus = self.child.wait().unwrap();
        drop(stdout);
        self.reading.join().unwrap();
        wait_until("no process is left", || living_in_session(session).is_empty());
        Outcome(Output { status, stdout: Vec::new(), stderr: self.log.text().into_bytes() })
    }
}
