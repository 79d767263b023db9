// SPDX-License-Identifier: BSD-2-Clause
//! `gnt-instance reinstall`, `rename` and `modify`, and `gnt-cluster modify`.

use std::fs;

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, Storage};
use crate::image::assert_disk_holds;

pub(super) const CASES: &[Case] = &[
    ("reinstall_replaces_the_image_on_a_file_disk", |cluster| reinstall(cluster, "again-file", Storage::File)),
    ("reinstall_replaces_the_image_on_a_block_disk", |cluster| reinstall(cluster, "again-block", Storage::Block)),
    ("rename_runs_the_rename_hooks", rename),
    ("modify_takes_a_url_that_is_down", modify_to_a_dead_url),
    ("cluster_modify_takes_an_image_type_alone", cluster_level_type),
];

fn add(cluster: &Cluster, name: &str, storage: Storage) -> crate::cluster::Instance {
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("first.raw"));
    cluster.add(&format!("{name}.example.com"), storage, &[8], &parameters)
}

/// The second image is shorter than the first: nothing of the first may remain behind it.
fn reinstall(cluster: &Cluster, name: &str, storage: Storage) {
    let instance = add(cluster, name, storage);
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.first);
    let seen = cluster.root.join("reinstall");
    let _hook = cluster.hook("hooks", &format!("echo \"again=$INSTANCE_REINSTALL\" >{}", seen.display()));
    let parameters = format!("image={},image_type=raw", cluster.url("second.raw"));
    cluster.gnt(&["gnt-instance", "reinstall", "-f", "-O", &parameters, &instance.name]);
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.second);
    assert_eq!(fs::read_to_string(&seen).expect("what the hook wrote"), "again=1\n");
}

fn rename(cluster: &Cluster) {
    let mut instance = add(cluster, "old-name", Storage::File);
    let seen = cluster.root.join("rename");
    let _hook =
        cluster.hook("hooks.rename", &format!("echo \"$OLD_INSTANCE_NAME $INSTANCE_NAME\" >{}", seen.display()));
    let new = "new-name.example.com";
    let said = cluster.gnt(&["gnt-instance", "rename", "-f", "--no-ip-check", "--no-name-check", &instance.name, new]);
    // A failed rename script is only a warning to Ganeti.
    assert!(!said.contains("WARNING"), "{said}");
    assert_eq!(fs::read_to_string(&seen).expect("what the hook wrote"), "old-name.example.com new-name.example.com\n");
    instance.name = new.to_owned();
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.first);
}

fn modify_to_a_dead_url(cluster: &Cluster) {
    let instance = add(cluster, "modify", Storage::File);
    let dead = "http://127.0.0.1:1/down.raw";
    cluster.gnt(&["gnt-instance", "modify", "-O", &format!("image={dead}"), &instance.name]);
    assert_says(&cluster.gnt(&["gnt-instance", "info", &instance.name]), &format!("image: {dead}"));
}

/// Ganeti verifies cluster-level parameters without those of an instance, at every change of the cluster.
fn cluster_level_type(cluster: &Cluster) {
    cluster.gnt(&["gnt-os", "modify", "-O", "image_type=raw", "simpleimage+default"]);
    cluster.gnt(&["gnt-cluster", "modify", "--candidate-pool-size=9"]);
    let parameters = format!("image={}", cluster.images.path_text("first.raw"));
    let instance = cluster.add("cluster-type.example.com", Storage::File, &[8], &parameters);
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.first);
    cluster.gnt(&["gnt-os", "modify", "-O", "image_type=default", "simpleimage+default"]);
}
