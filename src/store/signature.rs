// SPDX-License-Identifier: BSD-2-Clause
//! Detached OpenPGP signatures, checked by gpgv(1) against a keyring of trusted keys.
//!
//! gpgv's status lines decide. gpgv gets keyring, signature and file as descriptors, and none of our environment. A
//! signature by an unknown key beside a good one is accepted, because publishers change keys.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::node::file::descriptor_path;
use crate::node::process::{self, Children, Lifetime};
use crate::node::sandbox::{Sandbox, Tool, ToolAccess};

/// Most bytes of gpgv's status lines. A signature needs a few hundred.
const MAX_STATUS: u64 = 1 << 20;

/// The beginning of an armoured file. gpgv reads armoured signatures, but not armoured keyrings.
const ARMOUR: &[u8] = b"-----BEGIN ";

/// Why a signature was not accepted. Names of signatures are without secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant shows what its fields hold")]
pub enum SignatureError {
    #[error("opening the keyring {path} (gpg --export KEY writes one)", path = path.display())]
    Keyring { path: PathBuf, source: io::Error },
    #[error("the keyring {path} is armoured text, which gpgv can't read (use gpg --dearmor)", path = .0.display())]
    Armoured(PathBuf),
    #[error("{signature} is no valid signature of {signed}: {reason}")]
    Invalid { signature: String, signed: String, reason: String },
    #[error("checking {signature}: {reason}")]
    Gpgv { signature: String, reason: String },
}

/// A signature, and the keys that may have made it.
#[derive(Debug)]
pub struct Signature {
    name: String,
    file: File,
    keyring: File,
}

impl Signature {
    /// A signature that messages call `name`, with the bytes `content`. The keys come from `keyring`, which was opened
    /// at `keyring_path`.
    pub fn new(name: String, content: &[u8], keyring: File, keyring_path: &Path) -> Result<Self, SignatureError> {
        check_keyring(&keyring, keyring_path)?;
        match memory_file(content) {
            Ok(file) => Ok(Signature { name, file, keyring }),
            Err(err) => Err(SignatureError::Gpgv { signature: name, reason: err.to_string() }),
        }
    }

    /// Checks that this is a signature of `content` by one of the keys. Errors call the content `signed`.
    pub fn check_bytes(&self, content: &[u8], signed: &str, children: &Children) -> Result<(), SignatureError> {
        // A failed write is ignored: gpgv may end early, and then its verdict says why.
        let (_, verdict) = self
            .check(signed, content.len() as u64, children, |gpgv| gpgv.write_all(content))
            .map_err(|err| self.failed(err.to_string()))?;
        verdict
    }

    /// Checks that this is a signature, by one of the keys, of all the bytes that `feed` writes, which are about `len`.
    /// Gives the result of `feed` too. gpgv reads a pipe, so that nobody can change the bytes between its check and our
    /// use of them.
    pub fn check<T: Send>(
        &self,
        signed: &str,
        len: u64,
        children: &Children,
        feed: impl FnOnce(&mut dyn Write) -> T + Send,
    ) -> io::Result<(T, Result<(), SignatureError>)> {
        let (input, mut pipe) = io::pipe()?;
        thread::scope(|scope| {
            // The closure owns the pipe, which is closed when it ends.
            let feeding = scope.spawn(move || feed(&mut pipe));
            let verdict = self.run(input, signed, len, children);
            let fed = feeding.join().map_err(|_panic| io::Error::other("the reading thread died"))?;
            Ok((fed, verdict))
        })
    }

    fn run(&self, input: PipeReader, signed: &str, len: u64, children: &Children) -> Result<(), SignatureError> {
        let mut status = memory_file(b"").map_err(|err| self.failed(err.to_string()))?;
        let keep = [status.as_fd(), self.keyring.as_fd(), self.file.as_fd()];
        let mut last = String::new();
        let mut gpgv = self.gpgv(&status);
        self.confine(&mut gpgv, len).map_err(|err| self.failed(format!("preparing gpgv's sandbox: {err}")))?;
        let run =
            process::run_with_input(gpgv, input, &keep, Lifetime::Child, children, |line| line.clone_into(&mut last));
        let exit = run.map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => self.failed("gpgv is not installed (install the package gpgv)".to_owned()),
            _ => self.failed(format!("running gpgv: {err}")),
        })?;
        let mut text = String::new();
        let read = status.rewind().and_then(|()| status.take(MAX_STATUS).read_to_string(&mut text));
        read.map_err(|err| self.failed(format!("reading what gpgv said: {err}")))?;
        match verdict(&text, exit.success()) {
            Ok(()) => Ok(()),
            Err(reason) => {
                let reason = if reason.is_empty() { last.trim_start_matches("gpgv: ") } else { reason }.to_owned();
                Err(SignatureError::Invalid { signature: self.name.clone(), signed: signed.to_owned(), reason })
            }
        }
    }

    /// The command has nothing of our environment, and gets all files as descriptors.
    fn gpgv(&self, status: &File) -> Command {
        let mut command = Command::new("gpgv");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        // Collisions of SHA-1 can be computed.
        command.args(["--homedir", "/nonexistent", "--weak-digest", "SHA1", "--status-fd"]);
        command.arg(status.as_raw_fd().to_string()).arg("--keyring").arg(descriptor_path(&self.keyring));
        command.arg("--").arg(descriptor_path(&self.file)).arg("-");
        command
    }

    fn confine(&self, gpgv: &mut Command, bytes: u64) -> io::Result<()> {
        let work = ToolAccess { tool: Tool::Gpgv, sources: &[&self.keyring], disks: &[], file_size: MAX_STATUS, bytes };
        Sandbox::for_tool(gpgv, work)?.confine(gpgv);
        Ok(())
    }

    fn failed(&self, reason: String) -> SignatureError {
        SignatureError::Gpgv { signature: self.name.clone(), reason }
    }
}

/// Checks that gpgv can read the keyring that was opened at `path`.
pub(crate) fn check_keyring(keyring: &File, path: &Path) -> Result<(), SignatureError> {
    let unreadable = |source| SignatureError::Keyring { path: path.to_owned(), source };
    let mut head = [0; ARMOUR.len()];
    let is_armoured = keyring.read_at(&mut head, 0).map_err(unreadable)? == ARMOUR.len() && head == ARMOUR;
    if is_armoured { Err(SignatureError::Armoured(path.to_owned())) } else { Ok(()) }
}

/// A file in memory.
fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"simpleimage-signature", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

/// Judges gpgv's status lines (doc/DETAILS of GnuPG). There must be at least one good signature, and none that is bad,
/// expired, revoked, or by such a key. Signatures by unknown keys are allowed beside a good one; gpgv fails on them, and
/// its exit status alone is no reason to refuse. An empty error means that only gpgv's own message tells the reason.
pub(crate) fn verdict(status: &str, succeeded: bool) -> Result<(), &'static str> {
    let lines = status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] "));
    let (mut named_good, mut good, mut unknown) = (false, false, false);
    for line in lines {
        let mut words = line.split(' ');
        match words.next().unwrap_or_default() {
            "NEWSIG" => named_good = false,
            "GOODSIG" => named_good = true,
            "VALIDSIG" => good |= named_good,
            "BADSIG" => return Err("the signature is bad: the file was changed, or this belongs to another one"),
            "EXPSIG" => return Err("the signature has expired"),
            "EXPKEYSIG" => return Err("the key that made it has expired"),
            "REVKEYSIG" => return Err("the key that made it was revoked"),
            // ERRSIG keyid pkalgo hashalgo class time rc: 9 is a missing key.
            "ERRSIG" if words.nth(5) == Some("9") => unknown = true,
            "ERRSIG" => return Err("the signature can't be checked: gpgv refuses its algorithms"),
            "NODATA" => return Err("it is not an OpenPGP signature"),
            "UNEXPECTED" | "PLAINTEXT" => return Err("it is not a detached signature"),
            _ => {}
        }
    }
    match (good, unknown) {
        (true, true) => Ok(()),
        (true, false) if succeeded => Ok(()),
        (false, true) => Err("the key that made it is not in the keyring"),
        _ => Err(""),
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;

    const GOOD: &str = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG E8DF T\n[GNUPG:] VALIDSIG 451E 2026\n";
    const UNKNOWN: &str = "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG E8DF 22 8 00 1795217390 9 451E\n[GNUPG:] NO_PUBKEY E8DF\n";

    #[test]
    fn one_good_signature_and_none_that_is_not() {
        assert_eq!(verdict(GOOD, true), Ok(()));
        assert_eq!(verdict(&format!("{GOOD}{UNKNOWN}"), false), Ok(()));
        assert_eq!(verdict(&format!("{UNKNOWN}{GOOD}"), false), Ok(()));
        for line in
            ["BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA 1", "ERRSIG E8DF 1 2 00 1 4 -", "UNEXPECTED 0"]
        {
            for text in [format!("{GOOD}[GNUPG:] {line} E8DF T\n"), format!("[GNUPG:] {line} E8DF T\n{GOOD}")] {
                assert!(verdict(&text, true).is_err_and(|reason| !reason.is_empty()), "{line}");
            }
        }
    }

    #[test]
    fn nothing_good_is_never_enough() {
        assert_eq!(verdict(UNKNOWN, false), Err("the key that made it is not in the keyring"));
        assert_eq!(verdict(GOOD, false), Err(""));
        assert_eq!(verdict("", true), Err(""));
        // Valid in itself, but of a key that is not good: GOODSIG is what says so.
        assert_eq!(verdict("[GNUPG:] NEWSIG\n[GNUPG:] VALIDSIG 451E 2026\n", true), Err(""));
        assert_eq!(verdict(&format!("{GOOD}[GNUPG:] NEWSIG\n").replace("GOODSIG", "GOODSIGX"), true), Err(""));
        assert_eq!(verdict("gpgv: [GNUPG:] GOODSIG x\ngpgv: [GNUPG:] VALIDSIG x\n", true), Err(""));
    }
}
