// SPDX-License-Identifier: BSD-2-Clause
//! The properties that hold for any input: one function for each parser of foreign bytes. It panics if a property does
//! not hold.
//!
//! The library has this module only for tests and for `fuzz/run`. libFuzzer makes up inputs, and the tests replay those
//! in `fuzz/corpus`. Nothing that runs here has `unsafe` code, so no sanitizer is needed, and the stable compiler is
//! enough.

mod config;
mod disk;
mod image;
mod seed;
mod sparse_disk;
mod store;

/// A function that takes any bytes, and panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets by name. Each of them has a folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 33] = [
    ("adopt", seed::adopt),
    ("archive_size", image::archive_size),
    ("bzip2", image::bzip2),
    ("cache_files", store::cache_files),
    ("config_legacy", config::config_legacy),
    ("config_toml", config::config_toml),
    ("decode", image::decode),
    ("detect", image::detect),
    ("ending", image::ending),
    ("environment", config::environment),
    ("gpgv_status", store::gpgv_status),
    ("gpt", disk::gpt),
    ("http_answer", store::http_answer),
    ("names", image::names),
    ("netrc", store::netrc),
    ("nics", seed::nics),
    ("no_proxy", store::no_proxy),
    ("partitions", disk::partitions),
    ("qcow2", image::qcow2),
    ("qcow2_file", image::qcow2_file),
    ("seed_lists", seed::seed_lists),
    ("ssh_keys", seed::ssh_keys),
    ("sums", image::sums),
    ("tar", image::tar),
    ("trace", seed::trace),
    ("truncated", disk::truncated),
    ("url", store::url),
    ("user_data", seed::user_data),
    ("vdi", image::vdi),
    ("vhdx", image::vhdx),
    ("vmdk", image::vmdk),
    ("volume", seed::volume),
    ("volume_files", seed::volume_files),
];

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

#[cfg(test)]
mod tests {
    use super::TARGETS;
    use super::image::container;
    use crate::image::format::Format;
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
                // The test prints this when it fails.
                eprintln!("{}", path.display());
                target(&fs::read(path).unwrap());
                inputs += 1;
            }
            assert!(inputs >= 3, "{name} has no corpus worth the name");
        }
    }

    /// If a check refused these images, the corpus would never reach the code behind it.
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

    /// Inputs that nobody would think of.
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
