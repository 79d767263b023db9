// SPDX-License-Identifier: BSD-2-Clause
//! Images that are broken, or that somebody made to do harm: each is refused with the reason, leaves a disk that can't
//! boot, and brings nothing of the node onto it.
//!
//! Every case is one line of a table: a name, the declared type, the words of the error, and how the image is made. All
//! are run as a new instance and as a reinstall.

mod archives;
mod containers;
mod foreign;
mod places;
mod qcow2;
mod vmdk;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, convert, disk, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{Outcome, World};

/// What must never reach a disk. Every sector of the planted file has it.
const SECRET: &[u8] = b"Planted-Host-Secret-5b1f";

/// Size of the disk that everything is tried on.
const DISK: usize = 4 * MIB;

/// When an image is found out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Before the disk of a reinstall is touched.
    Before,
    /// While it is decoded.
    Later,
}

use When::{Before, Later};

struct Case {
    name: String,
    image_type: &'static str,
    words: &'static [&'static str],
    when: When,
    /// Makes the image; gives its path or URL.
    make: Box<dyn Fn(&Site) -> String>,
}

fn case(
    name: impl Into<String>,
    image_type: &'static str,
    words: &'static [&'static str],
    make: impl Fn(&Site) -> String + 'static,
) -> Case {
    Case { name: name.into(), image_type, words, when: Before, make: Box::new(make) }
}

/// A case that only shows while it is decoded.
fn later(
    name: impl Into<String>,
    image_type: &'static str,
    words: &'static [&'static str],
    make: impl Fn(&Site) -> String + 'static,
) -> Case {
    Case { when: Later, ..case(name, image_type, words, make) }
}

/// A case that shows in its parameters.
fn by_name(
    name: impl Into<String>,
    image_type: &'static str,
    words: &'static [&'static str],
    make: impl Fn(&Site) -> String + 'static,
) -> Case {
    Case { when: Before, ..case(name, image_type, words, make) }
}

/// A case of which the bytes are all that counts.
fn bytes(
    name: impl Into<String>,
    image_type: &'static str,
    words: &'static [&'static str],
    make: impl Fn(&Site) -> Vec<u8> + 'static,
) -> Case {
    case(name, image_type, words, move |site| site.file("image", &make(site)))
}

/// A node with a secret, and what images are made of.
struct Site {
    world: World,
    /// A disk image that every gate would take, full of [`SECRET`].
    secret: PathBuf,
    /// Images in other formats of [`Site::good`], as qemu-img made them.
    made: RefCell<BTreeMap<String, Vec<u8>>>,
    servers: RefCell<Vec<Server>>,
}

impl Site {
    fn new(config: &str) -> Self {
        let world = World::new();
        world.variant_file("config.toml", config);
        let secret = world.path("secret.raw");
        let mut planted: Vec<u8> = SECRET.iter().copied().cycle().take(2 * MIB / 512 * SECRET.len()).collect();
        planted.resize(2 * MIB, 0);
        for (sector, number) in planted.chunks_mut(512).zip(0_u64..) {
            sector[..SECRET.len()].copy_from_slice(SECRET);
            sector[500..508].copy_from_slice(&number.to_le_bytes());
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
        }
        fs::write(&secret, planted).unwrap();
        Site { world, secret, made: RefCell::default(), servers: RefCell::default() }
    }

    fn secret(&self) -> &str {
        self.secret.to_str().unwrap()
    }

    /// An image that would be installed.
    fn good(&self) -> Vec<u8> {
        disk(3 * MIB)
    }

    /// A file of this content; its path.
    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.world.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// [`Site::good`] in another format, as qemu-img makes it.
    fn image(&self, format: &str, options: &[&str]) -> Vec<u8> {
        let make = || {
            let raw = self.world.path("good.raw");
            write_sparse(&raw, &self.good());
            fs::read(convert(&raw, format, options)).unwrap()
        };
        self.made.borrow_mut().entry(format!("{format} {options:?}")).or_insert_with(make).clone()
    }

    /// The URL of a server that answers this.
    fn serve(&self, reply: Reply) -> String {
        let server = Server::start(move |_, _| reply.clone());
        let url = server.url("/image").as_url().to_string();
        self.servers.borrow_mut().push(server);
        url
    }

    /// Every case, as a new instance and as a reinstall; all that fail are told.
    fn refuses(&self, cases: &[Case]) {
        let fails = |case: &&Case| catch_unwind(AssertUnwindSafe(|| self.refuses_one(case))).is_err();
        let failed: Vec<_> = cases.iter().filter(fails).map(|case| &case.name).collect();
        assert!(failed.is_empty(), "of {} cases these failed, see above: {failed:?}", cases.len());
    }

    fn refuses_one(&self, case: &Case) {
        let image = (case.make)(self);
        for reinstall in ["0", "1"] {
            let what = format!("{} (reinstall {reinstall})", case.name);
            let target = Disk::stale(&self.world, "disk0", Kind::File, DISK);
            let create = self.world.create(target.path(), &image, case.image_type);
            let outcome = create.env("INSTANCE_REINSTALL", reinstall).run();
            let bytes = target.bytes();
            assert_eq!(bytes.len(), DISK, "{what}");
            assert!(!holds_secret(&bytes), "{what}: the secret is on the disk");
            assert_refused(&outcome, case.words, &what);
            match (reinstall, case.when) {
                ("1", Before) => target.assert_untouched(&what),
                _ => target.assert_unbootable(&what),
            }
        }
    }
}

fn assert_refused(outcome: &Outcome, words: &[&str], what: &str) {
    let log = outcome.log();
    assert!(!holds_secret(log.as_bytes()), "{what}: {log}");
    // So that the name of the case is beside what is wrong.
    let last = log.lines().last().unwrap_or_default();
    assert!(words.iter().all(|part| last.contains(part)), "{what}: {words:?} are not in: {log}");
    outcome.fails(words);
}

fn holds_secret(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == SECRET[0]) {
        rest = &rest[at..];
        if rest.starts_with(SECRET) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// `content` with other bytes at some places.
fn patched(mut content: Vec<u8>, patches: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, bytes) in patches {
        content[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    content
}

/// `content` without what is behind its first `len` bytes.
fn cut(mut content: Vec<u8>, len: usize) -> Vec<u8> {
    content.truncate(len);
    content
}

/// `content` with a magic at a place.
fn with(len: usize, at: usize, magic: &[u8]) -> Vec<u8> {
    patched(vec![0; len], &[(at, magic)])
}

#[test]
fn the_corpus_is_large_and_a_good_image_is_installed() {
    let tables = [foreign::cases(), places::cases(), qcow2::cases(), containers::cases(), archives::cases()];
    let names: std::collections::BTreeSet<_> = tables.iter().flatten().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), tables.iter().map(Vec::len).sum::<usize>(), "a name stands twice");
    assert!(names.len() >= 270, "{} cases", names.len());
    // What the tables break is whole: else they would show nothing.
    let site = Site::new("image_formats = ['raw', 'qcow2', 'vmdk', 'vdi', 'vhdx']\n");
    for format in ["raw", "qcow2", "vmdk", "vdi", "vhdx"] {
        let content = if format == "raw" { site.good() } else { site.image(format, &[]) };
        let target = Disk::stale(&site.world, "disk0", Kind::File, DISK);
        site.world.create(target.path(), &site.file("image", &content), format).run().succeeds();
        target.assert_holds(&site.good(), format);
    }
    let target = Disk::stale(&site.world, "disk0", Kind::File, DISK);
    site.world.create(target.path(), site.secret(), "raw").run().succeeds();
    assert!(holds_secret(&target.bytes()), "the secret can't be found");
}
