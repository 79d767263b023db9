// SPDX-License-Identifier: BSD-2-Clause
//! The ways to a server: TLS and proxies.

use std::io::Read;

use simpleimage::store::http::{HttpSettings, ImageUrl};

use super::{content, failure, get, read, secret};
use crate::support::bytes;
use crate::support::log::Log;
use crate::support::proxy::TestProxy;
use crate::support::save_private;
use crate::support::server::{Reply, Server};
use crate::support::tls::{Authority, Identity, Wish};

#[test]
fn https_trusts_the_ca_file_or_anybody_when_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca_file) = (Authority::new(), folder.path().join("ca.pem"));
    authority.save(&ca_file);
    let image = bytes(8, 300_000);
    let reply = Reply::ok(image.clone());
    let server = Server::start_tls(authority.server_config("localhost"), move |_, _| reply.clone());
    let url = server.url_for("localhost", "/x");
    let trusting = HttpSettings { ca_file: Some(ca_file), ..HttpSettings::default() };
    assert!(read(content(&trusting, &url)) == image);

    let issuer = "it comes from 'test authority', which is not trusted here: give its certificate as http.ca_file";
    let expected = format!("{url}: the server's certificate is not trusted ({issuer})");
    assert_eq!(failure(&HttpSettings::default(), &url), expected);
    assert_eq!(server.requests().len(), 1);

    let other_name = server.url("/x");
    let name = "it is for localhost and not for 127.0.0.1";
    let expected = format!("{other_name}: the server's certificate is not trusted ({name})");
    assert_eq!(failure(&trusting, &other_name), expected);

    let insecure = HttpSettings { insecure_tls: true, ..HttpSettings::default() };
    assert!(read(content(&insecure, &other_name)) == image);
}

/// An end that TLS does not vouch for may be anybody's who can cut the connection.
#[test]
fn a_body_without_any_end_mark_ends_where_tls_says_so() {
    let authority = Authority::new();
    let image = bytes(8, 300_000);
    let reply = Reply::ok(image.clone()).until_closed();
    let config = authority.server_config("localhost");
    let settings = HttpSettings { insecure_tls: true, ..HttpSettings::default() };
    let whole = Server::start_tls(config.clone(), move |_, _| reply.clone());
    assert!(read(content(&settings, &whole.url("/x"))) == image);
    let reply = Reply::ok(image).until_closed().cut_after(200_000);
    let torn = Server::start_tls(config, move |_, _| reply.clone());
    let error = content(&settings, &torn.url("/x")).body.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: the connection was cut after 200000 bytes", torn.url("/x")));
}

/// Whatever curl takes: it is what an administrator tries first.
#[test]
fn certificates_are_taken_as_curl_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, authority) = (folder.path().join("ca.pem"), Authority::new());
    let host = || Wish::host("localhost");
    let old = Wish { names: Vec::new(), ..host() };
    let mut tried = 0;
    let mut takes = |what: &str, server: &Identity, trusted: &Identity, at: &str| {
        trusted.save(&ca_file);
        let serving = Server::start_tls(server.server_config(), |_, _| Reply::ok("image"));
        let url = serving.url_for(at, "/x");
        let settings = HttpSettings { ca_file: Some(ca_file.clone()), retries: 0, ..HttpSettings::default() };
        let curl = std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--noproxy", "*", "--cacert"])
            .args([ca_file.as_os_str(), url.as_url().as_str().as_ref()])
            .output()
            .unwrap();
        assert_eq!((curl.stdout.as_slice(), curl.stderr.as_slice()), (&b"image"[..], &b""[..]), "curl: {what}");
        assert_eq!(get(&settings, &url, &Log::new()).map(|_| ()).map_err(|err| err.to_string()), Ok(()), "{what}");
        tried += 1;
    };
    for (what, wish, at) in [
        ("self-signed", host(), "localhost"),
        ("self-signed, CA:TRUE", Wish { authority: true, ..host() }, "localhost"),
        ("self-signed, P-521", Wish { curve: openssl::nid::Nid::SECP521R1, ..host() }, "localhost"),
        ("self-signed, without alternative names", old.clone(), "localhost"),
        ("self-signed, for an address", Wish { names: vec!["127.0.0.1"], ..host() }, "127.0.0.1"),
        ("self-signed, an address for a name", Wish { name: "127.0.0.1", ..old.clone() }, "127.0.0.1"),
    ] {
        let itself = Identity::self_signed(&wish);
        takes(what, &itself, &itself, at);
    }
    let trusted = authority.issue(&Wish { name: "intermediate", authority: true, names: Vec::new(), ..host() });
    for (what, wish) in [
        ("of an authority, CA:TRUE", Wish { authority: true, ..host() }),
        ("of an authority, P-521", Wish { curve: openssl::nid::Nid::SECP521R1, ..host() }),
        ("of an authority, without alternative names", old),
    ] {
        let issued = authority.issue(&wish);
        takes(what, &issued, authority.identity(), "localhost");
        takes("the same, itself trusted", &issued, &issued, "localhost");
    }
    let below = Authority::of(trusted.clone()).issue(&host());
    takes("an authority that another one has signed", &below, &trusted, "localhost");
    assert_eq!(tried, 13);
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    Authority::new().save(&ca_file);
    let settings = HttpSettings { ca_file: Some(ca_file.clone()), ..HttpSettings::default() };
    let refusal = |server: &Identity, at: &str| {
        let serving = Server::start_tls(server.server_config(), |_, _| Reply::ok("image"));
        let (url, log) = (serving.url_for(at, "/x"), Log::new());
        let message = get(&settings, &url, &log).err().unwrap().to_string();
        assert_eq!((log.text().as_str(), serving.requests().len()), ("", 0), "it is not tried again");
        let reason = message.strip_prefix(&format!("{url}: the server's certificate is not trusted (")).unwrap();
        reason.strip_suffix(')').unwrap().to_owned()
    };
    let host = || Wish::host("localhost");
    let own = Identity::self_signed(&host());
    assert_eq!(refusal(&own, "localhost"), "it is self-signed: if it is the right one, give it as http.ca_file");
    // Trusted, but for somebody else, or not now.
    for (wish, at, reason) in [
        (host(), "127.0.0.1", "it is for localhost and not for 127.0.0.1"),
        (
            Wish { names: vec!["a.example", "*.b.example", "10.0.0.1", "::1", "c"], ..host() },
            "localhost",
            "it is for a.example, *.b.example, 10.0.0.1, ::1, ... and not for localhost",
        ),
        (Wish { name: "127.0.0.1", ..host() }, "127.0.0.1", "it is for localhost and not for 127.0.0.1"),
        (Wish { name: "b\u{e9}\n", names: Vec::new(), ..host() }, "localhost", "it is for b?? and not for localhost"),
        (Wish { days: (2, 9), ..host() }, "localhost", "it holds from "),
        (Wish { days: (-9, -2), ..host() }, "localhost", "it expired on "),
    ] {
        let itself = Identity::self_signed(&wish);
        itself.save(&ca_file);
        let told = refusal(&itself, at);
        assert!(told.starts_with(reason), "{told}");
        assert!(told == reason || told.ends_with(", if the clock of the node is right"), "{told}");
    }
}

#[test]
fn tls_and_plain_http_are_told_from_each_other() {
    let at = |scheme: &str, server: &Server, path: &str| {
        ImageUrl::parse(&format!("{scheme}://localhost:{}{path}", server.address().port())).unwrap()
    };
    let page = "<html><center>The plain HTTP request was sent to HTTPS port</center></html>";
    let nginx = Server::sequence([Reply::page(400, page)]);
    let alert = Server::sequence([Reply::garbage(b"\x15\x03\x01\x00\x02\x02\x46")]);
    let ssh = Server::start_raw(b"SSH-2.0-OpenSSH_9.2\r\n");
    let http = Server::start_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let speaks_tls = "speaks TLS, not plain HTTP (use https://, or the port for http)";
    let speaks_http = "speaks plain HTTP, not TLS (use http://, or the port for https)";
    for (scheme, server, words) in [
        ("http", &nginx, speaks_tls),
        ("http", &alert, speaks_tls),
        ("https", &http, speaks_http),
        ("https", &ssh, "does not speak TLS (is it the port for https?)"),
    ] {
        let (url, log) = (at(scheme, server, "/x?k=s3cret"), Log::new());
        let message = get(&HttpSettings::default(), &url, &log).err().unwrap().to_string();
        let peer = format!("localhost:{}", server.address().port());
        assert_eq!((message, log.text().as_str()), (format!("{url}: {peer} {words}"), ""), "and not tried again");
    }
    // The same by way of a proxy, and a proxy that itself speaks TLS.
    let tunnel = TestProxy::start(http.address(), None);
    let by = |proxy: std::net::SocketAddr| HttpSettings {
        proxy: Some(secret(&format!("http://{proxy}"))),
        retries: 0,
        ..HttpSettings::default()
    };
    let url = ImageUrl::parse("https://images.example/x").unwrap();
    assert_eq!(failure(&by(tunnel.address()), &url), format!("{url}: images.example:443 {speaks_http}"));
    let of_proxy = "speaks TLS (proxies are asked in plain HTTP: use its port for that)";
    for scheme in ["http", "https"] {
        let url = ImageUrl::parse(&format!("{scheme}://images.example/x")).unwrap();
        let expected = format!("{url}: the proxy {} {of_proxy}", alert.address());
        assert_eq!(failure(&by(alert.address()), &url), expected);
    }
}

#[test]
fn https_is_not_given_up_by_a_redirect() {
    let plain = Server::sequence([Reply::ok("image")]);
    let target = plain.url("/x").to_string();
    let config = Authority::new().server_config("localhost");
    let server = Server::start_tls(config, move |_, _| Reply::redirect(target.clone()));
    let insecure = HttpSettings { insecure_tls: true, ..HttpSettings::default() };
    let url = server.url("/a");
    let expected = format!("{url}: the server redirects from https to http, which would not be safe");
    assert_eq!(failure(&insecure, &url), expected);
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn plain_http_asks_a_proxy_in_absolute_form() {
    let image = bytes(9, 3_000_000);
    let reply = Reply::ok(image.clone());
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/a?b=c" => Reply::redirect("/image"),
        _ => reply.clone(),
    });
    let proxy = TestProxy::start(server.address(), None);
    let settings = HttpSettings {
        proxy: Some(secret(&format!("http://joe:hunter%202@{}", proxy.address()))),
        ..HttpSettings::default()
    };
    let url = ImageUrl::parse("http://ann:pw@images.example:8080/a?b=c").unwrap();
    let content = content(&settings, &url);
    assert_eq!(content.content_length, Some(3_000_000));
    assert!(read(content) == image);
    let asked = proxy.requests();
    let targets: Vec<_> = asked.iter().map(|r| (r.method.as_str(), r.target.as_str())).collect();
    let base = "http://images.example:8080";
    assert_eq!(targets, [("GET", format!("{base}/a?b=c").as_str()), ("GET", format!("{base}/image").as_str())]);
    assert_eq!(asked[0].header("proxy-authorization"), Some("Basic am9lOmh1bnRlciAy"));
    assert_eq!(asked[0].header("host"), Some("images.example:8080"));
    let seen = server.requests();
    assert_eq!(
        (seen[0].header("authorization"), seen[0].header("proxy-authorization")),
        (Some("Basic YW5uOnB3"), None)
    );
}

#[test]
fn https_goes_through_a_tunnel_of_the_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca_file) = (Authority::new(), folder.path().join("ca.pem"));
    authority.save(&ca_file);
    let image = bytes(10, 400_000);
    let reply = Reply::ok(image.clone());
    let server = Server::start_tls(authority.server_config("images.example"), move |_, _| reply.clone());
    let proxy = TestProxy::start(server.address(), None);
    let settings = HttpSettings {
        proxy: Some(secret(&format!("http://joe:hunter%202@{}", proxy.address()))),
        ca_file: Some(ca_file),
        ..HttpSettings::default()
    };
    let url = ImageUrl::parse("https://images.example/x").unwrap();
    assert!(read(content(&settings, &url)) == image);
    let asked = proxy.requests();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("CONNECT", "images.example:443"));
    assert_eq!(asked[0].header("proxy-authorization"), Some("Basic am9lOmh1bnRlciAy"));
    assert_eq!(server.requests()[0].header("proxy-authorization"), None);
}

#[test]
fn no_proxy_hosts_are_asked_directly() {
    let server = Server::sequence([Reply::ok("image")]);
    let proxy = TestProxy::start(server.address(), None);
    let settings = HttpSettings {
        proxy: Some(secret(&format!("http://{}", proxy.address()))),
        no_proxy: vec![".corp.example".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
        ..HttpSettings::default()
    };
    assert_eq!(read(content(&settings, &server.url("/x"))), b"image");
    assert_eq!(proxy.requests().len(), 0);
    assert_eq!(read(content(&settings, &ImageUrl::parse("http://host.example/x").unwrap())), b"image");
    assert_eq!(proxy.requests().len(), 1);
    // Another port of the same host goes through the proxy.
    let one_port = HttpSettings { no_proxy: vec!["127.0.0.1:1".parse().unwrap()], ..settings };
    assert_eq!(read(content(&one_port, &server.url("/x"))), b"image");
    assert_eq!(proxy.requests().len(), 2);
}

#[test]
fn an_expired_certificate_is_not_trusted_and_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca_file) = (Authority::new(), folder.path().join("ca.pem"));
    authority.save(&ca_file);
    let server = Server::start_tls(authority.expired_server_config("localhost"), |_, _| Reply::ok("image"));
    let settings = HttpSettings { ca_file: Some(ca_file), ..HttpSettings::default() };
    let url = server.url_for("localhost", "/x");
    let log = Log::new();
    let message = get(&settings, &url, &log).err().unwrap().to_string();
    let expected = format!("{url}: the server's certificate is not trusted (it expired on ");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!((log.text().as_str(), server.requests().len()), ("", 0));
}

#[test]
fn the_client_certificate_is_shown_to_the_server_asked_for_only() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca_file, cert) = (Authority::new(), folder.path().join("ca.pem"), folder.path().join("client.pem"));
    authority.save(&ca_file);
    save_private(&cert, &authority.client_pem("node1"));
    let other = Server::start_tls(authority.client_checking_config("localhost"), |_, _| Reply::ok("secret"));
    let target = other.url_for("localhost", "/x").to_string();
    let server = Server::start_tls(authority.client_checking_config("localhost"), move |request, _| {
        if request.target == "/away" { Reply::redirect(target.clone()) } else { Reply::ok("image") }
    });
    let without = HttpSettings { ca_file: Some(ca_file), retries: 0, ..HttpSettings::default() };
    let with = HttpSettings { client_cert: Some(cert), ..without.clone() };
    assert_eq!(read(content(&with, &server.url_for("localhost", "/x"))), b"image");
    let refused = "no secure connection (the server wants a client certificate: set http.client_cert)";
    let url = server.url_for("localhost", "/x");
    assert_eq!(failure(&without, &url), format!("{url}: {refused}"));
    let away = failure(&with, &server.url_for("localhost", "/away"));
    assert_eq!(away, format!("{}: {refused}", other.url_for("localhost", "/x")));
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn a_netrc_file_knows_its_hosts_only() {
    let folder = tempfile::tempdir().unwrap();
    let netrc = folder.path().join("netrc");
    save_private(&netrc, "machine 127.0.0.1 login joe password hunter2\nmachine localhost login ann password pw\n");
    let server = Server::start(|request, _| match request.target.as_str() {
        // The same host, but another server: its port is another one.
        "/away" => Reply::redirect(
            "http://localhost:PORT/x".replace("PORT", request.header("host").unwrap().rsplit(':').next().unwrap()),
        ),
        _ => Reply::ok("image"),
    });
    let settings = HttpSettings { netrc_file: Some(netrc), ..HttpSettings::default() };
    let urls = [
        server.url("/x"),
        server.url_for("localhost", "/x"),
        server.url_for("eve:pw@127.0.0.1", "/x"),
        server.url("/away"),
    ];
    for url in &urls {
        assert_eq!(read(content(&settings, url)), b"image");
    }
    let sent = server.requests();
    let sent: Vec<_> = sent.iter().map(|request| request.header("authorization")).collect();
    let (joe, ann, eve) = ("Basic am9lOmh1bnRlcjI=", "Basic YW5uOnB3", "Basic ZXZlOnB3");
    // The last redirect leaves the host, and what is known of another host is not said on a redirect's word.
    assert_eq!(sent, [Some(joe), Some(ann), Some(eve), Some(joe), None]);
}

#[test]
fn a_proxy_that_fails_is_named_without_its_password() {
    let refusing = TestProxy::start("127.0.0.1:1".parse().unwrap(), Some(407));
    let settings = |address| HttpSettings {
        proxy: Some(secret(&format!("http://joe:hunter2@{address}"))),
        retries: 0,
        ..HttpSettings::default()
    };
    let url = ImageUrl::parse("https://images.example/x?k=s3cret").unwrap();
    let expected = format!(
        "the proxy {} refused to connect to https://images.example/x: it answered 407 Proxy Authentication Required",
        refusing.address()
    );
    assert_eq!(failure(&settings(refusing.address()), &url), expected);

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for scheme in ["http", "https"] {
        let url = ImageUrl::parse(&format!("{scheme}://images.example/x?k=s3cret")).unwrap();
        let expected = format!("{url}: cannot connect to the proxy {closed}: connection refused");
        assert_eq!(failure(&settings(closed), &url), expected);
    }
}

#[test]
fn https_may_have_a_proxy_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca_file) = (Authority::new(), folder.path().join("ca.pem"));
    authority.save(&ca_file);
    let plain = Server::start(|_, _| Reply::ok("plain"));
    let tls = Server::start_tls(authority.server_config("images.example"), |_, _| Reply::ok("safe"));
    let (for_http, for_https) = (TestProxy::start(plain.address(), None), TestProxy::start(tls.address(), None));
    let address = |proxy: &TestProxy| Some(secret(&format!("http://{}", proxy.address())));
    let ca_file = Some(ca_file);
    let both = HttpSettings {
        proxy: address(&for_http),
        https_proxy: address(&for_https),
        ca_file: ca_file.clone(),
        ..HttpSettings::default()
    };
    let url = |scheme: &str| ImageUrl::parse(&format!("{scheme}://images.example/x")).unwrap();
    assert_eq!(read(content(&both, &url("http"))), b"plain");
    assert_eq!(read(content(&both, &url("https"))), b"safe");
    let methods = |proxy: &TestProxy| proxy.requests().iter().map(|r| r.method.clone()).collect::<Vec<_>>();
    assert_eq!((methods(&for_http), methods(&for_https)), (vec!["GET".to_owned()], vec!["CONNECT".to_owned()]));

    // Only for https: http goes there itself.
    let https_only = HttpSettings { https_proxy: address(&for_https), ca_file, ..HttpSettings::default() };
    assert_eq!(read(content(&https_only, &plain.url("/x"))), b"plain");
    assert_eq!(methods(&for_https).len(), 1);
}
