// SPDX-License-Identifier: BSD-2-Clause
//! Images with signatures: of the image itself, and of a SUMS file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Published, image_file, sums, two_images};
use crate::support::disk::{Disk, Kind};
use crate::support::gpg::Key;
use crate::support::images::MIB;
use crate::support::world::{Outcome, World};

/// A node that trusts `key`, and a server with an image.
struct Site {
    world: World,
    server: Published,
    target: Disk,
    image: Vec<u8>,
    key: Key,
}

impl Site {
    fn new() -> Self {
        let (world, key) = (World::new(), Key::new());
        let image = image_file(&world.path("disk.raw"), 3 * MIB);
        let server = Published::new(&[
            ("/disk.raw", &image),
            ("/disk.raw.sig", &key.sign(&image, &[])),
            ("/SUMS", sums("sha512sum", &[], &world.path("disk.raw")).as_bytes()),
        ]);
        server.put("/SUMS.asc", key.sign(sums("sha512sum", &[], &world.path("disk.raw")).as_bytes(), &["--armor"]));
        fs::write(world.variant_file("keyring.gpg", ""), key.public()).unwrap();
        let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
        Site { world, server, target, image, key }
    }

    fn create(&self, image: &str, checksum: &str, signature: &str, reinstall: &str) -> Outcome {
        let script = self.world.create(self.target.path(), image, "").env("INSTANCE_REINSTALL", reinstall);
        script.env("OSP_IMAGE_CHECKSUM", checksum).env("OSP_IMAGE_SIGNATURE", signature).run()
    }
}

#[test]
fn a_good_signature_of_the_image_or_of_the_sums_is_taken() {
    let site = Site::new();
    let local = site.world.path("local.sig");
    fs::write(&local, site.key.sign(&site.image, &["--armor"])).unwrap();
    let (local, file) = (local.to_str().unwrap(), site.world.path("disk.raw"));
    let (url, sums) = (site.server.url("/disk.raw"), site.server.url("/SUMS"));
    for image in [url.as_str(), file.to_str().unwrap()] {
        for (checksum, signature, good) in [
            ("none", site.server.url("/disk.raw.sig?t=1").as_str(), "disk.raw has a good signature"),
            ("none", local, "disk.raw has a good signature"),
            (&sums, &site.server.url("/SUMS.asc"), "/SUMS has a good signature"),
        ] {
            for reinstall in ["0", "1"] {
                let log = site.create(image, checksum, signature, reinstall).succeeds();
                assert!(log.contains(good), "{log}");
                site.target.assert_holds(&site.image, signature);
            }
        }
    }
    assert_eq!(site.server.gets("/disk.raw"), 1);
}

#[test]
fn a_bad_signature_leaves_no_bootable_disk_and_no_entry() {
    let (_, wrong) = two_images();
    let site = Site::new();
    let other = Key::new();
    site.server.put("/wrong.raw", wrong.clone());
    site.server.put("/SUMS.other", other.sign(b"x", &[]));
    site.server.put("/foreign.sig", other.sign(&wrong, &[]));
    let file = site.world.path("wrong.raw");
    fs::write(&file, &wrong).unwrap();
    for image in [site.server.url("/wrong.raw"), file.to_str().unwrap().to_owned()] {
        for (signature, reason) in [
            ("/disk.raw.sig", "/disk.raw.sig is no valid signature of"),
            ("/foreign.sig", "the key that made it is not in the keyring"),
            ("/none.sig", "/none.sig: the server answered 404"),
        ] {
            for reinstall in ["1", "0"] {
                let target = Disk::stale(&site.world, "disk0", Kind::File, 6 * MIB);
                site.create(&image, "none", &site.server.url(signature), reinstall).fails(&[reason]);
                if reinstall == "1" { target.assert_untouched(reason) } else { target.assert_unbootable(reason) }
            }
        }
    }
    let kept = fs::read_dir(site.world.cache()).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(kept.filter(|path| path.extension().is_some_and(|e| e == "img" || e == "toml")).count(), 0);
}

#[test]
fn a_sums_file_without_its_signature_is_not_believed() {
    let site = Site::new();
    let image = site.server.url("/disk.raw");
    site.server.put("/SUMS", "changed since");
    let target = Disk::stale(&site.world, "disk0", Kind::File, 6 * MIB);
    for reinstall in ["1", "0"] {
        let outcome = site.create(&image, &site.server.url("/SUMS"), &site.server.url("/SUMS.asc"), reinstall);
        outcome.fails(&["/SUMS.asc is no valid signature of http://127.0.0.1", "/SUMS: the signature is bad"]);
        if reinstall == "1" { target.assert_untouched("reinstall") } else { target.assert_unbootable("create") }
    }
    assert_eq!(site.server.gets("/disk.raw"), 0);
}

#[test]
fn only_a_keyring_that_nobody_else_could_have_written_is_used() {
    let site = Site::new();
    let (image, signature) = (site.server.url("/disk.raw"), site.server.url("/disk.raw.sig"));
    let own = site.world.variant_file("keyring.gpg", "");
    let create = || site.create(&image, "none", &signature, "1");
    create().fails(&["the key that made it is not in the keyring"]);
    fs::write(&own, site.key.armoured()).unwrap();
    create().fails(&["keyring.gpg is armoured text, which gpgv can't read (use gpg --dearmor)"]);
    fs::write(&own, site.key.public()).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o666)).unwrap();
    create().fails(&["refusing ", "keyring.gpg: its mode 0666 lets others write"]);
    fs::remove_file(&own).unwrap();
    create().fails(&["the keyring ", "keyring.gpg does not exist (gpg --export KEY writes one)"]);
    let elsewhere = site.world.path("trusted.gpg");
    fs::write(&elsewhere, site.key.public()).unwrap();
    site.world
        .variant_file("config.toml", &format!("keyring = \"{}\"\nrequire_signature = true\n", elsewhere.display()));
    create().succeeds();
    site.target.assert_holds(&site.image, "the keyring of the config");
}
