// SPDX-License-Identifier: BSD-2-Clause
//! The README's first instance: the administrator whose key it was given logs in.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::guest::LIMIT;
use crate::instance::Instance;
use crate::trials::NAME;

/// The first boot ends, and with it the guest, when somebody was there.
const USER_DATA: &str =
    "#cloud-config\nruncmd:\n- timeout 600 sh -c 'until [ -e /home/debian/been-here ]; do sleep 0.2; done'\n";

/// What is typed in the guest's shell.
const TYPED: &str = "id --user --name; hostname; touch been-here";

pub(crate) fn logs_in() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("id_ed25519");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let user_data = format!("base64:{}", STANDARD.encode(USER_DATA));
    let instance = Instance::new("login", None);
    instance.create(NAME, &[("OSP_SSH_KEYS", public.trim()), ("OSP_USER_DATA", &user_data)]);

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let shell = thread::spawn(move || log_in(port, &key));
    let report = instance.boot_with_ssh("first boot", Some(port));
    assert_eq!(shell.join().unwrap(), format!("debian\n{NAME}\n"));
    assert_eq!(report.all("key"), [public.trim()]);
    assert_eq!(report.one("status"), "status: done");
}

/// Tries until the guest answers, and gives what its shell says.
fn log_in(port: u16, key: &Path) -> String {
    let begin = Instant::now();
    loop {
        let output = ssh(port, key).stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        assert!(begin.elapsed() < LIMIT, "ssh: {}", String::from_utf8_lossy(&output.stderr));
        thread::sleep(Duration::from_millis(500));
    }
}

fn ssh(port: u16, key: &Path) -> Command {
    let mut ssh = Command::new("ssh");
    // The host key is new, and nobody has seen it.
    let options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "BatchMode=yes",
        "ConnectTimeout=20",
    ];
    ssh.args(options.iter().flat_map(|option| ["-o", option]));
    ssh.arg("-i").arg(key).args(["-p", &port.to_string(), "debian@127.0.0.1", TYPED]);
    ssh
}
