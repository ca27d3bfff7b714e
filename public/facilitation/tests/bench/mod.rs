//! The running server, with a transaction server simulator behind it and a vendor beside it, on loopback.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use cloakway_crypto::encode::{base64, hex};
use cloakway_crypto::hash::sha256;
use cloakway_runtime::http::{Client, Limits, Refusal, serve};
use cloakway_runtime::tls::{Identity, client, server};
use cloakway_runtime::{Context, Role, Stop, clock, config};
use facilitation::Facilitation;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use transact_wire::order::{Issued, Placement};
use transact_wire::result::{Acknowledgement, ID_HEADER, Pending, SIGNATURE_HEADER, SignedResult};

pub(crate) const KEY: &str = "vendor-key-of-the-shop";
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What the simulator and the vendor saw, and how they behave.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) placements: Vec<Placement>,
    pub(crate) deliveries: Vec<(String, String)>,
    pub(crate) acknowledged: Vec<String>,
    pub(crate) refuse_deliveries: usize,
    pub(crate) pending: Vec<SignedResult>,
    /// Where the private network address is, if it is anywhere.
    pub(crate) private: Option<SocketAddr>,
}

pub(crate) type Shared = Arc<Mutex<Seen>>;

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) seen: Shared,
    pub(crate) stop: Stop,
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) process: Option<std::process::Child>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.tell();
        self.end_process();
    }
}

pub(crate) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn pki(folder: &Path) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["127.0.0.1", "transaction.example", "facilitation.example"] {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned(), "::1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

pub(crate) fn identity(folder: &Path, name: &str) -> Identity {
    Identity { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
}

/// Issues whatever is asked, but two ids that are refused.
pub(crate) async fn place(State(seen): State<Shared>, body: Bytes) -> Result<Json<Issued>, Refusal> {
    let placement: Placement = serde_json::from_slice(&body).unwrap();
    let id = serde_json::to_value(&placement.order.reference).unwrap();
    let id = id.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
    let private = {
        let mut seen = seen.lock().unwrap();
        seen.placements.push(placement);
        seen.private
    };
    match id.as_str() {
        "taken" => return Err(Refusal::new(StatusCode::CONFLICT, "conflict", "used")),
        "v6" => return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "no_address", "no IPv6")),
        _ => {}
    }
    Ok(Json(Issued {
        transaction_id: id.parse().unwrap(),
        password: "one-time-password".into(),
        address: private.map_or("203.0.113.200".parse().unwrap(), |private| private.ip()),
        port: private.map_or(443, |private| private.port()),
        expires_at: clock::wall() + Duration::from_secs(600),
    }))
}

#[derive(serde::Deserialize)]
pub(crate) struct Pull {
    after: u64,
    wait_ms: u64,
}

pub(crate) async fn results(State(seen): State<Shared>, Query(pull): Query<Pull>) -> Json<Pending> {
    let deadline = std::time::Instant::now() + Duration::from_millis(pull.wait_ms.min(300));
    loop {
        {
            let seen = seen.lock().unwrap();
            if pull.after < 7 && !seen.pending.is_empty() {
                return Json(Pending { cursor: 7, results: seen.pending.clone() });
            }
        }
        if std::time::Instant::now() >= deadline {
            return Json(Pending { cursor: pull.after, results: Vec::new() });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn acknowledge(State(seen): State<Shared>, body: Bytes) -> StatusCode {
    let ack: Acknowledgement = serde_json::from_slice(&body).unwrap();
    let mut seen = seen.lock().unwrap();
    seen.pending.retain(|result| !ack.ids.contains(&result.id));
    seen.acknowledged.extend(ack.ids);
    StatusCode::NO_CONTENT
}

pub(crate) async fn deliver(State(seen): State<Shared>, headers: HeaderMap, body: String) -> StatusCode {
    let mut seen = seen.lock().unwrap();
    assert!(headers[SIGNATURE_HEADER].to_str().unwrap().starts_with("v1a,"));
    seen.deliveries.push((headers[ID_HEADER].to_str().unwrap().to_owned(), body));
    if seen.refuse_deliveries > 0 {
        seen.refuse_deliveries -= 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    StatusCode::NO_CONTENT
}

pub(crate) fn example(folder: &Path, listen: SocketAddr, upstream: SocketAddr, vendor: SocketAddr) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::write(folder.join("facilitation-page.key"), base64(&[3; 32])).unwrap();
    std::fs::write(folder.join("vendor-shop.sha256"), hex(&sha256(&[KEY.as_bytes()]))).unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/facilitation-server.toml"))
        .unwrap();
    [
        ("[\"192.0.2.34:443\", \"[2001:db8:0:4::34]:443\"]", format!("[\"{listen}\"]")),
        ("https://192.0.2.34", format!("https://{listen}")),
        ("/etc/cloakway/facilitation-client.", at("facilitation.example.")),
        ("/etc/cloakway/facilitation.pem", at("127.0.0.1.pem")),
        ("/etc/cloakway/facilitation.key", at("127.0.0.1.key")),
        ("/var/lib/cloakway/facilitation", at("data")),
        ("/etc/cloakway/facilitation-page.key", at("facilitation-page.key")),
        ("/etc/ssl/certs/ca-certificates.crt", at("ca.pem")),
        ("/run/cloakway/facilitation-server.sock", at("admin.sock")),
        ("metrics-listen = \"127.0.0.1:9104\"\n", String::new()),
        ("https://192.0.2.66:8443", format!("https://{upstream}")),
        ("transaction.cloakway.example", "transaction.example".to_owned()),
        ("/etc/cloakway/private-ca.pem", at("ca.pem")),
        ("/var/lib/cloakway/rib.mrt", at("rib.mrt")),
        ("[\"2001:db8:5100::/48\"]", "[\"198.51.100.0/24\", \"127.0.0.1/32\"]".to_owned()),
        ("/etc/cloakway/vendor-shop.sha256", at("vendor-shop.sha256")),
        ("https://192.0.2.18/cloakway/results", format!("https://{vendor}/results")),
    ]
    .into_iter()
    .fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, &to)
    })
}

pub(crate) async fn listener() -> (tokio::net::TcpListener, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn start() -> Bench {
    start_with(|_, text| text.to_owned()).await
}

/// With a configuration that `change` makes of the usual one.
pub(crate) async fn start_with(change: impl Fn(&Path, &str) -> String) -> Bench {
    let (bench, text) = beside().await;
    let text = change(bench.folder.path(), &text);
    let config = config::parse::<facilitation::config::Config>("test.toml", &text).unwrap();
    let context = Context::from(bench.stop.clone());
    tokio::spawn(async move { Facilitation::run(config, context).await.unwrap() });
    bench.listens().await;
    bench
}

/// The program in a process of its own, with its log in `log`.
pub(crate) async fn start_process() -> Bench {
    let (mut bench, text) = beside().await;
    let file = bench.folder.path().join("facilitation-server.toml");
    std::fs::write(&file, text).unwrap();
    let log = std::fs::File::create(bench.folder.path().join("log")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_facilitation-server"));
    command.args(["run", "--config"]).arg(file).stdout(log.try_clone().unwrap()).stderr(log);
    bench.process = Some(command.spawn().unwrap());
    bench.listens().await;
    bench
}

/// All that is around the server, and its configuration.
async fn beside() -> (Bench, String) {
    let folder = tempfile::tempdir().unwrap();
    pki(folder.path());
    let seen = Shared::default();
    let stop = Stop::new();
    let (upstream, upstream_at) = listener().await;
    let router = Router::new()
        .route("/v1/orders", post(place))
        .route("/v1/results", get(results))
        .route("/v1/results/ack", post(acknowledge))
        .with_state(seen.clone());
    let limits = Limits { client_names: vec!["facilitation.example".to_owned()], ..Limits::default() };
    let tls = server(&identity(folder.path(), "transaction.example"), Some(&folder.path().join("ca.pem"))).unwrap();
    serve(upstream, tls, router, limits, stop.clone());
    let (vendor, vendor_at) = listener().await;
    let tls = server(&identity(folder.path(), "127.0.0.1"), None).unwrap();
    serve(
        vendor,
        tls,
        Router::new().route("/results", post(deliver)).with_state(seen.clone()),
        Limits::default(),
        stop.clone(),
    );

    let listen = free_port();
    let text = example(folder.path(), listen, upstream_at, vendor_at);
    let client = Client::new(client(&folder.path().join("ca.pem"), None).unwrap(), None).unwrap();
    (Bench { folder, seen, stop, url: format!("https://{listen}"), client, process: None }, text)
}

impl Bench {
    async fn listens(&self) {
        let at = self.url.strip_prefix("https://").unwrap();
        self.until(|| std::net::TcpStream::connect(at).is_ok()).await;
    }

    /// Ends the process, if there is one.
    pub(crate) fn end_process(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) async fn until(&self, condition: impl Fn() -> bool) {
        for _ in 0..6000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("did not happen within 60 s");
    }

    pub(crate) async fn order(&self, key: Option<&str>, body: &str) -> (StatusCode, Value) {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
        }
        let answer = self
            .client
            .send(Method::POST, &format!("{}/v1/orders", self.url), headers, body.into(), LIMIT)
            .await
            .unwrap();
        (answer.status(), serde_json::from_slice(answer.body()).unwrap())
    }

    pub(crate) async fn page(&self, url: &str, json: bool) -> (StatusCode, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        if json {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        let answer = self.client.send(Method::GET, url, headers, Vec::new(), LIMIT).await.unwrap();
        (answer.status(), answer.headers().clone(), String::from_utf8(answer.body().to_vec()).unwrap())
    }
}

pub(crate) fn body(id: &str) -> String {
    json!({"reference": {"transaction_id": id}, "amount": {"minor": 1250, "currency": "EUR"},
           "client_ip": "198.51.100.70", "description": "A <b>book</b>"})
    .to_string()
}
