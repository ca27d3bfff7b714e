//! The configuration file of the facilitation server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cloakway_crypto::{Secret, encode};
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::{self, Identity};
use cloakway_types::{IspId, VendorId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::operator::{AdminConfig, RawAdmin};
use crate::{pages, reverse};

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// Where vendors and payers connect.
    pub listen: Vec<SocketAddr>,
    /// What page URLs start with, such as `https://pay.example`.
    pub public_url: String,
    /// The public certificate.
    pub identity: Identity,
    /// The folder for pages.
    pub data: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where Prometheus asks.
    pub metrics_listen: Option<SocketAddr>,
    /// From it page URLs are derived; 32 bytes.
    pub page_key: Secret<Vec<u8>>,
    /// The transaction server.
    pub upstream: UpstreamConfig,
    /// Names of private network addresses, which pages use in their place.
    pub private_names: BTreeMap<IpAddr, String>,
    /// The newest MRT RIB dump.
    pub rib: Option<PathBuf>,
    /// Where the BGP speaker says whose an address is.
    pub live: Option<LiveConfig>,
    /// Who is asked for the names of addresses that nothing else knows.
    pub reverse: Option<ReverseConfig>,
    /// Member ISPs.
    pub isps: Vec<Isp>,
    /// Member vendors of the file; others are registered while the server runs.
    pub vendors: Vec<Vendor>,
    /// Pages for operators.
    pub admin: Option<AdminConfig>,
    /// The authority of vendors' certificates.
    pub vendors_ca: PathBuf,
}

/// How the BGP speaker is asked.
#[derive(Debug, Clone)]
pub enum LiveConfig {
    /// By a socket of this host.
    Unix(PathBuf),
    /// By TCP.
    Tcp {
        /// Where it listens.
        address: SocketAddr,
        /// The name in its certificate, its authority, and what we show it; there may be none on this host.
        tls: Option<(String, PathBuf, Identity)>,
    },
}

/// How names of addresses are asked for.
#[derive(Debug, Clone)]
pub struct ReverseConfig {
    /// Resolvers that do the work, and that the way to can be trusted.
    pub resolvers: Vec<SocketAddr>,
    /// How long an order waits.
    pub limit: Duration,
    /// Answers that are kept.
    pub cache: u32,
}

/// How the transaction server is reached.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Such as `https://192.0.2.66:8443`.
    pub url: String,
    /// The name in its certificate.
    pub name: String,
    /// The authority of its certificate.
    pub ca: PathBuf,
    /// What we show it.
    pub identity: Identity,
}

/// A member ISP and how its clients are recognised (A7).
#[derive(Debug, Clone, Serialize)]
pub struct Isp {
    /// Its id, the same at the transaction server.
    pub id: IspId,
    /// The AS numbers that originate its prefixes.
    pub asns: Vec<u32>,
    /// Prefixes that are its own whatever the RIB says.
    pub prefixes: Vec<IpNet>,
    /// What the names of its clients' addresses end in.
    pub host_suffixes: Vec<String>,
}

/// A member vendor (A6).
#[derive(Debug, Clone)]
pub struct Vendor {
    /// Its id.
    pub id: VendorId,
    /// Its name, as payers read it.
    pub name: String,
    /// SHA-256 of its key.
    pub key_sha256: Vec<u8>,
    /// Where its results are posted.
    pub results_url: String,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    listen: Vec<SocketAddr>,
    public_url: String,
    certificate: PathBuf,
    key: PathBuf,
    data: PathBuf,
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    page_key_file: PathBuf,
    vendors_ca: PathBuf,
    transaction_server: RawUpstream,
    #[serde(default)]
    private_names: BTreeMap<IpAddr, String>,
    rib: Option<RawRib>,
    reverse_dns: Option<RawReverse>,
    isps: Vec<RawIsp>,
    #[serde(default)]
    vendors: Vec<RawVendor>,
    admin: Option<RawAdmin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawUpstream {
    url: String,
    name: String,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRib {
    mrt: Option<PathBuf>,
    live: Option<PathBuf>,
    live_tcp: Option<RawLive>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawLive {
    address: SocketAddr,
    name: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RawLive {
    fn place(self) -> Result<LiveConfig, Invalid> {
        let address = self.address;
        let tls = match (self.name, self.ca, self.certificate, self.key) {
            (Some(name), Some(ca), Some(certificate), Some(key)) => {
                if !tls::is_name(&name) {
                    return Err(Invalid::at("rib.live-tcp.name", format!("{name:?} can't be in a certificate")));
                }
                Some((name, ca, Identity { certificate, key }))
            }
            (None, None, None, None) if address.ip().is_loopback() => None,
            (None, None, None, None) => {
                let reason = format!("{address} is another host: give name, ca, certificate and key beside it");
                return Err(Invalid::at("rib.live-tcp.address", reason));
            }
            _ => return Err(Invalid::at("rib.live-tcp", "TLS takes name, ca, certificate and key: one is missing")),
        };
        Ok(LiveConfig::Tcp { address, tls })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawReverse {
    resolvers: Vec<SocketAddr>,
    #[serde(default = "half_a_second")]
    limit_ms: u32,
    #[serde(default = "thousands")]
    cache: u32,
}

const fn half_a_second() -> u32 {
    500
}

const fn thousands() -> u32 {
    10_000
}

impl RawReverse {
    fn reverse(self) -> Result<ReverseConfig, Invalid> {
        if self.resolvers.is_empty() {
            return Err(Invalid::at(
                "reverse-dns.resolvers",
                "there is none: give an address and port, or leave the table out",
            ));
        }
        if !(1..=5000).contains(&self.limit_ms) {
            let reason = format!("{} is not allowed: 1 to 5000, as an order waits for it", self.limit_ms);
            return Err(Invalid::at("reverse-dns.limit-ms", reason));
        }
        if self.cache == 0 {
            return Err(Invalid::at("reverse-dns.cache", "0 is not allowed: at least 1"));
        }
        let limit = Duration::from_millis(u64::from(self.limit_ms));
        Ok(ReverseConfig { resolvers: self.resolvers, limit, cache: self.cache })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawIsp {
    id: String,
    #[serde(default)]
    asns: Vec<u32>,
    #[serde(default)]
    prefixes: Vec<IpNet>,
    #[serde(default)]
    host_suffixes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawVendor {
    id: String,
    name: String,
    key_sha256_file: PathBuf,
    results_url: String,
}

pub(crate) fn https(field: &str, url: &str) -> Result<String, Invalid> {
    match url.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && !url.contains([' ', '#', '?']) => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err(Invalid::at(field, format!("{url:?} is not allowed: give an https:// URL without query"))),
    }
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        if raw.listen.is_empty() {
            return Err(Invalid::at("listen", "nothing to listen on: give at least one address and port"));
        }
        let page_key = config::read_secret(&raw.page_key_file).map_err(|e| Invalid::at("page-key-file", e))?;
        let page_key = encode::unbase64(page_key.expose())
            .filter(|key| key.len() == 32)
            .ok_or_else(|| Invalid::at("page-key-file", "the file has to hold 32 random bytes in base64"))?;
        let (mut ids, mut asns) = (BTreeSet::new(), BTreeSet::new());
        let (mut isps, mut suffixes) = (Vec::new(), Vec::new());
        for (at, isp) in raw.isps.into_iter().enumerate() {
            let id: IspId = isp.id.parse().map_err(|e| Invalid::at(format!("isps[{at}].id"), e))?;
            if !ids.insert(id.clone()) {
                return Err(Invalid::at(format!("isps[{at}].id"), format!("{id} is there twice: ids are unique")));
            }
            if let Some(asn) = isp.asns.iter().find(|asn| !asns.insert(**asn)) {
                return Err(Invalid::at(
                    format!("isps[{at}].asns"),
                    format!("AS {asn} belongs to two ISPs: it has one"),
                ));
            }
            if isp.asns.is_empty() && isp.prefixes.is_empty() && isp.host_suffixes.is_empty() {
                let reason = "nothing to recognise it by: give asns, prefixes or host-suffixes";
                return Err(Invalid::at(format!("isps[{at}]"), reason));
            }
            for (index, suffix) in isp.host_suffixes.iter().enumerate() {
                let field = format!("isps[{at}].host-suffixes[{index}]");
                let name = reverse::suffix(suffix).map_err(|reason| Invalid::at(field.clone(), reason))?;
                // One inside another: their order in the file would decide whose a name is.
                if let Some(other) = suffixes.iter().find(|other| name.zone_of(other) || other.zone_of(&name)) {
                    return Err(Invalid::at(
                        field,
                        format!("{suffix} and {other} overlap: each is one ISP's, given once"),
                    ));
                }
                suffixes.push(name);
            }
            if !isp.host_suffixes.is_empty() && raw.reverse_dns.is_none() {
                let reason = "nobody is asked for names: give [reverse-dns] with resolvers";
                return Err(Invalid::at(format!("isps[{at}].host-suffixes"), reason));
            }
            isps.push(Isp { id, asns: isp.asns, prefixes: isp.prefixes, host_suffixes: isp.host_suffixes });
        }
        let mut ids = BTreeSet::new();
        let mut vendors = Vec::new();
        for (at, vendor) in raw.vendors.into_iter().enumerate() {
            let field = |name: &str| format!("vendors[{at}].{name}");
            let id: VendorId = vendor.id.parse().map_err(|e| Invalid::at(field("id"), e))?;
            if !ids.insert(id.clone()) {
                return Err(Invalid::at(field("id"), format!("{id} is there twice: ids are unique")));
            }
            if vendor.name.trim().is_empty() {
                return Err(Invalid::at(field("name"), "empty: payers read it on the page"));
            }
            let digest =
                config::read_secret(&vendor.key_sha256_file).map_err(|e| Invalid::at(field("key-sha256-file"), e))?;
            let key_sha256 = encode::unhex(digest.expose()).filter(|digest| digest.len() == 32).ok_or_else(|| {
                Invalid::at(
                    field("key-sha256-file"),
                    "the file has to hold the SHA-256 of the vendor's key: 64 hexadecimal digits",
                )
            })?;
            vendors.push(Vendor {
                id,
                name: vendor.name,
                key_sha256,
                results_url: https(&field("results-url"), &vendor.results_url)?,
            });
        }
        let (rib, live) = match raw.rib {
            Some(RawRib { mrt: None, live: None, live_tcp: None }) => {
                return Err(Invalid::at("rib", "neither mrt nor live: give one, or leave the table out"));
            }
            Some(RawRib { live: Some(_), live_tcp: Some(_), .. }) => {
                return Err(Invalid::at("rib.live-tcp", "the speaker is asked by rib.live already: give one of them"));
            }
            Some(RawRib { mrt, live: Some(path), .. }) => (mrt, Some(LiveConfig::Unix(path))),
            Some(RawRib { mrt, live_tcp, .. }) => (mrt, live_tcp.map(RawLive::place).transpose()?),
            None => (None, None),
        };
        let reverse = raw.reverse_dns.map(RawReverse::reverse).transpose()?;
        let upstream = raw.transaction_server;
        for (address, name) in &raw.private_names {
            // It stands in a content security policy and in URLs.
            let fits = name.contains('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            if !fits || name.parse::<IpAddr>().is_ok() || !tls::is_name(name) {
                let reason = format!("{name:?} is not a DNS name such as private.isp-a.example");
                return Err(Invalid::at(format!("private-names.{address}"), reason));
            }
        }
        Ok(Self {
            listen: raw.listen,
            public_url: https("public-url", &raw.public_url)?,
            identity: Identity { certificate: raw.certificate, key: raw.key },
            data: raw.data,
            admin_socket: raw.admin_socket.unwrap_or_else(|| config::default_socket("facilitation-server")),
            metrics_listen: raw.metrics_listen,
            page_key: Secret::new(page_key),
            upstream: UpstreamConfig {
                url: https("transaction-server.url", &upstream.url)?,
                name: upstream.name,
                ca: upstream.ca,
                identity: Identity { certificate: upstream.certificate, key: upstream.key },
            },
            private_names: raw.private_names,
            rib,
            live,
            reverse,
            isps,
            vendors,
            admin: raw.admin.map(RawAdmin::validate).transpose()?,
            vendors_ca: raw.vendors_ca,
        })
    }
}

impl Config {
    pub(crate) fn summary(&self) -> Vec<String> {
        let mut lines = vec![
            format!("{} ISPs, {} vendors", self.isps.len(), self.vendors.len()),
            format!("pages at {}/p/…", self.public_url),
        ];
        if let Some(admin) = &self.admin {
            let names: Vec<&str> = admin.operators.iter().map(|operator| operator.name.as_str()).collect();
            lines.push(format!("operators sign in at https://{}: {}", admin.listen, names.join(", ")));
        }
        if let Ok(key) = pages::signing_key(&self.page_key) {
            lines.push(format!("pages are signed by {}", key.verifying_key().to_base64()));
        }
        if self.rib.is_none() && self.live.is_none() && self.isps.iter().any(|isp| !isp.asns.is_empty()) {
            lines.push("warning: isps have asns and there is no [rib]: only prefixes count".to_owned());
        }
        if let Some(reverse) = &self.reverse {
            let resolvers: Vec<String> = reverse.resolvers.iter().map(ToString::to_string).collect();
            lines.push(format!("names of unknown addresses are asked of {}", resolvers.join(", ")));
            if self.isps.iter().all(|isp| isp.host_suffixes.is_empty()) {
                lines.push(
                    "warning: [reverse-dns] is there, and no ISP has host-suffixes: it is never asked".to_owned(),
                );
            }
            if reverse.resolvers.iter().any(|resolver| !resolver.ip().is_loopback()) {
                lines.push(
                    "warning: whoever can forge answers of a resolver on another host decides who is on which ISP"
                        .to_owned(),
                );
            }
        }
        lines
    }
}
