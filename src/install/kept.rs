// SPDX-License-Identifier: BSD-2-Clause
//! Kept images, held against what was downloaded.

use crate::image::checksum::{Algorithm, Digest};
use crate::store::cache::{Cache, CacheError, CachedImage, CachedImageInfo, DownloadId};

/// What became of a kept image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every byte is as it was downloaded.
    Intact,
    /// It is not, and was taken out of the cache; with what its checksum is now.
    Damaged(Digest),
    /// Somebody removed it meanwhile.
    Gone,
}

/// Reads all of a kept image. A damaged one is no entry afterwards, so that the next create downloads it again.
pub(crate) fn verify_kept(cache: &Cache, image: &CachedImageInfo) -> anyhow::Result<Verdict> {
    judge(cache, cache.open_image(image)?)
}

/// The same for one that this run used.
pub(super) fn verify_download(cache: &Cache, id: &DownloadId) -> anyhow::Result<Verdict> {
    judge(cache, cache.open_download(id)?)
}

fn judge(cache: &Cache, image: Option<CachedImage>) -> anyhow::Result<Verdict> {
    let Some(open) = image else { return Ok(Verdict::Gone) };
    let reading = |source| CacheError::Io { doing: "reading", path: open.path.clone(), source };
    let found = Digest::of_file(&open.file, Algorithm::Sha256).map_err(reading)?;
    if found.hex() == open.sha256 {
        return Ok(Verdict::Intact);
    }
    let id = open.id.clone();
    drop(open);
    cache.discard(&id)?;
    Ok(Verdict::Damaged(found))
}
