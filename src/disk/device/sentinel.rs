// SPDX-License-Identifier: BSD-2-Clause
//! Sees to it that a disk can't boot half-configured when this process is gone without a chance to do so itself.
//!
//! What the signal thread does before the end, nobody does after SIGKILL. So before a disk with hooks becomes
//! bootable, a shell is started that does it. It holds the disk's lock by the same open file description, so that
//! nobody can install onto the disk in between. A power cut while hooks run is not covered: hooks need the real
//! partition table.

use std::io::{self, PipeWriter};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::HeldDisk;
use crate::node::sys;

/// A shell that waits at a pipe, and zeroes the start of the disk when all who hold the pipe's other end are gone: this
/// process, by SIGKILL for instance, and every child that it starts from now on with what those start. So nobody writes
/// to the disk any more by then. It holds the disk's lock as long.
#[derive(Debug)]
pub(crate) struct Sentinel {
    shell: Child,
    _pipe: PipeWriter,
}

impl Sentinel {
    /// `read` gets nothing but the pipe's end. dd writes to its standard output, which is the disk.
    const SCRIPT: &str = r#"read -r end; exec dd if=/dev/zero bs="$1" count=1 conv=fsync"#;

    /// Over the first `len` bytes of `disk`, whose descriptor nobody moves.
    pub(crate) fn start(disk: &HeldDisk, len: usize) -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", Self::SCRIPT, "sh", &len.to_string()]).env_clear();
        // Not in our process group: what ends that should not end it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(reader).stdout(disk.file().try_clone()?).stderr(Stdio::null());
        let shell = sys::start(&mut command)?;
        // Not before: the shell would wait for itself.
        fcntl(&pipe, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Sentinel { shell, _pipe: pipe })
    }
}

impl Drop for Sentinel {
    /// The disk is as it should be: ends the shell, which lets go of the disk.
    fn drop(&mut self) {
        // Fails only when it has ended.
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
