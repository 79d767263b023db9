// SPDX-License-Identifier: BSD-2-Clause
//! Servers that never fall silent and send nothing of the image: whatever they drip, the time for it ends.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use simpleimage::store::http::{HttpSettings, ImageUrl};

use super::{content, failure, get, secret};
use crate::support::log::Log;
use crate::support::server::Server;

/// How long the servers of these tests may drip, and far more than that.
const PATIENCE: Duration = Duration::from_millis(300);
const WATCHDOG: Duration = Duration::from_secs(90);

fn impatient() -> HttpSettings {
    HttpSettings { connect_timeout: PATIENCE, stall_timeout: PATIENCE, retries: 0, ..HttpSettings::default() }
}

/// What `work` gives, if it ends at all.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    done.recv_timeout(WATCHDOG).expect("it goes on for ever")
}

#[test]
fn bytes_around_the_image_do_not_keep_a_download_going() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n";
    for (what, rest, drip) in [
        ("an extension", &b"4;"[..], &b"x"[..]),
        ("a value of an extension", b"4;a=\"", b"x"),
        ("the digits of a length", b"", b"0"),
        ("a trailer", b"0\r\nX: ", b"x"),
        ("trailers", b"0\r\n", b"X: y\r\n"),
    ] {
        for min_speed in [None, HttpSettings::default().min_speed] {
            let server = Arc::new(Server::start_dripping(&[CHUNKED, rest].concat(), drip));
            let (url, settings) = (server.url("/x"), HttpSettings { min_speed, ..impatient() });
            let expected = format!("{url}: no data for 0.3 s");
            let (got, error) = ends(move || {
                let mut got = Vec::new();
                let error = content(&settings, &url).body.read_to_end(&mut got).unwrap_err();
                (got, error.to_string())
            });
            assert_eq!((got.as_slice(), error), (&b"abcd"[..], expected), "{what}");
        }
    }
}

#[test]
fn bytes_before_the_image_do_not_keep_a_request_going() {
    for (what, greeting, drip) in [
        ("a status line", &b"HTTP/1.1 200 "[..], &b"x"[..]),
        ("a header", b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        ("headers", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        ("early hints", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        ("continue", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("the page of a port for https", b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n4;", b"x"),
    ] {
        let server = Server::start_dripping(greeting, drip);
        let url = server.url("/x");
        let asked = url.clone();
        let message = ends(move || failure(&impatient(), &asked));
        let words = if what.ends_with("https") { "the server answered 400 Bad Request" } else { "no data for 0.3 s" };
        assert_eq!(message, format!("{url}: {words}"), "{what}");
    }
}

#[test]
fn a_greeting_that_drips_is_no_connection() {
    // A record of a handshake with 16 KiB, and a tunnel with one header.
    let tls = Server::start_dripping(b"\x16\x03\x03\x40\x00\x02", b"\0");
    let url = ImageUrl::parse(&format!("https://{}/x", tls.address())).unwrap();
    let asked = url.clone();
    let message = ends(move || failure(&impatient(), &asked));
    assert_eq!(message, format!("{url}: cannot connect to {}: no answer within 0.3 s", tls.address()));

    for (greeting, drip) in [
        (&b"HTTP/1.1 200 OK\r\nX: "[..], &b"x"[..]),
        // The tunnel is there, and what is behind it drips.
        (b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03\x40\x00\x02", b"\0"),
    ] {
        let proxy = Server::start_dripping(greeting, drip);
        let (url, name) = ("https://images.example/x", format!("the proxy {}", proxy.address()));
        let proxy_url = secret(&format!("http://{}", proxy.address()));
        let settings = HttpSettings { https_proxy: Some(proxy_url), ..impatient() };
        let message = ends(move || failure(&settings, &ImageUrl::parse(url).unwrap()));
        assert_eq!(message, format!("{url}: cannot connect to {name}: no answer within 0.3 s"));
    }
}

#[test]
fn max_time_ends_a_greeting_that_drips_too() {
    let tls = Server::start_dripping(b"\x16\x03\x03\x40\x00\x02", b"\0");
    let url = ImageUrl::parse(&format!("https://{}/x", tls.address())).unwrap();
    let settings = HttpSettings { max_time: Some(PATIENCE), retries: 0, ..HttpSettings::default() };
    let asked = url.clone();
    let message = ends(move || get(&settings, &asked, &Log::new()).err().unwrap().to_string());
    assert_eq!(message, format!("{url}: not complete after 0.3 s"));
}

#[test]
fn a_server_that_takes_its_time_within_the_limit_is_waited_for() {
    // Each wait is shorter than the limit, and all of them together are longer: reaching the server, its answer and each
    // byte have a time of their own.
    let server = Server::start_slowly(&[
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"4;x=y\r\nabcd\r\n",
        b"4\r\nefgh\r\n",
        b"0\r\nX: y\r\n\r\n",
    ]);
    let settings = HttpSettings { stall_timeout: Duration::from_secs(20), ..impatient() };
    let url = server.url("/x");
    let mut got = Vec::new();
    content(&settings, &url).body.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"abcdefgh");
}
