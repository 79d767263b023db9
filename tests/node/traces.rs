// SPDX-License-Identifier: BSD-2-Clause
//! What a trial could leave on the machine: devices, mounts, swap space, processes.

use std::collections::BTreeSet;
use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::log::LONG;

/// All that there is, each in words.
pub(crate) struct Traces(BTreeSet<String>);

impl Traces {
    pub(crate) fn now() -> Self {
        Traces(devices().into_iter().chain(mounts()).chain(swaps()).chain(processes()).collect())
    }

    /// What there is now and was not then, as soon as there is none, or when waiting is in vain. What stays is removed, so that the
    /// next trial does not fail over it.
    pub(crate) fn new_ones(&self) -> Vec<String> {
        let start = Instant::now();
        loop {
            let new: Vec<_> = Traces::now().0.difference(&self.0).cloned().collect();
            if new.is_empty() {
                return new;
            }
            if start.elapsed() > LONG / 2 {
                tidy();
                return new;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Block devices that serve anything, without the partitions of the machine's disks, which are the kernel's business.
fn devices() -> Vec<String> {
    let folders = read_dir("/sys/class/block").unwrap().map(|entry| entry.unwrap().path());
    let in_use = |folder: &Path| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let size = read_to_string(folder.join("size")).unwrap_or_default();
        let own = name.starts_with("vd");
        (!own && size.trim() != "0" && !size.is_empty()).then(|| {
            let of = ["loop/backing_file", "dm/name", "pid"].map(|file| read_to_string(folder.join(file)));
            let of: String = of.into_iter().flatten().collect::<Vec<_>>().join(" ");
            format!("device {name} {}", of.trim())
        })
    };
    folders.filter_map(|folder| in_use(&folder)).collect()
}

fn mounts() -> Vec<String> {
    let table = read_to_string("/proc/self/mountinfo").unwrap();
    // The place, and what is mounted there.
    let places =
        table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned() + line.split(" - ").nth(1).unwrap());
    places.map(|place| format!("mount {place}")).collect()
}

fn swaps() -> Vec<String> {
    let table = read_to_string("/proc/swaps").unwrap();
    table.lines().skip(1).map(|line| format!("swap {}", line.split_whitespace().next().unwrap())).collect()
}

/// Processes by their names; those of the kernel and of udev come and go.
fn processes() -> Vec<String> {
    let ids = read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let ids = ids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let named = ids.filter_map(|id| {
        let program = read_link(format!("/proc/{id}/exe")).ok()?;
        let udev = program.file_name().is_some_and(|name| name == "udevadm" || name == "systemd-udevd");
        let words = read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default().replace('\0', " ");
        (!udev).then(|| format!("process {id} {words}"))
    });
    named.collect()
}

/// Twice, as one thing may lie on the other in any order.
fn tidy() {
    let lines = "pkill -KILL qemu-nbd; pkill -KILL nbd-client; pkill -KILL sleep
        for i in 1 2 3; do
            swapoff -a; umount -a -t ext4,xfs,vfat -O no_netdev 2>/dev/null
            vgchange -an; mdadm --stop --scan; dmsetup remove_all --force; losetup -D; wipefs -aqf /dev/vdc /dev/vdd
            for m in /sys/block/md*/md/array_state; do echo clear >$m; done
            for n in /sys/block/nbd*/pid; do n=${n#/sys/block/}; qemu-nbd -d /dev/${n%/pid}; done
        done; blockdev --rereadpt /dev/vdc /dev/vdd; udevadm settle";
    let mut command = Command::new("sh");
    let _ = command.args(["-c", lines]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
