// SPDX-License-Identifier: BSD-2-Clause
//! Runs a case: its contenders in turn, each from the same state, each result looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use simpleimage::node::size::MIB;

use crate::cases::{Case, Contender, Disks, Effect, Way};
use crate::disk::{Disk, Nested};
use crate::extents;
use crate::image::{Form, Images};
use crate::options::Options;
use crate::runner::{self, Sample};
use crate::server;

/// What the server of the cold case gives, in bytes a second.
const LINE_RATE: f64 = 60e6;

/// PATH as Ganeti's node daemon sets it.
const GANETI_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

/// Bytes that go through a pipe at once.
const PIECE: usize = 256 << 10;

/// Where everything is.
pub(crate) struct Bench {
    images: Images,
    work: PathBuf,
    runs: usize,
}

/// What a contender's runs took.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) contender: Contender,
    pub(crate) samples: Vec<Sample>,
    /// Why they do not count.
    pub(crate) void: Option<String>,
}

/// A case's entries, in the order of its contenders.
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) entries: Vec<Entry>,
}

/// What a case needs while it runs.
struct Stage {
    disk: Option<Disk>,
    large: Option<Disk>,
    /// What the disk shall hold.
    reference: File,
    image: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    /// Dropped last: the disks lie in it.
    _nested: Option<Nested>,
}

impl Stage {
    fn disk(&self, contender: &Contender) -> Option<&Disk> {
        if contender.large { self.large.as_ref() } else { self.disk.as_ref() }
    }
}

impl Bench {
    /// Builds the raw image if it is not there.
    pub(crate) fn prepare(options: &Options) -> anyhow::Result<Self> {
        let images = Images::open(options)?;
        let work = images.dir().join("work");
        if let Err(err) = fs::remove_dir_all(&work) {
            ensure!(err.kind() == ErrorKind::NotFound, "removing {}: {err}", work.display());
        }
        fs::create_dir_all(work.join("root"))?;
        // The predecessor needs one, and an empty one will do.
        fs::write(work.join("config"), "")?;
        Ok(Bench { images, work, runs: options.runs })
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// All runs of a case.
    pub(crate) fn measure(&self, case: &Case) -> anyhow::Result<Measured> {
        let stage = self.stage(case)?;
        let entry = |contender: &Contender| Entry { contender: *contender, samples: Vec::new(), void: None };
        let mut entries: Vec<Entry> = case.contenders.iter().map(entry).collect();
        let rounds = self.runs * case.repeat;
        for round in 1..=rounds {
            for entry in entries.iter_mut().filter(|entry| entry.void.is_none()) {
                let (sample, void) = self.run(case, &entry.contender, &stage)?;
                let note = void.as_deref().unwrap_or_default();
                eprintln!("{} {round}/{rounds}: {:.3} s {} {note}", case.name, sample.wall, entry.contender.label);
                entry.samples.push(sample);
                entry.void = void;
            }
        }
        Ok(Measured { case: case.clone(), entries })
    }

    fn stage(&self, case: &Case) -> anyhow::Result<Stage> {
        let image = self.images.get(case.form)?;
        let raw = if case.form == Form::Tiny { image.clone() } else { self.images.raw() };
        let reference = File::open(&raw)?;
        let size = reference.metadata()?.len();
        let (mut disk, mut large, mut nested) = (None, None, None);
        match case.disks {
            Disks::None => {}
            Disks::One | Disks::Holding => disk = Some(Disk::new(self.images.dir(), size, size)?),
            Disks::Two(factor) => {
                let mount = Nested::mount(self.images.dir(), (factor + 1) * size)?;
                disk = Some(Disk::new(mount.path(), size, size)?);
                large = Some(Disk::new(mount.path(), factor * size, size)?);
                nested = Some(mount);
            }
        }
        if let (Disks::Holding, Some(disk)) = (case.disks, &disk) {
            disk.fill_with(&reference)?;
        }
        let environment = self.environment(case, &image, &raw)?;
        Ok(Stage { disk, large, reference, image, environment, _nested: nested })
    }

    /// What every contender finds in its environment: Ganeti's variables, and names for the lines of the shell.
    fn environment(&self, case: &Case, image: &Path, raw: &Path) -> anyhow::Result<BTreeMap<&'static str, OsString>> {
        let url = if case.cold { server::start(image, LINE_RATE)? } else { String::new() };
        let needs_map =
            case.contenders.iter().any(|contender| matches!(contender.way, Way::Shell(line) if line.contains("$BMAP")));
        let map = if needs_map { self.images.bmap()? } else { PathBuf::new() };
        Ok(BTreeMap::from([
            ("PATH", GANETI_PATH.into()),
            ("OS_API_VERSION", "20".into()),
            ("OS_NAME", "simpleimage".into()),
            ("OS_VARIANT", "default".into()),
            ("DEBUG_LEVEL", "0".into()),
            ("INSTANCE_NAME", "bench.example.org".into()),
            ("DISK_COUNT", "1".into()),
            ("OSP_IMAGE", if case.cold { url.clone().into() } else { image.into() }),
            ("OSP_IMAGE_TYPE", case.image_type.into()),
            ("IMAGE", image.into()),
            ("RAW", raw.into()),
            ("URL", url.into()),
            ("BMAP", map.into()),
            ("CONFIG", self.work.join("config").into()),
            ("DOWNLOAD", self.work.join("download").into()),
        ]))
    }

    /// One run, and why it does not count, if so.
    fn run(&self, case: &Case, contender: &Contender, stage: &Stage) -> anyhow::Result<(Sample, Option<String>)> {
        self.reset(case, contender, stage)?;
        let mut command = self.command(contender, stage)?;
        let mut child = command.spawn().context("starting the runner")?;
        let passed = pass(&mut child, contender.effect, &stage.reference);
        ensure!(child.wait()?.success(), "the runner failed; it says:\n{}", self.log());
        let sample: Sample = serde_json::from_str(&fs::read_to_string(self.result())?)?;
        let void = if sample.success { passed.and_then(|()| verify(contender, stage)) } else { self.failure() };
        Ok((sample, void.err().map(|err| format!("{err:#}"))))
    }

    /// The same state before every run: old data on the disk, the image in the page cache, no write pending.
    fn reset(&self, case: &Case, contender: &Contender, stage: &Stage) -> anyhow::Result<()> {
        let old_downloads = [self.work.join("root/var"), self.work.join("download")];
        for path in old_downloads.iter().filter(|path| case.cold && path.exists()) {
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }?;
        }
        match (stage.disk(contender), contender.effect) {
            (Some(disk), _) if case.disks == Disks::Holding => disk.chill()?,
            (Some(disk), Effect::Disk | Effect::DiskFromInput | Effect::Scratch) => disk.refill()?,
            _ => {}
        }
        warm(&stage.image)?;
        nix::unistd::sync();
        Ok(())
    }

    fn command(&self, contender: &Contender, stage: &Stage) -> anyhow::Result<Command> {
        let mut environment = stage.environment.clone();
        let disk = stage.disk(contender).map(|disk| OsString::from(disk.path())).unwrap_or_default();
        for name in ["DISK", "DISK_0_PATH", "EXPORT_DEVICE", "IMPORT_DEVICE"] {
            environment.insert(name, disk.clone());
        }
        let is_written = matches!(contender.effect, Effect::Disk | Effect::DiskFromInput | Effect::Scratch);
        let this = std::env::current_exe().context("looking for this program")?;
        let mut command = Command::new(&this);
        command.arg(runner::STAGE).arg(self.result());
        command.arg(if is_written { disk } else { runner::NO_SYNC.into() });
        match contender.way {
            Way::Script(name, argument) => {
                command.arg(env!("CARGO_BIN_EXE_simpleimage")).arg("--root").arg(self.work.join("root"));
                command.args(["script", name]).args(argument)
            }
            Way::Shell(line) => command.args(["bash", "-o", "pipefail", "-c", line]),
            Way::Floor(words) => {
                let value = |word: &&'static str| match word.strip_prefix('$') {
                    Some(name) => environment.get(name).cloned().with_context(|| format!("no {word} for a floor")),
                    None => Ok(OsString::from(word)),
                };
                command.arg(this).arg(crate::floor::STAGE).args(words.iter().map(value).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let log = File::create(self.log_path())?;
        let is_fed = matches!(contender.effect, Effect::DiskFromInput | Effect::Input);
        let dumps = contender.effect == Effect::Dump;
        command.stdin(if is_fed { Stdio::piped() } else { Stdio::null() });
        command.stdout(if dumps { Stdio::piped() } else { log.try_clone()?.into() }).stderr(log);
        command.env_clear().envs(environment);
        Ok(command)
    }

    fn result(&self) -> PathBuf {
        self.work.join("result.json")
    }

    fn log_path(&self) -> PathBuf {
        self.work.join("log")
    }

    fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    fn failure(&self) -> anyhow::Result<()> {
        bail!("failed: {}", self.log().lines().last().unwrap_or("without a word"))
    }
}

/// Whether the disk holds the image.
fn verify(contender: &Contender, stage: &Stage) -> anyhow::Result<()> {
    let Some(disk) = stage.disk(contender) else { return Ok(()) };
    if !matches!(contender.effect, Effect::Disk | Effect::DiskFromInput) {
        return Ok(());
    }
    match extents::first_difference(disk.backing(), &stage.reference)? {
        None => Ok(()),
        Some(at) => bail!("wrong bytes: the disk differs from the image at byte {at} ({} MiB)", at / MIB),
    }
}

/// Feeds the child, or takes what it gives and compares that. The pipes are the kernel's default size, as in Ganeti's
/// own pipeline around export and import.
fn pass(child: &mut Child, effect: Effect, reference: &File) -> anyhow::Result<()> {
    match effect {
        Effect::DiskFromInput | Effect::Input => {
            let mut pipe = child.stdin.take().context("a pipe was asked for")?;
            feed(&mut pipe, reference).context("writing to its standard input")
        }
        Effect::Dump => {
            let mut pipe = child.stdout.take().context("a pipe was asked for")?;
            compare(&mut pipe, reference)
        }
        Effect::Disk | Effect::Scratch | Effect::Nothing => Ok(()),
    }
}

fn feed(pipe: &mut impl Write, reference: &File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let count = reference.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Ok(());
        }
        pipe.write_all(&buffer[..count])?;
        offset += count as u64;
    }
}

/// Takes all that comes, so that the other side meets no broken pipe, whatever it is.
fn compare(pipe: &mut impl Read, reference: &File) -> anyhow::Result<()> {
    let (mut mine, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut offset, mut equal) = (0, true);
    loop {
        let count = pipe.read(&mut mine)?;
        if count == 0 {
            break;
        }
        extents::read_or_zero(reference, &mut theirs[..count], offset)?;
        equal &= mine[..count] == theirs[..count];
        offset += count as u64;
    }
    let len = reference.metadata()?.len();
    ensure!(offset == len, "wrong bytes: the dump has {offset} of them, the disk {len}");
    ensure!(equal, "wrong bytes in the dump");
    Ok(())
}

/// Reads a file's data once, so that every contender finds it in the page cache.
fn warm(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; PIECE];
    for range in extents::data(&file)? {
        let mut at = range.start;
        while at < range.end {
            at += file.read_at(&mut buffer, at)?.max(1) as u64;
        }
    }
    Ok(())
}
