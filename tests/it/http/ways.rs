// SPDX-License-Identifier: BSD-2-Clause
//! The ways to a server: TLS and proxies.

use simpleimage::http::{HttpSettings, ImageUrl};

use super::{content, failure, get, read, secret};
use crate::support::bytes;
use crate::support::log::Log;
use crate::support::proxy::TestProxy;
use crate::support::save_private;
use crate::support::server::{Reply, Server};
use crate::support::tls::Authority;

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

    let expected = format!("{url}: the server's certificate is not trusted (UnknownIssuer)");
    assert_eq!(failure(&HttpSettings::default(), &url), expected);
    assert_eq!(server.requests().len(), 1);

    let other_name = server.url("/x");
    let message = failure(&trusting, &other_name);
    assert!(message.starts_with(&format!("{other_name}: the server's certificate is not trusted (")), "{message}");

    let insecure = HttpSettings { insecure_tls: true, ..HttpSettings::default() };
    assert!(read(content(&insecure, &other_name)) == image);
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
    let expected = format!("{url}: the server's certificate is not trusted (certificate expired");
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
    let refused = "no secure connection (received fatal alert: CertificateRequired)";
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
