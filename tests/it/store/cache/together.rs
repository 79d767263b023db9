// SPDX-License-Identifier: BSD-2-Clause
//! Several fetches at once, and processes that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use simpleimage::node::report::Report;
use simpleimage::store::cache::Cache;
use simpleimage::store::http::ImageUrl;

use super::{Fixture, client, noon, read, settings};
use crate::support::bytes;
use crate::support::log::{LONG, Log};
use crate::support::server::{Reply, Server};

/// A server that says when a request came and answers when it is told to.
struct Gated {
    server: Server,
    arrived: mpsc::Receiver<()>,
    /// Dropped, it lets every request through.
    gate: mpsc::Sender<()>,
}

fn gated(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Gated {
    let (arrival, arrived) = mpsc::channel();
    let (gate, opened) = mpsc::channel();
    let opened = Mutex::new(opened);
    let server = Server::start(move |_, before| {
        let _ = arrival.send(());
        // An error is the dropped gate: open.
        let _ = opened.lock().unwrap().recv();
        reply(before)
    });
    Gated { server, arrived, gate }
}

/// Fetches in a process of its own when told so by the environment; by itself it does nothing.
#[test]
fn child_process() {
    let Ok(url) = std::env::var("SIMPLEIMAGE_TEST_URL") else { return };
    let dir = std::env::var_os("SIMPLEIMAGE_TEST_DIR").unwrap().into();
    let cache = Cache::open(&settings(dir)).unwrap();
    let report = Report::stderr(Some("create"), true);
    let mut image = cache.fetch(&ImageUrl::parse(&url).unwrap(), &client(), noon(), &report).unwrap();
    report.info(format_args!("got {} bytes, hit {}", read(&mut image).len(), image.hit));
}

pub(super) fn spawn_child(test: &Fixture, url: &ImageUrl) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::cache::together::child_process", "--nocapture"])
        .env("SIMPLEIMAGE_TEST_URL", url.as_url().as_str())
        .env("SIMPLEIMAGE_TEST_DIR", &test.settings.dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn fetches_at_once_share_one_download() {
    let (test, image) = (Fixture::new(), bytes(1, 900_000));
    let reply = Reply::ok(image.clone());
    let Gated { server, arrived, gate } = gated(move |_| reply.clone());
    let url = server.url("/x");
    let logs = [Log::new(), Log::new()];
    thread::scope(|scope| {
        let first = scope.spawn(|| test.fetch(&url, noon()).unwrap());
        arrived.recv_timeout(LONG).unwrap();
        let others = logs.each_ref().map(|log| {
            let (cache, url) = (test.cache(), url.clone());
            scope.spawn(move || cache.fetch(&url, &client(), noon(), &log.report()).unwrap())
        });
        for log in &logs {
            log.wait_for(&format!("waiting for another download of {url}"));
        }
        drop(gate);
        assert!(read(&mut first.join().unwrap()) == image);
        for other in others {
            let mut shared = other.join().unwrap();
            assert!(shared.hit && read(&mut shared) == image);
        }
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn what_others_are_just_told_serves_even_where_nothing_older_would() {
    let mut test = Fixture::new();
    test.settings.max_age = Duration::ZERO;
    let Gated { server, arrived, gate } = gated(|_| Reply::ok("image"));
    let url = server.url("/x");
    thread::scope(|scope| {
        let first = scope.spawn(|| test.fetch(&url, noon()).unwrap());
        arrived.recv_timeout(LONG).unwrap();
        let second = scope.spawn(|| test.fetch(&url, noon()).unwrap());
        test.log.wait_for("waiting for another download");
        drop(gate);
        // Both are held until the end, so that neither prunes what the other is about to use.
        let (first, mut second) = (first.join().unwrap(), second.join().unwrap());
        assert!(!first.hit && second.hit);
        assert_eq!(read(&mut second), b"image");
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn who_waited_for_a_failure_tries_itself() {
    let test = Fixture::new();
    let Gated { server, arrived, gate } =
        gated(|before| if before == 0 { Reply::status(404) } else { Reply::ok("image") });
    let url = server.url("/x");
    thread::scope(|scope| {
        let first = scope.spawn(|| test.failure(&url, noon()));
        arrived.recv_timeout(LONG).unwrap();
        let second = scope.spawn(|| test.fetch(&url, noon()).unwrap());
        test.log.wait_for("waiting for another download");
        drop(gate);
        assert_eq!(first.join().unwrap(), format!("{url}: the server answered 404 Not Found"));
        assert_eq!(read(&mut second.join().unwrap()), b"image");
    });
}

#[test]
fn processes_share_one_download() {
    let (test, image) = (Fixture::new(), bytes(2, 300_000));
    let reply = Reply::ok(image.clone());
    let Gated { server, arrived, gate } = gated(move |_| reply.clone());
    let url = server.url("/x");
    thread::scope(|scope| {
        let first = scope.spawn(|| test.fetch(&url, noon()).unwrap());
        arrived.recv_timeout(LONG).unwrap();
        let mut child = spawn_child(&test, &url);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("waiting for another download")));
        drop(gate);
        assert!(read(&mut first.join().unwrap()) == image);
        assert!(lines.any(|line| line.ends_with("got 300000 bytes, hit true")));
        assert!(child.wait().unwrap().success());
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_killed_download_leaves_a_part_that_the_next_one_replaces() {
    let (test, image) = (Fixture::new(), bytes(3, 600_000));
    let whole = Reply::ok(image.clone());
    let server =
        Server::start(move |_, before| if before == 0 { whole.clone().stall_after(500_000) } else { whole.clone() });
    let url = server.url("/x");
    let mut child = spawn_child(&test, &url);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("downloading ")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(test.suffixes(), ["lock", "part"]);
    let mut fetched = test.fetch(&url, noon()).unwrap();
    assert!(!fetched.hit && read(&mut fetched) == image);
    assert_eq!(test.suffixes(), ["img", "lock", "toml"]);
}
