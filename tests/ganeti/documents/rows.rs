// SPDX-License-Identifier: BSD-2-Clause
//! The table: each document's commands in their order, and what has to be true after each.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::ground::{CACHE, Ground};
use super::{Document, answered, elsewhere, fails, runs};
use crate::cluster::NODE;
use crate::command::run;
use crate::namespace::utf8;

pub(super) const ALL: [&Document; 12] = [
    &README,
    &FIRST_BOOT,
    &REINSTALL,
    &BACKUP,
    &DISTRIBUTING,
    &TROUBLESHOOTING,
    &MIGRATING,
    &TERMINAL,
    &SECURITY,
    &BENCHES,
    &EXAMPLE_HOOKS,
    &EXAMPLE_VARIANTS,
];

const LIST: &str = "/etc/ganeti/instance-simpleimage/variants.list";
const EXAMPLES: &str = "/usr/share/doc/ganeti-instance-simpleimage/examples";

pub(super) const README: Document = Document {
    path: "README.md",
    before: |ground| {
        // To be found on the second node.
        ground.make_variant("mine", "image = \"https://images.example.com/debian-13.qcow2\"\n");
    },
    rows: &[
        elsewhere("make demo", "tests/fresh/run types it on bare machines"),
        elsewhere("make test", "tests/fresh/run types it on a bare machine; this is one of those tests"),
        elsewhere("make build", "it takes minutes; make demo begins with it, on bare machines too"),
        runs("make install PREFIX=/usr", |_, _| {
            run("cmp", &["/usr/bin/simpleimage", &crate::cluster::provider()]);
        }),
        elsewhere("make deb", "it takes minutes, and compilers; make test-deb builds and tries the package"),
        runs("make install PREFIX=/usr DESTDIR=$PWD/out", |ground, _| {
            assert!(ground.folder.join("checkout/out/usr/bin/simpleimage").exists());
        }),
        runs("tar -c -C out usr -C / etc/ganeti", |ground, _| {
            assert!(ground.folder.join("node2/usr/share/ganeti/os/simpleimage/create").exists());
            assert_second_node_has_the_variants(ground);
        }),
        runs("gnt-os diagnose", |_, said| assert_says(said, "OS: simpleimage [global status: valid]")),
        runs("gnt-cluster command simpleimage check", |_, said| {
            assert_says(said, "operating system /usr/share/ganeti/os/simpleimage");
        }),
        runs(
            "gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+default -O image=https",
            |ground, _| {
                assert_installed(ground, "web1.example.com", "13");
                assert_runs("web1.example.com");
            },
        ),
        elsewhere(
            "ssh debian@web1.example.com",
            "Ganeti's fake hypervisor boots nothing; tests/boot has a Debian that boots and logs in",
        ),
        runs(
            "gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+default -O image=/srv",
            |ground, _| {
                assert_installed(ground, "web2.example.com", "13");
            },
        ),
        runs("simpleimage inspect /srv/images/debian-13.raw", |_, said| assert_says(said, "safe to install: yes")),
        fails(
            "gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+default -O image=https",
            |ground, _| {
                assert_stays_unbootable(ground, "web3.example.com");
            },
        ),
        answered("gnt-instance reinstall -O image=https://images.example.com/debian-13.qcow2", "y", |ground, _| {
            assert_installed(ground, "web3.example.com", "13");
        }),
        runs("gnt-instance start web3.example.com", |_, _| assert_runs("web3.example.com")),
        answered("gnt-instance remove web3.example.com", "y", |_, _| {
            assert!(!run("gnt-instance", &["list", "--no-headers", "-o", "name"]).contains("web3"));
        }),
        runs("gnt-instance stop web1.example.com", |_, _| {}),
        answered("gnt-instance reinstall -O image=https://images.example.com/debian-14.qcow2", "y", |ground, _| {
            assert_installed(ground, "web1.example.com", "14");
        }),
        runs("gnt-instance start web1.example.com", |_, _| assert_runs("web1.example.com")),
        runs("install -d /etc/ganeti/instance-simpleimage/web/hooks", |_, _| {}),
        runs("echo 'image = ", |_, _| {}),
        runs("cd /usr/share/doc/ganeti-instance-simpleimage/examples", |_, _| {}),
        runs("install -m 0644 guest-root.sh", |_, _| {}),
        runs("install -m 0755 set-hostname", |_, _| {}),
        runs("echo web >>/etc/ganeti/instance-simpleimage/variants.list", |_, _| {}),
        runs("simpleimage check web", |_, said| assert_says(said, "variant web")),
        runs("simpleimage variants show web", |_, said| {
            assert_says(said, "# /etc/ganeti/instance-simpleimage/web/config.toml");
        }),
        runs("tar -c -C / etc/ganeti/instance-simpleimage", |ground, _| assert_second_node_has_the_variants(ground)),
        runs("gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+web", |ground, _| {
            assert_eq!(ground.file("web4.example.com", "/etc/hostname"), "web4.example.com\n");
        }),
    ],
};

pub(super) const FIRST_BOOT: Document = Document {
    path: "docs/first-boot.md",
    before: |ground| ground.add_user_data(),
    rows: &[
        runs("gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+default", |ground, _| {
            assert_installed(ground, "web1.example.com", "13");
            assert_says(&seed(ground, "web1.example.com"), "packages: [nginx]");
            ground.name_volume("web1.example.com");
        }),
        runs("simpleimage seed show /dev/vg0/web1.disk0", |_, said| assert_says(said, "web1.example.com")),
        runs("simpleimage seed remove /dev/vg0/web1.disk0", |ground, _| {
            let left = ground.types("simpleimage seed show /dev/vg0/web1.disk0", "");
            assert_says(&left.1, "holds no seed");
        }),
    ],
};

pub(super) const REINSTALL: Document = Document {
    path: "docs/reinstall.md",
    // Twice: Ganeti still has the parameters at the first time.
    before: |ground| {
        ground.add_user_data();
        ground.adds("web1.example.com", "image=https://images.example.com/debian-13.qcow2,user_data=web.yaml");
        let again = "gnt-instance reinstall -f -O image=https://images.example.com/debian-13.qcow2 web1.example.com";
        ground.types_well(again);
        ground.types_well(again);
    },
    rows: &[runs("grep -h 'warning: the instance loses' /var/log/ganeti/os/*web1.example.com*", |_, _| {})],
};

pub(super) const BACKUP: Document = Document {
    path: "docs/backup.md",
    before: |ground| ground.add("web1.example.com"),
    rows: &[
        runs("gnt-backup export -n node1.example.com web1.example.com", |_, said| assert_no_warning(said)),
        runs("gnt-backup import --src-node node1.example.com", |ground, said| {
            assert_no_warning(said);
            assert_installed(ground, "web3.example.com", "13");
        }),
        runs("gnt-instance rename web1.example.com www.example.com", |ground, said| {
            assert_no_warning(said);
            assert_says(&seed(ground, "www.example.com"), "www.example.com");
        }),
    ],
};

pub(super) const DISTRIBUTING: Document = Document {
    path: "docs/distributing.md",
    before: |_| {},
    rows: &[
        runs("gnt-cluster command simpleimage fetch https://images.example.com/debian-13.qcow2", |_, said| {
            assert_says(said, "qcow2");
        }),
        runs("gnt-cluster copyfile /srv/images/debian-13.qcow2", |_, _| {}),
        runs("simpleimage cache list", |_, said| assert_says(said, "https://images.example.com/debian-13.qcow2")),
        runs("simpleimage cache show https://images.example.com/debian-13.qcow2", |_, said| {
            assert_says(said, "sha256")
        }),
        runs("simpleimage cache verify", |_, said| assert_says(said, "debian-13.qcow2")),
        runs("simpleimage cache prune", |_, _| {}),
        runs("simpleimage cache remove https://images.example.com/debian-13.qcow2", |ground, _| {
            let (_, left) = ground.types("simpleimage cache list", "");
            assert!(!left.contains("debian-13.qcow2"), "{left}");
        }),
        elsewhere(
            "systemctl enable --now simpleimage-prune.timer",
            "no systemd runs here; what the unit in debian/ runs is the prune above",
        ),
    ],
};

pub(super) const TROUBLESHOOTING: Document = Document {
    path: "docs/troubleshooting.md",
    before: |_| {
        fs::create_dir(CACHE).expect("making a cache folder");
        fs::set_permissions(CACHE, fs::Permissions::from_mode(0o700)).expect("closing the cache folder");
        fs::write(piece(), "a beginning").expect("leaving a piece of a download");
        fs::write(piece().replace(".part", ".lock"), "").expect("leaving a lock");
    },
    rows: &[
        runs("simpleimage cleanup --dry-run", |_, said| {
            assert_says(said, &format!("would remove {}", piece()));
            assert!(fs::exists(piece()).expect("looking for a piece"));
        }),
        runs("simpleimage cleanup", |_, _| assert!(!fs::exists(piece()).expect("looking for a piece"))),
    ],
};

pub(super) const MIGRATING: Document = Document {
    path: "docs/migrating.md",
    before: |ground| ground.add("web1.example.com"),
    rows: &[
        runs("gnt-instance modify --os-type simpleimage+default", |_, _| {
            let info = run("gnt-instance", &["info", "web1.example.com"]);
            assert_says(&info, "image: https://images.example.com/debian-13.qcow2");
        }),
        runs("simpleimage check", |_, said| assert_says(said, "operating system /usr/share/ganeti/os/simpleimage")),
        runs("gnt-instance activate-disks web1.example.com", |ground, said| {
            assert_says(said, NODE);
            fs::copy(ground.folder.join("debian-13.raw"), ground.folder.join("dev/drbd1")).expect("making a disk");
        }),
        runs("qemu-img convert -f raw -O qcow2 -c /dev/drbd1 /srv/images/debian.qcow2", |_, _| {
            assert_says(&run("simpleimage", &["inspect", "/srv/images/debian.qcow2"]), "qcow2");
        }),
    ],
};

pub(super) const TERMINAL: Document = Document {
    path: "docs/terminal.md",
    before: |_| {},
    rows: &[
        runs("simpleimage fetch http://images.example.com/debian-13.qcow2", |_, _| {}),
        runs("simpleimage fetch http://images.example.com/debian-13.qcow2", |_, _| {}),
        runs("simpleimage fetch http://images.example.com/debian-13.qcow2", |_, _| {}),
        runs("simpleimage fetch http://images.example.com/debian-13.raw.xz", |_, _| {}),
        runs("simpleimage fetch http://images.example.com/debian-13.raw.xz", |_, _| {}),
        runs("simpleimage fetch http://images.example.com/debian-13.raw.xz", |_, _| {}),
        runs("simpleimage install http://images.example.com/debian-13.raw.xz /srv/disks/web1", |_, _| {}),
        runs("simpleimage install http://images.example.com/debian-13.raw.xz /srv/disks/web1", |_, _| {}),
        runs("simpleimage install http://images.example.com/debian-13.raw.xz /srv/disks/web1", |_, _| {}),
        runs("simpleimage install http://images.example.com/debian-13.raw.xz /srv/disks/web1", |ground, said| {
            assert_says(said, "done in ");
            let image = ground.folder.join("debian-13.raw");
            run("cmp", &["--bytes=16777216", utf8(&image), "/srv/disks/web1"]);
        }),
    ],
};

pub(super) const SECURITY: Document = Document { path: "docs/security.md", before: |_| {}, rows: &[] };

const OF_BENCH: &str = "it measures for minutes to hours, with a release build: for a machine that does nothing else";

pub(super) const BENCHES: Document = Document {
    path: "benches/README.md",
    before: |_| {},
    rows: &[
        elsewhere("make bench # everything", OF_BENCH),
        elsewhere("make bench CASES=\"raw gz\" RUNS=3", OF_BENCH),
        elsewhere("make bench BENCH_SIZE=256M BENCH_DATA=64M RUNS=1", OF_BENCH),
        elsewhere("cargo bench --bench install -- --list", OF_BENCH),
    ],
};

pub(super) const EXAMPLE_HOOKS: Document = Document {
    path: "example-hooks/README.md",
    before: |ground| ground.goes_to(EXAMPLES),
    rows: &[
        runs("install -d /etc/ganeti/instance-simpleimage/default/hooks", |_, _| {}),
        runs("install -m 0644 guest-root.sh", |_, _| {}),
        runs("install -m 0755 set-hostname", |ground, _| {
            ground.add("web1.example.com");
            assert_eq!(ground.file("web1.example.com", "/etc/hostname"), "web1.example.com\n");
        }),
    ],
};

pub(super) const EXAMPLE_VARIANTS: Document = Document {
    path: "example-variants/README.md",
    before: |ground| {
        ground.goes_to(&format!("{EXAMPLES}/variants"));
        fs::create_dir_all("/etc/ganeti/instance-simpleimage/almalinux").expect("making a variant's folder");
        let make = "export GNUPGHOME=$HOME/gnupg; [ -d $GNUPGHOME ] || { mkdir -m 0700 $GNUPGHOME && gpg --batch --quiet --passphrase '' \
            --quick-generate-key AlmaLinux; }; gpg --armor --export >RPM-GPG-KEY-AlmaLinux-9";
        ground.types_well(make);
    },
    rows: &[
        runs("install -d /etc/ganeti/instance-simpleimage/debian", |_, _| {}),
        runs("install -m 0644 debian.toml", |_, _| {}),
        runs("echo debian >>/etc/ganeti/instance-simpleimage/variants.list", |_, _| {}),
        runs("simpleimage check debian", |_, said| assert_says(said, "variant debian")),
        runs("simpleimage fetch --variant debian debian-13", |_, said| assert_says(said, "cloud.debian.org")),
        runs("gnt-instance add -n node1.example.com -t file --disk 0:size=10G -o simpleimage+debian", |ground, _| {
            assert_installed(ground, "web1.example.com", "13");
        }),
        runs("gpg --dearmor <RPM-GPG-KEY-AlmaLinux-9 >", |_, _| {}),
        runs("chmod 0644 /etc/ganeti/instance-simpleimage/almalinux/keyring.gpg", |ground, _| {
            let (_, said) = ground.types("gpg --show-keys /etc/ganeti/instance-simpleimage/almalinux/keyring.gpg", "");
            assert_says(&said, "AlmaLinux");
        }),
        runs(
            "gnt-instance add -n node1.example.com -t file --disk 0:size=10G --disk 1:size=16M,name=cidata",
            |ground, _| {
                let disk = ground.cluster.instance("web2.example.com").disk(1);
                assert_says(&run("simpleimage", &["seed", "show", utf8(&disk)]), "web2.example.com");
            },
        ),
    ],
};

/// What a killed run has left, as the cache names it.
fn piece() -> String {
    format!("{CACHE}/{}.part", "0123456789abcdef".repeat(4))
}

fn assert_says(said: &str, part: &str) {
    assert!(said.contains(part), "no {part:?} in:\n{said}");
}

/// What Ganeti itself only warns of has failed.
fn assert_no_warning(said: &str) {
    assert!(!said.contains("WARNING"), "{said}");
}

fn seed(ground: &Ground<'_>, instance: &str) -> String {
    run("simpleimage", &["seed", "show", "--secrets", utf8(&ground.disk(instance))])
}

/// The disk has the image of this release, and the seed has the administrator's key.
fn assert_installed(ground: &Ground<'_>, instance: &str, release: &str) {
    assert_says(&ground.file(instance, "/etc/os-release"), &format!("VERSION_ID=\"{release}\""));
    let seed = seed(ground, instance);
    assert_says(&seed, instance);
    assert_says(&seed, &ground.key());
}

fn assert_runs(instance: &str) {
    assert_eq!(run("gnt-instance", &["list", "--no-headers", "-o", "status", instance]).trim(), "running");
}

/// Ganeti has it still, and its first MiB is zero.
fn assert_stays_unbootable(ground: &Ground<'_>, instance: &str) {
    run("cmp", &["--bytes=1048576", utf8(&ground.disk(instance)), "/dev/zero"]);
}

/// The list, and each file with its mode and owner.
fn assert_second_node_has_the_variants(ground: &Ground<'_>) {
    let here = "/etc/ganeti/instance-simpleimage";
    run("diff", &["--recursive", here, utf8(&ground.second_node(here))]);
    let modes = |folder: &str| {
        let list = run("find", &[folder, "-printf", "%P %m %U %G\n"]);
        list.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(modes(here), modes(utf8(&ground.second_node(here))));
    let variants = run("chroot", &[utf8(&ground.second_node("/")), "simpleimage", "variants", "list"]);
    for variant in fs::read_to_string(LIST).expect("reading the list of variants").lines() {
        assert_says(&variants, variant);
    }
}
