// SPDX-License-Identifier: BSD-2-Clause
//! Cut downloads: gone on with where that is safe, begun anew where it is not.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use simpleimage::store::http::HttpSettings;

use super::together::spawn_child;
use super::{Fixture, HOUR, NOTHING, client_with, noon, read};
use crate::support::bytes;
use crate::support::server::{Reply, Request, Server};
use crate::support::world::wait_until;

const TAG: &str = "\"v1\"";

/// A file server of which the first answer is cut after so many bytes.
fn cut_once(image: &[u8], cut: usize, validator: &'static str) -> Server {
    let image = image.to_vec();
    Server::start(move |request, before| {
        let reply = Reply::file(request, &image, validator);
        if before == 0 { reply.cut_after(cut) } else { reply }
    })
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect()
}

/// What is left when nothing is.
const CLEAN: [&str; 3] = ["img", "lock", "toml"];

#[test]
fn a_download_cut_at_every_power_of_two_goes_on_in_the_same_run_and_in_the_next() {
    let image = bytes(1, (1 << 21) + 1);
    for cut in (0..=21).map(|power| 1_usize << power) {
        for (same_run, validator) in [(true, TAG), (false, TAG), (false, "Wed, 21 Oct 2015 07:28:00 GMT")] {
            let (test, server) = (Fixture::new(), cut_once(&image, cut, validator));
            let url = server.url("/x?k=s3cret");
            if !same_run {
                let message = test.fetch_once(&url, noon()).unwrap_err().to_string();
                let expected = format!("{url}: the connection was cut after {cut} bytes of {}", image.len());
                assert_eq!(message, expected);
                assert_eq!(test.suffixes(), ["lock", "mark", "part"]);
                let mark = fs::read_to_string(test.file("mark")).unwrap();
                assert!(!mark.contains("s3cret"), "{mark}");
            }
            let mut fetched = test.fetch(&url, noon()).unwrap();
            assert!(!fetched.hit && read(&mut fetched) == image, "{cut}");
            assert_eq!(ranges(&server), [None, Some(format!("bytes={cut}-"))]);
            assert_eq!(server.requests()[1].header("if-range"), Some(validator));
            assert_eq!(test.suffixes(), CLEAN);
            // What is recorded is the hash of all of it.
            let sum = std::process::Command::new("sha256sum").arg(&fetched.path).output().unwrap();
            assert_eq!(fetched.sha256.as_bytes(), &sum.stdout[..64]);
            assert!(test.log.text().contains(&format!("going on with the download of {url}: ")), "{}", test.log.text());
        }
    }
}

#[test]
fn what_is_known_of_the_image_survives_the_cut() {
    let image = bytes(2, 50_000);
    let server = Server::start({
        let image = image.clone();
        move |request, before| match before {
            0 => Reply::file(request, &image, TAG).header("Last-Modified", "then").cut_after(20_000),
            // As RFC 9110, section 15.3.7, has it: no more than what is needed.
            1 => Reply::file(request, &image, TAG),
            _ => Reply::not_modified(),
        }
    });
    let test = Fixture::new();
    test.fetch_once(&server.url("/x"), noon()).unwrap_err();
    test.fetch_once(&server.url("/x"), noon()).unwrap();
    test.fetch_once(&server.url("/x"), noon() + HOUR).unwrap();
    let asked = &server.requests()[2];
    assert_eq!((asked.header("if-none-match"), asked.header("if-modified-since")), (Some(TAG), Some("then")));
}

#[test]
fn without_a_strong_validator_all_of_it_comes_again() {
    let image = bytes(3, 60_000);
    for headers in [
        &[][..],
        &[("ETag", "W/\"v1\"")],
        &[("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("Date", "Wed, 21 Oct 2015 07:28:30 GMT")],
        &[
            ("ETag", "W/\"v1\""),
            ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("Date", "Wed, 21 Oct 2015 08:28:00 GMT"),
        ],
    ] {
        let whole = headers.iter().fold(Reply::ok(image.clone()), |reply, (name, value)| reply.header(name, *value));
        let test = Fixture::new();
        let server = Server::sequence([whole.clone().cut_after(30_000), whole.clone().cut_after(30_000), whole]);
        test.fetch_once(&server.url("/x"), noon()).unwrap_err();
        assert_eq!(test.suffixes(), NOTHING, "{headers:?}");
        assert!(read(&mut test.fetch(&server.url("/x"), noon()).unwrap()) == image);
        assert_eq!(ranges(&server), [None, None, None], "{headers:?}");
    }
}

/// Answers to a request for the rest that must not be appended, and whether they cost an attempt.
#[test]
fn whatever_is_not_the_rest_of_the_same_image_starts_over() {
    let (old, new) = (bytes(4, 80_000), bytes(5, 90_000));
    let part = |image: &[u8], from: usize| Reply::part(image, from).header("ETag", TAG);
    let cases: [(&str, Reply, Option<&str>); 11] = [
        ("range ignored", Reply::ok(new.clone()), None),
        ("changed image", Reply::ok(new.clone()).header("ETag", "\"v2\""), None),
        ("part of a changed image", part(&new, 40_000).without("ETag").header("ETag", "\"v2\""), Some("changed image")),
        ("part of another length", part(&new, 40_000), Some("another length")),
        ("earlier bytes", part(&old, 39_999), Some("other bytes")),
        ("later bytes", part(&old, 40_001), Some("other bytes")),
        (
            "not up to the end",
            part(&old, 40_000).without("Content-Range").header("Content-Range", "bytes 40000-50000/80000"),
            Some("other bytes"),
        ),
        ("no range named", part(&old, 40_000).without("Content-Range"), Some("without saying which")),
        (
            "two ranges",
            part(&old, 40_000).header("Content-Range", "bytes 40000-79999/80000"),
            Some("without saying which"),
        ),
        (
            "another unit",
            part(&old, 40_000).without("Content-Range").header("Content-Range", "lines 1-2/3"),
            Some("no range of bytes"),
        ),
        ("416", Reply::status(416), Some("416 Range Not Satisfiable")),
    ];
    for (what, wrong, reason) in cases {
        for same_run in [true, false] {
            let (old, new, wrong) = (old.clone(), new.clone(), wrong.clone());
            let server = Server::start(move |request, before| match before {
                0 => Reply::file(request, &old, TAG).cut_after(40_000),
                1 => wrong.clone(),
                _ => Reply::ok(new.clone()),
            });
            let test = Fixture::new();
            if !same_run {
                test.fetch_once(&server.url("/x"), noon()).unwrap_err();
            }
            let mut fetched = test.fetch(&server.url("/x"), noon()).unwrap();
            assert!(read(&mut fetched) == bytes(5, 90_000), "{what}");
            let (asked, log) = (ranges(&server), test.log.text());
            let rest = Some("bytes=40000-".to_owned());
            match reason {
                None => assert_eq!(asked, [None, rest], "{what}"),
                Some(reason) => {
                    assert_eq!(asked, [None, rest, None], "{what}");
                    let told = format!("{}: the server can't resume the download (it ", server.url("/x"));
                    assert!(log.contains(&told) && log.contains(reason), "{what}: {log}");
                }
            }
            assert_eq!(test.suffixes(), CLEAN, "{what}");
        }
    }
}

#[test]
fn a_wrong_part_that_is_the_last_attempt_is_an_error_and_leaves_nothing() {
    let image = bytes(6, 80_000);
    let server = Server::start({
        let image = image.clone();
        move |request, before| match before {
            0 => Reply::file(request, &image, TAG).cut_after(40_000),
            1 => Reply::part(&image, 0),
            _ => Reply::file(request, &image, TAG),
        }
    });
    let test = Fixture::new();
    let url = server.url("/x");
    test.fetch_once(&url, noon()).unwrap_err();
    let message = test.fetch_once(&url, noon()).unwrap_err().to_string();
    let reason = "it sent other bytes than those asked for";
    assert_eq!(message, format!("{url}: the server can't resume the download ({reason})"));
    assert_eq!(test.suffixes(), NOTHING);
    assert!(read(&mut test.fetch_once(&url, noon()).unwrap()) == image);
}

#[test]
fn a_rest_that_is_cut_or_too_long_or_in_chunks() {
    let image = bytes(7, 80_000);
    let rest = |from: usize| Reply::part(&image, from).header("ETag", TAG);
    let first = Reply::ok(image.clone()).header("ETag", TAG);
    // In chunks nothing but our own count tells the end.
    let long = Reply::part(&[image.clone(), vec![0; 9]].concat(), 50_000).chunked();
    let long = long.without("Content-Range").header("Content-Range", "bytes 50000-79999/80000");
    let short = Reply::part(&image[..79_000], 50_000).chunked();
    let short = short.without("Content-Range").header("Content-Range", "bytes 50000-79999/80000");
    for (second, reason, left) in [
        (rest(50_000).cut_after(10_000), "the connection was cut after 60000 bytes of 80000", Some(60_000)),
        (short, "the connection was cut after 79000 bytes of 80000", Some(79_000)),
        (long, "the answer is not valid HTTP (more bytes than announced)", None),
    ] {
        let test = Fixture::new();
        let image = image.clone();
        let first = first.clone().chunked().cut_after(50_000);
        let server = Server::start(move |request, before| match before {
            0 => first.clone(),
            1 => second.clone(),
            _ => Reply::file(request, &image, TAG).chunked(),
        });
        let url = server.url("/x");
        test.fetch_once(&url, noon()).unwrap_err();
        assert_eq!(test.fetch_once(&url, noon()).unwrap_err().to_string(), format!("{url}: {reason}"));
        assert!(read(&mut test.fetch_once(&url, noon()).unwrap()) == bytes(7, 80_000));
        assert_eq!(
            ranges(&server)[1..],
            [Some("bytes=50000-".to_owned()), left.map(|from: u64| format!("bytes={from}-"))]
        );
    }
}

#[test]
fn another_server_is_not_asked_for_the_rest() {
    let image = bytes(8, 70_000);
    let mirror = |image: Vec<u8>| Server::start(move |request, _| Reply::file(request, &image, TAG));
    let cutting = cut_once(&image, 30_000, TAG);
    let (same_tag, targets) = (mirror(bytes(9, 70_000)), AtomicUsize::new(0));
    let urls = [cutting.url("/image?token=1"), same_tag.url("/image"), cutting.url("/image?token=2")];
    let server = Server::start(move |_, _| {
        Reply::redirect(urls[targets.fetch_add(1, Ordering::SeqCst).min(2)].as_url().as_str())
    });
    let test = Fixture::new();
    test.fetch_once(&server.url("/x"), noon()).unwrap_err();
    // An ETag means nothing to another server, whatever it looks like.
    assert!(read(&mut test.fetch_once(&server.url("/x"), noon()).unwrap()) == bytes(9, 70_000));
    assert_eq!(ranges(&same_tag), [None]);

    // But a token in the query that changes with every redirect makes no other image.
    let test = Fixture::new();
    let cutting = cut_once(&image, 30_000, TAG);
    let target = cutting.url("/image").to_string();
    let server = Server::start(move |_, before| Reply::redirect(format!("{target}?token={before}")));
    test.fetch_once(&server.url("/x"), noon()).unwrap_err();
    assert!(read(&mut test.fetch_once(&server.url("/x"), noon()).unwrap()) == image);
    assert_eq!(ranges(&cutting), [None, Some("bytes=30000-".to_owned())]);
    assert!(ranges(&server).iter().all(Option::is_none));
}

#[test]
fn a_torn_part_or_mark_is_worth_nothing() {
    let image = bytes(10, 100_000);
    type Damage = fn(&Fixture);
    let damages: [(&str, Damage); 7] = [
        ("a byte is another", |test| {
            let part = fs::OpenOptions::new().write(true).open(test.file("part")).unwrap();
            part.write_all_at(b"!!!!", 41_000).unwrap();
        }),
        ("a page was never written", |test| {
            let part = fs::OpenOptions::new().write(true).open(test.file("part")).unwrap();
            part.write_all_at(&[0; 4096], 8192).unwrap();
        }),
        ("the file is shorter than its mark says", |test| {
            fs::OpenOptions::new().write(true).open(test.file("part")).unwrap().set_len(59_999).unwrap();
        }),
        ("the file is gone", |test| fs::remove_file(test.file("part")).unwrap()),
        ("the mark is gone", |test| fs::remove_file(test.file("mark")).unwrap()),
        ("the mark is half", |test| {
            let text = fs::read(test.file("mark")).unwrap();
            fs::write(test.file("mark"), &text[..text.len() / 2]).unwrap();
        }),
        ("the mark is empty", |test| fs::write(test.file("mark"), "").unwrap()),
    ];
    for (what, damage) in damages {
        let (test, server) = (Fixture::new(), cut_once(&image, 60_000, TAG));
        test.fetch_once(&server.url("/x"), noon()).unwrap_err();
        damage(&test);
        assert!(read(&mut test.fetch_once(&server.url("/x"), noon()).unwrap()) == image, "{what}");
        assert_eq!(ranges(&server), [None, None], "{what}");
        assert_eq!(test.suffixes(), CLEAN, "{what}");
    }
}

#[test]
fn what_came_after_the_mark_is_not_trusted() {
    let image = bytes(11, 100_000);
    let (test, server) = (Fixture::new(), cut_once(&image, 60_000, TAG));
    test.fetch_once(&server.url("/x"), noon()).unwrap_err();
    let mut part = fs::OpenOptions::new().append(true).open(test.file("part")).unwrap();
    std::io::Write::write_all(&mut part, &[0; 5000]).unwrap();
    assert!(read(&mut test.fetch_once(&server.url("/x"), noon()).unwrap()) == image);
    assert_eq!(ranges(&server)[1].as_deref(), Some("bytes=60000-"));
}

#[test]
fn a_killed_download_goes_on_from_its_last_mark() {
    let (test, image) = (Fixture::new(), bytes(12, 900_000));
    let server = Server::start({
        let image = image.clone();
        move |request, before| {
            let reply = Reply::file(request, &image, TAG);
            if before == 0 { reply.pieces(1000, Duration::from_millis(5)) } else { reply }
        }
    });
    let url = server.url("/x");
    let mut child = spawn_child(&test, &url);
    wait_until("there is a mark", || test.settings.dir.exists() && test.suffixes().contains(&"mark".to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
    let marked = fs::metadata(test.file("part")).unwrap().len();
    // What happens to other images in between makes no difference.
    test.fetch(&Server::sequence([Reply::ok("other")]).url("/y"), noon()).unwrap();
    assert!(read(&mut test.fetch(&url, noon()).unwrap()) == image);
    let range = ranges(&server)[1].clone().unwrap();
    let from: u64 = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!(from > 10_000 && from <= marked, "{from} of {marked}");
}

#[test]
fn a_kept_image_and_a_newer_ones_part_live_together() {
    let test = Fixture::new();
    let (old, new) = (bytes(13, 40_000), bytes(14, 50_000));
    // The version that is published, and whether the answer is cut.
    let server = Server::start({
        let (old, new) = (old.clone(), new.clone());
        move |request: &Request, before| {
            let (image, tag) = if matches!(before, 1 | 2 | 5) { (&new, "\"v2\"") } else { (&old, TAG) };
            match request.header("if-none-match") {
                Some(known) if known == tag => Reply::not_modified(),
                _ if matches!(before, 1 | 5) => Reply::file(request, image, tag).cut_after(20_000),
                _ => Reply::file(request, image, tag),
            }
        }
    });
    let url = server.url("/x");
    let fetch = |test: &Fixture, hours| {
        let mut image = test.fetch_once(&url, noon() + HOUR * hours).unwrap();
        (image.hit, read(&mut image))
    };
    assert!(fetch(&test, 0) == (false, old.clone()));
    assert!(fetch(&test, 1) == (true, old.clone()), "stale, for the newer one was cut");
    assert_eq!(test.suffixes(), ["img", "lock", "mark", "part", "toml"]);
    assert!(fetch(&test, 2) == (false, new.clone()), "the rest of the newer one");
    let asked = &server.requests()[2];
    assert_eq!((asked.header("if-none-match"), asked.header("range")), (Some(TAG), Some("bytes=20000-")));
    assert_eq!(test.suffixes(), CLEAN);
    // And back: a part of what is published no more goes.
    assert!(fetch(&test, 3) == (false, old.clone()));
    assert!(fetch(&test, 4) == (true, old.clone()));
    assert!(fetch(&test, 5) == (true, old.clone()), "cut again");
    assert_eq!(test.suffixes(), ["img", "lock", "mark", "part", "toml"]);
    assert!(fetch(&test, 6) == (true, old.clone()), "the newer one was taken back");
    assert_eq!(test.suffixes(), CLEAN);
}

#[test]
fn slow_and_silent_servers_are_gone_on_with_too() {
    let image = bytes(15, 60_000);
    for slow in [|reply: Reply| reply.stall_after(20_000), |reply: Reply| reply.pieces(100, Duration::from_millis(20))]
    {
        let test = Fixture::new();
        let server = Server::start({
            let image = image.clone();
            move |request, before| {
                let reply = Reply::file(request, &image, TAG);
                if before == 0 { slow(reply) } else { reply }
            }
        });
        let settings = HttpSettings {
            stall_timeout: Duration::from_millis(300),
            min_speed: Some(simpleimage::node::size::ByteSize(1 << 20)),
            retries: 1,
            ..HttpSettings::default()
        };
        let client = client_with(settings);
        let mut fetched = test.cache().fetch(&server.url("/x"), &client, noon(), &test.log.report()).unwrap();
        assert!(read(&mut fetched) == image);
        let asked = ranges(&server);
        assert!(asked.len() == 2 && asked[1].is_some(), "{asked:?}");
    }
}

/// How one attempt ends before its time.
#[derive(Debug, Clone, Copy)]
enum Interruption {
    Cut(usize),
    Refused(u16),
    /// Cut, and the process is another one afterwards.
    NextRun(usize),
    /// The server does not know ranges this time.
    RangeIgnored(usize),
}

fn interruption() -> impl Strategy<Value = Interruption> {
    prop_oneof![
        4 => (0..150_000_usize).prop_map(Interruption::Cut),
        4 => (0..150_000_usize).prop_map(Interruption::NextRun),
        1 => prop_oneof![Just(503), Just(429), Just(416)].prop_map(Interruption::Refused),
        1 => (0..150_000_usize).prop_map(Interruption::RangeIgnored),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_download_interrupted_at_any_sequence_of_points_equals_the_file(
        seed in any::<u64>(),
        len in 1..400_000_usize,
        interruptions in prop::collection::vec(interruption(), 0..8),
        chunked: bool,
    ) {
        let image = bytes(seed, len);
        let (test, steps) = (Fixture::new(), interruptions.clone());
        let server = Server::start({
            let image = image.clone();
            move |request, before| {
                let framed = |reply: Reply| if chunked { reply.chunked() } else { reply };
                let file = Reply::file(request, &image, TAG);
                match steps.get(before) {
                    None => framed(file),
                    Some(Interruption::Cut(at) | Interruption::NextRun(at)) => framed(file).cut_after(*at),
                    Some(Interruption::Refused(status)) => Reply::status(*status),
                    Some(Interruption::RangeIgnored(at)) => {
                        framed(Reply::ok(image.clone()).header("ETag", TAG)).cut_after(*at)
                    }
                }
            }
        });
        let url = server.url("/x");
        // One more than interruptions, for all bytes may be there but the mark of their end: then the rest is a 416.
        let mut failures_left = interruptions.len() + 1;
        let fetched = loop {
            let step = interruptions.get(server.requests().len());
            let done = match step {
                Some(Interruption::NextRun(_) | Interruption::Refused(416)) => test.fetch_once(&url, noon()),
                _ => test.fetch(&url, noon()),
            };
            match done {
                Ok(mut image) => break read(&mut image),
                Err(error) => {
                    prop_assert!(failures_left > 0, "{error}\n{}", test.log.text());
                    failures_left -= 1;
                }
            }
        };
        prop_assert!(fetched == image);
        prop_assert_eq!(test.suffixes(), CLEAN);
    }
}
