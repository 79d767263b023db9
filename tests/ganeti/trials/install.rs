// SPDX-License-Identifier: BSD-2-Clause
//! `gnt-os` and `gnt-instance add`.

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, OLD_DATA, Storage};
use crate::image::{assert_disk_holds, assert_same_bytes};

pub(super) const CASES: &[Case] = &[
    ("os_diagnose_finds_the_provider_valid", diagnose),
    ("os_list_names_the_default_variant", list),
    ("add_raw_path_to_file_disk", |cluster| add_path(cluster, "raw-path-file", Storage::File)),
    ("add_raw_path_to_block_disk", |cluster| add_path(cluster, "raw-path-block", Storage::Block)),
    ("add_raw_xz_url_to_file_disk", |cluster| add_raw_xz_url(cluster, "xz-url-file", Storage::File)),
    ("add_raw_xz_url_to_block_disk", |cluster| add_raw_xz_url(cluster, "xz-url-block", Storage::Block)),
    ("add_qcow2_url_to_file_disk", |cluster| add_qcow2_url(cluster, "qcow2-url-file", Storage::File)),
    ("add_qcow2_url_to_block_disk", |cluster| add_qcow2_url(cluster, "qcow2-url-block", Storage::Block)),
    ("add_finds_the_image_type_itself", add_without_a_type),
    ("add_leaves_the_second_disk_alone", add_two_disks),
];

/// Larger than the image: the rest of the disk has to read zero.
const DISK_MIB: u32 = 12;

fn diagnose(cluster: &Cluster) {
    let said = cluster.gnt(&["gnt-os", "diagnose"]);
    assert_says(&said, "OS: simpleimage [global status: valid]");
    assert_says(&said, "Variants: [default]");
    assert_says(&said, "[parameters: image, image_type");
    assert_says(&said, "[trusted]");
}

fn list(cluster: &Cluster) {
    assert_eq!(cluster.gnt(&["gnt-os", "list", "--no-headers"]).trim(), "simpleimage+default");
}

fn add_path(cluster: &Cluster, name: &str, storage: Storage) {
    let image = cluster.images.path_text("first.raw");
    add_first_image(cluster, name, storage, &format!("image={image},image_type=raw"));
}

fn add_raw_xz_url(cluster: &Cluster, name: &str, storage: Storage) {
    let image = cluster.url("first.raw.xz");
    add_first_image(cluster, name, storage, &format!("image={image},image_type=raw+xz"));
}

fn add_qcow2_url(cluster: &Cluster, name: &str, storage: Storage) {
    let image = cluster.url("first.qcow2");
    add_first_image(cluster, name, storage, &format!("image={image},image_type=qcow2"));
}

fn add_without_a_type(cluster: &Cluster) {
    let image = cluster.images.path_text("first.qcow2");
    add_first_image(cluster, "no-type", Storage::File, &format!("image={image}"));
}

fn add_first_image(cluster: &Cluster, name: &str, storage: Storage, parameters: &str) {
    let instance = cluster.add(&format!("{name}.example.com"), storage, &[DISK_MIB], parameters);
    assert_disk_holds(&instance.disk(0), DISK_MIB, &cluster.images.first);
}

fn add_two_disks(cluster: &Cluster) {
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("first.raw"));
    let instance = cluster.add("two-disks.example.com", Storage::Block, &[DISK_MIB, 4], &parameters);
    assert_disk_holds(&instance.disk(0), DISK_MIB, &cluster.images.first);
    assert_same_bytes(&instance.disk(1), &vec![OLD_DATA; 4 << 20]);
}
