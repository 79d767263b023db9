// SPDX-License-Identifier: BSD-2-Clause
//! What has to fail, and what the operator is told.

use std::fs;

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, OLD_DATA, Storage};
use crate::command::{output, text};

pub(super) const CASES: &[Case] = &[
    ("verify_refuses_a_bad_image_type", bad_type),
    ("verify_refuses_a_bad_image_type_for_the_cluster", bad_type_for_the_cluster),
    ("create_names_a_missing_image", missing_path),
    ("create_names_a_missing_url", missing_url),
    ("a_tenants_words_that_fail_leave_nothing_to_boot", nothing_to_boot),
    ("check_tells_of_disks_that_nobody_wipes", unwiped_disks),
];

fn bad_type(cluster: &Cluster) {
    let parameters = format!("image={},image_type=raw+lzip", cluster.images.path_text("first.raw"));
    let said = cluster.add_fails("bad-type.example.com", Storage::File, &parameters);
    assert_says(&said, "simpleimage[verify]: error: ");
    assert_says(&said, "image_type");
    assert_says(&said, "raw+lzip");
    let instances = cluster.gnt(&["gnt-instance", "list", "--no-headers", "-o", "name"]);
    assert!(!instances.contains("bad-type"), "refused before anything is made: {instances}");
}

fn bad_type_for_the_cluster(cluster: &Cluster) {
    let said = cluster.gnt_fails(&["gnt-os", "modify", "-O", "image_type=floppy", "simpleimage+default"]);
    assert_says(&said, "simpleimage[verify]: error: ");
    assert_says(&said, "image_type");
    assert_says(&said, "floppy");
}

fn missing_path(cluster: &Cluster) {
    let image = cluster.images.path_text("absent.raw");
    assert_create_names(cluster, "absent-path.example.com", &image);
}

fn missing_url(cluster: &Cluster) {
    let image = cluster.url("absent.raw");
    assert_create_names(cluster, "absent-url.example.com", &image);
}

fn assert_create_names(cluster: &Cluster, name: &str, image: &str) {
    let said = cluster.add_fails(name, Storage::File, &format!("image={image},image_type=raw"));
    assert_says(&said, "simpleimage[create]: error: ");
    let error = said.lines().find(|line| line.contains("simpleimage[create]: error: ")).expect("found above");
    assert_says(error, image);
}

/// verify lets them pass, and Ganeti keeps the instance and would start it.
fn nothing_to_boot(cluster: &Cluster) {
    let image = cluster.images.path_text("first.raw");
    let name = "no-user-data.example.com";
    let said = cluster.add_fails(name, Storage::Block, &format!("image={image},image_type=raw,user_data=absent.yaml"));
    assert_says(&said, "simpleimage[create]: error: parameter user_data: ");
    let disk = fs::read(cluster.instance(name).disk(0)).expect("reading the disk");
    let (boot, rest) = disk.split_at(1 << 20);
    assert!(boot.iter().all(|byte| *byte == 0), "the old system may boot");
    assert!(rest.iter().all(|byte| *byte == OLD_DATA), "more than the boot area was written");
}

fn unwiped_disks(cluster: &Cluster) {
    let check = || text(&output("simpleimage", &["check"]));
    assert_says(&check(), "warning: prealloc_wipe_disks of the cluster: it is off: ");
    cluster.gnt(&["gnt-cluster", "modify", "--prealloc-wipe-disks", "yes"]);
    assert_says(&check(), "ok: Ganeti wipes new disks (prealloc_wipe_disks)");
    cluster.gnt(&["gnt-cluster", "modify", "--prealloc-wipe-disks", "no"]);
}
