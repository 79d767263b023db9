// SPDX-License-Identifier: BSD-2-Clause
//! `gnt-backup export` and `import`.

use std::fs;

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, Storage};
use crate::image::{assert_disk_holds, assert_same_bytes};

pub(super) const CASES: &[Case] = &[
    ("backup_of_a_file_disk_is_the_disk", |cluster| restore(cluster, "backup-file", Storage::File)),
    ("backup_of_a_block_disk_is_the_disk", |cluster| restore(cluster, "backup-block", Storage::Block)),
    ("backup_of_a_running_instance_is_the_snapshot", export_a_snapshot),
    ("backup_restores_to_a_larger_disk", restore_to_a_larger_disk),
    ("backup_restores_while_the_url_is_down", restore_with_a_dead_url),
];

/// The second disk is no image of ours: it has to come back as it is, too.
fn restore(cluster: &Cluster, name: &str, storage: Storage) {
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("first.raw"));
    let old = cluster.add(&format!("{name}.example.com"), storage, &[8, 4], &parameters);
    let second = vec![0x3C; 4 << 20];
    old.fill(1, &second);
    let new = cluster.back_up_and_restore(&old.name, &format!("{name}-new.example.com"), storage, &[8, 4]);
    assert_ne!(old.disk(0), new.disk(0));
    assert_disk_holds(&new.disk(0), 8, &cluster.images.first);
    assert_same_bytes(&new.disk(1), &second);
}

/// Ganeti names the snapshot as the device to export, and the live disk as the instance's.
fn export_a_snapshot(cluster: &Cluster) {
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("first.raw"));
    let old = cluster.add("snapshot.example.com", Storage::Block, &[8], &parameters);
    cluster.gnt(&["gnt-instance", "start", &old.name]);
    let busy = cluster.block_store().join("busy");
    fs::write(&busy, "").expect("making the guest busy");
    let said = cluster.export(&old.name);
    fs::remove_file(&busy).expect("making the guest idle");
    assert_says(&said, "Creating a snapshot of disk/0");
    cluster.gnt(&["gnt-instance", "stop", "--timeout=0", &old.name]);
    assert!(fs::read(old.disk(0)).expect("reading the live disk").starts_with(b"written after the snapshot"));
    let new = cluster.import(&old.name, "snapshot-new.example.com", Storage::Block, &[8]);
    assert_disk_holds(&new.disk(0), 8, &cluster.images.first);
}

fn restore_to_a_larger_disk(cluster: &Cluster) {
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("second.raw"));
    let old = cluster.add("grow.example.com", Storage::Block, &[4], &parameters);
    let new = cluster.back_up_and_restore(&old.name, "grow-new.example.com", Storage::Block, &[8]);
    assert_disk_holds(&new.disk(0), 8, &cluster.images.second);
}

fn restore_with_a_dead_url(cluster: &Cluster) {
    let parameters = format!("image={},image_type=raw", cluster.url("first.raw"));
    let old = cluster.add("dead.example.com", Storage::File, &[8], &parameters);
    cluster.gnt(&["gnt-instance", "modify", "-O", "image=http://127.0.0.1:1/down.raw", &old.name]);
    let new = cluster.back_up_and_restore(&old.name, "dead-new.example.com", Storage::File, &[8]);
    assert_disk_holds(&new.disk(0), 8, &cluster.images.first);
}
