// SPDX-License-Identifier: BSD-2-Clause
//! What the cache keeps, when it is no longer what it should be, or can't be asked about.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::{Published, image_file, literal, sums};
use crate::support::disk::{Disk, Kind};
use crate::support::gpg::Key;
use crate::support::images::{MIB, disk};
use crate::support::server::Reply;
use crate::support::world::{Outcome, World};

/// A node, a disk, and a server with an image and its SUMS file.
struct Site {
    world: World,
    server: Published,
    target: Disk,
    image: Vec<u8>,
    file: PathBuf,
}

impl Site {
    fn new(config: &str) -> Self {
        let world = World::new();
        world.variant_file("config.toml", &format!("{config}\n[http]\nretries = 0\n"));
        let file = world.path("disk.raw");
        let image = image_file(&file, 3 * MIB);
        let server = Published::new(&[("/disk.raw", &image), ("/SUMS", sums("sha256sum", &[], &file).as_bytes())]);
        let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
        Site { world, server, target, image, file }
    }

    /// The publisher puts another image into its place.
    fn publish(&mut self, len: usize) {
        self.image = disk(len);
        fs::write(&self.file, &self.image).unwrap();
        self.server.put("/disk.raw", self.image.clone());
        self.server.put("/SUMS", sums("sha256sum", &[], &self.file));
    }

    fn create(&self, checksum: &str, reinstall: &str) -> Outcome {
        let script = self.world.create(self.target.path(), &self.server.url("/disk.raw"), "");
        script.env("OSP_IMAGE_CHECKSUM", checksum).env("INSTANCE_REINSTALL", reinstall).run()
    }

    fn sums(&self) -> String {
        self.server.url("/SUMS?token=s3cret")
    }

    fn kept(&self, suffix: &str) -> PathBuf {
        let mut names = fs::read_dir(self.world.cache()).unwrap().map(|entry| entry.unwrap().path());
        names.find(|path| path.extension().is_some_and(|extension| extension == suffix)).unwrap()
    }

    /// The entry as it would be after a while: fresh, but from before this run.
    fn age(&self) {
        let path = self.kept("toml");
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.starts_with("fetched_at")).unwrap();
        fs::write(&path, text.replace(line, "fetched_at = 1700000000")).unwrap();
    }
}

#[test]
fn a_kept_image_that_was_replaced_by_its_publisher_is_downloaded_again() {
    for reinstall in ["0", "1"] {
        let mut site = Site::new("");
        site.create(&site.sums(), reinstall).succeeds();
        site.age();
        site.publish(5 * MIB);
        let log = site.create(&site.sums(), reinstall).succeeds();
        assert!(
            log.contains("but should have sha256:") && log.contains("is intact; asking the server for another one"),
            "{log}"
        );
        site.target.assert_holds(&site.image, reinstall);
        assert_eq!(site.server.gets("/disk.raw"), 2);
        assert_eq!(site.server.gets("/SUMS"), 2);
    }
}

#[test]
fn an_intact_image_that_another_run_asks_for_otherwise_stays() {
    for (reinstall, etag) in [("0", true), ("1", true), ("1", false)] {
        let site = Site::new("");
        let reply = Reply::ok(site.image.clone());
        site.server.reply("/disk.raw", if etag { reply.header("ETag", "\"one\"") } else { reply });
        site.create("none", "1").succeeds();
        site.age();
        if etag {
            site.server.reply("/disk.raw", Reply::status(304).header("ETag", "\"one\""));
        }
        let wrong = format!("sha256:{}", "0".repeat(64));
        let found = literal("sha256", &site.file);
        let reason = format!("has checksum {found} but should have {}", wrong);
        let log = site.create(&wrong, reinstall).fails(&[&reason]);
        assert!(log.contains("the kept image is intact; asking the server for another one"), "{log}");
        assert!(log.contains("the kept image is intact, and the server has no other one: "), "{log}");
        assert!(!log.contains("downloading http"), "not all of it comes again: {log}");
        if reinstall == "1" {
            site.target.assert_holds(&site.image, "the old system is still there");
        }
        assert_eq!(site.server.gets("/disk.raw"), 2, "once, and only once");
        // It is still there, for whoever asks for it.
        let log = site.create(&literal("sha256", &site.file), "1").succeeds();
        assert!(
            log.contains("had the right checksum when it was downloaded") && !log.contains("has the right"),
            "{log}"
        );
        assert_eq!(site.server.gets("/disk.raw"), 2);
    }
}

/// Whether the server was asked because the image is old, or because it does not match.
#[test]
fn what_the_server_has_now_replaces_a_kept_image_only_if_it_matches() {
    for (config, algorithm, reinstall) in [
        ("", "sha256", "1"),
        ("", "sha512", "0"),
        ("[cache]\nmax_age_days = 0", "sha256", "1"),
        ("[cache]\nmax_age_days = 0", "sha512", "0"),
    ] {
        let mut site = Site::new(config);
        let (kept, checksum) = (site.image.clone(), literal("sha256", &site.file));
        site.create("none", "0").succeeds();
        site.age();
        site.publish(5 * MIB);
        let (found, wrong) = (
            literal(algorithm, &site.file),
            format!("{algorithm}:{}", "0".repeat(if algorithm == "sha256" { 64 } else { 128 })),
        );
        site.create(&wrong, reinstall).fails(&[&format!("has checksum {found} but should have {}", wrong)]);
        assert!(fs::read(site.kept("img")).unwrap() == kept, "{config} {algorithm}");
        site.world.variant_file("config.toml", "");
        site.create(&checksum, "0").succeeds();
        site.target.assert_holds(&kept, "the kept image");
    }
}

#[test]
fn an_image_that_agreed_before_serves_while_the_sums_are_out_of_reach() {
    let mut site = Site::new("");
    site.create(&site.sums(), "0").succeeds();
    site.server.reply("/SUMS", Reply::status(503));
    site.server.reply("/disk.raw", Reply::status(503));
    let log = site.create(&site.sums(), "1").succeeds();
    let warning =
        "/SUMS: the server answered 503 Service Unavailable; using the kept image, which agreed with it before";
    assert!(log.contains(warning) && !log.contains("s3cret"), "{log}");
    site.target.assert_holds(&site.image, "the kept image");
    // Not for another SUMS file, not when it is gone, not for an image that came since, and not where it is forbidden.
    site.create(&site.server.url("/SUMS"), "1").fails(&["/SUMS: the server answered 503"]);
    site.server.reply("/SUMS", Reply::status(404));
    site.create(&site.sums(), "1").fails(&["/SUMS: the server answered 404"]);
    site.server.reply("/SUMS", Reply::status(503));
    site.world.variant_file("config.toml", "[http]\nretries = 0\n[cache]\nstale_if_error = false\n");
    site.create(&site.sums(), "1").fails(&["/SUMS: the server answered 503"]);
    site.world.variant_file("config.toml", "[http]\nretries = 0\n[cache]\nmax_age_days = 0\n");
    site.publish(4 * MIB);
    site.create("none", "1").succeeds();
    site.server.reply("/SUMS", Reply::status(503));
    site.create(&site.sums(), "1").fails(&["/SUMS: the server answered 503"]);
}

#[test]
fn a_damaged_kept_image_is_noticed_where_that_is_asked_for() {
    for (checksum, reinstall) in [("none", "0"), ("none", "1"), ("sums", "0"), ("sha512", "0")] {
        let site = Site::new("[cache]\nverify_cached = true");
        let checksum = match checksum {
            "none" => "none".to_owned(),
            "sums" => site.sums(),
            _ => literal("sha512", &site.file),
        };
        site.create(&checksum, reinstall).succeeds();
        site.age();
        let kept = File::options().write(true).open(site.kept("img")).unwrap();
        kept.write_all_at(b"x", 2 * MIB as u64).unwrap();
        let log = site.create(&checksum, reinstall).succeeds();
        assert!(
            log.contains("warning: the kept image http://127.0.0.1:")
                && log.contains("is damaged: its checksum is sha256:"),
            "{log}"
        );
        site.target.assert_holds(&site.image, &checksum);
        assert_eq!(site.server.gets("/disk.raw"), 2);
    }
}

#[test]
fn a_sha512_or_a_file_is_read_anew_each_time() {
    let site = Site::new("");
    let checksum = literal("sha512", &site.file);
    site.create(&checksum, "0").succeeds();
    site.age();
    File::options().write(true).open(site.kept("img")).unwrap().write_all_at(b"x", 2 * MIB as u64).unwrap();
    let log = site.create(&checksum, "0").succeeds();
    assert!(
        log.contains("but should have sha512:") && log.contains("the kept image is damaged; downloading it"),
        "{log}"
    );
    site.target.assert_holds(&site.image, "downloaded again");
}

#[test]
fn a_wrong_checksum_costs_its_own_create_and_nobody_else() {
    for (reinstall, wrong) in [("0", "sha256"), ("1", "sha256"), ("0", "sha512"), ("1", "signature")] {
        let site = Site::new("");
        let image = site.image.clone();
        site.server.reply("/disk.raw", Reply::ok(image.clone()).header("ETag", "\"one\""));
        site.create(&literal("sha256", &site.file), "0").succeeds();
        site.server.reply("/disk.raw", Reply::status(304).header("ETag", "\"one\""));
        let kept = (fs::read(site.kept("img")).unwrap(), fs::metadata(site.kept("img")).unwrap().ino());
        if wrong == "signature" {
            let (key, signature) = (Key::new(), site.world.path("disk.raw.sig"));
            fs::write(site.world.variant_file("keyring.gpg", ""), key.public()).unwrap();
            fs::write(&signature, key.sign(b"another image", &[])).unwrap();
            let script = site.world.create(site.target.path(), &site.server.url("/disk.raw"), "");
            let script = script.env("OSP_IMAGE_SIGNATURE", signature.to_str().unwrap());
            script.env("INSTANCE_REINSTALL", reinstall).run().fails(&["the kept image is intact"]);
        } else {
            let digits = if wrong == "sha256" { 64 } else { 128 };
            let checksum = format!("{wrong}:{}", "0".repeat(digits));
            site.create(&checksum, reinstall).fails(&["the kept image is intact, and the server has no other one"]);
        }
        assert!((fs::read(site.kept("img")).unwrap(), fs::metadata(site.kept("img")).unwrap().ino()) == kept);
        let log = site.create(&literal("sha256", &site.file), "0").succeeds();
        assert!(log.contains("/disk.raw is in the cache"), "{log}");
        site.target.assert_holds(&image, wrong);
        let asked = site.server.server.requests();
        let downloads = asked.iter().filter(|request| request.header("if-none-match").is_none());
        assert_eq!(downloads.filter(|request| request.target == "/disk.raw").count(), 1, "{wrong}");
    }
}

/// A server under maintenance answers every request with a page, and 200.
#[test]
fn a_page_takes_no_kept_images_place() {
    for (config, page, reinstall) in [
        ("[cache]\nmax_age_days = 0", "<!DOCTYPE html><title>Back soon</title>".to_owned(), "1"),
        ("[cache]\nmax_age_days = 0", "<!DOCTYPE html><title>Back soon</title>".to_owned(), "0"),
        ("[cache]\nmax_age_days = 0", format!("<html>{}", "later ".repeat(400_000)), "1"),
        ("[cache]\nmax_age_days = 0", "{\"error\": \"later\"}\n".to_owned(), "0"),
    ] {
        let site = Site::new(config);
        site.create("none", "0").succeeds();
        site.server.put("/disk.raw", page.clone());
        let log = site.create("none", reinstall).fails(&["/disk.raw is "]);
        assert!(!log.contains("downloading it again"), "{log}");
        assert!(fs::read(site.kept("img")).unwrap() == site.image, "{page:.30}");
        // The server is there again.
        site.server.reply("/disk.raw", Reply::status(304));
        site.world.variant_file("config.toml", "");
        site.create("none", "0").succeeds();
        site.target.assert_holds(&site.image, "the kept image");
    }
}
