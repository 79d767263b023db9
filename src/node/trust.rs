// SPDX-License-Identifier: BSD-2-Clause
//! Who else could have written a file, or have put another one in its place.
//!
//! What decides what root does has to be root's, or the current user's. That holds for the file, and for every folder on
//! the way to it: who may write to a folder may rename what is in it. A sticky folder such as `/tmp` is safe on the way,
//! because in it nobody renames what belongs to others (unlink(2)). The way is walked as the kernel walks it, one symbolic
//! link after the other, so that the folders of a link and those of its target are both judged. An access control list
//! needs no look of its own: what it allows at most shows in the permissions of the group (acl(5)).

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf, absolute};
use std::sync::OnceLock;

use nix::unistd::Uid;

/// The permissions that let the group and others write.
const OTHERS_WRITE: u32 = 0o022;
/// S_ISVTX of inode(7).
const STICKY: u32 = 0o1000;
/// As many symbolic links are followed as by the kernel (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// The folder that stands for `/`. What lies above it is none of its business.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// From now on no folder above `root` is judged: it is what the caller has named (`--root`). Only the first call counts.
pub(crate) fn judge_below(root: &Path) {
    let _ = ROOT.set(root.to_owned());
}

/// A file or folder that somebody else may change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Untrusted {
    /// Where it is, behind all links.
    pub(crate) place: PathBuf,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The number of its owner.
    Owner(u32),
    /// Its permissions.
    Mode(u32),
}

impl Untrusted {
    /// One clause with the way out. `asked` is the path that was judged, which is called "it", and `what` is decided by it.
    pub(crate) fn words(&self, asked: &Path, what: &str) -> String {
        let is_it = absolute(asked).is_ok_and(|asked| asked == self.place);
        let place = self.place.display();
        match (self.reason, is_it) {
            (Reason::Owner(user), true) => {
                format!("it is owned by user {user} and decides {what} (check it, then chown root)")
            }
            (Reason::Owner(user), false) => {
                format!("{place} is owned by user {user} and decides {what} (check it, then chown root)")
            }
            (Reason::Mode(mode), true) => {
                format!("its mode {mode:04o} lets others write {what} (check it, then chmod go-w)")
            }
            (Reason::Mode(mode), false) => {
                format!("the mode {mode:04o} of {place} lets others write {what} (check it, then chmod go-w)")
            }
        }
    }
}

/// The first place on the way to `path`, itself included, that somebody else than root and the current user may change.
/// None if there is no such place. Where nothing is, the way to it is judged: who may make it decides too.
///
/// # Errors
/// A place that can't be looked at.
pub(crate) fn untrusted(path: &Path) -> io::Result<Option<Untrusted>> {
    Walk::of_this_process()?.to(path, false)
}

/// As [`untrusted`], for the folder of `path` only: the caller judges what is at `path` itself.
pub(crate) fn untrusted_folder(path: &Path) -> io::Result<Option<Untrusted>> {
    let walk = Walk::of_this_process()?;
    absolute(path)?.parent().map_or(Ok(None), |folder| walk.to(folder, true))
}

struct Walk {
    user: u32,
    /// The folder above which nothing is judged, as it was named, and behind all links.
    root: [PathBuf; 2],
}

impl Walk {
    fn of_this_process() -> io::Result<Self> {
        Self::new(Uid::effective().as_raw(), ROOT.get().map_or(Path::new("/"), PathBuf::as_path))
    }

    fn new(user: u32, root: &Path) -> io::Result<Self> {
        let named = absolute(root)?;
        let real = named.canonicalize().unwrap_or_else(|_missing| named.clone());
        Ok(Walk { user, root: [named, real] })
    }

    /// Walks to `path`. `may_be_shared` says that a sticky folder will do there too.
    fn to(&self, path: &Path, may_be_shared: bool) -> io::Result<Option<Untrusted>> {
        let path = absolute(path)?;
        let [named, real] = &self.root;
        let (mut at, mut rest) = match path.strip_prefix(named) {
            Ok(below) => (real.clone(), reversed(below)),
            Err(_) => (PathBuf::from("/"), reversed(&path)),
        };
        let mut links = 0;
        let mut found = at.symlink_metadata();
        loop {
            let metadata = match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                found => found?,
            };
            let is_on_the_way = metadata.is_dir() && (may_be_shared || !rest.is_empty());
            if let Some(reason) = self.reason(&at, &metadata, is_on_the_way) {
                return Ok(Some(Untrusted { place: at, reason }));
            }
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let target = at.read_link()?;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.append(&mut reversed(&target));
            } else if rest.is_empty() {
                return Ok(None);
            }
            match rest.pop() {
                Some(name) if name == ".." => drop(at.pop()),
                Some(name) => at.push(name),
                None => {}
            }
            found = at.symlink_metadata();
        }
    }

    fn reason(&self, place: &Path, metadata: &Metadata, is_on_the_way: bool) -> Option<Reason> {
        let [_, root] = &self.root;
        if root.starts_with(place) && root != place {
            return None;
        }
        // The permissions of a link mean nothing, and its owner can change it only where he can make another one.
        if metadata.is_symlink() {
            let folder = place.parent()?.symlink_metadata().ok()?;
            return if folder.mode() & OTHERS_WRITE == 0 { None } else { self.owner(metadata.uid()) };
        }
        self.owner(metadata.uid()).or_else(|| {
            let mode = metadata.mode() & 0o7777;
            let is_safe = mode & OTHERS_WRITE == 0 || (is_on_the_way && mode & STICKY != 0);
            (!is_safe).then_some(Reason::Mode(mode))
        })
    }

    fn owner(&self, owner: u32) -> Option<Reason> {
        (owner != 0 && owner != self.user).then_some(Reason::Owner(owner))
    }
}

/// The names in `path`, the last one first.
fn reversed(path: &Path) -> Vec<OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| part.as_os_str().to_owned()).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::Walk;
    use nix::unistd::Uid;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    /// A folder of the test's own in a sticky one.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Place(tempfile::tempdir().unwrap());
            fs::create_dir_all(place.at("a/b")).unwrap();
            fs::write(place.at("a/b/file"), "").unwrap();
            place.chmod("a", 0o755).chmod("a/b", 0o755).chmod("a/b/file", 0o644);
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn chmod(&self, name: &str, mode: u32) -> &Self {
            fs::set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
            self
        }

        /// Why `name` is not trusted, with `DIR` for the test's folder.
        fn why_with(&self, name: &str, user: u32, root: &Path, may_be_shared: bool) -> String {
            let path = self.at(name);
            let fault = Walk::new(user, root).unwrap().to(&path, may_be_shared).unwrap();
            let words = fault.map_or(String::new(), |fault| fault.words(&path, "X"));
            words.replace(&self.0.path().display().to_string(), "DIR")
        }

        fn why(&self, name: &str) -> String {
            self.why_with(name, Uid::effective().as_raw(), Path::new("/"), false)
        }
    }

    fn mode(mode: &str, place: &str) -> String {
        format!("the mode {mode} of DIR{place} lets others write X (check it, then chmod go-w)")
    }

    #[test]
    fn the_file_and_every_folder_above_it_are_judged() {
        let place = Place::new();
        assert_eq!(place.why("a/b/file"), "");
        for mode in [0o664, 0o646, 0o666, 0o620] {
            place.chmod("a/b/file", mode);
            let shown = format!("its mode {mode:04o} lets others write X (check it, then chmod go-w)");
            assert_eq!(place.why("a/b/file"), shown);
        }
        place.chmod("a/b/file", 0o600).chmod("a/b", 0o775);
        assert_eq!(place.why("a/b/file"), mode("0775", "/a/b"));
        place.chmod("a", 0o757);
        assert_eq!(place.why("a/b/file"), mode("0757", "/a"), "the outermost first");
        assert_eq!(place.why("a/b/missing/file"), mode("0757", "/a"), "who may make it decides too");
        place.chmod("a", 0o755).chmod("a/b", 0o755);
        assert_eq!(place.why("a/b/missing/file"), "");
    }

    #[test]
    fn a_sticky_folder_is_safe_on_the_way_only() {
        let place = Place::new();
        place.chmod("a/b", 0o1777);
        assert_eq!(place.why("a/b/file"), "");
        assert_eq!(place.why("a/b"), "its mode 1777 lets others write X (check it, then chmod go-w)");
        let shared = |name| place.why_with(name, Uid::effective().as_raw(), Path::new("/"), true);
        assert_eq!(shared("a/b"), "");
        place.chmod("a/b/file", 0o1666);
        assert_eq!(shared("a/b/file"), "its mode 1666 lets others write X (check it, then chmod go-w)");
    }

    #[test]
    fn only_root_and_the_current_user_may_own() {
        let place = Place::new();
        let me = Uid::effective().as_raw();
        if me == 0 {
            // Root's files are trusted by everybody.
            assert_eq!(place.why_with("a/b/file", 1000, Path::new("/"), false), "");
            for name in ["a/b/file", "a/b", "a"] {
                std::os::unix::fs::chown(place.at(name), Some(1000), None).unwrap();
                let told = place.why("a/b/file");
                let it = if name == "a/b/file" { "it".to_owned() } else { format!("DIR/{name}") };
                assert_eq!(told, format!("{it} is owned by user 1000 and decides X (check it, then chown root)"));
                assert_eq!(place.why_with("a/b/file", 1000, Path::new("/"), false), "", "one's own");
            }
        } else {
            let told = place.why_with("a/b/file", me + 1, Path::new("/"), false);
            assert_eq!(told, format!("DIR is owned by user {me} and decides X (check it, then chown root)"));
        }
    }

    #[test]
    fn the_folders_of_a_link_and_of_its_target_are_judged() {
        let place = Place::new();
        fs::create_dir(place.at("links")).unwrap();
        place.chmod("links", 0o755);
        symlink("../a/b", place.at("links/relative")).unwrap();
        symlink(place.at("links/relative/file"), place.at("links/absolute")).unwrap();
        symlink("nowhere", place.at("links/broken")).unwrap();
        for name in ["links/absolute", "links/relative/file", "links/relative/../b/file", "links/broken"] {
            assert_eq!(place.why(name), "", "{name}");
        }
        place.chmod("a", 0o777);
        for name in ["links/absolute", "links/relative/file"] {
            assert_eq!(place.why(name), mode("0777", "/a"), "{name}");
        }
        assert_eq!(place.why("links/broken"), "");
        place.chmod("a", 0o755).chmod("links", 0o777);
        assert_eq!(place.why("links/absolute"), mode("0777", "/links"));
        assert_eq!(place.why("links/broken"), mode("0777", "/links"));
        place.chmod("links", 0o755).chmod("a/b/file", 0o666);
        assert_eq!(place.why("links/absolute"), mode("0666", "/a/b/file"));
        symlink("circle", place.at("links/circle")).unwrap();
        let circle = Walk::new(0, Path::new("/")).unwrap();
        let error = Walk { user: Uid::effective().as_raw(), ..circle }.to(&place.at("links/circle"), false);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    /// Anybody may put a link into a sticky folder, to a file of root that says something else.
    #[test]
    fn a_link_of_somebody_else_in_a_shared_folder_is_not_followed() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let place = Place::new();
        fs::create_dir(place.at("shared")).unwrap();
        symlink(place.at("a/b/file"), place.at("shared/link")).unwrap();
        std::os::unix::fs::lchown(place.at("shared/link"), Some(1000), None).unwrap();
        place.chmod("shared", 0o755);
        assert_eq!(place.why("shared/link"), "", "he can't make another one there");
        place.chmod("shared", 0o1777);
        assert_eq!(place.why("shared/link"), "it is owned by user 1000 and decides X (check it, then chown root)");
    }

    #[test]
    fn nothing_above_the_root_is_judged_but_what_a_link_leads_to_is() {
        let place = Place::new();
        let me = Uid::effective().as_raw();
        fs::create_dir_all(place.at("other/c")).unwrap();
        place.chmod("other", 0o777).chmod("a", 0o777);
        let root = place.at("a/b");
        assert_eq!(place.why_with("a/b/file", me, &root, false), "");
        assert_eq!(place.why_with("a/b/file", me, &place.at("a"), false), mode("0777", "/a"), "the root itself is");
        symlink(place.at("other/c"), place.at("a/b/out")).unwrap();
        assert_eq!(place.why_with("a/b/out/x", me, &root, false), mode("0777", "/other"));
        symlink(&root, place.at("root")).unwrap();
        assert_eq!(place.why_with("root/file", me, &place.at("root"), false), "", "a root behind a link");
        symlink(place.at("a/b/file"), place.at("a/b/in")).unwrap();
        assert_eq!(place.why_with("a/b/in", me, &root, false), "", "by a link to an absolute path");
    }
}
