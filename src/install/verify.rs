// SPDX-License-Identifier: BSD-2-Clause
//! Verifies that an image is the right one, by its checksum and by its signature.
//!
//! SUMS files are never kept. An old one says that an old image is the right one, which is of use only when the
//! server is down. For that case the sidecar of a cached image notes which SUMS file and signature the image agreed
//! with (a hash of their URLs), and only an image with that note is used without them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::job::{Checks, SignatureSource};
use crate::disk::fingerprint::Fingerprint;
use crate::image::checksum::{Algorithm, Checksum, Digest, Hasher, for_each_piece};
use crate::image::policy::LocalPolicy;
use crate::image::reference::ImageRef;
use crate::image::stored::StoredImage;
use crate::image::sums_file;
use crate::node::file::FoundFile;
use crate::node::run::Run;
use crate::store::hex;
use crate::store::http::{Client, HttpSettings, ImageUrl};
use crate::store::signature::{Signature, SignatureError};

/// The largest size of a signature file on the node, in bytes.
const MAX_SIGNATURE: u64 = 1 << 20;

/// The reason why an image is not the right one.
#[derive(Debug, thiserror::Error)]
pub(super) enum WrongImage {
    #[error("image {image} has checksum {found} but should have {expected}")]
    Checksum {
        /// The name of the image without secrets.
        image: String,
        found: Digest,
        expected: Digest,
    },
    /// The cached file has changed since it was downloaded.
    #[error("the kept image {image} is damaged: its checksum is {found} and was {recorded} when it was downloaded")]
    Damaged {
        /// The name of the image without secrets.
        image: String,
        found: Digest,
        recorded: Digest,
    },
    /// The bytes that were written are not the bytes that were verified.
    #[error(
        "image {0} changed while it was read: what was written is not what was checked (is somebody writing a new one there?)"
    )]
    Changed(String),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("reading image {image}")]
    Read {
        /// The name of the image without secrets.
        image: String,
        source: io::Error,
    },
}

impl WrongImage {
    /// Returns whether the image itself is wrong, so that another download may get the right one.
    pub(super) fn is_the_images_fault(&self) -> bool {
        match self {
            WrongImage::Checksum { .. } | WrongImage::Damaged { .. } => true,
            WrongImage::Signature(error) => matches!(error, SignatureError::Invalid { .. }),
            WrongImage::Changed(_) | WrongImage::Read { .. } => false,
        }
    }
}

/// Everything that is needed to verify an image, already fetched.
pub(super) struct Verification {
    digest: Option<Digest>,
    /// The signature of the image. The signature of a SUMS file was already checked.
    signature: Option<Signature>,
    verify_cached: bool,
}

/// A proof that an image passed its verification. Only [`Verification::check`] makes one, and a disk can't be made
/// bootable without one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verified {
    /// The SHA-256 of the image as hex digits, if it is known without reading the image only for it.
    pub(super) sha256: Option<String>,
}

impl Verification {
    /// Fetches what `checks` of `image` need: the SUMS file, whose signature is checked here, and the image's
    /// signature.
    pub(super) fn gather(checks: &Checks, image: &ImageRef, http: &HttpSettings, run: &Run) -> anyhow::Result<Self> {
        let source = SmallFiles { http, run };
        let mut signature = checks.signature.as_ref().map(|signature| source.signature(signature)).transpose()?;
        let digest = match &checks.checksum {
            None => None,
            Some(Checksum::Digest(digest)) => Some(digest.clone()),
            Some(Checksum::Sums(url)) => Some(source.digest_in_sums(url, signature.take(), image)?),
        };
        Ok(Verification { digest, signature, verify_cached: checks.verify_cached })
    }

    /// Returns the part of `checks` that needs no network, for an image that passed the rest before.
    pub(super) fn offline(checks: &Checks) -> Self {
        let digest = match &checks.checksum {
            Some(Checksum::Digest(digest)) => Some(digest.clone()),
            _ => None,
        };
        Verification { digest, signature: None, verify_cached: checks.verify_cached }
    }

    /// Returns whether [`Verification::check`] has to read all of the image.
    pub(super) fn reads(&self, image: &StoredImage) -> bool {
        self.signature.is_some() || !self.to_hash(image).is_empty()
    }

    /// Returns the digests of the file that have to be computed. What this run downloaded was hashed during the
    /// download.
    fn to_hash(&self, image: &StoredImage) -> Vec<Algorithm> {
        let distrusted = self.verify_cached && image.download().is_some_and(|download| download.hit);
        let asked = self.digest.as_ref().map(Digest::algorithm);
        let unknown = asked.filter(|asked| *asked != Algorithm::Sha256 || image.download().is_none());
        let mut algorithms: Vec<_> = unknown.into_iter().collect();
        if distrusted && unknown != Some(Algorithm::Sha256) {
            algorithms.push(Algorithm::Sha256);
        }
        algorithms
    }

    /// Fails if the image is not the right one, and logs what was verified if it is. Does not move the position of
    /// the image's file. Adds what is read to the fingerprint `seen`.
    pub(super) fn check(
        &self,
        image: &StoredImage,
        seen: Option<&Fingerprint>,
        run: &Run,
    ) -> Result<Verified, WrongImage> {
        let found = self.judge(image, seen, run)?;
        found.iter().for_each(|words| run.report.info(format_args!("image {} {words}", image.name())));
        let given = self.digest.as_ref().filter(|digest| digest.algorithm() == Algorithm::Sha256).map(Digest::hex);
        let downloaded = image.download().map(|download| download.sha256.as_str());
        Ok(Verified { sha256: downloaded.or(given).map(str::to_owned) })
    }

    /// Verifies the image like [`Verification::check`], but returns what was verified in words instead of logging it.
    pub(super) fn judge(
        &self,
        image: &StoredImage,
        seen: Option<&Fingerprint>,
        run: &Run,
    ) -> Result<Vec<String>, WrongImage> {
        if !self.reads(image) {
            return self.judge_digest(image, &[]);
        }
        let pass = Pass { file: image.file(), algorithms: self.to_hash(image), seen };
        let read_error = |source| WrongImage::Read { image: image.name().to_owned(), source };
        let Some(signature) = &self.signature else {
            return self.judge_digest(image, &pass.read(None).map_err(read_error)?);
        };
        let len = image.file().metadata().map_err(read_error)?.len();
        let (read, verdict) =
            signature.check(image.name(), len, &run.children, |gpgv| pass.read(Some(gpgv))).map_err(read_error)?;
        let mut words = self.judge_digest(image, &read.map_err(read_error)?)?;
        verdict?;
        words.push("has a good signature".to_owned());
        Ok(words)
    }

    /// Compares the expected digest with what was `found` in this run, or recorded when the image was downloaded.
    fn judge_digest(&self, image: &StoredImage, found: &[Digest]) -> Result<Vec<String>, WrongImage> {
        let name = || image.name().to_owned();
        let found = |algorithm| found.iter().find(|digest| digest.algorithm() == algorithm).cloned();
        let recorded = image.download().and_then(|download| Digest::new(Algorithm::Sha256, &download.sha256));
        if let (Some(recorded), Some(found)) = (&recorded, found(Algorithm::Sha256))
            && *recorded != found
        {
            return Err(WrongImage::Damaged { image: name(), found, recorded: recorded.clone() });
        }
        let Some(expected) = &self.digest else { return Ok(Vec::new()) };
        let hashed = found(expected.algorithm());
        let only_stored = hashed.is_none() && image.download().is_some_and(|download| download.hit);
        let unread = || WrongImage::Read { image: name(), source: io::Error::other("it was not hashed") };
        let found = hashed.or(recorded).ok_or_else(unread)?;
        if found != *expected {
            return Err(WrongImage::Checksum { image: name(), found, expected: expected.clone() });
        }
        Ok(vec![if only_stored {
            format!("had the right checksum when it was downloaded, {expected}")
        } else {
            format!("has the right checksum, {expected}")
        }])
    }
}

/// One pass over an image's file, for everything that needs its bytes.
struct Pass<'p> {
    file: &'p File,
    algorithms: Vec<Algorithm>,
    seen: Option<&'p Fingerprint>,
}

impl Pass<'_> {
    /// Reads the file once and returns its digests. `gpgv` gets the same bytes, so that it checks exactly what was
    /// hashed and added to the fingerprint.
    fn read(&self, mut gpgv: Option<&mut dyn Write>) -> io::Result<Vec<Digest>> {
        let mut hashers: Vec<_> = self.algorithms.iter().map(|algorithm| Hasher::new(*algorithm)).collect();
        for_each_piece(self.file, |piece, at| {
            thread::scope(|scope| {
                if let Some(seen) = self.seen {
                    scope.spawn(move || seen.add(piece, at));
                }
                // gpgv may stop reading early. It reports the reason itself, so this is no error.
                if gpgv.as_mut().is_some_and(|gpgv| gpgv.write_all(piece).is_err()) {
                    gpgv = None;
                }
                hashers.iter_mut().for_each(|hasher| hasher.update(piece));
            });
        })?;
        Ok(hashers.into_iter().map(Hasher::finish).collect())
    }
}

/// Fetches SUMS files and signatures.
struct SmallFiles<'c> {
    http: &'c HttpSettings,
    run: &'c Run,
}

impl SmallFiles<'_> {
    fn get(&self, url: &ImageUrl) -> anyhow::Result<Vec<u8>> {
        Ok(Client::new(self.http)?.fetch_small(url, &self.run.report)?)
    }

    fn signature(&self, source: &SignatureSource) -> anyhow::Result<Signature> {
        let content = match &source.location {
            ImageRef::Url(url) => self.get(url)?,
            ImageRef::Path(path) => {
                read_signature(path, &source.local).with_context(|| format!("reading signature {}", path.display()))?
            }
        };
        let keyring = source.keyring.try_clone().context("sharing the keyring")?;
        Ok(Signature::new(source.location.to_string(), &content, keyring, &source.keyring_path)?)
    }

    fn digest_in_sums(&self, url: &ImageUrl, signature: Option<Signature>, image: &ImageRef) -> anyhow::Result<Digest> {
        let (text, sums) = (self.get(url)?, ImageRef::Url(url.clone()));
        if let Some(signature) = signature {
            signature.check_bytes(&text, &sums.to_string(), &self.run.children)?;
            self.run.report.info(format_args!("{sums} has a good signature"));
        }
        let names = image.names();
        ensure!(!names.is_empty(), "image {image} has no name to look for in {sums}");
        Ok(sums_file::find(&sums, &text, &names)?)
    }
}

/// Returns the note that the cache keeps about an image that passed `checks`: a hash over everything that was fetched
/// for them, or `None` if nothing was. If those files can't be fetched later, then an image with the same note is
/// still the right one.
pub(super) fn mark(checks: &Checks) -> Option<String> {
    let sums = match &checks.checksum {
        Some(Checksum::Sums(url)) => Some(url.as_url().as_str()),
        _ => None,
    };
    let signature = checks.signature.as_ref();
    let fetched = sums.is_some() || signature.is_some_and(|source| matches!(source.location, ImageRef::Url(_)));
    if !fetched {
        return None;
    }
    let mut all = Sha256::new();
    for part in [sums.unwrap_or_default().to_owned(), signature.map(described).unwrap_or_default()] {
        all.update(part);
        all.update(b"\n");
    }
    Some(hex(&all.finalize()))
}

fn described(source: &SignatureSource) -> String {
    let location = match &source.location {
        ImageRef::Url(url) => url.as_url().to_string(),
        ImageRef::Path(path) => path.display().to_string(),
    };
    format!("{location} {}", source.keyring_path.display())
}

fn read_signature(path: &Path, policy: &LocalPolicy) -> anyhow::Result<Vec<u8>> {
    let found = FoundFile::at(path)?;
    policy.check_found(path, found.as_file(), false)?;
    let mut content = Vec::new();
    found.open_regular()?.take(MAX_SIGNATURE).read_to_end(&mut content)?;
    Ok(content)
}
