// SPDX-License-Identifier: BSD-2-Clause
//! `make bench`: how long the provider takes for what administrators wait for, against what they would otherwise type
//! and against what the machine could do at best. benches/README.md says what is measured, and how.
//!
//! The same program runs in three stages: the one that cargo starts only gets itself a mount namespace, in which the
//! second measures; the third stands between it and each measured command, and reports time and memory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people, not an OS script")]

mod cases;
mod disk;
mod extents;
mod floor;
mod image;
mod machine;
mod measure;
mod options;
mod plot;
mod report;
mod runner;
mod server;
mod table;

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser;

use crate::measure::Bench;
use crate::options::Options;
use crate::report::Report;

/// Set in the mount namespace.
const INSIDE: &str = "SIMPLEIMAGE_BENCH_INSIDE";

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let done = match args.first().and_then(|first| first.to_str()) {
        Some(runner::STAGE) => runner::run(&args[1..]),
        Some(floor::STAGE) => floor::run(&args[1..]),
        _ => bench(Options::parse()),
    };
    done.unwrap_or_else(|err| {
        eprintln!("bench: error: {err:#}");
        ExitCode::FAILURE
    })
}

fn bench(options: Options) -> anyhow::Result<ExitCode> {
    let cases = cases::chosen(&options.cases)?;
    if options.list {
        cases.iter().for_each(|case| println!("{:10} {}", case.name, case.title));
        return Ok(ExitCode::SUCCESS);
    }
    if env::var_os(INSIDE).is_none() {
        return enter();
    }
    let bench = Bench::prepare(&options)?;
    let mut report = Report::new(&options, bench.images())?;
    for case in &cases {
        report.add(bench.measure(case)?);
        // After each case, so that a long run that is interrupted leaves something.
        report.write(&options.results())?;
    }
    println!("{}", report.text());
    println!("written to {}", options.results().display());
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes the same program in a mount namespace of its own: whatever ends it, its mounts are gone with it.
fn enter() -> anyhow::Result<ExitCode> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "this needs root, for loop devices and mounts: run it as root");
    let program = env::current_exe().context("looking for this program")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program).args(env::args_os().skip(1));
    Err(command.env(INSIDE, "1").exec()).context("running unshare (package util-linux)")
}
