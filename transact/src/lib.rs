//! The cloaked transaction server: takes card data at the private network address, asks the bank,
//! and has the result ready for the vendor (A4 to A14).
//!
//! ```text
//!  private link ── link ── private (cloak) ── gate ── TLS ── private_api ──┐
//!                                                                          v
//!  facilitation ── mutual TLS ── management ────────────────────────── engine ── store
//!                       ^                                               |  ^
//!                       └────────────── outbox <────────────────────────┘  └── bank ── ISO 8583
//! ```
//!
//! Electronic cash, where it is on, has an engine, a store and a bank link of its own, at the same private addresses
//! (`ecash`, G1 to G4).
//!
//! Thin: every decision is made in `transact-core`, `transact-cloak`, `transact-bank` and `transact-ecash`.

mod bank;
mod certificates;
pub mod config;
mod ecash;
mod engine;
#[cfg(test)]
mod exactly_once;
mod form;
mod gate;
pub mod harden;
mod institutions;
mod link;
mod management;
#[cfg(test)]
mod never;
mod outbox;
mod private;
mod private_api;
mod result_secrets;
mod storage;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use cloakway_runtime::http::{self, Limits, Server};
use cloakway_runtime::role::Work;
use cloakway_runtime::{Context, Outcome, Role, Stop, Topic, admin, metrics, reload, tls};
use tokio::sync::mpsc;
use transact_cloak::{Cloak, Peer};
use transact_core::admission::Admission;

/// All memory is wiped when it is given back. What is ours wipes itself; what TLS, HTTP and JSON read into does not, and
/// card data has been there.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// How long the banks may take to answer that we go.
const SIGN_OFF: Duration = Duration::from_secs(2);

/// The role.
#[derive(Debug)]
pub struct TransactionServer;

impl Role for TransactionServer {
    const NAME: &'static str = "transaction-server";
    const ABOUT: &'static str = "The cloaked server that takes card data and asks the bank";
    const EXAMPLES: &'static str = "  transaction-server check /etc/cloakway/transaction-server.toml
  transaction-server run --config /etc/cloakway/transaction-server.toml
  transaction-server show orders --json";
    const TOPICS: &'static [Topic] = &[
        Topic { name: "status", about: "Orders by state, results waiting, bank links" },
        Topic { name: "orders", about: "Every order: state, trace number, last four digits" },
        Topic { name: "cloak", about: "Connections, and what was dropped, by reason" },
        Topic { name: "bank", about: "The links to the financial institutions" },
        Topic { name: "ecash", about: "Electronic cash: clients, sessions, money" },
        Topic { name: "ecash-sessions", about: "Electronic cash: sessions, the youngest 1000" },
        Topic { name: "ecash-holds", about: "Electronic cash: money on hold" },
        Topic { name: "ecash-keys", about: "Electronic cash: the public keys that serve now" },
        Topic { name: "certificates", about: "What each side shows, and until when it is valid" },
    ];
    const RELOADS: bool = true;
    const RELOAD_ABOUT: &'static str =
        "Have the running role read its certificates and keys again; one that is no good changes nothing";
    type Config = config::Config;

    fn admin_socket(config: &Self::Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Self::Config) -> Vec<String> {
        config.summary()
    }

    fn commands() -> Vec<clap::Command> {
        ecash::commands()
    }

    fn command(_: &str, matches: &clap::ArgMatches) -> std::process::ExitCode {
        ecash::command(matches)
    }

    fn begin(config: Self::Config) -> Result<Work, Box<dyn std::error::Error + Send + Sync>> {
        let opened = Opened::open(&config)?;
        Ok(Box::new(|context| Box::pin(opened.serve(config, context))))
    }

    async fn run(config: Self::Config, context: Context) -> Outcome {
        Self::begin(config)?(context).await
    }
}

/// What took privileges to open, and what is left of them.
struct Opened {
    link: link::Opened,
    management: TcpListener,
    metrics: Option<TcpListener>,
    certificates: certificates::Certificates,
    denied: harden::Denied,
}

impl Opened {
    /// Opens everything, and gives up what is not needed any more.
    fn open(config: &config::Config) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        harden::no_core_dumps()?;
        let link = link::Opened::open(&config.private.interface)?;
        let management = listen(config.management.listen)?;
        let metrics = config.metrics_listen.map(listen).transpose()?;
        harden::make_folder(&config.data, &config.process)?;
        let mut write = vec![config.data.clone()];
        write.extend(std::path::absolute(&config.admin_socket)?.parent().map(Path::to_owned));
        let ports = config.institutions.iter().flat_map(|institution| &institution.addresses).map(SocketAddr::port);
        let ports = ports.chain(config.ecash.iter().flat_map(|ecash| &ecash.bank.addresses).map(SocketAddr::port));
        let (mut connect, mut names): (Vec<u16>, Vec<&Path>) = (ports.collect(), Vec::new());
        let servers = [config.postgresql.as_ref(), config.ecash.as_ref().and_then(|ecash| ecash.postgresql.as_ref())];
        for server in servers.into_iter().flatten() {
            connect.extend(server.ports());
            names.extend(storage::NAMES.iter().map(Path::new));
        }
        let read = certificates::files(config);
        let needs = harden::Needs { write, read, files: names.into_iter().map(Path::to_owned).collect(), connect };
        let denied = harden::confine(&config.process, &needs)?;
        // Read by whom the process is from now on: what can be read at the start can be read again.
        let certificates = certificates::Certificates::read(config)?;
        Ok(Self { link, management, metrics, certificates, denied })
    }

    async fn serve(self, config: config::Config, context: Context) -> Outcome {
        let stop = context.stop;
        let store = storage::open(&config.data, config.postgresql.as_ref()).await?;
        let outbox = Arc::new(outbox::Outbox::new(config.result_key).with_secrets(config.result_secrets));
        let (mut ask, mut requests) = (engine::Institutions::new(), Vec::new());
        for institution in config.institutions {
            let (sender, receiver) = mpsc::unbounded_channel();
            ask.insert(institution.id.clone(), sender);
            requests.push((institution, receiver));
        }
        let engine = engine::start(config.policy, store, outbox.clone(), ask, stop.clone())?;
        let bank_state = bank::BankState::default();
        let mut banks = Vec::new();
        for (institution, receiver) in requests {
            let link = bank::run(institution, receiver, engine.clone(), bank_state.clone(), stop.clone());
            banks.push(tokio::spawn(link));
        }

        let ecash = config.ecash.map(|settings| ecash::start(settings, &config.data, bank_state.clone(), &stop));
        let ecash = ecash.transpose()?;

        let certificates = Arc::new(self.certificates);
        let limits = Limits { client_names: config.management.client_names, ..Limits::default() };
        let listener = tokio::net::TcpListener::from_std(self.management)?;
        let router = management::router(engine.clone(), outbox.clone());
        http::serve(listener, certificates.management(), router, limits, stop.clone());

        let side = config.private;
        let link = self.link.start(&stop)?;
        let mut cloak = side.cloak;
        cloak.hardware_address = link.hardware_address;
        let private = private::Private::new(Cloak::new(cloak, Box::new(cloakway_crypto::System))?);
        let payers = Payers {
            gates: gate::Gates::new(Admission::new(side.bounds)),
            tls: certificates.private(),
            router: ecash.iter().fold(private_api::router(engine.clone(), side.page_origins), |router, ecash| {
                router.merge(ecash::router(ecash.clone()))
            }),
            stop: stop.clone(),
        };
        let driver =
            private.clone().drive(link, side.checksum, stop.clone(), move |socket, peer| payers.serve(socket, &peer));
        tokio::spawn(driver);

        if let Some(listener) = self.metrics {
            metrics::serve_on(tokio::net::TcpListener::from_std(listener)?, stop.clone());
        }
        reload::on_hangup(stop.clone(), {
            let certificates = certificates.clone();
            move || {
                let certificates = certificates.clone();
                async move { certificates.reload() }
            }
        })?;
        let (denied, failure) = (self.denied.show(), engine.clone());
        admin::serve(&config.admin_socket, stop.clone(), move |request| {
            let (engine, outbox) = (engine.clone(), outbox.clone());
            let (cloak, bank) = (private.counters(), bank_state.show());
            let ecash = ecash.clone();
            let (certificates, denied) = (certificates.clone(), denied.clone());
            async move {
                if let Some(answer) = ecash::answer(ecash, &request).await {
                    return answer;
                }
                match request.topic.as_str() {
                    "status" => Ok(serde_json::json!({
                        "orders": engine.show(false).await?,
                        "results_waiting": outbox.len(),
                        "banks_up": bank_state_up(&bank),
                        "connections": cloak.get("connections"),
                        "process": denied,
                    })),
                    "orders" => engine.show(true).await,
                    "cloak" => Ok(cloak),
                    "bank" => Ok(bank),
                    "certificates" => Ok(certificates.show()),
                    reload::TOPIC => certificates.reload(),
                    other => Err(format!("no topic {other}")),
                }
            }
        })?;
        tracing::info!("ready");
        stop.told().await;
        // Who does not answer the sign-off is not waited for.
        let signed_off = async {
            for bank in banks {
                let _ = bank.await;
            }
        };
        let _ = tokio::time::timeout(SIGN_OFF, signed_off).await;
        match failure.failed() {
            None => Ok(()),
            Some(error) => Err(error.clone().into()),
        }
    }
}

/// A listener for the event loop that is still to be.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let failed = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{address}: {error}"));
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// How many institutions can be asked now, and of how many.
fn bank_state_up(banks: &serde_json::Value) -> String {
    let rows = banks.as_array().map(Vec::as_slice).unwrap_or_default();
    let up = rows.iter().filter(|row| row.get("up") == Some(&serde_json::Value::Bool(true))).count();
    format!("{up} of {}", rows.len())
}

/// What every payer's connection needs.
struct Payers {
    gates: gate::Gates,
    tls: tls::Current,
    router: axum::Router,
    stop: Stop,
}

impl Payers {
    fn serve(&self, socket: private::Socket, peer: &Peer) {
        let gate = self.gates.open(peer.isp.clone());
        let address = private::address(peer);
        let router = self.router.clone().layer(Extension(gate.clone()));
        let server = Server::new(self.tls.clone(), router, private_api::limits());
        let stream = socket.behind(gate.clone());
        let silencer = stream.silencer();
        let stop = self.stop.clone();
        ::metrics::counter!("cloakway_payers_total").increment(1);
        tokio::spawn(async move {
            tokio::select! {
                () = server.connection(stream, address, &stop) => {}
                () = gate.expired() => {
                    silencer.store(true, Ordering::Relaxed);
                    ::metrics::counter!("cloakway_payers_dropped_total", "bound" => "session timer").increment(1);
                }
            }
        });
    }
}
