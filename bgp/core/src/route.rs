//! Routes as an operator injects them: attributes, and the prefixes that share them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use bgp_wire::{Asn, Community, ExtendedCommunity, Family, LargeCommunity, Origin};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::guard::{Guard, MAX_COMMUNITIES};

/// The longest AS path that an injected route may carry.
pub const MAX_PATH: usize = 255;

/// The most peers that a route may be for.
pub const MAX_AUDIENCE: usize = 64;

/// Where to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// To a router.
    Address(IpAddr),
    /// To us: the address that the session has at our end.
    Own,
}

impl NextHop {
    /// Whether prefixes of `family` can be sent there: IPv4 by way of IPv6 is for peers that take it (RFC 8950).
    #[must_use]
    pub fn fits(self, family: Family) -> bool {
        match self {
            Self::Address(address) => family == Family::Ipv4 || address.is_ipv6(),
            Self::Own => true,
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Own => f.write_str("self"),
        }
    }
}

/// What is said of injected prefixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteAttributes {
    /// Where to send.
    pub next_hop: NextHop,
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH behind our own AS.
    pub as_path: Vec<Asn>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, to internal peers; 100 unless given.
    pub local_pref: Option<u32>,
    /// COMMUNITIES, sorted, each once.
    pub communities: Vec<Community>,
    /// EXTENDED_COMMUNITIES, sorted, each once.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITIES, sorted, each once.
    pub large_communities: Vec<LargeCommunity>,
    /// The peers that are told, sorted, each once; all, when there is none.
    pub audience: Vec<IpAddr>,
    /// Our own AS stands on the path so many times more, to external peers.
    pub prepend: u8,
    /// What keeps a private route in; no route of a private prefix goes out without it.
    pub guard: Option<Guard>,
}

/// How a route is told of that is about to go, so that peers turn to any other path while this one still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// With GRACEFUL_SHUTDOWN, and the least LOCAL_PREF (RFC 8326 §4).
    GracefulShutdown,
    /// With this MULTI_EXIT_DISC.
    Med(u32),
    /// With our own AS so many times more on the path; to internal peers with the least LOCAL_PREF.
    Prepend(u8),
}

impl Drain {
    /// The attributes of a route that drains.
    #[must_use]
    pub fn of(self, route: &RouteAttributes) -> RouteAttributes {
        let mut route = route.clone();
        match self {
            Self::GracefulShutdown => {
                route.communities.push(Community::GRACEFUL_SHUTDOWN);
                sort(&mut route.communities);
                route.local_pref = Some(0);
            }
            Self::Med(med) => route.med = Some(med),
            Self::Prepend(times) => (route.prepend, route.local_pref) = (times, Some(0)),
        }
        route
    }
}

/// Why attributes can't be a route's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributesError {
    /// Unspecified, multicast, broadcast or loopback.
    #[error("next hop {0} can't be one: give the address of a router")]
    NextHop(IpAddr),
    /// More than [`MAX_COMMUNITIES`] of all kinds.
    #[error("{0} communities: at most {MAX_COMMUNITIES} are allowed, those of all kinds counted")]
    Communities(usize),
    /// More than [`MAX_AUDIENCE`].
    #[error("for {0} peers: at most {MAX_AUDIENCE} can be named")]
    Audience(usize),
    /// More than [`MAX_PATH`].
    #[error("an AS path of {0} numbers: at most {MAX_PATH} are allowed")]
    Path(usize),
}

impl RouteAttributes {
    /// With `next_hop` and nothing else.
    #[must_use]
    pub fn new(next_hop: impl Into<NextHop>) -> Self {
        Self {
            next_hop: next_hop.into(),
            origin: Origin::Igp,
            as_path: Vec::new(),
            med: None,
            local_pref: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            audience: Vec::new(),
            prepend: 0,
            guard: None,
        }
    }

    /// Sorts the communities and holds everything to its limits.
    ///
    /// # Errors
    /// [`AttributesError`] names what does not fit.
    pub fn checked(mut self) -> Result<Self, AttributesError> {
        if let NextHop::Address(next_hop) = self.next_hop
            && (next_hop.is_unspecified()
                || next_hop.is_multicast()
                || next_hop.is_loopback()
                || next_hop == IpAddr::V4(Ipv4Addr::BROADCAST))
        {
            return Err(AttributesError::NextHop(next_hop));
        }
        sort(&mut self.communities);
        sort(&mut self.extended_communities);
        sort(&mut self.large_communities);
        sort(&mut self.audience);
        let communities = self.communities.len() + self.extended_communities.len() + self.large_communities.len();
        if communities > MAX_COMMUNITIES {
            return Err(AttributesError::Communities(communities));
        }
        if self.audience.len() > MAX_AUDIENCE {
            return Err(AttributesError::Audience(self.audience.len()));
        }
        if self.as_path.len() > MAX_PATH {
            return Err(AttributesError::Path(self.as_path.len()));
        }
        Ok(self)
    }

    /// Whether there may be peers that are not told, of a prefix of `family`.
    #[must_use]
    pub fn is_selective(&self, family: Family) -> bool {
        let by_ipv6 = matches!(self.next_hop, NextHop::Address(IpAddr::V6(_))) && family == Family::Ipv4;
        !self.audience.is_empty() || self.next_hop == NextHop::Own || by_ipv6
    }

    /// Whether the peer at `address` is told.
    #[must_use]
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.audience.is_empty() || self.audience.binary_search(&address).is_ok()
    }
}

fn sort<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

/// Prefixes of both families, without a byte between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefixes {
    /// IPv4.
    pub v4: Vec<Ipv4Net>,
    /// IPv6.
    pub v6: Vec<Ipv6Net>,
}

impl Prefixes {
    /// Adds one.
    pub fn push(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(prefix) => self.v4.push(prefix),
            IpNet::V6(prefix) => self.v6.push(prefix),
        }
    }

    /// Adds all of `others`.
    pub fn append(&mut self, mut others: Self) {
        self.v4.append(&mut others.v4);
        self.v6.append(&mut others.v6);
    }

    /// Gives back the room that nothing was put in.
    pub fn shrink(&mut self) {
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at `index`, IPv4 first.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<IpNet> {
        match index.checked_sub(self.v4.len()) {
            None => self.v4.get(index).copied().map(IpNet::V4),
            Some(index) => self.v6.get(index).copied().map(IpNet::V6),
        }
    }

    /// All, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().copied().map(IpNet::V4).chain(self.v6.iter().copied().map(IpNet::V6))
    }
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let mut all = Self::default();
        prefixes.into_iter().for_each(|prefix| all.push(prefix));
        all
    }
}
