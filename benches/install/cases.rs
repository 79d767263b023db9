// SPDX-License-Identifier: BSD-2-Clause
//! What is measured: each case, its contenders, and the ratios that the provider has to hold.

use anyhow::bail;

use crate::image::Form;

/// What a contender is to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The provider itself.
    Ours,
    /// What the shell version of this provider does.
    Predecessor,
    /// The fastest way with existing tools that gives the right bytes.
    Best,
    /// Shown, but not compared with.
    Other,
    /// A part of the work that no way can do without.
    Floor,
}

/// What a contender runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// An OS script of the provider, and its argument.
    Script(&'static str, Option<&'static str>),
    /// A line for bash.
    Shell(&'static str),
    /// One of this program's floors; `$NAME` stands for a variable's value.
    Floor(&'static [&'static str]),
}

/// What is done around a run, and what has to come out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The disk, full of old data before, then holds the image.
    Disk,
    /// The same, with the raw image on standard input.
    DiskFromInput,
    /// The disk, full of old data before, is written to, but does not hold the image.
    Scratch,
    /// The disk's bytes come on standard output.
    Dump,
    /// Takes all of the raw image from standard input.
    Input,
    /// Nothing.
    Nothing,
}

/// One way to do what the case is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) role: Role,
    /// What people call it.
    pub(crate) label: &'static str,
    pub(crate) way: Way,
    pub(crate) effect: Effect,
    /// On the large one of two disks.
    pub(crate) large: bool,
}

/// The disks of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disks {
    /// None.
    None,
    /// As large as the image, full of old data before every run.
    One,
    /// As large as the image, and holding it.
    Holding,
    /// One as large as the image, and one this many times as large.
    Two(u64),
}

/// The provider's time must be at most this many times the others'. Memory is in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) predecessor: Option<f64>,
    pub(crate) best: Option<f64>,
    pub(crate) floor: Option<f64>,
    pub(crate) memory: Option<u64>,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// For the command line.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) form: Form,
    pub(crate) image_type: &'static str,
    /// Whether the image is named by its URL, and not in the cache.
    pub(crate) cold: bool,
    pub(crate) disks: Disks,
    pub(crate) limits: Limits,
    pub(crate) contenders: Vec<Contender>,
    /// Runs for each that the user asks for: what takes milliseconds is measured more often.
    pub(crate) repeat: usize,
}

impl Case {
    /// The provider's `create` of an image in `form`.
    fn create(name: &'static str, title: &'static str, form: Form, image_type: &'static str) -> Self {
        let limits = Limits { memory: Some(64), ..Limits::default() };
        let contenders = vec![Contender::new(Role::Ours, "simpleimage", Way::Script("create", None), Effect::Disk)];
        Case { name, title, form, image_type, cold: false, disks: Disks::One, limits, contenders, repeat: 1 }
    }

    /// Limits of the times, against the predecessor, the best tool and the floor; no limit is 0.
    fn limits(mut self, predecessor: f64, best: f64, floor: f64) -> Self {
        let limit = |limit: f64| Some(limit).filter(|limit| *limit > 0.0);
        (self.limits.predecessor, self.limits.best, self.limits.floor) =
            (limit(predecessor), limit(best), limit(floor));
        self
    }

    fn memory(mut self, mib: u64) -> Self {
        self.limits.memory = Some(mib);
        self
    }

    fn with(mut self, role: Role, label: &'static str, line: &'static str) -> Self {
        self.contenders.push(Contender::new(role, label, Way::Shell(line), Effect::Disk));
        self
    }

    fn write_floor(mut self) -> Self {
        let way = Way::Floor(&["write", "$RAW", "$DISK"]);
        self.contenders.push(Contender::new(Role::Floor, "writing alone", way, Effect::Scratch));
        self
    }

    fn decode_floor(mut self) -> Self {
        let way = Way::Floor(&["decode", "$OSP_IMAGE_TYPE", "$IMAGE"]);
        self.contenders.push(Contender::new(Role::Floor, "decoding alone", way, Effect::Nothing));
        self
    }
}

impl Contender {
    fn new(role: Role, label: &'static str, way: Way, effect: Effect) -> Self {
        Contender { role, label, way, effect, large: false }
    }
}

/// The cases with these names, in the table's order; all of them when there is no name.
pub(crate) fn chosen(names: &[String]) -> anyhow::Result<Vec<Case>> {
    let all = all();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|case| case.name != **name)) {
        let known: Vec<_> = all.iter().map(|case| case.name).collect();
        bail!("there is no case '{unknown}' (there are {})", known.join(", "));
    }
    Ok(all.into_iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name)).collect())
}

fn all() -> Vec<Case> {
    [vec![raw()], streams(), qcow2(), cold(), vec![export(), import(), larger_disk()], small()].concat()
}

/// Compressed raw images. The predecessor's lines are its own, with the sync that it leaves out; the best existing
/// tools get what makes them fast: a faster decoder, and a writer past the page cache.
fn streams() -> Vec<Case> {
    let gz = Case::create("gz", "raw+gz", Form::Gz, "raw+gz")
        .with(Role::Predecessor, "gunzip | dd", r#"gunzip -c "$IMAGE" | dd of="$DISK" bs=2M conv=fsync"#)
        .with(
            Role::Best,
            "igzip | dd direct",
            r#"igzip -dc "$IMAGE" | dd of="$DISK" iflag=fullblock oflag=direct bs=4M conv=fsync"#,
        );
    let bz2 = Case::create("bz2", "raw+bz2", Form::Bz2, "raw+bz2")
        .memory(256)
        .with(Role::Predecessor, "bunzip2 | dd", r#"bunzip2 -c "$IMAGE" | dd of="$DISK" bs=2M conv=fsync"#)
        .with(
            Role::Best,
            "lbzip2 -n2 | dd direct",
            r#"lbzip2 -n2 -dc "$IMAGE" | dd of="$DISK" iflag=fullblock oflag=direct bs=4M conv=fsync"#,
        );
    let xz = Case::create("xz", "raw+xz, one block", Form::XzOneBlock, "raw+xz")
        .with(Role::Predecessor, "unxz | dd", r#"unxz -c "$IMAGE" | dd of="$DISK" bs=2M conv=fsync"#)
        .with(
            Role::Best,
            "xz | dd direct",
            r#"xz -dc "$IMAGE" | dd of="$DISK" iflag=fullblock oflag=direct bs=4M conv=fsync"#,
        );
    let xz_blocks = Case::create("xz-blocks", "raw+xz, many blocks", Form::XzBlocks, "raw+xz")
        .memory(256)
        .with(Role::Predecessor, "unxz | dd", r#"unxz -c "$IMAGE" | dd of="$DISK" bs=2M conv=fsync"#)
        .with(
            Role::Best,
            "xz -T2 | dd direct",
            r#"xz -T2 -dc "$IMAGE" | dd of="$DISK" iflag=fullblock oflag=direct bs=4M conv=fsync"#,
        );
    let zst = Case::create("zst", "raw+zst", Form::Zst, "raw+zst")
        .with(Role::Predecessor, "zstd | dd", r#"zstd -qdc "$IMAGE" | dd of="$DISK" bs=2M conv=fsync"#)
        .with(
            Role::Best,
            "zstd | dd direct",
            r#"zstd -qdc "$IMAGE" | dd of="$DISK" iflag=fullblock oflag=direct bs=4M conv=fsync"#,
        );
    let limited = [
        gz.limits(0.13, 0.35, 1.25),
        bz2.limits(0.42, 0.75, 1.15),
        xz.limits(0.40, 0.45, 1.15),
        xz_blocks.limits(0.30, 0.45, 1.15),
        zst.limits(0.28, 0.50, 1.25),
    ];
    limited.map(|case| case.decode_floor().write_floor()).into()
}

fn raw() -> Case {
    Case::create("raw", "raw", Form::Raw, "raw")
        .limits(0.12, 0.70, 1.15)
        .with(Role::Predecessor, "dd", r#"dd if="$IMAGE" of="$DISK" bs=2M conv=fsync"#)
        .with(Role::Best, "qemu-img convert", r#"qemu-img convert -n -W -t none -f raw -O raw "$IMAGE" "$DISK""#)
        .with(Role::Other, "bmaptool copy", r#"bmaptool --quiet copy --bmap "$BMAP" "$IMAGE" "$DISK""#)
        .write_floor()
}

fn qcow2() -> Vec<Case> {
    let case = |name, title, form| {
        Case::create(name, title, form, "qcow2")
            .with(Role::Predecessor, "qemu-img dd", r#"qemu-img dd -f qcow2 -O raw if="$IMAGE" of="$DISK" bs=2M"#)
            .with(
                Role::Best,
                "qemu-img convert",
                r#"qemu-img convert -n -W -m 8 -t none -T none -f qcow2 -O raw "$IMAGE" "$DISK""#,
            )
    };
    let plain = case("qcow2", "qcow2", Form::Qcow2).limits(0.14, 0.70, 0.0);
    let compressed = case("qcow2c", "qcow2, compressed clusters", Form::Qcow2Compressed).limits(0.22, 0.95, 0.0);
    vec![plain, compressed]
}

/// The first installation of an image that lies on a web server.
fn cold() -> Vec<Case> {
    let gz = Case::create("cold", "cold raw+gz from a server that gives 60 MB/s", Form::Gz, "raw+gz")
        .limits(0.30, 0.0, 1.15)
        .with(
            Role::Predecessor,
            "curl, then gunzip | dd",
            r#"curl -sfL "$URL" --output "$DOWNLOAD" && gunzip -c "$DOWNLOAD" | dd of="$DISK" bs=2M conv=fsync"#,
        );
    let title = "cold qcow2, compressed clusters, from a server that gives 60 MB/s";
    let qcow2 = Case::create("cold-qcow2c", title, Form::Qcow2Compressed, "qcow2")
        .limits(0.50, 0.80, 1.15)
        .with(
            Role::Predecessor,
            "curl, then qemu-img dd",
            r#"curl -sfL "$URL" --output "$DOWNLOAD" && qemu-img dd -f qcow2 -O raw if="$DOWNLOAD" of="$DISK" bs=2M"#,
        )
        .with(
            Role::Best,
            "curl, then qemu-img convert",
            r#"curl -sfL "$URL" --output "$DOWNLOAD" && qemu-img convert -n -W -m 8 -t none -f qcow2 -O raw "$DOWNLOAD" "$DISK""#,
        );
    let cold = |mut case: Case| {
        let download = Way::Shell(r#"curl -sfL "$URL" --output /dev/null"#);
        case.contenders.push(Contender::new(Role::Floor, "downloading alone", download, Effect::Nothing));
        Case { cold: true, ..case }
    };
    [gz, qcow2].map(cold).into()
}

/// The predecessor's line. The reader at the other end only compares.
fn export() -> Case {
    let mut case = Case::create("export", "export", Form::Raw, "raw").limits(0.50, 0.0, 1.15);
    case.disks = Disks::Holding;
    let read = Way::Floor(&["read", "$DISK"]);
    case.contenders = vec![
        Contender::new(Role::Ours, "simpleimage", Way::Script("export", None), Effect::Dump),
        Contender::new(Role::Predecessor, "dd", Way::Shell(r#"dd if="$DISK" bs=2M"#), Effect::Dump),
        Contender::new(Role::Floor, "reading alone", read, Effect::Nothing),
    ];
    case
}

/// The predecessor's line, which syncs each block; a pipe gives it 64 KiB at a time.
fn import() -> Case {
    let mut case = Case::create("import", "import", Form::Raw, "raw").limits(0.50, 0.0, 1.15);
    let dd = Way::Shell(r#"dd of="$DISK" conv=nocreat,notrunc bs=1M oflag=dsync"#);
    case.contenders = vec![
        Contender::new(Role::Ours, "simpleimage", Way::Script("import", None), Effect::DiskFromInput),
        Contender::new(Role::Predecessor, "dd oflag=dsync", dd, Effect::DiskFromInput),
        Contender::new(Role::Floor, "taking the stream alone", Way::Floor(&["drain"]), Effect::Input),
    ];
    case.write_floor()
}

/// Cost grows with the data, not with the disk.
fn larger_disk() -> Case {
    let mut case =
        Case::create("larger", "raw, onto a disk 16 times as large", Form::Raw, "raw").limits(0.0, 0.0, 1.10);
    case.disks = Disks::Two(16);
    let same = Contender { role: Role::Floor, label: "the same onto a disk of the image's size", ..case.contenders[0] };
    case.contenders[0].large = true;
    case.contenders.push(same);
    case
}

/// What takes no time but that of starting programs. The lines do what the predecessor's scripts do and leave out their
/// messages: bash reads a config, looks at the parameters, looks for qemu-img or asks the server where they need it, and
/// to create also asks whether the disk is a loop device.
fn small() -> Vec<Case> {
    const LOCAL: &str =
        r#". "$CONFIG"; [[ -e $IMAGE ]] && case $OSP_IMAGE_TYPE in raw|raw+gz|raw+bz2|raw+xz) ;; *) exit 1 ;; esac"#;
    const QCOW2: &str =
        r#". "$CONFIG"; [[ -e $IMAGE ]] && case $OSP_IMAGE_TYPE in qcow2) which qemu-img ;; *) exit 1 ;; esac"#;
    const REMOTE: &str =
        r#". "$CONFIG"; curl -sfI "$URL" && case $OSP_IMAGE_TYPE in raw|raw+gz|raw+bz2|raw+xz) ;; *) exit 1 ;; esac"#;
    const COPY: &str =
        r#". "$CONFIG"; [[ -b $DISK ]] && dd if="$IMAGE" of="$DISK" bs=2M conv=fsync; echo "$DISK" | grep -q ^/dev/"#;
    let verify = |name, title, image_type, line| {
        let mut case = Case::create(name, title, Form::Tiny, image_type).limits(0.50, 0.0, 0.0);
        let script = Way::Script("verify", Some("parameters"));
        case.contenders = vec![
            Contender::new(Role::Ours, "simpleimage", script, Effect::Nothing),
            Contender::new(Role::Predecessor, "bash", Way::Shell(line), Effect::Nothing),
        ];
        case.disks = Disks::None;
        case
    };
    let local = verify("verify", "verify parameters, raw image in a file", "raw", LOCAL);
    let qcow2 = verify("verify-qcow2", "verify parameters, qcow2 image in a file", "qcow2", QCOW2);
    let remote = verify("verify-url", "verify parameters, raw image at a URL", "raw", REMOTE);
    let create = Case::create("small", "create of a raw image of 1 MiB", Form::Tiny, "raw")
        .limits(0.50, 0.0, 0.0)
        .with(Role::Predecessor, "bash and dd", COPY);
    [local, qcow2, Case { cold: true, ..remote }, create].map(|case| Case { repeat: 5, ..case }).into()
}
