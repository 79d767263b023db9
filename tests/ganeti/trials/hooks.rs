// SPDX-License-Identifier: BSD-2-Clause
//! Hooks of the variant at `gnt-instance add`.

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, Storage};
use crate::command::run;
use crate::namespace::utf8;

pub(super) const CASES: &[Case] = &[
    ("hook_mounts_a_file_disk", |cluster| mount(cluster, "hook-file", Storage::File)),
    ("hook_mounts_a_block_disk", |cluster| mount(cluster, "hook-block", Storage::Block)),
    ("hook_that_fails_fails_the_job", failing_hook),
];

const MOUNTING_HOOK: &str = r#"
[ -b "$TARGET_DISK_DEVICE" ]
mount "$TARGET_DISK_DEVICE" "$TRIAL_MOUNT"
echo "$INSTANCE_NAME $OSP_IMAGE_TYPE" >"$TRIAL_MOUNT/hostname"
umount "$TRIAL_MOUNT"
"#;

fn mount(cluster: &Cluster, name: &str, storage: Storage) {
    let name = format!("{name}.example.com");
    let folder = cluster.root.join("mount");
    let _hook = cluster.hook(
        "hooks",
        &format!("TRIAL_MOUNT={folder}; mkdir -p \"$TRIAL_MOUNT\"{MOUNTING_HOOK}", folder = folder.display()),
    );
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("filesystem.raw"));
    let instance = cluster.add(&name, storage, &[12], &parameters);
    let written = run("debugfs", &["-R", "cat /hostname", utf8(&instance.disk(0))]);
    assert_eq!(written, format!("{name} raw\n"));
}

fn failing_hook(cluster: &Cluster) {
    let _hook = cluster.hook("hooks", "echo 'no licence for this guest' >&2; exit 3");
    let parameters = format!("image={},image_type=raw", cluster.images.path_text("first.raw"));
    let said = cluster.add_fails("hook-fails.example.com", Storage::File, &parameters);
    assert_says(&said, "no licence for this guest");
    assert_says(&said, "simpleimage[create]: error: ");
    assert_says(&said, "50-trial");
}
