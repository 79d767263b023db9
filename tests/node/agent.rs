// SPDX-License-Identifier: BSD-2-Clause
//! This program inside the machine: runs the trials that it is asked for, each in a process of its own, and looks that none leaves
//! anything.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::traces::Traces;
use crate::trials;

/// The argument for the process that answers at a port.
pub(crate) const SERVE: &str = "--serve-trials";
/// The argument for the process that runs one.
pub(crate) const ONE: &str = "--one-trial";

/// What the first answer is called: the machine is up.
pub(crate) const READY: &str = "ready";

/// A trial that takes longer is ended.
pub(crate) const TRIAL_LIMIT: Duration = Duration::from_secs(600);

/// How a trial ended.
pub(crate) struct Answer {
    pub(crate) trial: String,
    pub(crate) succeeded: bool,
    pub(crate) output: String,
}

impl Answer {
    /// The next one, as [`write`](Self::write) wrote it; none at the end.
    pub(crate) fn read(port: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        port.read_line(&mut line).ok()?;
        let mut words = line.trim_end().split(' ');
        let (trial, succeeded, len) = (words.next()?.to_owned(), words.next()? == "true", words.next()?);
        let mut output = vec![0; len.parse().ok()?];
        port.read_exact(&mut output).ok()?;
        Some(Answer { trial, succeeded, output: String::from_utf8_lossy(&output).into_owned() })
    }

    fn write(&self, port: &mut impl Write) {
        let head = format!("{} {} {}\n", self.trial, self.succeeded, self.output.len());
        port.write_all(&[head.as_bytes(), self.output.as_bytes()].concat()).unwrap();
    }
}

/// Answers at the port until nobody asks any more.
pub(crate) fn serve(port: &Path) {
    let mut answers = File::options().read(true).write(true).open(port).unwrap();
    let questions = BufReader::new(answers.try_clone().unwrap());
    Answer { trial: READY.to_owned(), succeeded: true, output: String::new() }.write(&mut answers);
    for trial in questions.lines().map_while(Result::ok) {
        run_apart(&trial).write(&mut answers);
    }
}

/// Runs one here; a panic fails it.
pub(crate) fn run(name: &str) {
    let (_, case) = trials::all().find(|(known, _)| *known == name).unwrap();
    case();
}

fn run_apart(trial: &str) -> Answer {
    let before = Traces::now();
    let mut said = tempfile::tempfile().unwrap();
    let copy = || Stdio::from(said.as_fd().try_clone_to_owned().unwrap());
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &TRIAL_LIMIT.as_secs().to_string()]);
    command.arg(std::env::current_exe().unwrap()).args([ONE, trial]);
    let status = command.stdin(Stdio::null()).stdout(copy()).stderr(copy()).status().unwrap();
    let mut output = Vec::new();
    std::io::Seek::rewind(&mut said).unwrap();
    said.read_to_end(&mut output).unwrap();
    let mut output = String::from_utf8_lossy(&output).into_owned();
    if !status.success() {
        output += &format!("({status}; 124 is the end of its time)\n");
    }
    let left = before.new_ones();
    for trace in &left {
        output += &format!("it left behind: {trace}\n");
    }
    Answer { trial: trial.to_owned(), succeeded: status.success() && left.is_empty(), output }
}
