// SPDX-License-Identifier: BSD-2-Clause
//! Checks the configuration of a variant: its settings, the files that they name, its cache folder and its hooks.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::node::program;
use super::{Checkup, Node};
use crate::config::{self, HookPhase, Settings, VariantName};
use crate::ganeti::env::Environment;
use crate::ganeti::request;
use crate::install::hook_files::{untrusted_places, why_not_started};
use crate::install::hooks;
use crate::node::file::FoundFile;
use crate::node::size::ByteSize;
use crate::node::trust::untrusted_folder;
use crate::store::cache::Cache;
use crate::store::http::Client;
use crate::store::signature;

/// The free space in bytes below which the cache gets a warning, because most images need more.
const LITTLE_SPACE: u64 = 1 << 30;

pub(super) fn check(node: &Node<'_>, variant: &VariantName, checkup: &mut Checkup) {
    let before = checkup.findings.len();
    match config::load(node.paths, variant) {
        Ok(settings) => {
            verify(node, variant, &settings, checkup);
            files(variant, &settings, checkup);
            cache(&settings, checkup);
        }
        Err(err) => {
            let hint = "see simpleimage.toml(5); simpleimage variants show tells what holds";
            checkup.error(format!("variant {variant}"), err.to_string(), hint);
        }
    }
    for (path, known) in config::mistyped_names(node.paths, variant) {
        let hint = format!("rename it to {known} if that is meant, else to something else");
        checkup.warn(path.display(), "nothing reads it", hint);
    }
    for phase in HookPhase::ALL {
        check_hooks(node, &node.paths.hooks_dir(variant, phase), checkup);
    }
    if checkup.findings.len() == before {
        checkup.fine(format!("variant {variant}"));
    }
}

/// Checks the same as the OS script `verify`, for an instance without OS parameters and for each named image.
fn verify(node: &Node<'_>, variant: &VariantName, settings: &Settings, checkup: &mut Checkup) {
    let verify = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        request::verify(&Environment::new(variables), node.paths)
    };
    let plain = ("OS_VARIANT", variant.as_str());
    if let Err(err) = verify(&[plain]) {
        let hint = "correct the defaults in its config.toml";
        return checkup.error(format!("variant {variant}"), format!("{err:#}"), hint);
    }
    if let Err(err) = request::check_seed_files(settings, node.paths, variant) {
        let hint = "put the file there, or correct the setting in its config.toml";
        checkup.error(format!("variant {variant}"), format!("{err:#}"), hint);
    }
    for name in settings.images.keys() {
        if let Err(err) = verify(&[plain, ("OSP_IMAGE", name)]) {
            let hint = format!("correct [images.{name}], or the setting that refuses it");
            checkup.error(format!("image {name} of variant {variant}"), format!("{err:#}"), hint);
        }
    }
}

/// Warns about folders of variants that Ganeti does not offer.
pub(super) fn check_offered(node: &Node<'_>, offered: &[VariantName], checkup: &mut Checkup) {
    let Ok(entries) = fs::read_dir(&node.paths.config_dir) else { return };
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !offered.iter().any(|variant| variant.as_str() == name) {
            let problem = "it is the folder of a variant that Ganeti does not offer";
            let list = node.paths.variants_list();
            checkup.warn(folder.display(), problem, format!("add '{name}' to {}", list.display()));
        }
    }
}

fn files(variant: &VariantName, settings: &Settings, checkup: &mut Checkup) {
    // Making a client reads the certificates, the key and the netrc file, as a download does.
    if let Err(err) = Client::new(&settings.http) {
        let hint = "correct the file, or the setting in [http] of its config.toml";
        checkup.error(format!("variant {variant}"), err.to_string(), hint);
    }
    let named_signature = settings.images.values().any(|image| image.signature.is_some());
    if settings.require_signature || settings.image_signature.is_some() || named_signature {
        let keyring = &settings.keyring;
        let hint = "gpg --export KEY writes one";
        match config::open_trusted(keyring) {
            Ok(Some(file)) => {
                if let Err(err) = signature::check_keyring(&file, keyring) {
                    checkup.error(keyring.display(), err.to_string(), hint);
                }
            }
            Ok(None) => checkup.error(keyring.display(), format!("variant {variant} needs this keyring"), hint),
            Err(err) => checkup.error(keyring.display(), err.to_string(), hint),
        }
        program("gpgv", "gpgv", checkup);
    }
    let own = settings.image.iter().map(|image| (image, "image".to_owned()));
    let named = settings.images.iter().map(|(name, image)| (&image.image.0, format!("images.{name}")));
    for (image, key) in own.chain(named).filter(|(image, _)| image.starts_with('/')) {
        if let Err(err) = open_image(Path::new(image)) {
            let problem = format!("it is the image of variant {variant}, but can't be read: {err}");
            checkup.warn(image, problem, format!("put it there, or correct the setting {key}"));
        }
    }
}

/// Fails if the image can't be read. A block device is not opened, because `create` checks it itself, and takes it
/// only if `allowed_images` lists it.
fn open_image(path: &Path) -> io::Result<()> {
    let found = FoundFile::at(path)?;
    if found.metadata()?.file_type().is_block_device() { Ok(()) } else { found.open_regular().map(drop) }
}

/// Checks the cache folder. A missing folder is no problem, because the first download creates it.
fn cache(settings: &Settings, checkup: &mut Checkup) {
    let dir = &settings.cache.dir;
    if let Ok(Some(found)) = untrusted_folder(dir) {
        let problem = format!("the cache can be exchanged: {}", found.words(dir, "what is installed"));
        return checkup.error(
            dir.display(),
            problem,
            "check it, then chown root and chmod go-w, or name another cache.dir",
        );
    }
    match dir.symlink_metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return,
        Err(err) => return checkup.error(dir.display(), format!("the cache can't be looked at: {err}"), "run as root"),
        Ok(_) => {}
    }
    if let Err(err) = Cache::open(&settings.cache_settings()) {
        let hint = match dir.symlink_metadata() {
            _ if !nix::unistd::geteuid().is_root() => "run it as root",
            Ok(found) if found.is_dir() => "chown root, chmod 0700, after looking at what is in it",
            _ => "name a folder in cache.dir",
        };
        return checkup.error(dir.display(), err.to_string(), hint);
    }
    let free = nix::sys::statvfs::statvfs(dir).map(|stat| stat.blocks_available() * stat.fragment_size());
    if let Ok(free) = free
        && free < LITTLE_SPACE
    {
        let problem = format!("only {} are free for images", ByteSize(free).rounded());
        checkup.warn(dir.display(), problem, "simpleimage cache prune, a cache.max_size, or another cache.dir");
    }
}

fn check_hooks(node: &Node<'_>, folder: &Path, checkup: &mut Checkup) {
    let untrusted = untrusted_places(folder).unwrap_or_default();
    for found in &untrusted {
        // A folder above all hooks was found for those of another phase already.
        let (place, problem) = (found.place.display().to_string(), "others than root can write what runs as root");
        if !checkup.findings.iter().any(|known| known.subject == place && known.problem == problem) {
            checkup.error(place, problem, "check it, then chown root and chmod go-w");
        }
    }
    match hooks::present(folder) {
        Err(_) if !untrusted.is_empty() => return,
        Ok(false) => return,
        Ok(true) => {}
        Err(err) => return checkup.error(folder.display(), format!("{err}"), "make it a folder, or remove it"),
    }
    match hooks::skipped(folder, node.children) {
        Ok(skipped) => {
            for hook in skipped {
                let problem = "run-parts skips it in silence";
                let hint = "give it a name of letters, digits, - and _ only, and chmod +x; or move it elsewhere";
                checkup.error(hook.display(), problem, hint);
            }
        }
        Err(err) => checkup.error(folder.display(), format!("run-parts can't list it: {err}"), "look at the folder"),
    }
    for hook in hooks::list(folder, node.children).unwrap_or_default() {
        if let Ok(Some(problem)) = why_not_started(&hook) {
            checkup.error(
                hook.display(),
                problem,
                "correct its first line, such as #!/bin/sh, and save it with Unix line ends",
            );
        }
    }
}
