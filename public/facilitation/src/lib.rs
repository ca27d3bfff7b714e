//! The public helper between vendors, payers and the transaction server: an order comes in, the URL
//! of a payer page goes out, signed results pass through (A6, A7, A10, A11, A14, A15).
//!
//! It faces the Internet, so it holds as little as it can: pages, sealed under keys that only their
//! URLs contain, and no ledger, no card data, no say over results. Killed at any moment it loses
//! nothing: orders are repeated by vendors and answered alike, results stay with the transaction
//! server until a vendor has acknowledged them.

mod after;
mod api;
mod audit;
pub mod config;
mod delivery;
pub mod dump;
pub mod isp;
pub mod live;
pub mod operator;
mod page;
mod pages;
mod registry;
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
  facilitation-server show deliveries --json
  facilitation-server vendor register shop --name 'Example Shop' --results-url https://192.0.2.18/results --json";
    const EXIT_3: Option<&'static str> = Some("there is no such vendor or key (vendor)");
    const TOPICS: &'static [Topic] = &[
        Topic { name: "status", about: "Pages, the RIB in use, the transaction server" },
        Topic { name: "isps", about: "Member ISPs and how they are recognised" },
        Topic { name: "vendors", about: "Member vendors and their keys" },
        Topic { name: "audit", about: "Who changed what about vendors: the latest 500 lines" },
        Topic { name: "deliveries", about: "Results that a vendor has not acknowledged yet" },
    ];
    type Config = config::Config;

    fn admin_socket(config: &Self::Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Self::Config) -> Vec<String> {
        config.summary()
    }

    fn commands() -> Vec<clap::Command> {
        operator::commands()
    }

    fn command(_: &str, matches: &clap::ArgMatches) -> std::process::ExitCode {
        operator::command(matches)
    }

    async fn run(config: Self::Config, context: Context) -> Outcome {
        let config = Arc::new(config);
        std::fs::create_dir_all(&config.data)?;
        let store = Store::open(&config.data.join("pages.redb"))?;
        let pages = Arc::new(pages::Pages::load(store, config.page_key.clone(), clock::wall())?);
        let registered = Store::open(&config.data.join("vendors.redb"))?;
        let registry = Arc::new(registry::Registry::load(registered, config.vendors.clone())?);
        let upstream = Arc::new(upstream::Upstream::new(&config)?);
        let directory = Arc::new(RwLock::new(isp::Directory::new(config.isps.clone())));
        let rib = isp::RibWatch::start(&config, directory.clone(), context.stop.clone()).await;
        let deliveries =
            delivery::start(&config, registry.clone(), upstream.clone(), pages.clone(), context.stop.clone())?;
        let live = config.live.as_ref().map(place).transpose()?.map(|place| Arc::new(live::Live::at(place)));
        let reverse =
            config.reverse.as_ref().map(|reverse| reverse::Reverse::new(reverse, &config.isps)).transpose()?;
        let finder = isp::Finder { directory, live: live.clone(), reverse: reverse.map(Arc::new) };
        let state = api::State {
            config: config.clone(),
            registry: registry.clone(),
            pages: pages.clone(),
            upstream: upstream.clone(),
            finder,
        };
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
        if let Some(admin) = config.admin.clone() {
            operator::serve(admin, registry.clone(), context.stop.clone()).await?;
        }
        pages::sweep(pages.clone(), context.stop.clone());
        let shown = Arc::new(Shown { config: config.clone(), registry, pages, upstream, rib, live, deliveries });
        admin::serve(&config.admin_socket, context.stop.clone(), move |request| {
            let shown = shown.clone();
            async move { shown.answer(&request).await }
        })?;
        tracing::info!(listen = ?config.listen, "ready");
        context.stop.told().await;
        Ok(())
    }
}

/// What the admin socket answers from.
struct Shown {
    config: Arc<config::Config>,
    registry: Arc<registry::Registry>,
    pages: Arc<pages::Pages>,
    upstream: Arc<upstream::Upstream>,
    rib: Arc<isp::RibWatch>,
    live: Option<Arc<live::Live>>,
    deliveries: delivery::Deliveries,
}

impl Shown {
    async fn answer(&self, request: &admin::Request) -> Result<serde_json::Value, String> {
        if let Some(answer) = operator::answer(&self.registry, request).await {
            return answer;
        }
        match request.topic.as_str() {
            "isps" => Ok(serde_json::json!(self.config.isps)),
            "vendors" => Ok(self.vendors()),
            "audit" => self.registry.audited(500).map(|lines| serde_json::json!(lines)).map_err(|e| e.to_string()),
            "deliveries" => Ok(self.deliveries.show()),
            "status" => Ok(self.status().await),
            other => Err(format!("no topic {other}")),
        }
    }

    fn vendors(&self) -> serde_json::Value {
        let configured = self.registry.configured().iter().map(|vendor| {
            serde_json::json!({"id": vendor.id, "name": vendor.name, "results_url": vendor.results_url,
                               "from": "configuration", "suspended": false, "keys": []})
        });
        let now = clock::wall();
        let registered = self.registry.registered().into_iter().map(|vendor| {
            let keys = vendor.keys.iter().filter(|key| key.is_good(now));
            let keys = keys.map(|key| serde_json::json!({"id": key.id, "made_at": key.made_at, "until": key.until}));
            serde_json::json!({"id": vendor.id, "name": vendor.name, "results_url": vendor.results_url,
                               "from": "registration", "suspended": vendor.suspended, "keys": keys.collect::<Vec<_>>()})
        });
        configured.chain(registered).collect()
    }

    async fn status(&self) -> serde_json::Value {
        let live = self.live.as_ref();
        serde_json::json!({
            "pages": self.pages.count(),
            "page_key": self.pages.signing_key().verifying_key().to_base64(),
            "rib_prefixes": self.rib.prefixes(),
            "rib_error": self.rib.error(),
            "live": live.is_some(),
            "live_error": live.and_then(|live| live.problem()),
            "live_stale_s": live.and_then(|live| live.stale_for()).map(|stale| stale.as_secs()),
            "reverse_dns": self.config.reverse.is_some(),
            "transaction_server": self.upstream.state(),
            "audit_problem": self.registry.audit_problem().await,
        })
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
