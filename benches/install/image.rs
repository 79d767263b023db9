// SPDX-License-Identifier: BSD-2-Clause
//! The image that is installed, in every form: built once from this machine's own files, and kept.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sha2::{Digest, Sha256};
use simpleimage::node::size::{ByteSize, MIB};

use crate::disk::{old_data, run};
use crate::options::Options;

/// Raised whenever what this module builds changes, so that images of older recipes are not used any more.
const RECIPE: u32 = 1;

/// Where the files in the image come from.
const FILES: &str = "/usr";

/// The partition starts here, in bytes.
const PARTITION: u64 = MIB;

/// A time for everything that can be given one: 2025-01-01.
const TIME: u64 = 1_735_689_600;

/// A form of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Gz,
    Bz2,
    XzOneBlock,
    XzBlocks,
    Zst,
    Qcow2,
    Qcow2Compressed,
    /// A raw image of 1 MiB without a file system.
    Tiny,
}

impl Form {
    fn file_name(self) -> &'static str {
        match self {
            Form::Raw => "disk.raw",
            Form::Gz => "disk.raw.gz",
            Form::Bz2 => "disk.raw.bz2",
            Form::XzOneBlock => "disk.one-block.raw.xz",
            Form::XzBlocks => "disk.blocks.raw.xz",
            Form::Zst => "disk.raw.zst",
            Form::Qcow2 => "disk.qcow2",
            Form::Qcow2Compressed => "disk.compressed.qcow2",
            Form::Tiny => "tiny.raw",
        }
    }

    /// What makes `$OUT` of this form from `$RAW`; none for those that are not made from the raw image.
    fn recipe(self) -> Option<&'static str> {
        Some(match self {
            Form::Raw | Form::Tiny => return None,
            Form::Gz => r#"gzip -6 --no-name --stdout "$RAW" >"$OUT""#,
            Form::Bz2 => r#"bzip2 -9 --stdout "$RAW" >"$OUT""#,
            Form::XzOneBlock => r#"xz -6 -T1 --stdout "$RAW" >"$OUT""#,
            Form::XzBlocks => r#"xz -6 -T2 --stdout "$RAW" >"$OUT""#,
            Form::Zst => r#"zstd -3 --quiet --stdout "$RAW" >"$OUT""#,
            Form::Qcow2 => r#"qemu-img convert -f raw -O qcow2 "$RAW" "$OUT""#,
            Form::Qcow2Compressed => r#"qemu-img convert -c -f raw -O qcow2 "$RAW" "$OUT""#,
        })
    }
}

/// The folder of images of one size.
pub(crate) struct Images {
    dir: PathBuf,
    size: u64,
}

impl Images {
    /// The images that `options` ask for; builds the raw one if it is not there.
    pub(crate) fn open(options: &Options) -> anyhow::Result<Self> {
        let (size, data) = (options.size.0, options.data.0);
        anyhow::ensure!(data + data / 4 <= size, "--data has to leave a fifth of --size to the file system");
        remove_other_recipes(&options.dir())?;
        let dir = options.dir().join(format!("{}{}M-{}M", recipe_prefix(), size / MIB, data / MIB));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let images = Images { dir, size };
        if !images.raw().exists() {
            images.build_raw(data).context("building the raw image")?;
        }
        Ok(images)
    }

    /// Where the images are, and room for what a run needs.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The raw image.
    pub(crate) fn raw(&self) -> PathBuf {
        self.dir.join(Form::Raw.file_name())
    }

    /// Its data without the holes, in bytes.
    pub(crate) fn data(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(self.raw())?.blocks() * 512)
    }

    /// The image in `form`; builds it if it is not there.
    pub(crate) fn get(&self, form: Form) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(form.file_name());
        if path.exists() {
            return Ok(path);
        }
        eprintln!("building {}", path.display());
        let part = path.with_extension("part");
        match form.recipe() {
            Some(recipe) => run(&mut shell(recipe, &self.raw(), &part))?,
            None => build_tiny(&part)?,
        }
        publish(&part, &path)?;
        Ok(path)
    }

    /// The map of the raw image's data that bmaptool wants; builds it if it is not there.
    pub(crate) fn bmap(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.join("disk.raw.bmap");
        if !path.exists() {
            let part = self.dir.join("disk.bmap.part");
            run(&mut shell(r#"bmaptool --quiet create --output "$OUT" "$RAW""#, &self.raw(), &part))?;
            publish(&part, &path)?;
        }
        Ok(path)
    }

    /// An MBR with one partition, and in it an ext4 with files of this machine; everything else a hole.
    fn build_raw(&self, data: u64) -> anyhow::Result<()> {
        eprintln!("building {} ({} of files)", self.raw().display(), ByteSize(data));
        let (staging, part) = (self.dir.join("staging"), self.dir.join("disk.raw.part"));
        remove_if_there(&staging)?;
        fill(&staging, data)?;
        File::create(&part)?.set_len(self.size)?;
        let uuid = "7a3c0b1e-5d2f-4c8e-9b64-1f0d2e3c4b5a";
        let extended = format!("offset={PARTITION},root_owner=0:0,hash_seed={uuid}");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.env("E2FSPROGS_FAKE_TIME", TIME.to_string()).args(["-q", "-F", "-U", uuid, "-E", &extended, "-d"]);
        run(mkfs.arg(&staging).arg(&part).arg(format!("{}K", (self.size - PARTITION) / 1024)))?;
        fs::remove_dir_all(&staging)?;
        OpenOptions::new().write(true).open(&part)?.write_all_at(&partition_table(self.size)?, 0)?;
        // Published images have no blocks of zeros that are stored as data.
        run(Command::new("fallocate").arg("--dig-holes").arg(&part))?;
        publish(&part, &self.raw())
    }
}

fn recipe_prefix() -> String {
    format!("v{RECIPE}-")
}

fn remove_other_recipes(dir: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.strip_prefix('v').and_then(|rest| rest.split_once('-')).is_some_and(|(version, sizes)| {
            version.parse::<u32>().is_ok() && sizes.ends_with('M') && entry.path().is_dir()
        });
        if is_ours && !name.starts_with(&recipe_prefix()) {
            eprintln!("removing images of an older recipe: {}", entry.path().display());
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Copies files of this machine below `staging`, `data` bytes in all: a sample of everything in [`FILES`], in an order
/// that is the same every time and mixes programs, libraries, texts and tables. Too few files come repeatedly.
fn fill(staging: &Path, data: u64) -> anyhow::Result<()> {
    let files = sample(data)?;
    let mut left = data;
    for copy in 0.. {
        for (path, len) in &files {
            if left < *len {
                return Ok(());
            }
            let to = staging.join(format!("copy{copy}")).join(path.strip_prefix("/")?);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(path, &to).with_context(|| format!("copying {}", path.display()))?;
            File::open(&to)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(TIME))?;
            left -= len;
        }
    }
    Ok(())
}

fn sample(data: u64) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut folders = vec![PathBuf::from(FILES)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.path() != Path::new(FILES).join("local") {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    // One huge file would make all the difference between two machines.
    files.retain(|(_, len)| (1..=data / 8).contains(len));
    anyhow::ensure!(!files.is_empty(), "there are no files in {FILES}");
    files.sort_by_cached_key(|(path, _)| Sha256::digest(path.as_os_str().as_encoded_bytes()));
    Ok(files)
}

/// An MBR with one Linux partition up to the end.
fn partition_table(size: u64) -> anyhow::Result<[u8; 512]> {
    let mut mbr = [0; 512];
    // The code area of a real image is not empty either; other bytes than the disk has there before.
    mbr[..440].copy_from_slice(&old_data()[4096..4096 + 440]);
    let entry = &mut mbr[446..462];
    entry[0] = 0x80;
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&u32::try_from(PARTITION / 512)?.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from((size - PARTITION) / 512)?.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(mbr)
}

fn build_tiny(path: &Path) -> anyhow::Result<()> {
    let mut image = vec![0; usize::try_from(MIB)?];
    let half = image.len() / 2;
    // Not what the disk holds before.
    image[..half].copy_from_slice(&old_data()[half..2 * half]);
    image[..512].copy_from_slice(&partition_table(2 * MIB)?);
    Ok(fs::write(path, image)?)
}

fn shell(script: &str, raw: &Path, out: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("RAW", raw).env("OUT", out);
    command
}

fn publish(part: &Path, path: &Path) -> anyhow::Result<()> {
    File::open(part)?.sync_all()?;
    fs::rename(part, path).with_context(|| format!("renaming to {}", path.display()))
}

fn remove_if_there(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err.into()),
        _ => Ok(()),
    }
}
