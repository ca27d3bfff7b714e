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
    pub(crate) trust: Trust,
    pub(crate) items: Vec<Item>,
}

/// By what results are believed.
#[derive(Debug)]
pub(crate) enum Trust {
    /// The transaction server's public key.
    Key(String),
    /// A secret that is shared with it.
    Shared(Secret<String>),
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
    result_key_file: Option<PathBuf>,
    result_secret_file: Option<PathBuf>,
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
        let file = |field: &'static str, path| config::read_secret(path).map_err(|e| Invalid::at(field, e));
        let trust = match (&raw.result_key_file, &raw.result_secret_file) {
            (Some(path), None) => Trust::Key(file("result-key-file", path)?.expose().clone()),
            (None, Some(path)) => Trust::Shared(file("result-secret-file", path)?),
            _ => {
                return Err(Invalid::at(
                    "result-key-file",
                    "give it or result-secret-file: results are believed by one",
                ));
            }
        };
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
            trust,
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
        std::fs::write(folder.path().join("whsec"), "whsec_").unwrap();
        let line = text.lines().find(|line| line.starts_with("result-key-file")).unwrap();
        let secret = format!("result-secret-file = \"{}\"", folder.path().join("whsec").display());
        let shared = config::parse::<Config>("s.toml", &text.replace(line, &secret)).unwrap();
        assert!(matches!(shared.trust, Trust::Shared(_)) && !format!("{shared:?}").contains("whsec_"));
        for both_or_none in [format!("{line}\n{secret}"), String::new()] {
            let error = config::parse::<Config>("s.toml", &text.replace(line, &both_or_none)).unwrap_err().to_string();
            assert!(error.contains("result-key-file: give it or result-secret-file"), "{error}");
        }
        let wrong = text.replace("currency = \"JPY\"", "currency = \"YEN\"");
        let error = config::parse::<Config>("s.toml", &wrong).unwrap_err().to_string();
        assert!(error.contains("items[1].currency: \"YEN\" is not an ISO 4217 currency"), "{error}");
    }
}
