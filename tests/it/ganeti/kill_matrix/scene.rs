// SPDX-License-Identifier: BSD-2-Clause
//! What is disturbed: one way to fill a disk, and what may be found on it afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::Duration;

use crate::support::bytes;
use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, disk, encode, to_qcow2, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{Outcome, Script, World, wait_until};

const IMAGE_LEN: usize = 24 * MIB;

const DISK_LEN: usize = IMAGE_LEN + 2 * MIB + 512;

/// Where the hook writes: zero in the image, not in the boot area.
const MARK_AT: usize = 17 * MIB;

const MARK: &[u8] = b"configured";

/// What the disk held before.
const OLD: u8 = 0xa5;

/// Images by the names of their files, with their declared types.
const IMAGES: [(&str, &str); 9] = [
    ("raw", "raw"),
    ("raw+gz", "raw+gz"),
    ("raw+bz2", "raw+bz2"),
    ("raw+xz", "raw+xz"),
    ("raw+zst", "raw+zst"),
    ("qcow2", "qcow2"),
    ("compressed-clusters", "qcow2"),
    ("qcow2+zst", "qcow2+zst"),
    ("qcow2+gz", "auto"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Path,
    /// By HTTP, not in the cache.
    Cold,
    /// By HTTP, in the cache.
    Warm,
    /// Import.
    Stdin,
}

/// One way to fill a disk.
#[derive(Debug)]
pub(super) struct Scene {
    image: &'static str,
    image_type: &'static str,
    source: Source,
    kind: Kind,
    hooks: bool,
    reinstall: bool,
}

impl Scene {
    /// At least a hundred.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (image, image_type) in IMAGES {
            for source in [Source::Path, Source::Cold, Source::Warm] {
                for (kind, hooks) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
                    let reinstall = all.len() % 3 == 0;
                    all.push(Scene { image, image_type, source, kind, hooks, reinstall });
                }
            }
        }
        for kind in KINDS {
            let import =
                |_| Scene { image: "raw", image_type: "", source: Source::Stdin, kind, hooks: false, reinstall: false };
            all.extend((0..3).map(import));
        }
        assert!(all.len() >= 100, "{} scenes", all.len());
        all
    }
}

/// What all scenes share.
pub(super) struct Site {
    _world: World,
    image: Vec<u8>,
    files: BTreeMap<&'static str, PathBuf>,
    server: Server,
}

impl Site {
    pub(super) fn new() -> Self {
        let world = World::new();
        let mut image = disk(IMAGE_LEN);
        image[8 * MIB..13 * MIB].copy_from_slice(&bytes(3, 5 * MIB));
        for (at, byte) in image[18 * MIB..20 * MIB].iter_mut().enumerate() {
            *byte = b"an easily compressed text\n"[at % 26];
        }
        assert!(image[MARK_AT..MARK_AT + MARK.len()].iter().all(|byte| *byte == 0));
        let encoded = |name: &'static str| {
            if name != "compressed-clusters" {
                return encode(&world, &image, name);
            }
            let raw = world.path("clusters.raw");
            write_sparse(&raw, &image);
            to_qcow2(&raw, &["-c"])
        };
        let files: BTreeMap<_, _> = IMAGES.iter().map(|(name, _)| (*name, encoded(name))).collect();
        let bodies: BTreeMap<_, _> = files.iter().map(|(name, path)| (*name, fs::read(path).unwrap())).collect();
        let server = Server::start(move |request, _| {
            let (speed, name) = request.target.trim_start_matches('/').split_once('/').unwrap();
            let body = &bodies[name];
            let reply = Reply::file(request, body, "\"v1\"");
            // So slow that the download is most of the run.
            let pause = Duration::from_millis(if speed == "slow" { 5 } else { 0 });
            reply.pieces(body.len() / 40 + 1, pause)
        });
        Site { _world: world, image, files, server }
    }

    fn url(&self, scene: &Scene) -> String {
        let speed = if scene.source == Source::Cold { "slow" } else { "fast" };
        self.server.url(&format!("/{speed}/{}", scene.image)).as_url().to_string()
    }
}

/// A scene set up: a node, and a disk full of old data.
pub(super) struct Stage<'s> {
    site: &'s Site,
    scene: &'s Scene,
    world: World,
    target: Disk,
}

impl<'s> Stage<'s> {
    pub(super) fn new(site: &'s Site, scene: &'s Scene) -> Self {
        let world = World::new();
        if scene.image.starts_with("qcow2") {
            world.qemu_img_decodes();
        }
        if scene.hooks {
            let write = |text: &str| {
                format!("printf {text} | dd of=\"$TARGET_DISK_DEVICE\" bs=1 seek={MARK_AT} conv=notrunc status=none")
            };
            let mark = std::str::from_utf8(MARK).unwrap();
            world.hook("hooks/mark", &format!("set -e\n{}\nsleep 0.03\n{}", write(&mark[..4]), write(mark)));
        }
        if scene.source == Source::Warm {
            world.tool(&["fetch", &site.url(scene)]).run().succeeds();
        }
        let target = Disk::stale(&world, "disk0", scene.kind, DISK_LEN);
        Stage { site, scene, world, target }
    }

    /// Starts it, as the leader of a session of its own.
    pub(super) fn spawn(&self) -> Run {
        let Stage { site, scene, world, target } = self;
        let disk = target.path().to_str().unwrap();
        let script = match scene.source {
            Source::Path => world.create(target.path(), site.files[scene.image].to_str().unwrap(), scene.image_type),
            Source::Cold | Source::Warm => world.create(target.path(), &site.url(scene), scene.image_type),
            Source::Stdin => world.script("import").env("IMPORT_DEVICE", disk),
        };
        let script = script.env("INSTANCE_REINSTALL", if scene.reinstall { "1" } else { "0" }).under("setsid", &[]);
        if scene.source != Source::Stdin { Run(script.spawn(), None) } else { self.feed(script) }
    }

    /// Gives the dump bit by bit, as a slow network would.
    fn feed(&self, script: Script) -> Run {
        let mut child = script.stdin(std::process::Stdio::piped()).spawn();
        let mut pipe = child.stdin.take().unwrap();
        let image = self.site.image.clone();
        let feeding = thread::spawn(move || {
            for piece in image.chunks(IMAGE_LEN / 40) {
                // The other side may be gone.
                if pipe.write_all(piece).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(3));
            }
        });
        Run(child, Some(feeding))
    }

    /// Whether the old content has to stay until the new image is at hand.
    pub(super) fn keeps_old(&self) -> bool {
        self.scene.reinstall
    }

    fn expected(&self) -> Vec<u8> {
        let mut expected = self.site.image.clone();
        expected.resize(DISK_LEN, 0);
        if self.scene.hooks {
            expected[MARK_AT..MARK_AT + MARK.len()].copy_from_slice(MARK);
        }
        expected
    }

    pub(super) fn assert_right(&self, what: &str) {
        if self.target.bytes() != self.expected() {
            self.target.assert_holds(&self.expected(), what);
        }
        self.wait_until_detached(what);
    }

    /// No loop device is left of those that were attached to a file; the one that was given stays.
    pub(super) fn wait_until_detached(&self, what: &str) {
        let given = usize::from(self.scene.kind == Kind::Block);
        wait_until(&format!("loop devices are detached: {what}"), || {
            loops_over(&self.world.path("disk0")).len() == given
        });
    }

    /// What the disk is; an error when it is nothing that it may be.
    pub(super) fn state(&self) -> Result<State, String> {
        let (found, expected) = (self.target.bytes(), self.expected());
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let wiped = found.iter().position(|byte| *byte == OLD).unwrap_or(found.len());
        if found == expected {
            Ok(State::Right)
        } else if is_zero(&found[..MIB]) {
            Ok(State::Unbootable)
        } else if is_zero(&found[..4096]) && found[MIB..] == expected[MIB..] {
            Ok(State::BootSectorMissing)
        } else if wiped < MIB && is_zero(&found[..wiped]) && found[wiped..].iter().all(|byte| *byte == OLD) {
            Ok(if wiped == 0 { State::Untouched } else { State::BeingWiped })
        } else {
            let at = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            Err(format!("a wrong disk that may boot: it differs first at byte {at:?}"))
        }
    }
}

/// A run going on.
pub(super) struct Run(Child, Option<thread::JoinHandle<()>>);

impl Run {
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn wait(self) -> Outcome {
        let outcome = Outcome(self.0.wait_with_output().unwrap());
        self.1.into_iter().for_each(|feeding| feeding.join().unwrap());
        outcome
    }
}

/// What a run was doing when it was ended, by what it had said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Starting,
    Preparing,
    Downloading,
    DownloadingAndWriting,
    Writing,
    QemuImg,
    Importing,
    Hooks,
    Ending,
    Ended,
}

impl Phase {
    pub(super) const ALL: [Phase; 10] = [
        Phase::Starting,
        Phase::Preparing,
        Phase::Downloading,
        Phase::DownloadingAndWriting,
        Phase::Writing,
        Phase::QemuImg,
        Phase::Importing,
        Phase::Hooks,
        Phase::Ending,
        Phase::Ended,
    ];

    /// How many moments have to fall into it: none into what takes next to no time.
    pub(super) fn wanted(self) -> usize {
        match self {
            Phase::Starting | Phase::Ending => 0,
            Phase::Preparing | Phase::Importing => 2,
            _ => 4,
        }
    }

    pub(super) fn of(outcome: &Outcome) -> Self {
        let log = outcome.log();
        let said = |words: &str| log.contains(words);
        if outcome.0.status.success() {
            Phase::Ended
        } else if said("running the hooks in") {
            Phase::Hooks
        } else if said("is on the disk") {
            Phase::Ending
        } else if said("importing to disk") {
            Phase::Importing
        } else if said("qemu-img decodes the image") {
            Phase::QemuImg
        } else if said("image type") {
            if said("downloading http") { Phase::DownloadingAndWriting } else { Phase::Writing }
        } else if said("downloading http") {
            Phase::Downloading
        } else if said("installing instance") {
            Phase::Preparing
        } else {
            Phase::Starting
        }
    }
}

/// What was found on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// As it was before.
    Untouched,
    /// As it was before, but for zeros from the start up to somewhere in the boot area.
    BeingWiped,
    /// The boot area is zero.
    Unbootable,
    /// All is right, and on stable storage, but the boot area; its first block is zero.
    BootSectorMissing,
    /// The image, configured if there are hooks.
    Right,
}
