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
pub mod config;
mod ecash;
mod engine;
#[cfg(test)]
mod exactly_once;
mod form;
mod gate;
mod harden;
mod institutions;
mod link;
mod management;
#[cfg(test)]
mod never;
mod outbox;
mod private;
mod private_api;
mod result_secrets;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Extension;
use cloakway_runtime::http::{self, Limits, Server};
use cloakway_runtime::{Context, Outcome, Role, Stop, Topic, admin, metrics, tls};
use cloakway_store::Store;
use tokio::sync::mpsc;
use transact_cloak::{Cloak, Peer};
use transact_core::admission::Admission;

/// All memory is wiped when it is given back. What is ours wipes itself; what TLS, HTTP and JSON read into does not, and
/// card data has been there.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

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
    ];
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

    async fn run(config: Self::Config, context: Context) -> Outcome {
        let stop = context.stop;
        harden::no_core_dumps()?;
        std::fs::create_dir_all(&config.data)?;
        let store = Store::open(&config.data.join("orders.redb"))?;
        let outbox = Arc::new(outbox::Outbox::new(config.result_key).with_secrets(config.result_secrets));
        let (mut ask, mut requests) = (engine::Institutions::new(), Vec::new());
        for institution in config.institutions {
            let (sender, receiver) = mpsc::unbounded_channel();
            ask.insert(institution.id.clone(), sender);
            requests.push((institution, receiver));
        }
        let engine = engine::start(config.policy, store, outbox.clone(), ask, stop.clone())?;
        let bank_state = bank::BankState::default();
        for (institution, receiver) in requests {
            tokio::spawn(bank::run(institution, receiver, engine.clone(), bank_state.clone(), stop.clone()));
        }

        let ecash = config.ecash.map(|settings| ecash::start(settings, &config.data, bank_state.clone(), &stop));
        let ecash = ecash.transpose()?;

        let management = config.management;
        let listener = tokio::net::TcpListener::bind(management.listen)
            .await
            .map_err(|error| format!("{}: {error}", management.listen))?;
        let limits = Limits { client_names: management.client_names, ..Limits::default() };
        let identity = tls::server(&management.identity, Some(&management.client_ca))?;
        http::serve(listener, identity, management::router(engine.clone(), outbox.clone()), limits, stop.clone());

        let side = config.private;
        let link = link::Link::open(&side.interface, &stop)?;
        let mut cloak = side.cloak;
        cloak.hardware_address = link.hardware_address;
        let private = private::Private::new(Cloak::new(cloak, Box::new(cloakway_crypto::System))?);
        let payers = Payers {
            gates: gate::Gates::new(Admission::new(side.bounds)),
            tls: tls::server(&side.identity, None)?,
            router: ecash.iter().fold(private_api::router(engine.clone(), side.page_origins), |router, ecash| {
                router.merge(ecash::router(ecash.clone()))
            }),
            stop: stop.clone(),
        };
        let driver =
            private.clone().drive(link, side.checksum, stop.clone(), move |socket, peer| payers.serve(socket, &peer));
        tokio::spawn(driver);

        if let Some(listen) = config.metrics_listen {
            metrics::serve(listen, stop.clone()).await?;
        }
        admin::serve(&config.admin_socket, stop.clone(), move |request| {
            let (engine, outbox) = (engine.clone(), outbox.clone());
            let (cloak, bank) = (private.counters(), bank_state.show());
            let ecash = ecash.clone();
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
                    })),
                    "orders" => engine.show(true).await,
                    "cloak" => Ok(cloak),
                    "bank" => Ok(bank),
                    other => Err(format!("no topic {other}")),
                }
            }
        })?;
        tracing::info!("ready");
        stop.told().await;
        Ok(())
    }
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
    tls: Arc<tls::ServerConfig>,
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
