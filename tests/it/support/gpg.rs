// SPDX-License-Identifier: BSD-2-Clause
//! OpenPGP keys and signatures, made by GnuPG in a folder of their own.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

/// One key, without a passphrase.
pub(crate) struct Key {
    home: TempDir,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self::with(&[], "never")
    }

    /// A key that expired long ago.
    pub(crate) fn expired() -> Self {
        Self::with(&["--faked-system-time", "20200101T000000!"], "1d")
    }

    fn with(options: &[&str], expires: &str) -> Self {
        let key = Key { home: TempDir::new().unwrap() };
        let generate =
            ["--passphrase", "", "--quick-gen-key", "Images <images@example.org>", "ed25519", "sign", expires];
        key.gpg(&[options, &generate].concat());
        key
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        // gpg starts an agent for the secret key, which ends with its folder or when it is dropped.
        command.arg("--homedir").arg(self.home.path()).args(["--batch", "--quiet", "--yes"]).args(args);
        let output = command.output().unwrap_or_else(|err| panic!("gpg: {err}"));
        assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The public key, as gpgv wants it.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.gpg(&["--export"])
    }

    /// The public key as text.
    pub(crate) fn armoured(&self) -> Vec<u8> {
        self.gpg(&["--armor", "--export"])
    }

    /// A detached signature of `content`; `options` are gpg's.
    pub(crate) fn sign(&self, content: &[u8], options: &[&str]) -> Vec<u8> {
        self.run(content, "--detach-sign", options)
    }

    /// `content` and its signature in one.
    pub(crate) fn sign_inline(&self, content: &[u8], options: &[&str]) -> Vec<u8> {
        self.run(content, "--sign", options)
    }

    /// A text and its signature around it.
    pub(crate) fn clear_sign(&self, content: &[u8]) -> Vec<u8> {
        self.run(content, "--clear-sign", &[])
    }

    fn run(&self, content: &[u8], act: &str, options: &[&str]) -> Vec<u8> {
        let file = self.home.path().join("content");
        fs::write(&file, content).unwrap();
        self.gpg(&[options, &["--output", "-", act, file.to_str().unwrap()]].concat())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}
