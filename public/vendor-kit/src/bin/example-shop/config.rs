//! The shop's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use cloakway_crypto::Secret;
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use serde::Deserialize;
use vendor_kit::{Currency, Money, VendorId};

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) identity: Identity,
    pub(crate) data: PathBuf,
    pub(crate) admin_socket: PathBuf,
    pub(crate) vendor: VendorId,
    pub(crate) vendor_key: Secret<String>,
    pub(crate) facilitation_url: String,
    pub(crate) facilitation_ca: PathBuf,
    pub(crate) result_key: String,
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
    data: PathBuf,
    admin_socket: Option<PathBuf>,
    vendor: String,
    vendor_key_file: PathBuf,
    facilitation_url: String,
    facilitation_ca: PathBuf,
    result_key_file: PathBuf,
    items: Vec<RawItem>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawItem {
    id: String,
    title: String,
    price_minor: u64,
    currency: String,
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let result_key = config::read_secret(&raw.result_key_file).map_err(|e| Invalid::at("result-key-file", e))?;
        let items = raw.items.into_iter().enumerate().map(|(at, item)| {
            let currency: Currency =
                item.currency.parse().map_err(|e| Invalid::at(format!("items[{at}].currency"), e))?;
            let price = Money::new(item.price_minor, currency)
                .map_err(|e| Invalid::at(format!("items[{at}].price-minor"), e))?;
            Ok(Item { id: item.id, title: item.title, price })
        });
        Ok(Self {
            listen: raw.listen,
            identity: Identity { certificate: raw.certificate, key: raw.key },
            data: raw.data,
            admin_socket: raw.admin_socket.unwrap_or_else(|| config::default_socket("example-shop")),
            vendor: raw.vendor.parse().map_err(|e| Invalid::at("vendor", e))?,
            vendor_key: config::read_secret(&raw.vendor_key_file).map_err(|e| Invalid::at("vendor-key-file", e))?,
            facilitation_url: raw.facilitation_url,
            facilitation_ca: raw.facilitation_ca,
            result_key: result_key.expose().clone(),
            items: items.collect::<Result<_, Invalid>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use cloakway_crypto::encode::base64;

    use super::*;

    #[test]
    fn the_example_is_valid_and_stray_keys_are_refused_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vendor-shop.key"), "key").unwrap();
        std::fs::write(folder.path().join("result-key.pub"), base64(&[1; 32])).unwrap();
        let text = include_str!("../../../../../configs/example-shop.toml")
            .replace("/etc/cloakway/", &format!("{}/", folder.path().display()));
        assert_eq!(config::parse::<Config>("s.toml", &text).unwrap().items.len(), 2);
        let stray = text.replacen("[[items]]\n", "[[items]]\nstray = 1\n", 1);
        let error = config::parse::<Config>("s.toml", &stray).unwrap_err().to_string();
        assert!(error.contains("unknown field `stray`") && error.starts_with("s.toml:"), "{error}");
        let wrong = text.replace("currency = \"JPY\"", "currency = \"YEN\"");
        let error = config::parse::<Config>("s.toml", &wrong).unwrap_err().to_string();
        assert!(error.contains("items[1].currency: \"YEN\" is not an ISO 4217 currency"), "{error}");
    }
}
