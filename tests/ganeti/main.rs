// SPDX-License-Identifier: BSD-2-Clause
//! The provider as a real Ganeti uses it: one node in namespaces of its own, with the fake hypervisor, file disks and
//! block disks. Needs root and Debian's Ganeti; the machine itself keeps nothing of it.
//!
//! `SIMPLEIMAGE_TEST_PROVIDER=/path/to/program` holds another multi-call provider against the same trials.

#![allow(clippy::print_stderr, reason = "a test without libtest, which the exemption in clippy.toml goes by")]

mod cluster;
mod command;
mod documents;
mod image;
mod namespace;
mod server;
mod trials;

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::cluster::Cluster;
use crate::namespace::Stage;

/// A name and what it does with the cluster; it panics to fail.
type Case = (&'static str, fn(&Cluster));

fn main() -> ExitCode {
    match namespace::stage() {
        Stage::Outer => outer(),
        Stage::Init => namespace::init(),
        Stage::Trials => run_trials(),
    }
}

fn outer() -> ExitCode {
    let arguments = Arguments::from_args();
    match namespace::obstacle() {
        _ if arguments.list => libtest_mimic::run(&arguments, skipped("")).exit_code(),
        Some(obstacle) => libtest_mimic::run(&arguments, skipped(obstacle)).exit_code(),
        None => namespace::enter(),
    }
}

/// Every trial, not run: seen as ignored by people, and as failed by the continuous integration.
fn skipped(obstacle: &'static str) -> Vec<Trial> {
    let is_ci = env::var_os("CI").is_some_and(|value| value == "true");
    let skip = move || if is_ci { Err(obstacle.into()) } else { Ok(Completion::ignored_with(obstacle)) };
    trials::all().map(|(name, _)| Trial::ignorable_test(name, skip)).collect()
}

/// Runs one trial, which also has to leave nothing behind.
fn judge(case: fn(&Cluster), cluster: &Cluster) -> Result<(), Failed> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| case(cluster)));
    let left = cluster.clear_leftovers();
    match outcome {
        Err(panic) => panic::resume_unwind(panic),
        Ok(()) if left.is_empty() => Ok(()),
        Ok(()) => Err(left.join("\n").into()),
    }
}

fn run_trials() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share one cluster, and Ganeti runs one job of an instance after the other anyway.
    arguments.test_threads = Some(1);
    let chosen = trials::all().filter(|(name, _)| {
        let trial = Trial::test(*name, || Ok(()));
        !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial)
    });
    if chosen.count() == 0 {
        return libtest_mimic::run(&arguments, skipped("")).exit_code();
    }
    let cluster = Arc::new(Cluster::start());
    let trials = trials::all().map(|(name, case)| {
        let cluster = Arc::clone(&cluster);
        Trial::test(name, move || judge(case, &cluster))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
