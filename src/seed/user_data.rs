// SPDX-License-Identifier: BSD-2-Clause
//! The files `user-data` and `vendor-data`.
//!
//! vendor-data is a script of this provider, and not a `#cloud-config`: a list such as `runcmd` in the user-data would
//! replace ours. cloud-init runs the script once for an instance, by cc_scripts_vendor in its last stage. It finds the
//! volume by the serial number, which follows from the UUID of the instance. If anything in it fails, the seed stays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::identity::Identity;
use crate::node::size::ByteSize;

/// The largest user-data, in bytes. All files of a seed have to fit into a FAT volume of 4 MiB.
pub(crate) const MAX_USER_DATA: usize = 2 << 20;
/// The first words by which cloud-init detects the type of a part (`INCLUSION_TYPES_MAP` of cloudinit/handlers), the
/// longest first.
const TYPES: [(&str, &str); 9] = [
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("## template: jinja", "text/jinja2"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#part-handler", "text/part-handler"),
    ("#cloud-config", "text/cloud-config"),
    ("#include", "text/x-include-url"),
    ("#!", "text/x-shellscript"),
];
/// The first bytes of a gzip member (RFC 1952, section 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";
/// In how many bytes cloud-init looks for the header of a MIME document (`convert_string` of cloudinit/user_data.py).
const MIME_WINDOW: usize = 4096;
/// No part can contain this, as base64 has no dashes and at most two equals signs.
const BOUNDARY: &str = "===============simpleimage==";
/// The length of a line of base64 (RFC 2045, section 6.8), in bytes.
const LINE: usize = 76;

/// The script of `vendor-data`. `@SERIAL@` stands for the serial number of the instance's volume.
const PERSIST: &str = include_str!("persist.sh");

/// Why user-data can't be made. The numbers of parts are counted from 1, and no content is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserDataError {
    #[error("part {0} of user_data is empty")]
    Empty(usize),
    #[error("part {0} of user_data is an HTML page")]
    Html(usize),
    #[error("part {0} of user_data is a MIME document itself, which only stands alone (name its parts)")]
    Mime(usize),
    #[error("the user-data has {0} and may have {limit} at most (keep less in it and fetch the rest with #include)", limit = ByteSize(MAX_USER_DATA as u64))]
    TooLarge(ByteSize),
}

/// The content of `user-data`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UserData {
    pub(crate) document: Vec<u8>,
    /// The numbers of the parts that cloud-init will ignore, because it does not know their first words; from 1.
    pub(crate) unknown: Vec<usize>,
}

/// Makes one document of `parts`. A single part stays as it is, several become a MIME document in this order.
pub(crate) fn user_data(mut parts: Vec<Vec<u8>>) -> Result<UserData, UserDataError> {
    for (number, part) in (1..).zip(&parts) {
        match part {
            part if part.trim_ascii().is_empty() => return Err(UserDataError::Empty(number)),
            part if is_html(part) => return Err(UserDataError::Html(number)),
            part if parts.len() > 1 && is_mime(part) => return Err(UserDataError::Mime(number)),
            _ => {}
        }
    }
    let known = |part: &[u8]| content_type(part).is_some() || is_mime(part);
    let unknown = (1..).zip(&parts).filter(|(_, part)| !known(part)).map(|(number, _)| number).collect();
    let document = match parts.len() {
        0 | 1 => parts.pop().unwrap_or_default(),
        _ => multipart(&parts),
    };
    if document.len() > MAX_USER_DATA {
        return Err(UserDataError::TooLarge(ByteSize(document.len() as u64)));
    }
    Ok(UserData { document, unknown })
}

/// Returns a MIME document with all parts in base64, which is right for text and for gzip.
fn multipart(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut document = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        // cloud-init detects the type of a part that is declared as text/plain.
        let content_type = content_type(part).unwrap_or("text/plain");
        let charset = if content_type.starts_with("text/") { "; charset=\"utf-8\"" } else { "" };
        document += &format!(
            "--{BOUNDARY}\nContent-Type: {content_type}{charset}\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n"
        );
        let encoded = STANDARD.encode(part);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            document += line;
            document.push('\n');
            rest = after;
        }
    }
    document += &format!("--{BOUNDARY}--\n");
    document.into_bytes()
}

/// Returns the type of `part` by its first words, as cloud-init detects it: leading blanks and letter case make no
/// difference.
fn content_type(part: &[u8]) -> Option<&'static str> {
    if part.starts_with(GZIP) {
        return Some("application/gzip");
    }
    TYPES.iter().find(|(start, _)| begins(part, start)).map(|(_, name)| *name)
}

/// Returns whether `part` is a web page, such as the error page of a server.
pub(crate) fn is_html(part: &[u8]) -> bool {
    ["<!doctype html", "<html"].iter().any(|start| begins(part, start))
}

fn begins(part: &[u8], start: &str) -> bool {
    let head = part.trim_ascii_start();
    head.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
}

fn is_mime(part: &[u8]) -> bool {
    const HEADER: &[u8] = b"mime-version:";
    part[..part.len().min(MIME_WINDOW)].windows(HEADER.len()).any(|window| window.eq_ignore_ascii_case(HEADER))
}

/// Returns the content of `vendor-data` for an instance that copies its seed and removes the partition.
pub(crate) fn vendor_data(identity: &Identity) -> Vec<u8> {
    let serial = identity.volume_serial();
    // blkid(8) shows the UUID of a FAT volume in this form.
    PERSIST.replace("@SERIAL@", &format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{MAX_USER_DATA, UserDataError, user_data, vendor_data};
    use crate::seed::Identity;

    fn parts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_single_document_stays_as_it_is() {
        let gzip = b"\x1f\x8b\x08\0\xff\n\n".to_vec();
        for document in
            [b"#cloud-config\n{}\n".to_vec(), b" \n#!/bin/sh\n".to_vec(), gzip, b"MIME-Version: 1.0\n\n".to_vec()]
        {
            let made = user_data(vec![document.clone()]).unwrap();
            assert_eq!((made.document, made.unknown), (document, Vec::new()));
        }
        assert_eq!(user_data(Vec::new()).unwrap().document, b"");
        let strange = user_data(parts(&["#ps1_sysnative\n"])).unwrap();
        assert_eq!((strange.document, strange.unknown), (b"#ps1_sysnative\n".to_vec(), vec![1]));
    }

    #[test]
    fn several_become_one_of_mime() {
        let long = format!("#!/bin/sh\n: {}\n", "x".repeat(80));
        let made = user_data(parts(&["#cloud-config\n", &long, "\x1f", "hm"])).unwrap();
        assert_eq!(made.unknown, [3, 4]);
        let text = String::from_utf8(made.document).unwrap();
        let expected = "Content-Type: multipart/mixed; boundary=\"===============simpleimage==\"\nMIME-Version: 1.0\n\n\
            --===============simpleimage==\nContent-Type: text/cloud-config; charset=\"utf-8\"\nMIME-Version: 1.0\n\
            Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwo=\n\
            --===============simpleimage==\nContent-Type: text/x-shellscript; charset=\"utf-8\"\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.lines().all(|line| line.len() <= 76) && text.ends_with("\naG0=\n--===============simpleimage==--\n")
        );
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let refused = |texts: &[&str]| user_data(parts(texts)).err();
        assert_eq!(refused(&["#!x", " \n"]), Some(UserDataError::Empty(2)));
        assert_eq!(refused(&["\n<!DOCTYPE HTML><title>"]), Some(UserDataError::Html(1)));
        assert_eq!(refused(&["#!x", "Content-Type: x\nmime-Version: 1.0\n"]), Some(UserDataError::Mime(2)));
        let most = "#".repeat(MAX_USER_DATA);
        assert_eq!(refused(&[&most]), None);
        let message = refused(&[&(most + "#")]).unwrap().to_string();
        let expected = "the user-data has 2.00 MiB (2097153 bytes) and may have 2 MiB at most (keep less in it and fetch the \
                        rest with #include)";
        assert_eq!(message, expected);
    }

    #[test]
    fn the_script_knows_the_instances_volume() {
        let identity = Identity::new("web1", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f").unwrap();
        let script = String::from_utf8(vendor_data(&identity)).unwrap();
        let serial = format!("{:08X}", identity.volume_serial());
        assert!(script.starts_with("#!/bin/sh\n"), "{script}");
        assert!(script.contains(&format!("\nserial={}-{}\n", &serial[..4], &serial[4..])), "{script}");
        assert!(!script.contains('@'), "{script}");
    }
}
