// SPDX-License-Identifier: BSD-2-Clause
//! The tasks of this program, with all their values. The rooms above make them from settings and Ganeti's variables,
//! and the rooms below read neither.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::disk::write::WriteOptions;
use crate::image::checksum::Checksum;
use crate::image::gate::Expected;
use crate::image::policy::LocalPolicy;
use crate::image::reference::ImageRef;
use crate::seed::{Identity, IdentityError, Nic, Plan};
use crate::store::cache::CacheSettings;
use crate::store::http::{HttpSettings, ImageUrl};

/// A variant's hooks of one phase, and the environment in which they run.
#[derive(Debug)]
pub(crate) struct HookPlan {
    /// A folder that is missing has no hooks.
    pub(crate) folder: PathBuf,
    /// One word, which hooks and messages get.
    pub(crate) phase: &'static str,
    /// All variables that Ganeti gave.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// The task of `create` and of the command `install`.
#[derive(Debug)]
pub struct Job {
    pub(crate) instance: String,
    pub(crate) variant: String,
    pub(crate) image: ImageRef,
    pub(crate) expected: Expected,
    pub(crate) checks: Checks,
    /// The instance's first disk: a block device or a file.
    pub(crate) disk: PathBuf,
    /// The disk of an instance that was installed before is not touched until the image has passed every check.
    pub(crate) reinstall: bool,
    pub(crate) write: WriteOptions,
    pub(crate) local: LocalPolicy,
    /// How images are fetched, and from where.
    pub http: HttpSettings,
    pub(crate) cache: CacheSettings,
    /// The files that the instance reads at its first boot.
    pub seed: SeedWish,
    /// An error here counts only if an old seed has to be recognised.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// The disk named cidata, if the instance has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// These hooks run before the image is fetched. `None` runs no hooks.
    pub(crate) pre_hooks: Option<HookPlan>,
    /// These hooks run after the image is on the disk. `None` runs no hooks.
    pub(crate) hooks: Option<HookPlan>,
    /// Files in the variant's folder that nothing reads, each with the name that was probably meant.
    pub(crate) mistyped_names: Vec<(PathBuf, &'static str)>,
    /// One sentence for each OS parameter that has no effect.
    pub(crate) no_effect: Vec<String>,
}

impl Job {
    #[must_use]
    pub(crate) fn without_hooks(self) -> Self {
        Job { pre_hooks: None, hooks: None, ..self }
    }
}

/// Whether an instance gets a seed.
#[derive(Debug)]
pub enum SeedWish {
    /// The instance gets no seed.
    Off,
    /// The instance gets a seed made by this plan.
    Given(Plan),
    /// The instance gets a seed only if it has an old one with something to keep. Without one, an error in the plan
    /// does not matter.
    IfKept(anyhow::Result<Plan>),
}

impl SeedWish {
    /// The plan, if there is one without an error.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            SeedWish::Off | SeedWish::IfKept(Err(_)) => None,
            SeedWish::Given(plan) | SeedWish::IfKept(Ok(plan)) => Some(plan),
        }
    }
}

/// The checks that an image has to pass before its disk can boot.
#[derive(Debug)]
pub(crate) struct Checks {
    /// The checksum of the file as it was published.
    pub(crate) checksum: Option<Checksum>,
    /// The signature of the SUMS file, if the checksum is in one; otherwise the image's own.
    pub(crate) signature: Option<SignatureSource>,
    /// A kept image is first compared with the digest that was recorded when it was downloaded.
    pub(crate) verify_cached: bool,
}

impl fmt::Display for Checks {
    /// For messages, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.checksum {
            None => f.write_str("checksum none")?,
            Some(Checksum::Digest(digest)) => write!(f, "checksum {digest}")?,
            Some(Checksum::Sums(url)) => write!(f, "checksum {url}")?,
        }
        match &self.signature {
            None => f.write_str(", signature none"),
            Some(source) => write!(f, ", signature {}", source.location),
        }
    }
}

/// A detached signature, and the keys that may have made it.
#[derive(Debug)]
pub(crate) struct SignatureSource {
    pub(crate) location: ImageRef,
    pub(crate) keyring: File,
    /// The keyring's path, for messages.
    pub(crate) keyring_path: PathBuf,
    /// The places from which a signature may come that is a file of the node.
    pub(crate) local: LocalPolicy,
}

/// The task of the command `fetch`.
#[derive(Debug)]
pub(crate) struct FetchJob {
    pub(crate) url: ImageUrl,
    pub(crate) expected: Expected,
    pub(crate) checks: Checks,
    pub(crate) http: HttpSettings,
    pub(crate) cache: CacheSettings,
}

/// The task of the command `inspect`.
#[derive(Debug)]
pub(crate) struct InspectJob {
    pub(crate) image: ImageRef,
    /// An image is inspected for any variant, so that all formats are taken.
    pub(crate) expected: Expected,
    /// Without a variant there is no policy, and any file may be the image.
    pub(crate) local: Option<LocalPolicy>,
    pub(crate) http: HttpSettings,
    /// The cache that may have the image already.
    pub(crate) cache: Option<CacheSettings>,
}

/// The task of `export`. It has no variant and no settings, because a backup must always be possible.
#[derive(Debug)]
pub(crate) struct ExportJob {
    /// The disk, or a snapshot of it.
    pub(crate) device: PathBuf,
    /// Ganeti wants to be told the size of the dump there.
    pub(crate) size_descriptor: Option<RawFd>,
}

/// The task of `import`. It has no settings, because it must always be possible to restore a backup.
#[derive(Debug)]
pub(crate) struct ImportJob {
    /// The new instance's identity. An error counts only if there is a seed on the disk.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// The new instance's NICs. An error counts only if there is a seed on the disk.
    pub(crate) nics: anyhow::Result<Vec<Nic>>,
    /// An OS without a variant has no hooks. An error, such as an unknown variant, only keeps hooks from running.
    pub(crate) hooks: anyhow::Result<Option<HookPlan>>,
}

/// The task of `rename`.
#[derive(Debug)]
pub(crate) struct RenameJob {
    /// The first disk, if the instance has one. Its seed gets the new name, and its hooks get the disk.
    pub(crate) disk: anyhow::Result<Option<PathBuf>>,
    /// The disk named cidata, if the instance has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// The instance's new identity. An error counts only if there is a seed.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// An OS without a variant has no hooks. An error, such as an unknown variant, only keeps hooks from running.
    pub(crate) hooks: anyhow::Result<Option<HookPlan>>,
}
