// SPDX-License-Identifier: BSD-2-Clause
//! Makes validated tasks from Ganeti's environment and the variant's settings. Nothing else does this.
//!
//! The name of an image is resolved before anything is checked: the values of `[images.NAME]` replace the OS
//! parameters that were not given. After that the image is treated like any other, so that a name can't bypass a
//! policy. Without a variant it is unknown which names exist, and `verify` accepts every valid name.
//!
//! `verify` reads no image file and asks no server. Ganeti calls it for a restore and for every `gnt-cluster modify`,
//! and a URL that does not answer must not block those.

mod image;
mod seed;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::{
    self, ConfigError, HookPhase, Paths, RequireChecksum, Settings, VariantName, VariantNameError, Variants,
};
use crate::ganeti::env::{Environment, OsParams};
use crate::image::format::Formats;
use crate::image::gate::Expected;
use crate::image::policy::LocalPolicy;
use crate::image::reference::{ImageRef, RefError};
use crate::install::job::{ExportJob, FetchJob, HookPlan, ImportJob, InspectJob, Job, RenameJob};
use crate::seed::{Identity, IdentityError, Nic};
use crate::store::cache::CacheSettings;
use crate::store::http::{HttpSettings, ImageUrl};

pub(crate) use seed::check_seed_files;

use image::NamedImage;
use seed::NamedSeed;

/// The name of a disk that is to be the seed's volume.
const SEED_DISK: &str = "cidata";

/// An instance, and what Ganeti's variables or a command line ask for it.
#[derive(Debug)]
pub struct Asked {
    pub(crate) variant: VariantName,
    /// The OS parameters, unchecked.
    pub(crate) params: OsParams,
    pub(crate) name: String,
    /// The instance's UUID. An error counts only if there is a seed.
    pub(crate) uuid: anyhow::Result<String>,
    /// Whether the instance was installed before.
    pub(crate) reinstall: bool,
    /// The instance's first disk.
    pub(crate) disk: PathBuf,
    /// The disk named cidata, if the instance has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// The instance's NICs. An error counts only if there is a seed.
    pub(crate) nics: anyhow::Result<Vec<Nic>>,
    /// The environment of hooks, without the variables that this provider adds.
    pub(crate) hook_environment: Vec<(OsString, OsString)>,
}

impl Asked {
    /// Reads Ganeti's variables.
    pub fn of(env: &Environment) -> anyhow::Result<Self> {
        let core = env.core()?;
        Ok(Asked {
            variant: VariantName::parse(&core.variant)?,
            params: core.params,
            name: env.instance_name()?.to_owned(),
            uuid: env.instance_uuid().map(str::to_owned).map_err(Into::into),
            reinstall: env.reinstall()?,
            disk: first_disk(env)?,
            seed_disk: env.other_disk(SEED_DISK).map_err(Into::into),
            nics: env.nics().map_err(Into::into),
            hook_environment: env.to_vec(),
        })
    }

    fn hooks(&self, paths: &Paths, phase: HookPhase) -> HookPlan {
        hook_plan(paths, &self.variant, phase, self.hook_environment.clone())
    }
}

/// Makes the task of `create` and of the command `install`: merges what is asked for with the variant's settings, and
/// validates it. Reads the settings and accesses nothing else.
pub fn job(asked: Asked, paths: &Paths) -> anyhow::Result<Job> {
    let settings = config::load(paths, &asked.variant)?;
    job_with(asked, settings, paths)
}

/// Makes the task like [`job`], from settings that were already read.
pub(super) fn job_with(asked: Asked, settings: Settings, paths: &Paths) -> anyhow::Result<Job> {
    let named = NamedImage::new(&asked.params, &settings)?;
    let Some(image) = named.image else {
        if asked.reinstall {
            return Err(RefError::Forgotten { instance: asked.name }.into());
        }
        return Err(RefError::Missing.into());
    };
    let local = local_policy(&image, &settings, paths)?;
    let seed = NamedSeed::new(&asked.params.seed, &settings)?;
    Ok(Job {
        image,
        expected: named.expected,
        checks: named.checks.resolve(&settings)?,
        no_effect: seed.no_effect().to_vec(),
        seed: seed.resolve(&asked, paths)?,
        identity: Identity::new(&asked.name, asked.uuid.as_deref().unwrap_or_default()),
        write: settings.write_options(),
        cache: settings.cache_settings(),
        local,
        http: settings.http,
        pre_hooks: Some(asked.hooks(paths, HookPhase::Pre)),
        hooks: Some(asked.hooks(paths, HookPhase::Create)),
        mistyped_names: config::mistyped_names(paths, &asked.variant),
        instance: asked.name,
        seed_disk: asked.seed_disk,
        disk: asked.disk,
        reinstall: asked.reinstall,
        variant: asked.variant.to_string(),
    })
}

/// Returns the path of the disk onto which an image is installed.
pub(super) fn first_disk(env: &Environment) -> anyhow::Result<PathBuf> {
    env.first_disk()?.context("the instance has no disk to install onto (DISK_COUNT is 0)")
}

/// Returns the hooks of a variant. An OS without a variant has no hooks, which is no error.
fn variant_hooks(
    env: &Environment,
    paths: &Paths,
    variant: Option<VariantName>,
    phase: HookPhase,
) -> anyhow::Result<Option<HookPlan>> {
    let Some(variant) = variant else { return Ok(None) };
    Variants::of(paths)?.check(&variant, paths)?;
    Ok(Some(hook_plan(paths, &variant, phase, env.to_vec())))
}

fn hook_plan(
    paths: &Paths,
    variant: &VariantName,
    phase: HookPhase,
    environment: Vec<(OsString, OsString)>,
) -> HookPlan {
    HookPlan { folder: paths.hooks_dir(variant, phase), phase: phase.name(), environment }
}

/// Returns the hooks, or why they are unknown, which stops neither a restore nor a rename. Only a list of variants that
/// somebody else could have written is an error.
fn unless_unsafe<T>(hooks: anyhow::Result<T>) -> anyhow::Result<anyhow::Result<T>> {
    match hooks {
        Err(error) if matches!(error.downcast_ref(), Some(ConfigError::Unsafe { .. })) => Err(error),
        hooks => Ok(hooks),
    }
}

/// Parses the name of a variant. It is empty for an OS without a variant.
fn variant_of(name: &str) -> Result<Option<VariantName>, VariantNameError> {
    if name.is_empty() { Ok(None) } else { VariantName::parse(name).map(Some) }
}

/// Checks OS parameters for `verify parameters`: syntax, and policy as far as names show it. Files and servers need
/// not exist. A cluster-level OS parameter is verified without a variant, and without an image.
pub(crate) fn verify(env: &Environment, paths: &Paths) -> anyhow::Result<()> {
    let mut core = env.core()?;
    if core.variant.is_empty() {
        // Image names and disk formats are settings of a variant, so they can't be checked without one.
        core.params.image = core.params.image.filter(|image| !ImageRef::is_name(image));
    }
    let settings = match core.variant.as_str() {
        "" => Settings { image_formats: Formats::ALL, ..Settings::default() },
        variant => config::load(paths, &VariantName::parse(variant)?)?,
    };
    NamedImage::new(&core.params, &settings)?;
    NamedSeed::new(&core.params.seed, &settings).map(drop)
}

/// Makes the task of `simpleimage fetch`, like that of a `create` of `variant` with these OS parameters.
pub(crate) fn fetch(params: &OsParams, variant: &VariantName, paths: &Paths) -> anyhow::Result<FetchJob> {
    let settings = config::load(paths, variant)?;
    let named = NamedImage::new(params, &settings)?;
    let Some(ImageRef::Url(url)) = named.image else {
        bail!("only images from an http or https URL are fetched (simpleimage inspect looks at a file)")
    };
    Ok(FetchJob {
        url,
        expected: named.expected,
        checks: named.checks.resolve(&settings)?,
        cache: settings.cache_settings(),
        http: settings.http,
    })
}

/// Makes the task of `simpleimage inspect` for a file. No variant's policy applies.
pub(crate) fn inspect_file(path: PathBuf) -> InspectJob {
    let expected = Expected { formats: Formats::ALL, ..Expected::default() };
    let image = ImageRef::Path(path);
    InspectJob { image, expected, local: None, http: HttpSettings::default(), cache: None }
}

/// Makes the task of `simpleimage inspect` for a URL or the name of an image, as a `create` of `variant` would get
/// it. The image is inspected even if the variant requires a checksum or a signature.
pub(crate) fn inspect_named(image: String, variant: &VariantName, paths: &Paths) -> anyhow::Result<InspectJob> {
    let settings = config::load(paths, variant)?;
    let params = OsParams { image: Some(image), ..OsParams::default() };
    // The image type, checksum and signature in the settings belong to the variant's own image.
    let any = Settings {
        require_checksum: RequireChecksum::Never,
        require_signature: false,
        image_formats: Formats::ALL,
        image_type: None,
        image_checksum: None,
        image_signature: None,
        ..settings.clone()
    };
    let NamedImage { image, expected, .. } = NamedImage::new(&params, &any)?;
    let image = match image {
        Some(image) => image,
        // The error of an empty text says that there is no image.
        None => ImageRef::parse("")?,
    };
    let local = Some(local_policy(&image, &settings, paths)?);
    let cache = Some(settings.cache_settings());
    Ok(InspectJob { image, expected, local, http: settings.http, cache })
}

/// Returns the policy for local files. For an image from a URL nobody asks it, and nothing is read for it.
fn local_policy(image: &ImageRef, settings: &Settings, paths: &Paths) -> anyhow::Result<LocalPolicy> {
    let mut policy = LocalPolicy { allowed: settings.allowed_paths(), ..LocalPolicy::default() };
    if matches!(image, ImageRef::Path(_)) {
        policy.storage = config::instance_storage(paths)?;
        policy.roots_only = policy.allowed.is_some()
            || settings.require_signature
            || settings.require_checksum == RequireChecksum::Always;
        policy.caches = cache_folders(paths)?;
        policy.caches.push(settings.cache.dir.clone());
    }
    Ok(policy)
}

/// Returns the settings of all variants. A variant with wrong settings is left out, because it must not keep others from
/// installing, and a list from being shown.
fn settings_of_all(paths: &Paths) -> Result<Vec<Settings>, ConfigError> {
    let variants = Variants::of(paths)?;
    Ok(variants.all().filter_map(|variant| config::load(paths, variant).ok()).collect())
}

fn cache_folders(paths: &Paths) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders: Vec<_> = settings_of_all(paths)?.into_iter().map(|settings| settings.cache.dir).collect();
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// Returns whether `variant` has an image with this name.
pub(crate) fn has_image(name: &str, variant: &VariantName, paths: &Paths) -> anyhow::Result<bool> {
    Ok(config::load(paths, variant)?.images.contains_key(name))
}

/// Returns the cache settings of `variant`.
pub(crate) fn variant_cache(variant: &VariantName, paths: &Paths) -> anyhow::Result<CacheSettings> {
    Ok(config::load(paths, variant)?.cache_settings())
}

/// Returns the names that variants have for images from URLs, with the URLs, for those variants whose cache is `dir`.
pub(crate) fn image_names(dir: &Path, paths: &Paths) -> Vec<(String, ImageUrl)> {
    let mut names = Vec::new();
    let settings = settings_of_all(paths).unwrap_or_default();
    for settings in settings.into_iter().filter(|settings| settings.cache.dir == dir) {
        for (name, alias) in settings.images {
            let Ok(url) = ImageUrl::parse(&alias.image.0) else { continue };
            let named = (name, url);
            if !names.contains(&named) {
                names.push(named);
            }
        }
    }
    names
}

/// Returns the settings of each cache folder that any variant has.
pub(crate) fn all_caches(paths: &Paths) -> anyhow::Result<Vec<CacheSettings>> {
    let variants = Variants::of(paths)?;
    let mut caches = variants.all().map(|variant| variant_cache(variant, paths)).collect::<Result<Vec<_>, _>>()?;
    caches.sort_by(|a, b| a.dir.cmp(&b.dir));
    caches.dedup_by(|a, b| a.dir == b.dir);
    Ok(caches)
}

/// Makes the task of `export` from Ganeti's variables.
pub(crate) fn export(env: &Environment) -> anyhow::Result<ExportJob> {
    env.core()?;
    Ok(ExportJob { device: env.export_device()?, size_descriptor: env.size_descriptor()? })
}

/// Makes the task of `import` from Ganeti's variables. Only the variant's name is used, to find its hooks.
pub(crate) fn import(env: &Environment, paths: &Paths) -> anyhow::Result<ImportJob> {
    let plan = |variant| variant_hooks(env, paths, variant, HookPhase::Import);
    let hooks = unless_unsafe(variant_of(&env.core()?.variant).map_err(Into::into).and_then(plan))?;
    let (identity, nics) = (identity(env), env.nics().map_err(Into::into));
    Ok(ImportJob { identity, nics, hooks })
}

/// Returns the instance's identity, for scripts that also work without a seed.
fn identity(env: &Environment) -> Result<Identity, IdentityError> {
    Identity::new(env.instance_name().unwrap_or_default(), env.instance_uuid().unwrap_or_default())
}

/// Makes the task of `rename` from Ganeti's variables. The variant needs no configuration, but its name is used to
/// find its hooks.
pub(crate) fn rename(env: &Environment, paths: &Paths) -> anyhow::Result<RenameJob> {
    let hooks = unless_unsafe(variant_hooks(env, paths, variant_of(&env.core()?.variant)?, HookPhase::Rename))?;
    let identity = Identity::new(env.instance_name()?, env.instance_uuid().unwrap_or_default());
    Ok(RenameJob {
        disk: env.first_disk().map_err(Into::into),
        seed_disk: env.other_disk(SEED_DISK).map_err(Into::into),
        identity,
        hooks,
    })
}
