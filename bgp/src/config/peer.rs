//! The tables `peers`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgp_core::{Export, Options, RoleSetting, Settings};
use bgp_wire::{Asn, HoldTime, Role, RouterId};
use cloakway_crypto::Secret;
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use super::asn;
use crate::tcp::{LONGEST_PASSWORD, Protection};

const BGP_PORT: u16 = 179;

/// A router that hears the routes.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For logs, metrics and `show`.
    pub name: String,
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
    /// What its session is like.
    pub settings: Settings,
}

/// How a path is watched (RFC 5880).
#[derive(Debug, Clone, Copy)]
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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPeer {
    name: String,
    address: IpAddr,
    #[serde(default = "bgp_port")]
    port: u16,
    remote_as: u32,
    local_address: Option<IpAddr>,
    #[serde(default = "nine")]
    hold_time_s: u16,
    #[serde(default)]
    passive: bool,
    export: Option<RawExport>,
    delay_open_s: Option<u16>,
    #[serde(default)]
    add_path: bool,
    #[serde(default)]
    flowspec: bool,
    role: Option<RawRole>,
    #[serde(default)]
    strict_role: bool,
    md5_password_file: Option<PathBuf>,
    ttl_security_hops: Option<NonZeroU8>,
    bfd: Option<RawBfd>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawBfd {
    interval_ms: u32,
    #[serde(default = "three")]
    multiplier: NonZeroU8,
}

const fn three() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(2)
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawExport {
    All,
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

const fn bgp_port() -> u16 {
    BGP_PORT
}

const fn nine() -> u16 {
    9
}

/// What the tables need to know of the rest of the file.
pub(super) struct Own {
    pub(super) local_as: Asn,
    pub(super) router_id: RouterId,
    pub(super) private: BTreeSet<IpNet>,
    pub(super) listens: bool,
    pub(super) shutdown_communication: String,
}

/// Holds the tables to what can be.
pub(super) fn peers(raw: Vec<RawPeer>, own: &Own) -> Result<Vec<Peer>, Invalid> {
    if raw.is_empty() {
        return Err(Invalid::at("peers", "there is none: give at least the edge router"));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut peers = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("peers[{index}].{field}");
        let address = raw.address.to_canonical();
        if raw.name.is_empty() || !names.insert(raw.name.clone()) {
            return Err(Invalid::at(at("name"), format!("{:?} is empty or taken: each peer has its own", raw.name)));
        }
        if address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::at(at("address"), format!("{address} is no router: give its address")));
        }
        if !addresses.insert(address) {
            return Err(Invalid::at(
                at("address"),
                format!("{address} is given twice: one session carries both families"),
            ));
        }
        if raw.port == 0 {
            return Err(Invalid::at(at("port"), "0 is no port: 179 is the usual one"));
        }
        let remote_as = asn(raw.remote_as).map_err(|reason| Invalid::at(at("remote-as"), reason))?;
        if let Some(local) = raw.local_address
            && local.to_canonical().is_ipv4() != address.is_ipv4()
        {
            let reason = format!("{local} is not of the family of {address}: give an address of the same family");
            return Err(Invalid::at(at("local-address"), reason));
        }
        // Zero is legal BGP, but would leave our routes with the router for ever if this host died.
        let hold_time = HoldTime::from_secs(raw.hold_time_s).ok().filter(|hold_time| hold_time.duration().is_some());
        let hold_time = hold_time.ok_or_else(|| {
            Invalid::at(at("hold-time-s"), format!("{} s is not allowed: 3 to 65535", raw.hold_time_s))
        })?;
        if raw.passive && !own.listens {
            let reason = "true takes an address to listen on: give speaker.listen, or leave passive out";
            return Err(Invalid::at(at("passive"), reason));
        }
        let internal = remote_as == own.local_as;
        let export = match raw.export {
            Some(RawExport::All) => Export::All,
            Some(RawExport::Private) => Export::Private,
            Some(RawExport::Nothing) => Export::Nothing,
            None if internal => Export::All,
            None => Export::Nothing,
        };
        let md5_password = raw.md5_password_file.as_deref().map(md5_password).transpose();
        let md5_password = md5_password.map_err(|reason| Invalid::at(at("md5-password-file"), reason))?;
        let protection = Protection { md5_password, ttl_security_hops: raw.ttl_security_hops };
        let bfd = raw.bfd.map(bfd).transpose().map_err(|reason| Invalid::at(at("bfd.interval-ms"), reason))?;
        let role =
            role(raw.role, raw.strict_role, internal).map_err(|(field, reason)| Invalid::at(at(field), reason))?;
        peers.push(Peer {
            name: raw.name,
            address: SocketAddr::new(address, raw.port),
            local_address: raw.local_address.map(|local| local.to_canonical()),
            shutdown_communication: own.shutdown_communication.clone(),
            protection,
            bfd,
            settings: Settings {
                local_as: own.local_as,
                router_id: own.router_id,
                remote_as,
                hold_time,
                passive: raw.passive,
                private: own.private.clone(),
                export,
                options: Options {
                    delay_open: raw.delay_open_s.filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s))),
                    add_path: raw.add_path,
                    role,
                    flow: raw.flowspec,
                    import: false,
                },
            },
        });
    }
    Ok(peers)
}

fn bfd(raw: RawBfd) -> Result<Bfd, String> {
    match raw.interval_ms {
        10..=60_000 => {
            Ok(Bfd { interval: Duration::from_millis(u64::from(raw.interval_ms)), multiplier: raw.multiplier })
        }
        other => Err(format!("{other} ms is not allowed: 10 to 60000")),
    }
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
