// SPDX-License-Identifier: BSD-2-Clause
//! Children: tied to this process, with checked status, their output passed on line by line, none left behind.

mod worker;

pub use worker::{Answer, apart};

use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::sys;

/// Longest piece of a child's output that is taken as one line, in bytes: a child must not fill our memory.
const LINE_LIMIT: u64 = 4096;

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
    pub fn together() -> Self {
        Children { together: true, ..Children::default() }
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every running child with its process group: SIGTERM, half a second, SIGKILL. When it returns they have
    /// ended: whoever is asked to clean up has had the time, and nobody writes any more. From now on [`run`] waits for
    /// ever instead of starting another: the caller is about to end this process.
    pub fn terminate(&self) {
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

/// Kills a process group when this process dies without a chance to do so itself, by SIGKILL: PR_SET_PDEATHSIG reaches
/// a child, but not what the child started. A shell waits for the end of a pipe of which only we hold the other end.
struct Guard {
    shell: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// It stays until the group is gone, five seconds at most: who waits for the shell waits for the group.
    const SCRIPT: &str = r#"
        read -r group || exit
        read -r end
        kill -s KILL -- "-$group"
        tries=250
        while [ "$tries" -gt 0 ] && kill -s 0 -- "-$group"; do sleep 0.02; tries=$((tries - 1)); done"#;

    fn start() -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", Self::SCRIPT]).env_clear().process_group(0);
        let shell = command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Guard { shell, pipe })
    }

    fn watch(&mut self, group: Pid) -> io::Result<()> {
        writeln!(self.pipe, "{group}")
    }

    /// The group has ended; its number may become another's.
    fn release(mut self) -> io::Result<()> {
        self.shell.kill()?;
        self.shell.wait().map(drop)
    }
}

/// What must not outlive this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The command itself; it starts nothing.
    Child,
    /// The command and all that it starts in its process group.
    Group,
}

/// Runs `command` in a process group of its own, hands each line of its standard output and error to `on_line`, and
/// gives its exit status. It inherits `keep` under the same numbers and no standard input. It dies with this thread,
/// and as `lifetime` says; what it leaves running in its group is killed when it ends.
pub fn run(
    mut command: Command,
    keep: &[BorrowedFd<'_>],
    lifetime: Lifetime,
    children: &Children,
    mut on_line: impl FnMut(&str),
) -> io::Result<ExitStatus> {
    let mut guard = if lifetime == Lifetime::Group { Some(Guard::start()?) } else { None };
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    if !children.together {
        command.process_group(0);
    }
    sys::tie_child(&mut command, keep);
    let mut child = spawn(&mut command, children)?;
    guard.as_mut().map_or(Ok(()), |guard| guard.watch(pid(&child)?))?;
    // The command holds the write ends of the pipe: without this its end would never be seen.
    drop(command);
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || read_lines(output, &sender));
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => on_line(&line),
            Err(mpsc::RecvTimeoutError::Timeout) if !has_ended(&child)? => {}
            Err(_) => break end(&mut child, guard.take(), children)?,
        }
    };
    let start = Instant::now();
    while let Ok(line) = lines.recv_timeout(OUTPUT_PATIENCE.saturating_sub(start.elapsed())) {
        on_line(&line);
    }
    Ok(status)
}

/// Start and registration are one step for the signal thread, so that it misses no child.
fn spawn(command: &mut Command, children: &Children) -> io::Result<Child> {
    let mut groups = children.groups();
    let child = command.spawn()?;
    groups.push(pid(&child)?);
    Ok(child)
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

/// Whether the child has ended; it stays unreaped, so that its number and group can't become another's.
fn has_ended(child: &Child) -> io::Result<bool> {
    Ok(!is_alive(pid(child)?))
}

/// Waits for the child's end, kills what is left of its group, and reaps it.
fn end(child: &mut Child, guard: Option<Guard>, children: &Children) -> io::Result<ExitStatus> {
    let group = pid(child)?;
    wait_for_end(group)?;
    let mut groups = children.groups();
    kill_group(group);
    guard.map_or(Ok(()), Guard::release)?;
    groups.retain(|known| *known != group);
    child.wait()
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

fn read_lines(output: impl Read, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(1..) => {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end().to_owned()).is_err() {
                    return;
                }
            }
            _ => return,
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
            run(command, &[], Lifetime::Group, &Children::default(), |line| lines.push(line.to_owned())).unwrap();
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
