//! Routes as they are shown, and the origin of an address.

use std::net::{IpAddr, Ipv4Addr};

use bgp_wire::{Asn, Attributes, Family};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::decision::{self, Candidate, Step};
use crate::import::Rejected;
use crate::peer::{PeerId, PeerSettings};
use crate::rib::Rib;
use crate::table::{NONE, Path};

/// What became of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Standing {
    /// In use.
    #[error("best")]
    Best,
    /// Usable, and another is better.
    #[error("not best: {0}")]
    Beaten(Step),
    /// Not usable.
    #[error("rejected: {0}")]
    Rejected(Rejected),
}

/// One peer's route to one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView<'a> {
    /// Whose.
    pub peer: PeerId,
    /// Its name.
    pub peer_name: &'a str,
    /// Its address.
    pub peer_address: IpAddr,
    /// The path identifier (RFC 7911), 0 where the session has none.
    pub path_id: u32,
    /// Where it sends.
    pub next_hop: IpAddr,
    /// When it came, or became another, in seconds of the clock of [`Rib::set_time`].
    pub since: u32,
    /// What is said of it; NEXT_HOP is beside.
    pub attributes: Attributes,
    /// LOCAL_PREF as it counts here.
    pub local_preference: u32,
    /// What became of it, and why.
    pub standing: Standing,
    /// Kept from a session that ended, or not told again yet (RFC 4724, RFC 7313).
    pub outdated: bool,
    /// Kept long after its router was lost (RFC 9494).
    pub llgr_stale: bool,
}

/// A prefix that holds the address that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<'a> {
    /// The prefix.
    pub prefix: IpNet,
    /// The routes to it, the best first.
    pub paths: Vec<PathView<'a>>,
}

/// Whose an address is (A7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The longest prefix that holds it and has a usable route.
    pub prefix: IpNet,
    /// The AS that originates it; `None` where routes name several, or none can be told.
    pub asn: Option<Asn>,
}

impl Rib {
    /// The prefixes that hold `address`, the longest first. An IPv4-mapped address is looked up as IPv4.
    #[must_use]
    pub fn look_up(&self, address: IpAddr) -> Vec<Match<'_>> {
        let (family, places) = self.holding(address);
        places.into_iter().filter_map(|at| self.shown(family, at)).collect()
    }

    /// The routes to exactly `prefix`.
    #[must_use]
    pub fn routes_to(&self, prefix: &IpNet) -> Option<Match<'_>> {
        let at = match prefix {
            IpNet::V4(net) => self.v4.find(&net.addr().octets(), net.prefix_len()),
            IpNet::V6(net) => self.v6.find(&net.addr().octets(), net.prefix_len()),
        };
        self.shown(Family::of(prefix), at?)
    }

    /// The prefixes of `family` in the places from `from` on, with their routes: at most `count` places.
    pub fn list(&self, family: Family, from: u32, count: u32) -> impl Iterator<Item = Match<'_>> {
        let until = from.saturating_add(count).min(self.slots(family));
        (from..until).filter_map(move |at| self.shown(family, at))
    }

    /// As [`Rib::list`], of the prefixes alone that `wanted` takes: the routes of the others are not looked at.
    pub fn list_of(
        &self,
        family: Family,
        (from, count): (u32, u32),
        wanted: impl Fn(&IpNet) -> bool,
    ) -> impl Iterator<Item = Match<'_>> {
        let until = from.saturating_add(count).min(self.slots(family));
        let places = (from..until).filter(move |at| self.prefix(family, *at).is_some_and(|prefix| wanted(&prefix)));
        places.filter_map(move |at| self.shown(family, at))
    }

    /// The best routes of `family` in the places from `from` on, at most `count` of them: prefixes and next hops.
    pub fn best(&self, family: Family, from: u32, count: u32) -> impl Iterator<Item = (IpNet, IpAddr)> + '_ {
        let until = from.saturating_add(count).min(self.slots(family));
        (from..until).filter_map(move |at| {
            let (_, _, attributes, _) = self.core.best_of(self.head(family, at)?)?;
            Some((self.prefix(family, at)?, self.core.attributes.next_hop(attributes)?))
        })
    }

    /// The next hops of the best route in a place, and of up to `most` in all that are as good.
    pub fn equals(&self, family: Family, at: u32, most: usize) -> Option<(IpNet, Vec<IpAddr>)> {
        let candidates: Vec<Candidate> = self.core.candidates(self.head(family, at)?).collect();
        let mut next_hops: Vec<IpAddr> = Vec::new();
        for candidate in decision::equals(&candidates, self.core.settings.always_compare_med) {
            let next_hop = self.core.attributes.next_hop(self.core.paths.get(candidate.at)?.attributes)?;
            if next_hops.len() < most && !next_hops.contains(&next_hop) {
                next_hops.push(next_hop);
            }
        }
        (!next_hops.is_empty()).then_some((self.prefix(family, at)?, next_hops))
    }

    /// The peers that were there once at least: how each is settled, and its router id.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &PeerSettings, Ipv4Addr)> {
        let all = (0..).map(PeerId).zip(&self.core.peers);
        let known = all.filter(|(_, peer)| peer.identifier != 0);
        known.map(|(id, peer)| (id, &peer.settings, Ipv4Addr::from(peer.identifier)))
    }

    /// Places of `family`, for [`Rib::list`].
    #[must_use]
    pub fn places(&self, family: Family) -> u32 {
        self.slots(family)
    }

    /// Whose `address` is: the origin of the longest prefix that holds it. An IPv4-mapped address is looked up as
    /// IPv4.
    #[must_use]
    pub fn origin(&self, address: IpAddr) -> Option<Origin> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.holding(address.octets()).find_map(|at| self.originator(Family::Ipv4, at)),
            IpAddr::V6(address) => self.v6.holding(address.octets()).find_map(|at| self.originator(Family::Ipv6, at)),
        }
    }

    /// Whose the prefix at `at` is, if it has a usable route.
    fn originator(&self, family: Family, at: u32) -> Option<Origin> {
        let head = self.head(family, at)?;
        let mut origins = self.core.candidates(head).map(|candidate| candidate.summary.origin_as());
        let first = origins.next()?;
        let asn = if origins.all(|other| other == first) { first } else { None };
        Some(Origin { prefix: self.prefix(family, at)?, asn })
    }

    fn holding(&self, address: IpAddr) -> (Family, Vec<u32>) {
        match address.to_canonical() {
            IpAddr::V4(address) => (Family::Ipv4, self.v4.holding(address.octets()).collect()),
            IpAddr::V6(address) => (Family::Ipv6, self.v6.holding(address.octets()).collect()),
        }
    }

    pub(crate) fn prefix(&self, family: Family, at: u32) -> Option<IpNet> {
        match family {
            Family::Ipv4 => {
                let entry = self.v4.get(at)?;
                Ipv4Net::new(entry.octets.into(), entry.bits).ok().map(IpNet::V4)
            }
            Family::Ipv6 => {
                let entry = self.v6.get(at)?;
                Ipv6Net::new(entry.octets.into(), entry.bits).ok().map(IpNet::V6)
            }
        }
    }

    fn shown(&self, family: Family, at: u32) -> Option<Match<'_>> {
        let (prefix, head) = (self.prefix(family, at)?, self.head(family, at)?);
        if head == NONE {
            return None;
        }
        let candidates: Vec<Candidate> = self.core.candidates(head).collect();
        let best = decision::best(&candidates, self.core.settings.always_compare_med);
        let standing = |at: u32, path: &Path| {
            if let Some(rejected) = Rejected::from_code(path.state.code()) {
                return Standing::Rejected(rejected);
            }
            match (candidates.iter().find(|candidate| candidate.at == at), best) {
                (Some(loser), Some(best)) if best.at != at => {
                    let always = self.core.settings.always_compare_med;
                    Standing::Beaten(decision::lost_at(loser, best, &candidates, always))
                }
                _ => Standing::Best,
            }
        };
        let paths = self.core.paths.list(head).filter_map(|(at, path)| {
            let peer = self.core.peers.get(usize::from(path.peer))?;
            let (next_hop, attributes) = self.core.attributes.get(path.attributes)?;
            Some(PathView {
                peer: PeerId(path.peer),
                peer_name: &peer.settings.name,
                peer_address: peer.settings.address,
                path_id: path.id,
                next_hop: next_hop.address,
                since: path.since,
                attributes,
                local_preference: self.core.attributes.summary(path.attributes).local_pref,
                standing: standing(at, path),
                outdated: path.epoch != peer.epoch(family),
                llgr_stale: path.state.is_llgr_stale(),
            })
        });
        Some(Match { prefix, paths: paths.collect() })
    }
}
