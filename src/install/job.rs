// SPDX-License-Identifier: BSD-2-Clause
//! What shall be done, in full. Whoever asks for it has read the settings and Ganeti's variables; nothing below looks at
//! either.

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

/// A variant's hooks, and the environment they run in.
#[derive(Debug)]
pub(crate) struct HookPlan {
    /// Their folder, which may be missing.
    pub(crate) folder: PathBuf,
    /// When they run, in one word.
    pub(crate) phase: &'static str,
    /// All variables that Ganeti gave.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// What `create` and the command `install` shall do.
#[derive(Debug)]
pub struct Job {
    /// The instance's name.
    pub(crate) instance: String,
    /// The variant.
    pub(crate) variant: String,
    /// The image.
    pub(crate) image: ImageRef,
    /// What is said of it.
    pub(crate) expected: Expected,
    /// What the image is held against.
    pub(crate) checks: Checks,
    /// The first disk.
    pub(crate) disk: PathBuf,
    /// Whether the instance was installed before.
    pub(crate) reinstall: bool,
    /// How careful writing is.
    pub(crate) write: WriteOptions,
    /// Which files of the node may be the image.
    pub(crate) local: LocalPolicy,
    /// How images are fetched, and from where.
    pub http: HttpSettings,
    /// Where and how long they are kept.
    pub(crate) cache: CacheSettings,
    /// What the instance reads at its first boot.
    pub seed: SeedWish,
    /// Who the instance is: of interest to the seed that it had only.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// The disk named cidata, if the instance has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// The hooks before anything of the image is fetched; none: they shall not run.
    pub(crate) pre_hooks: Option<HookPlan>,
    /// The hooks after the image is on the disk, likewise.
    pub(crate) hooks: Option<HookPlan>,
    /// What in the variant's folder nothing reads, each with the name that may be meant.
    pub(crate) nearly_read: Vec<(PathBuf, &'static str)>,
    /// OS parameters without effect, in words.
    pub(crate) no_effect: Vec<String>,
}

impl Job {
    /// The same without any hooks.
    #[must_use]
    pub(crate) fn without_hooks(self) -> Self {
        Job { pre_hooks: None, hooks: None, ..self }
    }
}

/// Whether an instance gets a seed.
#[derive(Debug)]
pub enum SeedWish {
    /// None.
    Off,
    /// This.
    Given(Plan),
    /// This, if there is an old one of which something is to be kept. Only then it matters why there is no plan.
    IfKept(anyhow::Result<Plan>),
}

impl SeedWish {
    /// What the seed would be made of.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            SeedWish::Off | SeedWish::IfKept(Err(_)) => None,
            SeedWish::Given(plan) | SeedWish::IfKept(Ok(plan)) => Some(plan),
        }
    }
}

/// What an image is held against before its disk can boot.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Its checksum, over the file as published.
    pub(crate) checksum: Option<Checksum>,
    /// A signature: of the SUMS file if the checksum is one's, else of the image.
    pub(crate) signature: Option<SignatureSource>,
    /// Whether a kept image is first held against what was recorded when it was downloaded.
    pub(crate) verify_cached: bool,
}

impl fmt::Display for Checks {
    /// For messages, secrets left out.
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

/// Where a signature is, and whose it has to be.
#[derive(Debug)]
pub(crate) struct SignatureSource {
    /// The detached signature: a file on the node, or a URL.
    pub(crate) location: ImageRef,
    /// The keys that may have made it.
    pub(crate) keyring: File,
    /// Where they are.
    pub(crate) keyring_path: PathBuf,
}

/// What `simpleimage fetch` shall do.
#[derive(Debug)]
pub(crate) struct FetchJob {
    /// The image.
    pub(crate) url: ImageUrl,
    /// What is said of it.
    pub(crate) expected: Expected,
    /// What it is held against.
    pub(crate) checks: Checks,
    /// How images are fetched.
    pub(crate) http: HttpSettings,
    /// Where and how long they are kept.
    pub(crate) cache: CacheSettings,
}

/// What `simpleimage inspect` shall look at.
#[derive(Debug)]
pub(crate) struct InspectJob {
    /// The image.
    pub(crate) image: ImageRef,
    /// What is said of it. It is inspected for any variant, so all formats are taken.
    pub(crate) expected: Expected,
    /// Which files of the node may be the image; none where no variant has a say.
    pub(crate) local: Option<LocalPolicy>,
    /// How images are fetched, and from where.
    pub(crate) http: HttpSettings,
    /// Where they may be kept already.
    pub(crate) cache: Option<CacheSettings>,
}

/// What `export` shall do. No variant and no config: a backup must always be possible.
#[derive(Debug)]
pub(crate) struct ExportJob {
    /// The disk, or a snapshot of it.
    pub(crate) device: PathBuf,
    /// Where Ganeti wants to be told the size of the dump.
    pub(crate) size_descriptor: Option<RawFd>,
}

/// What `import` shall do. No variant and no config: a backup must always be restorable.
#[derive(Debug)]
pub(crate) struct ImportJob {
    /// Who the new instance is: of interest to a seed on the disk only.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// Its NICs, likewise.
    pub(crate) nics: anyhow::Result<Vec<Nic>>,
    /// The hooks after that; none for an OS without a variant. A wrong name of one only keeps hooks from running.
    pub(crate) hooks: anyhow::Result<Option<HookPlan>>,
}

/// What `rename` shall do.
#[derive(Debug)]
pub(crate) struct RenameJob {
    /// The first disk, if the instance has one: for its hooks and its seed.
    pub(crate) disk: anyhow::Result<Option<PathBuf>>,
    /// The disk named cidata, if the instance has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// Who the instance is now: of interest to its seed only.
    pub(crate) identity: Result<Identity, IdentityError>,
    /// The hooks of the rename; none for an OS without a variant. That there is no such variant only keeps them from
    /// running.
    pub(crate) hooks: anyhow::Result<Option<HookPlan>>,
}
