//! Routes as an operator injects them: attributes, and the prefixes that share them.

use std::net::{IpAddr, Ipv4Addr};

use bgp_wire::{Asn, Community, Family, Origin};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::guard::{Guard, MAX_COMMUNITIES};

/// The longest AS path that an injected route may carry.
pub const MAX_PATH: usize = 255;

/// What is said of injected prefixes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteAttributes {
    /// Where to send.
    pub next_hop: IpAddr,
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
    /// What keeps a private route in; no route of a private prefix goes out without it.
    pub guard: Option<Guard>,
}

/// Why attributes can't be a route's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributesError {
    /// Unspecified, multicast, broadcast or loopback.
    #[error("next hop {0} can't be one: give the address of a router")]
    NextHop(IpAddr),
    /// More than [`MAX_COMMUNITIES`].
    #[error("{0} communities: at most {MAX_COMMUNITIES} are allowed")]
    Communities(usize),
    /// More than [`MAX_PATH`].
    #[error("an AS path of {0} numbers: at most {MAX_PATH} are allowed")]
    Path(usize),
}

impl RouteAttributes {
    /// With `next_hop` and nothing else.
    #[must_use]
    pub fn new(next_hop: IpAddr) -> Self {
        Self {
            next_hop,
            origin: Origin::Igp,
            as_path: Vec::new(),
            med: None,
            local_pref: None,
            communities: Vec::new(),
            guard: None,
        }
    }

    /// Sorts the communities and holds everything to its limits.
    ///
    /// # Errors
    /// [`AttributesError`] names what does not fit.
    pub fn checked(mut self) -> Result<Self, AttributesError> {
        let next_hop = self.next_hop;
        if next_hop.is_unspecified()
            || next_hop.is_multicast()
            || next_hop.is_loopback()
            || next_hop == IpAddr::V4(Ipv4Addr::BROADCAST)
        {
            return Err(AttributesError::NextHop(next_hop));
        }
        self.communities.sort_unstable();
        self.communities.dedup();
        if self.communities.len() > MAX_COMMUNITIES {
            return Err(AttributesError::Communities(self.communities.len()));
        }
        if self.as_path.len() > MAX_PATH {
            return Err(AttributesError::Path(self.as_path.len()));
        }
        Ok(self)
    }

    /// The family of prefixes that these attributes fit.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.next_hop {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
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
