//! The configuration of the example shop for cents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use ecash_wallet::wire::value::{Money, Value};
use serde::Deserialize;
use vendor_kit::ecash::TillSettings;

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) identity: Identity,
    pub(crate) admin_socket: PathBuf,
    pub(crate) wallet: PathBuf,
    pub(crate) passphrase: Secret<String>,
    pub(crate) till: TillSettings,
    pub(crate) items: Vec<Item>,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) price: Money,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    listen: Vec<SocketAddr>,
    certificate: PathBuf,
    key: PathBuf,
    admin_socket: Option<PathBuf>,
    url: String,
    wallet: PathBuf,
    passphrase_file: PathBuf,
    #[serde(default)]
    till: RawTill,
    items: Vec<RawItem>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawTill {
    gather_ms: u64,
    patience_s: u64,
    session_minutes: u16,
    session_uses: u16,
}

impl Default for RawTill {
    fn default() -> Self {
        Self { gather_ms: 50, patience_s: 30, session_minutes: 1440, session_uses: 10_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawItem {
    id: String,
    title: String,
    price: String,
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        if raw.listen.is_empty() {
            return Err(Invalid::at("listen", "no address: give at least one"));
        }
        if !raw.url.starts_with("https://") {
            return Err(Invalid::at("url", format!("{:?}: give one that begins with https://", raw.url)));
        }
        if raw.till.session_minutes == 0 || raw.till.session_uses == 0 {
            return Err(Invalid::at("till", "a session of no time or no use collects nothing: give at least 1"));
        }
        if raw.items.is_empty() {
            return Err(Invalid::at("items", "nothing to sell: give at least one"));
        }
        let items = raw.items.into_iter().enumerate().map(|(at, item)| {
            let field = |name: &str| format!("items[{at}].{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if item.id.is_empty() || item.id.len() > 32 || !item.id.chars().all(plain) {
                return Err(Invalid::at(field("id"), "give 1 to 32 letters, digits, hyphens and underscores"));
            }
            let price = Money::read(&item.price).ok().filter(|price| price.minor() > 0);
            let price = price.ok_or_else(|| {
                Invalid::at(field("price"), format!("{:?} is no price: give one as \"eur 0.03\"", item.price))
            })?;
            Ok(Item { id: item.id, title: item.title, price })
        });
        let passphrase = config::read_secret(&raw.passphrase_file).map_err(|e| Invalid::at("passphrase-file", e))?;
        Ok(Self {
            listen: raw.listen,
            identity: Identity { certificate: raw.certificate, key: raw.key },
            admin_socket: raw.admin_socket.unwrap_or_else(|| config::default_socket("cents-shop")),
            wallet: raw.wallet,
            passphrase: Secret::new(passphrase.expose().trim_end_matches(['\r', '\n']).to_owned()),
            till: TillSettings {
                pay_to: format!("{}/pay", raw.url.trim_end_matches('/')),
                gather: Duration::from_millis(raw.till.gather_ms),
                session_minutes: raw.till.session_minutes,
                session_uses: raw.till.session_uses,
                patience: Duration::from_secs(raw.till.patience_s),
            },
            items: items.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_valid_and_what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cents-shop.passphrase"), "open sesame\n").unwrap();
        let text = include_str!("../../../../../configs/cents-shop.toml")
            .replace("/etc/cloakway/", &format!("{}/", folder.path().display()));
        let config = config::parse::<Config>("s.toml", &text).unwrap();
        assert_eq!((config.items.len(), config.passphrase.expose().as_str()), (2, "open sesame"));
        assert_eq!(config.till.pay_to, "https://192.0.2.18/pay");
        for (from, to, says) in [
            ("\"eur 0.02\"", "\"eur 0.025\"", "items[0].price: \"eur 0.025\" is no price: give one as \"eur 0.03\""),
            ("url = \"https", "url = \"http", "url: \"http://192.0.2.18\": give one that begins with https://"),
            ("[[items]]\n", "[[items]]\nstray = 1\n", "unknown field `stray`"),
        ] {
            let error = config::parse::<Config>("s.toml", &text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
