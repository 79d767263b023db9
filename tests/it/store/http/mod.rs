// SPDX-License-Identifier: BSD-2-Clause
//! Fetching over real sockets.

mod names;
mod slow;
mod ways;

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use simpleimage::node::size::ByteSize;
use simpleimage::store::http::{
    Backoff, Client, Conditions, Content, HttpError, HttpSettings, ImageUrl, Response, Secret, UrlPrefix,
};

use crate::support::bytes;
use crate::support::log::Log;
use crate::support::server::{Reply, Server};

const QUICK: Backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(2) };

fn client(settings: &HttpSettings) -> Client {
    Client::with_backoff(settings, QUICK).unwrap()
}

fn get(settings: &HttpSettings, url: &ImageUrl, log: &Log) -> Result<Box<Content>, HttpError> {
    match client(settings).get(url, &Conditions::default(), &log.report())? {
        Response::Content(content) => Ok(content),
        Response::NotModified { .. } => panic!("not modified"),
    }
}

fn content(settings: &HttpSettings, url: &ImageUrl) -> Box<Content> {
    get(settings, url, &Log::new()).unwrap()
}

fn read(mut content: Box<Content>) -> Vec<u8> {
    let mut data = Vec::new();
    content.body.read_to_end(&mut data).unwrap();
    data
}

fn failure(settings: &HttpSettings, url: &ImageUrl) -> String {
    get(settings, url, &Log::new()).map(|_| ()).unwrap_err().to_string()
}

fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

#[test]
fn every_byte_and_what_describes_it_arrives() {
    let image = bytes(1, 700_001);
    let reply = Reply::ok(image.clone()).header("ETag", "\"v1\"").header("Last-Modified", "yesterday");
    let server = Server::sequence([reply]);
    let url = server.url("/disk.raw?key=s3cret");
    let content = content(&HttpSettings::default(), &url);
    assert_eq!(content.url, url);
    assert_eq!(content.content_length, Some(700_001));
    assert_eq!((content.etag.as_deref(), content.last_modified.as_deref()), (Some("\"v1\""), Some("yesterday")));
    assert!(read(content) == image);
    let request = &server.requests()[0];
    assert_eq!(request.target, "/disk.raw?key=s3cret");
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("user-agent"), Some(HttpSettings::default().user_agent.as_str()));
}

#[test]
fn a_labelled_gzip_body_is_not_unpacked() {
    let image = [&[0x1f, 0x8b, 8, 0][..], &bytes(2, 5000)].concat();
    let server = Server::sequence([Reply::ok(image.clone()).header("Content-Encoding", "gzip")]);
    assert!(read(content(&HttpSettings::default(), &server.url("/disk.raw.gz"))) == image);
}

#[test]
fn a_chunked_body_has_no_length_but_an_end() {
    let image = bytes(3, 123_456);
    let server =
        Server::sequence([Reply::ok(image.clone()).chunked(), Reply::ok(image.clone()).chunked().cut_after(50_000)]);
    let log = Log::new();
    let whole = get(&HttpSettings::default(), &server.url("/x"), &log).unwrap();
    assert_eq!(whole.content_length, None);
    assert!(read(whole) == image);
    assert_eq!(log.text(), "");
    let error = content(&HttpSettings::default(), &server.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(error.to_string(), format!("{}: the connection was cut after 50000 bytes", server.url("/x")));
}

#[test]
fn a_body_without_any_end_mark_is_warned_about() {
    let server = Server::sequence([Reply::ok("image").until_closed()]);
    let log = Log::new();
    let content = get(&HttpSettings::default(), &server.url("/x"), &log).unwrap();
    assert_eq!(read(content), b"image");
    let expected = "warning: http://127.0.0.1:PORT/x: the server does not say how long the image is, so a cut download \
                    cannot be noticed";
    assert!(log.text().contains(&expected.replace("PORT", &server.address().port().to_string())), "{}", log.text());
}

/// What the connection itself tells of its end is believed, as curl believes it.
#[test]
fn a_body_without_any_end_mark_that_is_torn_off_is_cut() {
    let body = || Reply::ok(bytes(4, 90_000)).cut_after(30_000);
    let server = Server::sequence([body().until_closed().reset(), body().chunked().reset(), body().reset()]);
    for _ in 0..3 {
        let error = content(&HttpSettings::default(), &server.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(
            error.to_string().starts_with(&format!("{}: the connection was cut after ", server.url("/x"))),
            "{error}"
        );
    }
}

#[test]
fn a_body_shorter_than_announced_is_an_error() {
    let replies = [Reply::ok(bytes(4, 90_000)).cut_after(30_000), Reply::ok("short").content_length(1000)];
    let server = Server::sequence(replies);
    for expected in ["cut after 30000 bytes of 90000", "cut after 5 bytes of 1000"] {
        let mut content = content(&HttpSettings::default(), &server.url("/x?k=s3cret"));
        let error = content.body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), format!("{}: the connection was {expected}", server.url("/x")));
    }
}

#[test]
fn silence_ends_a_download_and_an_answer() {
    let settings = HttpSettings { stall_timeout: Duration::from_millis(200), retries: 0, ..HttpSettings::default() };
    let server = Server::sequence([Reply::ok(bytes(5, 9000)).stall_after(4000)]);
    let error = content(&settings, &server.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), format!("{}: no data for 0.2 s", server.url("/x")));

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    assert_eq!(failure(&settings, &ImageUrl::parse(&url).unwrap()), format!("{url}: no data for 0.2 s"));
}

#[test]
fn a_drip_ends_a_download_and_an_answer() {
    let settings = HttpSettings {
        stall_timeout: Duration::from_millis(300),
        min_speed: Some(ByteSize(10_000)),
        retries: 0,
        ..HttpSettings::default()
    };
    // 1000 bytes a second, and never silent for long.
    let drip = |image: Vec<u8>| Reply::ok(image).pieces(20, Duration::from_millis(20));
    let server = Server::start(move |_, _| drip(bytes(5, 9000)));
    let error = content(&settings, &server.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), format!("{}: less than 9.76 KiB (10000 bytes) a second for 0.3 s", server.url("/x")));
    for patient in [None, Some(ByteSize(100))] {
        let patient = HttpSettings { min_speed: patient, ..settings.clone() };
        let short = Server::sequence([Reply::ok(bytes(5, 500)).pieces(20, Duration::from_millis(20))]);
        assert!(read(content(&patient, &short.url("/x"))) == bytes(5, 500));
    }
    // Slow because it was told so.
    let limited = HttpSettings { limit_rate: Some(ByteSize(5000)), ..settings.clone() };
    let quick = Server::sequence([Reply::ok(bytes(6, 4000))]);
    assert!(read(content(&limited, &quick.url("/x"))) == bytes(6, 4000));

    let header = (0..200).fold(Reply::ok("image"), |reply, n| reply.header(&format!("X-Pad-{n}"), "x"));
    let dripping = Server::sequence([header.slow_head(Duration::from_millis(20))]);
    let url = dripping.url("/x");
    assert_eq!(failure(&settings, &url), format!("{url}: no data for 0.3 s"));
}

#[test]
fn max_time_bounds_a_download_that_never_falls_silent() {
    let settings = HttpSettings {
        max_time: Some(Duration::from_secs(2)),
        limit_rate: Some(ByteSize(100_000)),
        ..HttpSettings::default()
    };
    let server = Server::start(|_, _| Reply::ok(bytes(6, 10_000_000)));
    let begin = Instant::now();
    let error = content(&settings, &server.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: not complete after 2 s", server.url("/x")));
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn limit_rate_is_not_exceeded() {
    let settings = HttpSettings { limit_rate: Some(ByteSize(400_000)), ..HttpSettings::default() };
    let image = bytes(7, 200_000);
    let server = Server::sequence([Reply::ok(image.clone())]);
    let begin = Instant::now();
    assert!(read(content(&settings, &server.url("/x"))) == image);
    assert!(begin.elapsed() >= Duration::from_millis(490), "{:?}", begin.elapsed());
}

#[test]
fn passing_failures_are_tried_again() {
    let replies =
        [Reply::status(503).header("Retry-After", "0"), Reply::garbage(b""), Reply::status(429), Reply::ok("image")];
    let server = Server::sequence(replies);
    let log = Log::new();
    let content = get(&HttpSettings::default(), &server.url("/x?k=s3cret"), &log).unwrap();
    assert_eq!(read(content), b"image");
    let url = server.url("/x");
    let expected = [
        format!(
            "simpleimage[create]: {url}: the server answered 503 Service Unavailable; trying again in 0.001 s (1 of 5)"
        ),
        format!(
            "simpleimage[create]: {url}: the server closed the connection without an answer; trying again in 0.002 s \
             (2 of 5)"
        ),
        format!(
            "simpleimage[create]: {url}: the server answered 429 Too Many Requests; trying again in 0.002 s (3 of 5)"
        ),
    ];
    assert_eq!(log.text().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn retry_after_may_be_a_date() {
    let date = |seconds| format!("Wed, 21 Oct 2015 07:28:{seconds:02} GMT");
    let unavailable = |after: String| Reply::status(503).header("Retry-After", after);
    let replies = [
        unavailable(date(2)).header("Date", date(1)),
        // In the past, without the server's own time, and no date at all: nothing is asked for.
        unavailable(date(1)).header("Date", date(9)),
        unavailable(date(59)),
        unavailable("soon".to_owned()).header("Date", date(1)),
        Reply::ok("image"),
    ];
    let server = Server::sequence(replies);
    let log = Log::new();
    assert_eq!(read(get(&HttpSettings::default(), &server.url("/x"), &log).unwrap()), b"image");
    let pauses: Vec<_> = log.text().lines().map(|line| line.split(" again in ").nth(1).unwrap().to_owned()).collect();
    assert_eq!(pauses, ["1 s (1 of 5)", "0.002 s (2 of 5)", "0.002 s (3 of 5)", "0.002 s (4 of 5)"]);
}

#[test]
fn exactly_what_passes_is_tried_again() {
    for (status, tries) in [
        (408, 2),
        (429, 2),
        (500, 2),
        (502, 2),
        (503, 2),
        (504, 2),
        (400, 1),
        (401, 1),
        (403, 1),
        (404, 1),
        (410, 1),
        (501, 1),
    ] {
        let server = Server::sequence([Reply::status(status)]);
        let settings = HttpSettings { retries: 1, ..HttpSettings::default() };
        let message = failure(&settings, &server.url("/x"));
        assert!(message.contains(&format!("the server answered {status}")), "{message}");
        assert_eq!(server.requests().len(), tries, "{status}");
    }
}

#[test]
fn retries_end() {
    let server = Server::sequence([Reply::status(500)]);
    let settings = HttpSettings { retries: 2, ..HttpSettings::default() };
    let expected = format!("{}: the server answered 500 Internal Server Error", server.url("/x"));
    assert_eq!(failure(&settings, &server.url("/x")), expected);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn final_answers_are_not_asked_for_again() {
    for (reply, expected) in [
        (Reply::status(404), "the server answered 404 Not Found"),
        (Reply::status(403), "the server answered 403 Forbidden"),
        (Reply::status(204), "the server answered 204 No Content"),
        (Reply::not_modified(), "the server answered 304 Not Modified"),
        (
            Reply::ok("image").chunked().header("Transfer-Encoding", "gzip"),
            "the answer is not valid HTTP (a transfer encoding other than chunked)",
        ),
        (
            Reply::garbage(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "the answer is not valid HTTP (http parse fail: invalid HTTP version)",
        ),
    ] {
        let server = Server::sequence([reply]);
        let url = server.url("/x");
        assert_eq!(failure(&HttpSettings::default(), &url), format!("{url}: {expected}"));
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_refused_connection_names_host_and_port() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let url = ImageUrl::parse(&format!("http://joe:hunter2@{address}/x?k=s3cret")).unwrap();
    let settings = HttpSettings { retries: 1, ..HttpSettings::default() };
    assert_eq!(failure(&settings, &url), format!("{url}: cannot connect to {address}: connection refused"));
}

#[test]
fn conditions_are_sent_and_304_is_an_answer() {
    let server = Server::sequence([Reply::not_modified()]);
    let conditions =
        Conditions { if_none_match: Some("W/\"v1\"".to_owned()), if_modified_since: Some("then".to_owned()) };
    let answer = client(&HttpSettings::default()).get(&server.url("/x"), &conditions, &Log::new().report()).unwrap();
    assert!(matches!(answer, Response::NotModified { .. }));
    let request = &server.requests()[0];
    assert_eq!(request.header("if-none-match"), Some("W/\"v1\""));
    assert_eq!(request.header("if-modified-since"), Some("then"));
}

#[test]
fn redirects_are_followed_to_the_final_url() {
    let server = Server::start(|request, _| match request.target.as_str() {
        "/a" => Reply::redirect("b/c?d=s3cret"),
        "/b/c?d=s3cret" => Reply::redirect("/end"),
        _ => Reply::ok("image"),
    });
    let content = content(&HttpSettings::default(), &server.url("/a"));
    assert_eq!(content.url, server.url("/end"));
    assert_eq!(read(content), b"image");
}

#[test]
fn answers_as_some_servers_give_them_are_taken() {
    let body = bytes(1, 5000);
    let whole = "bytes 0-4999/5000";
    for reply in [
        Reply::ok(body.clone()).with_status(203),
        Reply::ok(body.clone()).with_status(206).header("Content-Range", whole),
        Reply::ok(body.clone()).header("X-Long", "x".repeat(200 << 10)),
        (0..100).fold(Reply::ok(body.clone()), |reply, number| reply.header(&format!("X-{number}"), "x")),
    ] {
        let server = Server::sequence([reply]);
        assert!(read(content(&HttpSettings::default(), &server.url("/x"))) == body);
    }
    let part = Reply::ok(body).with_status(206).header("Content-Range", "bytes 0-4999/6000");
    let server = Server::sequence([part]);
    let message = failure(&HttpSettings::default(), &server.url("/x"));
    assert!(message.ends_with("the server answered 206 Partial Content"), "{message}");
}

#[test]
fn a_redirect_may_have_letters_that_are_not_ascii() {
    let server = Server::start(|request, _| match request.target.as_str() {
        "/x" => Reply::redirect("/d\u{e9}bian"),
        target => Reply::ok(target.to_owned()),
    });
    assert_eq!(read(content(&HttpSettings::default(), &server.url("/x"))), b"/d%C3%A9bian");
}

#[test]
fn redirects_without_end_are_an_error() {
    let circle =
        Server::start(|request, _| if request.target == "/a" { Reply::redirect("/b") } else { Reply::redirect("/a") });
    let url = circle.url("/a");
    assert_eq!(failure(&HttpSettings::default(), &url), format!("{url}: the redirects go round in a circle"));
    assert_eq!(circle.requests().len(), 2);

    let endless = Server::start(|_, before| Reply::redirect(format!("/{before}")));
    let url = endless.url("/x");
    assert_eq!(failure(&HttpSettings::default(), &url), format!("{url}: more than 10 redirects"));
    assert_eq!(endless.requests().len(), 11);
}

#[test]
fn redirects_to_nowhere_useful_are_refused() {
    for location in ["file:///etc/shadow", "ftp://joe:hunter2@h/x", "http://"] {
        let server = Server::sequence([Reply::redirect(location)]);
        let url = server.url("/x");
        let expected = format!("{url}: the server redirects to something that is not an http or https URL");
        assert_eq!(failure(&HttpSettings::default(), &url), expected);
    }
    let server = Server::sequence([Reply::status(302)]);
    let url = server.url("/x");
    let expected = format!("{url}: the server redirects without saying where to");
    assert_eq!(failure(&HttpSettings::default(), &url), expected);
}

#[test]
fn only_allowed_urls_are_asked_for_redirects_included() {
    let other = Server::sequence([Reply::ok("image")]);
    let target = other.url("/images/x?k=s3cret").as_url().to_string();
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/images/away" => Reply::redirect(target.clone()),
        "/images/up" => Reply::redirect("../secret?k=s3cret"),
        "/images/down" => Reply::redirect("a/b"),
        _ => Reply::ok("image"),
    });
    let prefix = UrlPrefix::parse(&server.url("/images").to_string()).unwrap();
    let settings = HttpSettings { allowed: Some(vec![prefix]), ..HttpSettings::default() };
    assert_eq!(read(content(&settings, &server.url("/images/down"))), b"image");
    let not_listed = "is not in a place that allowed_images lists";
    let refused = server.url("/secret");
    assert_eq!(failure(&settings, &server.url("/secret?k=s3cret")), format!("{refused} {not_listed}"));
    for (path, end) in [("/images/up", refused), ("/images/away", other.url("/images/x"))] {
        let expected = format!("{end} {not_listed}, but the server redirects to it");
        assert_eq!(failure(&settings, &server.url(path)), expected);
    }
    let asked: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/images/down", "/images/a/b", "/images/up", "/images/away"]);
    assert_eq!(other.requests().len(), 0);
    let nothing = HttpSettings { allowed: Some(Vec::new()), ..HttpSettings::default() };
    let url = server.url("/images/x");
    assert_eq!(failure(&nothing, &url), format!("{url} {not_listed}"));
}

#[test]
fn credentials_and_headers_stay_with_their_server() {
    let other = Server::sequence([Reply::ok("image")]);
    let target = other.url("/image").to_string();
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/a" => Reply::redirect("/b"),
        _ => Reply::redirect(target.clone()),
    });
    let settings = HttpSettings {
        headers: vec![("X-Token".to_owned(), secret("t0ken"))],
        user: Some(secret("joe")),
        password: secret("hunter2"),
        ..HttpSettings::default()
    };
    assert_eq!(read(content(&settings, &server.url("/a"))), b"image");
    assert_eq!(read(content(&settings, &server.url_for("ann:pw@127.0.0.1", "/a"))), b"image");
    let sent: Vec<_> = server
        .requests()
        .iter()
        .map(|r| (r.header("authorization").map(str::to_owned), r.header("x-token").is_some()))
        .collect();
    let (joe, ann) = (Some("Basic am9lOmh1bnRlcjI=".to_owned()), Some("Basic YW5uOnB3".to_owned()));
    assert_eq!(sent, [(joe.clone(), true), (joe, true), (ann.clone(), true), (ann, true)]);
    for request in other.requests() {
        assert_eq!((request.header("authorization"), request.header("x-token")), (None, None));
    }
}
