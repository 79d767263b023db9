// SPDX-License-Identifier: BSD-2-Clause
//! A plain HTTP server for the files of one folder.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// Serves until the process ends.
pub(crate) struct Server {
    address: SocketAddr,
}

impl Server {
    pub(crate) fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listening on the loopback address");
        let address = listener.local_addr().expect("the address just bound");
        let folder = Arc::new(folder);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let folder = Arc::clone(&folder);
                // A client that goes away fails its own trial.
                thread::spawn(move || answer(connection, &folder).ok());
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// Answers one request, GET or HEAD, and closes the connection, which HTTP/1.1 allows.
fn answer(mut connection: TcpStream, folder: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Ok(body) = fs::read(folder.join(path.trim_start_matches('/'))) else {
        return connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    if method == "GET" { connection.write_all(&body) } else { Ok(()) }
}
