// SPDX-License-Identifier: BSD-2-Clause
//! Decides which image is installed and how it is verified, from the OS parameters or else from the variant's
//! settings, and under the variant's policy.

use anyhow::{Context, anyhow, bail};

use crate::config::{self, ImageAlias, RequireChecksum, Settings};
use crate::ganeti::env::OsParams;
use crate::image::checksum::Checksum;
use crate::image::format::DeclaredType;
use crate::image::gate::Expected;
use crate::image::policy::LocalPolicy;
use crate::image::reference::{ImageRef, RefError};
use crate::image::stored::archive_and_member;
use crate::install::job::{Checks, SignatureSource};

/// The image, its expected content and its checks, from the OS parameters or else from the variant's settings.
pub(super) struct NamedImage {
    pub(super) image: Option<ImageRef>,
    pub(super) expected: Expected,
    pub(super) checks: NamedChecks,
}

impl NamedImage {
    pub(super) fn new(params: &OsParams, settings: &Settings) -> anyhow::Result<Self> {
        let params = &resolve_name(params, settings).context("parameter image")?;
        let image = params.image.as_ref().or(settings.image.as_ref());
        let image_type = params.image_type.as_ref().or(settings.image_type.as_ref());
        let image = image.map(|text| ImageRef::parse(text)).transpose().context("parameter image")?;
        let image_type =
            image_type.map(|text| DeclaredType::parse(text)).transpose().context("parameter image_type")?;
        let format = image_type.flatten().and_then(|image_type| image_type.format);
        if let Some(format) = format.filter(|format| !settings.image_formats.has(*format)) {
            bail!(
                "parameter image_type: this variant takes only {} (add \"{format}\" to image_formats in its config.toml)",
                settings.image_formats
            );
        }
        if let Some(image) = &image {
            check_allowed(image, settings)?;
        }
        let checks = NamedChecks::new(params, settings)?;
        if let Some(image) = &image {
            checks.satisfy_policy(image, settings)?;
        }
        checks.can_be_made(image.as_ref(), settings)?;
        let expected = Expected {
            image_type: image_type.flatten(),
            allow_unknown: settings.allow_unknown_content,
            formats: settings.image_formats,
            mbr_tolerance: settings.mbr_tolerance.0,
            qcow2: settings.qcow2,
        };
        Ok(NamedImage { image, expected, checks })
    }
}

/// Replaces the name of an image in `params` by the settings of `[images.NAME]`, if there is a name. OS parameters
/// have priority over those settings.
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

/// Fails if `allowed_images` does not allow the image, as far as its path or URL shows that.
fn check_allowed(image: &ImageRef, settings: &Settings) -> anyhow::Result<()> {
    match image {
        ImageRef::Path(path) => {
            // Without a variant the settings name no cache folder.
            let cache = Some(settings.cache.dir.clone()).filter(|dir| dir.is_absolute());
            let caches = cache.into_iter().collect();
            let policy = LocalPolicy { allowed: settings.allowed_paths(), caches, ..LocalPolicy::default() };
            // In the name of an archive's member, the archive is what may be listed. `StoredImage` decides which it is.
            match archive_and_member(path) {
                Some((archive, _)) if policy.check_name(archive).is_ok() => {}
                _ => policy.check_name(path)?,
            }
        }
        ImageRef::Url(url) => settings.http.check_allowed(url)?,
    }
    Ok(())
}

/// The checks that the parameters ask for. Each of them is well-formed, but nothing was opened or fetched yet.
pub(super) struct NamedChecks {
    checksum: Option<Checksum>,
    signature: Option<ImageRef>,
}

impl NamedChecks {
    fn new(params: &OsParams, settings: &Settings) -> anyhow::Result<Self> {
        let checksum = params.image_checksum.as_ref().or(settings.image_checksum.as_ref());
        let signature = params.image_signature.as_ref().or(settings.image_signature.as_ref());
        let checksum = checksum.map(|text| Checksum::parse(text)).transpose().context("parameter image_checksum")?;
        let signature = signature.map(|text| parse_signature(text)).transpose().context("parameter image_signature")?;
        Ok(NamedChecks { checksum: checksum.flatten(), signature: signature.flatten() })
    }

    /// Fails if the variant's policy asks for more checks of `image`.
    fn satisfy_policy(&self, image: &ImageRef, settings: &Settings) -> anyhow::Result<()> {
        let (required, which) = match settings.require_checksum {
            RequireChecksum::Never => (false, ""),
            RequireChecksum::Http => (matches!(image, ImageRef::Url(_)), " from a URL"),
            RequireChecksum::Always => (true, ""),
        };
        if required && self.checksum.is_none() {
            bail!(
                "image {image} has no checksum, which this variant requires of images{which} (use -O image_checksum=sha256:... or the URL of a SHA256SUMS file)"
            );
        }
        if settings.require_signature && self.signature.is_none() {
            bail!(
                "image {image} has no signature, which this variant requires (use -O image_signature= with the URL or path of one)"
            );
        }
        Ok(())
    }

    /// Fails if the checks need a URL that is not allowed, or if `image` has no name that a SUMS file can list.
    fn can_be_made(&self, image: Option<&ImageRef>, settings: &Settings) -> anyhow::Result<()> {
        if let Some(Checksum::Sums(url)) = &self.checksum {
            settings.http.check_allowed(url)?;
            if let Some(image) = image.filter(|image| image.names().is_empty()) {
                bail!("image {image} has no name to look for in {url}");
            }
        }
        self.signature.as_ref().map_or(Ok(()), |signature| check_allowed(signature, settings))
    }

    /// Opens the keyring if one is needed.
    pub(super) fn resolve(self, settings: &Settings) -> anyhow::Result<Checks> {
        let signature = self.signature.map(|location| -> anyhow::Result<_> {
            let keyring_path = settings.keyring.clone();
            let keyring = config::open_trusted(&keyring_path)?.ok_or_else(|| {
                anyhow!("the keyring {} does not exist (gpg --export KEY writes one)", keyring_path.display())
            })?;
            let local = LocalPolicy { allowed: settings.allowed_paths(), ..LocalPolicy::default() };
            Ok(SignatureSource { location, keyring, keyring_path, local })
        });
        let (checksum, verify_cached) = (self.checksum, settings.cache.verify_cached);
        Ok(Checks { checksum, signature: signature.transpose()?, verify_cached })
    }
}

/// Parses a signature. The word `none` means no signature, also if the configuration has one.
fn parse_signature(text: &str) -> anyhow::Result<Option<ImageRef>> {
    if text == "none" {
        return Ok(None);
    }
    // The error does not repeat the text, which may contain a password.
    ImageRef::parse(text)
        .map(Some)
        .map_err(|_err| anyhow!("neither an absolute path nor an http or https URL (begin a path with /)"))
}
