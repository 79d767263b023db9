// SPDX-License-Identifier: BSD-2-Clause
//! Hooks and settings that somebody else than root could have written: refused before the disk is touched, by name.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World};

/// The phases in which a script of Ganeti's runs hooks.
const PHASES: [&str; 4] = ["hooks", "hooks.pre", "hooks.import", "hooks.rename"];

/// A node with a hook in each phase, which says that it ran.
struct Node(World);

impl Node {
    fn new() -> Self {
        let node = Node(World::new());
        for phase in PHASES {
            node.0.hook(&format!("{phase}/10-own"), &format!("touch {}", node.ran(phase).display()));
        }
        node.0.variant_file("guest-root.sh", "# read by hooks\n");
        node
    }

    fn ran(&self, phase: &str) -> PathBuf {
        self.0.path(&format!("ran.{phase}"))
    }

    /// A path in the variant's folder.
    fn own(&self, name: &str) -> PathBuf {
        self.0.path("etc/ganeti/instance-simpleimage/default").join(name)
    }

    fn chmod(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Moves what is at `path` to `place`, and leaves a link to it.
    fn link(&self, path: &Path, place: &Path) {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::rename(path, place).unwrap();
        symlink(place, path).unwrap();
    }

    fn hook_of(&self, phase: &str) -> PathBuf {
        self.own(phase).join("10-own")
    }

    /// Runs the script that runs the hooks of `phase`.
    fn run(&self, phase: &str, target: &Path, image: &Path) -> Outcome {
        let path = target.to_str().unwrap();
        let script = |name| self.0.script(name).env("DISK_0_PATH", path).env("IMPORT_DEVICE", path);
        match phase {
            "hooks.import" => script("import").run_with(&disk(MIB)),
            "hooks.rename" => script("rename").run(),
            _ => self.0.create(target, image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", "1").run(),
        }
    }
}

/// What makes hooks of a phase untrusted: gives the place that the error names, and the words.
type Fault = (&'static str, fn(&Node, &str) -> (PathBuf, &'static str));

const WRITES: &str = "lets others write what runs as root (check it, then chmod go-w)";
const OWNS: &str = "is owned by user 1000 and decides what runs as root (check it, then chown root)";

fn writable(node: &Node, path: PathBuf, mode: u32) -> (PathBuf, &'static str) {
    node.chmod(&path, mode);
    (path, WRITES)
}

fn owned(path: PathBuf) -> (PathBuf, &'static str) {
    chown(&path, Some(1000), None).unwrap();
    (path, OWNS)
}

const FAULTS: [Fault; 20] = [
    ("a hook that everybody may write", |node, phase| writable(node, node.hook_of(phase), 0o757)),
    ("a hook that its group may write", |node, phase| writable(node, node.hook_of(phase), 0o775)),
    ("a hook of somebody else", |node, phase| owned(node.hook_of(phase))),
    ("a file beside it", |node, phase| {
        node.0.variant_file(&format!("{phase}/lib.sh"), "");
        writable(node, node.own(phase).join("lib.sh"), 0o666)
    }),
    ("the folder", |node, phase| writable(node, node.own(phase), 0o777)),
    ("the folder, which is sticky", |node, phase| writable(node, node.own(phase), 0o1777)),
    ("the folder of somebody else", |node, phase| owned(node.own(phase))),
    ("the variant's folder", |node, _| writable(node, node.own(""), 0o775)),
    ("the variant's folder of somebody else", |node, _| owned(node.own(""))),
    ("the folder of all variants", |node, _| writable(node, node.own("").parent().unwrap().to_owned(), 0o757)),
    ("a folder above", |node, _| writable(node, node.0.path("etc"), 0o777)),
    ("the root itself", |node, _| writable(node, node.0.path(""), 0o777)),
    ("a file that hooks read", |node, _| writable(node, node.own("guest-root.sh"), 0o664)),
    ("a hook behind a link in a folder of others", |node, phase| {
        node.link(&node.hook_of(phase), &node.0.path("elsewhere/hook"));
        writable(node, node.0.path("elsewhere"), 0o777)
    }),
    ("a hook of others behind a link", |node, phase| {
        node.link(&node.hook_of(phase), &node.0.path("elsewhere/hook"));
        owned(node.0.path("elsewhere/hook"))
    }),
    ("a link to the folder, through a folder of others", |node, phase| {
        node.link(&node.own(phase), &node.0.path("real/hooks"));
        fs::create_dir(node.0.path("way")).unwrap();
        symlink(node.0.path("real"), node.0.path("way/link")).unwrap();
        fs::remove_file(node.own(phase)).unwrap();
        symlink(node.0.path("way/link/hooks"), node.own(phase)).unwrap();
        writable(node, node.0.path("way"), 0o777)
    }),
    ("a link of somebody else in a sticky folder", |node, phase| {
        node.link(&node.own(phase), &node.0.path("real/hooks"));
        fs::create_dir(node.0.path("shared")).unwrap();
        let link = node.0.path("shared/link");
        symlink(node.0.path("real/hooks"), &link).unwrap();
        lchown(&link, Some(1000), None).unwrap();
        node.chmod(&node.0.path("shared"), 0o1777);
        fs::remove_file(node.own(phase)).unwrap();
        symlink(&link, node.own(phase)).unwrap();
        (link, OWNS)
    }),
    ("an interpreter of the variant", |node, phase| {
        let interpreter = node.0.variant_file("tools/interpreter", "#!/bin/sh\nexec /bin/sh \"$@\"\n");
        let script = format!("#!{}\ntouch {}\n", interpreter.display(), node.ran(phase).display());
        fs::write(node.hook_of(phase), script).unwrap();
        writable(node, interpreter, 0o777)
    }),
    ("the folder of an interpreter", |node, phase| {
        let interpreter = node.0.variant_file("tools/interpreter", "#!/bin/sh\nexec /bin/sh \"$@\"\n");
        node.chmod(&interpreter, 0o755);
        let script = format!("#! {} -e\ntouch {}\n", interpreter.display(), node.ran(phase).display());
        fs::write(node.hook_of(phase), script).unwrap();
        writable(node, node.own("tools"), 0o777)
    }),
    ("what env starts", |node, phase| {
        let interpreter = node.0.variant_file("interpreter", "#!/bin/sh\nexec /bin/sh \"$@\"\n");
        let script = format!("#!/usr/bin/env {}\ntouch {}\n", interpreter.display(), node.ran(phase).display());
        fs::write(node.hook_of(phase), script).unwrap();
        chown(&interpreter, Some(1000), None).unwrap();
        (interpreter, OWNS)
    }),
];

#[test]
fn no_script_runs_hooks_that_others_may_write_and_none_touches_the_disk() {
    for (what, spoil) in FAULTS {
        for phase in PHASES {
            let node = Node::new();
            let image = encode(&node.0, &disk(MIB), "raw");
            let (place, words) = spoil(&node, phase);
            let target = Disk::stale(&node.0, "disk0", Kind::File, 2 * MIB);
            let place: PathBuf = place.components().collect();
            node.run(phase, target.path(), &image).fails(&["refusing ", &place.display().to_string(), words]);
            if phase == "hooks.import" {
                // Its disk is a new one, which is made unbootable before anything is looked at.
                target.assert_unbootable(what);
                assert!(target.bytes()[MIB..].iter().all(|byte| *byte == 0xa5), "{what}: more was written");
            } else {
                target.assert_untouched(what);
            }
            assert!(PHASES.iter().all(|phase| !node.ran(phase).exists()), "{what}: a hook of {phase} ran");
            let found = node.0.tool(&["check", "default"]).run().output();
            let line = format!("error: {}: others than root can write what runs as root", place.display());
            assert!(found.contains(&line), "{what}: {found}");
            assert_eq!(found.matches(&line).count(), 1, "{what}: {found}");
        }
    }
}

#[test]
fn what_is_roots_runs_behind_links_and_in_a_sticky_folder() {
    let node = Node::new();
    let image = encode(&node.0, &disk(MIB), "raw");
    fs::create_dir(node.0.path("shared")).unwrap();
    node.chmod(&node.0.path("shared"), 0o1777);
    for phase in PHASES {
        node.link(&node.own(phase), &node.0.path(&format!("shared/{phase}")));
        node.link(&node.hook_of(phase), &node.0.path(&format!("real/{phase}/hook")));
    }
    node.chmod(&node.0.path("etc"), 0o1777);
    for phase in PHASES {
        let target = Disk::stale(&node.0, "disk0", Kind::File, 2 * MIB);
        node.run(phase, target.path(), &image).succeeds();
        assert!(node.ran(phase).exists(), "{phase}");
    }
    let found = node.0.tool(&["check", "default"]).run().output();
    assert!(!found.contains("others than root"), "{found}");
}

#[test]
fn settings_in_a_folder_that_others_may_write_are_not_read() {
    for (folder, mode) in [("etc/ganeti/instance-simpleimage/default", 0o775), ("etc/ganeti", 0o757)] {
        let world = World::new();
        let image = encode(&world, &disk(MIB), "raw");
        world.variant_file("config.toml", "wipe = \"none\"\n");
        fs::set_permissions(world.path(folder), Permissions::from_mode(mode)).unwrap();
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let create = || world.create(target.path(), image.to_str().unwrap(), "raw");
        let place = world.path(folder).display().to_string();
        create().env("INSTANCE_REINSTALL", "1").run().fails(&["refusing ", &place, WRITES]);
        target.assert_untouched(folder);
        create().run().fails(&["refusing ", &place, WRITES]);
        target.assert_unbootable(folder);
        assert!(target.bytes()[MIB..].iter().all(|byte| *byte == 0xa5), "{folder}: more was written");
    }
}

#[test]
fn a_cache_that_others_can_exchange_is_refused() {
    for (mode, owner, words) in [(0o777, 0, "the mode 0777 of "), (0o755, 1000, "is owned by user 1000 and decides ")] {
        let world = World::new();
        let folder = world.path("var/cache");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        chown(&folder, Some(owner), None).unwrap();
        let shown = folder.display().to_string();
        world.tool(&["fetch", "http://127.0.0.1:1/x.raw"]).run().fails(&["cache folder ", words, &shown]);
        assert!(!world.cache().exists(), "it was made");
        let found = world.tool(&["check", "default"]).run().output();
        assert!(
            found.contains(&format!("error: {}: the cache can be exchanged: ", world.cache().display())),
            "{found}"
        );
    }
}
