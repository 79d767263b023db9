// SPDX-License-Identifier: BSD-2-Clause
//! Folders of hooks that can't be what was meant: an error before the disk is touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Script, World, tool};

type Broken = (&'static str, fn(&Path), &'static str);

/// Each makes such a folder, and says why it is none.
const BROKEN: [Broken; 6] = [
    ("a link to nothing", |folder| symlink("/nonexistent/hooks", folder).unwrap(), "is a link that leads nowhere"),
    ("a link to itself", |folder| symlink(folder, folder).unwrap(), "oo many levels of symbolic links"),
    ("a file", |folder| fs::write(folder, "").unwrap(), "Not a directory"),
    (
        "a folder with a broken hook",
        |folder| {
            fs::create_dir(folder).unwrap();
            symlink("/nonexistent/hook", folder.join("10-veto")).unwrap();
        },
        "10-veto is a link that leads nowhere",
    ),
    (
        "a folder with a FIFO",
        |folder| {
            fs::create_dir(folder).unwrap();
            tool("mkfifo", &["-m", "755", folder.join("10-veto").to_str().unwrap()]);
        },
        "10-veto is neither a file nor a folder (remove it)",
    ),
    (
        "a link to a file",
        |folder| {
            fs::write(folder.with_extension("file"), "").unwrap();
            symlink(folder.with_extension("file"), folder).unwrap();
        },
        "Not a directory",
    ),
];

fn variant(world: &World) -> std::path::PathBuf {
    let folder = world.path("etc/ganeti/instance-simpleimage/default");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn create_ends_before_a_reinstalled_disk_is_touched_or_anything_is_fetched() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    for (what, make, reason) in BROKEN {
        for phase in ["hooks", "hooks.pre"] {
            make(&variant(&world).join(phase));
            // The other phase's would run.
            let other = if phase == "hooks" { "hooks.pre" } else { "hooks" };
            let ran = world.path("ran");
            world.hook(&format!("{other}/any"), &format!("touch {}", ran.display()));
            let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
            let create = || world.create(target.path(), image.to_str().unwrap(), "raw");
            let place = format!("default/{phase}");
            create().env("INSTANCE_REINSTALL", "1").run().fails(&["running the hooks in ", &place, reason]);
            target.assert_untouched(what);
            // A new instance's disk is never left as somebody else's.
            create().run().fails(&["running the hooks in ", &place, reason]);
            target.assert_unbootable(what);
            assert!(target.bytes()[MIB..].iter().all(|byte| *byte == 0xa5), "{what}: more was written");
            assert!(!ran.exists(), "{what}: other hooks ran");
        }
    }
}

#[test]
fn rename_and_import_say_so_too() {
    let world = World::new();
    let dump = disk(MIB);
    for (what, make, reason) in BROKEN {
        make(&variant(&world).join("hooks.rename"));
        let target = Disk::stale(&world, "disk0", Kind::File, MIB);
        let path = target.path().to_str().unwrap();
        let rename: Script = world.script("rename").env("DISK_0_PATH", path);
        rename.run().fails(&["default/hooks.rename", reason]);
        target.assert_untouched(what);
        // What can be restored is: the error comes behind it.
        make(&variant(&world).join("hooks.import"));
        world.script("import").env("IMPORT_DEVICE", path).run_with(&dump).fails(&["default/hooks.import", reason]);
        target.assert_holds(&dump, what);
    }
}

#[test]
fn a_variant_that_is_a_link_to_nothing_has_lost_its_hooks() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let folder = variant(&world);
    fs::remove_dir(&folder).unwrap();
    symlink("/nonexistent/variant", &folder).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let create = world.create(target.path(), image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", "1");
    create.run().fails(&["default is a link that leads nowhere"]);
    target.assert_untouched("a broken variant");
}

#[test]
fn check_finds_hooks_that_no_kernel_would_start() {
    let world = World::new();
    let path = world.variant_file("hooks/10-first", "");
    for (content, problem) in [
        ("", "it is neither a program nor a script that begins with #!"),
        ("echo hi\n", "it is neither a program nor a script that begins with #!"),
        ("\u{feff}#!/bin/sh\n", "it is neither a program nor a script that begins with #!"),
        ("#!/bin/sh\r\necho hi\r\n", "its lines end as on Windows, so that /bin/sh is not found"),
        ("#!/usr/bin/nothing -x\n", "its interpreter /usr/bin/nothing does not exist"),
        ("#!\n", "its interpreter  does not exist"),
        ("#! /bin/sh\n", ""),
        ("#!/bin/sh", ""),
        ("\u{7f}ELF", ""),
    ] {
        world.variant_file("hooks/10-first", content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let found = world.tool(&["check", "default"]).run().output();
        let expected = format!("error: {}: {problem}", path.display());
        assert_eq!(found.contains(&expected), !problem.is_empty(), "{content:?}: {found}");
        assert_eq!(found.contains("10-first"), !problem.is_empty(), "{content:?}: {found}");
    }
}

/// A name that nothing reads loses hooks, a veto among them, or a policy.
#[test]
fn what_is_nearly_called_as_what_is_read_is_warned_of() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let near = [
        ("hooks.post", "hooks"),
        ("Hooks.pre", "hooks.pre"),
        ("hooks-pre", "hooks.pre"),
        ("hooks.d", "hooks"),
        ("hook", "hooks"),
        ("hooks.improt", "hooks.import"),
        ("confg.toml", "config.toml"),
        ("Config", "config"),
    ];
    for (name, known) in near {
        let path = variant(&world).join(name);
        fs::create_dir(&path).unwrap();
        let warning = format!("nothing reads {} (rename it to {known} if that is meant", path.display());
        let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        assert!(log.contains(&format!("warning: {warning}")), "{name}: {log}");
        let output = world.tool(&["check", "default"]).run().output();
        assert!(output.contains(&format!("warning: {}: ", path.display())), "{name}: {output}");
    }
    let folder = variant(&world);
    for name in
        ["config.toml", "user-data", "hooks", "hooks.pre", "hooks.import", "hooks.rename", "guest-root.sh", "README"]
    {
        if name.contains('.') && !name.starts_with("hooks") {
            fs::write(folder.join(name), "").unwrap();
        } else {
            fs::create_dir(folder.join(name)).unwrap();
        }
    }
    fs::write(folder.join("keyring.gpg"), "").unwrap();
    let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
    assert!(!log.contains("nothing reads"), "{log}");
}
