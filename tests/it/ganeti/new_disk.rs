// SPDX-License-Identifier: BSD-2-Clause
//! Whatever fails, a new disk does not boot, and a disk that holds the user's own system is not touched before every
//! check has passed. All ways to fail in one table, and what the other disks of an instance hold.

use std::ffi::OsStr;
use std::fs::{self, Permissions, set_permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::disk::{Disk, KINDS, Kind, OLD};
use crate::support::images::{MIB, disk, encode, file_system, truncate};
use crate::support::server::{Reply, Server};
use crate::support::world::{Script, World, tool};

const SIZE: usize = 3 * MIB;
const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";

/// One way to fail.
struct Failure {
    what: &'static str,
    /// What its error says.
    reason: &'static str,
    /// Files of the default variant, or with `../` of the site.
    files: &'static [(&'static str, &'static str)],
    /// Variables that differ from those of a create that succeeds; empty ones are missing.
    variables: &'static [(&'static str, &'static str)],
    /// Whatever else makes it fail.
    prepare: fn(&World, Script) -> Script,
    /// What of a disk is written that is reinstalled.
    reinstalled: Touched,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    /// No byte: it is known before the first one is written.
    Nothing,
    /// It can't boot either: only the image's bytes, or hooks that ran, showed what is wrong.
    Unbootable,
}

const NONE: Failure = Failure {
    what: "",
    reason: "",
    files: &[],
    variables: &[],
    prepare: |_, script| script,
    reinstalled: Touched::Nothing,
};

const fn variables(
    what: &'static str,
    variables: &'static [(&'static str, &'static str)],
    reason: &'static str,
) -> Failure {
    Failure { what, reason, variables, ..NONE }
}

const fn files(what: &'static str, files: &'static [(&'static str, &'static str)], reason: &'static str) -> Failure {
    Failure { what, reason, files, ..NONE }
}

const fn prepared(what: &'static str, prepare: fn(&World, Script) -> Script, reason: &'static str) -> Failure {
    Failure { what, reason, prepare, ..NONE }
}

const NO_RETRIES: &[(&str, &str)] = &[("config.toml", "http.retries = 0\n")];

/// Words of the tenant.
const PARAMETERS: [Failure; 31] = [
    variables("no image", &[("OSP_IMAGE", "")], "no image is given"),
    variables("a name that no image has", &[("OSP_IMAGE", "debian-13")], "parameter image"),
    variables("a relative path", &[("OSP_IMAGE", "../image.raw")], "parameter image"),
    variables("another scheme", &[("OSP_IMAGE", "ftp://h/x")], "parameter image"),
    variables("an image that is not there", &[("OSP_IMAGE", "/nowhere/image.raw")], "/nowhere/image.raw"),
    variables("an image that is a folder", &[("OSP_IMAGE", "/etc")], "/etc"),
    variables("an unknown type", &[("OSP_IMAGE_TYPE", "rwa")], "unknown image type"),
    variables("a type that the variant does not take", &[("OSP_IMAGE_TYPE", "vmdk")], "this variant takes only"),
    variables("another type than the image's", &[("OSP_IMAGE_TYPE", "qcow2")], "qcow2"),
    variables("a checksum that is none", &[("OSP_IMAGE_CHECKSUM", "md5:00")], "not a checksum"),
    variables("a checksum that is cut", &[("OSP_IMAGE_CHECKSUM", "sha256:00")], "64 hex digits"),
    variables("a signature without a keyring", &[("OSP_IMAGE_SIGNATURE", "/x.sig")], "keyring"),
    variables("no place for a seed", &[("OSP_CLOUD_INIT", "usb")], "parameter cloud_init"),
    variables("a seed's disk that is missing", &[("OSP_CLOUD_INIT", "disk")], "has no disk named cidata"),
    variables("a key that is none", &[("OSP_SSH_KEYS", "ssh-rsa AAAA")], "parameter ssh_keys, entry 1"),
    variables("a file of keys that is missing", &[("OSP_SSH_KEYS", "joe.pub")], "parameter ssh_keys"),
    variables("user-data that is missing", &[("OSP_USER_DATA", "web.yaml")], "parameter user_data"),
    variables("user-data of another place", &[("OSP_USER_DATA", "/etc/passwd")], "parameter user_data, entry 1"),
    variables("user-data that is not base64", &[("OSP_USER_DATA", "base64:#")], "parameter user_data, entry 1"),
    Failure {
        files: NO_RETRIES,
        ..variables("user-data from nobody", &[("OSP_USER_DATA", "http://127.0.0.1:1/x")], "user_data, entry 1")
    },
    variables("no network-config", &[("OSP_NETWORK_CONFIG", "net.yaml")], "parameter network_config"),
    variables("a server that is no address", &[("OSP_DNS_SERVERS", "ns1")], "parameter dns_servers"),
    variables("a domain that is none", &[("OSP_DNS_SEARCH", "a..b")], "parameter dns_search"),
    variables("neither yes nor no", &[("OSP_SEED_PERSIST", "1")], "parameter seed_persist"),
    variables(
        "a NIC that nobody can name",
        &[("OSP_CLOUD_INIT", "auto"), ("NIC_0_NAME", "a b"), ("NIC_COUNT", "1")],
        "can't be the name",
    ),
    Failure {
        files: NO_RETRIES,
        ..variables("a server that is down", &[("OSP_IMAGE", "http://127.0.0.1:1/x.raw")], "127.0.0.1")
    },
    prepared(
        "a wrong checksum",
        |_, script| script.env("OSP_IMAGE_CHECKSUM", &format!("sha256:{}", "0".repeat(64))),
        "checksum",
    ),
    prepared(
        "a parameter that is no text",
        |_, script| not_text(script, "OSP_IMAGE_TYPE"),
        "OSP_IMAGE_TYPE is not valid UTF-8",
    ),
    prepared(
        "an image that is too large",
        |world, script| image(script, &encode(world, &disk(4 * MIB), "raw")),
        "use a larger disk",
    ),
    prepared(
        "the disk itself",
        |_, script| {
            let disk =
                script.command.get_envs().find(|(name, _)| *name == "DISK_0_PATH").unwrap().1.unwrap().to_owned();
            image(script, Path::new(&disk))
        },
        "is the instance's disk itself",
    ),
    prepared(
        "an image of a disk without anything",
        |world, script| {
            fs::write(world.path("image"), vec![1; MIB]).unwrap();
            image(script, &world.path("image"))
        },
        "does not look like a disk",
    ),
];

/// Words of the administrator.
const SETTINGS: [Failure; 13] = [
    files("a broken config.toml", &[("config.toml", "image = ")], "config.toml:1:"),
    files("an unknown setting", &[("config.toml", "wipe_disk = true\n")], "unknown key `wipe_disk`"),
    files("a broken file of the site", &[("../config.toml", "wipe = 1\n")], "config.toml:1:"),
    files("two formats", &[("config", ""), ("config.toml", "")], "both config.toml and config"),
    files("shell code", &[("config", "PROXY=$(proxy)\n")], "config:1:"),
    files("a variant that is a folder", &[("config.toml/x", "")], "config.toml"),
    files("a checksum is required", &[("config.toml", "require_checksum = 'always'\n")], "checksum"),
    files("a signature is required", &[("config.toml", "require_signature = true\n")], "signature"),
    files("other places are allowed", &[("config.toml", "allowed_images = ['/srv/']\n")], "allowed"),
    files("other formats are taken", &[("config.toml", "image_formats = ['vdi']\n")], "this variant takes only vdi"),
    files("a file instead of hooks", &[("hooks.pre", "")], "hooks.pre"),
    prepared(
        "a config of somebody else",
        |world, script| {
            let path = world.variant_file("config.toml", "");
            set_permissions(path, Permissions::from_mode(0o666)).unwrap();
            script
        },
        "lets others write what runs as root",
    ),
    prepared(
        "a veto",
        |world, script| {
            world.hook("hooks.pre/no", "exit 3");
            script
        },
        "hooks.pre/no",
    ),
];

/// What Ganeti does not do.
const ENVIRONMENT: [Failure; 8] = [
    variables("a variant with dots", &[("OS_VARIANT", "../x")], "../x"),
    variables("no variant", &[("OS_VARIANT", "")], "OS_VARIANT is empty"),
    variables("another interface", &[("OS_API_VERSION", "15")], "OS interface version 15"),
    variables("no name", &[("INSTANCE_NAME", "")], "INSTANCE_NAME is missing"),
    variables("no UUID", &[("INSTANCE_UUID", ""), ("OSP_CLOUD_INIT", "auto")], "INSTANCE_UUID is missing"),
    variables("a number of NICs that is none", &[("NIC_COUNT", "x"), ("OSP_CLOUD_INIT", "auto")], "NIC_COUNT"),
    variables("a number of disks that is none", &[("DISK_COUNT", "x"), ("OSP_CLOUD_INIT", "auto")], "DISK_COUNT"),
    prepared("a variant that is no text", |_, script| not_text(script, "OS_VARIANT"), "OS_VARIANT is not valid UTF-8"),
];

/// What is known only when the disk is written.
const LATE: [Failure; 3] = [
    Failure {
        reinstalled: Touched::Unbootable,
        ..prepared(
            "an archive that is cut",
            |world, script| {
                let file = encode(world, &disk(2 * MIB), "raw+gz");
                truncate(&file);
                image(script, &file).env("OSP_IMAGE_TYPE", "raw+gz")
            },
            "truncated",
        )
    },
    Failure {
        reinstalled: Touched::Unbootable,
        ..prepared(
            "a hook that fails",
            |world, script| {
                world.hook("hooks/no", "exit 3");
                script
            },
            "hooks/no",
        )
    },
    files("a file instead of the last hooks", &[("hooks", "")], "hooks"),
];

fn image(script: Script, path: &Path) -> Script {
    script.env("OSP_IMAGE", path.to_str().unwrap())
}

fn not_text(mut script: Script, name: &str) -> Script {
    script.command.env(name, OsStr::from_bytes(b"\xff"));
    script
}

/// A create that would succeed, but for `failure`.
fn failing(failure: &Failure, world: &World, target: &Disk) -> Script {
    let source = encode(world, &disk(2 * MIB), "raw");
    let script = world.create(target.path(), source.to_str().unwrap(), "raw");
    let script = script.env("INSTANCE_UUID", UUID).env("NIC_COUNT", "0").env("NIC_0_MAC", "aa:00:00:00:00:01");
    failure.files.iter().for_each(|(name, content)| drop(world.variant_file(name, content)));
    let script = failure.variables.iter().fold(script, |script, (name, value)| match *value {
        "" => script.without(name),
        value => script.env(name, value),
    });
    (failure.prepare)(world, script)
}

#[test]
fn whatever_fails_a_new_disk_does_not_boot_and_an_old_one_is_as_it_was() {
    let all = PARAMETERS.iter().chain(&SETTINGS).chain(&ENVIRONMENT).chain(&LATE);
    for (number, failure) in all.enumerate() {
        let kind = KINDS[number % KINDS.len()];
        for reinstall in ["", "1"] {
            let world = World::new();
            let target = Disk::stale(&world, "disk0", kind, SIZE);
            let script = failing(failure, &world, &target).env("INSTANCE_REINSTALL", reinstall);
            let what = format!("{} (reinstall {reinstall:?})", failure.what);
            eprintln!("{what}");
            script.run().fails(&[failure.reason]);
            match (reinstall, failure.reinstalled) {
                ("1", Touched::Nothing) => target.assert_untouched(&what),
                _ => target.assert_unbootable(&what),
            }
        }
    }
}

#[test]
fn a_create_with_nothing_wrong_succeeds() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    failing(&NONE, &world, &target).run().succeeds();
    target.assert_holds(&disk(2 * MIB), "nothing is wrong");
}

/// Before all else: what is wrong with the parameters is no reason to write to a disk that is in use.
#[test]
fn a_disk_in_use_is_named_and_never_written_whatever_else_is_wrong() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, 32 * MIB);
    let path = target.path().to_str().unwrap();
    tool("mkfs.ext4", &["-qF", path]);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    tool("mount", &["-o", "ro", path, place.to_str().unwrap()]);
    let before = target.bytes();
    let reason = format!("disk {path} is in use: it is mounted on {} (unmount that first)", place.display());
    for wrong in [("OSP_IMAGE", ""), ("OS_VARIANT", "../x"), ("OSP_USER_DATA", "web.yaml")] {
        let script = failing(&NONE, &world, &target).env(wrong.0, wrong.1);
        script.run().fails(&[&reason]);
    }
    let import = world.script("import").env("OS_VARIANT", "../x").env("IMPORT_DEVICE", path);
    import.run_with(&disk(MIB)).fails(&[&reason]);
    assert!(target.bytes() == before, "a disk in use was written to");
    target.unmount();
}

/// A disk is a new one when Ganeti does not say that it is not; what nobody can understand is no reason to write to it.
#[test]
fn what_is_said_of_a_reinstall_is_understood_or_nothing_is_written() {
    for value in ["yes", "2", "true", "11", " 1"] {
        let world = World::new();
        let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
        let script = failing(&NONE, &world, &target);
        script.env("INSTANCE_REINSTALL", value).run().fails(&["variable INSTANCE_REINSTALL is neither 0 nor 1"]);
        target.assert_untouched(value);
    }
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let script = not_text(failing(&NONE, &world, &target), "INSTANCE_REINSTALL");
    script.run().fails(&["variable INSTANCE_REINSTALL is not valid UTF-8"]);
    target.assert_untouched("no text");
    for (name, value, reason) in [("DISK_COUNT", "0", "has no disk"), ("DISK_0_PATH", "disk0", "not an absolute path")]
    {
        failing(&NONE, &world, &target).env(name, value).run().fails(&[name, reason]);
        target.assert_untouched(name);
    }
    failing(&NONE, &world, &target).arg("now").run().fails(&["these arguments are not for create"]);
    target.assert_untouched("arguments");
}

#[test]
fn whatever_fails_a_disk_that_a_dump_was_meant_for_does_not_boot() {
    type Prepare = fn(Script) -> Script;
    let failures: [(&str, Prepare, usize, &str); 6] = [
        ("another interface", |script| script.env("OS_API_VERSION", "15"), MIB, "OS interface version 15"),
        ("a parameter that is no text", |script| not_text(script, "OSP_IMAGE"), MIB, "OSP_IMAGE is not valid UTF-8"),
        ("a variant that is no text", |script| not_text(script, "OS_VARIANT"), MIB, "OS_VARIANT is not valid UTF-8"),
        ("no dump", |script| script, 0, "the dump is empty"),
        ("a dump that is too large", |script| script, SIZE + 1, "the dump is larger than disk"),
        ("no room for a process", |script| script.under("prlimit", &["--nproc=1"]), MIB, ""),
    ];
    for (what, prepare, len, reason) in failures {
        for kind in KINDS {
            let world = World::new();
            let target = Disk::stale(&world, "disk0", kind, SIZE);
            let script = world.script("import").env("IMPORT_DEVICE", target.path().to_str().unwrap());
            let run = prepare(script).run_with(&vec![7; len]);
            if reason.is_empty() && run.0.status.success() {
                // Root has as many processes as it wants.
                continue;
            }
            run.fails(&[reason]);
            target.assert_unbootable(what);
        }
    }
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let script = world.script("import").env("IMPORT_DEVICE", target.path().to_str().unwrap());
    script.stdin(fs::File::open("/etc").unwrap()).run().fails(&["reading the dump: Is a directory"]);
    target.assert_unbootable("no dump to read");
}

const WIPE: (&str, &str) = ("config.toml", "wipe_other_disks = true\n");

/// With two other disks, the last one named cidata.
fn with_others(script: Script, data: &Disk, seed: &Disk) -> Script {
    let script = script.env("DISK_COUNT", "3").env("DISK_1_PATH", data.path().to_str().unwrap());
    script.env("DISK_2_PATH", seed.path().to_str().unwrap()).env("DISK_2_NAME", "cidata")
}

#[test]
fn other_disks_are_zeroed_when_they_are_new_and_only_on_request() {
    for kind in KINDS {
        for (wipe, reinstall) in [("", "0"), (WIPE.1, "1"), (WIPE.1, "0"), (WIPE.1, "")] {
            let world = World::new();
            let [target, data, seed] = [("disk0", 3), ("disk1", 5), ("disk2", 6)]
                .map(|(name, size)| Disk::stale(&world, name, kind, size * MIB + 512));
            let script = failing(&NONE, &world, &target).env("INSTANCE_REINSTALL", reinstall);
            world.variant_file("config.toml", &format!("{wipe}verify_readback = true\n"));
            // mkfs opens it exclusively, so that nobody else may hold it any more.
            for phase in ["hooks.pre", "hooks"] {
                world.hook(
                    &format!("{phase}/data"),
                    "mkfs.ext4 -qF -E nodiscard \"$DISK_1_PATH\" && sync \"$DISK_1_PATH\"",
                );
            }
            let log = with_others(script, &data, &seed).run().succeeds();
            let wiped = wipe == WIPE.1 && reinstall != "1";
            let told = |disk: &Disk| log.contains(&format!("zeroing disk {}, ", disk.path().display()));
            assert_eq!([told(&target), told(&data), told(&seed)], [false, wiped, wiped], "{log}");
            target.assert_holds(&disk(2 * MIB), "the first disk");
            let rest = if wiped { 0 } else { OLD };
            let data = data.bytes();
            assert_eq!(data[1080..1082], [0x53, 0xef], "a hook made an ext4 there");
            assert!(data[data.len() - 512..].iter().all(|byte| *byte == rest), "{wipe:?}");
            assert_eq!(data.iter().filter(|byte| **byte == OLD).count() < 1000, wiped, "{wipe:?}");
            assert!(seed.bytes().iter().all(|byte| *byte == rest), "{wipe:?} with reinstall {reinstall:?}");
            assert_eq!(seed.bytes().len(), 6 * MIB + 512);
        }
    }
}

#[test]
fn the_seeds_disk_is_zeroed_before_the_seed_is_there() {
    let world = World::new();
    let [target, data, seed] = ["disk0", "disk1", "disk2"].map(|name| Disk::stale(&world, name, Kind::Block, 6 * MIB));
    world.variant_file(WIPE.0, WIPE.1);
    let script = failing(&NONE, &world, &target).env("OSP_CLOUD_INIT", "disk");
    with_others(script, &data, &seed).run().succeeds();
    assert!(data.bytes().iter().all(|byte| *byte == 0));
    assert!(seed.bytes()[3..11] == *b"SIMPLIMG");
    assert!(!seed.bytes().contains(&OLD), "another tenant's data is behind the seed");
}

/// A reinstall would not do it, and is what people try next.
#[test]
fn other_disks_are_zeroed_before_anything_of_the_tenants_can_fail() {
    for failure in
        PARAMETERS.iter().filter(|failure| failure.variables.iter().all(|(name, _)| *name != "OSP_CLOUD_INIT"))
    {
        let world = World::new();
        let [target, data, seed] = ["disk0", "disk1", "disk2"].map(|name| Disk::stale(&world, name, Kind::File, SIZE));
        let script = failing(failure, &world, &target);
        world.variant_file(WIPE.0, &format!("{}http.retries = 0\n", WIPE.1));
        with_others(script, &data, &seed).run().fails(&[failure.reason]);
        for disk in [&data, &seed] {
            assert!(disk.bytes().iter().all(|byte| *byte == 0), "{}", failure.what);
        }
    }
}

#[test]
fn other_disks_that_can_not_be_zeroed_end_the_run_before_any_is_written() {
    let world = World::new();
    let [target, data, used] = [("disk0", 3), ("disk1", 3), ("disk2", 32)]
        .map(|(name, size)| Disk::stale(&world, name, Kind::Block, size * MIB));
    world.variant_file(WIPE.0, WIPE.1);
    let place = world.path("mnt");
    let path = used.path().to_str().unwrap();
    tool("mkfs.ext4", &["-qF", path]);
    fs::create_dir(&place).unwrap();
    tool("mount", &["-o", "ro", path, place.to_str().unwrap()]);
    let before = used.bytes();
    let script = failing(&NONE, &world, &target);
    let reason =
        format!("zeroing the instance's other disks (wipe_other_disks): disk {path} is in use: it is mounted on");
    with_others(script, &data, &used).run().fails(&[&reason]);
    used.unmount();
    assert!(used.bytes() == before, "a disk in use was written to");
    data.assert_untouched("the disk before it");
    target.assert_unbootable("the first disk");
    let script = with_others(failing(&NONE, &world, &target), &data, &used);
    script.without("DISK_2_PATH").env("DISK_2_URI", "rbd:rbd/x").run().fails(&["DISK_2_PATH is empty"]);
    data.assert_untouched("the disk before it");
}

/// Nobody can tell which disks there are then.
#[test]
fn other_disks_that_nobody_counted_are_an_error() {
    let world = World::new();
    let [target, data] = ["disk0", "disk1"].map(|name| Disk::stale(&world, name, Kind::File, SIZE));
    world.variant_file(WIPE.0, WIPE.1);
    let script = || failing(&NONE, &world, &target).env("DISK_1_PATH", data.path().to_str().unwrap());
    for (script, reason) in [
        (script().without("DISK_COUNT"), "the environment variable DISK_COUNT is missing or empty"),
        (script().env("DISK_COUNT", ""), "the environment variable DISK_COUNT is missing or empty"),
        (script().env("DISK_COUNT", "x"), "the environment variable DISK_COUNT is not a number of disks"),
    ] {
        script.run().fails(&[reason]);
        target.assert_unbootable(reason);
    }
}

/// What is behind a file system on the whole disk does not matter; what boots does.
#[test]
fn an_old_system_without_partitions_does_not_boot_either() {
    let world = World::new();
    let source = file_system(&world);
    let target = Disk::over(Path::new(&source).to_owned(), Kind::File);
    failing(&NONE, &world, &target).env("OSP_USER_DATA", "web.yaml").run().fails(&["parameter user_data"]);
    target.assert_unbootable("a file system");
}

#[test]
fn a_server_that_gives_less_than_it_said_leaves_nothing_to_boot() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    let server = Server::sequence([Reply::ok(disk(2 * MIB)).cut_after(MIB)]);
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    world.create(target.path(), server.url("/x.raw").as_url().as_str(), "raw").run().fails(&["/x.raw"]);
    target.assert_unbootable("a cut download");
}
