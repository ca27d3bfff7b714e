//! The routes that the policy wants in the kernel's main table.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::Policy;

/// The metric of the blackhole under each private prefix: worse than any real route.
pub const BLACKHOLE_METRIC: u32 = 4096;

/// The metric of the real route by the private link.
pub const LINK_METRIC: u32 = 10;

/// The routing protocol number that marks our routes (`rtm_protocol`); none of the well-known ones.
pub const ROUTE_PROTOCOL: u8 = 143;

/// One wanted route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destinations.
    pub prefix: IpNet,
    /// What happens to them.
    pub target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Nowhere: what matches is dropped.
    Blackhole,
    /// Out by a private link.
    Link {
        /// The kernel's interface.
        interface: String,
        /// The router there, or `None` for addresses on the link itself.
        next_hop: Option<IpAddr>,
    },
}

impl Route {
    /// The metric that this kind of route gets.
    #[must_use]
    pub fn metric(&self) -> u32 {
        match self.target {
            Target::Blackhole => BLACKHOLE_METRIC,
            Target::Link { .. } => LINK_METRIC,
        }
    }
}

impl Policy {
    /// The blackholes: in place before anything else, left there when the process ends.
    #[must_use]
    pub fn blackholes(&self) -> Vec<Route> {
        self.prefixes().iter().map(|entry| Route { prefix: entry.prefix, target: Target::Blackhole }).collect()
    }

    /// The real routes, wanted while their links are up.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        self.prefixes()
            .iter()
            .map(|entry| Route {
                prefix: entry.prefix,
                target: Target::Link { interface: self.interface(entry.link).to_owned(), next_hop: entry.next_hop },
            })
            .collect()
    }
}
