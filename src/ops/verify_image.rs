// SPDX-License-Identifier: BSD-2-Clause
//! Whether an image is the one that was meant: by its checksum, and by its signature.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};

use anyhow::{Context as _, anyhow};
use sha2::{Digest as _, Sha256};

use super::Context;
use crate::http::{Client, HttpSettings, ImageUrl};
use crate::image::checksum::{Algorithm, Checksum, Digest};
use crate::image::reference::ImageRef;
use crate::image::source::ImageFile;
use crate::image::sums;
use crate::request::{Checks, SignatureSource};
use crate::signature::{Signature, SignatureError};

/// A signature on the node has at most this many bytes.
const MAX_SIGNATURE: u64 = 1 << 20;

/// Why an image is not the one that was meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum WrongImage {
    /// It has another checksum.
    #[error("image {image} has checksum {found} but should have {expected}")]
    Checksum {
        /// The image, without secrets.
        image: String,
        /// What it has.
        found: Digest,
        /// What it should have.
        expected: Digest,
    },
    /// It is not what was downloaded any more.
    #[error("the kept image {image} is damaged: its checksum is {found} and was {recorded} when it was downloaded")]
    Damaged {
        /// The image, without secrets.
        image: String,
        /// What it has.
        found: Digest,
        /// What it had.
        recorded: Digest,
    },
    /// Its signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It can't be read.
    #[error("reading image {image}")]
    Read {
        /// The image, without secrets.
        image: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl WrongImage {
    /// Whether the image itself is to blame: another download may be the right one.
    pub(super) fn is_the_images_fault(&self) -> bool {
        match self {
            WrongImage::Checksum { .. } | WrongImage::Damaged { .. } => true,
            WrongImage::Signature(error) => matches!(error, SignatureError::Invalid { .. }),
            WrongImage::Read { .. } => false,
        }
    }
}

/// All that an image is held against, at hand.
pub(super) struct Proof {
    digest: Option<Digest>,
    /// Of the image. That of a SUMS file was checked already.
    signature: Option<Signature>,
    verify_cached: bool,
}

impl Proof {
    /// Fetches what has to be fetched for `checks` of `image`: the SUMS file, whose signature is checked, and the
    /// signature.
    pub(super) fn gather(
        checks: &Checks,
        image: &ImageRef,
        http: &HttpSettings,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let source = Fetch { http, context };
        let mut signature = checks.signature.as_ref().map(|signature| source.signature(signature)).transpose()?;
        let digest = match &checks.checksum {
            None => None,
            Some(Checksum::Digest(digest)) => Some(digest.clone()),
            Some(Checksum::Sums(url)) => Some(source.digest_in_sums(url, signature.take(), image)?),
        };
        Ok(Proof { digest, signature, verify_cached: checks.verify_cached })
    }

    /// What of `checks` can be had without a network; for an image that agreed with the rest before.
    pub(super) fn offline(checks: &Checks) -> Self {
        let digest = match &checks.checksum {
            Some(Checksum::Digest(digest)) => Some(digest.clone()),
            _ => None,
        };
        Proof { digest, signature: None, verify_cached: checks.verify_cached }
    }

    /// The SHA-256 that an image has to have, as hex digits, where one was given.
    pub(super) fn sha256(&self) -> Option<&str> {
        self.digest.as_ref().filter(|digest| digest.algorithm() == Algorithm::Sha256).map(Digest::hex)
    }

    /// Whether [`Proof::check`] has to read all of the image.
    pub(super) fn reads(&self, image: &ImageFile) -> bool {
        let recorded = image.download().is_some();
        let digest = self.digest.as_ref().is_some_and(|digest| digest.algorithm() != Algorithm::Sha256 || !recorded);
        digest || self.signature.is_some() || (self.verify_cached && image.download().is_some_and(|known| known.kept))
    }

    /// An error unless the image is the one that was meant. Its file's position does not move.
    pub(super) fn check(&self, image: &ImageFile, context: &Context) -> Result<(), WrongImage> {
        let name = || image.name().to_owned();
        let hash = |algorithm| {
            Digest::of_file(image.file(), algorithm).map_err(|source| WrongImage::Read { image: name(), source })
        };
        let mut sha256 = image.download().and_then(|known| Digest::new(Algorithm::Sha256, &known.sha256));
        if self.verify_cached && image.download().is_some_and(|known| known.kept) {
            let found = hash(Algorithm::Sha256)?;
            if let Some(recorded) = sha256.filter(|recorded| *recorded != found) {
                return Err(WrongImage::Damaged { image: name(), found, recorded });
            }
            sha256 = Some(found);
        }
        if let Some(expected) = &self.digest {
            let known = sha256.filter(|digest| digest.algorithm() == expected.algorithm());
            let found = known.map_or_else(|| hash(expected.algorithm()), Ok)?;
            if found != *expected {
                return Err(WrongImage::Checksum { image: name(), found, expected: expected.clone() });
            }
            context.report.info(format_args!("image {} has the right checksum, {expected}", image.name()));
        }
        if let Some(signature) = &self.signature {
            signature.check(image.file(), image.name(), &context.children)?;
            context.report.info(format_args!("image {} has a good signature", image.name()));
        }
        Ok(())
    }
}

/// How the small files are had.
struct Fetch<'c> {
    http: &'c HttpSettings,
    context: &'c Context,
}

impl Fetch<'_> {
    fn get(&self, url: &ImageUrl) -> anyhow::Result<Vec<u8>> {
        Ok(Client::new(self.http)?.get_small(url, &self.context.report)?)
    }

    fn signature(&self, source: &SignatureSource) -> anyhow::Result<Signature> {
        let content = match &source.location {
            ImageRef::Url(url) => self.get(url)?,
            ImageRef::Path(path) => {
                read_signature(path).with_context(|| format!("reading signature {}", path.display()))?
            }
        };
        let keyring = source.keyring.try_clone().context("sharing the keyring")?;
        Ok(Signature::new(source.location.to_string(), &content, keyring, &source.keyring_path)?)
    }

    fn digest_in_sums(&self, url: &ImageUrl, signature: Option<Signature>, image: &ImageRef) -> anyhow::Result<Digest> {
        let (text, sums) = (self.get(url)?, ImageRef::Url(url.clone()));
        if let Some(signature) = signature {
            signature.check_bytes(&text, &sums.to_string(), &self.context.children)?;
            self.context.report.info(format_args!("{sums} has a good signature"));
        }
        let name = image.base_name().ok_or_else(|| anyhow!("image {image} has no name to look for in {sums}"))?;
        Ok(sums::find(&sums, &text, &name)?)
    }
}

/// What the cache notes about an image that agreed with `checks`: a hash over all that was fetched for them, none if
/// nothing was. Should it be out of reach later, an image with the same note is still the right one.
pub(super) fn mark(checks: &Checks) -> Option<String> {
    let sums = match &checks.checksum {
        Some(Checksum::Sums(url)) => Some(url.as_url().as_str()),
        _ => None,
    };
    let signature = checks.signature.as_ref();
    let fetched = sums.is_some() || signature.is_some_and(|source| matches!(source.location, ImageRef::Url(_)));
    let mut all = Sha256::new();
    for part in [sums.unwrap_or_default().to_owned(), signature.map(described).unwrap_or_default()] {
        all.update(part);
        all.update(b"\n");
    }
    fetched.then(|| {
        all.finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    })
}

fn described(source: &SignatureSource) -> String {
    let location = match &source.location {
        ImageRef::Url(url) => url.as_url().to_string(),
        ImageRef::Path(path) => path.display().to_string(),
    };
    format!("{location} {}", source.keyring_path.display())
}

fn read_signature(path: &std::path::Path) -> io::Result<Vec<u8>> {
    // A FIFO would block, and a device never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_SIGNATURE).read_to_end(&mut content)?;
    Ok(content)
}
