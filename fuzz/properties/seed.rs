// SPDX-License-Identifier: BSD-2-Clause
//! Properties of the room `seed`: the parts of a seed, the seed of another instance, and the volume of a seed.

use std::collections::BTreeSet;
use std::path::{Component, Path};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde_json::Value;

use super::config::variables;
use super::sparse_disk::Disk;
use super::text;
use crate::disk::device::{ReadAt, WriteAt};
use crate::seed::clone::File;
use crate::seed::volume::{
    Contents, Trace, VolumeError, find_seeds, find_space, format, read_boot_area, rebuild, remove_trace,
};
use crate::seed::{self, Dns, Identity, Network, SeedContent, SourceName};

fn identity() -> Identity {
    Identity::new("web1.example.org", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f").expect("a name and a UUID")
}

/// Returns whether `message` is a line of ASCII. The types of most errors here show that they do not repeat a secret:
/// they have only numbers and our own words.
fn is_line(message: &str) -> bool {
    message.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Parses public keys. Those that are accepted are keys again in the meta-data, one in each line.
pub(super) fn ssh_keys(data: &[u8]) {
    match seed::parse_keys(data) {
        Err(error) => assert!(is_line(&error.to_string()), "{error}"),
        Ok(keys) => {
            // Two keys are separated by a line break, a comma or \n.
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

/// Parses the last block of the first MiB of a disk as a trace. What is taken for one is written in the same way, and is gone when
/// it is removed.
pub(super) fn trace(data: &[u8]) {
    let mut disk = Disk::new(2 << 20);
    let block = &data[..data.len().min(4096)];
    disk.write_at(block, (1 << 20) - 4096).expect("a disk takes bytes");
    let Some(trace) = Trace::read(&disk).expect("a disk gives bytes") else { return };
    let text = String::from_utf8(block.iter().copied().take_while(|byte| *byte != 0).collect()).expect("a text");
    assert!(text.contains(&format!("serial={:08x}\nssh_keys={}\n", trace.serial, trace.keys)), "{text}");
    assert!(block.iter().skip(text.len()).all(|byte| *byte == 0));
    assert!(remove_trace(&mut disk).expect("a disk takes zeros"));
    assert_eq!(Trace::read(&disk).expect("a disk gives bytes"), None);
}

/// Parses name servers and search domains in the first two lines, and then the names of the parts of a seed.
pub(super) fn seed_lists(data: &[u8]) {
    let text = text(data);
    let (servers, rest) = text.split_once('\n').unwrap_or((&text, ""));
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
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
            assert!(text.contains(path.to_str().expect("a text")));
        }
        SourceName::Url(url) => assert!(matches!(url.as_url().scheme(), "http" | "https")),
    }
}

/// Joins parts of user-data, which the input separates by zero bytes. A single part stays as it is, and several can be
/// read again from the document.
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

/// Returns the parts of a MIME document, all of which are in base64.
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

/// Reads variables in the form of /proc/PID/environ, and makes a network-config of their NICs.
pub(super) fn nics(data: &[u8]) {
    let Ok(nics) = variables(data).nics() else { return };
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
    // The seed of the instance itself is made its own again.
    let (files, kept) = seed::clone::for_clone(&[("network-config".to_owned(), document.clone())], &identity(), &nics);
    assert!(kept.is_empty() && files[0].1 == document);
}

/// Checks that the content of a guest's seed is not lost in the same seed, and that it is the same in another process.
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

/// Adopts the files of a foreign seed, which the input separates by zero bytes. Their names stay, and so do the files
/// that we did not make.
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
    // A seed that already belongs to this instance stays as it is.
    let (again, _) = seed::clone::for_clone(&new, &identity(), &[]);
    assert!(again == new);
    if let Some((_, meta_data)) = files.first()
        && let Some(renamed) = seed::renamed(meta_data, &identity())
    {
        assert!(seed::renamed(&renamed, &identity()).as_ref() == Some(&renamed));
    }
}

/// The length of a volume that is made here, in bytes.
const LEN: u64 = 1 << 20;

const SERIAL: u32 = 0x1234_5678;

/// Volumes of ours for sectors of 512 and of 4096 bytes. They are made once, because that takes longer than reading
/// one.
static OURS: LazyLock<[Disk; 2]> = LazyLock::new(|| {
    [512, 4096].map(|sector| {
        let files = [("meta-data", &b"{}"[..]), ("user-data", &[7; 5000]), ("a longer name than others", b"")];
        let mut disk = Disk::new(LEN);
        disk.write_at(&format(LEN, sector, SERIAL, files).expect("it fits"), 0).expect("memory does not fail");
        disk
    })
});

/// Reads a disk. The first byte puts a volume of ours onto it, before the pieces of the input come.
pub(super) fn volume(data: &[u8]) {
    let Some((flags, Some(pieces))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return;
    };
    let mut disk = Disk::new(pieces.len().max(LEN));
    if flags & 1 == 1 {
        OURS[usize::from(flags & 2 == 2)].write_onto(&mut disk);
    }
    pieces.write_onto(&mut disk);
    let found = find_seeds(&disk).expect("memory does not fail");
    assert!(found.len() <= 256);
    for one in &found {
        assert!(one.start < disk.len());
        let Ok(bytes) = one.load(&disk) else { continue };
        let Ok(contents) = Contents::read(&bytes) else { continue };
        let all: usize = contents.files.iter().map(|(_, content)| content.len()).sum();
        assert!(all <= bytes.len(), "more than the volume holds");
        if one.our_serial().is_some() {
            check_rebuilt(&bytes, &contents);
        }
    }
    let trace = Trace::read(&disk).expect("memory does not fail");
    assert_eq!(remove_trace(&mut disk).expect("memory does not fail"), trace.is_some());
    let _ = Contents::read(&disk.head(LEN));
    let _ = find_space(&read_boot_area(&disk).expect("memory does not fail"), disk.len(), Path::new("/disk"));
}

/// Writes the content again and reads it, or checks that the error says what does not fit.
fn check_rebuilt(old: &[u8], contents: &Contents) {
    match rebuild(old, contents, SERIAL, &contents.files) {
        Ok(new) => {
            assert_eq!(new.len(), old.len());
            let again = Contents::read(&new).expect("what we wrote");
            for (name, content) in &again.files {
                assert!(contents.files.iter().any(|(other, before)| other == name && before == content), "{name:?}");
            }
            for (name, _) in &contents.files {
                assert!(again.file(name).is_some(), "{name:?} is lost");
            }
        }
        Err(error) => assert!(error.to_string().is_ascii(), "{error}"),
    }
}

/// Checks that files are the same when they are read again. The input has the lines of their names, and their bytes up
/// to the next zero.
pub(super) fn volume_files(data: &[u8]) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for part in data.split(|byte| *byte == 0).take(100) {
        let (name, content) = part.split_at(part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len()));
        let Ok(name) = str::from_utf8(name) else { continue };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte);
        // FAT ignores letter case, and blanks or dots at the end of a name.
        let usable = (1..=200).contains(&name.len()) && name.bytes().all(known) && !name.starts_with(['.', ' ']);
        let repeated = files.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        if usable && !name.ends_with(['.', ' ']) && !repeated {
            files.push((name.to_owned(), content.repeat(1 + content.len() % 50)));
        }
    }
    match format(LEN, 512, SERIAL, files.iter().map(|(name, content)| (name, content))) {
        Ok(bytes) => {
            let contents = Contents::read(&bytes).expect("what we wrote");
            assert!(contents.folders.is_empty());
            assert!(contents.files == files, "{:?} is not {:?}", contents, files);
        }
        Err(VolumeError::Full { .. }) => {
            assert!(files.len() > 30 || files.iter().map(|(_, content)| content.len() + 2048).sum::<usize>() > 900_000);
        }
        Err(error) => panic!("{error}"),
    }
}
