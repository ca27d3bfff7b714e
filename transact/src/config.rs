//! The configuration file of the transaction server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use cloakway_crypto::sign::SigningKey;
use cloakway_crypto::{Secret, encode};
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use cloakway_store::Postgresql;
use cloakway_types::IspId;
use ipnet::IpNet;
use serde::Deserialize;
use transact_cloak::{Checksum, CloakConfig, Limits};
use transact_core::Policy;
use transact_core::admission::Bounds;

use crate::ecash::settings::{self as ecash, EcashConfig, RawEcash};
use crate::harden::{Hardening, RawHardening};
use crate::institutions::{self, Institution, RawInstitution};
use crate::result_secrets::{self, RawResultSecret, ResultSecrets};
use crate::storage::RawPostgresql;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The folder for orders.
    pub data: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where Prometheus asks.
    pub metrics_listen: Option<SocketAddr>,
    /// Signs results.
    pub result_key: SigningKey,
    /// Sign results of their vendors too.
    pub(crate) result_secrets: ResultSecrets,
    /// How orders are treated.
    pub policy: Policy,
    /// The private side.
    pub private: PrivateConfig,
    /// The side of facilitation.
    pub management: ManagementConfig,
    /// The financial institutions.
    pub institutions: Vec<Institution>,
    /// Electronic cash, where it is on.
    pub ecash: Option<EcashConfig>,
    /// What the process gives up.
    pub process: Hardening,
    /// Where orders are kept; none: in the data folder.
    pub postgresql: Option<Postgresql>,
    /// What `check` says of that.
    warnings: Vec<String>,
}

/// The private side.
#[derive(Debug)]
pub struct PrivateConfig {
    /// The interface that is the private link.
    pub interface: String,
    /// The stack; its hardware address is the interface's own.
    pub cloak: CloakConfig,
    /// Whether TCP checksums are verified.
    pub checksum: Checksum,
    /// The certificate for the private network addresses.
    pub identity: Identity,
    /// Origins of payer pages.
    pub page_origins: Vec<HeaderValue>,
    /// Bounds on payers that have not proven themselves.
    pub bounds: Bounds,
}

/// The side of facilitation.
#[derive(Debug)]
pub struct ManagementConfig {
    /// Where facilitation connects.
    pub listen: SocketAddr,
    /// What we show it.
    pub identity: Identity,
    /// The authority of its certificate.
    pub client_ca: PathBuf,
    /// The names that its certificate may stand for.
    pub client_names: Vec<String>,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    data: PathBuf,
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    order_key_file: PathBuf,
    result_key_file: PathBuf,
    #[serde(default)]
    result_secrets: Vec<RawResultSecret>,
    #[serde(default)]
    orders: RawOrders,
    private: RawPrivate,
    isps: Vec<RawIsp>,
    management: RawManagement,
    bank: Option<RawInstitution>,
    #[serde(default)]
    institutions: Vec<RawInstitution>,
    ecash: Option<RawEcash>,
    #[serde(default)]
    process: RawHardening,
    postgresql: Option<RawPostgresql>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawOrders {
    lifetime_s: u64,
    password_attempts: u32,
    open: usize,
    retention_days: u64,
}

impl Default for RawOrders {
    fn default() -> Self {
        Self { lifetime_s: 900, password_attempts: 5, open: 100_000, retention_days: 30 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPrivate {
    interface: String,
    #[serde(default = "https_port")]
    port: u16,
    #[serde(default = "ethernet_mtu")]
    mtu: u16,
    gateway_v4: Option<Ipv4Addr>,
    gateway_v6: Option<Ipv6Addr>,
    #[serde(default)]
    checksums: RawChecksums,
    certificate: PathBuf,
    key: PathBuf,
    page_origins: Vec<String>,
    #[serde(default)]
    limits: RawLimits,
}

fn https_port() -> u16 {
    443
}

fn ethernet_mtu() -> u16 {
    1500
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawChecksums {
    #[default]
    Verify,
    Trust,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawLimits {
    session_s: u64,
    connection_bytes: u64,
    isp_bytes: u64,
    isp_window_s: u64,
    connections: usize,
    half_open: usize,
    per_source: usize,
    per_isp: Option<usize>,
    half_open_per_isp: Option<usize>,
    handshake_s: u64,
    idle_s: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            session_s: 20,
            connection_bytes: 32 * 1024,
            isp_bytes: 64 * 1024 * 1024,
            isp_window_s: 60,
            connections: 1024,
            half_open: 128,
            per_source: 16,
            per_isp: None,
            half_open_per_isp: None,
            handshake_s: 5,
            idle_s: 60,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawIsp {
    id: String,
    prefixes: Vec<IpNet>,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawManagement {
    listen: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    client_names: Vec<String>,
}

fn positive(field: &str, value: u64) -> Result<u64, Invalid> {
    if value == 0 { Err(Invalid::at(field, "0 is not allowed: give at least 1")) } else { Ok(value) }
}

fn key_bytes(field: &str, path: &std::path::Path) -> Result<Secret<Vec<u8>>, Invalid> {
    let text = config::read_secret(path).map_err(|e| Invalid::at(field, e))?;
    match encode::unbase64(text.expose()) {
        Some(key) if key.len() == 32 => Ok(Secret::new(key)),
        _ => Err(Invalid::at(field, "the file has to hold 32 random bytes in base64")),
    }
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let result_key = config::read_secret(&raw.result_key_file).map_err(|e| Invalid::at("result-key-file", e))?;
        let private = raw.private;
        let (mut addresses, mut by_isp, mut members) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (at, isp) in raw.isps.into_iter().enumerate() {
            let id: IspId = isp.id.parse().map_err(|e| Invalid::at(format!("isps[{at}].id"), e))?;
            if isp.addresses.is_empty() {
                return Err(Invalid::at(
                    format!("isps[{at}].addresses"),
                    "no private network address: give at least one",
                ));
            }
            members.extend(isp.prefixes.iter().map(|prefix| (*prefix, id.clone())));
            for address in &isp.addresses {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
            if by_isp.insert(id.clone(), isp.addresses).is_some() {
                return Err(Invalid::at(format!("isps[{at}].id"), format!("{id} is there twice: ids are unique")));
            }
        }
        let page_origins = private.page_origins.iter().enumerate().map(|(at, origin)| {
            let right = origin.strip_prefix("https://").is_some_and(|host| !host.is_empty() && !host.contains('/'));
            let value = HeaderValue::from_str(origin).ok().filter(|_| right);
            value.ok_or_else(|| {
                Invalid::at(
                    format!("private.page-origins[{at}]"),
                    format!("{origin:?} is no origin: give https://host"),
                )
            })
        });
        let limits = private.limits;
        let seconds = |field: &str, value| positive(&format!("private.limits.{field}"), value).map(Duration::from_secs);
        // One ISP may have everything; of several none more than half.
        let share = |all: usize| if by_isp.len() > 1 { all.div_ceil(2) } else { all };
        let cloak = CloakConfig {
            // A stand-in for the interface's own, which is read when the link is opened.
            hardware_address: [2, 0, 0, 0, 0, 1],
            addresses,
            port: private.port,
            gateway_v4: private.gateway_v4,
            gateway_v6: private.gateway_v6,
            members,
            mtu: private.mtu,
            limits: Limits {
                max_connections: limits.connections,
                max_half_open: limits.half_open,
                max_per_source: limits.per_source,
                max_per_isp: limits.per_isp.unwrap_or(share(limits.connections)),
                max_half_open_per_isp: limits.half_open_per_isp.unwrap_or(share(limits.half_open)),
                handshake_timeout: seconds("handshake-s", limits.handshake_s)?,
                idle_timeout: seconds("idle-s", limits.idle_s)?,
                ..Limits::default()
            },
        };
        transact_cloak::Cloak::new(cloak.clone(), Box::new(cloakway_crypto::System)).map_err(|error| {
            use transact_cloak::ConfigError as E;
            let field = match error {
                E::NoAddress
                | E::Address(_)
                | E::DuplicateAddress(_)
                | E::NoMember
                | E::MemberTooWide(_)
                | E::DuplicateMember(_) => "isps",
                E::NoGateway(IpAddr::V4(_)) | E::Gateway(IpAddr::V4(_)) => "private.gateway-v4",
                E::NoGateway(IpAddr::V6(_)) | E::Gateway(IpAddr::V6(_)) => "private.gateway-v6",
                E::Port => "private.port",
                E::Mtu(_) => "private.mtu",
                E::HardwareAddress(_) => "private.interface",
                E::ZeroLimit(_) => "private.limits",
            };
            Invalid::at(field, error)
        })?;
        let bounds = Bounds {
            session: seconds("session-s", limits.session_s)?,
            // A batch of payments comes before its sender is known.
            connection_bytes: positive("private.limits.connection-bytes", limits.connection_bytes)?
                .max(if raw.ecash.is_some() { crate::ecash::CONNECTION_BYTES } else { 0 }),
            isp_bytes: positive("private.limits.isp-bytes", limits.isp_bytes)?,
            isp_window: seconds("isp-window-s", limits.isp_window_s)?,
        };
        let management = raw.management;
        if management.client_names.is_empty() {
            return Err(Invalid::at("management.client-names", "no name: give the one in facilitation's certificate"));
        }
        let (postgresql, warnings) = raw.postgresql.map(RawPostgresql::validate).transpose()?.unzip();
        let (institutions, known) = institutions::validate(raw.bank, raw.institutions)?;
        let orders = raw.orders;
        Ok(Self {
            data: raw.data,
            admin_socket: raw.admin_socket.unwrap_or_else(|| config::default_socket("transaction-server")),
            metrics_listen: raw.metrics_listen,
            result_secrets: result_secrets::validate(raw.result_secrets)?,
            result_key: SigningKey::from_base64(&result_key).map_err(|e| Invalid::at("result-key-file", e))?,
            policy: Policy {
                secret: key_bytes("order-key-file", &raw.order_key_file)?,
                lifetime: Duration::from_secs(positive("orders.lifetime-s", orders.lifetime_s)?),
                password_attempts: u32::try_from(positive(
                    "orders.password-attempts",
                    orders.password_attempts.into(),
                )?)
                .unwrap_or(u32::MAX),
                open_orders: orders.open,
                retention: Duration::from_secs(
                    positive("orders.retention-days", orders.retention_days)?.saturating_mul(86_400),
                ),
                addresses: by_isp,
                port: private.port,
                institutions: known,
            },
            private: PrivateConfig {
                interface: private.interface,
                cloak,
                checksum: match private.checksums {
                    RawChecksums::Verify => Checksum::OnWire,
                    RawChecksums::Trust => Checksum::Offloaded,
                },
                identity: Identity { certificate: private.certificate, key: private.key },
                page_origins: page_origins.collect::<Result<_, _>>()?,
                bounds,
            },
            management: ManagementConfig {
                listen: management.listen,
                identity: Identity { certificate: management.certificate, key: management.key },
                client_ca: management.client_ca,
                client_names: management.client_names,
            },
            institutions,
            ecash: raw.ecash.map(ecash::validate).transpose()?,
            process: raw.process.validate()?,
            postgresql,
            warnings: warnings.unwrap_or_default(),
        })
    }
}

impl Config {
    pub(crate) fn summary(&self) -> Vec<String> {
        let private = &self.private;
        let mut lines = vec![
            format!(
                "{} ISPs, {} private network addresses on {}",
                self.policy.addresses.len(),
                private.cloak.addresses.len(),
                private.interface
            ),
            format!("results are signed by {}", self.result_key.verifying_key().to_base64()),
        ];
        if !self.result_secrets.is_empty() {
            let vendors: Vec<&str> = self.result_secrets.keys().map(cloakway_types::VendorId::as_str).collect();
            lines.push(format!("results of {} are signed by their shared secrets too", vendors.join(", ")));
        }
        for institution in &self.institutions {
            let link = &institution.link;
            if link.codec.mac.is_none() {
                lines.push(format!(
                    "warning: messages of {} are not authenticated: mac = \"x9.19\" or \"aes-cmac\" does that",
                    institution.id
                ));
            }
        }
        lines.extend(self.ecash.iter().flat_map(EcashConfig::summary));
        if private.checksum == Checksum::Offloaded {
            lines.push("warning: checksums = \"trust\" is for virtual links on one machine".to_owned());
        }
        lines.extend(self.process.summary());
        let kept = if self.postgresql.is_some() { "in PostgreSQL" } else { "in the data folder" };
        lines.push(format!("orders are kept {kept}"));
        lines.extend(self.warnings.iter().cloned());
        lines
    }
}
