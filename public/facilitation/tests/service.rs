//! The running server, with a transaction server simulator behind it and a vendor beside it, on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

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
use cloakway_crypto::sign::SigningKey;
use cloakway_runtime::http::{Client, Limits, Refusal, serve};
use cloakway_runtime::tls::{Identity, client, server};
use cloakway_runtime::{Context, Role, Stop, clock, config};
use cloakway_types::Timestamp;
use facilitation::Facilitation;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use transact_wire::order::{Issued, Placement};
use transact_wire::result::{
    Acknowledgement, ID_HEADER, Pending, PurchaseResult, SIGNATURE_HEADER, SignedResult, Verdict,
};

const KEY: &str = "vendor-key-of-the-shop";
const LIMIT: Duration = Duration::from_secs(30);

/// What the simulator and the vendor saw, and how they behave.
#[derive(Default)]
struct Seen {
    placements: Vec<Placement>,
    deliveries: Vec<(String, String)>,
    acknowledged: Vec<String>,
    refuse_deliveries: usize,
    pending: Vec<SignedResult>,
}

type Shared = Arc<Mutex<Seen>>;

struct Bench {
    folder: tempfile::TempDir,
    seen: Shared,
    stop: Stop,
    url: String,
    client: Client,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.tell();
    }
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn pki(folder: &Path) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["127.0.0.1", "transaction.example", "facilitation.example"] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn identity(folder: &Path, name: &str) -> Identity {
    Identity { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
}

/// Issues whatever is asked, but two ids that are refused.
async fn place(State(seen): State<Shared>, body: Bytes) -> Result<Json<Issued>, Refusal> {
    let placement: Placement = serde_json::from_slice(&body).unwrap();
    let id = serde_json::to_value(&placement.order.reference).unwrap();
    let id = id.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
    seen.lock().unwrap().placements.push(placement);
    match id.as_str() {
        "taken" => return Err(Refusal::new(StatusCode::CONFLICT, "conflict", "used")),
        "v6" => return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "no_address", "no IPv6")),
        _ => {}
    }
    Ok(Json(Issued {
        transaction_id: id.parse().unwrap(),
        password: "one-time-password".into(),
        address: "203.0.113.200".parse().unwrap(),
        port: 443,
        expires_at: clock::wall() + Duration::from_secs(600),
    }))
}

#[derive(serde::Deserialize)]
struct Pull {
    after: u64,
    wait_ms: u64,
}

async fn results(State(seen): State<Shared>, Query(pull): Query<Pull>) -> Json<Pending> {
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

async fn acknowledge(State(seen): State<Shared>, body: Bytes) -> StatusCode {
    let ack: Acknowledgement = serde_json::from_slice(&body).unwrap();
    let mut seen = seen.lock().unwrap();
    seen.pending.retain(|result| !ack.ids.contains(&result.id));
    seen.acknowledged.extend(ack.ids);
    StatusCode::NO_CONTENT
}

async fn deliver(State(seen): State<Shared>, headers: HeaderMap, body: String) -> StatusCode {
    let mut seen = seen.lock().unwrap();
    assert!(headers[SIGNATURE_HEADER].to_str().unwrap().starts_with("v1a,"));
    seen.deliveries.push((headers[ID_HEADER].to_str().unwrap().to_owned(), body));
    if seen.refuse_deliveries > 0 {
        seen.refuse_deliveries -= 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    StatusCode::NO_CONTENT
}

fn example(folder: &Path, listen: SocketAddr, upstream: SocketAddr, vendor: SocketAddr) -> String {
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
        ("[\"2001:db8:5100::/48\"]", "[\"198.51.100.0/24\"]".to_owned()),
        ("/etc/cloakway/vendor-shop.sha256", at("vendor-shop.sha256")),
        ("https://192.0.2.18/cloakway/results", format!("https://{vendor}/results")),
    ]
    .into_iter()
    .fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, &to)
    })
}

async fn listener() -> (tokio::net::TcpListener, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn start() -> Bench {
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
    let config = config::parse::<facilitation::config::Config>("test.toml", &text).unwrap();
    let context = Context::from(stop.clone());
    tokio::spawn(async move { Facilitation::run(config, context).await.unwrap() });
    let client = Client::new(client(&folder.path().join("ca.pem"), None).unwrap(), None).unwrap();
    let bench = Bench { folder, seen, stop, url: format!("https://{listen}"), client };
    bench.until(|| std::net::TcpStream::connect(listen).is_ok()).await;
    bench
}

impl Bench {
    async fn until(&self, condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("did not happen within 5 s");
    }

    async fn order(&self, key: Option<&str>, body: &str) -> (StatusCode, Value) {
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

    async fn page(&self, url: &str, json: bool) -> (StatusCode, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        if json {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        let answer = self.client.send(Method::GET, url, headers, Vec::new(), LIMIT).await.unwrap();
        (answer.status(), answer.headers().clone(), String::from_utf8(answer.body().to_vec()).unwrap())
    }
}

fn body(id: &str) -> String {
    json!({"reference": {"transaction_id": id}, "amount": {"minor": 1250, "currency": "EUR"},
           "client_ip": "198.51.100.70", "description": "A <b>book</b>"})
    .to_string()
}

#[tokio::test]
async fn an_order_becomes_a_page_for_people_and_programs_and_a_repeat_gets_the_same_one() {
    let bench = start().await;
    let (status, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    assert_eq!(status, StatusCode::OK, "{accepted}");
    let url = accepted["pay_url"].as_str().unwrap().to_owned();
    assert_eq!(bench.order(Some(KEY), &body("o-1")).await.1["pay_url"], url.as_str());
    assert_eq!(bench.seen.lock().unwrap().placements[0].isp.as_str(), "isp-a");

    let (status, headers, html) = bench.page(&url, false).await;
    assert_eq!(status, StatusCode::OK);
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src https://203.0.113.200;"), "{policy}");
    assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    assert!(html.contains("12.50 EUR") && html.contains("Example Shop"));
    assert!(!html.contains("<b>book"), "what a vendor writes is text, not markup");
    for (open, close) in [("<script>", "</script>"), ("<style>", "</style>")] {
        let inline = html.split(open).nth(1).unwrap().split(close).next().unwrap();
        let hash = base64(&sha256(&[inline.as_bytes()]));
        assert!(policy.contains(&hash), "the policy allows exactly the page's own {open}");
    }

    let (_, _, text) = bench.page(&url, true).await;
    let page: transact_wire::payment::Page = serde_json::from_str(&text).unwrap();
    assert_eq!(page.private_origin, "https://203.0.113.200");
    assert_eq!(page.password.expose(), "one-time-password");
}

#[tokio::test]
async fn wrong_orders_are_refused_with_the_place_and_reach_nobody() {
    let bench = start().await;
    let good = body("o-1");
    for (key, body, status, code, field) in [
        (None, good.clone(), StatusCode::UNAUTHORIZED, "unknown_vendor", None),
        (Some("guess"), good.clone(), StatusCode::UNAUTHORIZED, "unknown_vendor", None),
        (Some(KEY), "{".to_owned(), StatusCode::BAD_REQUEST, "invalid_json", None),
        (Some(KEY), good.replace("minor", "cents"), StatusCode::BAD_REQUEST, "invalid_json", None),
        (Some(KEY), good.replace("A <b>book</b>", ""), StatusCode::BAD_REQUEST, "invalid_field", Some("description")),
        (
            Some(KEY),
            good.replace("198.51.100.70", "203.0.113.10"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "not_member_isp",
            Some("client_ip"),
        ),
    ] {
        let (got, answer) = bench.order(key, &body).await;
        assert_eq!(
            (got, answer["error"]["code"].as_str(), answer["error"]["field"].as_str()),
            (status, Some(code), field),
            "{answer}"
        );
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    }
    assert!(bench.seen.lock().unwrap().placements.is_empty());
    let (status, answer) = bench.order(Some(KEY), &body("taken")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (StatusCode::CONFLICT, Some("conflict")));
    let (status, answer) = bench.order(Some(KEY), &body("v6")).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("no_private_address"))
    );
    let large = "x".repeat(70_000);
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
    let answer = bench
        .client
        .send(Method::POST, &format!("{}/v1/orders", bench.url), headers, large.into(), LIMIT)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn guessed_and_used_pages_look_the_same_and_a_result_is_repeated_until_it_is_taken() {
    let bench = start().await;
    let (_, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    let url = accepted["pay_url"].as_str().unwrap().to_owned();
    let guessed = bench.page(&format!("{}/p/{}", bench.url, "A".repeat(43)), false).await;
    assert_eq!(guessed.0, StatusCode::NOT_FOUND);
    assert!(guessed.2.contains("cannot be used"));

    let result = PurchaseResult {
        vendor: "shop".parse().unwrap(),
        transaction_id: "o-1".parse().unwrap(),
        temporary_id: None,
        amount: cloakway_types::Money::new(1250, "EUR".parse().unwrap()).unwrap(),
        verdict: Verdict::Approved,
        decided_at: Timestamp::from_secs(1),
        refund: None,
    };
    let key = SigningKey::from_base64(&cloakway_crypto::Secret::new(base64(&[9; 32]))).unwrap();
    let signed = SignedResult::sign("res_1", &result, &key, clock::wall()).unwrap();
    {
        let mut seen = bench.seen.lock().unwrap();
        seen.refuse_deliveries = 1;
        seen.pending.push(signed.clone());
    }
    bench.until(|| !bench.seen.lock().unwrap().acknowledged.is_empty()).await;
    {
        let seen = bench.seen.lock().unwrap();
        assert_eq!(seen.deliveries, [("res_1".to_owned(), signed.body.clone()), ("res_1".to_owned(), signed.body)]);
        assert_eq!(seen.acknowledged, ["res_1"]);
    }
    let used = bench.page(&url, false).await;
    assert_eq!((used.0, used.2), (guessed.0, guessed.2));
    let (status, _, text) = bench.page(&url, true).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("page_unavailable"));
}

#[tokio::test]
async fn nobody_s_password_or_page_is_in_the_data_folder() {
    let bench = start().await;
    let (_, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    let token = accepted["pay_url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let bytes = std::fs::read(bench.folder.path().join("data/pages.redb")).unwrap();
    for needle in ["one-time-password", &token, "198.51.100.70"] {
        assert!(!bytes.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle}");
    }
}

#[test]
fn the_example_is_valid_and_a_stray_key_in_any_table_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let text = example(folder.path(), at, at, at);
    assert!(config::parse::<facilitation::config::Config>("f.toml", &text).is_ok());
    for table in ["[transaction-server]", "[rib]", "[[isps]]", "[[vendors]]"] {
        let stray = text.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
        let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
        let error = config::parse::<facilitation::config::Config>("f.toml", &stray).unwrap_err().to_string();
        assert!(error.starts_with(&format!("f.toml:{line}: ")) && error.contains("unknown field `stray`"), "{error}");
    }
    for (from, to, says) in [
        (
            "asns = [64500]",
            "asns = [64500]\n[[isps]]\nid = \"b\"\nasns = [64500]",
            "isps[1].asns: AS 64500 belongs to two ISPs",
        ),
        ("name = \"Example Shop\"", "name = \" \"", "vendors[0].name: empty"),
        ("id = \"isp-a\"", "id = \"isp a\"", "isps[0].id: ISP id has ' '"),
        (
            "asns = [64500]",
            "host-suffixes = [\"isp-a.example\"]",
            "isps[0].host-suffixes: nobody is asked for names: give [reverse-dns]",
        ),
        ("[rib]\n", "[reverse-dns]\nresolvers = []\n[rib]\n", "reverse-dns.resolvers: there is none"),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\nlimit-ms = 0\n[rib]\n",
            "reverse-dns.limit-ms: 0 is not allowed",
        ),
        ("[rib]\n", "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\ncache = 0\n[rib]\n", "reverse-dns.cache: 0 is not"),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\n[[isps]]\nid = \"b\"\nhost-suffixes = [\"net\"]\n[rib]\n",
            "isps[0].host-suffixes[0]: \"net\" is a whole top-level domain",
        ),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\n[[isps]]\nid = \"b\"\n\
             host-suffixes = [\"b.example\", \"dsl.B.example\"]\n[rib]\n",
            "isps[0].host-suffixes[1]: dsl.B.example and b.example. overlap",
        ),
        (
            "[rib]\n",
            "[rib]\nlive-tcp = { address = \"192.0.2.9:4179\" }\n",
            "rib.live-tcp.address: 192.0.2.9:4179 is another host: give name, ca, certificate and key",
        ),
        (
            "[rib]\n",
            "[rib]\nlive-tcp = { address = \"127.0.0.1:4179\", name = \"a\" }\n",
            "rib.live-tcp: TLS takes name, ca, certificate and key",
        ),
        (
            "[rib]\n",
            "[rib]\nlive = \"/s\"\nlive-tcp = { address = \"127.0.0.1:4179\" }\n",
            "rib.live-tcp: the speaker is asked by rib.live already",
        ),
    ] {
        let error =
            config::parse::<facilitation::config::Config>("f.toml", &text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
