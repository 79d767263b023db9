// SPDX-License-Identifier: BSD-2-Clause
//! A helper process that makes a half-configured disk unbootable when this process is killed.
//!
//! The signal thread does this for signals that can be caught, but after SIGKILL nothing of this process runs. So a
//! shell is started before a disk with hooks becomes bootable. It shares the open file that holds the lock of the disk,
//! so nobody can install onto the disk before the shell has finished. It does not help after a power cut, because hooks
//! need the real partition table.

use std::io::{self, PipeWriter};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::HeldDisk;
use crate::node::sys;

/// A shell that waits at a pipe and then zeroes the start of the disk. This process and every process that is started
/// from now on has the other end of the pipe open, so nobody writes to the disk any more when it closes.
#[derive(Debug)]
pub(crate) struct Sentinel {
    shell: Child,
    _pipe: PipeWriter,
}

impl Sentinel {
    /// `read` ends when the pipe is closed. dd writes to its standard output, which is the disk.
    const SCRIPT: &str = r#"read -r end; exec dd if=/dev/zero bs="$1" count=1 conv=fsync"#;

    /// Guards the first `len` bytes of `disk`. Nobody may move the file position of the disk's descriptor.
    pub(crate) fn start(disk: &HeldDisk, len: usize) -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", Self::SCRIPT, "sh", &len.to_string()]).env_clear();
        // The shell gets its own process group, because a signal to ours must not end it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(reader).stdout(disk.file().try_clone()?).stderr(Stdio::null());
        let shell = sys::start(&mut command)?;
        // The pipe becomes inheritable only after the start. Otherwise the shell would have it open itself and never
        // see its end.
        fcntl(&pipe, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Sentinel { shell, _pipe: pipe })
    }
}

impl Drop for Sentinel {
    /// Ends the shell without zeroing anything, because the disk is now as it should be.
    fn drop(&mut self) {
        // Both calls fail only if the shell has ended already.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::Sentinel;
    use crate::disk::device::Target;
    use std::time::{Duration, Instant};

    #[test]
    fn zeroes_the_disk_when_the_pipe_is_closed_and_not_when_it_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let old = vec![0xa5; 3 << 20];
        std::fs::write(file.path(), &old).unwrap();
        let disk = Target::open(file.path()).unwrap().release();
        drop(Sentinel::start(&disk, 1 << 20).unwrap());
        assert!(std::fs::read(file.path()).unwrap() == old);
        let Sentinel { shell, _pipe } = &mut Sentinel::start(&disk, 1 << 20).unwrap();
        let (_, unused) = std::io::pipe().unwrap();
        drop(std::mem::replace(_pipe, unused));
        let start = Instant::now();
        while shell.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        let now = std::fs::read(file.path()).unwrap();
        assert!(now[..1 << 20].iter().all(|byte| *byte == 0) && now[1 << 20..] == old[1 << 20..]);
    }
}
