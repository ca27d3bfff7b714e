//! Requests as JSON.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bgp_core::{Group, Guard, NextHop, Others, Prefixes, RouteAttributes, SetChange};
use bgp_wire::{Asn, Origin};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::flow::RawFlow;
use super::settings::RawDrain;
use super::shown::Draining;

/// One request; exactly one of the verbs is given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Request {
    pub(crate) id: Option<String>,
    pub(crate) put: Option<Routes>,
    pub(crate) patch: Option<Routes>,
    pub(crate) delete: Option<Named>,
    pub(crate) stream: Option<Stream>,
    pub(crate) flow: Option<RawFlow>,
    pub(crate) flows: Option<Named>,
    pub(crate) wait: Option<Wait>,
    pub(crate) get: Option<Named>,
    pub(crate) look_up: Option<LookUp>,
    pub(crate) sets: Option<All>,
    pub(crate) drain: Option<RawDraining>,
    pub(crate) resume: Option<Named>,
}

/// Routes of a set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Routes {
    set: String,
    #[serde(default)]
    routes: Vec<RawGroup>,
    #[serde(default)]
    remove: Vec<IpNet>,
}

/// A set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) set: String,
}

/// A change whose prefixes follow, a line each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Stream {
    pub(super) set: String,
    /// The lines are the whole set.
    #[serde(default)]
    pub(super) replace: bool,
}

/// Wait until the peers have what was accepted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Wait {
    /// A request that must have been accepted.
    pub(crate) request: Option<String>,
    /// A prefix that must be announced.
    pub(crate) prefix: Option<IpNet>,
    #[serde(default = "ten_seconds")]
    pub(crate) timeout_ms: u64,
}

const fn ten_seconds() -> u64 {
    10_000
}

/// Why is a prefix announced, or not?
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookUp {
    pub(crate) prefix: IpNet,
}

/// A set is to be told as one that goes, for a while, and then to be held back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawDraining {
    pub(super) set: String,
    #[serde(default = "half_a_minute")]
    for_s: u32,
    #[serde(default)]
    by: RawDrain,
}

const fn half_a_minute() -> u32 {
    30
}

impl RawDraining {
    pub(super) fn draining(&self) -> Draining {
        Draining { how: self.by.into(), lasts: Duration::from_secs(u64::from(self.for_s)) }
    }
}

/// No more to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct All {}

/// Attributes, and the prefixes that share them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawGroup {
    next_hop: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<RawOrigin>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    as_path: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local_preference: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extended_communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    large_communities: Vec<String>,
    /// Who is told; all, when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<RawGuard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawOrigin {
    Igp,
    Egp,
    Incomplete,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    NoExport,
    NoAdvertise,
}

impl RawGroup {
    pub(crate) fn attributes(&self) -> Result<RouteAttributes, String> {
        let next_hop = match self.next_hop.as_str() {
            "self" => NextHop::Own,
            text => {
                let wrong = |_| format!("next-hop: {text:?} is not understood: give an address, or self");
                text.parse::<IpAddr>().map_err(wrong)?.into()
            }
        };
        Ok(RouteAttributes {
            origin: match self.origin {
                None | Some(RawOrigin::Igp) => Origin::Igp,
                Some(RawOrigin::Egp) => Origin::Egp,
                Some(RawOrigin::Incomplete) => Origin::Incomplete,
            },
            as_path: self.as_path.iter().copied().map(Asn).collect(),
            med: self.med,
            local_pref: self.local_preference,
            communities: all(&self.communities)?,
            extended_communities: all(&self.extended_communities)?,
            large_communities: all(&self.large_communities)?,
            audience: self.peers.clone(),
            guard: self.guard.map(|guard| match guard {
                RawGuard::NoExport => Guard::NoExport,
                RawGuard::NoAdvertise => Guard::NoAdvertise,
            }),
            ..RouteAttributes::new(next_hop)
        })
    }

    /// As it is shown.
    pub(crate) fn new(route: &RouteAttributes, prefixes: Vec<IpNet>) -> Self {
        Self {
            next_hop: route.next_hop.to_string(),
            origin: match route.origin {
                Origin::Igp => None,
                Origin::Egp => Some(RawOrigin::Egp),
                Origin::Incomplete => Some(RawOrigin::Incomplete),
            },
            as_path: route.as_path.iter().map(|asn| asn.0).collect(),
            med: route.med,
            local_preference: route.local_pref,
            communities: route.communities.iter().map(ToString::to_string).collect(),
            extended_communities: route.extended_communities.iter().map(ToString::to_string).collect(),
            large_communities: route.large_communities.iter().map(ToString::to_string).collect(),
            peers: route.audience.clone(),
            guard: route.guard.map(|guard| match guard {
                Guard::NoExport => RawGuard::NoExport,
                Guard::NoAdvertise => RawGuard::NoAdvertise,
            }),
            prefixes,
        }
    }
}

/// Every text as what it stands for.
fn all<T: FromStr<Err: ToString>>(texts: &[String]) -> Result<Vec<T>, String> {
    texts.iter().map(|text| text.parse().map_err(|error: T::Err| error.to_string())).collect()
}

impl Routes {
    pub(crate) fn change(self, others: Others) -> Result<SetChange, String> {
        let mut add = Vec::new();
        for (at, raw) in self.routes.into_iter().enumerate() {
            let attributes = raw.attributes().map_err(|error| format!("routes[{at}]: {error}"))?;
            add.push(Group { attributes, prefixes: raw.prefixes.into_iter().collect() });
        }
        Ok(SetChange { set: self.set, others, remove: self.remove.into_iter().collect(), add })
    }
}

impl Named {
    /// A change that leaves nothing of the set.
    pub(crate) fn removal(self) -> SetChange {
        SetChange { set: self.set, others: Others::Go, remove: Prefixes::default(), add: Vec::new() }
    }
}
