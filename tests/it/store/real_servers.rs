// SPDX-License-Identifier: BSD-2-Clause
//! The servers and the proxy that people run: nginx and tinyproxy, each with a configuration and ports of its own.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use simpleimage::store::cache::{Cache, CacheSettings, CachedImage};
use simpleimage::store::http::{Backoff, Client, HttpSettings, ImageUrl, Secret};
use tempfile::TempDir;

use crate::support::log::{LONG, Log};
use crate::support::tls::Authority;
use crate::support::world::wait_until;
use crate::support::{bytes, save_private};

/// A server's process, ended when dropped.
struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until it listens on `port`.
    fn start(mut command: Command, port: u16, log: &Path) -> Self {
        let output = fs::File::create(log).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error} (make test runs where all tools are)"));
        let begin = std::time::Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            let told = || fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none() && begin.elapsed() < LONG, "{command:?}: {ended:?} {}", told());
            std::thread::sleep(Duration::from_millis(10));
        }
        Daemon(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder served by nginx over http and https, a cache, and a log.
struct Site {
    dir: TempDir,
    nginx: Mutex<Option<Daemon>>,
    port: u16,
    tls_port: u16,
    log: Log,
    /// How often was fetched: each time a second later, for who waits for a lock takes what the other one fetched, and a
    /// child that another test starts holds ours for a moment.
    fetches: AtomicU64,
}

impl Site {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        let authority = Authority::new();
        authority.save(&dir.path().join("ca.pem"));
        save_private(&dir.path().join("server.pem"), &authority.client_pem("localhost"));
        save_private(&dir.path().join("client.pem"), &authority.client_pem("node1"));
        save_private(&dir.path().join("users"), "joe:{PLAIN}hunter2\n");
        let (port, tls_port) = (free_port(), free_port());
        let log = Log::new();
        let site = Site { dir, nginx: Mutex::default(), port, tls_port, log, fetches: AtomicU64::new(0) };
        fs::write(site.path("nginx.conf"), site.configuration()).unwrap();
        site.run();
        site
    }

    fn configuration(&self) -> String {
        let (dir, port, tls_port) = (self.dir.path().display(), self.port, self.tls_port);
        format!(
            "daemon off; master_process off; user root; worker_processes 1; pid {dir}/nginx.pid;
            events {{ worker_connections 64; }}
            http {{
                access_log {dir}/access.log;
                client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
                uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
                root {dir}/www; default_type application/octet-stream;
                # As distributions have it; an image must not be compressed on its way.
                gzip on; gzip_types *; gzip_min_length 1;
                server {{
                    listen 127.0.0.1:{port};
                    location /slow/ {{ alias {dir}/www/; limit_rate 1m; }}
                    location /private/ {{ alias {dir}/www/; auth_basic x; auth_basic_user_file {dir}/users; }}
                }}
                server {{
                    listen 127.0.0.1:{tls_port} ssl;
                    ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.pem;
                    ssl_client_certificate {dir}/ca.pem; ssl_verify_client optional;
                    location /nodes/ {{ if ($ssl_client_verify != SUCCESS) {{ return 403; }} alias {dir}/www/; }}
                    location /plain/ {{ return 301 http://localhost:{port}/x; }}
                }}
            }}"
        )
    }

    fn run(&self) {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(self.path("error.log")).arg("-c").arg(self.path("nginx.conf"));
        *self.nginx.lock().unwrap() = Some(Daemon::start(command, self.port, &self.path("nginx.log")));
    }

    /// Kills nginx.
    fn kill(&self) {
        self.nginx.lock().unwrap().take();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Publishes an image, by its modification time as old as `age` in seconds.
    fn publish(&self, image: &[u8], age: u64) {
        let path = self.path("www/x");
        fs::write(&path, image).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    fn http(&self, path: &str) -> ImageUrl {
        ImageUrl::parse(&format!("http://127.0.0.1:{}/{path}", self.port)).unwrap()
    }

    fn https(&self, path: &str) -> ImageUrl {
        ImageUrl::parse(&format!("https://localhost:{}/{path}", self.tls_port)).unwrap()
    }

    /// Settings that trust the site's authority.
    fn settings(&self) -> HttpSettings {
        HttpSettings { ca_file: Some(self.path("ca.pem")), retries: 0, ..HttpSettings::default() }
    }

    /// Fetches through a cache that asks every time.
    fn fetch(&self, url: &ImageUrl, settings: &HttpSettings) -> Result<CachedImage, String> {
        let dir = self.path("cache");
        let cache = Cache::open(&CacheSettings {
            dir,
            max_age: Duration::ZERO,
            stale_if_error: false,
            max_size: None,
            min_free: None,
        })
        .unwrap();
        let backoff = Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(200) };
        let client = Client::with_backoff(settings, backoff).map_err(|error| error.to_string())?;
        let now = SystemTime::now() + Duration::from_secs(self.fetches.fetch_add(1, Ordering::Relaxed));
        cache.fetch(url, &client, now, &self.log.report()).map_err(|error| error.to_string())
    }

    /// What nginx noted about its requests.
    fn access_log(&self) -> String {
        fs::read_to_string(self.path("access.log")).unwrap()
    }
}

fn read(mut image: CachedImage) -> Vec<u8> {
    let mut data = Vec::new();
    image.file.read_to_end(&mut data).unwrap();
    data
}

/// tinyproxy, with a log.
struct Proxy {
    _daemon: Daemon,
    port: u16,
    log: PathBuf,
}

impl Proxy {
    fn start(site: &Site) -> Self {
        let (port, log) = (free_port(), site.path("tinyproxy.log"));
        let configuration = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\nLogFile \"{}\"\nMaxClients 20\nBasicAuth joe hunter2\n",
            log.display()
        );
        fs::write(site.path("tinyproxy.conf"), configuration).unwrap();
        let mut command = Command::new("/usr/bin/tinyproxy");
        command.arg("-d").arg("-c").arg(site.path("tinyproxy.conf"));
        Proxy { _daemon: Daemon::start(command, port, &site.path("tinyproxy.out")), port, log }
    }

    /// Settings that go through it as this user, `name:password@` or nobody.
    fn settings(&self, site: &Site, user: &str) -> HttpSettings {
        let proxy = Some(Secret(format!("http://{user}127.0.0.1:{}", self.port)));
        HttpSettings { proxy, ..site.settings() }
    }

    /// The request lines that it saw.
    fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        let lines = log.lines().filter_map(|line| line.split_once("): "));
        lines.filter(|(before, _)| before.contains("Request")).map(|(_, rest)| rest.to_owned()).collect()
    }
}

#[test]
fn nginx_that_dies_in_the_middle_is_gone_on_with_when_it_is_back() {
    let (site, image) = (Site::start(), bytes(1, 3 << 20));
    site.publish(&image, 100);
    let begun = || {
        let files = fs::read_dir(site.path("cache")).into_iter().flatten().map(|file| file.unwrap().path());
        let mut parts = files.filter(|path| path.extension().is_some_and(|extension| extension == "part"));
        parts.any(|path| fs::metadata(path).is_ok_and(|part| part.len() > 1 << 20))
    };
    let settings = HttpSettings { retries: 100, ..site.settings() };
    let fetched = std::thread::scope(|scope| {
        let fetching = scope.spawn(|| site.fetch(&site.http("slow/x"), &settings));
        wait_until("a third of it is there", begun);
        site.kill();
        site.log.wait_for("the connection was cut after");
        site.run();
        fetching.join().unwrap()
    });
    assert!(read(fetched.unwrap()) == image);
    assert!(site.log.text().contains("going on with the download of"), "{}", site.log.text());
    assert!(site.access_log().contains("\" 206 "), "{}", site.access_log());
}

#[test]
fn nginx_sends_the_rest_of_the_same_image_and_all_of_another() {
    let (site, old, new) = (Site::start(), bytes(2, 3 << 20), bytes(3, 3 << 20));
    site.publish(&old, 100);
    // Too long for one second at nginx's limit.
    let impatient = HttpSettings { max_time: Some(Duration::from_millis(1500)), ..site.settings() };
    let url = site.http("slow/x");
    let cut = || {
        let message = site.fetch(&url, &impatient).unwrap_err();
        assert_eq!(message, format!("{url}: not complete after 1.5 s"));
    };
    cut();
    let fetched = site.fetch(&url, &site.settings()).unwrap();
    assert!(!fetched.hit && read(fetched) == old);
    assert!(site.access_log().contains("\" 206 "), "{}", site.access_log());
    // Current: nothing is sent.
    let kept = site.fetch(&url, &site.settings()).unwrap();
    assert!(kept.hit && read(kept) == old);
    assert!(site.access_log().contains("\" 304 0 "), "{}", site.access_log());

    site.publish(&bytes(4, 3 << 20), 50);
    cut();
    site.publish(&new, 10);
    assert!(read(site.fetch(&url, &site.settings()).unwrap()) == new);
    assert_eq!(site.access_log().matches("\" 206 ").count(), 1, "{}", site.access_log());
}

#[test]
fn nginx_with_a_private_authority_client_certificates_and_passwords() {
    let (site, image) = (Site::start(), bytes(5, 300_000));
    site.publish(&image, 100);
    let settings = site.settings();
    assert!(read(site.fetch(&site.https("x"), &settings).unwrap()) == image);
    let stranger = HttpSettings { ca_file: None, ..settings.clone() };
    let url = site.https("x");
    let untrusted = format!(
        "{url}: the server's certificate is not trusted ({})",
        "it comes from 'test authority', which is not trusted here: give its certificate as http.ca_file"
    );
    assert_eq!(site.fetch(&url, &stranger).unwrap_err(), untrusted);

    // A scheme and a port that do not belong together.
    let swapped =
        |url: ImageUrl, from: &str, to: &str| ImageUrl::parse(&url.as_url().as_str().replacen(from, to, 1)).unwrap();
    for (url, words) in [
        (
            swapped(site.https("x"), "https:", "http:"),
            "speaks TLS, not plain HTTP (use https://, or the port for http)",
        ),
        (swapped(site.http("x"), "http:", "https:"), "speaks plain HTTP, not TLS (use http://, or the port for https)"),
    ] {
        let (host, port) = (url.as_url().host_str().unwrap(), url.as_url().port().unwrap());
        assert_eq!(site.fetch(&url, &settings).unwrap_err(), format!("{url}: {host}:{port} {words}"));
    }

    let node = HttpSettings { client_cert: Some(site.path("client.pem")), ..settings.clone() };
    assert!(read(site.fetch(&site.https("nodes/x"), &node).unwrap()) == image);
    let forbidden = format!("{}: the server answered 403 Forbidden", site.https("nodes/x"));
    assert_eq!(site.fetch(&site.https("nodes/x"), &settings).unwrap_err(), forbidden);
    let unsafe_redirect =
        format!("{}: the server redirects from https to http, which would not be safe", site.https("plain/x"));
    assert_eq!(site.fetch(&site.https("plain/x"), &settings).unwrap_err(), unsafe_redirect);

    save_private(&site.path("netrc"), "machine 127.0.0.1 login joe password hunter2\n");
    let known = HttpSettings { netrc_file: Some(site.path("netrc")), ..settings.clone() };
    assert!(read(site.fetch(&site.http("private/x"), &known).unwrap()) == image);
    let unauthorized = format!("{}: the server answered 401 Unauthorized", site.http("private/x"));
    assert_eq!(site.fetch(&site.http("private/x"), &settings).unwrap_err(), unauthorized);
}

#[test]
fn tinyproxy_carries_http_and_https_but_not_what_it_is_kept_out_of() {
    let (site, image) = (Site::start(), bytes(6, 300_000));
    site.publish(&image, 100);
    let proxy = Proxy::start(&site);
    let through = proxy.settings(&site, "joe:hunter2@");
    assert!(read(site.fetch(&site.http("x"), &through).unwrap()) == image);
    assert!(read(site.fetch(&site.https("x?tls"), &through).unwrap()) == image);
    let seen = [
        format!("GET http://127.0.0.1:{}/x HTTP/1.1", site.port),
        format!("CONNECT localhost:{} HTTP/1.1", site.tls_port),
    ];
    assert_eq!(proxy.requests(), seen);

    let around = ["127.0.0.0/8", ".localhost"].map(|entry| entry.parse().unwrap()).into();
    let around = HttpSettings { no_proxy: around, ..through.clone() };
    assert!(read(site.fetch(&site.http("x?direct"), &around).unwrap()) == image);
    assert!(read(site.fetch(&site.https("x?direct"), &around).unwrap()) == image);
    let other_port = HttpSettings { no_proxy: vec!["127.0.0.1:1".parse().unwrap()], ..through };
    assert!(read(site.fetch(&site.http("x?port"), &other_port).unwrap()) == image);
    assert_eq!(proxy.requests().len(), 3);

    let stranger = proxy.settings(&site, "");
    let plain = site.fetch(&site.http("x?stranger"), &stranger).unwrap_err();
    assert_eq!(plain, format!("{}: the server answered 407 Proxy Authentication Required", site.http("x")));
    let tunnel = site.fetch(&site.https("x?stranger"), &stranger).unwrap_err();
    let expected = format!(
        "the proxy 127.0.0.1:{} refused to connect to {}: it answered 407 Proxy Authentication Required",
        proxy.port,
        site.https("x")
    );
    assert_eq!(tunnel, expected);
}

#[test]
fn a_cut_download_goes_on_through_tinyproxy() {
    let (site, image) = (Site::start(), bytes(7, 3 << 20));
    site.publish(&image, 100);
    let proxy = Proxy::start(&site);
    let through = proxy.settings(&site, "joe:hunter2@");
    let impatient = HttpSettings { max_time: Some(Duration::from_millis(1500)), ..through.clone() };
    site.fetch(&site.http("slow/x"), &impatient).unwrap_err();
    assert!(read(site.fetch(&site.http("slow/x"), &through).unwrap()) == image);
    assert!(site.access_log().contains("\" 206 "), "{}", site.access_log());
}
