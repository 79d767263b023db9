// SPDX-License-Identifier: BSD-2-Clause
//! The folder in which Ganeti finds the operating system.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Checkup, Node};
use crate::config::VariantName;
use crate::ganeti::env::API_VERSION;
use crate::ganeti::script::Script;

/// Where Ganeti looks, the first folder that has it wins (`--with-os-search-path` of its Debian package).
const SEARCH_PATH: [&str; 4] = ["srv/ganeti/os", "usr/local/lib/ganeti/os", "usr/lib/ganeti/os", "usr/share/ganeti/os"];

/// The OS parameters that this program knows.
const PARAMETERS: &str = include_str!("../../../os-scripts/parameters.list");

const REINSTALL: &str = "install the package again, or run make install";

/// Looks at the folder, and gives the variants that Ganeti offers.
pub(super) fn check(node: &Node<'_>, checkup: &mut Checkup) -> Vec<VariantName> {
    let folders: Vec<PathBuf> =
        SEARCH_PATH.iter().map(|path| node.root.join(path).join("simpleimage")).filter(|path| path.is_dir()).collect();
    let Some((folder, shadowed)) = folders.split_first() else {
        let places = SEARCH_PATH.map(|path| format!("/{path}")).join(", ");
        let hint = "make install PREFIX=/usr, or install the package";
        checkup.error("operating system simpleimage", format!("Ganeti finds none in {places}"), hint);
        return Vec::new();
    };
    for other in shadowed {
        let problem = format!("Ganeti never looks there, for it finds {} first", folder.display());
        checkup.warn(
            other.display(),
            problem,
            "remove the one that is not wanted: gnt-os diagnose of Ganeti 3.0 fails while there are two",
        );
    }
    let before = checkup.findings.len();
    scripts(folder, checkup);
    api_version(&folder.join("ganeti_api_version"), checkup);
    parameters(&folder.join("parameters.list"), checkup);
    untrusted(&folder.join("create_untrusted"), checkup);
    predecessor(folder, checkup);
    let variants = variants(node, &folder.join("variants.list"), checkup);
    if checkup.findings.len() == before {
        checkup.fine(format!("operating system {}", folder.display()));
    }
    variants
}

/// Each script has to be this program, under its name.
fn scripts(folder: &Path, checkup: &mut Checkup) {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let this = std::env::current_exe().and_then(|path| identity(&path));
    for script in [Script::Create, Script::Export, Script::Import, Script::Rename, Script::Verify] {
        let path = folder.join(script.name());
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(err) if path.is_symlink() => {
                let target = fs::read_link(&path).unwrap_or_default();
                let problem = format!("it is a symbolic link to {}, which is not there ({err})", target.display());
                checkup.error(path.display(), problem, REINSTALL);
                continue;
            }
            Err(err) => {
                checkup.error(path.display(), format!("the script is missing ({err})"), REINSTALL);
                continue;
            }
        };
        if !metadata.is_file() || metadata.permissions().mode() & 0o100 == 0 {
            checkup.error(path.display(), "it is not an executable file", REINSTALL);
        } else if this.as_ref().ok() != identity(&path).ok().as_ref() {
            let problem = "it is another program than this one, perhaps that of an older installation";
            checkup.error(path.display(), problem, REINSTALL);
        }
    }
}

fn read(path: &Path, checkup: &mut Checkup) -> Option<String> {
    fs::read_to_string(path)
        .inspect_err(|err| checkup.error(path.display(), format!("it can't be read: {err}"), REINSTALL))
        .ok()
}

fn api_version(path: &Path, checkup: &mut Checkup) {
    if let Some(text) = read(path, checkup)
        && !text.lines().any(|line| line == API_VERSION)
    {
        let problem = format!("it does not offer version {API_VERSION} of the OS interface");
        checkup.error(path.display(), problem, REINSTALL);
    }
}

fn parameters(path: &Path, checkup: &mut Checkup) {
    let Some(text) = read(path, checkup) else { return };
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    // Ganeti wants a name and a description on every line, comments and empty lines included.
    if let Some((number, line)) = (1..).zip(text.lines()).find(|(_, line)| line.split_whitespace().count() < 2) {
        let problem = format!("Ganeti can't read its line {number}, '{line}': it has no description");
        checkup.error(path.display(), problem, REINSTALL);
    }
    let (there, known) = (names(&text), names(PARAMETERS));
    let list = |names: Vec<&String>| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let (missing, unknown) = (list(known.difference(&there).collect()), list(there.difference(&known).collect()));
    if !missing.is_empty() {
        let problem = format!("it does not have {missing}, so that Ganeti refuses these OS parameters");
        checkup.error(path.display(), problem, REINSTALL);
    }
    if !unknown.is_empty() {
        let problem = format!("it has {unknown}, which this program does not know and would ignore");
        checkup.error(path.display(), problem, REINSTALL);
    }
}

fn untrusted(path: &Path, checkup: &mut Checkup) {
    if path.symlink_metadata().is_ok() {
        let problem = "with it Ganeti takes the operating system for an untrusted one and runs it in a helper machine";
        checkup.error(path.display(), problem, "remove it");
    }
}

/// What the installation over the shell provider leaves there: it is cloned from its repository.
fn predecessor(folder: &Path, checkup: &mut Checkup) {
    let left: Vec<_> = [".git", "common.sh"].into_iter().filter(|name| folder.join(name).exists()).collect();
    if !left.is_empty() {
        let problem = format!("it holds {} of the shell provider, which nothing here reads", left.join(" and "));
        let hint = "remove that, and its README.md, LICENSE and example-hooks; a git pull would bring its scripts back";
        checkup.warn(folder.display(), problem, hint);
    }
}

/// The variants in the file that Ganeti reads, and what is wrong with it.
fn variants(node: &Node<'_>, path: &Path, checkup: &mut Checkup) -> Vec<VariantName> {
    let text = match read_below(node.root, path) {
        Ok(text) => text,
        Err(err) => {
            let hint = "create it with one variant per line, such as: default";
            checkup.error(path.display(), format!("Ganeti can't read the list of variants: {err}"), hint);
            return Vec::new();
        }
    };
    let mut offered = Vec::new();
    for name in VariantName::in_list(&text) {
        match name {
            Ok(variant) => offered.push(variant),
            Err(err) => checkup.error(path.display(), err.to_string(), "rename the variant, or remove the line"),
        }
    }
    if offered.is_empty() {
        let problem = "it offers no variant, so that Ganeti takes the operating system for a broken one";
        checkup.error(path.display(), problem, "add a line, such as: default");
    }
    offered
}

/// Reads a file that may be an absolute symbolic link, which is meant from `root` on.
fn read_below(root: &Path, path: &Path) -> io::Result<String> {
    match fs::read_link(path) {
        Ok(target) if target.is_absolute() => {
            fs::read_to_string(root.join(target.strip_prefix("/").unwrap_or(&target)))
        }
        _ => fs::read_to_string(path),
    }
}
