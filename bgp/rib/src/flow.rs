//! Whether received flow rules are what they may be (RFC 8955 §6, RFC 9117): told by whoever is the way to their
//! destination, and about nothing that somebody else is the way to.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;

use bgp_wire::{Asn, Family};
use ipnet::IpNet;

use crate::peer::PeerId;
use crate::rib::{Rib, Walk};

/// A rule that a peer told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowClaim {
    /// Who told it.
    pub peer: PeerId,
    /// The prefix that its packets go to, if it names one.
    pub destination: Option<IpNet>,
    /// The AS that it came from, by its path.
    pub neighbour: Option<Asn>,
    /// Its path is empty, or within the confederation.
    pub local: bool,
    /// Who brought it into the AS (RFC 4456).
    pub originator: Option<Ipv4Addr>,
}

/// Why a rule must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Infeasible {
    /// RFC 8955 §6 (a).
    #[error("it names no destination (RFC 8955 §6 a)")]
    NoDestination,
    /// RFC 8955 §6 (b).
    #[error("no unicast route covers its destination (RFC 8955 §6 b)")]
    NoRoute,
    /// RFC 9117 §4.1.
    #[error("the best route to {0} comes from another originator (RFC 9117 §4.1)")]
    Originator(IpNet),
    /// RFC 9117 §4.2.
    #[error("its path does not begin with the AS of the best route to {0} (RFC 9117 §4.2)")]
    Neighbour(IpNet),
    /// RFC 8955 §6 (c).
    #[error("{0}, inside its destination, comes from another neighbouring AS (RFC 8955 §6 c)")]
    MoreSpecific(IpNet),
}

/// Rules that are held against the table together.
#[derive(Debug, Clone)]
pub struct FlowCheck {
    verdicts: Vec<Result<(), Infeasible>>,
    /// By destination: the rule's place, and the neighbouring AS of the best route to it, 0 for our own; `None` where there
    /// is no route.
    destinations: HashMap<IpNet, Vec<(usize, Option<u32>)>>,
    /// Lengths of the destinations.
    lengths: BTreeSet<(Family, u8)>,
}

/// The best route to the longest prefix that covers a destination.
struct BestMatch {
    prefix: IpNet,
    originator: IpAddr,
    neighbour: u32,
}

impl Rib {
    /// Holds rules against the best routes to their destinations; what is inside these takes [`FlowCheck::walk`].
    #[must_use]
    pub fn check_flows(&self, claims: &[FlowClaim]) -> FlowCheck {
        let mut check = FlowCheck { verdicts: Vec::new(), destinations: HashMap::new(), lengths: BTreeSet::new() };
        for (place, claim) in claims.iter().enumerate() {
            let Some(destination) = claim.destination.map(|destination| destination.trunc()) else {
                check.verdicts.push(Err(Infeasible::NoDestination));
                continue;
            };
            let best = self.best_match(&destination);
            check.verdicts.push(self.by_best(claim, best.as_ref()));
            let neighbour = best.map(|best| best.neighbour);
            check.destinations.entry(destination).or_default().push((place, neighbour));
            check.lengths.insert((Family::of(&destination), destination.prefix_len()));
        }
        check
    }

    /// Rules (b) of RFC 9117 §4.1, and §4.2.
    fn by_best(&self, claim: &FlowClaim, best: Option<&BestMatch>) -> Result<(), Infeasible> {
        let Some(peer) = self.core.peer(claim.peer) else { return Err(Infeasible::NoRoute) };
        if claim.local && peer.settings.internal {
            return Ok(());
        }
        let best = best.ok_or(Infeasible::NoRoute)?;
        let originator = claim.originator.map_or(peer.settings.address, IpAddr::V4);
        if originator != best.originator {
            return Err(Infeasible::Originator(best.prefix));
        }
        if !peer.settings.internal && claim.neighbour.map_or(0, |asn| asn.0) != best.neighbour {
            return Err(Infeasible::Neighbour(best.prefix));
        }
        Ok(())
    }

    fn best_match(&self, destination: &IpNet) -> Option<BestMatch> {
        let family = Family::of(destination);
        let places: Vec<u32> = match destination.addr() {
            IpAddr::V4(address) => self.v4.holding(address.octets()).collect(),
            IpAddr::V6(address) => self.v6.holding(address.octets()).collect(),
        };
        places.into_iter().find_map(|at| {
            let prefix = self.prefix(family, at).filter(|prefix| prefix.prefix_len() <= destination.prefix_len())?;
            let (peer, _, attributes, _) = self.core.best_of(self.head(family, at)?)?;
            let summary = self.core.attributes.summary(attributes);
            let originator = match summary.originator {
                0 => self.core.peer(PeerId(peer))?.settings.address,
                originator => IpAddr::V4(originator.into()),
            };
            Some(BestMatch { prefix, originator, neighbour: summary.neighbour })
        })
    }
}

impl FlowCheck {
    /// Looks at the best routes of `family` in the next `slots` places (RFC 8955 §6 c); `Break` when all were seen.
    pub fn walk(&mut self, rib: &Rib, family: Family, walk: &mut Walk, slots: u32) -> ControlFlow<()> {
        let lengths: Vec<u8> = self.lengths.iter().filter(|(of, _)| *of == family).map(|(_, length)| *length).collect();
        let until = if lengths.is_empty() { u32::MAX } else { walk.0.saturating_add(slots) }.min(rib.slots(family));
        for at in if lengths.is_empty() { 0..0 } else { walk.0..until } {
            let Some(prefix) = rib.prefix(family, at) else { continue };
            let Some((_, _, attributes, _)) = rib.head(family, at).and_then(|head| rib.core.best_of(head)) else {
                continue;
            };
            let neighbour = rib.core.attributes.summary(attributes).neighbour;
            for length in lengths.iter().take_while(|length| **length < prefix.prefix_len()) {
                let Ok(around) = IpNet::new(prefix.addr(), *length) else { continue };
                for (place, best) in self.destinations.get(&around.trunc()).into_iter().flatten() {
                    if let Some(verdict) = self.verdicts.get_mut(*place)
                        && verdict.is_ok()
                        && *best != Some(neighbour)
                    {
                        *verdict = Err(Infeasible::MoreSpecific(prefix));
                    }
                }
            }
        }
        walk.0 = until;
        if until >= rib.slots(family) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What came of each rule, in their order.
    #[must_use]
    pub fn verdicts(self) -> Vec<Result<(), Infeasible>> {
        self.verdicts
    }
}
