//! The tables `[[sources.…]]` of the configuration.

mod period;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::config::Invalid;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use toolbox_leases::{Identities, Identity, Naming};
use toolbox_nat::ipfix::Dialect;
use toolbox_nat::{Deterministic, MapE, Order, Range, Ranges};
use toolbox_wire::http::Source;

use crate::config::{name, seconds, some};
pub use period::Period;

/// All sources but RADIUS.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is listened to and read.
    pub sources: Vec<SourceSettings>,
    /// What is computed.
    pub rules: Vec<(Rule, Period)>,
    /// What `check` warns of.
    pub warnings: Vec<String>,
}

/// A source.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Its name in bindings, logs and metrics.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What a source is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The lease file of Kea.
    Kea(LeaseFile),
    /// The lease file of ISC DHCP.
    Isc(LeaseFile),
    /// A file of ours.
    Fixed(PathBuf),
    /// Linux' connection tracking.
    Conntrack(Conntrack),
    /// A CGNAT that exports.
    Ipfix(Ipfix),
    /// The kernel's neighbour table.
    Neighbours(Neighbours),
    /// DHCP between others.
    DhcpTap(DhcpTap),
}

/// DHCP that passes an interface.
#[derive(Debug, Clone)]
pub struct DhcpTap {
    /// The interface.
    pub interface: String,
    /// The addresses that the servers send from.
    pub servers: Vec<IpAddr>,
    /// Which identity names the subscriber.
    pub naming: Naming,
}

/// Interfaces that subscribers are directly at.
#[derive(Debug, Clone)]
pub struct Neighbours {
    /// Their names.
    pub interfaces: Vec<String>,
    /// Whose each hardware address is.
    pub subscribers: Arc<Identities>,
    /// How long an answer may take when a caller wants to know now; none: nobody is asked.
    pub probe_wait: Option<Duration>,
}

/// A lease file, and whose its leases are.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which identity names the subscriber.
    pub naming: Naming,
    /// Whether the server is asked as well.
    pub audit: Option<Audit>,
}

/// Asking Kea itself.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Its control socket.
    pub socket: PathBuf,
    /// How often.
    pub every: Duration,
}

/// Linux' connection tracking, in the namespace that we run in.
#[derive(Debug, Clone)]
pub struct Conntrack {
    /// Octets of events that may wait.
    pub receive_buffer: usize,
}

/// Exporters of one dialect.
#[derive(Debug, Clone)]
pub struct Ipfix {
    /// Where messages arrive by UDP.
    pub udp: Vec<SocketAddr>,
    /// Where exporters connect to.
    pub tcp: Vec<SocketAddr>,
    /// Who may export.
    pub exporters: Vec<IpNet>,
    /// What their numbers mean.
    pub dialect: Dialect,
    /// How long an event holds without another one.
    pub holds: Option<Duration>,
}

/// A rule by which ports are computed.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Deterministic CGNAT.
    Deterministic(Deterministic),
    /// MAP-E.
    MapE(MapE),
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Kea(_) => "kea",
            Self::Isc(_) => "isc",
            Self::Fixed(_) => "fixed",
            Self::Conntrack(_) => "conntrack",
            Self::Ipfix(_) => "ipfix",
            Self::Neighbours(_) => "neighbours",
            Self::DhcpTap(_) => "dhcp-tap",
        }
    }

    /// The kind that its bindings have.
    #[must_use]
    pub const fn source(&self) -> Source {
        match self {
            Self::Kea(_) | Self::Isc(_) => Source::Dhcp,
            Self::Fixed(_) => Source::Static,
            Self::Conntrack(_) | Self::Ipfix(_) => Source::Cgnat,
            Self::Neighbours(_) => Source::Neighbour,
            Self::DhcpTap(_) => Source::DhcpTap,
        }
    }

    /// What it reads.
    #[must_use]
    pub fn of(&self) -> String {
        let list = |of: &[SocketAddr], by: &str| of.iter().map(|at| format!("{by} {at}")).collect::<Vec<_>>();
        match self {
            Self::Kea(file) | Self::Isc(file) => file.path.display().to_string(),
            Self::Fixed(path) => path.display().to_string(),
            Self::Conntrack(_) => "this host".to_owned(),
            Self::DhcpTap(tap) => tap.interface.clone(),
            Self::Neighbours(neighbours) => neighbours.interfaces.join(", "),
            Self::Ipfix(ipfix) => [list(&ipfix.udp, "udp"), list(&ipfix.tcp, "tcp")].concat().join(", "),
        }
    }
}

/// The tables as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Raw {
    kea: Vec<RawLeases>,
    isc: Vec<RawLeases>,
    fixed: Vec<RawFixed>,
    conntrack: Vec<RawConntrack>,
    ipfix: Vec<RawIpfix>,
    neighbours: Vec<RawNeighbours>,
    dhcp_tap: Vec<RawDhcpTap>,
    deterministic: Vec<RawDeterministic>,
    map_e: Vec<RawMapE>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawLeases {
    name: String,
    lease_file: PathBuf,
    subscriber: Vec<String>,
    identities: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    audit_every_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawFixed {
    name: String,
    file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawConntrack {
    name: String,
    #[serde(default = "eight_mebibytes")]
    receive_buffer: usize,
}

const fn eight_mebibytes() -> usize {
    8 << 20
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawIpfix {
    name: String,
    #[serde(default)]
    listen_udp: Vec<SocketAddr>,
    #[serde(default)]
    listen_tcp: Vec<SocketAddr>,
    exporters: Vec<IpNet>,
    dialect: String,
    holds_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawNeighbours {
    name: String,
    interfaces: Vec<String>,
    identities: PathBuf,
    probe_wait_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDhcpTap {
    name: String,
    interface: String,
    servers: Vec<IpAddr>,
    subscriber: Vec<String>,
    identities: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDeterministic {
    internal: Vec<String>,
    external: Vec<String>,
    ports_each: u32,
    #[serde(default = "first_port")]
    first_port: u16,
    #[serde(default = "last_port")]
    last_port: u16,
    #[serde(default)]
    order: RawOrder,
    since: Option<String>,
    until: Option<String>,
}

const fn first_port() -> u16 {
    1024
}

const fn last_port() -> u16 {
    u16::MAX
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawOrder {
    #[default]
    AddressByAddress,
    BlockByBlock,
    EveryAddress,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawMapE {
    ipv6_prefix: Ipv6Net,
    ipv4_prefix: Ipv4Net,
    ea_bits: u8,
    #[serde(default = "six")]
    psid_offset: u8,
    since: Option<String>,
    until: Option<String>,
}

const fn six() -> u8 {
    6
}

/// The file of `identities`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawIdentities {
    identities: Identities,
}

impl Raw {
    pub(crate) fn validate(self) -> Result<Settings, Invalid> {
        let mut settings = Settings::default();
        let mut names = BTreeSet::new();
        let mut add = |settings: &mut Settings, field: String, own: String, kind: Kind| {
            name(&format!("{field}.name"), &own, &mut names)?;
            settings.sources.push(SourceSettings { name: own, kind });
            Ok(())
        };
        for (index, raw) in self.kea.into_iter().enumerate() {
            let field = format!("sources.kea[{index}]");
            let (own, file) = raw.validate(&field, &mut settings.warnings)?;
            add(&mut settings, field, own, Kind::Kea(file))?;
        }
        for (index, raw) in self.isc.into_iter().enumerate() {
            let field = format!("sources.isc[{index}]");
            if raw.control_socket.is_some() {
                return Err(Invalid::at(format!("{field}.control-socket"), "ISC DHCP has none: leave it out"));
            }
            let (own, file) = raw.validate(&field, &mut settings.warnings)?;
            add(&mut settings, field, own, Kind::Isc(file))?;
        }
        for (index, raw) in self.fixed.into_iter().enumerate() {
            let field = format!("sources.fixed[{index}]");
            absolute(&format!("{field}.file"), &raw.file)?;
            add(&mut settings, field, raw.name, Kind::Fixed(raw.file))?;
        }
        for (index, raw) in self.conntrack.into_iter().enumerate() {
            let field = format!("sources.conntrack[{index}]");
            if !(4096..=1 << 30).contains(&raw.receive_buffer) {
                let reason = format!("{} octets are not allowed: 4096 to 1073741824", raw.receive_buffer);
                return Err(Invalid::at(format!("{field}.receive-buffer"), reason));
            }
            if index > 0 {
                return Err(Invalid::at(field, "there is one connection tracking: one table is enough"));
            }
            add(&mut settings, field, raw.name, Kind::Conntrack(Conntrack { receive_buffer: raw.receive_buffer }))?;
        }
        for (index, raw) in self.ipfix.into_iter().enumerate() {
            let field = format!("sources.ipfix[{index}]");
            let (own, ipfix) = raw.validate(&field)?;
            if !ipfix.udp.is_empty() {
                settings.warnings.push(format!(
                    "{own}: IPFIX by UDP comes from whoever can send from an exporter's address, and a lost message \
                     makes all that was said unknown: TCP on a network of your own is better"
                ));
            }
            add(&mut settings, field, own, Kind::Ipfix(ipfix))?;
        }
        for (index, raw) in self.neighbours.into_iter().enumerate() {
            let field = format!("sources.neighbours[{index}]");
            some(&raw.interfaces, &format!("{field}.interfaces"), "the interfaces that subscribers are at")?;
            let subscribers = listed(&field, &raw.identities)?;
            if let Some(wait) = raw.probe_wait_ms.filter(|wait| !(100..=10_000).contains(wait)) {
                let reason = format!("{wait} ms is not allowed: 100 to 10000");
                return Err(Invalid::at(format!("{field}.probe-wait-ms"), reason));
            }
            let probe_wait = raw.probe_wait_ms.map(Duration::from_millis);
            let neighbours = Neighbours { interfaces: raw.interfaces, subscribers, probe_wait };
            add(&mut settings, field, raw.name, Kind::Neighbours(neighbours))?;
        }
        for (index, raw) in self.dhcp_tap.into_iter().enumerate() {
            let field = format!("sources.dhcp-tap[{index}]");
            some(&raw.servers, &format!("{field}.servers"), "the addresses that the DHCP servers send from")?;
            let naming = naming(&field, &raw.name, &raw.subscriber, raw.identities.as_deref(), &mut settings.warnings)?;
            let tap = DhcpTap { interface: raw.interface, servers: raw.servers, naming };
            add(&mut settings, field, raw.name, Kind::DhcpTap(tap))?;
        }
        for (index, raw) in self.deterministic.into_iter().enumerate() {
            let field = format!("sources.deterministic[{index}]");
            let period = Period::read(&field, raw.since.clone(), raw.until.clone())?;
            settings.rules.push((Rule::Deterministic(raw.validate(&field)?), period));
        }
        for (index, raw) in self.map_e.into_iter().enumerate() {
            let rule = MapE::new(raw.ipv6_prefix, raw.ipv4_prefix, raw.ea_bits, raw.psid_offset)
                .map_err(|error| Invalid::at(format!("sources.map-e[{index}]"), error.to_string()))?;
            let period = Period::read(&format!("sources.map-e[{index}]"), raw.since, raw.until)?;
            settings.rules.push((Rule::MapE(rule), period));
        }
        Ok(settings)
    }
}

fn absolute(field: &str, path: &Path) -> Result<(), Invalid> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Invalid::at(field, format!("{} is not absolute: begin it with /", path.display())))
}

impl RawLeases {
    fn validate(self, field: &str, warnings: &mut Vec<String>) -> Result<(String, LeaseFile), Invalid> {
        absolute(&format!("{field}.lease-file"), &self.lease_file)?;
        let naming = naming(field, &self.name, &self.subscriber, self.identities.as_deref(), warnings)?;
        let audit = match (self.control_socket, self.audit_every_s) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Invalid::at(format!("{field}.audit-every-s"), "give control-socket as well"));
            }
            (Some(socket), every) => {
                absolute(&format!("{field}.control-socket"), &socket)?;
                let every = seconds(&format!("{field}.audit-every-s"), every.unwrap_or(300), 10, 86_400)?;
                Some(Audit { socket, every })
            }
        };
        Ok((self.name, LeaseFile { path: self.lease_file, naming, audit }))
    }
}

/// How leases are named, by a list of identities and a file that says whose each is.
fn naming(
    field: &str,
    source: &str,
    words: &[String],
    listed: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Result<Naming, Invalid> {
    let at = format!("{field}.subscriber");
    some(words, &at, "the identities that name a subscriber, such as \"remote-id\" or \"hw-address\"")?;
    let mut identities = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let identity: Identity =
            word.parse().map_err(|error| Invalid::at(format!("{at}[{index}]"), format!("{error}")))?;
        if identity.is_the_clients_word() {
            warnings.push(format!(
                "{source}: a client can say any {identity} that it likes, and be charged as somebody else: see to it \
                 that the access network holds clients to theirs"
            ));
        }
        identities.push(identity);
    }
    let listed = listed.map(|path| self::listed(field, path)).transpose()?;
    Ok(Naming::new(identities, listed))
}

/// Reads a file that says whose each identity is.
fn listed(field: &str, path: &Path) -> Result<Arc<Identities>, Invalid> {
    let wrong = |reason: String| Invalid::at(format!("{field}.identities"), format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let raw: RawIdentities = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(raw.identities))
}

impl RawIpfix {
    fn validate(self, field: &str) -> Result<(String, Ipfix), Invalid> {
        if self.listen_udp.is_empty() && self.listen_tcp.is_empty() {
            return Err(Invalid::at(format!("{field}.listen-tcp"), "give an address, here or in listen-udp"));
        }
        some(&self.exporters, &format!("{field}.exporters"), "the prefixes that exporters send from")?;
        for (index, prefix) in self.exporters.iter().enumerate() {
            if *prefix != prefix.trunc() {
                let reason = format!("{prefix} has host bits: {} would be the prefix", prefix.trunc());
                return Err(Invalid::at(format!("{field}.exporters[{index}]"), reason));
            }
        }
        let dialect = self.dialect.parse().map_err(|right: &str| {
            Invalid::at(format!("{field}.dialect"), format!("{:?} is none: {right}", self.dialect))
        })?;
        if let Some(holds) = self.holds_s
            && !(60..=604_800).contains(&holds)
        {
            return Err(Invalid::at(format!("{field}.holds-s"), format!("{holds} s is not allowed: 60 to 604800")));
        }
        let holds = self.holds_s.map(Duration::from_secs);
        let ipfix = Ipfix { udp: self.listen_udp, tcp: self.listen_tcp, exporters: self.exporters, dialect, holds };
        Ok((self.name, ipfix))
    }
}

impl RawDeterministic {
    fn validate(self, field: &str) -> Result<Deterministic, Invalid> {
        let ranges = |name: &str, texts: &[String]| {
            let at = format!("{field}.{name}");
            let ranges: Result<Vec<Range>, _> = texts.iter().map(|text| text.parse()).collect();
            let ranges = ranges.map_err(|error| Invalid::at(at.clone(), format!("{error}")))?;
            Ranges::new(ranges)
                .ok_or_else(|| Invalid::at(at, "ranges of addresses, at least one, that do not meet are expected"))
        };
        let (internal, external) = (ranges("internal", &self.internal)?, ranges("external", &self.external)?);
        let order = match self.order {
            RawOrder::AddressByAddress => Order::AddressByAddress,
            RawOrder::BlockByBlock => Order::BlockByBlock,
            RawOrder::EveryAddress => Order::EveryAddress,
        };
        Deterministic::new(internal, external, self.first_port, self.last_port, self.ports_each, order)
            .map_err(|error| Invalid::at(field, error.to_string()))
    }
}

#[cfg(test)]
mod tests;
