//! The public helper between vendors, payers and the transaction server: an order comes in, the URL
//! of a payer page goes out, signed results pass through (A6, A7, A10, A11, A14, A15).
//!
//! It faces the Internet, so it holds as little as it can: pages, sealed under keys that only their
//! URLs contain, and no ledger, no card data, no say over results. Killed at any moment it loses
//! nothing: orders are repeated by vendors and answered alike, results stay with the transaction
//! server until a vendor has acknowledged them.

mod after;
mod api;
pub mod config;
mod delivery;
pub mod dump;
pub mod isp;
pub mod live;
mod page;
mod pages;
pub mod reverse;
mod upstream;

use std::path::Path;
use std::sync::{Arc, RwLock};

use cloakway_runtime::http::{self, Limits};
use cloakway_runtime::{Context, Outcome, Role, Topic, admin, clock, metrics, tls};
use cloakway_store::Store;

/// The role.
#[derive(Debug)]
pub struct Facilitation;

impl Role for Facilitation {
    const NAME: &'static str = "facilitation-server";
    const ABOUT: &'static str = "Turns a vendor's order into a one-transaction payer page";
    const EXAMPLES: &'static str = "  facilitation-server check /etc/cloakway/facilitation-server.toml
  facilitation-server run --config /etc/cloakway/facilitation-server.toml
  facilitation-server show deliveries --json";
    const TOPICS: &'static [Topic] = &[
        Topic { name: "status", about: "Pages, the RIB in use, the transaction server" },
        Topic { name: "isps", about: "Member ISPs and how they are recognised" },
        Topic { name: "vendors", about: "Member vendors" },
        Topic { name: "deliveries", about: "Results that a vendor has not acknowledged yet" },
    ];
    type Config = config::Config;

    fn admin_socket(config: &Self::Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Self::Config) -> Vec<String> {
        config.summary()
    }

    async fn run(config: Self::Config, context: Context) -> Outcome {
        let config = Arc::new(config);
        std::fs::create_dir_all(&config.data)?;
        let store = Store::open(&config.data.join("pages.redb"))?;
        let pages = Arc::new(pages::Pages::load(store, config.page_key.clone(), clock::wall())?);
        let upstream = Arc::new(upstream::Upstream::new(&config)?);
        let directory = Arc::new(RwLock::new(isp::Directory::new(config.isps.clone())));
        let rib = Arc::new(isp::RibWatch::start(&config, directory.clone(), context.stop.clone()).await);
        let deliveries = delivery::start(&config, upstream.clone(), pages.clone(), context.stop.clone())?;
        let live = config.live.as_ref().map(place).transpose()?.map(|place| Arc::new(live::Live::at(place)));
        let reverse =
            config.reverse.as_ref().map(|reverse| reverse::Reverse::new(reverse, &config.isps)).transpose()?;
        let finder = isp::Finder { directory, live: live.clone(), reverse: reverse.map(Arc::new) };
        let state = api::State { config: config.clone(), pages: pages.clone(), upstream: upstream.clone(), finder };
        let identity = tls::server(&config.identity, None)?;
        for address in &config.listen {
            let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
            http::serve(
                listener,
                identity.clone(),
                api::router(state.clone()),
                Limits::default(),
                context.stop.clone(),
            );
        }
        if let Some(listen) = config.metrics_listen {
            metrics::serve(listen, context.stop.clone()).await?;
        }
        pages::sweep(pages.clone(), context.stop.clone());
        let shown = config.clone();
        admin::serve(&config.admin_socket, context.stop.clone(), move |request| {
            let answer = match request.topic.as_str() {
                "isps" => Ok(serde_json::json!(shown.isps)),
                "vendors" => Ok(serde_json::json!(
                    shown
                        .vendors
                        .iter()
                        .map(|v| serde_json::json!({"id": v.id, "name": v.name, "results_url": v.results_url}))
                        .collect::<Vec<_>>()
                )),
                "deliveries" => Ok(deliveries.show()),
                "status" => Ok(serde_json::json!({
                    "pages": pages.count(),
                    "page_key": pages.signing_key().verifying_key().to_base64(),
                    "rib_prefixes": rib.prefixes(),
                    "rib_error": rib.error(),
                    "live": live.is_some(),
                    "live_error": live.as_ref().and_then(|live| live.problem()),
                    "live_stale_s": live.as_ref().and_then(|live| live.stale_for()).map(|stale| stale.as_secs()),
                    "reverse_dns": shown.reverse.is_some(),
                    "transaction_server": upstream.state(),
                })),
                other => Err(format!("no topic {other}")),
            };
            async { answer }
        })?;
        tracing::info!(listen = ?config.listen, "ready");
        context.stop.told().await;
        Ok(())
    }
}

/// Where the speaker is asked, with the certificates that it takes.
fn place(config: &config::LiveConfig) -> Result<live::Place, tls::TlsError> {
    Ok(match config {
        config::LiveConfig::Unix(path) => live::Place::Unix(path.clone()),
        config::LiveConfig::Tcp { address, tls: None } => live::Place::Tcp(*address, None),
        config::LiveConfig::Tcp { address, tls: Some((name, ca, identity)) } => {
            let client = tls::client(ca, Some(identity))?;
            live::Place::Tcp(*address, Some((name.clone(), Arc::new(client))))
        }
    })
}
