// SPDX-License-Identifier: BSD-2-Clause
//! Stands between the benchmark and one measured command: a small process whose only child is the command, so that the
//! kernel's account of its children is that of the command alone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The first argument that makes this program a runner.
pub(crate) const STAGE: &str = "__run";

/// In the place of the file to sync.
pub(crate) const NO_SYNC: &str = "-";

/// How often the memory of the command is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds from before the start to after the sync.
    pub(crate) wall: f64,
    /// Seconds of processor time, of the command and all its descendants.
    pub(crate) user: f64,
    /// The same in the kernel.
    pub(crate) system: f64,
    /// The most memory that the command's own process had resident, in KiB.
    pub(crate) own_peak: u64,
    /// The most that any one process of it had, in KiB.
    pub(crate) tree_peak: u64,
    /// Whether it succeeded.
    pub(crate) success: bool,
}

/// `RESULT SYNC PROGRAM ARGUMENT...`: runs the program, syncs the file or device SYNC unless it is [`NO_SYNC`], and
/// writes a [`Sample`] to the file RESULT.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let [result, sync, program, args @ ..] = args else { anyhow::bail!("too few arguments") };
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    set_pdeathsig(Signal::SIGTERM)?;
    let sample = measure(program, args, sync, signals)?;
    fs::write(result, serde_json::to_string(&sample)?).context("writing the result")?;
    Ok(ExitCode::SUCCESS)
}

fn measure(program: &OsStr, args: &[OsString], sync: &OsStr, signals: SigSet) -> anyhow::Result<Sample> {
    let mut command = Command::new(program);
    // A group of its own, which can be ended as a whole.
    command.args(args).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("running {}", program.display()))?;
    end_with(Pid::from_raw(i32::try_from(child.id())?), signals);
    let (success, own_peak) = watch(&mut child)?;
    if success && sync != NO_SYNC {
        File::open(sync).and_then(|file| file.sync_all()).context("syncing the disk")?;
    }
    let wall = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let tree_peak = u64::try_from(usage.max_rss())?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let (user, system) = (seconds(usage.user_time()), seconds(usage.system_time()));
    // A command that is over before the first look has no peak of its own, and no time for children either.
    Ok(Sample { wall, user, system, own_peak: own_peak.unwrap_or(tree_peak), tree_peak, success })
}

/// Ends the command when this process is told to end, by the user or because the benchmark is gone.
#[allow(clippy::exit, reason = "the main thread waits for the command")]
fn end_with(group: Pid, signals: SigSet) {
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            let _ = killpg(group, Signal::SIGKILL);
            std::process::exit(128 + signal as i32);
        }
    });
}

/// Waits for the child, and gives whether it succeeded and the peak of its own memory in KiB. A process that has ended
/// has no memory any more that could be looked at, so it is looked at while it runs; the peak only ever rises.
fn watch(child: &mut Child) -> anyhow::Result<(bool, Option<u64>)> {
    let status = format!("/proc/{}/status", child.id());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = None;
            while !done.load(Ordering::Relaxed) {
                peak = peak_resident(&status).or(peak);
                thread::park_timeout(POLL);
            }
            peak
        });
        let success = child.wait().map(|status| status.success());
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        let peak = watcher.join().unwrap_or_default();
        Ok((success?, peak))
    })
}

fn peak_resident(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    // A process that is just ending has none left.
    line.trim().strip_suffix(" kB")?.trim().parse().ok().filter(|kib| *kib > 0)
}
