//! Private routes and the community without which they never reach the wire (A1).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_wire::{Action, Actions, Attributes, Community, FlowRule};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::flow::{FlowRoute, Permit, PermitError, permit};

/// The most communities that a route may carry beside its guard.
pub const MAX_COMMUNITIES: usize = 64;

/// The community that keeps a private route where it belongs (RFC 1997).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Guard {
    /// NO_EXPORT: the AS (or confederation) keeps it to itself.
    #[default]
    NoExport,
    /// NO_ADVERTISE: the router that hears it tells nobody.
    NoAdvertise,
}

impl Guard {
    /// On the wire.
    #[must_use]
    pub const fn community(self) -> Community {
        match self {
            Self::NoExport => Community::NO_EXPORT,
            Self::NoAdvertise => Community::NO_ADVERTISE,
        }
    }

    /// `attributes` with the guard community among theirs, each once.
    pub(crate) fn attach(self, attributes: Attributes) -> Attributes {
        let mut communities = attributes.communities;
        communities.push(self.community());
        sorted(Attributes { communities, ..attributes })
    }
}

fn sorted(attributes: Attributes) -> Attributes {
    let mut communities = attributes.communities;
    communities.sort_unstable();
    communities.dedup();
    Attributes { communities, ..attributes }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.community().fmt(f)
    }
}

/// The operator's permission to tell of one private route without its guard. [`Unguarded::lift`] alone makes it, and
/// takes both of his words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unguarded(());

impl Unguarded {
    /// `route`: this route is meant to go out without a guard. `speaker`: any may at all. One without the other is
    /// nothing.
    #[must_use]
    pub const fn lift(speaker: bool, route: bool) -> Option<Self> {
        if speaker && route { Some(Self(())) } else { None }
    }
}

/// What keeps a private route in, or who said that nothing has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// A community.
    Guard(Guard),
    /// Nothing, as the operator said twice.
    Nothing(Unguarded),
}

impl Keep {
    /// The guard, if there is one.
    #[must_use]
    pub const fn guard(self) -> Option<Guard> {
        match self {
            Self::Guard(guard) => Some(guard),
            Self::Nothing(_) => None,
        }
    }
}

impl From<Guard> for Keep {
    fn from(guard: Guard) -> Self {
        Self::Guard(guard)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(guard) => guard.fmt(f),
            Self::Nothing(_) => f.write_str("none"),
        }
    }
}

/// Where a prefix is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    V4(Ipv4Net, Ipv4Addr),
    /// RFC 8950: for peers that have the capability.
    V4ByV6(Ipv4Net, Ipv6Addr),
    V6(Ipv6Net, Ipv6Addr),
}

/// A route to a private network address, as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrivateRoute {
    pub(crate) reach: Reach,
    keep: Keep,
    communities: Vec<Community>,
    /// Rules that go with it: what may be sent to the prefix, and that nothing else may. Empty: everything may.
    flow: BTreeMap<FlowRule, Actions>,
    /// Peers are told the rules and no route.
    rules_alone: bool,
}

/// Why a private route can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// IPv6 by way of IPv4; the reverse is RFC 8950.
    #[error("next hop {next_hop} cannot lead to {prefix}: give an IPv6 address")]
    Family {
        /// The prefix.
        prefix: IpNet,
        /// The next hop.
        next_hop: IpAddr,
    },
    /// Unspecified, multicast, loopback, or inside the private prefix itself.
    #[error("next hop {0} can't be one: give the address of the forwarder that the router reaches")]
    NextHop(IpAddr),
    /// The prefix has bits set behind its length.
    #[error("prefix {0} has host bits set: {trunc} is the prefix", trunc = .0.trunc())]
    HostBits(IpNet),
    /// So short that it would take over the Internet.
    #[error("prefix {0} is too short for private network addresses: at least /8 for IPv4, /16 for IPv6")]
    TooShort(IpNet),
    /// More than [`MAX_COMMUNITIES`].
    #[error("{0} communities: at most {MAX_COMMUNITIES} are allowed")]
    Communities(usize),
}

impl PrivateRoute {
    /// `prefix` by way of `next_hop`, kept in by `keep`, with `communities` for the operator's own policy.
    ///
    /// # Errors
    /// [`RouteError`] says which of them does not fit.
    pub fn new(
        prefix: IpNet,
        next_hop: IpAddr,
        keep: impl Into<Keep>,
        communities: Vec<Community>,
    ) -> Result<Self, RouteError> {
        if prefix != prefix.trunc() {
            return Err(RouteError::HostBits(prefix));
        }
        let shortest = if prefix.addr().is_ipv4() { 8 } else { 16 };
        if prefix.prefix_len() < shortest {
            return Err(RouteError::TooShort(prefix));
        }
        if communities.len() > MAX_COMMUNITIES {
            return Err(RouteError::Communities(communities.len()));
        }
        let broadcast = next_hop == IpAddr::V4(Ipv4Addr::BROADCAST);
        if next_hop.is_unspecified()
            || next_hop.is_multicast()
            || next_hop.is_loopback()
            || broadcast
            || prefix.contains(&next_hop)
        {
            return Err(RouteError::NextHop(next_hop));
        }
        let reach = match (prefix, next_hop) {
            (IpNet::V4(prefix), IpAddr::V4(next_hop)) => Reach::V4(prefix, next_hop),
            (IpNet::V6(prefix), IpAddr::V6(next_hop)) => Reach::V6(prefix, next_hop),
            (IpNet::V4(prefix), IpAddr::V6(next_hop)) => Reach::V4ByV6(prefix, next_hop),
            (IpNet::V6(_), IpAddr::V4(_)) => {
                return Err(RouteError::Family { prefix, next_hop });
            }
        };
        Ok(Self { reach, keep: keep.into(), communities, flow: BTreeMap::new(), rules_alone: false })
    }

    /// With rules for the router that let only these packets pass towards the prefix (RFC 8955). A peer that takes no
    /// rules is then not told of the prefix either.
    ///
    /// # Errors
    /// [`PermitError`] names the permit that can't be.
    pub fn with_permits(self, permits: &[Permit]) -> Result<Self, PermitError> {
        Ok(Self { flow: permit(self.prefix(), permits)?, ..self })
    }

    /// In place of the route, peers are told the rules alone: each of them says where its packets go.
    ///
    /// # Errors
    /// [`PermitError::Nowhere`] names the rule that does not; [`PermitError::Nothing`], when there is none.
    pub fn by_rules_alone(self) -> Result<Self, PermitError> {
        let leads = |actions: &Actions| actions.as_slice().iter().any(Action::redirects);
        let idle = self.flow.iter().find(|(_, actions)| **actions != Actions::discard() && !leads(actions));
        match idle {
            _ if self.flow.is_empty() => Err(PermitError::Nothing),
            Some((rule, _)) => Err(PermitError::Nowhere(Box::new(rule.clone()))),
            None => Ok(Self { rules_alone: true, ..self }),
        }
    }

    /// Whether peers are told the rules and no route.
    #[must_use]
    pub const fn is_by_rules_alone(&self) -> bool {
        self.rules_alone
    }

    /// Whether only some packets may go to the prefix.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        !self.flow.is_empty()
    }

    /// The rules that go with the route, under the same guard.
    pub fn flow_routes(&self) -> impl Iterator<Item = (FlowRule, FlowRoute)> + '_ {
        self.flow.iter().map(|(rule, actions)| {
            let (actions, communities) = (actions.clone(), self.communities.clone());
            (rule.clone(), FlowRoute { communities, guard: self.keep.guard(), ..FlowRoute::new(actions) })
        })
    }

    /// The private prefix.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        match self.reach {
            Reach::V4(prefix, _) | Reach::V4ByV6(prefix, _) => prefix.into(),
            Reach::V6(prefix, _) => prefix.into(),
        }
    }

    /// The forwarder.
    #[must_use]
    pub fn next_hop(&self) -> IpAddr {
        match self.reach {
            Reach::V4(_, next_hop) => next_hop.into(),
            Reach::V4ByV6(_, next_hop) | Reach::V6(_, next_hop) => next_hop.into(),
        }
    }

    /// What keeps it in.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The operator's own communities.
    #[must_use]
    pub fn communities(&self) -> &[Community] {
        &self.communities
    }

    /// `attributes` with this route's communities: the only way to [`Guarded`].
    #[must_use]
    pub fn guarded(&self, attributes: Attributes) -> Guarded {
        let mut communities = attributes.communities;
        communities.extend_from_slice(&self.communities);
        let attributes = Attributes { communities, ..attributes };
        Guarded(match self.keep {
            Keep::Guard(guard) => guard.attach(attributes),
            Keep::Nothing(_) => sorted(attributes),
        })
    }
}

/// Attributes that hold their route's guard community, if the operator did not lift it: what the encoder of private
/// routes takes, and no less.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guarded(Attributes);

impl Guarded {
    /// With the guard community among them, if there is to be one.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, next_hop: &str) -> Result<PrivateRoute, RouteError> {
        PrivateRoute::new(prefix.parse().unwrap(), next_hop.parse().unwrap(), Guard::NoExport, Vec::new())
    }

    #[test]
    fn a_private_route_has_a_reachable_next_hop_of_its_family() {
        assert!(route("203.0.113.200/32", "198.51.100.2").is_ok());
        assert!(route("2001:db8:c10a::200/128", "2001:db8:5100:1::2").is_ok());
        assert!(route("203.0.113.200/32", "2001:db8::1").is_ok(), "RFC 8950");
        assert!(matches!(route("2001:db8:c10a::200/128", "192.0.2.1"), Err(RouteError::Family { .. })));
        for next_hop in ["0.0.0.0", "224.0.0.1", "127.0.0.1", "255.255.255.255", "203.0.113.200"] {
            assert!(matches!(route("203.0.113.200/32", next_hop), Err(RouteError::NextHop(_))), "{next_hop}");
        }
        assert!(matches!(route("203.0.113.200/24", "198.51.100.2"), Err(RouteError::HostBits(_))));
        assert!(matches!(route("0.0.0.0/0", "198.51.100.2"), Err(RouteError::TooShort(_))));
        assert!(matches!(route("2000::/3", "2001:db8::1"), Err(RouteError::TooShort(_))));
    }

    #[test]
    fn lifting_the_guard_takes_both_words() {
        assert_eq!([(false, false), (true, false), (false, true)].map(|(a, b)| Unguarded::lift(a, b)), [None; 3]);
        let lifted = Keep::Nothing(Unguarded::lift(true, true).unwrap());
        let (prefix, next_hop) = ("203.0.113.200/32".parse().unwrap(), "198.51.100.2".parse().unwrap());
        let own = vec![Community(7)];
        let route = PrivateRoute::new(prefix, next_hop, lifted, own.clone()).unwrap();
        assert_eq!(route.guarded(Attributes::default()).attributes().communities, own);
    }

    #[test]
    fn the_guard_is_always_among_the_communities() {
        for guard in [Guard::NoExport, Guard::NoAdvertise] {
            for own in [vec![], vec![Community(1)], vec![guard.community()], vec![Community(u32::MAX); MAX_COMMUNITIES]]
            {
                let route =
                    PrivateRoute::new("203.0.113.200/32".parse().unwrap(), "198.51.100.2".parse().unwrap(), guard, own);
                let guarded = route.unwrap().guarded(Attributes::default());
                let count = guarded.attributes().communities.iter().filter(|c| **c == guard.community()).count();
                assert_eq!(count, 1);
            }
        }
    }
}
