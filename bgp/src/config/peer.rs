//! The tables `peers` and `peer-groups`.

mod groups;
mod settled;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Duration;

use bgp_core::{Export, Filter, Options, Settings};
use bgp_wire::{Asn, HoldTime, RouterId};
use cloakway_runtime::config::Invalid;
use ipnet::IpNet;

use super::asn;
use super::prefix_list::Lists;
use crate::rib::settings::{self, Exchange, RawOrigins};
use crate::tcp::Protection;
use groups::Place;
pub(super) use groups::{Groups, groups};
use settled::{ao_keys, bfd, keep, max_prefix, md5_password, pass_on_stale, role, sets};
use written::{RawExport, RawHelper};
pub(super) use written::{RawGroup, RawPeer};

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
        beside.or_else(|| self.settings.reset_by(&new.settings))
    }
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
    let pass_on_stale = pass_on_stale(raw.pass_on_stale, internal && exchange.pass_on);
    let pass_on_stale = pass_on_stale.map_err(|reason| invalid("pass-on-stale", reason.to_owned()))?;
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
                pass_on_stale,
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
