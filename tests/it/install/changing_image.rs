// SPDX-License-Identifier: BSD-2-Clause
//! Images on the node that somebody writes, or may write, while they are read: no checksum is needed to refuse them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::bytes;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, disk, encode, to_qcow2};
use crate::support::watched::Watched;
use crate::support::world::{Outcome, Script, World, tool, wait_until};

/// Undone whatever becomes of the test.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn create(world: &World, target: &Disk, image: &Path, reinstall: &str) -> Script {
    world.create(target.path(), text(image), "").env("INSTANCE_REINSTALL", reinstall)
}

/// Neither create nor inspect takes it, for these reasons, and a reinstall's disk stays as it is.
fn refused(world: &World, image: &Path, reasons: &[&str]) {
    for reinstall in ["1", "0"] {
        let target = Disk::stale(world, "disk0", Kind::File, 16 * MIB);
        let name = format!("image {} is open for writing: ", image.display());
        create(world, &target, image, reinstall).run().fails(&[&[name.as_str()], reasons].concat());
        if reinstall == "1" { target.assert_untouched("a reinstall") } else { target.assert_unbootable("create") }
    }
    let outcome = world.tool(&["inspect", text(image)]).run();
    let (code, output) = (outcome.0.status.code(), outcome.output() + &outcome.log());
    assert!(code.is_some_and(|code| code != 0), "{output}");
    reasons.iter().for_each(|reason| assert!(output.contains(reason), "'{reason}' is not in: {output}"));
}

fn taken(world: &World, image: &Path, content: &[u8]) {
    let target = Disk::stale(world, "disk0", Kind::File, 16 * MIB);
    create(world, &target, image, "1").run().succeeds();
    target.assert_holds(content, "an image that nobody writes");
    assert!(world.tool(&["inspect", text(image)]).run().0.status.success());
}

#[test]
fn a_copy_that_is_not_finished() {
    let world = World::new();
    let content = disk(8 * MIB);
    let whole = encode(&world, &content, "raw");
    for source in [whole.clone(), to_qcow2(&whole, &[]), compress(&whole, "gz")] {
        let bytes = fs::read(&source).unwrap();
        let copy = world.path("copy");
        let mut writer =
            Running(Command::new("cp").args(["/dev/stdin", text(&copy)]).stdin(Stdio::piped()).spawn().unwrap());
        let mut pipe = writer.0.stdin.take().unwrap();
        pipe.write_all(&bytes[..bytes.len() / 2]).unwrap();
        wait_until("half of it is there", || fs::metadata(&copy).is_ok_and(|data| data.len() >= 4096));
        let reason = format!("process {} (cp) has it open (stop that first)", writer.0.id());
        refused(&world, &copy, &[&reason]);
        pipe.write_all(&bytes[bytes.len() / 2..]).unwrap();
        drop(pipe);
        writer.0.wait().unwrap();
        taken(&world, &copy, &content);
        fs::remove_file(&copy).unwrap();
    }
}

/// Its length is that of the file when nobody can write to it any more, not what it had when it was opened.
#[test]
fn a_copy_that_is_finished_while_it_is_waited_for_is_read_to_its_end() {
    let world = World::new();
    let content = disk(8 * MIB);
    let copy = world.path("copy");
    let has_it_open = |id: u32| {
        let links = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|name| name == copy)
    };
    // Who is too slow to finish it in time is refused.
    let finished = |script: &dyn Fn() -> Script| {
        (0..TRIES).find_map(|_| {
            let mut writer = File::create(&copy).unwrap();
            writer.write_all(&content[..4 * MIB]).unwrap();
            let run = script().spawn();
            wait_until("it was opened", || has_it_open(run.id()));
            writer.write_all(&content[4 * MIB..]).unwrap();
            drop(writer);
            let outcome = Outcome(run.wait_with_output().unwrap());
            if !outcome.0.status.success() {
                let said = outcome.output() + &outcome.log();
                assert!(said.contains("is open for writing"), "{said}");
            }
            outcome.0.status.success().then_some(outcome)
        })
    };
    for reinstall in ["0", "1"] {
        let target = Disk::stale(&world, "disk0", Kind::File, 16 * MIB);
        finished(&|| create(&world, &target, &copy, reinstall)).expect("it was always too slow");
        target.assert_holds(&content, "a copy that was just finished");
    }
    let inspected = finished(&|| world.tool(&["inspect", text(&copy)])).expect("it was always too slow");
    assert!(inspected.output().contains("disk:  8 MiB\n"), "{}", inspected.output());
}

#[test]
fn an_image_that_a_qemu_tool_has_open() {
    let world = World::new();
    let content = disk(8 * MIB);
    let raw = encode(&world, &content, "raw");
    for (format, image) in [("raw", raw.clone()), ("qcow2", to_qcow2(&raw, &[]))] {
        for read_only in [false, true] {
            let socket = world.path("socket");
            let mut command = Command::new("qemu-nbd");
            command.args(["--persistent", "-f", format, "-k", text(&socket)]);
            command.args(read_only.then_some("--read-only")).arg(&image);
            let running = Running(command.spawn().unwrap());
            wait_until("qemu-nbd serves", || socket.exists());
            match read_only {
                true => taken(&world, &image, &content),
                false => refused(&world, &image, &[&format!("process {} (qemu-nbd) has it open", running.0.id())]),
            }
            drop(running);
            let _ = fs::remove_file(socket);
        }
    }
}

/// Its locks alone tell of one on another node, which no process here has open.
#[test]
fn an_image_that_a_qemu_elsewhere_has_open() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    let hold = |byte: &str| {
        // Open for reading only: as a process of another node, it is not found by what it has open.
        let script = "import fcntl,struct,sys\nf=open(sys.argv[1],'rb')\nfcntl.fcntl(f,37,struct.pack('hhqqi4x',0,0,int(sys.argv[2]),1,0))\n\
                      print('ready',flush=True)\nsys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script, text(&image), byte]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        let mut line = [0; 6];
        std::io::Read::read_exact(running.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        running
    };
    for byte in ["101", "103", "200"] {
        let _held = hold(byte);
        refused(&world, &image, &["a program has it open that can't be seen here, maybe on another node"]);
    }
    // One that reads, and lets nobody write.
    for byte in ["100", "201", "203"] {
        let _held = hold(byte);
        taken(&world, &image, &disk(2 * MIB));
    }
}

#[test]
fn no_qemu_begins_to_write_an_image_that_is_read() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    let open = File::open(&image).unwrap();
    assert_eq!(simpleimage::disk::device::find_writer(&open), None);
    let qemu = |options: &[&str]| {
        let output = Command::new("qemu-io").args(options).args(["-f", "raw", "-c", "quit", text(&image)]).output();
        output.unwrap()
    };
    assert!(String::from_utf8_lossy(&qemu(&[]).stderr).contains("lock"));
    assert!(qemu(&["-r"]).status.success(), "it may be read by others");
    drop(open);
    assert!(qemu(&[]).status.success());
}

#[test]
fn an_image_that_is_mounted_writable_through_a_loop_device() {
    let world = World::new();
    let image = world.path("fs.raw");
    tool("truncate", &["-s", "8M", text(&image)]);
    tool("mkfs.ext4", &["-qF", text(&image)]);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    {
        let device = Disk::over(image.clone(), Kind::Block);
        // Attached, and nobody uses it: such are left by others.
        taken(&world, &image, &fs::read(&image).unwrap());
        let mounted = Undo("umount", vec![text(&place).to_owned()]);
        tool("mount", &[text(device.path()), text(&place)]);
        let reason = format!(
            "the loop device {} on it is mounted on {} (unmount that first)",
            device.path().file_name().unwrap().display(),
            place.display()
        );
        refused(&world, &image, &[&reason]);
        drop(mounted);
        device.wait_until_unmounted();
        {
            let _writing = OpenOptions::new().write(true).open(device.path()).unwrap();
            let reason = format!("through {} process {} (", text(device.path()), std::process::id());
            refused(&world, &image, &[&reason]);
        }
        let _mounted = Undo("umount", vec![text(&place).to_owned()]);
        tool("mount", &["-o", "ro,noload", text(device.path()), text(&place)]);
        taken(&world, &image, &fs::read(&image).unwrap());
    }
    taken(&world, &image, &fs::read(&image).unwrap());
}

/// What becomes of the image while it is copied, and how the error calls it.
type Change = (&'static str, fn(&Path), &'static str);

const CHANGES: [Change; 5] = [
    ("overwritten", |image| overwrite(image), "it was written to"),
    ("overwritten, with its times set back", overwrite_and_hide, "its attributes were changed"),
    (
        "grown",
        |image| OpenOptions::new().append(true).open(image).unwrap().write_all(&[1; 512]).unwrap(),
        "its size was ",
    ),
    (
        "cut",
        |image| OpenOptions::new().write(true).open(image).unwrap().set_len(95 * MIB as u64).unwrap(),
        "its size was ",
    ),
    ("replaced", replace, "another file took its place"),
];

fn overwrite(image: &Path) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(&bytes(3, 4096), fs::metadata(image).unwrap().len() - 4096).unwrap();
}

fn overwrite_and_hide(image: &Path) {
    let before = fs::metadata(image).unwrap().modified().unwrap();
    overwrite(image);
    File::options().write(true).open(image).unwrap().set_modified(before).unwrap();
}

fn replace(image: &Path) {
    let other = image.with_extension("other");
    fs::write(&other, disk(MIB)).unwrap();
    fs::rename(other, image).unwrap();
}

/// The change may come too late, when all was read; so often it is tried.
const TRIES: usize = 20;

#[test]
fn an_image_that_changes_while_it_is_read() {
    let world = World::new();
    let mut content = bytes(1, 96 * MIB);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    let raw: PathBuf = world.path("image.raw");
    fs::write(&raw, &content).unwrap();
    let qcow2 = to_qcow2(&raw, &[]);
    for (image, reinstall) in [(&raw, "0"), (&raw, "1"), (&qcow2, "1")] {
        let original = fs::read(image).unwrap();
        for (what, change, how) in CHANGES {
            let caught = (0..TRIES).any(|_| {
                fs::write(image, &original).unwrap();
                let target = Disk::stale(&world, "disk0", Kind::File, 97 * MIB);
                let run = Watched::spawn(create(&world, &target, image, reinstall));
                run.wait_for("image type ");
                change(image);
                let outcome = run.finish();
                if outcome.0.status.success() {
                    target.assert_holds(&content, "what was there before");
                    return false;
                }
                outcome.fails(&[&format!("image {} changed while it was read: {how}", image.display())]);
                target.assert_unbootable(what);
                true
            });
            assert!(caught, "{what}: the change always came too late");
        }
    }
}

#[test]
fn a_file_that_was_just_changed_is_warned_of() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let warning = format!("warning: image {} was changed ", image.display());
    let log = create(&world, &target, &image, "0").run().succeeds();
    assert!(!log.contains(&warning), "{log}");
    File::options().write(true).open(&image).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let log = create(&world, &target, &image, "0").run().succeeds();
    assert!(
        log.contains(&warning) && log.contains(" s ago: if it was not whole then, neither is what is installed"),
        "{log}"
    );
}
