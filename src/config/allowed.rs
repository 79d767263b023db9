// SPDX-License-Identifier: BSD-2-Clause
//! Where images may come from, and where instances' disks are.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::values::{self, Checked};
use super::{ConfigError, Paths};
use crate::store::http::UrlPrefix;

/// A place that images may come from: one entry of `allowed_images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImagePlace {
    /// A URL, and what is below it.
    Url(UrlPrefix),
    /// A folder and what is in it, or a file.
    Path(PathBuf),
}

/// Reads one entry of `allowed_images`.
pub(super) fn place(text: &str) -> Checked<ImagePlace> {
    if !text.starts_with('/') {
        let url = text
            .contains("://")
            .then(|| UrlPrefix::parse(text))
            .ok_or("not a URL or an absolute path (begin it with /)")?;
        return url.map(ImagePlace::Url);
    }
    let path = values::absolute_path(text)?;
    if path.components().any(|component| component == Component::ParentDir) {
        return Err("a path must not have '..' in it");
    }
    Ok(ImagePlace::Path(path))
}

/// The folders that may hold instances' disks, from Ganeti's list: one per line, `#` begins a comment, what is not
/// absolute does not count. None without a list, as on clusters without file storage.
///
/// # Errors
/// [`ConfigError::Read`] for a list that is there and can't be read.
pub(crate) fn instance_storage(paths: &Paths) -> Result<Vec<PathBuf>, ConfigError> {
    let list = &paths.file_storage_paths;
    let text = match fs::read(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|reason| ConfigError::Read { path: list.clone(), reason })?,
    };
    // As Ganeti reads it (`FilterEmptyLinesAndComments` of ganeti.utils.text).
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
    Ok(lines.map(|line| Path::new(line).components().collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::{ImagePlace, instance_storage, place};
    use crate::config::Paths;
    use crate::store::http::UrlPrefix;
    use std::path::Path;

    #[test]
    fn places_are_urls_and_absolute_paths() {
        assert_eq!(place("/srv/images/"), Ok(ImagePlace::Path("/srv/images".into())));
        assert_eq!(place("https://h/x"), Ok(ImagePlace::Url(UrlPrefix::parse("https://h/x").unwrap())));
        for (text, reason) in [
            ("", "not a URL or an absolute path (begin it with /)"),
            ("srv/images", "not a URL or an absolute path (begin it with /)"),
            ("images.example.com", "not a URL or an absolute path (begin it with /)"),
            ("ftp://h/x", "not an http or https URL"),
            ("https://joe:s3cret@h/", "a user or password has no meaning here"),
            ("/srv/../etc", "a path must not have '..' in it"),
            ("/srv\n", "control characters are not allowed"),
        ] {
            assert_eq!(place(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn instance_storage_is_read_as_ganeti_does() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(instance_storage(&paths).unwrap(), Vec::<&Path>::new());
        std::fs::create_dir_all(paths.file_storage_paths.parent().unwrap()).unwrap();
        std::fs::write(&paths.file_storage_paths, "# ours\n\n  /srv/ganeti/file-storage/ \n/srv/shared\nrelative\n")
            .unwrap();
        assert_eq!(instance_storage(&paths).unwrap(), ["/srv/ganeti/file-storage", "/srv/shared"].map(Path::new));
        std::fs::remove_file(&paths.file_storage_paths).unwrap();
        std::fs::create_dir(&paths.file_storage_paths).unwrap();
        let message = instance_storage(&paths).unwrap_err().to_string();
        assert!(message.starts_with(&format!("reading {}: ", paths.file_storage_paths.display())), "{message}");
    }
}
