// SPDX-License-Identifier: BSD-2-Clause
//! Names of hosts, with a name server of our own in a network of its own.

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;

use simpleimage::store::http::{HttpSettings, ImageUrl};

use super::get;
use crate::support::log::Log;

const INSIDE: &str = "SIMPLEIMAGE_TEST_NAMES";

#[test]
fn a_name_that_does_not_exist_is_asked_for_once_and_one_that_nobody_can_tell_again() {
    if std::env::var_os(INSIDE).is_some() {
        return ask();
    }
    let folder = tempfile::tempdir().unwrap();
    let (resolv, switch) = (folder.path().join("resolv.conf"), folder.path().join("nsswitch.conf"));
    std::fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    std::fs::write(&switch, "hosts: dns\n").unwrap();
    let script = "ip link set lo up && mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf \
                  && shift 2 && exec \"$@\"";
    let name = "store::http::names::a_name_that_does_not_exist_is_asked_for_once_and_one_that_nobody_can_tell_again";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .args([&resolv, &switch])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

fn ask() {
    serve_names();
    let settings = HttpSettings { retries: 2, ..HttpSettings::default() };
    let ask = |settings: &HttpSettings, url: &str| {
        let log = Log::new();
        let error = get(settings, &ImageUrl::parse(url).unwrap(), &log).err().unwrap().to_string();
        (error, log.text().matches("trying again").count())
    };
    for host in ["gone.example", "mail.example"] {
        let url = format!("https://{host}/x");
        let words = format!("{url}: there is no host {host} (look at the name, or at the node's name servers)");
        assert_eq!(ask(&settings, &url), (words, 0));
    }
    let (error, again) = ask(&settings, "http://later.example/x");
    let words = "http://later.example/x: cannot connect to later.example:80: ";
    assert!(error.starts_with(words) && error.contains("Temporary failure in name resolution"), "{error}");
    assert_eq!(again, 2);
    // Nobody answers for this name, and the resolver would wait longer than the setting.
    let mute = HttpSettings { connect_timeout: Duration::from_millis(200), retries: 0, ..settings.clone() };
    let by_proxy = HttpSettings { proxy: Some(super::secret("http://mute.example:3128")), ..mute.clone() };
    for (settings, peer) in [(&mute, "mute.example:80"), (&by_proxy, "the proxy mute.example:3128")] {
        let words = format!("http://mute.example/x: cannot connect to {peer}: no answer within 0.2 s");
        assert_eq!(ask(settings, "http://mute.example/x"), (words, 0));
    }
    let words = "https://images.example/x: cannot connect to the proxy mute.example:3128: no answer within 0.2 s";
    assert_eq!(ask(&by_proxy, "https://images.example/x"), (words.to_owned(), 0));
    // The proxy's name.
    let proxy = Some(super::secret("http://joe:pw@gone.example:3128"));
    for url in ["http://images.example/x", "https://images.example/x"] {
        let words = format!("{url}: there is no host gone.example (look at the name, or at the node's name servers)");
        assert_eq!(ask(&HttpSettings { proxy: proxy.clone(), ..settings.clone() }, url), (words, 0));
    }
}

/// Answers for as long as the process lives: by RFC 1035, the question with another header.
fn serve_names() {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut packet) {
            let name_end = 12 + packet[12..count].iter().position(|byte| *byte == 0).unwrap();
            let question = &packet[12..name_end + 5];
            let code = match &question[1..5] {
                b"gone" => 3,
                b"late" => 2,
                b"mute" => continue,
                _ => 0,
            };
            let header = [packet[0], packet[1], 0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0];
            socket.send_to(&[&header[..], question].concat(), from).unwrap();
        }
    });
}
