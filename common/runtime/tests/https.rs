//! TLS 1.3 on both sides, with and without client certificates, over loopback.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Router};
use cloakway_runtime::Stop;
use cloakway_runtime::http::{Client, Limits, Peer, Query, serve};
use cloakway_runtime::tls::{Current, Identity, client, server, valid_until};
use cloakway_types::Timestamp;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key) }
    }

    fn issue(&self, folder: &Path, name: &str) -> Identity {
        self.issue_until(folder, name, 2100)
    }

    fn issue_until(&self, folder: &Path, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity =
            Identity { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

const LIMIT: Duration = Duration::from_secs(30);

async fn listen() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn a_server_answers_over_tls_13_and_bounds_the_body() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.issue(folder.path(), "127.0.0.1");
    let (listener, url) = listen().await;
    let stop = Stop::new();
    let router = Router::new()
        .route("/", get(|Extension(peer): Extension<Peer>| async move { peer.address.ip().to_string() }))
        .route("/post", post(|body: String| async move { body.len().to_string() }));
    let limits = Limits { body: 1000, ..Limits::default() };
    serve(listener, server(&identity, None).unwrap(), router, limits, stop.clone());
    let client = Client::new(client(&folder.path().join("ca.pem"), None).unwrap(), None).unwrap();
    let answer = client.send(Method::GET, &url, HeaderMap::new(), vec![], LIMIT).await.unwrap();
    assert_eq!(answer.body().as_ref(), b"127.0.0.1");
    let large = client.send(Method::POST, &format!("{url}/post"), HeaderMap::new(), vec![b'x'; 1000], LIMIT).await;
    assert_eq!(large.unwrap().status(), StatusCode::OK);
    let larger = client.send(Method::POST, &format!("{url}/post"), HeaderMap::new(), vec![b'x'; 1001], LIMIT).await;
    assert_eq!(larger.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    stop.tell();
}

#[tokio::test]
async fn mutual_tls_takes_only_the_named_client_of_the_right_authority() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(folder.path()), Authority::new(other.path()));
    let identity = authority.issue(folder.path(), "server.example");
    let ca = folder.path().join("ca.pem");
    let (listener, url) = listen().await;
    let router = Router::new().route("/", get(|Extension(peer): Extension<Peer>| async move { peer.name.unwrap() }));
    let limits = Limits { client_names: vec!["facilitation.example".to_owned()], ..Limits::default() };
    let stop = Stop::new();
    serve(listener, server(&identity, Some(&ca)).unwrap(), router, limits, stop.clone());
    let ask = async |identity: Option<Identity>| {
        let tls = client(&ca, identity.as_ref()).unwrap();
        Client::new(tls, Some("server.example")).unwrap().send(Method::GET, &url, HeaderMap::new(), vec![], LIMIT).await
    };
    let good = ask(Some(authority.issue(folder.path(), "facilitation.example"))).await.unwrap();
    assert_eq!(good.body().as_ref(), b"facilitation.example");
    assert!(ask(Some(authority.issue(folder.path(), "somebody.example"))).await.is_err());
    assert!(ask(Some(stranger.issue(other.path(), "facilitation.example"))).await.is_err());
    assert!(ask(None).await.is_err());
    let wrong_name = Client::new(client(&ca, None).unwrap(), Some("other.example")).unwrap();
    assert!(wrong_name.send(Method::GET, &url, HeaderMap::new(), vec![], LIMIT).await.is_err());
    stop.tell();
}

/// A connection that speaks what it offers; what the server chose.
async fn multiplexed(
    url: &str,
    ca: &Path,
) -> (Option<Vec<u8>>, hyper::client::conn::http2::SendRequest<Full<Bytes>>, tokio::task::JoinHandle<()>) {
    let mut tls = client(ca, None).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(url.strip_prefix("https://").unwrap()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    (chosen, sender, tokio::spawn(async move { drop(connection.await) }))
}

async fn served(limits: Limits) -> (tempfile::TempDir, String, Stop) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Authority::new(folder.path()).issue(folder.path(), "127.0.0.1");
    let (listener, url) = listen().await;
    let stop = Stop::new();
    let router = Router::new()
        .route("/", get(|Extension(peer): Extension<Peer>| async move { peer.address.ip().to_string() }))
        .route("/query", get(|Query(text): Query<BTreeMap<String, u8>>| async move { format!("{text:?}") }))
        .route("/wait", get(std::future::pending::<String>))
        .route("/post", post(|body: String| async move { body.len().to_string() }));
    serve(listener, server(&identity, None).unwrap(), router, limits, stop.clone());
    (folder, url, stop)
}

fn request(method: Method, url: String, body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(url).body(Full::new(Bytes::from(body))).unwrap()
}

#[tokio::test]
async fn a_wrong_query_is_refused_in_json() {
    let (folder, url, stop) = served(Limits::default()).await;
    let client = Client::new(client(&folder.path().join("ca.pem"), None).unwrap(), None).unwrap();
    let ask = async |query: &str| {
        let url = format!("{url}/query?{query}");
        let answer = client.send(Method::GET, &url, HeaderMap::new(), vec![], LIMIT).await.unwrap();
        (answer.status(), String::from_utf8(answer.body().to_vec()).unwrap())
    };
    assert_eq!(ask("a=7").await, (StatusCode::OK, r#"{"a": 7}"#.to_owned()));
    let (status, body) = ask("a=x").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.starts_with(r#"{"error":{"code":"invalid_query","message":"#), "{body}");
    stop.tell();
}

#[tokio::test]
async fn requests_share_a_connection_of_http2_where_it_is_offered() {
    let (folder, url, stop) = served(Limits { body: 1000, streams: 8, ..Limits::default() }).await;
    let (chosen, mut sender, connection) = multiplexed(&url, &folder.path().join("ca.pem")).await;
    assert_eq!(chosen.as_deref(), Some(&b"h2"[..]));
    // By its answer the client knows how many it may ask at once: more are refused (RFC 9113 §5.1.2).
    let first = sender.send_request(request(Method::GET, url.clone(), vec![])).await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    // More than may be asked at once, and one that is never answered beside them.
    let waiting = tokio::spawn(sender.clone().send_request(request(Method::GET, format!("{url}/wait"), vec![])));
    let asking = (0..50_usize).map(|n| {
        let (mut sender, url) = (sender.clone(), format!("{url}/post"));
        async move {
            let answer = sender.send_request(request(Method::POST, url, vec![b'x'; 975 + n])).await.unwrap();
            let status = answer.status();
            (status, answer.into_body().collect().await.unwrap().to_bytes())
        }
    });
    for (n, asked) in asking.map(tokio::spawn).collect::<Vec<_>>().into_iter().enumerate() {
        let (status, body) = asked.await.unwrap();
        if n <= 25 {
            assert_eq!((status, body), (StatusCode::OK, (975 + n).to_string().into()));
        } else {
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    waiting.abort();
    stop.tell();
    drop(sender);
    tokio::time::timeout(LIMIT, connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_of_http2_that_asks_nothing_is_ended_and_one_that_waits_is_not() {
    let head = Duration::from_secs(3);
    let (folder, url, stop) = served(Limits { head, streams: 8, ..Limits::default() }).await;
    let ca = folder.path().join("ca.pem");
    let (_, mut waits, other) = multiplexed(&url, &ca).await;
    let waiting = tokio::spawn(waits.send_request(request(Method::GET, format!("{url}/wait"), vec![])));
    let (_, mut asks, connection) = multiplexed(&url, &ca).await;
    assert_eq!(asks.send_request(request(Method::GET, url.clone(), vec![])).await.unwrap().status(), StatusCode::OK);
    tokio::time::timeout(LIMIT, connection).await.unwrap().unwrap();
    assert!(!other.is_finished() && !waiting.is_finished());
    assert_eq!(waits.send_request(request(Method::GET, url, vec![])).await.unwrap().status(), StatusCode::OK);
    stop.tell();
}

#[tokio::test]
async fn http2_is_not_offered_where_it_is_not_wanted() {
    let (folder, url, stop) = served(Limits::default()).await;
    let mut tls = client(&folder.path().join("ca.pem"), None).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(url.strip_prefix("https://").unwrap()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    assert!(tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.is_err());
    stop.tell();
}

/// A client that keeps its connection, and says which certificate it was shown.
struct Kept {
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    certificate: Vec<u8>,
}

impl Kept {
    async fn open(url: &str, ca: &Path) -> Self {
        let tls = client(ca, None).unwrap();
        let stream = tokio::net::TcpStream::connect(url.trim_start_matches("https://")).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Self { stream, certificate }
    }

    async fn get(&mut self) -> String {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"still here") {
            let mut octets = [0; 1000];
            let read = tokio::time::timeout(LIMIT, self.stream.read(&mut octets)).await.unwrap().unwrap();
            assert!(read > 0, "the connection was ended after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&octets[..read]);
        }
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn a_certificate_is_exchanged_under_a_connection_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.issue(folder.path(), "127.0.0.1");
    let ca = folder.path().join("ca.pem");
    let (listener, url) = listen().await;
    let stop = Stop::new();
    let current = Current::from(server(&identity, None).unwrap());
    let router = Router::new().route("/", get(|| async { "still here" }));
    serve(listener, current.clone(), router, Limits::default(), stop.clone());
    let mut before = Kept::open(&url, &ca).await;
    assert!(before.get().await.starts_with("HTTP/1.1 200"));

    let renewed = authority.issue(folder.path(), "127.0.0.1");
    current.replace(server(&renewed, None).unwrap());
    assert!(before.get().await.starts_with("HTTP/1.1 200"), "the connection of before");
    let mut after = Kept::open(&url, &ca).await;
    assert!(after.get().await.starts_with("HTTP/1.1 200"));
    assert_ne!(before.certificate, after.certificate);
    assert!(before.get().await.starts_with("HTTP/1.1 200"));
    stop.tell();
}

#[test]
fn a_certificate_that_nobody_would_believe_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let now: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
    let names = |name: &str| vec![name.to_owned()];
    let good = authority.issue(folder.path(), "203.0.113.200");
    let until = valid_until(&good, &names("203.0.113.200"), now).unwrap();
    assert_eq!(until.to_string(), "2100-01-01T00:00:00.000Z");
    let error =
        |identity: &Identity, name: &str, now| valid_until(identity, &names(name), now).unwrap_err().to_string();
    assert!(error(&good, "203.0.113.201", now).ends_with("the certificate is not valid for 203.0.113.201"));
    let early = Timestamp::from_secs(1);
    assert!(error(&good, "203.0.113.200", early).contains("is valid from 1975"));
    let old = authority.issue_until(folder.path(), "old.example", 2020);
    assert!(error(&old, "old.example", now).contains("was valid until 2020-01-01"));
}

#[test]
fn a_missing_certificate_is_named() {
    let identity = Identity { certificate: "/nonexistent/c.pem".into(), key: "/nonexistent/k.pem".into() };
    let error = server(&identity, None).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/"), "{error}");
}
