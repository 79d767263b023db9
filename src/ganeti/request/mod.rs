// SPDX-License-Identifier: BSD-2-Clause
//! The one place where Ganeti's environment and the variant's settings become validated requests.
//!
//! A name is resolved before anything is checked: what `[images.NAME]` says takes the place of the parameters that
//! were not given. From then on it is an image like any other, so that no policy can be led around. Without a variant
//! nobody can tell which names there are, and `verify` takes any that could be one.
//!
//! `verify` looks at no file of the image and asks no server: Ganeti calls it for a restore and for every `gnt-cluster
//! modify`, and a dead URL must not block those.

mod image;
mod seed;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::{self, HookPhase, Paths, RequireChecksum, Settings, VariantName, VariantNameError, Variants};
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

/// What a disk that shall be the seed's volume is called.
const SEED_DISK: &str = "cidata";

/// An instance, and what is asked for it: by Ganeti's variables, or on a command line.
#[derive(Debug)]
pub struct Asked {
    /// The variant.
    pub(crate) variant: VariantName,
    /// The OS parameters, unchecked.
    pub(crate) params: OsParams,
    /// The instance's name.
    pub(crate) name: String,
    /// Its UUID: of interest to its seed only, as all that follows but the disk.
    pub(crate) uuid: anyhow::Result<String>,
    /// Whether it was installed before.
    pub(crate) reinstall: bool,
    /// Its first disk.
    pub(crate) disk: PathBuf,
    /// The disk named cidata, if it has one besides its first.
    pub(crate) seed_disk: anyhow::Result<Option<PathBuf>>,
    /// Its NICs.
    pub(crate) nics: anyhow::Result<Vec<Nic>>,
    /// What hooks find in their environment, besides what they are told by this provider.
    pub(crate) hook_environment: Vec<(OsString, OsString)>,
}

impl Asked {
    /// From Ganeti's variables.
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

/// What `create` and the command `install` shall do: merges what is asked with the variant's settings, and validates. Reads
/// the settings, touches nothing else.
pub fn job(asked: Asked, paths: &Paths) -> anyhow::Result<Job> {
    let settings = config::load(paths, &asked.variant)?;
    job_with(asked, settings, paths)
}

/// As [`job`], with settings that were read before.
pub(super) fn job_with(asked: Asked, settings: Settings, paths: &Paths) -> anyhow::Result<Job> {
    let named = NamedImage::new(&asked.params, &settings)?;
    let image = named.image.ok_or_else(|| match asked.reinstall {
        true => RefError::Forgotten { instance: asked.name.clone() },
        false => RefError::Missing,
    })?;
    let is_path = matches!(image, ImageRef::Path(_));
    let storage = if is_path { config::instance_storage(paths)? } else { Vec::new() };
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
        local: LocalPolicy { allowed: settings.allowed_paths(), storage },
        http: settings.http,
        pre_hooks: Some(asked.hooks(paths, HookPhase::Pre)),
        hooks: Some(asked.hooks(paths, HookPhase::Create)),
        nearly_read: config::mistyped_names(paths, &asked.variant),
        instance: asked.name,
        seed_disk: asked.seed_disk,
        disk: asked.disk,
        reinstall: asked.reinstall,
        variant: asked.variant.to_string(),
    })
}

/// The disk that an image goes to.
pub(super) fn first_disk(env: &Environment) -> anyhow::Result<PathBuf> {
    env.first_disk()?.context("the instance has no disk to install onto (DISK_COUNT is 0)")
}

/// The hooks of a variant; none for an OS without one. What there is no variant for is no reason to do nothing else.
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

/// None for an OS without a variant.
fn variant_of(name: &str) -> Result<Option<VariantName>, VariantNameError> {
    if name.is_empty() { Ok(None) } else { VariantName::parse(name).map(Some) }
}

/// What `verify parameters` checks: syntax and policy of what is given, as far as names say; nothing has to be there. A cluster-level OS
/// parameter is verified without a variant, and without an image.
pub(crate) fn verify(env: &Environment, paths: &Paths) -> anyhow::Result<()> {
    let mut core = env.core()?;
    if core.variant.is_empty() {
        // What names there are is each variant's own.
        core.params.image = core.params.image.filter(|image| !ImageRef::is_name(image));
    }
    let settings = match core.variant.as_str() {
        // And so is which formats are taken.
        "" => Settings { image_formats: Formats::ALL, ..Settings::default() },
        variant => config::load(paths, &VariantName::parse(variant)?)?,
    };
    NamedImage::new(&core.params, &settings)?;
    NamedSeed::new(&core.params.seed, &settings).map(drop)
}

/// What `simpleimage fetch` shall do: as for a `create` of `variant` with these OS parameters.
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

/// What `simpleimage inspect` shall look at: a file, whatever any variant allows.
pub(crate) fn inspect_file(path: PathBuf) -> InspectJob {
    let expected = Expected { formats: Formats::ALL, ..Expected::default() };
    let image = ImageRef::Path(path);
    InspectJob { image, expected, local: None, http: HttpSettings::default(), cache: None }
}

/// The same for a URL, or the name of an image, as a `create` of `variant` would get it. That the variant asks for a checksum or a
/// signature is no reason not to look.
pub(crate) fn inspect_named(image: String, variant: &VariantName, paths: &Paths) -> anyhow::Result<InspectJob> {
    let settings = config::load(paths, variant)?;
    let params = OsParams { image: Some(image), ..OsParams::default() };
    // What the variant says of its own image is not said of this one.
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
    let image = image.map_or_else(|| ImageRef::parse(""), Ok)?;
    let storage = if matches!(image, ImageRef::Path(_)) { config::instance_storage(paths)? } else { Vec::new() };
    let cache = Some(settings.cache_settings());
    let local = Some(LocalPolicy { allowed: settings.allowed_paths(), storage });
    Ok(InspectJob { image, expected, local, http: settings.http, cache })
}

/// Whether `variant` has an image of this name.
pub(crate) fn has_image(name: &str, variant: &VariantName, paths: &Paths) -> anyhow::Result<bool> {
    Ok(config::load(paths, variant)?.images.contains_key(name))
}

/// How images of `variant` are kept.
pub(crate) fn variant_cache(variant: &VariantName, paths: &Paths) -> anyhow::Result<CacheSettings> {
    Ok(config::load(paths, variant)?.cache_settings())
}

/// The names that variants have for images from URLs, with the URLs, of those variants that keep images in `dir`. One whose
/// settings are wrong has none here: what is kept is told all the same.
pub(crate) fn image_names(dir: &Path, paths: &Paths) -> Vec<(String, ImageUrl)> {
    let mut names = Vec::new();
    let Ok(variants) = Variants::of(paths) else { return names };
    for variant in variants.all() {
        let Some(settings) = config::load(paths, variant).ok().filter(|settings| settings.cache.dir == dir) else {
            continue;
        };
        for (name, alias) in settings.images {
            let named = ImageUrl::parse(&alias.image.0).ok().map(|url| (name, url));
            names.extend(named.filter(|named| !names.contains(named)));
        }
    }
    names
}

/// How images are kept in each of the cache folders that any variant has.
pub(crate) fn all_caches(paths: &Paths) -> anyhow::Result<Vec<CacheSettings>> {
    let variants = Variants::of(paths)?;
    let mut caches = variants.all().map(|variant| variant_cache(variant, paths)).collect::<Result<Vec<_>, _>>()?;
    caches.sort_by(|a, b| a.dir.cmp(&b.dir));
    caches.dedup_by(|a, b| a.dir == b.dir);
    Ok(caches)
}

/// What `export` shall do, from Ganeti's variables.
pub(crate) fn export(env: &Environment) -> anyhow::Result<ExportJob> {
    env.core()?;
    Ok(ExportJob { device: env.export_device()?, size_descriptor: env.size_descriptor()? })
}

/// What `import` shall do, from Ganeti's variables. Of the variant only the name is looked at: hooks are found by it.
pub(crate) fn import(env: &Environment, paths: &Paths) -> anyhow::Result<ImportJob> {
    let plan = |variant| variant_hooks(env, paths, variant, HookPhase::Import);
    let hooks = variant_of(&env.core()?.variant).map_err(Into::into).and_then(plan);
    let (identity, nics) = (identity(env), env.nics().map_err(Into::into));
    Ok(ImportJob { identity, nics, hooks })
}

/// Who the instance is, where a seed is no condition.
fn identity(env: &Environment) -> Result<Identity, IdentityError> {
    Identity::new(env.instance_name().unwrap_or_default(), env.instance_uuid().unwrap_or_default())
}

/// What `rename` shall do, from Ganeti's variables. The variant needs no config, but hooks are found by its name.
pub(crate) fn rename(env: &Environment, paths: &Paths) -> anyhow::Result<RenameJob> {
    let hooks = variant_hooks(env, paths, variant_of(&env.core()?.variant)?, HookPhase::Rename);
    let identity = Identity::new(env.instance_name()?, env.instance_uuid().unwrap_or_default());
    Ok(RenameJob {
        disk: env.first_disk().map_err(Into::into),
        seed_disk: env.other_disk(SEED_DISK).map_err(Into::into),
        identity,
        hooks,
    })
}
