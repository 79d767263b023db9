// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold whatever bytes come: one function for each parser of foreign bytes, which panics where it does not.
//!
//! Not part of the program. `fuzz/run` gives them the inputs that libFuzzer makes up, and the tests those in
//! `fuzz/corpus`.
//!
//! Each says what has to hold: bzip2 decodes as the bzip2 crate does, what is printed parses to the same, moving a GPT
//! changes no byte of a partition, no secret is in an error. libFuzzer calls them with the stable compiler's coverage
//! (`-Cpasses`), without nightly and without sanitizers: there is no `unsafe` in what they run. All targets are one
//! program, so that one more costs no link.

mod disk;
mod partitions;
mod seeds;
mod truncated;
mod volumes;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use self::disk::Disk;
use crate::config;
use crate::config::Paths;
use crate::disk::device::ReadAt;
use crate::disk::write;
use crate::ganeti::env::Environment;
use crate::ganeti::request;
use crate::image;
use crate::image::format::Format;
use crate::node::report::ascii_line;
use crate::store::cache;
use crate::store::http;
use crate::store::signature;

/// Takes any bytes, and panics where something does not hold.
pub(crate) type Target = fn(&[u8]);

/// Every function here, by its name.
pub(crate) const TARGETS: [(&str, Target); 31] = [
    ("adopt", adopt),
    ("archive_size", archive_size),
    ("bzip2", bzip2),
    ("cache_files", cache_files),
    ("config_legacy", config_legacy),
    ("config_toml", config_toml),
    ("decode", decode),
    ("detect", detect),
    ("ending", ending),
    ("environment", environment),
    ("gpgv_status", gpgv_status),
    ("gpt", gpt),
    ("http_answer", http_answer),
    ("names", names),
    ("netrc", netrc),
    ("nics", nics),
    ("no_proxy", no_proxy),
    ("partitions", partitions),
    ("qcow2", qcow2),
    ("qcow2_file", qcow2_file),
    ("seed_lists", seed_lists),
    ("ssh_keys", ssh_keys),
    ("sums", sums),
    ("truncated", truncated),
    ("url", url),
    ("user_data", user_data),
    ("vdi", vdi),
    ("vhdx", vhdx),
    ("vmdk", vmdk),
    ("volume", volume),
    ("volume_files", volume_files),
];

/// Files of a seed, which becomes another instance's.
pub(crate) fn adopt(data: &[u8]) {
    seeds::adopt(data);
}

/// What an archive says of its size before it is decoded.
pub(crate) fn archive_size(data: &[u8]) {
    image::fuzzing::archive_size(data);
}

/// The bzip2 decoder gives what the bzip2 crate gives. The first byte says what is made of the others.
pub(crate) fn bzip2(data: &[u8]) {
    image::fuzzing::bzip2(data);
}

/// What the cache writes beside an image it reads again; anything else is read as something, or as nothing.
pub(crate) fn cache_files(data: &[u8]) {
    cache::fuzzing::files(&text(data));
}

/// The predecessor's `config`: its assignments and words are data, and curl's options are settings or errors.
pub(crate) fn config_legacy(data: &[u8]) {
    config::fuzzing::legacy(&text(data));
}

/// `config.toml`.
pub(crate) fn config_toml(data: &[u8]) {
    config::fuzzing::toml(&text(data));
}

/// Archives of gzip and Zstandard members, according to the first byte.
pub(crate) fn decode(data: &[u8]) {
    image::fuzzing::decode(data);
}

/// A file is one thing, and only its head says which.
pub(crate) fn detect(data: &[u8]) {
    image::fuzzing::detect(data);
}

/// The end of a raw image that comes as a stream.
pub(crate) fn ending(data: &[u8]) {
    image::fuzzing::ending(data);
}

/// Variables as in /proc/PID/environ, ended by zero bytes: no password in an error, which is one line of ASCII.
pub(crate) fn environment(data: &[u8]) {
    let env = variables(data);
    let nowhere = Paths::below(Path::new("/nonexistent"));
    let core = env.core();
    let image = core.as_ref().ok().and_then(|core| core.params.image.clone()).unwrap_or_default();
    let errors = [
        core.err().map(|error| error.to_string()),
        env.instance_name().err().map(|error| error.to_string()),
        env.first_disk().err().map(|error| error.to_string()),
        env.export_device().err().map(|error| error.to_string()),
        env.import_device().err().map(|error| error.to_string()),
        env.size_descriptor().err().map(|error| error.to_string()),
        request::verify(&env, &nowhere).err().map(|error| format!("{error:#}")),
    ];
    let (_, _, all) = (env.debug(), env.reinstall(), env.to_vec());
    assert_eq!(Environment::new(all.clone()).to_vec(), all);
    // The names of variant and version are no secrets, whatever they are.
    let named = all.iter().any(|(name, value)| {
        ["OS_VARIANT", "OS_API_VERSION"].iter().any(|known| name == known) && value.to_string_lossy().contains(':')
    });
    for error in errors.into_iter().flatten() {
        let line = ascii_line(&error);
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        assert_eq!(ascii_line(&line), line);
        assert!(named || http::fuzzing::hides_secrets(&image, &line), "{line}");
    }
}

/// gpgv's status lines: good only with a good signature and without a bad one.
pub(crate) fn gpgv_status(data: &[u8]) {
    let text = text(data);
    let says = |word: &str| text.lines().any(|line| line.starts_with(&format!("[GNUPG:] {word}")));
    for succeeded in [true, false] {
        let verdict = signature::verdict(&text, succeeded);
        if verdict.is_ok() {
            assert!(says("GOODSIG") && says("VALIDSIG") && !says("BADSIG ") && !says("REVKEYSIG "));
            assert!(succeeded || says("ERRSIG"), "gpgv failed, and nobody knows why");
        }
        for bad in ["BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA 1"] {
            let line = format!("[GNUPG:] {bad} 0123456789ABCDEF x\n");
            assert!(signature::verdict(&format!("{line}{text}"), succeeded).is_err(), "{bad}");
            assert!(signature::verdict(&format!("{text}\n{line}"), succeeded).is_err(), "{bad}");
        }
    }
}

/// The backup GPT moves to the end of a larger disk, and nothing else changes. The first five bytes say how large image
/// and disk are.
pub(crate) fn gpt(data: &[u8]) {
    write::fuzzing::gpt(data);
}

/// The headers of an answer, one in each line: what may be asked for next, and whether a part is the missing one.
pub(crate) fn http_answer(data: &[u8]) {
    http::fuzzing::answer(data);
}

/// Image types, references, checksums and sizes, as OS parameters have them.
pub(crate) fn names(data: &[u8]) {
    image::fuzzing::names(&text(data));
}

/// A netrc file.
pub(crate) fn netrc(data: &[u8]) {
    http::fuzzing::netrc(&text(data));
}

/// The NICs of an instance, in variables as in /proc/PID/environ.
pub(crate) fn nics(data: &[u8]) {
    seeds::nics(&variables(data));
}

/// An entry of a no-proxy list, and in the next line a URL.
pub(crate) fn no_proxy(data: &[u8]) {
    http::fuzzing::no_proxy(&text(data));
}

/// A disk with any partition table.
pub(crate) fn partitions(data: &[u8]) {
    partitions::partitions(data);
}

/// A qcow2 header that passes names no other file.
pub(crate) fn qcow2(data: &[u8]) {
    image::fuzzing::qcow2(data);
}

/// A qcow2 file with its tables.
pub(crate) fn qcow2_file(data: &[u8]) {
    let _ = container(Format::Qcow2, data);
}

/// Lists that OS parameters have for a seed: servers, domains, sources.
pub(crate) fn seed_lists(data: &[u8]) {
    seeds::seed_lists(&text(data));
}

/// Public SSH keys.
pub(crate) fn ssh_keys(data: &[u8]) {
    seeds::ssh_keys(data);
}

/// A SUMS file, with the name to look for in its first line.
pub(crate) fn sums(data: &[u8]) {
    image::fuzzing::sums(data);
}

/// A disk that may have been cut: with any table and any superblocks.
pub(crate) fn truncated(data: &[u8]) {
    truncated::truncated(data);
}

/// A URL, and in the next line where its server redirects to: what is shown has no secrets.
pub(crate) fn url(data: &[u8]) {
    http::fuzzing::url(&text(data));
}

/// Parts of user-data, with zero bytes between them.
pub(crate) fn user_data(data: &[u8]) {
    seeds::user_data(data);
}

/// A VDI file with its tables.
pub(crate) fn vdi(data: &[u8]) {
    let _ = container(Format::Vdi, data);
}

/// A VHDX file with its tables.
pub(crate) fn vhdx(data: &[u8]) {
    let _ = container(Format::Vhdx, data);
}

/// A VMDK file with its tables.
pub(crate) fn vmdk(data: &[u8]) {
    let _ = container(Format::Vmdk, data);
}

/// A disk with any FAT, and that of a seed.
pub(crate) fn volume(data: &[u8]) {
    volumes::volume(data);
}

/// Files in a FAT of ours.
pub(crate) fn volume_files(data: &[u8]) {
    volumes::volume_files(data);
}

/// An image file; if the first byte is odd with checksums that fit. Gives whether it passed.
fn container(format: Format, data: &[u8]) -> bool {
    match data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) {
        Some((flags, Some(disk))) => image::fuzzing::container(format, &disk.file(), disk.len(), flags & 1 == 1),
        _ => false,
    }
}

fn variables(data: &[u8]) -> Environment {
    let bytes = |part: &[u8]| OsString::from_vec(part.to_vec());
    Environment::new(data.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((bytes(&variable[..at]), bytes(&variable[at + 1..])))
    }))
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Format, TARGETS, container};
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_input_of_the_corpora_holds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut folders: Vec<_> =
            fs::read_dir(fuzz.join("corpus")).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        let names: Vec<_> = folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, TARGETS.map(|(name, _)| name));
        for ((name, target), folder) in TARGETS.iter().zip(&folders) {
            let mut inputs = 0;
            for file in fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                // Shown when it fails.
                eprintln!("{}", path.display());
                target(&fs::read(path).unwrap());
                inputs += 1;
            }
            assert!(inputs >= 3, "{name} has no corpus worth the name");
        }
    }

    /// Else the corpus would lead nowhere.
    #[test]
    fn the_images_of_qemu_img_pass() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, format) in
            [("qcow2_file", Format::Qcow2), ("vdi", Format::Vdi), ("vhdx", Format::Vhdx), ("vmdk", Format::Vmdk)]
        {
            for file in fs::read_dir(corpus.join(name)).unwrap() {
                let path = file.unwrap().path();
                let is_seed = path.file_name().unwrap().to_str().unwrap().starts_with("seed-");
                assert!(!is_seed || container(format, &fs::read(&path).unwrap()), "{}", path.display());
            }
        }
    }

    /// What nobody would make up.
    #[test]
    fn nothing_and_noise_hold() {
        let noise: Vec<u8> = (0..4000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        for (_, target) in TARGETS {
            target(&[]);
            noise.chunks(97).for_each(target);
            target(&noise);
        }
    }
}
