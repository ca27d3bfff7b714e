//! The table `[radius]` of the configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_crypto::encode::unhex;
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::{self, Identity};
use ipnet::IpNet;
use serde::Deserialize;
use toolbox_wire::accounting::Naming;

use super::home::{self, Patience};
use super::probe::Nases;
use super::radsec::{Known, Limits};
use super::tap;
use crate::config::{name, seconds, some};

/// What is heard by RADIUS.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where accounting packets arrive by UDP.
    pub listen: Vec<SocketAddr>,
    /// Who may send them, each from a prefix of its own.
    pub clients: Vec<Client>,
    /// Octets that may wait in a socket.
    pub buffer: usize,
    /// Sockets at each address.
    pub workers: usize,
    /// RADIUS under TLS.
    pub radsec: Option<RadSec>,
    /// Passing on to other servers.
    pub proxy: Option<Proxy>,
    /// Listening between others.
    pub taps: Vec<tap::Settings>,
}

/// A RADIUS client: a NAS or a proxy before several.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its name in logs, metrics and bindings.
    pub name: String,
    /// Where its packets come from.
    pub prefix: IpNet,
    /// The shared secret.
    pub secret: Secret<String>,
    /// Whether a packet without Message-Authenticator is dropped.
    pub require_message_authenticator: bool,
    /// How it names subscribers.
    pub naming: Naming,
    /// Whether its NASes may be asked about sessions.
    pub coa: Option<Nases>,
}

/// RADIUS under TLS.
#[derive(Debug, Clone)]
pub struct RadSec {
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Who we are.
    pub identity: Identity,
    /// Whose certificates clients have.
    pub client_ca: PathBuf,
    /// Whether TLS 1.2 is spoken too.
    pub tls12: bool,
    /// How much is taken.
    pub limits: Limits,
    /// Who may connect.
    pub clients: Vec<Known>,
}

/// Passing on to the ISP's own servers.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where Access-Requests arrive by UDP.
    pub listen_authentication: Vec<SocketAddr>,
    /// The servers, in the order in which they are tried.
    pub homes: Vec<home::Settings>,
    /// How patient we are with them.
    pub patience: Patience,
}

impl Settings {
    /// Lines about it for `check`.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut lines = Vec::new();
        if let Some(radsec) = &self.radsec {
            lines.push(format!("RADIUS under TLS on {}", list(&radsec.listen)));
            lines.extend(radsec.clients.iter().map(|client| format!("client {} by its certificate", client.name)));
            if radsec.tls12 {
                lines.push("warning: allow-tls12: RADIUS clients are let in with TLS 1.2".to_owned());
            }
        }
        let asked = self.clients.iter().filter_map(|client| client.coa.as_ref());
        lines.extend(asked.map(|nases| format!("NASes of {} are asked at port {}", nases.client, nases.port)));
        lines.extend(self.taps.iter().map(|tap| format!("RADIUS overheard at {}", tap.interface)));
        if let Some(proxy) = &self.proxy {
            if !proxy.listen_authentication.is_empty() {
                lines.push(format!("RADIUS authentication on {}", list(&proxy.listen_authentication)));
            }
            for home in &proxy.homes {
                let places = [("accounting", home.accounting), ("authentication", home.authentication)];
                let places = places.into_iter().filter_map(|(of, at)| at.map(|at| format!("{of} at {at}")));
                lines.push(format!("home server {}: {}", home.name, places.collect::<Vec<_>>().join(", ")));
            }
        }
        lines
    }
}

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    clients: Vec<RawClient>,
    #[serde(default = "eight_mib")]
    receive_buffer_kib: usize,
    workers: Option<usize>,
    radsec: Option<RawRadSec>,
    proxy: Option<RawProxy>,
    #[serde(default)]
    taps: Vec<RawTap>,
}

const fn eight_mib() -> usize {
    8192
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawClient {
    name: String,
    prefix: IpNet,
    secret_file: PathBuf,
    #[serde(default)]
    require_message_authenticator: bool,
    #[serde(default)]
    subscriber: Naming,
    coa_port: Option<u16>,
    coa_secret_file: Option<PathBuf>,
    coa_wait_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRadSec {
    listen: Vec<SocketAddr>,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    #[serde(default)]
    allow_tls12: bool,
    #[serde(default = "many")]
    connections: usize,
    #[serde(default = "several")]
    connections_per_client: usize,
    #[serde(default = "five_minutes")]
    idle_s: u64,
    clients: Vec<RawKnown>,
}

const fn many() -> usize {
    256
}

const fn several() -> usize {
    16
}

const fn five_minutes() -> u64 {
    300
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawKnown {
    name: String,
    #[serde(default)]
    certificate_names: Vec<String>,
    #[serde(default)]
    certificate_sha256: Vec<String>,
    #[serde(default)]
    subscriber: Naming,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawProxy {
    #[serde(default)]
    listen_authentication: Vec<SocketAddr>,
    #[serde(default = "two_seconds")]
    wait_ms: u64,
    #[serde(default = "thrice")]
    tries: u32,
    homes: Vec<RawHome>,
}

const fn two_seconds() -> u64 {
    2000
}

const fn thrice() -> u32 {
    3
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawTap {
    name: String,
    interface: String,
    servers: Vec<IpNet>,
    #[serde(default = "accounting")]
    accounting_ports: Vec<u16>,
    #[serde(default = "authentication")]
    authentication_ports: Vec<u16>,
}

fn accounting() -> Vec<u16> {
    vec![1813]
}

fn authentication() -> Vec<u16> {
    vec![1812]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHome {
    name: String,
    accounting: Option<SocketAddr>,
    authentication: Option<SocketAddr>,
    secret_file: PathBuf,
}

impl Raw {
    pub(crate) fn validate(self) -> Result<Settings, Invalid> {
        let mut names = BTreeSet::new();
        let buffer = within("radius.receive-buffer-kib", self.receive_buffer_kib, 64, 1 << 20)? * 1024;
        let settings = Settings {
            clients: clients(self.clients, &mut names)?,
            taps: taps(self.taps, buffer, &mut names)?,
            buffer,
            workers: match self.workers {
                Some(count) => within("radius.workers", count, 1, 64)?,
                None => std::thread::available_parallelism().map_or(1, |count| count.get().min(8)),
            },
            radsec: self.radsec.map(|raw| raw.validate(&mut names)).transpose()?,
            proxy: self.proxy.map(RawProxy::validate).transpose()?,
            listen: self.listen,
        };
        let by_udp =
            settings.listen.len() + settings.proxy.iter().map(|proxy| proxy.listen_authentication.len()).sum::<usize>();
        if settings.radsec.is_none() || by_udp > 0 || !settings.taps.is_empty() {
            some(&settings.clients, "radius.clients", "a [[radius.clients]] table for each NAS or proxy")?;
        }
        if settings.radsec.is_none() && settings.taps.is_empty() {
            some(&settings.listen, "radius.listen", "an address such as \"198.51.100.2:1813\"")?;
        }
        Ok(settings)
    }
}

fn within(field: &str, value: usize, low: usize, high: usize) -> Result<usize, Invalid> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(Invalid::at(field, format!("{value} is not allowed: {low} to {high}")))
}

fn secret(field: String, file: &std::path::Path) -> Result<Secret<String>, Invalid> {
    config::read_secret(file).map_err(|reason| Invalid::at(field, reason))
}

fn clients(raw: Vec<RawClient>, names: &mut BTreeSet<String>) -> Result<Vec<Client>, Invalid> {
    let mut clients: Vec<Client> = Vec::new();
    for (index, client) in raw.into_iter().enumerate() {
        let field = |key: &str| format!("radius.clients[{index}].{key}");
        name(&field("name"), &client.name, names)?;
        let prefix = client.prefix;
        if prefix != prefix.trunc() {
            let right = prefix.trunc();
            return Err(Invalid::at(field("prefix"), format!("{prefix} has host bits: {right} would be the prefix")));
        }
        let secret = secret(field("secret-file"), &client.secret_file)?;
        if let Some(other) = clients.iter().find(|other| other.prefix == prefix) {
            let reason = format!("{prefix} is that of client {}: each needs a prefix of its own", other.name);
            return Err(Invalid::at(field("prefix"), reason));
        }
        let coa = match (client.coa_port, &client.coa_secret_file, client.coa_wait_ms) {
            (None, None, None) => None,
            (None, ..) => return Err(Invalid::at(field("coa-port"), "give the port that NASes are asked at: 3799")),
            (Some(port), file, wait) => Some(Nases {
                client: client.name.clone(),
                prefix,
                port,
                secret: match file {
                    Some(file) => self::secret(field("coa-secret-file"), file)?,
                    None => secret.clone(),
                },
                patience: milliseconds(field("coa-wait-ms"), wait.unwrap_or(1500), 100, 10_000)?,
            }),
        };
        clients.push(Client {
            name: client.name,
            prefix,
            secret,
            require_message_authenticator: client.require_message_authenticator,
            naming: client.subscriber,
            coa,
        });
    }
    Ok(clients)
}

fn milliseconds(field: String, value: u64, low: u64, high: u64) -> Result<Duration, Invalid> {
    if (low..=high).contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    Err(Invalid::at(field, format!("{value} ms is not allowed: {low} to {high}")))
}

fn taps(raw: Vec<RawTap>, buffer: usize, names: &mut BTreeSet<String>) -> Result<Vec<tap::Settings>, Invalid> {
    let mut taps = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = |key: &str| format!("radius.taps[{index}].{key}");
        name(&field("name"), &raw.name, names)?;
        // IFNAMSIZ, less its end.
        if !(1..=15).contains(&raw.interface.len()) {
            let reason = format!("{:?} is not the name of an interface: 1 to 15 octets", raw.interface);
            return Err(Invalid::at(field("interface"), reason));
        }
        some(&raw.servers, &field("servers"), "the addresses of the RADIUS servers whose answers count")?;
        if raw.accounting_ports.is_empty() {
            return Err(Invalid::at(field("accounting-ports"), "the list is empty: give a port such as 1813"));
        }
        taps.push(tap::Settings {
            name: raw.name,
            interface: raw.interface,
            servers: raw.servers.into_iter().map(|server| (server, ())).collect(),
            accounting_ports: raw.accounting_ports,
            authentication_ports: raw.authentication_ports,
            buffer,
        });
    }
    Ok(taps)
}

impl RawRadSec {
    fn validate(self, names: &mut BTreeSet<String>) -> Result<RadSec, Invalid> {
        some(&self.listen, "radius.radsec.listen", "an address such as \"198.51.100.2:2083\"")?;
        some(&self.clients, "radius.radsec.clients", "a [[radius.radsec.clients]] table for who may connect")?;
        let mut clients: Vec<Known> = Vec::new();
        for (index, raw) in self.clients.into_iter().enumerate() {
            let known = raw.validate(index, names)?;
            let field = |key: &str| format!("radius.radsec.clients[{index}].{key}");
            for other in &clients {
                if known.names.iter().any(|name| other.names.contains(name)) {
                    let reason = format!("client {} has one of them: each needs its own", other.name);
                    return Err(Invalid::at(field("certificate-names"), reason));
                }
                if known.fingerprints.iter().any(|of| other.fingerprints.contains(of)) {
                    let reason = format!("client {} has one of them: each needs its own", other.name);
                    return Err(Invalid::at(field("certificate-sha256"), reason));
                }
            }
            clients.push(known);
        }
        Ok(RadSec {
            listen: self.listen,
            identity: Identity { certificate: self.certificate, key: self.key },
            client_ca: self.client_ca,
            tls12: self.allow_tls12,
            limits: Limits {
                connections: within("radius.radsec.connections", self.connections, 1, 65_536)?,
                per_client: within("radius.radsec.connections-per-client", self.connections_per_client, 1, 65_536)?,
                idle: seconds("radius.radsec.idle-s", self.idle_s, 10, 86_400)?,
            },
            clients,
        })
    }
}

impl RawKnown {
    fn validate(self, index: usize, names: &mut BTreeSet<String>) -> Result<Known, Invalid> {
        let field = |key: &str| format!("radius.radsec.clients[{index}].{key}");
        name(&field("name"), &self.name, names)?;
        if self.certificate_names.is_empty() && self.certificate_sha256.is_empty() {
            let right = "give a name that the client's certificate has, or the certificate-sha256 of it";
            return Err(Invalid::at(field("certificate-names"), right));
        }
        if let Some(wrong) = self.certificate_names.iter().find(|name| !tls::is_name(name)) {
            let reason = format!("{wrong:?} cannot be a name in a certificate: \"edge.isp.example\" could");
            return Err(Invalid::at(field("certificate-names"), reason));
        }
        let fingerprint = |text: &String| {
            unhex(&text.replace(':', "")).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).ok_or_else(|| {
                let right = "64 hexadecimal digits are expected: openssl x509 -noout -fingerprint -sha256 -in FILE";
                Invalid::at(field("certificate-sha256"), right)
            })
        };
        let fingerprints = self.certificate_sha256.iter().map(fingerprint).collect::<Result<_, _>>()?;
        Ok(Known { name: self.name, names: self.certificate_names, fingerprints, naming: self.subscriber })
    }
}

impl RawProxy {
    fn validate(self) -> Result<Proxy, Invalid> {
        some(&self.homes, "radius.proxy.homes", "a [[radius.proxy.homes]] table for each server to pass on to")?;
        let mut names = BTreeSet::new();
        let mut homes = Vec::new();
        for (index, home) in self.homes.into_iter().enumerate() {
            let field = |key: &str| format!("radius.proxy.homes[{index}].{key}");
            name(&field("name"), &home.name, &mut names)?;
            if home.accounting.is_none() && home.authentication.is_none() {
                let right = "give an address that takes accounting, one that takes authentication, or both";
                return Err(Invalid::at(field("accounting"), right));
            }
            let secret = secret(field("secret-file"), &home.secret_file)?;
            homes.push(home::Settings {
                name: home.name,
                accounting: home.accounting,
                authentication: home.authentication,
                secret,
            });
        }
        if !self.listen_authentication.is_empty() && homes.iter().all(|home| home.authentication.is_none()) {
            let reason = "no home server has an address for authentication: give one, or leave this out";
            return Err(Invalid::at("radius.proxy.listen-authentication", reason));
        }
        let wait = milliseconds("radius.proxy.wait-ms".to_owned(), self.wait_ms, 100, 30_000)?;
        if !(1..=10).contains(&self.tries) {
            return Err(Invalid::at("radius.proxy.tries", format!("{} is not allowed: 1 to 10", self.tries)));
        }
        Ok(Proxy {
            listen_authentication: self.listen_authentication,
            homes,
            patience: Patience { wait, tries: self.tries },
        })
    }
}
