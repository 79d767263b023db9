// SPDX-License-Identifier: BSD-2-Clause
//! Runs a command in a PID namespace of its own, so that all processes that it starts end with it.
//!
//! When the first process of the namespace ends, the kernel kills all others in it and waits for their end, even if
//! they used setsid, forked twice or closed their descriptors. The alternatives are weaker: cgroup.kill needs Linux
//! 5.14 and a cgroup v2 that a script may write, and root can leave a cgroup; a subreaper can be killed by SIGKILL. If
//! a namespace is not permitted, hooks are an error, because no promise about them would hold.
//!
//! When this process ends, the first process of the namespace gets a signal (PR_SET_PDEATHSIG) and kills all others. It
//! keeps the disk's lock and the sentinel's pipe open until they have ended and their mounts are gone. Unmounting a
//! file system without partitions writes its superblock in the first MiB, so it has to be finished before the disk is
//! made unbootable. If the node's mounts are not shared, a file system that the node unmounts meanwhile stays mounted
//! for the hooks until they end.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, fsync};

use super::{exit_status, pid};
use crate::node::sys;

/// The signal that the first process gets when this process ends.
const ORPHANED: Signal = Signal::SIGUSR1;

/// The exit code of the first process if it could not run the command.
const FAILED: i32 = 1;

/// The first process of the namespace, which ends when the command has ended.
#[derive(Debug)]
pub(super) struct Namespace {
    /// The number of the process outside of the namespace. The process leads a process group, to which the command does
    /// not belong.
    pub(super) first: Pid,
    /// At its end the first process writes the command's status, or the words of an error.
    result: PipeReader,
    /// The pipe is open as long as this process lives.
    _alive: PipeWriter,
}

impl Namespace {
    /// Starts `command` as the second process of a new PID namespace. The first one is a copy of this process. It reaps
    /// the processes that end in the namespace, and passes SIGTERM on to all of them and waits until they have ended.
    /// When the calling thread ends, it kills them, and keeps everything open that is open here until they have ended.
    /// Then it syncs `written`. All of them see a /proc of the namespace, and their mounts are not seen outside.
    pub(super) fn start(mut command: Command, written: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let mut waited_for = SigSet::empty();
        waited_for.extend([Signal::SIGCHLD, Signal::SIGTERM, ORPHANED]);
        let (result, mut sender) = io::pipe()?;
        let work = || {
            let (code, words) = match run(&mut command, &waited_for, written) {
                Ok(status) => (0, status.into_raw().to_ne_bytes().to_vec()),
                Err(err) => (FAILED, err.to_string().into_bytes()),
            };
            if sender.write_all(&words).is_ok() { code } else { FAILED }
        };
        let forked = sys::fork_namespace(waited_for, ORPHANED, work);
        let needs = |err| io::Error::other(format!("starting a PID namespace (which takes CAP_SYS_ADMIN): {err}"));
        let (first, alive) = forked.map_err(needs)?;
        Ok(Namespace { first, result, _alive: alive })
    }

    /// Returns how the command ended. The first process has ended with `status`.
    pub(super) fn finish(mut self, status: ExitStatus) -> io::Result<ExitStatus> {
        let mut words = Vec::new();
        self.result.read_to_end(&mut words)?;
        match (status.code(), <[u8; 4]>::try_from(words.as_slice())) {
            (Some(0), Ok(raw)) => Ok(ExitStatus::from_raw(i32::from_ne_bytes(raw))),
            (Some(FAILED), _) => Err(io::Error::other(String::from_utf8_lossy(&words).into_owned())),
            // The first process was killed.
            _ => Ok(status),
        }
    }
}

/// Returns the path under which a file that is open here can be opened in a namespace, whose first process has it open
/// too. The path also works after a program, such as sudo, that closes what it inherited.
pub(crate) fn path_in_namespace(file: &File) -> PathBuf {
    format!("/proc/1/fd/{}", file.as_raw_fd()).into()
}

/// Does the work of the first process. Everything that is left in the namespace ends when this process does.
fn run(command: &mut Command, waited_for: &SigSet, written: Option<BorrowedFd<'_>>) -> io::Result<ExitStatus> {
    // Outside of a new namespace this would kill all processes of the node.
    if std::process::id() != 1 {
        return Err(io::Error::other("not the first process of a PID namespace"));
    }
    let node = File::open("/proc/self/ns/mnt")?;
    own_mounts()?;
    // The command gets its own group, so that SIGTERM to the group of the first process reaches it only once.
    let command = pid(&sys::start(command.process_group(0))?)?;
    let (mut status, mut ending) = (None, false);
    loop {
        match waited_for.wait()? {
            Signal::SIGCHLD => {}
            signal => {
                ending = true;
                let signal = if signal == ORPHANED { Signal::SIGKILL } else { signal };
                // -1 means all processes except this one. This fails with ESRCH if there are none.
                let _ = kill(Pid::from_raw(-1), signal);
            }
        }
        let left = reap(command, &mut status)?;
        match status {
            // The kernel kills the processes that are left, and removes the mounts.
            Some(status) if !ending => return Ok(status),
            Some(status) if !left => {
                // This unmounts and syncs before the files that are open here are closed, because another process may
                // wait for their locks to write to the disk.
                setns(&node, CloneFlags::CLONE_NEWNS)?;
                if let Some(written) = written {
                    fsync(written)?;
                }
                return Ok(status);
            }
            _ => {}
        }
    }
}

/// Reaps the processes that have ended, and stores the status of `command`. Returns whether any process is left. A
/// process that loses its parent becomes a child of the first process.
fn reap(command: Pid, status: &mut Option<ExitStatus>) -> io::Result<bool> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(true),
            Ok(ended) if ended.pid() == Some(command) => *status = Some(exit_status(ended)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(false),
            Err(err) => return Err(err.into()),
        }
    }
}

/// Enters a new mount namespace with a /proc of this PID namespace. What the node mounts later is seen in it, but its
/// own mounts are not seen on the node.
fn own_mounts() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none))
        .map_err(|err| io::Error::other(format!("starting a mount namespace: {err}")))?;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
        .map_err(|err| io::Error::other(format!("mounting a /proc of the PID namespace: {err}")))
}

#[cfg(test)]
mod tests {
    use crate::node::process::{Children, Lifetime, run};
    use std::process::Command;

    /// Returns the exit code of a script in a namespace, and its output.
    fn shell(script: &str) -> (Option<i32>, Vec<String>) {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root (PID namespaces)");
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let children = Children::default();
        let status =
            run(command, &[], Lifetime::Namespace(None), &children, |line| lines.push(line.to_owned())).unwrap();
        assert!(children.groups().is_empty());
        (status.code(), lines)
    }

    #[test]
    fn status_and_output_are_the_commands() {
        assert_eq!(shell("echo out; echo err >&2; exit 3"), (Some(3), vec!["out".to_owned(), "err".to_owned()]));
        assert_eq!(shell("kill -KILL $$"), (None, vec![]));
        let gone = run(Command::new("/nonexistent"), &[], Lifetime::Namespace(None), &Children::default(), |_| {});
        assert_eq!(gone.unwrap_err().to_string(), "No such file or directory (os error 2)");
    }

    /// No process of the namespace is left at the end, not even one of another group, session or parent.
    #[test]
    fn all_that_was_started_has_ended() {
        let marks = ["4711.01", "4711.02", "4711.03", "4711.04"].map(|mark| format!("{mark}{}", std::process::id()));
        let [plain, session, daemon, hardened] = &marks;
        let script = format!(
            "sleep {plain} & setsid sleep {session} & (setsid sh -c 'sleep {daemon} & sleep {daemon}' &)
            (trap '' TERM HUP INT; exec setsid nohup sleep {hardened}) >/dev/null 2>&1 </dev/null &
            until [ $(cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^4711') -ge 5 ]; do sleep 0.01; done; echo $$"
        );
        // The shell is the second process of its namespace, in its /proc as well.
        assert_eq!(shell(&script), (Some(0), vec!["2".to_owned()]));
        for mark in marks {
            let found = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
                std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
                    line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()) && !line.starts_with(b"sh\0")
                })
            });
            assert!(found.is_none(), "{mark}: {found:?} lives on");
        }
    }
}
