//! The configuration file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use ipnet::IpNet;
use serde::Deserialize;
use toolbox_core::Settings;

use crate::callers::{self, Caller};
use crate::follow;
use crate::history;
use crate::radius::settings;
use crate::sources;

/// A usable configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the bindings and the audit log are kept.
    pub data: PathBuf,
    /// Where `show` asks.
    pub admin_socket: PathBuf,
    /// Where Prometheus reads.
    pub metrics_listen: Option<SocketAddr>,
    /// What the binding table is told.
    pub settings: Settings,
    /// What is heard by RADIUS.
    pub radius: settings::Settings,
    /// How long it is kept who was where, and in which store.
    pub history: history::settings::Settings,
    /// Leases, translations, neighbours and files.
    pub sources: sources::settings::Settings,
    /// Where callers ask.
    pub https_listen: Vec<SocketAddr>,
    /// The certificate that callers see.
    pub identity: Identity,
    /// Who may ask.
    pub callers: Vec<Caller>,
    /// How streams of changes are served.
    pub changes: follow::settings::Settings,
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    data: PathBuf,
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    subscribers: RawSubscribers,
    #[serde(default)]
    bindings: RawBindings,
    #[serde(default)]
    history: history::settings::Raw,
    radius: settings::Raw,
    #[serde(default)]
    sources: sources::settings::Raw,
    https: RawHttps,
    callers: Vec<callers::Raw>,
    #[serde(default)]
    changes: follow::settings::Raw,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSubscribers {
    prefixes: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawBindings {
    max_age_s: u64,
    max_delay_s: u64,
}

impl Default for RawBindings {
    fn default() -> Self {
        Self { max_age_s: 1800, max_delay_s: 20 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHttps {
    listen: Vec<SocketAddr>,
    certificate: PathBuf,
    key: PathBuf,
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let Raw { data, admin_socket, metrics_listen, subscribers, bindings, history, radius, sources, .. } = raw;
        let Raw { https, callers, changes, .. } = raw;
        some(&subscribers.prefixes, "subscribers.prefixes", "the prefixes that subscribers' addresses are in")?;
        some(&https.listen, "https.listen", "an address such as \"198.51.100.2:8444\"")?;
        let sources = sources.validate()?;
        Ok(Self {
            data,
            admin_socket: admin_socket.unwrap_or_else(|| config::default_socket("toolbox")),
            metrics_listen,
            settings: Settings {
                prefixes: subscribers.prefixes.into_iter().map(|prefix| (prefix, ())).collect(),
                max_age: seconds("bindings.max-age-s", bindings.max_age_s, 60, 86_400)?,
                max_delay: seconds("bindings.max-delay-s", bindings.max_delay_s, 1, 300)?,
                translators: sources::translators(&sources),
            },
            history: history.validate()?,
            radius: radius.validate()?,
            sources,
            https_listen: https.listen,
            identity: Identity { certificate: https.certificate, key: https.key },
            callers: callers::validate(callers)?,
            changes: changes.validate()?,
        })
    }
}

pub(crate) fn some<T>(list: &[T], field: &str, wanted: &str) -> Result<(), Invalid> {
    if list.is_empty() { Err(Invalid::at(field, format!("the list is empty: give {wanted}"))) } else { Ok(()) }
}

pub(crate) fn seconds(field: &str, value: u64, low: u64, high: u64) -> Result<Duration, Invalid> {
    if (low..=high).contains(&value) {
        return Ok(Duration::from_secs(value));
    }
    Err(Invalid::at(field, format!("{value} s is not allowed: {low} to {high}")))
}

/// A name for logs and metrics, not used before.
pub(crate) fn name(field: &str, name: &str, taken: &mut BTreeSet<String>) -> Result<(), Invalid> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(Invalid::at(field, format!("{name:?} is not a name: 1 to 64 of letters, digits and -_.")));
    }
    if !taken.insert(name.to_owned()) {
        return Err(Invalid::at(field, format!("{name:?} is there already: each needs a name of its own")));
    }
    Ok(())
}
