//! The server in a process of its own: orders, store, bank link and both HTTP sides; without the cloak and TLS, which
//! carry what is said here and decide nothing of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::{Extension, Router};
use cloakway_crypto::Secret;
use cloakway_crypto::encode::base64;
use cloakway_crypto::sign::SigningKey;
use cloakway_runtime::Stop;
use tokio::sync::mpsc;
use transact_bank::{Acceptor, LinkConfig, PinKey};
use transact_core::admission::{Admission, Bounds};
use transact_core::{Institutions, Policy};

use crate::harden::{Hardening, Needs};
use crate::institutions::Institution;
use crate::{bank, engine, gate, management, outbox, private_api};

/// Says to the process that it is the server, and where folder and bank are.
pub(crate) const CHILD: &str = "EXACTLY_ONCE_CHILD";

pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    /// Kept open: the harness of the process ends when what it says of a test that takes a minute finds no reader.
    _said: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) async fn start(folder: &Path, bank: SocketAddr) -> Self {
        let folder = folder.to_owned();
        let start = move || {
            let mut process = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("exactly_once::every_purchase_is_charged_once_or_taken_back_whatever_is_killed_dropped_repeated_or_cut")
                .env(CHILD, format!("{bank} {}", folder.display()))
                .env("RUST_LOG", "trace")
                .stdout(Stdio::piped())
                .stderr(std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap())
                .spawn()
                .unwrap();
            let mut said = BufReader::new(process.stdout.take().unwrap());
            let address =
                said.by_ref().lines().map_while(Result::ok).find_map(|line| {
                    line.split_once("listening ").and_then(|(_, address)| address.trim().parse().ok())
                });
            Self { address: address.expect("the server says where it listens"), process, _said: said }
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill9(&mut self) {
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

/// The process itself, confined as the server is; it ends by being killed.
pub(crate) fn run(child: &str) {
    let (bank, folder) = child.split_once(' ').unwrap();
    let (bank, folder): (SocketAddr, _) = (bank.parse().unwrap(), Path::new(folder));
    cloakway_runtime::log::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let settings = Hardening { user: None, group: None, landlock: true, seccomp: true };
    let needs = Needs { write: vec![folder.to_owned()], connect: vec![bank.port()], ..Needs::default() };
    crate::harden::confine(&settings, &needs).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(bank, folder, listener));
}

fn policy() -> Policy {
    Policy {
        secret: Secret::new(vec![7; 32]),
        lifetime: Duration::from_secs(100_000),
        password_attempts: 3,
        open_orders: 1_000_000,
        retention: Duration::from_secs(100_000),
        addresses: BTreeMap::from([("isp".parse().unwrap(), vec!["203.0.113.200".parse().unwrap()])]),
        port: 443,
        institutions: Institutions { pins: ["bank".to_owned()].into(), ..Institutions::one("bank") },
    }
}

async fn serve(bank: SocketAddr, folder: &Path, listener: std::net::TcpListener) {
    let stop = Stop::new();
    let store = crate::storage::open(folder, None).await.unwrap();
    let key = SigningKey::from_base64(&Secret::new(base64(&[1; 32]))).unwrap();
    let outbox = Arc::new(outbox::Outbox::new(key));
    let (ask, requests) = mpsc::unbounded_channel();
    let ask = BTreeMap::from([("bank".to_owned(), ask)]);
    let engine = engine::start(policy(), store, outbox.clone(), ask, stop.clone()).unwrap();
    let acceptor = Acceptor::new("CLOAK001", "CLOAKWAY", "12345", "5815").unwrap();
    let link = LinkConfig {
        answer_timeout: Duration::from_millis(500),
        reversal_retry: Duration::from_millis(100),
        reversal_retry_max: Duration::from_millis(500),
        lines: 2,
        pin_key: PinKey::new(Secret::new(vec![9; 16])).ok(),
        ..LinkConfig::new(acceptor)
    };
    let institution = Institution { id: "bank".to_owned(), addresses: vec![bank, bank], link };
    tokio::spawn(bank::run(institution, requests, engine.clone(), bank::BankState::default(), stop));
    let bounds = Bounds {
        session: Duration::from_secs(600),
        connection_bytes: 1 << 20,
        isp_bytes: u64::MAX,
        isp_window: Duration::from_secs(60),
    };
    let gate = gate::Gates::new(Admission::new(bounds)).open("isp".parse().unwrap());
    let payers = private_api::router(engine.clone(), vec![HeaderValue::from_static("https://192.0.2.34")]);
    let router = Router::new().nest("/m", management::router(engine, outbox)).nest("/p", payers.layer(Extension(gate)));
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    println!("listening {}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    axum::serve(listener, router).await.unwrap();
}
