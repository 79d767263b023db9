// SPDX-License-Identifier: BSD-2-Clause
//! The files of `example-variants/`: what they say, and that the distributions' forms of checksum files are understood.
//! Nothing is fetched from their servers.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::install::checks::{Published, sums};
use crate::support::disk::{Disk, Kind};
use crate::support::gpg::Key;
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World};

/// A file, its images, where the seed goes, and what its checksums look like.
struct Example {
    name: &'static str,
    cloud_init: &'static str,
    /// Name, URL of the image, URL of the checksum file.
    images: &'static [(&'static str, &'static str, &'static str)],
    form: fn(&World, &Path) -> Vec<u8>,
}

const DEBIAN: &str = "https://cloud.debian.org/images/cloud/";
const UBUNTU: &str = "https://cloud-images.ubuntu.com/releases/";
const FEDORA: &str = ".fedoraproject.org/pub/fedora/linux/releases/";
const ALMALINUX: &str = "https://repo.almalinux.org/almalinux/";
const OPENSUSE: &str = "https://download.opensuse.org/distribution/leap/";
const ALPINE: &str = "https://dl-cdn.alpinelinux.org/alpine/v3.22/releases/cloud/";

/// Each URL is `base` (with `download` or `dl` before Fedora's) and what stands here; `+` is the image's own URL.
const EXAMPLES: [(&str, &Example); 6] = [
    (
        DEBIAN,
        &Example {
            name: "debian",
            cloud_init: "auto",
            images: &[
                ("debian-12", "bookworm/latest/debian-12-generic-amd64.qcow2", "bookworm/latest/SHA512SUMS"),
                ("debian-13", "trixie/latest/debian-13-generic-amd64.qcow2", "trixie/latest/SHA512SUMS"),
            ],
            form: |_, file| among("sha512sum", &[], file),
        },
    ),
    (
        UBUNTU,
        &Example {
            name: "ubuntu",
            cloud_init: "auto",
            images: &[
                ("ubuntu-22.04", "jammy/release/ubuntu-22.04-server-cloudimg-amd64.img", "jammy/release/SHA256SUMS"),
                ("ubuntu-24.04", "noble/release/ubuntu-24.04-server-cloudimg-amd64.img", "noble/release/SHA256SUMS"),
            ],
            form: |_, file| among("sha256sum", &["--binary"], file),
        },
    ),
    (
        FEDORA,
        &Example {
            name: "fedora",
            cloud_init: "auto",
            images: &[
                (
                    "fedora-42",
                    "42/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2",
                    "42/Cloud/x86_64/images/Fedora-Cloud-42-1.1-x86_64-CHECKSUM",
                ),
                (
                    "fedora-43",
                    "43/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2",
                    "43/Cloud/x86_64/images/Fedora-Cloud-43-1.6-x86_64-CHECKSUM",
                ),
            ],
            form: |_, file| {
                let name = file.file_name().unwrap().to_str().unwrap();
                let line = sums("sha256sum", &["--tag"], file);
                let text = format!("# {name}: {} bytes\n{line}", fs::metadata(file).unwrap().len());
                Key::new().clear_sign(text.as_bytes())
            },
        },
    ),
    (
        ALMALINUX,
        &Example {
            name: "almalinux",
            cloud_init: "auto",
            images: &[
                (
                    "almalinux-9",
                    "9/cloud/x86_64/images/AlmaLinux-9-GenericCloud-latest.x86_64.qcow2",
                    "9/cloud/x86_64/images/CHECKSUM",
                ),
                (
                    "almalinux-10",
                    "10/cloud/x86_64/images/AlmaLinux-10-GenericCloud-latest.x86_64.qcow2",
                    "10/cloud/x86_64/images/CHECKSUM",
                ),
            ],
            form: |_, file| among("sha256sum", &[], file),
        },
    ),
    (
        OPENSUSE,
        &Example {
            name: "opensuse",
            cloud_init: "auto",
            images: &[
                (
                    "opensuse-leap-15.6",
                    "15.6/appliances/openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2",
                    "15.6/appliances/openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2.sha256",
                ),
                (
                    "opensuse-leap-16.0",
                    "16.0/appliances/Leap-16.0-Minimal-VM.x86_64-Cloud.qcow2",
                    "16.0/appliances/Leap-16.0-Minimal-VM.x86_64-Cloud.qcow2.sha256",
                ),
            ],
            // The file of a link has the name that the link leads to.
            form: |_, file| {
                sums("sha256sum", &[], file).replace("-Cloud.qcow2", "-15.6.0-Cloud-Build16.36.qcow2").into()
            },
        },
    ),
    (
        ALPINE,
        &Example {
            name: "alpine",
            cloud_init: "disk",
            images: &[(
                "alpine-3.22",
                "nocloud_alpine-3.22.4-x86_64-bios-cloudinit-r0.qcow2",
                "nocloud_alpine-3.22.4-x86_64-bios-cloudinit-r0.qcow2.sha512",
            )],
            form: |_, file| format!("{}\n", digits(&sums("sha512sum", &[], file))).into(),
        },
    ),
];

/// A SUMS file with other images before and behind this one, all with checksums of their own.
fn among(program: &str, options: &[&str], file: &Path) -> Vec<u8> {
    let line = sums(program, options, file);
    let digits = digits(&line);
    let other = |digit: &str, name: &str| line.replace(digits, &digit.repeat(digits.len())).replace(".qcow2", name);
    let (json, arm) = (other("1", ".json").replace(".img", ".json"), other("2", ".tar.xz").replace(".img", ".tar.xz"));
    format!("{json}{line}{arm}").into()
}

fn digits(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

fn example_text(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("example-variants").join(format!("{name}.toml"));
    fs::read_to_string(file).unwrap()
}

fn urls(base: &str, image: &str, checksum: &str) -> (String, String) {
    match base {
        FEDORA => (format!("https://download{base}{image}"), format!("https://dl{base}{checksum}")),
        _ => (format!("{base}{image}"), format!("{base}{checksum}")),
    }
}

#[test]
fn every_file_is_one_of_these() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("example-variants");
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<_> = EXAMPLES.iter().map(|(_, example)| format!("{}.toml", example.name)).collect();
    expected.push("README.md".to_owned());
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn each_name_stands_for_its_url_type_and_checksum() {
    for (base, example) in EXAMPLES {
        let world = World::new();
        world.variant_file("config.toml", &example_text(example.name));
        let shown = world.tool(&["variants", "show", "default", "--json"]).run();
        shown.succeeds();
        let shown: Value = serde_json::from_str(&shown.output()).unwrap();
        let shown = shown.as_array().unwrap();
        let setting = |key: &str| shown.iter().find(|found| found["key"] == key).map(|found| found["value"].clone());
        assert_eq!(setting("cloud_init"), Some(example.cloud_init.into()), "{}", example.name);
        assert_eq!(setting("require_checksum"), Some("http".into()), "{}", example.name);
        let own = setting("image").unwrap();
        assert!(example.images.iter().any(|(name, ..)| own == *name), "{own} is one of its images");
        let tables = shown.iter().filter(|found| found["key"].as_str().unwrap().starts_with("images.")).count();
        assert_eq!(tables, example.images.len(), "{}", example.name);
        for (name, image, checksum) in example.images {
            let (url, checksum) = urls(base, image, checksum);
            let key = if name.contains('.') { format!("images.\"{name}\"") } else { format!("images.{name}") };
            let expected = serde_json::json!({ "url": url, "type": "qcow2", "checksum": checksum });
            assert_eq!(setting(&key), Some(expected), "{name}");
            let verify = world.script("verify").arg("parameters").env("OSP_IMAGE", name);
            verify.run().succeeds();
        }
    }
}

/// A server that has the first image of an example, and its checksum file.
struct Site {
    world: World,
    server: Published,
    image: Vec<u8>,
    /// The image's name.
    name: &'static str,
    /// Path and text of the checksum file.
    checksum: (String, String),
}

impl Site {
    fn new(base: &str, example: &Example) -> Self {
        let (world, image) = (World::new(), disk(2 * MIB));
        let (name, url, checksum) = example.images[0];
        let (url, checksum) = urls(base, url, checksum);
        let file = world.path(url.rsplit('/').next().unwrap());
        fs::rename(encode(&world, &image, "qcow2"), &file).unwrap();
        let text = String::from_utf8((example.form)(&world, &file)).unwrap();
        let server =
            Published::new(&[(&path_of(&url), &fs::read(&file).unwrap()), (&path_of(&checksum), text.as_bytes())]);
        let site = Site { world, server, image, name, checksum: (path_of(&checksum), text) };
        site.configure(&example_text(example.name));
        site
    }

    /// The variant is the example, of another host.
    fn configure(&self, example: &str) {
        let own = self.server.url("/");
        let moved = example.split("https://").enumerate().map(|(index, part)| match part.split_once('/') {
            Some((_, rest)) if index > 0 => format!("{own}{rest}"),
            _ => part.to_owned(),
        });
        self.world.variant_file("config.toml", &moved.collect::<String>());
    }

    /// A reinstall, so that a failure leaves the disk untouched.
    fn create(&self) -> (Outcome, Disk) {
        let target = Disk::stale(&self.world, "disk0", Kind::File, 3 * MIB);
        let create = self.world.create(target.path(), self.name, "").env("INSTANCE_REINSTALL", "1");
        (create.env("OSP_CLOUD_INIT", "off").run(), target)
    }

    fn installs(&self) -> String {
        let (outcome, target) = self.create();
        let log = outcome.succeeds();
        target.assert_holds(&self.image, &log);
        log
    }

    /// One digit of the image's checksum is another one: that of the text with these `digits`.
    fn change_a_digit(&self, digits: &str) {
        let (path, text) = &self.checksum;
        let (rest, last) = digits.split_at(digits.len() - 1);
        assert_eq!(text.matches(digits).count(), 1, "{text}");
        self.server.put(path, text.replace(digits, &format!("{rest}{}", if last == "0" { "1" } else { "0" })));
    }
}

#[test]
fn each_form_of_a_checksum_file_is_understood_and_a_wrong_digit_refused() {
    for (base, example) in EXAMPLES {
        let site = Site::new(base, example);
        let log = site.installs();
        assert!(log.contains(" has the right checksum, sha"), "{log}");
        let program = if log.contains("checksum, sha512:") { "sha512sum" } else { "sha256sum" };
        let (_, url, _) = example.images[0];
        let line = sums(program, &[], &site.world.path(url.rsplit('/').next().unwrap()));
        site.change_a_digit(digits(&line));
        let (outcome, target) = site.create();
        let reason = format!(" but should have {}:{}", &program[..6], &digits(&line)[..16]);
        outcome.fails(&[" has checksum sha", &reason]);
        target.assert_untouched(example.name);
    }
}

/// The lines that are comments as the files come.
#[test]
fn signatures_are_checked_where_they_are_switched_on() {
    for (base, example) in EXAMPLES.into_iter().filter(|(base, _)| [UBUNTU, ALMALINUX].contains(base)) {
        let (site, key) = (Site::new(base, example), Key::new());
        let keyring = site.world.variant_file("keyring.gpg", "");
        fs::write(&keyring, key.public()).unwrap();
        let on = example_text(example.name).replace("\n#signature", "\nsignature").replace("\n#require", "\nrequire");
        let on = on.replace("\n#keyring = \"/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg\"", "");
        assert_eq!(on.matches("\nsignature = ").count(), example.images.len());
        site.configure(&on);
        let (path, content) = &site.checksum;
        let signature = format!("{path}{}", if base == UBUNTU { ".gpg" } else { ".asc" });
        site.server.put(&signature, key.sign(content.as_bytes(), &["--armor"]));
        let log = site.installs();
        assert!(log.contains(&format!("{path} has a good signature")), "{log}");
        site.server.put(path, format!("{content}\n"));
        let (outcome, target) = site.create();
        outcome.fails(&[path, "signature"]);
        target.assert_untouched(example.name);
    }
}

fn path_of(url: &str) -> String {
    format!("/{}", url.split_once("://").unwrap().1.split_once('/').unwrap().1)
}
