// SPDX-License-Identifier: BSD-2-Clause
//! Archives with a disk inside, made by the tools that people use.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, convert, disk, to_qcow2, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool};

const SIZE: usize = 12 * MIB;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server of this one file.
fn served(file: &Path) -> Server {
    let body = fs::read(file).unwrap();
    Server::start(move |request, _| Reply::file(request, &body, "\"v1\""))
}

/// A folder with a disk and with files beside it, as publishers pack them.
struct Folder<'w> {
    world: &'w World,
    path: PathBuf,
    disk: Vec<u8>,
}

impl<'w> Folder<'w> {
    fn new(world: &'w World) -> Self {
        let path = world.path("packed");
        fs::create_dir_all(path.join("docs")).unwrap();
        fs::write(path.join("README"), "A disk for clouds.\n").unwrap();
        fs::write(path.join("docs/notes.bin"), [7; 3000]).unwrap();
        Folder { world, path, disk: disk(SIZE) }
    }

    fn with(self, name: &str) -> Self {
        write_sparse(&self.path.join(name), &self.disk);
        self
    }

    /// Packs `members` of the folder with GNU tar.
    fn tar(&self, options: &[&str], members: &[&str]) -> PathBuf {
        let archive = self.world.path("image.tar");
        let place = ["--create", "--file", text(&archive), "--directory", text(&self.path)];
        tool("tar", &[&place[..], options, members].concat());
        archive
    }

    /// The image is installed, of a new instance and of one that had a system, and `inspect` says that it would be.
    fn is_installed(&self, image: &str, image_type: &str) {
        for reinstall in ["0", "1"] {
            let target = Disk::stale(self.world, "disk0", Kind::File, SIZE + MIB);
            self.world.create(target.path(), image, image_type).env("INSTANCE_REINSTALL", reinstall).run().succeeds();
            target.assert_holds(&self.disk, &format!("{image} as {image_type:?}, INSTANCE_REINSTALL={reinstall}"));
        }
        self.world.tool(&["inspect", image]).run().succeeds();
    }

    /// The image is refused for `reason`. The disk of a new instance can't boot, and that of a reinstalled one is as it was.
    fn is_refused(&self, image: &str, image_type: &str, reason: &str) {
        for reinstall in ["0", "1"] {
            let target = Disk::stale(self.world, "disk0", Kind::File, SIZE + MIB);
            let create = self.world.create(target.path(), image, image_type).env("INSTANCE_REINSTALL", reinstall);
            let log = create.run().fails(&[reason]);
            assert!(log.is_ascii(), "{log}");
            let what = format!("{image}: {reason}");
            if reinstall == "1" { target.assert_untouched(&what) } else { target.assert_unbootable(&what) }
        }
    }
}

#[test]
fn the_disk_is_installed_from_every_format_of_tar() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    for options in [
        &["--format=ustar"][..],
        &["--format=v7"],
        &["--format=gnu"],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ] {
        let archive = folder.tar(options, &["README", "docs", "./disk.raw"]);
        if options[0] == "--format=v7" {
            folder.is_refused(text(&archive), "", "does not look like a disk");
            continue;
        }
        folder.is_installed(text(&archive), "");
    }
}

#[test]
fn long_names_are_read_and_can_be_chosen() {
    let world = World::new();
    let long = format!("{}/{}.raw", "f".repeat(90), "n".repeat(120));
    let folder = Folder::new(&world);
    fs::create_dir(folder.path.join("f".repeat(90))).unwrap();
    let folder = folder.with(&long).with("other.raw");
    for format in ["--format=gnu", "--format=pax"] {
        let archive = folder.tar(&[format], &["other.raw", &long]);
        folder.is_installed(&format!("{}#{long}", text(&archive)), "");
    }
}

#[test]
fn a_compressed_archive_is_installed_from_a_file_and_from_a_server() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let archive = folder.tar(&["--sparse"], &["README", "disk.raw"]);
    for compression in ["gz", "bz2", "xz", "zst"] {
        let packed = compress(&archive, compression);
        let image_type = format!("tar+{compression}");
        folder.is_installed(text(&packed), &image_type);
        folder.is_installed(text(&packed), &format!("raw+{image_type}"));
        let server = served(&packed);
        folder.is_installed(server.url("/disk.tar").as_url().as_str(), "");
    }
}

#[test]
fn an_ova_and_a_vagrant_box_are_installed() {
    let world = World::new();
    world.variant_file("config.toml", "image_formats = ['raw', 'qcow2', 'vmdk']\n");
    let folder = Folder::new(&world);
    let raw = world.path("source.raw");
    write_sparse(&raw, &folder.disk);
    let vmdk = convert(&raw, "vmdk", &["-o", "subformat=streamOptimized"]);
    fs::copy(vmdk, folder.path.join("box-disk001.vmdk")).unwrap();
    fs::write(folder.path.join("box.ovf"), "<?xml version=\"1.0\"?><Envelope/>\n").unwrap();
    let ova = folder.tar(&["--format=ustar"], &["box.ovf", "box-disk001.vmdk"]);
    folder.is_installed(text(&ova), "ova");
    folder.is_installed(text(&ova), "vmdk+tar");
    fs::copy(to_qcow2(&raw, &["-c"]), folder.path.join("box.img")).unwrap();
    fs::write(folder.path.join("metadata.json"), "{\"provider\": \"libvirt\", \"format\": \"qcow2\"}\n").unwrap();
    fs::write(folder.path.join("Vagrantfile"), "Vagrant.configure(\"2\") {}\n").unwrap();
    let vagrant = compress(&folder.tar(&[], &["./metadata.json", "./Vagrantfile", "./box.img"]), "gz");
    folder.is_installed(text(&vagrant), "");
    let server = served(&vagrant);
    folder.is_installed(server.url("/debian.box").as_url().as_str(), "");
}

#[test]
fn of_several_disks_one_has_to_be_chosen() {
    let world = World::new();
    let folder = Folder::new(&world).with("a.raw").with("b.raw");
    let archive = folder.tar(&[], &["README", "a.raw", "b.raw"]);
    let both = "the archive has more than one disk: a.raw, b.raw (choose one with #NAME after the image)";
    folder.is_refused(text(&archive), "", both);
    world.tool(&["inspect", text(&archive)]).run().fails(&[both]);
    folder.is_installed(&format!("{}#b.raw", text(&archive)), "");
    folder.is_installed(&format!("{}#./a.raw", text(&archive)), "");
    let server = served(&archive);
    let url = server.url("/disks.tar").as_url().to_string();
    folder.is_refused(&url, "", both);
    folder.is_installed(&format!("{url}#b.raw"), "");
    folder.is_installed(&format!("{url}#%61.raw"), "");
    folder.is_refused(
        &format!("{}#c.raw", text(&archive)),
        "",
        "no file of the name that follows the #; it has README, a.raw, b.raw",
    );
    folder.is_refused(&format!("{}#README", text(&archive)), "", "image.tar#README is a text file");
}

#[test]
fn a_disk_that_was_packed_twice_is_refused() {
    let world = World::new();
    let folder = Folder::new(&world).with("a.raw");
    let archive = folder.tar(&["--hard-dereference"], &["a.raw", "a.raw"]);
    folder.is_refused(&format!("{}#a.raw", text(&archive)), "", "the archive has more than one file 'a.raw'");
}

#[test]
fn an_archive_without_a_disk_is_refused() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    std::os::unix::fs::symlink("disk.raw", folder.path.join("link.raw")).unwrap();
    let archive = folder.tar(&[], &["README", "docs", "link.raw"]);
    let reason = "the archive has no disk image; it has README, docs/, docs/notes.bin, link.raw";
    folder.is_refused(text(&archive), "", reason);
    folder.is_refused(
        &format!("{}#link.raw", text(&archive)),
        "",
        "the archive has no file of the name that follows the #",
    );
}

#[test]
fn a_member_of_what_is_no_archive_is_refused() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let plain = folder.path.join("disk.raw");
    let reason = "is no archive, so it has no file 'x' (leave out #x)";
    folder.is_refused(&format!("{}#x", text(&plain)), "", reason);
    let packed = compress(&plain, "gz");
    folder.is_refused(&format!("{}#x", text(&packed)), "", reason);
    // A file that has this very name is no archive's member.
    let odd = folder.path.join("disk.raw#x");
    fs::rename(&plain, &odd).unwrap();
    folder.is_installed(text(&odd), "");
}

#[test]
fn the_declared_type_has_to_agree() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let plain = folder.path.join("disk.raw");
    let archive = folder.tar(&[], &["disk.raw"]);
    let packed = compress(&archive, "gz");
    let declared = |is: &str, hint: &str| format!("but is {is} (use image_type={hint} if that is meant)");
    folder.is_refused(text(&archive), "raw", &declared("in a tar archive", "raw+tar"));
    folder.is_refused(text(&packed), "raw+gz", &declared("in a tar archive", "raw+tar+gz"));
    folder.is_refused(text(&packed), "tar", &declared("in gz compression", "tar+gz"));
    folder.is_refused(text(&packed), "qcow2+tar+gz", &declared("not in qcow2 format", "raw+tar+gz"));
    folder.is_refused(text(&plain), "tar", &declared("not in a tar archive", "raw"));
    folder.is_refused(text(&compress(&plain, "gz")), "tar+gz", &declared("not in a tar archive", "raw+gz"));
}

/// No name in an archive becomes one in the file system.
#[test]
fn names_that_lead_elsewhere_are_only_names() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let name = text(&world.path("planted")).to_owned();
    let archive = folder.tar(&["--absolute-names", &format!("--transform=s,disk.raw,{name},")], &["disk.raw"]);
    folder.is_installed(text(&archive), "");
    assert!(!world.path("planted").exists());
    let archive = folder.tar(&["--absolute-names", "--transform=s,disk.raw,../../planted,"], &["disk.raw"]);
    folder.is_installed(&format!("{}#../../planted", text(&archive)), "");
    assert!(!world.path("planted").exists());
}

/// Wherever an archive was cut, the disk does not boot.
#[test]
fn a_cut_archive_is_refused() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    for sparse in ["--no-check-device", "--sparse"] {
        let archive = folder.tar(&[sparse, "--format=pax"], &["README", "disk.raw"]);
        let whole = fs::read(&archive).unwrap();
        let cut = world.path("cut.tar");
        for len in [600, 2000, 4000, 300_000, 1_000_000, 2_500_000] {
            fs::write(&cut, &whole[..len.min(whole.len() - 11_000)]).unwrap();
            let target = Disk::stale(&world, "disk0", Kind::File, SIZE + MIB);
            world.create(target.path(), text(&cut), "").run().fails(&["the"]);
            target.assert_unbootable(&format!("{sparse}, cut after {len} bytes"));
        }
        fs::write(&cut, [&whole[..], b"more"].concat()).unwrap();
        folder.is_refused(text(&cut), "", "trailing data after the end of the tar archive");
        // The header of the disk: its name is the first field.
        let place = whole.windows(8).rposition(|bytes| bytes == b"disk.raw").unwrap();
        let mut corrupt = whole.clone();
        corrupt[place] ^= 1;
        fs::write(&cut, &corrupt).unwrap();
        folder.is_refused(text(&cut), "", "a header of the tar archive is corrupt (its checksum is wrong)");
    }
}

#[test]
fn ten_thousand_members_do_no_harm() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let many = folder.path.join("many");
    fs::create_dir(&many).unwrap();
    (0..10_000).for_each(|number| fs::write(many.join(number.to_string()), "text\n").unwrap());
    let archive = folder.tar(&[], &["many", "disk.raw"]);
    folder.is_installed(text(&archive), "");
    let archive = folder.tar(&["--sort=name"], &["many"]);
    folder.is_refused(text(&archive), "", "the archive has no disk image; it has many/, many/0, many/1, many/10,");
}

#[test]
fn allowed_images_may_list_the_archive() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let archive = folder.tar(&[], &["README", "disk.raw"]);
    world.variant_file("config.toml", &format!("allowed_images = ['{}']\n", text(&archive)));
    folder.is_installed(&format!("{}#disk.raw", text(&archive)), "");
    let other = world.path("other.tar");
    fs::copy(&archive, &other).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE + MIB);
    let refused = "is not in a place that allowed_images lists";
    world.create(target.path(), &format!("{}#disk.raw", text(&other)), "").run().fails(&[refused]);
}

/// Servers are not asked for the fragment of a URL, and people have other uses for it.
#[test]
fn the_fragment_of_a_url_is_ignored_where_there_is_no_archive_and_never_shown() {
    let world = World::new();
    let folder = Folder::new(&world).with("disk.raw");
    let (plain, packed) = (folder.disk.clone(), fs::read(folder.tar(&[], &["disk.raw"])).unwrap());
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/disk.raw" => Reply::file(request, &plain, "\"v1\""),
        _ => Reply::file(request, &packed, "\"v1\""),
    });
    folder.is_installed(&format!("{}#s3cret", server.url("/disk.raw").as_url()), "");
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE + MIB);
    let image = format!("{}#s3cret", server.url("/disk.tar").as_url());
    let log = world.create(target.path(), &image, "").run().fails(&["the archive has no file of the name"]);
    assert!(!log.contains("s3cret"), "{log}");
}
