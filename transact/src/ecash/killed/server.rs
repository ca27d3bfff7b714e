//! The server in a process of its own: engine, store and bank link, without the cloak and TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::extract::{Path as Segment, State};
use axum::routing::get;
use axum::{Extension, Json, Router};
use cloakway_crypto::Secret;
use cloakway_crypto::passphrase::Cost;
use cloakway_runtime::{Stop, admin};
use cloakway_store::Postgresql;
use transact_bank::{Acceptor, LinkConfig, Movement};
use transact_core::admission::{Admission, Bounds};
use transact_ecash::ledger::Limit;
use transact_ecash::wire::suite::Suite;
use transact_ecash::wire::value::{Functions, Money, Value};
use transact_ecash::{LoadHold, Policy};

use crate::bank::BankState;
use crate::ecash::issuer::Terms;
use crate::ecash::settings::EcashConfig;
use crate::ecash::{self, Engine};
use crate::gate;
use crate::institutions::Institution;

/// Says to the process that it is the server, and where folder and bank are.
pub(in crate::ecash) const CHILD: &str = "ECASH_KILLED_CHILD";
/// Where PostgreSQL is, if the records are to be there.
const POSTGRESQL: &str = "ECASH_KILLED_POSTGRESQL";

/// Which test this is, and where its records are.
#[derive(Clone)]
pub(in crate::ecash) struct Scene {
    pub(in crate::ecash) test: &'static str,
    pub(in crate::ecash) folder: PathBuf,
    pub(in crate::ecash) postgresql: Option<String>,
}

pub(in crate::ecash) struct Server {
    process: Child,
    pub(in crate::ecash) address: SocketAddr,
}

impl Server {
    pub(in crate::ecash) async fn start(scene: &Scene, bank: SocketAddr) -> Self {
        let Scene { test, folder, postgresql } = scene.clone();
        let start = move || {
            let mut process = Command::new(std::env::current_exe().unwrap())
                .envs(postgresql.map(|connection| (POSTGRESQL, connection)))
                .args(["--exact", "--nocapture", test])
                .env(CHILD, format!("{bank} {}", folder.display()))
                .env("RUST_LOG", "trace")
                .stdout(Stdio::piped())
                .stderr(std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap())
                .spawn()
                .unwrap();
            let lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let address = lines
                .map_while(Result::ok)
                .find_map(|line| line.split_once("listening ").and_then(|(_, address)| address.trim().parse().ok()));
            Self { address: address.expect("the server says where it listens"), process }
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// SIGKILL.
    pub(in crate::ecash) fn kill9(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process itself; it ends by being killed.
pub(in crate::ecash) fn run(child: &str) {
    let (bank, folder) = child.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(bank.parse().unwrap(), Path::new(folder)));
}

pub(in crate::ecash) fn config(bank: SocketAddr) -> EcashConfig {
    let acceptor = Acceptor::new("CASH0001", "CLOAKWAY", "12345", "6540").unwrap();
    let link = LinkConfig {
        answer_timeout: Duration::from_millis(500),
        reversal_retry: Duration::from_millis(100),
        reversal_retry_max: Duration::from_millis(500),
        lines: 2,
        ..LinkConfig::new(acceptor)
    };
    let policy = Policy {
        load_hold: LoadHold::None,
        passphrase_cost: Cost { memory_kib: 32, passes: 1 },
        ..Policy::new(Secret::new(vec![7; 32]))
    };
    EcashConfig {
        policy,
        suites: vec![Suite::Modern1],
        keys: (Duration::from_hours(720), Duration::from_hours(24)),
        unload_settles: Some(Duration::ZERO),
        terms: Terms {
            functions: Functions { charge: false, credit: false, load: true, unload: true },
            native: None,
            load_limit: Limit::NONE,
            unload_limit: Limit::NONE,
            trial: Some(Money::read("eur 0.01").unwrap()),
            ask_pin: false,
            movement: Movement::Authorisation,
        },
        bank: Institution { id: "ecash".to_owned(), addresses: vec![bank, bank], link },
        // Of the test that has a server of its own.
        postgresql: std::env::var(POSTGRESQL).ok().map(|connection| Postgresql {
            connection,
            password: None,
            schema: "ecash".to_owned(),
            tls: None,
        }),
        warnings: Vec::new(),
    }
}

async fn shown(State(engine): State<Engine>, Segment(topic): Segment<String>) -> Json<serde_json::Value> {
    let request = admin::Request { topic, arguments: std::collections::BTreeMap::new() };
    let answer = ecash::answer(Some(engine), &request).await.unwrap();
    Json(answer.unwrap_or_else(|error| serde_json::json!({"error": error})))
}

/// What serves HTTP.
pub(in crate::ecash) fn router(engine: Engine) -> Router {
    let bounds = Bounds {
        session: Duration::from_secs(600),
        connection_bytes: 1 << 21,
        isp_bytes: u64::MAX,
        isp_window: Duration::from_secs(60),
    };
    let gate = gate::Gates::new(Admission::new(bounds)).open("isp".parse().unwrap());
    ecash::router(engine.clone())
        .layer(Extension(gate))
        .merge(Router::new().route("/show/{topic}", get(shown)).with_state(engine))
}

async fn serve(bank: SocketAddr, folder: &Path) {
    cloakway_runtime::log::start();
    crate::harden::no_core_dumps().unwrap();
    let stop = Stop::new();
    let engine = ecash::start(config(bank), folder, BankState::default(), &stop).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening {}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    axum::serve(listener, router(engine)).await.unwrap();
}
