// SPDX-License-Identifier: BSD-2-Clause
//! A worker is a copy of this process that gives up its privileges, processes bytes from strangers, and returns an
//! answer.
//!
//! The question needs no encoding, because the fork copies it. The answer is a type with serde, and at most one file.
//!
//! The fork is safe, because there is only the signal thread besides the thread that forks. The signal thread takes the
//! lock on the list of children before any other lock, and the fork is made under that lock. The copy has no signal
//! thread: a signal ends it at once, together with its qemu-img. The first process decides whether the boot area is
//! written.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Children, exit_status, kill_group, wait_for_end};
use crate::node::sys;

/// The exit code of a worker that could not send its answer.
const FAILED: i32 = 101;

/// The length of the longest answer in bytes. The volume of a seed (4 MiB) and a few numbers have to fit.
const MAX_ANSWER: u64 = 8 << 20;

/// Does `work` in a worker, and returns its answer, with an open file and the locks that it holds. When a signal ends
/// this process, it ends the worker first.
///
/// The worker has one thread and no signal thread, and signals have their default effect. It shares no memory with this
/// process, but only what is open. Its changes of `children` are lost, so it needs a list of its own.
///
/// # Errors
/// The outer error says that the worker died. The inner one is the text of the worker's error.
pub fn run_in_worker<T: Serialize + DeserializeOwned>(
    children: &Children,
    work: impl FnOnce() -> Result<(T, Option<File>), String>,
) -> io::Result<Result<(T, Option<File>), String>> {
    let starting = |error: io::Error| io::Error::new(error.kind(), format!("starting a worker process: {error}"));
    let memory = memfd_create(c"simpleimage-answer", MFdFlags::MFD_CLOEXEC).map_err(|error| starting(error.into()))?;
    let memory = File::from(memory);
    // The socket stays connected. With a socket for datagrams, the worker could send to any service of the node.
    let (receiver, sender) = UnixStream::pair().map_err(starting)?;
    let pid = {
        // While this lock is held, the signal thread holds no lock, because it takes this one first. The process has no
        // other thread.
        let mut groups = children.groups();
        let pid =
            sys::fork(|| if send_answer(work(), &memory, &sender).is_ok() { 0 } else { FAILED }).map_err(starting)?;
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
    if status != WaitStatus::Exited(pid, 0) {
        return Err(io::Error::other(format!("the worker process died ({})", exit_status(status))));
    }
    match read_answer(memory)? {
        Ok(answer) => Ok(Ok((answer, receive(&receiver)?))),
        Err(words) => Ok(Err(words)),
    }
}

fn send_answer<T: Serialize>(
    answer: Result<(T, Option<File>), String>,
    mut memory: &File,
    sender: &UnixStream,
) -> io::Result<()> {
    let (answer, file) = match answer {
        Ok((answer, file)) => (Ok(answer), file),
        Err(words) => (Err(words), None),
    };
    if let Some(file) = file {
        send(sender, &file)?;
    }
    memory.write_all(&postcard::to_allocvec(&answer).map_err(io::Error::other)?)
}

fn read_answer<T: DeserializeOwned>(mut memory: File) -> io::Result<Result<T, String>> {
    memory.rewind()?;
    let len = memory.metadata()?.len().min(MAX_ANSWER);
    // The whole buffer is allocated at once, because read_to_end would begin with 32 bytes.
    let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
    memory.take(len).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|err| io::Error::other(format!("the answer of the worker process: {err}")))
}

/// Hands the file over (unix(7), SCM_RIGHTS).
fn send(to: &UnixStream, file: &File) -> io::Result<()> {
    let files = [file.as_raw_fd()];
    let byte = [IoSlice::new(&[0])];
    sendmsg::<()>(to.as_raw_fd(), &byte, &[ControlMessage::ScmRights(&files)], MsgFlags::empty(), None)?;
    Ok(())
}

/// Returns the file that was handed over, if there is one.
fn receive(from: &UnixStream) -> io::Result<Option<File>> {
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
    use super::{Children, run_in_worker};
    use std::fs::File;

    #[test]
    fn answers_come_back_and_deaths_are_told() {
        let children = Children::default();
        let (large, file) = run_in_worker(&children, || Ok((vec![7_u8; 5 << 20], None))).unwrap().unwrap();
        assert!(large == vec![7; 5 << 20] && file.is_none());
        let refused = run_in_worker::<u8>(&children, || Err("no".to_owned()));
        assert_eq!(refused.unwrap().unwrap_err(), "no");
        let too_large = run_in_worker(&children, || Ok((vec![7_u8; 9 << 20], None))).unwrap_err().to_string();
        assert!(too_large.starts_with("the answer of the worker process: "), "{too_large}");
        let died = run_in_worker(&children, || {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            Ok(((), None))
        });
        let words = died.unwrap_err().to_string();
        assert_eq!(words, "the worker process died (signal: 9 (SIGKILL))");
        assert!(children.groups().is_empty());
    }

    #[test]
    fn a_file_comes_back_with_its_lock() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let lock = || {
            let file = File::open(named.path()).unwrap();
            file.try_lock_shared().unwrap();
            Ok(((), Some(file)))
        };
        let ((), handed_over) = run_in_worker(&Children::default(), lock).unwrap().unwrap();
        assert!(named.as_file().try_lock().is_err(), "the lock is held by who has the file");
        drop(handed_over.unwrap());
        named.as_file().try_lock().unwrap();
    }
}
