// SPDX-License-Identifier: BSD-2-Clause
//! Checksums and signatures of images, made by the tools that publishers use.

mod changing;
mod checksum;
mod policy;
mod signature;
mod stale;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::images::{MIB, disk};
use crate::support::server::{Reply, Server};
use crate::support::world::tool;

/// A server with files that may change, or go away.
pub(crate) struct Published {
    pub(crate) server: Server,
    files: Arc<Mutex<HashMap<String, Reply>>>,
}

impl Published {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let all: Arc<Mutex<HashMap<String, Reply>>> = Arc::default();
        let shown = all.clone();
        let server = Server::start(move |request, _| {
            let path = request.target.split('?').next().unwrap();
            shown.lock().unwrap().get(path).cloned().unwrap_or_else(|| Reply::status(404))
        });
        let published = Published { server, files: all };
        files.iter().for_each(|(path, content)| published.put(path, *content));
        published
    }

    pub(crate) fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.reply(path, Reply::ok(content.into()));
    }

    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.files.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        self.server.url(path).as_url().to_string()
    }

    /// How often a path was asked for.
    pub(crate) fn gets(&self, path: &str) -> usize {
        self.server.requests().iter().filter(|request| request.target.split('?').next() == Some(path)).count()
    }
}

/// What `program` (sha256sum, sha512sum) says about a file, called by its base name.
pub(crate) fn sums(program: &str, options: &[&str], file: &Path) -> String {
    let folder = file.parent().unwrap().to_str().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    tool("env", &[&["-C", folder, program], options, &[name]].concat())
}

/// A checksum parameter, by the tool.
fn literal(algorithm: &str, file: &Path) -> String {
    let line = sums(&format!("{algorithm}sum"), &[], file);
    format!("{algorithm}:{}", line.split(' ').next().unwrap())
}

/// An image with a file of its own.
fn image_file(path: &Path, len: usize) -> Vec<u8> {
    let image = disk(len);
    fs::write(path, &image).unwrap();
    image
}

/// Two images of the same length that differ in the last byte only.
fn two_images() -> (Vec<u8>, Vec<u8>) {
    let right = disk(5 * MIB);
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    (right, wrong)
}
