// SPDX-License-Identifier: BSD-2-Clause
//! SIGTERM and SIGKILL at random moments of create and import: every type from every source onto both kinds of disk.
//!
//! The moments are times from a start, spread over what an undisturbed run took just before: they are the randomness.
//! `KILL_MATRIX_SEED=N` repeats the choices of an earlier run.

mod scene;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::processes::living_in_session;
use crate::support::world::{Outcome, wait_until};
use scene::{Phase, Scene, Site, Stage, State};

/// Every scene is ended by each of them once.
const SIGNALS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGKILL];

/// Runs at the same time: more than the two cores of a small machine, as most of a run is waiting.
const WORKERS: usize = 4;

/// Nobody waits this long for a run that was told to end, however busy the machine is.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What half of all runs keep to: the promise.
const END_PROMISE: Duration = Duration::from_secs(1);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.next() % (at as u64 + 1)).unwrap());
        }
    }
}

/// `count` parts of a run's duration in random order: one in each of as many equal stretches, so that all of it is hit.
fn moments(count: usize, random: &mut Random) -> Vec<f64> {
    let mut all: Vec<f64> = (0..count).map(|stretch| (stretch as f64 + random.fraction()) / count as f64).collect();
    random.shuffle(&mut all);
    all
}

fn seed() -> u64 {
    let given = std::env::var("KILL_MATRIX_SEED").ok().map(|text| text.parse().expect("KILL_MATRIX_SEED is a number"));
    given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    })
}

/// What was seen over all runs.
#[derive(Default)]
struct Seen {
    phases: BTreeMap<Phase, usize>,
    states: BTreeMap<State, usize>,
    /// From SIGTERM to the end.
    ends: Vec<Duration>,
}

#[test]
fn no_moment_of_a_signal_leaves_a_wrong_disk_or_anything_else() {
    let seed = seed();
    let _ = writeln!(std::io::stderr(), "KILL_MATRIX_SEED={seed}");
    let mut random = Random(seed);
    let (site, scenes) = (Site::new(), Scene::all());
    let moments = moments(scenes.len() * SIGNALS.len(), &mut random);
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((scene, moments)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    scenes.get(index).zip(moments.chunks(SIGNALS.len()).nth(index))
                } {
                    disturb(&site, scene, moments, seed, &seen);
                }
            });
        }
    });
    seen.into_inner().unwrap().check(moments.len());
}

/// Measures an undisturbed run of the scene, and then ends one by each of the signals.
fn disturb(site: &Site, scene: &Scene, moments: &[f64], seed: u64, seen: &Mutex<Seen>) {
    let duration = {
        let stage = Stage::new(site, scene);
        let start = Instant::now();
        stage.spawn().wait().succeeds();
        let duration = start.elapsed();
        stage.assert_right(&format!("{scene:?} undisturbed"));
        duration
    };
    for (signal, moment) in SIGNALS.into_iter().zip(moments) {
        let what = format!("KILL_MATRIX_SEED={seed} {scene:?} {signal} at {moment:.3} of {duration:?}");
        let stage = Stage::new(site, scene);
        let run = stage.spawn();
        thread::sleep(duration.mul_f64(*moment));
        let session = run.id();
        // Ended by then is fine: it has not been waited for, so the number is still its own.
        kill(Pid::from_raw(i32::try_from(session).unwrap()), signal).unwrap();
        let told = Instant::now();
        let outcome = run.wait();
        let took = told.elapsed();
        assert!(took < END_LIMIT, "{what}: took {took:?} to end: {}", outcome.log());
        let phase = examine(&stage, &outcome, signal, session, &what);
        stage.spawn().wait().succeeds();
        stage.assert_right(&format!("{what}, the run after it"));
        let mut seen = seen.lock().unwrap();
        *seen.phases.entry(phase.0).or_default() += 1;
        *seen.states.entry(phase.1).or_default() += 1;
        if signal == Signal::SIGTERM && phase.0 != Phase::Ended {
            seen.ends.push(took);
        }
    }
}

/// Nothing of the ended run is left, and its disk is what it may be.
fn examine(stage: &Stage, outcome: &Outcome, signal: Signal, session: u32, what: &str) -> (Phase, State) {
    wait_until(&format!("no process is left of {what}"), || living_in_session(session).is_empty());
    stage.wait_until_detached(what);
    let phase = Phase::of(outcome);
    let log = outcome.log();
    match (signal, std::os::unix::process::ExitStatusExt::signal(&outcome.0.status), outcome.0.status.code()) {
        (_, None, Some(0)) => {}
        (Signal::SIGTERM, None, Some(143)) => {
            outcome.fails(&["ended by SIGTERM"]);
        }
        // Before it had a chance to say anything.
        (Signal::SIGTERM, Some(15), None) => assert_eq!(log, "", "{what}"),
        (Signal::SIGKILL, Some(9), None) => {}
        _ => panic!("{what}: {:?}: {log}", outcome.0.status),
    }
    let state = stage.state().unwrap_or_else(|found| panic!("{what}, {phase:?}: {found}: {log}"));
    use State::{BeingWiped, BootSectorMissing, Right, Unbootable, Untouched};
    let allowed: &[State] = match phase {
        Phase::Ended => &[Right],
        Phase::Starting if stage.keeps_old() => &[Untouched],
        Phase::Preparing | Phase::Downloading if stage.keeps_old() => &[Untouched, BeingWiped],
        Phase::Starting | Phase::Preparing => &[Untouched, BeingWiped, Unbootable],
        Phase::Downloading => &[Unbootable],
        // Said just before the disk is touched.
        Phase::Importing | Phase::Writing | Phase::QemuImg | Phase::DownloadingAndWriting => {
            &[Untouched, BeingWiped, Unbootable, BootSectorMissing, Right]
        }
        Phase::Hooks | Phase::Ending => &[Unbootable, Right],
    };
    assert!(allowed.contains(&state), "{what}, {phase:?}: the disk is {state:?}: {log}");
    (phase, state)
}

impl Seen {
    /// All were looked at, every phase was met, and it ends as fast as is promised.
    fn check(mut self, count: usize) {
        self.ends.sort();
        let median = self.ends[self.ends.len() / 2];
        let _ = writeln!(
            std::io::stderr(),
            "{count} moments: {:?}; disks: {:?}; SIGTERM to end: median {median:?}, longest {:?}",
            self.phases,
            self.states,
            self.ends.last()
        );
        assert_eq!(self.phases.values().sum::<usize>(), count);
        for phase in Phase::ALL {
            let met = self.phases.get(&phase).copied().unwrap_or_default();
            assert!(met >= phase.wanted(), "{phase:?} was met by {met} moments of {count}");
        }
        assert!(median < END_PROMISE, "half of all runs took {median:?} and more to end");
    }
}
