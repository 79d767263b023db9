// SPDX-License-Identifier: BSD-2-Clause
//! Decides which files of the node may be images.
//!
//! `allowed_images` is first compared with the name, so that `verify` and `create` refuse an image before anything is
//! touched. The open file is checked afterwards: `/proc/self/fd` says where it is after all links, and every URL of a
//! redirect is checked, too. The cache notes those URLs, for a later policy and for other variants. If a file is below an
//! allowed folder and below a folder with the disks of instances, the inner one of the two decides.
//!
//! A file of the cache is never a local image, whatever `allowed_images` lists. The cache may have fetched it with a
//! password that the one who names the file does not have. Paths do not tell where a file is, because of bind mounts and
//! hard links. So the folders on the way to the file are compared with the cache folders by device and inode number, and
//! the file itself is compared with the files in the cache folders. Listed places and the folders with the disks of
//! instances are known by the same numbers, and a bind mount of a folder in one of them by the table of mounts.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::node::file::{descriptor_path, identity};
use crate::node::mount_table::names_of;
use crate::node::trust::untrusted;

/// Disks of instances lie so many folders deep: `file-storage/web1/UUID.file.disk0`, and dumps in `export/web1/`.
const STORAGE_DEPTH: usize = 2;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalPolicy {
    /// The folders and files of `allowed_images`; none allows every file that is not below a folder of `storage`.
    pub(crate) allowed: Option<Vec<PathBuf>>,
    /// The folders with the disks of instances. A file below them may be used only if `allowed` lists it, or a folder in
    /// them.
    pub(crate) storage: Vec<PathBuf>,
    /// The cache folders of all variants.
    pub(crate) caches: Vec<PathBuf>,
    /// Whether only root may have written an image: the variant says which images it takes.
    pub(crate) roots_only: bool,
}

/// Why a file may not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("image {0} is not in a place that allowed_images lists")]
    NotListed(String),
    #[error("image {name} is a link to {real}, which is not in a place that allowed_images lists")]
    LinkedElsewhere { name: String, real: String },
    #[error("image {0} has '..' in its path, which is not allowed where allowed_images is set")]
    Upwards(String),
    #[error(
        "image {name} is in {storage}, where instances' disks are (to use it all the same, list it in allowed_images)"
    )]
    InStorage { name: String, storage: String },
    #[error("image {0} is a file of the cache, which gives images by their URLs only (name the image by its URL)")]
    InCache(String),
    #[error("image {0} is a block device (to use it, list exactly this device in allowed_images)")]
    Device(String),
    #[error("image {name} could be written by others: {reason}")]
    OthersWrite { name: String, reason: String },
    #[error("finding out where image {name} really is: {reason}")]
    Unknown { name: String, reason: io::Error },
}

impl LocalPolicy {
    /// Checks the name of a file that was not opened yet.
    pub(crate) fn check_name(&self, path: &Path) -> Result<(), PolicyError> {
        if self.caches.iter().any(|cache| path.starts_with(cache)) {
            return Err(PolicyError::InCache(path.display().to_string()));
        }
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let name = path.display().to_string();
        if path.components().any(|component| component == Component::ParentDir) {
            return Err(PolicyError::Upwards(name));
        }
        if allowed.iter().any(|place| path.starts_with(place)) { Ok(()) } else { Err(PolicyError::NotListed(name)) }
    }

    /// Checks a file that was found, wherever links led to. `name` is the path under which it was found.
    pub(crate) fn check_found(&self, name: &Path, file: &File, is_device: bool) -> Result<(), PolicyError> {
        // What was found is checked and not the path, so that nobody can exchange a link between check and use.
        let real = fs::read_link(descriptor_path(file));
        let real = real.map_err(|reason| PolicyError::Unknown { name: name.display().to_string(), reason })?;
        let unknown = |reason| PolicyError::Unknown { name: name.display().to_string(), reason };
        if self.is_in_cache(file, &real).map_err(unknown)? {
            return Err(PolicyError::InCache(name.display().to_string()));
        }
        self.check_real(name, &real, is_device)?;
        let linked = file.metadata().and_then(|data| self.linked_in_storage(&data)).map_err(unknown)?;
        match linked {
            Some(storage) => Err(PolicyError::InStorage { name: name.display().to_string(), storage }),
            None => Ok(()),
        }
    }

    /// Returns in words who else than root could have written the image at `path`. That is an error if the variant takes
    /// only images of root's.
    pub(crate) fn other_writers(&self, path: &Path) -> Result<Option<String>, PolicyError> {
        let unknown = |reason| PolicyError::Unknown { name: path.display().to_string(), reason };
        let Some(found) = untrusted(path).map_err(unknown)? else { return Ok(None) };
        let reason = found.words(path, "the image");
        if self.roots_only {
            return Err(PolicyError::OthersWrite { name: path.display().to_string(), reason });
        }
        Ok(Some(reason))
    }

    /// Returns the folder of instances' disks in which a file with several names has another one.
    fn linked_in_storage(&self, file: &Metadata) -> io::Result<Option<String>> {
        if file.nlink() < 2 || self.allowed.is_some() {
            return Ok(None);
        }
        for storage in self.storage.iter().filter(|storage| storage.is_dir()) {
            if holds(storage, identity(file), STORAGE_DEPTH)? {
                return Ok(Some(storage.display().to_string()));
            }
        }
        Ok(None)
    }

    /// Returns whether the open file, which is at the path `real`, belongs to a cache folder.
    fn is_in_cache(&self, file: &File, real: &Path) -> io::Result<bool> {
        let caches: Vec<_> =
            self.caches.iter().filter_map(|cache| Some((cache, identity(&fs::metadata(cache).ok()?)))).collect();
        let is_cache = |folder: &Path| {
            fs::metadata(folder).is_ok_and(|folder| caches.iter().any(|(_, cache)| *cache == identity(&folder)))
        };
        if caches.is_empty() || real.ancestors().skip(1).any(is_cache) {
            return Ok(!caches.is_empty());
        }
        // The file may be mounted or linked elsewhere by itself.
        let file = identity(&file.metadata()?);
        for (cache, _) in caches {
            for entry in fs::read_dir(cache)? {
                // A file that has gone meanwhile is not the open one.
                if entry?.metadata().is_ok_and(|kept| identity(&kept) == file) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn check_real(&self, name: &Path, real: &Path, is_device: bool) -> Result<(), PolicyError> {
        let text = || name.display().to_string();
        if is_device {
            let allowed = self.allowed.as_deref().map(canonical);
            let exactly = allowed.is_some_and(|allowed| allowed.iter().any(|place| place == real));
            return if exactly { Ok(()) } else { Err(PolicyError::Device(text())) };
        }
        let depth = self.allowed.as_deref().map(|allowed| depth(allowed, real));
        if depth == Some(0) {
            return Err(match real == name {
                true => PolicyError::NotListed(text()),
                false => PolicyError::LinkedElsewhere { name: text(), real: real.display().to_string() },
            });
        }
        // Where the file is listed, the inner folder decides. A bind mount elsewhere shows a file in a folder of disks.
        let names =
            if depth.is_some() { vec![real.to_owned()] } else { [names_of(real), vec![real.to_owned()]].concat() };
        let is_inner = |storage: &&PathBuf| {
            let places = std::slice::from_ref(*storage);
            names.iter().any(|name| self::depth(places, name) > depth.unwrap_or(0))
        };
        match self.storage.iter().find(is_inner) {
            Some(storage) => Err(PolicyError::InStorage { name: text(), storage: storage.display().to_string() }),
            None => Ok(()),
        }
    }
}

/// The number of components of the innermost folder on the way to `path`, or of `path`, that is one of `places`; 0 if none is.
fn depth(places: &[PathBuf], path: &Path) -> usize {
    let known: Vec<_> = places.iter().filter_map(|place| Some(identity(&fs::metadata(place).ok()?))).collect();
    let is_place = |folder: &&Path| {
        places.iter().any(|place| place == folder)
            || fs::metadata(folder).is_ok_and(|folder| known.contains(&identity(&folder)))
    };
    path.ancestors().find(is_place).map_or(0, |place| place.components().count())
}

/// Returns whether the file with this device and inode number is in `folder`, at most so many folders deep.
fn holds(folder: &Path, file: (u64, u64), depth: usize) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // What has gone meanwhile is not the open file.
        let Ok(data) = entry.metadata() else { continue };
        if identity(&data) == file || (data.is_dir() && depth > 0 && holds(&entry.path(), file, depth - 1)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Resolves the links in `places`. A place that does not exist stays as it is.
fn canonical(places: &[PathBuf]) -> Vec<PathBuf> {
    places.iter().map(|place| fs::canonicalize(place).unwrap_or_else(|_err| place.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::{LocalPolicy, PolicyError};
    use crate::node::file::descriptor_path;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use tempfile::TempDir;

    fn policy(allowed: &[&str], storage: &[&str]) -> LocalPolicy {
        let paths = |texts: &[&str]| texts.iter().map(|text| Path::new(text).to_owned()).collect::<Vec<_>>();
        LocalPolicy {
            allowed: (!allowed.is_empty()).then(|| paths(allowed)),
            storage: paths(storage),
            ..LocalPolicy::default()
        }
    }

    fn check(policy: &LocalPolicy, path: &str) -> Result<(), String> {
        let path = Path::new(path);
        let told = |error: PolicyError| error.to_string();
        policy.check_name(path).map_err(told)?;
        policy.check_real(path, path, false).map_err(told)
    }

    #[test]
    fn listed_places_hold_what_is_below_them() {
        let listed = policy(&["/no/images", "/no/golden.raw"], &[]);
        for path in ["/no/images/a.raw", "/no/images/b/c", "/no/images/./x", "/no/golden.raw"] {
            assert_eq!(check(&listed, path), Ok(()), "{path}");
        }
        for path in ["/no/images2/x", "/no/golden.raw2", "/no", "/etc/shadow", "/"] {
            let expected = format!("image {path} is not in a place that allowed_images lists");
            assert_eq!(check(&listed, path), Err(expected));
        }
        let up = "/no/images/../x";
        let expected = format!("image {up} has '..' in its path, which is not allowed where allowed_images is set");
        assert_eq!(check(&listed, up), Err(expected));
        assert_eq!(check(&policy(&[], &[]), up), Ok(()));
    }

    #[test]
    fn the_inner_of_storage_and_listed_place_decides() {
        let storage = ["/no/ganeti/file-storage"];
        let disk = "/no/ganeti/file-storage/web1/disk0";
        let refused = Err(format!(
            "image {disk} is in /no/ganeti/file-storage, where instances' disks are (to use it all the same, list it in \
             allowed_images)"
        ));
        for (allowed, expected) in [
            (&[][..], &refused),
            (&["/"], &refused),
            (&["/no/ganeti"], &refused),
            (&["/no/ganeti/file-storage"], &Ok(())),
            (&["/no/ganeti/file-storage/web1"], &Ok(())),
            (&["/", disk], &Ok(())),
        ] {
            assert_eq!(&check(&policy(allowed, &storage), disk), expected, "{allowed:?}");
        }
        assert_eq!(check(&policy(&[], &storage), "/no/ganeti/file-storage2/x"), Ok(()));
        assert_eq!(check(&policy(&["/no/ganeti"], &storage), "/no/ganeti/x"), Ok(()));
    }

    #[test]
    fn a_device_is_used_under_its_own_name_only() {
        let device = Path::new("/no/dev/vg/golden");
        let check = |allowed: &[&str]| policy(allowed, &[]).check_real(device, device, true).map_err(|e| e.to_string());
        assert_eq!(check(&["/no/dev/vg/golden"]), Ok(()));
        for allowed in [&[][..], &["/no/dev"], &["/"]] {
            let expected = "image /no/dev/vg/golden is a block device (to use it, list exactly this device in \
                            allowed_images)";
            assert_eq!(check(allowed), Err(expected.to_owned()));
        }
    }

    /// A disk of an instance by its hard link, and by a path through a link.
    #[test]
    fn a_disk_of_an_instance_is_one_under_another_name_too() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        fs::create_dir_all(path("storage/web1")).unwrap();
        fs::create_dir(path("images")).unwrap();
        fs::write(path("storage/web1/disk0"), "secret").unwrap();
        fs::hard_link(path("storage/web1/disk0"), path("images/hard")).unwrap();
        fs::write(path("images/own"), "image").unwrap();
        fs::hard_link(path("images/own"), path("images/other")).unwrap();
        symlink(path("storage"), path("link")).unwrap();
        let check = |storage: &str, image: &str| {
            let policy = LocalPolicy { storage: vec![path(storage)], ..LocalPolicy::default() };
            let (name, file) = (path(image), File::open(path(image)).unwrap());
            policy.check_found(&name, &file, false).map_err(|error| error.to_string())
        };
        for (storage, image) in
            [("storage", "images/hard"), ("storage", "link/web1/disk0"), ("link", "storage/web1/disk0")]
        {
            let expected = format!(
                "image {} is in {}, where instances' disks are (to use it all the same, list it in allowed_images)",
                path(image).display(),
                path(storage).display()
            );
            assert_eq!(check(storage, image), Err(expected), "{storage} {image}");
        }
        assert_eq!(check("storage", "images/own"), Ok(()));
    }

    #[test]
    fn an_image_that_others_could_have_written_is_named_or_refused() {
        let base = tempfile::tempdir().unwrap();
        let image = base.path().join("image");
        fs::write(&image, "image").unwrap();
        let [free, strict] =
            [false, true].map(|roots_only| LocalPolicy { roots_only, ..LocalPolicy::default() }.other_writers(&image));
        assert!(matches!((free, strict), (Ok(None), Ok(None))));
        fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let reason = "its mode 0666 lets others write the image (check it, then chmod go-w)";
        let check = |roots_only| LocalPolicy { roots_only, ..LocalPolicy::default() }.other_writers(&image);
        assert_eq!(check(false).unwrap().as_deref(), Some(reason));
        let refused = format!("image {} could be written by others: {reason}", image.display());
        assert_eq!(check(true).unwrap_err().to_string(), refused);
    }

    /// A cache folder with an image, and a folder beside it.
    struct Kept {
        base: TempDir,
        image: PathBuf,
    }

    impl Kept {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            for folder in ["cache", "cache/below", "images"] {
                fs::create_dir(base.path().join(folder)).unwrap();
            }
            let image = base.path().join("cache/k.v2.img");
            for path in [&image, &base.path().join("cache/below/x"), &base.path().join("images/own.raw")] {
                fs::write(path, "image").unwrap();
            }
            Kept { base, image }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.base.path().join(name)
        }

        /// Checks the path and then the file that it leads to.
        fn check(&self, path: &Path) -> Result<(), String> {
            let caches = vec![self.path("gone"), self.path("cache")];
            let allowed = Some(vec![PathBuf::from("/")]);
            let policy = LocalPolicy { allowed, caches, ..LocalPolicy::default() };
            let checked =
                policy.check_name(path).and_then(|()| policy.check_found(path, &File::open(path).unwrap(), false));
            checked.map_err(|error| error.to_string())
        }

        fn refusal(path: &Path) -> Result<(), String> {
            let reason = "is a file of the cache, which gives images by their URLs only (name the image by its URL)";
            Err(format!("image {} {reason}", path.display()))
        }
    }

    #[test]
    fn a_file_of_the_cache_is_no_local_image_by_whatever_name() {
        let kept = Kept::new();
        let (link, linked_folder, hard) =
            (kept.path("images/link"), kept.path("images/folder"), kept.path("images/hard"));
        symlink(&kept.image, &link).unwrap();
        symlink(kept.path("cache"), &linked_folder).unwrap();
        fs::hard_link(&kept.image, &hard).unwrap();
        let upwards = LocalPolicy { caches: vec![kept.path("cache")], ..LocalPolicy::default() };
        let roundabout = kept.path("images/../cache/k.v2.img");
        let file = File::open(&roundabout).unwrap();
        assert!(matches!(upwards.check_found(&roundabout, &file, false), Err(PolicyError::InCache(_))));
        for path in [&kept.image, &kept.path("cache/below/x"), &link, &linked_folder.join("k.v2.img"), &hard] {
            assert_eq!(kept.check(path), Kept::refusal(path));
        }
        let open = File::open(&kept.image).unwrap();
        fs::remove_file(&hard).unwrap();
        let by_descriptor = descriptor_path(&open);
        assert_eq!(kept.check(&by_descriptor), Kept::refusal(&by_descriptor));
        assert_eq!(kept.check(&kept.path("images/own.raw")), Ok(()));
        fs::remove_dir_all(kept.path("cache")).unwrap();
        assert_eq!(kept.check(&kept.path("images/own.raw")), Ok(()), "no cache folder is there");
    }
}
