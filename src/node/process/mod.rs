// SPDX-License-Identifier: BSD-2-Clause
//! Runs child processes. They die with this process, their output is passed on line by line, and none of them is left
//! behind.

mod namespace;
mod worker;

pub(crate) use namespace::path_in_namespace;
pub use worker::run_in_worker;

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use namespace::Namespace;

use crate::node::sys;

/// The largest number of bytes of a child's output that are taken as one line, because a child must not fill our
/// memory.
const LINE_LIMIT: usize = 4096;

/// The largest number of lines of a child's output that may wait.
const LINES: usize = 64;

/// How long this process waits for output after a child has ended, because a process outside of its group may keep the
/// pipe open.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// The time between SIGTERM and SIGKILL for children when this process has to end.
const TERM_PATIENCE: Duration = Duration::from_millis(500);

/// How long this process waits for children after SIGKILL, because one may be in the middle of a write or of
/// unmounting.
const KILL_PATIENCE: Duration = Duration::from_millis(400);

/// The process groups of all running children. Clones share one list, with which the signal thread ends the children.
#[derive(Debug, Clone, Default)]
pub struct Children {
    groups: Arc<Mutex<Vec<Pid>>>,
    /// Whether children stay in the process group of this process.
    in_own_group: bool,
}

impl Children {
    /// Keeps children in the process group of this process, so that a signal to that group ends them and what they
    /// started.
    pub(crate) fn in_own_group() -> Self {
        Children { in_own_group: true, ..Children::default() }
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every running child with its process group: sends SIGTERM, waits half a second for their cleanup, and sends
    /// SIGKILL. When this returns, they have ended and none of them writes any more. From then on [`run`] waits for
    /// ever instead of starting a child, because the caller is about to end this process.
    pub(crate) fn terminate(&self) {
        let groups = self.groups();
        for (signal, patience) in [(Signal::SIGTERM, TERM_PATIENCE), (Signal::SIGKILL, KILL_PATIENCE)] {
            for group in groups.iter() {
                // This fails with ESRCH if the group has ended.
                let _ = killpg(*group, signal);
            }
            let start = Instant::now();
            while start.elapsed() < patience && have_members(&groups) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        std::mem::forget(groups);
    }
}

/// Returns whether any of the process groups has a member that has not ended. Members that wait to be reaped do not
/// count. kill(2) can't tell them from others, but proc_pid_stat(5) can.
fn have_members(groups: &[Pid]) -> bool {
    let stats = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        // This fails for a process that has ended meanwhile, and for entries that are no process.
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    });
    let mut members = stats.filter_map(|stat| {
        // The name may contain any character, including brackets. After it come the state, the parent and the group.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let (state, group) = (fields.next()?, fields.nth(1)?.parse().ok().map(Pid::from_raw)?);
        (!matches!(state, "Z" | "X")).then_some(group)
    });
    !groups.is_empty() && members.any(|group| groups.contains(&group))
}

/// Returns whether the leader of the group has not ended. A leader that waits to be reaped has ended.
fn is_alive(group: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(group), flags) {
        Ok(WaitStatus::StillAlive) => true,
        Ok(_) | Err(_) => false,
    }
}

/// Returns a command for `program` that gets only PATH of this process's environment, in which OS parameters may be
/// secrets. The messages of the program are in English.
pub(crate) fn plain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LC_ALL", "C");
    command
}

/// The processes that must not outlive this one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime<'f> {
    /// The command alone, which starts no others. Its lines also end at carriage returns, because tools print their
    /// progress so.
    Child,
    /// The command and everything that it starts, in any way: it gets a PID namespace, which needs CAP_SYS_ADMIN. If
    /// this process is killed, the file is synced after they have ended, and before the locks that this process holds
    /// are freed.
    Namespace(Option<BorrowedFd<'f>>),
}

/// Runs `command` in a process group of its own, calls `on_line` with each line of its standard output and error, and
/// returns its exit status. The command inherits `keep` under the same numbers, and no standard input. It dies with
/// this thread, and as `lifetime` says. Everything that it leaves running in its group or namespace has ended when this
/// returns.
pub(crate) fn run(
    command: Command,
    keep: &[BorrowedFd<'_>],
    lifetime: Lifetime,
    children: &Children,
    on_line: impl FnMut(&str),
) -> io::Result<ExitStatus> {
    run_with_input(command, Stdio::null(), keep, lifetime, children, on_line)
}

/// Does what [`run`] does, but with a standard input. This process does not keep it open, so the writer of a pipe
/// notices when the command has ended.
pub(crate) fn run_with_input(
    mut command: Command,
    input: impl Into<Stdio>,
    keep: &[BorrowedFd<'_>],
    lifetime: Lifetime<'_>,
    children: &Children,
    mut on_line: impl FnMut(&str),
) -> io::Result<ExitStatus> {
    let (output, writer) = io::pipe()?;
    command.stdin(input).stdout(writer.try_clone()?).stderr(writer);
    sys::keep_open(&mut command, keep);
    let ends: &[u8] = if matches!(lifetime, Lifetime::Child) { b"\r\n" } else { b"\n" };
    let started = start(command, lifetime, children)?;
    // A child that writes faster than `on_line` works has to wait.
    let (sender, lines) = mpsc::sync_channel(LINES);
    std::thread::spawn(move || read_lines(output, ends, &sender));
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => on_line(&line),
            Err(mpsc::RecvTimeoutError::Timeout) if is_alive(started.pid) => {}
            Err(_) => break end(started, children)?,
        }
    };
    let start = Instant::now();
    while let Ok(line) = lines.recv_timeout(OUTPUT_PATIENCE.saturating_sub(start.elapsed())) {
        on_line(&line);
    }
    Ok(status)
}

/// A child that was not reaped yet. It leads a process group, unless [`Children::in_own_group`] was used.
struct Started {
    pid: Pid,
    namespace: Option<Namespace>,
}

/// Starts and registers a child under one lock, so that the signal thread misses none. The command is dropped here,
/// which closes our copy of the output pipe. Otherwise the output would never end.
fn start(mut command: Command, lifetime: Lifetime<'_>, children: &Children) -> io::Result<Started> {
    let mut groups = children.groups();
    let started = match lifetime {
        Lifetime::Child => {
            if !children.in_own_group {
                command.process_group(0);
            }
            sys::tie_child(&mut command);
            Started { pid: pid(&sys::start(&mut command)?)?, namespace: None }
        }
        Lifetime::Namespace(written) => {
            let namespace = Namespace::start(command, written)?;
            Started { pid: namespace.first, namespace: Some(namespace) }
        }
    };
    groups.push(started.pid);
    Ok(started)
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// Waits for the end of the child, kills the rest of its group, and reaps it.
fn end(started: Started, children: &Children) -> io::Result<ExitStatus> {
    let Started { pid, namespace } = started;
    wait_for_end(pid)?;
    let status = {
        let mut groups = children.groups();
        kill_group(pid);
        groups.retain(|known| *known != pid);
        exit_status(waitpid(pid, None)?)
    };
    match namespace {
        Some(namespace) => namespace.finish(status),
        None => Ok(status),
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match status {
        WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
        WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
        _ => ExitStatus::from_raw(0),
    }
}

/// Waits until the child has ended, without reaping it.
fn wait_for_end(child: Pid) -> io::Result<()> {
    loop {
        match waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            ended => return ended.map(drop).map_err(io::Error::from),
        }
    }
}

/// Kills the rest of the group of a child that has ended and was not reaped.
fn kill_group(group: Pid) {
    // This fails with ESRCH if nothing was left.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Sends each line. A line ends with one of the bytes `ends`.
fn read_lines(output: impl Read, ends: &[u8], sender: &mpsc::SyncSender<String>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while read_line(&mut reader, ends, &mut line).is_ok_and(|len| len > 0) {
        let text = String::from_utf8_lossy(&line);
        if sender.send(text.trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Does what `read_until` does, but with several end bytes, and for at most [`LINE_LIMIT`] bytes.
fn read_line(reader: &mut impl BufRead, ends: &[u8], line: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        let available = &available[..available.len().min(LINE_LIMIT - line.len())];
        let end = available.iter().position(|byte| ends.contains(byte)).map(|at| at + 1);
        let count = end.unwrap_or(available.len());
        line.extend_from_slice(&available[..count]);
        reader.consume(count);
        if end.is_some() || count == 0 || line.len() == LINE_LIMIT {
            return Ok(line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Children, Lifetime, run};
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> (i32, Vec<String>) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let status =
            run(command, &[], Lifetime::Child, &Children::default(), |line| lines.push(line.to_owned())).unwrap();
        (status.code().unwrap(), lines)
    }

    #[test]
    fn gives_status_and_both_outputs() {
        assert_eq!(shell("echo out; echo err >&2; exit 3"), (3, vec!["out".to_owned(), "err".to_owned()]));
    }

    #[test]
    fn has_no_standard_input() {
        assert_eq!(shell("cat; echo end"), (0, vec!["end".to_owned()]));
    }

    #[test]
    fn kills_what_stays_in_the_group_and_does_not_wait_for_it() {
        let start = Instant::now();
        let (status, lines) = shell("sleep 1000 & echo $!");
        assert_eq!(status, 0);
        assert!(start.elapsed() < Duration::from_secs(60));
        let left = format!("/proc/{}/stat", lines[0]);
        // The process was sent SIGKILL, which takes effect soon. Then it is gone, or it is a zombie that its new parent
        // still has to reap.
        let is_running = || std::fs::read_to_string(&left).is_ok_and(|stat| !stat.contains(") Z"));
        while is_running() {
            assert!(start.elapsed() < Duration::from_secs(60), "{left}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (_, lines) = shell("head -c 10000 /dev/zero | tr '\\0' x");
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
    }
}
