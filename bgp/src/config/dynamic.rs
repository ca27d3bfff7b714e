//! The tables `dynamic-peers`: neighbours that are known by the prefix that they connect from.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use bgp_wire::Asn;
use cloakway_runtime::config::Invalid;
use ipnet::IpNet;
use serde::Deserialize;

use super::asn;
use super::peer::{Groups, Own, Peer, RawPeer, template};

/// Neighbours that come from a prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicPeers {
    /// Where they connect from.
    pub prefix: IpNet,
    /// So many at a time.
    pub limit: usize,
    /// What they are like; name and address are of no meaning.
    pub template: Peer,
}

impl DynamicPeers {
    /// The neighbour that connects from `address`.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Peer {
        let group = self.template.group.as_deref().unwrap_or_default();
        let mut peer = Peer { name: format!("{group}/{}", address.ip()), address, ..self.template.clone() };
        peer.settings.options.address = Some(address.ip());
        peer
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawDynamic {
    prefix: IpNet,
    group: String,
    remote_as: Option<RawRemote>,
    #[serde(default = "hundred")]
    limit: usize,
}

const fn hundred() -> usize {
    100
}

/// One AS, or several of them and ranges such as "64512-65534".
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an AS number, or a list of numbers and ranges such as \"64512-65534\", is needed")]
enum RawRemote {
    One(u32),
    Several(Vec<RawRange>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an AS number, or a range such as \"64512-65534\", is needed")]
enum RawRange {
    Number(u32),
    Range(String),
}

impl RawRange {
    fn range(&self) -> Result<RangeInclusive<Asn>, String> {
        let wrong = |text: &str| format!("{text:?} is no range: write it as \"64512-65534\"");
        let (first, last) = match self {
            Self::Number(number) => (*number, *number),
            Self::Range(text) => {
                let (first, last) = text.split_once('-').ok_or_else(|| wrong(text))?;
                let number = |part: &str| part.trim().parse::<u32>().map_err(|_| wrong(text));
                (number(first)?, number(last)?)
            }
        };
        let (first, last) = (asn(first)?, asn(last)?);
        if first > last {
            return Err(wrong(&format!("{first}-{last}")));
        }
        Ok(first..=last)
    }
}

/// Holds the tables to what can be.
pub(super) fn dynamic(
    raw: Vec<RawDynamic>,
    groups: &Groups,
    peers: &[Peer],
    own: &Own,
) -> Result<Vec<DynamicPeers>, Invalid> {
    let mut all: Vec<DynamicPeers> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("dynamic-peers[{index}].{field}");
        let prefix = raw.prefix;
        if prefix != prefix.trunc() {
            return Err(Invalid::at(
                at("prefix"),
                format!("{prefix} has host bits set: {} is the prefix", prefix.trunc()),
            ));
        }
        if all.iter().any(|other| other.prefix == prefix) {
            return Err(Invalid::at(at("prefix"), format!("{prefix} is given twice: once is enough")));
        }
        if raw.limit == 0 {
            return Err(Invalid::at(at("limit"), "0 lets nobody in: at least 1"));
        }
        if !own.listens {
            return Err(Invalid::at(at("prefix"), "neighbours that connect to us take speaker.listen: give it"));
        }
        let among: Vec<RangeInclusive<Asn>> = match raw.remote_as {
            None => Vec::new(),
            Some(RawRemote::One(number)) => {
                vec![RawRange::Number(number).range().map_err(|reason| Invalid::at(at("remote-as"), reason))?]
            }
            Some(RawRemote::Several(ranges)) => {
                let ranges: Result<Vec<_>, _> = ranges.iter().map(RawRange::range).collect();
                ranges.map_err(|reason| Invalid::at(at("remote-as"), reason))?
            }
        };
        let ours = among.iter().any(|range| range.contains(&own.local_as));
        let others = among.iter().any(|range| *range != (own.local_as..=own.local_as));
        if ours && others {
            let reason =
                format!("our own AS {} among others: give internal neighbours a table of their own", own.local_as);
            return Err(Invalid::at(at("remote-as"), reason));
        }
        let like = RawPeer::of_group(raw.group, among.first().map(|range| range.start().0));
        let mut template = template(like, prefix, groups, format!("dynamic-peers[{index}]"), own)?;
        if among.len() > 1 || among.first().is_some_and(|range| range.start() != range.end()) {
            template.settings.options.remote_as_among = among;
        }
        if template.bfd.is_some() {
            let reason = "its group has bfd, which takes a neighbour that is there before it connects: leave it out";
            return Err(Invalid::at(at("group"), reason));
        }
        // The kernel asks everybody in the prefix for a signature, a peer of the file without one too.
        let unsigned = peers.iter().find(|peer| {
            prefix.contains(&peer.address.ip()) && template.protection.is_signed() && !peer.protection.is_signed()
        });
        if let Some(peer) = unsigned {
            let reason = format!("{prefix} is signed and peer {:?} inside it is not: sign both or none", peer.name);
            return Err(Invalid::at(at("prefix"), reason));
        }
        all.push(DynamicPeers { prefix, limit: raw.limit, template });
    }
    Ok(all)
}
