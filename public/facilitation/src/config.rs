//! The configuration file of the facilitation server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use cloakway_crypto::{Secret, encode};
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use cloakway_types::{IspId, VendorId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
    /// The newest MRT RIB dump.
    pub rib: Option<PathBuf>,
    /// Where the BGP speaker says whose an address is.
    pub live: Option<PathBuf>,
    /// Member ISPs.
    pub isps: Vec<Isp>,
    /// Member vendors.
    pub vendors: Vec<Vendor>,
    /// The authority of vendors' certificates.
    pub vendors_ca: PathBuf,
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
    rib: Option<RawRib>,
    isps: Vec<RawIsp>,
    vendors: Vec<RawVendor>,
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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawIsp {
    id: String,
    #[serde(default)]
    asns: Vec<u32>,
    #[serde(default)]
    prefixes: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawVendor {
    id: String,
    name: String,
    key_sha256_file: PathBuf,
    results_url: String,
}

fn https(field: &str, url: &str) -> Result<String, Invalid> {
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
        let mut isps = Vec::new();
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
            if isp.asns.is_empty() && isp.prefixes.is_empty() {
                return Err(Invalid::at(format!("isps[{at}]"), "nothing to recognise it by: give asns or prefixes"));
            }
            isps.push(Isp { id, asns: isp.asns, prefixes: isp.prefixes });
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
            Some(RawRib { mrt: None, live: None }) => {
                return Err(Invalid::at("rib", "neither mrt nor live: give one, or leave the table out"));
            }
            Some(RawRib { mrt, live }) => (mrt, live),
            None => (None, None),
        };
        let upstream = raw.transaction_server;
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
            rib,
            live,
            isps,
            vendors,
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
        if self.rib.is_none() && self.live.is_none() && self.isps.iter().any(|isp| !isp.asns.is_empty()) {
            lines.push("warning: isps have asns and there is no [rib]: only prefixes count".to_owned());
        }
        lines
    }
}
