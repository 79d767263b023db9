// SPDX-License-Identifier: BSD-2-Clause
//! `make install` gives the layout that Ganeti and the package expect.
// Clippy exempts only functions marked #[test] by itself; what they call is test code too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SCRIPTS: [&str; 5] = ["create", "export", "import", "rename", "verify"];
const CONFFILE: &str = "etc/ganeti/instance-simpleimage/variants.list";

/// Gives what it says.
fn install(root: &TempDir, prefix: &str) -> String {
    make(root, prefix, "install")
}

/// What `target` says, for a tree below `root`.
fn make(root: &TempDir, prefix: &str, target: &str) -> String {
    let output = Command::new("make")
        .args(["--no-print-directory", "-C", env!("CARGO_MANIFEST_DIR"), target])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!("PREFIX={prefix}"))
        .arg(concat!("BINARY=", env!("CARGO_BIN_EXE_simpleimage")))
        // Settings of a make that runs these tests are not for this one.
        .env_remove("MAKEFLAGS")
        .env_remove("OSDIR")
        .output()
        .expect("running make");
    assert!(output.status.success(), "make {target}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All files and links below `root`, by their paths there.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

fn assert_scripts_reach_the_binary(root: &Path, os: &str, bin: &str) {
    let binary = root.join(bin).canonicalize().expect("the binary is installed");
    assert_eq!(mode(&binary), 0o755);
    for script in SCRIPTS {
        let link = root.join(os).join(script);
        assert_eq!(fs::read_link(&link).expect("a symlink"), PathBuf::from("../../../../bin/simpleimage"), "{script}");
        assert_eq!(link.canonicalize().expect("a link that leads somewhere"), binary, "{script}");
    }
}

#[test]
fn usr_has_the_packaged_layout() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr");
    let at = |path: &str| root.path().join(path);
    let os = "usr/share/ganeti/os/simpleimage";
    assert_scripts_reach_the_binary(root.path(), os, "usr/bin/simpleimage");
    assert_eq!(fs::read_to_string(at(os).join("ganeti_api_version")).unwrap(), "20\n");
    assert_eq!(mode(&at(os).join("parameters.list")), 0o644);
    assert_eq!(fs::read_link(at(os).join("variants.list")).unwrap(), Path::new("/").join(CONFFILE));
    assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), "default\n");
    assert_eq!(mode(&at("etc/ganeti/instance-simpleimage/default")), 0o755);
    assert_eq!(mode(&at("var/cache/ganeti-instance-simpleimage")), 0o700);
    let examples = "usr/share/doc/ganeti-instance-simpleimage/examples";
    assert_eq!(mode(&at(examples).join("grow-root")), 0o755);
    // Sourced by the others, and not one that run-parts would take.
    assert_eq!(mode(&at(examples).join("guest-root.sh")), 0o644);
    let variant = Path::new(env!("CARGO_MANIFEST_DIR")).join("example-variants/debian.toml");
    let installed = at(examples).join("variants/debian.toml");
    assert_eq!((fs::read(&installed).unwrap(), mode(&installed)), (fs::read(variant).unwrap(), 0o644));
    assert_eq!(mode(&at(examples).join("variants/README.md")), 0o644);
    let mut files: Vec<_> = fs::read_dir(at(os)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    let expected =
        ["create", "export", "ganeti_api_version", "import", "parameters.list", "rename", "variants.list", "verify"];
    assert_eq!(files, expected, "Ganeti reads meaning into every name there, as create_untrusted");
}

#[test]
fn usr_local_lies_where_ganeti_looks() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr/local");
    assert_scripts_reach_the_binary(root.path(), "usr/local/lib/ganeti/os/simpleimage", "usr/local/bin/simpleimage");
    assert!(!root.path().join("usr/share").exists());
}

#[test]
fn a_second_install_keeps_the_administrators_variants() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr");
    fs::write(root.path().join(CONFFILE), "default\nweb\n").unwrap();
    let script = root.path().join("usr/share/ganeti/os/simpleimage/create");
    fs::remove_file(&script).unwrap();
    symlink("/nowhere", &script).unwrap();
    install(&root, "/usr");
    assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\nweb\n");
    assert_scripts_reach_the_binary(root.path(), "usr/share/ganeti/os/simpleimage", "usr/bin/simpleimage");
}

/// The files of the shell provider's repository, which its README has one clone to where Ganeti looks, and what of them is
/// executable. Its list of variants has no newline at its end.
const PREDECESSOR: [(&str, &str, bool); 14] = [
    (".git/HEAD", "ref: refs/heads/main\n", false),
    ("LICENSE", "GNU GENERAL PUBLIC LICENSE\n", false),
    ("README.md", "# instance-simpleimage\n", false),
    ("common.sh", "IMAGE_STORAGE=/tmp/ganeti-instance-simpleimage\n", false),
    ("create", "#!/bin/bash\n. common.sh\n", true),
    ("example-hooks/debian-cloud-image-config", "#!/bin/bash\n", false),
    ("export", "#!/bin/bash\n. common.sh\n", true),
    ("ganeti_api_version", "20", false),
    ("import", "#!/bin/bash\n. common.sh\n", true),
    ("parameters.list", "image The path.\nimage_type The format.", false),
    ("rename", "#!/bin/bash\n. common.sh\n", true),
    ("variants.list", "default", false),
    ("verify", "#!/bin/bash\n. common.sh\n", true),
    ("notes.txt", "the administrator's own\n", false),
];

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A node with the shell provider, and this list of variants.
fn predecessor(os: &str, variants: &str) -> TempDir {
    let root = TempDir::new().unwrap();
    let folder = root.path().join(os);
    for (name, text, executable) in PREDECESSOR {
        write(&folder.join(name), text, if executable { 0o755 } else { 0o644 });
    }
    fs::write(folder.join("variants.list"), variants).unwrap();
    let config = root.path().join("etc/ganeti/instance-simpleimage");
    write(&config.join("default/config"), "PROXY=http://proxy.example:3128\nDOWNLOAD_CACHE_MAX_DAYS=3\n", 0o644);
    write(&config.join("web/config"), "", 0o644);
    write(&config.join("default/hooks/10-mark"), "#!/bin/sh\n", 0o755);
    root
}

const USR: &str = "usr/share/ganeti/os/simpleimage";

#[test]
fn an_installation_over_the_shell_provider_loses_nothing() {
    for (variants, kept) in [
        ("default\nweb", "default\nweb\n"),
        ("web\n# ours\n\n db \n", "web\n# ours\n\n db \n"),
        ("default", "default\n"),
        ("# none yet\n", "default\n"),
    ] {
        let root = predecessor(USR, variants);
        let at = |path: &str| root.path().join(path);
        let before: Vec<_> = ["default/config", "web/config", "default/hooks/10-mark"]
            .map(|name| fs::read(at("etc/ganeti/instance-simpleimage").join(name)).unwrap())
            .into();
        let said = install(&root, "/usr");
        assert_eq!(
            said.contains(&format!("the variants of {} are in ", at(USR).join("variants.list").display())),
            !variants.starts_with("# none"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), kept);
        assert_eq!(mode(&at(CONFFILE)), 0o644);
        assert_scripts_reach_the_binary(root.path(), USR, "usr/bin/simpleimage");
        assert_eq!(fs::read_link(at(USR).join("variants.list")).unwrap(), Path::new("/").join(CONFFILE));
        assert_eq!(fs::read_to_string(at(USR).join("ganeti_api_version")).unwrap(), "20\n");
        let after: Vec<_> = ["default/config", "web/config", "default/hooks/10-mark"]
            .map(|name| fs::read(at("etc/ganeti/instance-simpleimage").join(name)).unwrap())
            .into();
        assert_eq!(before, after);
        // Nothing of these is replaced; what is left of the old provider, `simpleimage check` says.
        for name in ["LICENSE", "README.md", "common.sh", "example-hooks/debian-cloud-image-config", "notes.txt"] {
            let (_, text, _) = PREDECESSOR.into_iter().find(|(file, ..)| *file == name).unwrap();
            assert_eq!(fs::read_to_string(at(USR).join(name)).unwrap(), text);
        }
        let check =
            Command::new(at("usr/bin/simpleimage")).arg("--root").arg(root.path()).arg("check").output().unwrap();
        let report = String::from_utf8(check.stdout).unwrap();
        assert!(report.contains("it holds .git and common.sh of the shell provider"), "{report}");
        assert!(check.status.success(), "{report}");
        install(&root, "/usr");
        assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), kept, "a second time nothing changes");
    }
}

#[test]
fn variants_of_both_lists_are_offered_once() {
    let root = predecessor(USR, "db\ndefault\n-q\nweb");
    let at = |path: &str| root.path().join(path);
    write(&at(CONFFILE), "web\ndefault", 0o644);
    let said = install(&root, "/usr");
    assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), "web\ndefault\ndb\n-q\n");
    assert!(said.contains(&format!("are in {} now: db -q\n", at(CONFFILE).display())), "{said}");
    // What the administrator takes away stays away.
    write(&at(CONFFILE), "web\n", 0o644);
    install(&root, "/usr");
    assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), "web\n");
}

/// The list may be a link to the administrator's own, or lie in another folder in which Ganeti looks.
#[test]
fn a_list_in_another_place_is_no_less_the_administrators() {
    for target in ["/srv/variants", "../../../../../srv/variants"] {
        let root = predecessor(USR, "");
        write(&root.path().join("srv/variants"), "web\n", 0o644);
        let list = root.path().join(USR).join("variants.list");
        fs::remove_file(&list).unwrap();
        symlink(target, &list).unwrap();
        install(&root, "/usr");
        assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "web\n", "{target}");
        assert_eq!(fs::read_to_string(root.path().join("srv/variants")).unwrap(), "web\n");
    }
    for (os, prefix) in
        [(USR, "/usr/local"), ("srv/ganeti/os/simpleimage", "/usr"), ("usr/lib/ganeti/os/simpleimage", "/usr")]
    {
        let root = predecessor(os, "default\nweb");
        install(&root, prefix);
        assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\nweb\n", "{os}");
        assert_eq!(fs::read_to_string(root.path().join(os).join("variants.list")).unwrap(), "default\nweb", "{os}");
        fs::write(root.path().join(CONFFILE), "default\n").unwrap();
        install(&root, prefix);
        assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\n", "{os}: taken away");
    }
}

/// dpkg runs the same script before it unpacks the link.
#[test]
fn the_package_keeps_the_list_before_it_unpacks() {
    let root = predecessor(USR, "default\nweb");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/os-scripts/keep-variants");
    for args in [&["install"][..], &["upgrade", "0.1.0", "0.2.0"]] {
        let output = Command::new("sh").arg(script).args(args).env("DPKG_ROOT", root.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\nweb\n");
    }
    let postinst = concat!(env!("CARGO_MANIFEST_DIR"), "/debian/ganeti-instance-simpleimage.postinst");
    for expected in ["default\nweb\n", "default\n"] {
        let output = Command::new("sh").args([postinst, "configure"]).env("DPKG_ROOT", root.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), expected);
        fs::remove_file(root.path().join(CONFFILE)).unwrap();
    }
}

/// The command of README.md, with two folders for the two nodes and a shell for ssh.
#[test]
fn another_node_gets_the_program_and_the_variants() {
    let (built, first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let command = readme.lines().find(|line| line.trim().starts_with("tar -c ")).expect("the command").trim();
    install(&built, "/usr");
    install(&first, "/usr");
    let folder = "etc/ganeti/instance-simpleimage";
    let put = |root: &TempDir, name: &str, content: &str, mode| {
        let path = root.path().join(folder).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put(&first, "variants.list", "default\nweb\n", 0o644);
    put(&first, "web/config.toml", "http.password = 's3cret'\n", 0o600);
    put(&first, "web/hooks/50-name", "#!/bin/sh\n", 0o755);
    // What the second node has besides, and the modes of its own folders, stay.
    put(&second, "own/config.toml", "", 0o644);
    fs::set_permissions(second.path().join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
    let path = |root: &TempDir| root.path().display().to_string();
    let local = command
        .replace("-C out", &format!("-C {}", path(&built)))
        .replace("-C / etc", &format!("-C {} etc", path(&first)))
        .replace("ssh root@node2.example.com", "sh -c '\"$@\"' sh")
        .replace("-x -C / ", &format!("-x -C {} ", path(&second)));
    let output = Command::new("sh").args(["-c", &local]).output().unwrap();
    assert!(output.status.success(), "{local}: {}", String::from_utf8_lossy(&output.stderr));
    assert_scripts_reach_the_binary(second.path(), "usr/share/ganeti/os/simpleimage", "usr/bin/simpleimage");
    assert!(second.path().join(folder).join("own/config.toml").is_file());
    assert_eq!(mode(&second.path().join("etc")), 0o711);
    for (name, expected) in [("variants.list", 0o644), ("web/config.toml", 0o600), ("web/hooks/50-name", 0o755)] {
        let at = |root: &TempDir| root.path().join(folder).join(name);
        assert_eq!(fs::read(at(&second)).unwrap(), fs::read(at(&first)).unwrap(), "{name}");
        assert_eq!(mode(&at(&second)), expected, "{name}");
    }
}

#[test]
fn completions_lie_where_the_shells_look() {
    for (prefix, paths) in [
        (
            "/usr",
            [
                "usr/share/bash-completion/completions/simpleimage",
                "usr/share/zsh/vendor-completions/_simpleimage",
                "usr/share/fish/vendor_completions.d/simpleimage.fish",
            ],
        ),
        (
            "/usr/local",
            [
                "usr/local/share/bash-completion/completions/simpleimage",
                "usr/local/share/zsh/site-functions/_simpleimage",
                "etc/fish/completions/simpleimage.fish",
            ],
        ),
    ] {
        let root = TempDir::new().unwrap();
        install(&root, prefix);
        for (path, shell) in paths.into_iter().zip(["bash", "zsh", "fish"]) {
            let script = Command::new(env!("CARGO_BIN_EXE_simpleimage")).args(["completions", shell]).output().unwrap();
            assert_eq!(fs::read(root.path().join(path)).unwrap(), script.stdout, "{path}");
        }
    }
}

#[test]
fn the_timer_runs_the_program_that_was_installed() {
    for prefix in ["/usr", "/usr/local"] {
        let root = TempDir::new().unwrap();
        install(&root, prefix);
        let folder = root.path().join(&prefix[1..]).join("lib/systemd/system");
        let service = fs::read_to_string(folder.join("simpleimage-prune.service")).unwrap();
        assert!(service.contains(&format!("\nExecStart={prefix}/bin/simpleimage cache prune\n")), "{service}");
        assert!(service.contains("\nReadWritePaths=/var/cache/ganeti-instance-simpleimage\n"), "{service}");
        assert!(fs::read_to_string(folder.join("simpleimage-prune.timer")).unwrap().contains("\nOnCalendar=daily\n"));
    }
}

#[test]
fn uninstall_takes_what_install_put_there() {
    for prefix in ["/usr", "/usr/local"] {
        let root = TempDir::new().unwrap();
        install(&root, prefix);
        assert!(files(root.path()).len() > 20);
        assert!(!make(&root, prefix, "uninstall").contains("kept: "));
        assert_eq!(files(root.path()), Vec::<String>::new(), "{prefix}");
        for folder in ["etc/ganeti/instance-simpleimage", "var/cache/ganeti-instance-simpleimage"] {
            assert!(!root.path().join(folder).exists(), "{folder}");
        }
        assert!(!root.path().join(&prefix[1..]).join("share/doc/ganeti-instance-simpleimage").exists());
        // Nothing is there any more: no error.
        make(&root, prefix, "uninstall");
    }
}

#[test]
fn uninstall_leaves_what_is_the_administrators() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr/local");
    let mine = [
        (CONFFILE, "default\nweb\n"),
        ("etc/ganeti/instance-simpleimage/web/config.toml", ""),
        ("usr/local/bin/other", ""),
        ("usr/local/lib/ganeti/os/simpleimage/create_untrusted", ""),
        ("usr/local/share/man/man8/other.8", ""),
        ("var/cache/ganeti-instance-simpleimage/CACHEDIR.TAG", ""),
    ];
    for (path, content) in mine {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let told = make(&root, "/usr/local", "uninstall");
    assert_eq!(files(root.path()), mine.map(|(path, _)| path));
    assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\nweb\n");
    assert_eq!(told.lines().filter(|line| line.starts_with("kept: ")).count(), 2, "{told}");
    // The package's list, beside one in /usr/local.
    let root = TempDir::new().unwrap();
    install(&root, "/usr");
    install(&root, "/usr/local");
    make(&root, "/usr/local", "uninstall");
    assert!(root.path().join(CONFFILE).exists());
    assert_scripts_reach_the_binary(root.path(), "usr/share/ganeti/os/simpleimage", "usr/bin/simpleimage");
}

#[test]
fn every_parameter_is_a_name_a_blank_and_a_description() {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/os-scripts/parameters.list")).unwrap();
    for line in list.lines() {
        let (name, description) = line.split_once(' ').unwrap_or_else(|| panic!("no description: {line:?}"));
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(plain && !name.is_empty(), "Ganeti has no comments there: {line:?}");
        assert!(!description.trim().is_empty(), "{line:?}");
    }
}
