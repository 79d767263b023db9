// SPDX-License-Identifier: BSD-2-Clause
//! The emulated machines, seen from outside: booted by the first trials, asked for each by its name, ended after the last.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::agent::{Answer, READY, TRIAL_LIMIT};
use crate::drive::DRIVES;
use crate::image;

/// A kernel that is not up by then never will be, on the slowest of machines.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// How much longer than the trial itself, which the agent ends, its answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How much of the console tells what went wrong, in bytes.
const CONSOLE_TAIL: usize = 6000;

/// A trial, and where its answer goes.
type Request = (&'static str, Sender<Result<(), String>>);

/// Who takes requests, and the thread that attends to them.
type Attendance = (Sender<Request>, JoinHandle<()>);

/// The machines that no trial is in. There are as many as trials run at once.
#[derive(Clone)]
pub(crate) struct Machines(Arc<Mutex<Vec<Attendance>>>);

impl Machines {
    /// None is booted yet.
    pub(crate) fn new() -> Self {
        Machines(Arc::new(Mutex::new(Vec::new())))
    }

    /// Runs a trial in one of them. The error is what it said.
    pub(crate) fn run(&self, trial: &'static str) -> Result<(), String> {
        let idle = self.0.lock().unwrap().pop();
        // qemu ends with the thread that started it, so it is none of a single trial.
        let (requests, attendant) = idle.unwrap_or_else(|| {
            let (requests, waiting) = channel();
            (requests, thread::spawn(move || attend(&waiting)))
        });
        let (answers, answer) = channel();
        requests.send((trial, answers)).unwrap();
        let answer = answer.recv().map_err(|err| format!("nobody attends to the machine any more: {err}"));
        self.0.lock().unwrap().push((requests, attendant));
        answer?
    }

    /// No more trials.
    pub(crate) fn end(&self) {
        for (requests, attendant) in self.0.lock().unwrap().drain(..) {
            drop(requests);
            attendant.join().unwrap();
        }
    }
}

/// One trial after the other, as long as there is a machine.
fn attend(requests: &Receiver<Request>) {
    let mut machine = Machine::boot();
    for (trial, answer) in requests {
        let result = match &mut machine {
            Err(why) => Err(why.clone()),
            Ok(running) => running.ask(trial).unwrap_or_else(|why| {
                machine = Err(format!("the machine is gone since {trial}"));
                Err(why)
            }),
        };
        // Nobody waits where a test was ended.
        let _ = answer.send(result);
    }
}

struct Machine {
    qemu: Child,
    trials: ChildStdin,
    said: Receiver<Answer>,
    folder: TempDir,
}

impl Machine {
    fn boot() -> Result<Self, String> {
        let start = Instant::now();
        // Not in /tmp, which may be in memory.
        let folder = TempDir::with_prefix_in("node-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        pack(&folder.path().join("payload"));
        let mut qemu =
            command(image::path()?, folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (trials, port) = (qemu.stdin.take().unwrap(), BufReader::new(qemu.stdout.take().unwrap()));
        let mut machine = Machine { qemu, trials, said: listen(port), folder };
        let ready = machine.hear("its boot", BOOT_LIMIT)?;
        assert_eq!(ready.trial, READY);
        eprintln!("the machine was up after {:.1} s", start.elapsed().as_secs_f32());
        Ok(machine)
    }

    /// The outer error: there is no machine any more.
    fn ask(&mut self, trial: &str) -> Result<Result<(), String>, String> {
        let start = Instant::now();
        // A machine that is gone takes nothing, and says so next.
        let _ = writeln!(self.trials, "{trial}");
        let answer = self.hear(trial, TRIAL_LIMIT + ANSWER_LIMIT)?;
        assert_eq!(answer.trial, trial);
        eprintln!("{trial}: {:.1} s", start.elapsed().as_secs_f32());
        Ok(if answer.succeeded { Ok(()) } else { Err(answer.output) })
    }

    fn hear(&mut self, what: &str, limit: Duration) -> Result<Answer, String> {
        let why = match self.said.recv_timeout(limit) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => format!("nothing was heard for {} s", limit.as_secs()),
            Err(RecvTimeoutError::Disconnected) => "the machine has ended".to_owned(),
        };
        let console = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let tail = &console[console.len().saturating_sub(CONSOLE_TAIL)..];
        Err(format!("{what}: {why}; its console ends:\n{}", String::from_utf8_lossy(tail)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The provider and this program, where they lie here: tests know the provider's path.
fn pack(payload: &Path) {
    let files = [PathBuf::from(env!("CARGO_BIN_EXE_simpleimage")), env::current_exe().unwrap()];
    let names = files.iter().map(|file| file.strip_prefix("/").unwrap());
    let made = Command::new("tar").args(["-C", "/", "-cf"]).arg(payload).args(names).status().unwrap();
    assert!(made.success(), "tar: {made}");
}

fn command(machine: &Path, folder: &Path) -> Command {
    let accelerator = env::var("SIMPLEIMAGE_BOOT_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    // It ends with the thread that attends to it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", &accelerator, "-cpu", "max"]);
    command.args(["-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(machine.join("kernel")).arg("-initrd").arg(machine.join("initrd"));
    let agent = env::current_exe().unwrap();
    let line = format!("console=ttyS0 quiet panic=-1 mitigations=off agent={}", agent.display());
    command.args(["-append", &line, "-serial", &format!("file:{}", folder.join("console").display())]);
    command.args(["-chardev", "stdio,id=trials,signal=off", "-device", "virtio-serial-pci"]);
    command.args(["-device", "virtserialport,chardev=trials,name=trials"]);
    // What is written to the root goes with the machine.
    command.env("TMPDIR", folder);
    drive(&mut command, &machine.join("root"), "snapshot=on");
    drive(&mut command, &folder.join("payload"), "readonly=on");
    for (index, (_, len)) in DRIVES.into_iter().enumerate() {
        let path = folder.join(format!("drive{index}"));
        File::create(&path).unwrap().set_len(len).unwrap();
        drive(&mut command, &path, "discard=unmap");
    }
    command
}

/// The next of the virtio disks. Its host does not lose power.
fn drive(command: &mut Command, file: &Path, options: &str) {
    let file = file.to_str().unwrap();
    command.args(["-drive", &format!("file={file},format=raw,if=virtio,cache=unsafe,{options}")]);
}

/// Reads answers until there are no more.
fn listen(mut port: impl BufRead + Send + 'static) -> Receiver<Answer> {
    let (sender, answers) = channel();
    thread::spawn(move || {
        while let Some(answer) = Answer::read(&mut port)
            && sender.send(answer).is_ok()
        {}
    });
    answers
}
