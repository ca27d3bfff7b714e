//! Which routes of a peer can be used, and why not.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use bgp_wire::{Asn, Attributes, Community, Role};
use ipnet::IpNet;

use crate::attributes::{NextHop, Summary};
use crate::peer::Peer;
use crate::rib::Settings;

/// What is kept of what a peer tells (RFC 8212: nothing, unless the operator says so).
#[derive(Debug, Clone)]
pub enum Import {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// Everything; what the judge refuses is not used.
    Judged(Arc<dyn Judge>),
}

/// The operator's own conditions: prefix lists, origin validation.
pub trait Judge: Debug + Send + Sync {
    /// Whether a route to `prefix` that `origin` originated can be used.
    ///
    /// # Errors
    /// Why not.
    fn judge(&self, prefix: &IpNet, origin: Option<Asn>) -> Result<(), Rejected>;
}

/// Why a route is kept and not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Rejected {
    /// RFC 4271 §9.1.2.
    #[error("our own AS is on the path")]
    OwnAs = 1,
    /// RFC 4456 §8.
    #[error("we originated it: ORIGINATOR_ID is our router id")]
    OwnOriginator,
    /// RFC 4456 §8.
    #[error("it was here before: our router id is in CLUSTER_LIST")]
    OwnCluster,
    /// RFC 4271 §5.1.3 and §9.1.2.1.
    #[error("the next hop is our own address, or none that packets could be sent to")]
    NextHop,
    /// RFC 4271 §6.3.
    #[error("the path does not begin with the peer's AS")]
    FirstAs,
    /// RFC 9234 §5.
    #[error("a leak: the peer must not pass on to us what is marked only-to-customer")]
    Leak,
    /// RFC 7999 §3.3.
    #[error("marked blackhole, and the peer may not: accept-blackhole is not set")]
    Blackhole,
    /// Requirement A3.
    #[error("touches a private prefix of ours")]
    Private,
    /// The peer's prefix list.
    #[error("the peer's prefix list does not allow it")]
    NotListed,
    /// RFC 6811.
    #[error("the origin AS is not authorised (RPKI: invalid)")]
    OriginInvalid,
}

impl Rejected {
    const ALL: [Self; 10] = [
        Self::OwnAs,
        Self::OwnOriginator,
        Self::OwnCluster,
        Self::NextHop,
        Self::FirstAs,
        Self::Leak,
        Self::Blackhole,
        Self::Private,
        Self::NotListed,
        Self::OriginInvalid,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rejected| *rejected as u8 == code)
    }
}

/// What holds for all prefixes of an UPDATE with these attributes.
pub(crate) fn check(
    settings: &Settings,
    peer: &Peer,
    is_own: impl Fn(IpAddr) -> bool,
    next_hop: NextHop,
    attributes: &Attributes,
) -> Result<(), Rejected> {
    let path = attributes.as_path.as_ref();
    if path.is_some_and(|path| path.contains(settings.local_as)) {
        return Err(Rejected::OwnAs);
    }
    if peer.settings.internal {
        let own = settings.router_id.octets().into();
        if attributes.originator_id == Some(own) {
            return Err(Rejected::OwnOriginator);
        }
        if attributes.cluster_list.contains(&own) {
            return Err(Rejected::OwnCluster);
        }
    } else if peer.settings.enforce_first_as && path.and_then(|path| path.first()) != Some(peer.settings.asn) {
        return Err(Rejected::FirstAs);
    }
    let next_hop = next_hop.address;
    if next_hop.is_unspecified() || next_hop.is_loopback() || next_hop.is_multicast() || is_own(next_hop) {
        return Err(Rejected::NextHop);
    }
    if leaks(peer, attributes.only_to_customer) {
        return Err(Rejected::Leak);
    }
    if !peer.settings.accept_blackhole && attributes.communities.contains(&Community::BLACKHOLE) {
        return Err(Rejected::Blackhole);
    }
    Ok(())
}

/// RFC 9234 §5, ingress.
fn leaks(peer: &Peer, only_to_customer: Option<Asn>) -> bool {
    match (peer.settings.role, only_to_customer) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
        (Some(Role::Peer), Some(asn)) => asn != peer.settings.asn,
        _ => false,
    }
}

/// RFC 9234 §5, ingress: what a provider, a peer or a route server did not mark is marked in its name.
pub(crate) fn mark(peer: &Peer, attributes: &mut Attributes) {
    if matches!(peer.settings.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient)) {
        attributes.only_to_customer.get_or_insert(peer.settings.asn);
    }
}

/// What holds for one prefix.
pub(crate) fn check_prefix(
    settings: &Settings,
    peer: &Peer,
    prefix: &IpNet,
    summary: &Summary,
) -> Result<(), Rejected> {
    if settings.private.iter().any(|private| private.contains(prefix)) {
        return Err(Rejected::Private);
    }
    match &peer.settings.import {
        Import::Judged(judge) => judge.judge(prefix, summary.origin_as()),
        Import::All | Import::Nothing => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_of_seven_bits_that_is_not_zero() {
        for rejected in Rejected::ALL {
            assert!((1..0x80).contains(&(rejected as u8)));
            assert_eq!(Rejected::from_code(rejected as u8), Some(rejected));
        }
        assert_eq!(Rejected::from_code(0), None);
    }
}
