//! What may be wrong with a policy, and where.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::service::{Service, ServiceError};

/// Where in the [`Spec`] a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The list of links as a whole.
    Links,
    /// The name of the link with this index.
    LinkName(usize),
    /// The interface of the link with this index.
    LinkInterface(usize),
    /// The list of private prefixes as a whole.
    Prefixes,
    /// The prefix of the private prefix with this index.
    Prefix(usize),
    /// The link of the private prefix with this index.
    PrefixLink(usize),
    /// Of the private prefix with the first index, the link with the second, where there are several.
    PrefixLinks(usize, usize),
    /// How the private prefix with this index uses its links.
    Spread(usize),
    /// The DSCP of the private prefix with this index.
    Dscp(usize),
    /// The next hop of the private prefix with this index.
    NextHop(usize),
    /// The probe of the private prefix with this index.
    Probe(usize),
    /// Of the private prefix with the first index, the service with the second.
    Service(usize, usize),
    /// The list of subscriber prefixes as a whole.
    SubscriberPrefixes,
    /// The subscriber prefix with this index.
    SubscriberPrefix(usize),
    /// What the feed of live prefixes with this index is bounded by, as a whole.
    WithinAll(usize),
    /// Of the feed with the first index, the bound with the second.
    Within(usize, usize),
    /// The list of subscriber-facing interfaces as a whole.
    SubscriberInterfaces,
    /// The subscriber-facing interface with this index.
    SubscriberInterface(usize),
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PolicyError {
    /// Where the problem is.
    pub place: Place,
    /// What it is.
    pub problem: Problem,
}

/// What is wrong with a policy, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A list needs an entry.
    #[error("nothing is listed: at least one {what} is needed")]
    Empty {
        /// What the list is of.
        what: &'static str,
    },
    /// Not usable as the name of a link.
    #[error("{name:?} is no link name: 1 to 24 of a-z, 0-9 and '-', beginning with a letter")]
    LinkName {
        /// As written.
        name: String,
    },
    /// Not usable as the name of an interface.
    #[error("{name:?} is no interface name: 1 to 15 of letters, digits, '.', '_' and '-'; not lo")]
    InterfaceName {
        /// As written.
        name: String,
    },
    /// Something stands twice.
    #[error("{what} is listed twice")]
    Twice {
        /// What stands twice.
        what: String,
    },
    /// One interface on both sides.
    #[error("interface {interface} is a private link: subscribers face another one")]
    BothSides {
        /// The interface.
        interface: String,
    },
    /// A link that is not there.
    #[error("no link is called {link:?}: {known}")]
    UnknownLink {
        /// As written.
        link: String,
        /// The links that there are.
        known: String,
    },
    /// More links than a prefix can have.
    #[error("{count} links: at most {most} are allowed")]
    TooManyLinks {
        /// How many are written.
        count: usize,
        /// How many may be.
        most: usize,
    },
    /// Nothing to spread over.
    #[error("one link alone: spreading takes two or more")]
    SpreadAlone,
    /// A spread that the kernel cannot do.
    #[error("{prefix} is IPv6, which the kernel spreads over next hops only: give one for each link")]
    SpreadNeedsNextHops {
        /// The prefix.
        prefix: IpNet,
    },
    /// A next hop for all links and one for each.
    #[error("both next-hop and next-hops: give one for all links, or one for each")]
    NextHopTwice,
    /// A next hop on a link that the prefix does not use.
    #[error("a next hop on link {link:?}, which is none of the links of this prefix")]
    NextHopElsewhere {
        /// As written.
        link: String,
    },
    /// More than the six bits hold.
    #[error("{dscp} is no DSCP: 0 to 63 (RFC 2474)")]
    Dscp {
        /// As written.
        dscp: u8,
    },
    /// Bits are set behind the prefix length.
    #[error("{prefix} has host bits set: {} is the prefix", prefix.trunc())]
    HostBits {
        /// As written.
        prefix: IpNet,
    },
    /// The prefix overlaps a block that is no ordinary unicast.
    #[error("{prefix} is {is}: an ordinary unicast prefix is needed")]
    NotUnicast {
        /// As written.
        prefix: IpNet,
        /// What it overlaps.
        is: &'static str,
    },
    /// Two prefixes that must be apart are not.
    #[error("{prefix} overlaps {kind} {other}")]
    Overlap {
        /// As written.
        prefix: IpNet,
        /// What the other one is.
        kind: &'static str,
        /// The other one.
        other: IpNet,
    },
    /// Nobody could ever use the prefix.
    #[error("{prefix} is {family} and no subscriber prefix is: add one, or leave the private prefix out")]
    NobodyToServe {
        /// The private prefix.
        prefix: IpNet,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// Addresses of different families.
    #[error("{address} and {prefix} are of different IP versions")]
    MixedFamilies {
        /// The next hop or probe.
        address: IpAddr,
        /// The prefix.
        prefix: IpNet,
    },
    /// An address that no neighbour can have.
    #[error("{address} is no address of a neighbour: {why}")]
    NoNeighbour {
        /// As written.
        address: IpAddr,
        /// What it is instead.
        why: &'static str,
    },
    /// A probe beside a next hop.
    #[error("{address} is not probed: behind a next hop, ARP and ND see the next hop only; leave the probe out")]
    ProbeBehindNextHop {
        /// As written.
        address: IpAddr,
    },
    /// A probe outside its prefix.
    #[error("{address} is outside {prefix}: probe an address of the prefix")]
    ProbeOutside {
        /// As written.
        address: IpAddr,
        /// The prefix.
        prefix: IpNet,
    },
    /// Not a protocol and its ports.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Two services that have packets in common.
    #[error("{service} is in {other} already")]
    ServiceTwice {
        /// As written.
        service: Service,
        /// The other one.
        other: Service,
    },
    /// A wide prefix whose heartbeat is not clear.
    #[error("{prefix} has many addresses: say with `probe` which one gives the heartbeat, or give a next hop")]
    ProbeMissing {
        /// The prefix.
        prefix: IpNet,
    },
}

/// The field as the configuration spells it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links => write!(f, "links"),
            Self::LinkName(index) => write!(f, "links[{index}].name"),
            Self::LinkInterface(index) => write!(f, "links[{index}].interface"),
            Self::Prefixes => write!(f, "private-prefixes"),
            Self::Prefix(index) => write!(f, "private-prefixes[{index}].prefix"),
            Self::PrefixLink(index) => write!(f, "private-prefixes[{index}].link"),
            Self::PrefixLinks(index, link) => write!(f, "private-prefixes[{index}].links[{link}]"),
            Self::Spread(index) => write!(f, "private-prefixes[{index}].spread"),
            Self::Dscp(index) => write!(f, "private-prefixes[{index}].dscp"),
            Self::NextHop(index) => write!(f, "private-prefixes[{index}].next-hop"),
            Self::Probe(index) => write!(f, "private-prefixes[{index}].probe"),
            Self::Service(index, service) => write!(f, "private-prefixes[{index}].services[{service}]"),
            Self::SubscriberPrefixes => write!(f, "subscribers.prefixes"),
            Self::SubscriberPrefix(index) => write!(f, "subscribers.prefixes[{index}]"),
            Self::WithinAll(feed) => write!(f, "subscribers.live[{feed}].within"),
            Self::Within(feed, index) => write!(f, "subscribers.live[{feed}].within[{index}]"),
            Self::SubscriberInterfaces => write!(f, "subscribers.interfaces"),
            Self::SubscriberInterface(index) => write!(f, "subscribers.interfaces[{index}]"),
        }
    }
}
