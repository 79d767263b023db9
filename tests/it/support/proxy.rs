// SPDX-License-Identifier: BSD-2-Clause
//! An HTTP proxy: absolute-form requests and CONNECT, any host name leading to one server.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::server::Request;

/// A proxy that lives until the test binary ends.
pub(crate) struct TestProxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl TestProxy {
    /// Forwards everything to `server`, whatever name it is asked for. `refuse` instead answers with that status.
    pub(crate) fn start(server: SocketAddr, refuse: Option<u16>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let log = log.clone();
                thread::spawn(move || forward(stream, server, refuse, &log));
            }
        });
        TestProxy { address, requests }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn forward(client: TcpStream, server: SocketAddr, refuse: Option<u16>, log: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let request = Request::read(&mut reader)?;
    log.lock().unwrap().push(request.clone());
    let mut client = client;
    if let Some(status) = refuse {
        return write!(client, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let mut upstream = TcpStream::connect(server).ok()?;
    if request.method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    } else {
        let path = request.target.strip_prefix("http://")?.split_once('/')?.1;
        write!(upstream, "{} /{path} HTTP/1.1\r\n", request.method).ok()?;
        for (name, value) in
            request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("proxy-authorization"))
        {
            write!(upstream, "{name}: {value}\r\n").ok()?;
        }
        upstream.write_all(b"\r\n").ok()?;
    }
    let (mut back, mut front) = (upstream.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        let _ = io::copy(&mut back, &mut front);
        let _ = front.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut reader, &mut upstream);
    Some(())
}
