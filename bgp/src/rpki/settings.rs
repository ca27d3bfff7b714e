//! The table `rpki`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bgp_rpki::Timing;
use cloakway_runtime::config::Invalid;
use serde::Deserialize;

/// The port of the protocol over plain TCP (RFC 8210 §14).
const PORT: u16 = 323;

/// Whose word counts on the origin of received routes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The caches.
    pub caches: Vec<Cache>,
    /// The most payloads that one of them may send.
    pub max_payloads: usize,
    /// Until a cache says otherwise; caches of RFC 6810 never do.
    pub timing: Timing,
}

/// A cache of validated ROA payloads.
#[derive(Debug, Clone)]
pub struct Cache {
    /// For logs, metrics and `show`.
    pub name: String,
    /// Where it is: a name is looked up anew for each connection.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The lowest is the first choice.
    pub preference: u8,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawRpki {
    caches: Vec<RawCache>,
    #[serde(default = "two_million")]
    max_payloads: usize,
    #[serde(default = "refresh")]
    refresh_s: u32,
    #[serde(default = "retry")]
    retry_s: u32,
    #[serde(default = "expire")]
    expire_s: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawCache {
    name: String,
    host: String,
    #[serde(default = "port")]
    port: u16,
    #[serde(default)]
    preference: u8,
}

const fn port() -> u16 {
    PORT
}

const fn two_million() -> usize {
    2_000_000
}

const fn refresh() -> u32 {
    3600
}

const fn retry() -> u32 {
    600
}

const fn expire() -> u32 {
    7200
}

/// Holds the table to what can be.
pub(crate) fn settings(raw: RawRpki) -> Result<Settings, Invalid> {
    if raw.caches.is_empty() {
        return Err(Invalid::at("rpki.caches", "there is none: give at least one, or leave [rpki] out"));
    }
    let mut names = BTreeSet::new();
    let mut caches = Vec::new();
    for (index, raw) in raw.caches.into_iter().enumerate() {
        let at = |field: &str| format!("rpki.caches[{index}].{field}");
        if raw.name.is_empty() || raw.name.len() > 64 || !names.insert(raw.name.clone()) {
            let reason = format!("{:?} is empty, taken or longer than 64 octets: each cache has its own", raw.name);
            return Err(Invalid::at(at("name"), reason));
        }
        let is_name = |host: &str| {
            !host.is_empty() && host.len() <= 253 && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
        };
        if raw.host.parse::<IpAddr>().is_err() && !is_name(&raw.host) {
            let reason = format!("{:?} is neither an address nor a name: the port is a key of its own", raw.host);
            return Err(Invalid::at(at("host"), reason));
        }
        if raw.port == 0 {
            return Err(Invalid::at(at("port"), "0 is no port: 323 is the usual one"));
        }
        caches.push(Cache { name: raw.name, host: raw.host, port: raw.port, preference: raw.preference });
    }
    if raw.max_payloads == 0 {
        return Err(Invalid::at("rpki.max-payloads", "0 is not allowed: nothing could be held"));
    }
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let timing = Timing { refresh: seconds(raw.refresh_s), retry: seconds(raw.retry_s), expire: seconds(raw.expire_s) };
    let bounded = timing.bounded();
    for (field, given, allowed) in [
        ("refresh-s", timing.refresh, bounded.refresh),
        ("retry-s", timing.retry, bounded.retry),
        ("expire-s", timing.expire, bounded.expire),
    ] {
        if given != allowed {
            let reason =
                format!("{} s is not allowed: {} s would be (RFC 8210 §6)", given.as_secs(), allowed.as_secs());
            return Err(Invalid::at(format!("rpki.{field}"), reason));
        }
    }
    Ok(Settings { caches, max_payloads: raw.max_payloads, timing })
}
