// SPDX-License-Identifier: BSD-2-Clause
//! Images that a variant refuses without a checksum or a signature, and parameters that are none.

use super::Published;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk};
use crate::support::world::World;

const WITHOUT: &str = "has no checksum, which this variant requires of images";

#[test]
fn create_and_verify_refuse_an_image_without_a_required_checksum() {
    let world = World::new();
    let file = world.path("disk.raw");
    std::fs::write(&file, disk(MIB)).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let server = Published::new(&[("/disk.raw", &disk(MIB))]);
    let url = server.url("/disk.raw?token=s3cret");
    let https = "https://joe:s3cret@images.example/disk.raw".to_owned();
    for (policy, refused, taken) in [
        ("never", vec![], vec![&file, &url]),
        ("http", vec![&url, &https], vec![&file]),
        ("always", vec![&url, &https, &file], vec![]),
    ] {
        world.variant_file("config.toml", &format!("require_checksum = \"{policy}\"\n"));
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        for image in refused {
            let verify = || world.script("verify").arg("parameters").env("OSP_IMAGE", image);
            let log = verify().run().fails(&[WITHOUT]);
            let create = || world.create(target.path(), image, "");
            let log = create().run().fails(&[WITHOUT]) + &log;
            assert!(!log.contains("s3cret"), "{log}");
            target.assert_unbootable(policy);
            verify().env("OSP_IMAGE_CHECKSUM", "none").run().fails(&[WITHOUT]);
            verify().env("OSP_IMAGE_CHECKSUM", &format!("sha256:{}", "0".repeat(64))).run().succeeds();
        }
        for image in taken {
            world.script("verify").arg("parameters").env("OSP_IMAGE", image).run().succeeds();
            world.create(target.path(), image, "").run().succeeds();
        }
    }
    // Ganeti verifies parameters of which the image is none.
    world.script("verify").arg("parameters").run().succeeds();
    world.script("verify").arg("parameters").without("OS_VARIANT").env("OSP_IMAGE", &url).run().succeeds();
}

#[test]
fn a_required_signature_has_to_be_named() {
    let world = World::new();
    world.variant_file("config.toml", "require_signature = true\n");
    let verify = || world.script("verify").arg("parameters").env("OSP_IMAGE", "/srv/disk.raw");
    verify().run().fails(&["image /srv/disk.raw has no signature, which this variant requires"]);
    verify().env("OSP_IMAGE_SIGNATURE", "none").run().fails(&["has no signature"]);
    // No server is asked and no keyring opened.
    verify().env("OSP_IMAGE_SIGNATURE", "http://127.0.0.1:1/x.sig").run().succeeds();
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), "/srv/disk.raw", "").run().fails(&["has no signature"]);
    target.assert_unbootable("refused");
}

#[test]
fn parameters_that_are_none_are_named_without_their_text() {
    let world = World::new();
    let verify = || world.script("verify").arg("parameters").env("OSP_IMAGE", "/srv/disk.raw");
    for (text, reason) in [
        ("md5:s3cret", "parameter image_checksum: not a checksum (use sha256:HEX, sha512:HEX, or the URL"),
        ("sha256:s3cret", "parameter image_checksum: a sha256 checksum has 64 hex digits"),
        ("ftp://s3cret@h/SUMS", "parameter image_checksum: the SUMS file's URL can't be used: the URL scheme 'ftp'"),
    ] {
        let log = verify().env("OSP_IMAGE_CHECKSUM", text).run().fails(&[reason]);
        assert!(!log.contains("s3cret"), "{log}");
    }
    for text in ["s3cret", "ftp://s3cret@h/x", "joe:s3cret@h/x", "x?s3cret"] {
        let reason = "parameter image_signature: neither an absolute path nor an http or https URL";
        let log = verify().env("OSP_IMAGE_SIGNATURE", text).run().fails(&[reason]);
        assert!(!log.contains("s3cret"), "{log}");
    }
}

#[test]
fn the_config_gives_defaults_that_a_parameter_takes_back() {
    let world = World::new();
    let wrong = format!("sha256:{}", "0".repeat(64));
    world.variant_file("config.toml", &format!("image_checksum = \"{wrong}\"\nimage_signature = \"/nonexistent\"\n"));
    let file = world.path("disk.raw");
    std::fs::write(&file, disk(MIB)).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let create = || world.create(target.path(), file.to_str().unwrap(), "").env("OSP_IMAGE_SIGNATURE", "none");
    create().run().fails(&["but should have sha256:0000000000000000000000000000000000000000000000000000000000000000"]);
    create().env("OSP_IMAGE_CHECKSUM", "none").run().succeeds();
    let script = world.create(target.path(), file.to_str().unwrap(), "").env("OSP_IMAGE_CHECKSUM", "none");
    script.run().fails(&["keyring.gpg does not exist (gpg --export KEY writes one)"]);
}
