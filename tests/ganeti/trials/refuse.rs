// SPDX-License-Identifier: BSD-2-Clause
//! What has to fail, and what the operator is told.

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, Storage};

pub(super) const CASES: &[Case] = &[
    ("verify_refuses_a_bad_image_type", bad_type),
    ("verify_refuses_a_bad_image_type_for_the_cluster", bad_type_for_the_cluster),
    ("create_names_a_missing_image", missing_path),
    ("create_names_a_missing_url", missing_url),
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
