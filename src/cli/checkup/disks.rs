// SPDX-License-Identifier: BSD-2-Clause
//! What other instances may have left on the disks of a new one.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::{Checkup, Node};
use crate::config::{self, VariantName};

/// Ganeti's configuration. Only the master and its candidates have it, and no ssconf file, which all nodes have, says
/// anything of it.
const CONFIG: &str = "var/lib/ganeti/config.data";

/// Disk templates whose new disks may hold what was there before. Those of files and RBD images are new files and read
/// zero.
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

/// Whether the disks of a new instance read zero, or who sees to it.
pub(super) fn check(node: &Node<'_>, variants: &[VariantName], checkup: &mut Checkup) {
    let path = node.root.join(CONFIG);
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
    // What can't be loaded was told already.
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
