// SPDX-License-Identifier: BSD-2-Clause
//! Passwords, tokens and query strings: planted everywhere, found nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::install::checks::{Published, sums};
use crate::seed::{KEY, UUID};
use crate::support::disk::{Disk, Kind};
use crate::support::gpg::Key;
use crate::support::images::{MIB, disk, encode};
use crate::support::server::Reply;
use crate::support::world::{Outcome, World, wait_until};

/// Every secret has this in it.
const SECRET: &str = "Zq7Zq7";

/// Fails if a secret is in any file below `folder`, or in a file's name.
fn assert_no_secret_below(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(!path.display().to_string().contains(SECRET), "{}", path.display());
        if path.is_dir() {
            assert_no_secret_below(&path);
        } else {
            let content = fs::read(&path).unwrap();
            let found = content.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
            assert!(!found, "in {}", path.display());
        }
    }
}

fn assert_silent(outcome: &Outcome) -> bool {
    let all = outcome.log() + &outcome.output();
    assert!(!all.contains(SECRET), "{all}");
    outcome.0.status.success()
}

/// A node whose settings are full of secrets, and a server that hands out more of them.
struct Site {
    world: World,
    server: Published,
    target: Disk,
}

impl Site {
    fn new() -> Self {
        let (world, key) = (World::new(), Key::new());
        let image = disk(2 * MIB);
        let file = world.path("disk.raw");
        fs::write(&file, &image).unwrap();
        let sums = sums("sha256sum", &[], &file);
        let server = Published::new(&[("/disk.raw", &image), ("/SUMS", sums.as_bytes())]);
        server.put("/SUMS.sig", key.sign(sums.as_bytes(), &[]));
        server.put("/bad.sig", key.sign(b"other", &[]));
        let token = server.url(&format!("/disk.raw?token={SECRET}"));
        server.reply("/moved", Reply::redirect(token.clone()).header("Set-Cookie", format!("session={SECRET}")));
        server.reply("/away", Reply::redirect(format!("ftp://joe:{SECRET}@host/x?{SECRET}")));
        server.reply("/round", Reply::redirect(server.url(&format!("/round?{SECRET}"))));
        server.reply("/broken", Reply::status(500));
        fs::write(world.variant_file("keyring.gpg", ""), key.public()).unwrap();
        let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
        let site = Site { world, server, target };
        site.configure("");
        site
    }

    fn configure(&self, more: &str) {
        let config = format!(
            "[http]\nretries = 1\nuser = \"{SECRET}\"\npassword = \"{SECRET}\"\nheaders = {{ X-Token = \"{SECRET}\" }}\n{more}"
        );
        self.world.variant_file("config.toml", &config);
    }

    /// A URL with a user, a password, a query and a fragment.
    fn url(&self, path: &str) -> String {
        let rest = self.server.url(path).replace("http://", "");
        format!("http://joe{SECRET}:{SECRET}@{rest}?token={SECRET}&x=1#{SECRET}")
    }

    fn create(&self, image: &str, checksum: &str, signature: &str) -> bool {
        let script = self.world.create(self.target.path(), image, "").env("DEBUG_LEVEL", "1");
        assert_silent(&script.env("OSP_IMAGE_CHECKSUM", checksum).env("OSP_IMAGE_SIGNATURE", signature).run())
    }

    fn tool(&self, args: &[&str]) -> bool {
        assert_silent(&self.world.tool(args).run())
    }
}

#[test]
fn no_secret_reaches_an_output_or_a_file() {
    let site = Site::new();
    let url = |path: &str| site.url(path);
    let (image, sums, good) = (url("/disk.raw"), url("/SUMS"), url("/SUMS.sig"));
    assert!(site.create(&image, &sums, &good));
    assert!(site.create(&image, &sums, &good), "from the cache");
    assert!(site.create(&url("/moved"), "none", "none"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let failures = [
        (image.clone(), sums.clone(), url("/bad.sig")),
        (image.clone(), sums.clone(), url("/none.sig")),
        (image.clone(), url("/none"), "none".to_owned()),
        (image.clone(), url("/broken"), "none".to_owned()),
        (image.clone(), url("/disk.raw"), "none".to_owned()),
        (image.clone(), wrong, "none".to_owned()),
        (image.clone(), "none".to_owned(), good.clone()),
        (image.clone(), format!("md5:{SECRET}"), "none".to_owned()),
        (image.clone(), format!("ftp://joe:{SECRET}@h/{SECRET}"), "none".to_owned()),
        (image.clone(), "none".to_owned(), format!("joe:{SECRET}@h/x?{SECRET}")),
        (format!("http:/joe:{SECRET}@h/x?{SECRET}"), "none".to_owned(), "none".to_owned()),
        (format!("http://joe:{SECRET}@h:port/x"), "none".to_owned(), "none".to_owned()),
        (format!("http://joe:{SECRET}@127.0.0.1:1/x?{SECRET}"), "none".to_owned(), "none".to_owned()),
        (url("/away"), "none".to_owned(), "none".to_owned()),
        (url("/round"), "none".to_owned(), "none".to_owned()),
        (url("/broken"), "none".to_owned(), "none".to_owned()),
        (url("/none"), "none".to_owned(), "none".to_owned()),
    ];
    for (image, checksum, signature) in &failures {
        assert!(!site.create(image, checksum, signature), "{image} {checksum} {signature}");
        let verify = site.world.script("verify").arg("parameters").env("OSP_IMAGE", image);
        assert_silent(&verify.env("OSP_IMAGE_CHECKSUM", checksum).env("OSP_IMAGE_SIGNATURE", signature).run());
    }
    site.configure(&format!("proxy = \"http://joe:{SECRET}@127.0.0.1:1\"\n"));
    assert!(!site.create(&url("/other"), "none", "none"));
    assert_no_secret_below(&site.world.path("var"));
}

/// Keys, user-data and network-configs may be secret parameters: what is in them is as secret as what is in a URL.
#[test]
fn nothing_of_a_seed_reaches_an_output_or_a_file() {
    let site = Site::new();
    let document = |text: &str| format!("base64:{}", STANDARD.encode(text));
    let key = format!("{KEY} {SECRET}");
    site.server.put("/user-data", format!("#cloud-config\npassword: {SECRET}\n"));
    site.server.put("/html", format!("<html>{SECRET}"));
    site.server.put("/keys", format!("{key}\n"));
    fs::write(site.world.variant_file("user-data/wrong", ""), format!("{SECRET}\n")).unwrap();
    let image = site.world.path("disk.raw");
    let seed = Disk::stale(&site.world, "seed", Kind::File, 4 * MIB);
    let run = |name: &str, value: &str| {
        let verify = site.world.script("verify").arg("parameters").env(name, value);
        assert_silent(&verify.env("DEBUG_LEVEL", "1").run());
        let create = site.world.create(site.target.path(), image.to_str().unwrap(), "").env("DEBUG_LEVEL", "1");
        let create = create.seed_disk(seed.path());
        let create = create.env("INSTANCE_UUID", UUID).env("NIC_COUNT", "1").env("NIC_0_MAC", "aa:00:00:00:00:01");
        assert_silent(&create.env(name, value).run())
    };
    for (name, value) in [
        ("OSP_SSH_KEYS", format!("{key};{}", site.url("/keys"))),
        ("OSP_USER_DATA", format!("{};{}", site.url("/user-data"), document(&format!("#!/bin/sh\n: {SECRET}\n")))),
        ("OSP_USER_DATA", document(SECRET)),
        ("OSP_NETWORK_CONFIG", document(&format!("version: 2 # {SECRET}"))),
    ] {
        assert!(run(name, &value), "{name}");
    }
    for (name, value) in [
        ("OSP_SSH_KEYS", format!("ssh-rsa {SECRET} {SECRET}")),
        ("OSP_SSH_KEYS", format!("command=\"{SECRET}\" {key}")),
        ("OSP_SSH_KEYS", format!("{key}\u{2028}x")),
        ("OSP_SSH_KEYS", document(SECRET)),
        ("OSP_SSH_KEYS", site.url("/none")),
        ("OSP_SSH_KEYS", "wrong".to_owned()),
        ("OSP_SSH_KEYS", SECRET.to_owned()),
        ("OSP_USER_DATA", SECRET.to_owned()),
        ("OSP_USER_DATA", format!("#cloud-config {SECRET}")),
        ("OSP_USER_DATA", format!("base64:{SECRET}!")),
        ("OSP_USER_DATA", format!("ftp://joe:{SECRET}@h/")),
        ("OSP_USER_DATA", site.url("/html")),
        ("OSP_USER_DATA", site.url("/broken")),
        ("OSP_USER_DATA", document(&format!("<html>{SECRET}"))),
        ("OSP_NETWORK_CONFIG", site.url("/html")),
        ("OSP_NETWORK_CONFIG", SECRET.to_owned()),
        ("OSP_DNS_SERVERS", SECRET.to_owned()),
        ("OSP_DNS_SEARCH", format!("{SECRET}!")),
        ("OSP_CLOUD_INIT", SECRET.to_owned()),
        ("OSP_SEED_PERSIST", SECRET.to_owned()),
    ] {
        assert!(!run(name, &value), "{name} {value}");
    }
    assert_no_secret_below(&site.world.path("var"));
    let kept = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name() != "CACHEDIR.TAG";
    assert!(!fs::read_dir(site.world.cache()).unwrap().any(kept), "something of a seed was kept");
}

/// What every process of this machine was called with.
fn command_lines() -> Vec<String> {
    let folders = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let lines = folders.filter_map(|folder| fs::read(folder.join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// The names of the variables that a process with `program` in its command line has.
fn variables_of(program: &Path) -> Vec<String> {
    let program = program.to_str().unwrap();
    let folders = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let of_it = |folder: &PathBuf| fs::read_to_string(folder.join("cmdline")).is_ok_and(|line| line.contains(program));
    let environment = fs::read_to_string(folders.into_iter().find(of_it).unwrap().join("environ")).unwrap();
    let names = environment.split_terminator('\0').map(|variable| variable.split('=').next().unwrap().to_owned());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Anybody on the node can list processes and what they were called with: ours, qemu-img, run-parts and the hooks.
#[test]
fn nothing_is_in_a_list_of_processes() {
    // Of its own: other tests call the tool with secrets at the same time.
    const HIDDEN: &str = "Yk4Yk4";
    let world = World::new();
    let image = encode(&world, &disk(3 * MIB), "qcow2");
    world.qemu_img_decodes();
    let (seed, target) =
        (Disk::stale(&world, "seed", Kind::File, 4 * MIB), Disk::stale(&world, "disk0", Kind::File, 4 * MIB));
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    let (fake, go) = (programs.join("qemu-img"), programs.join("go"));
    fs::write(&fake, "#!/bin/sh\nwhile [ ! -e \"${0%/*}/go\" ]; do :; done; exec /usr/bin/qemu-img \"$@\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.hook("hooks/50-waits", &format!("read -r _ <'{}'", fifo.display()));
    let script = world.create(target.path(), image.to_str().unwrap(), "qcow2").seed_disk(seed.path());
    let mut script = script.env("PATH", &format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()));
    for (name, value) in [
        ("INSTANCE_UUID", UUID.to_owned()),
        ("NIC_COUNT", "1".to_owned()),
        ("NIC_0_MAC", "aa:00:00:00:00:01".to_owned()),
        ("OSP_SSH_KEYS", format!("{KEY} {HIDDEN}")),
        ("OSP_USER_DATA", format!("base64:{}", STANDARD.encode(format!("#cloud-config\npassword: {HIDDEN}\n")))),
        ("OSP_PASSWORD", HIDDEN.to_owned()),
    ] {
        script = script.env(name, &value);
    }
    let child = script.spawn();
    let seen = |part: &str| command_lines().iter().any(|line| line.contains(part));
    let absent = || assert!(!seen(HIDDEN) && !seen(&STANDARD.encode(HIDDEN)), "{:?}", command_lines());
    wait_until("qemu-img runs", || seen(fake.to_str().unwrap()));
    absent();
    assert_eq!(variables_of(&fake), ["LC_ALL", "PATH"], "what qemu-img gets");
    fs::write(go, "").unwrap();
    wait_until("the hook runs", || seen("hooks/50-waits"));
    absent();
    fs::write(&fifo, "go\n").unwrap();
    let outcome = Outcome(child.wait_with_output().unwrap());
    assert!(!(outcome.succeeds() + &outcome.output()).contains(HIDDEN));
}

/// Only hooks get the variables that Ganeti gave: run-parts does not where it only lists them.
#[test]
fn children_get_nothing_of_the_environment() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    let fake = programs.join("run-parts");
    let script = "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/environ >\"${0%/*}/seen.$1\"\nexec /usr/bin/run-parts \"$@\"\n";
    fs::write(&fake, script).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    world.hook("hooks/own", "env >\"${0%/*}/../seen\"");
    let script = world.create(target.path(), image.to_str().unwrap(), "raw").env("OSP_PASSWORD", "Yk4Yk5");
    script.env("PATH", &format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display())).run().succeeds();
    let names = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split('=').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(programs.join("seen.--test")).into_iter().collect::<Vec<_>>(), ["LC_ALL", "PATH"]);
    let hooks = names(world.path("etc/ganeti/instance-simpleimage/default/seen"));
    assert!(hooks.contains("OSP_PASSWORD") && !hooks.contains("LC_ALL"), "{hooks:?}");
}

#[test]
fn the_tool_shows_none_either() {
    let site = Site::new();
    let image = site.url("/disk.raw");
    assert!(site.tool(&["fetch", &image, "--checksum", &site.url("/SUMS")]));
    for args in [&["list"][..], &["show", &image], &["verify"], &["verify", &image], &["prune"]] {
        assert!(site.tool(&[&["cache"], args].concat()), "{args:?}");
        assert!(site.tool(&[&["cache", "--json"], args].concat()), "{args:?}");
    }
    assert!(!site.tool(&["fetch", &site.url("/broken")]));
    assert!(!site.tool(&["fetch", &site.url("/moved"), "--type", "qcow2"]));
    assert!(!site.tool(&["cache", "show", &site.url("/none")]));
    // Wrong arguments, which clap would repeat.
    assert!(!site.tool(&["fetch", &image, &image]));
    assert!(!site.tool(&["cache", "list", &image]));
    assert!(!site.tool(&["fetch", &format!("--chekcsum={image}")]));
    assert!(site.tool(&["cache", "remove", &image]));
    assert_no_secret_below(&site.world.path("var"));
}
