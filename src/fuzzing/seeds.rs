// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for what a first-boot seed is made of, and for the seed of another instance.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde_json::Value;

use crate::ganeti::env::Environment;
use crate::seed::clone::File;
use crate::seed::{self, Dns, Identity, Network, SeedContent, SourceName};

fn identity() -> Identity {
    Identity::new("web1.example.org", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f").expect("a name and a UUID")
}

/// Whether `message` is a line of ASCII. That it does not repeat a secret, the types of most errors here tell: they have
/// nothing but numbers and our own words.
fn is_line(message: &str) -> bool {
    message.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Public keys: those that are taken are keys again in the meta-data, one a line.
pub(super) fn ssh_keys(data: &[u8]) {
    match seed::parse_keys(data) {
        Err(error) => assert!(is_line(&error.to_string()), "{error}"),
        Ok(keys) => {
            // A line break, a comma or \n between two of them.
            assert!(keys.len() <= data.split(|byte| matches!(byte, b'\n' | b',' | b'\\')).count());
            let document: Value = serde_json::from_slice(&seed::meta_data(&identity(), keys.clone())).expect("JSON");
            let lines = document["public-keys"].as_array().expect("a list");
            for line in lines.iter().map(|line| line.as_str().expect("a text")) {
                assert!(!line.contains(char::is_control));
                let [key] = &seed::parse_keys(line.as_bytes()).expect("a key")[..] else { panic!("{line}") };
                assert!(keys.contains(key), "{line}");
            }
        }
    }
}

/// Name servers and search domains in the first two lines, then what names the parts of a seed.
pub(super) fn seed_lists(text: &str) {
    let (servers, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (search, sources) = rest.split_once('\n').unwrap_or((rest, ""));
    match Dns::new(Some(servers), Some(search)) {
        Err((_, error)) => assert!(is_line(&error.to_string())),
        Ok(dns) => {
            let value = serde_json::to_value(&dns).expect("JSON");
            let list = |key: &str| {
                let entries = value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                entries.iter().map(|entry| entry.as_str().expect("a text")).collect::<Vec<_>>().join(",")
            };
            assert_eq!(Dns::new(Some(&list("addresses")), Some(&list("search"))), Ok(dns));
        }
    }
    for entries in [SourceName::documents(sources), SourceName::keys(sources)] {
        match entries {
            Ok(entries) => entries.iter().for_each(|entry| check_source(entry, sources)),
            Err((number, error)) => {
                assert!((1..=sources.len()).contains(&number));
                assert!(is_line(&error.to_string()), "{error}");
            }
        }
    }
}

fn check_source(source: &SourceName, text: &str) {
    match source {
        SourceName::Inline(content) => {
            let encoded = STANDARD.encode(content);
            let joined: String = text.split_ascii_whitespace().collect();
            let plain = String::from_utf8_lossy(content);
            assert!(joined.contains(encoded.trim_end_matches('=')) || text.contains(plain.as_ref()));
        }
        SourceName::File(path) => {
            use std::path::Component;
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
            assert!(text.contains(path.to_str().expect("a text")));
        }
        SourceName::Url(url) => assert!(matches!(url.as_url().scheme(), "http" | "https")),
    }
}

/// Parts of user-data, with zero bytes between them: a single one stays as it is, and several come out of the document.
pub(super) fn user_data(data: &[u8]) {
    let parts: Vec<_> = data.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    match seed::user_data(parts.clone()) {
        Err(error) => assert!(is_line(&error.to_string())),
        Ok(made) => {
            assert!(made.unknown.iter().all(|number| (1..=parts.len()).contains(number)));
            match &parts[..] {
                [part] => assert!(made.document == *part),
                _ => assert!(unpacked(&made.document) == parts),
            }
        }
    }
}

/// The parts of a MIME document, all of them in base64.
fn unpacked(document: &[u8]) -> Vec<Vec<u8>> {
    let text = str::from_utf8(document).expect("a text");
    let (_, rest) = text.split_once("boundary=\"").expect("a boundary");
    let (boundary, body) = rest.split_once("\"\n").expect("a boundary");
    let (body, end) = body.rsplit_once(&format!("--{boundary}--\n")).expect("an end");
    assert!(end.is_empty() && text.lines().all(|line| line.len() < 100));
    let start = format!("--{boundary}\n");
    body.split(&start)
        .skip(1)
        .map(|part| {
            let (_, encoded) = part.split_once("\n\n").expect("a header");
            STANDARD.decode(encoded.replace('\n', "")).expect("base64")
        })
        .collect()
}

/// Variables as in /proc/PID/environ, whose NICs become a network-config.
pub(super) fn nics(env: &Environment) {
    let Ok(nics) = env.nics() else { return };
    let dns = Dns::new(Some("192.0.2.53"), Some("example.org")).expect("an address and a name");
    let network = match Network::new(&nics, &dns) {
        Err(error) => return assert!(is_line(&error.to_string()) && nics.len() < 65536, "{error}"),
        Ok(network) => network,
    };
    let Some(document) = network.document() else { return assert!(nics.is_empty()) };
    let value: Value = serde_json::from_slice(&document).expect("JSON");
    let interfaces = value["ethernets"].as_object().expect("interfaces");
    assert_eq!(interfaces.len(), nics.len());
    let (mut macs, mut defaults) = (BTreeSet::new(), BTreeSet::new());
    for (name, interface) in interfaces {
        assert_eq!(interface["set-name"], name.as_str());
        assert!((1..16).contains(&name.len()) && name.is_ascii() && name != "lo");
        assert!(macs.insert(interface["match"]["macaddress"].to_string()));
        for address in interface["addresses"].as_array().into_iter().flatten() {
            address.as_str().and_then(|text| text.parse::<IpNet>().ok()).expect("an address");
        }
        for route in interface["routes"].as_array().into_iter().flatten() {
            assert!(defaults.insert(route["to"].to_string()), "two default routes");
        }
    }
    // The instance's own seed, made its own again.
    let (files, kept) = seed::clone::for_clone(&[("network-config".to_owned(), document.clone())], &identity(), &nics);
    assert!(kept.is_empty() && files[0].1 == document);
}

/// What a guest's seed gives: nothing of it gets lost in itself, and it is the same in another process.
fn check_held(files: &[File]) {
    let files = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    match SeedContent::of(files, &identity()) {
        Err(error) => assert!(is_line(&error.to_string()), "{error}"),
        Ok(held) => {
            assert!(held.lost_in(&held).is_empty());
            assert!(held.lost_in(&SeedContent::default()).iter().all(|lost| is_line(&lost.to_string())));
            let bytes = serde_json::to_vec(&held).expect("JSON");
            assert!(serde_json::from_slice::<SeedContent>(&bytes).is_ok_and(|again| again == held));
        }
    }
}

/// The files of somebody's seed, with zero bytes between them: names stay, and so does what is not ours.
pub(super) fn adopt(data: &[u8]) {
    const NAMES: [&str; 5] = ["meta-data", "network-config", "vendor-data", "user-data", "other"];
    let parts = data.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let files: Vec<File> = NAMES.map(str::to_owned).into_iter().zip(parts).collect();
    check_held(&files);
    let (new, kept) = seed::clone::for_clone(&files, &identity(), &[]);
    let names = |files: &[File]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&new), names(&files));
    assert!(files.iter().zip(&new).skip(3).all(|(before, after)| before == after));
    for one in kept {
        assert!(files.iter().zip(&new).any(|(before, after)| before == after && before.0 == one.name()));
    }
    // Once it is this instance's, it stays as it is.
    let (again, _) = seed::clone::for_clone(&new, &identity(), &[]);
    assert!(again == new);
    if let Some((_, meta_data)) = files.first()
        && let Some(renamed) = seed::renamed(meta_data, &identity())
    {
        assert!(seed::renamed(&renamed, &identity()).as_ref() == Some(&renamed));
    }
}
