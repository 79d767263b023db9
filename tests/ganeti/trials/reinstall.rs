// SPDX-License-Identifier: BSD-2-Clause
//! What docs/reinstall.md and the README say of Ganeti: what a failed add leaves, what a reinstall still knows, and how keys survive.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::assert_says;
use crate::Case;
use crate::cluster::{Cluster, Instance, NODE, Storage};
use crate::command::{output, run, text};
use crate::image::assert_disk_holds;
use crate::namespace::utf8;

pub(super) const CASES: &[Case] = &[
    ("failed_add_leaves_an_instance_to_reinstall_or_to_remove", failed_add),
    ("two_copies_crash_diagnose_and_check_names_them", two_copies),
    ("reinstall_forgets_parameters_after_the_next_one", forgotten),
    ("reinstall_warns_of_keys_that_get_lost", warned),
    ("modify_brings_a_private_key_back_for_one_reinstall", modified),
    ("parameters_of_the_cluster_survive_reinstalls", cluster_parameters),
    ("seed_keep_carries_keys_over_every_reinstall", kept),
    ("a_seed_that_the_guest_removed_is_missed", removed),
];

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe";
const GUIDES: [&str; 2] = ["README.md", "docs/reinstall.md"];

/// Panics unless a guide quotes `words`, which Ganeti has just said.
fn assert_quoted(said: &str, words: &str) {
    assert_says(said, words);
    let guide = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("reading a guide");
    assert!(GUIDES.into_iter().any(|name| guide(name).contains(words)), "none of {GUIDES:?} quotes {words:?}");
}

fn image(cluster: &Cluster) -> String {
    format!("image={},image_type=raw", cluster.images.path_text("first.raw"))
}

fn reinstall(cluster: &Cluster, instance: &Instance, more: &[&str]) -> String {
    cluster.gnt(&[&["gnt-instance", "reinstall", "-f"], more, &[instance.name.as_str()]].concat());
    cluster.last_log(&instance.name)
}

/// The SSH keys in the instance's seed; none without a seed.
fn keys(instance: &Instance) -> Option<usize> {
    let shown = run("simpleimage", &["seed", "show", "--secrets", utf8(&instance.disk(0))]);
    shown.contains("file:     meta-data").then(|| shown.matches("ssh-ed25519 ").count())
}

fn failed_add(cluster: &Cluster) {
    let name = "failed-add.example.com";
    let missing = format!("image={}", cluster.images.path_text("absent.raw"));
    let said = cluster.add_fails(name, Storage::File, &missing);
    assert_quoted(&said, "Could not add os for instance");
    assert_quoted(&said, "OS create script failed (exited with exit code 1), last lines in the log file:");
    assert_says(&said, &format!("Could not add os for instance {name} on node {NODE}"));
    assert_says(&cluster.gnt(&["gnt-instance", "list", "--no-headers", "-o", "name"]), name);
    // The same command again is no way out.
    assert_quoted(&cluster.add_fails(name, Storage::File, &image(cluster)), "is already in the cluster");
    let instance = cluster.instance(name);
    cluster.gnt(&["gnt-instance", "reinstall", "-f", "-O", &image(cluster), name]);
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.first);
    cluster.gnt(&["gnt-instance", "remove", "-f", name]);
    let instance = cluster.add(name, Storage::File, &[8], &image(cluster));
    assert_disk_holds(&instance.disk(0), 8, &cluster.images.first);
}

/// A copy below /usr/local, as the shell provider or `make install` without PREFIX leaves it.
fn two_copies(cluster: &Cluster) {
    let folder = "/usr/local/lib/ganeti/os";
    fs::create_dir_all(folder).expect("creating a folder for another copy");
    symlink("/usr/share/ganeti/os/simpleimage", format!("{folder}/simpleimage")).expect("making another copy");
    let diagnosed = output("gnt-os", &["diagnose"]);
    let checked = output("simpleimage", &["check"]);
    run("rm", &[&format!("{folder}/simpleimage")]);
    assert!(!diagnosed.status.success(), "{}", text(&diagnosed));
    assert_says(&text(&diagnosed), "too many values to unpack");
    let said = text(&checked);
    let words = "warning: /usr/share/ganeti/os/simpleimage: Ganeti never looks there, for it finds /usr/local/lib/ganeti/os/simpleimage first";
    assert_says(&said, words);
    assert_says(&cluster.gnt(&["gnt-os", "diagnose"]), "[global status: valid]");
}

/// Whether -O is given or not, the first reinstall knows everything, and the next one what the first was told.
fn forgotten(cluster: &Cluster) {
    let private = format!("ssh_keys={KEY}");
    for (name, more) in [("forgets-all", &[][..]), ("forgets-keys", &["-O", &image(cluster)][..])] {
        let instance = cluster.add_with_private(&format!("{name}.example.com"), &image(cluster), &private);
        assert_eq!(keys(&instance), Some(1));
        assert!(!reinstall(cluster, &instance, more).contains("warning"), "{name}");
        assert_eq!(keys(&instance), Some(1), "{name}: the first");
    }
    let said = cluster.gnt_fails(&["gnt-instance", "reinstall", "-f", "forgets-all.example.com"]);
    let words = "no image is given: Ganeti forgets OS parameters that a reinstall's command line does not repeat";
    assert_quoted(&said, words);
    assert_says(
        &said,
        "(use gnt-instance reinstall -O image=... forgets-all.example.com, or set image in the variant's config.toml)",
    );
    // What it had is still there: nothing was touched.
    assert_eq!(keys(&cluster.instance("forgets-all.example.com")), Some(1));
    let keyless = cluster.instance("forgets-keys.example.com");
    reinstall(cluster, &keyless, &["-O", &image(cluster)]);
    assert_eq!(keys(&keyless), None, "the second");
}

fn warned(cluster: &Cluster) {
    let name = "warned.example.com";
    let private = format!("ssh_keys={KEY}");
    let instance = cluster.add_with_private(name, &image(cluster), &private);
    let given = ["-O", &image(cluster), "--os-parameters-private", &private];
    for _ in 0..3 {
        assert!(!reinstall(cluster, &instance, &given).contains("warning"), "given each time");
        assert_eq!(keys(&instance), Some(1));
    }
    reinstall(cluster, &instance, &[]);
    let log = reinstall(cluster, &instance, &["-O", &image(cluster)]);
    let warning = "warning: the instance loses what its old seed gave it: ssh_keys (1 of 1 key)";
    assert_quoted(&log, warning);
    assert_says(&log, &format!("gnt-instance reinstall -O image=... --os-parameters-private ssh_keys=... {name})"));
    assert!(!log.contains("AAAAC3"), "{log}");
    assert_eq!(keys(&instance), None);
    // The command that it names.
    reinstall(cluster, &instance, &given);
    assert_eq!(keys(&instance), Some(1));
}

fn modified(cluster: &Cluster) {
    let private = format!("ssh_keys={KEY}");
    let instance = cluster.add("modified.example.com", Storage::File, &[16], &image(cluster));
    assert_eq!(keys(&instance), None);
    cluster.gnt(&["gnt-instance", "modify", "--os-parameters-private", &private, &instance.name]);
    // A reinstall's command line can't take a parameter back: Ganeti hands over the word.
    let taken_back = format!("{},seed_persist=default", image(cluster));
    let said = cluster.gnt_fails(&["gnt-instance", "reinstall", "-f", "-O", &taken_back, &instance.name]);
    assert_says(&said, "parameter seed_persist: must be yes or no");
    cluster.gnt(&[
        "gnt-instance",
        "modify",
        "-O",
        "seed_persist=default",
        "--os-parameters-private",
        &private,
        &instance.name,
    ]);
    for expected in [Some(1), None] {
        reinstall(cluster, &instance, &["-O", &image(cluster)]);
        assert_eq!(keys(&instance), expected);
    }
}

/// Private ones of the cluster are not handed to an add, only to the reinstalls after it.
fn cluster_parameters(cluster: &Cluster) {
    let (public, private) = (format!("{},ssh_keys={KEY}", image(cluster)), format!("ssh_keys={KEY}"));
    let os = "simpleimage+default";
    cluster.gnt(&["gnt-os", "modify", "-O", &public, os]);
    let instance = cluster.add("of-the-cluster.example.com", Storage::File, &[16], "image_type=raw");
    for _ in 0..3 {
        assert_eq!(keys(&instance), Some(1));
        assert!(!reinstall(cluster, &instance, &[]).contains("warning"));
    }
    cluster.gnt(&["gnt-os", "modify", "-O", "ssh_keys=default", os]);
    cluster.gnt(&["gnt-os", "modify", "--os-parameters-private", &private, os]);
    let instance = cluster.add("private-of-it.example.com", Storage::File, &[16], "image_type=raw");
    for expected in [None, Some(1), Some(1)] {
        assert_eq!(keys(&instance), expected);
        reinstall(cluster, &instance, &[]);
    }
    let nothing = ["image=default,image_type=default", "--os-parameters-private", "ssh_keys=default"];
    cluster.gnt(&[&["gnt-os", "modify", "-O"], &nothing[..], &[os]].concat());
}

fn kept(cluster: &Cluster) {
    let _config = cluster.config(&format!("image = '{}'\nseed_keep = true\n", cluster.images.path_text("first.raw")));
    let private = format!("ssh_keys={KEY}");
    let instance = cluster.add_with_private("kept.example.com", "image_type=raw", &private);
    for _ in 0..3 {
        let log = reinstall(cluster, &instance, &[]);
        assert!(!log.contains("warning"), "{log}");
        assert_eq!(keys(&instance), Some(1));
    }
    assert_quoted(&cluster.last_log(&instance.name), "SSH keys kept from the old seed: 1 (seed_keep)");
    // A restored instance is another one, and its seed its own.
    let new = cluster.back_up_and_restore(&instance.name, "kept-new.example.com", Storage::File, &[16]);
    reinstall(cluster, &new, &[]);
    reinstall(cluster, &new, &[]);
    assert_eq!(keys(&new), Some(1));
}

fn removed(cluster: &Cluster) {
    let private = format!("ssh_keys={KEY}");
    let parameters = format!("{},seed_persist=yes", image(cluster));
    let instance = cluster.add_with_private("removed.example.com", &parameters, &private);
    let disk = instance.disk(0);
    let table = run("sfdisk", &["--json", utf8(&disk)]);
    let number = table.matches("\"node\"").count().to_string();
    run("sfdisk", &["--quiet", "--no-reread", "--no-tell-kernel", "--delete", utf8(&disk), &number]);
    assert_eq!(keys(&instance), None);
    // A restored copy misses it as well.
    let new = cluster.back_up_and_restore(&instance.name, "removed-new.example.com", Storage::File, &[16]);
    let warning = "warning: the instance loses settings that it copied from its seed into its own file system (seed_persist); seed_keep can't read them there: ssh_keys (1 of 1 key)";
    for instance in [&instance, &new] {
        cluster.gnt(&["gnt-instance", "modify", "--os-parameters-private", "ssh_keys=default", &instance.name]);
        let log = reinstall(cluster, instance, &["-O", &format!("{},seed_persist=no", image(cluster))]);
        assert_quoted(&log, warning);
    }
}
