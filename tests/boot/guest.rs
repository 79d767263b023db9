// SPDX-License-Identifier: BSD-2-Clause
//! An emulated machine that boots an instance's disks from its BIOS.

use std::env;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::report::Report;

/// A guest that has not powered off by then never will, on the slowest of machines.
pub(crate) const LIMIT: Duration = Duration::from_secs(900);

/// Boots `disks`, the first one first, with a NIC for each of `macs`, until the guest powers off; gives its report. Both
/// networks have qemu's own DHCP server and lead nowhere, but that `ssh_port` of this machine leads to the SSH server of the guest, on
/// the address that the last NIC gets by DHCP.
pub(crate) fn boot(what: &str, disks: &[&Path], macs: &[&str], ssh_port: Option<u16>) -> Report {
    let start = Instant::now();
    let mut guest = machine(disks, macs, ssh_port).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let console = read_until_end(&mut guest);
    let status = guest.wait().unwrap();
    let report = Report::find(&console).filter(|_| status.success());
    let report = report.unwrap_or_else(|| panic!("{what}: no report ({status}); the console:\n{console}"));
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f32());
    report
}

fn machine(disks: &[&Path], macs: &[&str], ssh_port: Option<u16>) -> Command {
    let accelerator = env::var("SIMPLEIMAGE_BOOT_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    // It ends with this process.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", &accelerator, "-cpu", "max", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    for disk in disks {
        // Its host does not lose power.
        let file = disk.to_str().unwrap();
        command.args(["-drive", &format!("file={file},format=raw,if=virtio,cache=unsafe")]);
    }
    for (index, mac) in macs.iter().enumerate() {
        // The first has its IPv6 address and route from its configuration: no router advertises others.
        let ipv6 = if index == 0 { "off" } else { "on" };
        let port = ssh_port.filter(|_| index + 1 == macs.len());
        let ssh = port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22")).unwrap_or_default();
        command.args(["-netdev", &format!("user,id=net{index},restrict=on,ipv4=on,ipv6={ipv6}{ssh}")]);
        command.args(["-device", &format!("virtio-net-pci,netdev=net{index},mac={mac},romfile=")]);
    }
    command
}

/// The guest's console, when it has powered off. One that hangs is ended.
fn read_until_end(guest: &mut Child) -> String {
    let mut serial = guest.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(len) = serial.read(&mut piece)
            && len > 0
            && sender.send(piece[..len].to_vec()).is_ok()
        {}
    });
    let end = Instant::now() + LIMIT;
    let mut console = Vec::new();
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(piece) => console.extend(piece),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                guest.kill().unwrap();
                console.extend(format!("\n(ended: it was still running after {} s)", LIMIT.as_secs()).bytes());
                break;
            }
        }
    }
    String::from_utf8_lossy(&console).into_owned()
}
