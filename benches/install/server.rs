// SPDX-License-Identifier: BSD-2-Clause
//! A web server that gives one file, no faster than a line of a given rate would.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Bytes sent at once.
const PIECE: usize = 64 << 10;

/// How much of what was missed may be made up for.
const SLACK: Duration = Duration::from_millis(20);

/// Starts a server of the file at `path` that lives as long as this program, and gives the file's URL. Each client gets
/// `rate` bytes a second.
pub(crate) fn start(path: &Path, rate: f64) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("opening a port for the web server")?;
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let url = format!("http://{}/{name}", listener.local_addr()?);
    let path = PathBuf::from(path);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let path = path.clone();
            // A client that goes away has had what it wanted.
            thread::spawn(move || serve(client, &path, rate).ok());
        }
    });
    Ok(url)
}

fn serve(mut client: TcpStream, path: &Path, rate: f64) -> io::Result<()> {
    let head = BufReader::new(client.try_clone()?).lines().take_while(|line| !matches!(line.as_deref(), Ok("")));
    let head = head.collect::<io::Result<Vec<_>>>()?;
    let mut file = File::open(path)?;
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        file.metadata()?.len()
    )?;
    if head.first().is_some_and(|line| line.starts_with("HEAD ")) {
        return Ok(());
    }
    let mut buffer = vec![0; PIECE];
    let mut free_at = Instant::now();
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        // What a slow client missed is gone, but for what late wake-ups cost: no line is faster afterwards.
        let earliest = Instant::now().checked_sub(SLACK).unwrap_or(free_at);
        free_at = free_at.max(earliest) + Duration::from_secs_f64(count as f64 / rate);
        client.write_all(&buffer[..count])?;
        thread::sleep(free_at.saturating_duration_since(Instant::now()));
    }
}
