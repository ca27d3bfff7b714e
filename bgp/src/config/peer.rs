//! The tables `peers` and `peer-groups`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgp_core::{Export, Filter, Helper, MaxPrefix, Options, RoleSetting, SetNames, Settings, check_name};
use bgp_wire::{Asn, HoldTime, Role, RouterId};
use cloakway_crypto::Secret;
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use super::asn;
use super::dynamic::DynamicPeers;
use super::prefix_list::Lists;
use crate::inject;
use crate::rib::settings::{self, Exchange, RawImport, RawOrigins};
use crate::tcp::{LONGEST_PASSWORD, Protection, ao};

const BGP_PORT: u16 = 179;
/// So soon our routes are gone when this host dies.
const HOLD_TIME_S: u16 = 9;

/// A router that hears the routes.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// For logs, metrics and `show`.
    pub name: String,
    /// The group whose settings it takes over.
    pub group: Option<String>,
    /// Where it is.
    pub address: SocketAddr,
    /// Where we connect from.
    pub local_address: Option<IpAddr>,
    /// What its operator is told when we stop (RFC 9003); may be empty.
    pub shutdown_communication: String,
    /// What protects its TCP.
    pub protection: Protection,
    /// How the path to it is watched, if it is.
    pub bfd: Option<Bfd>,
    /// What is kept of its routes, and what it is told of others'.
    pub exchange: Exchange,
    /// What its session is like.
    pub settings: Settings,
}

/// How a path is watched (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Between packets.
    pub interval: Duration,
    /// So many missed mean that the path is lost.
    pub multiplier: NonZeroU8,
}

impl Peer {
    /// Whether it is in our own AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.settings.is_internal()
    }

    /// Why both can't be: a router has one session, or several from different addresses of ours.
    fn clashes_with(&self, other: &Self) -> Option<(&'static str, String)> {
        let address = self.address.ip();
        if address != other.address.ip() {
            return None;
        }
        if self.local_address.is_none() || other.local_address.is_none() || self.local_address == other.local_address {
            let reason = format!(
                "{address} is given twice: one session carries both families, and a further one takes a local-address \
                 of its own"
            );
            return Some(("address", reason));
        }
        let signed_alike = self.protection.md5_password == other.protection.md5_password
            && self.protection.ao_keys == other.protection.ao_keys;
        (!signed_alike).then(|| ("address", format!("{address} is given twice and signs differently: sign alike")))
    }

    /// The first setting that `new` has otherwise and for which its session has to start again.
    #[must_use]
    pub fn reset_by(&self, new: &Self) -> Option<&'static str> {
        let differs = [
            ("address", self.address != new.address),
            ("local-address", self.local_address != new.local_address),
            ("md5-password-file", self.protection.md5_password != new.protection.md5_password),
            ("ao-keys", self.protection.ao_keys != new.protection.ao_keys),
            ("ttl-security-hops", self.protection.ttl_security_hops != new.protection.ttl_security_hops),
        ];
        let beside = differs.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name);
        beside.or_else(|| self.exchange.differs(&new.exchange)).or_else(|| self.settings.reset_by(&new.settings))
    }
}

/// Makes the tables that hold settings of a peer: the peer's own, and a group's, whose settings count where the peer
/// has none.
macro_rules! peer_settings {
    ($($field:ident: $type:ty,)*) => {
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct RawPeer {
            #[serde(default)]
            name: String,
            address: Option<IpAddr>,
            group: Option<String>,
            $($field: Option<$type>,)*
        }

        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct RawGroup {
            name: String,
            $($field: Option<$type>,)*
        }

        impl RawPeer {
            /// Takes what it has not from `group`, and says which those were.
            fn inherit(&mut self, group: &RawGroup) -> BTreeSet<&'static str> {
                let mut inherited = BTreeSet::new();
                $(if self.$field.is_none() && group.$field.is_some() {
                    self.$field = group.$field.clone();
                    inherited.insert(stringify!($field));
                })*
                inherited
            }
        }
    };
}

peer_settings! {
    port: u16,
    remote_as: u32,
    local_address: IpAddr,
    hold_time_s: u16,
    passive: bool,
    export: RawExport,
    export_prefixes: String,
    import: RawImport,
    import_prefixes: String,
    rpki: RawOrigins,
    accept_blackhole: bool,
    enforce_first_as: bool,
    pass_on: bool,
    delay_open_s: u16,
    add_path: bool,
    keep: bool,
    keep_s: u32,
    sets: Vec<String>,
    graceful_restart: RawHelper,
    max_prefix: RawMaxPrefix,
    flowspec: bool,
    role: RawRole,
    strict_role: bool,
    md5_password_file: PathBuf,
    ao_keys: Vec<RawAoKey>,
    ttl_security_hops: NonZeroU8,
    bfd: RawBfd,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawBfd {
    interval_ms: u32,
    #[serde(default = "three")]
    multiplier: NonZeroU8,
}

const fn three() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(2)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawAoKey {
    id: u8,
    recv_id: u8,
    algorithm: RawAlgorithm,
    key_file: PathBuf,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum RawAlgorithm {
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    #[serde(rename = "aes-128-cmac-96")]
    AesCmac,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawMaxPrefix {
    limit: u32,
    #[serde(default = "three_quarters")]
    warn_percent: u8,
    #[serde(default)]
    action: RawAction,
    restart_s: Option<u32>,
}

const fn three_quarters() -> u8 {
    75
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAction {
    Warn,
    #[default]
    Idle,
}

/// How many routes are taken, or which field is wrong and why.
fn max_prefix(raw: RawMaxPrefix, imports: bool) -> Result<MaxPrefix, (&'static str, String)> {
    if !imports {
        return Err(("", "nothing is taken from the peer: give import = \"all\" beside it".to_owned()));
    }
    if raw.limit == 0 {
        return Err((".limit", "0 is not allowed: at least 1, or no import".to_owned()));
    }
    if !(1..=100).contains(&raw.warn_percent) {
        return Err((".warn-percent", format!("{} is not allowed: 1 to 100", raw.warn_percent)));
    }
    if raw.restart_s.is_some() && raw.action == RawAction::Warn {
        return Err((".restart-s", "a warning ends nothing: leave it out, or give action = \"idle\"".to_owned()));
    }
    Ok(MaxPrefix {
        limit: raw.limit,
        warn_percent: raw.warn_percent,
        ends: raw.action == RawAction::Idle,
        restart: raw.restart_s.map(|s| Duration::from_secs(u64::from(s))),
    })
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHelper {
    #[serde(default = "two_minutes")]
    restart_s: u16,
    #[serde(default)]
    long_lived_s: u32,
}

const fn two_minutes() -> u16 {
    120
}

impl RawHelper {
    fn helper(self) -> Helper {
        Helper {
            restart: Duration::from_secs(u64::from(self.restart_s)),
            long_lived: Duration::from_secs(u64::from(self.long_lived_s)),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawExport {
    All,
    Injected,
    Private,
    Nothing,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawRole {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// What the tables need to know of the rest of the file.
pub(super) struct Own {
    pub(super) local_as: Asn,
    pub(super) router_id: RouterId,
    pub(super) private: BTreeSet<IpNet>,
    pub(super) listens: bool,
    pub(super) shutdown_communication: String,
    pub(super) lists: Lists,
    /// Sets that peers are to keep while we are down, and for how many seconds.
    pub(super) kept: BTreeMap<String, u32>,
}

/// The groups by name, and where each stands in the file.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, (usize, RawGroup)>);

/// Holds the names of groups to what can be; their settings are looked at where they are used.
pub(super) fn groups(raw: Vec<RawGroup>) -> Result<Groups, Invalid> {
    let mut groups = BTreeMap::new();
    for (index, group) in raw.into_iter().enumerate() {
        let name = group.name.clone();
        if name.is_empty() || groups.insert(name.clone(), (index, group)).is_some() {
            let reason = format!("{name:?} is empty or taken: each group has its own");
            return Err(Invalid::at(format!("peer-groups[{index}].name"), reason));
        }
    }
    Ok(Groups(groups))
}

/// Where the settings of one peer are written: in its own table, or in its group's.
struct Place {
    table: String,
    group: Option<(usize, BTreeSet<&'static str>)>,
}

impl Place {
    /// The path of `field`, which is written in kebab case.
    fn of(&self, field: &str) -> String {
        let inherited = field.split('.').next().unwrap_or(field).replace('-', "_");
        match &self.group {
            Some((index, fields)) if fields.contains(inherited.as_str()) => format!("peer-groups[{index}].{field}"),
            _ => format!("{}.{field}", self.table),
        }
    }
}

impl Groups {
    /// Those that nobody is of.
    pub(super) fn unused(&self, peers: &[Peer], dynamic: &[DynamicPeers]) -> Vec<String> {
        let templates = dynamic.iter().map(|dynamic| &dynamic.template);
        let used: BTreeSet<&str> = peers.iter().chain(templates).filter_map(|peer| peer.group.as_deref()).collect();
        self.0.keys().filter(|name| !used.contains(name.as_str())).cloned().collect()
    }

    /// Fills up `raw` from its group.
    fn fill(&self, raw: &mut RawPeer, table: String) -> Result<Place, Invalid> {
        let Some(name) = &raw.group else { return Ok(Place { table, group: None }) };
        let Some((index, group)) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let reason = format!("there is no group {name:?} among [[peer-groups]]: there is {}", known.join(", "));
            return Err(Invalid::at(format!("{table}.group"), reason));
        };
        let inherited = raw.inherit(group);
        Ok(Place { table, group: Some((*index, inherited)) })
    }
}

/// Holds the tables to what can be.
pub(super) fn peers(raw: Vec<RawPeer>, groups: &Groups, own: &Own) -> Result<Vec<Peer>, Invalid> {
    let mut names = BTreeSet::new();
    let mut peers: Vec<Peer> = Vec::new();
    for (index, mut raw) in raw.into_iter().enumerate() {
        let place = groups.fill(&mut raw, format!("peers[{index}]"))?;
        if raw.name.is_empty() || !names.insert(raw.name.clone()) {
            let reason = format!("{:?} is empty or taken: each peer has its own", raw.name);
            return Err(Invalid::at(place.of("name"), reason));
        }
        let Some(address) = raw.address.map(|address| address.to_canonical()) else {
            return Err(Invalid::at(place.of("address"), "there is none: give the router's"));
        };
        if address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::at(place.of("address"), format!("{address} is no router: give its address")));
        }
        let Some(remote_as) = raw.remote_as else {
            return Err(Invalid::at(place.of("remote-as"), "there is none: give it here or in the group"));
        };
        let remote_as = asn(remote_as).map_err(|reason| Invalid::at(place.of("remote-as"), reason))?;
        let peer = peer(raw, address, remote_as, &place, own)?;
        if let Some((field, reason)) = peers.iter().find_map(|other| peer.clashes_with(other)) {
            return Err(Invalid::at(place.of(field), reason));
        }
        peers.push(peer);
    }
    Ok(peers)
}

/// What neighbours from `prefix` are like.
pub(super) fn template(
    mut raw: RawPeer,
    prefix: IpNet,
    groups: &Groups,
    table: String,
    own: &Own,
) -> Result<Peer, Invalid> {
    let place = groups.fill(&mut raw, table)?;
    let Some(remote_as) = raw.remote_as else {
        return Err(Invalid::at(place.of("remote-as"), "there is none: give it here or in the group"));
    };
    let remote_as = asn(remote_as).map_err(|reason| Invalid::at(place.of("remote-as"), reason))?;
    peer(RawPeer { passive: Some(true), ..raw }, prefix.addr(), remote_as, &place, own)
}

impl RawPeer {
    /// One with nothing of its own but an AS, if there is one.
    pub(super) fn of_group(group: String, remote_as: Option<u32>) -> Self {
        Self { group: Some(group), remote_as, ..Self::default() }
    }
}

/// One peer of the file, or the likeness of those that a prefix makes.
fn peer(raw: RawPeer, address: IpAddr, remote_as: Asn, place: &Place, own: &Own) -> Result<Peer, Invalid> {
    let invalid = |field: &str, reason: String| Invalid::at(place.of(field), reason);
    let port = raw.port.unwrap_or(BGP_PORT);
    if port == 0 {
        return Err(invalid("port", "0 is no port: 179 is the usual one".to_owned()));
    }
    if let Some(local) = raw.local_address
        && local.to_canonical().is_ipv4() != address.is_ipv4()
    {
        let reason = format!("{local} is not of the family of {address}: give an address of the same family");
        return Err(invalid("local-address", reason));
    }
    // Zero is legal BGP, but would leave our routes with the router for ever if this host died.
    let hold_time_s = raw.hold_time_s.unwrap_or(HOLD_TIME_S);
    let hold_time = HoldTime::from_secs(hold_time_s).ok().filter(|hold_time| hold_time.duration().is_some());
    let hold_time =
        hold_time.ok_or_else(|| invalid("hold-time-s", format!("{hold_time_s} s is not allowed: 3 to 65535")))?;
    let passive = raw.passive.unwrap_or_default();
    if passive && !own.listens {
        let reason = "true takes an address to listen on: give speaker.listen, or leave passive out".to_owned();
        return Err(invalid("passive", reason));
    }
    let internal = remote_as == own.local_as;
    let export = match raw.export {
        Some(RawExport::All) => Export::All,
        Some(RawExport::Injected) => Export::Injected,
        Some(RawExport::Private) => Export::Private,
        Some(RawExport::Nothing) => Export::Nothing,
        None if internal => Export::All,
        None => Export::Nothing,
    };
    let told_of_sets = matches!(export, Export::All | Export::Injected);
    if raw.keep == Some(true) && !told_of_sets {
        let reason = "true takes a peer that is told of sets: give export = \"injected\"".to_owned();
        return Err(invalid("keep", reason));
    }
    // A session that carries private routes keeps nothing by itself: whether they go with it is up to the router.
    let keeps = raw.keep.unwrap_or(internal && export == Export::Injected);
    let sets = sets(raw.sets, told_of_sets).map_err(|reason| invalid("sets", reason))?;
    let keep = keep(raw.keep_s, keeps, own, sets.as_ref()).map_err(|reason| invalid("keep-s", reason))?;
    let filter = own.lists.filter(raw.export_prefixes.as_deref());
    let filter = filter.map_err(|reason| invalid("export-prefixes", reason))?;
    let import = settings::import(raw.import, raw.import_prefixes.as_deref(), |name| own.lists.filter(name));
    if raw.rpki == Some(RawOrigins::RejectInvalid) && internal {
        let reason = "origins are held against the RPKI where routes enter the AS: give it to external peers";
        return Err(invalid("rpki", reason.to_owned()));
    }
    let exchange = Exchange {
        import: import.map_err(|(field, reason)| invalid(field, reason))?,
        accept_blackhole: raw.accept_blackhole.unwrap_or_default(),
        enforce_first_as: raw.enforce_first_as.unwrap_or(true),
        reject_invalid: raw.rpki == Some(RawOrigins::RejectInvalid),
        pass_on: raw.pass_on.unwrap_or_default(),
    };
    let max_prefix = raw.max_prefix.map(|raw| max_prefix(raw, exchange.import != Filter::Nothing)).transpose();
    let max_prefix = max_prefix.map_err(|(field, reason)| invalid(&format!("max-prefix{field}"), reason))?;
    let md5_password = raw.md5_password_file.as_deref().map(md5_password).transpose();
    let md5_password = md5_password.map_err(|reason| invalid("md5-password-file", reason))?;
    let ao_keys = ao_keys(raw.ao_keys.unwrap_or_default(), md5_password.is_some());
    let ao_keys = ao_keys.map_err(|(field, reason)| invalid(&format!("ao-keys{field}"), reason))?;
    let protection = Protection { md5_password, ao_keys, ttl_security_hops: raw.ttl_security_hops };
    let bfd = raw.bfd.map(bfd).transpose().map_err(|reason| invalid("bfd.interval-ms", reason))?;
    let role = role(raw.role, raw.strict_role.unwrap_or_default(), internal)
        .map_err(|(field, reason)| invalid(field, reason.to_owned()))?;
    Ok(Peer {
        name: raw.name,
        group: raw.group,
        address: SocketAddr::new(address, port),
        local_address: raw.local_address.map(|local| local.to_canonical()),
        shutdown_communication: own.shutdown_communication.clone(),
        protection,
        bfd,
        exchange: exchange.clone(),
        settings: Settings {
            local_as: own.local_as,
            router_id: own.router_id,
            remote_as,
            hold_time,
            passive,
            private: own.private.clone(),
            export,
            options: Options {
                delay_open: raw.delay_open_s.filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s))),
                add_path: raw.add_path.unwrap_or_default(),
                flow: raw.flowspec.unwrap_or_default(),
                role,
                filter,
                import: exchange.import != Filter::Nothing,
                pass_on: exchange.pass_on,
                keep,
                sets,
                address: Some(address),
                max_prefix,
                helper: raw.graceful_restart.map(RawHelper::helper),
                ..Options::default()
            },
        },
    })
}

/// The sets that the peer is told, if not all.
fn sets(raw: Option<Vec<String>>, told_of_sets: bool) -> Result<Option<SetNames>, String> {
    let Some(names) = raw else { return Ok(None) };
    if !told_of_sets {
        return Err("the peer is told of no set: give export = \"injected\" or \"all\" beside it".to_owned());
    }
    if names.is_empty() {
        return Err("none is named: name the sets that the peer is told, or leave it out".to_owned());
    }
    names.iter().try_for_each(|name| check_name("set", name)).map_err(|error| error.to_string())?;
    Ok(Some(names.into_iter().collect()))
}

/// For how many seconds the peer keeps what is to be kept. A session has one time for all of a family (RFC 9494 §3.1):
/// unless given, the shortest that one of its sets is to be kept, so that all of them are and none for longer.
fn keep(given: Option<u32>, keeps: bool, own: &Own, sets: Option<&SetNames>) -> Result<Option<u32>, String> {
    let told = own.kept.iter().filter(|(name, _)| sets.is_none_or(|sets| sets.has(name))).map(|(_, keep_s)| *keep_s);
    let Some(given) = given else { return Ok(told.min().filter(|_| keeps)) };
    if !keeps {
        return Err("the peer keeps nothing: give keep = true beside it".to_owned());
    }
    inject::settings::keep_time(given)?;
    match told.max() {
        Some(longest) if longest >= given => Ok(Some(given)),
        Some(longest) => {
            Err(format!("{given} s, and no set that the peer is told is to be kept for longer than {longest} s"))
        }
        None => Err("no set that the peer is told is to be kept: give keep-s to one of inject.sets".to_owned()),
    }
}

fn bfd(raw: RawBfd) -> Result<Bfd, String> {
    match raw.interval_ms {
        10..=60_000 => {
            Ok(Bfd { interval: Duration::from_millis(u64::from(raw.interval_ms)), multiplier: raw.multiplier })
        }
        other => Err(format!("{other} ms is not allowed: 10 to 60000")),
    }
}

/// The keys, or which of their fields is wrong and why.
fn ao_keys(raw: Vec<RawAoKey>, signed_by_md5: bool) -> Result<Vec<ao::Key>, (String, String)> {
    if raw.is_empty() {
        return Ok(Vec::new());
    }
    if signed_by_md5 {
        let reason = "md5-password-file is given too: a connection is signed one way, so leave one out";
        return Err((String::new(), reason.to_owned()));
    }
    let mut keys: Vec<ao::Key> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let wrong = |field: &str, reason: String| (format!("[{index}].{field}"), reason);
        for (field, taken) in [
            ("id", keys.iter().any(|key| key.id == raw.id)),
            ("recv-id", keys.iter().any(|key| key.receive_id == raw.recv_id)),
        ] {
            if taken {
                return Err(wrong(field, "another key of the peer has it: each has its own".to_owned()));
            }
        }
        let secret = config::read_secret(&raw.key_file).map_err(|reason| wrong("key-file", reason))?;
        let length = secret.expose().len();
        if length > ao::LONGEST_KEY {
            let reason = format!("{length} octets: TCP-AO takes up to {} here", ao::LONGEST_KEY);
            return Err(wrong("key-file", reason));
        }
        let algorithm = match raw.algorithm {
            RawAlgorithm::HmacSha1 => ao::Algorithm::HmacSha1,
            RawAlgorithm::AesCmac => ao::Algorithm::AesCmac,
        };
        keys.push(ao::Key { id: raw.id, receive_id: raw.recv_id, algorithm, secret });
    }
    ao::available().map_err(|reason| (String::new(), reason))?;
    Ok(keys)
}

fn md5_password(path: &Path) -> Result<Secret<String>, String> {
    let password = config::read_secret(path)?;
    match password.expose().len() {
        0..=LONGEST_PASSWORD => Ok(password),
        length => Err(format!("{length} octets: TCP-MD5 takes up to {LONGEST_PASSWORD}")),
    }
}

/// RFC 9234 §4: roles are for external sessions.
fn role(
    raw: Option<RawRole>,
    strict: bool,
    internal: bool,
) -> Result<Option<RoleSetting>, (&'static str, &'static str)> {
    let Some(raw) = raw else {
        return if strict { Err(("strict-role", "true takes a role: give one")) } else { Ok(None) };
    };
    if internal {
        return Err(("role", "roles are for external peers, and this one is in our own AS: leave it out"));
    }
    let role = match raw {
        RawRole::Provider => Role::Provider,
        RawRole::RouteServer => Role::RouteServer,
        RawRole::RouteServerClient => Role::RouteServerClient,
        RawRole::Customer => Role::Customer,
        RawRole::Peer => Role::Peer,
    };
    Ok(Some(RoleSetting { role, strict }))
}
