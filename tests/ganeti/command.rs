// SPDX-License-Identifier: BSD-2-Clause
//! Commands of the machine.

use std::process::{Command, Output, Stdio};

/// Longer than any command of the trials takes on a busy machine; a command that hangs fails its trial.
pub(crate) const LIMIT_SECONDS: &str = "180";

/// Runs a command without standard input and returns what it said, whatever its exit status is.
pub(crate) fn output(program: &str, args: &[&str]) -> Output {
    Command::new("timeout")
        .args(["--kill-after=5", LIMIT_SECONDS, program])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("running {program}: {error}"))
}

/// Both streams of a command, as an operator sees them.
pub(crate) fn text(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{stdout}{stderr}")
}

/// Runs a command that has to succeed and returns its standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = output(program, args);
    assert!(output.status.success(), "{program} {}: {}\n{}", args.join(" "), output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
