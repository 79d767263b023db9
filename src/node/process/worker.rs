// SPDX-License-Identifier: BSD-2-Clause
//! A part of this program in a process of its own: what it gives up there, the rest still has.
//!
//! The fork is safe: besides the thread that forks there is only the signal thread. That one takes the lock on the
//! list of children before any other, and the fork is made under that lock. The copy has no signal thread: a signal
//! ends it at once, its qemu-img with it, and the boot area is the first process's to write or not.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};

use super::{Children, exit_status, kill_group, wait_for_end};
use crate::node::sys;

/// Exit code of work that failed with an answer.
const FAILED: i32 = 1;

/// Longest answer in bytes; the rest is cut off. A seed's volume of 4 MiB and a few numbers have to fit.
const MAX_ANSWER: u64 = 8 << 20;

/// What the copy gives.
#[derive(Debug, Default)]
pub struct Answer {
    /// At most 8 MiB.
    pub bytes: Vec<u8>,
    /// An open file, with the locks that it holds.
    pub file: Option<File>,
}

/// Does `work` in a copy of this process, and gives its answer, or the words of an error. An error of another
/// kind means that the copy died. Where this process is told to end, it ends the copy first.
///
/// The copy has one thread and no signal thread: signals have their default effect. It shares no memory with this
/// process, only what is open. What it does to `children` is lost: it needs a list of its own.
pub fn apart(children: &Children, work: impl FnOnce() -> Result<Answer, String>) -> io::Result<Result<Answer, String>> {
    let mut answer = File::from(memfd_create(c"simpleimage-answer", MFdFlags::MFD_CLOEXEC)?);
    let (receiver, sender) = UnixDatagram::pair()?;
    let pid = {
        // While this is held the signal thread holds nothing: it takes it first, and the process has no other thread.
        let mut groups = children.groups();
        let pid = sys::fork(|| {
            let (code, Answer { bytes, file }) = match work() {
                Ok(answer) => (0, answer),
                Err(words) => (FAILED, Answer { bytes: words.into_bytes(), file: None }),
            };
            let sent = file.map_or(Ok(()), |file| send(&sender, &file)).and_then(|()| (&answer).write_all(&bytes));
            if sent.is_ok() { code } else { 101 }
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
    let len = answer.metadata()?.len().min(MAX_ANSWER);
    // All at once: read_to_end would begin with 32 bytes.
    let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
    answer.take(len).read_to_end(&mut bytes)?;
    match status {
        WaitStatus::Exited(_, 0) => Ok(Ok(Answer { bytes, file: receive(&receiver)? })),
        WaitStatus::Exited(_, FAILED) => Ok(Err(String::from_utf8_lossy(&bytes).into_owned())),
        status => Err(io::Error::other(format!("the working process died ({})", exit_status(status)))),
    }
}

/// Hands the file over: unix(7), SCM_RIGHTS.
fn send(to: &UnixDatagram, file: &File) -> io::Result<()> {
    let files = [file.as_raw_fd()];
    let byte = [IoSlice::new(&[0])];
    sendmsg::<()>(to.as_raw_fd(), &byte, &[ControlMessage::ScmRights(&files)], MsgFlags::empty(), None)?;
    Ok(())
}

/// The file that was handed over, if there is one.
fn receive(from: &UnixDatagram) -> io::Result<Option<File>> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(from.as_raw_fd(), &mut buffers, Some(&mut control), flags) {
        Err(Errno::EAGAIN) => return Ok(None),
        received => received?,
    };
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(files) = part {
            return files.first().map(|file| sys::adopt_descriptor(*file)).transpose();
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Children, apart};
    use std::fs::File;

    #[test]
    fn answers_come_back_and_deaths_are_told() {
        let children = Children::default();
        let answer = |bytes| Ok(Answer { bytes, file: None });
        let large = apart(&children, || answer(vec![7; 2 << 20])).unwrap().unwrap();
        assert!(large.bytes == vec![7; 2 << 20] && large.file.is_none());
        assert_eq!(apart(&children, || Err("no".to_owned())).unwrap().unwrap_err(), "no");
        let died = apart(&children, || {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            answer(Vec::new())
        });
        let words = died.unwrap_err().to_string();
        assert_eq!(words, "the working process died (signal: 9 (SIGKILL))");
        assert!(children.groups().is_empty());
    }

    #[test]
    fn a_file_comes_back_with_its_lock() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let lock = || {
            let file = File::open(named.path()).unwrap();
            file.try_lock_shared().unwrap();
            Ok(Answer { bytes: Vec::new(), file: Some(file) })
        };
        let kept = apart(&Children::default(), lock).unwrap().unwrap().file.unwrap();
        assert!(named.as_file().try_lock().is_err(), "the lock is held by who has the file");
        drop(kept);
        named.as_file().try_lock().unwrap();
    }
}
