// SPDX-License-Identifier: BSD-2-Clause
//! export and import.

use std::fs::{self, File};
use std::io::{PipeWriter, Read};

use crate::support::bytes;
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, write_sparse};
use crate::support::world::{Script, World};

fn export(world: &World, disk: &Disk) -> Script {
    let path = disk.path().to_str().unwrap();
    world.script("export").env("EXPORT_DEVICE", path).env("EXPORT_DISK_PATH", path).env("EXPORT_INDEX", "0")
}

fn import(world: &World, disk: &Disk) -> Script {
    let path = disk.path().to_str().unwrap();
    world.script("import").env("IMPORT_DEVICE", path).env("IMPORT_DISK_PATH", path).env("IMPORT_INDEX", "0")
}

/// Lets the script inherit the write end of a pipe as descriptor 9, as EXP_SIZE_FD says.
fn with_size_descriptor(script: Script, pipe: PipeWriter) -> Script {
    let script = script.env("EXP_SIZE_FD", "9").under("/bin/sh", &["-c", r#"exec "$0" "$@" 9<&0 </dev/null"#]);
    script.stdin(pipe)
}

#[test]
fn export_gives_every_byte_and_its_count_before() {
    let world = World::new();
    for size in [9 * MIB, 3 * MIB + 1536] {
        let content = disk(size);
        for kind in KINDS {
            let file = world.path("disk0");
            write_sparse(&file, &content);
            let source = Disk::over(file, kind);
            let (mut told, pipe) = std::io::pipe().unwrap();
            let outcome = with_size_descriptor(export(&world, &source), pipe).run();
            outcome.succeeds();
            assert!(outcome.0.stdout == content, "{kind:?} of {size} bytes: another content");
            let mut size_line = String::new();
            told.read_to_string(&mut size_line).unwrap();
            assert_eq!(size_line, format!("{size}\n"));
            source.assert_holds(&content, "export");
        }
    }
}

#[test]
fn export_to_a_closed_pipe_fails() {
    let world = World::new();
    let source = Disk::stale(&world, "disk0", Kind::File, 9 * MIB);
    let mut child = export(&world, &source).spawn();
    drop(child.stdout.take());
    let outcome = crate::support::world::Outcome(child.wait_with_output().unwrap());
    outcome.fails(&["exporting disk /", "writing the dump after ", "of 9437184 bytes", "Broken pipe"]);
}

/// More is on its way than there are buffers.
#[test]
fn export_ends_when_its_reader_goes_away_at_any_moment() {
    let world = World::new();
    for kind in KINDS {
        let file = world.path("disk0");
        File::create(&file).unwrap().set_len(256 * MIB as u64).unwrap();
        let source = Disk::over(file, kind);
        for taken in [0, 1, 3 * MIB, 60 * MIB] {
            let mut child = export(&world, &source).spawn();
            let mut output = child.stdout.take().unwrap();
            output.read_exact(&mut vec![0; taken]).unwrap();
            drop(output);
            let outcome = crate::support::world::Outcome(child.wait_with_output().unwrap());
            outcome.fails(&["exporting disk /", "writing the dump after ", "of 268435456 bytes", "Broken pipe"]);
        }
    }
}

/// `std` would have it write to /dev/null, and nobody would know.
#[test]
fn without_standard_output_nothing_is_exported_nor_told() {
    let world = World::new();
    let source = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let closed = |script: Script, redirection: &str| {
        script.under("/bin/sh", &["-c", &format!("exec \"$0\" \"$@\" {redirection}")]).run()
    };
    for redirection in [">&-", "<&- >&-"] {
        closed(export(&world, &source), redirection).fails(&["standard output is closed"]);
    }
    // The first file that is opened must not get its number.
    closed(export(&world, &source), "<&- >&- 2>/dev/null").0.status.code().filter(|code| *code != 0).unwrap();
    closed(export(&world, &source), "1</dev/null").fails(&["writing the dump after 0 of", "Bad file descriptor"]);
    closed(export(&world, &source), ">/dev/null").succeeds();
    source.assert_untouched("export");
    for args in [&["variants", "list"][..], &["completions", "bash"], &["cleanup"]] {
        closed(world.tool(args), ">&-").fails(&["Bad file descriptor"]);
    }
}

#[test]
fn export_to_a_full_disk_fails() {
    let world = World::new();
    let source = Disk::stale(&world, "disk0", Kind::File, 9 * MIB);
    let mut script = export(&world, &source);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = script.command.stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
    crate::support::world::Outcome(output).fails(&["writing the dump after 0 of", "No space left on device"]);
}

#[test]
fn export_of_a_missing_or_foreign_device_fails() {
    let world = World::new();
    let script = |device: &str| world.script("export").env("EXPORT_DEVICE", device);
    script("/nonexistent/disk").run().fails(&["opening disk /nonexistent/disk", "No such file"]);
    script("/dev/null").run().fails(&["disk /dev/null is neither a block device nor a regular file"]);
    script("").run().fails(&["EXPORT_DEVICE is missing or empty"]);
    script("/dev/null").env("EXP_SIZE_FD", "77").run().fails(&["EXP_SIZE_FD", "Bad file descriptor"]);
}

#[test]
fn a_disk_that_cannot_be_read_to_its_end_fails_the_export() {
    let world = World::new();
    let file = world.path("disk0");
    for (size, readable) in [(8, 4), (256, 0), (256, 40), (256, 254)] {
        fs::write(&file, bytes(1, 8 * MIB)).unwrap();
        File::options().write(true).open(&file).unwrap().set_len((size * MIB) as u64).unwrap();
        let source = Disk::over(file.clone(), Kind::Block);
        // The loop device keeps its size; reads behind the file's end fail.
        File::options().write(true).open(&file).unwrap().set_len((readable * MIB) as u64).unwrap();
        let outcome = export(&world, &source).run();
        let place = format!("at byte {}", readable * MIB);
        outcome.fails(&["exporting disk /dev/loop", "reading disk /dev/loop", &place]);
    }
}

#[test]
fn import_restores_every_byte_to_a_larger_disk_too() {
    let world = World::new();
    for len in [9 * MIB, MIB, 700 * 512] {
        let dump = disk(len);
        for kind in KINDS {
            for size in [len, len + 5 * MIB + 512] {
                let target = Disk::stale(&world, "disk0", kind, size);
                import(&world, &target).run_with(&dump).succeeds();
                target.assert_holds(&dump, &format!("{len} bytes on {kind:?} of {size}"));
            }
        }
    }
}

#[test]
fn import_takes_a_dump_of_any_content() {
    let world = World::new();
    let dump = vec![7; 2 * MIB];
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    import(&world, &target).run_with(&dump).succeeds();
    target.assert_holds(&dump, "no disk that we know");
}

#[test]
fn import_of_nothing_or_too_much_fails_and_drains_its_input() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 2 * MIB);
        import(&world, &target).run_with(&[]).fails(&["importing to disk /", "the dump is empty"]);
        target.assert_unbootable("empty");
        let too_much = disk(40 * MIB);
        import(&world, &target).run_with(&too_much).fails(&["the dump is larger than disk", "which has 2 MiB"]);
        target.assert_unbootable("too much");
    }
    let script = world.script("import").env("IMPORT_DEVICE", "/nonexistent/disk");
    script.run_with(&disk(9 * MIB)).fails(&["opening disk /nonexistent/disk"]);
}

/// Export and import know neither variant nor config: a backup must always be possible.
#[test]
fn no_variant_and_no_config_is_needed() {
    let world = World::new();
    world.variant_file("config.toml", "this is = no toml [");
    let content = disk(2 * MIB);
    for variant in ["default", "gone", "../evil", ""] {
        let file = world.path("disk0");
        write_sparse(&file, &content);
        let outcome = export(&world, &Disk::over(file, Kind::File)).env("OS_VARIANT", variant).run();
        outcome.succeeds();
        let target = Disk::stale(&world, "disk1", Kind::File, 2 * MIB);
        import(&world, &target).env("OS_VARIANT", variant).run_with(&outcome.0.stdout).succeeds();
        target.assert_holds(&content, variant);
    }
}
