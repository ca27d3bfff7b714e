//! `cents-shop`: sells items for cents, paid by electronic cash over the private network. To start from and to test with.
//!
//! Its wallet is made, registered and emptied by `payer wallet`; the shop opens sessions in it and collects.

mod config;
mod web;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cloakway_runtime::http::{self, Limits};
use cloakway_runtime::{Context, Outcome, Role, Topic, admin, tls};
use ecash_wallet::Wallet;
use vendor_kit::ecash::{Shown, Till};

struct CentsShop;

impl Role for CentsShop {
    const NAME: &'static str = "cents-shop";
    const ABOUT: &'static str = "A small shop that sells for cents, paid by electronic cash";
    const EXAMPLES: &'static str = "  cents-shop run --config cents-shop.toml
  payer wallet pay --offer-url https://192.0.2.18/offers/page --yes --passphrase-file p.txt
  cents-shop show cash --json";
    const TOPICS: &'static [Topic] = &[
        Topic { name: "status", about: "What was collected, and what waits" },
        Topic { name: "orders", about: "Orders and whether they are paid" },
        Topic { name: "cash", about: "The cash log: every payment that came in" },
        Topic { name: "sessions", about: "The sessions that payments are collected in" },
    ];
    type Config = config::Config;

    fn admin_socket(config: &Self::Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Self::Config) -> Vec<String> {
        vec![format!("{} items, payments come to {}", config.items.len(), config.till.pay_to)]
    }

    async fn run(config: Self::Config, context: Context) -> Outcome {
        let stop = context.stop;
        let wallet = Wallet::open(&config.wallet, &config.passphrase)?;
        if wallet.client().identity().persona.is_none() {
            return Err("the shop's wallet has no persona: `payer wallet register` gets one".into());
        }
        let identity = tls::server(&config.identity, None)?;
        let till = Till::open(wallet, config.till, stop.clone());
        let router = web::router(web::Shop { items: Arc::new(config.items), till: till.clone() });
        // A payer waits for the receipt as long as the till lets it.
        let limits = Limits { request: std::time::Duration::from_secs(120), ..Limits::default() };
        for address in config.listen {
            let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
            http::serve(listener, identity.clone(), router.clone(), limits.clone(), stop.clone());
        }
        admin::serve(&config.admin_socket, stop.clone(), move |request| {
            let till = till.clone();
            async move {
                let shown = match request.topic.as_str() {
                    "status" => Shown::Status,
                    "orders" => Shown::Orders,
                    "cash" => Shown::Cash,
                    "sessions" => Shown::Sessions,
                    other => return Err(format!("no topic {other}")),
                };
                till.show(shown).await.map_err(|error| error.to_string())
            }
        })?;
        tracing::info!("ready");
        stop.told().await;
        Ok(())
    }
}

fn main() -> ExitCode {
    cloakway_runtime::role::main::<CentsShop>()
}
