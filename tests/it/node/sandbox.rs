// SPDX-License-Identifier: BSD-2-Clause
//! Little privilege: what handles bytes of strangers can do nothing else, and hooks can do everything.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use simpleimage::node::process::{Children, run_in_worker};
use simpleimage::node::sandbox::{Sandbox, WorkerAccess};

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, convert, disk, encode};
use crate::support::server::{Reply, Server};
use crate::support::world::{Outcome, Script, World, tool, wait_until};

/// CAP_DAC_READ_SEARCH alone, and with CAP_DAC_OVERRIDE.
const READ_ANY: &str = "0000000000000004";
const WRITE_ANY: &str = "0000000000000006";
const NONE: &str = "0000000000000000";

/// A field of /proc/PID/status or /proc/PID/limits; empty for a process that is gone.
fn field(pid: &str, file: &str, name: &str) -> String {
    let text = fs::read_to_string(Path::new("/proc").join(pid).join(file)).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.unwrap_or_default().trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
}

fn status(pid: &str, name: &str) -> String {
    field(pid, "status", name)
}

/// The processes for which `is_it` holds.
fn processes(is_it: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && is_it(pid)).collect()
}

/// Waits for the child of `parent` that is confined by now.
fn confined_child(parent: &str) -> String {
    let find = || processes(|pid| status(pid, "PPid") == parent && status(pid, "Seccomp") == "2");
    wait_until("a confined process runs", || !find().is_empty());
    find().remove(0)
}

/// A qemu-img that waits at a gate, tries what it must not do, and only then is the real one.
struct Fake {
    program: PathBuf,
    gate: PathBuf,
    secret: PathBuf,
}

impl Fake {
    fn new(world: &World) -> Self {
        world.qemu_img_decodes();
        let folder = world.path("tools/bin");
        fs::create_dir_all(&folder).unwrap();
        let fake =
            Fake { program: folder.join("qemu-img"), gate: world.path("tools/gate"), secret: world.path("secret") };
        fs::write(&fake.secret, "precious").unwrap();
        nix::unistd::mkfifo(&fake.gate, Mode::S_IRWXU).unwrap();
        let script = format!(
            "#!/bin/sh
            fail() {{ echo \"$1\" >&2; exit 9; }}
            read -r go <{gate} || fail 'no gate'
            cat {secret} 2>&- && fail 'the secret was read'
            (echo x >{secret}) 2>&- && fail 'the secret was written'
            (echo x >{new}) 2>&- && fail 'a file was made'
            kill -0 $PPID 2>&- && fail 'a signal was sent'
            {socket} 2>&- && fail 'a socket was made'
            exec /usr/bin/qemu-img \"$@\"\n",
            gate = fake.gate.display(),
            secret = fake.secret.display(),
            new = folder.join("new").display(),
            socket = SOCKET,
        );
        fs::write(&fake.program, script).unwrap();
        fs::set_permissions(&fake.program, fs::Permissions::from_mode(0o755)).unwrap();
        fake
    }

    fn first_in_path(&self, script: Script) -> Script {
        let folder = self.program.parent().unwrap().display().to_string();
        script.env("PATH", &format!("{folder}:/sbin:/bin:/usr/sbin:/usr/bin"))
    }

    fn running(&self) -> Vec<String> {
        let name = self.program.display().to_string();
        processes(|pid| {
            let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(name.as_bytes())
        })
    }

    /// The one that waits at the gate.
    fn waiting(&self) -> String {
        wait_until("qemu-img is started", || !self.running().is_empty());
        self.running().remove(0)
    }

    fn go(&self) {
        fs::write(&self.gate, "go\n").unwrap();
    }
}

/// Makes a socket.
const SOCKET: &str = "bash -c 'exec 3>/dev/udp/127.0.0.1/9'";

#[test]
fn qemu_img_has_nothing_but_its_descriptors() {
    tool("sh", &["-c", SOCKET]);
    for kind in KINDS {
        let world = World::new();
        let fake = Fake::new(&world);
        let image = disk(9 * MIB);
        let file = encode(&world, &image, "qcow2");
        let target = Disk::stale(&world, "disk0", kind, 12 * MIB);
        let child = fake.first_in_path(world.create(target.path(), file.to_str().unwrap(), "")).spawn();
        let script = child.id().to_string();
        let disk_size = if kind == Kind::File { 12 * MIB } else { 0 };
        // Once for all behind the boot area, once for that.
        for (file_size, seconds) in [(disk_size, 608), (MIB, 601)] {
            let tool = fake.waiting();
            for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(&tool, name), NONE, "{name}");
            }
            assert_eq!((status(&tool, "NoNewPrivs"), status(&tool, "Seccomp")), ("1".to_owned(), "2".to_owned()));
            assert_eq!(status(&tool, "Umask"), "0077");
            for (name, value) in [
                ("Max core file size", 0),
                ("Max cpu time", seconds),
                ("Max data size", 2 << 30),
                ("Max file size", file_size),
                ("Max open files", 256),
            ] {
                assert_eq!(field(&tool, "limits", name), value.to_string(), "{name} on {kind:?}");
            }
            let worker = status(&tool, "PPid");
            assert_eq!(status(&worker, "PPid"), script);
            assert_eq!((status(&worker, "CapEff"), status(&worker, "CapBnd")), (READ_ANY.to_owned(), NONE.to_owned()));
            fake.go();
            wait_until("it went on", || !fake.running().contains(&tool));
        }
        Outcome(child.wait_with_output().unwrap()).succeeds();
        target.assert_holds(&image, "installed by a confined qemu-img");
        assert_eq!(fs::read_to_string(&fake.secret).unwrap(), "precious");
    }
}

#[test]
fn qemu_img_dies_with_the_script() {
    let world = World::new();
    let fake = Fake::new(&world);
    let file = encode(&world, &disk(9 * MIB), "qcow2");
    let target = Disk::stale(&world, "disk0", Kind::File, 12 * MIB);
    for signal in ["-KILL", "-TERM"] {
        let child = fake.first_in_path(world.create(target.path(), file.to_str().unwrap(), "")).spawn();
        let worker = status(&fake.waiting(), "PPid");
        tool("kill", &[signal, &child.id().to_string()]);
        let outcome = Outcome(child.wait_with_output().unwrap());
        if signal == "-TERM" {
            outcome.fails(&["ended by SIGTERM"]);
        }
        wait_until("both are gone", || fake.running().is_empty() && !Path::new("/proc").join(&worker).exists());
        target.assert_unbootable(signal);
    }
}

#[test]
fn a_worker_that_dies_fails_the_create() {
    let world = World::new();
    let fake = Fake::new(&world);
    let file = encode(&world, &disk(9 * MIB), "qcow2");
    let target = Disk::stale(&world, "disk0", Kind::File, 12 * MIB);
    let child = fake.first_in_path(world.create(target.path(), file.to_str().unwrap(), "")).spawn();
    tool("kill", &["-KILL", &status(&fake.waiting(), "PPid")]);
    Outcome(child.wait_with_output().unwrap()).fails(&["the worker process died (signal: 9 (SIGKILL))"]);
    target.assert_unbootable("its worker died");
}

#[test]
fn files_of_other_owners_work() {
    for kind in KINDS {
        let world = World::new();
        let fake = Fake::new(&world);
        let image = disk(5 * MIB);
        let file = encode(&world, &image, "qcow2");
        let target = Disk::stale(&world, "disk0", kind, 6 * MIB);
        let mine = world.path("disk0");
        let others = if kind == Kind::File { vec![&file, &mine] } else { vec![&file] };
        for path in others {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(path, Some(1000), Some(1000)).unwrap();
        }
        let child = fake.first_in_path(world.create(target.path(), file.to_str().unwrap(), "")).spawn();
        for expected in [if kind == Kind::File { WRITE_ANY } else { READ_ANY }, READ_ANY] {
            let tool = fake.waiting();
            assert_eq!((status(&tool, "CapEff"), status(&tool, "CapBnd")), (expected.to_owned(), NONE.to_owned()));
            fake.go();
            wait_until("it went on", || !fake.running().contains(&tool));
        }
        Outcome(child.wait_with_output().unwrap()).succeeds();
        target.assert_holds(&image, "an image of another user");
        if kind == Kind::File {
            let raw = world.path("source-qcow2.raw");
            let script = world.create(target.path(), raw.to_str().unwrap(), "").spawn();
            Outcome(script.wait_with_output().unwrap()).succeeds();
        }
    }
}

/// Runs a script with an injected error, as on a kernel without Landlock.
fn without_landlock(mut script: Script) -> Outcome {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=landlock_create_ruleset", "-o", "/dev/null"]);
    command.args(["-e", "inject=landlock_create_ruleset:error=ENOSYS"]);
    command.arg(script.command.get_program()).args(script.command.get_args()).env_clear();
    command.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.command = command;
    script.env("DEBUG_LEVEL", "1").run()
}

#[test]
fn a_kernel_without_landlock_does_without() {
    let world = World::new();
    let image = disk(5 * MIB);
    let file = encode(&world, &image, "qcow2");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 6 * MIB);
        let log = without_landlock(world.create(target.path(), file.to_str().unwrap(), "")).succeeds();
        assert_eq!(log.matches("debug: this kernel has no Landlock").count(), 1, "{log}");
        target.assert_holds(&image, "without Landlock");
    }
}

/// The other way round: it is Landlock that keeps qemu-img from the secret.
#[test]
fn without_landlock_the_secret_would_be_read() {
    let world = World::new();
    let fake = Fake::new(&world);
    let file = encode(&world, &disk(5 * MIB), "qcow2");
    let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
    std::thread::scope(|scope| {
        scope.spawn(|| fake.go());
        let script = fake.first_in_path(world.create(target.path(), file.to_str().unwrap(), ""));
        without_landlock(script).fails(&["the secret was read"]);
    });
}

#[test]
fn hooks_keep_root() {
    let world = World::new();
    let file = encode(&world, &disk(MIB), "raw");
    let seen = world.path("seen");
    let look = format!("grep -E '^(Cap|NoNewPrivs|Seccomp:|Umask)' /proc/self/status >{}", seen.display());
    world.hook("hooks/look", &look);
    world.hook("hooks.rename/look", &look);
    let own = |name: &str| status("self", name);
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, MIB);
        let create = world.create(target.path(), file.to_str().unwrap(), "");
        for script in [create, world.script("rename").env("DISK_0_PATH", target.path().to_str().unwrap())] {
            script.run().succeeds();
            let text = fs::read_to_string(&seen).unwrap();
            fs::remove_file(&seen).unwrap();
            for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
                assert!(text.contains(&format!("{name}:\t{}\n", own(name))), "{name}: {text}");
            }
            assert!(text.contains("Umask:\t0022\n"), "run-parts sets its own: {text}");
        }
    }
    assert_eq!(own("NoNewPrivs"), "0");
}

/// What every confined process of ours is, of the script `parent`.
fn assert_worker_of(parent: &str) {
    let worker = confined_child(parent);
    assert_eq!((status(&worker, "CapEff"), status(&worker, "CapBnd")), (READ_ANY.to_owned(), NONE.to_owned()));
    assert_eq!(status(&worker, "NoNewPrivs"), "1");
    // Behind the name: state, parent, group, session, terminal.
    let stat = fs::read_to_string(Path::new("/proc").join(&worker).join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[2..5], [worker.as_str(), worker.as_str(), "0"], "a session of its own, without a terminal");
    for pid in [parent, worker.as_str()] {
        assert_eq!(field(pid, "limits", "Max core file size"), "0");
        assert_eq!(status(pid, "Umask"), "0077");
    }
}

#[test]
fn import_and_export_are_confined() {
    let world = World::new();
    let image = disk(5 * MIB);
    let target = Disk::stale(&world, "disk0", Kind::Block, 5 * MIB);
    let device = target.path().to_str().unwrap();
    let import = world.script("import").env("IMPORT_DEVICE", device).env("IMPORT_INDEX", "0");
    let mut import = import.stdin(std::process::Stdio::piped()).spawn();
    assert_worker_of(&import.id().to_string());
    import.stdin.take().unwrap().write_all(&image).unwrap();
    Outcome(import.wait_with_output().unwrap()).succeeds();
    target.assert_holds(&image, "imported");
    let mut export = world.script("export").env("EXPORT_DEVICE", device).env("EXPORT_INDEX", "0").spawn();
    assert_worker_of(&export.id().to_string());
    let mut dump = Vec::new();
    export.stdout.take().unwrap().read_to_end(&mut dump).unwrap();
    Outcome(export.wait_with_output().unwrap()).succeeds();
    assert!(dump == image, "the dump is another");
}

/// Its qemu-img, too, which tries all that it must not do.
#[test]
fn inspect_is_confined() {
    let world = World::new();
    let fake = Fake::new(&world);
    let raw = encode(&world, &disk(9 * MIB), "raw");
    let file = convert(&raw, "vmdk", &[]);
    let child = fake.first_in_path(world.tool(&["inspect", file.to_str().unwrap()])).spawn();
    let tool = fake.waiting();
    assert_eq!((status(&tool, "CapEff"), status(&tool, "Seccomp")), (NONE.to_owned(), "2".to_owned()));
    assert_worker_of(&child.id().to_string());
    fake.go();
    let outcome = Outcome(child.wait_with_output().unwrap());
    outcome.succeeds();
    assert!(
        outcome.output().ends_with("safe to install: yes, where image_formats lists vmdk\n"),
        "{}",
        outcome.output()
    );
    assert_eq!(fs::read_to_string(&fake.secret).unwrap(), "precious");
}

#[test]
fn a_worker_writes_its_folder_and_its_disk_only() {
    let world = World::new();
    let (own, foreign) = (world.path("own"), world.path("foreign"));
    for folder in [&own, &foreign] {
        fs::create_dir(folder).unwrap();
    }
    let disk = world.path("disk");
    fs::write(&disk, [0; 512]).unwrap();
    let open = File::options().read(true).write(true).open(&disk).unwrap();
    let socket = world.path("socket");
    let _unix = UnixListener::bind(&socket).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = tcp.local_addr().unwrap();
    for network in [true, false] {
        let answer = run_in_worker(&Children::default(), || {
            let needs = WorkerAccess { disks: &[&open], folder: Some(&own), network, ..WorkerAccess::default() };
            Sandbox::for_worker(needs).and_then(Sandbox::enter).map_err(|err| err.to_string())?;
            let words = [
                fs::write(own.join("a"), "x").and_then(|()| fs::rename(own.join("a"), own.join("b"))),
                File::options().write(true).open(format!("/proc/self/fd/{}", fd(&open))).map(drop),
                fs::read(socket.with_file_name("disk")).map(drop),
                fs::write(foreign.join("a"), "x"),
                fs::remove_dir(&foreign),
                File::options().write(true).open("/proc/sys/kernel/core_pattern").map(drop),
                new_user_namespace(),
                UnixStream::connect(&socket).map(drop),
                TcpStream::connect(server).map(drop),
            ]
            .map(|done| done.map_or_else(|err| err.raw_os_error().unwrap_or_default(), |()| 0));
            Ok((words.to_vec(), None))
        });
        let (denied, absent) = (13, 38);
        let tcp = if network { 0 } else { absent };
        assert_eq!(answer.unwrap().unwrap().0, [0, 0, 0, denied, denied, denied, absent, absent, tcp]);
    }
}

/// An allocation beyond it fails; the node's memory is not touched.
#[test]
fn a_worker_gets_no_more_memory_than_it_may_have() {
    // The threads of this test program have stacks, which count too.
    const MEMORY: usize = 1024 * MIB;
    for (memory, expected) in [(None, [true, true, false]), (Some(MEMORY as u64), [true, false, false])] {
        let answer = run_in_worker(&Children::default(), || {
            let needs = WorkerAccess { memory, ..WorkerAccess::default() };
            Sandbox::for_worker(needs).and_then(Sandbox::enter).map_err(|err| err.to_string())?;
            let got = [MEMORY / 4, MEMORY + MEMORY / 4, 2 * MEMORY]
                .map(|len| Vec::<u8>::new().try_reserve_exact(len).is_ok());
            Ok((got, None))
        });
        assert_eq!(answer.unwrap().unwrap().0, expected, "{memory:?}");
    }
}

/// Where a worker can't give up its privileges, nothing of what a guest wrote is parsed.
#[test]
fn what_a_guest_wrote_is_parsed_by_nobody_else() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let path = target.path().to_str().unwrap();
    world.hook("hooks.rename/never", "exit 3");
    let rename = world.script("rename").env("DISK_0_PATH", path);
    for script in [world.tool(&["seed", "show", path]), world.tool(&["seed", "remove", path]), rename] {
        let args = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=landlock_restrict_self"];
        let args = [&args[..], &["-e", "inject=landlock_restrict_self:error=EPERM"]].concat();
        let outcome = script.under("strace", &args).run();
        outcome.fails(&["giving up privileges"]);
        assert_eq!(outcome.output(), "");
        target.assert_untouched("a worker that could not be confined");
    }
}

/// ENOSYS is what the tool says, too.
fn new_user_namespace() -> std::io::Result<()> {
    let output = Command::new("unshare").args(["--user", "true"]).output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(()),
        false if words.contains("not implemented") => Err(std::io::Error::from_raw_os_error(38)),
        false => Err(std::io::Error::other(words)),
    }
}

fn fd(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

#[test]
fn modes_of_files_do_not_depend_on_the_callers_umask() {
    let image = disk(2 * MIB);
    for umask in ["0", "022", "0777"] {
        let world = World::new();
        let server = Server::sequence([Reply::ok(image.clone())]);
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let mut script = world.create(target.path(), server.url("/a.raw").as_url().as_str(), "");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        command.arg(script.command.get_program()).args(script.command.get_args()).env_clear();
        command.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.command = command;
        script.run().succeeds();
        target.assert_holds(&image, umask);
        let mut modes = vec![fs::metadata(world.cache()).unwrap().mode() & 0o7777];
        modes.extend(
            fs::read_dir(world.cache()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().mode() & 0o7777),
        );
        assert_eq!(modes.remove(0), 0o700, "umask {umask}");
        assert!(modes.len() > 2 && modes.iter().all(|mode| *mode == 0o600), "umask {umask}: {modes:?}");
    }
}
