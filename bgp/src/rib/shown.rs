//! What `show` tells of the table.

use std::net::IpAddr;

use bgp_rib::{Match, PathView, Standing};
use bgp_rpki::Validity;
use bgp_wire::Family;
use ipnet::IpNet;
use look_up_wire::Verdict;
use serde::Serialize;
use serde_json::Value;

use super::{Dump, Inner, Known, SLICE, Table, dump, seconds};
use crate::config::Peer;

/// One route as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct PathRow {
    prefix: String,
    peer: String,
    best: bool,
    reason: String,
    next_hop: String,
    as_path: String,
    origin_as: Option<u32>,
    /// What the RPKI says of the origin (RFC 6811).
    rpki: String,
    origin: Option<&'static str>,
    local_preference: u32,
    med: Option<u32>,
    communities: Vec<String>,
    extended_communities: Vec<String>,
    large_communities: Vec<String>,
    only_to_customer: Option<u32>,
    path_id: u32,
    /// Since it came, or became another.
    for_s: u32,
    outdated: bool,
    llgr_stale: bool,
}

#[derive(Debug, Serialize)]
struct LookUp {
    address: String,
    /// The longest prefix that has a usable route.
    prefix: Option<String>,
    /// Who originates it; none where routes differ.
    origin_as: Option<u32>,
    routes: Vec<PathRow>,
    /// What other roles are told: by `live` routes, or by the `dump`.
    answer: String,
    source: &'static str,
}

/// One peer's part of the table.
#[derive(Debug, Serialize)]
pub(crate) struct PeerRow {
    peer: String,
    import: bool,
    ready: bool,
    ipv4_routes: usize,
    ipv4_rejected: usize,
    ipv6_routes: usize,
    ipv6_rejected: usize,
    passed_on: usize,
}

/// The table as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    ipv4_prefixes: usize,
    ipv6_prefixes: usize,
    attribute_sets: usize,
    /// Why look-ups are not answered, if they are not.
    not_ready: Option<&'static str>,
    /// What decides where they are not.
    dump: Option<dump::Shown>,
    peers: Vec<PeerRow>,
}

fn received(inner: &Inner, found: Match<'_>) -> Vec<Received> {
    let told = |(name, known): (&String, &Known)| {
        let told = known.reader.is_some_and(|reader| inner.rib.tells_reader(reader, &found.prefix).is_ok());
        told.then(|| name.clone())
    };
    let told: Vec<String> = inner.peers.iter().filter_map(told).collect();
    let row = |path: &PathView<'_>| Received {
        prefix: found.prefix,
        peer: path.peer_name.to_owned(),
        next_hop: path.next_hop,
        communities: path.attributes.communities.iter().map(ToString::to_string).collect(),
        usable: !matches!(path.standing, Standing::Rejected(_)),
        reason: path.standing.to_string(),
        announced_to: if path.standing == Standing::Best { told.clone() } else { Vec::new() },
    };
    found.paths.iter().map(row).collect()
}

fn row(prefix: &str, path: PathView<'_>, validity: Validity) -> PathRow {
    let attributes = path.attributes;
    let texts = |items: Vec<String>| items;
    PathRow {
        prefix: prefix.to_owned(),
        peer: path.peer_name.to_owned(),
        best: path.standing == Standing::Best,
        reason: path.standing.to_string(),
        next_hop: path.next_hop.to_string(),
        as_path: attributes.as_path.as_ref().map(ToString::to_string).unwrap_or_default(),
        origin_as: attributes.as_path.as_ref().and_then(|path| path.origin()).map(|asn| asn.0),
        rpki: validity.to_string(),
        origin: attributes.origin.map(|origin| match origin {
            bgp_wire::Origin::Igp => "igp",
            bgp_wire::Origin::Egp => "egp",
            bgp_wire::Origin::Incomplete => "incomplete",
        }),
        local_preference: path.local_preference,
        med: attributes.multi_exit_disc,
        communities: texts(attributes.communities.iter().map(ToString::to_string).collect()),
        extended_communities: texts(attributes.extended_communities.iter().map(ToString::to_string).collect()),
        large_communities: texts(attributes.large_communities.iter().map(ToString::to_string).collect()),
        only_to_customer: attributes.only_to_customer.map(|asn| asn.0),
        path_id: path.path_id,
        for_s: seconds().saturating_sub(path.since),
        outdated: path.outdated,
        llgr_stale: path.llgr_stale,
    }
}

/// A route of a peer, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) prefix: IpNet,
    pub(crate) peer: String,
    pub(crate) next_hop: IpAddr,
    pub(crate) communities: Vec<String>,
    pub(crate) usable: bool,
    pub(crate) reason: String,
    pub(crate) announced_to: Vec<String>,
}

impl Table {
    /// Routes of peers to what is inside `inside`, at most `limit` and one more.
    pub(crate) async fn received(&self, inside: Option<IpNet>, limit: usize) -> Vec<Received> {
        let mut rows = Vec::new();
        for family in Family::ALL {
            let mut from = 0;
            loop {
                let places = {
                    let inner = self.lock();
                    for found in inner.rib.list(family, from, SLICE) {
                        if inside.is_none_or(|inside| inside.contains(&found.prefix)) && rows.len() <= limit {
                            rows.extend(received(&inner, found));
                        }
                    }
                    inner.rib.places(family)
                };
                from = from.saturating_add(SLICE);
                if from >= places || rows.len() > limit {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        rows
    }

    /// What peers have told of exactly `prefix`, in words; `None` when it is nothing.
    pub(crate) fn standing(&self, prefix: &IpNet) -> Option<String> {
        let inner = self.lock();
        let found = inner.rib.routes_to(prefix)?;
        let word = |path: &PathView<'_>| match path.standing {
            Standing::Best => format!("best of {}", path.peer_name),
            standing => format!("of {}, {standing}", path.peer_name),
        };
        Some(found.paths.iter().map(word).collect::<Vec<_>>().join("; "))
    }

    /// Whether `peer`, whose session is up, is told the best route of others to `prefix`.
    pub(crate) fn passes_on(&self, peer: &Peer, prefix: &IpNet) -> Result<(), String> {
        if !peer.exchange.pass_on {
            return Err("pass-on is not set: the peer is told no routes of others".to_owned());
        }
        let inner = self.lock();
        let reader = inner.peers.get(&peer.name).and_then(|known| known.reader);
        let reader = reader.ok_or("the session is not up, or has just come up")?;
        inner.rib.tells_reader(reader, prefix).map_err(|why| why.to_string())
    }

    /// Every route to every prefix that holds `address`, the longest prefix first and its best route first.
    pub(crate) fn look_up(&self, address: &str) -> Result<Value, String> {
        let wrong = || format!("{address:?} is no address: write it as 192.0.2.1 or 2001:db8::1");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (verdict, source) = self.whose(self.readiness(), address);
        let inner = self.lock();
        let origin = inner.rib.origin(address);
        let rows = |found: Match<'_>| {
            let prefix = found.prefix.to_string();
            let row = |path: PathView<'_>| {
                let origin = path.attributes.as_path.as_ref().and_then(|path| path.origin());
                let validity = self.payloads.borrow().validate(found.prefix, origin);
                row(&prefix, path, validity)
            };
            found.paths.into_iter().map(row).collect::<Vec<_>>()
        };
        let answer = LookUp {
            address: address.to_canonical().to_string(),
            prefix: origin.map(|origin| origin.prefix.to_string()),
            origin_as: origin.and_then(|origin| origin.asn).map(|asn| asn.0),
            routes: inner.rib.look_up(address).into_iter().flat_map(rows).collect(),
            answer: match verdict {
                Verdict::Origin { prefix, asn } => format!("{prefix} is of AS {asn}"),
                Verdict::Disputed { prefix } => format!("{prefix} is of several ASes"),
                Verdict::NoRoute => "no route".to_owned(),
                Verdict::NotReady => "not ready".to_owned(),
            },
            source,
        };
        serde_json::to_value(answer).map_err(|error| error.to_string())
    }

    /// Who has told what.
    pub(crate) fn shown(&self) -> Shown {
        let not_ready = self.readiness().err();
        let inner = self.lock();
        let peers = inner.peers.iter().map(|(name, known)| {
            let [v4, v6] = Family::ALL.map(|family| inner.rib.counts(known.id, family));
            PeerRow {
                peer: name.clone(),
                import: known.imports,
                ready: known.up.is_some() && known.ended != bgp_wire::Families::NONE,
                ipv4_routes: v4.routes,
                ipv4_rejected: v4.rejected,
                ipv6_routes: v6.routes,
                ipv6_rejected: v6.rejected,
                passed_on: known.reader.map(|reader| inner.rib.told(reader)).unwrap_or_default(),
            }
        });
        Shown {
            ipv4_prefixes: inner.rib.prefixes(Family::Ipv4),
            ipv6_prefixes: inner.rib.prefixes(Family::Ipv6),
            attribute_sets: inner.rib.attribute_sets(),
            not_ready,
            dump: self.dump.as_ref().map(Dump::shown),
            peers: peers.collect(),
        }
    }
}
