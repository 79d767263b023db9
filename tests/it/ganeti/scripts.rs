// SPDX-License-Identifier: BSD-2-Clause
//! What all scripts have in common, verify, and variants.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::proxy::TestProxy;
use crate::support::server::{Reply, Server};
use crate::support::tls::Authority;
use crate::support::world::{Outcome, World};

const BINARY: &str = env!("CARGO_BIN_EXE_simpleimage");
const SCRIPTS: [&str; 5] = ["create", "export", "import", "rename", "verify"];

#[test]
fn the_name_it_is_called_by_decides() {
    let world = World::new();
    for name in SCRIPTS {
        let link = world.path(name);
        symlink(BINARY, &link).unwrap();
        for help in ["-h", "--help"] {
            let outcome = Outcome(Command::new(&link).arg(help).output().unwrap());
            outcome.succeeds();
            let text = String::from_utf8(outcome.0.stdout).unwrap();
            assert!(text.starts_with(&format!("usage: {name}")) && text.is_ascii(), "{text}");
        }
        for args in [&["--frobnicate"] as &[_], &["parameters", "more"], &["-h", "x"]] {
            let outcome = Outcome(Command::new(&link).args(args).output().unwrap());
            let log = outcome.fails(&[&format!("these arguments are not for {name}")]);
            assert!(log.contains(&format!("usage: {name}")), "{log}");
            assert_eq!((outcome.0.status.code(), outcome.0.stdout.as_slice()), (Some(2), b"" as &[u8]));
        }
    }
    let link = world.path("destroy");
    symlink(BINARY, &link).unwrap();
    let outcome = Outcome(Command::new(&link).output().unwrap());
    outcome.fails(&["called as 'destroy', which is not one of create, export, import, rename, verify and simpleimage"]);
}

#[test]
fn verify_checks_syntax_and_policy() {
    let world = World::new();
    let verify = || world.script("verify").arg("parameters");
    let accepted: [&[(&str, &str)]; 6] = [
        &[],
        &[("OSP_IMAGE", "/nonexistent/image.raw")],
        &[("OSP_IMAGE", "http://127.0.0.1:1/down.raw"), ("OSP_IMAGE_TYPE", "raw")],
        &[("OSP_IMAGE", "https://nowhere.invalid/x"), ("OSP_IMAGE_TYPE", "qcow2+zst")],
        &[("OSP_IMAGE_TYPE", "auto")],
        // gnt-cluster modify of an OS without naming a variant.
        &[("OSP_IMAGE_TYPE", "raw+bzip2"), ("OS_VARIANT", "")],
    ];
    for variables in accepted {
        let script = variables.iter().fold(verify(), |script, (name, value)| script.env(name, value));
        // Instance variables are not there.
        let outcome = script.without("INSTANCE_NAME").without("DISK_COUNT").run();
        assert_eq!(outcome.succeeds(), "", "{variables:?}");
    }
    let refused = [
        (
            "OSP_IMAGE_TYPE",
            "qed",
            "parameter image_type: unknown image type 'qed' (use auto, raw, qcow2, vmdk, vdi, vhdx or tar",
        ),
        (
            "OSP_IMAGE_TYPE",
            "vmdk",
            "parameter image_type: this variant takes only raw, qcow2 (add \"vmdk\" to image_formats",
        ),
        ("OSP_IMAGE", "disk.raw", "parameter image: image 'disk.raw' is neither an absolute path nor an http"),
        (
            "OSP_IMAGE",
            "ftp://u:secret@host/x",
            "parameter image: the image's URL can't be used: the URL scheme 'ftp' is not supported",
        ),
        ("OS_VARIANT", "../evil", "../evil"),
        ("OS_API_VERSION", "15", "Ganeti speaks OS interface version 15"),
    ];
    for (name, value, reason) in refused {
        let log = verify().env(name, value).run().fails(&[reason]);
        assert!(!log.contains("secret"), "{log}");
    }
    world.script("verify").run().fails(&["these arguments are not for verify"]);
}

#[test]
fn a_variant_gives_defaults_for_image_and_type() {
    let world = World::new();
    let image = disk(MIB);
    let file = encode(&world, &image, "raw+gz");
    world.variant_file("config.toml", &format!("image = \"{}\"\nimage_type = \"raw+gz\"\n", file.display()));
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let script = || world.script("create").env("DISK_0_PATH", target.path().to_str().unwrap());
    script().run().succeeds();
    target.assert_holds(&image, "the variant's image");
    script().env("OSP_IMAGE_TYPE", "raw+xz").run().fails(&["is declared raw+xz but is in gz compression"]);
}

#[test]
fn hostile_variants_and_configs_run_nothing() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let marker = world.path("executed");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let touch = format!("$(touch {})", marker.display());
    let create = || world.create(target.path(), image.to_str().unwrap(), "raw");
    for (name, reason) in [
        ("../evil", "../evil"),
        ("", "OS_VARIANT is empty"),
        ("a b", "a b"),
        (".hidden", ".hidden"),
        ("x/y", "x/y"),
        ("-n", "-n"),
    ] {
        create().env("OS_VARIANT", name).run().fails(&[reason]);
        if !name.is_empty() {
            world.script("rename").env("OS_VARIANT", name).env("DISK_0_PATH", "/x").run().fails(&[reason]);
        }
    }
    for (file, content, reason) in [
        ("config", format!("PROXY={touch}\n"), "config"),
        ("config", format!("touch {}\n", marker.display()), "config"),
        ("config", "PROXXY=http://x\n".to_owned(), "PROXXY"),
        ("config.toml", "unknown_key = 1\n".to_owned(), "unknown_key"),
        ("config.toml", "image = [\n".to_owned(), "config.toml"),
    ] {
        let path = world.variant_file(file, &content);
        create().run().fails(&[reason]);
        fs::remove_file(path).unwrap();
    }
    world.variant_file("config", "");
    world.variant_file("config.toml", "");
    create().run().fails(&["config.toml"]);
    assert!(!marker.exists(), "a config was executed");
    target.assert_unbootable("refused before the image was opened");
}

#[test]
fn missing_variables_are_named() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let script = || world.script("create").env("OSP_IMAGE", image.to_str().unwrap());
    script().run().fails(&["DISK_0_PATH is missing or empty"]);
    script().env("DISK_COUNT", "0").run().fails(&["the instance has no disk to install onto"]);
    script()
        .env("DISK_0_URI", "rbd:pool/x")
        .run()
        .fails(&["DISK_0_PATH is empty: the instance's disk has only a URI of type "]);
    script().env("DISK_0_PATH", "/nonexistent").run().fails(&["opening disk /nonexistent: No such file"]);
    script()
        .env("DISK_0_PATH", "/dev/null")
        .run()
        .fails(&["disk /dev/null is neither a block device nor a regular file"]);
    script().env("DISK_0_PATH", "/").run().fails(&["disk / is neither a block device nor a regular file"]);
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let script = script().env("DISK_0_PATH", target.path().to_str().unwrap());
    script.without("INSTANCE_NAME").run().fails(&["INSTANCE_NAME is missing or empty"]);
}

#[test]
fn a_second_create_on_the_same_disk_is_refused_in_the_hooks_phase_too() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    for kind in crate::support::disk::KINDS {
        let target = Disk::stale(&world, "disk0", kind, MIB);
        let (started, go) = (world.path("started"), world.path("go"));
        world.hook(
            "hooks/wait",
            &format!("touch {}; while ! test -e {}; do sleep 0.01; done", started.display(), go.display()),
        );
        let first = world.create(target.path(), image.to_str().unwrap(), "raw").spawn();
        crate::support::world::wait_until("the hook runs", || started.exists());
        // Without hooks of its own, which would wait too.
        world.variant_file("../other/config.toml", "");
        let second = world.create(target.path(), image.to_str().unwrap(), "raw").env("OS_VARIANT", "other").run();
        fs::write(&go, "").unwrap();
        Outcome(first.wait_with_output().unwrap()).succeeds();
        second.fails(&["is in use"]);
        for file in [started, go] {
            fs::remove_file(file).unwrap();
        }
    }
}

/// The predecessor's config, all of its keys, for an http and an https image.
#[test]
fn the_predecessors_config_is_honoured() {
    let world = World::new();
    let image = disk(2 * MIB);
    let authority = Authority::new();
    let ca_file = world.path("ca.pem");
    authority.save(&ca_file);
    let body = image.clone();
    let plain = Server::start(move |_, _| Reply::ok(body.clone()));
    let body = image.clone();
    let tls = Server::start_tls(authority.server_config("images.example"), move |_, _| Reply::ok(body.clone()));
    for (server, url) in [(&plain, "http://images.example/disk.raw"), (&tls, "https://images.example/disk.raw")] {
        let proxy = TestProxy::start(server.address(), None);
        let storage = world.path("storage");
        fs::create_dir_all(&storage).unwrap();
        world.variant_file(
            "config",
            &format!(
                "# the shell version's\nPROXY=http://joe:hunter2@{}\nIMAGE_STORAGE=\"{}\"\nDOWNLOAD_CACHE_MAX_DAYS=3\n\
                 CUSTOM_CURL_OPTS=\"--silent --cacert {} -H 'X-Token: s3cret' -A 'curl/7' --retry 2\"\n",
                proxy.address(),
                storage.display(),
                ca_file.display()
            ),
        );
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let log = world.create(target.path(), url, "raw").run().succeeds();
        target.assert_holds(&image, url);
        assert!(!log.contains("hunter2") && !log.contains("s3cret"), "{log}");
        let asked = &proxy.requests()[0];
        let basic = "Basic am9lOmh1bnRlcjI=";
        assert_eq!(asked.header("Proxy-Authorization"), Some(basic), "{asked:?}");
        let request = &server.requests()[0];
        assert_eq!(request.header("X-Token"), Some("s3cret"));
        assert_eq!(request.header("User-Agent"), Some("curl/7"));
        let kept = fs::read_dir(storage.join("ganeti-instance-simpleimage")).unwrap();
        assert!(kept.map(|entry| entry.unwrap().path()).any(|path| path.extension().is_some_and(|end| end == "img")));
    }
    assert!(!world.cache().exists());
}
