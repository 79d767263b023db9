// SPDX-License-Identifier: BSD-2-Clause
//! Calls of `create` and `import`, of which only the disk is known so far.
//!
//! A new disk may hold another tenant's system, and Ganeti keeps an instance whose script failed, so that it can be
//! started. So the disk is made unbootable before any word of the tenant or the administrator is looked at.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{CreateRequest, ImportRequest};
use crate::config::{self, Paths, VariantName};
use crate::env::Environment;
use crate::write::WriteOptions;

/// The disks of an instance besides its first.
#[derive(Debug)]
pub struct OtherDisks {
    /// Those that shall read zero.
    pub to_zero: Vec<PathBuf>,
    /// How careful they are written.
    pub write: WriteOptions,
}

/// A call of `create`.
#[derive(Debug)]
pub struct CreateCall<'c> {
    /// The first disk.
    pub disk: PathBuf,
    /// Whether the instance was installed before: only then the disk holds a system that is its own.
    pub reinstall: bool,
    env: &'c Environment,
    paths: &'c Paths,
    hooks: bool,
}

impl<'c> CreateCall<'c> {
    /// From Ganeti's variables, of which no other is looked at.
    ///
    /// # Errors
    /// Where the disk is not known, or not whether it is a new one.
    pub fn new(env: &'c Environment, paths: &'c Paths) -> anyhow::Result<Self> {
        let reinstall = env.reinstall()?;
        Ok(CreateCall { disk: first_disk(env)?, reinstall, env, paths, hooks: true })
    }

    /// The same without any hooks.
    #[must_use]
    pub fn without_hooks(self) -> Self {
        CreateCall { hooks: false, ..self }
    }

    /// What becomes of the other disks. It is asked before the OS parameters are looked at: when a create failed over
    /// those, people try a reinstall next, which leaves these disks alone.
    ///
    /// # Errors
    /// For settings that can't be read, and for a disk without a path.
    pub fn other_disks(&self) -> anyhow::Result<OtherDisks> {
        let settings = config::load(self.paths, &VariantName::parse(self.env.variant()?)?)?;
        let to_zero = settings.wipe_other_disks && !self.reinstall;
        let to_zero = if to_zero { self.env.other_disks()? } else { Vec::new() };
        Ok(OtherDisks { to_zero, write: settings.write })
    }

    /// All that it asks for.
    ///
    /// # Errors
    /// As [`CreateRequest::new`].
    pub fn request(&self) -> anyhow::Result<CreateRequest> {
        let request = CreateRequest::new(self.env, self.paths)?;
        Ok(if self.hooks { request } else { request.without_hooks() })
    }
}

/// A call of `import`, whose disk is always a new one.
#[derive(Debug)]
pub struct ImportCall<'c> {
    /// The disk.
    pub disk: PathBuf,
    env: &'c Environment,
    paths: &'c Paths,
}

impl<'c> ImportCall<'c> {
    /// From Ganeti's variables, of which no other is looked at.
    ///
    /// # Errors
    /// Where the disk is not known.
    pub fn new(env: &'c Environment, paths: &'c Paths) -> anyhow::Result<Self> {
        Ok(ImportCall { disk: env.import_device()?, env, paths })
    }

    /// All that it asks for.
    ///
    /// # Errors
    /// As [`ImportRequest::new`].
    pub fn request(&self) -> anyhow::Result<ImportRequest> {
        ImportRequest::new(self.env, self.paths)
    }
}

/// The disk that an image goes to.
pub(super) fn first_disk(env: &Environment) -> anyhow::Result<PathBuf> {
    env.first_disk()?.context("the instance has no disk to install onto (DISK_COUNT is 0)")
}
