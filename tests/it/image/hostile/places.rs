// SPDX-License-Identifier: BSD-2-Clause
//! Things that are no image files, under the names of images.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::{Case, Site, by_name, case};
use crate::support::server::Reply;
use crate::support::world::tool;

#[test]
fn what_is_no_file_or_may_not_be_read_is_refused() {
    Site::new("").refuses(&cases());
}

/// Where the images of these cases are, for `allowed_images`.
#[test]
fn a_link_out_of_an_allowed_place_brings_nothing_in() {
    let site = Site::new("");
    let folder = site.world.path("images");
    fs::create_dir(&folder).unwrap();
    symlink(&site.secret, folder.join("link.raw")).unwrap();
    site.world.variant_file("config.toml", &format!("allowed_images = [{:?}]\n", folder.display().to_string()));
    site.refuses(&[
        case(
            "link",
            "raw",
            &["link.raw is a link to /", "which is not in a place that allowed_images lists"],
            |site| site.world.path("images/link.raw").display().to_string(),
        ),
        by_name("upwards", "raw", &["has '..' in its path, which is not allowed"], |site| {
            site.world.path("images/../secret.raw").display().to_string()
        }),
        by_name("elsewhere", "raw", &["secret.raw is not in a place that allowed_images lists"], |site| {
            site.secret().to_owned()
        }),
        case("inside a qcow2", "qcow2", &["needs a backing file"], |site| {
            let overlay = site.world.path("images/overlay.qcow2").display().to_string();
            tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", site.secret(), &overlay]);
            overlay
        }),
    ]);
}

pub(super) fn cases() -> Vec<Case> {
    let path = |site: &Site, name: &str| site.world.path(name).display().to_string();
    vec![
        case("directory", "raw", &["is not a regular file"], |_| "/etc".to_owned()),
        case("fifo", "raw", &["fifo is not a regular file"], move |site| {
            tool("mkfifo", &[&path(site, "fifo")]);
            path(site, "fifo")
        }),
        case("socket", "raw", &["socket is not a regular file"], move |site| {
            drop(UnixListener::bind(path(site, "socket")).unwrap());
            path(site, "socket")
        }),
        case("character device", "raw", &["image /dev/zero is not a regular file"], |_| "/dev/zero".to_owned()),
        case("character device as qcow2", "qcow2", &["is not a regular file"], |_| "/dev/urandom".to_owned()),
        case("link to a device", "raw", &["is not a regular file"], move |site| {
            symlink("/dev/null", path(site, "null")).unwrap();
            path(site, "null")
        }),
        case("link to itself", "raw", &["opening image", "Too many levels of symbolic links"], move |site| {
            symlink(path(site, "loop"), path(site, "loop")).unwrap();
            path(site, "loop")
        }),
        case("link to shadow", "raw", &["is a text file"], move |site| {
            symlink("/etc/shadow", path(site, "shadow")).unwrap();
            path(site, "shadow")
        }),
        case(
            "redirect to a file",
            "raw",
            &["/image: the server redirects to something that is not an http or https URL"],
            |site| site.serve(Reply::redirect(format!("file://{}", site.secret()))),
        ),
        case("missing", "raw", &["opening image /nonexistent", "No such file or directory"], |_| {
            "/nonexistent".to_owned()
        }),
        case("file of the kernel", "raw", &["image /proc/self/coredump_filter is a text file"], |_| {
            "/proc/self/coredump_filter".to_owned()
        }),
    ]
}

#[test]
fn names_that_only_qemu_would_understand_are_refused() {
    let site = Site::new("");
    let secret = site.secret().to_owned();
    let wrong = [
        (format!("file://{secret}"), "the image's URL can't be used"),
        (format!("file:{secret}"), "is neither an absolute path nor an http or https URL"),
        (format!("json:{{\"driver\":\"raw\",\"file\":{{\"filename\":\"{secret}\"}}}}"), "is neither an absolute path"),
        (format!("raw:{secret}"), "is neither an absolute path"),
        (format!("fat:{secret}"), "is neither an absolute path"),
        ("nbd://127.0.0.1/export".to_owned(), "the image's URL can't be used"),
        ("nbd:unix:/run/nbd".to_owned(), "is neither an absolute path"),
        ("ssh://host/disk".to_owned(), "the image's URL can't be used"),
        ("data:,hello".to_owned(), "is neither an absolute path"),
        ("driver=raw,file.filename=/etc/shadow".to_owned(), "image '...' is neither an absolute path"),
        ("secret.raw".to_owned(), "is neither an absolute path"),
    ];
    for (image, words) in wrong {
        let target =
            crate::support::disk::Disk::stale(&site.world, "disk0", crate::support::disk::Kind::File, super::DISK);
        let outcome = site.world.create(target.path(), &image, "raw").run();
        super::assert_refused(&outcome, &["parameter image: ", words], &image);
        target.assert_unbootable(&image);
    }
}
