// SPDX-License-Identifier: BSD-2-Clause
//! What an image is held against: from the OS parameters or else the variant's settings, under the variant's policy.

use anyhow::{Context, anyhow, bail};

use crate::config::{self, RequireChecksum, Settings};
use crate::ganeti::env::OsParams;
use crate::image::checksum::Checksum;
use crate::image::reference::ImageRef;
use crate::install::job::{Checks, SignatureSource};

/// The checks as they are named, each well-formed.
pub(super) struct NamedChecks {
    checksum: Option<Checksum>,
    signature: Option<ImageRef>,
}

impl NamedChecks {
    pub(super) fn new(params: &OsParams, settings: &Settings) -> anyhow::Result<Self> {
        let checksum = params.image_checksum.as_ref().or(settings.image_checksum.as_ref());
        let signature = params.image_signature.as_ref().or(settings.image_signature.as_ref());
        let checksum = checksum.map(|text| Checksum::parse(text)).transpose().context("parameter image_checksum")?;
        let signature = signature.map(|text| parse_signature(text)).transpose().context("parameter image_signature")?;
        Ok(NamedChecks { checksum: checksum.flatten(), signature: signature.flatten() })
    }

    /// An error unless they are as many as the variant's policy asks for `image`.
    pub(super) fn satisfy_policy(&self, image: &ImageRef, settings: &Settings) -> anyhow::Result<()> {
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

    /// An error unless what they need may be fetched, and `image` is one that a SUMS file can name.
    pub(super) fn can_be_made(&self, image: Option<&ImageRef>, settings: &Settings) -> anyhow::Result<()> {
        if let Some(Checksum::Sums(url)) = &self.checksum {
            settings.http.check_allowed(url)?;
            if let Some(image) = image.filter(|image| image.base_name().is_none()) {
                bail!("image {image} has no name to look for in {url}");
            }
        }
        match &self.signature {
            Some(ImageRef::Url(url)) => Ok(settings.http.check_allowed(url)?),
            _ => Ok(()),
        }
    }

    /// Opens the keyring, if one is needed.
    pub(super) fn resolve(self, settings: &Settings) -> anyhow::Result<Checks> {
        let signature = self.signature.map(|location| -> anyhow::Result<_> {
            let keyring_path = settings.keyring.clone();
            let keyring = config::open_trusted(&keyring_path)?.ok_or_else(|| {
                anyhow!("the keyring {} does not exist (gpg --export KEY writes one)", keyring_path.display())
            })?;
            Ok(SignatureSource { location, keyring, keyring_path })
        });
        let (checksum, verify_cached) = (self.checksum, settings.cache.verify_cached);
        Ok(Checks { checksum, signature: signature.transpose()?, verify_cached })
    }
}

/// `none` gives none: it takes back what the configuration says.
fn parse_signature(text: &str) -> anyhow::Result<Option<ImageRef>> {
    if text == "none" {
        return Ok(None);
    }
    // The text may hold a password.
    ImageRef::parse(text)
        .map(Some)
        .map_err(|_err| anyhow!("neither an absolute path nor an http or https URL (begin a path with /)"))
}
