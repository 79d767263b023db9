// SPDX-License-Identifier: BSD-2-Clause
//! Children: tied to this process, with checked status, their output passed on line by line, none left behind.

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

/// Longest piece of a child's output that is taken as one line, in bytes: a child must not fill our memory.
const LINE_LIMIT: usize = 4096;

/// Lines of a child's output that wait to be taken.
const LINES: usize = 64;

/// How long output is still awaited after a child has ended, should something outside its process group hold the pipe.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// How long children have to end after SIGTERM before SIGKILL, when this process is told to end.
const TERM_PATIENCE: Duration = Duration::from_millis(500);

/// How long their end is awaited after SIGKILL: a process may be in the middle of a write, or unmount what it mounted.
const KILL_PATIENCE: Duration = Duration::from_millis(400);

/// The process groups of all running children. Clones share one list: the signal thread ends what is in it.
#[derive(Debug, Clone, Default)]
pub struct Children {
    groups: Arc<Mutex<Vec<Pid>>>,
    together: bool,
}

impl Children {
    /// Children in this process's own group: who ends that ends them and what they started.
    pub(crate) fn in_own_group() -> Self {
        Children { together: true, ..Children::default() }
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every running child with its process group: SIGTERM, half a second, SIGKILL. When it returns they have
    /// ended: whoever is asked to clean up has had the time, and nobody writes any more. From now on [`run`] waits for
    /// ever instead of starting another: the caller is about to end this process.
    pub(crate) fn terminate(&self) {
        let groups = self.groups();
        for (signal, patience) in [(Signal::SIGTERM, TERM_PATIENCE), (Signal::SIGKILL, KILL_PATIENCE)] {
            for group in groups.iter() {
                // ESRCH: nothing is left.
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

/// Whether any of the process groups has a member that has not ended, leaders or not. Those that wait to be reaped do
/// not count: kill(2) can't tell them from others, proc_pid_stat(5) can.
fn have_members(groups: &[Pid]) -> bool {
    let stats = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        // Gone meanwhile, or not a process.
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    });
    let mut members = stats.filter_map(|stat| {
        // The name may hold anything, brackets too; behind it come state, parent and group.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let (state, group) = (fields.next()?, fields.nth(1)?.parse().ok().map(Pid::from_raw)?);
        (!matches!(state, "Z" | "X")).then_some(group)
    });
    !groups.is_empty() && members.any(|group| groups.contains(&group))
}

/// Whether the group's leader has not ended. One that waits to be reaped does not count.
fn is_alive(group: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(group), flags) {
        Ok(nix::sys::wait::WaitStatus::StillAlive) => true,
        Ok(_) | Err(_) => false,
    }
}

/// What must not outlive this process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime<'f> {
    /// The command itself; it starts nothing. A carriage return ends its lines too: tools show so how far they are.
    Child,
    /// The command and all that it starts, whatever they do: a PID namespace ends with it. Needs CAP_SYS_ADMIN. Should this
    /// process be ended, what they wrote to the file is on it before anything that is open here is closed.
    Namespace(Option<BorrowedFd<'f>>),
}

/// Runs `command` in a process group of its own, hands each line of its standard output and error to `on_line`, and
/// gives its exit status. It inherits `keep` under the same numbers and no standard input. It dies with this thread,
/// and as `lifetime` says; what it leaves running in its group, or its namespace, has ended when this returns.
pub(crate) fn run(
    command: Command,
    keep: &[BorrowedFd<'_>],
    lifetime: Lifetime,
    children: &Children,
    on_line: impl FnMut(&str),
) -> io::Result<ExitStatus> {
    run_with_input(command, Stdio::null(), keep, lifetime, children, on_line)
}

/// The same with a standard input, of which this process keeps nothing open: whoever writes to a pipe notices that the
/// command ended.
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
    // Few lines wait: a child that is faster than whoever takes them waits too.
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

/// A child that was not reaped yet, and leads a process group unless all are together.
struct Started {
    pid: Pid,
    namespace: Option<Namespace>,
}

/// Start and registration are one step for the signal thread, so that it misses no child. What is open for the command
/// only is closed here afterwards: without that the end of its output would never be seen.
fn start(mut command: Command, lifetime: Lifetime<'_>, children: &Children) -> io::Result<Started> {
    let mut groups = children.groups();
    let started = match lifetime {
        Lifetime::Child => {
            if !children.together {
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

/// Waits for the child's end, kills what is left of its group, and reaps it.
fn end(started: Started, children: &Children) -> io::Result<ExitStatus> {
    let Started { pid, namespace } = started;
    wait_for_end(pid)?;
    let status = {
        let mut groups = children.groups();
        kill_group(pid);
        groups.retain(|known| *known != pid);
        exit_status(waitpid(pid, None)?)
    };
    namespace.map_or(Ok(status), |namespace| namespace.finish(status))
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match status {
        WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
        WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
        _ => ExitStatus::from_raw(0),
    }
}

/// Waits until the child has ended; it stays unreaped.
fn wait_for_end(child: Pid) -> io::Result<()> {
    loop {
        match waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            ended => return ended.map(drop).map_err(io::Error::from),
        }
    }
}

/// Kills what is left of the group of a child that has ended and was not reaped.
fn kill_group(group: Pid) {
    // ESRCH: nothing was left.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Hands over line by line, of which each ends with one of `ends`.
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

/// As `read_until`, but with several ends, and up to the limit.
fn read_line(reader: &mut impl BufRead, ends: &[u8], line: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let there = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            there => there?,
        };
        let there = &there[..there.len().min(LINE_LIMIT - line.len())];
        let end = there.iter().position(|byte| ends.contains(byte)).map(|at| at + 1);
        let count = end.unwrap_or(there.len());
        line.extend_from_slice(&there[..count]);
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
        // It was sent SIGKILL, which takes effect soon; then it is gone, or a zombie that its new parent has yet to reap.
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
