// SPDX-License-Identifier: BSD-2-Clause
//! Checks the node without its variants: rights, programs, loop devices, Ganeti's OS folder, and who zeroes new
//! disks.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Checkup, Node};
use crate::config::{self, VariantName};
use crate::ganeti::env::API_VERSION;
use crate::ganeti::script::Script;
use crate::node::process::{self, Lifetime};

/// The PATH of the scripts that Ganeti runs (`constants.HOOKS_PATH` in Ganeti).
const GANETI_PATH: [&str; 4] = ["/sbin", "/bin", "/usr/sbin", "/usr/bin"];

/// The oldest kernel, which has LOOP_CONFIGURE. With it, hooks get a loop device that a killed run does not leave
/// behind.
const OLDEST_KERNEL: (u32, u32) = (5, 8);

/// The oldest version of qemu-img that has `--target-is-zero` with `convert -n`, and `-W` on any target.
const OLDEST_QEMU_IMG: (u32, u32) = (5, 0);

/// Checks what does not depend on the configuration.
pub(super) fn check(node: &Node<'_>, checkup: &mut Checkup) {
    if !nix::unistd::geteuid().is_root() {
        checkup.warn("user", "this check runs without root's rights and may miss things", "run it as root");
    }
    kernel(checkup);
    if let Some(path) = program("qemu-img", "qemu-utils", checkup) {
        qemu_img(&path, node, checkup);
    }
    if let Some(path) = program("run-parts", "debianutils", checkup) {
        checkup.fine(format!("program {}", path.display()));
    }
    loop_control(checkup);
}

/// Finds the program that a script starts under `name`, or reports that it is missing.
pub(super) fn program(name: &str, package: &str, checkup: &mut Checkup) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let found = GANETI_PATH.iter().map(|folder| Path::new(folder).join(name)).find(is_program);
    if found.is_none() {
        let searched = GANETI_PATH.join(":");
        checkup.error(
            format!("program {name}"),
            format!("there is none in {searched}, the PATH that Ganeti gives"),
            format!("apt-get install {package}"),
        );
    }
    found
}

fn kernel(checkup: &mut Checkup) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let Ok(release) = release else { return };
    match version(&release) {
        Some(version) if version < OLDEST_KERNEL => checkup.warn(
            format!("kernel {release}"),
            "it can't attach a loop device in one step, and hooks of instances with file disks fail",
            "use Linux 5.8 or later",
        ),
        _ => checkup.fine(format!("kernel {release}")),
    }
}

fn qemu_img(path: &Path, node: &Node<'_>, checkup: &mut Checkup) {
    let mut command = Command::new(path);
    command.arg("--version").env_clear();
    let mut shown = String::new();
    let ran = process::run(command, &[], Lifetime::Child, node.children, |line| {
        if shown.is_empty() {
            line.clone_into(&mut shown);
        }
    });
    let words = shown.strip_prefix("qemu-img version ");
    match (ran, words.and_then(version)) {
        (Ok(status), Some(version)) if status.success() && version >= OLDEST_QEMU_IMG => {
            checkup.fine(format!("program {}: {shown}", path.display()));
        }
        (Ok(status), Some(_)) if status.success() => {
            checkup.error(path.display(), format!("it is too old: {shown}"), "install qemu-utils 5.0 or later");
        }
        (Ok(status), _) => {
            let problem = format!("qemu-img --version says '{shown}' ({status})");
            checkup.error(path.display(), problem, "apt-get install --reinstall qemu-utils");
        }
        (Err(err), _) => {
            checkup.error(path.display(), format!("it does not run: {err}"), "apt-get install --reinstall qemu-utils");
        }
    }
}

/// Returns the major and minor number at the start of a text like `5.10.0-8-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn loop_control(checkup: &mut Checkup) {
    let control = Path::new("/dev/loop-control");
    match OpenOptions::new().read(true).write(true).open(control) {
        Ok(_) => checkup.fine("loop devices, for hooks of instances with file disks"),
        Err(err) => checkup.error(
            control.display(),
            format!("no loop device for hooks of instances with file disks: {err}"),
            "modprobe loop, and as root",
        ),
    }
}

/// The folders in which Ganeti looks for an OS. The first one that has it is used (`--with-os-search-path` of its
/// Debian package).
const SEARCH_PATH: [&str; 4] = ["srv/ganeti/os", "usr/local/lib/ganeti/os", "usr/lib/ganeti/os", "usr/share/ganeti/os"];

/// The OS parameters that this program knows.
const PARAMETERS: &str = include_str!("../../../os-scripts/parameters.list");

const REINSTALL: &str = "install the package again, or run make install";

/// Checks the folder in which Ganeti finds this operating system. Returns the variants that Ganeti offers.
pub(super) fn check_os_folder(node: &Node<'_>, checkup: &mut Checkup) -> Vec<VariantName> {
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

/// Checks that each script is a link to this program.
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

fn read_or_report(path: &Path, checkup: &mut Checkup) -> Option<String> {
    fs::read_to_string(path)
        .inspect_err(|err| checkup.error(path.display(), format!("it can't be read: {err}"), REINSTALL))
        .ok()
}

fn api_version(path: &Path, checkup: &mut Checkup) {
    if let Some(text) = read_or_report(path, checkup)
        && !text.lines().any(|line| line == API_VERSION)
    {
        let problem = format!("it does not offer version {API_VERSION} of the OS interface");
        checkup.error(path.display(), problem, REINSTALL);
    }
}

fn parameters(path: &Path, checkup: &mut Checkup) {
    let Some(text) = read_or_report(path, checkup) else { return };
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    // Ganeti requires a name and a description on every line, even on comments and empty lines.
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

/// Warns about other files of the shell provider, which stay in the folder if this provider was installed over a git
/// clone of it.
fn predecessor(folder: &Path, checkup: &mut Checkup) {
    let left: Vec<_> = [".git", "common.sh"].into_iter().filter(|name| folder.join(name).exists()).collect();
    if !left.is_empty() {
        let problem = format!("it holds {} of the shell provider, which nothing here reads", left.join(" and "));
        let hint = "remove that, and its README.md, LICENSE and example-hooks; a git pull would bring its scripts back";
        checkup.warn(folder.display(), problem, hint);
    }
}

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

/// Reads a file. An absolute symbolic link is resolved from `root`.
fn read_below(root: &Path, path: &Path) -> io::Result<String> {
    match fs::read_link(path) {
        Ok(target) if target.is_absolute() => {
            fs::read_to_string(root.join(target.strip_prefix("/").unwrap_or(&target)))
        }
        _ => fs::read_to_string(path),
    }
}

/// Ganeti's configuration, which only the master and its candidates have. The ssconf files, which all nodes have, do
/// not contain these settings.
const GANETI_CONFIG: &str = "var/lib/ganeti/config.data";

/// The disk templates whose new disks may contain old data. New files and RBD images read zero.
const USED_BEFORE: [&str; 3] = ["plain", "drbd", "ext"];

#[derive(Deserialize)]
struct Config {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    prealloc_wipe_disks: Option<bool>,
    enabled_disk_templates: Option<Vec<String>>,
}

impl Cluster {
    fn of(path: &Path) -> io::Result<Self> {
        let config: Config = serde_json::from_reader(BufReader::new(File::open(path)?))?;
        Ok(config.cluster)
    }

    fn has_used_disks(&self) -> bool {
        let templates = self.enabled_disk_templates.as_ref();
        templates.is_none_or(|all| all.iter().any(|template| USED_BEFORE.contains(&template.as_str())))
    }
}

/// Warns if the other disks of a new instance may contain data of earlier instances.
pub(super) fn check_used_disks(node: &Node<'_>, variants: &[VariantName], checkup: &mut Checkup) {
    let path = node.root.join(GANETI_CONFIG);
    let cluster = match Cluster::of(&path) {
        Ok(cluster) => cluster,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return,
        Err(err) => {
            let problem = format!("it does not tell whether Ganeti wipes new disks: {err}");
            return checkup.warn(path.display(), problem, "run as root; gnt-cluster info tells it on the master");
        }
    };
    if cluster.prealloc_wipe_disks == Some(true) {
        return checkup.fine("Ganeti wipes new disks (prealloc_wipe_disks)");
    }
    // A variant that can't be loaded was already reported as an error.
    let leaves = |name: &&VariantName| config::load(node.paths, name).is_ok_and(|settings| !settings.wipe_other_disks);
    let leaving: Vec<_> = variants.iter().filter(leaves).map(VariantName::as_str).collect();
    if cluster.has_used_disks() && !leaving.is_empty() {
        let problem = format!(
            "it is off: an instance's second disk and the others may hold data of earlier instances, which the new one can read (variants: {})",
            leaving.join(", ")
        );
        let hint = "gnt-cluster modify --prealloc-wipe-disks yes, or wipe_other_disks = true in config.toml";
        checkup.warn("prealloc_wipe_disks of the cluster", problem, hint);
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_their_first_two_numbers() {
        let versions = ["6.1.0-18-amd64", "10.0.2 (Debian 1:10.0.2)", "5.8", "x", "5"].map(version);
        assert_eq!(versions, [Some((6, 1)), Some((10, 0)), Some((5, 8)), None, None]);
    }
}
