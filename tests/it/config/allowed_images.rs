// SPDX-License-Identifier: BSD-2-Clause
//! Where images may come from: `allowed_images`, and what instances' disks are safe from without it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{Script, World, tool};

const NOT_LISTED: &str = "is not in a place that allowed_images lists";

/// A node with an image in `images/` and another one in `elsewhere/`.
struct Site {
    world: World,
    image: Vec<u8>,
    inside: PathBuf,
    outside: PathBuf,
}

impl Site {
    fn new() -> Self {
        let (world, image) = (World::new(), disk(2 * MIB));
        let files = ["images/a.raw", "elsewhere/b.raw"].map(|name| world.path(name));
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            write_sparse(file, &image);
        }
        let [inside, outside] = files;
        Site { world, image, inside, outside }
    }

    fn allow(&self, places: &[&Path]) {
        let places: Vec<_> = places.iter().map(|place| format!("{:?}", place.display().to_string())).collect();
        self.world.variant_file("config.toml", &format!("allowed_images = [{}]\n", places.join(", ")));
    }

    fn installs(&self, image: &Path) {
        let target = Disk::stale(&self.world, "disk0", Kind::File, 3 * MIB);
        self.world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        target.assert_holds(&self.image, &image.display().to_string());
    }

    /// `create` fails with these words, and so does `verify` if `by_name`; the old disk is not touched by a reinstall.
    fn refuses(&self, image: &Path, words: &str, by_name: bool) {
        let image = image.to_str().unwrap();
        let target = Disk::stale(&self.world, "disk0", Kind::File, 3 * MIB);
        let create = self.world.create(target.path(), image, "raw").env("INSTANCE_REINSTALL", "1");
        create.run().fails(&[image, words]);
        target.assert_untouched(image);
        self.world.create(target.path(), image, "raw").run().fails(&[image, words]);
        let verify = self.world.script("verify").arg("parameters").env("OSP_IMAGE", image).run();
        if by_name { drop(verify.fails(&[image, words])) } else { drop(verify.succeeds()) }
    }
}

#[test]
fn files_come_from_listed_places_whatever_links_say() {
    let site = Site::new();
    site.installs(&site.outside);
    let images = site.world.path("images");
    site.allow(&[&images]);
    site.installs(&site.inside);
    site.refuses(&site.outside, NOT_LISTED, true);
    site.refuses(&images.join("../elsewhere/b.raw"), "has '..' in its path", true);

    let link = images.join("link.raw");
    symlink(&site.outside, &link).unwrap();
    let real = format!("is a link to {}, which {NOT_LISTED}", site.outside.display());
    site.refuses(&link, &real, false);
    symlink(site.world.path("elsewhere"), images.join("folder")).unwrap();
    site.refuses(&images.join("folder/b.raw"), &real, false);
    // Within the listed place links are fine, and it may be a link itself.
    let good = images.join("good.raw");
    symlink(&site.inside, &good).unwrap();
    site.installs(&good);
    let other_name = site.world.path("srv");
    symlink(&images, &other_name).unwrap();
    site.allow(&[&other_name]);
    site.installs(&other_name.join("a.raw"));
    site.refuses(&site.inside, NOT_LISTED, true);
    site.allow(&[&site.outside]);
    site.installs(&site.outside);
    // The site's list holds for a variant that has none of its own.
    site.world.variant_file("config.toml", "");
    site.world.variant_file("../config.toml", &format!("allowed_images = [{:?}]\n", images.display().to_string()));
    site.refuses(&site.outside, NOT_LISTED, true);
}

#[test]
fn instances_disks_are_no_images_unless_they_are_listed() {
    let site = Site::new();
    let storage = site.world.path("elsewhere");
    let list = site.world.path("etc/ganeti/file-storage-paths");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, format!("# Ganeti's\n{}\n", storage.display())).unwrap();
    let words = format!("is in {}, where instances' disks are", storage.display());
    site.installs(&site.inside);
    site.refuses(&site.outside, &words, false);
    let link = site.world.path("images/link.raw");
    symlink(&site.outside, &link).unwrap();
    site.refuses(&link, &words, false);
    site.allow(&[site.world.path("").as_path()]);
    site.refuses(&site.outside, &words, false);
    site.allow(&[&storage]);
    site.installs(&site.outside);
}

#[test]
fn a_block_device_is_an_image_only_under_its_own_name() {
    let site = Site::new();
    let device = Disk::over(site.outside.clone(), Kind::Block);
    let words = "is a block device (to use it, list exactly this device in allowed_images)";
    site.refuses(device.path(), words, false);
    site.allow(&[Path::new("/dev"), &site.world.path("images")]);
    site.refuses(device.path(), words, false);
    let name = site.world.path("golden");
    symlink(device.path(), &name).unwrap();
    site.allow(&[&name]);
    site.installs(&name);
    site.allow(&[device.path()]);
    site.installs(device.path());
    // Never onto itself, under whatever node.
    let node = site.world.path("node");
    let number = fs::metadata(device.path()).map(|data| std::os::unix::fs::MetadataExt::rdev(&data)).unwrap();
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFBLK, mode, number).unwrap();
    site.allow(&[&node]);
    let create = || site.world.create(device.path(), node.to_str().unwrap(), "raw");
    create().env("INSTANCE_REINSTALL", "1").run().fails(&["is the instance's disk itself"]);
    assert!(device.bytes() == site.image);
    // What is on a new disk is nobody's image, whatever a tenant says.
    create().run().fails(&["is the instance's disk itself"]);
    device.assert_unbootable("a new instance's");
}

#[test]
fn urls_come_from_listed_places_whatever_servers_say() {
    let site = Site::new();
    let elsewhere = Server::start({
        let image = site.image.clone();
        move |_, _| Reply::ok(image.clone())
    });
    let target = elsewhere.url("/x").to_string();
    let server = Server::start({
        let image = site.image.clone();
        move |request, _| {
            if request.target == "/images/away" { Reply::redirect(target.clone()) } else { Reply::ok(image.clone()) }
        }
    });
    let url = |path: &str| PathBuf::from(server.url(path).to_string());
    site.allow(&[&url("/images")]);
    site.installs(&url("/images/x"));
    site.refuses(&url("/other/x"), NOT_LISTED, true);
    site.refuses(&site.inside, NOT_LISTED, true);
    let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
    let create = site.world.create(target.path(), url("/images/away").to_str().unwrap(), "raw");
    create.run().fails(&[&elsewhere.url("/x").to_string(), NOT_LISTED, "but the server redirects to it"]);
    assert_eq!(elsewhere.requests().len(), 0);
    site.allow(&[&site.world.path("images")]);
    site.refuses(&url("/images/x"), NOT_LISTED, true);
}

#[test]
fn verify_judges_names_and_asks_nobody() {
    let site = Site::new();
    site.allow(&[&site.world.path("images"), Path::new("http://127.0.0.1:1/images")]);
    let verify = |image: &str| site.world.script("verify").arg("parameters").env("OSP_IMAGE", image);
    verify("http://127.0.0.1:1/images/x").run().succeeds();
    verify(site.world.path("images/missing.raw").to_str().unwrap()).run().succeeds();
    verify("http://joe:s3cret@127.0.0.1:1/x?k=s3cret").run().fails(&["http://127.0.0.1:1/x", NOT_LISTED]);
    // A cluster's OS parameters belong to no variant yet.
    verify("/anywhere").env("OS_VARIANT", "").run().succeeds();
}

/// A mount that is gone when it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn bind(from: &Path, to: &Path) -> Self {
        tool("mount", &["--bind", from.to_str().unwrap(), to.to_str().unwrap()]);
        Mount(to.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        tool("umount", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_kept_image_is_no_file_of_the_node_by_whatever_path() {
    let site = Site::new();
    let (own, config) = (site.world.path("own"), site.world.variant_file("../web/config.toml", ""));
    fs::write(config, format!("[cache]\ndir = \"{}\"\n", own.display())).unwrap();
    // Another variant whose settings are wrong makes no difference.
    site.world.variant_file("../broken/config.toml", "oops");
    let server = Server::sequence([Reply::ok(site.image.clone())]);
    let url = server.url("/a.raw").as_url().to_string();
    let fetch = |variant| {
        let outcome = site.world.tool(&["fetch", "--json", "--variant", variant, &url]).run();
        let json: serde_json::Value = serde_json::from_str(&outcome.output()).unwrap();
        PathBuf::from(json["path"].as_str().unwrap())
    };
    let (kept, others) = (fetch("default"), fetch("web"));
    let name = kept.file_name().unwrap();
    let [link, hard, folder, file] = ["link", "hard", "folder", "file"].map(|name| site.world.path(name));
    symlink(&kept, &link).unwrap();
    fs::hard_link(&kept, &hard).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "").unwrap();
    let words = "is a file of the cache, which gives images by their URLs only (name the image by its URL)";
    site.refuses(&kept, words, true);
    let _mounts = [Mount::bind(&site.world.cache(), &folder), Mount::bind(&kept, &file)];
    for path in [&others, &link, &hard, &folder.join(name), &file] {
        site.refuses(path, words, false);
    }
    // That the administrator lists it makes no difference.
    site.allow(&[&site.world.cache(), &own, &site.world.path("")]);
    site.refuses(&kept, words, true);
    site.refuses(&others, words, false);
    site.installs(&site.inside);
}

/// Runs the script in a mount namespace in which the folder or file `shown` is seen at `place` too.
fn with_bind_mount(script: Script, shown: &Path, place: &Path) -> Script {
    let bind = format!("mount --bind '{}' '{}' && exec \"$@\"", shown.display(), place.display());
    script.under("unshare", &["--mount", "--", "sh", "-c", &bind, "sh"])
}

#[test]
fn a_bind_mount_is_no_way_to_a_disk_of_an_instance() {
    let site = Site::new();
    let storage = site.world.path("elsewhere");
    let list = site.world.path("etc/ganeti/file-storage-paths");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, format!("{}\n", storage.display())).unwrap();
    fs::create_dir(storage.join("web1")).unwrap();
    fs::rename(&site.outside, storage.join("web1/disk0")).unwrap();
    let place = site.world.path("images/shown");
    let words = format!("is in {}, where instances' disks are", storage.display());
    for (shown, image) in [("elsewhere", "web1/disk0"), ("elsewhere/web1", "disk0"), ("elsewhere/web1/disk0", "")] {
        let shown = site.world.path(shown);
        if shown.is_dir() {
            fs::create_dir(&place).unwrap()
        } else {
            fs::write(&place, "").unwrap()
        }
        let image = if image.is_empty() { place.clone() } else { place.join(image) };
        let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
        let create = site.world.create(target.path(), image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", "1");
        with_bind_mount(create, &shown, &place).run().fails(&[image.to_str().unwrap(), &words]);
        target.assert_untouched(image.to_str().unwrap());
        if shown.is_dir() { fs::remove_dir(&place).unwrap() } else { fs::remove_file(&place).unwrap() }
    }
}

#[test]
fn dumps_of_ganeti_are_no_images_either() {
    let site = Site::new();
    let dump = site.world.path("var/lib/ganeti/export/web1/disk0.snap");
    fs::create_dir_all(dump.parent().unwrap()).unwrap();
    fs::rename(&site.outside, &dump).unwrap();
    site.refuses(&dump, "var/lib/ganeti/export, where instances' disks are", false);
    site.allow(&[dump.parent().unwrap()]);
    site.installs(&dump);
}

#[test]
fn an_image_that_others_could_have_written_is_told_and_refused_where_images_are_listed() {
    let site = Site::new();
    fs::set_permissions(&site.inside, fs::Permissions::from_mode(0o666)).unwrap();
    let words = "could be written by others: its mode 0666 lets others write the image (check it, then chmod go-w)";
    let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
    let log = site.world.create(target.path(), site.inside.to_str().unwrap(), "raw").run().succeeds();
    assert!(log.contains(words), "{log}");
    site.allow(&[site.inside.parent().unwrap()]);
    site.refuses(&site.inside, words, false);
    fs::set_permissions(&site.inside, fs::Permissions::from_mode(0o644)).unwrap();
    site.installs(&site.inside);
    // Whoever can write to the folder can put another file there.
    fs::set_permissions(site.inside.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    site.refuses(&site.inside, "lets others write the image", false);
}

/// A signature that is a file of the node is one from there, as an image is.
#[test]
fn a_signature_comes_from_a_listed_place_too() {
    let site = Site::new();
    site.allow(&[site.inside.parent().unwrap()]);
    fs::write(site.world.variant_file("keyring.gpg", ""), "keys").unwrap();
    let link = site.inside.with_extension("sig");
    symlink(&site.outside, &link).unwrap();
    for (signature, words) in
        [(&site.outside, NOT_LISTED), (&link, "which is not in a place that allowed_images lists")]
    {
        let target = Disk::stale(&site.world, "disk0", Kind::File, 3 * MIB);
        let create = site.world.create(target.path(), site.inside.to_str().unwrap(), "raw");
        let create = create.env("INSTANCE_REINSTALL", "1").env("OSP_IMAGE_SIGNATURE", signature.to_str().unwrap());
        create.run().fails(&[signature.to_str().unwrap(), words]);
        target.assert_untouched("a signature from elsewhere");
    }
}
