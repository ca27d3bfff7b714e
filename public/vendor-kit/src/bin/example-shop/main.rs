//! `example-shop`: a small shop built on the vendor kit, to start from and to test with.
//!
//! It stores every order before it posts it and every result before it acknowledges it, so that
//! `kill -9` at any moment neither loses a paid order nor delivers one twice.

mod config;
mod orders;
mod web;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cloakway_runtime::http::{self, Limits};
use cloakway_runtime::{Context, Outcome, Role, Topic, admin, tls};
use cloakway_store::Store;
use vendor_kit::{Facilitation, Receiver};

struct Shop;

impl Role for Shop {
    const NAME: &'static str = "example-shop";
    const ABOUT: &'static str = "A small shop that is paid through Cloakway";
    const EXAMPLES: &'static str = "  example-shop run --config shop.toml
  curl -k https://192.0.2.18/buy -H 'accept: application/json' -d item=book
  example-shop show orders --json";
    const TOPICS: &'static [Topic] = &[Topic { name: "orders", about: "Orders and whether they are paid" }];
    type Config = config::Config;

    fn admin_socket(config: &Self::Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Self::Config) -> Vec<String> {
        vec![format!("{} items, vendor {}", config.items.len(), config.vendor)]
    }

    async fn run(config: Self::Config, context: Context) -> Outcome {
        std::fs::create_dir_all(&config.data)?;
        let orders = Arc::new(orders::Orders::load(Store::open(&config.data.join("orders.redb"))?)?);
        let facilitation =
            Facilitation::new(&config.facilitation_url, &config.facilitation_ca, config.vendor_key.clone())?;
        let receiver = match &config.trust {
            config::Trust::Key(key) => Receiver::new(config.vendor.clone(), key)?,
            config::Trust::Shared(secret) => Receiver::with_secret(config.vendor.clone(), secret)?,
        };
        let identity = tls::server(&config.identity, None)?;
        let (listen, socket) = (config.listen.clone(), config.admin_socket.clone());
        let router =
            web::router(web::Shop { config: Arc::new(config), orders: orders.clone(), facilitation, receiver });
        for address in listen {
            let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
            http::serve(listener, identity.clone(), router.clone(), Limits::default(), context.stop.clone());
        }
        admin::serve(&socket, context.stop.clone(), move |_| {
            let list = serde_json::json!(orders.list());
            async { Ok(list) }
        })?;
        context.stop.told().await;
        Ok(())
    }
}

fn main() -> ExitCode {
    cloakway_runtime::role::main::<Shop>()
}
