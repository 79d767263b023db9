// SPDX-License-Identifier: BSD-2-Clause
//! The one place where Ganeti's environment and the variant's settings become validated requests.

mod calls;
mod checks;
mod seeds;

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cache::CacheSettings;
use crate::config::{
    self, ConfigError, HookPhase, ImageAlias, Paths, RequireChecksum, Settings, VariantName, VariantNameError, Variants,
};
use crate::env::{EnvError, Environment, Nic, OsParams};
use crate::http::{HttpSettings, ImageUrl};
use crate::image::format::{Formats, ImageType};
use crate::image::policy::LocalPolicy;
use crate::image::reference::{ImageRef, RefError};
use crate::image::source::Expected;
use crate::seed::{Identity, IdentityError};
use crate::write::WriteOptions;

pub use calls::{CreateCall, ImportCall, OtherDisks};
pub use checks::{Checks, SignatureSource};
pub use seeds::{SeedWish, check_seed_files};

use checks::NamedChecks;
use seeds::NamedSeed;

/// What a disk that shall be the seed's volume is called.
const SEED_DISK: &str = "cidata";

/// A variant's hooks, and the environment they run in.
#[derive(Debug)]
pub struct HookPlan {
    /// Their folder, which may be missing.
    pub folder: PathBuf,
    /// When they run, in one word.
    pub phase: &'static str,
    /// All variables that Ganeti gave.
    pub environment: Vec<(OsString, OsString)>,
}

/// What `create` shall do.
#[derive(Debug)]
pub struct CreateRequest {
    /// The instance's name.
    pub instance: String,
    /// The variant.
    pub variant: VariantName,
    /// The image.
    pub image: ImageRef,
    /// What is said of it.
    pub expected: Expected,
    /// What the image is held against.
    pub checks: Checks,
    /// The first disk.
    pub disk: PathBuf,
    /// Whether the instance was installed before.
    pub reinstall: bool,
    /// How careful writing is.
    pub write: WriteOptions,
    /// Which files of the node may be the image.
    pub local: LocalPolicy,
    /// How images are fetched, and from where.
    pub http: HttpSettings,
    /// Where and how long they are kept.
    pub cache: CacheSettings,
    /// What the instance reads at its first boot.
    pub seed: SeedWish,
    /// Who the instance is: of interest to the seed that it had only.
    pub identity: Result<Identity, IdentityError>,
    /// The disk named cidata, if the instance has one besides its first.
    pub seed_disk: Result<Option<PathBuf>, EnvError>,
    /// The hooks before anything of the image is fetched; none: they shall not run.
    pub pre_hooks: Option<HookPlan>,
    /// The hooks after the image is on the disk, likewise.
    pub hooks: Option<HookPlan>,
    /// What in the variant's folder nothing reads, each with the name that may be meant.
    pub nearly_read: Vec<(PathBuf, &'static str)>,
    /// OS parameters without effect, in words.
    pub no_effect: Vec<String>,
}

impl CreateRequest {
    /// Merges and validates. Reads the variant's config, touches nothing else.
    pub fn new(env: &Environment, paths: &Paths) -> anyhow::Result<Self> {
        let core = env.core()?;
        let variant = VariantName::parse(&core.variant)?;
        let settings = config::load(paths, &variant)?;
        let named = NamedImage::new(&core.params, &settings)?;
        let instance = env.instance_name()?.to_owned();
        let reinstall = env.reinstall()?;
        let image = named.image.ok_or_else(|| match reinstall {
            true => RefError::Forgotten { instance: instance.clone() },
            false => RefError::Missing,
        })?;
        let is_path = matches!(image, ImageRef::Path(_));
        let storage = if is_path { config::instance_storage(paths)? } else { Vec::new() };
        let seed = NamedSeed::new(&core.params.seed, &settings)?;
        Ok(CreateRequest {
            instance,
            image,
            expected: named.expected,
            checks: named.checks.resolve(&settings, paths, &variant)?,
            no_effect: seed.no_effect().to_vec(),
            seed: seed.resolve(env, paths, &variant)?,
            identity: identity(env),
            seed_disk: env.other_disk(SEED_DISK),
            disk: calls::first_disk(env)?,
            reinstall,
            write: settings.write,
            cache: cache_settings(&settings),
            local: LocalPolicy { allowed: settings.allowed_paths, storage },
            http: settings.http,
            pre_hooks: Some(HookPlan::new(env, paths, &variant, HookPhase::Pre)),
            hooks: Some(HookPlan::new(env, paths, &variant, HookPhase::Create)),
            nearly_read: config::nearly_read(paths, &variant),
            variant,
        })
    }

    /// The same without any hooks.
    #[must_use]
    pub fn without_hooks(self) -> Self {
        CreateRequest { pre_hooks: None, hooks: None, ..self }
    }
}

impl HookPlan {
    /// None for an OS without a variant. What there is no variant for is no reason to do nothing else.
    fn of_variant(
        env: &Environment,
        paths: &Paths,
        variant: Option<VariantName>,
        phase: HookPhase,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(variant) = variant else { return Ok(None) };
        Variants::of(paths)?.check(&variant, paths)?;
        Ok(Some(HookPlan::new(env, paths, &variant, phase)))
    }

    fn new(env: &Environment, paths: &Paths, variant: &VariantName, phase: HookPhase) -> Self {
        HookPlan { folder: paths.hooks_dir(variant, phase), phase: phase.name(), environment: env.to_vec() }
    }
}

/// None for an OS without a variant.
fn variant_of(name: &str) -> Result<Option<VariantName>, VariantNameError> {
    if name.is_empty() { Ok(None) } else { VariantName::parse(name).map(Some) }
}

/// Where and how long images are kept.
pub fn cache_settings(settings: &Settings) -> CacheSettings {
    CacheSettings {
        dir: settings.cache_dir.clone(),
        max_age: settings.cache_max_age,
        stale_if_error: settings.stale_if_error,
        max_size: settings.cache_max_size,
    }
}

/// The image, what is said of it and its checks, from the OS parameters or else the variant's settings.
struct NamedImage {
    image: Option<ImageRef>,
    expected: Expected,
    checks: NamedChecks,
}

impl NamedImage {
    fn new(params: &OsParams, settings: &Settings) -> anyhow::Result<Self> {
        let params = &resolve_name(params, settings).context("parameter image")?;
        let image = params.image.as_ref().or(settings.image.as_ref());
        let image_type = params.image_type.as_ref().or(settings.image_type.as_ref());
        let image = image.map(|text| ImageRef::parse(text)).transpose().context("parameter image")?;
        let image_type = image_type.map(|text| ImageType::parse(text)).transpose().context("parameter image_type")?;
        let format = image_type.flatten().map(|image_type| image_type.format);
        if let Some(format) = format.filter(|format| !settings.image_formats.has(*format)) {
            bail!(
                "parameter image_type: this variant takes only {} (add \"{format}\" to image_formats in its config.toml)",
                settings.image_formats
            );
        }
        image.as_ref().map_or(Ok(()), |image| check_allowed(image, settings))?;
        let checks = NamedChecks::new(params, settings)?;
        image.as_ref().map_or(Ok(()), |image| checks.satisfy_policy(image, settings))?;
        checks.can_be_made(image.as_ref(), settings)?;
        let expected = Expected {
            image_type: image_type.flatten(),
            allow_unknown: settings.allow_unknown_content,
            formats: settings.image_formats,
            mbr_tolerance: settings.mbr_tolerance.0,
        };
        Ok(NamedImage { image, expected, checks })
    }
}

/// `params` with what the image's name stands for, if it has one. They are stronger than what the name says.
fn resolve_name(params: &OsParams, settings: &Settings) -> Result<OsParams, RefError> {
    let image = params.image.as_ref().or(settings.image.as_ref());
    let Some(name) = image.filter(|text| ImageRef::is_name(text)) else { return Ok(params.clone()) };
    let Some(alias) = settings.images.get(name) else {
        let names = settings.images.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if names.is_empty() { "there are none".to_owned() } else { format!("there are {names}") };
        return Err(RefError::UnknownName { name: name.clone(), known });
    };
    let ImageAlias { image, image_type, checksum, signature, note: _ } = alias.clone();
    let params = params.clone();
    Ok(OsParams {
        image: Some(image.0),
        image_type: params.image_type.or(image_type),
        image_checksum: params.image_checksum.or(checksum.map(|checksum| checksum.0)),
        image_signature: params.image_signature.or(signature.map(|signature| signature.0)),
        seed: params.seed,
    })
}

/// Whether `allowed_images` lets the image be used, as far as its name says.
fn check_allowed(image: &ImageRef, settings: &Settings) -> anyhow::Result<()> {
    match image {
        ImageRef::Path(path) => {
            let policy = LocalPolicy { allowed: settings.allowed_paths.clone(), storage: Vec::new() };
            policy.check_name(path)?;
        }
        ImageRef::Url(url) => settings.http.check_allowed(url)?,
    }
    Ok(())
}

/// What `verify parameters` checks: syntax and policy of what is given, as far as names say; nothing has to be there. A cluster-level OS
/// parameter is verified without a variant, and without an image.
pub fn verify(env: &Environment, paths: &Paths) -> anyhow::Result<()> {
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

/// What `simpleimage fetch` shall do.
#[derive(Debug)]
pub struct FetchRequest {
    /// The image.
    pub url: ImageUrl,
    /// What is said of it.
    pub expected: Expected,
    /// What it is held against.
    pub checks: Checks,
    /// How images are fetched.
    pub http: HttpSettings,
    /// Where and how long they are kept.
    pub cache: CacheSettings,
}

impl FetchRequest {
    /// As for a `create` of `variant` with these OS parameters.
    pub fn new(params: &OsParams, variant: &VariantName, paths: &Paths) -> anyhow::Result<Self> {
        let settings = config::load(paths, variant)?;
        let named = NamedImage::new(params, &settings)?;
        let Some(ImageRef::Url(url)) = named.image else {
            bail!("only images from an http or https URL are fetched (simpleimage inspect looks at a file)")
        };
        Ok(FetchRequest {
            url,
            expected: named.expected,
            checks: named.checks.resolve(&settings, paths, variant)?,
            cache: cache_settings(&settings),
            http: settings.http,
        })
    }
}

/// What `simpleimage inspect` shall look at.
#[derive(Debug)]
pub struct InspectRequest {
    /// The image.
    pub image: ImageRef,
    /// What is said of it. It is inspected for any variant, so all formats are taken.
    pub expected: Expected,
    /// Which files of the node may be the image; none where no variant has a say.
    pub local: Option<LocalPolicy>,
    /// How images are fetched, and from where.
    pub http: HttpSettings,
    /// Where they may be kept already.
    pub cache: Option<CacheSettings>,
}

impl InspectRequest {
    /// A file, whatever any variant allows.
    pub fn file(path: PathBuf) -> Self {
        let expected = Expected { formats: Formats::ALL, ..Expected::default() };
        let image = ImageRef::Path(path);
        InspectRequest { image, expected, local: None, http: HttpSettings::default(), cache: None }
    }

    /// A URL, or the name of an image, as a `create` of `variant` would get it. That the variant asks for a checksum or a
    /// signature is no reason not to look.
    pub fn named(image: String, variant: &VariantName, paths: &Paths) -> anyhow::Result<Self> {
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
        let cache = Some(cache_settings(&settings));
        let local = Some(LocalPolicy { allowed: settings.allowed_paths, storage });
        Ok(InspectRequest { image, expected, local, http: settings.http, cache })
    }
}

/// Whether `variant` has an image of this name.
pub fn has_image(name: &str, variant: &VariantName, paths: &Paths) -> anyhow::Result<bool> {
    Ok(config::load(paths, variant)?.images.contains_key(name))
}

/// How images of `variant` are kept.
pub fn variant_cache(variant: &VariantName, paths: &Paths) -> anyhow::Result<CacheSettings> {
    Ok(cache_settings(&config::load(paths, variant)?))
}

/// The names that variants have for images from URLs, with the URLs, of those variants that keep images in `dir`. One whose
/// settings are wrong has none here: what is kept is told all the same.
pub fn image_names(dir: &Path, paths: &Paths) -> Vec<(String, ImageUrl)> {
    let mut names = Vec::new();
    let Ok(variants) = Variants::of(paths) else { return names };
    for variant in variants.all() {
        let Some(settings) = config::load(paths, variant).ok().filter(|settings| settings.cache_dir == dir) else {
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
pub fn all_caches(paths: &Paths) -> anyhow::Result<Vec<CacheSettings>> {
    let variants = Variants::of(paths)?;
    let mut caches = variants.all().map(|variant| variant_cache(variant, paths)).collect::<Result<Vec<_>, _>>()?;
    caches.sort_by(|a, b| a.dir.cmp(&b.dir));
    caches.dedup_by(|a, b| a.dir == b.dir);
    Ok(caches)
}

/// What `export` shall do. No variant and no config: a backup must always be possible.
#[derive(Debug)]
pub struct ExportRequest {
    /// The disk, or a snapshot of it.
    pub device: PathBuf,
    /// Where Ganeti wants to be told the size of the dump.
    pub size_descriptor: Option<RawFd>,
}

impl ExportRequest {
    /// From Ganeti's variables.
    pub fn new(env: &Environment) -> anyhow::Result<Self> {
        env.core()?;
        Ok(ExportRequest { device: env.export_device()?, size_descriptor: env.size_descriptor()? })
    }
}

/// What `import` shall do. No variant and no config: a backup must always be restorable.
#[derive(Debug)]
pub struct ImportRequest {
    /// Who the new instance is: of interest to a seed on the disk only.
    pub identity: Result<Identity, IdentityError>,
    /// Its NICs, likewise.
    pub nics: Result<Vec<Nic>, EnvError>,
    /// The hooks after that; none for an OS without a variant. A wrong name of one only keeps hooks from running.
    pub hooks: anyhow::Result<Option<HookPlan>>,
}

impl ImportRequest {
    /// From Ganeti's variables. Of the variant only the name is looked at: hooks are found by it.
    pub fn new(env: &Environment, paths: &Paths) -> anyhow::Result<Self> {
        let plan = |variant| Ok(HookPlan::of_variant(env, paths, variant, HookPhase::Import)?);
        let hooks = variant_of(&env.core()?.variant).map_err(Into::into).and_then(plan);
        let (identity, nics) = (identity(env), env.nics());
        Ok(ImportRequest { identity, nics, hooks })
    }
}

/// Who the instance is, where a seed is no condition.
fn identity(env: &Environment) -> Result<Identity, IdentityError> {
    Identity::new(env.instance_name().unwrap_or_default(), env.instance_uuid().unwrap_or_default())
}

/// What `rename` shall do.
#[derive(Debug)]
pub struct RenameRequest {
    /// The first disk, if the instance has one: for its hooks and its seed.
    pub disk: Result<Option<PathBuf>, EnvError>,
    /// The disk named cidata, if the instance has one besides its first.
    pub seed_disk: Result<Option<PathBuf>, EnvError>,
    /// Who the instance is now: of interest to its seed only.
    pub identity: Result<Identity, IdentityError>,
    /// The hooks of the rename; none for an OS without a variant. That there is no such variant only keeps them from
    /// running.
    pub hooks: Result<Option<HookPlan>, ConfigError>,
}

impl RenameRequest {
    /// From Ganeti's variables. The variant needs no config, but hooks are found by its name.
    pub fn new(env: &Environment, paths: &Paths) -> anyhow::Result<Self> {
        let hooks = HookPlan::of_variant(env, paths, variant_of(&env.core()?.variant)?, HookPhase::Rename);
        let identity = Identity::new(env.instance_name()?, env.instance_uuid().unwrap_or_default());
        Ok(RenameRequest { disk: env.first_disk(), seed_disk: env.other_disk(SEED_DISK), identity, hooks })
    }
}
