// SPDX-License-Identifier: BSD-2-Clause
//! A part of this program in a process of its own: what it gives up there, the rest still has.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};

use super::{Children, kill_group, wait_for_end};
use crate::sys;

/// Exit code of work that failed with an answer.
const FAILED: i32 = 1;

/// Longest answer in bytes: more is an error.
const MAX_ANSWER: u64 = 4 << 20;

/// Does `work` in a copy of this process, and gives its answer: bytes, or the words of an error. An error of another
/// kind means that the copy died. Where this process is told to end, it ends the copy first.
///
/// The copy has one thread and no signal thread: signals have their default effect. It shares no memory with this
/// process, only what is open. What it does to `children` is lost: it needs a list of its own.
pub fn apart(
    children: &Children,
    work: impl FnOnce() -> Result<Vec<u8>, String>,
) -> io::Result<Result<Vec<u8>, String>> {
    let mut answer = File::from(memfd_create(c"simpleimage-answer", MFdFlags::MFD_CLOEXEC)?);
    let pid = {
        // While this is held the signal thread holds nothing: it takes it first, and the process has no other thread.
        let mut groups = children.groups();
        let pid = sys::fork(|| {
            let (code, bytes) = match work() {
                Ok(bytes) => (0, bytes),
                Err(words) => (FAILED, words.into_bytes()),
            };
            if (&answer).write_all(&bytes).is_ok() { code } else { 101 }
        })?;
        groups.push(pid);
        pid
    };
    wait_for_end(pid)?;
    let status = {
        let mut groups = children.groups();
        kill_group(pid);
        groups.retain(|known| *known != pid);
        waitpid(pid, None)?
    };
    answer.rewind()?;
    let mut bytes = Vec::new();
    answer.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    match status {
        WaitStatus::Exited(_, 0) => Ok(Ok(bytes)),
        WaitStatus::Exited(_, FAILED) => Ok(Err(String::from_utf8_lossy(&bytes).into_owned())),
        status => Err(io::Error::other(format!("the working process died ({})", describe(status)))),
    }
}

fn describe(status: WaitStatus) -> ExitStatus {
    match status {
        WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
        WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
        _ => ExitStatus::from_raw(0),
    }
}

#[cfg(test)]
mod tests {
    use super::{Children, apart};

    #[test]
    fn answers_come_back_and_deaths_are_told() {
        let children = Children::default();
        assert_eq!(apart(&children, || Ok(vec![7; 2 << 20])).unwrap(), Ok(vec![7; 2 << 20]));
        assert_eq!(apart(&children, || Err("no".to_owned())).unwrap(), Err("no".to_owned()));
        let died = apart(&children, || {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            Ok(Vec::new())
        });
        let words = died.unwrap_err().to_string();
        assert_eq!(words, "the working process died (signal: 9 (SIGKILL))");
        assert!(children.groups().is_empty());
    }
}
