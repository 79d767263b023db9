// SPDX-License-Identifier: BSD-2-Clause
//! Images by a name in config.toml: `-O image=debian-12` is enough.

use std::fs;

use crate::install::checks::{Published, sums};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, Script, World};

/// A node whose site knows `debian-12`, an image on a server with a SUMS file, and `golden`, a compressed file.
struct Site {
    world: World,
    server: Published,
    image: Vec<u8>,
}

const WRONG: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl Site {
    fn new() -> Self {
        let (world, image) = (World::new(), disk(2 * MIB));
        let server = Published::new(&[("/a.raw", &image)]);
        let file = world.path("a.raw");
        fs::write(&file, &image).unwrap();
        server.put("/SUMS", sums("sha256sum", &[], &file));
        let golden = encode(&world, &image, "raw+xz");
        let site = Site { world, server, image };
        let config = format!(
            "[images.debian-12]\nurl = \"{}\"\ntype = \"raw\"\nchecksum = \"{}\"\n[images.golden]\npath = {golden:?}\n",
            site.server.url("/a.raw?token=s3cret"),
            site.server.url("/SUMS")
        );
        site.world.variant_file("../config.toml", &config);
        site
    }

    /// A reinstall, so that a failure leaves the disk untouched.
    fn create(&self, image: &str, with: impl Fn(Script) -> Script) -> (Outcome, Disk) {
        let target = Disk::stale(&self.world, "disk0", Kind::File, 3 * MIB);
        let create = self.world.create(target.path(), image, "").env("INSTANCE_REINSTALL", "1");
        (with(create).run(), target)
    }

    fn installs(&self, image: &str, with: impl Fn(Script) -> Script) -> String {
        let (outcome, target) = self.create(image, with);
        let log = outcome.succeeds();
        target.assert_holds(&self.image, &format!("{image}: {log}"));
        assert!(!log.contains("s3cret"), "{log}");
        log
    }

    /// `create` fails with these words, and so does `verify` if that can know.
    fn refuses(&self, image: &str, with: impl Fn(Script) -> Script, words: &[&str], verify_too: bool) {
        let (outcome, target) = self.create(image, &with);
        let log = outcome.fails(words);
        assert!(!log.contains("s3cret"), "{log}");
        target.assert_untouched(image);
        let verify = with(self.world.script("verify").arg("parameters").env("OSP_IMAGE", image)).run();
        if verify_too { drop(verify.fails(words)) } else { drop(verify.succeeds()) }
    }
}

fn plain(script: Script) -> Script {
    script
}

#[test]
fn a_name_is_enough() {
    let site = Site::new();
    let log = site.installs("debian-12", plain);
    assert!(log.contains("/a.raw onto disk") && log.contains("has the right checksum, sha256:"), "{log}");
    site.installs("golden", plain);
    // As the variant's own image too.
    site.world.variant_file("config.toml", "image = \"golden\"\n");
    site.installs("", plain);
}

#[test]
fn parameters_win_over_what_the_name_says() {
    let site = Site::new();
    let refuses = |name: &'static str, value: &'static str, words: &str| {
        site.refuses("debian-12", |script| script.env(name, value), &[words], false);
    };
    refuses("OSP_IMAGE_TYPE", "qcow2", "/a.raw is declared qcow2 but is not in qcow2 format");
    refuses(
        "OSP_IMAGE_CHECKSUM",
        WRONG,
        "but should have sha256:0000000000000000000000000000000000000000000000000000000000000000",
    );
    site.refuses(
        "debian-12",
        |script| script.env("OSP_IMAGE_SIGNATURE", "/none.sig"),
        &["the keyring /", "does not exist"],
        false,
    );
    let log = site.installs("debian-12", |script| script.env("OSP_IMAGE_CHECKSUM", "none"));
    assert!(!log.contains("checksum, sha256:"), "{log}");
}

/// What a name does not say is as for any image of the variant.
#[test]
fn the_variants_defaults_hold_where_the_name_says_nothing() {
    let site = Site::new();
    site.world.variant_file("config.toml", &format!("image_checksum = \"{WRONG}\"\n"));
    site.refuses(
        "golden",
        plain,
        &["but should have sha256:0000000000000000000000000000000000000000000000000000000000000000"],
        false,
    );
    site.installs("debian-12", plain);
}

#[test]
fn a_variants_image_replaces_the_sites_as_a_whole() {
    let site = Site::new();
    site.server.put("/b.raw", site.image.clone());
    let own = format!("[images.debian-12]\nurl = \"{}\"\n", site.server.url("/b.raw"));
    site.world.variant_file("config.toml", &own);
    let log = site.installs("debian-12", plain);
    assert!(log.contains("/b.raw onto disk") && !log.contains("checksum, sha256:"), "{log}");
    site.installs("golden", plain);
    let shown = site.world.tool(&["variants", "show", "default"]).run().output();
    let line = format!("images.debian-12 = {{ url = \"{}\" }}  # ", site.server.url("/b.raw"));
    assert!(shown.contains(&line), "{shown}");
}

#[test]
fn an_unknown_name_is_an_error_that_names_the_known_ones() {
    let site = Site::new();
    let words = "parameter image: image 'debain' is neither an absolute path nor an http or https URL, nor a name in \
                 config.toml (there are debian-12, golden; a file is written as /FOLDER/debain)";
    site.refuses("debain", plain, &[words], true);
    site.world.tool(&["fetch", "debain"]).run().fails(&[words]);
    // Which names there are is each variant's own: without one nobody can tell.
    let cluster = |image: &str| {
        let verify = site.world.script("verify").arg("parameters").without("OS_VARIANT").env("OSP_IMAGE", image);
        verify.env("OSP_IMAGE_TYPE", "raw").run()
    };
    cluster("debain").succeeds();
    cluster("de/bain").fails(&["image 'de/bain' is neither an absolute path nor an http or https URL"]);
    site.world.variant_file("../config.toml", "");
    site.refuses(
        "golden",
        plain,
        &["nor a name in config.toml (there are none; a file is written as /FOLDER/golden)"],
        true,
    );
}

#[test]
fn a_name_leads_around_no_policy() {
    let site = Site::new();
    site.world.variant_file("config.toml", "allowed_images = [\"/srv/images\"]\n");
    let words = "is not in a place that allowed_images lists";
    site.refuses("debian-12", plain, &["/a.raw", words], true);
    site.refuses("golden", plain, &[words], true);
    site.world.tool(&["fetch", "debian-12"]).run().fails(&[words]);
    site.world.variant_file("config.toml", "require_checksum = \"always\"\n");
    site.refuses("golden", plain, &["has no checksum, which this variant requires"], true);
    site.installs("debian-12", plain);
    let outcome = site.world.tool(&["check", "default"]).run();
    assert!(outcome.output().contains("error: image golden of variant default: image /"), "{}", outcome.output());
}

#[test]
fn fetch_takes_names_too() {
    let site = Site::new();
    let outcome = site.world.tool(&["fetch", "debian-12"]).run();
    assert!(outcome.succeeds().contains("has the right checksum, sha256:"));
    assert!(outcome.output().starts_with(&format!("image:  {}\ntype:   raw\n", site.server.url("/a.raw"))));
    site.installs("debian-12", plain);
    assert_eq!(site.server.gets("/a.raw"), 1);
    site.world.tool(&["fetch", "golden"]).run().fails(&["only images from an http or https URL are fetched"]);
}
