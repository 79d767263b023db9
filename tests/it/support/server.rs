// SPDX-License-Identifier: BSD-2-Clause
//! An HTTP server over real sockets that does what a test tells it to, mistakes included.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslAcceptor};
use simpleimage::store::http::ImageUrl;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, or the whole URL in an absolute-form request, or `host:port` of a CONNECT.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Reads a request's head; none when the client went away instead.
    pub(crate) fn read(stream: &mut impl BufRead) -> Option<Request> {
        let mut lines = stream.by_ref().lines().map_while(Result::ok);
        let mut words = lines.next()?.split(' ').map(str::to_owned).collect::<Vec<_>>().into_iter();
        let (method, target) = (words.next()?, words.next()?);
        let headers = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .collect();
        Some(Request { method, target, headers })
    }
}

/// How the end of a body shows.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    cut_after: Option<usize>,
    resets: bool,
    stalls: bool,
    /// Bytes of the body written at once, and the pause after them.
    pieces: (usize, Duration),
    /// The pause after each line of the head.
    slow_head: Option<Duration>,
    garbage: Option<&'static [u8]>,
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let framing = Framing::Length(body.len() as u64);
        Reply {
            status: 200,
            headers: Vec::new(),
            body,
            framing,
            cut_after: None,
            resets: false,
            stalls: false,
            pieces: (10_000, Duration::ZERO),
            slow_head: None,
            garbage: None,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Reply { status, ..Self::ok(format!("this is the page of status {status}")) }
    }

    /// A page of the server's own instead of the image.
    pub(crate) fn with_status(self, status: u16) -> Self {
        Reply { status, ..self }
    }

    pub(crate) fn page(status: u16, text: &str) -> Self {
        Reply { status, ..Self::ok(text) }
    }

    pub(crate) fn not_modified() -> Self {
        Reply { status: 304, ..Self::ok([]) }
    }

    /// What a file server that knows ranges answers to `request`: `image`, or the part of it that was asked for if it is
    /// still the version that `validator` (an ETag, or a Last-Modified) names.
    pub(crate) fn file(request: &Request, image: &[u8], validator: &str) -> Self {
        let range = request.header("range").filter(|_| request.header("if-range").is_none_or(|tag| tag == validator));
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let reply = match from {
            Some(from) if from < image.len() => Self::part(image, from),
            Some(_) => Self::status(416).header("Content-Range", format!("bytes */{}", image.len())),
            None => Self::ok(image),
        };
        if validator.contains('"') {
            reply.header("ETag", validator)
        } else {
            reply.header("Last-Modified", validator).header("Date", "Wed, 21 Oct 2015 07:29:00 GMT")
        }
    }

    /// A 206 with what is behind the first `from` bytes.
    pub(crate) fn part(image: &[u8], from: usize) -> Self {
        let range = format!("bytes {from}-{}/{}", image.len() - 1, image.len());
        Reply { status: 206, ..Self::ok(&image[from..]) }.header("Content-Range", range)
    }

    pub(crate) fn redirect(location: impl Into<String>) -> Self {
        Self::status(302).header("Location", location)
    }

    /// Bytes that are not HTTP; nothing at all closes the connection without an answer.
    pub(crate) fn garbage(bytes: &'static [u8]) -> Self {
        Reply { garbage: Some(bytes), ..Self::ok([]) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Takes a header out again.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// Closes the connection after `count` bytes of the body.
    pub(crate) fn cut_after(self, count: usize) -> Self {
        Reply { cut_after: Some(count), ..self }
    }

    /// Falls silent after `count` bytes of the body, until the client goes away.
    /// The connection is reset at the end, and not closed; only without TLS.
    pub(crate) fn reset(self) -> Self {
        Reply { resets: true, ..self }
    }

    pub(crate) fn stall_after(self, count: usize) -> Self {
        Reply { cut_after: Some(count), stalls: true, ..self }
    }

    /// Sends the body in pieces of `count` bytes with a pause after each.
    pub(crate) fn pieces(self, count: usize, pause: Duration) -> Self {
        Reply { pieces: (count, pause), ..self }
    }

    /// Pauses after every line of the head.
    pub(crate) fn slow_head(self, pause: Duration) -> Self {
        Reply { slow_head: Some(pause), ..self }
    }

    /// A Content-Length that may be wrong.
    pub(crate) fn content_length(self, length: u64) -> Self {
        Reply { framing: Framing::Length(length), ..self }
    }

    pub(crate) fn chunked(self) -> Self {
        Reply { framing: Framing::Chunked, ..self }
    }

    /// Neither length nor chunks: the body ends with the connection.
    pub(crate) fn until_closed(self) -> Self {
        Reply { framing: Framing::UntilClosed, ..self }
    }

    fn send(&self, stream: &mut (impl Read + Write)) -> std::io::Result<()> {
        if let Some(garbage) = self.garbage {
            return stream.write_all(garbage);
        }
        for line in self.head().split_inclusive('\n') {
            stream.write_all(line.as_bytes())?;
            if let Some(pause) = self.slow_head {
                stream.flush()?;
                thread::sleep(pause);
            }
        }
        let count = self.cut_after.unwrap_or(self.body.len()).min(self.body.len());
        let (piece, pause) = self.pieces;
        for part in self.body[..count].chunks(piece) {
            match self.framing {
                Framing::Chunked => {
                    write!(stream, "{:x}\r\n", part.len())?;
                    stream.write_all(part)?;
                    stream.write_all(b"\r\n")?;
                }
                _ => stream.write_all(part)?,
            }
            if !pause.is_zero() {
                stream.flush()?;
                thread::sleep(pause);
            }
        }
        if matches!(self.framing, Framing::Chunked) && self.cut_after.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
        stream.flush()?;
        if self.stalls {
            // Ends when the client does.
            stream.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Text\r\nConnection: close\r\n", self.status);
        match self.framing {
            Framing::Length(_) if self.status == 304 => {}
            Framing::Length(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::UntilClosed => {}
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// A listening server. Every connection has its own thread and serves one request.
pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
    closing: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers with `handler`, which gets each request and how many there were before it.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Arc::new(handler), None)
    }

    /// The same over TLS.
    pub(crate) fn start_tls(
        config: Arc<SslAcceptor>,
        handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Arc::new(handler), Some(config))
    }

    /// Gives `replies` one after the other, the last one for ever.
    pub(crate) fn sequence(replies: impl Into<Vec<Reply>>) -> Self {
        let replies = replies.into();
        Self::start(move |_, before| replies[before.min(replies.len() - 1)].clone())
    }

    /// Says `greeting` to whoever connects, whatever that one has to say.
    pub(crate) fn start_raw(greeting: &'static [u8]) -> Self {
        Self::accept(move |mut stream| {
            let _ = stream.write_all(greeting);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        })
    }

    /// Says `greeting` to whoever connects, and then `drip` again and again, until the client goes away.
    pub(crate) fn start_dripping(greeting: &[u8], drip: &'static [u8]) -> Self {
        let greeting = greeting.to_owned();
        Self::accept(move |mut stream| {
            let _ = stream.set_nodelay(true);
            let mut said = stream.write_all(&greeting);
            while said.is_ok() {
                thread::sleep(Duration::from_millis(10));
                said = stream.write_all(drip);
            }
        })
    }

    /// Reads a request, and answers with `parts`, one after the other with a pause between them.
    pub(crate) fn start_slowly(parts: &'static [&'static [u8]]) -> Self {
        Self::accept(move |mut stream| {
            let _ = Request::read(&mut BufReader::new(&stream));
            for part in parts {
                let _ = stream.write_all(part);
                thread::sleep(Duration::from_millis(200));
            }
        })
    }

    fn listen(handler: Arc<Handler>, tls: Option<Arc<SslAcceptor>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        let mut server = Self::accept(move |stream| serve(stream, &*handler, &log, tls.clone()));
        (server.scheme, server.requests) = (scheme, requests);
        server
    }

    /// Serves each connection in a thread of its own.
    fn accept(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (serve, closing) = (Arc::new(serve), Arc::new(AtomicBool::new(false)));
        let stop = closing.clone();
        let listener = thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
        Server { address, scheme: "http", requests: Arc::default(), closing, listener: Some(listener) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, path: &str) -> ImageUrl {
        self.url_for("127.0.0.1", path)
    }

    /// The URL of `path` under another name of this machine.
    pub(crate) fn url_for(&self, host: &str, path: &str) -> ImageUrl {
        ImageUrl::parse(&format!("{}://{host}:{}{path}", self.scheme, self.address.port())).unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // One last connection, so that the listener looks at the flag.
        drop(TcpStream::connect(self.address));
        self.listener.take().map(JoinHandle::join);
    }
}

/// A client that goes away early is what some tests are about: errors of the connection end it, no more.
fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>, tls: Option<Arc<SslAcceptor>>) {
    match tls {
        None => {
            if answer(&stream, handler, log).is_some_and(|reply| reply.resets) {
                let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
            }
        }
        Some(config) => match config.accept(stream) {
            Ok(mut stream) => {
                let reply = answer(&mut stream, handler, log);
                // What was cut does not say so.
                if reply.is_some_and(|reply| reply.cut_after.is_none()) {
                    let _ = stream.shutdown();
                }
            }
            // Closed with bytes unread, the connection would be reset before the client sees the reason.
            Err(HandshakeError::Failure(mut failed)) => {
                let _ = failed.get_ref().shutdown(std::net::Shutdown::Write);
                let _ = failed.get_mut().read_to_end(&mut Vec::new());
            }
            Err(_) => {}
        },
    }
}

fn answer(stream: impl Read + Write, handler: &Handler, log: &Mutex<Vec<Request>>) -> Option<Reply> {
    let mut reader = BufReader::new(stream);
    let request = Request::read(&mut reader)?;
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let reply = handler(&request, before);
    let _ = reply.send(reader.get_mut());
    Some(reply)
}
