// SPDX-License-Identifier: BSD-2-Clause
//! The paths of the provider's files.

use std::path::{Path, PathBuf};

use super::VariantName;

/// The files and folders that a run uses, all below one root, so that tests and images can have their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The site's `config.toml`, `variants.list` and one folder per variant.
    pub(crate) config_dir: PathBuf,
    /// The folder of downloaded images, unless a setting names another one.
    pub(crate) cache_dir: PathBuf,
    /// Ganeti's list of folders that may contain instances' disks, one on each line
    /// (`pathutils.FILE_STORAGE_PATHS_FILE` in Ganeti).
    pub(crate) file_storage_paths: PathBuf,
    /// The folders in which Ganeti keeps the dumps of instances (`pathutils.EXPORT_DIR`): that of Debian's packages, and that of
    /// a Ganeti that is built without a setting for it.
    pub(crate) exports: [PathBuf; 2],
}

/// The time at which hooks run. Each phase has its own folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPhase {
    /// Hooks run before anything of an image is fetched.
    Pre,
    /// Hooks run after the image was written to the disk.
    Create,
    /// Hooks run after a dump was restored to a disk.
    Import,
    /// Hooks run after the instance got a new name.
    Rename,
}

impl HookPhase {
    /// All phases, in the order of an instance's life.
    pub(crate) const ALL: [HookPhase; 4] = [HookPhase::Pre, HookPhase::Create, HookPhase::Import, HookPhase::Rename];

    /// The name of the phase's folder in a variant's folder.
    pub(crate) fn dir_name(self) -> &'static str {
        match self {
            HookPhase::Pre => "hooks.pre",
            HookPhase::Create => "hooks",
            HookPhase::Import => "hooks.import",
            HookPhase::Rename => "hooks.rename",
        }
    }

    /// The word for the phase in the environment of hooks.
    pub(crate) fn name(self) -> &'static str {
        match self {
            HookPhase::Pre => "pre",
            HookPhase::Create => "create",
            HookPhase::Import => "import",
            HookPhase::Rename => "rename",
        }
    }
}

impl Paths {
    /// Returns the standard paths below `root`, which is `/` outside tests.
    pub fn below(root: &Path) -> Self {
        Paths {
            config_dir: root.join("etc/ganeti/instance-simpleimage"),
            cache_dir: root.join("var/cache/ganeti-instance-simpleimage"),
            file_storage_paths: root.join("etc/ganeti/file-storage-paths"),
            exports: ["var/lib/ganeti/export", "srv/ganeti/export"].map(|folder| root.join(folder)),
        }
    }

    /// The path of the list of the variants that Ganeti offers.
    pub(crate) fn variants_list(&self) -> PathBuf {
        self.config_dir.join("variants.list")
    }

    /// The folder of `variant`, which may be missing.
    pub(crate) fn variant_dir(&self, variant: &VariantName) -> PathBuf {
        self.config_dir.join(variant)
    }

    /// The keyring for images of `variant`, unless a setting names another file.
    pub(crate) fn keyring(&self, variant: &VariantName) -> PathBuf {
        self.variant_dir(variant).join("keyring.gpg")
    }

    /// The folder of the files that `user_data`, `ssh_keys` and `network_config` of `variant` name. It may be
    /// missing.
    pub(crate) fn user_data_dir(&self, variant: &VariantName) -> PathBuf {
        self.variant_dir(variant).join("user-data")
    }

    /// The folder of the hooks that `variant` runs in `phase`. It may be missing.
    pub(crate) fn hooks_dir(&self, variant: &VariantName, phase: HookPhase) -> PathBuf {
        self.variant_dir(variant).join(phase.dir_name())
    }
}

#[cfg(test)]
mod tests {
    use super::{HookPhase, Paths};
    use crate::config::VariantName;
    use std::path::Path;

    #[test]
    fn places_are_the_predecessors() {
        let paths = Paths::below(Path::new("/"));
        assert_eq!(paths.config_dir, Path::new("/etc/ganeti/instance-simpleimage"));
        assert_eq!(paths.cache_dir, Path::new("/var/cache/ganeti-instance-simpleimage"));
        assert_eq!(paths.file_storage_paths, Path::new("/etc/ganeti/file-storage-paths"));
        let variant = VariantName::parse("default").unwrap();
        for (phase, folder) in [
            (HookPhase::Pre, "hooks.pre"),
            (HookPhase::Create, "hooks"),
            (HookPhase::Import, "hooks.import"),
            (HookPhase::Rename, "hooks.rename"),
        ] {
            let expected = Path::new("/etc/ganeti/instance-simpleimage/default").join(folder);
            assert_eq!(paths.hooks_dir(&variant, phase), expected);
        }
    }
}
